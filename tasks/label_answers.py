"""What an endpoint answers, read with care: a row per photo, with what is wrong in its label beside it.

Test: `uv run pytest tests/tasks/test_label_answers.py`
"""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa

from model.scores import DIMENSIONS, SCALE
from tasks.intake.quarantine import LONGEST_VALUE
from tasks.label_client import Unusable
from tasks.schemas import DRAFTS

Finding = dict[str, str | None]
"""field, reason, and value: what was found there."""
_FOUND = pa.struct([("field", pa.string()), ("reason", pa.string()), ("value", pa.string())])
ANSWERS = pa.schema([*DRAFTS, ("aside", pa.list_(_FOUND)), ("tries", pa.int32())])
"""`drafts`, what was wrong with the label beside it, and how often the photo was asked for in vain (0 = a label)."""


def read_labels(answer: Any, asked: list[str], scale: tuple[float, float]) -> tuple[list[dict[str, Any]], list[Finding]]:
    """A row of ANSWERS for each photo, scores on 0..10, and findings that belong to none of them.

    A photo was asked for in vain if no score can be used, unless nothing is wrong: the labeller gave none (null).

    Raises Unusable: there is no list of labels.
    """
    labels = answer.get("labels") if isinstance(answer, dict) else None
    if not isinstance(labels, list):
        raise Unusable('answer has no list "labels"', _text(answer))
    rows: dict[str, dict[str, Any]] = {}
    aside: list[Finding] = []
    for label in labels[: 2 * len(asked)]:
        photo_id = label.get("photo_id") if isinstance(label, dict) else None
        if not isinstance(photo_id, str):
            aside.append(finding("photo_id", "label without a photo_id", label))
        elif photo_id not in asked:
            aside.append(finding("photo_id", "photo was not asked for", photo_id))
        elif photo_id in rows:
            rows[photo_id]["aside"].append(finding("photo", "second label of the same photo", label))
        else:
            rows[photo_id] = _row(label, scale)
    if len(labels) > 2 * len(asked):
        aside.append(finding("labels", "more labels than photos, the rest is not read", len(labels)))
    missing = finding("photo", "is missing in the answer")
    return [rows.get(photo_id) or in_vain(photo_id, missing) for photo_id in asked], aside


def in_vain(photo_id: str, why: Finding) -> dict[str, Any]:
    """The row of ANSWERS of a photo that got no label."""
    return dict.fromkeys(DRAFTS.names) | {"photo_id": photo_id, "aside": [why], "tries": 1}


def finding(field: str, reason: str, value: Any = None) -> Finding:
    return {"field": field, "reason": reason, "value": None if value is None else _text(value)}


def _row(label: dict[str, Any], scale: tuple[float, float]) -> dict[str, Any]:
    """A label as a row of ANSWERS."""
    width, points = scale[1] - scale[0], SCALE[1] - SCALE[0]
    wrong: list[Finding] = []

    def number(given: Any, field: str, lowest: float, highest: float, what: str) -> float | None:
        if given is None:
            return None
        value = _number(given)
        if value is not None and lowest <= value <= highest:
            return value
        reason = "not a number" if value is None else f"outside {what}{lowest:g} to {highest:g}"
        wrong.append(finding(field, reason, given))
        return None

    row: dict[str, Any] = {"photo_id": label["photo_id"], "aside": wrong}
    for dimension in DIMENSIONS:
        given, field = label.get(dimension), f"{dimension}_spread"
        row[dimension] = row[field] = None
        if dimension not in label:
            wrong.append(finding(dimension, "is missing in the answer"))
        elif given is not None and not isinstance(given, dict):
            wrong.append(finding(dimension, "not an object with score and spread", given))
        elif given is not None:
            score = number(given.get("score"), dimension, *scale, "the scale ")
            spread = number(given.get("spread"), field, 0.0, width, "")
            if score is not None:
                row[dimension] = (score - scale[0]) / width * points + SCALE[0]
                row[field] = None if spread is None else spread / width * points
            elif spread is not None:
                wrong.append(finding(field, "spread without a score", given["spread"]))
    row["tries"] = int(bool(wrong) and all(row[dimension] is None for dimension in DIMENSIONS))
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
    """The start of what was found, as text that Parquet holds (JSON may spell half a character)."""
    text = (found if isinstance(found, str) else repr(found))[: LONGEST_VALUE + 1]
    return text.encode("utf-8", "backslashreplace").decode()
