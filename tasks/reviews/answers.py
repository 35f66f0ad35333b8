"""What people answer: saved once and for good, and shown again where they left off.

Notable: an answer is a row that is never changed; `save` returns after COMMIT and not before. The browser gives each answer
a key; the same key again is the same answer (a repeat after a lost connection), with other content it is a conflict.

    uv run pytest tests/review/test_answers.py
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from model.scores import DIMENSIONS
from tasks.reviews.payloads import Conflict, NotYours, Refused, checked
from tasks.reviews.people import Person
from tasks.reviews.replay import counting, given
from tasks.reviews.store import insert, now, writing
from tasks.reviews.tables import ANSWERS, DRAFTS, OFFERS, REVIEWERS, ROUNDS
from tasks.surveys import Survey, load_survey


@dataclass(frozen=True)
class Item:
    """A photo to review."""

    photo_id: str
    round: int | None
    """Of an expert; None for a user."""
    suggested: dict[str, float | None]
    """Draft or prediction per dimension, 0 to 10."""
    model_version: str | None
    answer: dict | None
    """The payload that counts now; None: not reviewed yet."""


@dataclass(frozen=True)
class Saved:
    """An answer that is on disk."""

    repeat: bool
    """It had been there before."""
    at: datetime


def items(engine: Engine, person: Person) -> list[Item]:
    """What a person has to review, in an order that stays: an expert's drafts of open rounds, a user's latest offers."""
    expert = person.role == "expert"
    with engine.connect() as connection:
        answers = counting(connection, "review" if expert else "rating", person.person_id)
        rows = connection.execute(_drafts(person) if expert else _offers(person)).mappings().all()
    if not expert:  # of the offers of one photo the latest is shown, at the place of the first
        rows = list({row["photo_id"]: row for row in rows}.values())
    found = []
    for row in rows:
        number = row["round"] if expert else None
        before = answers.get((person.person_id, row["photo_id"], number))
        suggested = {dimension: row[dimension] for dimension in DIMENSIONS}
        answer = before[-1].payload if before else None
        found.append(Item(row["photo_id"], number, suggested, None if expert else row["model_version"], answer))
    return found


def may_see(engine: Engine, person: Person, photo_id: str) -> bool:
    """Whether a photo is among this person's items."""
    if not re.fullmatch("[0-9a-f]{64}", photo_id):
        return False
    source = _drafts(person) if person.role == "expert" else _offers(person)
    of = DRAFTS if person.role == "expert" else OFFERS
    with engine.connect() as connection:
        return connection.execute(source.where(of.c.photo_id == photo_id).limit(1)).first() is not None


def said(engine: Engine, person: Person) -> tuple[dict[str, int], list[dict]]:
    """A user's latest thumbs by photo, and latest comparisons (payloads)."""
    wanted = (ANSWERS.c.person_id == person.person_id, ANSWERS.c.kind.in_(("thumb", "comparison")))
    thumbs, compared = {}, {}
    with engine.connect() as connection:
        for row in connection.execute(sa.select(ANSWERS).where(*wanted).order_by(ANSWERS.c.id)):
            if (answer := given(row)) is None:
                continue
            payload = answer.payload
            if row.kind == "thumb":
                thumbs[payload["photo_id"]] = payload["value"]
            else:
                compared[payload["photo_id"], payload["other_id"], payload["dimension"]] = payload
    return thumbs, list(compared.values())


def survey_of(engine: Engine, person_id: str) -> dict | None:
    """What a person answered last: {"version", "answers"}; None: nothing yet."""
    wanted = (ANSWERS.c.person_id == person_id, ANSWERS.c.kind == "survey")
    with engine.connect() as connection:
        rows = connection.execute(sa.select(ANSWERS).where(*wanted).order_by(ANSWERS.c.id.desc()))
        return next((answer.payload for row in rows if (answer := given(row)) is not None), None)


