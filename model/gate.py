"""The gate: a candidate replaces a user's entry only if it puts the user's own held-out ratings in better order.

Evidence of one user. For every pair of the user's ratings, both are left out of the candidate (closed form), and
candidate and rival each say which of the two photos is better. The gain is the candidate's share of pairs in the
right order minus the rival's, pairs weighted by how far the ratings lie apart; it is a difference of weighted
Kendall concordances, in -1..1, blind to scale use. Leaving out pairs and not single ratings matters: with one
left out the candidate's level moves against the rating left out, and its order looks worse than it is.
The variance is that of a U-statistic, from the spread of the ratings' own mean gains.

Decision. With 10 ratings one user's gain is mostly chance, so it is read together with everybody else's of the
same night (empirical Bayes): true gains ~ N(μ, τ²), μ taken from the *other* users at the pessimistic end of its
interval. A user is promoted when the posterior probability of a gain above zero reaches `confidence`, against
both rivals. Then, of the promoted, a share of about 1 - confidence at most is expected to be no better; if no
update of a night carries anything, the other users say so and almost nobody is promoted. A user alone is judged
by their own ratings. Fewer than `min_ratings` ratings: no promotion.

Sources: Hoeffding 1948 (U-statistics); DerSimonian & Laird 1986 (τ²); Efron 2010, ch. 1 (empirical Bayes).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PROMOTED, TOO_FEW, NOT_ABOVE_CURRENT, NOT_ABOVE_PRIOR, NO_NEWS = range(5)
REASONS = ("promoted", "too few ratings", "not above current entry", "not above prior", "no news")


@dataclass
class Evidence:
    """gain (U, D) in -1..1 and its variance (U, D); ratings (U, D) behind it. No evidence: gain 0, variance inf."""

    gain: Tensor
    variance: Tensor
    ratings: Tensor

    def combined(self, other: "Evidence") -> "Evidence":
        """Precision-weighted with independent evidence, e.g. of earlier nights."""
        mine, theirs = 1 / self.variance, 1 / other.variance
        total = mine + theirs
        gain = torch.where(total > 0, (mine * self.gain + theirs * other.gain) / total.clamp_min(1e-300), 0.0)
        return Evidence(gain, 1 / total, self.ratings + other.ratings)


def no_evidence(users: int, dimensions: int) -> Evidence:
    zeros = torch.zeros(users, dimensions, dtype=torch.float64)
    return Evidence(zeros.clone(), torch.full_like(zeros, torch.inf), zeros.clone())


def stacked(parts: list[Evidence], order: Tensor) -> Evidence:
    """Evidence of different users put together, then brought into `order`."""
    return Evidence(*(torch.cat([getattr(p, name) for p in parts])[order] for name in ("gain", "variance", "ratings")))


def _grouped(user: Tensor, users: int) -> tuple[Tensor, Tensor]:
    """Row indices of each user's ratings padded to (U, R), and which of them are real."""
    order = torch.argsort(user, stable=True)
    counts = torch.bincount(user, minlength=users)
    start = counts.cumsum(0) - counts
    place = torch.arange(len(user)) - start[user[order]]
    table = torch.zeros(users, max(int(counts.max()) if len(user) else 0, 1), dtype=torch.long)
    real = torch.zeros_like(table, dtype=torch.bool)
    table[user[order], place] = order
    real[user[order], place] = True
    return table, real


def weigh(
    phi: Tensor,
    y: Tensor,
    user: Tensor,
    mean: Tensor,
    cov: Tensor,
    noise: Tensor,
    rivals: list[Tensor],
    *,
    chunk: int = 64,
) -> list[Evidence]:
    """Evidence for a candidate against each rival, on the ratings given (all of them part of the candidate's fit).

    phi (R, D, P), y (R, D) NaN = not rated, user (R,) index; candidate mean (U, D, P), cov (U, D, P, P)
    and noise (U, D) (`personal.Posterior`); rivals: list of weights (U, D, P) that have not seen these ratings.
    """
    users, dimensions = mean.shape[:2]
    results = [no_evidence(users, dimensions) for _ in rivals]
    for d in range(dimensions):
        known = torch.nonzero(~(y[:, d].isnan() | phi[:, d].isnan().any(1))).flatten()
        if len(known) == 0:
            continue
        table, real = _grouped(user[known], users)
        busy = torch.nonzero(real.sum(1) >= 2).flatten()
        for part in busy.split(chunk):
            width = int(real[part].sum(1).max())
            mask = real[part, :width]
            rows = known[table[part, :width]]
            f = torch.where(mask[..., None], phi[rows, d], 0.0)
            r = torch.where(mask, y[rows, d], 0.0)
            rights = _concordances(f, r, mask, mean[part, d], cov[part, d], noise[part, d], [v[part, d] for v in rivals])
            for result, right in zip(results, rights):
                result.gain[part, d], result.variance[part, d] = of_pairs(right, r, mask)
                result.ratings[part, d] = mask.sum(1).to(torch.float64)
    return results


