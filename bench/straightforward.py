"""What bench/physique_frame.py measures against: PhysiqueFrame as its specification reads, one operation per sentence.

Nothing is shared between steps, folded, cut into blocks or left out: furthest points are searched anew in each of the
four stages of the mesh stream, every distance of a mesh is written down before the nearest are taken, pairs of
neighbours are joined to rows of 2C numbers and go through 1×1 convolutions and batch norms, the 1,024-channel map is
enlarged to 64×64 cells before the heat maps weigh it. The weights are those of a `PhysiqueFrame` and the two towers are
timm's on both sides, so outputs can be compared; it trains as well.

Of the sampling: the reference has a compiled CUDA kernel for it and none for CPUs; here it is a loop of torch operations,
so look at the columns without sampling where that matters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.physique_frame import PhysiqueFrame, Scores
from model.point_mlp import PointMLP, Tables
from model.pose_graph import MAP, PhotoPosture, gaussians, heat_maps


@torch.no_grad()
def furthest(points: Tensor, count: int) -> Tensor:
    """(B, N, 3) → (B, count) indices by furthest-point sampling from point 0, one step at a time."""
    row = torch.arange(len(points), device=points.device)
    nearest = points.new_full(points.shape[:2], 1e10)
    chosen = torch.zeros(len(points), count, dtype=torch.long, device=points.device)
    last = chosen[:, 0]
    for place in range(1, count):
        square = (points - points[row, last][:, None]).square()
        nearest = torch.minimum(nearest, square[..., 0] + square[..., 1] + square[..., 2])
        last = nearest.argmax(dim=1)
        chosen[:, place] = last
    return chosen


@torch.no_grad()
def nearest(centres: Tensor, points: Tensor, count: int) -> Tensor:
    """(B, S, 3), (B, N, 3) → (B, S, count) indices, from all distances at once, in the expanded form."""
    distance = -2 * (centres @ points.mT)
    distance += centres.square().sum(-1)[:, :, None]
    distance += points.square().sum(-1)[:, None, :]
    return distance.topk(count, dim=-1, largest=False, sorted=False).indices


def rows(values: Tensor, index: Tensor) -> Tensor:
    """(B, N, C) at (B, …) → (B, …, C)."""
    return values[torch.arange(len(values), device=values.device).view(-1, *[1] * (index.ndim - 1)), index]


def sampled(mesh: PointMLP, vertices: Tensor) -> list[Tensor]:
    """Centres of all four stages: each searches among the points of the one before."""
    found, points = [], vertices
    for size in mesh.sizes:
        found.append(furthest(points, size))
        points = rows(points, found[-1])
    return found


def grouped(mesh: PointMLP, vertices: Tensor, centres: list[Tensor]) -> Tables:
    """Centres and neighbours of all four stages."""
    found, points = [], vertices
    for index in centres:
        chosen = rows(points, index)
        found.append((index, nearest(chosen, points, mesh.neighbours)))
        points = chosen
    return found


def mixed(layers: nn.Module, x: Tensor) -> Tensor:
    """1×1 convolution and batch norm over (R, C, L)."""
    linear, norm = layers[0], layers[1]  # type: ignore[index]
    return norm(F.conv1d(x, linear.weight[..., None]))


def residual(block: nn.Module, x: Tensor) -> Tensor:
    return F.relu(x + mixed(block.net2, F.relu(mixed(block.net1, x))))  # type: ignore[arg-type]


def network(mesh: PointMLP, vertices: Tensor, tables: Tables) -> Tensor:
    """(B, N, 3) → (B, width) mesh feature, with centres and neighbours known."""
    x = F.relu(mixed(mesh.embedding, vertices.mT)).mT  # (B, N, C)
    for stage, (centres, neighbours) in zip(mesh.stages, tables, strict=True):
        anchor = rows(x, centres)[:, :, None]
        difference = rows(x, neighbours) - anchor
        difference = difference / (difference.flatten(1).std(dim=1) + 1e-5)[:, None, None, None]
        difference = stage.affine_alpha * difference + stage.affine_beta
        pairs = torch.cat([difference, anchor.expand_as(difference)], dim=-1)  # (B, S, K, 2C)
        y = F.relu(mixed(stage.transfer, pairs.transpose(2, 3).flatten(0, 1)))  # type: ignore[arg-type]  # (B·S, C', K)
        for block in stage.pre:  # type: ignore[union-attr]
            y = residual(block, y)
        y = F.adaptive_max_pool1d(y, 1).view(len(x), centres.shape[1], -1).mT.contiguous()  # (B, C', S)
        for block in stage.pos:  # type: ignore[union-attr]
            y = residual(block, y)
        x = y.mT
    return x.amax(dim=1).float()


def mesh_stream(mesh: PointMLP, vertices: Tensor) -> Tensor:
    """(B, N, 3) vertices → (B, width)."""
    vertices = vertices[:, mesh.kept]  # all of them, unless the network was made smaller
    return network(mesh, vertices, grouped(mesh, vertices, sampled(mesh, vertices)))


def posture_stream(stream: PhotoPosture, photo: Tensor, points: Tensor, frame: PhysiqueFrame) -> Tensor:
    """(B, 3, 224, 224) photos and (B, 15, 2) points → (B, width), all points visible."""
    head = stream.head
    features = stream.backbone.forward_features(photo).permute(0, 3, 1, 2)  # type: ignore[operator]
    features = head.upsample(features)
    maps = heat_maps(points)
    maps = maps / (maps.sum(dim=(2, 3), keepdim=True) + 1e-8)
    enlarged = F.interpolate(features, size=(MAP, MAP), mode="bilinear", align_corners=False)
    weight = gaussians(points)[1]
    tokens = maps.flatten(2) @ enlarged.flatten(2).mT
    tokens = head.query_proj(tokens * weight[..., None])
    cells = F.conv2d(features, head.input_proj.weight[..., None, None], head.input_proj.bias).flatten(2).mT
    return head.decode(cells, tokens, weight, frame.compat).amax(dim=(0, 2))


def forward(frame: PhysiqueFrame, photo: Tensor, vertices: Tensor, points: Tensor, preference: Tensor) -> Scores:
    """The whole network, the image tower within."""
    assert isinstance(frame.posture, PhotoPosture) and frame.clip is not None
    posture = frame.groupnorm_pam(posture_stream(frame.posture, photo, points, frame))
    mesh = frame.groupnorm_mf(mesh_stream(frame.mesh, vertices))
    with torch.no_grad():
        vector = frame.clip(photo)
    image = frame.layernorm_x(frame.adapter(vector))
    return Scores(*frame.score(torch.cat([image, posture, mesh, preference], dim=1)).unbind(1))
