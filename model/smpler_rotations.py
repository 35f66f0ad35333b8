"""Six numbers → axis-angle as SMPLer-X reads them (spec §5), odd cases included: half turns, zeros, NaN."""

from __future__ import annotations

import torch
from torch import Tensor

from model.rotations import sixd_to_matrix


def sixd_to_axis_angle(sixd: Tensor) -> Tensor:
    """(..., 6) → (..., 3) axis-angle in radians, angle in [0, π].

    Released weights were trained through this very conversion, and what it does at half turns (which of two signs) and
    at zero input (a half turn about y) is part of it; `model.rotations.matrix_to_axis_angle` has no such cases.
    """
    matrix = sixd_to_matrix(sixd.float())
    m = [[matrix[..., row, column] for column in range(3)] for row in range(3)]
    x, y, z = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    xy, xz, yz = m[0][1] + m[1][0], m[0][2] + m[2][0], m[1][2] + m[2][1]
    trace = {  # four times the square of the component that is divided by
        "x": 1 + m[0][0] - m[1][1] - m[2][2],
        "y": 1 - m[0][0] + m[1][1] - m[2][2],
        "z": 1 - m[0][0] - m[1][1] + m[2][2],
        "w": 1 + m[0][0] + m[1][1] + m[2][2],
    }
    choices = {
        "x": torch.stack([x, trace["x"], xy, xz], -1),
        "y": torch.stack([y, xy, trace["y"], yz], -1),
        "z": torch.stack([z, xz, yz, trace["z"]], -1),
        "w": torch.stack([trace["w"], x, y, z], -1),
    }
    low = m[2][2] < 1e-6
    by_x, by_z = low & (m[0][0] > m[1][1]), ~low & (m[0][0] < -m[1][1])
    pick = {"x": by_x, "y": low & ~by_x, "z": by_z, "w": ~low & ~by_z}
    parts = [torch.where(at[..., None], 0.5 * choices[k] / trace[k].sqrt()[..., None], 0.0) for k, at in pick.items()]
    quaternion = torch.stack(parts).sum(0)
    w, xyz = quaternion[..., :1], quaternion[..., 1:]
    sine = xyz.square().sum(-1, keepdim=True).sqrt()
    angle = 2 * torch.where(w < 0, torch.atan2(-sine, -w), torch.atan2(sine, w))
    turn = xyz * torch.where(sine > 0, angle / torch.where(sine > 0, sine, 1.0), 2.0)
    return torch.nan_to_num(turn, nan=0.0)
