"""Simulated raters of mannequins: tastes in clusters, own scale use, surveys, drift; calibrated in docs/calibration.md.

A rater's utility of a photo on a dimension is made of unit-variance parts whose shares of the variance are
documented settings (`Mixture`): a taste common to all, preferred values of attributes of the body,
-Σ c (z - ideal)²; what the rater's cluster and the rater prefer otherwise (other ideals, which add terms in z, and
being more or less strict, which adds terms in z²); a part per rater and photo that nothing can learn but that the
rater would repeat; and the noise of the moment. The rating is the utility on the rater's own scale
(offset, slope, saturation), rounded to 0.1 and clipped to 0..10.

Every number depends on (seed, rater, photo) alone, through hashes: adding photos or raters leaves the existing
ratings as they were. Which photos a user rates goes by hash order, so that it stays mostly the same too.

    .venv/bin/python bench/calibrate_raters.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from model.scores import DIMENSIONS, SCALE

if TYPE_CHECKING:
    import pandas as pd

# Attributes with mean and spread of the simulated population. Fixed, so that a photo's utility does not depend on
# which other photos there are. A truth table needs only some of them; those it lacks play no part.
REFERENCE: dict[str, tuple[float, float]] = {
    "bmi": (22.6, 3.4),  # kg/m²
    "waist": (0.735, 0.104),  # girth, m
    "waist_hip": (0.722, 0.077),  # girths
    "shoulder_waist": (1.264, 0.17),  # widths
    "muscularity": (0.495, 0.075),  # limb girth over waist girth
    "leg_height": (0.519, 0.0146),
    "height": (1.72, 0.067),  # m
    "slouch": (0.43, 0.21),  # √rad, this and the following: what is seen of an angle grows slower than the angle
    "head_forward": (0.36, 0.17),
    "shoulder_tilt": (0.20, 0.10),
    "pelvis_tilt": (0.21, 0.11),
}
# Correlations above 0.2 in that population; they make the variance of a taste come out right.
CORRELATED: dict[tuple[str, str], float] = {
    ("bmi", "waist"): 0.73,
    ("bmi", "waist_hip"): 0.23,
    ("bmi", "shoulder_waist"): -0.39,
    ("bmi", "height"): 0.22,
    ("waist", "waist_hip"): 0.75,
    ("waist", "shoulder_waist"): -0.77,
    ("waist", "muscularity"): -0.61,
    ("waist", "height"): 0.25,
    ("waist_hip", "shoulder_waist"): -0.69,
    ("waist_hip", "muscularity"): -0.72,
    ("shoulder_waist", "muscularity"): 0.60,
    ("slouch", "head_forward"): 0.35,
    ("slouch", "shoulder_tilt"): 0.25,
    ("slouch", "pelvis_tilt"): 0.3,
    ("head_forward", "shoulder_tilt"): 0.25,
    ("head_forward", "pelvis_tilt"): 0.3,
}
# What each dimension looks at: attribute → (weight of its preferred value, where people on average prefer it, in
# units of spread, and how far apart people's preferences lie).
ATTRIBUTES: dict[str, dict[str, tuple[float, float, float]]] = {
    "appearance": {
        "bmi": (1.0, -0.9, 0.8),
        "waist_hip": (0.6, -1.2, 0.7),
        "shoulder_waist": (0.6, 1.2, 0.8),
        "muscularity": (0.5, 1.0, 0.9),
        "leg_height": (0.6, 1.0, 0.8),
        "height": (0.5, 1.0, 0.8),
    },
    "health": {
        "bmi": (1.2, -0.8, 0.8),
        "waist": (0.8, -1.3, 0.7),
        "waist_hip": (0.5, -1.2, 0.7),
        "muscularity": (0.5, 1.2, 0.8),
    },
    "posture": {
        "slouch": (1.2, -1.2, 0.8),
        "head_forward": (1.0, -1.2, 0.8),
        "shoulder_tilt": (0.7, -1.0, 0.8),
        "pelvis_tilt": (0.5, -0.6, 0.9),
        "bmi": (0.3, -0.6, 0.9),
    },
}


@dataclass(frozen=True)
class Mixture:
    """Shares of the variance of a rater's utility; they sum to 1."""

    common: float  # taste that all share
    cluster: float  # taste of the rater's cluster
    own: float  # the rater's own taste
    photo: float  # this rater's view of this photo, repeatable, not a matter of attributes
    noise: float = 0.09  # differs when asked again: repeats correlate at 1 - noise

    def __post_init__(self) -> None:
        total = self.common + self.cluster + self.own + self.photo + self.noise
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the shares of Mixture sum to {total:.3f}, they must sum to 1")


