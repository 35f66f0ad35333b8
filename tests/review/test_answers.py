"""Answers: kept once and for good, whatever is posted and however often, on both databases."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from review_cases import drafts, photo_id
from sqlalchemy import Engine

from tasks.reviews import (
    Conflict,
    NotYours,
    Person,
    Refused,
    close_round,
    feedback_events,
    items,
    offer,
    open_round,
    open_store,
    revised_labels,
    save,
    survey_of,
    surveys_of,
)
from tasks.reviews.tables import ANSWERS

ANNA, BERT, EVE, USER = Person("anna", "expert"), Person("bert", "expert"), Person("eve", "expert"), Person("uli", "user")
SCORES = ["photo_id", "appearance", "health", "posture"]
SURVEY = {
    "ideal_build": "slim",
    "muscles": "a lot",
    "favourite_body_type": "tall",
    "upright_matters": "very",
    "extraversion": 3,
    "openness": "4",
    "age_group": "60+",
}


def review(place: int = 0, number: int = 1, **changes) -> dict:
    return {"photo_id": photo_id(place), "round": number, "appearance": 6.1, "health": None, "posture": 2} | changes


def versus(place: int = 1, **changes) -> dict:
    return {"photo_id": photo_id(0), "other_id": photo_id(place), "dimension": "health", "value": 1} | changes


def rating(place: int = 0, **changes) -> dict:
    return {"photo_id": photo_id(place), "appearance": 8, "health": None, "posture": 2.5} | changes


def rows(engine: Engine) -> list[sa.Row]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(ANSWERS).order_by(ANSWERS.c.id)))


@pytest.fixture
def engine(engine: Engine) -> Engine:
    """Round 1 with three photos for Anna and Bert; the same three offered to Uli."""
    open_round(engine, 1, drafts(3), ["anna", "bert"])
    offer(engine, "uli", drafts(3).select(SCORES), "bank/1")
    return engine


# history


def test_the_latest_review_counts_and_undo_brings_back_the_one_before(engine):
    def answer() -> float | None:
        found = items(engine, ANNA)[0].answer
        return found and found["appearance"]

    undo = {"photo_id": photo_id(0), "round": 1}
    seen = [answer()]
    for key, kind, payload in (
        ("key-1-first", "review", review(appearance=3.0)),
        ("key-2-second", "review", review(appearance=4.0)),
        ("key-3-undo", "undo", undo),
        ("key-4-undo", "undo", undo),
        ("key-5-undo", "undo", undo),
        ("key-6-again", "review", review(appearance=7.0)),
    ):
        save(engine, ANNA, key, kind, payload)
        seen.append(answer())
    assert seen == [None, 3.0, 4.0, 3.0, None, None, 7.0]
    assert [row.kind for row in rows(engine)] == ["review", "review", "undo", "undo", "undo", "review"]
    assert items(engine, BERT)[0].answer is None


def test_an_answer_comes_back_as_it_was_given(engine):
    comment = "Größe “gut” 👍🏽 很好\n<script>alert(1)</script> '); DROP TABLE answers; --"
    save(engine, ANNA, "key-00000001", "review", review(comment=comment))
    assert items(engine, ANNA)[0].answer == review(comment=comment)


def test_what_postgres_and_utf8_cannot_hold_is_cleaned(engine):
    save(engine, ANNA, "key-00000001", "review", review(comment="half \ud83d and \0nothing"))
    assert items(engine, ANNA)[0].answer["comment"] == "half ? and nothing"


def test_revised_labels_are_the_latest_of_every_expert_and_photo(engine):
    open_round(engine, 2, drafts(2, 2), ["bert"])
    save(engine, BERT, "key-00000001", "review", review(1, appearance=1.0))
    save(engine, ANNA, "key-00000002", "review", review(1, appearance=2.0))
    save(engine, BERT, "key-00000003", "review", review(1, 2, appearance=3.0))
    save(engine, ANNA, "key-00000004", "review", review(0, appearance=None, posture=None))
    save(engine, ANNA, "key-00000005", "review", review(1, appearance=4.0))

    def told(number: int | None = None) -> list[tuple]:
        table = revised_labels(engine, number)
        assert set(table["origin"].to_pylist()) <= {"revised"}
        return list(zip(*(table[name].to_pylist() for name in ("rater_id", "photo_id", "appearance", "round"))))

    first = sorted([(photo_id(0), None, 1), (photo_id(1), 4.0, 1)])
    assert told(1) == [("anna", *row) for row in first] + [("bert", photo_id(1), 1.0, 1)]
    assert told() == [("anna", *row) for row in first] + [("bert", photo_id(1), 3.0, 2)]
    save(engine, BERT, "key-00000006", "undo", {"photo_id": photo_id(1), "round": 2})
    assert told(2) == []
    assert told()[-1] == ("bert", photo_id(1), 1.0, 1)


# the key


def test_the_same_answer_posted_again_is_one_answer(engine):
    first = save(engine, ANNA, "key-00000001", "review", review())
    again = save(engine, ANNA, "key-00000001", "review", dict(reversed(review().items())))
    assert (first.repeat, again.repeat) == (False, True)
    assert first.at == again.at == revised_labels(engine)["at"][0].as_py()
    assert len(rows(engine)) == 1


@pytest.mark.parametrize(
    ("person", "kind", "payload"),
    [
        (ANNA, "review", review(appearance=6.2)),
        (ANNA, "review", review(1)),
        (ANNA, "undo", {"photo_id": photo_id(0), "round": 1}),
        (BERT, "review", review()),
    ],
)
def test_the_same_key_with_other_content_is_a_conflict(engine, person, kind, payload):
    save(engine, ANNA, "key-00000001", "review", review())
    with pytest.raises(Conflict, match="^key: "):
        save(engine, person, "key-00000001", kind, payload)
    assert [row.person_id for row in rows(engine)] == ["anna"]
    assert items(engine, ANNA)[0].answer["appearance"] == 6.1


def test_a_closed_round_takes_nothing_new_but_knows_what_it_took(engine):
    save(engine, ANNA, "key-00000001", "review", review())
    close_round(engine, 1)
    assert save(engine, ANNA, "key-00000001", "review", review()).repeat
    for kind, payload in (("review", review()), ("undo", {"photo_id": photo_id(0), "round": 1})):
        with pytest.raises(Refused, match="round 1 is closed"):
            save(engine, ANNA, "key-00000002", kind, payload)
    assert len(rows(engine)) == 1


def test_many_threads_with_the_same_answers_store_each_once(engine):
    keys = [f"key-{number:08}" for number in range(6)]

    def post(turn: int) -> list[bool]:
        order = keys[turn % 6 :] + keys[: turn % 6]
        return [save(engine, ANNA, key, "review", review(comment=key)).repeat for key in order]

    with ThreadPoolExecutor(12) as pool:
        repeats = [repeat for posted in pool.map(post, range(12)) for repeat in posted]
    assert repeats.count(False) == 6
    assert sorted(row.key for row in rows(engine)) == keys


def test_many_threads_with_one_key_and_other_contents_let_one_stand(engine):
    def post(turn: int) -> str:
        try:
            return "repeat" if save(engine, ANNA, "key-00000001", "review", review(appearance=turn % 4)).repeat else "new"
        except Conflict:
            return "conflict"

    with ThreadPoolExecutor(12) as pool:
        told = list(pool.map(post, range(12)))
    assert {word: told.count(word) for word in set(told)} == {"new": 1, "repeat": 2, "conflict": 9}
    assert len(rows(engine)) == 1


def test_many_people_at_once_lose_nothing(engine):
    people = [Person(f"expert-{number}", "expert") for number in range(10)]
    open_round(engine, 2, drafts(8, 2), [person.person_id for person in people])

    def post(person: Person) -> None:
        for place in range(8):
            save(engine, person, f"{person.person_id}:{place}", "review", review(place, 2, appearance=place))

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(post, people))
    table = revised_labels(engine, 2)
    wanted = {(person.person_id, photo_id(place), float(place)) for person in people for place in range(8)}
    assert set(zip(*(table[name].to_pylist() for name in ("rater_id", "photo_id", "appearance")))) == wanted


def test_what_was_acknowledged_survives_the_death_of_the_process(engine, url):
    code = f"""
