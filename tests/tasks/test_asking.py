"""What is asked next, on a small made-up cohort: who has rated what, who is known, what judges."""

from __future__ import annotations

import pytest
import torch
from personal_cases import MODELS, Cohort, photo_id

from model.bank_opened import open_bank
from tasks.ask import Pool, _with_people
from tasks.intake.quarantine import BadInput
from tasks.personal import finetune
from tasks.questions import rated_photos, surveys
from tasks.ratings import Photos, as_photos, as_ratings, as_users
from tasks.splits import TEST, split_of
from tasks.tables import write_table

CONFIG = {"prior_share": 0.6, "iterations": 8}


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return Cohort()


@pytest.fixture(scope="module")
def pool(cohort) -> Pool:
    photos = as_photos(cohort.predictions)
    users, answers, experts, expert_answers = as_users(cohort.raters)
    ratings, _ = as_ratings(cohort.labels, users, photos)
    bank = finetune(photos, users, answers, experts, expert_answers, ratings, CONFIG)
    return Pool(bank, photos, torch.ones(len(photos.ids), dtype=torch.bool), photos.ids)


def variance_left(pool: Pool, cov, noise, rows: list[int]) -> float:
    """Mean variance of differences between photos after ratings of `rows`, as a share of that before."""
    left = before = 0.0
    for d in (0, 2):
        f, all_of = pool.phi[rows, d], pool.phi[:, d] - pool.phi[:, d].mean(0)
        gone = cov[d] @ f.T @ torch.linalg.inv(f @ cov[d] @ f.T + noise[d] * torch.eye(len(rows))) @ f @ cov[d]
        left += float(((all_of @ (cov[d] - gone)) * all_of).sum())
        before += float(((all_of @ cov[d]) * all_of).sum())
    return left / before


def test_a_new_user_is_asked_what_teaches_more_than_random_photos(pool):
    rows = pool.next("nobody", 6)
    assert len(set(rows)) == 6
    prior = pool.bank.prior
    chosen = variance_left(pool, prior.cov, prior.noise, rows)
    drawn = torch.Generator().manual_seed(0)
    may = torch.nonzero(pool.may).flatten()
    random = [
        variance_left(pool, prior.cov, prior.noise, may[torch.randperm(len(may), generator=drawn)[:6]].tolist())
        for _ in range(200)
    ]
    assert chosen < min(random)


def test_photos_that_judge_or_are_rated_or_wait_are_not_asked(pool, cohort):
    ids = pool.photos.ids
    rated, waiting = {ids[k] for k in range(0, 80)}, {ids[k] for k in range(80, 120)}
    rows = pool.next("user-003", 500, rated, waiting)
    free = {p for p in ids[120:] if split_of(p) != TEST}
    assert {ids[row] for row in rows} == free and len(rows) == len(free)


def test_what_waits_to_be_answered_is_not_asked_in_other_words(pool):
    """The twin of a photo that was asked already teaches less than it would have, so another photo comes first."""
    first = pool.next("user-003", 1)[0]
    photos = pool.photos
    twin = next(photo_id(k) for k in range(1000, 2000) if split_of(photo_id(k)) != TEST)
    bigger = Photos([*photos.ids, twin], photos.models, torch.cat([photos.predictions, photos.predictions[[first]]]), None)
    more = Pool(pool.bank, bigger, torch.ones(len(bigger.ids), dtype=torch.bool), bigger.ids)
    one_rated = {photos.ids[first]}
    alone = more.next("user-003", 1, rated=one_rated)
    after = more.next("user-003", 1, waiting=one_rated)
    assert alone == [len(photos.ids)], "as if the rating were lost, the twin is the best"
    assert after != [len(photos.ids)]


def test_a_bank_on_disk_asks_the_same(pool, tmp_path):
    pool.bank.save(tmp_path / "bank")
    opened = Pool(open_bank(tmp_path / "bank"), pool.photos, pool.may, pool.names)
    for user in ("user-003", "nobody"):
        assert opened.next(user, 8) == pool.next(user, 8)
    torch.testing.assert_close(opened.said("user-003", [1, 5]).scores, pool.said("user-003", [1, 5]).scores, equal_nan=True)


def test_a_survey_moves_what_a_new_user_is_asked_for(pool):
    shift = pool.bank.selection.shift([{"q": "1"}])
    assert shift.abs().max() > 0 and pool.bank.prior.kappa.max() > 0, "the cohort's survey says something"
    lists = [tuple(pool.next("nobody", 20, survey=answers)) for answers in ({}, {"q": "0"}, {"q": "1"}, {"q": "2"})]
    assert len(set(lists)) > 1


def test_a_bank_of_other_models_says_what_to_do(pool):
    few = Photos(pool.photos.ids, list(MODELS[1:]), pool.photos.predictions[:, 1:], None)
    with pytest.raises(BadInput, match="no predictions by expert-1"):
        Pool(pool.bank, few, pool.may, pool.names)


def test_photos_without_people_are_left_out_unless_they_are_most():
    ids = ["a", "b", "c"]
    assert _with_people({"a": "ok", "b": "no_person", "c": "ok"}, ids).tolist() == [True, False, True]
    assert _with_people({"a": "ok", "b": "no_person", "c": "no_person"}, ids).tolist() == [True, True, True]


def test_ratings_of_labels_and_feedback_count_as_rated(cohort, tmp_path):
    write_table(cohort.labels, tmp_path / "labels.parquet")
    write_table(cohort.raters, tmp_path / "raters.parquet")
    told = cohort.feedback({0: [199]})
    write_table(told, tmp_path / "feedback.parquet")
    found = rated_photos(["user-000", "stranger"], tmp_path)
    rows = zip(cohort.labels["rater_id"].to_pylist(), cohort.labels["photo_id"].to_pylist())
    assert found["user-000"] == {p for r, p in rows if r == "user-000"} | {photo_id(199)}
    assert found["stranger"] == set()
    assert set(surveys(["user-000", "stranger"], None, tmp_path)) == {"user-000"}
