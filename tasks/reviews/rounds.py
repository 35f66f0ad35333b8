"""Rounds of drafts for experts, and predictions offered to users: what there is to review.

Notable: opening the same round again changes nothing, so whoever schedules rounds may be killed anywhere. Another content
under a known number is refused: answers to the first would be taken for answers to the second.

    uv run pytest tests/review/test_review_store.py
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import Engine

from model.scores import DIMENSIONS
from tasks.intake.quarantine import BadInput
from tasks.reviews.people import check_id
from tasks.reviews.replay import counting
from tasks.reviews.store import insert, now, writing
from tasks.reviews.tables import DRAFTS, OFFERS, REVIEWERS, ROUNDS
from tasks.schemas import LABELS, check


def open_round(engine: Engine, number: int, drafts: pa.Table, experts: list[str]) -> None:
    """Give every expert every draft to review.

    Args:
        drafts: LABELS of origin `pseudo`, one row per photo, in the order in which they are shown.
        experts: ids, as invited.
    Raises:
        BadInput: nothing to review or nobody to do it, a repeated photo, another origin or round, an id that is none.
        ValueError: the number is known with other drafts or experts.
    """
    table = check(drafts, "labels")
    where = f"round {number}"
    if number < 1:
        raise BadInput(f"{where}: rounds count from 1")
    if not len(table) or not experts:
        raise BadInput(f"{where}: {'no drafts' if experts else 'no experts'}; a round needs both")
    for field, right in (("origin", "pseudo"), ("round", number)):
        if other := set(table[field].to_pylist()) - {right}:
            raise BadInput(f"{where}: drafts have {field} {sorted(map(str, other))[0]}; right is {right}")
    if len(set(table["photo_id"].to_pylist())) < len(table):
        raise BadInput(f"{where}: a photo is drafted twice")
    for person in experts:
        check_id(person, where)
    rows, people = table.to_pylist(), sorted(set(experts))
    content = [[[row[name] for name in ("photo_id", "rater_id", *DIMENSIONS)] for row in rows], people]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    with writing(engine) as connection:
        # Whoever comes second waits here for the first one's commit, then sees its round.
        first = insert(connection)(ROUNDS).values(number=number, content_sha256=digest, opened_at=now())
        if connection.scalar(first.on_conflict_do_nothing().returning(ROUNDS.c.number)):
            connection.execute(DRAFTS.insert(), [_draft(row, place) for place, row in enumerate(rows)])
            connection.execute(REVIEWERS.insert(), [{"round": number, "person_id": person} for person in people])
            return
        known = connection.scalar(sa.select(ROUNDS.c.content_sha256).where(ROUNDS.c.number == number))
    if known != digest:
        raise ValueError(f"{where} is there already with other drafts or experts; open round {number + 1} instead")


def _draft(row: dict, place: int) -> dict:
    at = row["at"].isoformat() if row["at"] else None
    return {name: row[name] for name in ("round", "photo_id", "rater_id", *DIMENSIONS)} | {"place": place, "at": at}


def offer(engine: Engine, user_id: str, predictions: pa.Table, model_version: str) -> None:
    """Show a user the scores that a model predicted, for feedback. Offered before: nothing changes.

    Args:
        predictions: photo_id and the three scores (0 to 10, null = not predicted), in the order in which they are shown.
    Raises:
        BadInput: an id or a version that is none (1 to 200 printable characters).
        BadTable: a photo id or a score that is none.
    """
    check_id(user_id, "offer")
    if not (0 < len(model_version) <= 200 and model_version.isprintable()):
        raise BadInput(f"offer: {model_version[:60]!r} is no version of a model; right are 1 to 200 printable characters")
    asked, filled = ["photo_id", *DIMENSIONS], {"rater_id": user_id, "origin": "pseudo", "round": 0, "at": None}
    scored = [row | filled for row in predictions.select(asked).to_pylist()]
    check(pa.Table.from_pylist(scored, schema=LABELS), "labels")
    about = {"person_id": user_id, "model_version": model_version, "at": now()}
    rows = [{name: row[name] for name in asked} | about for row in scored]
    if rows:
        with writing(engine) as connection:
            connection.execute(insert(connection)(OFFERS).on_conflict_do_nothing(), rows)


def rounds(engine: Engine) -> list[tuple[int, str]]:
    """Every round and whether it is `open` or `closed`, by number."""
    with engine.connect() as connection:
        found = connection.execute(sa.select(ROUNDS.c.number, ROUNDS.c.closed_at).order_by(ROUNDS.c.number))
        return [(number, "closed" if closed else "open") for number, closed in found]


def close_round(engine: Engine, number: int) -> None:
    """No more answers to this round; closing it again changes nothing. Raises BadInput for an unknown round."""
    with writing(engine) as connection:
        known = connection.execute(sa.select(ROUNDS.c.closed_at).where(ROUNDS.c.number == number)).first()
        if known is None:
            raise BadInput(f"round {number}: there is none")
        still = ROUNDS.c.closed_at.is_(None)
        connection.execute(ROUNDS.update().where(ROUNDS.c.number == number, still).values(closed_at=now()))


def round_progress(engine: Engine, number: int) -> dict[str, tuple[int, int]]:
    """Per expert: photos reviewed ("can't tell" is a review too), of how many."""
    with engine.connect() as connection:
        people = sorted(connection.scalars(sa.select(REVIEWERS.c.person_id).where(REVIEWERS.c.round == number)))
        of = connection.scalar(sa.select(sa.func.count()).select_from(DRAFTS).where(DRAFTS.c.round == number)) or 0
        done = dict.fromkeys(people, 0)
        for (person, _, _), kept in counting(connection, "review", number=number).items():
            if kept and person in done:
                done[person] += 1
    return {person: (done[person], of) for person in people}


def drafts_of(engine: Engine, number: int) -> pa.Table:
    """The drafts of a round: LABELS of origin `pseudo`, in the order given."""
    with engine.connect() as connection:
        found = connection.execute(sa.select(DRAFTS).where(DRAFTS.c.round == number).order_by(DRAFTS.c.place)).mappings()
        rows = [
            {name: row[name] for name in LABELS.names if name not in ("origin", "at")}
            | {"origin": "pseudo", "at": datetime.fromisoformat(row["at"]) if row["at"] else None}
            for row in found
        ]
    return check(pa.Table.from_pylist(rows, schema=LABELS), "labels")
