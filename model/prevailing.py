"""The prevailing way to personalise, to compare with: one generic model, its last layer fine-tuned on a user's ratings.

A user's scores are base(x) + c + θ·z(x), with z the features of the generic network's last layer and (c, θ) starting at
zero, which is the generic model itself. `fine_tuned` is what is usually done: Adam at its default step, a fixed number of
epochs. `ridge` is the same model at the minimum of the squared error plus λF|θ|² (a pull to the start, L2-SP), in closed
form; with λ chosen on other users it is that paradigm at its best. Both are batched over users.

Notation of shapes: U users, n ratings each, N photos, D dimensions, F features. float64.
Sources: Kingma & Ba 2015; Li, Grandvalet & Davoine 2018 (L2-SP).

    uv run pytest tests/model/test_prevailing.py
"""

import torch
from torch import Tensor

EPOCHS, STEP = 100, 1e-3
CHUNK = 100
"""Users whose features are unfolded at once."""


def standardised(features: Tensor, on: Tensor, each: bool = True) -> Tensor:
    """Features (N, F) of mean 0 over the photos `on` (N,) bool, and of mean square 1.

    each: every feature by its own spread; else all by one, so that features that hardly vary count little.
    """
    centred = features - features[on].mean(0)
    spread = centred[on].square().mean(0).sqrt()
    scale = spread if each else spread.square().mean().sqrt()
    return torch.where(spread > 1e-9, centred / torch.where(spread > 1e-9, scale, 1.0), 0.0)


def fine_tuned(
    features: Tensor, base: Tensor, asked: Tensor, y: Tensor, *, epochs: int = EPOCHS, step: float = STEP
) -> Tensor:
    """Scores (U, N, D) after `epochs` of Adam on all of a user's ratings at once.

    features (N, D, F), base (U, N, D); asked (U, n): rows of the photos rated, y (U, n, D): ratings, NaN = not rated.
    """
    parts = []
    for users in torch.arange(len(asked)).split(CHUNK):
        x = features[asked[users]]  # (u, n, D, F)
        target = y[users] - _at(base[users], asked[users])
        known = ~target.isnan()
        count = known.sum(1).clamp_min(1)
        residual = torch.where(known, target, 0.0)
        weights = torch.zeros(len(users), x.shape[2], x.shape[3], dtype=x.dtype, requires_grad=True)
        level = torch.zeros(len(users), x.shape[2], dtype=x.dtype, requires_grad=True)
        adam = torch.optim.Adam([weights, level], lr=step)
        for _ in range(epochs if asked.shape[1] else 0):
            adam.zero_grad()
            error = torch.einsum("undf,udf->und", x, weights) + level[:, None] - residual
            ((torch.where(known, error, 0.0) ** 2).sum(1) / count).sum().backward()
            adam.step()
        parts.append(base[users] + torch.einsum("ndf,udf->und", features, weights.detach()) + level.detach()[:, None])
    return torch.cat(parts)


def ridge(
    features: Tensor, base: Tensor, asked: Tensor, y: Tensor, penalty: Tensor, at: Tensor | None = None
) -> Tensor:
    """Scores (U, N, D) at the minimum of Σ (y - base - c - θ·z)² + λF|θ|² + c². penalty (D,): λ; inf: only the level.

    Shapes as in `fine_tuned`. at (M,): only of these photos, (U, M, D).
    """
    at = torch.arange(base.shape[1]) if at is None else at
    scores = base[:, at]
    if not asked.shape[1]:
        return scores
    eye = torch.eye(asked.shape[1], dtype=base.dtype)
    for d in range(base.shape[2]):
        shrunk = 1 / (features.shape[2] * penalty[d])
        for users in torch.arange(len(asked)).split(CHUNK):
            rows = asked[users]
            residual = y[users, :, d] - base[users, :, d].gather(1, rows)
            known = ~residual.isnan()
            x = features[rows, d] * known[..., None]  # (u, n, F)
            inner = shrunk * x @ x.transpose(1, 2) + (known[:, :, None] & known[:, None]) + eye
            solved = torch.linalg.solve(inner, torch.where(known, residual, 0.0)[..., None])[..., 0]
            weights = shrunk * torch.einsum("unf,un->uf", x, solved)
            scores[users, :, d] += weights @ features[at, d].T + (solved * known).sum(1, keepdim=True)
    return scores


def _at(scores: Tensor, asked: Tensor) -> Tensor:
    """Scores (U, n, D) of the photos asked, out of (U, N, D)."""
    return scores.gather(1, asked[..., None].expand(-1, -1, scores.shape[2]))
