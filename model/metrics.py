"""SRCC, PLCC and accuracy per rater, with missing ratings masked; intervals by bootstrap over users.

A metric belongs to one rater: it is computed over the photos that this rater rated, never over ratings of
several raters pooled. Fewer than `MIN_RATINGS` ratings, or constant ratings or predictions, give NaN, and NaN
raters are left out of means and intervals.

    .venv/bin/python -m pytest tests/model/test_metrics.py
"""

import numpy as np

from model.scores import THRESHOLD

MIN_RATINGS = 3
METRICS = ("srcc", "plcc", "accuracy")


def _pairs(predicted: np.ndarray, rated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Broadcast both to (raters, photos) float64 with NaN wherever either is NaN."""
    predicted, rated = np.broadcast_arrays(
        np.atleast_2d(np.asarray(predicted, np.float64)), np.atleast_2d(np.asarray(rated, np.float64))
    )
    missing = np.isnan(predicted) | np.isnan(rated)
    return np.where(missing, np.nan, predicted), np.where(missing, np.nan, rated)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks 1.. within each row, ties at their average; NaN stays NaN. (rows, columns) both ways."""
    rows, columns = values.shape
    order = np.argsort(values, axis=1, kind="stable")  # NaN last
    ordered = np.take_along_axis(values, order, 1)
    place = np.broadcast_to(np.arange(columns), values.shape)
    new = np.ones((rows, columns), bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    last = np.ones((rows, columns), bool)
    last[:, :-1] = new[:, 1:]
    first_of_run = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    last_of_run = np.minimum.accumulate(np.where(last, place, columns)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first_of_run + last_of_run) / 2 + 1, 1)
    return np.where(np.isnan(values), np.nan, ranks)


def plcc(predicted: np.ndarray, rated: np.ndarray) -> np.ndarray:
    """Pearson correlation per rater.

    predicted, rated: (raters, photos) or (photos,), NaN = not rated; predictions broadcast over raters.
    Returns (raters,) float64.
    """
    predicted, rated = _pairs(predicted, rated)
    known = ~np.isnan(rated)
    count = known.sum(1)
    centred = []
    for values in (predicted, rated):
        total = np.where(known, values, 0.0).sum(1)
        mean = total / np.maximum(count, 1)
        centred.append(np.where(known, values - mean[:, None], 0.0))
    x, y = centred
    xx, yy = (x * x).sum(1), (y * y).sum(1)
    # A constant row leaves rounding dust behind: relative to its own magnitude it is still constant.
    dust = 1e-20 * np.maximum(count, 1)
    flat = (xx <= dust * (1 + np.nanmax(np.where(known, predicted**2, 0.0), axis=1, initial=0.0))) | (
        yy <= dust * (1 + np.nanmax(np.where(known, rated**2, 0.0), axis=1, initial=0.0))
    )
    bad = flat | (count < MIN_RATINGS)
    return np.where(bad, np.nan, (x * y).sum(1) / np.sqrt(np.where(bad, 1.0, xx * yy)))


def srcc(predicted: np.ndarray, rated: np.ndarray) -> np.ndarray:
    """Spearman rank correlation per rater, ties at their average rank. Shapes as in `plcc`."""
    predicted, rated = _pairs(predicted, rated)
    return plcc(_ranks(predicted), _ranks(rated))


def accuracy(predicted: np.ndarray, rated: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Share of a rater's photos whose prediction lies on the same side of `threshold` as the rating.

    A value equal to the threshold counts as above. Shapes as in `plcc`.
    """
    predicted, rated = _pairs(predicted, rated)
    known = ~np.isnan(rated)
    count = known.sum(1)
    same = ((predicted >= threshold) == (rated >= threshold)) & known
    return np.where(count < MIN_RATINGS, np.nan, same.sum(1) / np.maximum(count, 1))


def per_rater(predicted: np.ndarray, rated: np.ndarray) -> dict[str, np.ndarray]:
    """All of `METRICS` at once: name → (raters,)."""
    return {
        "srcc": srcc(predicted, rated),
        "plcc": plcc(predicted, rated),
        "accuracy": accuracy(predicted, rated),
    }


def interval(values: np.ndarray, seed: int, n: int = 2000, level: float = 0.95) -> tuple[float, float, float]:
    """Mean over users and its percentile-bootstrap interval (mean, lo, hi).

    values: (users,), NaN users left out. For a paired comparison pass the per-user differences.
    One user has no interval: lo and hi are NaN; no user: all three are NaN.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return (np.nan, np.nan, np.nan)
    mean = float(values.mean())
    if len(values) == 1:
        return (mean, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    means = np.empty(n)
    step = max(1, 4_000_000 // len(values))  # bounds the memory of the resamples to about 32 MB
    for start in range(0, n, step):
        stop = min(start + step, n)
        means[start:stop] = values[rng.integers(0, len(values), (stop - start, len(values)))].mean(1)
    tail = (1 - level) / 2
    lo, hi = np.quantile(means, [tail, 1 - tail])
    return (mean, float(lo), float(hi))


def known_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean along an axis of what is not NaN; NaN where nothing is."""
    there = np.isfinite(values)
    count = there.sum(axis)
    return np.where(count > 0, np.where(there, values, 0).sum(axis) / np.maximum(count, 1), np.nan)


def crossed_interval(
    values: np.ndarray, seed: int = 0, n: int = 2000, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean of (raters, photos) values and its interval when both raters and photos are resampled (mean, lo, hi).

    NaN entries are left out. With one rater only photos are resampled, and the other way round; a single value has no
    interval (NaN), no value no mean either.
    """
    values = np.asarray(values, np.float64)
    there = np.isfinite(values)
    if not there.any():
        return (np.nan, np.nan, np.nan)
    mean = float(values[there].mean())
    if there.sum() == 1:
        return (mean, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    raters, photos = values.shape
    draws = [rng.multinomial(k, np.full(k, 1 / k), n) if k > 1 else np.ones((n, 1)) for k in (raters, photos)]
    total = (draws[0] @ np.where(there, values, 0) * draws[1]).sum(1)
    count = (draws[0] @ there.astype(float) * draws[1]).sum(1)
    tail = (1 - level) / 2
    lo, hi = np.quantile(total[count > 0] / count[count > 0], [tail, 1 - tail])
    return (mean, float(lo), float(hi))
