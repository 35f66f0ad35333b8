"""Personal models of method `lora`: low-rank changes to the heads and the adapter of a user's expert, many users at once.

A user has, for each dimension, a change B·A of rank r to each of five layers (two of the adapter, three of the head) and
one of the head's level. All of them lie in one row of numbers, `(D, size)` per user, so the rows of many users are one
parameter, a step is one batched kernel per layer, and a dimension can be promoted or left alone without the others.
What no change touches (encoder, mesh, posture, preference) is computed once per photo and expert: `Streams`.

Training minimises, for each user and dimension on their own,

    ½ Σ weight·(score - rating)² + ½ pull·|change - anchor|²

with Adam over all ratings at once: no draw, no batch, so a user's result does not depend on who else is trained. The anchor
is no change at all (L2-SP: Li et al. 2018), or half of the entry before (`ANCHORED`). Ratings weigh in by their number, so
few of them move little. Zero steps are the expert's own scores; a dimension without ratings keeps them.

Notation of shapes: U users, R ratings each (padded), D dimensions, I width of image vectors, W of the fused feature.

    uv run pytest tests/model/test_lora.py
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.checkpoint import seeded
from model.physique_frame import ADAPTER_SHARE, PhysiqueFrame
from model.scores import DIMENSIONS, SCALE
from model.views import FrameInputs

ANCHORED = 0.5
"""Share of the entry before that a night's training is pulled to; the rest is the prior. With 1, nights would walk away
from the prior for good, each allowed as much as the first; with 0, what ratings no longer kept said would be lost."""


@dataclass(frozen=True)
class LoraSettings:
    """rank of the changes, pull to the anchor (points² per squared change), steps of Adam and their peak rate."""

    rank: int = 4
    pull: float = 10.0
    steps: int = 60
    lr: float = 0.01


class Streams(NamedTuple):
    """What an expert's frozen parts say of N photos in both views: vector (N, 2, I), rest (N, 2, W - I)."""

    vector: Tensor
    rest: Tensor


@torch.no_grad()
def streams(frame: PhysiqueFrame, inputs: FrameInputs, rows: Tensor, survey: Tensor, batch: int = 256) -> Streams:
    """Of the photos at `rows` (N,), for an expert with this survey code (32,); on the CPU."""
    vectors, rests, device = [], [], survey.device
    for part in rows.split(batch):
        views = []
        for mirrored in (False, True):
            view = inputs.view(part, torch.full((len(part),), mirrored), frame.config, device)
            preference = frame.preference(survey.expand(len(part), -1), view.vector)
            fused = frame.fuse(view.image, view.vertices, view.points, preference, view.visible, view.vector)
            views.append((view.vector.float(), fused[:, view.vector.shape[1] :].float()))
        vectors.append(torch.stack([vector for vector, _ in views], 1).cpu())
        rests.append(torch.stack([rest for _, rest in views], 1).cpu())
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

    def to(self, device: str | torch.device) -> Base:
        return Base(*(getattr(self, f.name).to(device) for f in fields(self)[:-1]), self.epsilon)


@torch.no_grad()
def base_of(frame: PhysiqueFrame) -> Base:
    """The layers of a frame; copies."""
    heads = [frame.classifiers[name] for name in DIMENSIONS]
    parts: list[list[Tensor]] = [[] for _ in range(6)]
    for head in heads:
        folded = []
        for linear, norm in ((head[0], head[1]), (head[4], head[5])):  # type: ignore[index]
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            folded += [linear.weight * scale[:, None], (linear.bias - norm.running_mean) * scale + norm.bias]
        for part, value in zip(parts, [*folded, head[-1].weight, head[-1].bias]):  # type: ignore[index]
            part.append(value.detach().float().cpu())
    layer = frame.layernorm_x
    own = [frame.adapter.fc[0].weight, frame.adapter.fc[2].weight, layer.weight, layer.bias]
    return Base(*(v.detach().float().cpu().clone() for v in own), *map(torch.stack, parts), epsilon=layer.eps)


@dataclass(frozen=True)
class Layout:
    """Where the changes of a dimension lie in a row: name → (rank, in, out), in order, the level last."""

    layers: tuple[tuple[str, int, int, int], ...]

    @classmethod
    def of(cls, base: Base, rank: int) -> Layout:
        """A layer cannot have more ranks than it has sides."""
        shapes = {name: getattr(base, name).shape[-2:] for name in ("narrow", "wide", "first", "second", "last")}
        return cls(tuple((name, min(rank, *shape), shape[1], shape[0]) for name, shape in shapes.items()))

    @property
    def size(self) -> int:
        return sum(rank * (into + out) for _, rank, into, out in self.layers) + 1

    def split(self, rows: Tensor) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor]:
        """Rows (U, D, size) as views: name → A (U, D, r, in) and B (U, D, out, r), and level (U, D, 1)."""
        found, start = {}, 0
        for name, rank, into, out in self.layers:
            a, b = rows[..., start : start + rank * into], rows[..., start + rank * into : start + rank * (into + out)]
            found[name] = a.unflatten(-1, (rank, into)), b.unflatten(-1, (out, rank))
            start += rank * (into + out)
        return found, rows[..., start:]

    def start(self, users: int) -> Tensor:
        """(U, D, size) rows that change nothing: B = 0, and A drawn once for everybody."""
        rows = torch.zeros(1, len(DIMENSIONS), self.size)
        for name, (a, _) in self.split(rows)[0].items():
            a.copy_(torch.randn(a.shape[-2:], generator=seeded("lora", name)) * a.shape[-1] ** -0.5)
        return rows.repeat(users, 1, 1)

    def distance(self, rows: Tensor, anchor: Tensor, share: float) -> Tensor:
        """|change - share·anchor's change|² (U, D), level included, from r×r products only."""
        own, level = self.split(rows)
        other, other_level = self.split(anchor)
        total = (level - share * other_level).square().sum(-1)
        for name, (a, b) in own.items():
            total = total + _inner(a, b, a, b)
            if share:
                c, d = other[name]
                total = total + share**2 * _inner(c, d, c, d) - 2 * share * _inner(a, b, c, d)
        return total


