"""The small mesh network's rows: it looks twice, at the person's box and at the box drawn to the points it found.

No camera is predicted: it is fitted so that the mesh's joints fall on the points (linear least squares).

    python -m pytest tests/model/test_extract.py
"""

from __future__ import annotations

import numpy as np
import torch

from model.body import Body, points15
from model.detect import box_from_points
from model.images import apply_affine, crop_person, invert_affine
from model.mesh_net import MeshNet
from model.mesh_row import MeshRow
from model.prepare import Prepared
from model.rotations import matrix_to_axis_angle

FOCAL = 1.2
"""Assumed focal length as a share of the photo's longer side (45° along it, a phone's main camera held
upright is 65°, a portrait lens 30°); size and distance trade off against each other, the overlay stays."""


def fit_camera(joints: np.ndarray, points: np.ndarray, focal: float) -> np.ndarray:
    """Shift (3,) metres that lays joints (J, 3) on points (J, 2), px from the photo's centre, at `focal` px.

    focal·(X+tx) = u·(Z+tz) is linear in t; a second pass weighs each joint by its depth, which makes the
    residual one of pixels. The result stands at least 0.3 m in front of the camera.
    """
    joints, points = np.asarray(joints, np.float64), np.asarray(points, np.float64)
    u, v = points.T
    zero, focals = np.zeros_like(u), np.full_like(u, focal)
    left = np.concatenate([np.stack([focals, zero, -u], 1), np.stack([zero, focals, -v], 1)])
    right = np.concatenate([u * joints[:, 2] - focal * joints[:, 0], v * joints[:, 2] - focal * joints[:, 1]])
    weight = np.ones(2 * len(u))
    shift = np.zeros(3)
    for _ in range(3):
        shift = np.linalg.lstsq(left * weight[:, None], right * weight, rcond=None)[0]
        depth = np.maximum(joints[:, 2] + shift[2], 0.1)
        weight = np.tile(1.0 / depth, 2)
    shift[2] = max(shift[2], 0.3 - joints[:, 2].min())
    return shift


class TinyNetwork:
    """Prepared photos → rows of their people, in the order of `Prepared.people`."""

    def __init__(self, net: MeshNet, body: Body, device: str = "cpu"):
        self.net, self.body, self.device = net.to(device), body.to(device), device

    @property
    def usual_pose(self) -> torch.Tensor:
        """(1, 66) the mean pose of the photos it was trained on, on the CPU."""
        return matrix_to_axis_angle(self.net.mean_rotations).reshape(1, 66).detach().cpu().clone()

    @torch.no_grad()
    def _look(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        """The network's answer to one box of each photo, and its points in photo px (B, 15, 2)."""
        cut = [crop_person(image, box) for image, box in zip(images, boxes, strict=True)]
        crops = torch.from_numpy(np.stack([crop for crop, _ in cut])).to(self.device)
        output = self.net(crops.permute(0, 3, 1, 2).float() / 255)
        points = output.points.cpu().numpy()
        points = [apply_affine(invert_affine(m), p) for p, (_, m) in zip(points, cut, strict=True)]
        return {"betas": output.betas, "pose": output.pose}, np.stack(points)

    def rows(self, prepared: Prepared) -> list[MeshRow]:
        """One row per person; `extractor` is left to the caller."""
        if not prepared.people:
            return []
        images = [image for image, _ in prepared.pixels]
        spans = np.array([span for _, span in prepared.pixels])
        boxes = [person.box / span for person, span in zip(prepared.people, spans)]
        _, first = self._look(images, boxes)
        drawn = []
        for image, box, points in zip(images, boxes, first, strict=True):
            limits = np.array([image.shape[1], image.shape[0]] * 2, np.float64)
            # Whole pixels: rounding noise of a batch must not reach the second crop.
            closer = np.round(box_from_points(points)).clip(0, limits)
            drawn.append(closer if (closer[2:] - closer[:2]).min() >= 8 else box)
        said, points = self._look(images, drawn)
        with torch.no_grad():
            rest = self.body.zero_pose(said["betas"])
            volume = self.body.volume(rest).cpu().numpy()
            _, joints = self.body.posed(said["betas"], said["pose"])
        joints = points15(joints).cpu().numpy()
        vertices = rest.flatten(1).cpu().numpy().astype(np.float16)
        betas, pose = said["betas"].cpu().numpy(), said["pose"].cpu().numpy()
        rows = []
        for i, person in enumerate(prepared.people):
            width, height = person.size
            middle, focal = np.array([width / 2, height / 2]), FOCAL * max(width, height)
            at = points[i] * spans[i]
            shift = fit_camera(joints[i], at - middle, focal)
            rows.append(
                MeshRow(
                    "ok",
                    box=(drawn[i] * spans[i]).astype(np.float32),
                    betas=betas[i].astype(np.float32),
                    pose=pose[i].astype(np.float32),
                    camera=np.array([focal, *shift, *middle], np.float32),
                    vertices=vertices[i],
                    points=at.astype(np.float32).ravel(),
                    volume=float(volume[i]),
                )
            )
        return rows
