"""The gate: a candidate replaces a user's entry only if it foretells the user's own held-out ratings better.

Evidence of one user. For every pair of the user's ratings both are left out of the candidate (closed form), and candidate
and rival each say how much better one photo is than the other. The gain is the correlation of these differences with
those of the ratings, minus the rival's: a difference of correlations, blind to level and scale use. Leaving out pairs and
not single ratings matters: with one left out the candidate's level moves against the rating left out, and its order looks
worse than it is. Sizes of differences matter, not only signs: a small update turns few pairs round, and whether a handful
of nearly equal photos changed places says little. The variance is that of a U-statistic, from each rating's influence,
steadied by what it would be if the ratings were noise: `STEADY` ratings' worth of that, as few ratings know no variance.

Decision, by a user's own evidence alone. (1) The candidate, with the ratings left out, has to correlate with the ratings
more clearly than noise would: at `confidence`, against a rival who says the same of all photos. (2) Its gain over both real
rivals has to be above zero. Evidence adds up over nights, for five ratings are too few to see anything by: against the
prior all of it, against the current entry and for (1) what came since that entry was promoted. (1) alone keeps the share of
noise that gets promoted in a night at 1 - confidence, however few ratings there are; that lets (2) ask for no more than the
better guess, for with ten ratings nobody can be sure of a gain of .05. Other users have no say: a night in which most gain
would carry along those who gave noise. docs/gate.md has what was measured. Fewer than `min_ratings` ratings: no promotion.

Sources: Hoeffding 1948 (U-statistics); Williams 1959 (correlations that share a variable); Smyth 2004 (steadied variances).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

STEADY = 5.0
PROMOTED, TOO_FEW, NOT_ABOVE_CURRENT, NOT_ABOVE_PRIOR, NO_NEWS, NOISE = range(6)
REASONS = ("promoted", "too few ratings", "not above current entry", "not above prior", "no news", "not told from noise")


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
        busy = torch.nonzero(real.sum(1) >= 3).flatten()
        for part in busy.split(chunk) if len(busy) else ():
            width = int(real[part].sum(1).max())
            mask = real[part, :width]
            rows = known[table[part, :width]]
            f = torch.where(mask[..., None], phi[rows, d], 0.0)
            r = torch.where(mask, y[rows, d], 0.0)
            hat = f @ cov[part, d] @ f.transpose(1, 2) / noise[part, d][:, None, None]
            ours = left_out(hat, r - (f @ mean[part, d][..., None])[..., 0], r)
            for result, weights in zip(results, rivals):
                score = (f @ weights[part, d][..., None])[..., 0]
                theirs = score[:, :, None] - score[:, None, :]
                result.gain[part, d], result.variance[part, d] = of_pairs(ours, theirs, r, mask)
                result.ratings[part, d] = mask.sum(1).to(torch.float64)
    return results


def left_out(hat: Tensor, error: Tensor, r: Tensor) -> Tensor:
    """(users, R, R): by how much the candidate prefers rating i's photo to j's, had it seen neither rating.

    hat (users, R, R): how the ratings r (users, R) move what the candidate says of them; error: r minus what it says.
    """
    free = 1 - hat.diagonal(dim1=1, dim2=2)
    # e = (I - H_ij)⁻¹ (e_i, e_j)
    det = (free[:, :, None] * free[:, None, :] - hat**2).clamp_min(1e-9)
    left_i = (free[:, None, :] * error[:, :, None] + hat * error[:, None, :]) / det
    return r[:, :, None] - r[:, None, :] - (left_i - left_i.transpose(1, 2))


def of_pairs(ours: Tensor, theirs: Tensor, r: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Gain of a candidate over a rival and its variance, (U,) each.

    ours, theirs (U, R, R): by how much each prefers rating i's photo to j's, neither having seen the two ratings;
    r (U, R) ratings; mask (U, R): which of them are real, three at least. No variance in the ratings: variance inf.
    """
    pairs = mask[:, :, None] & mask[:, None, :]
    given = torch.where(pairs, r[:, :, None] - r[:, None, :], 0.0)
    ours, theirs = (torch.where(pairs, each, 0.0) for each in (ours, theirs))
    n = mask.sum(1).to(torch.float64)

    def along(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        """Correlation (U,), and the influence of each rating on it (U, R)."""
        both, first, second = ((x * z).sum(2) for x, z in ((one, two), (one, one), (two, two)))
        whole, other = (x.sum(1, keepdim=True).clamp_min(1e-24) for x in (first, second))
        size = (whole * other).sqrt()
        value = both.sum(1, keepdim=True) / size
        return value[:, 0], both / size - value / 2 * (first / whole + second / other)

    (mine, own), (rival, other), (alike, _) = along(ours, given), along(theirs, given), along(ours, theirs)
    seen = 4 * ((own - other) ** 2).sum(1) * n / (n - 1)
    expected = 2 * (1 - alike).clamp_min(1e-9) / (n - 1)  # were the ratings noise
    variance = (STEADY * expected + (n - 1) * seen) / (STEADY + n - 1)
    # Against a rival who says the same of all photos the question is just whether the ratings are noise.
    variance = torch.where((theirs == 0).all(2).all(1), 1 / (n - 1), variance)
    usable = (given**2).sum((1, 2)) > 0
    return torch.where(usable, mine - rival, 0.0), torch.where(usable, variance, torch.inf)


def probability_better(evidence: Evidence) -> Tensor:
    """P(true gain > 0) of each user and dimension (U, D) by their own evidence; ½ without any."""
    return torch.special.ndtr(evidence.gain / evidence.variance.sqrt())


def decide(
    against_current: Evidence,
    against_prior: Evidence,
    against_nothing: Evidence,
    *,
    confidence: float = 0.8,
    min_ratings: int = 5,
    news: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """promoted (U, D) bool and the index into `REASONS` (U, D).

    against_nothing: the rival being weights 0. min_ratings counts the ratings behind
    `against_prior` (old and new). news (U, D) bool: entries that a candidate was made for at all; default everybody
    with ratings.
    """
    news = against_current.ratings > 0 if news is None else news
    reason = torch.full(news.shape, PROMOTED)
    reason[against_current.gain <= 0] = NOT_ABOVE_CURRENT
    reason[against_prior.gain <= 0] = NOT_ABOVE_PRIOR
    reason[probability_better(against_nothing) < confidence] = NOISE
    reason[against_prior.ratings < min_ratings] = TOO_FEW
    reason[~news] = NO_NEWS
    return reason == PROMOTED, reason
