"""Meshes and image vectors of a cohort, on Ray actors, keyed by content (see tasks/keyed.py); vectors that came along."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from tasks.fanout import Crew, fan_out
from tasks.intake.items import as_vectors
from tasks.keyed import keep_current, missing_pieces, photo_ids, read_batches
from tasks.mesh_table import mesh_table
from tasks.schemas import SCHEMAS, check
from tasks.tables import read_table, shard_paths, write_table

if TYPE_CHECKING:
    from model.extract import Recipe
    from model.prepare import Prepared
    from tasks.params import Mesh


VECTORS = "features-"
"""How `encoder` begins where vectors came with the cohort; a hash of them follows."""
VECTOR_ROWS = 4096


def settle(threads: int) -> None:
    """Make an actor's process ready for batch after batch: so many threads, and memory that is kept between batches.

    The C library gives large blocks back to the system and gets them again, zeroed page by page, with every batch: a
    twentieth of the time. Where it is not glibc nothing happens.
    """
    import ctypes
    from contextlib import suppress

    import torch

    torch.set_num_threads(threads)
    with suppress(OSError, AttributeError):
        mallopt, mmap_threshold, trim_threshold = ctypes.CDLL(None).mallopt, -3, -1
        mallopt(mmap_threshold, 2**30), mallopt(trim_threshold, 2**30)


class DecodeActor:
    """Decodes photos, finds people and cuts them out, for a network elsewhere."""

    def __init__(self, recipe: Recipe, device: str):
        settle(1)
        self.prepare = recipe.preparer(device)

    def compute(self, batch: tuple[list[str], list[bytes]]) -> tuple[list[str], Prepared]:
        ids, photos = batch
        return ids, self.prepare(photos)


class MeshActor:
    """Mesh network and body model, loaded once; photos, prepared or not, to rows of the `mesh` table."""

    def __init__(
        self, recipe: Recipe, extractor: str, device: str, threads: int, compile: bool, prepares: bool, batch: int
    ):
        settle(threads)
        self.extractor = extractor
        self.prepare = recipe.preparer(device) if prepares else None
        self.network = recipe.make_network(device, compile, batch)

    def compute(self, batch: tuple[list[str], list[bytes] | Prepared]) -> pa.Table:
        from model.extract import rows_of

        ids, given = batch
        prepared = given if self.prepare is None else self.prepare(given)
        return mesh_table(ids, rows_of(prepared, self.network, self.extractor))


def mesh_crews(recipe: Recipe, extractor: str, settings: Mesh) -> list[Crew]:
    """Networks, and the decoders that feed them if there are any."""
    arguments = {
        "recipe": recipe,
        "extractor": extractor,
        "device": device_for(settings.gpus_per_actor),
        "threads": settings.cpus_per_actor,
        "compile": settings.compile,
        "prepares": settings.decoders == 0,
        "batch": settings.batch,
    }
    networks = Crew(MeshActor, arguments, settings.actors, settings.cpus_per_actor, settings.gpus_per_actor)
    if not settings.decoders:
        return [networks]
    decoding = {"recipe": recipe, "device": device_for(settings.gpus_per_decoder)}
    decoders = settings.actors * settings.decoders
    return [Crew(DecodeActor, decoding, decoders, gpus=settings.gpus_per_decoder), networks]


class EmbedActor:
    """An image encoder, loaded once; photos' bytes to rows of the `embeddings` table, both flips."""

    def __init__(self, encoder: str, weights: str | None, mesh_net: str, batch: int, device: str, squash: bool):
        from model.encoder import load_encoder

        settle(1)
        self.encoder = load_encoder(encoder, weights, mesh_net, device, squash)
        self.batch = batch

    def compute(self, batch: tuple[list[str], list[bytes]]) -> pa.Table:
        import numpy as np

        from model.images import UnreadableImage, decode

        ids, images = [], []
        for photo_id, data in zip(*batch, strict=True):
            try:
                images.append(np.asarray(decode(data)))
                ids.append(photo_id)
            except UnreadableImage:
                continue  # its mesh row says `unreadable` and why; there is nothing to embed
        if not images:
            return SCHEMAS["embeddings"].empty_table()
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


def pass_vectors(photos: Path, out: Path) -> dict[str, int]:
    """Items' own vectors as the embeddings table, keyed by a hash of them all; how many were kept and how many written."""
    digest = hashlib.sha256()
    for path in shard_paths(photos):
        for row in read_table(path, ["photo_id", "bytes"]).to_pylist():
            digest.update(row["photo_id"].encode() + row["bytes"])
    key = f"{VECTORS}{digest.hexdigest()[:20]}"
    done = keep_current(out, set(photo_ids(photos)), "encoder", key)
    pieces = missing_pieces(photos, done, VECTOR_ROWS, key)
    for piece in pieces:
        ((ids, data),) = read_batches(piece.payload, VECTOR_ROWS)
        vectors = as_vectors(data)
        columns = {
            "photo_id": [i for i in ids for _ in range(2)],
            "flipped": [False, True] * len(ids),  # a vector has no mirror image; readers expect both
            "vector": pa.array(list(vectors.repeat(2, 0)), pa.list_(pa.float32())),
            "encoder": [key] * (2 * len(ids)),
        }
        write_table(check(pa.table(columns, schema=SCHEMAS["embeddings"]), "embeddings"), out / f"{piece.name}.parquet")
    return {"kept": len(done), "computed": sum(piece.rows for piece in pieces)}


def device_for(gpus: float) -> str:
    return "cuda" if gpus else "cpu"


def compute_table(
    table: str, key_column: str, key: str, photos: Path, out: Path, shard: int, batch: int, crews: list[Crew]
) -> dict[str, int]:
    """Bring a keyed table up to date; how many photos' rows were kept and how many computed."""
    done = keep_current(out, set(photo_ids(photos)), key_column, key)
    pieces = missing_pieces(photos, done, shard, key)
    computed: list[int] = []

    def write(name: str, made: list[pa.Table]) -> None:
        rows = pa.concat_tables(made)
        if len(rows):
            write_table(check(rows, table), out / f"{name}.parquet")
            computed.append(len(set(rows["photo_id"].to_pylist())))

    batches = sum(-(-piece.rows // batch) for piece in pieces)
    crews = [replace(crew, count=min(crew.count, batches)) for crew in crews]
    fan_out(table, pieces, crews, read=partial(read_batches, rows=batch), write=write)
    return {"kept": len(done), "computed": sum(computed)}


def encoder_id(encoder: str, weights: str | None, mesh_net: str, device: str, squash: bool) -> str:
    """Version of what the embed actors compute; part of every row's key."""
    from model.encoder import CLIP, RANDOM, clip_id, load_encoder

    if encoder == CLIP and weights is not None and (weights == RANDOM or Path(weights).is_file()):
        return clip_id(weights, squash)  # the tower itself, 1.2 GB, is for the actors
    return load_encoder(encoder, weights, mesh_net, squash=squash).id
