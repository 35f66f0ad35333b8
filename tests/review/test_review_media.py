"""Photos and meshes out of shards: upright, without what cameras write into files, new when the shards are."""

from __future__ import annotations

import hashlib
import io
import shutil

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from review.media import LONG_SIDE, CohortMedia
from tasks.bodies import write_standin
from tasks.schemas import MESH, PHOTOS, check
from tasks.tables import write_table

GREEN = (30, 160, 60)


def lying(width: int, height: int) -> bytes:
    """A photo as a phone stores it: on its side, with EXIF and a comment; its upper half is green once it is upright."""
    upright = Image.new("RGB", (width, height), "white")
    upright.paste(GREEN, (0, 0, width, height // 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to see it
    exif[0x010E] = "taken at home"
    buffer = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=95, exif=exif, comment=b"a name")
    return buffer.getvalue()


def shard(path, *files: bytes) -> list[str]:
    """A shard of photos; their ids."""
    ids = [hashlib.sha256(data).hexdigest() for data in files]
    rows = [
        {"photo_id": one, "name": f"{one[:6]}.jpg", "width": None, "height": None, "source": "test", "bytes": data}
        for one, data in zip(ids, files)
    ]
    write_table(check(pa.Table.from_pylist(rows, schema=PHOTOS), "photos"), path, row_group_size=1)
    return ids


def mesh_row(photo_id: str, distance: float | None) -> dict:
    """A standing body `distance` metres before a camera of 600 × 800 px; None: nobody was found."""
    row = dict.fromkeys(MESH.names) | {"photo_id": photo_id, "person": 0, "status": "no_person", "extractor": "test"}
    if distance is None:
        return row | {"reason": "nobody"}
    found = {"box": [0, 0, 600, 800], "betas": [0] * 10, "pose": [np.pi, *[0] * 65], "points": [0] * 30, "volume": 0.07}
    camera = [800, 0, 0, distance, 300, 400]
    return row | found | {"status": "ok", "camera": camera, "vertices": np.zeros(10475 * 3, np.float16)}


def write_meshes(path, *rows: dict) -> None:
    write_table(check(pa.Table.from_pylist(list(rows), schema=MESH), "mesh"), path)


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    folder = tmp_path_factory.mktemp("standin") / "body"
    write_standin(folder)
    return folder


@pytest.fixture
def media(tmp_path, body):
    return CohortMedia(tmp_path / "photos", tmp_path / "mesh", body)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)), int)


def test_a_photo_is_upright_and_says_nothing_but_its_pixels(media, tmp_path):
    first, second = shard(tmp_path / "photos/0.parquet", lying(60, 80), lying(3000, 4000))
    data = media.photo(first)
    image = Image.open(io.BytesIO(data))
    assert image.size == (60, 80)
    assert not image.getexif() and "comment" not in image.info
    assert b"taken at home" not in data and b"a name" not in data
    assert np.abs(pixels(data)[10, 30] - GREEN).max() < 12 and pixels(data)[70, 30].min() > 240
    assert max(Image.open(io.BytesIO(media.photo(second))).size) == LONG_SIDE


def test_what_is_not_there_or_not_readable_is_none(media, tmp_path):
    assert media.photo("0" * 64) is None and media.mesh("0" * 64) is None
    good, bad = shard(tmp_path / "photos/0.parquet", lying(60, 80), b"no photo at all")
    assert media.photo(bad) is None
    write_meshes(tmp_path / "mesh/0.parquet", mesh_row(good, None), mesh_row(bad, 4.0))
    assert media.mesh(good) is None and media.mesh(bad) is None


def test_the_mesh_is_drawn_over_its_photo(media, tmp_path):
    (photo,) = shard(tmp_path / "photos/0.parquet", lying(600, 800))
    write_meshes(tmp_path / "mesh/0.parquet", mesh_row(photo, 4.0))
    differs = np.abs(pixels(media.mesh(photo)) - pixels(media.photo(photo))).max(2) > 40
    assert 0.03 < differs[100:700, 100:500].mean() < 0.9
    assert not differs[20:60, 30:200].any(), "nothing is drawn beside the body"


def test_swapped_folders_are_seen_by_the_next_request(media, tmp_path):
    (first,) = shard(tmp_path / "photos/0.parquet", lying(600, 800))
    write_meshes(tmp_path / "mesh/old.parquet", mesh_row(first, 4.0))
    before = media.mesh(first)
    assert media.mesh(first) == before
    shutil.rmtree(tmp_path / "mesh")
    write_meshes(tmp_path / "mesh/new.parquet", mesh_row(first, 8.0))
    assert media.mesh(first) != before
    shutil.rmtree(tmp_path / "photos")
    (second,) = shard(tmp_path / "photos/0.parquet", lying(66, 88))
    assert media.photo(first) is None and media.photo(second) is not None
