"""What an endpoint said: its answer read with care, and kept as shards, one row per photo.

Test: `uv run pytest tests/tasks/test_label_answers.py`
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.scores import DIMENSIONS, SCALE
from tasks.intake.quarantine import LONGEST_VALUE
from tasks.keyed import shard_name
from tasks.label_client import Unusable
from tasks.schemas import DRAFTS, check
from tasks.tables import read_table, shard_paths, write_table

SHARD_ROWS = 512
Aside = tuple[str | None, str, str, str | None]
"""(photo_id or None, field, reason, what was found there)."""
_FOUND = pa.struct([("field", pa.string()), ("reason", pa.string()), ("value", pa.string())])
ANSWERS = pa.schema([*DRAFTS, ("aside", pa.list_(_FOUND))])
"""`drafts`, and what was wrong with the label beside it."""


def read_labels(answer: Any, asked: list[str], scale: tuple[float, float]) -> tuple[list[dict[str, Any]], list[Aside]]:
    """Rows of ANSWERS, scores on 0..10, and what else is to be told.

    A photo has a row if one score at least can be used, or if nothing is wrong and the labeller gave none (null).

    Raises Unusable: there is no list of labels.
    """
    labels = answer.get("labels") if isinstance(answer, dict) else None
    if not isinstance(labels, list):
        raise Unusable('answer has no list "labels"', _text(answer))
    aside: list[Aside] = []
    rows: dict[str, dict[str, Any]] = {}
    for label in labels[: 2 * len(asked)]:
        photo_id = label.get("photo_id") if isinstance(label, dict) else None
        if not isinstance(photo_id, str):
            aside.append((None, "photo_id", "label without a photo_id", _text(label)))
        elif photo_id not in asked:
            aside.append((None, "photo_id", "photo was not asked for", _text(photo_id)))
        elif photo_id in rows:
            aside.append((photo_id, "photo", "second label of the same photo", _text(label)))
        else:
            rows[photo_id] = _row(label, scale)
    if len(labels) > 2 * len(asked):
        aside.append((None, "labels", "more labels than photos, the rest is not read", str(len(labels))))
    kept = []
    for photo_id in asked:
        row = rows.get(photo_id)
        if row is None:
            aside.append((photo_id, "photo", "is missing in the answer", None))
        elif row["aside"] and all(row[dimension] is None for dimension in DIMENSIONS):
            aside += [(photo_id, one["field"], one["reason"], one["value"]) for one in row["aside"]]
        else:
            kept.append(row)
    return kept, aside


def _row(label: dict[str, Any], scale: tuple[float, float]) -> dict[str, Any]:
    """A label as a row of ANSWERS."""
    width, points = scale[1] - scale[0], SCALE[1] - SCALE[0]
    wrong: list[dict[str, str | None]] = []

    def number(given: Any, field: str, lowest: float, highest: float, what: str) -> float | None:
        if given is None:
            return None
        value = _number(given)
        if value is not None and lowest <= value <= highest:
            return value
        reason = "not a number" if value is None else f"outside {what}{lowest:g} to {highest:g}"
        wrong.append({"field": field, "reason": reason, "value": _text(given)})
        return None

    row: dict[str, Any] = {"photo_id": label["photo_id"], "aside": wrong}
    for dimension in DIMENSIONS:
        given, field = label.get(dimension), f"{dimension}_spread"
        row[dimension] = row[field] = None
        if dimension not in label:
            wrong.append({"field": dimension, "reason": "is missing in the answer", "value": None})
        elif given is not None and not isinstance(given, dict):
            wrong.append({"field": dimension, "reason": "not an object with score and spread", "value": _text(given)})
        elif given is not None:
            score = number(given.get("score"), dimension, *scale, "the scale ")
            spread = number(given.get("spread"), field, 0.0, width, "")
            if score is not None:
                row[dimension] = (score - scale[0]) / width * points + SCALE[0]
                row[field] = None if spread is None else spread / width * points
            elif spread is not None:
                wrong.append({"field": field, "reason": "spread without a score", "value": _text(given["spread"])})
    return row


def _number(given: Any) -> float | None:
    """A finite number, or None; `true` and "7" are none."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    try:
        value = float(given)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def _text(found: Any) -> str:
    return (found if isinstance(found, str) else repr(found))[: LONGEST_VALUE + 1]


def keep(rows: list[dict[str, Any]], folder: Path, key: str) -> None:
    """Write rows of ANSWERS as a shard of their own, whole or not at all."""
    if rows:
        table = pa.Table.from_pylist(rows, schema=ANSWERS)
        check(table.select(DRAFTS.names), "drafts")
        write_table(table, folder / f"{shard_name([row['photo_id'] for row in rows], key)}.parquet")


def answers(folder: Path) -> pa.Table:
    """All rows of a folder, the first of each photo: a killed `merge` leaves a row in two shards."""
    return _once_each([read_table(path) for path in shard_paths(folder)])


def merge(folder: Path, key: str) -> None:
    """Put the small shards of single batches together into large ones."""
    small = [path for path in shard_paths(folder) if pq.read_metadata(path).num_rows < SHARD_ROWS]
    if len(small) < 2:
        return
    table = _once_each([read_table(path) for path in small])
    written = set()
    for start in range(0, len(table), SHARD_ROWS):
        part = table.slice(start, SHARD_ROWS)
        written.add(write_table(part, folder / f"{shard_name(part['photo_id'].to_pylist(), key)}.parquet"))
    for path in set(small) - written:
        path.unlink()


def _once_each(tables: list[pa.Table]) -> pa.Table:
    table = pa.concat_tables([ANSWERS.empty_table(), *tables])
    first: dict[str, int] = {}
    for row, photo_id in enumerate(table["photo_id"].to_pylist()):
        first.setdefault(photo_id, row)
    return table.take(pa.array(list(first.values()), pa.int64()))
