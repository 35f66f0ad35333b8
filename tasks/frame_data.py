"""Photos as PhysiqueFrame reads them, from the tables of a cohort: vectors, meshes, points, visibility."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from model.physique_frame import FrameConfig
from model.scores import DIMENSIONS
from model.vector_frame import Frame
from model.views import FrameInputs, camera_shift, score_views, square
from tasks.schemas import VERTICES
from tasks.tables import only, read_shards, read_table, shard_paths


def read_inputs(
    mesh: Path,
    embeddings: Path,
    config: FrameConfig | None = None,
    photos: Path | None = None,
    keep: Path = Path(".physique/pixels"),
    squash: bool = False,
) -> FrameInputs:
    """All photos that have a vector; those without a mesh row of status `ok` count as nobody visible.

    Args:
        config: of the frames that will read them.
        photos: the cohort's photo shards; needed where that config looks at pixels.
        keep: folder for decoded photos.
    """
    table = read_shards(embeddings, ["photo_id", "flipped", "vector"])
    ids = sorted(set(table["photo_id"].to_pylist()))
    row = {photo: i for i, photo in enumerate(ids)}
    vectors = np.stack(table["vector"].to_numpy(zero_copy_only=False)).astype(np.float32)
    vector = np.zeros((len(ids), 2, vectors.shape[1]), np.float32)
    at = [row[i] for i in table["photo_id"].to_pylist()]
    vector[at, table["flipped"].to_numpy(zero_copy_only=False).astype(int)] = vectors

    bodies = read_shards(mesh, ["photo_id", "status", "person", "vertices", "points", "box", "camera"])
    vertices = np.zeros((len(ids), VERTICES if len(bodies) else 0, 3), np.float16)  # items that are vectors have no rows
    points = np.zeros((len(ids), 15, 2), np.float32)
    seen = np.zeros((len(ids), 10), np.float32)  # box and camera
    visible = np.zeros(len(ids), bool)
    for batch in bodies.to_batches():
        found = pc.and_(pc.equal(batch["status"], "ok"), pc.equal(batch["person"], 0)).to_numpy(zero_copy_only=False)
        places = [(k, row[i]) for k, i in enumerate(batch["photo_id"].to_pylist()) if found[k] and i in row]
        if places:
            k, at = (list(part) for part in zip(*places))
            columns = {name: np.stack(batch[name].take(pa.array(k)).to_numpy(False)) for name in bodies.schema.names[3:]}
            vertices[at] = columns["vertices"].reshape(-1, VERTICES, 3)
            points[at] = columns["points"].reshape(-1, 15, 2)
            seen[at] = np.concatenate([columns["box"], columns["camera"]], axis=1)
            visible[at] = True
    inputs = FrameInputs(ids, *(torch.from_numpy(a) for a in (vector, vertices, points, visible)))
    if config is None or not config.reads_photo:
        return inputs
    if photos is None:
        raise ValueError("photos: missing; frames of this size look at pixels")
    inputs.photo, maps, sizes = squares(photos, ids, keep, squash)
    inputs.points = torch.einsum("nij,nkj->nki", maps[:, :, :2], inputs.points) + maps[:, None, :, 2]
    inputs.shift = torch.zeros(len(ids), 3)
    for k in np.flatnonzero(visible):
        inputs.shift[k] = torch.from_numpy(camera_shift(seen[k, :4], seen[k, 4:], *sizes[k].tolist()))
    return inputs


def squares(photos: Path, ids: list[str], keep: Path, squash: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 224, 224, 3) uint8 photos as full-size frames see them, (N, 2, 3) maps px → px, (N, 2) width and height.

    Decoded once per cohort, then read from a file that is mapped into memory: an epoch decodes no JPEG.
    """
    from model.images import decode
    from tasks.keyed import shard_name

    key = shard_name(ids, f"square-{squash}-1")
    pixels, rest = keep / f"{key}.npy", keep / f"{key}.npz"
    if not (pixels.is_file() and rest.is_file()):
        keep.mkdir(parents=True, exist_ok=True)
        row = {photo: i for i, photo in enumerate(ids)}
        temporary = pixels.with_suffix(f".{os.getpid()}.tmp")
        out = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(ids), 224, 224, 3))
        maps, sizes = np.zeros((len(ids), 2, 3), np.float32), np.zeros((len(ids), 2), np.int64)
        for path in shard_paths(photos):
            table = read_table(path, ["photo_id", "bytes"])
            for photo, data in zip(table["photo_id"].to_pylist(), table["bytes"]):
                if photo in row:
                    image = np.asarray(decode(data.as_py()))
                    out[row[photo]], maps[row[photo]] = square(image, squash)
                    sizes[row[photo]] = image.shape[1], image.shape[0]
        out.flush()
        del out
        np.savez(rest, maps=maps, sizes=sizes)
        temporary.replace(pixels)  # last: whoever sees it sees all of it
    known = np.load(rest)
    mapped = np.load(pixels, mmap_mode="c")  # copy on write: torch wants to be allowed to write
    return torch.from_numpy(mapped), torch.from_numpy(known["maps"]), torch.from_numpy(known["sizes"])


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


def scores_by(labels: pa.Table, raters: list[str], rows: dict[str, int]) -> Tensor:
    """(R, N, 3) scores of each photo by each of R raters, NaN where there is none."""
    who = labels["rater_id"].to_pylist()
    return torch.stack([scores_of(only(labels, [w == rater for w in who]), rows) for rater in raters])


def predict_all(
    frame: Frame, inputs: FrameInputs, survey: Tensor, batch: int = 256, device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor]:
    """(N, 3) scores and (N, F) fused features of all photos (see model.views)."""
    frame.eval()
    parts = [score_views(frame, inputs, rows, survey, device) for rows in torch.arange(len(inputs)).split(batch)]
    scores, fused = zip(*parts)
    return torch.cat(scores), torch.cat(fused)
