"""Low-rank entries of users with different experts, and what the gate may believe of them.

    uv run pytest tests/model/test_lora_users.py
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model import gate
from model.gate import Evidence
from model.lora import Axes
from model.lora_fit import Fitted, Given, fit


@dataclass
class Experts:
    """Of E experts: the axes of changes; the tangents (n, D, size) of n photos; and which of these a photo is, (N,)."""

    axes: list[Axes]
    slopes: list[Tensor]
    place: list[Tensor]

    @property
    def size(self) -> int:
        """How many numbers a row has per dimension."""
        return self.slopes[0].shape[2]

    def fit(self, expert: Tensor, given: Given, pull: float, before: Tensor | None = None, **how) -> Fitted:
        """Of users whose experts are `expert` (U,); the rest as of `model.lora_fit.fit`."""
        before = torch.zeros(len(expert), given.y.shape[2], self.size) if before is None else before
        fitted = Fitted.empty(before.clone(), given.y.shape[1])
        for e in expert.unique().tolist():
            users = torch.nonzero(expert == e).flatten()
            own = given[users]
            own.photo = self.place[e][own.photo]
            fitted.put(users, fit(self.slopes[e], own, pull, before[users], **how))
        return fitted

    def moved(self, expert: Tensor, rows: Tensor, photo: Tensor, chunk: int = 16) -> Tensor:
        """By how much (U, R, D) the rows (U, D, size) move the experts' scores of the photos at `photo` (U, R)."""
        found = torch.zeros(*photo.shape, rows.shape[1])
        for e in expert.unique().tolist():
            for users in torch.nonzero(expert == e).flatten().split(chunk):
                own = self.slopes[e][self.place[e][photo[users]]]
                found[users] = torch.einsum("urdp,udp->urd", own, rows[users])
        return found


def evidence(found: Fitted, y: Tensor, judged: Tensor, rivals: list[Tensor], chunk: int = 64) -> list[Evidence]:
    """Evidence for the candidates against each rival, pairs of ratings left out (`model.gate`).

    y (U, R, D) ratings, judged (U, R) which of them count here, all of weight 1; rivals: scores (U, R, D) by models that
    have not seen these ratings.
    """
    users, _, dimensions = y.shape
    results = [gate.no_evidence(users, dimensions) for _ in rivals]
    for part in torch.arange(users).split(chunk):
        for d in range(dimensions):
            known = judged[part] & ~y[part, :, d].isnan()
            r = torch.where(known, y[part, :, d], 0.0).double()
            ours = gate.left_out(found.hat[part, d].double(), found.error[part, d].double(), r)
            enough = known.sum(1) >= 3
            for result, rival in zip(results, rivals):
                said = rival[part, :, d].double()
                gain, variance = gate.of_pairs(ours, said[:, :, None] - said[:, None, :], r, known)
                result.ratings[part, d] = known.sum(1).to(torch.float64)
                result.gain[part, d] = torch.where(enough, gain, 0.0)
                result.variance[part, d] = torch.where(enough, variance, torch.inf)
    return results
