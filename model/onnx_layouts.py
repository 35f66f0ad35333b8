"""What the outputs of a detector's ONNX file mean: the usual exports of YOLO and RT-DETR.

N is the number of places that a network looks at, Q that of its queries; each layout's `read` takes the outputs of one
photo, without their first axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
"""px between the places of each of a YOLO's grids: the usual ones, those of P6, P2 and the tiny models."""
UNDERSTOOD = (
    "(1, N, 5 + classes) of YOLOv5 and v7, (1, 4 + classes, N) of YOLOv8 and 11, (1, N, 6) of YOLO without overlaps, "
    "(1, Q, 4 + classes) or `logits` and `pred_boxes` or `labels`, `boxes` and `scores` of RT-DETR"
)


@dataclass(frozen=True)
class Layout:
    """How a kind of file takes the photo, and how it tells boxes.

    outputs: names, as `read` takes them, the class of persons last; it returns boxes x1 y1 x2 y2 (n, 4) and scores (n,).
    unit: of the boxes: px of the `input` or of the `photo`, or a `share` of either. stretched: the photo is, else it gets
    bars. overlapping: several boxes may be of one person.
    """

    name: str
    outputs: tuple[str, ...]
    read: Callable[..., tuple[np.ndarray, np.ndarray]]
    unit: Literal["input", "photo", "share"] = "input"
    stretched: bool = False
    overlapping: bool = False


def recognise(outputs: dict[str, np.ndarray], width: int, height: int, sized: bool) -> Layout | None:
    """The layout of outputs that came of an input of this size (px), None when it is none of those `UNDERSTOOD`.

    sized: the file is told the photo's size, too.
    """
    rank = {name: value.ndim for name, value in outputs.items()}
    if sized:
        if rank.get("boxes") == 3 and rank.get("labels") == rank.get("scores") == 2:
            return Layout("RT-DETR", ("labels", "boxes", "scores"), _labelled, unit="photo", stretched=True)
        return None
    if rank.get("logits") == rank.get("pred_boxes") == 3:
        # COCO's own numbers are those of DETR and its kin, who want other colours and whose person is not 0.
        if outputs["logits"].shape[2] in (91, 92):
            return None
        return Layout("RT-DETR", ("logits", "pred_boxes"), _logits, unit="share", stretched=True)
    # Masks and grids that some exports have beside their boxes have four and five axes.
    flat = [name for name, n in rank.items() if n == 3 and len(outputs[name]) == 1]
    if len(flat) != 1:
        return None
    (name,), value = flat, outputs[flat[0]][0]
    rows, columns = value.shape
    places = [sum((width // s) * (height // s) for s in strides) for strides in STRIDES]
    if columns in places and rows >= 5:
        return Layout("YOLOv8", (name,), _by_column, overlapping=True)
    if rows in [3 * n for n in places] and columns >= 6:  # three boxes at each place
        return Layout("YOLOv5", (name,), _with_objectness, overlapping=True)
    if columns == 6 and (value[:, 5] == value[:, 5].round()).all():  # the number of a class, not a score
        return Layout("YOLO without overlaps", (name,), _finished)
    if columns >= 5 and rows and value[:, :4].min() >= -0.01 and value[:, :4].max() <= 1.01:
        return Layout("RT-DETR", (name,), _by_row, unit="share", stretched=True)
    return None


def corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) as x1 y1 x2 y2, from centre x, centre y, width, height."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _by_column(value: np.ndarray, person: int) -> tuple[np.ndarray, np.ndarray]:
    return corners(value[:4].T), value[4 + person]


def _by_row(value: np.ndarray, person: int) -> tuple[np.ndarray, np.ndarray]:
    return corners(value[:, :4]), value[:, 4 + person]


def _with_objectness(value: np.ndarray, person: int) -> tuple[np.ndarray, np.ndarray]:
    return corners(value[:, :4]), value[:, 4] * value[:, 5 + person]


def _finished(value: np.ndarray, person: int) -> tuple[np.ndarray, np.ndarray]:
    value = value[value[:, 5] == person]
    return value[:, :4], value[:, 4]


def _logits(logits: np.ndarray, boxes: np.ndarray, person: int) -> tuple[np.ndarray, np.ndarray]:
    return corners(boxes), 0.5 + 0.5 * np.tanh(logits[:, person] / 2)  # the sigmoid, without overflow


def _labelled(labels: np.ndarray, boxes: np.ndarray, scores: np.ndarray, person: int) -> tuple[np.ndarray, np.ndarray]:
    mine = labels == person
    return boxes[mine], scores[mine]
