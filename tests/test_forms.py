"""What the forms of the Prefect UI run, beside the pipeline, on a built checkout: each ends with an artifact."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest

from tests.conftest import Checkout

pytestmark = pytest.mark.timeout(900)


def artifact(checkout: Checkout, key: str) -> str:
    asked = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
    (found,) = httpx.post(f"{checkout.environment['PREFECT_API_URL']}/artifacts/filter", json=asked).json()
    return found["data"]


def test_meshes_of_a_folder(checkout: Checkout, tmp_path: Path):
    from tasks.tables import read_shards

    folder = tmp_path / "people"
    folder.mkdir()
    for path in sorted((checkout.folder / "data/mannequins/photos").glob("*.jpg"))[:5]:
        shutil.copy(path, folder)
    (folder / "notes.txt").write_text("no photo")
    code = f"from flows.meshes import meshes; print(meshes({str(folder)!r}, {str(tmp_path / 'out')!r}))"
    checkout.say(code)
    page = artifact(checkout, "meshes")
    assert "5 computed, 0 reused" in page and "1 files set aside" in page
    assert len(read_shards(tmp_path / "out/mesh", ["photo_id"])) >= 4
    checkout.say(code)
    assert "0 computed, 5 reused" in artifact(checkout, "meshes")
    bad = checkout.run("from flows.meshes import meshes; meshes('nowhere')", how="-c", ok=False)
    assert "nowhere is no folder; right is one that holds photos" in bad.stderr


def test_one_expert_then_a_version_serves_again(checkout: Checkout):
    lock = (checkout.folder / "dvc.lock").read_bytes()
    said = checkout.say("from flows.expert import expert; print(expert('expert-01', 'always'))")
    assert "physique-expert-expert-01 version 2: mean SRCC" in said and "version 2 serves" in said
    page = artifact(checkout, "expert")
    assert "**Version 2 serves now**" in page and "| health |" in page
    said = checkout.say("from flows.promote import promote; print(promote(1, 'physique-expert-expert-01'))")
    assert "physique-expert-expert-01: version 1 serves, 2 did" in said
    assert "version 1 serves now, version 2 served before" in artifact(checkout, "promote")
    for call, why in (
        ("promote(9, 'physique-expert-expert-01')", "physique-expert-expert-01 has no version 9; there are 1, 2"),
        ("promote(1, 'nobody')", "no model is registered as 'nobody'; there are physique-expert-expert-01"),
        ("rollback('nobody')", "user 'nobody' is not in the bank"),
    ):
        bad = checkout.run(f"from flows.promote import promote, rollback; {call}", how="-c", ok=False)
        assert why in bad.stderr
    bad = checkout.run("from flows.expert import expert; expert('nobody')", how="-c", ok=False)
    assert "expert 'nobody' has no ten labelled photos to learn from; experts that have: expert-01" in bad.stderr
    assert (checkout.folder / "dvc.lock").read_bytes() == lock


def test_weights_that_are_none_are_one_line(checkout: Checkout, tmp_path: Path):
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    bad = checkout.run(f"from flows.weights import weights; weights({str(tmp_path / 'bad.pth')!r})", how="-c", ok=False)
    assert bad.returncode == 1 and "bad.pth" in bad.stderr.splitlines()[-1]
