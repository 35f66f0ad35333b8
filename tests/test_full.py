"""The whole DAG with the paper's network, on a cohort of 24 photos, on the CPU. Minutes: `uv run pytest -m slow`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tasks.tables import read_json, read_shards, read_table
from tests.conftest import Checkout, small_params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FULL = {
    "mannequins": {"photos": 24, "experts": 2, "users": 16, "ratings_per_user": 16, "feedback_per_user": 4,
                   "judging_per_user": 4, "nobody": 0.05, "unreadable": 0},
    "model": {"size": "full"},
    "embed": {"encoder": "clip", "weights": "random", "actors": 1, "shard": 24, "batch": 8},
    "pretrain": {"epochs": 1, "batch": 4, "lr": 1e-4, "recompute": True, "workers": 1},
    "evaluate": {"counts": [0, 5], "repeats": 1, "bootstrap": 100},
}  # fmt: skip


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    made = Checkout(tmp_path_factory.mktemp("full"))
    small_params(made.folder, **FULL)
    made.first_run = made.run("dvc", "repro", timeout=1700)
    yield made


def test_the_whole_graph_runs_at_full_size(full: Checkout):
    assert "report/index.html" in full.first_run.stdout
    described = read_json(full.folder / "artifacts/pretrain/models/000.json")
    assert described["config"]["size"] == "full"
    assert described["config"]["mesh_points"] == 10475
    vectors = read_shards(full.folder / "data/embeddings")
    assert {len(v) for v in vectors["vector"].to_pylist()} == {768}


def test_every_photo_has_a_score_by_every_model(full: Checkout):
    said = read_table(full.folder / "artifacts/pretrain/predictions.parquet").to_pylist()
    photos = {row["photo_id"] for row in said}
    assert len(said) == 3 * len(photos) == 3 * 24
    assert all(0 <= row[d] <= 10 for row in said for d in ("appearance", "health", "posture"))
    assert len({round(row["health"], 3) for row in said}) > 24


def test_the_registered_model_answers(full: Checkout):
    photo = sorted((full.folder / "data/mannequins/photos").glob("*.jpg"))[0]
    done = full.run("flows.cli", "predict", str(photo), "--json")
    assert set(json.loads(done.stdout)["scores"]) == {"appearance", "health", "posture"}
