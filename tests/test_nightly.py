"""The nightly job, killed at every step: run again it ends in the same bank, registered once; without news it rests."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
import torch

from tests.conftest import Checkout

pytestmark = pytest.mark.timeout(900)

# The stage's own flow, its loop in this process instead of in Ray Train; it dies at one step if one is given.
NIGHT = """
import os, sys, pathlib, runpy
import flows.continual as flow, ray.train, tasks.banks, tasks.registry, tasks.train_personal, mlflow
from tasks.nights import take_nights
import tasks.nights as nights

work, step = pathlib.Path(sys.argv[1]), sys.argv[2]

def dying(module, name, when):
    real = getattr(module, name)
    def step(*given, **named):
        if when == "after":
            real(*given, **named)
        os._exit(9)
    setattr(module, name, step)

def fit(loop, config, **how):
    ray.train.report = lambda metrics: None
    tasks.train_personal._ray_team = tasks.train_personal.Team
    loop(config)

rename = pathlib.Path.rename
def swapped(path, target):
    if path.name == ".continual.new":
        os._exit(9)
    return rename(path, target)

flow.fit = fit
steps = {
    "snapshot": lambda: dying(nights, "_write", "after"),
    "learned": lambda: dying(flow, "register_bank", "before"),
    "logged": lambda: dying(mlflow, "register_model", "before"),
    "registered": lambda: dying(tasks.registry, "promote", "before"),
    "served": lambda: dying(flow, "bank_page", "before"),
    "swapping": lambda: setattr(pathlib.Path, "rename", swapped),
    "swapped": lambda: dying(flow, "publish", "before"),
}
if step != "none":
    steps[step]()
take_nights(work / "cohort", work / "nights", work / "feedback", f"sqlite:///{work}/reviews.db")
flow.continual.fn(cohort=str(work / "cohort"), nights=str(work / "nights"), out=str(work / "continual"))
"""
STEPS = ("snapshot", "learned", "logged", "registered", "served", "swapping", "swapped")


@pytest.fixture
def nightly(checkout: Checkout, tmp_path: Path, monkeypatch):
    """Run a night in tmp_path on what the checkout has built, with a registry of its own."""
    monkeypatch.setitem(checkout.environment, "MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (checkout.folder / "killed_night.py").write_text(NIGHT)
    (tmp_path / "cohort").symlink_to(checkout.folder / "data/cohort")

    def run(step: str) -> None:
        done = checkout.run("killed_night", str(tmp_path), step, ok=step == "none")
        assert done.returncode == (0 if step == "none" else 9), done.stderr[-2000:]

    yield run
    (checkout.folder / "killed_night.py").unlink()


def versions(folder: Path) -> tuple[list[int], int]:
    """Registered versions of the personal model, and the one that serves."""
    with sqlite3.connect(folder / "mlflow.db") as base:
        made = base.execute("SELECT version FROM model_versions WHERE name = 'physique-personal' ORDER BY 1").fetchall()
        champion = base.execute(
            "SELECT version FROM registered_model_aliases WHERE name = 'physique-personal' AND alias = 'champion'"
        ).fetchall()
    return [version for (version,) in made], champion[0][0] if champion else 0


def rate(folder: Path, photos: list[str], key: str) -> None:
    """A night's worth of ratings in the review store."""
    import pyarrow as pa

    from tasks.reviews import Person, invite, offer, open_store, save

    store = open_store(f"sqlite:///{folder}/reviews.db")
    uli = Person("uli", "user")
    invite(store, "uli", "user")
    scores = [{"photo_id": photo, "appearance": 4.0, "health": 5.0, "posture": 6.0} for photo in photos]
    offer(store, "uli", pa.Table.from_pylist(scores), "bank/1")
    for place, photo in enumerate(photos):
        rating = {"photo_id": photo, "appearance": place % 9 + 0.5, "health": None, "posture": 9 - place % 9}
        save(store, uli, f"{key}-{place:06d}", "rating", rating)
    store.dispose()


