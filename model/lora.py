"""Personal models of method `lora`: low-rank changes to the heads and the adapter of a user's expert, to first order.

A user has, for each dimension, a change B·A of rank r to each of five layers (two of the adapter, three of the head) and
a level of its own, in points. A is the same for all users of an expert: the r directions in which the layer's input varies
most over photos (EVA: Paischer et al. 2024), orthonormal, and fixed (LoRA-FA: Zhang et al. 2023). The B of all layers lie
in one row of numbers, (D, size) per user.

What a row does to a photo's score is taken to first order (as in Achille et al. 2021, LQF): score + tangent · row. Tangents
are less their mean over photos: how high a user rates is for the level to say, and must not bend what changes say of order.
They are of the photo and the expert, not of the user (`tangents`), so many users are learned and scored by one batched
kernel, in closed form, and what a candidate would say of ratings it has not seen is exact too (`model.lora_users`). Whole
changes, judged by where they ended, looked good on ratings of pure noise.

Notation of shapes: N photos, D dimensions, I width of image vectors, W of the fused feature, M = 2 N views.

    uv run pytest tests/model/test_lora.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.physique_frame import ADAPTER_SHARE, PhysiqueFrame
from model.scores import DIMENSIONS, SCALE
from model.views import FrameInputs

LAYERS = ("narrow", "wide", "first", "second", "last")
Axes = dict[str, Tensor]
"""Layer → its A (1 or D, r, in): the directions of its input that changes of rank r act on; 1 where dimensions share it.
`mean` → (D, size - 1): the mean slope over photos."""


class Streams(NamedTuple):
    """What an expert's frozen parts say of N photos in both views: vector (N, 2, I), rest (N, 2, W - I)."""

    vector: Tensor
    rest: Tensor


@torch.no_grad()
def streams(frame: PhysiqueFrame, inputs: FrameInputs, rows: Tensor, survey: Tensor, batch: int = 256) -> Streams:
    """Of the photos at `rows` (N,), for an expert with this survey code (32,), on whose device they are."""
    vectors, rests = [], []
    for part in rows.split(batch):
        views = []
        for mirrored in (False, True):
            view = inputs.view(part, torch.full((len(part),), mirrored), frame.config, survey.device)
            preference = frame.preference(survey.expand(len(part), -1), view.vector)
            fused = frame.fuse(view.image, view.vertices, view.points, preference, view.visible, view.vector)
            views.append((view.vector.float(), fused[:, view.vector.shape[1] :].float()))
        vectors.append(torch.stack([vector for vector, _ in views], 1))
        rests.append(torch.stack([rest for _, rest in views], 1))
    return Streams(torch.cat(vectors), torch.cat(rests))


@dataclass
class Base:
    """The layers of an expert that users change, BatchNorm folded into the heads (it is in eval mode).

    narrow (I/4, I), wide (I, I/4), norm and norm_bias (I,); first (D, a, W), second (D, b, a), last (D, 1, b) and biases.
    """

    narrow: Tensor
    wide: Tensor
    norm: Tensor
    norm_bias: Tensor
    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    last: Tensor
    last_bias: Tensor
    epsilon: float


@torch.no_grad()
def base_of(frame: PhysiqueFrame) -> Base:
    """The layers of a frame."""
    heads = [frame.classifiers[name] for name in DIMENSIONS]
    parts: list[list[Tensor]] = [[] for _ in range(6)]
    for head in heads:
        folded = []
        for linear, norm in ((head[0], head[1]), (head[4], head[5])):  # type: ignore[index]
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            folded += [linear.weight * scale[:, None], (linear.bias - norm.running_mean) * scale + norm.bias]
        for part, value in zip(parts, [*folded, head[-1].weight, head[-1].bias]):  # type: ignore[index]
            part.append(value.detach().float())
    layer = frame.layernorm_x
    own = [frame.adapter.fc[0].weight, frame.adapter.fc[2].weight, layer.weight, layer.bias]
    return Base(*(v.detach().float() for v in own), *map(torch.stack, parts), epsilon=layer.eps)


