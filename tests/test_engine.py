"""The mesh engine loses nothing: decoders, networks and nodes die, the disk fills up, and each photo has one outcome."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from tasks.tables import read_shards, shard_paths
from tests.conftest import Checkout, small_params
from tests.test_survival import rows, wait_for, workers

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def split(checkout: Checkout, tmp_path: Path) -> Iterator[Checkout]:
    """The checkout with decoders that feed its networks, and small shards; afterwards as it was, to the byte."""
    out = checkout.folder / "data/mesh"
    shutil.copytree(out, tmp_path / "mesh")
    small_params(checkout.folder, mesh={"decoders": 1, "shard": 15, "batch": 5})
    yield checkout
    small_params(checkout.folder)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(tmp_path / "mesh", out)


def one_outcome_each(checkout: Checkout) -> None:
    photos = read_shards(checkout.folder / "data/cohort/photos", ["photo_id"])["photo_id"].to_pylist()
    table = read_shards(checkout.folder / "data/mesh", ["photo_id", "status"])
    assert sorted(table["photo_id"].to_pylist()) == sorted(photos)
    assert set(Counter(table["status"].to_pylist())) == {"ok", "no_person", "unreadable"}


def close(after: dict[str, dict], before: dict[str, dict]) -> None:
    """The same rows; batches of another size round the last digits differently."""
    assert after.keys() == before.keys()
    for photo, row in after.items():
        then = before[photo]
        assert (row["status"], row["reason"], row["extractor"]) == (then["status"], then["reason"], then["extractor"])
        for name in ("box", "betas", "points"):
            assert row[name] == (then[name] and pytest.approx(then[name], rel=1e-3, abs=2e-2)), name


def test_a_killed_decoder_and_a_killed_network_cost_their_shards_only(split: Checkout):
    out = split.folder / "data/mesh"
    before = rows(out)
    shutil.rmtree(out)
    process = split.start("flows.mesh")
    for title in ("ray::DecodeActor.compute", "ray::MeshActor.compute"):
        victims = wait_for(lambda title=title: workers(split.keeper.pid, title))
        victims[0].kill()  # type: ignore[index]
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-3000:]
    one_outcome_each(split)
    close(rows(out), before)
    run = newest_run(split, "mesh")
    shards = asked(split, "task_runs", flow_runs={"id": {"any_": [run["id"]]}})
    assert {shard["state"]["type"] for shard in shards} == {"COMPLETED"} and max(s["run_count"] for s in shards) > 1
    said = "\n".join(log_of(split, run))
    assert re.search(r"a (Decode|Mesh)Actor died with this shard in hand: .*Retry 1/4 will start 1 second", said), said
    assert re.search(r"mesh: \d+ shards were tried again, as a worker had died with them", output)


def asked(checkout: Checkout, what: str, **how: object) -> list[dict]:
    """Prefect's answer to a filter."""
    answer = httpx.post(f"{checkout.environment['PREFECT_API_URL']}/{what}/filter", json=how)
    assert answer.status_code == 200, answer.text
    return answer.json()


def newest_run(checkout: Checkout, flow: str) -> dict:
    return asked(checkout, "flow_runs", flows={"name": {"any_": [flow]}}, sort="START_TIME_DESC", limit=1)[0]


def log_of(checkout: Checkout, run: dict) -> list[str]:
    return [line["message"] for line in asked(checkout, "logs", logs={"flow_run_id": {"any_": [run["id"]]}})]


TALKS = """
import ray
from prefect import flow
from tasks.engines import connect
from tasks.stage import run

@flow
def talk():
    connect()
    @ray.remote
    def speak():
        print("a word from a worker")
    ray.get(speak.remote())

run(talk)
"""


def test_what_a_worker_prints_is_in_the_log_of_its_run(checkout: Checkout):
    done = checkout.run(TALKS, how="-c")
    assert "a word from a worker" not in done.stdout + done.stderr
    log = wait_for(lambda: log_of(checkout, newest_run(checkout, "talk")), 20)
    assert [line for line in log if re.fullmatch(r"speak \(pid \d+\): a word from a worker", line)], log


TRAINS = """
import sys
from tasks.engines import engines
from tasks.train import fit

def titles(config):
    import psutil
    from pathlib import Path
    seen = {" ".join(each.info["cmdline"] or []).split(".")[0] for each in psutil.process_iter(["cmdline"])}
    Path(config["out"]).write_text(" ".join(sorted(seen)))

with engines():
    fit(titles, {"out": sys.argv[1]}, name="titles", workers=1, cpus_per_worker=0.5)
"""


