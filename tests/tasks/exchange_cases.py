"""A cohort of four photos with drafts, and files in the layout in which Label Studio exports a project.

The layout (task, annotation, region, and JSON-MIN) is what Label Studio 1.23.2 itself wrote for tasks that this project
had exported; described at https://labelstud.io/guide/task_format and https://labelstud.io/guide/export.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from cohort_cases import picture

from model.scores import DIMENSIONS
from tasks.exchange.labels import Imported, import_labels
from tasks.intake.quarantine import as_lines
from tasks.schemas import LABELS, PHOTOS, RATERS, check
from tasks.tables import write_table

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NAMES = ("a.png", "more/b c&d.png", "=cmd|' /C calc'!A0.png", "é\n.jpg")
PHOTOS_ = {name: picture(number) for number, name in enumerate(NAMES)}
IDS = {name: hashlib.sha256(raw).hexdigest() for name, raw in PHOTOS_.items()}
A, B, C, D = (IDS[name] for name in NAMES)
MAP = "annotator,rater_id\nANN@x.org,expert-01\n7,expert-02\nghost@x.org,nobody\n"


def cohort(folder: Path) -> Path:
    """folder/cohort with photos in two shards and three raters; folder/pseudo.parquet with drafts of two rounds."""
    rows = [
        {"photo_id": IDS[name], "name": name, "width": 8, "height": 6, "source": "test", "bytes": raw}
        for name, raw in PHOTOS_.items()
    ]
    for number in range(2):
        part = pa.Table.from_pylist(rows[2 * number : 2 * number + 2], schema=PHOTOS)
        write_table(check(part, "photos"), folder / f"cohort/photos/{number:05d}.parquet")
    people = [("expert-01", "expert"), ("expert-02", "expert"), ("user-01", "user")]
    raters = [{"rater_id": rater, "role": role, "survey": []} for rater, role in people]
    write_table(pa.Table.from_pylist(raters, schema=RATERS), folder / "cohort/raters.parquet")
    drafts = [
        draft(A, (1.0, 1.0, 1.0), 1),
        draft(A, (5.7, 6.94, 10.0), 2),
        draft(B, (0.0, None, 4.2), 2),
        draft(C, (3.0, 3.0, 3.0), 2),
        draft(D, (4.0, 4.0, 4.0), 2),
        draft("0" * 64, (9.0, 9.0, 9.0), 2),  # no photo of this cohort
        draft(A, (9.9, 9.9, 9.9), 3, origin="revised"),
    ]
    write_table(pa.Table.from_pylist(drafts, schema=LABELS), folder / "pseudo.parquet")
    return folder / "cohort"


def draft(photo_id: str, scores: tuple, round: int, origin: str = "pseudo") -> dict[str, Any]:
    named = {"photo_id": photo_id, "rater_id": "labeller", **dict(zip(DIMENSIONS, scores))}
    return named | {"origin": origin, "round": round, "at": None}


def region(dimension: str, value: Any) -> dict[str, Any]:
    return {
        "id": f"r-{dimension}",
        "type": "number",
        "value": {"number": value},
        "origin": "prediction-changed",
        "to_name": "photo",
        "from_name": dimension,
    }


def cannot_tell(*dimensions: str) -> dict[str, Any]:
    """What an expert takes out; the sliders keep what they show."""
    named = {"from_name": "cannot_tell", "to_name": "photo", "type": "choices"}
    return named | {"id": "c", "value": {"choices": list(dimensions)}, "origin": "manual"}


def annotation(number: Any = 22, who: Any = 7, scores: tuple = (5, 6.5, 7), **changes: Any) -> dict[str, Any]:
    """One annotation with every key that the export has."""
    return {
        "id": number,
        "completed_by": who,
        "result": [region(d, score) for d, score in zip(DIMENSIONS, scores) if score is not None],
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-01-30T02:40:43.893565Z",
        "updated_at": "2026-01-30T02:41:00.000001Z",
        "draft_created_at": "2026-01-30T02:40:42.917892Z",
        "lead_time": 8.65,
        "prediction": {"id": 1, "model_version": "labeller-round-2", "score": 1.0, "result": []},
        "result_count": 3,
        "unique_id": "3bc9da85-967f-47a1-bfa8-410206e54cf9",
        "import_id": None,
        "last_action": None,
        "bulk_created": False,
        "task": 87,
        "project": 29,
        "updated_by": 1,
        "parent_prediction": 1,
        "parent_annotation": None,
        "last_created_by": None,
    } | changes


def task(*annotations: Any, photo_id: Any = A, **changes: Any) -> dict[str, Any]:
    """One task as exported."""
    image = f"/data/local-files/?d=tasks_photos/{photo_id}.png"
    data = {"image": image, "photo": "a.png", "photo_id": photo_id, "round": 2}
    return {
        "id": 87,
        "annotations": list(annotations),
        "file_upload": None,
        "drafts": [],
        "predictions": [1],
        "data": data,
        "meta": {},
        "created_at": "2026-01-30T02:40:33.867975Z",
        "updated_at": "2026-01-30T02:40:43.923985Z",
        "allow_skip": True,
        "inner_id": 1,
        "total_annotations": 1,
        "cancelled_annotations": 0,
        "total_predictions": 1,
        "comment_count": 0,
        "unresolved_comment_count": 0,
        "last_comment_updated_at": None,
        "project": 29,
        "updated_by": 1,
        "comment_authors": [],
    } | changes


def minimal(number: int, who: Any, scores: tuple, photo_id: str = A, **more: Any) -> dict[str, Any]:
    """One annotation as JSON-MIN has it."""
    return {
        "image": f"/data/local-files/?d=tasks_photos/{photo_id}.png",
        "photo": "a.png",
        "photo_id": photo_id,
        "round": 2,
        "id": 87,
        **{d: [{"number": score}] for d, score in zip(DIMENSIONS, scores) if score is not None},
        "annotator": who,
        "annotation_id": number,
        "created_at": "2026-01-30T02:40:43.893565Z",
        "updated_at": "2026-01-30T02:41:00.000001Z",
        "lead_time": 8.65,
        **more,
    }


def imported(folder: Path, content: Any, form: str = "label-studio", people: str | None = MAP, **options: Any) -> Imported:
    """Import `content` (JSON, or text as it is) into folder/imported."""
    path = folder / ("revised.csv" if form == "csv" else "export.json")
    raw = content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(raw)
    if people is not None:
        (folder / "map.csv").write_text(people)
    named = None if people is None else folder / "map.csv"
    return import_labels(path, form, named, cohort=folder / "cohort", folder=folder / "imported", now=NOW, **options)


def told(done: Imported) -> list[str]:
    """What was set aside, a line each, without what the map holds."""
    return [line for line in as_lines(done.quarantine, 1000, "task") if not line.startswith("map.csv")]