MIXTURES: dict[str, Mixture] = {
    "appearance": Mixture(common=0.55, cluster=0.08, own=0.06, photo=0.22),
    "health": Mixture(common=0.60, cluster=0.08, own=0.06, photo=0.17),
    "posture": Mixture(common=0.42, cluster=0.12, own=0.10, photo=0.27),
}


@dataclass
class Simulated:
    """Frames in the CSV columns of the contract, and `truth`: per rater what nobody is told (cluster, drifted, …)."""

    raters: pd.DataFrame
    ratings: pd.DataFrame
    feedback: pd.DataFrame
    truth: pd.DataFrame


@dataclass
class _Rater:
    name: str
    cluster: int
    leanings: dict[str, np.ndarray] = field(default_factory=dict)  # dimension → (cluster/own, z/z², attributes)
    scale: dict[str, tuple[float, float, float]] = field(default_factory=dict)  # offset, slope, saturation


def _key(*parts: object) -> int:
    return int.from_bytes(blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest(), "little")


def _rng(*parts: object) -> np.random.Generator:
    return np.random.default_rng(_key(*parts))


def _uniform(rater_key: int, photo_keys: np.ndarray) -> np.ndarray:
    """One uniform number in (0, 1) per photo: splitmix64 of the two keys (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = (photo_keys ^ np.uint64(rater_key)) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def _normal(rater_key: int, photo_keys: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    return ndtri(_uniform(rater_key, photo_keys))


def attributes(truth: pd.DataFrame) -> dict[str, np.ndarray]:
    """Standardised attributes (rows,) of a truth table: those of `REFERENCE` that it has or that can be worked out.

    bmi from mass and height, waist_hip and leg_height from their parts; angles (rad) count by the root of their size.
    """
    table = {name: truth[name].to_numpy(np.float64) for name in truth.columns if name in REFERENCE}

    def worked_out(name: str, over: str, under: str, power: int = 1) -> None:
        if name not in table and {over, under} <= set(truth.columns):
            table[name] = (truth[over] / truth[under] ** power).to_numpy(np.float64)

    worked_out("bmi", "mass", "height", 2)
    worked_out("waist_hip", "waist", "hips")
    worked_out("leg_height", "leg_length", "height")
    for name in ("slouch", "head_forward", "shoulder_tilt", "pelvis_tilt"):
        if name in table:
            table[name] = np.sqrt(np.abs(table[name]))
    found = {}
    for name, values in table.items():
        if np.isfinite(values).any():
            mean, spread = REFERENCE[name]
            found[name] = np.clip((np.nan_to_num(values, nan=mean) - mean) / spread, -3.5, 3.5)
    return found


def _people(names: Sequence[str], clusters: int, seed: int, drifted: bool = False) -> list[_Rater]:
    """Raters with their ideals; `drifted` draws the cluster and own taste anew, scale use stays."""
    people = []
    for name in names:
        rng = _rng(seed, "rater", name)
        cluster = _key(seed, "cluster", name) % clusters
        if drifted:
            cluster = (cluster + 1 + _key(seed, "drift to", name) % max(1, clusters - 1)) % clusters
        person = _Rater(name, cluster)
        own = _rng(seed, "own", name, drifted)
        for dimension in ATTRIBUTES:
            person.leanings[dimension] = np.stack(
                [_cluster_leaning(dimension, cluster, clusters, seed), _leaning(own, dimension)]
            )
            person.scale[dimension] = (
                5.2 + 0.9 * rng.normal(),
                1.75 * np.exp(0.22 * rng.normal()),
                rng.uniform(1.8, 3.5),
            )
        people.append(person)
    return people


def _leaning(rng: np.random.Generator, dimension: str) -> np.ndarray:
    """What somebody prefers otherwise than people on average: (2, attributes) weights of z and of (z² - 1)/√2."""
    width = np.array([c * spread for c, _, spread in ATTRIBUTES[dimension].values()])
    return np.stack([rng.normal(size=len(width)) * width, 0.4 * rng.normal(size=len(width)) * width])


def _cluster_leaning(dimension: str, cluster: int, clusters: int, seed: int) -> np.ndarray:
    """A cluster's leaning (2, attributes); the clusters' leanings sum to zero, so that the common taste is the mean."""
    every = [_leaning(_rng(seed, "cluster taste", dimension, k), dimension) for k in range(clusters)]
    return every[cluster] - np.mean(every, 0) if clusters > 1 else every[0]


def _otherwise(z: np.ndarray, leaning: np.ndarray, together: np.ndarray) -> np.ndarray:
    """A leaning's utility (N,), mean 0 and variance 1 for normal z (N, attributes) of correlation `together`."""
    linear, square = leaning
    raw = z @ linear + ((z**2 - 1) / np.sqrt(2)) @ square
    variance = linear @ together @ linear + square @ together**2 @ square
    return raw / np.sqrt(max(variance, 1e-12))


