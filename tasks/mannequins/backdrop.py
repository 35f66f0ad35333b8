"""What is behind the person: wall and floor, gradients, texture, furniture-like boxes.

Notable: a backdrop is a handful of numbers in shares of the frame, so it is painted at any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Box:
    """An upright box: left, top, right, bottom in shares of the frame, RGB colour, side shade 0..1."""

    corners: tuple[float, float, float, float]
    colour: np.ndarray
    shade: float
    rounded: bool


@dataclass(frozen=True)
class Backdrop:
    """Colours are RGB 0..255; heights are shares of the frame."""

    wall_top: np.ndarray
    wall_bottom: np.ndarray
    floor_far: np.ndarray
    floor_near: np.ndarray
    horizon: float
    """Where the floor meets the wall; 1 or more: no floor (a studio backdrop)."""
    planks: float
    """Floor lines per frame width, 0 for none."""
    roughness: float
    """Amplitude of the texture in grey levels."""
    boxes: tuple[Box, ...]
    seed: int


def sample_backdrop(rng: np.random.Generator, cluttered: bool = False) -> Backdrop:
    """A random backdrop; `cluttered` puts more furniture into it."""

    def colour(low: float, high: float) -> np.ndarray:
        grey = rng.uniform(low, high)
        return np.clip(grey + rng.normal(0, 22, 3), 0, 255)

    wall = colour(40, 235)
    floor = colour(40, 200)
    boxes = []
    for _ in range(int(rng.poisson(3.0 if cluttered else 1.2))):
        x, width = rng.uniform(-0.15, 1.0), rng.uniform(0.06, 0.45)
        bottom, height = rng.uniform(0.45, 1.02), rng.uniform(0.10, 0.65)
        corners = (float(x), float(bottom - height), float(x + width), float(bottom))
        boxes.append(Box(corners, colour(30, 225), float(rng.uniform(0.6, 0.95)), bool(rng.random() < 0.3)))
    studio = rng.random() < 0.25
    return Backdrop(
        wall_top=np.clip(wall + rng.normal(0, 15), 0, 255),
        wall_bottom=np.clip(wall + rng.normal(0, 15), 0, 255),
        floor_far=np.clip(floor * rng.uniform(0.7, 1.0), 0, 255),
        floor_near=floor,
        horizon=1.5 if studio else float(rng.uniform(0.55, 0.92)),
        planks=float(rng.choice([0, 0, 6, 10])),
        roughness=float(rng.choice([0.0, 4.0, 10.0, 22.0])),
        boxes=tuple(boxes),
        seed=int(rng.integers(2**31)),
    )


def _texture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(height, width) smooth noise of unit size: three octaves, each blown up to the frame."""
    import cv2

    total = np.zeros((height, width), np.float32)
    for cells, weight in ((4, 0.6), (12, 0.5), (40, 0.6)):
        coarse = rng.standard_normal((cells * 4 // 3, cells)).astype(np.float32)
        total += weight * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return total


def paint(backdrop: Backdrop, size: tuple[int, int]) -> np.ndarray:
    """Paints a backdrop: float32 (height, width, 3) in 0..255 for `size` = (width, height)."""
    import cv2

    width, height = size
    y = (np.arange(height, dtype=np.float32) + 0.5) / height
    up = np.clip(y / min(backdrop.horizon, 1.0), 0, 1)[:, None]
    column = (1 - up) * backdrop.wall_top + up * backdrop.wall_bottom
    on_floor = y >= backdrop.horizon
    near = np.clip((y - backdrop.horizon) / max(1 - backdrop.horizon, 1e-3), 0, 1)[:, None]
    column = np.where(on_floor[:, None], (1 - near) * backdrop.floor_far + near * backdrop.floor_near, column)
    image = np.repeat(column.astype(np.float32)[:, None], width, axis=1)
    rng = np.random.default_rng(backdrop.seed)
    if backdrop.planks and on_floor.any():
        x = (np.arange(width) + 0.5) / width - 0.5
        spread = 1.0 / (0.35 + near[on_floor])  # lines run together towards the horizon
        line = np.abs(((x[None] * spread * backdrop.planks) % 1.0) - 0.5) > 0.46
        image[on_floor] *= np.where(line, 0.75, 1.0)[..., None].astype(np.float32)
    for box in backdrop.boxes:
        left, top, right, bottom = box.corners
        p, q = (round(left * width), round(top * height)), (round(right * width), round(bottom * height))
        colour = tuple(float(c) for c in box.colour)
        side = tuple(float(c * box.shade) for c in box.colour)
        if box.rounded:
            centre = ((p[0] + q[0]) // 2, (p[1] + q[1]) // 2)
            cv2.ellipse(image, centre, (max((q[0] - p[0]) // 2, 1), max((q[1] - p[1]) // 2, 1)), 0, 0, 360, colour, -1)
        else:
            cv2.rectangle(image, p, q, colour, -1)
            cv2.rectangle(image, (p[0] + int(0.75 * (q[0] - p[0])), p[1]), q, side, -1)
    if backdrop.roughness:
        image += backdrop.roughness * _texture(rng, width, height)[..., None]
    return np.clip(image, 0, 255)
