import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from model.scores import DIMENSIONS
from tasks.mannequins.raters import review, simulate
from tasks.mannequins.tastes import MIXTURES, REFERENCE, Mixture, attributes, draw_raters, key, opinions, together_of
from tasks.splits import TEST, split_of

ANGLES = ("slouch", "head_forward", "shoulder_tilt", "pelvis_tilt")


def some_truth(photos: int = 120, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(together_of(list(REFERENCE)))
    drawn = rng.normal(size=(photos, len(REFERENCE))) @ (vectors * np.sqrt(values.clip(0))).T
    columns = {name: mean + spread * drawn[:, k] for k, (name, (mean, spread)) in enumerate(REFERENCE.items())}
    columns |= {name: columns[name] ** 2 for name in ANGLES}
    truth = pd.DataFrame(columns)
    truth["photo"] = [f"{i:05d}.jpg" for i in range(photos)]
    truth["photo_id"] = [f"{key('hash', name):016x}" * 4 for name in truth["photo"]]
    truth["kind"] = ["nobody" if i % 20 == 7 else "unreadable" if i % 20 == 13 else "person" for i in range(photos)]
    truth.loc[truth["kind"] != "person", list(REFERENCE)] = np.nan
    return truth


SMALL = {"experts": 4, "users": 12, "ratings_per_user": 30, "feedback_per_user": 10, "seed": 3}


def test_columns_scale_and_who_is_rated():
    truth = some_truth()
    found = simulate(truth, **SMALL)
    assert list(found.ratings.columns) == ["rater_id", "photo", *DIMENSIONS, "rated_at"]
    assert list(found.feedback.columns) == [
        "event_id", "user_id", "photo", "kind", "dimension", "value", "suggested", "model_version", "at",
    ]  # fmt: skip
    assert list(found.raters.columns[:2]) == ["rater_id", "role"]
    values = found.ratings[list(DIMENSIONS)].to_numpy()
    assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 10
    np.testing.assert_allclose(values, np.round(values, 1))
    people = set(truth[truth["kind"] == "person"]["photo"])
    assert set(found.ratings["photo"]) | set(found.feedback["photo"]) <= people
    counts = found.ratings.groupby("rater_id").size()
    assert (counts[counts.index.str.startswith("expert")] == len(people)).all()
    assert (counts[counts.index.str.startswith("user")] == 30).all()
    assert found.feedback["event_id"].is_unique
    assert found.ratings["rated_at"].max() < found.feedback["at"].min()
    assert found.raters["role"].value_counts().to_dict() == {"user": 12, "expert": 4}


def test_same_seed_same_tables():
    one, two, other = (simulate(some_truth(), **(SMALL | {"seed": seed})) for seed in (3, 3, 4))
    for name in ("raters", "ratings", "feedback", "truth"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name))
    assert not one.ratings[list(DIMENSIONS)].equals(other.ratings[list(DIMENSIONS)])


def test_more_photos_and_raters_leave_the_ratings_as_they_were():
    truth = some_truth(200)
    few = simulate(truth.iloc[:120], **SMALL).ratings
    many = simulate(truth, **(SMALL | {"users": 20, "experts": 6})).ratings
    both = few.merge(many, on=["rater_id", "photo"], suffixes=("", "_later"))
    assert len(both) > 0.5 * len(few)
    experts = few[few["rater_id"].str.startswith("expert")]
    assert len(both[both["rater_id"].str.startswith("expert")]) == len(experts)
    for column in (*DIMENSIONS, "rated_at"):
        assert (both[column] == both[f"{column}_later"]).all()


def test_a_rater_repeats_themselves_at_about_nine_tenths():
    z = attributes(some_truth(1500).query("kind == 'person'"))
    keys = np.array([key(i) for i in range(len(z["bmi"]))], np.uint64)
    repeats = []
    for person in draw_raters([f"u{i}" for i in range(20)], 4, seed=0):
        once, twice = (opinions(person, z, keys, MIXTURES, 0, occasion) for occasion in ("a", "b"))
        repeats.append([spearmanr(once[:, d], twice[:, d])[0] for d in range(3)])
    assert np.abs(np.mean(repeats, 0) - 0.9).max() < 0.04


