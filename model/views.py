"""Photos as a PhysiqueFrame reads them: put into a square, seen twice (as they are and mirrored), bodies beside.

Training draws one view of a photo, prediction averages both. A mirrored photo has mirrored points and names of sides;
its zero-pose mesh stays as it is (betas describe bodies that are symmetric) and only its place before the camera moves.
The reference forgets all of this where it uses cached meshes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.graph import MIRRORED
from model.images import person_rectangle
from model.physique_frame import FrameConfig
from model.pose_graph import PIXELS
from model.vector_frame import Frame

REFERENCE_FOCAL, REFERENCE_ROWS = 5000.0, 256  # px: the camera that SMPLer-X assumes behind its 192×256 crop


class View(NamedTuple):
    """One view of B photos: what `PhysiqueFrame.fuse` takes. `image` is `vector` where no pixels are read."""

    image: Tensor
    vertices: Tensor
    points: Tensor
    visible: Tensor
    vector: Tensor


@dataclass
class FrameInputs:
    """N photos with what is known of them.

    ids: of the photos. vector (N, 2, D): the encoder's, as it is and flipped. vertices (N, 10475, 3) float16 metres,
    zero pose, zero where nobody is; (N, 0, 3) of items that are vectors. points (N, 15, 2) px: of the 224-px square where
    `photo` is there, else of the photo.
    visible (N,) bool: somebody is there. photo (N, 224, 224, 3) uint8, for frames that look at pixels. shift (N, 3)
    metres: where the camera saw the body, for frames trained on meshes in camera space.
    """

    ids: list[str]
    vector: Tensor
    vertices: Tensor
    points: Tensor
    visible: Tensor
    photo: Tensor | None = None
    shift: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self) -> dict[str, int]:
        return {photo: row for row, photo in enumerate(self.ids)}

    def mean_mesh(self) -> Tensor:
        """(10475, 3) mean of the visible bodies; of zeros when there is none."""
        found = self.vertices[self.visible]
        return found.float().mean(0) if len(found) else torch.zeros(self.vertices.shape[1:])

    def view(self, rows: Tensor, flip: Tensor, config: FrameConfig, device: str | torch.device = "cpu") -> View:
        """`rows` (B,) as a frame of `config` reads them, those where `flip` (B,) is true mirrored."""
        points, visible = self.points[rows], self.visible[rows]
        points = torch.where(flip[:, None, None], mirror_points(points, PIXELS if config.reads_photo else None), points)
        vector, vertices = self.vector[rows, flip.long()], self.vertices[rows]
        image = vector
        if config.reads_photo:
            if self.photo is None:
                raise ValueError("photo: missing; frames of this size look at pixels")
            image = self.photo[rows].permute(0, 3, 1, 2)
            image = torch.where(flip[:, None, None, None], image.flip(-1), image)
        if config.camera:
            vertices = self._before_camera(vertices, rows, flip)
        if not config.nobody:  # the reference reads nobody as an empty mesh, all of whose points are seen at the corner
            vertices = vertices * visible[:, None, None]
            points = points * visible[:, None, None]
            visible = torch.ones_like(visible)
        parts = (image, vertices, points, visible[:, None].expand(-1, points.shape[1]), vector)
        return View(*(part.to(device, non_blocking=True) for part in parts))

    def _before_camera(self, vertices: Tensor, rows: Tensor, flip: Tensor) -> Tensor:
        if self.shift is None:
            raise ValueError("shift: missing; this frame was trained on meshes in camera space")
        shift = self.shift[rows].clone()
        shift[:, 0] *= 1 - 2 * flip.float()
        return -(vertices.float() + shift[:, None])


def mirror_points(points: Tensor, width: int | None = None) -> Tensor:
    """(B, 15, 2) points of the mirrored photo: sides and names change.

    Args:
        width: of the photo, px. Without it the body stays where it is: the posture stream that reads no pixels looks at
            differences of points only, so any axis will do.
    """
    mirrored = points[:, list(MIRRORED)].clone()
    twice = 2 * points[..., 0].mean(1, keepdim=True) if width is None else width
    mirrored[..., 0] = twice - mirrored[..., 0]
    return mirrored


def square(image: np.ndarray, squash: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A photo as the full network was trained to see it.

    The longer side becomes 224 px by plain bilinear sampling (the authors' torchvision has no antialias there), black
    bars fill the rest. `squash`: both sides become 224 px, with antialias, as the reference's inference script does.

    Args: image (H, W, 3) uint8.
    Returns: (224, 224, 3) uint8 and the (2, 3) matrix photo px → square px; pixel i spans i … i + 1.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    size = (PIXELS, PIXELS) if squash else tuple(max(1, int(PIXELS * side / longer)) for side in (height, width))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    small = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=squash)
    small = small[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    top, left = (PIXELS - size[0]) // 2, (PIXELS - size[1]) // 2
    out = np.zeros((PIXELS, PIXELS, 3), np.uint8)
    out[top : top + size[0], left : left + size[1]] = small
    return out, np.array([[size[1] / width, 0.0, left], [0.0, size[0] / height, top]], np.float64)


def camera_shift(box: np.ndarray, camera: np.ndarray, width: int, height: int) -> np.ndarray:
    """Where SMPLer-X would see a body: (3,) metres from the camera that it assumes behind its crop of the person.

    It looks through 5,000 px of focal length at a crop of 192×256 px, so a body stands tens of metres away. What the
    body model is at there is what our own camera sees, brought to that crop (spec of SMPLer-X, sections 1 and 6).

    Args:
        box: (4,) person box, px. camera: (6,) focal px, tx ty tz metres, cx cy px, of a `mesh` row.
    """
    focal, shift, middle = float(camera[0]), np.asarray(camera[1:4], np.float64), np.asarray(camera[4:], np.float64)
    centre_x, centre_y, _, crop_height = (float(v) for v in person_rectangle(np.asarray(box), width, height))
    scale = REFERENCE_ROWS / crop_height  # crop px per photo px
    at = focal * shift[:2] / shift[2] + middle  # of the body's origin, photo px
    away = REFERENCE_FOCAL * shift[2] / (focal * scale)
    x, y = (at - [centre_x, centre_y]) * scale / REFERENCE_FOCAL * away
    return np.array([x, y, away], np.float32)


@torch.inference_mode()
def score_views(
    frame: Frame, inputs: FrameInputs, rows: Tensor, survey: Tensor, device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor]:
    """(B, 3) scores and (B, F) fused features of `rows`, each the mean over both views, on the CPU.

    Args:
        survey: (32,) survey code of the rater whom the model speaks for.
    """
    fused = []
    for mirrored in (False, True):
        view = inputs.view(rows, torch.full((len(rows),), mirrored), frame.config, device)
        preference = frame.preference(survey.to(device).expand(len(rows), -1), view.vector)
        fused.append(frame.fuse(view.image, view.vertices, view.points, preference, view.visible, view.vector))
    scores = torch.stack([frame.score(one) for one in fused]).mean(0)
    return scores.float().cpu(), torch.stack(fused).float().mean(0).cpu()
