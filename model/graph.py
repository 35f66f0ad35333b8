"""The posture stream: a graph transformer over the 15 body points (after Pose-Anything, Hirschorn & Avidan).

At `tiny` size a point is described by where it lies on the body; the full network adds what a Swin-V2
backbone sees there. Points that are not visible take no part: neither in attention, nor along edges, nor
in the final maximum.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

POINTS = (
    "pelvis", "left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle", "neck",
    "left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist", "eyes",
)  # fmt: skip
EDGES = (
    (0, 1), (0, 2), (1, 3), (3, 5), (2, 4), (4, 6), (0, 8), (0, 9), (8, 10), (10, 12), (9, 11), (11, 13),
    (8, 9), (0, 7), (7, 14), (7, 8), (7, 9),
)  # fmt: skip
MIRRORED = (0, 2, 1, 4, 3, 6, 5, 7, 9, 8, 11, 10, 13, 12, 14)
"""Where each point goes when a photo is flipped left to right."""


def adjacency() -> Tensor:
    """(15, 15) symmetric 0/1 matrix of the body graph."""
    matrix = torch.zeros(len(POINTS), len(POINTS))
    for a, b in EDGES:
        matrix[a, b] = matrix[b, a] = 1.0
    return matrix


def normalise_points(points: Tensor, visible: Tensor) -> Tensor:
    """Pixels (B, 15, 2) → body units: centred on the visible points, divided by their larger extent."""
    weight = visible[..., None].float()
    centre = (points * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
    centred = (points - centre) * weight
    extent = (centred.amax(1) - centred.amin(1)).amax(-1).clamp(min=1.0)
    return centred / extent[:, None, None]


class Layer(nn.Module):
    """Self-attention over the points, then a feed-forward layer with one branch along the edges."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm1 = nn.LayerNorm(width)
        self.own = nn.Linear(width, 2 * width)
        self.edge = nn.Linear(width, 2 * width, bias=False)
        self.back = nn.Linear(2 * width, width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, place: Tensor, edges: Tensor, hidden: Tensor) -> Tensor:
        query = tokens + place
        attended, _ = self.attention(query, query, tokens, key_padding_mask=hidden, need_weights=False)
        tokens = self.norm1(tokens + self.dropout(attended))
        mixed = torch.relu(self.own(tokens) + edges @ self.edge(tokens))
        return self.norm2(tokens + self.dropout(self.back(mixed)))


class GraphTransformer(nn.Module):
    """(B, 15, 2) points in pixels, (B, 15) bool visible → (B, width) posture feature."""

    graph: Tensor

    def __init__(self, width: int, layers: int, heads: int, dropout: float):
        super().__init__()
        self.names = nn.Parameter(torch.randn(len(POINTS), width) * 0.02)
        self.place = nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(layers))
        self.register_buffer("graph", adjacency(), persistent=False)
        self.width = width

    def forward(self, points: Tensor, visible: Tensor) -> Tensor:
        seen = visible[:, None, :] & visible[:, :, None]
        edges = self.graph * seen
        edges = edges / edges.sum(-1, keepdim=True).clamp(min=1)
        # Attention needs one key to look at; a photo without a body is blanked by the caller anyway.
        hidden = ~visible
        hidden = hidden & ~hidden.all(dim=1, keepdim=True)
        place = self.place(normalise_points(points.float(), visible))
        tokens = self.names + place
        for layer in self.layers:
            tokens = layer(tokens, place, edges, hidden)
        return tokens.masked_fill(hidden[..., None], -torch.inf).amax(dim=1)
