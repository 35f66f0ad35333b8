"""The mesh stream: a PointMLP over the vertices of a body mesh (Ma et al., ICLR 2022, "elite" layout).

Notable:
- A pair of neighbours enters a stage as [(x_j - x_i)/σ·α + β, x_i] through a linear layer. The half of it that reads
  the centre, and α, β, σ, are applied once per centre or to the weights instead of to all S·K pairs.
- In evaluation the norms are folded into the layers and pairs are worked on in blocks that stay in the cache; the
  reference's [S·K, 2C] tensors are what costs it 40 % of its time on a CPU.
- Differences of neighbours are small beside the features themselves: they are taken in float32, also under autocast.
- Who is a centre and who its neighbours: searched on every mesh (`search="direct"` or `"expanded"`, see
  model/neighbours.py), or found once on a mean mesh and used for all (`"shared"`): every SMPL-X mesh has the same
  vertices in the same order. The latter is exact for the mean mesh only.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from model.neighbours import furthest_points, nearest_points

BLOCK = 1 << 18  # floats of pairs worked on at a time on a CPU (1 MB)
Tables = list[tuple[Tensor, Tensor]]  # per stage: centres (B or 1, S), neighbours (B or 1, S, K)


def pointwise(channels: int, out: int) -> list[nn.Module]:
    return [nn.Linear(channels, out, bias=False), nn.BatchNorm1d(out)]


def folded(linear: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (O, I) and bias (O,) of a linear layer with the batch norm behind it, in evaluation."""
    assert isinstance(linear, nn.Linear) and isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return linear.weight * scale[:, None], norm.bias - norm.running_mean * scale


