"""Comparisons and thumbs as evidence for the linear model: pseudo-observations in `personal.Stats`, beside ratings.

A choice says on which side of an interval something linear in the user's weights lies, with the noise of ratings on it:
    comparison      the difference of two photos is above, below or within NOTICEABLE (Bradley & Terry 1952 with the ties
                    of Rao & Kupper 1967; the normal curve in place of the logistic, as Thurstone 1927)
    thumb           the user's own score of a photo is above or below the level of scores
What such a likelihood does to a user's posterior is what one Gaussian observation would do, found by expectation
propagation (Minka 2001). A comparison counts no more than about a third of an observation of the difference.
A thumb on a score that was shown (right for me, or not) is no evidence here: it says nothing of the order of photos, and
taken as a soft rating it did harm (docs/feedback.md).

    uv run pytest tests/model/test_choices.py
    uv run python bench/choices.py --data ../shared/data/london
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from model import gate, personal
from model.personal import Posterior, Prior, Stats

NOTICEABLE = 0.7
"""Points of 0..10: differences below it are not seen."""
SWEEPS = 6


@dataclass
class Choices:
    """K choices: user, dimension, photo and other (K,) indices (other -1: a thumb), value (K,) in -1..1.

    value: of a comparison, 1 photo, -1 other, 0 neither; of a thumb, above 0 up, else down. Less than 1 counts less.
    """

    user: Tensor
    dimension: Tensor
    photo: Tensor
    other: Tensor
    value: Tensor

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, rows) -> Choices:
        return Choices(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def no_choices() -> Choices:
    none = torch.zeros(0, dtype=torch.long)
    return Choices(none, none, none, none, none.to(torch.float64))


@dataclass
class Sites:
    """Gaussian observations in place of choices: target (K,) of f·v, weight (K,) in parts of a rating; f (K, P)."""

    f: Tensor
    target: Tensor
    weight: Tensor

    def stats(self, choices: Choices, users: int, dimensions: int) -> Stats:
        """As sums per user and dimension."""
        total = personal.no_stats(users, dimensions, self.f.shape[1])
        place = choices.user, choices.dimension
        weighted = self.weight[:, None] * self.f
        total.A.index_put_(place, weighted[:, :, None] * self.f[:, None, :], accumulate=True)
        total.b.index_put_(place, weighted * self.target[:, None], accumulate=True)
        total.yy.index_put_(place, self.weight * self.target**2, accumulate=True)
        total.n.index_put_(place, self.weight, accumulate=True)
        return total


def usable(choices: Choices, phi: Tensor, prior: Prior) -> Tensor:
    """(K,) bool: choices about photos with features phi (N, D, P), on dimensions that somebody rated."""
    f = _features(choices, phi)
    return (prior.users[choices.dimension] > 0) & ~f.isnan().any(1) & (f != 0).any(1)


def _features(choices: Choices, phi: Tensor) -> Tensor:
    """f (K, P): of a comparison the difference of its photos, of a thumb the photo's own."""
    f = phi[choices.photo, choices.dimension]
    other = phi[choices.other.clamp_min(0), choices.dimension]
    return torch.where((choices.other >= 0)[:, None], f - other, f)


