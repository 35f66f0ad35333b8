"""Which part of a photo, which part of the mesh and which of the 15 points moved a score.

Two questions, asked of the score that is served (experts combined by the user's entry, mean of both views of the photo):

- *How much came from the photo, the mesh, the points?* Each is exchanged for a neutral one (the photo blurred until
  nothing can be told, an average body, an average pose) in all eight combinations; Shapley's values of these scores
  (Lundberg & Lee, NeurIPS 2017) add up to score minus neutral score exactly.
- *Where in it?* SmoothGrad (Smilkov et al., 2017): gradients averaged over readings a little off. The noise is what these
  inputs do vary by: parts of the photo fade, the body changes its betas, points are misplaced; white noise on pixels blinds
  these networks and explains them worse (docs/explain.md). Plain gradients are what sees randomised weights (Adebayo et
  al., NeurIPS 2018), which methods that polish them may not.

A photo moves a score through its pixels here, and mesh and points are inputs of their own, though they were found in the
photo: what a pixel did to the mesh is not followed, nor where the encoder chose to look.

    shown = explain(predictor, image, answer, "user-0001")       # answer: what the predictor says of the photo
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.encoder import standardised
from model.extract import MeshRow, project
from model.images import apply_affine
from model.physique_frame import PhysiqueFrame
from model.pose_graph import MAP, PIXELS, REACH, PhotoPosture
from model.predictor import GENERIC, Answer, Predictor
from model.rotations import matrix_to_axis_angle
from model.saliency_maps import bulges, normals, on_photo
from model.scores import DIMENSIONS
from model.views import FrameInputs, square

SAMPLES = 16
FADE = 0.4  # of the photo's detail at most, where a sample fades it; the grid of the fading is 8×6
BETAS = 0.3  # standard deviation of the betas' noise
JITTER = 0.02  # of the points' noise, as a share of the person's height
STEP = 0.05  # of the person's height: how far a point is moved in what `pull` says
STREAMS = {"photo": ("looks", "square"), "mesh": ("vertices",), "points": ("points",)}
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
        body, net = predictor.extractor.body, predictor.extractor.net
        with torch.no_grad():
            pose = matrix_to_axis_angle(net.mean_rotations).reshape(1, 66)
            joints = body.points15(body.posed(torch.zeros(1, 10), pose)[1])[0].cpu().numpy()
        assert row.camera is not None
        average = apply_affine(matrix, project(joints, row.camera, image.shape[1], image.shape[0]))
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


def shares(scorer: Scorer, subject: Subject) -> tuple[Tensor, Tensor]:
    """(3, 3) what photo, mesh and points gave each score, together score minus neutral score; and (3,) neutral scores."""
    names = list(STREAMS)
    subsets = [frozenset(s) for size in range(len(names) + 1) for s in itertools.combinations(names, size)]
    worth = {}
    with torch.no_grad():
        for subset in subsets:
            kept = {leaf for name in subset for leaf in STREAMS[name]}
            mixed = {k: (v if k in kept else subject.neutral[k])[None] for k, v in subject.leaves.items()}
            worth[subset] = scorer(mixed, subject)[0]
    given = torch.zeros(len(worth[subsets[0]]), len(names), dtype=torch.float64)
    for at, name in enumerate(names):
        for subset in subsets:
            if name not in subset:
                weight = (1 / 3, 1 / 6, 1 / 3)[len(subset)]  # |S|! (2 - |S|)! / 3!
                given[:, at] += weight * (worth[subset | {name}] - worth[subset])
    return given, worth[frozenset()].double()


def gradients(scorer: Scorer, subject: Subject, leaves: Leaves, dimensions: list[int]) -> Leaves:
    """Gradients of the scores at N readings, mean over them: (D, *leaf) float32 for D `dimensions`."""
    total = {name: torch.zeros(len(dimensions), *leaf.shape[1:], device=leaf.device) for name, leaf in leaves.items()}
    count = len(leaves["points"])
    with torch.enable_grad(), soft_points(scorer.frames):
        for start in range(0, count, scorer.batch):
            part = {k: v[start : start + scorer.batch].detach().requires_grad_() for k, v in leaves.items()}
            scores = scorer(part, subject)
            for at, d in enumerate(dimensions):
                found = torch.autograd.grad(
                    scores[:, d].sum(), list(part.values()), retain_graph=at + 1 < len(dimensions), materialize_grads=True
                )
                for name, grad in zip(part, found, strict=True):
                    total[name][at] += grad.sum(0) / count
    return total


def readings(subject: Subject, directions: Tensor | None, samples: int, seed: int) -> Leaves:
    """N readings a little off the subject's; directions (10, 31425): what a unit of each beta does to the mesh, metres."""
    drawn = torch.Generator().manual_seed(seed)
    out = {}
    for name, leaf in subject.leaves.items():
        if name in STREAMS["photo"]:
            faint = 1 - FADE * torch.rand(samples, leaf[..., 0, 0, 0].numel(), 8, 6, generator=drawn)
            faint = F.interpolate(faint, size=leaf.shape[-2:], mode="bilinear").to(leaf.device)
            faint = faint.view(samples, *leaf.shape[:-3], 1, *leaf.shape[-2:])
            out[name] = subject.neutral[name] + faint * (leaf - subject.neutral[name])
        elif name == "vertices":
            betas = BETAS * torch.randn(samples, 10, generator=drawn)
            moved = 0 if directions is None else (betas @ directions.cpu()).unflatten(1, (-1, 3))
            out[name] = leaf + moved + torch.zeros(samples, 1, 1)
        else:
            out[name] = leaf + JITTER * subject.height * torch.randn(samples, *leaf.shape, generator=drawn)
    return out


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


