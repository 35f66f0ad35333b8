import threading

import numpy as np
import pyarrow as pa
import pytest
import torch
from personal_cases import MODELS, Cohort, events

from model import gate
from model.bank import load_bank
from model.bank_opened import open_bank
from tasks import judge
from tasks import personal as stages
from tasks.personal import Team, finetune, night
from tasks.ratings import as_feedback, as_photos, as_ratings, as_users, user_split
from tasks.splits import TEST, split_of

CONFIG = {"prior_share": 0.6, "iterations": 12, "checkpoint_every": 4, "confidence": 0.6, "min_ratings": 5}


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return Cohort()


def read(cohort: Cohort):
    photos = as_photos(cohort.predictions)
    users, surveys, experts, expert_surveys = as_users(cohort.raters)
    ratings, _ = as_ratings(cohort.labels, users, photos)
    return photos, users, surveys, experts, expert_surveys, ratings


@pytest.fixture(scope="module")
def first(cohort):
    return finetune(*read(cohort), CONFIG)


def test_test_photos_and_judged_users_teach_nothing(cohort, first):
    photos, users, *rest, ratings = read(cohort)
    changed = ratings[torch.arange(len(ratings))]
    changed.y = ratings.y.clone()
    changed.y[~photos.fitting()[ratings.photo]] = 0.0
    again = finetune(photos, users, *rest, changed, CONFIG)
    assert torch.equal(again.weights, first.weights)

    judged = torch.tensor([user_split(u, 0.6) == "judged" for u in users])
    assert torch.equal(first.judged, judged) and 5 < int(judged.sum()) < 55
    changed.y = torch.where(judged[ratings.user][:, None], 10 - ratings.y, ratings.y)
    other = finetune(photos, users, *rest, changed, CONFIG)
    assert torch.equal(other.prior.mean, first.prior.mean)
    assert not torch.equal(other.weights[judged], first.weights[judged])


def test_personal_models_beat_generic_and_selected_expert_on_unseen(cohort, first):
    photos, *_, ratings = read(cohort)
    table = judge.stage_table(first, photos, ratings)
    srcc = {(r["model"], r["dimension"]): r for r in table if r["metric"] == "srcc" and r["stage"] == "finetune"}
    assert {d for _, d in srcc} == {"appearance", "posture", "mean"}  # nobody rated health
    for d in ("appearance", "posture"):
        personal = srcc["personal", d]
        assert personal["mean"] > srcc["generic", d]["mean"] + 0.05
        assert personal["mean"] > srcc["selected expert", d]["mean"] + 0.01
        assert personal["lo"] < personal["mean"] < personal["hi"]
        assert personal["users"] == int(first.judged.sum())
    assert (first.reason[:, 1] == gate.NO_NEWS).all()


def test_stage_of_experts_is_judged_on_their_own_test_photos(cohort, first):
    photos, *_, ratings = read(cohort)
    own, _ = as_ratings(cohort.labels, list(first.basis.experts), photos)
    rows = judge.stage_table(first, photos, ratings, expert_ratings=own)
    found = {r["model"]: r["mean"] for r in rows if (r["stage"], r["metric"]) == ("pretrain", "srcc")}
    assert found["expert"] == pytest.approx(1.0)  # here an expert's labels are what the model predicts
    assert found["generic"] < 1.0


def test_learning_curve_climbs_and_counts_from_zero(cohort, first):
    photos, *_, ratings = read(cohort)
    rows = judge.learning_curve(first, photos, ratings, counts=(0, 5, 25, 1000), repeats=2)
    gain = {r["count"]: r["mean"] for r in rows if (r["model"], r["dimension"]) == ("gain over generic", "appearance")}
    assert list(gain) == [0, 5, 25]  # nobody has 1000 ratings
    assert gain[25] > gain[5] > 0 and gain[25] > gain[0]


def test_resumed_fit_equals_uninterrupted(cohort, first):
    states = []
    finetune(*read(cohort), CONFIG, report=lambda *state: states.append(state))
    iteration, prior, _ = states[1]
    assert iteration == 8
    resumed = finetune(*read(cohort), CONFIG, resume=(iteration, prior))
    torch.testing.assert_close(resumed.weights, first.weights, rtol=1e-9, atol=1e-9)
    assert torch.equal(resumed.reason, first.reason)


