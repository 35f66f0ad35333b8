"""Forgetting in the review store, SQLite and Postgres: rows and pages go, what others said stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from review_cases import drafts, photo_id, survey_answers

from tasks.forget.reviews import Reviews, people
from tasks.forget.target import Target
from tasks.reviews import Person, feedback_rows, invite, offer, open_round, revised_labels, save
from tasks.reviews.tables import METADATA

ANNA, UMA, UDO = Person("anna-expert", "expert"), Person("uma-user", "user"), Person("udo-user", "user")
SCORES = {"appearance": 4.0, "health": 5.0, "posture": 6.0}


@pytest.fixture
def store(engine, url, monkeypatch):
    monkeypatch.setenv("PHYSIQUE_REVIEWS", url)
    for person in (ANNA, UMA, UDO):
        invite(engine, person.person_id, person.role)
    open_round(engine, 1, drafts(3), [ANNA.person_id, "berta-expert"])
    for place in range(3):
        save(engine, ANNA, f"anna-{place:04d}", "review", {"photo_id": photo_id(place), "round": 1, **SCORES})
    save(engine, ANNA, "anna-survey", "survey", {"version": "1", "answers": survey_answers()})
    rows = drafts(3).drop_columns(["rater_id", "origin", "round", "at"])
    for user in (UMA, UDO):
        offer(engine, user.person_id, rows, "bank/1")
        for place in range(3):
            save(engine, user, f"{user.person_id}-{place:04d}", "rating", {"photo_id": photo_id(place), **SCORES})
    pair = {"photo_id": photo_id(0), "other_id": photo_id(1), "dimension": "health", "value": 1}
    save(engine, UDO, "udo-pair-0001", "comparison", pair)
    return engine


def left(engine: sa.Engine, word: str) -> int:
    """Rows of any table that hold a word anywhere."""
    with engine.connect() as connection:
        return sum(word in str(row) for table in METADATA.sorted_tables for row in connection.execute(sa.select(table)))


def in_files(url: str, word: str) -> bool:
    base = Path(sa.make_url(url).database or "")
    return any(word.encode() in path.read_bytes() for path in base.parent.glob(f"{base.name}*"))


def test_a_user_and_an_expert_leave_no_row_and_no_byte(store, url):
    assert people() == {ANNA.person_id: "expert", UMA.person_id: "user", UDO.person_id: "user"}
    for person, kind in ((UMA, "user"), (ANNA, "expert")):
        target = Target(kind, person.person_id)
        assert Reviews().find(target)
        removed = Reviews().remove(target)
        assert removed["links"] == 1 and removed["answers"] in (3, 4)
        assert Reviews().find(target) == [] and left(store, person.person_id) == 0
        assert not url.startswith("sqlite") or not in_files(url, person.person_id)
        assert Reviews().remove(target) == {}
    assert {row["user_id"] for row in feedback_rows(store)} == {UDO.person_id} and revised_labels(store).num_rows == 0


def test_a_photo_takes_along_what_was_said_of_it_and_of_pairs_with_it(store, url):
    target = Target("photo", photo_id(1))
    assert Reviews().remove(target) == {"answers": 4, "drafts": 1, "offers": 2}
    assert Reviews().find(target) == [] and left(store, photo_id(1)) == 0
    assert not url.startswith("sqlite") or not in_files(url, photo_id(1))
    said = feedback_rows(store)
    assert {row["photo_id"] for row in said} == {photo_id(0), photo_id(2)} and {row["kind"] for row in said} == {"rating"}
    assert revised_labels(store).num_rows == 2
