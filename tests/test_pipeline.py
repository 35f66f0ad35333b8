"""The whole DAG on a small cohort, and what happens to it when things change."""

from __future__ import annotations

import json
import re

import pytest

from tests.conftest import Checkout, small_params

pytestmark = pytest.mark.timeout(900)
STAGES = ["body", "mannequins", "meshnet", "cohort", "mesh", "embed", "pretrain", "finetune", "continual", "evaluate"]


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


def test_one_command_runs_every_stage_and_ends_with_a_summary(checkout: Checkout):
    output = checkout.first_run.stdout
    assert sorted(ran(output)) == sorted(STAGES)
    assert "report/index.html" in output
    assert "simulated" in output


def test_report_and_metrics_are_there(checkout: Checkout):
    page = (checkout.folder / "report/index.html").read_text()
    assert "simulated" in page
    assert "NaN" not in re.sub(r"data:image/[^\"')]+", "", page)  # pictures may spell anything
    metrics = json.loads((checkout.folder / "report/metrics.json").read_text())
    assert metrics
    assert all(value == value for value in metrics.values())
    shown = checkout.run("dvc", "metrics", "show", "--json").stdout
    assert "report/metrics.json" in shown


def test_every_photo_is_accounted_for(checkout: Checkout):
    from tasks.tables import read_json, read_shards

    counts = read_json(checkout.folder / "data/cohort/cohort.json")["counts"]
    mesh = read_shards(checkout.folder / "data/mesh", ["photo_id", "status"])
    assert counts["files"] == counts["photos"] + counts["duplicates"] + counts["files_set_aside"] == 90
    assert len(set(mesh["photo_id"].to_pylist())) == counts["photos"]


def test_a_second_run_runs_nothing(checkout: Checkout):
    again = checkout.run("dvc", "repro").stdout
    assert ran(again) == []
    assert "up to date" in again


def test_a_setting_of_finetune_makes_nothing_before_it_stale(checkout: Checkout):
    small_params(checkout.folder, finetune={"min_ratings": 6})
    try:
        stale = ran(checkout.run("dvc", "repro", "--dry").stdout)
    finally:
        small_params(checkout.folder)
    assert stale[0] == "finetune"
    assert not set(stale) & set(STAGES[:7])


def test_a_bad_setting_is_one_line_and_changes_nothing(checkout: Checkout):
    small_params(checkout.folder, mesh={"actors": 0})
    try:
        done = checkout.run("flows.mesh", ok=False)
    finally:
        small_params(checkout.folder)
    assert done.returncode == 1
    assert "params.yaml: mesh.actors is 0; it must be a whole number, 1 or more" in done.stderr
    assert "Traceback" not in done.stderr


def test_prefect_walks_the_same_graph(checkout: Checkout):
    shown = checkout.run("flows.cli", "run").stdout
    assert shown.count("Cached") == len(STAGES)
