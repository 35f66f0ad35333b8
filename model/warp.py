"""Affine crops of pictures: OpenCV where it is installed, else the same in torch (bench machines have little else).

Pixel centres lie at whole numbers, samples are bilinear, what lies beyond the picture is black. OpenCV reads at 32nds of
a pixel, torch at the very place: they differ by a few grey levels on hard edges.
"""

from __future__ import annotations

import numpy as np


def opencv():
    """OpenCV's module, or None where it is not installed."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def three_points(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, 3) float64 matrix that takes three points (3, 2) to three others, px."""
    if cv2 := opencv():
        return cv2.getAffineTransform(source.astype(np.float32), target.astype(np.float32))
    left = np.concatenate([source.astype(np.float64), np.ones((3, 1))], 1)
    return np.linalg.solve(left, target.astype(np.float64)).T


def shrink(image: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 → means over areas of about `factor` × `factor` px, and how many px (x, y) one spans exactly."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    if cv2 := opencv():
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    else:
        import torch
        from torch.nn.functional import adaptive_avg_pool2d

        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        small = adaptive_avg_pool2d(pixels, (height, width)).permute(1, 2, 0).round().numpy().astype(image.dtype)
    return small, np.array([image.shape[1] / width, image.shape[0] / height])


def warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 or float32 → the picture of (width, height) = `size` that `matrix` (2, 3), px → px, lays out."""
    if cv2 := opencv():
        return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    import torch
    from torch.nn.functional import grid_sample

    inverse = np.linalg.inv(matrix[:, :2])
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    at = (np.stack([x, y], -1) - matrix[:, 2]) @ inverse.T
    grid = torch.from_numpy(2 * at / (np.array(image.shape[1::-1]) - 1) - 1).float()[None]
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    out = grid_sample(pixels, grid, align_corners=True, padding_mode="zeros")[0].permute(1, 2, 0).numpy()
    return np.round(out).astype(np.uint8) if image.dtype == np.uint8 else out
