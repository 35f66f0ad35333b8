"""The small mesh network: a person crop of 96×128 px → SMPL-X betas and pose, 15 body points, presence.

Notable:
- built like SMPLer-X in miniature: points by soft-argmax over heat maps, features sampled at the points feed
  the betas and rotations, so a 32×24 map is enough;
- about 40 M multiply-adds a crop: a few milliseconds on one core;
- what its heads read (`read`) doubles as the vector of the default image encoder (model/encoder.py).

    python -m pytest tests/model/test_mesh_net.py
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.rotations import axis_angle_to_matrix, matrix_to_axis_angle, matrix_to_sixd, sixd_to_matrix

JOINTS = 22  # root and 21 body joints
POINTS = 15
GIRTH = 4
"""Learned channels that are read across the bones, beside the mask."""
CROP = (96, 128)
"""Width and height of a crop, px."""


@dataclass(frozen=True)
class MeshNetConfig:
    """Sizes of the network."""

    widths: tuple[int, int, int] = (32, 64, 128)
    """Channels at strides 4, 8 and 16."""
    hidden: int = 256
    """Width of the regressor's hidden layer."""
    betas: int = 10
    """Shape coefficients."""
    betas_weight: float = 1.0
    """Weight of the shape loss (squared vertex error of the zero-pose mesh, dm², and 0.05 of that of betas)."""
    pose_weight: float = 2.0
    """Weight of the rotation loss (squared Frobenius distance, mean over joints, the root five-fold)."""
    points_weight: float = 4.0
    """Weight of the point loss (L1, in tenths of the crop's height)."""
    heat_weight: float = 2.0
    """Weight of the heat maps' cross-entropy with a bell around the true point: points are found early by it."""
    mask_weight: float = 2.0
    """Weight of the silhouette loss (cross-entropy, mean over cells)."""
    presence_weight: float = 0.3
    """Weight of the presence loss (cross-entropy)."""


@dataclass
class MeshNetOutput:
    """What the network says of B crops."""

    betas: Tensor
    """(B, 10) shape coefficients."""
    rotations: Tensor
    """(B, 22, 3, 3) root and body joints; the root turns the y-up body into the camera (x right, y down)."""
    points: Tensor
    """(B, 15, 2) body points, px of the crop."""
    presence: Tensor
    """(B,) logit: the crop frames one person as a detector's box would."""
    heat: Tensor
    """(B, 15, 32, 24) log-probability of each point's cell."""
    mask: Tensor
    """(B, 32, 24) logit: share of the cell that the person covers."""

    @property
    def pose(self) -> Tensor:
        """(B, 66) axis-angle, radians."""
        return matrix_to_axis_angle(self.rotations).flatten(1)


