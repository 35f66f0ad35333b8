"""People found by a detection network of torchvision, its weights from a local file; nothing is downloaded.

    TorchvisionDetector("fasterrcnn_mobilenet_v3_large_320_fpn", "weights.pth")(image)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from model.checkpoint import Unfilled
from model.detect import Box
from model.files import file_hash
from model.state_files import BadCheckpoint, read_state

if TYPE_CHECKING:
    from torch import nn

PERSON = 1
"""Of COCO's 91 classes, and of the two of a keypoint network."""
NO_EPSILON = ("258fb6c6", "bf2d0c1e", "fc266e95", "eeacb38b")
"""How the sha256 of four official files begins (Faster, Mask and Keypoint R-CNN and RetinaNet with ResNet-50, the first
of each), which were trained when torchvision's frozen batch norm added nothing to the variance: it runs them so too."""


class TorchvisionDetector:
    """Any builder of `torchvision.models.detection` with its usual classes, its weights loaded strictly.

    The network is built when the first photo comes, and is left behind when the detector travels to another process.
    """

    def __init__(self, model: str, weights: str | Path, device: str = "cpu", threshold: float = 0.5):
        """
        Args:
            model: the builder's name, e.g. `retinanet_resnet50_fpn_v2`.
            weights: its state dict, a file of torch.save or safetensors.
            threshold: boxes that score less (0 to 1) are dropped.

        Raises:
            ValueError: no such builder.
            BadCheckpoint: no such file.
        """
        from torchvision.models import detection, list_models

        names = list_models(module=detection)
        if model not in names:
            raise ValueError(f"torchvision has no detector {model!r}; it can be {', '.join(names)}")
        self.model, self.weights, self.device, self.threshold = model, Path(weights), device, threshold
        if not self.weights.is_file():
            raise BadCheckpoint(f"{self.weights}: no such file")
        self.sha256 = file_hash(self.weights)
        self._net: nn.Module | None = None

    @property
    def settings(self) -> str:
        """See `Detector`."""
        return f"torchvision {self.model} sha256={self.sha256} threshold={self.threshold}"

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_net": None}  # the file is read again: quicker than to send what is in it

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> list[Box]:
        """See `Detector`; the score is the network's, 0 to 1.

        Raises:
            BadCheckpoint: at the first photo, when the file is damaged, changed, or not of this network.
        """
        if self._net is None:
            self._net = self._built()
        height, width = image.shape[:2]
        photo = torch.from_numpy(np.array(image)).to(self.device)
        (found,) = self._net([photo.permute(2, 0, 1).float() / 255])
        mine = (found["labels"] == PERSON) & (found["scores"] >= self.threshold)
        boxes = found["boxes"][mine].cpu().numpy().clip(0, [width, height, width, height])
        scores = found["scores"][mine].cpu().numpy()
        rows = np.column_stack([boxes, scores]).tolist()
        return [Box(x1, y1, x2, y2, score) for x1, y1, x2, y2, score in rows]

    def _built(self) -> nn.Module:
        from torchvision.models import get_model

        path = self.weights
        state = read_state(path)
        now = file_hash(path)
        if now != self.sha256:
            raise BadCheckpoint(f"{path}: changed since the detector was made (sha256 {now[:8]}…, was {self.sha256[:8]}…)")
        endless = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
        if endless:
            raise BadCheckpoint(f"{path}: {endless[0]} holds numbers that are not finite")
        with Unfilled():
            net = get_model(self.model, weights=None, weights_backbone=None)
        try:
            # torchvision renames the keys of older files while it loads, so what is missing is known only afterwards
            missing, unexpected = net.load_state_dict(state, strict=False)
        except RuntimeError as error:
            wrong = str(error).splitlines()[1].strip()  # line 0 only says that there are errors
            raise BadCheckpoint(f"{path}: does not fit torchvision's {self.model}; {wrong}") from None
        wrong = [f"{what}: {_some(keys)}" for what, keys in (("missing", missing), ("unexpected", unexpected)) if keys]
        if wrong:
            raise BadCheckpoint(f"{path}: does not fit torchvision's {self.model}; {'; '.join(wrong)}")
        if self.sha256.startswith(NO_EPSILON):
            for module in net.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eps = 0.0
        return net.to(self.device).eval().requires_grad_(False)


def _some(keys: list[str], limit: int = 5) -> str:
    rest = len(keys) - limit
    return ", ".join(keys[:limit]) + (f" and {rest} more" if rest > 0 else "")
