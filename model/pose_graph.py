"""The full posture stream: 15 body points on a Swin-V2 map, through the graph decoder of Pose-Anything.

After Hirschorn & Avidan (Pose Anything, ECCV 2024) as PhysiqueFrame (Zhong et al., CVPR 2025) uses it: the photo is
query and support at once, what is kept is the decoder's features. Written from a specification.

Notable: the reference enlarges the 1,024-channel map to 64×64 and weighs it with 15 heat maps. Both steps are linear
and a heat map is the product of two Gaussians, so here the Gaussians are brought to the 14×14 map instead: the same
numbers without a 16 MB tensor per photo.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.compat import Compat
from model.graph import POINTS, adjacency

PIXELS = 224
MAP = 64  # cells of a heat map, a side
REACH = 6  # cells on either side of a heat map's peak


def gaussians(points: Tensor) -> tuple[Tensor, Tensor]:
    """Heat maps of points, as their two factors.

    A peak is rounded to a cell of 3.5 px and reaches 6 cells (sigma 2). What lies wholly outside has no heat map.

    Args:
        points: (B, 15, 2) px of the 224-px photo; fractions are cut off, as the reference does.

    Returns:
        (B, 15, 2, 64) profiles along x and y, (B, 15) float weight: 1, or 0 for a point outside.
    """
    stride = PIXELS / MAP
    peak = (points.float().trunc() / stride + 0.5).trunc()[..., None]
    offset = torch.arange(MAP, device=points.device) - peak
    profile = torch.exp(-offset.square() / 8) * (offset.abs() <= REACH)
    inside = ((peak - REACH < MAP) & (peak + REACH + 1 >= 0)).all(dim=2)[..., 0].float()
    return profile * inside[..., None, None], inside


def heat_maps(points: Tensor) -> Tensor:
    """(B, 15, 2) px → (B, 15, 64, 64), rows first."""
    x, y = gaussians(points)[0].unbind(2)
    return y[..., :, None] * x[..., None, :]


def sine(place: Tensor, width: int = 128) -> Tensor:
    """(…, 2) x and y in radians → (…, 2·width) encoding: y first, sine and cosine interleaved."""
    index = torch.arange(width, device=place.device)
    frequency = 10000.0 ** (2 * torch.div(index, 2, rounding_mode="floor") / width)
    angle = place.flip(-1)[..., None] / frequency
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-3)


def mlp(width: int, out: int, layers: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [nn.Linear(width, width), nn.GELU()]
    return nn.Sequential(*parts, nn.Linear(width, out))


def attend(layer: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None) -> Tensor:
    return layer(query, key, value, key_padding_mask=hidden, need_weights=False)[0]


class Proposals(nn.Module):
    """A first guess of where each point lies, by likeness of its token to the map's cells."""

    def __init__(self, width: int):
        super().__init__()
        self.support_proj = nn.Linear(width, width)
        self.query_proj = nn.Linear(width, width)
        self.dynamic_proj = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, width))

    def similarity(self, cells: Tensor, tokens: Tensor) -> Tensor:
        """(B, H·W, D) and (B, 15, D) → (B, 15, H·W)."""
        support = self.support_proj(tokens)
        support = support * (1 + torch.tanh(self.dynamic_proj(support)))
        return support @ self.query_proj(cells).mT

    def forward(self, cells: Tensor, tokens: Tensor, side: int) -> Tensor:
        """(B, H·W, D) cells, (B, 15, D) tokens → (B, 15, 2) x and y from 0 to 1."""
        chance = self.similarity(cells, tokens).float().softmax(-1)
        best = chance.argmax(-1, keepdim=True)
        axis = torch.arange(side, device=cells.device)
        row, column = axis.repeat_interleave(side), axis.repeat(side)
        close = ((row - best // side).abs() <= 1) & ((column - best % side).abs() <= 1)
        chance = chance * close
        chance = chance / (chance.sum(-1, keepdim=True) + 1e-10)
        place = torch.stack([column, row], dim=-1) + 0.5
        return chance @ place.to(chance.dtype) / side


class DecoderLayer(nn.Module):
    """Points look at each other, at the map, and along the body graph. Post-norm."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(2 * width, heads, dropout=dropout, vdim=width, batch_first=True)
        self.choker = nn.Linear(2 * width, width)
        self.ffn1 = nn.Linear(width, 2 * hidden)
        self.ffn2 = nn.Linear(hidden, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, place: Tensor, cells: Tensor, grid: Tensor, hidden: Tensor, edges: Tensor) -> Tensor:
        """(B, 15, D) tokens and place, (B, H·W, D) cells and grid, (B, 15) hidden, (B, 2, 15, 15) edges → (B, 15, D)."""
        query = tokens + place
        tokens = self.norm1(tokens + self.dropout(attend(self.self_attn, query, query, tokens, hidden)))
        query, key = torch.cat([tokens, place], -1), torch.cat([cells, grid], -1)
        tokens = self.norm2(
            tokens + self.dropout(self.choker(attend(self.multihead_attn, query, key, cells, None)))
        )
        own, along = self.ffn1(tokens).chunk(2, dim=-1)  # (B, 15, hidden) each
        mixed = torch.relu(edges[:, 0].mT @ own + edges[:, 1].mT @ along)
        return self.norm3(tokens + self.dropout(self.ffn2(self.dropout(mixed))))


def body_graph(weight: Tensor, graph: Tensor) -> tuple[Tensor, Tensor]:
    """Edges between seen points, and who is hidden.

    Args:
        weight: (B, 15), 0 for a hidden point. If all are hidden the first is looked at all the same.
        graph: (15, 15) symmetric, or (B, 15, 15).

    Returns:
        (B, 2, 15, 15): identity and row-normalised graph of the points that are seen; (B, 15) bool.
    """
    hidden = weight == 0
    alone = hidden.all(dim=1)
    hidden = hidden.clone()
    hidden[:, 0] &= ~alone
    seen = (~hidden).float()
    edges = graph * seen[:, :, None] * seen[:, None, :]
    edges = edges / edges.sum(-1, keepdim=True).clamp(min=1e-12)
    return torch.stack([torch.diag_embed(seen), edges], dim=1), hidden


class PoseGraph(nn.Module):
    """(B, C, 7, 7)-map of a backbone and 15 points → (B, width) posture feature."""

    resize: Tensor
    graph: Tensor

    def __init__(self, channels: int = 1024, side: int = 14, width: int = 256, layers: int = 3, heads: int = 8,
                 dropout: float = 0.1):  # fmt: skip
        super().__init__()
        self.side, self.width = side, width
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.input_proj = nn.Linear(channels, width)
        self.query_proj = nn.Linear(channels, width)
        self.proposals = Proposals(width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, 4 * width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.ref_point_head = mlp(width, width, 2)
        # Never trained: its points are cut from the gradient. The last of the checkpoint's three moves nothing.
        self.kpt_branch = nn.ModuleList(mlp(width, 2, 4) for _ in range(layers - 1)).requires_grad_(False)
        # (64, side): what each cell of a heat map takes from each cell of the backbone's map
        identity = torch.eye(side)[None]
        resize = F.interpolate(identity, size=MAP, mode="linear", align_corners=False)[0].T.contiguous()
        self.register_buffer("resize", resize, persistent=False)
        self.register_buffer("graph", adjacency(), persistent=False)

    def support(self, features: Tensor, profiles: Tensor) -> Tensor:
        """Mean of (B, side², C) features under each point's heat map: (B, 15, C)."""
        x, y = (profiles @ self.resize).unbind(2)  # (B, 15, side) each
        total = profiles.sum(-1).prod(-1) + 1e-8
        weight = (y[..., :, None] * x[..., None, :]).flatten(2) / total[..., None]
        return weight.to(features.dtype) @ features

    def decode(self, cells: Tensor, tokens: Tensor, weight: Tensor, compat: Compat) -> Tensor:
        """(B, side², D) cells, (B, 15, D) tokens, (B, 15) weight → (layers, B, 15, D)."""
        edges, hidden = body_graph(weight, compat.graph_of(self.graph, len(cells)))
        points = self.proposals(cells, tokens, self.side)
        axis = torch.arange(1, self.side + 1, device=cells.device) / (self.side + 1e-6) * 2 * math.pi
        grid = torch.stack([axis.repeat(self.side), axis.repeat_interleave(self.side)], -1)
        grid = sine(grid).expand(len(cells), -1, -1).to(cells.dtype)
        found = []
        for i, layer in enumerate(self.layers):
            place = self.ref_point_head(sine(points * 2 * math.pi).to(cells.dtype))
            tokens = layer(tokens, place, cells, grid, hidden, edges.to(cells.dtype))
            found.append(self.norm(tokens))
            if i < len(self.kpt_branch):
                near = torch.log(points.clamp(min=1e-3) / (1 - points).clamp(min=1e-3))
                points = torch.sigmoid(near + self.kpt_branch[i](tokens).float()).detach()
        return torch.stack(found)

    def forward(self, features: Tensor, points: Tensor, visible: Tensor, compat: Compat) -> Tensor:
        """
        Args:
            features: (B, C, side/2, side/2) of the backbone.
            points: (B, 15, 2) px of the 224-px photo.
            visible: (B, 15) bool. A hidden point still takes part in the final maximum, as it did in training.

        Raises:
            ValueError: points of another shape.
        """
        if points.shape[1:] != (len(POINTS), 2):
            raise ValueError(f"points: shape {tuple(points.shape)}, expected (B, {len(POINTS)}, 2)")
        features = self.upsample(features).flatten(2).mT  # (B, side², C)
        profiles, inside = gaussians(points)
        weight = compat.weight_of(inside * visible)
        tokens = self.query_proj(self.support(features, profiles) * weight[..., None].to(features.dtype))
        cells = self.input_proj(features)
        return self.decode(cells, tokens, weight, compat).amax(dim=(0, 2))


def swin_backbone() -> nn.Module:
    """Swin-V2-B at 224 px, window 14: (B, 3, 224, 224) ImageNet-normalised → (B, 7, 7, 1024)."""
    import timm

    return timm.create_model(
        "swinv2_base_window12_192",
        pretrained=False,
        img_size=PIXELS,
        window_size=14,
        pretrained_window_sizes=(12, 12, 12, 6),
        num_classes=0,
        global_pool="",
        drop_path_rate=0.1,
    )


class PhotoPosture(nn.Module):
    """(B, 3, 224, 224) photos and (B, 15, 2) points on them, px → (B, 256) posture feature."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = swin_backbone()
        self.head = PoseGraph()
        self.width = self.head.width

    def forward(self, photo: Tensor, points: Tensor, visible: Tensor, compat: Compat) -> Tensor:
        features = self.backbone.forward_features(photo)  # type: ignore[operator]
        return self.head(features.permute(0, 3, 1, 2), points, visible, compat)
