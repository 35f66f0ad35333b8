"""A full-size network with random weights and people to show it: what bench/physique_frame.py works on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.physique_frame import FrameConfig, PhysiqueFrame, clip_tower
from model.pose_graph import PhotoPosture

LIMBS = (  # from, to, radius (m), share of the vertices
    ((0, 0.60, 0), (0, 0.80, 0), 0.095, 0.30), ((0, 0, 0), (0, 0.50, 0), 0.15, 0.22),
    *(((s * 0.1, -0.1, 0), (s * 0.12, -0.85, 0), 0.07, 0.09) for s in (-1, 1)),
    *(((s * 0.2, 0.45, 0), (s * 0.68, 0.42, 0), 0.045, 0.07) for s in (-1, 1)),
    *(((s * 0.72, 0.42, 0), (s * 0.86, 0.42, 0.02), 0.03, 0.08) for s in (-1, 1)),
)  # fmt: skip


@dataclass
class People:
    """Inputs of B photos, and what is known of them from tables."""

    photo: Tensor
    vertices: Tensor
    points: Tensor
    preference: Tensor
    vector: Tensor
    target: Tensor

    def take(self, count: int) -> People:
        return People(*(getattr(self, name)[:count] for name in self.__dataclass_fields__))


def rest_mesh(count: int, random: torch.Generator) -> Tensor:
    """(count, 3) points on capsules, metres: about the spread of a body's vertices, half of them on head and hands."""
    parts, left = [], count
    for i, (start, end, radius, share) in enumerate(LIMBS):
        size = left if i == len(LIMBS) - 1 else int(count * share)
        left -= size
        a, b = torch.tensor(start).float(), torch.tensor(end).float()
        along = torch.rand(size, 1, generator=random)
        parts.append(a + along * (b - a) + radius * F.normalize(torch.randn(size, 3, generator=random), dim=1))
    return torch.cat(parts)


def people(count: int, rest: Tensor, random: torch.Generator) -> People:
    """`count` photos of noise with bodies of differing build, in camera space as released weights know them."""
    build = 1 + 0.08 * torch.randn(count, 1, 3, generator=random)
    bend = 0.02 * torch.sin(rest[None] * (4 + torch.rand(count, 1, 3, generator=random) * 4))
    camera = torch.rand(count, 1, 3, generator=random) * torch.tensor([0.4, 0.4, 20.0]) + torch.tensor([0.0, 0.0, 5.0])
    return People(
        photo=torch.randn(count, 3, 224, 224, generator=random),
        vertices=-(rest * build + bend.roll(1, -1) + camera),
        points=torch.rand(count, 15, 2, generator=random) * 200 + 12,
        preference=torch.rand(count, 5, generator=random),
        vector=torch.randn(count, 768, generator=random),
        target=torch.rand(count, 3, generator=random) * 10,
    )


@torch.no_grad()
def network(random: torch.Generator, cut: bool = False) -> PhysiqueFrame:
    """The paper's network with random weights: numbers keep their size from layer to layer, so that rounding shows.

    Args:
        cut: most blocks of both towers and most vertices are missing, to see whether everything runs.
    """
    vertices = 2048 if cut else 10475
    frame = PhysiqueFrame(FrameConfig.full(survey=False, nobody=False, mesh_search="expanded", mesh_points=vertices))
    with torch.device("meta"):  # timm's own initialisation of 304 M weights takes longer than everything else
        frame.clip = clip_tower()
    if cut:
        assert isinstance(frame.posture, PhotoPosture)
        long = frame.posture.backbone.layers[2]  # type: ignore[index]
        frame.clip.blocks, long.blocks = frame.clip.blocks[:2], long.blocks[:2]  # type: ignore[index]
    frame.clip.to_empty(device="cpu")
    frame.config = replace(frame.config, clip=True)
    frame.mesh.kept.copy_(torch.linspace(0, 10474, vertices).long())
    for name, value in frame.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "logit_scale":
            value.normal_(math.log(10), 0.1, generator=random)
        elif leaf in ("cls_token", "pos_embed"):
            value.normal_(0, 0.3, generator=random)
        elif leaf == "affine_alpha" or (leaf == "weight" and value.ndim == 1):
            value.normal_(1, 0.1, generator=random)
        elif value.ndim == 1:
            value.normal_(0, 0.05, generator=random)
        else:
            gain = 4 if name.startswith("classifiers.") and len(value) == 1 else 1
            value.normal_(0, gain * value[0].numel() ** -0.5, generator=random)
    for module in frame.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1, generator=random)  # type: ignore[union-attr]
            module.running_var.normal_(0, 0.1, generator=random).abs_().add_(1)  # type: ignore[union-attr]
    nn.init.zeros_(frame.clip.head.bias)  # type: ignore[arg-type, union-attr]
    return frame
