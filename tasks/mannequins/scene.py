"""What stands before the camera: bodies, postures, clothes, light and framing, all drawn from one generator.

Notable:
- `sample_scene(np.random.default_rng([seed, i]))` depends on nothing else, so photo i never changes;
- posture is what the posture raters see: each attribute (radians) bends the joints that do it in a person.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from tasks.mannequins.backdrop import Backdrop, sample_backdrop

POSTURE = ("slouch", "head_forward", "shoulder_tilt", "pelvis_tilt", "lean", "knee_bend")
"""Posture attributes in radians. slouch: bend of the upper back, >= 0; head_forward: neck forward with the face kept
upright, >= 0; shoulder_tilt: left shoulder higher > 0; pelvis_tilt: forward > 0; lean: sideways to the left > 0;
knee_bend >= 0."""


@dataclass(frozen=True)
class Clothes:
    """Colours (RGB 0..255) and cuts; lengths are shares of the limb they cover."""

    skin: np.ndarray
    hair: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    shoes: np.ndarray
    sleeve: float
    """Covered share of the arm, shoulder to wrist."""
    hem: float
    """Covered share of the leg, hip to ankle."""
    neckline: float
    """Depth of the neckline in metres."""
    bald: bool
    stripes: float
    """Stripes on the top per metre; 0 for none."""
    stripe_colour: np.ndarray


@dataclass(frozen=True)
class Person:
    """A body with clothes. betas (10,), pose (66,) axis-angle in radians, posture: attribute -> radians."""

    betas: np.ndarray
    pose: np.ndarray
    posture: dict[str, float]
    clothes: Clothes


@dataclass(frozen=True)
class Framing:
    """How the camera looks at the person."""

    field_of_view: float = np.deg2rad(45.0)
    """Vertical field of view in radians."""
    fill: float = 0.75
    """Height of the person as a share of the frame's height."""
    across: float = 0.0
    down: float = 0.0
    """Place of the person in the free space of the frame, -1 (left, top) .. 1 (right, bottom)."""


@dataclass(frozen=True)
class Light:
    """A distant lamp (`towards` it: unit vector, camera axes) and light from everywhere."""

    towards: np.ndarray = field(default_factory=lambda: np.array([-0.4, -0.6, -0.7]))
    ambient: float = 0.45
    diffuse: float = 0.65
    tint: np.ndarray = field(default_factory=lambda: np.ones(3))


@dataclass(frozen=True)
class Scene:
    person: Person | None
    framing: Framing
    light: Light
    backdrop: Backdrop
    grain: float
    """Sensor noise, standard deviation in grey levels."""
    grain_seed: int


def turn(*rotvecs: tuple | np.ndarray) -> np.ndarray:
    """Product of rotations given as axis-angle (3,), the last one applied first; angle of the result in [0, pi]."""
    w, x, y, z = 1.0, 0.0, 0.0, 0.0
    for a, b, c in rotvecs:  # plain floats: thousands of these small products are made
        angle = math.sqrt(a * a + b * b + c * c)
        half = math.sin(angle / 2) / angle if angle > 1e-9 else 0.5
        pw, px, py, pz = math.cos(angle / 2), half * a, half * b, half * c
        w, x, y, z = (
            w * pw - x * px - y * py - z * pz,
            w * px + x * pw + y * pz - z * py,
            w * py - x * pz + y * pw + z * px,
            w * pz + x * py - y * px + z * pw,
        )
    if w < 0:
        w, x, y, z = -w, -x, -y, -z
    norm = math.sqrt(x * x + y * y + z * z)
    scale = 2 * math.atan2(norm, w) / norm if norm > 1e-12 else 0.0
    return np.array([scale * x, scale * y, scale * z])


