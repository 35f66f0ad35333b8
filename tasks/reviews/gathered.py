"""What people said, as the tables of the house: revised labels, surveys, feedback.

    uv run pytest tests/review/test_answers.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import Engine

from model.scores import DIMENSIONS
from tasks.reviews.replay import Given, counting, given, taken_back
from tasks.reviews.tables import ANSWERS, OFFERS
from tasks.schemas import FEEDBACK, LABELS, check


def revised_labels(engine: Engine, number: int | None = None) -> pa.Table:
    """The review that counts of every expert and photo: LABELS of origin `revised`, by expert and photo.

    "Can't tell" is null. `number`: only this round's; else the latest of all rounds.
    """
    with engine.connect() as connection:
        stacks = counting(connection, "review", number=number)
    last: dict[tuple[str, str], tuple[Given, int | None]] = {}
    for (person, photo, round_), kept in stacks.items():
        known = last.get((person, photo))
        if kept and (known is None or kept[-1].order > known[0].order):
            last[person, photo] = kept[-1], round_
    rows = [
        {name: answer.payload[name] for name in DIMENSIONS}
        | {"photo_id": photo, "rater_id": person, "origin": "revised", "round": round_, "at": answer.at}
        for (person, photo), (answer, round_) in sorted(last.items())
    ]
    return check(pa.Table.from_pylist(rows, schema=LABELS), "labels")


def surveys_of(engine: Engine) -> dict[str, dict[str, str]]:
    """The latest survey of everybody who answered one: answers by question, by person."""
    wanted = sa.select(ANSWERS).where(ANSWERS.c.kind == "survey").order_by(ANSWERS.c.id)
    with engine.connect() as connection:
        told = [(row.person_id, given(row)) for row in connection.execute(wanted)]
    latest = {person: answer.payload["answers"] for person, answer in told if answer is not None}
    return dict(sorted(latest.items()))


def feedback_events(engine: Engine) -> pa.Table:
    """What users said of predictions: FEEDBACK, in the order in which it came (`feedback_rows`)."""
    return check(pa.Table.from_pylist(feedback_rows(engine), schema=FEEDBACK), "feedback")


def feedback_rows(engine: Engine) -> list[dict[str, Any]]:
    """What users said, as rows of FEEDBACK that nobody has judged.

    A rating is one event per dimension that was rated (`KEY:appearance`, …), and one for its comment. A rating that was
    taken back is left out; a `delete` names its KEY, should it have been taken in before. A thumb is one event per score
    that was shown (`KEY:appearance`, …). Of a comparison, photo_id is the first photo,
    `text` the id of the other. A survey is JSON.
    """
    kinds = ("thumb", "comparison", "comment", "survey")
    with engine.connect() as connection:
        ratings, undone = counting(connection, "rating"), taken_back(connection, "rating")
        others = connection.execute(
            sa.select(ANSWERS).where(ANSWERS.c.role == "user", ANSWERS.c.kind.in_(kinds)).order_by(ANSWERS.c.id)
        ).all()
        offers = {row.id: row for row in connection.execute(sa.select(OFFERS))}
    events: list[tuple[int, dict[str, Any]]] = []
    for (person, photo, _), kept in ratings.items():
        for answer in kept:
            base = _event(answer, person, photo, offers)
            events += [(answer.order, {**base, **part}) for part in _rated(answer, offers)]
    for person, photo, undo, key in undone:
        base = _event(undo, person, photo, offers)
        events.append((undo.order, {**base, "event_id": undo.key, "kind": "delete", "text": key}))
    for row in others:
        answer = given(row)
        if answer is None:
            continue
        base = _event(answer, row.person_id, row.photo_id, offers) | {"kind": row.kind}
        for part in _shown(answer, offers) if row.kind == "thumb" else [_told(row.kind, answer.payload)]:
            events.append((answer.order, base | {"event_id": answer.key} | part))
    return [event for _, event in sorted(events, key=lambda each: each[0])]


def unreadable(engine: Engine) -> list[str]:
    """Keys of users' answers that cannot be read; `feedback_rows` is without them."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(ANSWERS).where(ANSWERS.c.role == "user").order_by(ANSWERS.c.id))
        return [row.key for row in rows if given(row) is None]


def _event(answer: Given, person: str, photo: str | None, offers: dict[int, sa.Row]) -> dict[str, Any]:
    about = offers.get(answer.offer_id) if answer.offer_id is not None else None
    empty: dict[str, Any] = dict.fromkeys(FEEDBACK.names)
    version = None if about is None else about.model_version
    return empty | {"user_id": person, "photo_id": photo, "at": answer.at, "model_version": version}


def _rated(answer: Given, offers: dict[int, sa.Row]) -> Iterator[dict[str, Any]]:
    shown = offers[answer.offer_id]._mapping if answer.offer_id is not None else {}
    for name in DIMENSIONS:
        if answer.payload[name] is not None:
            score = {"value": answer.payload[name], "suggested": shown.get(name)}
            yield {"event_id": f"{answer.key}:{name}", "kind": "rating", "dimension": name, **score}
    if answer.payload.get("comment"):
        yield {"event_id": f"{answer.key}:comment", "kind": "comment", "text": answer.payload["comment"]}


def _shown(answer: Given, offers: dict[int, sa.Row]) -> Iterator[dict[str, Any]]:
    """A thumb as one event per score it is about."""
    shown = offers[answer.offer_id]._mapping if answer.offer_id is not None else {}
    for name in DIMENSIONS:
        if shown.get(name) is not None:
            about = {"event_id": f"{answer.key}:{name}", "dimension": name, "suggested": shown[name]}
            yield about | {"value": answer.payload["value"]}


def _told(kind: str, payload: dict) -> dict[str, Any]:
    if kind == "comparison":
        return {"value": payload["value"], "dimension": payload["dimension"], "text": payload["other_id"]}
    if kind == "comment":
        return {"text": payload["text"]}
    return {"text": json.dumps(payload["answers"], ensure_ascii=False, sort_keys=True)}
