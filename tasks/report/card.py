"""The model card of an expert's model: whose it is, what it learned from, how well it holds, where it does not.

Figures are of photos that no training saw (split `test`), against the expert's own scores; the generic model is the
one to beat, on the same photos. Intervals resample photos: they are about this expert, not about experts at large.

    uv run mlflow ui          # Models → physique-expert-… → the version's description; pictures in the run's artifacts
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from model.metrics import plcc, srcc
from tasks.report.plots import INK, MARKERS, SERIES, finish, panel, picture, stacked
from tasks.report.words import label

RESAMPLES = 1000


def photo_interval(metric: Any, said: np.ndarray, rated: np.ndarray) -> tuple[float, float, float]:
    """A metric of (N,) predictions with one rater's (N,) scores, and its interval over photos (value, lo, hi)."""
    use = np.isfinite(said) & np.isfinite(rated)
    said, rated = said[use], rated[use]
    return _resampled(lambda rows: metric(said[rows], rated[rows]), len(said))


def gain_interval(said: np.ndarray, other: np.ndarray, rated: np.ndarray) -> tuple[float, float, float]:
    """How much more SRCC `said` has than `other` with the same (N,) scores, paired over photos (value, lo, hi)."""
    use = np.isfinite(said) & np.isfinite(other) & np.isfinite(rated)
    said, other, rated = said[use], other[use], rated[use]
    return _resampled(lambda rows: srcc(said[rows], rated[rows]) - srcc(other[rows], rated[rows]), len(said))


def _resampled(value_of: Callable[[np.ndarray], np.ndarray], count: int) -> tuple[float, float, float]:
    """Value of all `count` photos and its 95 % interval; value_of: (R, n) rows of photos → (R,) values."""
    value = float(value_of(np.arange(count)[None])[0]) if count else np.nan
    if not np.isfinite(value):
        return (value, np.nan, np.nan)
    values = value_of(np.random.default_rng(0).integers(0, count, (RESAMPLES, count)))
    return (value, *map(float, np.nanquantile(values, [0.025, 0.975])))


def measured(said: np.ndarray, generic: np.ndarray, rated: np.ndarray, dimensions: list[str]) -> list[dict[str, Any]]:
    """A row per dimension of (N, D) arrays: srcc, plcc, mae and the gain over the generic model, with intervals."""
    rows = []
    for d, name in enumerate(dimensions):
        own, other, scores = said[:, d], generic[:, d], rated[:, d]
        off = np.abs(own - scores)
        rows.append(
            {
                "dimension": name,
                "photos": int(np.isfinite(off).sum()),
                "srcc": photo_interval(srcc, own, scores),
                "plcc": photo_interval(plcc, own, scores),
                "mae": float(np.nanmean(off)) if np.isfinite(off).any() else float("nan"),
                "gain": gain_interval(own, other, scores),
            }
        )
    return rows


def card(
    name: str, about: dict[str, Any], rows: list[dict[str, Any]], labels: dict[str, int], simulated: bool, source: str
) -> str:
    """Markdown of the card.

    Args:
        about: of the model's file: survey, curve, dimensions.
        rows: of `measured`.
        labels: how many scored photos it learned from, by origin.
    """
    who = f"a **simulated** rater ({name})" if simulated else f"the expert **{name}**"
    lines = [f"# Expert model {name}", "", f"Scores photos as {who} would, 0 to 10, of the cohort `{source}`.", ""]
    lines += ["## Data", "", "| scored photos | |", "|---|---:|", *(f"| {k} | {v:,} |" for k, v in sorted(labels.items()))]
    lines += ["", "`revised`: a pseudo-label that the expert reviewed; `rated`: scored unaided.", "", "## Survey", ""]
    survey = about["survey"]
    lines += ["| question | answer |", "|---|---|"] if survey else ["No answers were given."]
    lines += [f"| {_cell(question)} | {_cell(answer)} |" for question, answer in sorted(survey.items())]
    lines += ["", "## On photos that no training saw", ""]
    lines += ["| dimension | photos | SRCC [95 %] | PLCC [95 %] | mean error, points | SRCC over the generic model |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        cells = [label(row["dimension"]), f"{row['photos']:,}", _with(row["srcc"]), _with(row["plcc"])]
        lines.append("| " + " | ".join([*cells, _plain(row["mae"]), _with(row["gain"], "+")]) + " |")
    curve = [epoch for epoch in about["curve"] if epoch["val"] is not None]
    if curve:
        best = min(curve, key=lambda epoch: epoch["val"])
        kept = f"what pass {best['epoch']} left" if best["epoch"] else "the regression it started from"
        said = f"{about['curve'][-1]['epoch']} passes over the photos; kept is {kept}, the best on the"
        lines += ["", f"{said} expert's own validation photos (error {best['val']:.2f} points)."]
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in _limits(rows, labels, simulated))]
    return "\n".join([*lines, ""])