import os, signal
from tasks.reviews import Person, open_store, save
save(open_store({url!r}), Person("anna", "expert"), "key-00000001", "review", {review()!r})
print("acknowledged", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("acknowledged\n", -9)
    again = open_store(url)
    assert [row.key for row in rows(again)] == ["key-00000001"]
    again.dispose()


# what is refused

LONG = "x" * 4001
HOSTILE = [
    (ANNA, "review", review(appearance=float("nan")), "appearance: "),
    (ANNA, "review", review(health=float("-inf")), "health: "),
    (ANNA, "review", review(appearance=10.001), "appearance: it must be a number from 0 to 10, or null"),
    (ANNA, "review", review(posture=-0.1), "posture: "),
    (ANNA, "review", review(posture=10**400), "posture: "),
    (ANNA, "review", review(posture="6"), "posture: "),
    (ANNA, "review", review(posture=True), "posture: "),
    (ANNA, "review", review(posture=[6]), "posture: "),
    (ANNA, "review", review(comment=LONG), "comment: it must be text of 4,000 characters at most"),
    (ANNA, "review", review(comment={"text": "x"}), "comment: "),
    (ANNA, "review", review(photo_id="\0" * 64), "photo_id: it must be the id of a photo"),
    (ANNA, "review", review(photo_id=photo_id(0) + "\n"), "photo_id: it must be the id of a photo"),
    (ANNA, "review", review(photo_id="../../etc/passwd"), "photo_id: it must be the id of a photo"),
    (ANNA, "review", review(photo_id="' OR 1=1 --"), "photo_id: it must be the id of a photo"),
    (ANNA, "review", review(photo_id=7), "photo_id: it must be the id of a photo"),
    (ANNA, "review", review(round=None), "round: "),
    (ANNA, "review", review(round=2**40), "round: "),
    (ANNA, "review", review(round=True), "round: "),
    (ANNA, "review", review(round="1"), "round: "),
    (ANNA, "review", review(extra=1), "extra: is unknown; known are photo_id, "),
    (ANNA, "review", {**review(), "two\nlines\x1b[31m": 1}, r"two\nlines\x1b[31m: is unknown"),
    (ANNA, "review", {**review(), "half\ud800": 1}, "payload: is unknown"),
    (ANNA, "review", {}, "photo_id: is missing"),
    (ANNA, "review", [review()], "payload: must be a JSON object"),
    (ANNA, "review", None, "payload: must be a JSON object"),
    (ANNA, "undo", {"photo_id": photo_id(0)}, "round: is missing"),
    (ANNA, "rating", rating(), "kind: rating is not for experts"),
    (USER, "review", review(), "kind: review is not for users"),
    (ANNA, "delete", review(), "kind: is unknown; right is one of review, rating, "),
    (ANNA, "half\ud800", review(), "kind: is unknown"),
    (ANNA, None, review(), "kind: is unknown"),
    (USER, "rating", rating(round=1), "round: is unknown"),
    (USER, "rating", rating(model_version="bank/0"), "model_version: "),
    (USER, "rating", rating(model_version="bank/1'; DROP TABLE offers; --"), "model_version: "),
    (USER, "rating", rating(model_version="b\0ank/0"), "model_version: "),
    (USER, "undo", {"photo_id": photo_id(0), "round": 1}, "round: is for experts"),
    (USER, "thumb", {"photo_id": photo_id(0), "value": 0}, "value: it must be 1 or -1"),
    (USER, "comparison", versus(0), "other_id: "),
    (USER, "comparison", versus(dimension="x"), "dimension: "),
    (USER, "comparison", versus(value=2), "value: "),
    (USER, "comment", {"photo_id": None, "text": LONG}, "text: it must be text of 1 to 4,000 characters"),
    (USER, "comment", {"photo_id": None, "text": " \0\n"}, "text: it must be text of 1 to 4,000 characters"),
    (USER, "survey", {"version": "0", "answers": SURVEY}, "version: the survey has changed (now 1); reload the page"),
    (USER, "survey", {"version": 1, "answers": SURVEY}, "version: "),
    (USER, "survey", {"version": "1", "answers": []}, "answers: "),
    (USER, "survey", {"version": "1", "answers": SURVEY | {"muscles": ["some"]}}, "answers: "),
    (USER, "survey", {"version": "1", "answers": SURVEY | {"extraversion": 10**5000}}, "answers: "),
    (USER, "survey", {"version": "1", "answers": SURVEY | {"muscles": "huge"}}, "answers: muscles: 'huge' is no answer"),
    (USER, "survey", {"version": "1", "answers": SURVEY | {"a\nb": "1"}}, r"answers: a\nb: is no question"),
]


@pytest.mark.parametrize(("person", "kind", "payload", "said"), HOSTILE, ids=[str(k) for k in range(len(HOSTILE))])
def test_what_cannot_be_is_refused_in_one_line_and_not_kept(engine, person, kind, payload, said):
    with pytest.raises(Refused) as told:
        save(engine, person, "key-00000001", kind, payload)
    assert str(told.value).startswith(said)
    assert str(told.value).encode("utf-8").count(b"\n") == 0
    assert rows(engine) == []


NO_KEYS = ["", "short", "x" * 101, "key\0" * 4, "é" * 10, "key 12345", "key-00000001\n", 5, None, "'; --" * 3]


@pytest.mark.parametrize("key", NO_KEYS)
def test_a_key_that_is_none(engine, key):
    with pytest.raises(Refused, match="^key: must be 8 to 100"):
        save(engine, ANNA, key, "review", review())


def test_photos_of_others_are_told_like_photos_that_are_not_there(engine):
    offer(engine, "eve", drafts(5).slice(4).select(SCORES), "bank/1")
    for kind, payload in (
        ("rating", rating()),
        ("thumb", {"photo_id": photo_id(0), "value": 1}),
        ("comment", {"photo_id": photo_id(0), "text": "hello"}),
        ("undo", {"photo_id": photo_id(0)}),
        ("comparison", versus()),
    ):
        said = set()
        for place in (4, 77):
            with pytest.raises(NotYours) as told:
                save(engine, USER, "key-00000001", kind, payload | {"photo_id": photo_id(place)})
            said.add(str(told.value))
        assert said == {"photo_id: no such photo among yours"}
    with pytest.raises(NotYours, match="^other_id: no such photo"):
        save(engine, USER, "key-00000001", "comparison", versus(4))
    said = set()
    for person, place, number in ((EVE, 0, 1), (ANNA, 77, 1), (ANNA, 0, 9)):
        with pytest.raises(NotYours) as told:
            save(engine, person, "key-00000001", "review", review(place, number))
        said.add(str(told.value))
    assert said == {"photo_id: no such photo among yours in this round"}
    assert rows(engine) == []


# what users say


def test_feedback_is_one_event_per_score_thumb_comparison_and_comment(engine):
    offer(engine, "uli", drafts(1).select(SCORES), "bank/2")
    save(engine, USER, "key-00000001", "rating", rating(comment="hm", model_version="bank/1"))
    save(engine, USER, "key-00000002", "rating", rating(1))
    save(engine, USER, "key-00000003", "undo", {"photo_id": photo_id(1)})
    save(engine, USER, "key-00000004", "thumb", {"photo_id": photo_id(0), "value": 1})
    save(engine, USER, "key-00000005", "comparison", versus(value=-1))
    save(engine, USER, "key-00000006", "comment", {"photo_id": None, "text": "all of it"})
    save(engine, ANNA, "key-00000007", "comment", {"photo_id": photo_id(2), "text": "experts' remarks are no feedback"})
    names = ("event_id", "kind", "photo_id", "dimension", "value", "suggested", "model_version", "text")
    table = feedback_events(engine)
    assert set(table["user_id"].to_pylist()) == {"uli"}
    assert list(zip(*(table[name].to_pylist() for name in names))) == [
        ("key-00000001:appearance", "rating", photo_id(0), "appearance", 8.0, 5.0, "bank/1", None),
        ("key-00000001:posture", "rating", photo_id(0), "posture", 2.5, 4.5, "bank/1", None),
        ("key-00000001:comment", "comment", photo_id(0), None, None, None, "bank/1", "hm"),
        ("key-00000003", "delete", photo_id(1), None, None, None, "bank/1", "key-00000002"),
        ("key-00000004:appearance", "thumb", photo_id(0), "appearance", 1.0, 5.0, "bank/2", None),
        ("key-00000004:health", "thumb", photo_id(0), "health", 1.0, 6.0, "bank/2", None),
        ("key-00000004:posture", "thumb", photo_id(0), "posture", 1.0, 4.5, "bank/2", None),
        ("key-00000005", "comparison", photo_id(0), "health", -1.0, None, "bank/2", photo_id(1)),
        ("key-00000006", "comment", None, None, None, None, None, "all of it"),
    ]


def test_the_latest_survey_counts(engine):
    assert survey_of(engine, "anna") is None
    changed = SURVEY | {"muscles": "some", "health_signs": " "}
    for key, person, answers in (("first", ANNA, SURVEY), ("other", USER, SURVEY), ("later", ANNA, changed)):
        save(engine, person, f"key-{key}", "survey", {"version": "1", "answers": answers})
    assert survey_of(engine, "anna") == {"version": "1", "answers": SURVEY | {"muscles": "some", "extraversion": "3"}}
    assert {who: answers["muscles"] for who, answers in surveys_of(engine).items()} == {"anna": "some", "uli": "a lot"}