def _across() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where widths are read: bones (K, 2) as pairs of points; steps (S, 2) along the bone and across it, both in
    shares; half the width to look at (K, 1) in trunk lengths."""
    bones = [(0, 7), (7, 14), (1, 3), (2, 4), (3, 5), (4, 6), (8, 10), (9, 11), (10, 12), (11, 13)]
    along, across = np.meshgrid([0.0, 0.2, 0.4, 0.6, 0.8], np.linspace(-1, 1, 9), indexing="ij")
    half = np.array([[0.6]] + [[0.25]] * (len(bones) - 1), np.float32)
    return np.array(bones), np.stack([along.ravel(), across.ravel()], 1).astype(np.float32), half


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = _conv(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        nn.init.zeros_(self.second[1].weight)  # starts as the identity: trains faster in few epochs

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class MeshNet(nn.Module):
    """See the module's head. `mean_rotations` (22, 3, 3) and `shape_gram` (10, 10): `set_statistics`."""

    def __init__(self, config: MeshNetConfig | None = None):
        super().__init__()
        self.config = config or MeshNetConfig()
        stem, middle, deep = self.config.widths
        self.stem = nn.Sequential(_conv(3, stem // 2, stride=2), _conv(stem // 2, stem, stride=2))
        self.middle = nn.Sequential(_conv(stem, middle, stride=2), _Residual(middle))
        self.deep = nn.Sequential(_conv(middle, deep, stride=2), _Residual(deep))
        self.lateral = nn.Conv2d(deep, middle, 1)
        self.squeeze = _conv(deep, deep // 4, kernel=1)
        self.fine = nn.Conv2d(middle, stem, 1)
        self.refine = _conv(stem, stem)
        self.heat = nn.Conv2d(stem, POINTS, 3, padding=1)
        self.mask = nn.Conv2d(stem, 1, 3, padding=1)
        self.girth = nn.Conv2d(stem, GIRTH, 1)
        bones, steps, _ = _across()
        sampled = POINTS * (middle + 2) + 2 * deep + deep // 4 * (CROP[0] // 16) * (CROP[1] // 16)
        sampled += len(bones) * len(steps) * (GIRTH + 1)
        # Each feature on its own scale, and no hard zero: plain ReLUs here die in the first steps.
        self.regressor = nn.Sequential(
            nn.BatchNorm1d(sampled), nn.Linear(sampled, self.config.hidden), nn.LeakyReLU(0.1, inplace=True)
        )
        # A few measures, as a tailor takes them, beside the many features: what is learned first.
        self.measures = nn.BatchNorm1d(2 * POINTS + len(bones) * 5)
        told = self.config.hidden + self.measures.num_features
        self.betas = nn.Linear(told, self.config.betas)
        self.pose = nn.Linear(told, JOINTS * 6)
        self.presence = nn.Linear(2 * deep, 1)
        for head in (self.betas, self.pose):
            nn.init.normal_(head.weight, std=1e-3)
            nn.init.zeros_(head.bias)
        self.register_buffer("mean_rotations", torch.eye(3).repeat(JOINTS, 1, 1))
        self.register_buffer("shape_gram", torch.eye(self.config.betas))

    @property
    def width(self) -> int:
        """Length of the features of `read`."""
        return self.config.hidden + self.measures.num_features

    def set_statistics(self, pose: Tensor | None, shape_directions: Tensor) -> None:
        """Take the mean pose from the training set (N, 66) rad, if given, and the loss's metric from the body model.

        `shape_directions` (V, 3, betas), metres per unit: the mean squared vertex distance of two shapes is
        dᵀGd with d the difference of their betas and G the gram matrix kept here (m²).
        """
        if pose is not None:
            mean = axis_angle_to_matrix(pose.unflatten(-1, (JOINTS, 3))).mean(0)
            self.mean_rotations.copy_(sixd_to_matrix(matrix_to_sixd(mean)))
        flat = shape_directions.double().flatten(0, 1)
        self.shape_gram.copy_((flat.T @ flat / shape_directions.shape[0]).float())

    def _trunk(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1] → maps at strides 4, 8 and 16, and mean and maximum (B, D) of the deepest."""
        x = ((images - 0.45) / 0.25).contiguous(memory_format=torch.channels_last)
        stem = self.stem(x)
        middle = self.middle(stem)
        deep = self.deep(middle)
        return stem, middle, deep, torch.cat([deep.mean((2, 3)), deep.amax((2, 3))], 1)

    def forward(self, crops: Tensor) -> MeshNetOutput:
        """crops (B, 3, 128, 96) in [0, 1] RGB."""
        return self.read(crops)[0]

    def read(self, crops: Tensor) -> tuple[MeshNetOutput, Tensor]:
        """What is said of crops (B, 3, 128, 96) in [0, 1] RGB, and the (B, width) features it is said by."""
        if crops.shape[1:] != (3, CROP[1], CROP[0]):
            raise ValueError(f"crops: shape {tuple(crops.shape)}, expected (B, 3, {CROP[1]}, {CROP[0]})")
        stem, middle, deep, pooled = self._trunk(crops)
        fused = F.relu(middle + F.interpolate(self.lateral(deep), size=middle.shape[2:], mode="nearest"))
        detail = self.refine(stem + F.interpolate(self.fine(fused), size=stem.shape[2:], mode="nearest"))
        rows, columns = detail.shape[2:]
        log_heat = self.heat(detail).flatten(2).log_softmax(-1).unflatten(-1, (rows, columns))
        heat = log_heat.exp()
        # Centres of the cells in [-1, 1] over the crop, so that the point is its heat map's expectation.
        x = (torch.arange(columns, device=crops.device) + 0.5) / columns * 2 - 1
        y = (torch.arange(rows, device=crops.device) + 0.5) / rows * 2 - 1
        unit = torch.stack([(heat.sum(2) * x).sum(-1), (heat.sum(3) * y).sum(-1)], -1)  # (B, 15, 2)
        sampled = F.grid_sample(fused, unit[:, :, None], align_corners=False)[..., 0].flatten(1)
        mask = self.mask(detail)
        widths, relative = self._widths(torch.cat([mask.sigmoid(), self.girth(detail)], 1), unit.detach())
        layout = self.squeeze(deep).flatten(1)  # crops are framed alike, so where a feature lies says much
        hidden = self.regressor(torch.cat([sampled, unit.flatten(1), pooled, layout, widths.flatten(1)], 1))
        girths = widths[:, 0].unflatten(-1, (-1, 9)).mean(-1).flatten(1)  # covered share of each cross-section
        hidden = torch.cat([hidden, self.measures(torch.cat([girths, relative], 1))], 1)
        change = self.pose(hidden).unflatten(-1, (JOINTS, 6))
        rotations = sixd_to_matrix(matrix_to_sixd(self.mean_rotations) + change)
        size = torch.tensor(CROP, dtype=unit.dtype, device=unit.device)
        output = MeshNetOutput(
            betas=self.betas(hidden),
            rotations=rotations,
            points=(unit + 1) / 2 * size,  # pixel i spans i … i + 1
            presence=self.presence(pooled)[:, 0],
            heat=log_heat,
            mask=mask[:, 0],
        )
        return output, hidden

    def _widths(self, maps: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """What lies across each bone, and the points relative to the trunk: shape without place and scale.

        maps (B, C, 32, 24); unit (B, 15, 2) points in [-1, 1]. Returns (B, C, bones, steps) and (B, 30).
        """
        bones, steps, half = (torch.as_tensor(v, device=unit.device) for v in _across())
        size = torch.tensor(CROP, dtype=unit.dtype, device=unit.device) / 2
        points = unit * size
        trunk = (points[:, 7] - points[:, 0]).norm(dim=-1).clamp_min(8.0)[:, None, None]  # pelvis to neck, px
        start, end = points[:, bones[:, 0]], points[:, bones[:, 1]]
        along = end - start
        normal = torch.stack([-along[..., 1], along[..., 0]], -1)
        normal = normal / normal.norm(dim=-1, keepdim=True).clamp_min(1e-3)
        place = start[:, :, None] + along[:, :, None] * steps[:, :1]
        place = place + normal[:, :, None] * (half[None, :, None] * steps[:, 1:] * trunk[..., None])
        values = F.grid_sample(maps, place / size, align_corners=False)
        return values, ((points - points[:, :1]) / trunk).flatten(1)

    def loss(self, output: MeshNetOutput, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Terms of the loss and their weighted sum `total`.

        targets: presence (B,) 0/1, betas (B, 10), rotations (B, 22, 3, 3), points (B, 15, 2) px of the crop,
            mask (B, 32, 24) covered share of a cell.
        Everything but presence counts only where presence is 1; a batch of nobody has zero for it.
        """
        config = self.config
        person = targets["presence"].float()
        count = person.sum().clamp_min(1)
        difference = output.betas - targets["betas"]
        # The metric of the mesh, and the plain distance for directions that move few vertices, as arm length.
        metric = self.shape_gram * 100 + 0.05 * torch.eye(config.betas, device=difference.device)
        shape = ((difference @ metric * difference).sum(1) * person).sum() / count
        turned = (output.rotations - targets["rotations"]).square().sum((2, 3))
        turned = turned.mean(1) + 0.2 * turned[:, 0]  # the root turns every vertex
        pose = (turned * person).sum() / count
        distance = (output.points - targets["points"]).abs().mean((1, 2)) / (CROP[1] / 10)
        points = (distance * person).sum() / count
        heat = (_cross_entropy(output.heat, targets["points"]) * person).sum() / count
        cells = F.binary_cross_entropy_with_logits(output.mask, targets["mask"], reduction="none")
        mask = (cells.mean((1, 2)) * person).sum() / count
        presence = F.binary_cross_entropy_with_logits(output.presence, person)
        total = (
            config.betas_weight * shape
            + config.pose_weight * pose
            + config.points_weight * points
            + config.heat_weight * heat
            + config.mask_weight * mask
            + config.presence_weight * presence
        )
        return {
            "total": total,
            "shape": shape,
            "pose": pose,
            "points": points,
            "heat": heat,
            "mask": mask,
            "presence": presence,
        }


def _cross_entropy(log_heat: Tensor, points: Tensor) -> Tensor:
    """(B,) cross-entropy of heat maps (B, 15, rows, columns) with bells of one cell around points (px)."""
    rows, columns = log_heat.shape[2:]

    def bell(at: Tensor, cells: int, length: int) -> Tensor:
        middle = torch.arange(cells, device=at.device) + 0.5
        place = (at * (cells / length)).clamp(0.0, float(cells))
        return (-0.5 * (middle - place[..., None]).square()).softmax(-1)

    across, down = bell(points[..., 0], columns, CROP[0]), bell(points[..., 1], rows, CROP[1])
    target = down[..., :, None] * across[..., None, :]
    return -(target * log_heat).sum((2, 3)).mean(1)


def save_mesh_net(net: MeshNet, folder: Path, about: dict | None = None) -> None:
    """Write `mesh_net.safetensors` and `mesh_net.json` (config and `about`) into `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    save_file(tensors, folder / "mesh_net.safetensors")
    text = json.dumps({"config": asdict(net.config), "about": about or {}}, indent=2, sort_keys=True)
    (folder / "mesh_net.json").write_text(text + "\n", encoding="utf-8")


def load_mesh_net(folder: Path, device: str = "cpu") -> MeshNet:
    """The network of `folder`, in eval mode, gradients off.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: config and weights do not belong together; the message names the first tensors.
    """
    folder = Path(folder)
    for name in ("mesh_net.json", "mesh_net.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: run the stage `mesh_net` first")
    config = json.loads((folder / "mesh_net.json").read_text(encoding="utf-8"))["config"]
    net = MeshNet(MeshNetConfig(**{**config, "widths": tuple(config["widths"])}))
    try:
        net.load_state_dict(load_file(folder / "mesh_net.safetensors"))
    except RuntimeError as error:
        raise ValueError(f"{folder}: weights do not fit mesh_net.json: {str(error)[:300]}") from None
    return net.to(device).eval().requires_grad_(False)
