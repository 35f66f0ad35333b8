"""Tables keyed by content: what is right stays to the byte, what is missing becomes pieces, what is old goes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.keyed import keep_current, missing_pieces, photo_ids, read_batches, shard_name
from tasks.tables import read_shards, read_table, shard_paths, write_table


def photo(i: int) -> str:
    return hashlib.sha256(f"photo {i}".encode()).hexdigest()


def ids(*numbers: int) -> list[str]:
    return [photo(i) for i in numbers]


def cohort(folder: Path, *shards: range) -> Path:
    """Photo shards of a cohort: `shards` are the numbers of the photos in each."""
    for k, numbers in enumerate(shards):
        table = {"photo_id": ids(*numbers), "bytes": pa.array([f"bytes of {i}".encode() for i in numbers], pa.binary())}
        write_table(pa.table(table), folder / f"photos-{k:03d}.parquet")
    return folder


def shard(folder: Path, numbers: list[int], key: str | list[str], name: str | None = None) -> Path:
    """A shard of computed rows: photo, value and the version of what computed it."""
    keys = [key] * len(numbers) if isinstance(key, str) else key
    table = pa.table({"photo_id": ids(*numbers), "value": pa.array([float(i) for i in numbers]), "extractor": keys})
    return write_table(table, folder / f"{name or shard_name(ids(*numbers), keys[0])}.parquet")


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Name → bytes and time of writing of all files."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.iterdir())}


def rows(folder: Path) -> list[tuple]:
    return sorted((row["photo_id"], row["value"], row["extractor"]) for row in read_shards(folder).to_pylist())


def test_an_empty_folder_has_everything_missing(tmp_path):
    photos = cohort(tmp_path / "photos", range(5), range(5, 8))
    assert keep_current(tmp_path / "mesh", set(photo_ids(photos)), "extractor", "v1") == set()
    assert (tmp_path / "mesh").is_dir()
    pieces = missing_pieces(photos, set(), 2, "v1")
    assert [piece.payload[1] for piece in pieces] == [ids(0, 1), ids(2, 3), ids(4), ids(5, 6), ids(7)]
    assert [piece.rows for piece in pieces] == [2, 2, 1, 2, 1]
    assert [piece.payload[0].name for piece in pieces] == ["photos-000.parquet"] * 3 + ["photos-001.parquet"] * 2
    assert len({piece.name for piece in pieces}) == 5


def test_only_what_is_missing_becomes_pieces(tmp_path):
    photos = cohort(tmp_path / "photos", range(6), range(6, 9))
    mesh = tmp_path / "mesh"
    shard(mesh, [0, 1, 2], "v1")
    shard(mesh, [6, 7, 8], "v1")
    done = keep_current(mesh, set(photo_ids(photos)), "extractor", "v1")
    assert done == set(ids(0, 1, 2, 6, 7, 8))
    pieces = missing_pieces(photos, done, 10, "v1")
    assert [piece.payload[1] for piece in pieces] == [ids(3, 4, 5)]
    assert pieces[0].name == shard_name(ids(3, 4, 5), "v1")
    assert missing_pieces(photos, set(photo_ids(photos)), 10, "v1") == []


def test_a_shard_of_current_rows_keeps_its_bytes(tmp_path):
    mesh = tmp_path / "mesh"
    shard(mesh, [0, 1, 2], "v1")
    shard(mesh, [3, 4], "v1", name="a-name-of-old")
    before = state(mesh)
    assert keep_current(mesh, set(ids(*range(10))), "extractor", "v1") == set(ids(*range(5)))
    assert state(mesh) == before  # neither written again nor renamed


def test_rows_of_another_version_are_dropped(tmp_path):
    mesh = tmp_path / "mesh"
    shard(mesh, [0, 1, 2], "v0")
    current = shard(mesh, [5, 6], "v1")
    mixed = shard(mesh, [3, 4, 7], ["v0", "v1", "v1"], name="mixed")
    kept = current.read_bytes()
    assert keep_current(mesh, set(ids(*range(10))), "extractor", "v1") == set(ids(4, 5, 6, 7))
    assert rows(mesh) == sorted((photo(i), float(i), "v1") for i in (4, 5, 6, 7))
    assert current.read_bytes() == kept and not mixed.exists()
    assert (mesh / f"{shard_name(ids(4, 7), 'v1')}.parquet").is_file()
    assert keep_current(mesh, set(ids(*range(10))), "extractor", "v2") == set()
    assert shard_paths(mesh) == []


def test_rows_of_photos_that_left_are_dropped(tmp_path):
    photos = cohort(tmp_path / "photos", range(4))
    mesh = tmp_path / "mesh"
    shard(mesh, [0, 1, 8, 9], "v1")
    shard(mesh, [10, 11], "v1")
    done = keep_current(mesh, set(photo_ids(photos)), "extractor", "v1")
    assert done == set(ids(0, 1))
    assert rows(mesh) == sorted((photo(i), float(i), "v1") for i in (0, 1))
    assert len(shard_paths(mesh)) == 1
    before = state(mesh)
    assert keep_current(mesh, set(photo_ids(photos)), "extractor", "v1") == done
    assert state(mesh) == before  # a second run finds nothing to do


@pytest.mark.parametrize("start", range(0, 18, 3))
def test_a_photo_is_there_once_after_a_killed_run(tmp_path, start):
    """A run was killed between writing the shorter shard and removing the longer one; either may come first by name."""
    mesh, (a, b, gone) = tmp_path / "mesh", range(start, start + 3)
    shard(mesh, [a, b, gone], "v1")
    shard(mesh, [a, b], "v1")
    assert keep_current(mesh, set(ids(a, b)), "extractor", "v1") == set(ids(a, b))
    assert [path.name for path in shard_paths(mesh)] == [f"{shard_name(ids(a, b), 'v1')}.parquet"]
    assert rows(mesh) == sorted((photo(i), float(i), "v1") for i in (a, b))


def test_a_photo_in_two_shards_is_kept_once(tmp_path):
    mesh = tmp_path / "mesh"
    shard(mesh, [0, 1, 2], "v1", name="a")
    shard(mesh, [2, 3], "v1", name="b")
    shard(mesh, [0, 1], "v1", name="c")
    assert keep_current(mesh, set(ids(0, 1, 2, 3)), "extractor", "v1") == set(ids(0, 1, 2, 3))
    assert rows(mesh) == sorted((photo(i), float(i), "v1") for i in range(4))


def test_both_rows_of_an_embedding_stay_together(tmp_path):
    out = tmp_path / "embeddings"
    twice = pa.table(
        {
            "photo_id": [p for p in ids(0, 1, 2) for _ in range(2)],
            "flipped": [False, True] * 3,
            "vector": pa.array([[float(i)] for i in range(6)], pa.list_(pa.float32())),
            "encoder": ["e1"] * 6,
        }
    )
    write_table(twice, out / f"{shard_name(ids(0, 1, 2), 'e1')}.parquet")
    before = state(out)
    assert keep_current(out, set(ids(0, 1, 2)), "encoder", "e1") == set(ids(0, 1, 2))
    assert state(out) == before
    assert keep_current(out, set(ids(0, 2)), "encoder", "e1") == set(ids(0, 2))
    (path,) = shard_paths(out)
    assert path.name == f"{shard_name(ids(0, 2), 'e1')}.parquet"
    assert read_table(path)["vector"].to_pylist() == [[0.0], [1.0], [4.0], [5.0]]


def test_a_run_that_was_stopped_is_gone_on_with(tmp_path):
    photos = cohort(tmp_path / "photos", range(10))
    mesh = tmp_path / "mesh"

    def compute(count: int) -> list[str]:
        """Compute `count` of the missing pieces, each into its shard; their names."""
        done = keep_current(mesh, set(photo_ids(photos)), "extractor", "v1")
        pieces = missing_pieces(photos, done, 3, "v1")
        for piece in pieces[:count]:
            shard(mesh, [ids(*range(10)).index(i) for i in piece.payload[1]], "v1", name=piece.name)
        return [piece.name for piece in pieces]

    every = compute(2)
    (mesh / ".half.parquet.123.tmp").write_bytes(b"half a shard")
    (mesh / ".half.parquet").write_bytes(b"half a shard")
    assert len(every) == 4 and compute(10) == every[2:]
    assert compute(10) == []
    assert rows(mesh) == sorted((photo(i), float(i), "v1") for i in range(10))


def test_new_photos_cost_themselves_only(tmp_path):
    photos = cohort(tmp_path / "photos", range(4))
    mesh = tmp_path / "mesh"
    shard(mesh, [0, 1, 2, 3], "v1")
    before = state(mesh)
    cohort(tmp_path / "photos", range(4), range(4, 6))
    done = keep_current(mesh, set(photo_ids(photos)), "extractor", "v1")
    assert [piece.payload[1] for piece in missing_pieces(photos, done, 100, "v1")] == [ids(4, 5)]
    assert state(mesh) == before


@pytest.mark.parametrize("group", [1, 2, 3, 100])
def test_a_piece_is_read_in_batches(tmp_path, group):
    """In the shard's order, whatever its row groups are, each photo with its own bytes."""
    table = {"photo_id": ids(*range(8)), "bytes": pa.array([f"bytes of {i}".encode() for i in range(8)], pa.binary())}
    path = write_table(pa.table(table), tmp_path / "photos.parquet", row_group_size=group)
    batches = list(read_batches((path, ids(6, 0, 4, 5, 2)), 2))
    assert [names for names, _ in batches] == [ids(0, 2), ids(4, 5), ids(6)]
    assert [photos for _, photos in batches][1:] == [[b"bytes of 4", b"bytes of 5"], [b"bytes of 6"]]
    with pytest.raises(KeyError, match=photo(99)):
        list(read_batches((path, ids(1, 99)), 2))


def test_names_follow_photos_and_version():
    assert shard_name(ids(1, 2), "v1") == shard_name(iter(ids(1, 2)), "v1")
    names = {
        shard_name(ids(1, 2), "v1"),
        shard_name(ids(2, 1), "v1"),
        shard_name(ids(1, 2), "v2"),
        shard_name(ids(1), "v1"),
    }
    assert len(names) == 4 and all(len(name) == 20 for name in names)


def test_photo_ids_follow_the_cohort(tmp_path):
    assert photo_ids(cohort(tmp_path / "photos", range(3), range(3, 5))) == ids(0, 1, 2, 3, 4)