def of_pairs(right: Tensor, r: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and its variance, (U,) each, from how much better the candidate orders each pair of ratings.

    right (U, R, R), symmetric: 1, ½, 0, … as in `_concordances`; r (U, R) ratings; mask (U, R): which of them are real.
    """
    far = (r[:, :, None] - r[:, None, :]).abs() * mask[:, :, None] * mask[:, None, :]
    total, n = far.sum((1, 2)), mask.sum(1).to(torch.float64)
    gain = (far * right).sum((1, 2)) / total.clamp_min(1e-12)
    # Influence of each rating on the ratio: its own pairs' weighted gain beyond the average.
    own = (far * (right - gain[:, None, None])).sum(2) / total.clamp_min(1e-12)[:, None]
    variance = 4 * (own**2).sum(1) * n / (n - 1).clamp_min(1)
    # Two predictors in full agreement give no spread; one discordant pair's worth is the floor.
    variance = variance + 1 / n.clamp_min(1) ** 2 / 4
    return torch.where(total > 0, gain, 0.0), torch.where(total > 0, variance, torch.inf)


def _concordances(f, r, mask, mean, cov, noise, rivals) -> list[Tensor]:
    """(users, R, R) per rival: candidate's order of a pair right (½ when tied, else 0/1) minus the rival's."""
    hat = f @ cov @ f.transpose(1, 2) / noise[:, None, None]
    error = r - (f @ mean[..., None])[..., 0]
    free = 1 - hat.diagonal(dim1=1, dim2=2)
    # Both ratings i, j left out: e = (I - H_ij)⁻¹ (e_i, e_j)
    det = (free[:, :, None] * free[:, None, :] - hat**2).clamp_min(1e-9)
    left_i = (free[:, None, :] * error[:, :, None] + hat * error[:, None, :]) / det
    ordered = torch.sign(r[:, :, None] - r[:, None, :])
    difference = r[:, :, None] - r[:, None, :] - (left_i - left_i.transpose(1, 2))
    candidate = ordered * torch.sign(difference)
    gains = []
    for weights in rivals:
        score = (f @ weights[..., None])[..., 0]
        rival = ordered * torch.sign(score[:, :, None] - score[:, None, :])
        gains.append((candidate - rival) / 2)
    return gains


def probability_better(evidence: Evidence, *, pessimism: float = 1.0) -> Tensor:
    """P(true gain > 0) per user and dimension (U, D), read together with the other users' gains.

    pessimism: standard errors by which μ is moved towards "no gain". Users without evidence get the others' view.
    """
    gain, variance = evidence.gain, evidence.variance
    seen = torch.isfinite(variance)
    w = torch.where(seen, 1 / variance, 0.0)
    count = seen.sum(0)
    centre = (w * gain).sum(0) / w.sum(0).clamp_min(1e-12)
    q = (w * (gain - centre) ** 2).sum(0)
    slack = (w.sum(0) - (w**2).sum(0) / w.sum(0).clamp_min(1e-12)).clamp_min(1e-12)
    between = ((q - (count - 1).clamp_min(0)) / slack).clamp_min(0)
    # With few users τ² is unknown: a broad value (a tenth of all pairs) fades out as users come in.
    tau = (between * count + 0.1**2 * 3) / (count + 3)
    total = torch.where(seen, 1 / (variance + tau), 0.0)
    others = (total.sum(0) - total).clamp_min(0)
    # One pseudo-user at zero keeps μ defined for a user alone.
    pseudo = 1 / (0.1**2 + tau)
    mu = ((total * gain).sum(0) - total * gain) / (others + pseudo)
    error = (others + pseudo).rsqrt()
    mu = mu - pessimism * error * (others / (others + pseudo))
    spread = tau + error**2
    precision = w + 1 / spread
    mean = (w * gain + mu / spread) / precision
    return torch.special.ndtr(mean * precision.sqrt())


def decide(
    against_current: Evidence,
    against_prior: Evidence,
    *,
    confidence: float = 0.7,
    min_ratings: int = 5,
    news: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """promoted (U, D) bool and the index into `REASONS` (U, D).

    min_ratings counts the ratings behind `against_prior` (old and new). news (U, D) bool: entries that a candidate
    was made for at all; default everybody with ratings.
    """
    news = against_current.ratings > 0 if news is None else news
    reason = torch.full(news.shape, PROMOTED)
    current = probability_better(_only(against_current, news)) >= confidence
    prior = probability_better(_only(against_prior, news)) >= confidence
    reason[~current] = NOT_ABOVE_CURRENT
    reason[~prior] = NOT_ABOVE_PRIOR
    reason[against_prior.ratings < min_ratings] = TOO_FEW
    reason[~news] = NO_NEWS
    return reason == PROMOTED, reason


def _only(evidence: Evidence, users: Tensor) -> Evidence:
    return Evidence(
        torch.where(users, evidence.gain, 0.0),
        torch.where(users, evidence.variance, torch.inf),
        evidence.ratings,
    )
