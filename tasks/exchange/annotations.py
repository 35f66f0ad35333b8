"""Label Studio's export (JSON or JSON-MIN) as rows of imported labels; nothing in it is executed or opened.

Notable: a bad score costs its cell, anything else its annotation; what goes aside is told with the task's place in the
file (1 = first). A dimension without a score, or that the expert cannot tell, is null, never zero. Photos are looked up
by photo_id, else by the end of the image's address, among the names of the cohort's photos: no path is ever opened.
Layout: https://labelstud.io/guide/task_format, https://labelstud.io/guide/export#JSON-MIN
Test: `uv run pytest tests/tasks/test_exchange_import.py`
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from model.scores import DIMENSIONS, SCALE
from tasks.exchange.history import HISTORY
from tasks.exchange.label_studio import CANNOT_TELL
from tasks.intake.columns import in_utc, moment
from tasks.intake.feedback import CLOCK_SKEW
from tasks.intake.quarantine import BadInput, Quarantine
from tasks.printable import printable

LARGEST_FILE = 2**30
"""Bytes; Python needs five to ten times as much to hold it."""

_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of a file that is uploaded by hand."""


class _Refused(Exception):
    """(field, reason, value) of an annotation that goes aside."""


def read_tasks(path: Path) -> list[Any]:
    """The tasks of an export, unjudged. Raises BadInput (one line) where the file is no such list."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadInput(f"{path.name}: is larger than {LARGEST_FILE // 2**20} MiB; export the project in parts")
        text = path.read_bytes().decode("utf-8-sig")
        # a number of 5,000 digits is infinite, and neither an error nor a minute's work
        tasks = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path.name}: is not UTF-8 (byte {error.start}); import it as Label Studio wrote it") from None
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        what = "breaks off" if cut else "is not JSON"
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise BadInput(f"{path.name}: {what} ({place}); nothing was imported, export it once more") from None
    except RecursionError:
        raise BadInput(f"{path.name}: is nested too deeply to be an export of Label Studio") from None
    tasks = [tasks] if isinstance(tasks, dict) else tasks
    if not isinstance(tasks, list) or not tasks:
        raise BadInput(f"{path.name}: holds no tasks; export the project as JSON or JSON-MIN")
    return tasks


def read_annotations(
    path: Path,
    rater_of: Callable[[list[str]], str | None],
    resolve: Callable[[str], str | None],
    now: datetime,
    quarantine: Quarantine,
    round: int | None = None,
) -> tuple[pa.Table, int]:
    """(rows of `HISTORY` with origin `revised`, how many annotations the file holds).

    rater_of: rater_id by the annotator's names (e-mail, number), None if nobody is known by any of them.
    round: of review; None = what the task says, else 1.
    """
    rows: list[dict] = []
    first: dict[str, int] = {}
    found = 0
    tasks = read_tasks(path)
    for place, data, annotation in _annotations(tasks, path.name, quarantine):
        found += 1
        mark = f"annotation {annotation.get('id')}" if isinstance(annotation, dict) else "annotation"

        def aside(field: str, reason: str, value: object, place: int = place, mark: str = mark) -> None:
            quarantine.add(path.name, place, field, reason, mark if value is None else f"{str(value)[:150]}, {mark}")

        try:
            row = _row(data, annotation, rater_of, resolve, now, aside)
            if row is None:
                continue
            if row["annotation"] in first:
                raise _Refused("id", "annotation is there twice", f"kept: task {first[row['annotation']]}")
            if row["annotation"] is not None:
                first[row["annotation"]] = place
            rows.append(row | {"round": _round(data) if round is None else round})
        except _Refused as refused:
            aside(*refused.args)
    if not found:
        raise BadInput(f"{path.name}: none of its {len(tasks)} tasks holds an annotation; export it once there are some")
    return pa.Table.from_pylist(rows, schema=HISTORY), found


def _annotations(tasks: list[Any], name: str, quarantine: Quarantine) -> Iterator[tuple[int, dict, Any]]:
    """(place of the task, its data, annotation) of both layouts, the annotation as in JSON."""
    for place, task in enumerate(tasks, 1):
        if not isinstance(task, dict):
            quarantine.add(name, place, "task", "not an object", json.dumps(task)[:150])
        elif "annotations" in task:
            data, annotations = task.get("data"), task["annotations"]
            if not isinstance(annotations, list):
                quarantine.add(name, place, "annotations", "not a list", str(annotations)[:150])
            elif not isinstance(data, dict):
                quarantine.add(name, place, "data", "not an object", str(data)[:150])
            else:
                yield from ((place, data, annotation) for annotation in annotations)
        elif task.get("annotation_id") is not None:  # JSON-MIN: one object per annotation, scores among the data
            results = [
                {"from_name": d, "value": value}
                for d in DIMENSIONS
                for value in (task[d] if isinstance(task.get(d), list) else [task.get(d)])
                if value is not None
            ]
            results.append({"from_name": CANNOT_TELL, "value": task.get(CANNOT_TELL)})
            annotation = {"id": task["annotation_id"], "completed_by": task.get("annotator"), "result": results}
            yield place, task, annotation | {key: task.get(key) for key in ("created_at", "updated_at")}


def _row(
    data: dict,
    annotation: Any,
    rater_of: Callable[[list[str]], str | None],
    resolve: Callable[[str], str | None],
    now: datetime,
    aside: Callable[[str, str, object], None],
) -> dict | None:
    """One annotation as a row of `HISTORY` without its round; None if its cells have gone aside one by one."""
    if not isinstance(annotation, dict):
        raise _Refused("annotations", "not an object", str(annotation))
    if annotation.get("was_cancelled"):
        raise _Refused("was_cancelled", "skipped by the annotator", None)
    people = _people(annotation.get("completed_by"))
    rater_id = rater_of(people)
    if rater_id is None:
        raise _Refused("completed_by", "annotator is not in the map", " / ".join(people) or None)
    photo_id = _photo(data, resolve)
    scores = _scores(annotation.get("result"), aside)
    if all(score is None for score in scores.values()):
        return None
    number, created = annotation.get("id"), annotation.get("created_at")
    return {
        "photo_id": photo_id,
        "rater_id": rater_id,
        **scores,
        "origin": "revised",
        "at": _when(annotation, now, aside),
        # numbers begin at 1 in every installation; together with the time they tell two apart
        "annotation": None if number is None else printable(f"{number} {created}"[:200]),
    }


def _people(completed_by: Any) -> list[str]:
    """What an annotator is called: e-mail and number, whichever there are."""
    if isinstance(completed_by, dict):
        names = [completed_by.get("email"), completed_by.get("id")]
    else:
        names = [completed_by]
    return [str(name) for name in names if isinstance(name, (str, int)) and not isinstance(name, bool) and name != ""]


def _photo(data: dict, resolve: Callable[[str], str | None]) -> str:
    """photo_id of a task."""
    given = data.get("photo_id")
    if isinstance(given, str) and given:
        photo_id, shown = resolve(given), given
    else:
        shown = data.get("image")
        if not isinstance(shown, str) or not shown:
            raise _Refused("data.image", "blank photo", shown)
        name = shown.partition("?d=")[2] or shown.split("?")[0].split("#")[0]
        parts = unquote(name[:4096]).replace("\\", "/").strip("/").split("/")
        tails = ["/".join(parts[start:]) for start in range(len(parts))] if ".." not in parts else []
        tails += [_UPLOADED.sub("", tail) for tail in tails[-1:]]
        photo_id = next((found for found in map(resolve, tails) if found is not None), None)
    if photo_id is None:
        raise _Refused("data.photo_id" if given else "data.image", "unknown photo", shown)
    return photo_id


def _scores(results: Any, aside: Callable[[str, str, object], None]) -> dict[str, float | None]:
    """Scores by dimension; regions of other controls (comments, boxes) are passed over."""
    if not isinstance(results, list):
        raise _Refused("result", "not a list", str(results))
    regions = [region for region in results if isinstance(region, dict)]
    given = {d: [region.get("value") for region in regions if region.get("from_name") == d] for d in DIMENSIONS}
    untold = _cannot_tell([region.get("value") for region in regions if region.get("from_name") == CANNOT_TELL])
    if not any(values for dimension, values in given.items() if dimension not in untold):
        raise _Refused("result", "no dimension is scored", None)
    scores: dict[str, float | None] = {}
    for dimension, values in given.items():
        score, reason = None, "not scored"
        if dimension in untold:
            reason = None
        elif len(values) > 1:
            reason = "scored twice"
        elif values:
            score, reason = _score(values[0])
        scores[dimension] = score
        if reason is not None:
            shown = values[0].get("number", values[0]) if len(values) == 1 and isinstance(values[0], dict) else values
            aside(dimension, reason, shown if values else None)
    return scores


def _cannot_tell(values: list[Any]) -> set[str]:
    """Dimensions that the expert has taken out: `{"choices": [...]}`, or in JSON-MIN the only choice by itself."""
    choices = [value.get("choices") if isinstance(value, dict) else [value] for value in values]
    return {choice for some in choices if isinstance(some, list) for choice in some if isinstance(choice, str)}


def _score(value: Any) -> tuple[float | None, str | None]:
    """(score, None), or (None, why not), of a region's value `{"number": 5.7}`."""
    number = value.get("number") if isinstance(value, dict) else None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        return None, "not a number"
    if not SCALE[0] <= number <= SCALE[1]:
        return None, f"outside the scale {SCALE[0]:g} to {SCALE[1]:g}"
    return float(number), None


def _when(annotation: dict, now: datetime, aside: Callable[[str, str, object], None]) -> datetime | None:
    """When the annotation was last changed; None, and told, if that is no date or lies ahead."""
    text = annotation.get("updated_at") or annotation.get("created_at")
    when = moment(text) if isinstance(text, str) else None
    if when is None:
        aside("updated_at", "not a date (ISO 8601)", text)
        return None
    if in_utc(when) > now + CLOCK_SKEW:
        aside("updated_at", "in the future", text)
        return None
    return in_utc(when)


def _round(data: dict) -> int:
    """The round that the task was exported for."""
    given = data.get("round")
    return given if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 2**31 else 1
