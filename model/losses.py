"""Losses over three dimensions of which any may be unrated."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.scores import DIMENSIONS


class UncertaintyWeighted(nn.Module):
    """Sum over dimensions of exp(-s)·MSE + s with learned log-variances s (Kendall et al., CVPR 2018).

    The paper's own optimiser is never given its s, which makes it a plain sum; here they are parameters
    like any others. A rating that is NaN takes no part; a dimension that nobody rated in the batch
    contributes nothing at all, not even its s.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(len(DIMENSIONS)))

    def forward(self, predicted: Tensor, rated: Tensor) -> Tensor:
        """Scalar loss of (B, 3) predictions against (B, 3) ratings with NaN where nobody rated."""
        known = torch.isfinite(rated)
        error = torch.where(known, predicted - rated.nan_to_num(), 0.0).square()
        count = known.sum(dim=0)
        mse = error.sum(dim=0) / count.clamp(min=1)
        return ((torch.exp(-self.log_variance) * mse + self.log_variance) * (count > 0)).sum()


class SumOfSquares(nn.Module):
    """Plain masked sum of MSEs over dimensions: what the released weights were trained with."""

    def forward(self, predicted: Tensor, rated: Tensor) -> Tensor:
        known = torch.isfinite(rated)
        error = torch.where(known, predicted - rated.nan_to_num(), 0.0).square()
        return (error.sum(dim=0) / known.sum(dim=0).clamp(min=1)).sum()


LOSSES: dict[str, type[nn.Module]] = {"uncertainty": UncertaintyWeighted, "sum": SumOfSquares}
