"""Flow runs whose process is gone, and servers that are just being started again."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from tasks.engines import NotStarted, free_port, wait_answers
from tasks.graph import last_words
from tasks.stack.deployments import died
from tasks.tables import clear_unfinished


def run_of(pid: object, since: datetime | None = None, state: str = "RUNNING") -> dict:
    return {"infrastructure_pid": pid, "state": {"type": state, "timestamp": (since or datetime.now(UTC)).isoformat()}}


def test_a_flow_run_has_died_when_its_process_on_this_machine_is_gone():
    here, own = socket.gethostname(), os.getpid()
    assert not died(run_of(f"{here}:{own}")) and not died(run_of(str(own)))
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert died(run_of(f"{here}:{ended.pid}")) and died(run_of(str(ended.pid)))
    assert not died(run_of(f"elsewhere:{ended.pid}"))
    assert not died(run_of(None)) and not died(run_of("a-container"))


def test_a_later_process_of_the_same_number_is_not_it():
    long_ago = datetime.now(UTC) - timedelta(days=30)
    assert died(run_of(str(os.getpid()), long_ago))
    assert not died(run_of(str(os.getpid()), long_ago, "PENDING"))  # its process comes when there is room


def test_what_begins_while_prefect_is_started_again_waits_for_it():
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    with pytest.raises(NotStarted, match=f"Prefect at {url} does not answer .*; start it, then run the same again"):
        wait_answers(url, limit=0)

    def late() -> None:
        time.sleep(0.7)
        with http.server.HTTPServer(("127.0.0.1", port), http.server.BaseHTTPRequestHandler) as server:
            server.handle_request()

    thread = threading.Thread(target=late)
    thread.start()
    wait_answers(url, limit=20)
    thread.join(5)


def test_what_a_stage_said_is_not_hidden_by_what_dvc_says_of_it():
    dvc = "ERROR: failed to reproduce 'mesh': failed to run: python -m flows.mesh, exited with 1"
    full = "mesh: No space left on device; make room and run the same command again"
    assert last_words(["Running stage 'mesh':", f"physique: {full}", dvc]) == full
    crash = "OSError: database is locked"
    assert last_words(["Traceback (most recent call last):", crash, dvc]) == crash
    assert last_words([dvc]) == dvc and last_words([]) == ""


def test_what_a_killed_writer_left_is_cleared_and_what_is_being_written_stays(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in ("a.parquet", f".a.parquet.{ended.pid}.140.tmp", f".b.parquet.{os.getpid()}.140.tmp"):
        (tmp_path / name).write_bytes(b"rows")
    clear_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.parquet", f".b.parquet.{os.getpid()}.140.tmp"}
