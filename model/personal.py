"""Personal models: a hierarchical linear model on φ(x), closed form and batched over users.

A user u scores photo x on dimension d as c_d + s_ud·(v_ud·φ_d(x) - c_d + noise), with v_ud ~ N(m_d + κ_d·δ_ud, Σ_d) and
c the level of m: s is how widely this user spreads scores about the level (scale use), 1 on average, from a small grid
whose shares are learned, as m, Σ, κ and the noise are, from earlier users (empirical Bayes, EM). Given s all is linear and
Gaussian, and what is served is linear in s, so the mixture over the grid costs one Cholesky factor per user. δ is what the
user's survey says about which expert they resemble.

Because φ holds the experts' predictions, v is the selected expert's own s_e plus a personal difference w = v - s_e;
the bank stores v, and which expert is selected never counts the ratings twice. Zero ratings give the prior mean; many
ratings override it. Everything a user's ratings say enters through `Stats`, so an update with new ratings is exact and
old ones can be discounted (drift of taste).

Notation of shapes: U users, R ratings, D dimensions, P features. float64 throughout.
Sources: Gelman & Hill 2007, ch. 13 (hierarchical regression); Bishop 2006, 3.3, 3.5 (posterior, evidence).

    .venv/bin/python -m pytest tests/model/test_personal.py
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass
class Stats:
    """All that ratings say of users: A = Σ φφᵀ (U, D, P, P), b = Σ φy (U, D, P), yy = Σ y² and n, both (U, D)."""

    A: Tensor
    b: Tensor
    yy: Tensor
    n: Tensor

    def __getitem__(self, users) -> "Stats":
        return Stats(self.A[users], self.b[users], self.yy[users], self.n[users])

    def __add__(self, other: "Stats") -> "Stats":
        return Stats(self.A + other.A, self.b + other.b, self.yy + other.yy, self.n + other.n)

    def total(self) -> "Stats":
        """Summed over users: A (D, P, P), b (D, P), yy and n (D,)."""
        return Stats(self.A.sum(0), self.b.sum(0), self.yy.sum(0), self.n.sum(0))

    def decayed(self, weight: Tensor) -> "Stats":
        """Older ratings count `weight` (U, D) in 0..1 of a new one."""
        return Stats(self.A * weight[..., None, None], self.b * weight[..., None], self.yy * weight, self.n * weight)


def no_stats(users: int, dimensions: int, size: int) -> Stats:
    zeros = lambda *shape: torch.zeros(shape, dtype=torch.float64)  # noqa: E731
    return Stats(
        zeros(users, dimensions, size, size),
        zeros(users, dimensions, size),
        zeros(users, dimensions),
        zeros(users, dimensions),
    )


def sufficient(phi: Tensor, y: Tensor, user: Tensor, users: int, chunk: int = 4096) -> Stats:
    """Sum ratings into `Stats`. phi (R, D, P), y (R, D) with NaN = not rated, user (R,) index → U = users.

    A rating whose φ is NaN (photo without predictions) does not count.
    """
    stats = no_stats(users, phi.shape[1], phi.shape[2])
    for start in range(0, len(y), chunk):
        part = slice(start, start + chunk)
        known = ~(y[part].isnan() | phi[part].isnan().any(2))
        f = torch.where(known[..., None], phi[part], 0.0)
        r = torch.where(known, y[part], 0.0)
        stats.A.index_add_(0, user[part], f[..., :, None] * f[..., None, :])
        stats.b.index_add_(0, user[part], f * r[..., None])
        stats.yy.index_add_(0, user[part], r * r)
        stats.n.index_add_(0, user[part], known.to(torch.float64))
    return stats


@dataclass
class Prior:
    """mean m (D, P), cov Σ (D, P, P), noise σ² (D,), kappa κ (D,) in 0..1, users (D,): how many it was fitted on.

    users 0 marks a dimension that nobody rated: predictions are NaN there. scales, shares (D, G): the grid of s and how
    many users use it so; Σ shares·scales = 1.
    """

    mean: Tensor
    cov: Tensor
    noise: Tensor
    kappa: Tensor
    users: Tensor
    scales: Tensor = None  # type: ignore[assignment]
    shares: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Without a grid everybody uses the scale alike."""
        if self.scales is None:
            self.scales = self.shares = torch.ones(len(self.noise), 1, dtype=torch.float64)

    def of(self, shift: Tensor) -> Tensor:
        """Prior mean of each user (U, D, P), given what their survey says (`selection.shift`, same shape)."""
        return self.mean + self.kappa[:, None] * shift

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass
class Sums:
    """What the M-step needs of the users; adding the sums of disjoint groups of users is exact (all-reduce)."""

    users: Tensor  # (D,)
    first: Tensor  # (D, P) Σ E[v] - κδ
    second: Tensor  # (D, P, P) Σ E[(v - κδ)(v - κδ)ᵀ]
    sse: Tensor  # (D,) Σ E|y - Φv|², y on the common scale
    n: Tensor  # (D,)
    kappa: Tensor  # (2, D) numerator and denominator of the regression of ratings on δ
    loglik: Tensor  # (D,) log evidence of the ratings under the prior that went in
    shares: Tensor  # (D, G) Σ p(s | ratings)

    def flat(self) -> Tensor:
        return torch.cat([getattr(self, f.name).reshape(-1) for f in fields(self)])

    def filled(self, flat: Tensor) -> "Sums":
        parts = flat.split([getattr(self, f.name).numel() for f in fields(self)])
        return Sums(*(part.reshape(getattr(self, f.name).shape) for part, f in zip(parts, fields(self))))


