"""Servers of somebody else's beside `physique up`: as whom we come, and what is kept from them."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tasks.engines import engines
from tasks.intake.quarantine import BadInput
from tasks.stack import deployments
from tasks.stack.access import FILE, lock
from tasks.stack.parts import Ports, plan, polled
from tasks.stack.running import Begun, Running
from tests.conftest import ROOT

NAMES = ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD",
         "PHYSIQUE_PASSWORD", "PREFECT_API_URL", "MLFLOW_TRACKING_URI", "NO_PROXY", "no_proxy")  # fmt: skip


class Theirs(http.server.ThreadingHTTPServer):
    """Answers everybody, or with `wants` only who sends that; `seen` are the Authorization headers that came."""

    wants: str | None = None
    seen: list[str | None]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            server = self.server
            assert isinstance(server, Theirs)
            server.seen.append(self.headers["Authorization"])
            refused = server.wants and server.wants != server.seen[-1]
            body = json.dumps([{"name": "worker-1", "status": "ONLINE"}]).encode()
            self.send_response(401 if refused else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api"


@pytest.fixture
def theirs() -> Iterator[Theirs]:
    with Theirs(("127.0.0.1", 0), Theirs.Handler) as server:
        server.seen = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what is set in between is taken back
        monkeypatch.delenv(name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(ROOT / "prefect.yaml", tmp_path)
    FILE.parent.mkdir()
    return tmp_path


def given(**values: str):
    """Prefect's settings as in the user's profile."""
    from prefect import settings

    return settings.temporary_settings({getattr(settings, name): value for name, value in values.items()})


def test_a_prefect_that_wants_a_key_gets_it_and_tells_of_the_worker(theirs: Theirs, folder, monkeypatch):
    theirs.wants = "Bearer pnu_key"
    with given(PREFECT_API_URL=theirs.api):
        assert not polled(theirs.api, "worker-1")
        with pytest.raises(BadInput, match=f"no Prefect answers us at {theirs.api}; start it, set the PREFECT_API_KEY"):
            plan("127.0.0.1", Ports(), folder, "token")
    with given(PREFECT_API_URL=theirs.api, PREFECT_API_KEY="pnu_key"):
        assert polled(theirs.api, "worker-1") and not polled(theirs.api, "worker-2")
        planned = plan("127.0.0.1", Ports(), folder, "token")
    assert planned.notes[0] == f"Prefect at {theirs.api} is used (PREFECT_API_URL)"
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_key")
    assert polled(theirs.api, "worker-1")


def test_our_password_is_kept_from_a_prefect_that_is_not_ours(theirs: Theirs, folder):
    with given(PREFECT_API_URL=theirs.api):
        planned = plan("0.0.0.0", Ports(), folder, "token")
        assert not polled(theirs.api, "another")
    assert set(theirs.seen) == {None} and "PREFECT_API_AUTH_STRING" not in os.environ
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == json.loads(FILE.read_text())["MLFLOW_TRACKING_PASSWORD"]
    (note,) = [note for note in planned.notes if "other machines" in note]
    assert note.startswith("other machines reach MLflow by a password only") and "Prefect" not in note


def test_a_run_beside_it_on_another_prefect_keeps_it_too(theirs: Theirs, monkeypatch):
    from prefect.settings import PREFECT_API_AUTH_STRING

    lock("0.0.0.0")
    for name in json.loads(FILE.read_text()):
        monkeypatch.delenv(name)  # a shell of its own has read nothing yet
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    Running(Begun.of(os.getpid()), "token", "now", "http://127.0.0.1:9/api", "http://127.0.0.1:9", "127.0.0.1:9").write()
    with given(PREFECT_API_URL=theirs.api), engines():
        assert PREFECT_API_AUTH_STRING.value() is None and "PREFECT_API_AUTH_STRING" not in os.environ
        assert os.environ["MLFLOW_TRACKING_USERNAME"] == "physique"
    Running(Begun.of(os.getpid()), "token", "now", theirs.api, "http://127.0.0.1:9", "127.0.0.1:9").write()
    with given(PREFECT_API_URL=theirs.api), engines():
        assert str(PREFECT_API_AUTH_STRING.value()).startswith("physique:")


def test_a_note_of_what_was_deployed_that_is_cut_short_counts_as_none(theirs: Theirs, monkeypatch):
    monkeypatch.setattr(deployments, "POOL_WAIT_S", -1.0)
    deployments.DEPLOYED.write_text('{"api": "http://127')
    with pytest.raises(RuntimeError, match="no work pool"):  # it sets out to deploy
        deployments.deploy("http://127.0.0.1:9/api")
    deployments.DEPLOYED.write_text(json.dumps({"api": theirs.api, "of": deployments.fingerprint()}))
    assert deployments.deploy(theirs.api) == "deployments are as they were"


@pytest.mark.parametrize(("before", "after"), [
    ({}, "127.0.0.1,localhost"),
    ({"NO_PROXY": "corp.example"}, "corp.example,127.0.0.1,localhost"),
    ({"NO_PROXY": "corp.example,localhost", "no_proxy": ".lan"}, "corp.example,localhost,.lan,127.0.0.1"),
    ({"no_proxy": "*"}, "*"),
])  # fmt: skip
def test_behind_a_proxy_servers_of_this_machine_answer(theirs: Theirs, before, after):
    code = ("import os, sys; from tasks.engines import ray_environment, wait_answers; ray_environment()\n"
            "wait_answers(sys.argv[1], limit=0); print(os.environ['no_proxy'], os.environ.get('NO_PROXY'))")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:9"} | before
    words = [sys.executable, "-c", code, theirs.api]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [after, "None" if after == "*" else after], done.stderr
