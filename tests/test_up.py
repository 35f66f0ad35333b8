"""`physique up` with all its parts, on free ports: each answers, one that dies comes back, `down` leaves nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tasks.engines import free_port
from tasks.stack.processes import started_by
from tasks.stack.running import MARK, Running, running, written
from tests.conftest import ROOT, Checkout

pytestmark = pytest.mark.timeout(600)  # machines of CI are busy with other tests
PORTS = ("prefect", "mlflow", "ray", "dashboard", "review")
GIVEN = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")


class Up:
    """A `physique up` in a folder, what it says in `up.out`."""

    def __init__(self, folder: Path, environment: dict[str, str], **ports: int):
        self.folder = folder
        self.environment = environment
        self.options = [word for name in PORTS for word in (f"--{name}-port", str(ports.get(name) or free_port()))]
        self.start()

    def start(self) -> None:
        with (self.folder / "up.out").open("w") as out:
            words = [sys.executable, "-m", "flows.cli", "up", *self.options]
            self.process = subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=out, stderr=out)

    def said(self) -> str:
        return (self.folder / "up.out").read_text()

    def wait(self, words: str, limit: float = 300) -> str:
        """Wait until it has said this."""
        until(lambda: words in self.said() or self.process.poll() is not None, limit, self.said)
        assert words in self.said(), self.said()
        return self.said()

    def state(self) -> Running:
        found = running(self.folder / ".physique/up.json")
        assert found is not None
        return found

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "flows.cli", *words)

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=200
        )


def until(what: Callable[[], object], limit: float = 60, about: Callable[[], object] = str) -> None:
    end = time.monotonic() + limit
    while not what():
        assert time.monotonic() < end, about()
        time.sleep(0.2)


def small_folder(folder: Path) -> Path:
    """As much of a checkout as `up` looks at before it starts anything."""
    folder.mkdir(exist_ok=True)
    for name in ("prefect.yaml", "dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    return folder


@contextmanager
def started(made: Checkout) -> Iterator[Up]:
    """All up in a checkout, and down again."""
    found = Up(made.folder, {name: value for name, value in made.environment.items() if name not in GIVEN})
    try:
        found.wait("all up after")
        yield found
    finally:
        found.command("down")
        found.process.wait(60)


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Iterator[Up]:
    with started(Checkout(tmp_path_factory.mktemp("up"))) as found:
        yield found


def test_every_part_answers_and_nothing_listens_outside(stack: Up):
    state = stack.state()
    assert httpx.get(f"{state.prefect}/health").status_code == 200
    assert "<html" in httpx.get(state.pages["Prefect"]).text.lower()
    assert "<html" in httpx.get(state.pages["MLflow"]).text.lower()
    assert httpx.get(f"{state.mlflow}/api/2.0/mlflow/registered-models/search").status_code == 200
    assert "ray_version" in httpx.get(f"{state.pages['Ray']}/api/version").json()
    assert httpx.get(f"{state.pages['review page']}/health").text == "ok"
    workers = httpx.post(f"{state.prefect}/work_pools/physique/workers/filter", json={}).json()
    assert [each["status"] for each in workers] == ["ONLINE"]
    seen = set()
    for process in ours(state):
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                seen.add(connection.laddr.ip)
    assert seen and seen <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def ours(state: Running) -> list[psutil.Process]:
    return started_by([begun for led in state.parts.values() for begun in led], state.token)


def test_all_deployments_are_there_with_their_schedules(stack: Up):
    from ruamel.yaml import YAML

    state = stack.state()
    wanted = YAML(typ="safe").load(stack.folder / "prefect.yaml")["deployments"]
    found = {each["name"]: each for each in httpx.post(f"{state.prefect}/deployments/filter", json={}).json()}
    assert set(found) == {each["name"] for each in wanted}
    (nightly,) = found["nightly"]["schedules"]
    assert nightly["active"] and nightly["schedule"]["timezone"]
    assert f"deployments/deployment/{found['pipeline']['id']}" in stack.said()


def test_a_second_one_says_it_is_up_already(stack: Up):
    again = stack.command("up", *stack.options)
    assert again.returncode == 0 and again.stdout.startswith("up already, since 20")
    assert all(page in again.stdout for page in stack.state().pages.values())


def test_a_run_from_the_ui_and_one_from_a_shell_use_these_servers(stack: Up):
    state = stack.state()
    deployment = httpx.get(f"{state.prefect}/deployments/name/pipeline/pipeline").json()
    asked = f"{state.prefect}/deployments/{deployment['id']}/create_flow_run"
    run = httpx.post(asked, json={"parameters": {"stage": "source"}, "state": {"type": "SCHEDULED"}}).json()
    code = (
        "import os; from prefect.settings import PREFECT_API_URL; from tasks.engines import engines\n"
        "with engines(): print(PREFECT_API_URL.value(), os.environ['RAY_ADDRESS'], os.environ['MLFLOW_TRACKING_URI'])\n"
        "assert 'RAY_ADDRESS' not in os.environ"
    )
    shell = stack.python("-c", code)
    assert shell.stdout.split() == [state.prefect, state.ray, state.mlflow], shell.stderr

    def now() -> dict:
        return httpx.get(f"{state.prefect}/flow_runs/{run['id']}").json()["state"]

    until(lambda: now()["type"] in ("COMPLETED", "FAILED", "CRASHED"), 200, now)
    assert now()["type"] == "COMPLETED", now()
    assert (stack.folder / "data/kind.txt").read_text() == "photos\n"


def test_a_part_that_is_killed_comes_back(stack: Up):
    state = stack.state()
    victim = state.parts["MLflow"][-1]
    os.kill(victim.pid, signal.SIGKILL)  # its own child goes on holding the port
    said = stack.wait("MLflow       up again after")
    assert "MLflow was killed (signal 9); it is started again in 1 s" in said
    assert httpx.get(f"{state.mlflow}/health").status_code == 200
    assert stack.state().parts["MLflow"][-1] != victim


def test_a_port_that_is_taken_is_one_line_and_starts_nothing(stack: Up, tmp_path):
    taken = stack.state().prefect.rsplit(":", 1)[1].removesuffix("/api")
    other = Up(small_folder(tmp_path / "other"), stack.environment | {"PYTHONPATH": str(stack.folder)}, prefect=int(taken))
    assert other.process.wait(60) == 1
    (line,) = other.said().splitlines()
    assert line.startswith(f"physique: Prefect: port {taken} is in use (by ")
    assert line.endswith("stop that, or name another port with --prefect-port")
    assert written(other.folder / ".physique/up.json") is None


def test_with_servers_given_only_the_rest_starts_and_what_a_killed_one_leaves_is_stopped(stack: Up, tmp_path):
    state = stack.state()
    given = dict(zip(GIVEN, (state.prefect, state.mlflow, state.ray)))
    folder = small_folder(tmp_path / "other")
    other = Up(folder, stack.environment | given | {"PYTHONPATH": str(stack.folder)})
    said = other.wait("worker       up after")
    assert f"Prefect at {state.prefect} is used (PREFECT_API_URL)" in said
    assert set(other.state().parts) <= {"worker", "deployments", "review page"}
    left = other.state()
    other.process.kill()
    other.process.wait(10)
    assert ours(left), "a killed one cannot tidy up"
    assert other.command("down").stdout == "all stopped\n"
    assert not ours(left) and running(folder / ".physique/up.json") is None
    assert other.command("down").stdout.startswith("nothing is up in ")
    assert httpx.get(f"{state.prefect}/health").status_code == 200


def test_down_leaves_no_process(stack: Up):
    state = stack.state()
    assert len(ours(state)) > 8
    assert stack.command("down").stdout == "all stopped\n"
    assert stack.process.wait(30) == 0
    assert not ours(state)
    for process in psutil.process_iter():
        try:
            assert process.environ().get(MARK) != state.token
        except psutil.Error:
            continue
    assert not (stack.folder / ".physique/up.json").exists()
    assert (stack.folder / ".physique/logs/ray").is_dir()


def test_a_full_disk_is_one_line(tmp_path):
    may = ["unshare", *([] if os.geteuid() == 0 else ["-r"]), "-m"]
    if subprocess.run([*may, "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    folder = small_folder(tmp_path / "small")
    small = f"cp *.yaml .. && mount -t tmpfs -o size=20m tmpfs . && cd {folder} && cp ../*.yaml ."
    script = f"{small} && {sys.executable} -m flows.cli up"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*may, "sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"physique: disk full: {folder} has ") and line.endswith("make room")


def test_logs_are_rotated_under_who_writes_them(tmp_path):
    from tasks.stack.watch import rotate

    log = tmp_path / "part.log"
    with log.open("ab", buffering=0) as stream:
        for round in range(5):
            stream.write(f"{round}".encode() * 100)
            rotate(log, most=100, kept=2)
        stream.write(b"now")
    assert log.read_bytes() == b"now"
    assert [path.read_bytes()[:1] for path in (tmp_path / "part.log.1", tmp_path / "part.log.2")] == [b"4", b"3"]
    assert not (tmp_path / "part.log.3").exists()


def test_a_recycled_process_number_is_nobody_of_ours():
    from tasks.stack.running import Begun

    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        led = Begun.of(process.pid)
        assert led.lives() and not Begun(led.pid, led.at - 100).lives()
        assert [each.pid for each in started_by([led])] == [led.pid]
        assert started_by([Begun(led.pid, led.at - 10**6)]) == []
    finally:
        process.kill()
        process.wait()
    assert started_by([Begun(0, led.at)]) == []  # kernel threads, and what came into a container from outside
