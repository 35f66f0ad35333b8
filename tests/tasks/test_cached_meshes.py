"""Meshes made elsewhere become rows of the mesh table: found by name, once; what cannot be used is told and left."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from model.body import load_body
from tasks.cached_meshes import take_cached
from tasks.keyed import keep_current
from tasks.tables import read_shards, shard_paths, write_table
from tests.bodies import body_file

__all__ = ["body_file"]

NAMES = ["a.jpg", "b.jpg", "street/c.jpg", "nobody.jpg", "bad.jpg", "new.jpg"]


def cohort(folder: Path) -> dict[str, str]:
    """Photo shards of NAMES; photo id by name."""
    ids = {name: hashlib.sha256(name.encode()).hexdigest() for name in NAMES}
    for k in (0, 3):
        part = NAMES[k : k + 3]
        table = {
            "photo_id": [ids[name] for name in part],
            "name": part,
            "width": pa.array([600] * 3, pa.int32()),
            "height": pa.array([800] * 3, pa.int32()),
            "bytes": pa.array([b"photo"] * 3, pa.binary()),
        }
        write_table(pa.table(table), folder / f"{k}.parquet")
    return ids


def cache(path: Path, body_path: Path) -> Path:
    body = load_body(body_path)

    def entry(seed: int) -> tuple:
        betas = torch.randn(1, 10, generator=torch.Generator().manual_seed(seed))
        mesh = -(body.zero_pose(betas)[0] + torch.tensor([0.1, 0.2, 20.0]))
        points = np.random.default_rng(seed).uniform(60, 160, (25, 2))
        return (mesh, torch.zeros(1, 69), betas, torch.zeros(1, 137, 3), [70.0, 20.0, 150.0, 210.0], points, 0.07)

    known = {name: entry(k) for k, name in enumerate(("a.jpg", "b.jpg", "c.jpg"))}
    known["nobody.jpg"] = (None,) * 7
    known["bad.jpg"] = (torch.full((10475, 3), float("nan")), *entry(9)[1:])
    torch.save(known, path)
    return path


def test_rows_are_taken_once(tmp_path, body_file):
    ids = cohort(tmp_path / "photos")
    given = (cache(tmp_path / "cache.pt", body_file), tmp_path / "photos", tmp_path / "mesh", body_file, "tiny-1", 2)
    taken, unusable = take_cached(*given)
    assert taken == 4
    (line,) = unusable
    assert "cache.pt: bad.jpg" in line and "\n" not in line
    rows = {row["photo_id"]: row for row in read_shards(tmp_path / "mesh").to_pylist()}
    assert rows.keys() == {ids[name] for name in NAMES[:4]}
    assert rows[ids["nobody.jpg"]]["status"] == "no_person" and rows[ids["street/c.jpg"]]["status"] == "ok"
    assert {row["extractor"] for row in rows.values()} == {"tiny-1"}
    before = {path: path.read_bytes() for path in shard_paths(tmp_path / "mesh")}
    assert take_cached(*given)[0] == 0
    assert {path: path.read_bytes() for path in shard_paths(tmp_path / "mesh")} == before
    # The stage computes the others: those the file does not know, and those it has wrong.
    done = keep_current(tmp_path / "mesh", set(ids.values()), "extractor", "tiny-1")
    assert set(ids.values()) - done == {ids["bad.jpg"], ids["new.jpg"]}