def test_drift_changes_the_taste_of_the_drifted_only():
    found = simulate(some_truth(400), experts=0, users=60, ratings_per_user=0, feedback_per_user=150, seed=1)
    still = simulate(some_truth(400), experts=0, users=60, ratings_per_user=0, feedback_per_user=150, drift=0.0, seed=1)
    drifted = found.truth.set_index("rater_id")["drifted"]
    assert 0.15 < drifted.mean() < 0.45
    moved = (found.feedback["value"] != still.feedback["value"]).groupby(found.feedback["user_id"]).mean()
    assert (moved[drifted[moved.index]] > 0.5).all()
    assert (moved[~drifted[moved.index]] == 0).all()
    changed = found.truth[found.truth["drifted"]]
    assert (changed["cluster"] != changed["cluster_after"]).all()


def test_judging_ratings_are_on_test_photos_and_the_rest_are_not():
    truth = some_truth(300)
    nights = ("2026-05-02", "2026-05-03")
    found = simulate(truth, **(SMALL | {"judging_per_user": 8}), nights=nights)
    split = truth.set_index("photo")["photo_id"].map(split_of)
    judging = found.feedback["photo"].map(split) == TEST
    assert (found.feedback[judging]["at"].str[:10] == nights[-1]).all()
    assert set(found.feedback[~judging]["at"].str[:10]) == set(nights)
    assert (found.feedback[judging].groupby("user_id")["photo"].nunique() == 8).all()
    assert (found.feedback[~judging].groupby("user_id")["photo"].nunique() == 20).all()
    with pytest.raises(ValueError, match="photo_id"):
        simulate(truth.drop(columns="photo_id"), **(SMALL | {"judging_per_user": 8}))


def test_surveys_tell_of_taste_where_they_ask_about_bodies():
    found = simulate(some_truth(20), experts=0, users=400, ratings_per_user=1, feedback_per_user=0, seed=2)
    table = found.raters.merge(found.truth, on="rater_id")

    def purity(question: str) -> float:
        """Share of users in the commonest cluster of their answer."""
        counts = table.groupby([question, "cluster"]).size().unstack(fill_value=0)
        return counts.max(axis=1).sum() / len(table)

    assert purity("favourite_body_type") > 0.6
    assert purity("extraversion") < 0.4


def test_attributes_from_parts_and_errors():
    truth = some_truth(10)
    parts = truth.assign(mass=truth["bmi"] * truth["height"] ** 2).drop(columns="bmi")
    people = truth["kind"] == "person"
    np.testing.assert_allclose(attributes(parts[people])["bmi"], attributes(truth[people])["bmi"], atol=1e-9)
    with pytest.raises(ValueError, match="nobody|person"):
        simulate(truth.assign(kind="nobody"), **SMALL)
    with pytest.raises(ValueError, match="'kind'"):
        simulate(truth.drop(columns="kind"), **SMALL)
    with pytest.raises(ValueError, match="sum to"):
        Mixture(common=0.5, cluster=0.5, own=0.5, photo=0.1)


def test_review_leaves_what_is_close_and_corrects_the_rest():
    opinion = np.array([[5.0, 5.0, 5.0], [8.0, np.nan, 2.0]])
    draft = np.array([[5.1, 9.0, 4.9], [2.0, 3.0, np.nan]])
    revised, effort = review(opinion, draft, just_noticeable=0.6, anchor=0.3, seed=0)
    np.testing.assert_allclose(revised, [[5.1, 6.2, 4.9], [6.2, np.nan, 2.0]])
    assert effort["touched"] == pytest.approx(0.5)
    assert effort["moved"] == pytest.approx((2.8 + 4.2) / 4)
    good, less = review(opinion, opinion + 0.1)
    np.testing.assert_allclose(good, opinion + 0.1)
    assert less["moved"] == 0
