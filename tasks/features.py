"""Meshes and image vectors of a cohort, on Ray actors, keyed by content (see tasks/keyed.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.fanout import fan_out
from tasks.keyed import keep_current, missing_pieces, photo_ids, read_piece
from tasks.schemas import SCHEMAS, check
from tasks.tables import write_table


class MeshActor:
    """Detector, mesh network and body model, loaded once; photos' bytes to rows of the `mesh` table."""

    def __init__(self, body: str, mesh_net: str, detector: str, device: str):
        import torch

        from model.extract import Extractor

        torch.set_num_threads(1)
        self.extractor = Extractor(Path(body), Path(mesh_net), detector=detector, device=device)

    def compute(self, piece: tuple[list[str], list[bytes]]) -> pa.Table:
        ids, photos = piece
        return mesh_table(ids, self.extractor(photos), self.extractor.extractor_id)


def mesh_table(ids: list[str], rows: list[Any], extractor: str) -> pa.Table:
    """Rows of an Extractor as a `mesh` table."""
    schema = SCHEMAS["mesh"]
    fields = [name for name in schema.names if name not in ("photo_id", "extractor")]
    columns: dict[str, Any] = {"photo_id": ids, "extractor": [extractor] * len(ids)}
    for name in fields:
        values = [getattr(row, name) for row in rows]
        columns[name] = [v.reshape(-1) if hasattr(v, "reshape") and v.ndim else v for v in values]
    return pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names})


class EmbedActor:
    """An image encoder, loaded once; photos' bytes to rows of the `embeddings` table, both flips."""

    def __init__(self, encoder: str, weights: str | None, mesh_net: str, batch: int, device: str, squash: bool):
        import torch

        from model.encoder import load_encoder

        torch.set_num_threads(1)
        self.encoder = load_encoder(encoder, weights, mesh_net, device, squash)
        self.batch = batch

    def compute(self, piece: tuple[list[str], list[bytes]]) -> pa.Table:
        import numpy as np

        from model.images import UnreadableImage, decode

        ids, images = [], []
        for photo_id, data in zip(*piece, strict=True):
            try:
                images.append(np.asarray(decode(data)))
                ids.append(photo_id)
            except UnreadableImage:
                continue  # its mesh row says `unreadable` and why; there is nothing to embed
        vectors = self.encoder(images, self.batch)
        return pa.table(
            {
                "photo_id": [i for i in ids for _ in range(2)],
                "flipped": [False, True] * len(ids),
                "vector": pa.array(list(vectors.reshape(-1, vectors.shape[-1])), pa.list_(pa.float32())),
                "encoder": [self.encoder.id] * (2 * len(ids)),
            },
            schema=SCHEMAS["embeddings"],
        )


def device_for(gpus: float) -> str:
    return "cuda" if gpus else "cpu"


def compute_table(
    table: str, key_column: str, key: str, photos: Path, out: Path, shard: int, **pool: Any
) -> dict[str, int]:
    """Bring a keyed table up to date; how many photos' rows were kept and how many computed.

    Args:
        pool: what `fan_out` is told of the actors.
    """
    done = keep_current(out, set(photo_ids(photos)), key_column, key)
    computed: list[int] = []

    def write(name: str, rows: pa.Table) -> None:
        if len(rows):
            write_table(check(rows, table), out / f"{name}.parquet")
            computed.append(len(set(rows["photo_id"].to_pylist())))

    fan_out(table, missing_pieces(photos, done, shard, key), read=read_piece, write=write, **pool)
    return {"kept": len(done), "computed": sum(computed)}


def extractor_id(body: str, mesh_net: str, detector: str, device: str) -> str:
    """Version of what the mesh actors compute; part of every row's key."""
    from model.extract import Extractor

    return Extractor(Path(body), Path(mesh_net), detector=detector).extractor_id


def encoder_id(encoder: str, weights: str | None, mesh_net: str, device: str, squash: bool) -> str:
    """Version of what the embed actors compute; part of every row's key."""
    from model.encoder import CLIP, RANDOM, clip_id, load_encoder

    if encoder == CLIP and weights is not None and (weights == RANDOM or Path(weights).is_file()):
        return clip_id(weights, squash)  # the tower itself, 1.2 GB, is for the actors
    return load_encoder(encoder, weights, mesh_net, squash=squash).id
