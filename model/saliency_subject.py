"""What is explained: a photo as the networks take it in, and the served score of it, with gradients.

`Subject` is the photo with a neutral one beside it; `Scorer` goes from what it holds (`Leaves`) to the score of a user
the way that `model.predictor` does, except that nothing is cut from the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.encoder import standardised
from model.images import apply_affine
from model.mesh_row import MeshRow, project
from model.physique_frame import PhysiqueFrame
from model.pose_graph import MAP, PIXELS, REACH, PhotoPosture
from model.predictor import GENERIC, Predictor
from model.views import FrameInputs, square

STREAMS = {"photo": ("looks", "square"), "mesh": ("vertices",), "points": ("points",)}
"""What a score is made of, and the leaves of it that are each one's."""
Leaves = dict[str, Tensor]


@dataclass
class Subject:
    """One photo as the networks take it in, and the neutral one beside it.

    leaves, neutral: `looks` (2, 3, h, w) in [0, 1], what the image encoder sees of the photo and of the flipped photo;
    `square` (3, 224, 224) in [0, 1], only where frames look at pixels themselves; `vertices` (10475, 3) metres, zero
    pose; `points` (15, 2) px, of the square where it is there. visible: somebody was found. shift (3,): of
    `FrameInputs`. matrices: photo px → px of each look, and last of the square. height: of the person, px.
    """

    leaves: Leaves
    neutral: Leaves
    visible: bool
    shift: Tensor
    matrices: list[np.ndarray]
    height: float


@dataclass
class Scorer:
    """What is explained: encoder and frames, and how their scores become one.

    combine: (N, M, 3) scores of M frames and (N, F) fused features of the generic one → (N, 3).
    """

    encoder: Any
    frames: list[PhysiqueFrame]
    surveys: list[Tensor]
    combine: Callable[[Tensor, Tensor], Tensor]
    generic: int = 0
    device: str = "cpu"

    @classmethod
    def of(cls, predictor: Predictor, user: str | None = None) -> Scorer:
        """Of a user's personal model, a new user's for None; of an expert's bundle, the expert.

        Personal scores are taken before they are cut to the scale: at its ends nothing would move them.
        """
        bank = predictor.bank
        if bank is None:
            return cls(predictor.encoder, predictor.frames, predictor.surveys, lambda t, _: t[:, 0],
                       device=predictor.device)  # fmt: skip
        row = bank.index([user or ""])

        def combine(table: Tensor, fused: Tensor) -> Tensor:
            return bank.predict(table.double().cpu(), row.expand(len(table)), fused.double().cpu(), clip=False).scores

        generic = predictor.names.index(GENERIC)
        return cls(predictor.encoder, predictor.frames, predictor.surveys, combine, generic, predictor.device)

    @property
    def batch(self) -> int:
        """Readings at a time: a full frame keeps about 2 GB of each for its gradient."""
        return 1 if self.frames[0].config.reads_photo else 8

    def __call__(self, leaves: Leaves, subject: Subject) -> Tensor:
        """(N, 3) scores of N readings: leaves as in `Subject` with N in front. Gradients reach every leaf."""
        count = len(leaves["points"])
        vector = self.encoder.differentiable(leaves["looks"].flatten(0, 1)).unflatten(0, (count, 2)).cpu()
        photo = standardised(leaves["square"]).permute(0, 2, 3, 1) if "square" in leaves else None
        shift, visible = subject.shift.expand(count, 3), torch.full((count,), subject.visible)
        inputs = FrameInputs([""] * count, vector, leaves["vertices"], leaves["points"], visible, photo, shift)
        scores, generic = [], torch.empty(0)
        for place, (frame, survey) in enumerate(zip(self.frames, self.surveys, strict=True)):
            fused = self._fused(frame, inputs, survey.to(self.device))
            scores.append(torch.stack([frame.score(view) for view in fused]).mean(0))
            if place == self.generic:
                generic = torch.stack(fused).mean(0)
        return self.combine(torch.stack(scores, 1), generic)

    def _fused(self, frame: PhysiqueFrame, inputs: FrameInputs, survey: Tensor) -> list[Tensor]:
        """As `model.views.score_views`, with gradients: the fused feature (N, F) of either view."""
        rows, fused = torch.arange(len(inputs)), []
        for mirrored in (False, True):
            view = inputs.view(rows, torch.full((len(rows),), mirrored), frame.config, self.device)
            preference = frame.preference(survey.expand(len(rows), -1), view.vector)
            fused.append(frame.fuse(view.image, view.vertices, view.points, preference, view.visible, view.vector))
        return fused


