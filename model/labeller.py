"""The built-in labeller: what the pipeline knows of a photo → three scores and how far off they may be.

A Gaussian policy: N(μ(x), σ²) per dimension with μ(x) = base(x) + φ(x) W. φ is the standardised description of a photo
(image vector, body points, principal shape) and a fixed random layer on top of it (random Fourier features: Rahimi &
Recht 2007); W is Bayesian, so there is a spread of what is not known yet beside that of what people disagree on. `base`
is a constant, or what a labeller made elsewhere said. Two ways of learning from revisions:

- `supervised`: W anew from every label so far, in closed form, its penalty chosen by leave-one-out;
- `preference`: from the last round's revisions alone. The revised label is preferred over the pseudo-label (the logistic
  preference loss of DPO, Rafailov et al. 2023, whose log-ratio of two Gaussians is (y⁺-y⁻)(μ-μ₀)/σ² when y⁻ = μ₀), with
  a KL tie to the policy that drafted the round. Convex in W.

    .venv/bin/python -m pytest tests/model/test_labeller.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from model.scores import SCALE
from model.views import FrameInputs

RANDOM_FEATURES = 400
REACH = 0.5
"""Frequencies of the random layer; 0.2 to 1 are alike on mannequins."""
DIRECTIONS = 40
"""Principal directions of the description that the random layer reads."""
PENALTIES = np.logspace(-1, 5, 19)
PREFERENCE, TIE = 1.0, 0.5
"""Of the preference loss: slope β and weight of the KL tie. With β = 2 · tie small errors are made good at once."""
UNTAUGHT = 2.0
"""Standard deviation of labels around a draft that nothing has taught, points."""
LEAST = 5
"""Labels of a dimension, below which nothing but their mean is learned."""


def describe(inputs: FrameInputs, seed: int = 0) -> np.ndarray:
    """(N, F) float64 features φ of photos; standardised over these photos, so all that will be drafted belong in."""
    from model.graph import normalise_points

    parts = [inputs.vector[:, 0].numpy()]
    if inputs.visible.any():
        visible = inputs.visible[:, None].expand(-1, inputs.points.shape[1])
        parts.append(normalise_points(inputs.points, visible).flatten(1).numpy())
        flat = inputs.vertices[:, ::50].float().flatten(1)
        flat = torch.where(inputs.visible[:, None], flat - flat[inputs.visible].mean(0), 0.0)
        axes = torch.linalg.svd(flat, full_matrices=False)
        parts.append((axes.U[:, :10] * axes.S[:10]).numpy())
    x = np.concatenate(parts, axis=1).astype(np.float64)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    z = u[:, :DIRECTIONS] * s[:DIRECTIONS]
    z /= max(z[:, 0].std(), 1e-6)
    rng = np.random.default_rng([seed, 21])
    waves = z @ rng.normal(scale=REACH, size=(z.shape[1], RANDOM_FEATURES)) + rng.uniform(0, 2 * np.pi, RANDOM_FEATURES)
    return np.concatenate([x, np.sqrt(2.0) * np.cos(waves)], axis=1)


@dataclass(frozen=True)
class Labeller:
    """The policy. All arrays float64; D = 3 dimensions."""

    weights: np.ndarray
    """(F, D) W."""
    mean: np.ndarray
    """(D,) added to base."""
    noise: np.ndarray
    """(D,) σ: how far labels lie off even where all is known, points."""
    penalty: np.ndarray
    """(D,) λ."""
    axes: np.ndarray
    """(K, F) orthonormal directions in which something was learned, and"""
    strength: np.ndarray
    """(K,) how much: singular values of the features of the labelled photos."""

    def draft(self, x: np.ndarray, base: np.ndarray) -> np.ndarray:
        """(N, D) μ of photos with features (N, F) and base (N, D), within the scale."""
        return np.clip(base + self.mean + x @ self.weights, *SCALE)

    def unknown(self, x: np.ndarray) -> np.ndarray:
        """(N, D) standard deviation of μ: what more labels would take away."""
        along = (x @ self.axes.T) ** 2
        rest = np.maximum((x**2).sum(1) - along.sum(1), 0)
        known = along @ (1 / (self.strength[:, None] ** 2 + self.penalty))
        return self.noise * np.sqrt(known + rest[:, None] / self.penalty)

    def spread(self, x: np.ndarray) -> np.ndarray:
        """(N, D) standard deviation of a label around μ, points."""
        return np.sqrt(self.noise**2 + self.unknown(x) ** 2)


def supervised(x: np.ndarray, labels: np.ndarray, base: np.ndarray) -> Labeller:
    """The policy that (N, D) labels of photos teach; NaN = no label. x: (N, F); base: (N, D).

    Dimensions with fewer than `LEAST` labels are drafted as base and their mean.
    """
    off = labels - base
    count = off.shape[1]
    weights, mean = np.zeros((x.shape[1], count)), np.zeros(count)
    noise, penalty = np.full(count, UNTAUGHT), np.full(count, PENALTIES[-1])
    for d in range(count):
        use = np.isfinite(off[:, d])
        mean[d] = off[use, d].mean() if use.any() else 0.0
        if use.sum() < LEAST:
            continue
        u, s, vt = np.linalg.svd(x[use], full_matrices=False)
        along = u.T @ (off[use, d] - mean[d])
        best = np.inf
        for candidate in PENALTIES:
            shrink = s**2 / (s**2 + candidate)
            left = np.maximum(1 - (u**2 * shrink).sum(1), 1e-6)
            error = np.mean(((off[use, d] - mean[d] - u @ (shrink * along)) / left) ** 2)
            if error < best:
                best, penalty[d], noise[d] = error, candidate, np.sqrt(error)
                weights[:, d] = vt.T @ (s / (s**2 + candidate) * along)
    _, strength, axes = np.linalg.svd(x[np.isfinite(off).any(1)], full_matrices=False)
    return Labeller(weights, mean, np.maximum(noise, 0.05), penalty, axes, strength)


def preference(before: Labeller, x: np.ndarray, drafts: np.ndarray, revised: np.ndarray) -> Labeller:
    """The policy after a round: revised labels are preferred over the drafts, tied to `before`, which made them.

    x: (N, F) features of the round's photos. drafts: (N, D). revised: (E, N, D) of E experts; NaN = none.
    """
    weights = torch.from_numpy(before.weights)
    change = torch.zeros_like(weights, requires_grad=True)
    shift = torch.zeros(weights.shape[1], dtype=torch.float64, requires_grad=True)
    features, noise = torch.from_numpy(x), torch.from_numpy(before.noise)
    gap = torch.from_numpy(revised - drafts).nan_to_num(nan=0.0)
    there = torch.from_numpy(np.isfinite(revised - drafts))
    decay = torch.from_numpy(before.penalty) / noise**2 / 2
    solver = torch.optim.LBFGS([change, shift], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        moved = features @ change + shift  # μ - μ₀
        prefer = -torch.nn.functional.logsigmoid(PREFERENCE * gap * moved / noise**2)
        tie = TIE * moved**2 / (2 * noise**2)
        total = ((prefer + tie) * there).sum() + (decay * change**2).sum()
        total.backward()
        return total

    solver.step(loss)
    return replace(before, weights=before.weights + change.detach().numpy(), mean=before.mean + shift.detach().numpy())


def disagreement(
    x: np.ndarray, labels: np.ndarray, base: np.ndarray, wanted: np.ndarray, base_wanted: np.ndarray
) -> np.ndarray:
    """(M,) how far experts' own policies differ on photos `wanted` (M, F): standard deviation, mean over dimensions.

    labels: (E, N, D) of E experts on the photos x (N, F).
    """
    said = np.stack([supervised(x, own, base).draft(wanted, base_wanted) for own in labels])
    return said.std(0).mean(1) if len(said) > 1 else np.zeros(len(wanted))

