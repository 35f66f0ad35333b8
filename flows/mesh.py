"""Photos to bodies: person box, mesh network, SMPL-X; one row of the `mesh` table per photo.

uv run dvc repro mesh        photos that have a row of this extractor already are not computed again
"""

import time
from collections import Counter
from pathlib import Path

from prefect import flow

from tasks.bodies import body_file
from tasks.features import MeshActor, compute_table, device_for, extractor_id
from tasks.params import load_params
from tasks.report.summary import shard_summary
from tasks.stage import publish, run
from tasks.tables import read_shards


@flow
def mesh(
    cohort: str = "data/cohort",
    body: str = "data/body",
    meshnet: str = "data/meshnet",
    out: str = "data/mesh",
) -> dict[str, int]:
    """Bring the mesh table up to date, a shard at a time, on Ray actors."""
    settings, started = load_params().mesh, time.monotonic()
    models = {
        "body": str(body_file(Path(body))[0].resolve()),
        "mesh_net": str(Path(meshnet).resolve()),
        "detector": settings.detector,
        "device": device_for(settings.gpus_per_actor),
    }
    done = compute_table(
        "mesh",
        "extractor",
        extractor_id(**models),
        Path(cohort) / "photos",
        Path(out),
        settings.shard,
        actor=MeshActor,
        arguments=models,
        actors=settings.actors,
        gpus=settings.gpus_per_actor,
    )
    statuses = Counter(read_shards(out, ["status"])["status"].to_pylist())
    seconds = time.monotonic() - started
    publish(
        "mesh",
        shard_summary("mesh", dict(statuses), computed=done["computed"], reused=done["kept"], seconds=seconds),
    )
    return done


if __name__ == "__main__":
    run(mesh)
