"""A row of the `mesh` table, and the camera that it speaks of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class MeshRow:
    """One row of the `mesh` table without the photo's id; None where there is nothing (status not `ok`)."""

    status: str
    """`ok`, `no_person` or `unreadable`."""
    box: np.ndarray | None = None
    """(4,) float32 x1 y1 x2 y2, px."""
    betas: np.ndarray | None = None
    """(10,) float32."""
    pose: np.ndarray | None = None
    """(66,) float32 axis-angle, rad: root (turns the y-up body into the camera) and 21 body joints."""
    camera: np.ndarray | None = None
    """(6,) float32 focal px, tx ty tz metres, cx cy px: posed p lies at f·(p+t).xy/(p+t).z + c."""
    vertices: np.ndarray | None = None
    """(31425,) float16 metres: 10,475 × 3 in zero pose, without camera shift."""
    points: np.ndarray | None = None
    """(30,) float32: 15 × (x, y) px."""
    volume: float | None = None
    """m³ of the zero-pose mesh."""
    extractor: str = ""
    reason: str | None = None
    """Why not ok."""
    person: int = 0
    """0 for the largest person of the photo, and where there is nobody; 1, 2, … for the others."""


def project(vertices: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Posed vertices (..., 3) metres → photo px (..., 2) with a row's `camera`; float64."""
    focal, *shift, x, y = np.asarray(camera, np.float64)
    at = np.asarray(vertices, np.float64) + shift
    return focal * at[..., :2] / at[..., 2:] + [x, y]
