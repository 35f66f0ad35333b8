"""What to ask next: the photos whose ratings would teach most about a user.

What matters of a personal model is how it orders photos. So a set of ratings is worth what it takes off the variance of
the differences between photos, pairs counted by how likely the user is to order them otherwise than expected (the
density of their difference at zero): of a pair that is all but settled there is nothing to learn. Ratings of a linear
Gaussian model take the same off whatever they turn out to be, so a whole list can be chosen at once, photo after photo
(greedy), and each is exchanged for a better one while there is any (Fedorov 1972; A-optimal design, Chaloner &
Verdinelli 1995).

    uv run pytest tests/model/test_ask.py
"""

import torch
from torch import Tensor

MOST_TARGETS = 300
"""Pairs of more photos than these say nothing new."""


def next_photos(
    phi: Tensor, mean: Tensor, cov: Tensor, noise: Tensor, count: int, targets: Tensor | None = None
) -> Tensor:
    """Rows of the `count` photos to ask about, the most telling first (fewer if there are fewer).

    phi (N, D, P): photos that may be asked; mean (D, P), cov (D, P, P) and noise (D,): what is known of the user
    (`personal.Posterior`). A dimension of which φ is NaN or zero, or noise NaN, is left out. targets (M, D, P): photos to
    be told apart, default `phi` itself.
    """
    aims = phi if targets is None else targets
    views = []
    for d in range(phi.shape[1]):
        f, aim = phi[:, d].nan_to_num(0.0), aims[:, d]
        aim = aim[~aim.isnan().any(1)]
        if not torch.isfinite(noise[d]) or not f.any() or len(aim) < 2:
            continue
        values, vectors = torch.linalg.eigh(cov[d].to(torch.float64))
        kept = values > values[-1] * 1e-9
        root = vectors[:, kept] * values[kept].sqrt()  # in these coordinates the user is N(0, 1) in every direction
        expected, order = torch.sort(aim @ mean[d], stable=True)
        some = torch.linspace(0, len(aim) - 1, min(len(aim), MOST_TARGETS)).round().long()
        views.append((f @ root / noise[d].sqrt(), _open_pairs(aim[order[some]] @ root, expected[some])))
    chosen: list[int] = []
    if not views:
        return torch.zeros(0, dtype=torch.long)
    state = [torch.eye(x.shape[1], dtype=torch.float64) for x, _ in views]
    for _ in range(min(count, len(phi))):
        pick = _best(views, state, chosen)
        chosen.append(pick)
        state = [_told(s, x[pick]) for s, (x, _) in zip(state, views)]
    for _ in range(5):
        before = list(chosen)
        for place in range(len(chosen)):
            rest = chosen[:place] + chosen[place + 1 :]
            chosen[place] = _best(views, [_after(x[rest]) for x, _ in views], rest)
        if chosen == before:
            break
    return torch.tensor(chosen, dtype=torch.long)


def _open_pairs(x: Tensor, expected: Tensor) -> Tensor:
    """L (P, P) with LLᵀ = Σ w (x_i - x_j)(x_i - x_j)ᵀ over pairs of x (M, P), scaled so that the prior's share is 1."""
    square = torch.cdist(x, x) ** 2 + 1e-12
    weight = torch.exp(-0.5 * (expected[:, None] - expected) ** 2 / square) / square.sqrt()
    weight.fill_diagonal_(0.0)
    # Σ w (x_i - x_j)(x_i - x_j)ᵀ is the Laplacian of w between x
    matrix = 2 * (x.T @ (weight.sum(1)[:, None] * x) - x.T @ weight @ x)
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * (values.clamp_min(0) / values.clamp_min(0).sum().clamp_min(1e-300)).sqrt()


def _after(x: Tensor) -> Tensor:
    """Covariance (P, P) of N(0, 1) weights after ratings of x (n, P) with noise 1."""
    return torch.linalg.inv(torch.eye(x.shape[1], dtype=x.dtype) + x.T @ x)


def _told(state: Tensor, x: Tensor) -> Tensor:
    """`state` after one more rating, of x (P,)."""
    seen = state @ x
    return state - torch.outer(seen, seen) / (1 + x @ seen)


def _best(views: list[tuple[Tensor, Tensor]], state: list[Tensor], taken: list[int]) -> int:
    """Row that takes most off the variance of differences, summed over dimensions as shares of what there is."""
    gain = torch.zeros(len(views[0][0]), dtype=torch.float64)
    for (x, pairs), s in zip(views, state):
        seen = x @ s
        gain += ((seen @ pairs) ** 2).sum(1) / (1 + (seen * x).sum(1))
    gain[taken] = -1.0
    return int(gain.argmax())
