"""A photo seen twice, as it is and mirrored: training draws one view, prediction averages both."""

from __future__ import annotations

import torch
from torch import Tensor

from model.graph import MIRRORED
from model.physique_frame import PhysiqueFrame


def mirror_points(points: Tensor) -> Tensor:
    """(B, 15, 2) points of the mirrored photo: sides and names change.

    The posture stream reads differences of points only, so any axis will do; their own mean keeps the body
    where it was. The zero-pose mesh needs no mirroring: betas describe bodies that are symmetric.
    """
    mirrored = points[:, list(MIRRORED)].clone()
    mirrored[..., 0] = 2 * points[..., 0].mean(1, keepdim=True) - mirrored[..., 0]
    return mirrored


@torch.inference_mode()
def score_views(
    frame: PhysiqueFrame, image: Tensor, vertices: Tensor, points: Tensor, visible: Tensor, survey: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, 3) scores and (B, F) fused features, each the mean over both views.

    Args:
        image: (B, 2, D) vectors of the photo and of its mirror image.
        survey: (32,) survey code of the rater whom the model speaks for.
        vertices, points, visible: as PhysiqueFrame.forward takes them.
    """
    views = []
    for flip, (seen, there) in enumerate(((points, visible), (mirror_points(points), visible[:, list(MIRRORED)]))):
        preference = frame.preference(survey.expand(len(image), -1), image[:, flip])
        views.append(frame.fuse(image[:, flip], vertices, seen, preference, there))
    return torch.stack([frame.score(view) for view in views]).mean(0), torch.stack(views).mean(0)
