"""The whole DAG on a small cohort, and what happens to it when things change."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import Checkout, small_params

pytestmark = pytest.mark.timeout(900)
STAGES = [
    "source", "body", "mannequins", "meshnet", "listing", "cohort", "mesh", "embed", "reviews", "nights", "pretrain",
    "finetune", "continual", "evaluate",
]  # fmt: skip
LOOKS = ["listing", "nights", "reviews"]
"""Stages that look at something DVC cannot see, in every run."""


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


def test_the_study_runs_on_the_cohort_that_is_built(checkout: Checkout):
    from tasks.tables import read_table

    said = checkout.run("flows.cli", "study", "--counts", "0,5,1000", "--repeats", "1").stdout
    assert "PAA+, nights" in said and "simulated" in said
    folder = checkout.folder / "report/study"
    table = read_table(folder / "study.parquet")
    assert set(table["count"].to_pylist()) == {0, 5} and "fine-tuned, tuned" in table["arm"].to_pylist()
    text = (folder / "study.md").read_text()
    assert "(simulated raters)" in text and "Nobody has 1000 ratings to give." in text
    assert (folder / "study.png").read_bytes().startswith(b"\x89PNG")
    bad = checkout.run("flows.cli", "study", "--counts", "5,0", ok=False)
    assert bad.returncode == 1 and bad.stderr.strip().startswith("physique: --counts: 5,0; right are numbers of ratings")


def test_every_photo_is_accounted_for(checkout: Checkout):
    from tasks.tables import read_json, read_shards

    counts = read_json(checkout.folder / "data/cohort/cohort.json")["counts"]
    mesh = read_shards(checkout.folder / "data/mesh", ["photo_id", "status"])
    assert counts["files"] == counts["photos"] + counts["duplicates"] + counts["files_set_aside"] == 90
    assert len(set(mesh["photo_id"].to_pylist())) == counts["photos"]


def test_a_second_run_only_looks_at_the_folder(checkout: Checkout):
    again = checkout.run("dvc", "repro").stdout
    assert sorted(ran(again)) == LOOKS
    assert again.count("didn't change, skipping") == len(STAGES) - len(LOOKS)


def test_a_folder_that_dvc_itself_would_stop_at(checkout: Checkout, tmp_path: Path):
    from tasks.tables import read_table

    photos = tmp_path / "people" / "photos"
    photos.mkdir(parents=True)
    for path in sorted((checkout.folder / "data/mannequins/photos").glob("*.jpg"))[:6]:
        shutil.copy(path, photos)
    rows = "".join(f"ann,{path.name},5,6,7\n" for path in photos.iterdir())
    (photos.parent / "ratings.csv").write_text("rater_id,photo,appearance,health,posture\n" + rows)
    (photos / "circle.jpg").symlink_to("circle.jpg")
    (photos / "nowhere.jpg").symlink_to("gone.jpg")
    os.mkfifo(photos / "pipe.jpg")
    small_params(checkout.folder, data={"source": "folder", "path": str(photos.parent)})
    try:
        assert ran(checkout.run("dvc", "repro", "cohort").stdout) == ["mannequins", "listing", "cohort"]
        aside = read_table(checkout.folder / "data/cohort/quarantine.parquet")
        assert {Path(file).name for file in aside["file"].to_pylist()} == {"circle.jpg", "nowhere.jpg", "pipe.jpg"}
    finally:
        small_params(checkout.folder)
        back = checkout.run("dvc", "repro").stdout
    assert sorted(ran(back)) == LOOKS  # all else comes from DVC's cache
    assert len(list((checkout.folder / "data/mannequins/photos").iterdir())) == 90


def test_a_setting_of_finetune_makes_nothing_before_it_stale(checkout: Checkout):
    small_params(checkout.folder, finetune={"min_ratings": 6})
    try:
        stale = ran(checkout.run("dvc", "repro", "--dry").stdout)
    finally:
        small_params(checkout.folder)
    assert next(stage for stage in stale if stage not in LOOKS) == "finetune"
    assert set(stale) & set(STAGES[:11]) == set(LOOKS)


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
    assert shown.count("Cached") == len(STAGES) - len(LOOKS)  # the folder is looked at every time