def save(engine: Engine, person: Person, key: str, kind: str, payload: dict, survey: Survey | None = None) -> Saved:
    """Keep an answer; it is on disk when this returns.

    Args:
        key: made once per answer by whoever posts it, 8 to 100 of A-Z a-z 0-9 - _ . :
        kind, payload: see `tasks.reviews.payloads`.
        survey: the one in force, for answers to it; None: surveys/physique.yaml.
    Raises:
        Refused: content that cannot be; the message names the field.
        NotYours: a photo that is not among this person's.
        Conflict: the key is known with other content.
    """
    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z0-9_.:-]{8,100}", key):
        raise Refused("key: must be 8 to 100 letters, digits or - _ . :")
    kept = checked(kind, payload, person.role)
    posted = hashlib.sha256(json.dumps([person.person_id, kind, kept], sort_keys=True).encode()).hexdigest()
    with writing(engine) as connection:
        # Before all else: since the first time a round may have been closed, a survey replaced.
        if known := _known(connection, key, posted):
            return known
        if kind == "survey":
            kept = _surveyed(kept, survey or load_survey())
        offer_id = _allowed(connection, person, kind, kept)
        at = now()
        row = {
            "key": key,
            "person_id": person.person_id,
            "role": person.role,
            "kind": kind,
            "photo_id": kept.get("photo_id"),
            "round": kept.get("round"),
            "offer_id": offer_id,
            "payload": json.dumps(kept, ensure_ascii=False),
            "posted_sha256": posted,
            "at": at,
        }
        once = insert(connection)(ANSWERS).values(row).on_conflict_do_nothing(index_elements=["key"])
        if connection.scalar(once.returning(ANSWERS.c.id)) is None:
            known = _known(connection, key, posted)
            assert known, "an answer is never removed"
            return known
    return Saved(False, datetime.fromisoformat(at))


def _known(connection: Connection, key: str, posted: str) -> Saved | None:
    row = connection.execute(sa.select(ANSWERS.c.posted_sha256, ANSWERS.c.at).where(ANSWERS.c.key == key)).first()
    if row is None:
        return None
    if row.posted_sha256 != posted:
        raise Conflict("key: was used for another answer before; that one stands. Reload the page")
    return Saved(True, datetime.fromisoformat(row.at))


def _surveyed(kept: dict, survey: Survey) -> dict:
    if kept["version"] != survey.version:
        raise Refused(f"version: the survey has changed (now {survey.version}); reload the page and answer it again")
    try:
        return {"version": survey.version, "answers": survey.validate_answers(kept["answers"])}
    except ValueError as error:
        raise Refused(f"answers: {error}") from None


def _allowed(connection: Connection, person: Person, kind: str, payload: dict) -> int | None:
    """Refuse what is not this person's to answer; the id of the offer that a user's answer is about."""
    photo, number = payload.get("photo_id"), payload.get("round")
    if kind == "comparison" and photo == payload["other_id"]:
        raise Refused("other_id: is the same photo; it must be another")
    if photo is None:
        return None
    if person.role == "user":
        if number is not None:
            raise Refused("round: is for experts; leave it out")
        offered = {
            field: connection.execute(_offers(person).where(OFFERS.c.photo_id == payload[field])).all()
            for field in ("photo_id", "other_id")
            if payload.get(field)
        }
        if missing := [field for field, rows in offered.items() if not rows]:
            raise NotYours(f"{missing[0]}: no such photo among yours")
        version = payload.get("model_version")
        shown = [row.id for row in offered["photo_id"] if version in (None, row.model_version)]
        if not shown:
            raise Refused("model_version: scores of this model were not offered for this photo; reload the page")
        return shown[-1]
    mine = _drafts(person, closed=True).where(DRAFTS.c.photo_id == photo)
    if kind != "comment":
        if number is None:
            raise Refused("round: is missing; it must be the number of a round")
        mine = mine.where(DRAFTS.c.round == number)
    found = connection.execute(mine).first()
    if found is None:
        raise NotYours("photo_id: no such photo among yours in this round")
    # held until the COMMIT, so that nobody closes the round in between (SQLite has one writer at a time anyway)
    closed = sa.select(ROUNDS.c.closed_at).where(ROUNDS.c.number == number).with_for_update(read=True)
    if kind != "comment" and connection.scalar(closed):
        raise Refused(f"round: round {number} is closed; its answers can no longer be changed")
    return None


def _drafts(person: Person, closed: bool = False) -> sa.Select[Any]:
    mine = sa.and_(REVIEWERS.c.round == DRAFTS.c.round, REVIEWERS.c.person_id == person.person_id)
    wanted = sa.select(DRAFTS).join(REVIEWERS, mine).join(ROUNDS, ROUNDS.c.number == DRAFTS.c.round)
    if not closed:
        wanted = wanted.where(ROUNDS.c.closed_at.is_(None))
    return wanted.order_by(DRAFTS.c.round, DRAFTS.c.place)


def _offers(person: Person) -> sa.Select[Any]:
    return sa.select(OFFERS).where(OFFERS.c.person_id == person.person_id).order_by(OFFERS.c.id)
