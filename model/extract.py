"""Photos → rows of the mesh table: decode, find the person, network, body model, camera.

Notable:
- a row depends on its photo alone, not on what else is in the batch or on the order;
- the network looks twice: at the detector's box, then at the box drawn to the points it found;
- no camera is predicted: it is fitted so that the mesh's joints fall on the points (linear least squares).

    python -m pytest tests/model/test_extract.py
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model.body import load_body, points15
from model.checkpoint import file_hash
from model.detect import Box, Detector, box_from_points, make_detector, pick_largest
from model.images import UnreadableImage, apply_affine, crop_person, decode, invert_affine
from model.mesh_net import load_mesh_net

VERSION = "2"
"""Raise it when the code below changes what comes out; it is part of `extractor_id`."""
FOCAL = 1.2
"""Assumed focal length as a share of the photo's longer side (45° along it, a phone's main camera held
upright is 65°, a portrait lens 30°); size and distance trade off against each other, the overlay stays."""


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


def project(vertices: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Posed vertices (..., 3) metres → photo px (..., 2) with a row's `camera`; float64."""
    focal, *shift, x, y = np.asarray(camera, np.float64)
    at = np.asarray(vertices, np.float64) + shift
    return focal * at[..., :2] / at[..., 2:] + [x, y]


class Extractor:
    """Mesh rows of photos; loads its models once, is called many times."""

    def __init__(
        self,
        body_path: str | Path,
        mesh_net_path: str | Path,
        detector: str | Detector = "auto",
        device: str = "cpu",
    ):
        """
        Args:
            body_path: SMPL-X-format npz, stand-in or licensed.
            mesh_net_path: folder with mesh_net.safetensors and mesh_net.json.
            detector: `auto`, `hog`, `presence`, or any `Detector`.
        """
        self.device = device
        self.body = load_body(body_path, device)
        self.net = load_mesh_net(Path(mesh_net_path), device)
        self.detector = make_detector(detector, self.net) if isinstance(detector, str) else detector
        parts = [
            VERSION,
            file_hash(Path(mesh_net_path) / "mesh_net.safetensors"),
            file_hash(Path(body_path)),
            self.detector.settings,
        ]
        self.extractor_id = "tiny-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

    def __call__(self, photos: list[bytes]) -> list[MeshRow]:
        """One row per photo, in order; nothing is raised for a bad photo."""
        rows: list[MeshRow | None] = [None] * len(photos)
        images: dict[int, np.ndarray] = {}
        boxes: dict[int, Box] = {}
        for index, data in enumerate(photos):
            try:
                image = np.asarray(decode(data))
            except UnreadableImage as error:
                rows[index] = MeshRow("unreadable", extractor=self.extractor_id, reason=str(error))
                continue
            box = pick_largest(self.detector(image))
            if box is None:
                rows[index] = self._nobody("no person found")
            else:
                images[index], boxes[index] = image, box
        if images:
            found = self._people(list(images.values()), list(boxes.values()))
            for index, row in zip(images, found, strict=True):
                rows[index] = row
        return [row for row in rows if row is not None]

    def _nobody(self, reason: str) -> MeshRow:
        return MeshRow("no_person", extractor=self.extractor_id, reason=reason)

    @torch.no_grad()
    def _look(
        self, images: list[np.ndarray], boxes: list[np.ndarray]
    ) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        """The network's answer to one box of each photo, and its points in photo px (B, 15, 2)."""
        cut = [crop_person(image, box) for image, box in zip(images, boxes, strict=True)]
        crops = torch.from_numpy(np.stack([crop for crop, _ in cut])).to(self.device)
        output = self.net(crops.permute(0, 3, 1, 2).float() / 255)
        points = output.points.cpu().numpy()
        points = [apply_affine(invert_affine(m), p) for p, (_, m) in zip(points, cut, strict=True)]
        said = {"betas": output.betas, "pose": output.pose, "presence": output.presence}
        return said, np.stack(points)

    def _people(self, images: list[np.ndarray], boxes: list[Box]) -> list[MeshRow]:
        _, first = self._look(images, [box.xyxy() for box in boxes])
        drawn = []
        for image, box, points in zip(images, boxes, first, strict=True):
            limits = np.array([image.shape[1], image.shape[0]] * 2, np.float64)
            # Whole pixels: rounding noise of a batch must not reach the second crop.
            closer = np.round(box_from_points(points)).clip(0, limits)
            drawn.append(closer if (closer[2:] - closer[:2]).min() >= 8 else box.xyxy())
        said, points = self._look(images, drawn)
        with torch.no_grad():
            rest = self.body.zero_pose(said["betas"])
            volume = self.body.volume(rest).cpu().numpy()
            _, joints = self.body.posed(said["betas"], said["pose"])
        joints = points15(joints).cpu().numpy()
        vertices = rest.flatten(1).cpu().numpy().astype(np.float16)
        betas, pose = said["betas"].cpu().numpy(), said["pose"].cpu().numpy()
        rows = []
        for i, image in enumerate(images):
            height, width = image.shape[:2]
            focal = FOCAL * max(height, width)
            shift = fit_camera(joints[i], points[i] - [width / 2, height / 2], focal)
            rows.append(
                MeshRow(
                    "ok",
                    box=drawn[i].astype(np.float32),
                    betas=betas[i].astype(np.float32),
                    pose=pose[i].astype(np.float32),
                    camera=np.array([focal, *shift, width / 2, height / 2], np.float32),
                    vertices=vertices[i],
                    points=points[i].astype(np.float32).ravel(),
                    volume=float(volume[i]),
                    extractor=self.extractor_id,
                )
            )
        return rows
