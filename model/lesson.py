"""A model in training: what a step computes, and where its weights start.

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
from model.preference import WIDTH, answer_codes
from model.scores import SCALE
from model.vector_frame import SIZE, Frame, VectorFrame
from model.views import FrameInputs, View

ANSWER_DROPOUT = 0.2
"""Share of a rater's answers that a step does without, so that a survey with holes is nothing new."""


class Lesson(nn.Module):
    """Views of photos and the labels of R raters → the loss of a frame that speaks for each of them."""

    answers: Tensor

    def __init__(self, frame: Frame, loss: str, surveys: list[dict[str, str]]):
        """
        Args:
            loss: a name of `model.losses.LOSSES`.
            surveys: answers of the R raters.
        """
        super().__init__()
        self.frame, self.loss = frame, LOSSES[loss]()
        codes = nn.utils.rnn.pad_sequence([answer_codes(answers) for answers in surveys], batch_first=True)
        self.register_buffer("answers", codes, persistent=False)  # (R, Q, 32)

    def forward(self, view: View, labels: Tensor, given: Tensor | None = None) -> Tensor:
        """Scalar loss against (B, R, 3) labels, NaN where nobody rated.

        Args:
            given: (B, R, 5) preference vectors that came with the data, NaN where none did: the preference network
                is supervised by them; a frame without one reads them.
        """
        keep = torch.rand(*labels.shape[:2], self.answers.shape[1], device=labels.device) >= ANSWER_DROPOUT
        kept = keep.float() if self.training else torch.ones_like(keep, dtype=torch.float)
        preference, scores = self._read(view, torch.einsum("brq,rqc->brc", kept, self.answers), given)
        loss = self.loss(scores.flatten(0, 1), labels.flatten(0, 1))
        if given is not None and self.frame.preference_net is not None and (known := given.isfinite()).any():
            loss = loss + (preference - given.nan_to_num())[known].square().mean()
        return loss

    def scores(self, view: View) -> Tensor:
        """(B, R, 3) scores that the raters would give."""
        surveys = self.answers.sum(1)
        return self._read(view, surveys.expand(len(view.vector), *surveys.shape))[1]

    def _read(self, view: View, surveys: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, R, 32) surveys → (B, R, 5) preference vectors and (B, R, 3) scores; a photo is read once for all raters."""
        batch, raters = surveys.shape[:2]
        preference = self.frame.preference(surveys.flatten(0, 1), view.vector.repeat_interleave(raters, 0))
        if given is not None and self.frame.preference_net is None:  # nothing makes vectors, so they are read as they came
            given = given.flatten(0, 1)
            preference = torch.where(given.isfinite(), given, preference)
        neutral = torch.zeros(batch, WIDTH, device=surveys.device)
        fused = self.frame.fuse(view.image, view.vertices, view.points, neutral, view.visible, view.vector)
        fused = fused[:, :-WIDTH].repeat_interleave(raters, 0)
        scores = self.frame.score(torch.cat([fused, preference.to(fused.dtype)], 1))
        return preference.unflatten(0, (batch, raters)), scores.unflatten(0, (batch, raters))


def start_frame(config: FrameConfig, compat: str, start: str | None, backbone: str | None) -> Frame:
    """A frame to train.

    Args:
        start: `FOLDER/NAME` of an imported frame (without suffix), whose config must be `config`; None = from scratch.
        backbone: safetensors file of an imported Swin-V2-B for the posture stream; None = random.

    Raises:
        ValueError: a file is missing or does not fit.
    """
    from model.checkpoint import load_frame

    if config.size == SIZE:
        if start is not None or backbone is not None:
            name = "start" if start is not None else "backbone"
            raise ValueError(f"model.{name}: weights of photos' models; null where data.source is features")
        return VectorFrame(config, compat)
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


def begin(
    frame: Frame,
    inputs: FrameInputs,
    labels: Tensor,
    rows: Tensor,
    start: Frame | None,
    like: Frame | None,
    imported: bool,
) -> None:
    """Bring a new frame to where its training starts.

    Args:
        labels: (N, R, 3) of its raters. rows: of the photos that it is fitted on.
        start: the frame whose weights it takes (the joint one, for an expert's).
        like: a frame of the same inputs, whose mesh topology is taken instead of being worked out again.
        imported: it came with weights (`model.start`).
    """
    if start is not None:
        frame.load_state_dict(start.state_dict())
    if isinstance(frame, VectorFrame):
        frame.begin(inputs.vector[rows, 0], labels[rows], fresh=start is None)
        return
    if start is None and isinstance(like, PhysiqueFrame):
        frame.mesh.take_topology(like.mesh)
    elif start is None and not imported:
        frame.mesh.set_topology(inputs.mean_mesh())
    if start is None and not imported:
        start_at_mean(frame, labels[rows])


@torch.no_grad()
def start_at_mean(frame: PhysiqueFrame, labels: Tensor) -> None:
    """Heads start at the mean of (..., 3) labels, so that no epoch is spent on finding it."""
    mean = labels.flatten(0, -2).nanmean(0).nan_to_num(nan=5.0).clamp(0.5, 9.5) / SCALE[1]
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
