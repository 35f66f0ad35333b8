"""The labeller as a Gaussian policy: what it learns from labels and from revisions, and how unsure it says it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.labeller import LEAST, RANDOM_FEATURES, UNTAUGHT, Labeller, describe, disagreement, preference, supervised
from model.views import FrameInputs

PHOTOS, WIDTH = 240, 6


@pytest.fixture(scope="module")
def world():
    """Features (N, F), three opinions (N, 3) that are linear in them but for noise of half a point, and base."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(PHOTOS, WIDTH))
    truth = 5 + 0.5 * x @ rng.normal(size=(WIDTH, 3))
    return x, np.clip(truth + 0.5 * rng.normal(size=truth.shape), 0, 10), np.zeros((PHOTOS, 3))


def off(taught: Labeller, world, rows=slice(160, None)) -> float:
    x, labels, base = world
    return float(np.abs(taught.draft(x[rows], base[rows]) - labels[rows]).mean())


def some(labels: np.ndarray, count: int) -> np.ndarray:
    known = np.full_like(labels, np.nan)
    known[:count] = labels[:count]
    return known


def test_more_labels_make_better_drafts_and_less_is_unknown(world):
    x, labels, base = world
    few, many = (supervised(x, some(labels, count), base) for count in (12, 160))
    flat = np.abs(labels[160:] - labels[:160].mean(0)).mean()
    assert off(many, world) < off(few, world) < flat
    assert (many.unknown(x[160:]) < few.unknown(x[160:])).all()
    assert many.noise == pytest.approx(0.5, abs=0.12)  # what the labels were made with
    inside = np.abs(many.draft(x[160:], base[160:]) - labels[160:]) < many.spread(x[160:])
    assert 0.55 < inside.mean() < 0.8  # one standard deviation of a Gaussian: 0.68


def test_a_base_made_elsewhere_is_what_is_corrected(world):
    x, labels, _ = world
    base = np.clip(labels + 1.5, 0, 10)  # right but for an offset
    taught = supervised(x, some(labels, 20), base)
    assert np.abs(taught.draft(x[160:], base[160:]) - labels[160:]).mean() < 0.2


def test_a_dimension_with_hardly_a_label_is_drafted_as_its_mean(world):
    x, labels, base = world
    known = some(labels, 50)
    known[LEAST - 1 :, 1] = np.nan
    known[:, 2] = np.nan
    taught = supervised(x, known, base)
    drafts = taught.draft(x, base)
    assert np.allclose(drafts[:, 1], np.nanmean(known[:, 1]), atol=1e-9) and np.allclose(drafts[:, 2], 0)
    assert taught.noise[1:] == pytest.approx(UNTAUGHT)


def test_preferred_revisions_pull_the_policy_and_the_tie_holds_it(world):
    x, labels, base = world
    before = supervised(x, some(labels, 12), base)
    at = slice(12, 160)
    drafts = before.draft(x[at], base[at])
    revised = labels[None, at] + np.zeros((3, 1, 1))
    after = preference(before, x[at], drafts, revised)
    assert off(after, world) < off(before, world) - 0.05
    same = preference(before, x[at], drafts, np.broadcast_to(drafts, revised.shape))
    assert np.allclose(same.draft(x, base), before.draft(x, base), atol=1e-6)  # nothing was revised: nothing is learned
    none = preference(before, x[at], drafts, np.full_like(revised, np.nan))
    assert np.allclose(none.draft(x, base), before.draft(x, base), atol=1e-6)


def test_experts_who_differ_in_one_direction_disagree_most_along_it():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(120, WIDTH))
    labels = np.stack([5 + sign * x[:, :1] + np.zeros((1, 3)) for sign in (1, -1)])
    wanted = np.stack([3 * np.eye(WIDTH)[0], 3 * np.eye(WIDTH)[1]])
    along, across = disagreement(x, labels, np.zeros((120, 3)), wanted, np.zeros((2, 3)))
    assert along > 2 and across < 0.3
    assert (disagreement(x, labels[:1], np.zeros((120, 3)), wanted, np.zeros((2, 3))) == 0).all()  # one cannot disagree


def test_photos_with_and_without_a_body_are_described():
    draw = torch.Generator().manual_seed(0)
    inputs = FrameInputs(
        ids=[f"{k:064x}" for k in range(30)],
        vector=torch.randn(30, 2, 8, generator=draw),
        vertices=torch.randn(30, 10475, 3, generator=draw).half(),
        points=torch.rand(30, 15, 2, generator=draw) * 200,
        visible=torch.arange(30) % 3 > 0,
    )
    x = describe(inputs)
    assert x.shape[0] == 30 and np.isfinite(x).all()
    assert np.array_equal(x, describe(inputs)) and not np.array_equal(x, describe(inputs, seed=1))
    nobody = torch.zeros(30, dtype=torch.bool)
    items = FrameInputs(inputs.ids, inputs.vector, inputs.vertices[:, :0], torch.zeros(30, 15, 2), nobody)
    assert describe(items).shape == (30, 8 + RANDOM_FEATURES)
