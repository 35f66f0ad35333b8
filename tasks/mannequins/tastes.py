"""What simulated raters see in a body and like about it: attributes, tastes, scale use; nobody's names here.

A rater's utility of a photo on a dimension is made of unit-variance parts whose shares of the variance are
documented settings (`Mixture`): a taste common to all, preferred values of attributes of the body,
-Σ c (z - ideal)²; what the rater's cluster and the rater prefer otherwise (other ideals, which add terms in z, and
being more or less strict, which adds terms in z²); a part per rater and photo that nothing can learn but that the
rater would repeat; and the noise of the moment. The rating is the utility on the rater's own scale (offset, slope,
saturation), rounded to 0.1 and clipped to 0..10.

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
    noise: float = 0.06  # differs when asked again; utilities correlate at 1 - noise, ratings somewhat less

    def __post_init__(self) -> None:
        total = self.common + self.cluster + self.own + self.photo + self.noise
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the shares of Mixture sum to {total:.3f}, they must sum to 1")


MIXTURES: dict[str, Mixture] = {
    "appearance": Mixture(common=0.69, cluster=0.08, own=0.06, photo=0.12, noise=0.05),
    "health": Mixture(common=0.65, cluster=0.07, own=0.06, photo=0.17, noise=0.05),
    "posture": Mixture(common=0.49, cluster=0.12, own=0.12, photo=0.19, noise=0.08),
}


@dataclass
class Rater:
    name: str
    cluster: int
    leanings: dict[str, np.ndarray] = field(default_factory=dict)  # dimension → (cluster/own, z/z², attributes)
    scale: dict[str, tuple[float, float, float]] = field(default_factory=dict)  # offset, slope, saturation


def key(*parts: object) -> int:
    return int.from_bytes(blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest(), "little")


def rng_of(*parts: object) -> np.random.Generator:
    return np.random.default_rng(key(*parts))


def uniform(rater_key: int, photo_keys: np.ndarray) -> np.ndarray:
    """One uniform number in (0, 1) per photo: splitmix64 of the two keys (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = (photo_keys ^ np.uint64(rater_key)) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def _normal(rater_key: int, photo_keys: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    return ndtri(uniform(rater_key, photo_keys))


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


def draw_raters(names: Sequence[str], clusters: int, seed: int, drifted: bool = False) -> list[Rater]:
    """Raters with their ideals; `drifted` draws the cluster and own taste anew, scale use stays."""
    people = []
    for name in names:
        rng = rng_of(seed, "rater", name)
        cluster = key(seed, "cluster", name) % clusters
        if drifted:
            cluster = (cluster + 1 + key(seed, "drift to", name) % max(1, clusters - 1)) % clusters
        person = Rater(name, cluster)
        own = rng_of(seed, "own", name, drifted)
        for dimension in ATTRIBUTES:
            person.leanings[dimension] = np.stack(
                [cluster_leaning(dimension, cluster, clusters, seed), _leaning(own, dimension)]
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


def cluster_leaning(dimension: str, cluster: int, clusters: int, seed: int) -> np.ndarray:
    """A cluster's leaning (2, attributes); the clusters' leanings sum to zero, so that the common taste is the mean."""
    every = [_leaning(rng_of(seed, "cluster taste", dimension, k), dimension) for k in range(clusters)]
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


def together_of(names: list[str]) -> np.ndarray:
    """Correlation matrix of these attributes in the population of `REFERENCE`."""
    matrix = np.eye(len(names))
    for i, one in enumerate(names):
        for j, two in enumerate(names):
            if i != j:
                matrix[i, j] = CORRELATED.get((one, two), CORRELATED.get((two, one), 0.0))
    return matrix


def opinions(
    person: Rater, z: dict[str, np.ndarray], keys: np.ndarray, mixtures: dict[str, Mixture], seed: int, occasion: str
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
        together = together_of(used)
        ideal = np.array([ATTRIBUTES[dimension][name][1] for name in used])
        common = _taste(values, weight, ideal, together)
        cluster, own = (_otherwise(values, part[:, pick], together) for part in person.leanings[dimension])
        utility = (
            np.sqrt(mixture.common) * common
            + np.sqrt(mixture.cluster) * cluster
            + np.sqrt(mixture.own) * own
            + np.sqrt(mixture.photo) * _normal(key(seed, "photo", person.name, dimension), keys)
            + np.sqrt(mixture.noise) * _normal(key(seed, "noise", person.name, dimension, occasion), keys)
        )
        offset, slope, saturation = person.scale[dimension]
        score = offset + slope * saturation * np.tanh(utility / saturation)
        result[:, d] = np.round(np.clip(score, *SCALE), 1)
    return result