SCALES = torch.linspace(-0.9, 0.9, 9, dtype=torch.float64).exp()
"""Grid of s, from two fifths of the usual spread of scores to two and a half times it."""


def start_prior(total: Stats, users: Tensor, base: Tensor, scales: Tensor = SCALES) -> Prior:
    """A plain starting point for EM: everybody is the generic model `base` (D, P), spread out broadly.

    total: `Stats.total()` over all users, users (D,): how many of them rated. The noise starts at half the
    variance of the ratings about `base`. scales (G,): grid of s; of length 1: everybody alike.
    """
    error = total.yy - 2 * (total.b * base).sum(1) + torch.einsum("dp,dpq,dq->d", base, total.A, base)
    noise = (error / total.n.clamp_min(1) / 2).clamp_min(0.05)
    size = base.shape[1]
    cov = torch.eye(size, dtype=torch.float64) * noise[:, None, None] / 2
    shares = torch.exp(-0.5 * (scales.log() / 0.3) ** 2)
    shares = (shares / shares.sum()).expand(len(base), -1).clone()
    grid = scales / (shares * scales).sum(1, keepdim=True)
    return Prior(base.clone(), cov, noise, torch.zeros(len(base), dtype=torch.float64), users, grid, shares)


class Posterior(NamedTuple):
    """mean (U, D, P) and cov (U, D, P, P) of the weights v that predict a user's raw scores, noise (U, D) about them."""

    mean: Tensor
    cov: Tensor
    noise: Tensor


def stacked(parts: list[Posterior], order: Tensor) -> Posterior:
    """Posteriors of different users put together, then brought into `order`."""
    return Posterior(*(torch.cat(columns)[order] for columns in zip(*parts)))


@dataclass
class _Given:
    """A user's ratings of one dimension given s: on the common scale the posterior is N(start + slope/s, spread)."""

    spread: Tensor  # (U, P, P)
    start: Tensor  # (U, P)
    slope: Tensor  # (U, P)
    belief: Tensor  # (U, G) p(s | ratings)
    loglik: Tensor  # (U,) log evidence, s summed out
    residual: Tensor  # (U, P) b - c·A₀, ratings about the level


def _given(prior: Prior, own: Tensor, stats: Stats, d: int) -> _Given:
    """own (U, P): prior means of dimension d about its level.

    With Σ = CCᵀ, S = C (I + CᵀAC/σ²)⁻¹ Cᵀ: Σ is never inverted, so directions without variance are fine, and
    the Cholesky factor gives the log determinant of the evidence for free.
    """
    noise, level, a, n = prior.noise[d], prior.mean[d, 0], stats.A[:, d], stats.n[:, d]
    b = stats.b[:, d] - level * a[..., 0]
    yy = stats.yy[:, d] - 2 * level * stats.b[:, d, 0] + level**2 * a[..., 0, 0]
    values, vectors = torch.linalg.eigh(prior.cov[d])
    root = vectors * values.clamp_min(0).sqrt()
    inner = root.T @ a @ root / noise
    inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
    lower = torch.linalg.cholesky(inner)
    half = torch.linalg.solve_triangular(lower, root.T.expand_as(a), upper=False)
    toward = (a @ own[..., None])[..., 0]
    rated, pulled = (half @ torch.stack([b, toward], -1)).unbind(-1)
    logdet = 2 * lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    # |y/s - Φm|² less what the weights explain of it: a quadratic in 1/s
    quadratic = [
        yy - (rated**2).sum(-1) / noise,
        (b * own).sum(-1) - (rated * pulled).sum(-1) / noise,
        (own * toward).sum(-1) - (pulled**2).sum(-1) / noise,
    ]
    inverse = 1 / prior.scales[d]
    square = quadratic[0][:, None] * inverse**2 - 2 * quadratic[1][:, None] * inverse + quadratic[2][:, None]
    density = n[:, None] * (torch.log(2 * torch.pi * noise) - 2 * inverse.log()) + logdet[:, None] + square / noise
    joint = prior.shares[d].log() - 0.5 * density
    loglik = torch.logsumexp(joint, 1)
    back = half.transpose(-1, -2)
    moved = (back @ torch.stack([rated, pulled], -1) / noise).unbind(-1)
    return _Given(back @ half, own - moved[1], moved[0], torch.exp(joint - loglik[:, None]), loglik, b)


