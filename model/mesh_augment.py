"""Person crops as photos vary them: mirror, framing, tilt, light; and badly framed ones as *nobody*.

Notable: geometry is applied to picture, points and root rotation alike, so a mirrored person has mirrored
joints; everything is drawn from one generator, so a resumed epoch sees the same crops.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# SMPL-X body joints and the 15 points, left and right exchanged.
MIRROR_JOINTS = [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20]
MIRROR_POINTS = [0, 2, 1, 4, 3, 6, 5, 7, 9, 8, 11, 10, 13, 12, 14]
BADLY_FRAMED = 0.1
"""Share of people shown too near, too far or half outside: they teach presence what to reject."""


def _uniform(size: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(size, generator=generator) * (high - low) + low


def mirror(images: Tensor, targets: dict[str, Tensor], flip: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Mirror crops (B, 3, H, W) where `flip` (B,) is true; targets as `MeshNet.loss` takes them."""
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    mask = torch.where(flip[:, None, None], targets["mask"].flip(2), targets["mask"])
    points = targets["points"][:, MIRROR_POINTS].clone()
    points[..., 0] = images.shape[3] - points[..., 0]
    points = torch.where(flip[:, None, None], points, targets["points"])
    # Conjugation with diag(-1, 1, 1): entries that pair x with another axis change their sign.
    sign = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])
    turned = targets["rotations"][:, MIRROR_JOINTS] * sign
    rotations = torch.where(flip[:, None, None, None], turned, targets["rotations"])
    return images, {**targets, "mask": mask, "points": points, "rotations": rotations}


def _reframe(images: Tensor, targets: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    batch, _, height, width = images.shape
    size = torch.tensor([width, height], dtype=torch.float32)
    scale = torch.exp(_uniform((batch, 1), -0.1, 0.1, generator))
    shift = _uniform((batch, 2), -0.04, 0.04, generator) * size
    angle = _uniform((batch,), -1, 1, generator) * math.radians(5)
    # too near (a portrait), too far, half outside
    bad = torch.rand(batch, generator=generator) < BADLY_FRAMED
    way = torch.randint(0, 3, (batch, 1), generator=generator)
    near = torch.exp(_uniform((batch, 1), math.log(1.8), math.log(5.0), generator))
    far = _uniform((batch, 1), 0.25, 0.5, generator)
    side = _uniform((batch, 2), -1, 1, generator)
    aside = side / side.abs().amax(1, keepdim=True).clamp_min(1e-3) * size * 0.55
    bad_scale = torch.where(way == 0, near, torch.where(way == 1, far, scale))
    bad_shift = torch.where(way == 2, aside, side * size * 0.35 * (bad_scale - 1).clamp(0, 2.5))
    scale = torch.where(bad[:, None], bad_scale, scale)
    shift = torch.where(bad[:, None], bad_shift, shift)

    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # (B, 2, 2)
    centre = size / 2
    points = torch.einsum("bij,bpj->bpi", turn * scale[..., None], targets["points"] - centre)
    points = points + centre + shift[:, None]
    # The sampling grid runs from the new crop back to the old one, in px, then in grid_sample's units.
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([xs, ys], -1).flatten(0, 1)[None] + 0.5 - centre - shift[:, None]
    grid = torch.einsum("bji,bpj->bpi", turn, grid) / scale[..., None] + centre
    grid = (grid / size * 2 - 1).unflatten(1, (height, width))
    images = F.grid_sample(images, grid, align_corners=False)
    # every fourth sample, moved to the middle of its cell of 4×4 px
    cells = (grid[:, 1::4, 1::4] + grid[:, 2::4, 2::4]) / 2
    mask = F.grid_sample(targets["mask"][:, None], cells, align_corners=False)[:, 0]

    about_z = torch.eye(3).repeat(batch, 1, 1)
    about_z[:, :2, :2] = turn
    rotations = targets["rotations"].clone()
    rotations[:, 0] = about_z @ rotations[:, 0]
    presence = torch.where(bad, torch.zeros_like(targets["presence"]), targets["presence"])
    return images, {**targets, "mask": mask, "points": points, "rotations": rotations, "presence": presence}


def _light(images: Tensor, generator: torch.Generator) -> Tensor:
    batch = len(images)
    contrast = torch.exp(_uniform((batch, 1, 1, 1), -0.3, 0.3, generator))
    gain = torch.exp(_uniform((batch, 3, 1, 1), -0.12, 0.12, generator))
    middle = images.mean((1, 2, 3), keepdim=True)
    shade = _uniform((batch, 1, 1, 1), -0.1, 0.1, generator)
    return ((images - middle) * (contrast * gain) + (middle * gain + shade)).clamp_(0, 1)


def augment(images: Tensor, targets: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Vary a batch for training.

    Args:
        images: (B, 3, H, W) float in [0, 1].
        targets: presence (B,), mask (B, H/4, W/4), betas (B, 10), rotations (B, 22, 3, 3), points (B, 15, 2) px.
    Returns:
        new images and new targets of the same shapes; the arguments stay as they are.
    """
    flip = torch.rand(len(images), generator=generator) < 0.5
    images, targets = mirror(images, targets, flip)
    images, targets = _reframe(images, targets, generator)
    return _light(images, generator), targets