def subject_of(predictor: Predictor, image: np.ndarray, row: MeshRow) -> Subject:
    """An (H, W, 3) uint8 photo and its mesh row as the predictor's networks take them in."""
    inputs = predictor.inputs([image], [row])
    looks, matrices = predictor.encoder.looks(image)
    leaves = {"looks": looks, "vertices": inputs.vertices[0].float(), "points": inputs.points[0]}
    matrix = np.eye(2, 3)
    if inputs.photo is not None:
        leaves["square"] = inputs.photo[0].permute(2, 0, 1).float() / 255
        matrix = square(image, predictor.squash)[1]
    leaves = {name: leaf.clone() for name, leaf in leaves.items()}  # what inference made cannot be differentiated
    neutral = {name: blurred(leaf) if name in STREAMS["photo"] else leaf for name, leaf in leaves.items()}
    height = 1.0
    if row.status == "ok":
        body, network = predictor.extractor.body, predictor.extractor.network
        with torch.no_grad():
            joints = body.points15(body.posed(torch.zeros(1, 10), network.usual_pose)[1])[0].cpu().numpy()
        assert row.camera is not None
        average = apply_affine(matrix, project(joints, row.camera))
        neutral |= {"vertices": body.rest.cpu().clone(), "points": torch.from_numpy(average).float()}
        height = float((leaves["points"].amax(0) - leaves["points"].amin(0)).max())
    assert inputs.shift is not None
    return Subject(leaves, neutral, row.status == "ok", inputs.shift[0].clone(), [*matrices, matrix], height)


def blurred(pixels: Tensor) -> Tensor:
    """(…, 3, h, w) with all detail gone that is smaller than a quarter of its height."""
    sigma = pixels.shape[-2] / 16
    reach = min(int(3 * sigma), min(pixels.shape[-2:]) - 1)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=pixels.device) / sigma).square())
    bell = (bell / bell.sum()).view(1, 1, 1, -1)
    flat = pixels.reshape(-1, 1, *pixels.shape[-2:])
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="replicate"), bell)
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="replicate"), bell.mT)
    return flat.view(pixels.shape)


@contextmanager
def soft_points(frames: list[PhysiqueFrame]) -> Iterator[None]:
    """Within, the full posture stream has a gradient for its points.

    It rounds them to cells of 3.5 px, so that there is none. The values stay those of the rounded points; the gradient
    is that of the same decoder with bells around the points where they are.
    """
    heads = [frame.posture.head for frame in frames if isinstance(frame.posture, PhotoPosture)]
    hooks = [head.register_forward_hook(_with_soft_points) for head in heads]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _with_soft_points(head: Any, given: tuple[Any, ...], feature: Tensor) -> Tensor:
    features, points, visible, compat = given
    offset = torch.arange(MAP, device=points.device) - (points.float() * (MAP / PIXELS))[..., None]
    profiles = torch.exp(-offset.square() / 8) * (offset.abs() <= REACH)
    inside = (profiles.amax(-1) > 0).all(-1).float()
    cells = head.upsample(features.detach()).flatten(2).mT
    weight = compat.weight_of(inside * visible)
    tokens = head.query_proj(head.support(cells, profiles) * weight[..., None].to(cells.dtype))
    soft = head.decode(head.input_proj(cells), tokens, weight, compat).amax(dim=(0, 2))
    return feature + soft - soft.detach()
