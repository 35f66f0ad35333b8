"""The figure behind the stand-in body model: an implicit surface of ellipsoids, cones and body profiles.

Notable:
- nothing here comes from a scanned or licensed body; lengths follow the usual fractions of stature
  (Drillis & Contini 1966) for a person of 1.72 m in T-pose, y up, z forward, metres, floor at y = FLOOR;
- only the left half (x >= 0) is described: every function takes |x|, so the figure is symmetrical.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FLOOR = -1.30
"""Height of the soles in the model's coordinates; the pelvis joint lies at y = -0.35."""

_ARM = 1.395  # height of the arms over the floor in T-pose

# Joints of the left half and of the middle, metres over the floor; the right half is mirrored.
JOINTS_LEFT: dict[int, tuple[float, float, float]] = {
    0: (0.0, 0.950, -0.005),  # pelvis
    1: (0.092, 0.895, -0.005),  # hip
    4: (0.108, 0.495, -0.004),  # knee
    7: (0.118, 0.085, -0.030),  # ankle
    10: (0.135, 0.030, 0.090),  # ball of the foot
    3: (0.0, 1.060, -0.020),  # spine, lower
    6: (0.0, 1.180, -0.025),  # spine, middle
    9: (0.0, 1.300, -0.030),  # spine, upper
    12: (0.0, 1.460, -0.022),  # neck
    15: (0.0, 1.555, 0.000),  # head
    13: (0.045, 1.400, -0.015),  # collar
    16: (0.172, _ARM, -0.012),  # shoulder
    18: (0.440, _ARM - 0.005, -0.018),  # elbow
    20: (0.690, _ARM - 0.005, -0.008),  # wrist
    22: (0.0, 1.555, 0.025),  # jaw
    23: (0.031, 1.615, 0.0668),  # eye
    # fingers, three joints each: index, middle, pinky, ring, thumb
    **{25 + i: (0.782 + s, _ARM - 0.008, 0.0270 + 0.12 * s) for i, s in enumerate((0.0, 0.034, 0.058))},
    **{28 + i: (0.787 + s, _ARM - 0.006, 0.0070 + 0.03 * s) for i, s in enumerate((0.0, 0.038, 0.064))},
    **{31 + i: (0.775 + s, _ARM - 0.010, -0.0340 - 0.20 * s) for i, s in enumerate((0.0, 0.027, 0.046))},
    **{34 + i: (0.784 + s, _ARM - 0.007, -0.0140 - 0.07 * s) for i, s in enumerate((0.0, 0.034, 0.058))},
    37: (0.712, _ARM - 0.010, 0.022),
    38: (0.744, _ARM - 0.014, 0.048),
    39: (0.776, _ARM - 0.016, 0.060),
}
FINGER_TIPS: dict[str, tuple[float, float, float]] = {
    "index": (0.862, _ARM - 0.008, 0.038),
    "middle": (0.874, _ARM - 0.006, 0.010),
    "pinky": (0.838, _ARM - 0.010, -0.049),
    "ring": (0.864, _ARM - 0.007, -0.021),
    "thumb": (0.802, _ARM - 0.017, 0.066),
}
# The body parts whose left joints have a right twin in SMPL-X's numbering.
TWINS: dict[int, int] = {1: 2, 4: 5, 7: 8, 10: 11, 13: 14, 16: 17, 18: 19, 20: 21, 23: 24} | {
    j: j + 15 for j in range(25, 40)
}

# Torso profile: height over the floor, half width, depth in front, depth behind (metres from the y axis).
_TORSO = np.array(
    [
        (0.800, 0.060, 0.040, 0.045),
        (0.835, 0.135, 0.070, 0.092),
        (0.880, 0.166, 0.083, 0.118),
        (0.930, 0.170, 0.090, 0.118),
        (0.985, 0.156, 0.095, 0.098),
        (1.040, 0.139, 0.094, 0.082),
        (1.090, 0.132, 0.092, 0.078),
        (1.150, 0.138, 0.096, 0.086),
        (1.220, 0.151, 0.106, 0.100),
        (1.280, 0.158, 0.112, 0.108),
        (1.330, 0.160, 0.105, 0.111),
        (1.380, 0.152, 0.084, 0.104),
        (1.420, 0.118, 0.064, 0.090),
        (1.455, 0.070, 0.048, 0.070),
        (1.490, 0.030, 0.025, 0.040),
    ]
)

Field = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Primitive:
    """One piece of the figure: `distance(points (N, 3)) -> (N,)`, valid near the box `low`..`high`."""

    distance: Field
    low: np.ndarray
    high: np.ndarray
    blend: float
    """Radius in metres over which the piece melts into what is there already; negative: it is carved out."""


