"""Killed workers and killed drivers cost seconds, not results; new photos cost what they are, not the rest.

Runs last among the tests of the checkout: it changes the cohort.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tasks.tables import read_shards, read_table, shard_paths
from tests.conftest import Checkout, small_params

pytestmark = pytest.mark.timeout(900)


def wait_for(what: Callable[[], object], limit: float = 240) -> object:
    """The first true value of `what`, looked at until there is one."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"nothing came within {limit} s")


def workers(pid: int, title: str) -> list[psutil.Process]:
    """Ray processes below `pid` whose title begins with `title`."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
        except psutil.Error:
            continue
    return found


def rows(folder: Path) -> dict[str, dict]:
    return {row["photo_id"]: row for row in read_shards(folder).to_pylist()}


def test_a_killed_driver_computes_no_finished_shard_again(checkout: Checkout):
    out = checkout.folder / "data/mesh"
    before = rows(out)
    shutil.rmtree(out)
    process = checkout.start("flows.mesh")
    wait_for(lambda: out.is_dir() and shard_paths(out))
    process.kill()
    process.communicate(timeout=60)
    finished = {path: path.stat().st_mtime_ns for path in shard_paths(out)}
    assert finished
    checkout.run("flows.mesh")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert rows(out) == before


def test_a_killed_training_worker_gives_the_same_model(checkout: Checkout):
    made = checkout.folder / "artifacts/pretrain/predictions.parquet"
    before = read_table(made).to_pylist()
    process = checkout.start("flows.pretrain")
    wait_for(lambda: list((checkout.folder / ".physique/train").glob("pretrain-*/checkpoint_*")))
    victims = wait_for(lambda: workers(checkout.keeper.pid, "ray::RayTrainWorker"))
    victims[0].kill()  # type: ignore[index]
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-3000:]
    after = read_table(made).to_pylist()
    assert len(after) == len(before)
    for now, then in zip(after, before):
        assert (now["photo_id"], now["model"]) == (then["photo_id"], then["model"])
        for dimension in ("appearance", "health", "posture"):
            assert now[dimension] == pytest.approx(then[dimension], abs=1e-3)


def test_twenty_more_photos_cost_twenty(checkout: Checkout):
    """Rows of the new photos only are computed; finished shards keep their bytes."""
    out = checkout.folder / "data/mesh"
    before = {path.name: path.read_bytes() for path in shard_paths(out)}
    small_params(checkout.folder, mannequins={"photos": 110})
    checkout.run("dvc", "repro", "mesh", "embed")
    after = {path.name: path.read_bytes() for path in shard_paths(out)}
    assert before.items() <= after.items()
    new = [path for path in shard_paths(out) if path.name not in before]
    assert sum(len(read_table(path, ["photo_id"])) for path in new) == 20
    vectors = read_shards(checkout.folder / "data/embeddings", ["photo_id"])["photo_id"].to_pylist()
    assert len(read_shards(out, ["photo_id"])) == 110
    assert len(set(vectors)) > 100
