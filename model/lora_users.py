"""Low-rank entries of users with different experts, and what the gate may believe of them.

    uv run pytest tests/model/test_lora_users.py
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model import gate
from model.lora import Axes
from model.lora_fit import LEVEL, Fitted, Given, fit
from model.personal import Prior


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


def evidence(found: Fitted, given: Given, judged: Tensor, prior: Prior, mean: Tensor, current: Tensor) -> Tensor:
    """Evidence (U, D, 3) for the candidates against each rival (`model.gate`), one rating after the other.

    How sure a row is of what it says depends on `pull`, which is no estimate; so it is asked what it says and not how sure
    it is: what it misses counts as noise. given: ratings, those `judged` (U, R) last and of weight 1; found: fitted to them
    less `mean` (U, R, D), what the user's prior says; current (U, R, D): what is served.
    """
    y, known = given.y.transpose(1, 2).double(), ~given.y.isnan().transpose(1, 2)
    old, new = known & ~judged[:, None], known & judged[:, None]
    weight = given.weight[:, None].double()
    added = lambda of, values: torch.where(of, values, 0.0).sum(2)[..., None]  # noqa: E731
    missed = found.missed.double()

    def ours(of: Tensor) -> Tensor:
        """Log density (U, D, G) of the ratings `of`."""
        n, square = added(of, weight), added(of, weight * missed**2)
        return gate.anchored(n, torch.zeros_like(n), square, noise, torch.zeros(()), prior.scales)

    def theirs(of: Tensor, says: Tensor, noise: Tensor) -> Tensor:
        error = y - says.transpose(1, 2)
        sums = (added(of, weight * error**k) for k in range(3))
        return gate.anchored(*sums, noise, prior.noise[:, None] / LEVEL, prior.scales)

    noise = prior.noise[:, None].expand(len(y), -1, 1)
    common = torch.log_softmax(prior.shares.log() + ours(old), -1)
    told = torch.logsumexp(common + ours(new), -1)
    n, said = added(known, torch.ones_like(y)).clamp_min(1), mean.transpose(1, 2)
    middle = added(known, said) / n
    wide = noise + added(known, (said - middle) ** 2) / n
    rivals = (current, noise), (mean, noise), (middle.transpose(1, 2).expand_as(mean), wide)
    densities = [tuple(theirs(of, *rival) for of in (old, known)) for rival in rivals]
    result = gate.against(told, common, prior.shares, densities)
    return torch.where((new.any(2) & (prior.users > 0))[..., None], result, 0.0)
