"""What comes over the wire, hostile or not: links, cookies, bodies, photos, pairs."""

from __future__ import annotations

import json

import pytest
from review_cases import drafts, photo_id, survey_answers
from review_server import ROOT, Painted
from starlette.testclient import TestClient

from review.app import COOKIE, LARGEST_BODY, make_app
from tasks.reviews import feedback_events, invite, offer, open_round, open_store, revised_labels, revoke, surveys_of
from tasks.surveys import load_survey

JSON = {"Content-Type": "application/json"}
LONELY = photo_id(99)  # a photo of nobody's


@pytest.fixture
def store(tmp_path):
    engine = open_store(f"sqlite:///{tmp_path}/reviews.db")
    open_round(engine, 1, drafts(5), ["anna"])
    offer(engine, "uli", drafts(9).slice(1), "bank/1")
    yield engine
    engine.dispose()


@pytest.fixture
def app(store):
    return make_app(store, Painted(), load_survey(ROOT / "surveys/physique.yaml"))


def came(app, store, who: str, role: str) -> TestClient:
    client = TestClient(app, base_url="http://review.test")
    entered = client.get(f"/r/{invite(store, who, role)}")
    assert entered.status_code == 200
    return client


@pytest.fixture
def anna(app, store):
    return came(app, store, "anna", "expert")


@pytest.fixture
def uli(app, store):
    return came(app, store, "uli", "user")


def review(**changes) -> dict:
    payload = {"photo_id": photo_id(0), "round": 1, "appearance": 6.1, "health": None, "posture": 4.5} | changes
    return {"key": "key-00000001", "kind": "review", "payload": payload}


def test_a_link_sets_a_strict_cookie_and_leaves_the_address(app, store):
    token = invite(store, "anna", "expert")
    entered = TestClient(app, base_url="https://review.test").get(f"/r/{token}")
    cookie = entered.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict", "secure"))
    assert 'http-equiv="refresh"' in entered.text and token not in entered.text
    assert entered.headers["referrer-policy"] == "no-referrer"
    assert entered.headers["content-security-policy"].startswith("default-src 'self'")
    assert entered.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/api/desk", f"/photos/{photo_id(0)}.jpg", f"/meshes/{photo_id(0)}.jpg"])
def test_nothing_is_shown_without_a_link(app, path):
    stranger = TestClient(app)
    assert stranger.get(path).status_code == 401
    for forged in ("x", "A" * 43, "'; DROP TABLE links; --"):
        stranger.cookies.set(COOKIE, forged)
        assert stranger.get(path).status_code == 401
    assert "personal link" in stranger.get("/r/forged").text
    assert stranger.get("/r/forged").status_code == 401
    assert stranger.post("/api/answers", json=review()).status_code == 401


def test_a_revoked_link_ends_at_once(anna, store):
    assert anna.get("/api/desk").status_code == 200
    revoke(store, "anna")
    assert anna.get("/api/desk").status_code == 401
    assert anna.post("/api/answers", json=review()).status_code == 401
    assert "expired or was taken back" in anna.get("/").text
    assert revised_labels(store).num_rows == 0


def test_an_answer_is_kept_once_however_often_it_comes(anna, store):
    replies = [anna.post("/api/answers", json=review()) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200] * 3
    assert [reply.json()["repeat"] for reply in replies] == [False, True, True]
    other = anna.post("/api/answers", json=review(posture=1))
    assert other.status_code == 409 and "used for another answer" in other.json()["error"]
    (row,) = revised_labels(store).to_pylist()
    assert (row["health"], row["posture"]) == (None, 4.5)
    assert anna.get("/api/desk").json()["steps"][0]["item"]["answer"]["appearance"] == 6.1


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"appearance": 10.1}, 422, "appearance: it must be a number from 0 to 10"),
        ({"health": -0.1}, 422, "health: it must be"),
        ({"posture": "5"}, 422, "posture: it must be"),
        ({"posture": True}, 422, "posture: it must be"),
        ({"posture": [1]}, 422, "posture: it must be"),
        ({"comment": "x" * 4001}, 422, "comment: it must be text of 4,000 characters at most"),
        ({"round": 2}, 404, "no such photo among yours"),
        ({"photo_id": LONELY}, 404, "no such photo among yours"),
        ({"photo_id": "'; DROP TABLE answers; --"}, 422, "photo_id: it must be the id of a photo"),
        ({"more": 1}, 422, "more: is unknown"),
    ],
)
def test_answers_that_cannot_be(anna, store, changes, status, said):
    reply = anna.post("/api/answers", json=review(**changes))
    assert reply.status_code == status and said in reply.json()["error"]
    assert revised_labels(store).num_rows == 0


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"{", JSON, 422, "not JSON"),
        (json.dumps(review(posture=float("nan"))).encode(), JSON, 422, "NaN is no number"),
        (b"[" * 60_000, JSON, 422, "not JSON"),
        (b"\xff\xfe", JSON, 422, "not JSON"),
        (b"[]", JSON, 422, "key, kind and payload"),
        (b'{"key": 1, "kind": "review", "payload": {}}', JSON, 422, "key: must be"),
        (b'{"key": "key-00000001", "kind": "DROP", "payload": {}}', JSON, 422, "kind: is unknown"),
        (b'{"key": "key-00000001", "kind": "review", "payload": 3}', JSON, 422, "payload: must be"),
        (b'{"key": "key-00000001", "kind": "thumb", "payload": {}}', JSON, 422, "thumb is not for experts"),
        (b" " * (LARGEST_BODY + 1), JSON, 413, "64 KB at most"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "must be application/json"),
        (b"{}", JSON | {"Origin": "https://evil.test"}, 403, "from the review page only"),
        (b"{}", JSON | {"Origin": "null"}, 403, "from the review page only"),
        (b"{}", JSON | {"Sec-Fetch-Site": "cross-site"}, 403, "from the review page only"),
    ],
)
def test_bodies_that_cannot_be(anna, store, body, headers, status, said):
    reply = anna.post("/api/answers", content=body, headers=headers)
    assert reply.status_code == status and said in reply.json()["error"]
    assert revised_labels(store).num_rows == 0


