"""Rounds of pseudo-labels and revisions: nobody's labels are lost, each photo is drafted once, effort is what it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.views import FrameInputs
from tasks.labeller import PICKS, RULES, Rounds, effort_rows, fall, label_table, review_rounds
from tasks.params import Pretrain, load_params
from tasks.splits import FIT, TEST, VAL, split_of

EXPERTS = ("expert-a", "expert-b")


@pytest.fixture(scope="module")
def inputs() -> FrameInputs:
    draw = torch.Generator().manual_seed(0)
    ids = [f"{k * 2**26:08x}" + "0" * 56 for k in range(64)]
    ids = [photo for photo in ids if split_of(photo) != TEST]
    return FrameInputs(
        ids=ids,
        vector=torch.randn(len(ids), 2, 4, generator=draw),
        vertices=torch.zeros(len(ids), 10475, 3).half() + torch.randn(len(ids), 1, 3, generator=draw).half(),
        points=torch.rand(len(ids), 15, 2, generator=draw) * 200,
        visible=torch.ones(len(ids), dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def own(inputs):
    """LABELS: what the two experts think; the second rated no posture and left out a photo."""
    import pyarrow as pa

    first = 5 + 1.5 * inputs.vector[:, 0, :3].numpy().astype(float)
    second = 5 - 1.5 * inputs.vector[:, 0, :3].numpy().astype(float)
    second[:, 2] = np.nan
    second[0] = np.nan
    tables = [label_table(inputs.ids, who, np.clip(s, 0, 10), "rated", 0) for who, s in zip(EXPERTS, (first, second))]
    return pa.concat_tables(tables)


def settings(**changes) -> Pretrain:
    usual = {"rounds_seed_share": 0.2, "just_noticeable": 0.7, "pick": "random"}
    return load_params().changed(pretrain=usual | changes).pretrain


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("pick", PICKS)
def test_every_label_is_there_once_and_every_photo_is_drafted_once(inputs, own, rule, pick):
    found = review_rounds(own, inputs, settings(rounds=3, rule=rule, pick=pick), seed=5)
    pairs = list(zip(found.labels["photo_id"].to_pylist(), found.labels["rater_id"].to_pylist()))
    assert sorted(pairs) == sorted(zip(own["photo_id"].to_pylist(), own["rater_id"].to_pylist()))
    assert found.pseudo["photo_id"].to_pylist() == list(dict.fromkeys(found.pseudo["photo_id"].to_pylist()))
    assert sorted(set(found.pseudo["round"].to_pylist())) == [1, 2, 3]
    drafted = set(found.pseudo["photo_id"].to_pylist())
    assert all(split_of(photo) == FIT for photo in drafted)
    for row in found.labels.to_pylist():
        assert row["origin"] == ("revised" if row["photo_id"] in drafted else "rated"), row
        assert row["rater_id"] == EXPERTS[0] or row["posture"] is None  # not rated stays not rated
    assert {row["dimension"] for row in found.effort} == {"appearance", "health", "posture"}
    assert found.fall["photos"] == sum(split_of(photo) == VAL for photo in inputs.ids)


def test_without_noticing_nothing_is_revised_and_no_effort_is_made(inputs, own):
    found = review_rounds(own, inputs, settings(rounds=2, rule="none", just_noticeable=1e9), seed=5)
    assert all(row["change"][0] == 0 and row["changed"] == 0 for row in found.effort)
    assert found.fall["fall"] == [0, 0, 0]


def test_a_rule_that_never_learns_never_falls(inputs, own):
    found = review_rounds(own, inputs, settings(rounds=3, rule="none"), seed=5)
    assert found.fall["fall"] == [0, 0, 0] and found.fall["before"] == found.fall["after"]


def test_the_uncertain_come_first_and_random_does_not_care():
    x = np.zeros((12, 3))
    x[:6, 0] = np.arange(1, 7)  # photos 0 to 5 lie ever further out, along what labels have taught
    x[6:, 1] = np.arange(1, 7)  # photos 6 to 11 along what none has
    known = np.full((1, 12, 3), np.nan)
    known[0, :6] = x[:6, :1] + 3 + np.array([[0.1, -0.1, 0.1, -0.1, 0.1, -0.1]]).T
    work = Rounds(x, np.zeros((12, 3)), "supervised", "uncertainty", 0, known)
    assert work.next(np.arange(6, 12), 2, 1).tolist() == [11, 10]
    work.pick = "random"
    assert sorted(work.next(np.arange(6, 12), 6, 1).tolist()) == list(range(6, 12))
    assert work.next(np.arange(6, 12), 6, 1).tolist() != work.next(np.arange(6, 12), 6, 2).tolist()


def test_effort_is_the_mean_change_and_its_share():
    drafts = np.full((4, 3), 5.0)
    revised = np.full((2, 4, 3), 5.0)
    revised[0, 0] = 7.0
    revised[1, 1, 2] = np.nan
    rows = {row["dimension"]: row for row in effort_rows(drafts, revised, None, None, 3)}
    assert rows["appearance"]["change"][0] == pytest.approx(2 / 8) and rows["appearance"]["changed"] == 1 / 8
    assert rows["posture"]["labels"] == 7 and rows["posture"]["change"][0] == pytest.approx(2 / 7)
    assert rows["appearance"]["change"][1] <= 2 / 8 <= rows["appearance"]["change"][2]
    assert fall(np.ones((2, 0, 3)), np.ones((2, 0, 3))) == {}
    less = fall(np.full((2, 4, 3), 1.5), np.full((2, 4, 3), 1.0))
    assert less == {"before": [1.5] * 3, "after": [1.0] * 3, "fall": [0.5] * 3, "photos": 4}
