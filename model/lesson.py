"""One expert's model in training: what a step computes, and where its weights start.

A lesson is frame and loss in one module, so that DDP and `torch.compile` see all that has parameters: the preference
network, which is asked before the frame, and the loss's own weights of the dimensions.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from model.losses import LOSSES
from model.physique_frame import FrameConfig, PhysiqueFrame
from model.scores import SCALE
from model.views import View


class Lesson(nn.Module):
    """Views of photos and one rater's labels → the loss of a frame that speaks for that rater."""

    survey: Tensor

    def __init__(self, frame: PhysiqueFrame, loss: str, survey: Tensor):
        """
        Args:
            loss: a name of `model.losses.LOSSES`.
            survey: (32,) survey code of the rater.
        """
        super().__init__()
        self.frame, self.loss = frame, LOSSES[loss]()
        self.register_buffer("survey", survey, persistent=False)

    def forward(self, view: View, labels: Tensor) -> Tensor:
        """Scalar loss against (B, 3) labels, NaN where nobody rated."""
        preference = self.frame.preference(self.survey.expand(len(labels), -1), view.vector)
        fused = self.frame.fuse(view.image, view.vertices, view.points, preference, view.visible, view.vector)
        return self.loss(self.frame.score(fused), labels)


def start_frame(config: FrameConfig, compat: str, start: str | None, backbone: str | None) -> PhysiqueFrame:
    """A frame to train.

    Args:
        start: `FOLDER/NAME` of an imported frame (without suffix), whose config must be `config`; None = from scratch.
        backbone: safetensors file of an imported Swin-V2-B for the posture stream; None = random.

    Raises:
        ValueError: a file is missing or does not fit.
    """
    from model.checkpoint import load_frame

    if start is not None:
        folder, name = Path(start).parent, Path(start).name
        frame, _ = load_frame(folder, name)
        if frame.config != config:
            raise ValueError(f"model.start: {start} is a frame of another shape than params.yaml asks for")
        frame.requires_grad_(True)
        if config.photo_posture:
            frame.posture.head.kpt_branch.requires_grad_(False)  # type: ignore[union-attr]
        return frame
    frame = PhysiqueFrame(config, compat)
    if backbone is not None:
        from safetensors.torch import load_file

        if not config.photo_posture:
            raise ValueError("model.backbone: frames of this size have no Swin-V2; null, or model.size: full")
        if not Path(backbone).is_file():
            raise ValueError(f"model.backbone: {backbone} is missing; `physique weights import` makes it")
        frame.posture.backbone.load_state_dict(load_file(backbone), strict=True)  # type: ignore[union-attr]
    return frame


@torch.no_grad()
def start_at_mean(frame: PhysiqueFrame, labels: Tensor) -> None:
    """Heads start at the mean of (N, 3) labels, so that no epoch is spent on finding it."""
    mean = labels.nanmean(0).nan_to_num(nan=5.0).clamp(0.5, 9.5) / SCALE[1]
    for head, value in zip(frame.classifiers.values(), mean):
        nn.init.constant_(head[-1].bias, math.log(value / (1 - value)))  # type: ignore[index]


def optimiser(lesson: Lesson, schedule: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """`cosine`: AdamW. `paper`: Adam with eps 1e-5 and no decay, as the released weights were trained."""
    trained = [p for p in lesson.parameters() if p.requires_grad]
    if schedule == "paper":
        return torch.optim.Adam(trained, lr=lr, eps=1e-5, fused=True)
    return torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay, fused=True)


def rate(schedule: str, lr: float, epoch: int, epochs: int) -> float:
    """Learning rate of an epoch: warmed up and brought down by a cosine, or (`paper`) a tenth every five epochs."""
    if schedule == "paper":
        return lr * 0.1 ** (epoch // 5)
    share = (epoch + 0.5) / epochs
    return lr * min(1.0, 8 * share) * 0.5 * (1 + math.cos(math.pi * share))
