"""Attributions brought to where people look at them: pixels of the photo, the skin, parts of the body."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LONG_SIDE = 480
"""The longer side of a map over the photo, px."""
REACH = 0.06
"""Standard deviation of a bulge, metres."""
CENTIMETRE = 0.01
PARTS = {
    "head": (15, 22, 23, 24), "neck": (12,), "shoulders": (13, 14), "chest": (9,), "belly": (3, 6), "hips": (0,),
    "upper arms": (16, 17), "forearms": (18, 19), "hands": (20, 21, *range(25, 55)), "thighs": (1, 2),
    "calves": (4, 5), "feet": (7, 8, 10, 11),
}  # fmt: skip
"""Parts of the body and the SMPL-X joints whose skin they are."""


def part_of(skinning: Tensor) -> np.ndarray:
    """(V, 55) skinning weights → (V,) index into PARTS: of the joint that moves a vertex most."""
    owner = np.zeros(55, np.int64)
    for place, joints in enumerate(PARTS.values()):
        owner[list(joints)] = place
    return owner[skinning.argmax(1).cpu().numpy()]


def normals(vertices: Tensor, triangles: Tensor) -> Tensor:
    """(V, 3) outward unit normals of a closed mesh (V, 3), triangles (F, 3) int64; zero where a mesh has no area."""
    a, b, c = vertices[triangles].unbind(1)
    of_faces = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for corner in triangles.unbind(1):
        total.index_add_(0, corner, of_faces)
    return total / total.norm(dim=1, keepdim=True).clamp_min(1e-12)


def bulge_field(at: Tensor, towards: Tensor, vertices: Tensor, directions: Tensor) -> Tensor:
    """(N, V): how far a bulge of height 1 at each of N places lifts each of V vertices along its normal.

    A bell of `REACH`, on skin that faces the same way: the other leg stays as it is. at, towards (N, 3): places and
    their normals; vertices, directions (V, 3).
    """
    bell = torch.exp(-torch.cdist(at, vertices).square() / (2 * REACH**2))
    return bell * (towards @ directions.T).clamp_min(0)


def bulges(outward: Tensor, vertices: Tensor, directions: Tensor) -> Tensor:
    """(D, V) what a score gains by a bulge of 1 cm at each vertex; outward (D, V) its gradient along normals, per metre."""
    moved = outward.abs().amax(0).nonzero()[:, 0]  # small frames read one vertex in eighty
    parts = [
        outward[:, moved] @ bulge_field(at, towards, vertices[moved], directions[moved]).T
        for at, towards in zip(vertices.split(1024), directions.split(1024), strict=True)
    ]
    return torch.cat(parts, dim=1) * CENTIMETRE


def map_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a map over a photo of `size` (height, width) px."""
    scale = LONG_SIDE / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def on_photo(given: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps of what a network saw, laid over its photo; sums over an area stay what they are.

    Args: given (D, h, w); matrix (2, 3) photo px → px of the map, pixel i spans i … i + 1; size (height, width), px.
    Returns: (D, *map_size(size)) float64.
    """
    import cv2

    height, width = map_size(size)
    back = np.asarray(matrix, np.float64).copy()
    back[:, :2] = back[:, :2] * [size[1] / width, size[0] / height]
    area = abs(np.linalg.det(back[:, :2]))
    back[:, 2] += back[:, :2].sum(1) * 0.5 - 0.5  # OpenCV counts from the centre of pixel 0
    out = []
    for one in given.astype(np.float64):
        if area > 1:  # several pixels fall on one: none is to be skipped
            one = cv2.GaussianBlur(one, (0, 0), 0.5 * area**0.5, borderType=cv2.BORDER_CONSTANT)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        out.append(cv2.warpAffine(one, back, (width, height), flags=flags, borderValue=0) * area)
    return np.stack(out)
