"""PhysiqueFrame: a photo read three ways (image, mesh, posture), fused with the rater's preference.

The paper's network (Zhong et al., CVPR 2025, Sec. 4): a frozen image encoder with an adapter, a PointMLP over the body
mesh, a graph transformer over 15 body points, five preference numbers, and one MLP head per dimension. One class in two
sizes: `full` is the paper's and loads its checkpoints, `tiny` has the same streams for a two-core laptop (its posture
stream reads where the points lie, not what is seen there).

    frame = PhysiqueFrame.from_checkpoint("checkpoint.pth", compat="fixed")
    scores = frame(photo, vertices, points, preference)          # scores.health: (B,)

The frozen encoder's vectors come from the `embed` table where there is one: `frame(..., vector=vectors)`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from model.compat import Compat
from model.graph import POINTS, GraphTransformer
from model.point_mlp import PointMLP, Tables
from model.pose_graph import PIXELS, PhotoPosture
from model.preference import NEUTRAL, PreferenceNet
from model.preference import WIDTH as PREFERENCE_WIDTH
from model.scores import DIMENSIONS, SCALE

ADAPTER_SHARE = 0.7  # of the adapter's output; the rest is the encoder's own vector (paper, Sec. 4.2)
CLIP = "vit_large_patch14_clip_quickgelu_224"  # the variant without quickgelu loads the same weights and is wrong
VERTICES = 10475  # of an SMPL-X mesh
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, for the CLIP tower too, as it was trained


class Scores(NamedTuple):
    """Scores of B photos, (B,) each, 0 to 10."""

    appearance: Tensor
    health: Tensor
    posture: Tensor


@dataclass(frozen=True)
class FrameConfig:
    """Sizes of a PhysiqueFrame; `tiny` and `full` are the presets."""

    image_width: int
    """Length of the image encoder's vector (`embed` stage)."""
    size: str = "tiny"
    """`vector`: a frame of another class, for items without photos (model/vector_frame.py)."""
    clip: bool = False
    """The frozen CLIP tower is part of the model; else its vectors have to be given."""
    mesh_points: int = 128
    """Vertices that take part, of 10,475."""
    mesh_channels: tuple[int, ...] = (16, 32, 64)
    mesh_blocks: tuple[int, ...] = (1, 1)
    """Residual blocks per stage of the mesh stream."""
    mesh_neighbours: int = 8
    mesh_divide: int = 4
    """Each stage of the mesh stream keeps one point in so many."""
    mesh_search: Literal["shared", "direct", "expanded"] = "shared"
    """Centres and neighbours on a mean mesh, or searched on every one; how, `compat.distances` says then."""
    photo_posture: bool = False
    """The posture stream sees the photo (Swin-V2 and graph decoder), not only where its points lie."""
    graph_width: int = 64
    """Width of the posture stream that does not see the photo; layers and heads likewise."""
    graph_layers: int = 2
    graph_heads: int = 4
    head_widths: tuple[int, int] = (64, 32)
    dropout: float = 0.3
    """Of the heads."""
    survey: bool = True
    """Preference vectors are made from surveys; else they have to be given (the paper's PENet was never released)."""
    camera: bool = False
    """Meshes come in camera space, negated, as released weights were trained on; else in zero pose at the origin."""
    nobody: bool = True
    """Photos without a body get learned body features; else they are read as an empty mesh, as the reference does."""

    @classmethod
    def tiny(cls, image_width: int) -> FrameConfig:
        """Runs on a two-core laptop."""
        return cls(image_width)

    @classmethod
    def full(cls, image_width: int = 768, **changes: Any) -> FrameConfig:
        """The paper's network: 409 M parameters, 304 M of them the frozen tower, which comes with `clip=True`."""
        config = cls(
            image_width,
            size="full",
            mesh_points=10475,
            mesh_channels=(32, 64, 128, 256, 256),
            mesh_blocks=(1, 1, 2, 1),
            mesh_neighbours=24,
            mesh_divide=2,
            photo_posture=True,
            head_widths=(512, 256),
            dropout=0.7,
        )
        return replace(config, **changes)

    @classmethod
    def vector(cls, image_width: int) -> FrameConfig:
        """Items that are vectors of `image_width` numbers; the first of `head_widths` and `dropout` count."""
        return cls(image_width, size="vector", head_widths=(32, 0))

    @classmethod
    def of(cls, size: str, image_width: int) -> FrameConfig:
        """The preset called `size`.

        Raises:
            ValueError: there is no such preset.
        """
        presets = {"tiny": cls.tiny, "full": cls.full, "vector": cls.vector}
        if size not in presets:
            raise ValueError(f"model.size: {size!r} is not a size; there are {', '.join(map(repr, presets))}")
        return presets[size](image_width)

    @property
    def reads_photo(self) -> bool:
        """Whether pixels are needed, not only the encoder's vector of them."""
        return self.clip or self.photo_posture

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


