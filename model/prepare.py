"""Photos → people ready for a mesh network: decoded, found, cut out. CPU work, apart from the network on purpose.

Decoding and cutting need no mesh network and networks no photos, so that many of these can feed one accelerator
(tasks/features.py). What passes between them is `Prepared`: small, and all numpy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from model.detect import Box, Detector, pick_largest
from model.images import UnreadableImage, person_rectangle
from model.jpeg import Decoded, alone, decode_batch
from model.warp import opencv, shrink, three_points, warp

WORKING_SIDE = 1536
"""A JPEG is decoded at the smallest of 1/1, 1/2, 1/4, 1/8 that keeps its longer side at or above this, px: no network
here sees more of a person who fills a seventh of the photo, and decoding is most of what a large photo costs."""
LARGEST_STEP = 512
"""Rows of the crop: a person that many times as high in the photo is averaged down first (see `crop_half`)."""


@dataclass(frozen=True)
class Person:
    """Somebody in a photo: number of the photo in its batch, size of the upright photo (width, height) px, box px, and
    the matrix (2, 3) photo px → px of the crop of 384×512, for networks that are given crops."""

    photo: int
    size: tuple[int, int]
    box: np.ndarray
    matrix: np.ndarray | None = None


@dataclass
class Prepared:
    """A batch of photos: `count` of them, the people (largest first within a photo), their pixels, and photos without.

    pixels: per person the reduced photo (h, w, 3) uint8 and how many photo px one of its px spans; or `crops`
    (N, 256, 192, 3) uint8. others: number of the photo → status (`no_person`, `unreadable`) and why.
    """

    count: int
    people: list[Person] = field(default_factory=list)
    pixels: list[tuple[np.ndarray, int]] = field(default_factory=list)
    crops: np.ndarray | None = None
    others: dict[int, tuple[str, str]] = field(default_factory=dict)


class Preparer:
    """Bytes of photos → `Prepared`.

    Args:
        people: `largest`, or `all` whom the detector sees.
        crops: whether the network wants crops (SMPLer-X) or photos (the small one, which looks twice).
        device: where JPEGs are decoded.
    """

    def __init__(self, detector: Detector, people: str = "largest", crops: bool = False, device: str = "cpu"):
        if cv2 := opencv():
            cv2.setNumThreads(1)  # preparers run side by side
        self.detector, self.people, self.cut, self.device = detector, people, crops, device

    def __call__(self, photos: list[bytes]) -> Prepared:
        """Nothing is raised for a bad photo."""
        done = Prepared(len(photos))
        crops = []
        for number, decoded in enumerate(self._decoded(photos)):
            if isinstance(decoded, UnreadableImage):
                done.others[number] = ("unreadable", str(decoded))
                continue
            image, span = decoded
            boxes = self._choose(self.detector(image), image.shape[1], image.shape[0])
            for box in boxes:
                size = (image.shape[1] * span, image.shape[0] * span)
                if self.cut:
                    crop, matrix = crop_half(image, box.xyxy())
                    crops.append(crop)
                    done.people.append(Person(number, size, box.xyxy() * span, wider(matrix, span)))
                else:
                    done.people.append(Person(number, size, box.xyxy() * span))
                    done.pixels.append((image, span))
            if not boxes:
                done.others[number] = ("no_person", "no person found")
        if self.cut:
            done.crops = np.stack(crops) if crops else np.zeros((0, 256, 192, 3), np.uint8)
        return done

    def _decoded(self, photos: list[bytes]) -> Iterable[Decoded]:
        """On a CPU one after the other, so that only one is held; on a GPU together."""
        if self.device == "cpu":
            return (alone(data, WORKING_SIDE) for data in photos)
        return decode_batch(photos, WORKING_SIDE, self.device)

    def _choose(self, boxes: list[Box], width: int, height: int) -> list[Box]:
        boxes = [box for box in boxes if _inside(box, width, height)]
        if self.people == "all":
            return sorted(boxes, key=lambda box: -box.area)
        largest = pick_largest(boxes)
        return [largest] if largest else []


def _inside(box: Box, width: int, height: int) -> bool:
    """Whether something of a box is left in the photo; detectors give slivers at its edge."""
    try:
        person_rectangle(box.xyxy(), width, height)
    except ValueError:
        return False
    return box.area > 0


def wider(matrix: np.ndarray, span: int) -> np.ndarray:
    """A map from px of a reduced photo as one from px of the photo; pixel centres lie at whole numbers in both."""
    out = matrix / [[span, span, 1.0]]
    out[:, 2] += out[:, :2].sum(1) * (1 - span) / 2  # centre of the reduced pixel 0 is (span - 1) / 2 of the photo
    return out


def crop_half(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every second pixel of SMPLer-X's crop, which is what its network looks at (spec §1.5, §2).

    Of photos whose person is more than twice as high as the crop, that many pixels are averaged first: the reference
    only ever sees photos of 224 px, where a bilinear reading skips none.

    Args: image (H, W, 3) uint8, box (4,) x1 y1 x2 y2 px.
    Returns: (256, 192, 3) uint8, and the (2, 3) matrix photo px → px of the crop of 384×512, pixel centres at whole
        numbers as in the reference.
    """
    height, width = image.shape[:2]
    x, y, w, h = person_rectangle(np.asarray(box, np.float64), width, height)
    source = np.array([[x, y], [x, y + h * 0.5], [x + w * 0.5, y]], np.float32)
    target = np.array([[192, 256], [192, 512], [384, 256]], np.float32)
    matrix = three_points(source, target)
    there, small, step = matrix / 2, image, int(h // LARGEST_STEP)
    if step >= 2 and min(height, width) >= 2 * step:
        small, span = shrink(image, step)
        there = there.copy()
        there[:, 2] += there[:, :2] @ ((span - 1) / 2)  # the centre of the reduced px 0
        there[:, :2] *= span
    return warp(small, there, (192, 256)), matrix
