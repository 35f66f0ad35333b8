"""Which answers count: the history of answers, read from its start.

Notable: a review puts an answer on top of the one before, an undo takes the top one away; nothing is ever changed in place.

    uv run pytest tests/review/test_answers.py
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from tasks.reviews.tables import ANSWERS


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
    found: dict[tuple[str, str, int | None], list[Given]] = {}
    for row in connection.execute(sa.select(ANSWERS).where(*wanted).order_by(ANSWERS.c.id)):
        stack = found.setdefault((row.person_id, row.photo_id, row.round), [])
        if row.kind == "undo":
            del stack[-1:]
        else:
            stack.append(given(row))
    return found


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
            found.append((row.person_id, row.photo_id, given(row), stack.pop()))
    return found


def given(row: sa.Row) -> Given:
    """A row of `answers`."""
    return Given(row.key, json.loads(row.payload), datetime.fromisoformat(row.at), row.offer_id, row.id)
