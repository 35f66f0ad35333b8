"""Labels that real experts reviewed: the latest counts, they replace what was there, their effort is told."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from tasks.experts import base_drafts
from tasks.labeller import MIDDLE, label_table, overlaid, real_effort
from tasks.params import load_params
from tasks.reviewed import latest, read_reviewed, write_reviewed
from tasks.schemas import LABELS
from tasks.tables import read_shards
from tasks.train_experts import GENERIC, JOINT, jobs

PHOTOS = [f"{k:064x}" for k in range(4)]


def rows(*given: tuple[str, int, float, int | None]) -> pa.Table:
    """LABELS of (rater, photo number, appearance, day)."""
    made = [
        {
            "photo_id": PHOTOS[photo], "rater_id": rater, "appearance": score, "health": None, "posture": None,
            "origin": "revised", "round": 1, "at": None if day is None else datetime(2026, 1, day, tzinfo=UTC),
        }
        for rater, photo, score, day in given
    ]  # fmt: skip
    return pa.Table.from_pylist(made, schema=LABELS)


def test_the_latest_label_of_a_rater_and_photo_counts_whichever_way_it_came():
    found = latest(rows(("b", 1, 5.0, None), ("a", 0, 1.0, 3), ("a", 0, 2.0, 9), ("a", 0, 3.0, 4), ("b", 1, 6.0, None)))
    assert found["appearance"].to_pylist() == [2.0, 6.0]
    dated = latest(rows(("a", 0, 1.0, 3), ("a", 0, 2.0, None), ("a", 2, 4.0, None), ("a", 2, 5.0, 1)))
    assert dated["appearance"].to_pylist() == [1.0, 5.0]


def test_without_a_store_the_snapshot_is_empty_and_no_store_is_made(tmp_path, monkeypatch):
    monkeypatch.delenv("PHYSIQUE_REVIEWS", raising=False)
    write_reviewed(tmp_path / "reviews", tmp_path / "none.db", tmp_path / "imported")
    labels, drafts, surveys = read_reviewed(tmp_path / "reviews")
    assert len(labels) == len(drafts) == len(surveys) == 0 and labels.schema.equals(LABELS)
    assert [path.name for path in tmp_path.iterdir()] == ["reviews"]


def test_what_was_said_replaces_what_was_there_of_the_same_rater_and_photo_alone():
    there = rows(("a", 0, 1.0, None), ("a", 1, 2.0, None), ("b", 0, 3.0, None))
    found = overlaid(there, rows(("a", 0, 9.0, 1), ("c", 3, 8.0, 1)))
    pairs = zip(found["rater_id"].to_pylist(), found["appearance"].to_pylist())
    assert sorted(pairs) == [("a", 2), ("a", 9), ("b", 3), ("c", 8)]
    assert overlaid(there, LABELS.empty_table()).equals(there)


def test_effort_of_real_rounds_is_measured_against_what_was_shown():
    drafts = label_table(PHOTOS[:2], "labeller", np.full((2, 3), 5.0), "pseudo", 1)
    said = rows(("a", 0, 7.0, 1), ("a", 1, 5.0, 1), ("b", 0, 4.0, 1))
    (row,) = real_effort(said, drafts, {photo: k for k, photo in enumerate(PHOTOS)})
    assert (row["dimension"], row["round"], row["labels"]) == ("appearance", 1, 3)
    assert row["change"][0] == pytest.approx(1.0) and row["changed"] == pytest.approx(2 / 3)
    assert real_effort(LABELS.empty_table(), drafts, {}) == []


def test_a_labeller_made_elsewhere_is_the_base_and_its_mean_where_it_is_silent(tmp_path):
    pytest.importorskip("tasks.drafts")
    from tests.tasks.cohort_cases import built, source

    _, cohort = built(source(tmp_path / "in", "rater_id,photo,appearance\na,1.png,5\na,2.png,6\na,3.png,7\n"))
    ids = read_shards(cohort / "photos", ["photo_id"])["photo_id"].to_pylist()
    lines = ["photo,appearance,health,posture", f"{ids[0]},2,3,", f"{ids[1]},4,,", "nobody.jpg,1,1,1"]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    settings = load_params().changed(pretrain={"labeller": str(tmp_path / "labels.csv")}).pretrain
    rows = {photo: k for k, photo in enumerate(ids)}
    base = base_drafts(cohort / "photos", rows, settings, tmp_path)
    assert base.tolist() == [[2, 3, MIDDLE], [4, 3, MIDDLE], [3, 3, MIDDLE]]
    assert (tmp_path / "quarantine.parquet").exists()
    assert (base_drafts(cohort / "photos", rows, load_params().pretrain, tmp_path) == MIDDLE).all()


def test_a_full_expert_is_a_job_of_its_own_and_waits_for_the_joint_model():
    config = {"size": "full", "units": [GENERIC, JOINT, "a", "b"], "epochs": 3}
    assert [[job["units"] for job in group] for group in jobs(config)] == [[[GENERIC], [JOINT]], [["a"], ["b"]]]
    assert jobs(config | {"size": "tiny"}) == [[config | {"size": "tiny"}]]
