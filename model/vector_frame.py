"""VectorFrame: an item scored from its vector alone, where there is no photo (`data.source: features`).

It stands where a PhysiqueFrame stands, with the same calls, so that training, registry and personal models know no other
way. The vector is standardised, a ridge regression in closed form is where training starts (its penalty is chosen by
leaving items out), and a small network on vector and preference learns what is bent. An expert's model starts from the
joint one: its ridge is on what that one gets wrong, so few ratings move it little.

    frame = VectorFrame(FrameConfig.of("vector", 12))
    frame.begin(vectors, labels)                               # (N, 12), (N, R, 3)
    fused = frame.fuse(vectors, preference=frame.preference(survey, vectors))     # standardised vector and preference
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.compat import Compat
from model.physique_frame import FrameConfig, PhysiqueFrame
from model.preference import NEUTRAL, PreferenceNet
from model.preference import WIDTH as PREFERENCE_WIDTH
from model.scores import DIMENSIONS, SCALE

SIZE = "vector"
PENALTIES = torch.logspace(-1, 6, 22, dtype=torch.float64)
LEAST = 5
"""Labels of a dimension, below which nothing but their mean is learned."""


class VectorFrame(nn.Module):
    """Scores of an item, given as (B, D) vector, as one rater would give them."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: FrameConfig, compat: str | Compat = "fixed"):
        super().__init__()
        width, hidden = config.image_width, config.head_widths[0]
        self.config, self.compat = config, Compat.of(compat)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.preference_net = PreferenceNet(width)
        self.width = width + PREFERENCE_WIDTH
        self.straight = nn.Linear(width, len(DIMENSIONS))
        self.bent = nn.Sequential(
            nn.Linear(self.width, hidden), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(hidden, len(DIMENSIONS))
        )
        for layer in (self.straight, self.bent[-1]):  # the ridge alone to begin with
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def recompute(self, on: bool = True) -> None:
        """Nothing here is worth computing twice."""

    def standardised(self, vector: Tensor) -> Tensor:
        """(B, D) vectors with mean 0 and deviation 1 on the items that the frame was fitted on."""
        return (vector - self.mean) / self.scale

    def preference(self, survey: Tensor, vector: Tensor) -> Tensor:
        """(B, 5) preference vectors of raters with (B, 32) survey codes for (B, D) vectors."""
        return self.preference_net(survey, self.standardised(vector))

    def fuse(self, image: Tensor, vertices=None, points=None, preference=None, visible=None, vector=None) -> Tensor:
        """(B, D + 5) standardised vector and preference; bodies are not read.

        Args:
            image: (B, D) vectors, unless `vector` is given.

        Raises:
            ValueError: vectors of another length.
        """
        vector = image if vector is None else vector
        if vector.ndim != 2 or vector.shape[1] != self.config.image_width:
            raise ValueError(f"vector: shape {tuple(vector.shape)}, expected ({len(vector)}, {self.config.image_width})")
        if preference is None:
            preference = torch.full((len(vector), PREFERENCE_WIDTH), NEUTRAL, device=vector.device)
        return torch.cat([self.standardised(vector), preference.to(vector.dtype)], 1)

    def score(self, fused: Tensor) -> Tensor:
        """(B, D + 5) → (B, 3) scores from 0 to 10 in the order of DIMENSIONS."""
        return self._unbounded(fused).clamp(*SCALE)

    def _unbounded(self, fused: Tensor) -> Tensor:
        return self.straight(fused[:, :-PREFERENCE_WIDTH]).float() + self.bent(fused).float()

    @torch.no_grad()
    def begin(self, vectors: Tensor, labels: Tensor, fresh: bool = True) -> None:
        """Add the ridge regression of what is not explained yet.

        Args:
            vectors: (N, D). labels: (N, R, 3) of R raters, NaN where nobody rated.
            fresh: nothing was learned before; the mean and deviation of these vectors are taken too.
        """
        if fresh:
            deviation = vectors.std(0, correction=0)
            self.mean.copy_(vectors.mean(0))
            self.scale.copy_(torch.where(deviation > 1e-6 * vectors.abs().amax(0), deviation, 1.0))
        was, _ = self.training, self.eval()
        fused = self.fuse(vectors)
        off = (labels.nanmean(1) - self._unbounded(fused)).double()
        x = fused[:, :-PREFERENCE_WIDTH].double()
        for d in range(off.shape[1]):
            use = off[:, d].isfinite()
            level = off[use, d].mean() if use.any() else torch.tensor(sum(SCALE) / 2 if fresh else 0.0)
            if use.sum() >= LEAST:
                weights, level = ridge(x[use], off[use, d])
                self.straight.weight[d] += weights.to(self.straight.weight.dtype)
            self.straight.bias[d] += level.to(self.straight.bias.dtype)
        self.train(was)


Frame = PhysiqueFrame | VectorFrame


def ridge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (D,) and level of y (N,) on x (N, D), float64, the level unpenalised; the penalty by leave-one-out."""
    centre, level = x.mean(0), y.mean()
    z, off = x - centre, y - level
    values, axes = torch.linalg.eigh(z.T @ z)
    along = z @ axes  # (N, D)
    pull, squares, best = along.T @ off, along.square(), (torch.inf, PENALTIES[-1])
    for penalty in PENALTIES:
        back = 1 / (values.clamp_min(0) + penalty)
        kept = (1 - 1 / len(y) - squares @ back).clamp_min(1e-6)
        error = ((off - along @ (back * pull)) / kept).square().mean()
        if error < best[0]:
            best = (error, penalty)
    weights = axes @ (pull / (values.clamp_min(0) + best[1]))
    return weights, level - centre @ weights