def _posture(rng: np.random.Generator) -> dict[str, float]:
    upright = rng.random() < 0.35
    scale = 0.3 if upright else 1.0
    return {
        "slouch": scale * float(np.clip(rng.gamma(2.0, 0.16), 0, 0.85)),
        "head_forward": scale * float(np.clip(rng.gamma(2.0, 0.11), 0, 0.60)),
        "shoulder_tilt": scale * float(np.clip(rng.normal(0, 0.09), -0.25, 0.25)),
        "pelvis_tilt": scale * float(np.clip(rng.normal(0.03, 0.10), -0.25, 0.35)),
        "lean": scale * float(np.clip(rng.normal(0, 0.06), -0.2, 0.2)),
        "knee_bend": scale * float(np.clip(rng.gamma(1.5, 0.06), 0, 0.4)),
    }


def _arms(rng: np.random.Generator, body: np.ndarray) -> None:
    """Shoulders (16, 17) and elbows (18, 19); from T-pose, the left arm falls by turning about -z."""
    kind = rng.choice(["down", "down", "down", "down", "open", "hips", "front", "raised"])
    for shoulder, elbow, s in ((16, 18, 1.0), (17, 19, -1.0)):
        if kind != "down" and rng.random() < 0.25:
            fall, swing, bend, inward = 1.25, 0.0, 0.15, 0.0  # one arm does it, the other hangs
        elif kind == "down":
            fall, swing, bend, inward = rng.normal(1.26, 0.07), rng.normal(0.05, 0.12), abs(rng.normal(0.2, 0.15)), 0.0
        elif kind == "open":
            fall, swing, bend, inward = rng.uniform(0.7, 1.1), rng.normal(0, 0.15), abs(rng.normal(0.25, 0.2)), 0.0
        elif kind == "hips":
            fall, swing, bend, inward = rng.uniform(0.75, 0.95), rng.normal(-0.1, 0.1), 0.3, rng.uniform(1.2, 1.7)
        elif kind == "front":
            fall, swing, bend, inward = rng.normal(1.25, 0.06), rng.uniform(0.1, 0.5), rng.uniform(0.8, 1.7), 0.2
        else:
            fall, swing, bend, inward = rng.uniform(-0.9, 0.6), rng.normal(0, 0.2), rng.uniform(0.1, 1.0), 0.0
        twist = rng.normal(0, 0.15)
        body[shoulder] = turn((-swing, 0, 0), (0, 0, -s * fall), (twist, 0, 0))
        body[elbow] = turn((0, -s * bend, 0), (0, 0, -s * inward))
        body[elbow + 2] = rng.normal(0, 0.10, 3)


def _legs(rng: np.random.Generator, body: np.ndarray, knee: float, pelvis: float) -> None:
    stance = abs(rng.normal(0.04, 0.05))
    step = rng.normal(0, 0.10)
    for hip, s in ((1, 1.0), (2, -1.0)):
        bend = knee + (0.25 * rng.random() if rng.random() < 0.2 else 0.0)
        forward = s * step
        body[hip] = turn((-pelvis - 0.5 * bend - forward, 0, 0), (0, 0, s * stance), (0, s * rng.normal(0.1, 0.1), 0))
        body[hip + 3] = (bend, 0, 0)
        body[hip + 6] = turn((-0.5 * bend + forward, 0, 0), (0, 0, -s * stance))


def sample_pose(rng: np.random.Generator, posture: dict[str, float]) -> np.ndarray:
    """(66,) axis-angle: a standing person of that posture, seen by a camera with y down and z forward."""
    body = np.zeros((22, 3))
    slouch, head, tilt = posture["slouch"], posture["head_forward"], posture["shoulder_tilt"]
    pelvis, lean = posture["pelvis_tilt"], posture["lean"]
    wide = rng.random() < 0.15
    yaw = rng.uniform(-1.5, 1.5) if wide else np.clip(rng.normal(0, 0.40), -1.0, 1.0)
    pitch, roll = rng.normal(0.03, 0.05), rng.normal(0, 0.02)
    # The half turn about x takes the model's axes (y up) to the camera's; the camera's own tilt comes after it.
    body[0] = turn((pitch, 0, 0), (0, 0, roll), (np.pi, 0, 0), (0, yaw, 0), (pelvis, 0, 0))
    body[3] = turn((-pelvis + 0.15 * slouch, 0, 0), (0, 0, -0.5 * lean))
    body[6] = turn((0.40 * slouch, 0, 0), (0, 0, -0.5 * lean), (0, rng.normal(0, 0.05), 0))
    body[9] = turn((0.45 * slouch, 0, 0), (0, rng.normal(0, 0.05), 0))
    body[12] = (head - 0.35 * slouch, 0, 0)
    look = rng.normal(0, 0.15)
    body[15] = turn((-head - 0.40 * slouch + rng.normal(0, 0.08), 0, 0), (0, look, 0), (0, 0, 0.6 * lean))
    rounded = 0.45 * slouch
    body[13] = turn((0, -rounded, 0), (0, 0, tilt))
    body[14] = turn((0, rounded, 0), (0, 0, tilt))
    _arms(rng, body)
    _legs(rng, body, posture["knee_bend"], pelvis)
    return body.reshape(66)


