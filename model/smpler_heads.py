"""What SMPLer-X reads off its encoder: places of joints, boxes of hands and face, rotations as six numbers.

Parameter names are those of the official checkpoints, so a `state_dict` fits without renaming. Notation: B people,
C encoder width, a *cell* is one of the encoder's 12×16 patches; heat maps are read by their expected index.

    python -m pytest tests/model/test_smpler_x.py
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

GRID = (16, 12)
"""Rows and columns of the encoder's feature map."""
DEPTHS, BODY_JOINTS, HAND_JOINTS = 16, 25, 20
HAND_GROWTH, FACE_GROWTH = 2.0, 1.5
"""How much the squares around hands and face are grown about their centre (spec §4, box restore)."""


def soft_argmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(B, J, rows, columns) or (B, J, depths, rows, columns) logits → softmax over the cells, same shape, and the
    expected 0-based index (B, J, 2 or 3) in the order x, y(, z); float32 whatever comes in."""
    heat = logits.float().flatten(2).softmax(-1).view(logits.shape)
    found, axes = [], range(2, heat.ndim)
    for axis in reversed(axes):
        along = heat.sum([other for other in axes if other != axis])
        found.append(along @ torch.arange(heat.shape[axis], dtype=heat.dtype, device=heat.device))
    return heat, torch.stack(found, -1)


def sample(features: Tensor, at: Tensor) -> Tensor:
    """Bilinear reading of (B, C, rows, columns) at cells (B, J, 2) x y → (B, J, C) float32; zero outside.

    Few places of a large map: its four neighbours are gathered, in whatever precision the map has.
    """
    rows, columns = features.shape[2:]
    flat, first = features.flatten(2), at.floor()
    found = at.new_zeros(len(at), at.shape[1], features.shape[1])
    for step in ((0, 0), (1, 0), (0, 1), (1, 1)):
        cell = first + at.new_tensor(step)
        x, y = cell.unbind(-1)
        inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
        weight = (1 - (at - cell).abs()).prod(-1) * inside
        index = (y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)).long()
        there = flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)
        found += weight[..., None] * there
    return found


def restore_box(centre: Tensor, size: Tensor, growth: float) -> Tensor:
    """Centre and width, height in cells, each (B, 2) → the grown square around them (B, 4) x1 y1 x2 y2, px of the
    192×256 crop. The larger side counts, as signed numbers: the network may say negative sizes."""
    half = 0.5 * 16 * growth * size.amax(-1, keepdim=True)
    return torch.cat([centre * 16 - half, centre * 16 + half], -1)


def _deconv(channels: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class PositionNet(nn.Module):
    """Features (B, C, rows, columns) → heat maps (B, J, 16, rows, columns) and joints (B, J, 3), cells."""

    def __init__(self, width: int, joints: int):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(width, joints * DEPTHS, 1))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return soft_argmax(self.conv(features).unflatten(1, (-1, DEPTHS)))


class BodyRegressor(nn.Module):
    """Tokens of the body → root and 21 joints as 6-D (B, 6), (B, 126), betas (B, 10), raw camera (B, 3)."""

    def __init__(self, width: int):
        super().__init__()
        self.body_conv = nn.Sequential(nn.Linear(width, 512))
        inside = BODY_JOINTS * (512 + 3)
        self.root_pose_out, self.body_pose_out = nn.Sequential(nn.Linear(inside, 6)), nn.Sequential(nn.Linear(inside, 126))
        self.shape_out, self.cam_out = nn.Sequential(nn.Linear(width, 10)), nn.Sequential(nn.Linear(width, 3))

    def forward(self, tokens: Tensor, joints: Tensor, shape: Tensor, camera: Tensor) -> tuple[Tensor, ...]:
        """tokens (B, 25, C), joints (B, 25, 3) cells, shape and camera tokens (B, C)."""
        read = torch.cat([self.body_conv(tokens), joints], -1).flatten(1)
        return self.root_pose_out(read), self.body_pose_out(read), self.shape_out(shape), self.cam_out(camera)


class BoxNet(nn.Module):
    """Features and body heat maps → centre and raw size (w, h) of left hand, right hand, face: (B, 3, 2) cells each."""

    def __init__(self, width: int):
        super().__init__()
        self.deconv = _deconv([width + BODY_JOINTS * DEPTHS, 256, 256, 256])
        self.bbox_center = nn.Sequential(nn.Conv2d(256, 3, 1))
        for part in ("lhand", "rhand", "face"):
            setattr(self, f"{part}_size", nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2)))

    def forward(self, features: Tensor, heat: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.deconv(torch.cat([features, heat.flatten(1, 2).to(features.dtype)], 1))
        _, centre = soft_argmax(self.bbox_center(fine))
        there = sample(fine, centre)
        parts = (self.lhand_size, self.rhand_size, self.face_size)
        size = torch.stack([mlp(there[:, k]) for k, mlp in enumerate(parts)], 1)
        return centre / (fine.shape[3] / GRID[1]), size


class HandRoi(nn.Module):
    """Features and both hands' boxes → (2B, C, 16, 16), all left hands first, these mirrored to look like right ones."""

    def __init__(self, width: int):
        super().__init__()
        self.deconv = _deconv([width, width // 2, width // 4])
        self.conv = nn.Sequential(nn.Conv2d(width // 4, width, 1))

    def forward(self, features: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """left, right (B, 4) px of the 192×256 crop."""
        from torchvision.ops import roi_align

        fine = self.deconv(features)
        number = torch.arange(len(features), dtype=left.dtype, device=left.device)[:, None]
        rois = torch.cat([torch.cat([number, box / 4], 1) for box in (left, right)])
        cut = roi_align(fine.float(), rois, (16, 16), 1.0, 0, False).to(fine.dtype)  # boxes need float32
        people = len(features)
        return self.conv(torch.cat([cut[:people].flip(-1), cut[people:]]))


class HandRegressor(nn.Module):
    """A hand's features (H, C, 16, 16) and joints (H, 20, 3) cells → 15 joints as 6-D (H, 90)."""

    def __init__(self, width: int):
        super().__init__()
        self.hand_conv = nn.Sequential(nn.Conv2d(width, 512, 1), nn.BatchNorm2d(512), nn.ReLU(inplace=True))
        self.hand_pose_out = nn.Sequential(nn.Linear(HAND_JOINTS * (512 + 3), 90))

    def forward(self, features: Tensor, joints: Tensor) -> Tensor:
        there = sample(self.hand_conv(features), joints[..., :2])
        return self.hand_pose_out(torch.cat([there, joints], -1).flatten(1))


class FaceRegressor(nn.Module):
    """Expression and jaw tokens (B, C) each → expression (B, 10), jaw as 6-D (B, 6)."""

    def __init__(self, width: int):
        super().__init__()
        self.expr_out, self.jaw_pose_out = nn.Sequential(nn.Linear(width, 10)), nn.Sequential(nn.Linear(width, 6))

    def forward(self, expression: Tensor, jaw: Tensor) -> tuple[Tensor, Tensor]:
        return self.expr_out(expression), self.jaw_pose_out(jaw)