def test_a_night_killed_at_every_step_ends_in_the_same_bank_registered_once(checkout, nightly, tmp_path):
    from model.bank import load_bank
    from tasks.nightly import learn_nights
    from tasks.nights import night_paths
    from tasks.ratings import as_users, read_photos
    from tasks.tables import read_json, read_shards, read_table

    built = checkout.folder / "artifacts"
    photos = sorted(read_shards(checkout.folder / "data/cohort/photos", ["photo_id"])["photo_id"].to_pylist())
    nightly("none")
    assert versions(tmp_path) == ([1], 1)
    before = load_bank(tmp_path / "continual/bank")
    rate(tmp_path, photos[:30], "first")
    for step in STEPS:
        nightly(step)
        made, champion = versions(tmp_path)
        assert made == [1] or STEPS.index(step) >= STEPS.index("registered")
        assert champion == (2 if STEPS.index(step) >= STEPS.index("served") else 1)  # never a half-made one
    nightly("none")
    assert versions(tmp_path) == ([1, 2], 2)
    after, facts = load_bank(tmp_path / "continual/bank"), read_json(tmp_path / "continual/continual.json")
    assert facts["registered"]["version"] == "2" and facts["new_users"] == 1

    # the same night, without any of this
    nights = night_paths(tmp_path / "nights")
    seen = read_photos(built / "pretrain/predictions.parquet", built / "pretrain/features.parquet")
    raters = read_table(checkout.folder / "data/cohort/raters.parquet")
    config = {"nights": [str(nights[-1])], "earlier": list(map(str, nights[:-1]))}
    config |= {"labels": str(checkout.folder / "data/cohort/labels.parquet")}
    users, surveys, *_ = as_users(raters)
    again = learn_nights(before, load_bank(built / "finetune/bank"), seen, config, dict(zip(users, surveys)))
    assert again is not None and again.bank.users == after.users and again.bank.round == after.round
    for name, value in again.bank.arrays().items():
        # another process, another number of threads: sums may differ in their last bits
        torch.testing.assert_close(value, after.arrays()[name], rtol=1e-9, atol=1e-12, equal_nan=True, msg=name)
    assert len(night_paths(tmp_path / "nights")) == len(facts["lineage"]["nights"]) == len(nights)


def test_without_news_the_nightly_job_rests_and_with_some_it_learns_them_once(checkout: Checkout):
    from tasks.nights import night_paths
    from tasks.tables import read_json, read_shards

    lock = (checkout.folder / "dvc.lock").read_bytes()
    before = versions(checkout.folder)
    rested = checkout.run("flows.nightly")
    assert "nothing new: no feedback has come since the last night" in rested.stderr
    assert versions(checkout.folder) == before
    photos = sorted(read_shards(checkout.folder / "data/cohort/photos", ["photo_id"])["photo_id"].to_pylist())
    store = checkout.folder / ".physique"
    rate(store, photos[:20], "first")
    count = len(night_paths(checkout.folder / "data/nights"))
    try:
        checkout.run("flows.nightly")
        made, champion = versions(checkout.folder)
        assert made == [*before[0], before[1] + 1] and champion == before[1] + 1
        assert len(night_paths(checkout.folder / "data/nights")) == count + 1
        facts = read_json(checkout.folder / "artifacts/continual/continual.json")
        assert facts["nights"] == facts["new_users"] == 1
        assert json.dumps(facts["lineage"]["nights"]).count('"') == 4 * (count + 1)
        assert "nothing new" in checkout.run("flows.nightly").stderr
        assert versions(checkout.folder)[0] == made
    finally:
        (checkout.folder / "dvc.lock").write_bytes(lock)
        for path in store.glob("reviews.db*"):
            path.unlink()
        checkout.run("dvc", "checkout", "--force")