class _Seen(NamedTuple):
    """Of a layer: its input (D, M, in), and its output (D, M, out) before ReLU."""

    into: Tensor
    out: Tensor


def _run(base: Base, said: Streams) -> tuple[Tensor, dict[str, _Seen]]:
    """The expert's scores (N, D), 0 to 10, and what each layer saw."""
    seen: dict[str, _Seen] = {}

    def layer(name: str, x: Tensor, bias: Tensor | float = 0.0) -> Tensor:
        seen[name] = _Seen(x, x @ getattr(base, name).transpose(-1, -2) + bias)
        return seen[name].out

    x, rest = (each.flatten(0, 1).expand(len(DIMENSIONS), -1, -1) for each in said)
    hidden = F.relu(layer("wide", F.relu(layer("narrow", x))))
    mixed = ADAPTER_SHARE * hidden + (1 - ADAPTER_SHARE) * x
    z = torch.cat([F.layer_norm(mixed, mixed.shape[-1:], base.norm, base.norm_bias, base.epsilon), rest], -1)
    z = F.relu(layer("first", z, base.first_bias[:, None]))
    z = F.relu(layer("second", z, base.second_bias[:, None]))
    logits = layer("last", z, base.last_bias[:, None])[..., 0].unflatten(1, (-1, 2))
    return SCALE[1] * torch.sigmoid(logits).mean(2).T, seen


@torch.no_grad()
def axes_of(base: Base, said: Streams, rank: int) -> Axes:
    """The leading principal axes of every layer's input over N photos, no more than it has inputs; and the mean slope."""
    axes: Axes = {}
    _, seen = _run(base, said)
    for name in LAYERS:
        given = seen[name].into.double()
        given = given if name in ("second", "last") else given[:1]  # before that, dimensions are one
        given = given - given.mean(1, keepdim=True)
        found = torch.linalg.eigh(given.transpose(1, 2) @ given)[1].flip(-1)[..., :rank].transpose(1, 2)
        sign = found.gather(2, found.abs().argmax(2, keepdim=True)).sign()
        axes[name] = (found * sign).to(said.vector.dtype).cpu().contiguous()
    parts = zip(*(each.split(64) for each in said))
    axes["mean"] = sum(_slopes(base, axes, Streams(*part)).sum(0) for part in parts).cpu() / len(said.vector)
    return axes


def size_of(base: Base, axes: Axes) -> int:
    """How many numbers a row has per dimension."""
    return 1 + sum(axes[name].shape[1] * getattr(base, name).shape[-2] for name in LAYERS)


def tangents(base: Base, axes: Axes, said: Streams, chunk: int = 64) -> Tensor:
    """(N, D, size), on the CPU: how an expert's score of each photo moves with the numbers of a row."""
    parts = zip(*(each.split(chunk) for each in said))
    found = torch.cat([_slopes(base, axes, Streams(*part)).cpu() for part in parts]) - axes["mean"]
    return torch.cat([found, torch.ones_like(found[..., :1])], -1)


def _slopes(base: Base, axes: Axes, said: Streams) -> Tensor:
    """(N, D, size - 1): how scores move with B, level left out."""
    with torch.enable_grad():
        said = Streams(said.vector.detach().requires_grad_(True), said.rest.detach())
        found, seen = _run(base, said)
        slopes = dict(zip(LAYERS, torch.autograd.grad(found.sum(), [seen[name].out for name in LAYERS])))
    parts = []
    for name in LAYERS:
        # A photo's two views add up.
        along = (seen[name].into.detach() @ axes[name].to(found.device).transpose(1, 2)).unflatten(1, (-1, 2))
        parts.append(torch.einsum("dnvo,dnvr->ndor", slopes[name].unflatten(1, (-1, 2)), along).flatten(2))
    return torch.cat(parts, 2)