_SKINS = np.array(
    [(246, 213, 190), (232, 190, 160), (208, 160, 124), (168, 118, 84), (122, 82, 58), (84, 56, 42)], float
)
_HAIRS = np.array([(30, 24, 20), (70, 48, 32), (120, 84, 50), (190, 150, 95), (150, 150, 150), (110, 50, 30)], float)


def _clothes(rng: np.random.Generator) -> Clothes:
    def dye() -> np.ndarray:
        hue, saturation, value = rng.random(), rng.beta(1.5, 2.0), rng.uniform(0.15, 0.95)
        k = (np.array([5.0, 3.0, 1.0]) + 6 * hue) % 6
        return 255 * value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))

    return Clothes(
        skin=np.clip(_SKINS[rng.integers(len(_SKINS))] + rng.normal(0, 8, 3), 0, 255),
        hair=np.clip(_HAIRS[rng.integers(len(_HAIRS))] + rng.normal(0, 8, 3), 0, 255),
        top=dye(),
        bottom=dye(),
        shoes=dye() * 0.8,
        sleeve=float(rng.choice([0.0, 0.30, 0.36, 0.75, 0.97])),
        hem=float(rng.choice([0.30, 0.48, 0.75, 0.97, 0.97, 0.97])),
        neckline=float(rng.uniform(0.0, 0.10)),
        bald=bool(rng.random() < 0.08),
        stripes=float(rng.choice([0, 0, 0, 12, 25])),
        stripe_colour=dye(),
    )


def sample_person(rng: np.random.Generator) -> Person:
    """A person: betas from N(0, 1) within 2.5 standard deviations, posture, pose and clothes."""
    betas = np.clip(rng.standard_normal(10), -2.5, 2.5).astype(np.float32)
    posture = _posture(rng)
    return Person(betas, sample_pose(rng, posture).astype(np.float32), posture, _clothes(rng))


def sample_scene(rng: np.random.Generator, nobody: bool = False) -> Scene:
    """A person (or nobody) before a backdrop, with light and framing."""
    person = None if nobody else sample_person(rng)
    framing = Framing(
        field_of_view=float(np.deg2rad(rng.uniform(22, 58))),
        fill=float(rng.uniform(0.55, 0.90)),
        across=float(np.clip(rng.normal(0, 0.35), -0.9, 0.9)),
        down=float(np.clip(rng.normal(0.25, 0.35), -0.9, 0.9)),
    )
    towards = np.array([rng.normal(0, 0.6), -abs(rng.normal(0.6, 0.3)), -abs(rng.normal(0.8, 0.3))])
    warmth = rng.normal(0, 0.06)
    light = Light(
        towards=towards / np.linalg.norm(towards),
        ambient=float(rng.uniform(0.30, 0.60)),
        diffuse=float(rng.uniform(0.35, 0.80)),
        tint=np.array([1 + warmth, 1.0, 1 - warmth]),
    )
    backdrop = sample_backdrop(rng, cluttered=nobody)
    return Scene(person, framing, light, backdrop, float(rng.uniform(0, 6)), int(rng.integers(2**31)))