def unrated(prior: Prior, prior_mean: Tensor) -> Posterior:
    """What is served before any rating, given prior means (U, D, P); copies."""
    about = prior_mean.clone()
    about[..., 0] -= prior.mean[:, 0]
    two = (prior.shares * prior.scales**2).sum(1)[:, None, None]
    cov = two * prior.cov + (two - 1).clamp_min(0) * about[..., :, None] * about[..., None, :]
    return Posterior(prior_mean.clone(), cov, (prior.noise * two.flatten()).expand(len(about), -1).clone())


def posterior(prior: Prior, prior_mean: Tensor, stats: Stats) -> Posterior:
    """What the ratings in `stats` say, given prior means (U, D, P). Unrated dimensions keep the prior."""
    mean, cov, noise = unrated(prior, prior_mean)
    for d in torch.nonzero(prior.users > 0).flatten().tolist():
        level = torch.zeros_like(prior.mean[d])
        level[0] = prior.mean[d, 0]
        given = _given(prior, prior_mean[:, d] - level, stats, d)
        one, two = given.belief @ prior.scales[d], given.belief @ prior.scales[d] ** 2
        mean[:, d] = level + one[:, None] * given.start + given.slope
        # within a scale, and between scales
        between = (two - one**2).clamp_min(0)[:, None, None] * given.start[:, :, None] * given.start[:, None, :]
        cov[:, d] = two[:, None, None] * given.spread + between
        noise[:, d] = two * prior.noise[d]
    return Posterior(mean, cov, noise)


def evidence(prior: Prior, prior_mean: Tensor, stats: Stats) -> Tensor:
    """Log marginal likelihood of the ratings in `stats` (U, D), their weights v and scale s integrated out."""
    return evidence_and_scale(prior, prior_mean, stats)[0]


def evidence_and_scale(prior: Prior, prior_mean: Tensor, stats: Stats) -> tuple[Tensor, Tensor]:
    """`evidence`, and what the ratings say of s: p(s | ratings) over the grid, (U, D, G)."""
    loglik = torch.zeros_like(stats.n)
    belief = prior.shares.expand(len(loglik), -1, -1).clone()
    for d in torch.nonzero(prior.users > 0).flatten().tolist():
        level = torch.zeros_like(prior.mean[d])
        level[0] = prior.mean[d, 0]
        given = _given(prior, prior_mean[:, d] - level, stats, d)
        loglik[:, d], belief[:, d] = given.loglik, given.belief
    return loglik, belief


def em_sums(prior: Prior, stats: Stats, shift: Tensor) -> Sums:
    """E-step: sums over the users at hand. shift δ (U, D, P). All on the common scale, about the level of the prior."""
    found = []
    for d in range(len(prior.noise)):
        seen = stats.n[:, d] > 0
        if prior.users[d] == 0:
            seen = torch.zeros_like(seen)
        part, delta = stats[seen], shift[seen, d]
        own = prior.mean[d] + prior.kappa[d] * delta
        own[:, 0] -= prior.mean[d, 0]
        given = _given(prior, own, part, d)
        r1, r2 = (given.belief @ prior.scales[d] ** -k for k in (1, 2))
        a, spread = part.A[:, d], given.spread
        pull = prior.kappa[d] * delta
        start, slope = given.start - pull, given.slope
        cross = torch.einsum("up,uq->pq", start * r1[:, None], slope)
        second = spread.sum(0) + start.T @ start + cross + cross.T + (slope * r2[:, None]).T @ slope
        level = prior.mean[d, 0]
        yy = part.yy[:, d] - 2 * level * part.b[:, d, 0] + level**2 * a[..., 0, 0]
        times = lambda matrix, vector: (matrix @ vector[..., None])[..., 0]  # noqa: E731
        a_start, a_slope = times(a, given.start), times(a, given.slope)
        sse = (
            r2 * (yy - 2 * (given.residual * given.slope).sum(-1) + (given.slope * a_slope).sum(-1))
            - 2 * r1 * ((given.residual - a_slope) * given.start).sum(-1)
            + (given.start * a_start).sum(-1)
            + (a * spread).sum((-1, -2))
        )
        # Regression of the ratings on δ through V⁻¹ = (I - ΦSΦᵀ/σ²)/σ², all in terms of A and b.
        noise = prior.noise[d]
        a_delta = times(a, delta)
        through = (a_delta - times(a, times(spread, a_delta)) / noise) / noise
        left = r1[:, None] * given.residual - times(a, own - pull)
        numerator = ((delta * left).sum(-1) - (a_delta * times(spread, left)).sum(-1) / noise) / noise
        first = (start + r1[:, None] * slope).sum(0)
        kappa = torch.stack([numerator.sum(), (delta * through).sum()])
        users = seen.sum().to(torch.float64)
        found.append((users, first, second, sse.sum(), part.n[:, d].sum(), kappa, given.loglik.sum(), given.belief.sum(0)))
    columns = [torch.stack(each) for each in zip(*found)]
    columns[5] = columns[5].T.contiguous()
    return Sums(*columns)


