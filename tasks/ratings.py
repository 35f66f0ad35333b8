"""Tables of predictions, labels and feedback as the tensors that personal models are fitted on.

Rows that cannot be used are never dropped silently: they are counted by reason.
"""

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from model.basis import GENERIC
from model.scores import DIMENSIONS, SCALE
from tasks.splits import TEST, VAL, split_of
from tasks.tables import read_table


@dataclass
class Photos:
    """What the expert models say of each photo: predictions (N, M, D) float64, NaN = not scored; fused (N, F0) or None."""

    ids: list[str]
    models: list[str]
    predictions: Tensor
    fused: Tensor | None

    def rows(self) -> dict[str, int]:
        return {photo: row for row, photo in enumerate(self.ids)}

    def fitting(self) -> Tensor:
        """(N,) bool: photos that may be fitted on (splits fit and val)."""
        return torch.tensor([split_of(photo) != TEST for photo in self.ids], dtype=torch.bool)

    def held(self) -> Tensor:
        """(N,) bool: of these, photos that no expert's model was fitted on (split val)."""
        return torch.tensor([split_of(photo) == VAL for photo in self.ids], dtype=torch.bool)


@dataclass
class Ratings:
    """R ratings: user (R,) and photo (R,) indices, y (R, D) float64 with NaN = not rated, at (R,) unix seconds or NaN."""

    user: Tensor
    photo: Tensor
    y: Tensor
    at: Tensor

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, rows) -> "Ratings":
        return Ratings(self.user[rows], self.photo[rows], self.y[rows], self.at[rows])


def user_split(rater_id: str, prior_share: float) -> str:
    """`prior` (the prior over users is fitted on them) or `judged` (it has never seen them), by the id's hash."""
    share = int(sha256(f"user:{rater_id}".encode()).hexdigest()[:8], 16) / 0x1_0000_0000
    return "prior" if share < prior_share else "judged"


def as_photos(predictions: pa.Table, fused: pa.Table | None = None) -> Photos:
    """Photos from rows (photo_id, model, appearance, health, posture) and optionally (photo_id, vector).

    Models in order of name with `generic` last; photos in order of id, those without a fused vector left out if
    vectors are given.
    """
    if predictions.num_rows == 0:
        raise ValueError("predictions table is empty: predict with the expert models first (stage pretrain)")
    names = predictions["model"].unique().to_pylist()
    models = sorted(n for n in names if n != GENERIC) + [GENERIC] * (GENERIC in names)
    ids = set(predictions["photo_id"].to_pylist())
    vectors: dict[str, list[float]] = {}
    if fused is not None:
        vectors = dict(zip(fused["photo_id"].to_pylist(), fused["vector"].to_pylist()))
        ids &= vectors.keys()
    ordered = sorted(ids)
    row, column = {p: i for i, p in enumerate(ordered)}, {m: j for j, m in enumerate(models)}
    at = np.array([row.get(p, -1) for p in predictions["photo_id"].to_pylist()])
    model = np.array([column[m] for m in predictions["model"].to_pylist()])
    scores = _scores(predictions)
    values = np.full((len(ordered), len(models), len(DIMENSIONS)), np.nan)
    values[at[at >= 0], model[at >= 0]] = scores[at >= 0]
    extra = torch.tensor([vectors[p] for p in ordered], dtype=torch.float64) if fused is not None else None
    return Photos(ordered, models, torch.from_numpy(values), extra)


def read_photos(predictions: str | Path, features: str | Path | None = None) -> Photos:
    fused = read_table(features, ["photo_id", "vector"]) if features else None
    return as_photos(read_table(predictions, ["photo_id", "model", *DIMENSIONS]), fused)


def as_users(raters: pa.Table) -> tuple[list[str], list[dict], list[str], list[dict]]:
    """User ids and surveys, expert ids and surveys, each in order of id."""
    people = {"user": [], "expert": []}
    for rater, role, survey in zip(*(raters[c].to_pylist() for c in ("rater_id", "role", "survey"))):
        people[role].append((rater, {k: v for k, v in dict(survey or {}).items() if v not in (None, "")}))
    users, experts = (sorted(people[role]) for role in ("user", "expert"))
    return [u for u, _ in users], [s for _, s in users], [e for e, _ in experts], [s for _, s in experts]


