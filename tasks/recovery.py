"""Night after night: how users are served whose taste has changed, and whether the others forget.

Judged on ratings of test photos, which nobody is fitted on. `new`: ratings given with feedback, so of the taste that users
have now; `old`: ratings given before all nights. What users were served after each night is kept by `continual` (served/).

    uv run pytest tests/tasks/test_nights_learned.py
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import safe_open

from model import metrics
from model.bank import Bank
from model.bank_opened import OpenBank
from model.scores import DIMENSIONS
from tasks.feedback import undeleted
from tasks.intake.quarantine import LONGEST_VALUE
from tasks.night_metrics import by_user, served_weights
from tasks.nights import night_paths
from tasks.ratings import Photos, Ratings, as_feedback, as_ratings
from tasks.schemas import FEEDBACK
from tasks.tables import read_table

GROUPS = {None: "everyone", True: "taste drifted", False: "taste the same"}
BEFORE = "before"


def drifted_users(truth: Path) -> dict[str, bool] | None:
    """Whose taste has changed, where a simulation knows; None elsewhere."""
    if not truth.is_file():
        return None
    with truth.open(newline="") as stream:
        return {row["rater_id"]: row["drifted"] == "True" for row in csv.DictReader(stream)}


def night_by_night(
    served: Path,
    first: Bank | OpenBank,
    photos: Photos,
    feedback: pa.Table,
    labels: pa.Table,
    drifted: dict[str, bool] | None,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows night, group, ratings (`new`/`old`), srcc and change (estimates), users; the mean over dimensions.

    The night `before` is the first bank; change is since then, paired by user. Users: those with feedback. A night whose
    `served` is gone has no row.
    """
    raters, new, _ = as_feedback(feedback, photos)
    new = new[~photos.fitting()[new.photo]]
    if not len(new):
        return []
    users = [raters[i] for i in torch.unique(new.user).tolist()]
    new.user = torch.searchsorted(torch.unique(new.user), new.user)
    old, _ = as_ratings(labels, users, photos)
    old = old[~photos.fitting()[old.photo]]
    phi = first.basis.phi(photos.predictions, photos.fused)
    weights = served_weights(first, users)
    place = {user: row for row, user in enumerate(users)}
    moments = {BEFORE: weights}
    for path in sorted(served.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names = json.loads(file.metadata()["users"])
            rows = [(place[name], row) for row, name in enumerate(names) if name in place]
            weights = weights.clone()
            if rows:
                at, where = map(list, zip(*rows))
                weights[at] = file.get_tensor("weights")[where].to(torch.float64)
        moments[path.stem] = weights
    truth = [None if drifted is None else drifted.get(user) for user in users]
    groups = {GROUPS[None]: np.ones(len(users), bool)}
    groups |= {GROUPS[is_]: np.array([t is is_ for t in truth]) for is_ in (True, False) if drifted is not None}
    found = []
    for which, ratings in (("new", new), ("old", old)):
        start = _srcc(phi, moments[BEFORE], ratings, first.prior.users == 0)
        for night, served_then in moments.items():
            now = _srcc(phi, served_then, ratings, first.prior.users == 0)
            for group, members in groups.items():
                row = {"night": night, "group": group, "ratings": which, "users": int(np.isfinite(now[members]).sum())}
                change = list(metrics.interval((now - start)[members], seed)) if night != BEFORE else None
                found.append(row | {"srcc": list(metrics.interval(now[members], seed)), "change": change})
    return [row for row in found if row["users"]]


def _srcc(phi: torch.Tensor, weights: torch.Tensor, ratings: Ratings, nobody: torch.Tensor) -> np.ndarray:
    """Mean over dimensions of each user's SRCC (U,)."""
    scores = torch.where(nobody, torch.nan, (phi[ratings.photo] * weights[ratings.user]).sum(-1))
    said, told = (by_user(values.numpy(), ratings.user.numpy(), len(weights)) for values in (scores, ratings.y))
    each = np.stack([metrics.srcc(said[d], told[d]) for d in range(len(DIMENSIONS))])
    return metrics.known_mean(each, 0)


def feedback_of(nights: Path) -> pa.Table:
    """All events of all snapshots but those that were deleted."""
    return undeleted(pa.concat_tables([FEEDBACK.empty_table(), *map(read_table, night_paths(nights))]))


def comments(feedback: pa.Table, names: dict[str, str], most: int = 20) -> list[dict[str, str]]:
    """What users wrote, the newest first: at, user, photo, text."""
    rows = feedback.filter(pc.equal(feedback["kind"], "comment")).to_pylist()
    newest = sorted(rows, key=lambda row: (row["at"], row["event_id"]), reverse=True)[:most]
    longest = 5 * LONGEST_VALUE
    return [
        {"at": f"{row['at']:%Y-%m-%d}", "user": row["user_id"], "photo": names.get(row["photo_id"], "")}
        | {"text": row["text"] if len(row["text"]) <= longest else row["text"][:longest] + "…"}
        for row in newest
    ]
