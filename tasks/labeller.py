"""Stage 1's first half: the labeller drafts scores, each expert revises them, the effort is measured.

The labeller is a ridge regression from what the pipeline knows of a photo (image vector, betas, body
points) to the experts' mean score, fitted on a small seed set that the experts scored unaided. One round:
it drafts (`pseudo`) all other photos that may be fitted on, the experts revise (`revised`).

With simulated experts the revising is simulated too (tasks/mannequins/raters.py: what is hardly noticed
stays, what is revised keeps some of the draft). Real experts' own scores are taken as they are; nothing
is invented on top of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from model.scores import DIMENSIONS, SCALE
from model.views import FrameInputs
from tasks.frame_data import scores_of
from tasks.schemas import check
from tasks.splits import TEST, split_of
from tasks.tables import read_json, read_table

LABELLER = "labeller"
RIDGES = np.logspace(-1, 5, 19)


def describe(inputs: FrameInputs) -> np.ndarray:
    """(N, F) standardised description of photos: image vector, body points in body units, principal shape."""
    import torch

    from model.graph import normalise_points

    visible = inputs.visible[:, None].expand(-1, inputs.points.shape[1])
    points = normalise_points(inputs.points, visible).flatten(1).numpy()
    flat = inputs.vertices[:, ::50].float().flatten(1)
    flat = torch.where(inputs.visible[:, None], flat - flat[inputs.visible].mean(0), 0.0)
    axes = torch.linalg.svd(flat, full_matrices=False)
    shape = (axes.U[:, :10] * axes.S[:10]).numpy()
    x = np.concatenate([inputs.vector[:, 0].numpy(), points, shape], axis=1).astype(np.float64)
    return (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)


def ridge(x: np.ndarray, y: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Predictions for `wanted` (M, F) of a ridge regression of y (N,) on x (N, F); penalty by leave-one-out."""
    mean = y.mean()
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    projected = u.T @ (y - mean)
    best, weights = np.inf, np.zeros(x.shape[1])
    for penalty in RIDGES:
        shrink = s**2 / (s**2 + penalty)
        leverage = (u**2 * shrink).sum(1)
        error = np.mean(((y - mean - u @ (shrink * projected)) / np.maximum(1 - leverage, 1e-6)) ** 2)
        if error < best:
            best, weights = error, vt.T @ (s / (s**2 + penalty) * projected)
    return np.clip(mean + wanted @ weights, *SCALE)


def expert_labels(
    cohort: Path, inputs: FrameInputs, seed_share: float, just_noticeable: float, seed: int
) -> tuple[pa.Table, pa.Table | None, list[dict[str, Any]]]:
    """Labels to train expert models on, the pseudo-labels, and the revision effort (rows of the report).

    Photos of the split `test` are left out of all three. For a cohort that is not simulated the labels are
    the experts' ratings; there are no pseudo-labels and no effort.

    Raises:
        ValueError: no expert rated a photo that may be fitted on.
    """
    labels, raters = read_table(cohort / "labels.parquet"), read_table(cohort / "raters.parquet")
    role = dict(zip(raters["rater_id"].to_pylist(), raters["role"].to_pylist()))
    own = labels.filter(
        [
            role.get(r) == "expert" and split_of(p) != TEST
            for r, p in zip(labels["rater_id"].to_pylist(), labels["photo_id"].to_pylist())
        ]
    )
    if not len(own):
        raise ValueError(f"{cohort}/labels.parquet: no expert rated any photo of the splits fit and val")
    if not read_json(cohort / "cohort.json")["simulated"]:
        return own, None, []
    return review_round(own, inputs, seed_share, just_noticeable, seed)


def review_round(
    own: pa.Table, inputs: FrameInputs, seed_share: float, just_noticeable: float, seed: int
) -> tuple[pa.Table, pa.Table, list[dict[str, Any]]]:
    """One simulated round: seed labels, drafts for the rest, each expert's revision of every draft."""
    from tasks.mannequins.raters import review

    rows = inputs.rows()
    experts = sorted(set(own["rater_id"].to_pylist()))
    photos = sorted({p for p in own["photo_id"].to_pylist() if p in rows})
    rng = np.random.default_rng([seed, 20])
    first = set(rng.permutation(photos)[: max(10, round(seed_share * len(photos)))].tolist())
    rest = [p for p in photos if p not in first]
    is_first = np.array([p in first for p in own["photo_id"].to_pylist()])
    seeds = own.filter(is_first)

    x = describe(inputs)
    known = scores_of(seeds, rows).numpy().astype(np.float64)
    at = np.array([rows[p] for p in rest], int)
    drafts = np.full((len(rest), len(DIMENSIONS)), np.nan)
    flat = np.full_like(drafts, np.nan)
    for d in range(len(DIMENSIONS)):
        use = np.isfinite(known[:, d])
        if use.sum() >= 5:
            drafts[:, d] = ridge(x[use], known[use, d], x[at])
            flat[:, d] = known[use, d].mean()
    drafts = np.round(drafts, 1)

    parts, effort = [seeds], {d: [] for d in DIMENSIONS}
    for k, expert in enumerate(experts):
        opinion = scores_of(own.filter([r == expert for r in own["rater_id"].to_pylist()]), rows).numpy()[at]
        settings = {"just_noticeable": just_noticeable, "seed": seed * 1000 + k}
        revised, _ = review(opinion, drafts, **settings)
        unaided, _ = review(opinion, np.round(flat, 1), **settings)
        for d, name in enumerate(DIMENSIONS):
            moved = np.abs(revised[:, d] - drafts[:, d])
            plain = np.abs(unaided[:, d] - np.round(flat[:, d], 1))
            if np.isfinite(moved).any():
                effort[name].append((np.nanmean(moved), np.nanmean(moved > 0), np.nanmean(plain)))
        parts.append(_labels(rest, expert, revised, "revised"))
    return pa.concat_tables(parts), _labels(rest, LABELLER, drafts, "pseudo"), _effort(effort, len(rest))


def _labels(photos: list[str], rater: str, scores: np.ndarray, origin: str) -> pa.Table:
    from tasks.schemas import LABELS

    columns: dict[str, Any] = {"photo_id": photos, "rater_id": [rater] * len(photos)}
    for d, name in enumerate(DIMENSIONS):
        columns[name] = pa.array(scores[:, d], pa.float32(), from_pandas=True)
    columns |= {"origin": [origin] * len(photos), "round": [1] * len(photos), "at": [None] * len(photos)}
    return check(pa.table({name: pa.array(columns[name], LABELS.field(name).type) for name in LABELS.names}), "labels")


def _effort(effort: dict[str, list[tuple[float, float, float]]], photos: int) -> list[dict[str, Any]]:
    """Mean over experts of the effort per dimension, with an interval over experts."""
    from model.metrics import interval

    rows = []
    for name, values in effort.items():
        if values:
            moved, touched, plain = np.array(values).T
            rows.append(
                {
                    "dimension": name,
                    "round": 1,
                    "change": list(interval(moved, seed=0)),
                    "changed": float(touched.mean()),
                    "labels": photos * len(values),
                    "baseline": list(interval(plain, seed=0)),
                }
            )
    return rows