@dataclass
class Explanation:
    """What moved the scores of one photo, for the D rated `dimensions`.

    given (D, 3): what photo, mesh and points gave, in points of the scale; neutral (D,): the score of the neutral
    reading; score (D,): as served, before it is cut to the scale; neutral + given.sum(1) is score.
    image (D, h, w): what each pixel of the photo, shrunk or enlarged to 480 px, gave: if an area fades by a tenth, the
    score falls by about a tenth of its sum. bulge (D, 10475): what the score gains where the skin around a vertex
    swells by 1 cm (`bulges`). outward (D, 10475): the gain per metre that each vertex moves outward, of which
    any sum over a region is what it gains by growing. pull (D, 15, 2): what it gains as a point moves right or down
    by a twentieth of the person's height. found: somebody was there; else mesh and points have moved nothing.
    """

    dimensions: list[str]
    score: np.ndarray
    neutral: np.ndarray
    given: np.ndarray
    image: np.ndarray
    bulge: np.ndarray
    outward: np.ndarray
    pull: np.ndarray
    found: bool


def explain(
    predictor: Predictor, image: np.ndarray, answer: Answer, user: str | None, samples: int = SAMPLES, seed: int = 0
) -> Explanation:
    """Explain an answer of the predictor: image (H, W, 3) uint8 is the upright photo it was given for."""
    scorer, subject = Scorer.of(predictor, user), subject_of(predictor, image, answer.row)
    rated = [k for k in range(len(DIMENSIONS)) if predictor.rated[k]]
    given, neutral = shares(scorer, subject)
    body = predictor.extractor.body
    off = readings(subject, body.directions, samples, seed)
    slope = gradients(scorer, subject, off, rated)
    vertices = subject.leaves["vertices"]
    outward = (slope["vertices"] * normals(vertices, body.triangles.cpu())).sum(-1)
    return Explanation(
        dimensions=[DIMENSIONS[k] for k in rated],
        score=(neutral + given.sum(1))[rated].numpy(),
        neutral=neutral[rated].numpy(),
        given=given[rated].numpy(),
        image=photo_map(slope, subject, image.shape[:2]),
        bulge=bulges(outward, vertices, normals(vertices, body.triangles.cpu())).numpy(),
        outward=outward.numpy(),
        pull=(slope["points"] * (STEP * subject.height)).numpy(),
        found=subject.visible,
    )


def photo_map(slope: Leaves, subject: Subject, size: tuple[int, int]) -> np.ndarray:
    """(D, h, w) what each pixel gave: gradient times what is seen there beyond the blur, both looks and the square."""
    maps = []
    for name in STREAMS["photo"]:
        if name in slope:
            given = (slope[name] * (subject.leaves[name] - subject.neutral[name])).sum(-3).cpu().numpy()
            if name == "looks":
                plain, flipped = subject.matrices[:2]
                maps += [on_photo(given[:, 0], plain, size), on_photo(given[:, 1], flipped, size)[..., ::-1]]
            else:
                maps.append(on_photo(given, subject.matrices[-1], size))
    return np.sum(maps, axis=0)