def observed(prior: Prior, prior_mean: Tensor, stats: Stats, choices: Choices, phi: Tensor) -> Sites:
    """The choices as observations, given all else that is known of their users.

    prior_mean (U, D, P) and stats: of the users that choices.user indexes; phi (N, D, P). Only usable choices.
    """
    f = _features(choices, phi)
    place = choices.user, choices.dimension
    target, precision = torch.zeros(len(f), dtype=torch.float64), torch.zeros(len(f), dtype=torch.float64)
    weight = precision
    # How widely a user spreads scores only ratings tell: were noise taken from the targets, which grow with it, users who
    # contradict themselves would drive both without end.
    noise = personal.posterior(prior, prior_mean, stats).noise[place]
    for _ in range(SWEEPS if len(f) else 0):
        now = stats + Sites(f, target, weight).stats(choices, *prior_mean.shape[:2])
        found = personal.posterior(prior, prior_mean, now)
        mean = (f * found.mean[place]).sum(1)
        spread = torch.einsum("kp,kpq,kq->k", f, found.cov[place], f).clamp_min(1e-12)
        left = 1 / spread - precision  # what is known without this choice
        # Where nothing is left the choice stays as it is: of users who contradict themselves less can seem to be known.
        sound = left > 0.01 / spread
        left = torch.where(sound, left, 1 / spread)
        without = torch.where(sound, (mean / spread - precision * target) / left, mean)
        slope, curve = _tilt(choices, without, 1 / left, noise, prior.mean[choices.dimension, 0])
        fresh = curve / (1 - curve / left).clamp_min(1e-6)
        aim = without + slope / curve.clamp_min(1e-9)
        blended = 0.3 * precision * target + 0.7 * fresh * aim  # damped, in natural parameters
        moved = torch.where(sound, 0.3 * precision + 0.7 * fresh, precision)
        target = torch.where(sound & (moved > 0), blended / moved.clamp_min(1e-12), target)
        precision = moved
        # nothing says more than one rating would
        weight = (precision * noise).clamp(0, 1) * torch.where(choices.value == 0, 1.0, choices.value.abs())
        precision = weight / noise
    return Sites(f, target, weight)


def _tilt(choices: Choices, mean: Tensor, spread: Tensor, noise: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """First and minus second derivative in the mean (K,) of the log probability of each choice, f·v ~ N(mean, spread)."""
    mean = mean.detach().requires_grad_(True)
    compared = choices.other >= 0
    sd = (spread + torch.where(compared, 2 * noise, noise)).sqrt()
    low, high = torch.where(compared, -NOTICEABLE, level), torch.where(compared, NOTICEABLE, level)
    below, above = torch.special.log_ndtr((low - mean) / sd), torch.special.log_ndtr((mean - high) / sd)
    within = torch.special.ndtr((high - mean) / sd) - torch.special.ndtr((low - mean) / sd)
    neither = compared & (choices.value == 0)
    said = torch.where(neither, within.clamp_min(1e-12).log(), torch.where(choices.value > 0, above, below))
    (slope,) = torch.autograd.grad(said.sum(), mean, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), mean)
    return slope.detach(), -second


def weigh(choices: Choices, sites: Sites, found: Posterior, rivals: list[Tensor]) -> Tensor:
    """Evidence (U, D, 3) of comparisons for a candidate, as `gate.weigh` has of ratings.

    found: the candidate, fitted on all of them; each is left out in turn. rivals: the entry that serves and the prior,
    weights (U, D, P) that have not seen them; noise is a coin. A comparison of less than 1 counts less.
    """
    users, dimensions = found.mean.shape[:2]
    place = choices.user, choices.dimension
    mean, noise = (sites.f * found.mean[place]).sum(1), found.noise[place]
    spread = torch.einsum("kp,kpq,kq->k", sites.f, found.cov[place], sites.f)
    left = (1 - sites.weight * spread / noise).clamp_min(1e-6)
    alone = sites.target - (sites.target - mean) / left
    compared = (choices.other >= 0) & (choices.value != 0)
    weight = torch.where(compared, choices.value.abs(), 0.0).to(torch.float64)

    def said(mean: Tensor, spread: Tensor) -> Tensor:
        """Log probability of what was preferred, of the two that it could be."""
        z = torch.sign(choices.value) * mean / (2 * noise + spread).sqrt()
        return torch.special.log_ndtr(z)

    ours = said(alone, spread / left)
    theirs = [said((sites.f * weights[place]).sum(1), torch.zeros_like(spread)) for weights in rivals]
    evidence = gate.no_evidence(users, dimensions)
    for k, rival in enumerate((*theirs, torch.full_like(ours, math.log(0.5)))):
        evidence[..., k].index_put_(place, weight * (ours - rival), accumulate=True)
    return evidence
