"""What a night did, in figures: one row per night and dimension, `artifacts/continual/nights.parquet`.

srcc, plcc, mae       prequential: the bank before the night, on the ratings that the night brought. Correlations per user
                      with three ratings or more, then the mean; mae in points of 0..10
backward              backward transfer: SRCC after the night minus before it, per user of the night, on ratings of test
                      photos given before the night. Positive: what was said earlier is foretold better now
forgetting            SRCC of the first bank minus SRCC after the night, per user of the night, on ratings of test photos
                      given before all nights. Positive: forgotten. Users whose taste changed forget, and are to
promoted, drifting    share of the users whose new entry is served; whose older ratings were made to weigh less
right                 share of the thumbs on scores shown that said: right for me
alarm                 true if prequential SRCC fell below all doubt: its interval lies below that of the night before

`*_lo` and `*_hi`: 95 % intervals, users resampled. Test photos (tasks/splits.py) are fitted on by nobody.

    uv run pytest tests/tasks/test_nights_learned.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from model import metrics
from model.bank import Bank
from model.bank_opened import OpenBank
from model.scores import DIMENSIONS
from tasks.judge import with_mean
from tasks.personal import Night
from tasks.ratings import Photos, Ratings

RESAMPLES = 500
_ESTIMATES = ("srcc", "plcc", "mae", "backward", "forgetting")
NIGHTS = pa.schema(
    [
        ("night", pa.string()),
        ("dimension", pa.string()),  # or `mean`, of the dimensions that a user rated
        ("users", pa.int64()),
        ("ratings", pa.int64()),
        *((f"{name}{part}", pa.float64()) for name in _ESTIMATES for part in ("", "_lo", "_hi")),
        *((f"{name}_users", pa.int64()) for name in _ESTIMATES),
        ("promoted", pa.float64()),
        ("drifting", pa.float64()),
        ("right", pa.float64()),
        ("alarm", pa.bool_()),
    ]
)
"""Null: cannot be had."""


def night_rows(
    night: str,
    before: Bank | OpenBank,
    after: Bank | OpenBank,
    first: Bank | OpenBank,
    photos: Photos,
    users: list[str],
    new: Ratings,
    held: tuple[Ratings, Ratings],
    what: Night | None,
) -> list[dict[str, Any]]:
    """Rows of one night. users: those who rated; the ratings' user indexes them.

    new: the night's ratings; held: ratings of test photos given before all nights, and before this one.
    """
    phi = before.basis.phi(photos.predictions, photos.fused)
    found = agreement(before, phi, users, new)
    then, since = (agreement(bank, phi, users, held[1])["srcc"] for bank in (before, after))
    start, now = (agreement(bank, phi, users, held[0])["srcc"] for bank in (first, after))
    found |= {"backward": since - then, "forgetting": start - now}
    rows: dict[str, dict[str, Any]] = {}
    for name, values in found.items():
        for dimension, per_user in with_mean(values):
            row = rows.setdefault(dimension, {"night": night, "dimension": dimension})
            mean, lo, hi = metrics.interval(per_user, 0, RESAMPLES)
            known = [float(value) if np.isfinite(value) else None for value in (mean, lo, hi)]
            row |= dict(zip((name, f"{name}_lo", f"{name}_hi"), known))
            row[f"{name}_users"] = int(np.isfinite(per_user).sum())
    busy = 0 if what is None else len(what.users)
    told = {
        "users": busy,
        "ratings": 0 if what is None else int(what.new_ratings.sum()),
        "promoted": float(what.promoted.any(1).float().mean()) if busy else None,  # type: ignore[union-attr]
        "drifting": float((what.forget < 1).float().mean()) if busy else None,  # type: ignore[union-attr]
    }
    return [row | told for row in rows.values()]


def agreement(bank: Bank | OpenBank, phi: torch.Tensor, users: list[str], ratings: Ratings) -> dict[str, np.ndarray]:
    """srcc, plcc and mae (D, U) of what the bank serves on these ratings; users it does not know get the prior."""
    weights = served_weights(bank, users)
    scores = (phi[ratings.photo] * weights[ratings.user]).sum(-1).clamp(0, 10)
    scores = torch.where(bank.prior.users == 0, torch.nan, scores)
    said, told = (by_user(values.numpy(), ratings.user.numpy(), len(users)) for values in (scores, ratings.y))
    dimensions = range(len(DIMENSIONS))
    return {
        "srcc": np.stack([metrics.srcc(said[d], told[d]) for d in dimensions]),
        "plcc": np.stack([metrics.plcc(said[d], told[d]) for d in dimensions]),
        "mae": np.stack([metrics.known_mean(np.abs(said[d] - told[d]), 1) for d in dimensions]),
    }


def served_weights(bank: Bank | OpenBank, users: list[str]) -> torch.Tensor:
    """What users are served (U, D, P); those whom the bank does not know, the prior."""
    known = bank.index(users) >= 0
    weights = bank.prior.mean.repeat(len(users), 1, 1)
    weights[known] = bank.part([user for user, there in zip(users, known.tolist()) if there]).weights
    return weights


def by_user(values: np.ndarray, user: np.ndarray, users: int) -> np.ndarray:
    """(R, D) of R ratings as (D, users, most ratings of a user), NaN where there is none."""
    order = np.argsort(user, kind="stable")
    count = np.bincount(user, minlength=users)
    place = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    table = np.full((values.shape[1], users, max(1, count.max(initial=0))), np.nan)
    table[:, user[order], place] = values[order].T
    return table


def with_alarms(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of all nights, in order, with `alarm`."""
    last: dict[str, float] = {}
    told = []
    for row in rows:
        low, high = row.get("srcc_lo"), row.get("srcc_hi")
        floor = last.get(row["dimension"])
        told.append(row | {"alarm": bool(floor is not None and high is not None and high < floor)})
        if low is not None:
            last[row["dimension"]] = low
    return told