def _taste(z: np.ndarray, weight: np.ndarray, ideal: np.ndarray, together: np.ndarray) -> np.ndarray:
    """-Σ c (z - ideal)², brought to mean 0 and variance 1 for normal z (N, attributes) of correlation `together`."""
    raw = -((z - ideal) ** 2) @ weight
    mean = -(weight * (1 + ideal**2)).sum()
    product = weight[:, None] * together
    pull = weight * ideal
    variance = 2 * np.trace(product @ product) + 4 * pull @ together @ pull
    return (raw - mean) / np.sqrt(variance)


def _together(names: list[str]) -> np.ndarray:
    """Correlation matrix of these attributes in the population of `REFERENCE`."""
    matrix = np.eye(len(names))
    for i, one in enumerate(names):
        for j, two in enumerate(names):
            if i != j:
                matrix[i, j] = CORRELATED.get((one, two), CORRELATED.get((two, one), 0.0))
    return matrix


def _opinions(
    person: _Rater, z: dict[str, np.ndarray], keys: np.ndarray, mixtures: dict[str, Mixture], seed: int, occasion: str
) -> np.ndarray:
    """(photos, D) ratings 0..10; `occasion` changes the noise of the moment and nothing else."""
    result = np.full((len(keys), len(DIMENSIONS)), np.nan)
    for d, dimension in enumerate(DIMENSIONS):
        mixture, used = mixtures[dimension], [name for name in ATTRIBUTES[dimension] if name in z]
        if not used:
            continue
        pick = [list(ATTRIBUTES[dimension]).index(name) for name in used]
        values = np.stack([z[name] for name in used], 1)
        weight = np.array([ATTRIBUTES[dimension][name][0] for name in used])
        together = _together(used)
        ideal = np.array([ATTRIBUTES[dimension][name][1] for name in used])
        common = _taste(values, weight, ideal, together)
        cluster, own = (_otherwise(values, part[:, pick], together) for part in person.leanings[dimension])
        utility = (
            np.sqrt(mixture.common) * common
            + np.sqrt(mixture.cluster) * cluster
            + np.sqrt(mixture.own) * own
            + np.sqrt(mixture.photo) * _normal(_key(seed, "photo", person.name, dimension), keys)
            + np.sqrt(mixture.noise) * _normal(_key(seed, "noise", person.name, dimension, occasion), keys)
        )
        offset, slope, saturation = person.scale[dimension]
        score = offset + slope * saturation * np.tanh(utility / saturation)
        result[:, d] = np.round(np.clip(score, *SCALE), 1)
    return result