class Threads:
    """Workers as threads: sums and gathers meet at barriers, as they do over torch.distributed."""

    def __init__(self, world: int):
        self.world, self.barrier, self.slots = world, threading.Barrier(world), [None] * world

    def exchange(self, rank: int, value) -> list:
        self.slots[rank] = value
        self.barrier.wait()
        values = list(self.slots)
        self.barrier.wait()
        return values

    def run(self, job):
        results = [None] * self.world

        def work(rank: int) -> None:
            team = Team(
                rank,
                self.world,
                lambda tensor: sum(self.exchange(rank, tensor)),
                lambda value: values if (values := self.exchange(rank, value)) and rank == 0 else None,
            )
            results[rank] = job(team)

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def test_two_workers_make_the_same_bank_and_the_same_night(cohort, first):
    banks = Threads(2).run(lambda team: finetune(*read(cohort), CONFIG, team))
    assert banks[1] is None and banks[0].users == first.users
    torch.testing.assert_close(banks[0].weights, first.weights, rtol=1e-6, atol=1e-6)
    assert torch.equal(banks[0].reason, first.reason) and torch.equal(banks[0].expert, first.expert)

    photos = as_photos(cohort.predictions)
    users, ratings, _ = as_feedback(cohort.feedback({u: list(range(u, u + 12)) for u in range(9)}), photos)
    alone = night(first, photos, users, ratings, CONFIG)
    both = Threads(2).run(lambda team: night(first, photos, users, ratings, CONFIG, team=team))[0]
    torch.testing.assert_close(both[0].weights, alone[0].weights, rtol=1e-9, atol=1e-9)
    assert both[0].users == alone[0].users and torch.equal(both[1].reason, alone[1].reason)


def fitting_photos(cohort: Cohort) -> list[int]:
    return [i for i, photo in enumerate(cohort.ids) if split_of(photo) != TEST]


def test_drifted_users_are_found_and_helped_and_others_keep_their_models(cohort, first):
    photos = as_photos(cohort.predictions)
    busy, fit = list(range(30)), fitting_photos(cohort)
    test = [i for i in range(len(cohort.ids)) if i not in set(fit)]
    mixes = {u: np.roll(cohort.mix[u], 1) for u in range(0, 30, 3)}
    feedback = cohort.feedback({u: fit[u : u + 25] + test for u in busy}, mixes)
    users, ratings, aside = as_feedback(feedback, photos)
    after, what = night(first, photos, users, ratings, CONFIG)
    assert not aside
    untouched = [i for i, u in enumerate(first.users) if u not in users]
    for name, value in after.arrays().items():
        assert torch.equal(value[untouched], first.arrays()[name][untouched]), name
    assert after.round == 1 and first.round == 0
    truth = {cohort.users[u]: u in mixes for u in busy}
    found = {u: f < 1 for u, f in zip(what.users, what.forget.tolist())}
    assert np.mean([found[u] == truth[u] for u in users]) > 0.75
    rows = judge.night_table(first, after, photos, ratings, users, drifted=truth)
    change = {(r["group"], r["dimension"]): r["mean"] for r in rows if r["metric"] == "srcc"}
    assert {d for _, d in change} == {"appearance", "posture", "mean"}
    assert change["drifted", "appearance"] > 0.1
    assert change["undrifted", "appearance"] > -0.01


def test_a_night_twice_as_long_ago_is_the_same_when_feedback_arrives_in_another_order(cohort, first):
    photos = as_photos(cohort.predictions)
    feedback = cohort.feedback({u: list(range(10, 30)) for u in range(5)})
    shuffled = feedback.take(np.random.default_rng(0).permutation(feedback.num_rows))
    banks = []
    for table in (feedback, shuffled):
        users, ratings, _ = as_feedback(table, photos)
        banks.append(night(first, photos, users, ratings, CONFIG)[0])
    assert torch.equal(banks[0].weights, banks[1].weights)


def test_a_new_user_starts_from_the_prior(cohort, first):
    photos = as_photos(cohort.predictions)
    fit = fitting_photos(cohort)
    table = events([("stranger", cohort.ids[i], "appearance", 6.0) for i in fit[:2]])
    users, ratings, _ = as_feedback(table, photos)
    after, what = night(first, photos, users, ratings, CONFIG)
    assert after.users[-1] == "stranger" and what.known == [False]
    assert torch.equal(after.weights[-1], first.prior.mean)
    assert gate.REASONS[int(after.reason[-1, 0])] == "too few ratings"
    assert after.stats.n[-1].tolist() == [2, 0, 0]


def test_what_cannot_be_used_is_counted(cohort):
    photos = as_photos(cohort.predictions)
    known = cohort.ids[0]
    rows = [
        ("u", known, "appearance", 3.0),
        ("u", known, "appearance", 4.0),
        ("u", known, "appearance", 9.0),
        ("u", "f" * 64, "appearance", 4.0),
        ("u", known, "appearance", 11.0),
        ("u", known, None, None),
    ]
    table = events(rows, ["rating"] * 5 + ["comment"], ["e1", "e2", "e2", "e4", "e5", "e6"])
    users, ratings, aside = as_feedback(table, photos)
    assert users == ["u"] and len(ratings) == 1
    assert ratings.y[0, 0] == 4.0 and ratings.y[0, 1:].isnan().all()
    assert dict(aside) == {
        "rated again later": 1,
        "event_id seen twice": 1,
        "photo has no predictions": 1,
        "score outside 0..10": 1,
        "kind comment is not used for personal models": 1,
    }


