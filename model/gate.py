"""The gate: a candidate replaces a user's entry only if it foretells the user's own new ratings better.

Evidence is a Bayes factor: how much more probable a user's new ratings were, given the older ones, if the user is as the
personal model has it (`personal`, or `lora_fit`) than if one of three rivals is right: the entry that serves now, the
user's prior, or noise, ratings as widely spread that have nothing to do with the photos. The personal model has not seen a
rating when it is asked about it: the probability of ratings is that of the first times that of the second given the first
and so on, and its closed form leaves out nothing and sees nothing twice. That is why a night of two ratings counts as much
as two ratings of a long night, and evidence of nights is simply added.

All know equally little of a user's level and spread of scores: a rival's level is as free as the model's own, and it
believes of the scale s what the model does. What is left to tell them apart is which photos are better, and by how much.

Decision, by a user's own evidence alone: (1) no noise, at odds of `confidence` to 1 - `confidence`; (2) better than the
entry and better than the prior, by `MARGIN`: hardly more than more probable than not, for few ratings cannot say more.
Evidence against the prior is of all ratings, the rest of those since the entry was promoted. Noise and ratings that tell
nothing new are asked for separately because the harm is not the same: a candidate of noise loses up to .3 of SRCC, one of
honest ratings that tell nothing new .01 to .04. docs/gate.md has what was measured.

Sources: Kass & Raftery 1995 (Bayes factors); Dawid 1984 (evidence of ratings one after the other).

    uv run pytest tests/model/test_gate.py
"""

import math

import torch
from torch import Tensor

from model import personal
from model.personal import Prior, Stats

CURRENT, PRIOR, NOISE = range(3)
"""The rivals, in order of the last axis of evidence (U, D, 3)."""
SINCE_PROMOTION = torch.tensor([True, False, True])
"""Whether evidence against a rival is of ratings since the entry that serves was promoted; else of all."""
MARGIN = 0.1
"""Evidence that a candidate needs against the entry and the prior: chosen so that of users who tell nothing new no more
than a fifth are promoted in a night."""
PROMOTED, TOO_FEW, NOT_ABOVE_CURRENT, NOT_ABOVE_PRIOR, NO_NEWS, NOISY = range(6)
REASONS = ("promoted", "too few ratings", "not above current entry", "not above prior", "no news", "not told from noise")


def no_evidence(users: int, dimensions: int) -> Tensor:
    return torch.zeros(users, dimensions, 3, dtype=torch.float64)


def anchored(n: Tensor, total: Tensor, square: Tensor, noise: Tensor, level: Tensor, scales: Tensor) -> Tensor:
    """Log density of n ratings by a rival who is wrong about their level alone, for every scale s: (.., G).

    total, square (.., G or 1): sum and sum of squares of rating minus what the rival says; noise σ² and level variance λ,
    both times s²; scales (.., G).
    """
    spread = noise + n * level
    fit = (square - level / spread * total**2) / (noise * scales**2)
    return -0.5 * (n * (torch.log(2 * torch.pi * noise) + 2 * scales.log()) + torch.log(spread / noise) + fit)


def against(ours: Tensor, common: Tensor, shares: Tensor, rivals: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Evidence (U, D, 3) out of log densities.

    ours (U, D): of new ratings given old ones, under the personal model; common (U, D, G): log of what it believes of the
    scale, the rivals with it, but noise believes its own, from `shares` (D, G) on. rivals: log densities (U, D, G) of the
    old ratings, and of all.
    """
    found = []
    for k, (earlier, later) in enumerate(rivals):
        belief = torch.log_softmax(shares.log() + earlier, -1) if k == NOISE else common
        found.append(ours - torch.logsumexp(belief + later - earlier, -1))
    return torch.stack(found, -1)


def weigh(prior: Prior, prior_mean: Tensor, served: Tensor, old: Stats, new: Stats) -> Tensor:
    """Evidence (U, D, 3) for the personal model against its rivals: log Bayes factors of new ratings, given old ones.

    prior_mean, served (U, D, P): the user's prior and what serves now.
    """
    whole = old + new
    before, scale = personal.evidence_and_scale(prior, prior_mean, old)
    ours = personal.evidence(prior, prior_mean, whole) - before
    level = torch.zeros_like(prior.mean)
    level[:, 0] = prior.mean[:, 0]
    about = prior_mean - level
    # An entry is what was served at the scale that was thought; the prior, and an entry that is it, was served at 1.
    thought = torch.where((served == prior_mean).all(-1), 1.0, (scale * prior.scales).sum(-1))
    noise = prior.noise.expand_as(new.n)
    entry = (served - level) / thought[..., None]
    rivals = (entry, noise), (about, noise), (torch.zeros_like(about), noise + _explained(prior, about, whole))
    densities = [tuple(_density(prior, level, *rival, stats) for stats in (old, whole)) for rival in rivals]
    found = against(ours, scale.clamp_min(1e-300).log(), prior.shares, densities)
    return torch.where(((new.n > 0) & (prior.users > 0))[..., None], found, 0.0)


def _density(prior: Prior, level: Tensor, weights: Tensor, noise: Tensor, stats: Stats) -> Tensor:
    """`anchored` (U, D, G) of a rival whose weights about the level are `weights` (U, D, P) on the common scale."""
    at, first = level[:, 0], stats.A[..., 0]
    b = stats.b - at[:, None] * first
    yy = stats.yy - 2 * at * stats.b[..., 0] + at**2 * first[..., 0]
    toward = (stats.A @ weights[..., None])[..., 0]
    s = prior.scales
    square = yy[..., None] - 2 * s * (b * weights).sum(-1)[..., None] + s**2 * (toward * weights).sum(-1)[..., None]
    total = b[..., :1] - s * toward[..., :1]
    return anchored(stats.n[..., None], total, square, noise[..., None], prior.cov[:, 0, 0, None], s)


def _explained(prior: Prior, about: Tensor, stats: Stats) -> Tensor:
    """How widely scores (U, D) of these photos should be spread by what they show, squared, at scale 1."""
    n = stats.n.clamp_min(1e-9)[..., None, None]
    mean = stats.A[..., :, :1] / n
    together = stats.A / n - mean @ mean.transpose(-1, -2)
    shown = torch.einsum("udp,udpq,udq->ud", about, together, about) + (together * prior.cov).sum((-1, -2))
    return shown.clamp_min(0)


def decide(
    evidence: Tensor, ratings: Tensor, *, confidence: float = 0.6, min_ratings: int = 5, news: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """promoted (U, D) bool and the index into `REASONS` (U, D).

    evidence (U, D, 3); ratings (U, D): how many the user has given, old and new. news (U, D) bool: entries that a candidate
    was made for at all; default everybody with ratings. confidence 1: nobody is promoted.
    """
    news = ratings > 0 if news is None else news
    reason = torch.full(news.shape, PROMOTED)
    reason[evidence[..., CURRENT] <= MARGIN] = NOT_ABOVE_CURRENT
    reason[evidence[..., PRIOR] <= MARGIN] = NOT_ABOVE_PRIOR
    odds = confidence / (1 - confidence) if confidence < 1 else math.inf
    reason[evidence[..., NOISE] < math.log(odds)] = NOISY
    reason[ratings < min_ratings] = TOO_FEW
    reason[~news] = NO_NEWS
    return reason == PROMOTED, reason