def _inner(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """⟨B·A, D·C⟩ of (U, D, r, in) and (U, D, out, r) factors: (U, D)."""
    return ((b.transpose(-1, -2) @ d) * (a @ c.transpose(-1, -2))).sum((-1, -2))


def _changed(x: Tensor, change: tuple[Tensor, Tensor]) -> Tensor:
    """(U, D or 1, M, in) → (U, D, M, out), one batched kernel for all users and dimensions."""
    a, b = change
    return (x @ a.transpose(-1, -2)) @ b.transpose(-1, -2)


def scores(base: Base, layout: Layout, rows: Tensor, vector: Tensor, rest: Tensor) -> Tensor:
    """Scores (U, R, D), 0 to 10, of R photos for each of U users of one expert.

    rows (U, D, size); vector (U, R, 2, I) and rest (U, R, 2, W - I): the photos' `Streams`.
    """
    photos = vector.shape[1]
    change, level = layout.split(rows)
    x, rest = vector.flatten(1, 2)[:, None], rest.flatten(1, 2)[:, None]  # (U, 1, M, ·): M views, two of each photo
    hidden = F.relu(x @ base.narrow.T + _changed(x, change["narrow"]))
    hidden = F.relu(hidden @ base.wide.T + _changed(hidden, change["wide"]))
    mixed = ADAPTER_SHARE * hidden + (1 - ADAPTER_SHARE) * x
    image = F.layer_norm(mixed, mixed.shape[-1:], base.norm, base.norm_bias, base.epsilon)
    z = torch.cat([image, rest.expand(-1, image.shape[1], -1, -1)], -1)
    for name, active in (("first", True), ("second", True), ("last", False)):
        own = torch.einsum("udmi,doi->udmo", z, getattr(base, name)) + getattr(base, f"{name}_bias")[:, None]
        z = own + _changed(z, change[name])
        z = F.relu(z) if active else z
    logits = (z[..., 0] + level).unflatten(2, (photos, 2))
    return SCALE[1] * torch.sigmoid(logits).mean(-1).transpose(1, 2)


@dataclass
class Given:
    """Users' ratings, padded: photo (U, R) rows of `Streams`, y (U, R, D) with NaN = not rated, weight (U, R)."""

    photo: Tensor
    y: Tensor
    weight: Tensor

    def __getitem__(self, users: Tensor) -> Given:
        """Of these users, no wider than they need."""
        y = self.y[users]
        known = (~y.isnan().all(2)).nonzero()
        width = int(known[:, 1].max()) + 1 if len(known) else 1
        return Given(self.photo[users, :width], y[:, :width], self.weight[users, :width])


def padded(user: Tensor, photo: Tensor, y: Tensor, weight: Tensor, users: int) -> Given:
    """Ratings as columns, user (N,), photo (N,), y (N, D), weight (N,), in the order they came, as a table of users."""
    order = torch.argsort(user, stable=True)
    counts = torch.bincount(user, minlength=users)
    place = torch.arange(len(user)) - (counts.cumsum(0) - counts)[user[order]]
    at, width = (user[order], place), max(1, int(counts.max()) if users else 1)
    table = Given(
        torch.zeros(users, width, dtype=torch.long),
        torch.full((users, width, y.shape[1]), torch.nan),
        torch.zeros(users, width),
    )
    table.photo[at], table.y[at], table.weight[at] = photo[order], y[order].float(), weight[order].float()
    return table


def train(
    base: Base,
    said: Streams,
    given: Given,
    settings: LoraSettings,
    before: Tensor | None = None,
    *,
    chunk: int = 64,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Rows (U, D, size) of U users of one expert, trained together.

    before (U, D, size): entries to go on from and to be held near; None = from the expert's own scores.
    chunk: users trained at once; memory grows with it, results do not change.
    """
    layout = Layout.of(base, settings.rank)
    rows = layout.start(len(given.y)) if before is None else before.clone()
    # Users with about as many ratings are trained together, so that little is padded.
    order = torch.argsort((~given.y.isnan().all(2)).sum(1), stable=True)
    base = base.to(device)
    for users in order.split(chunk):
        part = given[users]
        vector, rest = (each[part.photo].to(device) for each in said)
        known = (~part.y.isnan()).to(device)
        y, weight = part.y.nan_to_num().to(device), part.weight[..., None].to(device) * known
        theta = rows[users].to(device).requires_grad_(True)
        anchor = rows[users].to(device)
        optimiser = torch.optim.Adam([theta], lr=settings.lr)
        plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, settings.steps))
        for _ in range(settings.steps):
            optimiser.zero_grad(set_to_none=True)
            error = scores(base, layout, theta, vector, rest) - y
            held = layout.distance(theta, anchor, 0.0 if before is None else ANCHORED)
            (0.5 * (weight * error.square()).sum() + 0.5 * settings.pull * held.sum()).backward()
            optimiser.step()
            plan.step()
        # Nothing was said of a dimension: its row stays, whatever the pull would do to it.
        rated = known.any(1)[..., None]
        rows[users] = torch.where(rated, theta.detach(), anchor).cpu()
    return rows
