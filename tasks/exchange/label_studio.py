"""Drafts as a project of Label Studio: tasks with predictions, the labelling interface, and the photos.

Notable: the interface has a `Number` per dimension, for `Rating` knows whole numbers only. The photos are written
under their photo_id, so no name from elsewhere becomes a path; each task carries photo_id and name, by which
the annotations find their photo again wherever Label Studio serves it from.
Layout: https://labelstud.io/guide/predictions, https://labelstud.io/tags/number
Test: `uv run pytest tests/tasks/test_exchange_export.py`
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq

from model.scores import DIMENSIONS, SCALE
from tasks.exchange.drafts import Draft
from tasks.intake.photos import SUFFIXES
from tasks.intake.quarantine import BadInput
from tasks.tables import shard_paths, write_bytes, write_json, write_text

LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves files of its LOCAL_FILES_DOCUMENT_ROOT."""
CANNOT_TELL = "cannot_tell"
"""Name of the choices by which an expert takes a dimension out."""
_CONTROL = {"to_name": "photo", "type": "number"}
_ADDRESS = re.compile(r"(https?|s3|gs|azure-blob)://\S+|/\S*")


def write_project(drafts: list[Draft], cohort: Path, out: Path, images: str | None = None) -> dict[str, Path]:
    """Write `out` (tasks) and beside it NAME.xml (interface); without `images` NAME_photos/ too.

    images: address of the photos' folder, to which their names are added.
    Returns: what was written, by what it is. Raises BadInput for an address that Label Studio cannot open.
    """
    written = {"tasks": out, "interface": out.with_suffix(".xml")}
    if images is None:
        folder = out.with_name(f"{out.stem}_photos")
        files = {draft.photo_id: draft.photo_id + _suffix(draft.name) for draft in drafts}
        write_photo_files(cohort, files, folder)
        written["photos"] = folder
        address = {photo_id: f"{LOCAL_FILES}{quote(f'{folder.name}/{file}')}" for photo_id, file in files.items()}
    else:
        if not _ADDRESS.fullmatch(images):
            raise BadInput(f"--images: {images!r} is no address; give http(s)://..., s3://... or {LOCAL_FILES}FOLDER")
        images += "" if images.endswith(("/", "=")) else "/"
        address = {draft.photo_id: images + quote(draft.name) for draft in drafts}
    write_text(interface(), written["interface"])
    write_json([_task(draft, address[draft.photo_id]) for draft in drafts], out)
    return written


def interface() -> str:
    """The labelling interface as XML: a photo, a slider per dimension, and what the expert cannot tell.

    A slider that is set, as a draft sets it, cannot be unset in Label Studio, and its box emptied means 0.
    """
    low, high = SCALE
    controls = "".join(
        f'  <Header value="{d.capitalize()}"/>\n'
        f'  <Number name="{d}" toName="photo" min="{low:g}" max="{high:g}" step="0.1" slider="true"/>\n'
        for d in DIMENSIONS
    )
    return (
        f'<View>\n  <Image name="photo" value="$image" zoom="true"/>\n{controls}  <Header value="I cannot tell"/>\n'
        f'  <Choices name="{CANNOT_TELL}" toName="photo" choice="multiple" showInline="true">\n'
        + "".join(f'    <Choice value="{d}"/>\n' for d in DIMENSIONS)
        + "  </Choices>\n</View>\n"
    )


def _task(draft: Draft, image: str) -> dict[str, Any]:
    """One task; its score, by which Label Studio sorts, is the share of the dimensions that have a draft."""
    results = [
        {"id": f"{draft.photo_id[:12]}-{d}", "from_name": d, "value": {"number": score}, **_CONTROL}
        for d, score in draft.scores.items()
    ]
    prediction = {
        "model_version": f"{draft.labeller}-round-{draft.round}",
        "score": round(len(results) / len(DIMENSIONS), 2),
        "result": results,
    }
    data = {"image": image, "photo": draft.name, "photo_id": draft.photo_id, "round": draft.round}
    return {"data": data, "predictions": [prediction]}


def write_photo_files(cohort: Path, files: dict[str, str], folder: Path) -> None:
    """Write the photos of `files` (file name by photo_id) as they came; what lies there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in shard_paths(cohort / "photos"):
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(batch_size=64, columns=["photo_id", "bytes"]):
                for photo_id, raw in zip(batch["photo_id"].to_pylist(), batch["bytes"]):
                    if photo_id in files and not (folder / files[photo_id]).exists():
                        write_bytes(raw.as_py(), folder / files[photo_id])


def _suffix(name: str) -> str:
    """The suffix of a photo's name if it is one of pictures, else none."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix in SUFFIXES else ""
