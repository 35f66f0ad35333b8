"""Meshes that were made elsewhere (`mesh.cache`) as rows of the `mesh` table: what is found in the file is not computed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from model.mesh_row import MeshRow
from model.state_files import BadCheckpoint
from tasks.keyed import keep_current, photo_ids, shard_name
from tasks.mesh_table import mesh_table
from tasks.printable import printable
from tasks.progress import progress
from tasks.schemas import check
from tasks.tables import read_table, shard_paths, write_table


def take_cached(cache: Path, photos: Path, out: Path, body: Path, extractor: str, shard: int) -> tuple[int, list[str]]:
    """Write rows of the photos that the file knows by name and that have none yet.

    Returns: how many, and a line for each entry that cannot be used; those photos are computed like any other.

    Raises:
        BadCheckpoint: the file is no such cache. Nothing of it is executed.
    """
    from model.body import load_body
    from model.mesh_cache import MeshCache

    known, model = MeshCache(cache), load_body(body)
    done = keep_current(out, set(photo_ids(photos)), "extractor", extractor)
    unusable: list[str] = []
    taken = 0
    with progress("cached meshes", len(known)) as advance:
        for path in shard_paths(photos):
            rows: list[tuple[str, MeshRow]] = []
            for photo in read_table(path, ["photo_id", "name", "width", "height"]).to_pylist():
                if photo["photo_id"] in done or photo["width"] is None:
                    continue
                try:
                    row = known.row(photo["name"], photo["width"], photo["height"], model, extractor)
                except BadCheckpoint as error:
                    unusable.append(printable(str(error)))
                    continue
                if row is not None:
                    rows.append((photo["photo_id"], row))
            for start in range(0, len(rows), shard):
                _write(rows[start : start + shard], out, extractor)
            taken += len(rows)
            advance(len(rows))
    return taken, unusable


def _write(rows: list[tuple[str, MeshRow]], out: Path, extractor: str) -> None:
    ids = [photo_id for photo_id, _ in rows]
    table: pa.Table = mesh_table(ids, [[row] for _, row in rows])
    write_table(check(table, "mesh"), out / f"{shard_name(ids, extractor)}.parquet")
