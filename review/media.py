"""Photos and mesh overlays of a cohort, at the size of a screen.

Notable: one photo is read out of its shard (one row group), turned upright and made a JPEG when it is asked for; the last
ones are kept in memory. When `dvc repro` swaps the folders, the next request sees the new ones.

    uv run pytest tests/review/test_review_media.py
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from tasks.bodies import body_file
from tasks.keyed import read_batches
from tasks.mesh_pictures import SHOWN
from tasks.tables import read_table, shard_paths

if TYPE_CHECKING:
    from PIL.Image import Image

LONG_SIDE = 1600
"""px of the longer side that a browser gets."""
KEPT = 200


class CohortMedia:
    """Pictures of `cohort/photos`, meshes of `mesh`, drawn with the body model `body`.

    Args:
        photos, mesh: folders of shards; body: what the stage `body` made. None of them needs to be there yet.
    """

    def __init__(self, photos: Path, mesh: Path, body: Path) -> None:
        self.photos, self.rows, self.body = Shards(photos), Shards(mesh), body
        self._kept: OrderedDict[tuple[Path, str], bytes] = OrderedDict()
        self._drawing, self._keeping = threading.Lock(), threading.Lock()
        self._model = None

    def photo(self, photo_id: str) -> bytes | None:
        """JPEG; None: no such photo, or not one that can be read."""
        return self._cached(self.photos, photo_id, self._photo)

    def mesh(self, photo_id: str) -> bytes | None:
        """JPEG; None: no such photo, or nobody was found on it."""
        return self._cached(self.rows, photo_id, self._mesh)

    def _cached(self, shards: Shards, photo_id: str, make: Callable[[Path, str], bytes | None]) -> bytes | None:
        path = shards.path_of(photo_id)
        if path is None:
            return None
        key = path, photo_id  # a shard's name says which version made it, so another mesh has another name
        with self._keeping:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        try:
            made = make(path, photo_id)
        except FileNotFoundError:  # swapped away this very moment; the page asks again
            return None
        if made is not None:
            with self._keeping:
                self._kept[key] = made
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return made

    def _photo(self, path: Path, photo_id: str) -> bytes | None:
        image = self._image(path, photo_id, LONG_SIDE)
        return None if image is None else jpeg(image)

    def _image(self, path: Path, photo_id: str, side: int | None) -> Image | None:
        from model.images import UnreadableImage, decode_reduced

        ((_, (data,)),) = read_batches((path, [photo_id]), 1)
        try:
            return decode_reduced(data, side)[0]
        except UnreadableImage:
            return None

    def _mesh(self, path: Path, photo_id: str) -> bytes | None:
        from model.mesh_row import MeshRow
        from model.overlay import overlay

        shard = self.photos.path_of(photo_id)
        if shard is None or not self.body.is_dir():
            return None
        found = pq.read_table(path, columns=SHOWN, filters=[("photo_id", "=", photo_id), ("person", "=", 0)]).to_pylist()
        if not found or found[0]["status"] != "ok" or (image := self._image(shard, photo_id, None)) is None:
            return None
        names = ("box", "betas", "pose", "camera", "points")
        fields: dict[str, Any] = {name: np.asarray(found[0][name], np.float32) for name in names}
        with self._drawing:  # one at a time: it takes a core for a tenth of a second
            if self._model is None:
                from model.body import load_body

                self._model = load_body(body_file(self.body)[0])
            drawn = overlay(np.asarray(image), MeshRow("ok", **fields), self._model)
        from PIL import Image as pillow

        return jpeg(pillow.fromarray(drawn))


class Shards:
    """Which shard of a folder holds a photo, read anew when the folder has changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._seen: list[tuple[Path, int]] = []
        self._paths: dict[str, Path] = {}

    def path_of(self, photo_id: str) -> Path | None:
        """The shard; None: no shard holds it."""
        with self._lock:
            seen = [(path, path.stat().st_mtime_ns) for path in shard_paths(self.folder)]
            if seen != self._seen:
                self._paths = {
                    each: path for path, _ in seen for each in read_table(path, ["photo_id"])["photo_id"].to_pylist()
                }
                self._seen = seen
            return self._paths.get(photo_id)


def jpeg(image: Image) -> bytes:
    """A JPEG with nothing in it but the pixels (no EXIF, no place, no words), its longer side at most LONG_SIDE."""
    image.thumbnail((LONG_SIDE, LONG_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, optimize=True, comment=b"")
    return buffer.getvalue()
