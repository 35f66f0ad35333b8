"""The study on a small made-up cohort: who is judged on what, what each arm may see, what the tables say."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from personal_cases import Cohort

from tasks.judge import wide
from tasks.personal import finetune
from tasks.ratings import as_photos, as_ratings, as_users
from tasks.report.study import conclusion, markdown, plot, summary, terminal
from tasks.study import Arms, Group, Setting, orders, study

COUNTS = (0, 5, 25, 90)


@pytest.fixture(scope="module")
def setting() -> Setting:
    cohort = Cohort(users=90)
    photos = as_photos(cohort.predictions)
    users, surveys, experts, expert_surveys = as_users(cohort.raters)
    ratings, _ = as_ratings(cohort.labels, users, photos)
    bank = finetune(photos, users, surveys, experts, expert_surveys, ratings, {"prior_share": 0.6, "iterations": 10})
    everybody = Group(users, surveys, torch.from_numpy(wide(ratings, len(users), len(photos.ids))))
    judged, earlier = (everybody[torch.nonzero(part).flatten()] for part in (bank.judged, ~bank.judged))
    return Setting("made up", True, bank, photos, photos.fitting(), judged, earlier, earlier)


@pytest.fixture(scope="module")
def table(setting):
    steps = []
    found = study(setting, COUNTS, repeats=2, advance=steps.append)
    assert steps == [1] * 8
    return found


def test_every_arm_judges_the_same_users_and_only_those_with_enough_ratings(table, setting):
    counts = set(table["count"].to_pylist())
    assert counts == {0, 5, 25}, "nobody has 90 ratings to give"
    keys = list(zip(*(table[name].to_pylist() for name in ("arm", "count", "dimension", "user"))))
    assert len(set(keys)) == len(keys)
    arms = {arm for arm, *_ in keys}
    assert len(arms) == 9
    who = {(arm, count): {u for a, c, _, u in keys if (a, c) == (arm, count)} for arm in arms for count in counts}
    for count in counts:
        assert len({frozenset(who[arm, count]) for arm in arms}) == 1
    assert who["PAA+", 0] <= set(setting.judged.users)
    assert {d for _, _, d, _ in keys} == {"appearance", "posture"}, "nobody rated health"


def test_ours_learns_and_nothing_learns_from_no_rating(table):
    rows = {(r["arm"], r["count"]): r for r in summary(table) if r["dimension"] == "mean"}
    assert rows["generic", 0]["gain"] == [0.0, 0.0, 0.0]
    assert rows["fine-tuned, default", 0]["gain"] == rows["fine-tuned, tuned", 0]["gain"] == [0.0, 0.0, 0.0]
    for arm in ("PAA+", "PAA+, chosen photos", "PAA+, nights"):
        assert rows[arm, 25]["gain"][1] > 0
    assert rows["PAA+", 25]["gain"][0] > rows["PAA+", 5]["gain"][0] > rows["PAA+", 0]["gain"][0]
    assert rows["PAA+", 25]["margin"] == [0.0, 0.0, 0.0]
    assert rows["fine-tuned, tuned", 25]["margin"][0] > 0, "here the experts' tastes are all there is to learn"
    assert all(r["users"] == rows["generic", 25]["users"] for (_, count), r in rows.items() if count == 25)


def test_gains_are_those_of_the_raw_table(table):
    raw = table.to_pandas().pivot_table(index=["user", "dimension"], columns=["arm", "count"], values="srcc")
    gain = (raw["PAA+", 25] - raw["generic", 25]).unstack()
    row = next(r for r in summary(table) if (r["arm"], r["count"], r["dimension"]) == ("PAA+", 25, "posture"))
    assert row["gain"][0] == pytest.approx(gain["posture"].mean()) and row["gain"][1] < row["gain"][0] < row["gain"][2]
    errors = {r["arm"]: r for r in summary(table, measure="mae") if (r["count"], r["dimension"]) == (25, "posture")}
    raw = table.to_pandas().pivot_table(index="user", columns=["dimension", "arm", "count"], values="mae")["posture"]
    assert errors["PAA+"]["gain"][0] == pytest.approx((raw["generic", 25] - raw["PAA+", 25]).mean())


def test_no_arm_sees_a_rating_that_was_not_given(setting):
    """Ratings of all other photos, those that judge too, may be anything: scores stay as they are."""
    order, have = orders(setting.judged, setting.may, 3)
    users = torch.nonzero(have >= 10).flatten()
    group, asked = setting.judged[users], order[users, :10]
    other = Group(group.users, group.surveys, 10 - group.y)
    rows = torch.arange(len(users))[:, None]
    other.y[rows, asked] = group.y[rows, asked]
    arms = Arms(setting, 0)
    changed = Arms(replace(setting, judged=other), 0)
    for name in ("ours", "default"):
        one, two = (getattr(a, name)(g, asked) for a, g in ((arms, group), (changed, other)))
        assert torch.equal(one.nan_to_num(), two.nan_to_num())
    for kind in ("generic", "informed", "expert"):
        assert torch.equal(arms.tuned(kind, group, asked), changed.tuned(kind, other, asked))
    assert torch.equal(arms.chosen(group, 5), changed.chosen(other, 5))
    nights = [a.nights(g, asked, (0, 5, 10), {}) for a, g in ((arms, group), (changed, other))]
    assert all(torch.equal(nights[0][c].nan_to_num(), nights[1][c].nan_to_num()) for c in (0, 5, 10))
    assert not torch.equal(arms.ours(group, asked).nan_to_num(), nights[0][0].nan_to_num()), "ten ratings say something"


def test_chosen_photos_are_the_users_own_and_may_be_rated(setting):
    chosen = Arms(setting, 0).chosen(setting.judged, 8)
    assert all(len(set(row)) == 8 for row in chosen.tolist())
    assert setting.may[chosen].all()
    assert (~setting.judged.y[torch.arange(len(chosen))[:, None], chosen].isnan().all(2)).all()


def test_what_people_read(table):
    from PIL import Image
    from rich.console import Console

    rows = summary(table)
    text = markdown(rows, "made up", True, ("A note.",))
    assert text.startswith("# made up (simulated raters)") and "A note." in text
    assert ", over fine-tuned, tuned |" in text and "| PAA+, nights |" in text
    screen = io.StringIO()
    Console(file=screen, width=160).print(terminal(rows, "made up", True))
    assert "simulated" in screen.getvalue() and "PAA+, chosen photos" in screen.getvalue()
    assert np.array(Image.open(io.BytesIO(plot(rows)))).std() > 0
    worse = [r | {"margin": [-0.1, -0.2, -0.05]} for r in rows if (r["arm"], r["count"]) == ("fine-tuned, tuned", 25)]
    said = conclusion(worse)
    assert "clearly ahead in 0 of 2 cells" in said and "clearly behind in 2 (appearance at 25, posture at 25)" in said
