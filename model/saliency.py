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

    shown = explain(predictor, image, answer, user)       # answer: what the predictor says of the photo
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.predictor import Answer, Predictor
from model.saliency_maps import bulges, normals, on_photo
from model.saliency_subject import STREAMS, Leaves, Scorer, Subject, soft_points, subject_of
from model.scores import DIMENSIONS

SAMPLES, SAMPLES_FULL = 16, 4  # the latter where frames look at pixels themselves: minutes each on a CPU
FADE = 0.4  # of the photo's detail at most, where a sample fades it; the grid of the fading is 8×6
BETAS = 0.3  # standard deviation of the betas' noise
JITTER = 0.02  # of the points' noise, as a share of the person's height
STEP = 0.05  # of the person's height: how far a point is moved in what `pull` says


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
    predictor: Predictor, image: np.ndarray, answer: Answer, user: str | None, samples: int | None = None, seed: int = 0
) -> Explanation:
    """Explain an answer of the predictor.

    Args:
        image: (H, W, 3) uint8, the upright photo that the answer is about.
        samples: how many readings gradients are averaged over; SAMPLES, or SAMPLES_FULL, when left out.
    """
    scorer, subject = Scorer.of(predictor, user), subject_of(predictor, image, answer.row)
    rated = [k for k in range(len(DIMENSIONS)) if predictor.rated[k]]
    given, neutral = shares(scorer, subject)
    body = predictor.extractor.body
    samples = samples or (SAMPLES_FULL if scorer.frames[0].config.reads_photo else SAMPLES)
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
