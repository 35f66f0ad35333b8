"""Simulated raters of mannequins: who they are, what they rate, how their taste drifts, how experts review.

Tastes are in `tasks.mannequins.tastes`, their calibration to real people in docs/calibration.md. Every number
depends on (seed, rater, photo) alone, through hashes: adding photos or raters leaves the existing ratings as they
were. Which photos a user rates goes by hash order, so that it stays mostly the same too.

    .venv/bin/python -m pytest tests/tasks/test_raters.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.scores import DIMENSIONS
from tasks.mannequins.tastes import (
    ATTRIBUTES,
    MIXTURES,
    Mixture,
    Rater,
    attributes,
    cluster_leaning,
    draw_raters,
    key,
    opinions,
    rng_of,
    uniform,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Simulated:
    """Frames in the CSV columns of the contract, and `truth`: per rater what nobody is told (cluster, drifted, …)."""

    raters: pd.DataFrame
    ratings: pd.DataFrame
    feedback: pd.DataFrame
    truth: pd.DataFrame


def _survey(person: Rater, clusters: int, mixtures: dict[str, Mixture], seed: int) -> dict[str, str]:
    """Answers: three about bodies (noisy readings of the leanings), three about the person (hardly informative)."""
    rng = rng_of(seed, "survey", person.name)

    def linear(dimension: str) -> np.ndarray:
        share = np.sqrt([mixtures[dimension].cluster, mixtures[dimension].own])
        width = np.array([c * spread for c, _, spread in ATTRIBUTES[dimension].values()])
        leaning = share @ person.leanings[dimension][:, 0] / np.sqrt(max((share**2).sum(), 1e-12))
        return leaning / width

    looks, stance = linear("appearance"), linear("posture")
    names = list(ATTRIBUTES["appearance"])

    def read(value: float, noise: float, words: tuple[str, ...], cuts: tuple[float, ...]) -> str:
        return words[int(np.searchsorted(cuts, value + noise * rng.normal()))]

    mass, muscle = looks[names.index("bmi")], looks[names.index("muscularity")]
    kinds = ("slim", "athletic", "average", "curvy", "strong", "tall")
    favourite = person.cluster if rng.random() < 0.6 else int(rng.integers(clusters))
    return {
        "ideal_build": read(mass, 0.8, ("slim", "medium", "full"), (-0.6, 0.6)),
        "muscles": read(muscle, 0.9, ("no matter", "some", "a lot"), (-0.7, 0.7)),
        "favourite_body_type": kinds[favourite % len(kinds)],
        "upright_matters": read(stance[0], 0.8, ("very", "somewhat", "little"), (-0.7, 0.7)),
        "extraversion": str(1 + int(rng.integers(5))),
        "openness": str(1 + int(np.clip(rng.integers(5) + (rng.random() < 0.1) * (person.cluster % 2), 0, 4))),
        "age_group": ("18-29", "30-44", "45-59", "60+")[int(rng.integers(4))],
    }


def simulate(
    truth: pd.DataFrame,
    *,
    experts: int,
    users: int,
    ratings_per_user: int = 100,
    feedback_per_user: int = 20,
    judging_per_user: int = 0,
    drift: float = 0.3,
    seed: int = 0,
    clusters: int = 4,
    mixtures: dict[str, Mixture] | None = None,
    nights: Sequence[str] = ("2026-05-02",),
) -> Simulated:
    """Raters, their ratings and later feedback on the photos of `truth` that show a person.

    truth: one row per photo with `photo`, `kind` (only `person` is rated), columns that `attributes` understands,
    and optionally `photo_id` (needed for judging_per_user). Experts rate every photo (2026-01), users about
    `ratings_per_user` each (2026-02 to 04). Then the taste of a share `drift` of the users changes, and on each
    date of `nights` users rate `feedback_per_user` further photos, in three events per photo, one per dimension.
    judging_per_user: ratings on the day of the last night, of photos that hash to `test`, which no model is ever fitted
    on: they are only for judging. Users run out of photos silently when there are too few.

    Raises ValueError when the table lacks columns or has nobody on its photos.
    """
    import pandas as pd

    missing = {"photo", "kind"} - set(truth.columns)
    if missing:
        raise ValueError(f"truth lacks the column {sorted(missing)[0]!r}; it needs photo and kind")
    if judging_per_user and "photo_id" not in truth.columns:
        raise ValueError("judging_per_user needs the column photo_id in truth, to know which photos are test")
    mixtures = mixtures or MIXTURES
    seen = truth.loc[truth["kind"] == "person"].reset_index(drop=True)
    z = attributes(seen)
    if len(seen) == 0 or not z:
        raise ValueError("truth has no photo of kind 'person' with attributes to rate")
    names = seen["photo"].astype(str).tolist()
    keys = np.array([key(seed, "key", name) for name in names], np.uint64)
    test = _test_photos(seen) if judging_per_user else np.zeros(len(seen), bool)

    expert_names = [f"expert-{i + 1:02d}" for i in range(experts)]
    user_names = [f"user-{i + 1:04d}" for i in range(users)]
    rows, events, about, known = [], [], [], []
    for role, group in (("expert", expert_names), ("user", user_names)):
        before = draw_raters(group, clusters, seed)
        after = draw_raters(group, clusters, seed, drifted=True)
        for place, (person, later) in enumerate(zip(before, after)):
            if role == "expert":
                # Experts cover the clusters evenly: the base should hold someone for everybody.
                person = _moved(person, place % clusters, clusters, seed)
            drifts = role == "user" and uniform(key(seed, "drifts", person.name), keys[:1] * 0)[0] < drift
            known.append({"rater_id": person.name, "role": role} | _survey(person, clusters, mixtures, seed))
            about.append(
                {
                    "rater_id": person.name,
                    "role": role,
                    "cluster": person.cluster,
                    "drifted": bool(drifts),
                    "cluster_after": later.cluster if drifts else person.cluster,
                }
            )
            first = opinions(person, z, keys, mixtures, seed, "first")
            order = np.argsort(uniform(key(seed, "order", person.name), keys), kind="stable")
            chosen = np.arange(len(names)) if role == "expert" else np.sort(order[:ratings_per_user])
            day = _days("2026-01-05" if role == "expert" else "2026-02-01", 20 if role == "expert" else 80)
            for i in chosen:
                at = day(uniform(key(seed, "when", person.name), keys[i : i + 1])[0])
                rows.append((person.name, names[i], *first[i], at))
            if role == "expert":
                continue
            changed = opinions(later if drifts else person, z, keys, mixtures, seed, "later")
            rest = order[ratings_per_user:]
            spare = rest[~test[rest]] if judging_per_user else rest
            for night, date in enumerate(nights):
                part = spare[night * feedback_per_user : (night + 1) * feedback_per_user]
                events += _events(person.name, names, part, changed, date, night, keys, seed)
            # Judged on photos not rated before where there are enough, else on any test photo, asked again.
            fresh = np.concatenate([rest[test[rest]], order[:ratings_per_user][test[order[:ratings_per_user]]]])
            if judging_per_user:
                part = fresh[:judging_per_user]
                events += _events(person.name, names, part, changed, nights[-1], len(nights), keys, seed)
    ratings = pd.DataFrame(rows, columns=["rater_id", "photo", *DIMENSIONS, "rated_at"])
    columns = ["event_id", "user_id", "photo", "kind", "dimension", "value", "suggested", "model_version", "at"]
    return Simulated(pd.DataFrame(known), ratings, pd.DataFrame(events, columns=columns), pd.DataFrame(about))


def _moved(person: Rater, cluster: int, clusters: int, seed: int) -> Rater:
    """The same rater in another cluster."""
    leanings = {
        dimension: np.stack([cluster_leaning(dimension, cluster, clusters, seed), own])
        for dimension, (_, own) in person.leanings.items()
    }
    return Rater(person.name, cluster, leanings, person.scale)


def _test_photos(truth: pd.DataFrame) -> np.ndarray:
    from tasks.splits import TEST, split_of

    return np.array([split_of(photo) == TEST for photo in truth["photo_id"]])


def _days(first: str, span: int) -> Callable[[float], str]:
    """uniform number → ISO time UTC within `span` days from `first`."""
    start = np.datetime64(first, "s")
    return lambda share: f"{start + np.timedelta64(int(share * span * 86400), 's')}Z"


def _events(
    user: str, names: list[str], part: np.ndarray, opinions: np.ndarray, date: str, night: int, keys, seed: int
) -> list[tuple]:
    day = _days(date, 1)
    events = []
    for i in part:
        at = day(uniform(key(seed, "event", user, night), keys[i : i + 1])[0])
        for d, dimension in enumerate(DIMENSIONS):
            if not np.isnan(opinions[i, d]):
                event = f"{key(seed, 'id', user, names[i], dimension, night):016x}"
                value = float(opinions[i, d])
                events.append((event, user, names[i], "rating", dimension, value, None, None, at))
    return events


def review(
    opinions: np.ndarray,
    pseudo: np.ndarray,
    *,
    just_noticeable: float = 0.6,
    anchor: float = 0.3,
    seed: int = 0,
) -> tuple[np.ndarray, dict[str, float]]:
    """An expert reviews drafted labels: small errors pass, larger ones are corrected towards the own opinion.

    opinions, pseudo: (photos, D), NaN = no opinion or no draft. Where |opinion - pseudo| is below `just_noticeable`
    (points of 0..10; each judgement's threshold varies by 20 %) the draft stays, else the label becomes the opinion,
    pulled back by the share `anchor` of the way towards the draft (people correct too little: Tversky & Kahneman
    1974). Without a draft the opinion stands; without an opinion there is no label. Returns the revised labels and
    the effort: `moved`, mean |revised - pseudo| in points, and `touched`, the share of drafts that were changed.
    """
    opinions, pseudo = np.asarray(opinions, np.float64), np.asarray(pseudo, np.float64)
    threshold = just_noticeable * np.clip(1 + 0.2 * np.random.default_rng(seed).normal(size=opinions.shape), 0.2, 2)
    gap = opinions - pseudo
    corrected = np.round(opinions - anchor * gap, 1)
    revised = np.where(np.abs(gap) < threshold, pseudo, corrected)
    revised = np.where(np.isnan(pseudo), opinions, revised)
    revised = np.where(np.isnan(opinions), np.nan, revised)
    both = ~np.isnan(opinions) & ~np.isnan(pseudo)
    if not both.any():
        return revised, {"moved": 0.0, "touched": 0.0}
    change = np.abs(revised - pseudo)[both]
    return revised, {"moved": float(change.mean()), "touched": float((change > 0).mean())}