def test_a_body_without_a_length_is_limited_too(anna):
    reply = anna.post("/api/answers", content=(b" " * 10_000 for _ in range(100)), headers=JSON)
    assert reply.status_code == 413


def test_photos_of_others_do_not_exist(anna, uli):
    assert anna.get(f"/photos/{photo_id(0)}.jpg").headers["content-type"] == "image/jpeg"
    for path in (f"/photos/{LONELY}.jpg", "/photos/..%2f..%2fetc.jpg", "/photos/x.jpg", f"/photos/{photo_id(7)}.jpg"):
        assert anna.get(path).status_code == 404
    refused = [uli.get(f"/photos/{each}.jpg") for each in (photo_id(0), LONELY)]
    assert refused[0].text == refused[1].text and refused[0].status_code == 404


def test_a_comment_full_of_markup_stays_text(anna, store):
    evil = "<script>alert(1)</script>' OR 1=1 --\0"
    assert anna.post("/api/answers", json=review(comment=evil)).status_code == 200
    reply = anna.get("/api/desk")
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["steps"][0]["item"]["answer"]["comment"] == evil[:-1]
    assert "<script>alert" not in anna.get("/").text


def test_a_survey_is_answered_and_an_old_one_refused(anna, store):
    assert anna.get("/api/desk").json()["surveyed"] is False
    answers = {"key": "survey-0001", "kind": "survey", "payload": {"version": "1", "answers": survey_answers()}}
    old = anna.post("/api/answers", json=answers | {"payload": {"version": "0", "answers": survey_answers()}})
    assert old.status_code == 422 and "reload the page" in old.json()["error"]
    odd = {"version": "1", "answers": survey_answers() | {"muscles": "huge"}}
    refused = anna.post("/api/answers", json=answers | {"payload": odd})
    assert refused.status_code == 422 and "answers: muscles: 'huge'" in refused.json()["error"]
    assert anna.post("/api/answers", json=answers).status_code == 200
    assert anna.get("/api/desk").json()["surveyed"] is True
    assert surveys_of(store) == {"anna": survey_answers()}


def test_a_user_rates_compares_and_likes(uli, store):
    steps = uli.get("/api/desk").json()["steps"]
    assert ["pair" if "pair" in step else "photo" for step in steps] == (["photo"] * 4 + ["pair"]) * 2
    pair = steps[4]["pair"]
    assert pair == uli.get("/api/desk").json()["steps"][4]["pair"]
    rating = {"photo_id": photo_id(1), "appearance": 9, "health": None, "posture": 2.5, "comment": "tall"}
    for key, kind, payload in (
        ("key-00000001", "rating", rating),
        ("key-00000002", "thumb", {"photo_id": photo_id(1), "value": -1}),
        ("key-00000003", "comparison", pair | {"value": 1}),
    ):
        reply = uli.post("/api/answers", json={"key": key, "kind": kind, "payload": payload})
        assert reply.status_code == 200, reply.text
    for payload in (pair | {"value": 1, "other_id": LONELY}, pair | {"value": 1, "photo_id": LONELY}):
        posted = {"key": "key-00000004", "kind": "comparison", "payload": payload}
        assert uli.post("/api/answers", json=posted).status_code == 404
    rows = feedback_events(store).to_pylist()
    assert [(row["event_id"], row["kind"], row["value"]) for row in rows] == [
        ("key-00000001:appearance", "rating", 9.0),
        ("key-00000001:posture", "rating", 2.5),
        ("key-00000001:comment", "comment", None),
        ("key-00000002:appearance", "thumb", -1.0),
        ("key-00000002:health", "thumb", -1.0),
        ("key-00000002:posture", "thumb", -1.0),
        ("key-00000003", "comparison", 1.0),
    ]
    assert rows[0]["suggested"] == 6.0 and rows[0]["model_version"] == "bank/1"
    again = uli.get("/api/desk").json()["steps"]
    assert again[0]["thumb"] == -1 and again[4]["answer"] == 1
