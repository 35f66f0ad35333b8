"""Dated feedback as text into the `feedback` table.

An event is all or nothing: whatever is wrong with it, the event goes aside. The same event_id with the same
content is a replay and counts once; with other content the first one stands. Ratings and suggestions come on
the cohort's scale; thumbs and comparisons are -1..1; comments and survey answers are text.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

from model.scores import DIMENSIONS
from tasks.intake.columns import in_utc, moment, numbers
from tasks.intake.quarantine import Quarantine
from tasks.intake.ratings import rescaled
from tasks.schemas import FEEDBACK, KINDS, check

CLOCK_SKEW = timedelta(minutes=5)
REQUIRED = ("event_id", "user_id", "photo", "kind", "value", "at")
_ABOUT_A_PHOTO = ("rating", "comparison", "thumb")
_IN_WORDS = ("comment", "survey", "delete")


@dataclass
class Feedback:
    """Events that passed."""

    table: pa.Table
    rows_in: int
    replayed: int
    set_aside: int


class _Refused(Exception):
    """(field, reason) of an event that goes aside."""


def settle_feedback(
    raw: pa.Table | None,
    scale: tuple[float, float],
    resolve: Callable[[str], str | None],
    users: Collection[str],
    now: datetime,
    quarantine: Quarantine,
) -> Feedback:
    """raw: text columns of `REQUIRED`, [dimension, suggested, model_version], file, line."""
    rows = [] if raw is None else raw.to_pylist()
    events: dict[str, dict] = {}
    contents: dict[str, dict] = {}
    replayed = 0
    for row in rows:
        content = {name: text for name, text in row.items() if name not in ("file", "line")}
        event_id = row["event_id"]
        try:
            if event_id in events:
                if content != contents[event_id]:
                    raise _Refused("event_id", "event is there already with other content")
                replayed += 1
                continue
            events[event_id] = _event(row, scale, resolve, users, now)
            contents[event_id] = content
        except _Refused as refused:
            field, reason = refused.args
            quarantine.add(row["file"], row["line"], field, reason, row.get(field, ""))
    ordered = sorted(events.values(), key=lambda event: (event["at"], event["event_id"]))
    table = check(pa.Table.from_pylist(ordered, schema=FEEDBACK), "feedback")
    return Feedback(table, len(rows), replayed, len(rows) - replayed - len(ordered))


def _event(row: dict, scale: tuple[float, float], resolve, users: Collection[str], now: datetime) -> dict:
    kind, dimension = row["kind"].lower(), row.get("dimension", "").lower()
    if not row["event_id"]:
        raise _Refused("event_id", "blank event")
    if row["user_id"] not in users:
        raise _Refused("user_id", "unknown user")
    if kind not in KINDS:
        raise _Refused("kind", "unknown kind")
    photo_id = resolve(row["photo"]) if row["photo"] else None
    if photo_id is None and (row["photo"] or kind in _ABOUT_A_PHOTO):
        raise _Refused("photo", "unknown photo" if row["photo"] else "blank photo")
    if dimension not in DIMENSIONS and (dimension or kind == "rating"):
        raise _Refused("dimension", "unknown dimension")
    suggested = row.get("suggested", "")
    return {
        "event_id": row["event_id"],
        "user_id": row["user_id"],
        "photo_id": photo_id,
        "kind": kind,
        "dimension": dimension or None,
        "value": None if kind in _IN_WORDS else _value(row, "value", kind, scale),
        "suggested": _value(row, "suggested", "rating", scale) if suggested else None,
        "model_version": row.get("model_version") or None,
        "at": _when(row["at"], now),
        "text": row["value"] or None if kind in _IN_WORDS else None,
    }


def _value(row: dict, field: str, kind: str, scale: tuple[float, float]) -> float:
    (value,), (bad,) = numbers(pa.array([row[field]]))
    if bad or np.isnan(value):
        raise _Refused(field, "not a number")
    low, high = scale if kind == "rating" else (-1.0, 1.0)
    if not low <= value <= high:
        raise _Refused(field, f"outside the scale {low:g} to {high:g}")
    return float(rescaled(value, scale)) if kind == "rating" else float(value)


def _when(text: str, now: datetime) -> datetime:
    when = moment(text)
    if when is None:
        raise _Refused("at", "not a date (ISO 8601)")
    if when.tzinfo is None:
        raise _Refused("at", "no time zone (end it with Z or +02:00)")
    if in_utc(when) > now + CLOCK_SKEW:
        raise _Refused("at", "in the future")
    return in_utc(when)
