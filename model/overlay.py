"""The mesh drawn over its photo: what the extractor saw, for the eye.

Notable: no renderer and no GL. Faces that look at the camera are painted back to front, Lambert-shaded, by
OpenCV's polygon filler at no more than `LONG_SIDE` px: about 0.1 s for 20,908 faces.

    physique predict PHOTO --overlay OUT.png
"""

from __future__ import annotations

import numpy as np

from model.body import Body
from model.graph import EDGES
from model.mesh_row import MeshRow, project

LONG_SIDE = 1024
"""Larger photos are shrunk to this before drawing, px."""
SKIN = np.array([120.0, 190.0, 235.0])


def _shade(canvas: np.ndarray, vertices: np.ndarray, pixels: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Paint faces into `canvas` in place; vertices (V, 3) in the camera's frame, pixels (V, 2). Its mask."""
    import cv2

    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-12)
    middle = corners.mean(1)
    towards = (normal * middle).sum(1) < 0
    order = np.argsort(-middle[:, 2], kind="stable")
    order = order[towards[order]]
    light = np.array([-0.35, -0.55, -0.75]) / np.linalg.norm([-0.35, -0.55, -0.75])
    strength = 0.35 + 0.65 * (normal[order] @ light).clip(0, 1)
    colours = (strength[:, None] * SKIN).astype(int).tolist()
    # four fractional bits keep the outline smooth
    triangles = np.round(pixels[faces[order]] * 16).clip(-(2**20), 2**20).astype(np.int32)
    mask = np.zeros(canvas.shape[:2], np.uint8)
    for triangle, colour in zip(triangles, colours, strict=True):
        cv2.fillConvexPoly(canvas, triangle, colour, cv2.LINE_8, 4)
        cv2.fillConvexPoly(mask, triangle, 255, cv2.LINE_8, 4)
    return mask


def overlay(
    image: np.ndarray, row: MeshRow, body: Body, text: str | None = None, alpha: float = 0.6
) -> np.ndarray:
    """Mesh, box, 15 points and a line of text over a photo.

    Args:
        image: (H, W, 3) uint8 RGB, the upright photo that `row` was made of.
        text: put in the upper left corner, scores for instance; the reason where there is no mesh.
        alpha: how much the mesh covers, 0 to 1.
    Returns:
        (h, w, 3) uint8 RGB, the longer side at most `LONG_SIDE`.
    """
    import cv2
    import torch

    height, width = image.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image.copy()
    thin = max(1, round(max(size) / 400))
    if row.status == "ok":
        betas, pose = (torch.from_numpy(np.array(v, np.float32))[None] for v in (row.betas, row.pose))
        with torch.no_grad():
            vertices, _ = body.posed(betas, pose)
        vertices = vertices[0].cpu().numpy()
        seen = vertices + np.asarray(row.camera[1:4])
        if seen[:, 2].min() > 0.05:  # nothing behind the camera can be drawn
            pixels = project(vertices, row.camera) * scale
            painted = picture.copy()
            mask = _shade(painted, seen, pixels, body.faces)[..., None] > 0
            picture = np.where(mask, (alpha * painted + (1 - alpha) * picture).astype(np.uint8), picture)
        points = np.asarray(row.points, np.float64).reshape(15, 2) * scale
        dots = [tuple(int(v) for v in np.round(p)) for p in points.clip(-1e4, 1e4)]
        for a, b in EDGES:
            cv2.line(picture, dots[a], dots[b], (255, 255, 255), thin, cv2.LINE_AA)
        for dot in dots:
            cv2.circle(picture, dot, 2 * thin, (230, 40, 60), -1, cv2.LINE_AA)
        x1, y1, x2, y2 = (round(float(v) * scale) for v in row.box)
        cv2.rectangle(picture, (x1, y1), (x2, y2), (60, 220, 90), thin)
    line = text if text is not None else row.reason
    if line:
        face, letter = cv2.FONT_HERSHEY_SIMPLEX, max(size) / 900
        at = (4 * thin, round(30 * letter) + 2 * thin)
        cv2.putText(picture, line, at, face, letter, (0, 0, 0), 3 * thin, cv2.LINE_AA)
        cv2.putText(picture, line, at, face, letter, (255, 255, 255), thin, cv2.LINE_AA)
    return picture
