"""Learning low-rank changes (`model.lora`): many users in one batched job, each on their own.

Minimises, for each user and dimension,

    ½ Σ weight·(tangent · row - y)² + ½ pull·|row - anchor|²

where y is what the expert's score should be moved by. As A is orthonormal, |row|² is the squared change of all layers; the
level, last in a row, has a pull of its own, `LEVEL`. The anchor is no change at all (L2-SP: Li et al. 2018), or half of the
entry before (`ANCHORED`). It is a ridge regression, solved with as many unknowns as a user has ratings. A dimension without
ratings keeps its row.

Notation of shapes: U users, R ratings each (padded), D dimensions.

    uv run pytest tests/model/test_lora_users.py
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ANCHORED = 0.5
"""Share of the entry before that a night's training is pulled to; the rest is the prior. With 1, nights would walk away
from the prior for good, each allowed as much as the first; with 0, what ratings no longer kept said would be lost."""


LEVEL = 1.0
"""Pull of the level: it stands against as many ratings that miss it by a point each."""


@dataclass
class Given:
    """Users' ratings, padded: photo (U, R) rows of some table, y (U, R, D) with NaN = not rated, weight (U, R)."""

    photo: Tensor
    y: Tensor
    weight: Tensor

    def __getitem__(self, users: Tensor) -> Given:
        """Of these users, no wider than they need."""
        y = self.y[users]
        known = (~y.isnan().all(2)).nonzero()
        width = int(known[:, 1].max()) + 1 if len(known) else 1
        return Given(self.photo[users, :width], y[:, :width], self.weight[users, :width])


def padded(user: Tensor, photo: Tensor, y: Tensor, weight: Tensor, users: int) -> Given:
    """Ratings as columns, user (N,), photo (N,), y (N, D), weight (N,), in the order they came, as a table of users."""
    order = torch.argsort(user, stable=True)
    counts = torch.bincount(user, minlength=users)
    place = torch.arange(len(user)) - (counts.cumsum(0) - counts)[user[order]]
    at, width = (user[order], place), max(1, int(counts.max()) if users else 1)
    table = Given(
        torch.zeros(users, width, dtype=torch.long),
        torch.full((users, width, y.shape[1]), torch.nan),
        torch.zeros(users, width),
    )
    table.photo[at], table.y[at], table.weight[at] = photo[order], y[order].float(), weight[order].float()
    return table


@dataclass
class Fitted:
    """rows (U, D, size), and missed (U, D, R): by how much a row that has seen the ratings before one and no other misses
    it; 0 where there is no rating."""

    rows: Tensor
    missed: Tensor

    @classmethod
    def empty(cls, rows: Tensor, ratings: int) -> Fitted:
        """Nothing rated; rows (U, D, size)."""
        return cls(rows, torch.zeros(*rows.shape[:2], ratings))

    def put(self, users: Tensor, part: Fitted) -> None:
        """The results of these users, who may have been padded less."""
        self.rows[users], self.missed[users, :, : part.missed.shape[2]] = part.rows, part.missed


@torch.no_grad()
def fit(
    slopes: Tensor, given: Given, pull: float, before: Tensor, *, chunk: int = 32, shared: bool | None = None
) -> Fitted:
    """U users of one expert.

    slopes (N, D, size): `model.lora.tangents` of the photos that `given` points to. before (U, D, size): the entries to be
    held near, zeros where there is none. chunk: users at once; memory grows with it, results do not change. shared: compare
    all photos with each other once and not each user's own with theirs; None = where that is less work.
    """
    fitted = Fitted.empty(before.clone(), given.y.shape[1])
    loose = torch.full(before.shape[2:], 1 / max(pull, 1e-6))  # 0 has many solutions
    loose[-1] = 1 / LEVEL
    shared = len(slopes) ** 2 <= given.photo.numel() * given.photo.shape[1] if shared is None else shared
    by_dimension = slopes.transpose(0, 1).contiguous()  # (D, N, size)
    gram = (by_dimension * loose) @ by_dimension.transpose(1, 2) if shared else None
    # Users with about as many ratings are fitted together, so that little is padded.
    for users in torch.argsort((~given.y.isnan().all(2)).sum(1), stable=True).split(chunk if shared else 1):
        part = given[users]
        y, start, at = part.y.transpose(1, 2), before[users].transpose(0, 1), part.photo
        root = (part.weight[:, None] * ~y.isnan()).sqrt()  # (U, D, R)
        if gram is None:  # one user, whose photos are all there are
            table, at = by_dimension[:, at[0]], torch.arange(at.shape[1])[None]
            alike = ((table * loose) @ table.transpose(1, 2))[:, None]
        else:
            table, alike = by_dimension, gram[:, at[:, :, None], at[:, None, :]]
        place = at[:, None].expand_as(root)
        kernel = (root[..., :, None] * root[..., None, :] * alike.transpose(0, 1)).double()
        eye = torch.eye(kernel.shape[-1], dtype=torch.float64)
        whole = torch.linalg.cholesky(kernel + eye)
        moved = (start @ table.transpose(1, 2)).transpose(0, 1).gather(2, place)  # by the entries before
        wanted = (root * (y.nan_to_num() - ANCHORED * moved)).double()[..., None]
        surprise = torch.linalg.solve_triangular(whole, wanted, upper=False)
        dual = torch.linalg.solve_triangular(whole.transpose(-1, -2), surprise, upper=True)[..., 0].float()
        share = torch.zeros(*root.shape[:2], table.shape[1]).scatter_add_(2, place, root * dual)
        rows = (ANCHORED * start + loose * (share.transpose(0, 1) @ table)).transpose(0, 1)
        real = root > 0
        missed = surprise[..., 0] * whole.diagonal(dim1=-2, dim2=-1) / root.clamp_min(1e-6)
        # Nothing was said of a dimension: its row stays, whatever the pull would do to it.
        rows = torch.where(real.any(2, keepdim=True), rows, start.transpose(0, 1))
        fitted.put(users, Fitted(rows, missed.float() * real))
    return fitted
