"""Label Studio's export (JSON or JSON-MIN) as rows of imported labels; nothing in it is executed or opened.

Notable: an annotation with anything bad in it goes aside whole, for what is left of it would take the place of the label
that was there; each bad cell is told with the task's place in the file (1 = first). Photos are looked up by photo_id, else
by the end of the image's address, among the names of the cohort's photos: no path is ever opened.
Layout: https://labelstud.io/guide/task_format, https://labelstud.io/guide/export#JSON-MIN
Test: `uv run pytest tests/tasks/test_exchange_import.py`
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from model.scores import DIMENSIONS
from tasks.exchange.history import HISTORY
from tasks.exchange.label_studio import CANNOT_TELL
from tasks.exchange.regions import Refused, round_in, scores_in, when_changed
from tasks.intake.quarantine import BadInput, Quarantine
from tasks.printable import counted, printable

LARGEST_FILE = 2**30
"""Bytes; Python needs five to ten times as much to hold it."""

_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of a file that is uploaded by hand."""


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
) -> tuple[pa.Table, int, str]:
    """(rows of `HISTORY` with origin `revised`, how many annotations the file holds, a line on tasks without one or "").

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
                raise Refused("id", "annotation is there twice", f"kept: task {first[row['annotation']]}")
            if row["annotation"] is not None:
                first[row["annotation"]] = place
            rows.append(row | {"round": round_in(data) if round is None else round})
        except Refused as refused:
            aside(*refused.args)
    if not found:
        raise BadInput(f"{path.name}: none of its {len(tasks)} tasks holds an annotation; export it once there are some")
    waiting = sum(isinstance(task, dict) and _waits(task) for task in tasks)
    note = f"{counted(waiting, 'task')} without an annotation" if waiting else ""
    return pa.Table.from_pylist(rows, schema=HISTORY), found, note


def _waits(task: dict) -> bool:
    """Whether nobody has annotated a task yet."""
    return task["annotations"] == [] if "annotations" in task else task.get("annotation_id") is None


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
                if value is not None and value != ""
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
    """One annotation as a row of `HISTORY` without its round; None if bad cells of it have been told."""
    if not isinstance(annotation, dict):
        raise Refused("annotations", "not an object", str(annotation))
    if annotation.get("was_cancelled"):
        raise Refused("was_cancelled", "skipped by the annotator", None)
    people = _people(annotation.get("completed_by"))
    if not people:
        raise Refused("completed_by", "annotator is absent; right is an e-mail or a number", None)
    rater_id = rater_of(people)
    if rater_id is None:
        raise Refused("completed_by", "annotator is not in the map", " / ".join(people))
    photo_id = _photo(data, resolve)
    scores, scored = scores_in(annotation.get("result"), aside)
    at, dated = when_changed(annotation, now, aside)
    if not (scored and dated):
        return None
    number, created = annotation.get("id"), annotation.get("created_at")
    return {
        "photo_id": photo_id,
        "rater_id": rater_id,
        **scores,
        "origin": "revised",
        "at": at,
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
            raise Refused("data.image", "blank photo", shown)
        name = shown.partition("?d=")[2] or shown.split("?")[0].split("#")[0]
        parts = unquote(name[:4096]).replace("\\", "/").strip("/").split("/")
        tails = ["/".join(parts[start:]) for start in range(len(parts))] if ".." not in parts else []
        tails += [_UPLOADED.sub("", tail) for tail in tails[-1:]]
        photo_id = next((found for found in map(resolve, tails) if found is not None), None)
    if photo_id is None:
        raise Refused("data.photo_id" if given else "data.image", "unknown photo", shown)
    return photo_id
