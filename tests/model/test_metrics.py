import numpy as np
import pytest
from scipy import stats

from model import metrics


@pytest.fixture
def ratings():
    rng = np.random.default_rng(0)
    rated = np.round(rng.normal(5, 2, (20, 40)), 0)  # ties on purpose
    rated[rng.random(rated.shape) < 0.4] = np.nan
    predicted = np.round(np.nan_to_num(rated, nan=5.0) + rng.normal(0, 2, rated.shape), 1)
    return predicted, rated


@pytest.mark.parametrize("ours,theirs", [(metrics.srcc, stats.spearmanr), (metrics.plcc, stats.pearsonr)])
def test_correlations_equal_scipy_on_rated_photos_only(ratings, ours, theirs):
    predicted, rated = ratings
    expected = []
    for p, r in zip(predicted, rated):
        known = ~np.isnan(r)
        expected.append(theirs(p[known], r[known])[0])
    np.testing.assert_allclose(ours(predicted, rated), expected, atol=1e-12)


def test_one_prediction_serves_all_raters(ratings):
    predicted, rated = ratings
    shared = metrics.srcc(predicted[0], rated)
    assert shared.shape == (20,)
    known = ~np.isnan(rated[3])
    assert shared[3] == pytest.approx(stats.spearmanr(predicted[0][known], rated[3][known])[0])


def test_nan_for_few_or_constant_ratings():
    predicted = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [2, 2, 2, 2], [1.1, 2.1, 3.1, 4.1]])
    rated = np.array([[1.0, 2, np.nan, np.nan], [0.1, 0.1, 0.1, 0.1], [1, 2, 3, 4], [1, 2, 3, np.nan]])
    for metric in (metrics.srcc, metrics.plcc):
        values = metric(predicted, rated)
        assert np.isnan(values[:3]).all()
        assert values[3] == pytest.approx(1.0)
    assert np.isnan(metrics.accuracy(predicted, rated)[0])


def test_accuracy_is_same_side_of_five():
    assert metrics.accuracy(np.array([4.9, 5.0, 9, 1]), np.array([0.0, 5.0, 4, 2]))[0] == pytest.approx(0.75)


def test_interval_covers_the_mean_and_tightens_with_users():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(100):
        mean, lo, hi = metrics.interval(rng.normal(0.6, 0.1, 60), seed=trial, n=400)
        hits += lo <= 0.6 <= hi
    assert 85 <= hits <= 100
    few, many = (metrics.interval(rng.normal(0, 1, users), seed=0) for users in (20, 2000))
    assert many[2] - many[1] < (few[2] - few[1]) / 4


def test_interval_leaves_nan_users_out_and_repeats_itself():
    values = np.array([0.1, np.nan, 0.3])
    assert metrics.interval(values, seed=3) == metrics.interval(values, seed=3)
    assert metrics.interval(values, seed=3)[0] == pytest.approx(0.2)
    assert np.isnan(metrics.interval([], seed=0)).all()
    assert np.isnan(metrics.interval([0.4], seed=0)[1:]).all()


def test_a_crossed_interval_is_wide_where_raters_are_few():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 1)) + 0.1 * rng.normal(size=(6, 200))  # raters differ, photos hardly
    mean, lo, hi = metrics.crossed_interval(values)
    alone = metrics.crossed_interval(values.mean(0, keepdims=True))
    assert mean == pytest.approx(values.mean()) and lo < mean < hi
    assert hi - lo > 10 * (alone[2] - alone[1])  # resampling photos alone would look far too sure
    holes = np.where(rng.random(values.shape) < 0.3, np.nan, values)
    assert metrics.crossed_interval(holes)[0] == pytest.approx(np.nanmean(holes))
    assert np.isnan(metrics.crossed_interval(np.full((2, 2), np.nan))).all()
    one = metrics.crossed_interval(np.array([[3.0]]))
    assert one[0] == 3 and np.isnan(one[1:]).all()
