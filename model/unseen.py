"""What was learned from users holds on photos that no expert's model was fitted on: how far, such photos tell.

A network foretells the photos it was fitted on far better than others. A mean of users, or a spread of their tastes, that
is estimated on those photos makes too much of whatever the networks remember of them, and no amount of leaving out such
photos shows it. So what users say of *held* photos (the split `val`, which only stopped trainings) decides how far the
mean of users may leave the generic model (`population_mean`), and how much of the differences between users that EM has
found is believed (`gains`, `believed`, `narrowed`).

    uv run pytest tests/model/test_unseen.py
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from model import personal
from model.personal import Prior, Stats

PENALTIES = (1e6, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3)
"""Of the rest of `population_mean`; with the first there is none."""
ENOUGH = 20
"""Held photos that may choose between them."""


def population_mean(
    phi: Tensor, target: Tensor, raters: Tensor, base: Tensor, held: Tensor | None = None, *, steady: float = 10.0
) -> Tensor:
    """Prior mean m (D, P) from what people on average say of each photo, held back towards the generic model.

    phi (N, D, P) of the photos; target (N, D): mean over users of the rating minus the user's own mean, plus the
    mean over users, NaN = nobody rated; raters (N, D): how many did; base (D, P): the generic model; held (N,) bool: photos
    that no expert's model was fitted on.
    m is the generic model with a slope and level of its own, plus a ridge-penalised rest. Many users on few photos
    say much about these photos and little about others, and models foretell photos they were fitted on better than
    others: so the penalty is chosen by the held photos. With fewer than ENOUGH of them it is chosen by leaving photos
    out, and the rest is left out altogether unless it improves the left-out photos by more than its standard error.
    """
    means = base.clone()
    for d in range(phi.shape[1]):
        known = ~target[:, d].isnan() & (raters[:, d] > 0) & ~phi[:, d].isnan().any(1)
        f, t = phi[known, d], target[known, d]
        if len(t) < 8 or not (f != 0).any():
            continue
        weight = (raters[known, d] / (raters[known, d] + steady)).sqrt()
        level = torch.zeros_like(base[d])
        level[0] = 1.0
        shape = base[d] * (1 - level)
        columns = torch.stack([level, shape, *torch.eye(len(level), dtype=torch.float64)[1:]], 1)  # (P, 2 + P-1)
        x, y = (f @ columns) * weight[:, None], t * weight
        unseen = torch.zeros_like(t, dtype=torch.bool) if held is None else held[known]
        choose = bool(unseen.sum() >= ENOUGH)

        penalties = [p * float(weight.mean()) ** 2 for p in PENALTIES]
        best = 0
        if choose:
            errors = [(y - x @ _ridge(x[~unseen], y[~unseen], p)[0])[unseen] ** 2 for p in penalties]
            best = min(range(len(errors)), key=lambda k: float(errors[k].mean()))
        else:
            errors = [_ridge(x, y, p)[1] for p in penalties]
            for k, error in enumerate(errors):
                gain = errors[0] - error
                if error.mean() < errors[best].mean() and gain.mean() > gain.std() / len(t) ** 0.5:
                    best = k
        means[d] = columns @ _ridge(x, y, penalties[best])[0]
    return means


def _ridge(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Coefficients (K,) of y (n,) on x (n, K), all but two penalised, and squared errors with each row left out."""
    by = torch.full((x.shape[1],), penalty, dtype=torch.float64)
    by[:2] = 1e-6
    inverse = torch.linalg.inv(x.T @ x + torch.diag(by))
    found = inverse @ (x.T @ y)
    return found, ((y - x @ found) / (1 - ((x @ inverse) * x).sum(1)).clamp_min(1e-6)) ** 2


RATIOS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.17, 0.1, 0.05, 0.02, 0.0)
"""Shares of the differences between users, as EM found them, that may be believed."""
DOUBT = 2.0
"""Standard errors by which a smaller share has to be better than the whole."""


def narrowed(prior: Prior, ratio: Tensor) -> Prior:
    """A prior whose users differ by `ratio` (D,) as much in variance; their levels as much as they did."""
    by = ratio[:, None, None]
    cov = prior.cov * by
    cov[:, 0], cov[:, :, 0] = prior.cov[:, 0] * by[:, 0].sqrt(), prior.cov[:, :, 0] * by[:, 0].sqrt()
    cov[:, 0, 0] = prior.cov[:, 0, 0]
    return replace(prior, cov=cov)


def gains(prior: Prior, prior_mean: Tensor, seen: Stats, phi: Tensor, y: Tensor, user: Tensor) -> Tensor:
    """By how much smaller shares foretell held ratings better, each user from their other ratings: sums over users, of the
    squared errors less and of the square of that, and users: (3, len(RATIOS), D). Sums of disjoint users add up.

    prior_mean (U, D, P) and seen: of the users; phi (R, D, P), y (R, D), user (R,): held ratings.
    """
    errors = torch.zeros(len(RATIOS), *prior_mean.shape[:2], dtype=torch.float64)
    for k, ratio in enumerate(RATIOS):
        found = personal.posterior(narrowed(prior, ratio * torch.ones_like(prior.noise)), prior_mean, seen)
        missed = y - (phi * found.mean[user]).sum(-1)
        errors[k].index_add_(0, user, missed.square().nan_to_num())
    gain = errors[0] - errors
    asked = (errors[0] > 0).to(torch.float64).sum(0).expand(len(RATIOS), -1)
    return torch.stack([gain.sum(1), gain.square().sum(1), asked])


def believed(sums: Tensor) -> Tensor:
    """The share (D,) to believe, by `gains` of all users: the best one, if it is better than 1 beyond DOUBT."""
    gain, square, users = sums
    users = users.clamp_min(2)
    sure = (square - gain**2 / users).clamp_min(0).sqrt() * DOUBT
    best = torch.where(gain > sure, gain, 0.0).argmax(0)
    return torch.tensor(RATIOS, dtype=torch.float64)[best]
