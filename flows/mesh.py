"""Photos to bodies: person box, mesh network, SMPL-X; one row of the `mesh` table per photo.

uv run dvc repro mesh        photos that have a row of this extractor already are not computed again
"""

import time
from collections import Counter
from pathlib import Path

from prefect import flow

from tasks.cached_meshes import take_cached
from tasks.features import compute_table, mesh_crews
from tasks.intake.items import holds_vectors
from tasks.keyed import keep_current
from tasks.mesh_pictures import cards
from tasks.mesh_table import largest, mesh_recipe
from tasks.params import load_params
from tasks.report.contact import contact_sheet
from tasks.report.summary import shard_summary
from tasks.schemas import empty
from tasks.stage import publish, run
from tasks.tables import read_shards, write_table


@flow
def mesh(
    cohort: str = "data/cohort",
    body: str = "data/body",
    meshnet: str = "data/meshnet",
    out: str = "data/mesh",
) -> dict[str, int]:
    """Bring the mesh table up to date, a shard at a time, on Ray actors."""
    settings, started, photos = load_params().mesh, time.monotonic(), Path(cohort) / "photos"
    if holds_vectors(photos):
        keep_current(Path(out), set(), "extractor", "")
        write_table(empty("mesh"), Path(out) / "none.parquet")
        publish("mesh", "# mesh\n\nItems of this cohort are vectors: there is no body to find.")
        return {"kept": 0, "computed": 0}
    recipe = mesh_recipe(Path(body), Path(meshnet), settings)
    extractor = recipe.identity()
    note, taken = "", 0
    if recipe.cache:
        taken, unusable = take_cached(Path(recipe.cache), photos, Path(out), Path(recipe.body), extractor, settings.shard)
        note = f"{taken:,} taken from {Path(recipe.cache).name}, {len(unusable):,} of its entries could not be used. "
        note += " ".join(unusable[:10])
    crews = mesh_crews(recipe, extractor, settings)
    done = compute_table("mesh", "extractor", extractor, photos, Path(out), settings.shard, settings.batch, crews)
    statuses = Counter(largest(read_shards(out, ["status", "person"]))["status"].to_pylist())
    seen = {"computed": done["computed"], "reused": done["kept"] - taken, "seconds": time.monotonic() - started}
    sheet = contact_sheet(cards(photos, Path(out), Path(recipe.body), count=12))
    publish("mesh", shard_summary("mesh", dict(statuses), **seen, picture=sheet, note=note))
    return done


if __name__ == "__main__":
    run(mesh)
