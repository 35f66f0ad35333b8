"""A small folder source to build a cohort from, and what came of it, in the words of the tests."""

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from model.scores import DIMENSIONS
from tasks.cohort import as_lines, build_cohort
from tasks.tables import read_shards, read_table

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def picture(seed: int, size: tuple[int, int] = (8, 6), **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG" if not options else "JPEG", **options)
    return file.getvalue()


def source(root: Path, ratings: str, photos: int = 3, **files: str) -> Path:
    """A folder source with photos 1.png, 2.png, ... and the given files (`raters_csv` is raters.csv)."""
    (root / "photos").mkdir(parents=True)
    for number in range(1, photos + 1):
        (root / "photos" / f"{number}.png").write_bytes(picture(number))
    for name, text in {"ratings_csv": ratings, **files}.items():
        (root / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return root


def built(root: Path, **options) -> tuple[dict, Path]:
    out = root.parent / "cohort"
    return build_cohort("folder", root, out, now=NOW, **options), out


def aside(out: Path) -> list[str]:
    return as_lines(read_table(out / "quarantine.parquet"), 1000)


def labels(out: Path) -> list[tuple]:
    """(photo name, rater, appearance, health, posture) in order."""
    names = {row["photo_id"]: row["name"] for row in read_shards(out / "photos", ["photo_id", "name"]).to_pylist()}
    rows = read_table(out / "labels.parquet").to_pylist()
    return sorted((names[row["photo_id"]], row["rater_id"], *(row[d] for d in DIMENSIONS)) for row in rows)


RATERS = "rater_id,role,sex\ne,expert,f\nu,user,\n"