class Residual(nn.Module):
    """Two pointwise layers with a bottleneck of a quarter, added to their input. (R, C) → (R, C)."""

    def __init__(self, channels: int):
        super().__init__()
        narrow = max(channels // 4, 8)
        self.net1 = nn.Sequential(*pointwise(channels, narrow), nn.ReLU(inplace=True))
        self.net2 = nn.Sequential(*pointwise(narrow, channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.net2(self.net1(x)))

    def folded(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return *folded(self.net1[0], self.net1[1]), *folded(self.net2[0], self.net2[1])


def residual(x: Tensor, weights: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """A folded `Residual`, writing over its input. (R, C) → (R, C)."""
    w1, b1, w2, b2 = weights
    inner = F.linear(F.linear(x, w1, b1).relu_(), w2, b2)
    return x.add_(inner).relu_()


def convolved(layers: nn.Module, x: Tensor) -> Tensor:
    """A linear layer and its norm as the specification has them: a convolution over (R, C, L) and a batch norm."""
    linear, norm = layers[0], layers[1]  # type: ignore[index]
    return norm(F.conv1d(x, linear.weight[..., None]))


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of (B, N, C) at (B or 1, …): (B, …, C)."""
    if len(x) == 1:
        return x[0].index_select(0, index.reshape(-1)).view(*index.shape, -1)
    first = torch.arange(len(x), device=x.device).view(-1, *[1] * (index.ndim - 1)) * x.shape[1]
    flat = (index + first).reshape(-1)  # one index: its gradient is added up without sorting pairs of them
    return x.reshape(-1, x.shape[2]).index_select(0, flat).view(len(x), *index.shape[1:], -1)


class Stage(nn.Module):
    """Gather neighbours, normalise their differences to the centre, mix, take the maximum over neighbours."""

    def __init__(self, channels: int, out: int, blocks: int):
        super().__init__()
        self.literal = False
        self.affine_alpha = nn.Parameter(torch.ones(channels))
        self.affine_beta = nn.Parameter(torch.zeros(channels))
        self.transfer = nn.Sequential(*pointwise(2 * channels, out))
        self.pre = nn.ModuleList(Residual(out) for _ in range(blocks))
        self.pos = nn.ModuleList(Residual(out) for _ in range(blocks))

    def forward(self, x: Tensor, centres: Tensor, neighbours: Tensor) -> Tensor:
        """(B, N, C) features of N points → (B, S, C') of the S centres."""
        if self.literal:
            return self._literal(x, centres, neighbours)
        if self.training or torch.is_grad_enabled():
            return self._whole(x, centres, neighbours)
        if x.is_cuda:
            return self._in_blocks(x, centres, neighbours, centres.shape[1])
        step = max(1, BLOCK // (neighbours.shape[2] * len(self.transfer[0].weight)))
        parts = [
            self._in_blocks(x[i : i + 1], centres[i : i + 1] if len(centres) > 1 else centres,
                            neighbours[i : i + 1] if len(neighbours) > 1 else neighbours, step)
            for i in range(len(x))
        ]  # fmt: skip
        return torch.cat(parts)

    def _literal(self, x: Tensor, centres: Tensor, neighbours: Tensor) -> Tensor:
        """Operation by operation as specified: the same rounding as the reference's, at twice the time and more."""
        anchor = take(x, centres)[:, :, None]
        difference = take(x, neighbours) - anchor
        difference = difference / (difference.flatten(1).std(dim=1) + 1e-5)[:, None, None, None]
        difference = self.affine_alpha * difference + self.affine_beta
        pairs = torch.cat([difference, anchor.expand_as(difference)], dim=-1)  # (B, S, K, 2C)
        mixed = F.relu(convolved(self.transfer, pairs.flatten(0, 1).mT))  # (B·S, C', K)
        for block in self.pre:
            mixed = F.relu(mixed + convolved(block.net2, F.relu(convolved(block.net1, mixed))))  # type: ignore[union-attr]
        pooled = mixed.amax(dim=-1).view(len(x), -1, mixed.shape[1]).mT  # (B, C', S)
        for block in self.pos:
            pooled = F.relu(pooled + convolved(block.net2, F.relu(convolved(block.net1, pooled))))  # type: ignore[union-attr]
        return pooled.mT.float()

    def _whole(self, x: Tensor, centres: Tensor, neighbours: Tensor) -> Tensor:
        """With a graph for gradients, and in training with the norms' statistics of the batch."""
        anchor = take(x, centres)  # (B, S, C)
        difference = take(x, neighbours) - anchor[:, :, None]  # (B, S, K, C)
        difference = difference / (difference.flatten(1).std(dim=1) + 1e-5)[:, None, None, None]
        linear, norm = self.transfer
        near, far = linear.weight.split(x.shape[-1], dim=1)
        of_centre = F.linear(anchor, far) + F.linear(self.affine_beta, near)
        pairs = F.linear(difference, near * self.affine_alpha) + of_centre[:, :, None]
        batch, size, count, _ = pairs.shape
        mixed = F.relu(norm(pairs.flatten(0, 2)))  # rows of pairs, which BatchNorm wants
        for block in self.pre:
            mixed = block(mixed)
        pooled = mixed.view(batch, size, count, -1).amax(dim=2).flatten(0, 1)
        for block in self.pos:
            pooled = block(pooled)
        return pooled.view(batch, size, -1).float()

    def _in_blocks(self, x: Tensor, centres: Tensor, neighbours: Tensor, step: int) -> Tensor:
        """In evaluation: norms folded into the layers, `step` centres at a time."""
        anchor, size = take(x, centres), centres.shape[1]

        def differences(rows: slice) -> Tensor:
            return take(x, neighbours[:, rows]).sub_(anchor[:, rows, None])

        blocks = [slice(start, start + step) for start in range(0, size, step)]
        total = x.new_zeros(2, len(x), dtype=torch.float64)
        for rows in blocks:
            part = differences(rows).flatten(1)
            total[0] += part.sum(1, dtype=torch.float64)
            total[1] += part.square().sum(1, dtype=torch.float64)
        entries = neighbours[0].numel() * x.shape[2]
        sigma = ((total[1] - total[0].square() / entries) / (entries - 1)).sqrt().float() + 1e-5

        weight, bias = folded(*self.transfer)
        near, far = weight.split(x.shape[2], dim=1)
        of_centre = F.linear(anchor, far) + (F.linear(self.affine_beta, near) + bias)
        near = near * self.affine_alpha
        pre = [block.folded() for block in self.pre]  # type: ignore[operator]
        pos = [block.folded() for block in self.pos]  # type: ignore[operator]
        pooled = []
        for rows in blocks:
            mixed = F.linear(differences(rows).div_(sigma[:, None, None, None]), near)
            mixed = mixed.add_(of_centre[:, rows, None]).relu_()
            for weights in pre:
                mixed = residual(mixed, weights)
            pooled.append(mixed.amax(dim=2))
        out = torch.cat(pooled, dim=1)
        for weights in pos:
            out = residual(out, weights)
        return out.float()


@contextmanager
def still(stage: Stage):
    """Running statistics stay as they are: a recomputed stage has counted its batch already."""
    norms = [module for module in stage.modules() if isinstance(module, nn.BatchNorm1d)]
    before = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms if norm.num_batches_tracked is not None]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, before, counts, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)  # type: ignore[union-attr]


class PointMLP(nn.Module):
    """(B, 10475, 3) vertices in metres → (B, width) mesh feature.

    Args:
        points: how many vertices take part: all of them, or a fixed choice made by `set_topology`.
        channels: width of the embedding and of each stage's output; the last one is the feature's width.
        blocks: residual blocks of each stage, before and again after its maximum.
        neighbours: K of each centre.
        divide: each stage keeps one point in so many.
        search: `direct` or `expanded` on every mesh, or `shared`, on the mean mesh.
        checkpointed: recompute stages in the backward pass instead of keeping their pairs (ten times less memory).
    """

    kept: Tensor

    def __init__(
        self,
        points: int,
        channels: tuple[int, ...],
        neighbours: int,
        blocks: tuple[int, ...] | None = None,
        divide: int = 4,
        search: Literal["direct", "expanded", "shared"] = "shared",
        vertices: int = 10475,
    ):
        super().__init__()
        self.search, self.neighbours, self.width = search, neighbours, channels[-1]
        self.sizes = [points // divide ** (i + 1) for i in range(len(channels) - 1)]
        self.checkpointed = False
        chosen = torch.arange(points) if points == vertices else torch.zeros(points, dtype=torch.long)
        self.register_buffer("kept", chosen, persistent=points != vertices)
        if search == "shared":
            for i, size in enumerate(self.sizes):
                self.register_buffer(f"centres{i}", torch.zeros(size, dtype=torch.long))
                self.register_buffer(f"neighbours{i}", torch.zeros(size, neighbours, dtype=torch.long))
        self.embedding = nn.Sequential(*pointwise(3, channels[0]))
        self.stages = nn.ModuleList(
            Stage(a, b, n) for a, b, n in zip(channels, channels[1:], blocks or (1,) * len(self.sizes), strict=False)
        )

    def set_literal(self, on: bool) -> None:
        """Compute operation by operation as specified, or (the same up to rounding) fast."""
        for stage in self.stages:
            stage.literal = on  # type: ignore[assignment]

    @torch.no_grad()
    def set_topology(self, mean_mesh: Tensor) -> None:
        """Choose the kept vertices, and with `shared` centres and neighbours, on a mean mesh (10475, 3), metres."""
        mean_mesh = mean_mesh.detach().float().cpu()
        if len(self.kept) != len(mean_mesh):
            self.kept.copy_(furthest_points(mean_mesh, len(self.kept)))
        if self.search == "shared":
            for i, (centres, near) in enumerate(self.tables(mean_mesh[None, self.kept.cpu()], "direct")):
                getattr(self, f"centres{i}").copy_(centres[0])
                getattr(self, f"neighbours{i}").copy_(near[0])

    @torch.no_grad()
    def take_topology(self, other: PointMLP) -> None:
        """Take the kept vertices, centres and neighbours of another one of the same sizes."""
        theirs = dict(other.named_buffers(recurse=False))
        for name, mine in self.named_buffers(recurse=False):
            mine.copy_(theirs[name])

    @torch.no_grad()
    def tables(self, points: Tensor, how: Literal["direct", "expanded"]) -> Tables:
        """Centres and neighbours of every stage, searched on (B, N, 3) meshes. To be kept by who sees a mesh often."""
        found: Tables = []
        for i, size in enumerate(self.sizes):
            if i == 0:
                centres = furthest_points(points, size)
            else:  # a prefix of a greedy order is the greedy order of that prefix
                centres = torch.arange(size, device=points.device).expand(len(points), -1)
            chosen = take_each(points, centres)
            found.append((centres, nearest_points(chosen, points, self.neighbours, how)))
            points = chosen
        return found

    def _own_tables(self) -> Tables:
        return [(getattr(self, f"centres{i}")[None], getattr(self, f"neighbours{i}")[None]) for i in range(len(self.sizes))]

    def forward(self, vertices: Tensor, tables: Tables | None = None) -> Tensor:
        return self.maps(vertices, tables).amax(dim=1)

    def maps(self, vertices: Tensor, tables: Tables | None = None) -> Tensor:
        """(B, S, width) features of the last stage's points, in the order in which they were chosen.

        Args:
            tables: what `tables` found on these meshes before; searched when left out.
        """
        points = vertices[:, self.kept].float()
        if tables is None:
            tables = self._own_tables() if self.search == "shared" else self.tables(points, self.search)
        x = self._embed(points)
        for stage, (centres, near) in zip(self.stages, tables, strict=True):
            if self.checkpointed and self.training and torch.is_grad_enabled():
                again = lambda stage=stage: (nullcontext(), still(stage))  # noqa: E731
                x = checkpoint(stage, x, centres, near, use_reentrant=False, context_fn=again)
            else:
                x = stage(x, centres, near)
        return x

    def _embed(self, points: Tensor) -> Tensor:
        batch, count, _ = points.shape
        with torch.autocast(points.device.type, enabled=False):
            return F.relu(self.embedding(points.flatten(0, 1)), inplace=True).view(batch, count, -1)


def take_each(points: Tensor, index: Tensor) -> Tensor:
    """(B, N, 3) at (B, S): (B, S, 3)."""
    return points.gather(1, index[..., None].expand(-1, -1, points.shape[-1]))
