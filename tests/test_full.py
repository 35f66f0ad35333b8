"""The whole DAG with the paper's network, on a cohort of 24 photos, on the CPU. Minutes: `uv run pytest -m slow`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

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


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint in the official layout, with the random numbers that a network starts with."""
    from model.official import to_official
    from model.physique_frame import FrameConfig, PhysiqueFrame

    torch.manual_seed(0)
    config = FrameConfig.full(clip=True, camera=True, survey=False, nobody=False, mesh_search="expanded")
    path = tmp_path_factory.mktemp("official") / "ESFJ.pth"
    torch.save(to_official(PhysiqueFrame(config), {}), path)
    yield path
    path.unlink()


def registered(checkout: Checkout) -> set[str]:
    code = "import mlflow, tasks.registry\ntasks.registry.use_tracking()\n"
    code += "print(*[m.name for m in mlflow.search_registered_models()])"
    (checkout.folder / "names.py").write_text(code)
    return set(checkout.run("names").stdout.split())


def test_half_a_checkpoint_leaves_nothing_behind(full: Checkout, official: Path, tmp_path: Path):
    before = registered(full)
    half = tmp_path / "half.pth"
    with official.open("rb") as whole:
        half.write_bytes(whole.read(official.stat().st_size // 2))
    done = full.run("flows.cli", "weights", "import", str(half), "--register", "ESFJ", ok=False)
    assert done.returncode == 1
    assert "half.pth: truncated" in done.stderr and done.stderr.count("\n") == 1
    assert registered(full) == before
    assert not (full.folder / "data/weights").exists()


def test_an_official_checkpoint_is_served_and_given_back(full: Checkout, official: Path, tmp_path: Path):
    said = full.run("flows.cli", "weights", "import", str(official), "--register", "ESFJ").stdout
    assert "loaded   1035 keys" in said and "registered physique-expert-ESFJ version 1" in said
    assert "physique-expert-ESFJ" in registered(full)
    photo = sorted((full.folder / "data/mannequins/photos").glob("*.jpg"))[0]
    (full.folder / "serve.py").write_text(SERVE)
    answer = json.loads(full.run("serve", str(photo)).stdout.strip().splitlines()[-1])
    assert answer["status"] == ["ok"]
    assert all(0 < answer[d][0] < 10 for d in ("appearance", "health", "posture"))

    out = tmp_path / "back.pth"
    full.run("flows.cli", "weights", "export", "models:/physique-expert-ESFJ@champion", str(out))
    here, back = (torch.load(path, weights_only=True, mmap=True) for path in (official, out))
    assert set(here) == set(back) and len(here) == 1131
    assert all(torch.equal(here[key], back[key]) for key in here)


SERVE = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import mlflow, pandas
mlflow.set_tracking_uri("sqlite:///mlflow.db")
model = mlflow.pyfunc.load_model("models:/physique-expert-ESFJ@champion")
print(json.dumps(model.predict(pandas.DataFrame({"image": [sys.argv[1]]})).to_dict("list")))
"""
