"""Where is a person? One small interface, and the detectors that need no downloaded weights.

Notable: a detector is any callable from an (H, W, 3) uint8 RGB photo to boxes with scores. Those that run
somebody's weights are in `model/detect_torchvision.py` and `model/detect_onnx.py`; who adds another adds a
class and a line to `make_detector`.

    python bench/detectors.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from model.images import crop_person
from model.mesh_net import MeshNet


@dataclass(frozen=True)
class Box:
    """A person in photo pixels; a higher score is surer, on the detector's own scale."""

    x1: float
    y1: float
    x2: float
    y2: float
    score: float

    @property
    def area(self) -> float:
        """Square pixels; 0 for an inside-out box."""
        return max(0.0, self.x2 - self.x1) * max(0.0, self.y2 - self.y1)

    def xyxy(self) -> np.ndarray:
        """(4,) float64."""
        return np.array([self.x1, self.y1, self.x2, self.y2])


class Detector(Protocol):
    """What every detector is."""

    def __call__(self, image: np.ndarray) -> list[Box]:
        """People in an (H, W, 3) uint8 RGB photo, in any order; an empty list when nobody is seen."""
        ...

    @property
    def settings(self) -> str:
        """One line that changes whenever the boxes could: part of the extractor's identity."""
        ...


def pick_largest(boxes: list[Box], threshold: float = float("-inf")) -> Box | None:
    """The box of the largest area among those that score at least `threshold`; the first wins ties."""
    sure = [box for box in boxes if box.score >= threshold and box.area > 0]
    return max(sure, key=lambda box: box.area, default=None)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a.area + b.area - width * height)


class HogDetector:
    """OpenCV's built-in HOG people detector (Dalal & Triggs, CVPR 2005): upright, whole people.

    Its 64×128 window holds a person 96 px high, so boxes are drawn in to the person. The photo is first
    brought to `side` px: a person must then be at least about 100 px high, and the time does not depend on
    the camera.
    """

    def __init__(self, threshold: float = 1.0, side: int = 320, stride: int = 8, scale: float = 1.05):
        """Boxes under weight `threshold` are dropped; `stride` px and `scale` per pyramid level."""
        self.threshold, self.side, self.stride, self.scale = threshold, side, stride, scale
        self._hog = None

    @property
    def settings(self) -> str:
        """See `Detector`."""
        return f"hog side={self.side} stride={self.stride} scale={self.scale} threshold={self.threshold}"

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_hog": None}  # OpenCV's object does not travel between processes

    def __call__(self, image: np.ndarray) -> list[Box]:
        """See `Detector`; the score is HOG's weight (about 0 to 2)."""
        import cv2

        if self._hog is None:
            cv2.setNumThreads(1)  # actors run side by side; the result does not depend on it
            self._hog = cv2.HOGDescriptor()
            self._hog.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())
        height, width = image.shape[:2]
        factor = self.side / max(height, width)
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
        # A person who fills the frame needs the window's margin around them.
        rim = self.side // 10
        small = cv2.copyMakeBorder(small, rim, rim, rim, rim, cv2.BORDER_REPLICATE)
        found, weights = self._hog.detectMultiScale(
            np.ascontiguousarray(small[..., ::-1]),
            winStride=(self.stride, self.stride),
            padding=(16, 16),
            scale=self.scale,
        )
        boxes = []
        for (x, y, w, h), weight in zip(found, np.ravel(weights), strict=True):
            if weight < self.threshold:
                continue
            # the margin of 16 of 128 px above and below, 13 of 64 px left and right
            x1, x2 = (x + 0.2 * w - rim) / factor, (x + 0.8 * w - rim) / factor
            y1, y2 = (y + 0.115 * h - rim) / factor, (y + 0.885 * h - rim) / factor
            boxes.append(Box(max(0.0, x1), max(0.0, y1), min(width, x2), min(height, y2), float(weight)))
        return boxes


def box_from_points(points: np.ndarray) -> np.ndarray:
    """(x1, y1, x2, y2) of a whole person from the 15 body points (15, 2): to the crown, the soles, the hands.

    The margins are shares of the points' height or width, the mean over mannequins (bench/detectors.py).
    """
    low, high = points.min(0), points.max(0)
    tall = high[1] - low[1]
    return np.array(
        [low[0] - 0.055 * tall, low[1] - 0.085 * tall, high[0] + 0.055 * tall, high[1] + 0.055 * tall]
    )


