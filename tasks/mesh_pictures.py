"""Photos with what the mesh stage saw in them, to look at: box, mesh and points, and those where it saw nobody."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from tasks.keyed import read_batches
from tasks.mesh_table import largest
from tasks.tables import read_shards, read_table, shard_paths

if TYPE_CHECKING:
    from model.body import Body
    from tasks.report.contact import Card

SHOWN = ["photo_id", "person", "status", "reason", "box", "betas", "pose", "camera", "points"]
"""Columns that a picture needs; the meshes themselves, a gigabyte for 20,000 photos, it does not."""


def cards(photos: Path, mesh: Path, body: Path, count: int, said: dict[str, dict[str, float]] | None = None) -> list[Card]:
    """Photos for a contact sheet, a quarter of them odd ones if there are so many.

    Args:
        said: scores to write below, by photo id and dimension.
    """
    from model.body import load_body

    rows = largest(read_shards(mesh, SHOWN))
    seen = pc.equal(rows["status"], "ok")
    odd = rows.filter(pc.invert(seen)).slice(0, count // 4).to_pylist()
    chosen = {row["photo_id"]: row for row in [*rows.filter(seen).slice(0, count - len(odd)).to_pylist(), *odd]}
    model, found = load_body(body), []
    for path in shard_paths(photos):
        listed = read_table(path, ["photo_id", "name"]).to_pylist()
        names = {each["photo_id"]: each["name"] for each in listed if each["photo_id"] in chosen}
        for ids, files in read_batches((path, list(names)), 16) if names else ():
            for photo, data in zip(ids, files):
                found.append(_card(names[photo], data, chosen[photo], model, (said or {}).get(photo, {})))
    return found


def _card(name: str, data: bytes, row: dict, body: Body, scores: dict[str, float]) -> Card:
    from PIL import Image

    from model.images import UnreadableImage, decode
    from model.mesh_row import MeshRow
    from model.overlay import overlay
    from tasks.report.contact import Card

    picture, lines = None, ()
    try:
        image = np.asarray(decode(data))
        if row["status"] == "ok":
            fields = {field: np.asarray(row[field], np.float32) for field in ("box", "betas", "pose", "camera", "points")}
            image = overlay(image, MeshRow("ok", **fields), body)
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=88)
        picture = buffer.getvalue()
    except UnreadableImage as error:
        lines = (str(error),)
    if row["reason"] and not lines:
        lines = (row["reason"],)
    return Card(picture, name, lines, scores, {}, row["status"])
