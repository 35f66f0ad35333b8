"""What an endpoint says is checked photo by photo and field by field; what is right in it counts."""

from __future__ import annotations

import numpy as np
import pytest
from label_cases import ONE_BY_ONE, Reply, cohort, endpoint, label, read

from tasks.intake.quarantine import BadInput
from tasks.label_client import TOKEN


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)


def test_another_scale_is_asked_for_and_brought_to_0_to_10(tmp_path):
    ids = cohort(tmp_path, 1)
    (photo,) = ids.values()
    said = label(photo, appearance={"score": 7, "spread": 3}, health={"score": 1}, posture={"score": 7.5, "spread": 7})
    with endpoint(lambda *_: Reply(body={"labels": [said]})) as server:
        drafts, aside = read(tmp_path, server.url, scale=(1, 7))
    assert server.requests[0].question["scale"] == [1, 7]
    np.testing.assert_array_equal(drafts.scores, [[10, 0, np.nan]])
    np.testing.assert_array_equal(drafts.spread, [[5, np.nan, np.nan]])
    assert aside == [
        "photos/0.jpg, posture: labeller: outside the scale 1 to 7 ('7.5')",
        "photos/0.jpg, posture_spread: labeller: outside 0 to 6 ('7')",
    ]


BROKEN = {
    "not JSON": (b'{"labels": [', "labeller: answer is not JSON ('{\"labels\": [')"),
    "a page": (b"<html>" + b"x" * 1000, "labeller: answer is not JSON ('<html>" + "x" * 191 + "...')"),
    "deep": (b"[" * 200_000, "labeller: answer is not JSON"),
    "bytes": (b"\xff\xfe\x00\xd8", "labeller: answer is not JSON"),
    "other JSON": (b'["labels"]', 'labeller: answer has no list "labels" ("[\'labels\']")'),
    "no list": (b'{"labels": {}}', 'labeller: answer has no list "labels"'),
    "huge": (b" " * 50_000_000, "labeller: answer is larger than 4 MiB"),
    "nothing": (b'{"labels": []}', "labeller: is missing in the answer"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_costs_its_batch_and_is_told_by_photo(tmp_path, name):
    ids = cohort(tmp_path, 18)
    body, said = BROKEN[name]
    with endpoint(lambda number, _: Reply(body=body) if number == 1 else None) as server:
        drafts, aside = read(tmp_path, server.url, ONE_BY_ONE)
        assert drafts.photo_ids == [ids[f"{i}.jpg"] for i in (*range(8), 16, 17)]
        assert [line.split(", photo: ")[0] for line in aside] == sorted(f"photos/{i}.jpg" for i in range(8, 16))
        assert said in aside[0]
        assert len(server.requests) == 3  # it was paid for: not tried again in this run
        drafts, aside = read(tmp_path, server.url, ONE_BY_ONE)  # but by the next one, each photo alone
        assert len(drafts.photo_ids) == 18 and aside == []
        assert [request.ids for request in server.requests[3:]] == [[photo] for photo in list(ids.values())[8:16]]


def test_what_is_wrong_in_a_label_is_told_by_photo_and_field(tmp_path):
    ids = cohort(tmp_path, 8)
    a, b, c, d, e, f, g, h = ids.values()
    odd = {"health": {"score": 10.1, "spread": 0.1}, "posture": {"score": 3, "spread": -1}}
    partial = label(a, appearance={"score": float("nan")}, **odd)
    body = {
        "labels": [
            partial,
            label(a),
            {"photo_id": b, "appearance": {"score": 4}},
            label(c, appearance=None, health={"score": None}, posture=None),
            label(d, appearance={"score": True}, health={"score": "7"}, posture=7),
            label("0" * 64),
            {"appearance": {"score": 1}},
            "label",
            label(f, appearance={"score": 10**400}, health={"score": 0}, posture={"score": 10.0, "spread": "?"}),
            label(g, health={"spread": 1}),
            label(h),
        ]
    }
    with endpoint(lambda *_: Reply(body=body)) as server:
        drafts, aside = read(tmp_path, server.url, ONE_BY_ONE)
        where = server.url
        assert aside == sorted(aside, key=lambda line: line.split(", ")[0])
        assert set(aside) == {
            "photos/0.jpg, appearance: labeller: not a number ('nan')",
            "photos/0.jpg, health: labeller: outside the scale 0 to 10 ('10.1')",
            "photos/0.jpg, health_spread: labeller: spread without a score ('0.1')",
            "photos/0.jpg, photo: labeller: second label of the same photo (" + repr(repr(label(a))[:197] + "...") + ")",
            "photos/0.jpg, posture_spread: labeller: outside 0 to 10 ('-1')",
            "photos/1.jpg, health: labeller: is missing in the answer",
            "photos/1.jpg, posture: labeller: is missing in the answer",
            "photos/3.jpg, appearance: labeller: not a number ('True')",
            "photos/3.jpg, health: labeller: not a number ('7')",
            "photos/3.jpg, posture: labeller: not an object with score and spread ('7')",
            "photos/4.jpg, photo: labeller: is missing in the answer",
            f"photos/5.jpg, appearance: labeller: not a number ('{str(10**400)[:197]}...')",
            "photos/5.jpg, posture_spread: labeller: not a number ('?')",
            "photos/6.jpg, health_spread: labeller: spread without a score ('1')",
            f"{where}, photo_id: labeller: photo was not asked for ('{'0' * 64}')",
            f"{where}, photo_id: labeller: label without a photo_id (\"{{'appearance': {{'score': 1}}}}\")",
            f"{where}, photo_id: labeller: label without a photo_id ('label')",
        }
        assert drafts.photo_ids == [a, b, f, g, h]  # c is labelled, as "none"
        np.testing.assert_array_equal(drafts.scores[0], [np.nan, np.nan, 3])
        np.testing.assert_array_equal(drafts.scores[2], [np.nan, 0, 10])
        again, told = read(tmp_path, server.url, ONE_BY_ONE)
        assert [request.ids for request in server.requests[1:]] == [[d], [e]]  # of the others something was got
        assert "photos/0.jpg, health: labeller: outside the scale 0 to 10 ('10.1')" in told
        np.testing.assert_array_equal(again.scores, drafts.scores)


def test_half_a_character_is_kept_as_it_was_spelt(tmp_path):
    """JSON may hold one half of a surrogate pair; text of Parquet may not."""
    (photo,) = cohort(tmp_path, 1).values()
    body = {"labels": [label(photo, posture={"score": "\ud800"}), {"photo_id": "\udfff"}]}
    with endpoint(lambda *_: Reply(body=body)) as server:
        drafts, aside = read(tmp_path, server.url)
    assert drafts.photo_ids == [photo] and np.isnan(drafts.scores[0]).tolist() == [False, False, True]
    assert "photos/0.jpg, posture: labeller: not a number ('\\\\ud800')" in aside and len(aside) == 2


def test_a_flood_of_labels_is_cut(tmp_path):
    cohort(tmp_path, 2)
    body = {"labels": [label(str(i)) for i in range(5000)]}
    with endpoint(lambda *_: Reply(body=body)) as server, pytest.raises(BadInput, match="more labels than photos"):
        read(tmp_path, server.url)


def test_a_photo_that_is_refused_costs_only_itself(tmp_path):
    ids = cohort(tmp_path, 10)
    bad = ids["5.jpg"]
    with endpoint(lambda _, asked: Reply(422, b"I do not like this photo") if bad in asked else None) as server:
        drafts, aside = read(tmp_path, server.url, ONE_BY_ONE)
    assert drafts.photo_ids == [photo for photo in ids.values() if photo != bad]
    assert aside == ["photos/5.jpg, photo: labeller: refused (HTTP 422) ('I do not like this photo')"]
    assert [len(request.ids) for request in server.requests] == [8, 4, 4, 2, 1, 1, 2, 2]
