from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from tasks.same import compare
from tasks.tables import write_table


def model(folder: Path, shift: float = 0.0, name: str = "a", shape: int = 3, size: str = "tiny") -> Path:
    folder.mkdir()
    save_file({"w": np.arange(shape, dtype=np.float32) + np.float32(shift)}, folder / "net.safetensors")
    (folder / "net.json").write_text(json.dumps({"size": size, "loss": 0.5 + shift, "none": float("nan")}))
    write_table(pa.table({"user": [name], "gain": [[0.1, 0.2 + shift]]}), folder / "users.parquet")
    (folder / "card.txt").write_text("words")
    return folder


def test_to_the_byte(tmp_path):
    found = compare(model(tmp_path / "one"), model(tmp_path / "two"))
    assert found.close and str(found) == "the same, to the byte, in all 4 files"


def test_rounding_is_the_same_and_says_how_far(tmp_path):
    found = compare(model(tmp_path / "one"), model(tmp_path / "two", 1e-6))
    assert found.close and found.equal == ["card.txt"]
    assert str(found).startswith("the same: 1 of 4 files to the byte, numbers of the others up to 1.0e-06 apart (")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shift": 0.01}, "not the same: 1 of 4 files to the byte, numbers of the others up to 1.0e-02 apart"),
        ({"name": "b"}, "not the same: users.parquet: user differs: a and b"),
        ({"shape": 4}, "not the same: net.safetensors: w differs"),
        ({"size": "full"}, "not the same: net.json: size differs: tiny and full"),
    ],
)
def test_what_is_not_the_same(tmp_path, changes, said):
    found = compare(model(tmp_path / "one"), model(tmp_path / "two", **changes))
    assert not found.close and str(found).startswith(said)


def test_files_of_one_only_and_other_bytes(tmp_path):
    one, two = model(tmp_path / "one"), model(tmp_path / "two")
    (one / "more").touch()
    (two / "card.txt").write_text("other words")
    found = compare(one, two)
    assert found.other == ["more is only in one of them", "card.txt: other bytes"] and not found.close
    assert str(found) == "not the same: more is only in one of them and 1 more"
