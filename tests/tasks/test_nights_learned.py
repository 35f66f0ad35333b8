"""Nights are a fold: one run or several, the same bank; other first bank or settings, all anew; figures per night."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from personal_cases import Cohort
from test_personal_stages import CONFIG, fitting_photos, read

from tasks.feedback import undeleted
from tasks.lineage import plan
from tasks.nightly import learn_nights
from tasks.personal import finetune
from tasks.recovery import comments, night_by_night
from tasks.schemas import FEEDBACK
from tasks.tables import read_table, write_json, write_table

NIGHTS = 3
DRIFTED = range(0, 30, 3)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return Cohort()


@pytest.fixture(scope="module")
def first(cohort):
    return finetune(*read(cohort), CONFIG)


@pytest.fixture(scope="module")
def snapshots(cohort, tmp_path_factory) -> list[Path]:
    """Three nights of 30 users; every third has another taste. The last night has ratings of test photos too."""
    folder = tmp_path_factory.mktemp("nights")
    fit = fitting_photos(cohort)
    test = [i for i in range(len(cohort.ids)) if i not in set(fit)]
    mixes = {u: np.roll(cohort.mix[u], 1) for u in DRIFTED}
    paths = []
    for k in range(NIGHTS):
        rated = {u: fit[u + 12 * k : u + 12 * k + 12] + test * (k == NIGHTS - 1) for u in range(30)}
        rows = cohort.feedback(rated, mixes).to_pylist()
        for row in rows:
            row |= {"event_id": f"n{k}-{row['event_id']}", **dict.fromkeys(("suggested", "model_version", "text"))}
        paths.append(write_table(pa.Table.from_pylist(rows, schema=FEEDBACK), folder / f"{k + 1:04d}.parquet"))
    write_table(cohort.labels, folder / "labels" / "labels.parquet")
    return paths


def learned(cohort, bank, first, nights: list[Path], earlier: list[Path]):
    labels = (nights + earlier)[0].parent / "labels" / "labels.parquet"
    config = CONFIG | {"nights": list(map(str, nights)), "earlier": list(map(str, earlier)), "labels": str(labels)}
    return learn_nights(bank, first, read(cohort)[0], config, {})


def test_nights_in_one_run_or_in_three_give_the_same_bank(cohort, first, snapshots):
    whole = learned(cohort, first, first, snapshots, [])
    bank = first
    for k in range(NIGHTS):
        bank = learned(cohort, bank, first, snapshots[k : k + 1], snapshots[:k]).bank
    for name, value in whole.bank.arrays().items():
        assert torch.equal(value, bank.arrays()[name]), name
    assert whole.bank.round == bank.round == NIGHTS and whole.changed == NIGHTS
    assert list(whole.served) == ["0001", "0002", "0003"]
    users, weights = whole.served["0003"]
    assert torch.equal(weights, whole.bank.part(users).weights.to(torch.float32))


def test_a_night_is_measured_before_it_is_learned(cohort, first, snapshots):
    rows = [row for row in learned(cohort, first, first, snapshots, []).rows if row["dimension"] == "mean"]
    assert [row["night"] for row in rows] == ["0001", "0002", "0003"]
    assert all(0 < row["mae"] < 3 and row["srcc_lo"] < row["srcc"] < row["srcc_hi"] for row in rows)
    assert all(row["users"] == 30 and 0 <= row["promoted"] <= 1 for row in rows)
    # the drifted third of the users is learned, so new ratings are foretold better than on the first night
    assert rows[2]["srcc"] > rows[0]["srcc"] + 0.03
    assert rows[0]["backward"] == pytest.approx(-rows[0]["forgetting"])  # after one night they are the same thing


def test_the_lineage_says_what_is_left_to_do(first, snapshots, tmp_path):
    there, start, nights = tmp_path / "continual", tmp_path / "finetune", tmp_path / "nights"
    first.save(start / "bank")
    nights.mkdir()
    for path in snapshots[:2]:
        (nights / path.name).write_bytes(path.read_bytes())
    todo = plan(there, start, nights, {"confidence": 0.7})
    assert (todo.start, todo.goes_on, [p.stem for p in todo.nights], todo.earlier) == (start, False, ["0001", "0002"], [])
    first.save(there / "bank")
    write_json({"lineage": todo.lineage}, there / "continual.json")
    todo = plan(there, start, nights, {"confidence": 0.7})
    assert (todo.start, todo.goes_on, todo.nights) == (there, True, [])
    (nights / snapshots[2].name).write_bytes(snapshots[2].read_bytes())
    todo = plan(there, start, nights, {"confidence": 0.7})
    assert ([p.stem for p in todo.nights], [p.stem for p in todo.earlier]) == (["0003"], ["0001", "0002"])
    assert plan(there, start, nights, {"confidence": 0.8}).start == start  # another rule
    (nights / "0001.parquet").write_bytes(snapshots[1].read_bytes())
    assert [p.stem for p in plan(there, start, nights, {"confidence": 0.7}).nights] == ["0001", "0002", "0003"]
    (nights / "0001.parquet").write_bytes(snapshots[0].read_bytes())
    assert plan(there, start, nights, {"confidence": 0.7}).goes_on
    first.without_users(first.users[:1]).save(start / "bank")
    assert plan(there, start, nights, {"confidence": 0.7}).start == start


def test_drifted_users_recover_night_after_night_and_the_others_do_not_forget(cohort, first, snapshots, tmp_path):
    done = learned(cohort, first, first, snapshots, [])
    done.save_served(tmp_path)
    drifted = {user: u in DRIFTED for u, user in enumerate(cohort.users[:30])}
    feedback = pa.concat_tables(map(read_table, snapshots))
    rows = night_by_night(tmp_path, first, read(cohort)[0], feedback, cohort.labels, drifted, 0)
    change = {(row["night"], row["group"], row["ratings"]): row["change"] for row in rows}
    found = {(row["night"], row["group"], row["ratings"]): row["srcc"][0] for row in rows}
    assert change["0003", "taste drifted", "new"][1] > 0
    assert found["0003", "taste drifted", "new"] > found["0001", "taste drifted", "new"]
    assert change["0003", "taste drifted", "old"][0] < 0  # the old taste is let go
    assert change["0003", "taste the same", "old"][1] > -0.02
    assert {row["users"] for row in rows} == {30, 20, 10} and change["before", "everyone", "new"] is None


def tonight(folder: Path, rows: list[dict]) -> Path:
    at = datetime(2027, 1, 1, tzinfo=UTC)
    rows = [dict.fromkeys(FEEDBACK.names) | {"event_id": f"x{k}", "at": at} | row for k, row in enumerate(rows)]
    return write_table(pa.Table.from_pylist(rows, schema=FEEDBACK), folder / "0009.parquet")


def test_comparisons_alone_teach_and_thumbs_on_shown_scores_are_counted(cohort, first, snapshots, tmp_path):
    fit = fitting_photos(cohort)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/labels.parquet").write_bytes((snapshots[0].parent / "labels/labels.parquet").read_bytes())
    about = {"user_id": "user-001", "kind": "comparison", "dimension": "posture", "value": 1.0}
    pairs = [about | {"photo_id": cohort.ids[fit[k]], "text": cohort.ids[fit[k + 1]]} for k in range(0, 40, 2)]
    done = learned(cohort, first, first, [tonight(tmp_path, pairs)], [])
    before, after = (bank.part(["user-001"]) for bank in (first, done.bank))
    assert (done.choices, done.changed) == (20, 1)
    kept = done.last.forget[0] * before.stats.n[0]
    assert after.stats.n[0, 2] > kept[2] + 3 and after.stats.n[0, 0] == kept[0]
    thumb = {"user_id": "user-001", "kind": "thumb", "dimension": "posture", "suggested": 5.0}
    shown = [thumb | {"value": value, "photo_id": cohort.ids[fit[k]]} for k, value in enumerate((1.0, -1.0, 1.0))]
    done = learned(cohort, first, first, [tonight(tmp_path, shown)], [])
    assert done.changed == 0 and done.bank is first
    assert done.aside == {"thumb on a score that was shown: counted, teaches nothing": 3}


def test_the_lead_reads_what_was_not_deleted(tmp_path):
    words = [{"user_id": user, "kind": "comment", "text": text} for user, text in (("u", "too strict"), ("v", "lovely"))]
    path = tonight(tmp_path, [*words, {"user_id": "u", "kind": "delete", "text": "x0"}])
    assert [row["text"] for row in comments(undeleted(read_table(path)), {})] == ["lovely"]
