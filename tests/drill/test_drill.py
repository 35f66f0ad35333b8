"""The whole drill: nothing is lost, whatever breaks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]


def test_nothing_is_lost_whatever_breaks(tmp_path):
    words = ["-m", "tests.drill", "--folder", str(tmp_path), "--page", str(tmp_path / "reliability.md")]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    assert "| nothing (" in (tmp_path / "reliability.md").read_text()
