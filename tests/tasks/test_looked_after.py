"""What `physique up` looks after, with a part that only sleeps: a terminal that is lost, a state that cannot be written."""

from __future__ import annotations

import os
import pty
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tasks.stack.processes import started_by
from tasks.stack.running import STATE, Running, written
from tests.conftest import ROOT

LOOKS_AFTER = """
import fcntl, os, termios
from flows.cli_up import _say
from tasks.stack import watch
from tasks.stack.parts import Part, Plan
from tasks.stack.running import FOLDER, MARK

if os.isatty(0):
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal that may be lost
watch.LOOK_S = watch.TICK_S = 0.1
FOLDER.mkdir()
token = os.urandom(4).hex()
part = Part("sleeper", ("sh", "-c", "trap 'sleep 0.2; touch ended; exit' TERM; sleep 600 & wait"))
plan = Plan([part], {MARK: token}, "http://127.0.0.1:9/api", "", "", {}, [])
watch.Stack(plan, token, _say).run(lambda seconds: _say("all up"))
_say("all stopped")
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch) -> Iterator[Start]:
    """Start it in a folder of its own, with files for stdin, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    begun: list[subprocess.Popen[str]] = []

    def start(**files: int) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-c", LOOKS_AFTER]
        begun.append(subprocess.Popen(words, env=environment, start_new_session=True, text=True, **files))
        until(lambda: (state := written()) is not None and state.ready)
        return begun[0]

    yield start
    for process in begun:
        process.kill()
        process.wait(10)
    for process in left(written()):
        process.kill()


def left(state: Running | None) -> list[psutil.Process]:
    """Processes of its parts that are there."""
    return started_by([begun for led in state.parts.values() for begun in led], state.token) if state else []


def until(what: Callable[[], object], limit: float = 30) -> None:
    end = time.monotonic() + limit
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_lost_terminal_stops_all_and_lets_it_end_in_peace(start: Start, tmp_path):
    ours, its = pty.openpty()
    process = start(stdin=its, stdout=its, stderr=its)
    os.close(its)
    state = written()
    assert state is not None and left(state)
    process.send_signal(signal.SIGHUP)  # from the shell; with the terminal comes another one
    time.sleep(0.02)
    os.close(ours)
    process.wait(20)
    assert not left(state) and not STATE.exists()
    assert (tmp_path / "ended").exists(), "a second hang-up is no impatience"


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_FSIZE"), reason="no limits of other processes here")
def test_a_state_that_cannot_be_written_ends_nothing_and_is_written_later(start: Start):
    process = start(stdout=subprocess.PIPE)
    assert process.stdout is not None
    before = written()
    assert before is not None
    limits = psutil.Process(process.pid)
    limits.rlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))  # every write to a file fails, as on a full disk
    os.kill(before.parts["sleeper"][0].pid, signal.SIGKILL)
    said = iter(process.stdout.readline, "")
    assert any("up again" in line for line in said)
    assert written() == before and process.poll() is None
    limits.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    until(lambda: len(written().parts["sleeper"]) == 2)
    state = written()
    process.terminate()
    assert process.wait(20) == 0 and not left(state)
