"""Tables keyed by content: what was computed for a photo is never computed again.

Rows of `mesh` and `embeddings` are keyed by the photo's hash and by the version of what computed them
(`extractor`, `encoder`). A run keeps the rows that are still right, computes the missing ones in shards
that follow the cohort's photo shards, and drops the rest: so 1,000 new photos among 50,000 cost 1,000,
and a killed run is gone on with where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.fanout import Piece
from tasks.tables import clear_unfinished, read_table, shard_paths, write_table


def shard_name(photo_ids: Iterable[str], key: str) -> str:
    """Name of the shard that holds these photos' rows of this version."""
    return hashlib.sha256("\n".join([key, *photo_ids]).encode()).hexdigest()[:20]


def keep_current(folder: Path, wanted: set[str], column: str, key: str) -> set[str]:
    """Drop rows of other photos or versions from a folder of shards; the photo ids that are done.

    A shard of nothing but current rows is left alone, so its bytes and its DVC hash stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear_unfinished(folder)

    asked = pa.array(sorted(wanted), pa.string())  # once: it is as long as the cohort

    def current(path: Path) -> tuple[pa.Table, pa.ChunkedArray]:
        head = read_table(path, ["photo_id", column])
        return head, pc.and_(pc.is_in(head["photo_id"], asked), pc.equal(head[column], key))

    done: set[str] = set()
    heads = {path: current(path) for path in shard_paths(folder)}
    # Whole shards first: a killed run may have left a shard beside the longer one that it was made from.
    for path in sorted(heads, key=lambda path: not pc.all(heads[path][1]).as_py()):
        head, fresh = heads[path]
        if done:
            fresh = pc.and_(fresh, pa.array([photo not in done for photo in head["photo_id"].to_pylist()]))
        ids = head["photo_id"].filter(fresh).to_pylist()
        if len(ids) < len(head):
            if ids:
                name = shard_name(dict.fromkeys(ids), key)
                write_table(read_table(path).filter(fresh), folder / f"{name}.parquet")
            if not ids or folder / f"{name}.parquet" != path:
                path.unlink()
        done.update(ids)
    return done


def missing_pieces(photos: Path, done: set[str], rows: int, key: str) -> list[Piece]:
    """Pieces of at most `rows` photos that are not `done`; a piece reads one photo shard only."""
    pieces = []
    for path in shard_paths(photos):
        ids = [i for i in read_table(path, ["photo_id"])["photo_id"].to_pylist() if i not in done]
        for start in range(0, len(ids), rows):
            part = ids[start : start + rows]
            pieces.append(Piece(shard_name(part, key), (path, part), len(part)))
    return pieces


def read_batches(payload: tuple[Path, list[str]], rows: int) -> Iterator[tuple[list[str], list[bytes]]]:
    """Photo ids and file bytes of a piece in batches of at most `rows`, in the shard's order.

    A few row groups are in memory at a time, not the shard.

    Raises:
        KeyError: the shard does not hold one of the photos.
    """
    path, ids = payload
    wanted = set(ids)
    names: list[str] = []
    photos: list[bytes] = []
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            here = file.read_row_group(group, ["photo_id"])["photo_id"].to_pylist()
            rows_here = [i for i, photo_id in enumerate(here) if photo_id in wanted]
            if not rows_here:
                continue
            names += [here[i] for i in rows_here]
            wanted.difference_update(names)
            photos += file.read_row_group(group, ["bytes"])["bytes"].take(rows_here).to_pylist()
            while len(names) >= rows:
                yield names[:rows], photos[:rows]
                names, photos = names[rows:], photos[rows:]
    if wanted:
        raise KeyError(f"{path} does not hold photo {min(wanted)}")
    if names:
        yield names, photos


def photo_ids(photos: Path) -> list[str]:
    """All photo ids of a cohort, in its order."""
    return [i for path in shard_paths(photos) for i in read_table(path, ["photo_id"])["photo_id"].to_pylist()]
