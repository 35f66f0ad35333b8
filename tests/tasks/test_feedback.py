"""What stands of feedback, whatever order it comes in; who is learned anew; what a changed survey does."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from personal_cases import Cohort
from test_personal_stages import CONFIG, read

from tasks.feedback import hear, prepared, standing
from tasks.personal import finetune
from tasks.ratings import as_photos
from tasks.schemas import FEEDBACK
from tasks.tables import write_table


def event(name: str, minute: int, kind: str = "rating", *, user: str = "u", photo: str | None = "p", **more) -> dict:
    empty = dict.fromkeys(FEEDBACK.names)
    more = {"dimension": "health", "value": 5.0} | more if kind == "rating" else more
    at = datetime(2026, 5, 1, 10, minute, tzinfo=UTC)
    return empty | {"event_id": name, "user_id": user, "photo_id": photo, "kind": kind, "at": at} | more


def stands(events: list[dict]) -> set[str]:
    return {found["event_id"] for found in standing(events).values()}


@pytest.mark.parametrize(
    ("events", "kept"),
    [
        ([event("a", 1), event("b", 2)], {"b"}),
        ([event("b", 2), event("a", 2)], {"b"}),  # of the same moment the later name
        ([event("a", 1), event("b", 2, dimension="posture")], {"a", "b"}),
        ([event("a", 1), event("b", 2, user="v")], {"a", "b"}),
        ([event("k:health", 1), event("d", 2, "delete", text="k")], set()),
        ([event("k:health", 1), event("d", 2, "delete", text="k:health")], set()),
        ([event("a", 1), event("b", 2), event("d", 3, "delete", text="b")], {"a"}),
        ([event("a", 1, user="v"), event("d", 3, "delete", text="a")], {"a"}),  # nobody deletes what others said
        ([event("a", 1), event("b", 3), event("d", 2, "delete")], {"b"}),
        ([event("a", 1, photo="q"), event("d", 2, "delete")], {"a"}),
        ([event("a", 1, photo="q"), event("s", 1, "survey", photo=None), event("d", 2, "delete", photo=None)], set()),
        ([event("a", 1, "comparison", text="q", dimension="health", value=1.0),
          event("b", 2, "comparison", photo="q", text="p", dimension="health", value=1.0)], {"b"}),
        ([event("a", 1, "comment", text="x"), event("b", 2, "comment", text="y")], {"a", "b"}),
        ([event("a", 1, "survey", photo=None), event("b", 2, "survey", photo=None)], {"b"}),
    ],
)  # fmt: skip
def test_what_stands_does_not_depend_on_the_order(events, kept):
    for order in itertools.permutations(events):
        assert stands(list(order)) == kept


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return Cohort(users=30)


def night(folder: Path, number: int, events: list[dict]) -> tuple[pa.Table, Path]:
    table = pa.Table.from_pylist(events, schema=FEEDBACK)
    return table, write_table(table, folder / f"{number:04d}.parquet")


def test_who_corrects_or_deletes_is_learned_anew_with_all_that_stands(cohort, tmp_path):
    photos = as_photos(cohort.predictions)
    p, q = cohort.ids[:2]
    first, path = night(tmp_path, 1, [
        event("a", 1, photo=p, value=3.0, dimension="posture"), event("b", 2, photo=q, dimension="posture"),
        event("c", 1, user="v", photo=p, dimension="posture"),
    ])  # fmt: skip
    heard = hear(first, [], photos)
    assert heard.users == ["u", "v"] and heard.again == []
    correction, other = night(tmp_path, 2, [event("d", 9, photo=p, value=8.0, dimension="posture")])
    heard = hear(correction, [path], photos)
    assert heard.again == heard.users == ["u"]
    row = {photos.ids[i]: y for i, y in zip(heard.ratings.photo.tolist(), heard.ratings.y[:, 2].tolist())}
    assert row == {p: 8.0, q: 5.0}
    late, _ = night(tmp_path, 3, [event("e", 0, photo=p, value=1.0, dimension="posture")])  # older than what stands
    heard = hear(late, [path, other], photos)
    assert heard.users == heard.again == [] and heard.aside == {"deleted, or said again later": 1}
    gone, _ = night(tmp_path, 3, [event("f", 10, "delete", photo=None)])
    heard = hear(gone, [path, other], photos)
    assert heard.again == ["u"] and heard.users == []
    fresh, _ = night(tmp_path, 3, [event("g", 11, photo=p, dimension="posture", user="w")])
    assert hear(fresh, [path, other], photos).users == ["w"]


def test_shuffled_events_are_heard_alike(cohort, tmp_path):
    photos = as_photos(cohort.predictions)
    rng = random.Random(0)
    events = [
        event(f"e{k}", rng.randrange(60), user=f"u{k % 3}", photo=cohort.ids[rng.randrange(6)], value=float(k % 10))
        for k in range(60)
    ] + [event("d", 30, "delete", user="u1"), event("s", 5, "survey", user="u2", photo=None, text='{"q": "1"}')]
    found = []
    for _ in range(3):
        rng.shuffle(events)
        found.append(hear(pa.Table.from_pylist(events, schema=FEEDBACK), [], photos))
    for other in found[1:]:
        assert torch.equal(other.ratings.y.nan_to_num(-1), found[0].ratings.y.nan_to_num(-1))
        assert (other.users, other.surveys, other.aside) == (found[0].users, found[0].surveys, found[0].aside)


def test_a_changed_survey_moves_the_prior_and_is_served_where_the_prior_is(cohort, tmp_path):
    photos, users, surveys, *rest = read(cohort)
    bank = finetune(photos, users, surveys, *rest, CONFIG)
    bank.prior.kappa[:] = 0.8  # surveys count
    bank.selection.weights = torch.randn(bank.selection.weights.shape, dtype=torch.float64)
    other = next(answer for answer in "012" if answer != surveys[0].get("q"))
    bank.prior_mean[0] = bank.starting(users[:1], surveys[:1]).prior_mean[0]
    bank.weights[0, 0], bank.version[0] = bank.weights[0, 0] + 1, 1  # a personal entry, of one dimension
    bank.weights[0, 2] = bank.prior_mean[0, 2]
    told, path = night(tmp_path, 1, [event("s", 1, "survey", user=users[0], photo=None, text=f'{{"q": {other}}}')])
    heard = hear(told, [], photos)
    assert heard.surveys == {users[0]: {"q": other}} and heard.users == []
    after = prepared(bank, bank, heard, {})
    assert after.surveys[0] == {"q": other} and bank.surveys[0] == surveys[0]
    assert not torch.equal(after.prior_mean[0], bank.prior_mean[0])
    assert torch.equal(after.weights[0, 0], bank.weights[0, 0])
    assert torch.equal(after.weights[0, 2], after.prior_mean[0, 2])
    assert torch.equal(after.weights[1:], bank.weights[1:])
    undone, _ = night(tmp_path, 2, [event("d", 2, "delete", user=users[0], photo=None, text="s")])
    back = prepared(after, bank, hear(undone, [path], photos), {})
    assert back.surveys[0] == surveys[0] and torch.equal(back.prior_mean[0], bank.prior_mean[0])