def maximise(prior: Prior, sums: Sums, *, caution: float = 10.0, hold: float = 0.5, fixed: bool = False) -> Prior:
    """M-step, with Σ held back by an inverse-Wishart prior; `fixed` keeps the mean (see `population_mean`).

    The target of the shrinkage is `hold` x the diagonal of Σ, its weight is that of `caution` + P users: with few
    users to learn from, correlations between features that they seem to show are not believed and personal
    differences are expected to be small. κ is the survey's weight, kept in 0..1 and pulled to 0 by a fixed amount
    of evidence.
    """
    count = sums.users.clamp_min(1)[:, None]
    level = torch.zeros_like(prior.mean)
    level[:, 0] = prior.mean[:, 0]
    about = prior.mean - level if fixed else sums.first / count  # on the common scale, about the level
    cross = about[:, :, None] * sums.first[:, None, :]
    spread = sums.second - cross - cross.transpose(1, 2) + count[..., None] * about[:, :, None] * about[:, None, :]
    size = about.shape[1]
    diagonal = spread.diagonal(dim1=-2, dim2=-1) / count
    target = torch.diag_embed(hold * diagonal)
    weight = size + caution
    cov = (spread + weight * target) / (count[..., None] + weight)
    cov = (cov + cov.transpose(-1, -2)) / 2
    noise = (sums.sse / sums.n.clamp_min(1)).clamp_min(1e-3)
    kappa = (sums.kappa[0] / (sums.kappa[1] + 4.0)).clamp(0, 1)
    # One pseudo-user who uses the scale as it was thought; then the unit of s is chosen so that its mean is 1.
    shares = (sums.shares + prior.shares) / (sums.users[:, None] + 1)
    unit = (shares * prior.scales).sum(1)
    rated = sums.users > 0
    return Prior(
        torch.where(rated[:, None], level + about * (1.0 if fixed else unit[:, None]), prior.mean),
        torch.where(rated[:, None, None], cov * unit[:, None, None] ** 2, prior.cov),
        torch.where(rated, noise * unit**2, prior.noise),
        torch.where(rated, kappa, 0.0),
        sums.users,
        torch.where(rated[:, None], prior.scales / unit[:, None], prior.scales),
        torch.where(rated[:, None], shares, prior.shares),
    )


def fit_prior(
    stats: Stats,
    base: Tensor,
    shift: Tensor | None = None,
    *,
    iterations: int = 40,
    caution: float = 10.0,
    hold: float = 0.5,
    fixed: bool = False,
    scales: Tensor = SCALES,
) -> Prior:
    """EM in one process; `tasks.personal` runs the same two steps over workers. fixed: the mean stays `base`."""
    shift = torch.zeros_like(stats.b) if shift is None else shift
    users = (stats.n > 0).sum(0).to(torch.float64)
    prior = start_prior(stats.total(), users, base, scales)
    for _ in range(iterations):
        prior = maximise(prior, em_sums(prior, stats, shift), caution=caution, hold=hold, fixed=fixed)
    return prior


def predict(phi: Tensor, weights: Tensor, cov: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and sd (N, D) of N (photo, user) pairs: phi and weights (N, D, P), cov (N, D, P, P), noise (N, D)."""
    scores = (phi * weights).sum(-1)
    variance = torch.einsum("ndp,ndpq,ndq->nd", phi, cov, phi) + noise
    return scores, variance.clamp_min(0).sqrt()
