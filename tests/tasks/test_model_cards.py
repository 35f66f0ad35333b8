"""Model cards of experts: figures that are what they say, limits that are owned up to."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from model.metrics import srcc
from tasks.report.card import card, gain_interval, measured, photo_interval, pictures

DIMENSIONS = ["appearance", "health", "posture"]
CURVE = [{"epoch": k, "loss": 1.0, "val": 2.0 - 0.1 * k if k < 4 else 1.9} for k in range(1, 6)]


@pytest.fixture(scope="module")
def scores():
    """(N, 3) of a good model, of one that knows nothing, and the expert's own; nobody scored posture."""
    rng = np.random.default_rng(0)
    rated = rng.uniform(0, 10, (150, 3))
    rated[:, 2] = np.nan
    return np.clip(rated + rng.normal(size=rated.shape), 0, 10), rng.uniform(0, 10, rated.shape), rated


def test_an_interval_holds_its_value_and_narrows_with_photos(scores):
    said, _, rated = scores
    value, lo, hi = photo_interval(srcc, said[:, 0], rated[:, 0])
    assert lo < value < hi and value == pytest.approx(float(srcc(said[:, 0], rated[:, 0])[0]))
    few = photo_interval(srcc, said[:20, 0], rated[:20, 0])
    assert few[2] - few[1] > 1.5 * (hi - lo)
    assert np.isnan(photo_interval(srcc, said[:2, 0], rated[:2, 0])).all()


def test_a_gain_is_paired(scores):
    said, nothing, rated = scores
    value, lo, hi = gain_interval(said[:, 0], nothing[:, 0], rated[:, 0])
    single = srcc(said[:, 0], rated[:, 0])[0] - srcc(nothing[:, 0], rated[:, 0])[0]
    assert value == pytest.approx(float(single)) and lo > 0.5
    assert gain_interval(said[:, 0], said[:, 0], rated[:, 0]) == (0, 0, 0)


def test_a_card_says_what_is_known_and_what_is_not(scores):
    said, nothing, rated = scores
    about = {"survey": {"likes": "strong|<b>"}, "curve": CURVE, "dimensions": DIMENSIONS}
    rows = measured(said, nothing, rated, DIMENSIONS)
    page = card("expert-01", about, rows, {"rated": 40, "revised": 300}, True, "mannequins")
    assert "| revised | 300 |" in page and "simulated" in page and "anchoring" in page
    assert "strong\\|&lt;b>" in page  # a cell stays a cell, and no markup comes in
    assert "kept is what pass 3 left" in page
    assert "posture: too few scores" in page and "appearance: not clearly" not in page
    worse = card("e", about, measured(nothing, said, rated, DIMENSIONS), {"rated": 340}, False, "folder")
    assert "health: not clearly better than chance" in worse and "health: not clearly better than the generic" in worse
    assert "simulated" not in worse and "anchoring" not in worse


def test_pictures_are_drawn_whatever_is_missing(scores):
    said, _, rated = scores
    about = {"curve": [{"epoch": 1, "loss": 1.0, "val": None}]}
    picture = Image.open(io.BytesIO(pictures(about, said, rated, DIMENSIONS)))
    assert picture.width > 800 and picture.height > 500
