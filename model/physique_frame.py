"""PhysiqueFrame: a photo read three ways (image, mesh, posture), fused with the rater's preference.

The paper's network (Zhong et al., CVPR 2025, Sec. 4): a frozen image encoder with an adapter, a PointMLP
over the body mesh, a graph transformer over 15 body points, five preference numbers, and one MLP head per
dimension. The frozen encoder is not part of the model: its vectors come from the `embed` stage.

    config = FrameConfig.tiny(image_width=128)
    scores = PhysiqueFrame(config)(image, vertices, points, preference, visible)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from model.graph import POINTS, GraphTransformer
from model.point_mlp import PointMLP
from model.preference import WIDTH as PREFERENCE_WIDTH
from model.preference import PreferenceNet
from model.scores import DIMENSIONS, SCALE

ADAPTER_SHARE = 0.7  # of the adapter's output; the rest is the encoder's own vector (paper, Sec. 4.2)


@dataclass(frozen=True)
class FrameConfig:
    """Sizes of a PhysiqueFrame."""

    image_width: int
    """Length of the image encoder's vector (`embed` stage)."""
    size: str = "tiny"
    mesh_points: int = 128
    """Vertices kept of 10,475."""
    mesh_channels: tuple[int, ...] = (16, 32, 64)
    mesh_neighbours: int = 8
    graph_width: int = 64
    graph_layers: int = 2
    graph_heads: int = 4
    head_widths: tuple[int, int] = (64, 32)
    dropout: float = 0.3

    @classmethod
    def tiny(cls, image_width: int) -> FrameConfig:
        """Runs on a two-core laptop."""
        return cls(image_width)

    @classmethod
    def of(cls, size: str, image_width: int) -> FrameConfig:
        """The preset called `size`.

        Raises:
            ValueError: there is no such preset.
        """
        if size != "tiny":
            raise ValueError(f"model.size: {size!r} is not a size; there is 'tiny'")
        return cls.tiny(image_width)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FrameConfig:
        known = {f.name for f in fields(cls)}
        unknown = set(values) - known
        if unknown:
            raise ValueError(f"FrameConfig: unknown {sorted(unknown)}; known are {sorted(known)}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


class Adapter(nn.Module):
    """Bottleneck of a quarter, without biases (CLIP-Adapter). (B, D) → (B, D)."""

    def __init__(self, width: int):
        super().__init__()
        narrow = max(width // 4, 8)
        self.fc = nn.Sequential(
            nn.Linear(width, narrow, bias=False), nn.ReLU(), nn.Linear(narrow, width, bias=False), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return ADAPTER_SHARE * self.fc(x) + (1 - ADAPTER_SHARE) * x


def head(width: int, hidden: tuple[int, int], dropout: float) -> nn.Sequential:
    """One dimension's head: (B, width) → (B, 1) logits."""
    a, b = hidden
    return nn.Sequential(
        nn.Linear(width, a), nn.BatchNorm1d(a), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(b, 1),
    )  # fmt: skip


class PhysiqueFrame(nn.Module):
    """Scores of a photo as one rater would give them.

    A photo without a body (no point visible) is scored from its image alone: the mesh and posture features
    are replaced by learned ones that mean "nobody".
    """

    def __init__(self, config: FrameConfig):
        super().__init__()
        self.config = config
        self.adapter = Adapter(config.image_width)
        self.layernorm_x = nn.LayerNorm(config.image_width)
        self.preference_net = PreferenceNet(config.image_width)
        self.mesh = PointMLP(config.mesh_points, config.mesh_channels, config.mesh_neighbours)
        self.groupnorm_mf = nn.GroupNorm(16, self.mesh.width)
        self.posture = GraphTransformer(
            config.graph_width, config.graph_layers, config.graph_heads, config.dropout / 3
        )
        self.groupnorm_pam = nn.GroupNorm(16, config.graph_width)
        self.nobody = nn.Parameter(torch.zeros(config.graph_width + self.mesh.width))
        self.width = config.image_width + config.graph_width + self.mesh.width + PREFERENCE_WIDTH
        self.classifiers = nn.ModuleDict(
            {name: head(self.width, config.head_widths, config.dropout) for name in DIMENSIONS}
        )

    def preference(self, survey: Tensor, image: Tensor) -> Tensor:
        """(B, 5) preference vectors of raters with (B, 32) survey codes for (B, D) photo vectors."""
        return self.preference_net(survey, image)

    def fuse(
        self,
        image: Tensor,
        vertices: Tensor,
        points: Tensor,
        preference: Tensor,
        visible: Tensor | None = None,
    ) -> Tensor:
        """The fused feature (B, width): image, posture, mesh, preference in this order (paper, Eq. 5)."""
        if visible is None:
            visible = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
        if points.shape[1:] != (len(POINTS), 2):
            raise ValueError(f"points: shape {tuple(points.shape)}, expected (B, {len(POINTS)}, 2)")
        body = torch.cat(
            [self.groupnorm_pam(self.posture(points, visible)), self.groupnorm_mf(self.mesh(vertices))], dim=1
        )
        body = torch.where(visible.any(dim=1, keepdim=True), body, self.nobody)
        return torch.cat([self.layernorm_x(self.adapter(image)), body, preference], dim=1)

    def score(self, fused: Tensor) -> Tensor:
        """(B, width) → (B, 3) scores from 0 to 10 in the order of DIMENSIONS."""
        logits = torch.cat([self.classifiers[name](fused) for name in DIMENSIONS], dim=1)
        return SCALE[1] * torch.sigmoid(logits)

    def forward(
        self,
        image: Tensor,
        vertices: Tensor,
        points: Tensor,
        preference: Tensor,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Scores (B, 3), 0 to 10, of B photos.

        Args:
            image: (B, D) vectors of the frozen image encoder.
            vertices: (B, 10475, 3) zero-pose mesh, metres.
            points: (B, 15, 2) body points, pixels.
            preference: (B, 5) preference vectors.
            visible: (B, 15) bool, which points are seen; all when left out; none means nobody is there.
        """
        return self.score(self.fuse(image, vertices, points, preference, visible))
