"""Photos as PhysiqueFrame reads them, from the tables of a cohort: vectors, meshes, points, visibility."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from model.physique_frame import PhysiqueFrame
from model.scores import DIMENSIONS
from model.views import mirror_points, score_views
from tasks.schemas import VERTICES
from tasks.tables import read_shards


@dataclass
class FrameInputs:
    """N photos, in order of id.

    image (N, 2, D): as it is and flipped. vertices (N, 10475, 3) float16 metres, zero where nobody is.
    points (N, 15, 2) px. visible (N,) bool: somebody is there.
    """

    ids: list[str]
    image: Tensor
    vertices: Tensor
    points: Tensor
    visible: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self) -> dict[str, int]:
        return {photo: row for row, photo in enumerate(self.ids)}

    def batch(self, rows: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """image, vertices, points, visible of `rows`, those where `flip` (B,) is true mirrored."""
        flip = torch.zeros(len(rows), dtype=torch.bool) if flip is None else flip
        points = self.points[rows]
        points = torch.where(flip[:, None, None], mirror_points(points), points)
        visible = self.visible[rows, None].expand(-1, points.shape[1])
        return self.image[rows, flip.long()], self.vertices[rows], points, visible

    def mean_mesh(self) -> Tensor:
        """(10475, 3) mean of the visible bodies; of zeros when there is none."""
        found = self.vertices[self.visible]
        return found.float().mean(0) if len(found) else torch.zeros(VERTICES, 3)


def read_inputs(mesh: Path, embeddings: Path) -> FrameInputs:
    """All photos that have a vector; those without a mesh row of status `ok` count as nobody visible."""
    table = read_shards(embeddings, ["photo_id", "flipped", "vector"])
    ids = sorted(set(table["photo_id"].to_pylist()))
    row = {photo: i for i, photo in enumerate(ids)}
    vectors = np.stack(table["vector"].to_numpy(zero_copy_only=False)).astype(np.float32)
    image = np.zeros((len(ids), 2, vectors.shape[1]), np.float32)
    at = [row[i] for i in table["photo_id"].to_pylist()]
    image[at, table["flipped"].to_numpy(zero_copy_only=False).astype(int)] = vectors

    vertices = np.zeros((len(ids), VERTICES, 3), np.float16)
    points = np.zeros((len(ids), 15, 2), np.float32)
    visible = np.zeros(len(ids), bool)
    bodies = read_shards(mesh, ["photo_id", "status", "vertices", "points"])
    for batch in bodies.to_batches():
        found = pc.equal(batch["status"], "ok").to_numpy(zero_copy_only=False)
        places = [(k, row[i]) for k, i in enumerate(batch["photo_id"].to_pylist()) if found[k] and i in row]
        if places:
            k, at = (list(part) for part in zip(*places))
            vertices[at] = np.stack(batch["vertices"].take(pa.array(k)).to_numpy(False)).reshape(
                -1, VERTICES, 3
            )
            points[at] = np.stack(batch["points"].take(pa.array(k)).to_numpy(False)).reshape(-1, 15, 2)
            visible[at] = True
    tensors = (torch.from_numpy(a) for a in (image, vertices, points, visible))
    return FrameInputs(ids, *tensors)


def scores_of(labels: pa.Table, rows: dict[str, int]) -> Tensor:
    """(N, 3) mean score of each photo over the given labels, NaN where there is none."""
    total, count = np.zeros((len(rows), len(DIMENSIONS))), np.zeros((len(rows), len(DIMENSIONS)))
    at = np.array([rows.get(photo, -1) for photo in labels["photo_id"].to_pylist()], int)
    for d, name in enumerate(DIMENSIONS):
        values = pc.fill_null(labels[name].cast(pa.float64()), np.nan).to_numpy()
        use = (at >= 0) & ~np.isnan(values)
        np.add.at(total[:, d], at[use], values[use])
        np.add.at(count[:, d], at[use], 1)
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(np.where(count > 0, total / np.maximum(count, 1), np.nan)).float()


def predict_all(
    frame: PhysiqueFrame, inputs: FrameInputs, survey: Tensor, batch: int = 256
) -> tuple[Tensor, Tensor]:
    """(N, 3) scores and (N, F) fused features of all photos (see model.views)."""
    frame.eval()
    parts = []
    for rows in torch.arange(len(inputs)).split(batch):
        visible = inputs.visible[rows, None].expand(-1, inputs.points.shape[1])
        parts.append(
            score_views(
                frame, inputs.image[rows], inputs.vertices[rows], inputs.points[rows], visible, survey
            )
        )
    scores, fused = zip(*parts)
    return torch.cat(scores), torch.cat(fused)