def test_a_training_starts_no_actors_that_have_nothing_to_do(checkout: Checkout, tmp_path: Path):
    checkout.run(TRAINS, str(tmp_path / "titles"), how="-c")
    said = (tmp_path / "titles").read_text()
    assert "ray::TrainController" in said and "DatasetManager" not in said and "PlacementGroupCleaner" not in said


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])  # Prefect's worker, when it is cancelled in the UI; Ctrl-C
def test_a_pipeline_that_is_cancelled_ends_its_ray_work_and_goes_on_where_it_was(split: Checkout, how: signal.Signals):
    out, lock = split.folder / "data/mesh", split.folder / "dvc.lock"
    before, locked = rows(out), lock.read_bytes()
    shutil.rmtree(out)
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background ignores Ctrl-C
    process = split.start("flows.cli", "run", "--target", "mesh", start_new_session=True, preexec_fn=heard)
    wait_for(lambda: out.is_dir() and shard_paths(out))
    below = psutil.Process(process.pid).children(recursive=True)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # all of the terminal's foreground
    else:
        process.terminate()
    output, _ = process.communicate(timeout=60)
    assert "was cancelled. What was finished is kept: run it again" in output and "Traceback" not in output, output[-3000:]
    assert not [each for each in below if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    wait_for(lambda: not workers(split.keeper.pid, "ray::MeshActor"), 15)
    for flow in ("pipeline", "mesh"):
        assert newest_run(split, flow)["state"]["type"] == "CANCELLED", flow
    page = asked(split, "artifacts", artifacts={"key": {"any_": ["pipeline"]}}, sort="CREATED_DESC", limit=1)[0]["data"]
    assert "**Ended from outside while mesh ran.** What is finished is kept" in page
    finished = {path: path.stat().st_mtime_ns for path in shard_paths(out)}
    assert 0 < len(finished) < 6
    split.run("flows.cli", "run", "--target", "mesh")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    close(rows(out), before)
    lock.write_bytes(locked)


@pytest.mark.slow
def test_a_lost_node_of_a_cluster_costs_time_only(split: Checkout):
    """RAY_ADDRESS and nothing else; the node that is left has room for half of the workers, of whatever kind."""
    from ray.cluster_utils import Cluster

    out = split.folder / "data/mesh"
    before = rows(out)
    shutil.rmtree(out)
    held = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_ADDRESS")}
    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
        cluster.wait_for_nodes()
        environment = split.environment
        split.environment = environment | {"RAY_ADDRESS": cluster.address}
        process = split.start("flows.mesh")
        split.environment = environment
        wait_for(lambda: out.is_dir() and shard_paths(out))
        cluster.remove_node(nodes[0], allow_graceful=False)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output[-3000:]
    finally:
        cluster.shutdown()
        for name, value in held.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    one_outcome_each(split)
    close(rows(out), before)


SCRIPT = """
set -e
mount -t tmpfs -o size=2m tmpfs data/mesh
{python} -m flows.mesh > full.log 2>&1 && exit 9
ls data/mesh > full.shards
mount -o remount,size=100m data/mesh
{python} -m flows.mesh > room.log 2>&1
cp data/mesh/*.parquet {kept}
"""


@pytest.mark.slow
def test_a_full_disk_stops_it_with_a_line_and_it_goes_on_where_it_was(split: Checkout, tmp_path: Path):
    may = ["unshare", *([] if os.geteuid() == 0 else ["-r"]), "-m"]
    tried = subprocess.run([*may, "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True)
    if tried.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    folder = split.folder
    before = rows(folder / "data/mesh")
    (tmp_path / "kept").mkdir()
    script = SCRIPT.format(python=sys.executable, kept=tmp_path / "kept")
    done = subprocess.run([*may, "sh", "-c", script], cwd=folder, env=split.environment, timeout=800)
    full = (folder / "full.log").read_text()
    assert done.returncode == 0, full[-3000:]
    (line,) = [line for line in full.splitlines() if line.startswith("physique: ")]
    assert "No space left on device" in line and "make room and run the same command again" in line
    finished = (folder / "full.shards").read_text().split()
    assert finished and f"{len(finished)} of 6 shards are finished and kept" in line
    assert "Traceback" not in full
    kept = {path.name for path in (tmp_path / "kept").iterdir()}
    assert set(finished) < kept and len(kept) == 6
    close(rows(tmp_path / "kept"), before)


def test_another_run_over_the_same_photos_starts_no_worker(checkout: Checkout):
    """A look at the shards is all that it takes."""
    out = checkout.folder / "data/mesh"
    before = {path.name: path.stat().st_mtime_ns for path in shard_paths(out)}
    checkout.run("flows.mesh")
    assert {path.name: path.stat().st_mtime_ns for path in shard_paths(out)} == before
    took = json.loads((checkout.folder / ".physique/durations.json").read_text())["mesh"]
    assert took < 60