def test_photos_keep_models_in_order_with_generic_last(cohort):
    photos = as_photos(cohort.predictions)
    assert tuple(photos.models) == MODELS and photos.ids == sorted(cohort.ids)
    assert photos.predictions[:, :, 1].isnan().all()
    with pytest.raises(ValueError, match="empty"):
        as_photos(cohort.predictions.slice(0, 0))


@pytest.mark.parametrize("block", [4, 512])
def test_a_night_over_an_opened_bank_reads_only_its_users_and_is_the_same(cohort, first, tmp_path, monkeypatch, block):
    photos, fit = as_photos(cohort.predictions), fitting_photos(cohort)
    busy = list(range(0, 40, 3))
    feedback = cohort.feedback({u: fit[u : u + 9] for u in busy})
    stranger = events([("a stranger", cohort.ids[i], "posture", 7.0) for i in fit[:6]], ids=[f"s{k}" for k in range(6)])
    users, ratings, _ = as_feedback(pa.concat_tables([feedback, stranger]), photos)
    expected, what = night(first, photos, users, ratings, CONFIG)

    first.save(tmp_path / "bank")
    opened = open_bank(tmp_path / "bank")
    path, width, rows = opened.segments[0].path, opened.layout.dtype.itemsize, opened.entries["row"]
    untouched = [u for u in first.users if u not in users]
    sound = path.read_bytes()
    spoilt = bytearray(sound)
    for row in rows[opened.index(untouched).numpy()].tolist():
        spoilt[row * width + width // 2] ^= 255  # whoever reads these rows stumbles
    path.write_bytes(spoilt)

    monkeypatch.setattr(stages, "BLOCK", block)
    after, told = night(open_bank(tmp_path / "bank"), photos, users, ratings, CONFIG)
    assert told.users == what.users and told.known == what.known and torch.equal(told.reason, what.reason)
    torch.testing.assert_close(told.evidence, what.evidence, rtol=1e-9, atol=1e-9)
    for name, value in expected.part(users).arrays().items():
        torch.testing.assert_close(after.part(users).arrays()[name], value, rtol=1e-6, atol=1e-9)
    after.save(tmp_path / "next")
    assert path.name in {p.name for p in (tmp_path / "next").iterdir()} and after.round == 1
    (tmp_path / "next" / path.name).write_bytes(sound)
    assert load_bank(tmp_path / "next").users == expected.users


def test_two_workers_over_an_opened_bank_make_the_bank_of_one(cohort, first, tmp_path, monkeypatch):
    photos, fit = as_photos(cohort.predictions), fitting_photos(cohort)
    first.save(tmp_path / "bank")
    rows = [(f"new {k}", cohort.ids[i], "appearance", float(i % 10)) for k in range(9) for i in fit[k : k + 7]]
    users, ratings, _ = as_feedback(events(rows), photos)
    monkeypatch.setattr(stages, "BLOCK", 4)
    bank = open_bank(tmp_path / "bank")
    alone = night(bank, photos, users, ratings, CONFIG)[0]
    monkeypatch.setattr(stages, "BLOCK", 2)  # of each worker: the same four users are in memory at a time
    both = Threads(2).run(lambda team: night(bank, photos, users, ratings, CONFIG, team=team))
    assert both[1] is None
    assert both[0][0].users == alone.users == [*first.users, *users]
    for name, value in alone.part(users).arrays().items():
        torch.testing.assert_close(both[0][0].part(users).arrays()[name], value, rtol=1e-9, atol=1e-12)


def test_evidence_of_small_nights_adds_up_until_an_entry_is_promoted(cohort, first):
    photos, fit = as_photos(cohort.predictions), fitting_photos(cohort)
    bank, busy = first.without_users(cohort.users[:12]), list(range(12))
    promoted = torch.zeros(12, 2, dtype=torch.bool)
    for k in range(16):
        users, ratings, _ = as_feedback(cohort.feedback({u: fit[2 * k : 2 * k + 2] for u in busy}), photos)
        bank, what = night(bank, photos, users, ratings, CONFIG | {"forget": [1.0]})
        part = bank.part(users)
        torch.testing.assert_close(part.evidence[~what.promoted], what.evidence[~what.promoted])
        assert not (part.evidence[what.promoted] * gate.SINCE_PROMOTION).any()
        torch.testing.assert_close(part.evidence[..., gate.PRIOR], what.evidence[..., gate.PRIOR])
        if k < 2:
            assert not what.promoted.any()  # too few ratings
        promoted |= what.promoted[:, [0, 2]]
    assert promoted.double().mean() > 0.7