def _cone(a: tuple, b: tuple, ra: float, rb: float, blend: float, flat: float = 1.0) -> Primitive:
    """A capsule from a to b whose radius goes from ra to rb; `flat` < 1 squeezes it along y."""
    pa, pb = np.array(a, float), np.array(b, float)
    ab = pb - pa

    def distance(p: np.ndarray) -> np.ndarray:
        t = np.clip((p - pa) @ ab / (ab @ ab), 0.0, 1.0)
        d = p - pa - t[:, None] * ab
        d[:, 1] /= flat
        return np.sqrt((d * d).sum(1)) - (ra + (rb - ra) * t)

    r = max(ra, rb)
    return Primitive(distance, np.minimum(pa, pb) - r, np.maximum(pa, pb) + r, blend)


def _ellipsoid(centre: tuple, radii: tuple, blend: float) -> Primitive:
    c, r = np.array(centre, float), np.array(radii, float)

    def distance(p: np.ndarray) -> np.ndarray:
        q = (p - c) / r
        k0 = np.sqrt((q * q).sum(1))
        k1 = np.sqrt(((q / r) ** 2).sum(1))
        return k0 * (k0 - 1.0) / np.maximum(k1, 1e-9)

    return Primitive(distance, c - r, c + r, blend)


def _torso() -> Primitive:
    lo, hi = _TORSO[0, 0], _TORSO[-1, 0]
    fine = np.linspace(lo, hi, 500)
    soft = np.exp(-0.5 * (np.arange(-24, 25) / 10.0) ** 2)  # rounds the corners of the profile, sigma 1.4 cm
    table = np.stack(
        [
            np.convolve(np.pad(np.interp(fine, _TORSO[:, 0], column), 24, "edge"), soft / soft.sum(), "valid")
            for column in _TORSO[:, 1:].T
        ]
    )

    def distance(p: np.ndarray) -> np.ndarray:
        inside = np.clip(p[:, 1], lo, hi)
        width, front, back = (np.interp(inside, fine, column) for column in table)
        z = p[:, 2] + 0.008
        # A blunt step from the front's depth to the back's keeps the flank smooth.
        depth = back + (front - back) * (0.5 + 0.5 * np.tanh(z / 0.05))
        u, v = p[:, 0] / width, z / depth
        round_, square = u * u + v * v, u**4 + v**4  # between an ellipse and a rounded box
        q = np.sqrt(0.7 * round_ + 0.3 * np.sqrt(square))
        side = (q - 1.0) * np.minimum(width, depth)
        beyond = np.abs(p[:, 1] - inside)
        return np.where(beyond > 0, np.hypot(np.maximum(side, 0.0), beyond), side)

    return Primitive(distance, np.array([-0.2, lo, -0.15]), np.array([0.2, hi, 0.15]), 0.03)


def primitives() -> list[Primitive]:
    """The pieces in the order in which they are joined; heights over the floor."""
    j, tips = JOINTS_LEFT, FINGER_TIPS
    shoulder, elbow, wrist, hip, knee, ankle = j[16], j[18], j[20], j[1], j[4], j[7]
    pieces = [
        _torso(),
        # neck and shoulders
        _cone((0, 1.42, -0.022), (0, 1.56, 0.0), 0.060, 0.054, 0.05),
        _cone((0.03, 1.465, -0.030), (0.150, 1.418, -0.018), 0.040, 0.040, 0.04),
        _ellipsoid((0.172, 1.398, -0.012), (0.055, 0.056, 0.056), 0.04),
        # head: skull, face, chin, nose, brow; the sockets are carved afterwards
        _ellipsoid((0, 1.633, -0.008), (0.074, 0.088, 0.094), 0.035),
        _ellipsoid((0, 1.578, 0.026), (0.060, 0.082, 0.063), 0.03),
        _cone((0.012, 1.520, 0.060), (0.0, 1.522, 0.066), 0.022, 0.020, 0.025),
        _cone((0.0, 1.624, 0.082), (0.0, 1.588, 0.098), 0.008, 0.0125, 0.012),
        _ellipsoid((0.008, 1.586, 0.089), (0.011, 0.009, 0.012), 0.010),
        _ellipsoid((0.031, 1.612, 0.098), (0.022, 0.014, 0.022), -0.014),
        # chest and shoulder blades
        _ellipsoid((0.075, 1.305, 0.064), (0.072, 0.058, 0.040), 0.045),
        _ellipsoid((0.075, 0.885, -0.075), (0.080, 0.080, 0.062), 0.04),
        # arm
        _cone(shoulder, elbow, 0.050, 0.039, 0.045),
        _ellipsoid((0.300, 1.398, -0.006), (0.100, 0.046, 0.046), 0.03),
        _ellipsoid((0.500, 1.388, -0.014), (0.090, 0.044, 0.042), 0.03),
        _cone(elbow, (0.685, wrist[1], wrist[2]), 0.038, 0.028, 0.03),
        # palm
        _ellipsoid((0.745, wrist[1] - 0.002, -0.004), (0.062, 0.019, 0.044), 0.022),
        _cone((0.712, wrist[1] - 0.004, 0.018), j[38], 0.016, 0.0125, 0.012),
        _cone(j[38], tips["thumb"], 0.0120, 0.0095, 0.008),
        # leg
        _cone(hip, knee, 0.084, 0.057, 0.05),
        _ellipsoid((0.100, 0.700, 0.012), (0.073, 0.190, 0.076), 0.03),
        _cone(knee, (0.117, 0.10, -0.028), 0.053, 0.036, 0.03),
        _ellipsoid((0.113, 0.365, -0.028), (0.055, 0.125, 0.058), 0.03),
        # foot
        _cone((ankle[0], 0.09, ankle[2]), (0.120, 0.045, -0.045), 0.038, 0.038, 0.02),
        _cone((0.121, 0.050, -0.010), (0.134, 0.028, 0.110), 0.040, 0.030, 0.025),
        _ellipsoid((0.135, 0.026, 0.105), (0.045, 0.028, 0.070), 0.02),
        _ellipsoid((0.136, 0.022, 0.160), (0.040, 0.020, 0.042), 0.015),
    ]
    fingers = ((25, "index", 0.0092), (28, "middle", 0.0095), (34, "ring", 0.0090), (31, "pinky", 0.0080))
    for first, tip, radius in fingers:
        base = (j[first][0] - 0.030, j[first][1], j[first][2] * 0.9)
        pieces.append(_cone(base, tips[tip], radius * 1.1, radius * 0.82, 0.006))
    return pieces


