"""Rotations between the three forms that are in use: axis-angle (tables), 6-D (networks), matrices (maths).

6-D is read as in SMPLer-X (spec §5): a (3, 2) row-major matrix whose columns span the first two axes.

    python -m pytest tests/model/test_mesh_net.py -k rotation
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sixd_to_matrix(sixd: Tensor) -> Tensor:
    """(..., 6) → (..., 3, 3) rotation matrices by Gram-Schmidt; the cross product is along the last axis."""
    pair = sixd.unflatten(-1, (3, 2))
    first = F.normalize(pair[..., 0], dim=-1, eps=1e-12)
    second = pair[..., 1] - (first * pair[..., 1]).sum(-1, keepdim=True) * first
    second = F.normalize(second, dim=-1, eps=1e-12)
    return torch.stack([first, second, torch.linalg.cross(first, second, dim=-1)], dim=-1)


def matrix_to_sixd(matrix: Tensor) -> Tensor:
    """(..., 3, 3) → (..., 6): the first two columns, row by row."""
    return matrix[..., :2].flatten(-2)


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """(..., 3) axis-angle in radians → (..., 3, 3), by Rodrigues; exact and differentiable at zero."""
    square = (axis_angle * axis_angle).sum(-1)[..., None, None]
    angle = square.clamp_min(1e-12).sqrt()
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    small = square < 1e-8
    sine = torch.where(small, 1 - square / 6, angle.sin() / angle)
    versine = torch.where(small, 0.5 - square / 24, (1 - angle.cos()) / angle.square())
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return identity + sine * cross + versine * (cross @ cross)


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """(..., 3, 3) → (..., 3) axis-angle in radians, angle in [0, π].

    Goes through the quaternion with the largest component as pivot, so that half turns are stable too.
    """
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = matrix.flatten(-2).unbind(-1)
    # Each row is a quaternion (w, x, y, z) times 4 × its pivot component, times that component.
    rows = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], -1),
            torch.stack([m21 - m12, 1 + m00 - m11 - m22, m01 + m10, m02 + m20], -1),
            torch.stack([m02 - m20, m01 + m10, 1 - m00 + m11 - m22, m12 + m21], -1),
            torch.stack([m10 - m01, m02 + m20, m12 + m21, 1 - m00 - m11 + m22], -1),
        ],
        -2,
    )
    pivot = torch.diagonal(rows, dim1=-2, dim2=-1).argmax(-1)
    row = torch.gather(rows, -2, pivot[..., None, None].expand(*pivot.shape, 1, 4)).squeeze(-2)
    quaternion = F.normalize(row, dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    sine = quaternion[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, quaternion[..., :1])
    return quaternion[..., 1:] * torch.where(
        sine < 1e-7, torch.full_like(sine, 2.0), angle / sine.clamp_min(1e-7)
    )