def as_ratings(labels: pa.Table, users: list[str], photos: Photos) -> tuple[Ratings, Counter]:
    """Ratings of `users` among the labels (origins `rated` and `revised`), and what was set aside by reason.

    All splits are here; the caller picks fit or test. Of several labels of one user for a photo the latest counts.
    """
    aside: Counter = Counter()
    row, known = {u: i for i, u in enumerate(users)}, photos.rows()
    y = _scores(labels)
    at = _seconds(labels["at"])
    latest: dict[tuple[int, int], int] = {}
    columns = zip(*(labels[c].to_pylist() for c in ("rater_id", "photo_id", "origin")))
    for i, (rater, photo, origin) in enumerate(columns):
        if rater not in row:
            continue
        if origin not in ("rated", "revised"):
            aside[f"origin {origin} is not a rating"] += 1
        elif photo not in known:
            aside["photo has no predictions"] += 1
        elif np.isnan(y[i]).all():
            aside["no dimension rated"] += 1
        else:
            key = (row[rater], known[photo])
            before = latest.get(key)
            if before is not None:
                aside["rated again later"] += 1
            if before is None or not at[i] < at[before]:
                latest[key] = i
    keys = sorted(latest)
    picked = [latest[key] for key in keys]
    return _pack(keys, y[picked], at[picked]), aside


def as_feedback(feedback: pa.Table, photos: Photos) -> tuple[list[str], Ratings, Counter]:
    """Users with usable ratings among the events (sorted), their ratings, and what was set aside by reason.

    One row per user and photo; dimensions come from separate events, the latest (`at`, then `event_id`) counts, so
    the order of arrival does not matter. Test photos are included: the caller separates them.
    """
    aside: Counter = Counter()
    known = photos.rows()
    columns = ("event_id", "user_id", "photo_id", "kind", "dimension", "value")
    at = _seconds(feedback["at"])
    events = sorted(zip(at.tolist(), *(feedback[c].to_pylist() for c in columns)), key=lambda e: (e[0], str(e[1])))
    seen: set[str] = set()
    cells: dict[tuple[str, int], np.ndarray] = {}
    when: dict[tuple[str, int], float] = {}
    for time, event, user, photo, kind, dimension, value in events:
        if event in seen:
            aside["event_id seen twice"] += 1
        elif kind != "rating":
            aside[f"kind {kind} is not used for personal models"] += 1
        elif dimension not in DIMENSIONS:
            aside["unknown dimension"] += 1
        elif value is None or not SCALE[0] <= value <= SCALE[1]:
            aside["score outside 0..10"] += 1
        elif photo not in known:
            aside["photo has no predictions"] += 1
        else:
            key = (user, known[photo])
            cell = cells.setdefault(key, np.full(len(DIMENSIONS), np.nan))
            place = DIMENSIONS.index(dimension)
            if not np.isnan(cell[place]):
                aside["rated again later"] += 1
            cell[place], when[key] = value, time
        seen.add(event)
    users = sorted({user for user, _ in cells})
    row = {u: i for i, u in enumerate(users)}
    keys = sorted((row[user], photo) for user, photo in cells)
    named = [(users[u], p) for u, p in keys]
    y = np.array([cells[key] for key in named]).reshape(-1, len(DIMENSIONS))
    return users, _pack(keys, y, np.array([when[key] for key in named])), aside


def _pack(keys: list[tuple[int, int]], y: np.ndarray, at: np.ndarray) -> Ratings:
    index = torch.tensor(keys, dtype=torch.long).reshape(-1, 2)
    return Ratings(
        index[:, 0],
        index[:, 1],
        torch.as_tensor(y, dtype=torch.float64),
        torch.as_tensor(at, dtype=torch.float64),
    )


def _scores(table: pa.Table) -> np.ndarray:
    """(rows, D) float64; null → NaN."""
    columns = [pc.fill_null(table[d].cast(pa.float64()), np.nan).to_numpy() for d in DIMENSIONS]
    return np.stack(columns, 1)


def _seconds(at: pa.ChunkedArray) -> np.ndarray:
    micro = at.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    return np.where(micro.is_null().to_numpy(), np.nan, pc.fill_null(micro, 0).to_numpy() / 1e6)
