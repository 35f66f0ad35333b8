"""Nights are a fold: one run or several, the same bank; other first bank or settings, all anew; figures per night."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from personal_cases import Cohort
from test_personal_stages import CONFIG, fitting_photos, read

from tasks.lineage import plan
from tasks.nightly import learn_nights
from tasks.personal import finetune
from tasks.schemas import FEEDBACK
from tasks.tables import write_json, write_table

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