def clip_tower() -> nn.Module:
    """OpenAI's CLIP ViT-L/14: (B, 3, 224, 224) ImageNet-normalised → (B, 768); random weights."""
    import timm

    tower = timm.create_model(CLIP, pretrained=False, num_classes=768)
    nn.init.zeros_(tower.head.bias)  # the projection has none
    return tower.eval().requires_grad_(False)


def normalise(photo: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 RGB → float32, ImageNet-normalised; floats are taken to be that already."""
    if photo.dtype != torch.uint8:
        return photo
    mean = torch.tensor(MEAN, device=photo.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=photo.device).view(1, 3, 1, 1)
    return (photo.float() / 255 - mean) / std


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

    Where `config.nobody` holds, a photo without a body (no point visible) is scored from its image alone: the mesh and
    posture features are replaced by learned ones that mean "nobody".
    """

    def __init__(self, config: FrameConfig, compat: str | Compat = "fixed"):
        super().__init__()
        self.config = config
        self.clip = clip_tower() if config.clip else None
        self.adapter = Adapter(config.image_width)
        self.layernorm_x = nn.LayerNorm(config.image_width)
        self.preference_net = PreferenceNet(config.image_width) if config.survey else None
        self.mesh = PointMLP(
            config.mesh_points,
            config.mesh_channels,
            config.mesh_neighbours,
            config.mesh_blocks,
            config.mesh_divide,
            config.mesh_search,
        )
        self.set_compat(compat)
        self.groupnorm_mf = nn.GroupNorm(16, self.mesh.width)
        self.posture: PhotoPosture | GraphTransformer
        if config.photo_posture:
            self.posture = PhotoPosture()
        else:
            self.posture = GraphTransformer(
                config.graph_width, config.graph_layers, config.graph_heads, config.dropout / 3
            )
        self.groupnorm_pam = nn.GroupNorm(16, self.posture.width)
        self.nobody = nn.Parameter(torch.zeros(self.posture.width + self.mesh.width)) if config.nobody else None
        self.width = config.image_width + self.posture.width + self.mesh.width + PREFERENCE_WIDTH
        self.classifiers = nn.ModuleDict(
            {name: head(self.width, config.head_widths, config.dropout) for name in DIMENSIONS}
        )

    @classmethod
    def from_checkpoint(cls, path: str | Path, compat: str | Compat = "fixed") -> PhysiqueFrame:
        """An official checkpoint, with its CLIP tower, in eval mode (model/official.py says what is accepted).

        Args:
            compat: `fixed`, `reference`, or a Compat of your own (docs/quirks.md).

        Raises:
            model.official.BadCheckpoint: not such a file, damaged, or a key missing, unknown or misshapen.
        """
        from model.official import read_frame

        return read_frame(Path(path), compat)

    def set_compat(self, compat: str | Compat) -> None:
        """`fixed`, `reference`, or a Compat of your own; `distances` counts where meshes are searched one by one."""
        self.compat = Compat.of(compat)
        self.mesh.set_literal(self.compat.arithmetic == "literal")
        if self.mesh.search != "shared":
            self.mesh.search = self.compat.distances

    def train(self, mode: bool = True) -> PhysiqueFrame:
        super().train(mode)
        if self.clip is not None:
            self.clip.eval()  # frozen
        return self

    def recompute(self, on: bool = True) -> None:
        """Gradient checkpointing: keep less for the backward pass, compute it again there."""
        self.mesh.checkpointed = on
        if isinstance(self.posture, PhotoPosture):
            self.posture.backbone.set_grad_checkpointing(on)  # type: ignore[operator]

    def preference(self, survey: Tensor, vector: Tensor) -> Tensor:
        """(B, 5) preference vectors of raters with (B, 32) survey codes for (B, D) photo vectors.

        A frame that was trained on given vectors cannot read surveys: it gets neutral ones.
        """
        if self.preference_net is None:
            return torch.full((len(vector), PREFERENCE_WIDTH), NEUTRAL, device=vector.device)
        return self.preference_net(survey, vector)

    def fuse(
        self,
        image: Tensor,
        vertices: Tensor,
        points: Tensor,
        preference: Tensor,
        visible: Tensor | None = None,
        vector: Tensor | None = None,
        tables: Tables | None = None,
    ) -> Tensor:
        """The fused feature (B, width): image, posture, mesh, preference in this order (paper, Eq. 5).

        Args: as of `forward`; tables: centres and neighbours of these meshes (`PointMLP.tables`), where known.
        """
        if visible is None:
            visible = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
        self._check(image, vertices, points, preference, visible, vector)
        visible = visible.bool()
        if self.config.reads_photo:
            image = normalise(image)
        if vector is None:
            vector = self._vector(image)
        if isinstance(self.posture, PhotoPosture):
            posture = self.posture(image, points, visible, self.compat)
        else:
            posture = self.posture(points, visible)
        body = torch.cat([self.groupnorm_pam(posture), self.groupnorm_mf(self.mesh(vertices, tables))], dim=1)
        if self.nobody is not None:
            body = torch.where(visible.any(dim=1, keepdim=True), body, self.nobody.to(body.dtype))
        return torch.cat([self.layernorm_x(self.adapter(vector)), body, preference.to(body.dtype)], dim=1)

    def _check(
        self, image: Tensor, vertices: Tensor, points: Tensor, preference: Tensor, visible: Tensor, vector: Tensor | None
    ) -> None:
        batch, width = len(points), self.config.image_width
        pixels = (batch, 3, PIXELS, PIXELS)
        wanted = {
            "points": (points, (batch, len(POINTS), 2)),
            "image": (image, pixels if self.config.reads_photo else (batch, width)),
            "vertices": (vertices, (batch, VERTICES, 3)),
            "preference": (preference, (batch, PREFERENCE_WIDTH)),
            "visible": (visible, (batch, len(POINTS))),
        }
        if vector is not None:
            wanted["vector"] = (vector, (batch, width))
        for name, (value, shape) in wanted.items():
            if tuple(value.shape) != shape:
                why = ": this size looks at pixels" if shape == pixels else ""
                raise ValueError(f"{name}: shape {tuple(value.shape)}, expected {shape}{why}")

    def _vector(self, image: Tensor) -> Tensor:
        """What the image stream reads: the tower's vectors, or those that were given as the image."""
        if self.clip is not None:
            with torch.no_grad() if not image.requires_grad else torch.enable_grad():
                return self.clip(image)
        if self.config.reads_photo:
            raise ValueError("vector: missing; this frame has no image encoder of its own, give its (B, D) vectors")
        return image

    def score(self, fused: Tensor) -> Tensor:
        """(B, width) → (B, 3) scores from 0 to 10 in the order of DIMENSIONS."""
        logits = torch.cat([self.classifiers[name](fused) for name in DIMENSIONS], dim=1)
        return SCALE[1] * torch.sigmoid(logits.float())

    def forward(
        self,
        image: Tensor,
        vertices: Tensor,
        points: Tensor,
        preference: Tensor,
        visible: Tensor | None = None,
        vector: Tensor | None = None,
        tables: Tables | None = None,
    ) -> Scores:
        """Scores of B photos.

        Args:
            image: `full`: (B, 3, 224, 224) letterboxed photos, uint8 or ImageNet-normalised floats. `tiny`: (B, D)
                vectors of the frozen image encoder.
            vertices: (B, 10475, 3) mesh, metres: in zero pose; for official checkpoints minus that mesh shifted by the
                camera (`model.views.FrameInputs`).
            points: (B, 15, 2) body points, px: of the 224-px photo (`full`), or of any size (`tiny`).
            preference: (B, 5) preference vectors.
            visible: (B, 15) bool, which points are seen; all when left out; none means nobody is there.
            vector: (B, D) vectors of the frozen encoder from a table; spares `full` 75 % of its work.
            tables: centres and neighbours of these meshes, where they are known (`PointMLP.tables`).

        Raises:
            ValueError: an input of another shape; the message names it.
        """
        fused = self.fuse(image, vertices, points, preference, visible, vector, tables)
        return Scores(*self.score(fused).unbind(1))
