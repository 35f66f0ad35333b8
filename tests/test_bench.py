"""The benchmark of the full network runs, and says what it should."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_benchmark_of_the_network_runs(tmp_path):
    """On a network cut short, with one thread: several wait for each other where tests run side by side."""
    out = tmp_path / "frame.json"
    command = [sys.executable, "bench/physique_frame.py", "--quick", "--device", "cpu", "--threads", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    for title in ("### Forward pass", "### Mesh stream", "### Training step", "### Ratios"):
        assert title in done.stdout
    found = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["settings"]["chip"] and found["settings"]["torch"]
    for group in ("forward", "mesh", "training"):
        assert found[group]
        for row in found[group]:
            assert row["runs"] == 0 or (row["best_s"] > 0 and math.isfinite(row["photos_per_s"])), row
    assert all(row["runs"] for row in found["mesh"] + found["training"])
    apart = found["differences"]
    assert apart["mesh, literal"]["max"] < 1e-5
    assert apart["mesh, expanded"]["max"] < 1e-3
    assert apart["scores, straightforward"]["max"] < 1e-4
    assert apart["mesh, shared"]["max"] > 1e-3  # another network: were it equal, the searches were not told apart


@pytest.mark.slow
def test_the_benchmark_of_a_night_runs_and_its_calls_do_not_grow_with_users(tmp_path):
    out = tmp_path / "nightly.json"
    command = [sys.executable, "bench/nightly.py", "--users", "20", "600", "--obvious", "2", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    few, many = found["nights"]
    assert (few["users"], many["users"]) == (few["updated"], many["updated"]) == (20, 600)
    assert few["calls"] == many["calls"] and found["obvious"]["calls"]["registry"] > many["calls"]["registry"]
    assert "times** what a user costs" in done.stdout
