"""The mesh stream: a PointMLP over the vertices of a body mesh (Ma et al., ICLR 2022, "elite" layout).

Every SMPL-X mesh has the same vertices in the same order, so centres and neighbours are found once, on a
mean mesh, and kept as index tables: a forward pass is gathers and 1×1 convolutions, without any search.
That is an approximation of searching each mesh anew (a vertex's neighbours on one body are its neighbours
on another to within a few border vertices); it is exact for the mean mesh itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def furthest_points(points: Tensor, count: int) -> Tensor:
    """Indices (count,) of furthest-point sampling over `points` (N, 3), starting at point 0.

    Ties go to the smallest index, so the result depends on the points alone.
    """
    chosen = torch.zeros(count, dtype=torch.long)
    nearest = torch.full((len(points),), torch.inf)
    for i in range(1, count):
        nearest = torch.minimum(nearest, (points - points[chosen[i - 1]]).square().sum(-1))
        chosen[i] = nearest.argmax()
    return chosen


def nearest_points(centres: Tensor, points: Tensor, count: int) -> Tensor:
    """Indices (S, count) into `points` (N, 3) of the nearest to each of `centres` (S, 3), nearest first."""
    distance = torch.cdist(centres, points, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.topk(count, largest=False, sorted=True).indices


class Residual(nn.Module):
    """Two pointwise layers with a bottleneck of a quarter, added to their input. (R, C) → (R, C)."""

    def __init__(self, channels: int):
        super().__init__()
        narrow = max(channels // 4, 8)
        self.net1 = nn.Sequential(
            nn.Linear(channels, narrow, bias=False), nn.BatchNorm1d(narrow), nn.ReLU(inplace=True)
        )
        self.net2 = nn.Sequential(nn.Linear(narrow, channels, bias=False), nn.BatchNorm1d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.net2(self.net1(x)))


class Stage(nn.Module):
    """Gather neighbours, normalise their differences to the centre, mix, take the maximum over neighbours."""

    centres: Tensor
    neighbours: Tensor

    def __init__(self, channels: int, out: int, centres: int, neighbours: int):
        super().__init__()
        self.affine_alpha = nn.Parameter(torch.ones(channels))
        self.affine_beta = nn.Parameter(torch.zeros(channels))
        self.transfer = nn.Sequential(
            nn.Linear(2 * channels, out, bias=False), nn.BatchNorm1d(out), nn.ReLU(inplace=True)
        )
        self.pre = Residual(out)
        self.pos = Residual(out)
        self.register_buffer("centres", torch.zeros(centres, dtype=torch.long))
        self.register_buffer("neighbours", torch.zeros(centres, neighbours, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) features of N points → (B, S, C') of the S centres."""
        anchor = x[:, self.centres]  # (B, S, C)
        difference = x[:, self.neighbours] - anchor[:, :, None]  # (B, S, K, C)
        sigma = difference.flatten(1).std(dim=1)[:, None, None, None]
        difference = difference / (sigma + 1e-5) * self.affine_alpha + self.affine_beta
        pairs = torch.cat([difference, anchor[:, :, None].expand_as(difference)], dim=-1)
        batch, size, count, _ = pairs.shape
        mixed = self.pre(self.transfer(pairs.flatten(0, 2)))  # rows of points, which BatchNorm wants
        pooled = mixed.view(batch, size, count, -1).amax(dim=2)
        return self.pos(pooled.flatten(0, 1)).view(batch, size, -1)


class PointMLP(nn.Module):
    """(B, 10475, 3) vertices in metres → (B, width) mesh feature.

    Args:
        points: how many vertices are kept; each stage keeps a quarter of the one before.
        channels: width of the embedding and of each stage's output; the last one is the feature's width.
        neighbours: K of each centre.
    """

    kept: Tensor

    def __init__(self, points: int, channels: tuple[int, ...], neighbours: int):
        super().__init__()
        self.register_buffer("kept", torch.zeros(points, dtype=torch.long))
        self.embedding = nn.Sequential(
            nn.Linear(3, channels[0], bias=False), nn.BatchNorm1d(channels[0]), nn.ReLU(inplace=True)
        )
        sizes = [points // 4 ** (i + 1) for i in range(len(channels) - 1)]
        self.stages = nn.ModuleList(
            Stage(a, b, size, neighbours) for a, b, size in zip(channels, channels[1:], sizes, strict=False)
        )
        self.width = channels[-1]

    @torch.no_grad()
    def set_topology(self, mean_mesh: Tensor) -> None:
        """Choose the kept vertices, centres and neighbours on a mean mesh (10475, 3), in metres."""
        mean_mesh = mean_mesh.detach().float().cpu()
        self.kept.copy_(furthest_points(mean_mesh, len(self.kept)))
        points = mean_mesh[self.kept.cpu()]
        for stage in self.stages:
            assert isinstance(stage, Stage)
            centres = furthest_points(points, len(stage.centres))
            stage.centres.copy_(centres)
            stage.neighbours.copy_(nearest_points(points[centres], points, stage.neighbours.shape[1]))
            points = points[centres]

    @torch.no_grad()
    def take_topology(self, other: PointMLP) -> None:
        """Take the kept vertices, centres and neighbours of another one of the same sizes."""
        mine, theirs = dict(self.named_buffers()), dict(other.named_buffers())
        for name in [n for n in mine if n.split(".")[-1] in ("kept", "centres", "neighbours")]:
            mine[name].copy_(theirs[name])

    def forward(self, vertices: Tensor) -> Tensor:
        x = vertices[:, self.kept].float()
        batch, points, _ = x.shape
        x = self.embedding(x.flatten(0, 1)).view(batch, points, -1)
        for stage in self.stages:
            x = stage(x)
        return x.amax(dim=1)
