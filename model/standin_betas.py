"""What the first ten shape numbers (betas) of the stand-in body model mean, and how they move the skin.

Notable: one unit of a beta is one standard deviation of the simulated population, so betas are drawn from N(0, 1);
lengths and girths below are changes per unit on the mean figure of 1.72 m. Motions are linear in the betas and move
skin and joint centres alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from model.standin_shape import FLOOR, JOINTS_LEFT


class Beta(NamedTuple):
    """One shape number: its name and what +1.0 of it does."""

    name: str
    meaning: str


BETAS: tuple[Beta, ...] = (
    Beta("height", "+6.5 cm of stature, the whole figure scaled alike"),
    Beta("mass", "more fat everywhere, most of it at the belly: about +12 % of volume"),
    Beta("shoulder_width", "+2.6 cm between the shoulder joints"),
    Beta("chest", "about +5 cm of chest girth"),
    Beta("waist", "about +6 cm of waist girth"),
    Beta("hip_width", "about +3 cm across the hips"),
    Beta("leg_length", "+2.5 cm from hip to ankle at the same stature (the trunk is shorter)"),
    Beta("muscularity", "+6 to 10 % of girth of upper arms, thighs and calves, fuller chest, -1 cm of waist width"),
    Beta("head_size", "+4 % of head height and width"),
    Beta("arm_length", "+1.8 cm from shoulder to wrist"),
)

_ARM = {j for j in range(16, 22)} | set(range(25, 55))
_LEG = {1, 2, 4, 5, 7, 8, 10, 11}
_HEAD = {15, 22, 23, 24}


@dataclass(frozen=True)
class Groups:
    """How much each point belongs to a region, each (N,) in 0..1; they sum to 1."""

    arm: np.ndarray
    collar: np.ndarray
    leg: np.ndarray
    head: np.ndarray
    neck: np.ndarray
    trunk: np.ndarray

    @classmethod
    def of_weights(cls, weights: np.ndarray) -> Groups:
        """From skinning weights (N, 55)."""

        def total(joints: set[int]) -> np.ndarray:
            return weights[:, sorted(joints)].sum(1)

        return cls(total(_ARM), total({13, 14}), total(_LEG), total(_HEAD), total({12}), total({0, 3, 6, 9}))


def _bump(x: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - centre) / width) ** 2)


def _ramp(x: np.ndarray, start: float, end: float) -> np.ndarray:
    return np.clip((x - start) / (end - start), 0.0, 1.0)


class _Mover:
    """Collects motions of points (N, 3); heights `h` are metres over the floor, `s` is the side (-1, 0, +1)."""

    def __init__(self, points: np.ndarray, groups: Groups):
        self.p, self.g = points, groups
        self.h, self.a, self.s = points[:, 1] - FLOOR, np.abs(points[:, 0]), np.sign(points[:, 0])
        self.d = np.zeros_like(points)

    def trunk(self, wide: np.ndarray, deep: np.ndarray, front: np.ndarray | float = 0.0) -> None:
        """Widens and deepens the trunk by fractions of its size; `front` only before the spine."""
        w = self.g.trunk + self.g.collar + self.g.neck
        z = self.p[:, 2] + 0.008
        self.d[:, 0] += w * self.p[:, 0] * wide
        self.d[:, 2] += w * z * (deep + front * (0.5 + 0.5 * np.tanh(z / 0.05)))

    def arms(self, thick: np.ndarray) -> None:
        axis = JOINTS_LEFT[16]
        self.d[:, 1] += self.g.arm * (self.h - axis[1] + 0.003) * thick
        self.d[:, 2] += self.g.arm * (self.p[:, 2] - axis[2]) * thick

    def legs(self, thick: np.ndarray) -> None:
        hip, knee, ankle = (JOINTS_LEFT[j] for j in (1, 4, 7))
        at = [ankle[1], knee[1], hip[1]]
        x = np.interp(self.h, at, [ankle[0], knee[0], hip[0]])
        z = np.interp(self.h, at, [ankle[2], knee[2], hip[2]])
        self.d[:, 0] += self.g.leg * (self.p[:, 0] - self.s * x) * thick
        self.d[:, 2] += self.g.leg * (self.p[:, 2] - z) * thick

    def arms_out(self, by: float) -> None:
        self.d[:, 0] += self.s * by * (self.g.arm + 0.45 * self.g.collar)

    def legs_out(self, by: float) -> None:
        self.d[:, 0] += self.s * by * self.g.leg


def _height(m: _Mover) -> None:
    pelvis = np.array([0.0, JOINTS_LEFT[0][1] + FLOOR, 0.0])
    m.d += 0.0378 * (m.p - pelvis)


def _mass(m: _Mover) -> None:
    belly = _bump(m.h, 1.06, 0.11)
    m.trunk(0.040 + 0.045 * belly, 0.055 + 0.03 * belly, 0.12 * belly)
    m.legs(0.075 * _ramp(m.h, 0.10, 0.35))
    m.arms(0.085 * _ramp(-m.a, -0.70, -0.45))
    m.legs_out(0.005)
    m.arms_out(0.003)
    cheeks = m.g.head * _bump(m.h, 1.54, 0.03)
    m.d[:, 0] += 0.05 * cheeks * m.p[:, 0]


def _shoulders(m: _Mover) -> None:
    m.arms_out(0.013)
    m.trunk(0.055 * _bump(m.h, 1.36, 0.06), 0.0 * m.h)


def _chest(m: _Mover) -> None:
    here = _bump(m.h, 1.28, 0.075)
    m.trunk(0.040 * here, 0.060 * here)
    m.arms_out(0.002)


def _waist(m: _Mover) -> None:
    here = _bump(m.h, 1.08, 0.060)
    m.trunk(0.075 * here, 0.060 * here, 0.05 * here)


def _hips(m: _Mover) -> None:
    m.trunk(0.075 * _bump(m.h, 0.93, 0.07), 0.030 * _bump(m.h, 0.91, 0.07))
    m.legs_out(0.009)
    m.legs(0.055 * _bump(m.h, 0.82, 0.09))


def _legs(m: _Mover) -> None:
    hip, ankle = JOINTS_LEFT[1][1], JOINTS_LEFT[7][1]
    m.d[:, 1] -= 0.025 * _ramp(-m.h, -hip, -ankle)
    m.d[:, 1] -= 0.025 * _ramp(m.h, JOINTS_LEFT[0][1], JOINTS_LEFT[12][1] - 0.065)


def _muscle(m: _Mover) -> None:
    m.arms(0.030 + 0.07 * _bump(m.a, 0.30, 0.09) + 0.06 * _bump(m.a, 0.51, 0.06) - 0.030 * _ramp(m.a, 0.55, 0.69))
    m.legs(0.065 * _bump(m.h, 0.70, 0.15) + 0.085 * _bump(m.h, 0.37, 0.08))
    m.trunk(
        0.030 * _bump(m.h, 1.32, 0.08) - 0.035 * _bump(m.h, 1.07, 0.06) + 0.06 * m.g.neck,
        0.030 * _bump(m.h, 1.32, 0.07) - 0.02 * _bump(m.h, 1.06, 0.06) + 0.06 * m.g.neck,
        0.030 * _bump(m.h, 1.31, 0.05),
    )


def _head(m: _Mover) -> None:
    m.d += 0.04 * (m.g.head + 0.3 * m.g.neck)[:, None] * (m.p - [0.0, 1.49 + FLOOR, -0.01])


def _arms(m: _Mover) -> None:
    m.d[:, 0] += 0.018 * m.s * m.g.arm * _ramp(m.a, JOINTS_LEFT[16][0], JOINTS_LEFT[20][0])


def shape_directions(points: np.ndarray, groups: Groups) -> np.ndarray:
    """(N, 3, 10) motion in metres of `points` (N, 3) per unit of each beta."""
    out = []
    for move in (_height, _mass, _shoulders, _chest, _waist, _hips, _legs, _muscle, _head, _arms):
        mover = _Mover(points, groups)
        move(mover)
        out.append(mover.d)
    return np.stack(out, -1)


def expressions(points: np.ndarray, part: np.ndarray) -> np.ndarray:
    """(N, 3, 10) ten small motions of the face: jaw, lips, brows, cheeks and nose (metres per unit)."""
    x, z = points[:, 0], points[:, 2]
    h = points[:, 1] - FLOOR
    front = (h > 1.49) * _ramp(z, 0.02, 0.08)
    lip_up, lip_low, brow = part == 5, part == 6, part == 3
    chin = front * _bump(h, 1.525, 0.02)
    moves = np.zeros((len(points), 3, 10))
    moves[:, 1, 0] = -0.004 * np.maximum(chin, lip_low)  # mouth open
    moves[:, 0, 1] = 0.10 * x * (lip_up | lip_low)  # wide mouth
    moves[:, 1, 2] = 0.003 * brow  # brows up
    moves[:, 1, 3] = 4.0 * x**2 * (lip_up | lip_low)  # smile
    moves[:, 2, 4] = 0.002 * (lip_up | lip_low)  # pout
    moves[:, 1, 5] = 0.10 * np.abs(x) * brow  # brows slanted
    moves[:, 0, 6] = 0.04 * x * front * _bump(h, 1.555, 0.02)  # cheeks
    moves[:, 2, 7] = 0.002 * chin  # chin forward
    moves[:, 1, 8] = 0.002 * lip_up  # upper lip raised
    moves[:, 2, 9] = 0.002 * front * _bump(h, 1.59, 0.01) * _bump(x, 0, 0.01)  # nose
    return moves