def _melt(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    """Smooth minimum of two distances (quadratic, radius k)."""
    h = np.maximum(k - np.abs(a - b), 0.0) / k
    return np.minimum(a, b) - h * h * k * 0.25


def _join(pieces: list[Primitive], x: np.ndarray, pick: Callable[[Primitive], np.ndarray | slice]) -> np.ndarray:
    d = np.full(len(x), 1.0)
    for piece in pieces:
        at = pick(piece)
        if piece.blend > 0:
            d[at] = _melt(d[at], piece.distance(x[at]), piece.blend)
        else:
            d[at] = -_melt(-d[at], piece.distance(x[at]), -piece.blend)
    return np.maximum(d, -x[:, 1])  # the floor cuts the soles flat


def distance(points: np.ndarray) -> np.ndarray:
    """About the signed distance in metres (negative inside) of `points` (N, 3) from the figure's skin."""
    x = np.array(points, dtype=np.float64)
    x[:, 0] = np.abs(x[:, 0])
    x[:, 1] -= FLOOR
    reach = 0.07

    def near(piece: Primitive) -> np.ndarray:
        return np.flatnonzero(((x > piece.low - reach) & (x < piece.high + reach)).all(1))

    return _join(primitives(), x, near)


def project(points: np.ndarray, steps: int = 4) -> np.ndarray:
    """Newton steps that bring `points` (N, 3) onto the skin; points with x = 0 stay in the middle plane."""
    p = np.array(points, dtype=np.float64)
    middle = p[:, 0] == 0.0
    eps = 5e-4
    for _ in range(steps):
        d0 = distance(p)
        g = np.stack([distance(p + eps * np.eye(3)[i]) - distance(p - eps * np.eye(3)[i]) for i in range(3)], 1)
        g /= 2 * eps
        g[middle, 0] = 0.0
        step = d0[:, None] * g / np.maximum((g * g).sum(1, keepdims=True), 0.25)
        p -= np.clip(step, -0.01, 0.01)
    return p


def grid() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distances on a rectilinear grid of the left half, finer at hands and head.

    Returns x, y, z (node coordinates; x[0] = -x[1], so the first layer of cells straddles the middle plane)
    and the distances (len(x), len(y), len(z)).
    """

    def ruler(knots: list[tuple[float, float]], end: float) -> np.ndarray:
        out = [knots[0][0]]
        while out[-1] < end:
            out.append(out[-1] + [h for at, h in knots if at <= out[-1] + 1e-9][-1])
        return np.array(out)

    x = ruler([(0.006, 0.012), (0.13, 0.014), (0.69, 0.0065)], 0.90)
    x = np.concatenate([[-0.006], x])
    y = ruler([(-0.02, 0.010), (0.12, 0.015), (1.345, 0.0062), (1.43, 0.011), (1.50, 0.0085)], 1.75) + FLOOR
    z = ruler([(-0.17, 0.012), (-0.062, 0.0062), (0.082, 0.0085), (0.13, 0.011)], 0.22)
    size = (len(x), len(y), len(z))
    d = np.full(size, 1.0)
    reach = 0.07
    height = y - FLOOR
    for piece in primitives():
        part = []
        for axis, values in enumerate((x, height, z)):
            first = np.searchsorted(values, piece.low[axis] - reach)
            last = np.searchsorted(values, piece.high[axis] + reach)
            part.append(slice(int(first), int(last)))
        sx, sy, sz = part
        p = np.stack(np.meshgrid(np.abs(x[sx]), height[sy], z[sz], indexing="ij"), -1)
        value = piece.distance(p.reshape(-1, 3)).reshape(p.shape[:3])
        block = d[sx, sy, sz]
        if piece.blend > 0:
            d[sx, sy, sz] = _melt(block, value, piece.blend)
        else:
            d[sx, sy, sz] = -_melt(-block, value, -piece.blend)
    return x, y, z, np.maximum(d, -height[None, :, None])
