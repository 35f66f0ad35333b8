"""Photos to vectors of the frozen image encoder, as they are and mirrored.

uv run dvc repro embed
"""

import time
from pathlib import Path

from prefect import flow

from tasks.fanout import Crew
from tasks.features import EmbedActor, compute_table, device_for, encoder_id, pass_vectors
from tasks.intake.items import holds_vectors
from tasks.params import load_params
from tasks.report.summary import shard_summary
from tasks.stage import publish, run


@flow
def embed(
    cohort: str = "data/cohort", meshnet: str = "data/meshnet", out: str = "data/embeddings"
) -> dict[str, int]:
    """Bring the embeddings table up to date, a shard at a time, on Ray actors."""
    params, started = load_params(), time.monotonic()
    settings = params.embed
    if holds_vectors(Path(cohort) / "photos"):
        done = pass_vectors(Path(cohort) / "photos", Path(out))
        seconds = time.monotonic() - started
        counts = {"taken as they came": done["computed"] + done["kept"]}
        publish("embed", shard_summary("embed", counts, computed=done["computed"], reused=done["kept"], seconds=seconds))
        return done
    models = {
        "encoder": settings.encoder,
        "weights": settings.weights,
        "mesh_net": str(Path(meshnet).resolve()),
        "device": device_for(settings.gpus_per_actor),
        "squash": params.model.compat == "reference",
    }
    done = compute_table(
        "embeddings",
        "encoder",
        encoder_id(**models),
        Path(cohort) / "photos",
        Path(out),
        settings.shard,
        settings.batch,
        [Crew(EmbedActor, models | {"batch": settings.batch}, settings.actors, gpus=settings.gpus_per_actor)],
    )
    seconds = time.monotonic() - started
    counts = {"embedded": done["computed"] + done["kept"]}
    publish(
        "embed",
        shard_summary("embed", counts, computed=done["computed"], reused=done["kept"], seconds=seconds),
    )
    return done


if __name__ == "__main__":
    run(embed)
