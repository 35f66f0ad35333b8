"""One at a time in a folder, whatever becomes of the one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.once import LOCKS, alone, in_turn
from tests.conftest import ROOT

HOLDS = """
import signal
from tasks.once import alone
with alone("nightly") as other:
    assert other == ""
    print("held", flush=True)
    signal.pause()
"""


@pytest.fixture
def holding(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    process = subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait(10)


def test_the_second_is_told_who_is_at_work_and_a_killed_one_holds_nothing(holding, capsys):
    with alone("nightly") as other:
        assert f"another nightly (pid {holding.pid}) has been running in this folder since 20" in other
    with alone("pipeline") as other:  # another name is another lock
        assert other == ""
    holding.kill()
    holding.wait(10)
    began = time.monotonic()
    with alone("nightly", wait=30) as other:
        assert other == "" and (LOCKS / "nightly.lock").read_text()
    assert time.monotonic() - began < 20


def test_waiting_ends_when_the_time_is_over_and_says_so(holding, capsys):
    with alone("nightly", wait=1.5) as other:
        assert other
    assert "this one waits for it" in capsys.readouterr().err


def test_what_changes_the_bank_comes_after_the_pipeline_that_builds_on_it(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code = HOLDS.replace('"nightly"', '"pipeline"').replace("signal.pause()", "signal.sigtimedwait([], 3)")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with in_turn("rollback"):
        assert process.wait(1) == 0
        with alone("pipeline") as other:
            assert f"another rollback (pid {os.getpid()}) has been running" in other
    assert "another pipeline" in capsys.readouterr().err


def test_choices_of_the_form_are_the_stages_of_the_graph():
    from typing import get_args

    from ruamel.yaml import YAML

    from tasks.graph import Stage

    assert set(get_args(Stage)) == {"all"} | set(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"])
