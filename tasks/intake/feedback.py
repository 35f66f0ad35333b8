"""Dated feedback, as text or from the review store, into the `feedback` table.

An event is all or nothing: whatever is wrong with it, the event goes aside. The same event_id with the same
content is a replay and counts once; with other content the first one stands. Ratings and suggestions come on
the cohort's scale; thumbs and comparisons are -1..1; comments and survey answers (a JSON object) are text.
What each kind means for a personal model: docs/feedback.md.
"""

import json
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

from model.scores import DIMENSIONS, SCALE
from tasks.intake.columns import in_utc, moment, numbers
from tasks.intake.quarantine import Quarantine
from tasks.intake.ratings import rescaled
from tasks.schemas import FEEDBACK, KINDS, check

CLOCK_SKEW = timedelta(minutes=5)
REQUIRED = ("event_id", "user_id", "photo", "kind", "value", "at")
LONGEST_TEXT = 4000
"""Characters of a comment or of survey answers, as on the review page."""
_ABOUT_A_PHOTO = ("rating", "comparison", "thumb")
_OF_A_DIMENSION = ("rating", "comparison")
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
    """raw: text columns of `REQUIRED`, [dimension, other, suggested, model_version], file, line.

    other: of a comparison, the photo that `photo` is compared with.
    """
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
    if dimension not in DIMENSIONS and (dimension or kind in _OF_A_DIMENSION):
        raise _Refused("dimension", "unknown dimension")
    text = row["value"] or None if kind in _IN_WORDS else None
    if kind == "comparison":
        other = row.get("other", "")
        text = resolve(other) if other else None
        _compared(photo_id, text, "other", blank=not other)
    _words(kind, text, "value")
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
        "text": text,
    }


def sift(
    rows: Iterable[dict], users: Collection[str], photos: Collection[str], now: datetime, quarantine: Quarantine
) -> list[dict]:
    """Events of the review store (rows of the contract) that may be used; the others go aside as `reviews/EVENT_ID`."""
    good = []
    for row in rows:
        try:
            _judge(row, users, photos, now)
        except _Refused as refused:
            field, reason = refused.args
            quarantine.add(f"reviews/{row['event_id']}", None, field, reason, row[field])
        else:
            good.append(row)
    return good


def _judge(row: dict, users: Collection[str], photos: Collection[str], now: datetime) -> None:
    kind, photo, dimension, value = row["kind"], row["photo_id"], row["dimension"], row["value"]
    if row["user_id"] not in users:
        raise _Refused("user_id", "unknown user")
    if kind not in KINDS:
        raise _Refused("kind", "unknown kind")
    if photo not in photos and (photo or kind in _ABOUT_A_PHOTO):
        raise _Refused("photo_id", "unknown photo" if photo else "blank photo")
    if dimension not in DIMENSIONS and (dimension or kind in _OF_A_DIMENSION):
        raise _Refused("dimension", "unknown dimension")
    if kind == "comparison":
        _compared(photo, row["text"] if row["text"] in photos else None, "text", blank=not row["text"])
    _words(kind, row["text"], "text")
    scores = [("suggested", row["suggested"], SCALE)] if row["suggested"] is not None else []
    if kind not in _IN_WORDS:
        scores.append(("value", value, SCALE if kind == "rating" else (-1.0, 1.0)))
    for field, score, (low, high) in scores:
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise _Refused(field, "not a number")
        if not low <= score <= high:
            raise _Refused(field, f"outside the scale {low:g} to {high:g}")
    if in_utc(row["at"]) > now + CLOCK_SKEW:
        raise _Refused("at", "in the future")


def _compared(photo: str | None, other: str | None, field: str, blank: bool) -> None:
    """A comparison is of two photos that are known."""
    if other is None:
        raise _Refused(field, "blank photo" if blank else "unknown photo")
    if other == photo:
        raise _Refused(field, "the photo is compared with itself")


def _words(kind: str, text: str | None, field: str) -> None:
    """Comments are not endless, survey answers are JSON."""
    if kind in _IN_WORDS and len(text or "") > LONGEST_TEXT:
        raise _Refused(field, f"longer than {LONGEST_TEXT:,} characters")
    if kind == "comment" and not (text or "").strip():
        raise _Refused(field, "blank comment")
    if kind == "survey" and answers_of(text) is None:
        raise _Refused(field, "not a JSON object of answers")


def answers_of(text: str | None) -> dict[str, str] | None:
    """Survey answers by question from their JSON, blank ones left out; None if it is none."""
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or any(isinstance(answer, dict | list) for answer in found.values()):
        return None
    return {question: str(answer) for question, answer in found.items() if answer not in (None, "")}


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
