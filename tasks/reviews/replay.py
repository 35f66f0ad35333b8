"""Which answers count: the history of answers, read from its start.

Notable: a review puts an answer on top of the one before, an undo takes the top one away; nothing is ever changed in place.
A row that nobody can read (a broken disk, a hand in the database) costs that row only.

    uv run pytest tests/review/test_answers.py
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from model.scores import DIMENSIONS
from tasks.reviews.tables import ANSWERS

HOLDS: dict[str, tuple[str, ...]] = {
    "review": tuple(DIMENSIONS),
    "rating": tuple(DIMENSIONS),
    "thumb": ("value",),
    "comparison": ("value", "dimension", "other_id"),
    "comment": ("text",),
    "survey": ("answers",),
    "undo": (),
}
"""What a payload of a kind holds at least. Whether the values are right is judged where they are used."""
TEXTS = ("dimension", "other_id", "text", "comment")


@dataclass(frozen=True)
class Given:
    """One answer as it lies in the store."""

    key: str
    payload: dict
    at: datetime
    offer_id: int | None
    order: int


def counting(
    connection: Connection, kind: str, person_id: str | None = None, number: int | None = None
) -> dict[tuple[str, str, int | None], list[Given]]:
    """Answers that were not taken back, oldest first, by (person, photo, round); the last one of a list counts.

    Args:
        kind: review or rating, the two that can be undone.
        person_id, number: only this person's, only this round's.
    """
    wanted: list[sa.ColumnElement[bool]] = [ANSWERS.c.kind.in_((kind, "undo"))]
    if person_id is not None:
        wanted.append(ANSWERS.c.person_id == person_id)
    if number is not None:
        wanted.append(ANSWERS.c.round == number)
    found: dict[tuple[str, str, int | None], list[Given | None]] = {}
    for row in connection.execute(sa.select(ANSWERS).where(*wanted).order_by(ANSWERS.c.id)):
        stack = found.setdefault((row.person_id, row.photo_id, row.round), [])
        if row.kind == "undo":
            del stack[-1:]
        else:
            stack.append(given(row))
    return {key: [each for each in stack if each is not None] for key, stack in found.items()}


def taken_back(connection: Connection, kind: str) -> list[tuple[str, str, Given, str]]:
    """Undos that took an answer of this kind (review or rating) back: (person, photo, the undo, key of the answer)."""
    found = []
    stacks: dict[tuple[str, str, int | None], list[str]] = {}
    wanted = sa.select(ANSWERS).where(ANSWERS.c.kind.in_((kind, "undo"))).order_by(ANSWERS.c.id)
    for row in connection.execute(wanted):
        stack = stacks.setdefault((row.person_id, row.photo_id, row.round), [])
        if row.kind != "undo":
            stack.append(row.key)
        elif stack:
            key, undo = stack.pop(), given(row)
            found += [(row.person_id, row.photo_id, undo, key)] if undo is not None else []
    return found


def given(row: sa.Row) -> Given | None:
    """A row of `answers`; None if it cannot be read."""
    try:
        payload, at = json.loads(row.payload), datetime.fromisoformat(row.at)
    except (ValueError, RecursionError):
        return None
    shaped = isinstance(payload, dict) and all(name in payload for name in HOLDS.get(row.kind, ("",)))
    if not shaped or at.tzinfo is None or not isinstance(payload.get("answers", {}), dict):
        return None
    if any(not isinstance(payload.get(name), str | None) for name in TEXTS):
        return None
    return Given(row.key, payload, at, row.offer_id, row.id)
