"""Meshes of a folder of photos that is no cohort.

uv run physique up        then: meshes → Run in the Prefect UI
"""

import time
from pathlib import Path

from prefect import flow

from tasks.params import load_params
from tasks.photo_folder import folder_meshes
from tasks.report.summary import shard_summary
from tasks.stage import publish


@flow
def meshes(folder: str, out: str = "") -> dict[str, int]:
    """Recover the body of every photo in a folder: box, shape, pose, 10,475 vertices and 15 points, as Parquet.

    Settings are those of `mesh` in params.yaml. Photos that have a row already are not computed again; files that are no
    photos are set aside with the reason.

    Args:
        folder: Holds photos, in sub-folders too; a path on the machine of the pipeline.
        out: Where the rows go. Empty: data/meshes/ and the name of the folder.
    """
    started, photos = time.monotonic(), Path(folder).expanduser()
    goal = Path(out) if out else Path("data/meshes") / photos.resolve().name
    made = folder_meshes(photos, goal, Path("data/body"), Path("data/meshnet"), load_params().mesh)
    aside = f"; {len(made.aside):,} files set aside: {goal / 'quarantine.parquet'}" if made.aside else ""
    publish(
        "meshes",
        shard_summary(
            f"Meshes of {photos}",
            made.statuses,
            computed=made.computed,
            reused=made.kept,
            seconds=time.monotonic() - started,
            picture=made.picture,
            note=f"Rows: {(goal / 'mesh').resolve()} (read them with pandas.read_parquet){aside}",
        ),
    )
    return made.statuses