def pictures(about: dict[str, Any], said: np.ndarray, rated: np.ndarray, dimensions: list[str]) -> bytes:
    """PNG: learning curve, and per dimension how the scores given lie against those asked for (calibration)."""
    return stacked([curve_panel(about["curve"])] + [calibration_panel(said[:, d], rated[:, d], name)
                                                    for d, name in enumerate(dimensions)])  # fmt: skip


def curve_panel(curve: list[dict[str, Any]]) -> bytes:
    """Error on the expert's validation photos, pass by pass."""
    figure, axes = panel()
    known = [(epoch["epoch"], epoch["val"]) for epoch in curve if epoch["val"] is not None]
    if known:
        axes.plot(*zip(*known), color=SERIES[0], marker=MARKERS[0], markersize=4, linewidth=2)
        axes.plot(*min(known, key=lambda each: each[1]), "o", color=SERIES[1], markersize=9, label="kept")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("pass over the photos")
    finish(axes, "Error on validation photos, points")
    return picture(figure, "png")


def calibration_panel(said: np.ndarray, rated: np.ndarray, dimension: str) -> bytes:
    """Mean score of the expert over groups of photos that the model scores alike; on the diagonal it is right."""
    figure, axes = panel()
    use = np.isfinite(said) & np.isfinite(rated)
    axes.plot([0, 10], [0, 10], color=INK, linewidth=1)
    if use.any():
        order = np.argsort(said[use], kind="stable")
        groups = np.array_split(order, min(8, max(1, len(order) // 8)))
        means = [(said[use][g].mean(), rated[use][g].mean(), rated[use][g].std() / np.sqrt(len(g))) for g in groups]
        x, y, e = zip(*means)
        axes.scatter(said[use], rated[use], s=9, color=SERIES[2], alpha=0.35, linewidths=0, label="a photo")
        axes.errorbar(x, y, 1.96 * np.array(e), fmt="o", color=SERIES[0], markersize=6, linewidth=2, label="mean, 95 %")
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 10)
    axes.set_xlabel("score given by the model")
    finish(axes, f"{label(dimension)}: the expert's scores on test photos")
    return picture(figure, "png")


def _limits(rows: list[dict[str, Any]], labels: dict[str, int], simulated: bool) -> list[str]:
    count = sum(labels.values())
    found = [f"One person's taste, learned from {count:,} photos. It says nothing about what people in general prefer."]
    if simulated:
        found.append("Raters and photos are simulated: nothing here is about real people.")
    if labels.get("revised"):
        found.append("Revised labels lean towards the pseudo-labels that were shown (anchoring).")
    for row in rows:
        value, lo, hi = row["srcc"]
        if not np.isfinite(value):
            found.append(f"{label(row['dimension'])}: too few scores on test photos to say how good it is.")
        elif not lo > 0:
            found.append(f"{label(row['dimension'])}: not clearly better than chance on these photos.")
        if np.isfinite(row["gain"][0]) and not row["gain"][1] > 0:
            found.append(f"{label(row['dimension'])}: not clearly better than the generic model for this expert.")
    return found


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _plain(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if np.isfinite(value) else "–"


def _with(value: tuple[float, float, float], sign: str = "") -> str:
    mean, lo, hi = value
    return f"{_plain(mean, sign)} [{_plain(lo, sign)}, {_plain(hi, sign)}]" if np.isfinite(lo) else _plain(mean, sign)