def _survey(person: _Rater, clusters: int, mixtures: dict[str, Mixture], seed: int) -> dict[str, str]:
    """Answers: three about bodies (noisy readings of the leanings), three about the person (hardly informative)."""
    rng = _rng(seed, "survey", person.name)

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
    judging_per_user: ratings after the last night on photos that hash to `test`, which no model is ever fitted
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
    seen = truth[truth["kind"] == "person"].reset_index(drop=True)
    z = attributes(seen)
    if len(seen) == 0 or not z:
        raise ValueError("truth has no photo of kind 'person' with attributes to rate")
    names = seen["photo"].astype(str).tolist()
    keys = np.array([_key(seed, "key", name) for name in names], np.uint64)
    test = _test_photos(seen) if judging_per_user else np.zeros(len(seen), bool)

    expert_names = [f"expert-{i + 1:02d}" for i in range(experts)]
    user_names = [f"user-{i + 1:04d}" for i in range(users)]
    rows, events, about, known = [], [], [], []
    for role, group in (("expert", expert_names), ("user", user_names)):
        before = _people(group, clusters, seed)
        after = _people(group, clusters, seed, drifted=True)
        for place, (person, later) in enumerate(zip(before, after)):
            if role == "expert":
                # Experts cover the clusters evenly: the base should hold someone for everybody.
                person = _moved(person, place % clusters, clusters, seed)
            drifts = role == "user" and _uniform(_key(seed, "drifts", person.name), keys[:1] * 0)[0] < drift
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
            opinions = _opinions(person, z, keys, mixtures, seed, "first")
            order = np.argsort(_uniform(_key(seed, "order", person.name), keys), kind="stable")
            chosen = np.arange(len(names)) if role == "expert" else np.sort(order[:ratings_per_user])
            day = _days("2026-01-05" if role == "expert" else "2026-02-01", 20 if role == "expert" else 80)
            for i in chosen:
                at = day(_uniform(_key(seed, "when", person.name), keys[i : i + 1])[0])
                rows.append((person.name, names[i], *opinions[i], at))
            if role == "expert":
                continue
            changed = _opinions(later if drifts else person, z, keys, mixtures, seed, "later")
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
    return Simulated(
        pd.DataFrame(known), ratings, pd.DataFrame(events, columns=columns), pd.DataFrame(about)
    )


def _moved(person: _Rater, cluster: int, clusters: int, seed: int) -> _Rater:
    """The same rater in another cluster."""
    leanings = {
        dimension: np.stack([_cluster_leaning(dimension, cluster, clusters, seed), own])
        for dimension, (_, own) in person.leanings.items()
    }
    return _Rater(person.name, cluster, leanings, person.scale)


def _test_photos(truth: pd.DataFrame) -> np.ndarray:
    from tasks.splits import TEST, split_of

    return np.array([split_of(photo) == TEST for photo in truth["photo_id"]])


def _days(first: str, span: int):
    """uniform number → ISO time UTC within `span` days from `first`."""
    start = np.datetime64(first, "s")
    return lambda share: f"{start + np.timedelta64(int(share * span * 86400), 's')}Z"


def _events(
    user: str, names: list[str], part: np.ndarray, opinions: np.ndarray, date: str, night: int, keys, seed: int
) -> list[tuple]:
    day = _days(date, 1)
    events = []
    for i in part:
        at = day(_uniform(_key(seed, "event", user, night), keys[i : i + 1])[0])
        for d, dimension in enumerate(DIMENSIONS):
            if not np.isnan(opinions[i, d]):
                event = f"{_key(seed, 'id', user, names[i], dimension, night):016x}"
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
