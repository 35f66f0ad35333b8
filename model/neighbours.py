"""Furthest-point sampling and nearest neighbours over the vertices of a mesh, on CPU and GPU.

What is exact, what is not, and what each costs:

- `furthest_points`: exact (squared distances in float32, first index on ties, start at vertex 0).
- Sampling *again* among sampled points costs nothing: a greedy order sampled from its own prefix is that
  prefix, so each further stage of the mesh stream keeps the first half of the points it was given. Exact.
- `nearest_points(how="direct")`: the true neighbours (coordinate differences, no cancellation). Exact.
- `nearest_points(how="expanded")`: |a|² - 2ab + |b|² in float32, as the reference computes it. Far from the
  origin it cancels and some neighbours are wrong (3 % of them at 30 m); released weights were trained on that.
- Tables found once on a mean mesh and used for all bodies (`PointMLP.set_topology`): approximate, and free.

    python -m pytest tests/model/test_neighbours.py
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Search = Literal["direct", "expanded"]
CHUNK = 1 << 21  # distances held at a time on a CPU (8 MB): more fall out of the cache
GPU_CHUNK = 1 << 28  # on a GPU (1 GB)


@torch.no_grad()
def furthest_points(points: Tensor, count: int) -> Tensor:
    """Indices of furthest-point sampling, starting at point 0; ties go to the smallest index.

    Args:
        points: (N, 3) or (B, N, 3), metres.
        count: how many points to keep.

    Returns:
        (count,) or (B, count) int64, in the order in which they were chosen.
    """
    if points.ndim == 2:
        return furthest_points(points[None], count)[0]
    points = points.detach().float()
    if points.is_cuda:
        return _furthest_on_gpu(points, count)
    return torch.stack([torch.from_numpy(_furthest_on_cpu(mesh.numpy(), count)) for mesh in points])


def _furthest_on_cpu(points: np.ndarray, count: int) -> np.ndarray:
    """One mesh (N, 3) with NumPy: four passes over buffers that stay in the first-level cache."""
    x, y, z = (np.ascontiguousarray(axis) for axis in points.T)
    nearest = np.full(len(points), np.inf, np.float32)
    distance, part = np.empty_like(nearest), np.empty_like(nearest)
    chosen = np.zeros(count, np.int64)
    last = 0
    for place in range(1, count):
        np.subtract(x, x[last], out=distance)
        np.multiply(distance, distance, out=distance)
        np.subtract(y, y[last], out=part)
        np.multiply(part, part, out=part)
        np.add(distance, part, out=distance)
        np.subtract(z, z[last], out=part)
        np.multiply(part, part, out=part)
        np.add(distance, part, out=distance)
        np.minimum(nearest, distance, out=nearest)
        last = int(nearest.argmax())
        chosen[place] = last
    return chosen


def _furthest_on_gpu(points: Tensor, count: int) -> Tensor:
    """All meshes (B, N, 3) at once; a step is eight small kernels whatever B is, and nothing waits for the host."""
    axes = points.permute(2, 0, 1).contiguous()  # (3, B, N)
    nearest = torch.full_like(axes[0], torch.inf)
    chosen = torch.zeros(count, points.shape[0], 1, dtype=torch.long, device=points.device)
    square, distance = torch.empty_like(axes), torch.empty_like(nearest)
    for place in range(1, count):
        last = chosen[place - 1].expand(3, -1, 1)
        torch.sub(axes, axes.gather(2, last), out=square)
        square.mul_(square)
        torch.add(square[0], square[1], out=distance).add_(square[2])
        torch.minimum(nearest, distance, out=nearest)
        torch.argmax(nearest, 1, keepdim=True, out=chosen[place])
    return chosen[..., 0].T.contiguous()


@torch.no_grad()
def nearest_points(centres: Tensor, points: Tensor, count: int, how: Search = "direct") -> Tensor:
    """Indices (…, S, count) into `points` (…, N, 3) of the nearest to each of `centres` (…, S, 3), in no order.

    Args:
        centres, points: metres, both with the same leading batch dimension or none.
        how: see the module's head.
    """
    if points.ndim == 2:
        return nearest_points(centres[None], points[None], count, how)[0]
    centres, points = centres.detach().float(), points.detach().float()
    if how == "expanded":
        return _expanded(centres, points, count)
    if points.is_cuda:
        distance = torch.cdist(centres, points, compute_mode="donot_use_mm_for_euclid_dist")
        return distance.topk(count, dim=-1, largest=False, sorted=False).indices
    from scipy.spatial import cKDTree

    found = []
    for some, mesh in zip(centres.numpy(), points.numpy(), strict=True):
        tree = cKDTree(mesh, balanced_tree=False, compact_nodes=False)
        found.append(tree.query(some, count, workers=torch.get_num_threads())[1].reshape(-1, count))
    return torch.from_numpy(np.stack(found).astype(np.int64))


def _expanded(centres: Tensor, points: Tensor, count: int) -> Tensor:
    """The reference's arithmetic: -2 a·b, then + |a|², then + |b|², each rounded to float32.

    Far from the origin many rounded squares are equal, and which of equals is taken depends on how `topk` walks a row:
    so whole rows are given to it, though fewer candidates would do.
    """
    batch, size, _ = centres.shape
    of_centres, of_points = centres.square().sum(-1), points.square().sum(-1)
    held = GPU_CHUNK if points.is_cuda else CHUNK
    rows = max(1, held // (batch * points.shape[1]))
    found = torch.empty(batch, size, count, dtype=torch.long, device=points.device)
    with torch.autocast(points.device.type, enabled=False):  # in half precision every neighbour is wrong
        for part in (slice(start, start + rows) for start in range(0, size, rows)):
            distance = torch.matmul(centres[:, part], points.mT).mul_(-2)
            distance.add_(of_centres[:, part, None]).add_(of_points[:, None, :])
            found[:, part] = distance.topk(count, dim=-1, largest=False, sorted=False).indices
    return found