@torch.no_grad()
def look(net: MeshNet, image: np.ndarray, boxes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Run the network on boxes of one photo: presence logits (n,) and body points (n, 15, 2), photo px."""
    from model.images import apply_affine, invert_affine

    cut = [crop_person(image, box) for box in boxes]
    crops = torch.from_numpy(np.stack([crop for crop, _ in cut])).permute(0, 3, 1, 2).float() / 255
    output = net(crops.to(next(net.parameters()).device))
    points = output.points.cpu().numpy().astype(np.float64)
    back = [apply_affine(invert_affine(matrix), p) for (_, matrix), p in zip(cut, points, strict=True)]
    return output.presence.cpu().numpy(), np.stack(back)


class PresenceDetector:
    """The presence head of the mesh network over windows of the photo; the best one is drawn to its points.

    Finds one person, in any pose the mannequins take, of at least about half the photo's height.
    """

    def __init__(self, net: MeshNet, threshold: float = 3.0, heights: tuple[float, ...] = (0.9, 0.68, 0.5)):
        """Windows are `heights` of the photo high; a logit under `threshold` is nobody."""
        self.net, self.threshold, self.heights = net, threshold, heights

    @property
    def settings(self) -> str:
        """See `Detector`; the network itself is named by its file's hash."""
        return f"presence heights={self.heights} threshold={self.threshold}"

    def windows(self, width: int, height: int) -> list[np.ndarray]:
        """Boxes (x1, y1, x2, y2) px to look at, from large to small."""
        boxes = []
        for share in self.heights:
            h = share * height
            w = 0.5 * h
            columns = max(1, round((width - w) / (0.3 * h)) + 1) if width > 1.1 * w else 1
            rows = 1 + round((1 - share) / 0.3)
            for x in np.linspace(0, width - w, columns) if columns > 1 else [(width - w) / 2]:
                for y in np.linspace(0, height - h, rows) if rows > 1 else [(height - h) / 2]:
                    boxes.append(np.array([x, y, x + w, y + h]).clip(0, [width, height, width, height]))
        return boxes

    def __call__(self, image: np.ndarray) -> list[Box]:
        """See `Detector`; the score is the presence logit of the drawn-in box."""
        height, width = image.shape[:2]
        boxes = self.windows(width, height)
        presence, points = look(self.net, image, boxes)
        return self.settle(image, points[presence.argmax()])

    def whole(self, image: np.ndarray) -> list[Box]:
        """Like a call, but looks at the whole photo only."""
        height, width = image.shape[:2]
        inner = np.array([0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height])  # a crop grows by a quarter
        _, points = look(self.net, image, [inner])
        return self.settle(image, points[0])

    def settle(self, image: np.ndarray, points: np.ndarray, steps: int = 2) -> list[Box]:
        """Draw the box to the points and look again, `steps` times; [] when nobody is left."""
        height, width = image.shape[:2]
        score, box = 0.0, np.zeros(4)
        for _ in range(steps):
            # whole pixels: rounding noise of a batch must not reach the crop
            box = np.round(box_from_points(points)).clip(0, [width, height, width, height])
            if (box[2:] - box[:2]).min() < 8:
                return []
            presence, found = look(self.net, image, [box])
            score, points = float(presence[0]), found[0]
        return [Box(*(float(v) for v in box), score)] if score >= self.threshold else []


class AutoDetector:
    """One look at the whole photo; if that is no single whole person, HOG; then windows of the photo.

    Photos of one person, which is what the cohorts hold, take the quick way; people on a street need HOG, odd
    poses and small figures the windows.
    """

    def __init__(self, hog: HogDetector, presence: PresenceDetector):
        self.hog, self.presence = hog, presence

    @property
    def settings(self) -> str:
        """See `Detector`."""
        return f"whole then {self.hog.settings} then {self.presence.settings}"

    def __call__(self, image: np.ndarray) -> list[Box]:
        """See `Detector`; scores are those of whichever detector answered."""
        return self.presence.whole(image) or self.hog(image) or self.presence(image)


def make_detector(
    name: str, net: MeshNet | None, weights: str | Path | None = None, device: str = "cpu"
) -> Detector:
    """The detector of a setting: `auto`, `hog`, `presence`, `onnx` or `torchvision:MODEL`.

    Args:
        net: what `auto` and `presence` look with; the others need none.
        weights: local file of `onnx` and `torchvision:MODEL`; the others read none.
        device: where those two run; `net` stays where it is.

    Raises:
        ValueError: another name, no `net` or no `weights` where they are needed, or weights that cannot be used.
        ModuleNotFoundError: `onnx` without onnxruntime.
    """
    kind, _, model = name.partition(":")
    if name == "hog":
        return HogDetector()
    if name in ("auto", "presence"):
        if net is None:
            raise ValueError(f"mesh.detector is {name!r}, which looks with the mesh network, and none is given")
        presence = PresenceDetector(net)
        return presence if name == "presence" else AutoDetector(HogDetector(), presence)
    if name == "onnx" or (kind == "torchvision" and model):
        if not weights:
            raise ValueError(f"mesh.detector is {name!r}, which needs a file of weights, and none is given")
        # these import what the other detectors do not need
        if name == "onnx":
            from model.detect_onnx import OnnxDetector

            return OnnxDetector(weights, device)
        from model.detect_torchvision import TorchvisionDetector

        return TorchvisionDetector(model, weights, device)
    raise ValueError(f"mesh.detector is {name!r}; it can be auto, hog, presence, onnx or torchvision:MODEL")
