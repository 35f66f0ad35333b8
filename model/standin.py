"""Builds the stand-in body model: an SMPL-X-format npz of a made-up person that `smplx.create` loads.

    python -c "from pathlib import Path; from model.body import build_standin; build_standin(Path('body.npz'))"

Notable:
- exactly SMPL-X's 10,475 vertices, 20,908 triangles, 55 joints and picked vertices (nose, eyes, ears, toes, heels,
  finger tips lie at the vertex numbers that smplx has wired in);
- closed: every edge has two triangles. V - F/2 = 21 is odd, so no set of separate closed surfaces has these counts
  (each gives 2). Here are 11 of them (body, eyes, irises, brows, ears, lips: 22), and the two lips share the one
  vertex where they touch (22 - 1 = 21);
- exactly symmetrical left and right; no random numbers; about 5 s on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model import standin_mesh, standin_shape
from model.standin_betas import BETAS, Groups, expressions, shape_directions
from model.standin_shape import FINGER_TIPS, FLOOR, JOINTS_LEFT, TWINS

__all__ = ["BETAS", "FACES", "JOINTS", "VERTICES", "build_standin"]

VERTICES, FACES, JOINTS = 10_475, 20_908, 55
PARENTS = (
    *(-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15),
    *(20, 25, 26, 20, 28, 29, 20, 31, 32, 20, 34, 35, 20, 37, 38),
    *(21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50, 21, 52, 53),
)
_BODY = 8_908  # vertices of the body without eyes, irises, brows, ears and lips

# Bones that own skin: joint, start, end (metres over the floor), reach in metres. Left half; the right is mirrored.
_BONES: list[tuple[int, tuple, tuple, float]] = [
    (0, (-0.09, 0.965, 0.0), (0.09, 0.965, 0.0), 0.085),
    (0, (0.0, 0.87, 0.0), (0.0, 0.96, 0.0), 0.065),
    (3, (-0.06, 1.060, 0.0), (0.06, 1.060, 0.0), 0.08),
    (6, (-0.06, 1.170, 0.0), (0.06, 1.170, 0.0), 0.08),
    (9, (-0.08, 1.300, 0.0), (0.08, 1.300, 0.0), 0.09),
    (9, (0.0, 1.300, 0.0), (0.0, 1.400, 0.0), 0.07),
    (12, (0.0, 1.470, -0.02), (0.0, 1.515, -0.005), 0.055),
    (15, (0.0, 1.590, 0.0), (0.0, 1.660, 0.0), 0.08),
    (22, (0.0, 1.525, 0.050), (0.0, 1.535, 0.050), 0.03),
    (13, (0.060, 1.415, -0.02), (0.125, 1.405, -0.015), 0.045),
    (16, (0.195, 1.395, -0.012), JOINTS_LEFT[18], 0.045),
    (18, JOINTS_LEFT[18], JOINTS_LEFT[20], 0.035),
    (1, (0.096, 0.815, 0.0), JOINTS_LEFT[4], 0.075),
    (4, JOINTS_LEFT[4], JOINTS_LEFT[7], 0.05),
    (7, (0.119, 0.060, -0.040), (0.130, 0.030, 0.070), 0.035),
    (10, JOINTS_LEFT[10], (0.137, 0.022, 0.170), 0.03),
    (37, JOINTS_LEFT[37], JOINTS_LEFT[38], 0.015),
    (38, JOINTS_LEFT[38], JOINTS_LEFT[39], 0.012),
    (39, JOINTS_LEFT[39], FINGER_TIPS["thumb"], 0.010),
]
for _first, _name in ((25, "index"), (28, "middle"), (31, "pinky"), (34, "ring")):
    _BONES += [
        (20, JOINTS_LEFT[20], tuple(np.array(JOINTS_LEFT[_first]) - (0.008, 0, 0)), 0.012),
        (_first, JOINTS_LEFT[_first], JOINTS_LEFT[_first + 1], 0.009),
        (_first + 1, JOINTS_LEFT[_first + 1], JOINTS_LEFT[_first + 2], 0.009),
        (_first + 2, JOINTS_LEFT[_first + 2], FINGER_TIPS[_name], 0.008),
    ]


@dataclass
class Figure:
    """The assembled mesh before smplx's vertex numbers are given out."""

    vertices: np.ndarray
    faces: np.ndarray
    twin: np.ndarray
    part: np.ndarray
    """(V,) 0 body, 1 eye, 2 iris, 3 brow, 4 ear, 5 upper lip, 6 lower lip."""


def _body_mesh() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    v, f = standin_mesh.surface_nets(*standin_shape.grid())
    height = v[:, 1] - FLOOR
    edge = np.full(len(v), 0.0185)  # wanted edge lengths in metres; only their proportions matter
    edge[height > 1.48] = 0.0120
    edge[(height > 1.50) & (v[:, 2] > 0.05)] = 0.0085
    edge[height < 0.10] = 0.0125
    edge[v[:, 0] > 0.68] = 0.0075
    v, f = standin_mesh.collapse(v, f, edge, _BODY)
    return standin_mesh.mirror(standin_mesh.relax(v, f, standin_shape.project, 4), f)


def _ball(centre: tuple, radii: tuple, rings: int, around: int, pole: str) -> tuple[np.ndarray, np.ndarray]:
    """A closed ellipsoid of rings*around + 2 vertices; its two poles (first and last vertex) lie on axis `pole`."""
    theta = np.pi * np.arange(1, rings + 1) / (rings + 1)
    phi = 2 * np.pi * (np.arange(around) + 0.5) / around
    ring = np.stack(
        [
            np.sin(theta)[:, None] * np.cos(phi),
            np.sin(theta)[:, None] * np.sin(phi),
            np.repeat(np.cos(theta), around).reshape(rings, around),
        ],
        -1,
    ).reshape(-1, 3)
    p = np.concatenate([[[0, 0, 1.0]], ring, [[0, 0, -1.0]]])
    p = p[:, {"z": [0, 1, 2], "y": [1, 2, 0], "x": [2, 0, 1]}[pole]]  # cyclic: keeps the triangles' orientation
    i, k = np.arange(around), (np.arange(around) + 1) % around
    faces = [np.stack([np.zeros(around, int), 1 + i, 1 + k], 1)]
    for r in range(rings - 1):
        a, b = 1 + r * around, 1 + (r + 1) * around
        faces += [np.stack([a + i, b + i, b + k], 1), np.stack([a + i, b + k, a + k], 1)]
    last = 1 + (rings - 1) * around
    faces.append(np.stack([last + i, np.full(around, 1 + rings * around), last + k], 1))
    return np.array(centre) + p * np.array(radii) + [0, FLOOR, 0], np.concatenate(faces)


def _draped(ball: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Lays a flat part (built around z = 0) on the face: each vertex moves forward to the skin at its x."""
    p, faces = ball
    x, back = np.unique(np.round(p[:, 0], 9), return_inverse=True)
    z = np.linspace(0.03, 0.13, 501)
    probe = np.stack(np.broadcast_arrays(x[:, None], np.mean(p[:, 1]), z), -1)
    inside = standin_shape.distance(probe.reshape(-1, 3)).reshape(len(x), len(z)) < 0
    skin = z[len(z) - 1 - inside[:, ::-1].argmax(1)]
    return p + np.stack([0 * p[:, 0], 0 * p[:, 0], skin[back]], 1), faces


def _assemble() -> Figure:
    """Body first, then irises, brows, ears, lips, then the two eyes as the last 2 x 546 (as in SMPL-X)."""
    body, faces, twin = _body_mesh()
    eye = JOINTS_LEFT[23]
    paired = {
        2: _ball((eye[0], eye[1], eye[2] + 0.0112), (0.0055, 0.0055, 0.0018), 3, 12, "z"),
        3: _draped(_ball((0.032, 1.6365, 0.0), (0.020, 0.0032, 0.0035), 5, 10, "x")),
        4: _ball((0.073, 1.600, -0.006), (0.009, 0.030, 0.017), 7, 12, "x"),
        1: _ball(eye, (0.0125, 0.0125, 0.0125), 17, 32, "z"),
    }
    upper, upper_faces = _draped(_ball((0, 1.5585, 0.0), (0.0225, 0.0036, 0.0045), 5, 12, "y"))
    lower, lower_faces = _draped(_ball((0, 1.5505, 0.0), (0.0195, 0.0044, 0.0050), 5, 12, "y"))
    lower += upper[-1] - lower[0]  # the lips touch in one vertex
    points, triangles, part, twins = [body], [faces], [np.zeros(len(body), int)], [twin]
    n = len(body)
    for kind in (2, 3, 4, 0, 1):
        if kind == 0:
            both = np.concatenate([upper, lower[1:]])
            number = np.concatenate([[len(upper) - 1], len(upper) + np.arange(len(lower) - 1)])
            mirrored = _twins(both)
            points.append(both)
            triangles.append(np.concatenate([upper_faces, number[lower_faces]]) + n)
            part.append(np.repeat([5, 6], [len(upper), len(lower) - 1]))
            twins.append(n + mirrored)
            n += len(both)
            continue
        p, f = paired[kind]
        k = len(p)
        points += [p, p * [-1, 1, 1]]
        triangles += [f + n, f[:, ::-1] + n + k]
        part.append(np.full(2 * k, kind))
        twins.append(np.concatenate([n + k + np.arange(k), n + np.arange(k)]))
        n += 2 * k
    return Figure(*(np.concatenate(x) for x in (points, triangles, twins, part)))


def _twins(p: np.ndarray) -> np.ndarray:
    """For points symmetrical about x = 0: the index of each point's mirror image."""
    gap = ((p[:, None] - p[None] * [-1, 1, 1]) ** 2).sum(-1)
    return gap.argmin(1)


def joints() -> np.ndarray:
    """(55, 3) joint centres in metres."""
    out = np.zeros((JOINTS, 3))
    for j, p in JOINTS_LEFT.items():
        out[j] = p
        if j in TWINS:
            out[TWINS[j]] = np.array(p) * [-1, 1, 1]
    out[:, 1] += FLOOR
    return out


def skin_weights(figure: Figure) -> np.ndarray:
    """(V, 55) skinning weights: each vertex goes to its nearest bone, then the weights diffuse along the skin,
    so that they bend softly and never jump from one finger or leg to the next."""
    p, n = figure.vertices, len(figure.vertices)
    best, owner = np.full(n, np.inf), np.zeros(n, int)
    for joint, a, b, reach in _BONES:
        for side in (1, -1):
            if side == -1 and joint not in TWINS:
                continue
            pa, pb = np.array(a) * [side, 1, 1] + [0, FLOOR, 0], np.array(b) * [side, 1, 1] + [0, FLOOR, 0]
            ab = pb - pa
            t = np.clip((p - pa) @ ab / (ab @ ab), 0, 1)
            d = np.sqrt(((p - pa - t[:, None] * ab) ** 2).sum(1)) - reach
            owner = np.where(d < best, TWINS[joint] if side == -1 else joint, owner)
            best = np.minimum(best, d)
    weights = np.zeros((n, JOINTS))
    weights[np.arange(n), owner] = 1.0
    skin = figure.part == 0
    mean = standin_mesh.neighbours(figure.faces, n)
    hand = np.abs(p[:, 0]) > 0.70
    for step in range(24):
        moving = skin & (~hand | (step < 6))  # the hand's triangles are small and its bones short
        weights[moving] = 0.5 * weights[moving] + 0.5 * (mean @ weights)[moving]
    for kind, joint in ((3, 15), (4, 15), (5, 15), (6, 22)):
        weights[figure.part == kind] = np.eye(JOINTS)[joint]
    for kind in (1, 2):
        weights[(figure.part == kind) & (p[:, 0] > 0)] = np.eye(JOINTS)[23]
        weights[(figure.part == kind) & (p[:, 0] < 0)] = np.eye(JOINTS)[24]
    swap = np.arange(JOINTS)
    for left, right in TWINS.items():
        swap[left], swap[right] = right, left
    weights = 0.5 * (weights + weights[figure.twin][:, swap])
    weights[weights < 1e-4] = 0.0
    return weights / weights.sum(1, keepdims=True)


def joint_regressor(
    vertices: np.ndarray, directions: np.ndarray, centres: np.ndarray, moves: np.ndarray, usable: np.ndarray
) -> np.ndarray:
    """(55, V) rows that give each joint from the skin around it, exactly, for every shape.

    Each row is the smallest change of equal weights over the nearest vertices that satisfies: sum 1, the joint's
    place `centres` (55, 3) on the template and its motion `moves` (55, 3, 10) under the shape directions.
    """
    out = np.zeros((JOINTS, len(vertices)))
    for j in range(JOINTS):
        gap = ((vertices - centres[j]) ** 2).sum(1) + np.where(usable, 0.0, 1e3)
        near = np.argsort(gap, kind="stable")[:700]
        rows = [np.ones((1, len(near))), vertices[near].T, directions[near].transpose(1, 2, 0).reshape(-1, len(near))]
        a = np.concatenate(rows)
        b = np.concatenate([[1.0], centres[j], moves[j].reshape(-1)])
        w = np.full(len(near), 1.0 / len(near))
        out[j, near] = w + np.linalg.lstsq(a, b - a @ w, rcond=1e-9)[0]
    return out


def _picked(figure: Figure) -> dict[int, int]:
    """smplx's vertex number of each picked point -> the vertex of the figure that lies there."""
    p, part = figure.vertices, figure.part
    every = np.arange(len(p))

    def nearest(target: tuple, kind: int = 0) -> int:
        gap = ((p - np.array([target[0], target[1] + FLOOR, target[2]])) ** 2).sum(1)
        return int(every[part == kind][gap[part == kind].argmin()])

    eye = JOINTS_LEFT[23]
    left = {
        9448: nearest((eye[0], eye[1], eye[2] + 0.013), 1),
        6: nearest((0.085, 1.600, -0.006), 4),
        5361: nearest((FINGER_TIPS["thumb"][0] + 0.02, *FINGER_TIPS["thumb"][1:])),
        4933: nearest((FINGER_TIPS["index"][0] + 0.02, *FINGER_TIPS["index"][1:])),
        5058: nearest((FINGER_TIPS["middle"][0] + 0.02, *FINGER_TIPS["middle"][1:])),
        5169: nearest((FINGER_TIPS["ring"][0] + 0.02, *FINGER_TIPS["ring"][1:])),
        5286: nearest((FINGER_TIPS["pinky"][0] + 0.02, *FINGER_TIPS["pinky"][1:])),
        5770: nearest((0.120, 0.020, 0.205)),
        5780: nearest((0.172, 0.020, 0.150)),
        8846: nearest((0.120, 0.030, -0.090)),
    }
    twin_of = {9448: 9929, 6: 616, 5361: 8079, 4933: 7669, 5058: 7794, 5169: 7905, 5286: 8022}
    twin_of |= {5770: 8463, 5780: 8474, 8846: 8635}
    right = {twin_of[number]: int(figure.twin[v]) for number, v in left.items()}
    return left | right | {9120: nearest((0.0, 1.587, 0.112))}


def _renumber(figure: Figure) -> Figure:
    """Swaps vertices until every picked point has the number that smplx expects."""
    old_at = np.arange(VERTICES)  # old_at[new number] = old number
    place = np.arange(VERTICES)  # its inverse
    for number, v in _picked(figure).items():
        here, there = number, place[v]
        a, b = old_at[here], old_at[there]
        old_at[here], old_at[there] = b, a
        place[a], place[b] = there, here
    return Figure(figure.vertices[old_at], place[figure.faces], place[figure.twin[old_at]], figure.part[old_at])


def _landmarks(figure: Figure) -> dict[str, np.ndarray]:
    """51 face landmarks in the usual order (brows, nose, eyes, mouth) and 17 contour points for 79 neck yaws."""
    head = (figure.vertices[figure.faces][:, :, 1] > 1.48 + FLOOR).all(1)
    candidates = np.flatnonzero(head)
    middle = figure.vertices[figure.faces[candidates]].mean(1) - [0, FLOOR, 0]

    def faces_at(points: np.ndarray) -> np.ndarray:
        gap = ((points[:, None] - middle[None]) ** 2).sum(-1)
        return candidates[gap.argmin(1)].astype(np.int64)

    def circle(x: float, y: float, z: float, rx: float, ry: float, n: int, start: float) -> list[tuple]:
        angle = start + 2 * np.pi * np.arange(n) / n
        return [(x + rx * np.cos(a), y + ry * np.sin(a), z) for a in angle]

    brow = np.linspace(-0.053, -0.014, 5)
    points = [(x, 1.637, 0.088) for x in brow] + [(-x, 1.637, 0.088) for x in brow[::-1]]
    points += [(0, y, 0.11) for y in np.linspace(1.62, 1.59, 4)]
    points += [(x, 1.578, 0.10) for x in np.linspace(-0.014, 0.014, 5)]
    for x in (-0.031, 0.031):
        points += circle(x, 1.615, 0.09, 0.012, 0.006, 6, np.pi)
    points += circle(0, 1.556, 0.094, 0.024, 0.009, 12, np.pi)
    points += circle(0, 1.556, 0.094, 0.016, 0.004, 8, np.pi)
    third = np.full((79, 17, 3), 1 / 3)
    yaw = np.deg2rad(np.concatenate([np.arange(40), -np.arange(1, 40)]))
    sweep = np.linspace(-np.pi / 2, np.pi / 2, 17)
    contour = []
    for angle in yaw:
        around = sweep + 0.5 * angle
        jaw = np.stack([0.072 * np.sin(around), 1.60 - 0.085 * np.cos(sweep) ** 0.7, 0.005 + 0.07 * np.cos(around)], 1)
        contour.append(faces_at(jaw))
    return {
        "lmk_faces_idx": faces_at(np.array(points)),
        "lmk_bary_coords": third[0, :1].repeat(51, 0),
        "dynamic_lmk_faces_idx": np.stack(contour),
        "dynamic_lmk_bary_coords": third,
    }


def _hand_mean(side: int) -> np.ndarray:
    """(45,) resting curl of the fingers, axis-angle; side +1 left, -1 right."""
    curl = np.zeros((15, 3))
    for finger, amount in enumerate((0.20, 0.26, 0.34, 0.30)):  # index, middle, pinky, ring
        curl[3 * finger : 3 * finger + 3, 2] = -side * amount * np.array([1.0, 1.1, 0.7])
    curl[12:, 1] = side * np.array([0.12, 0.15, 0.15])
    return curl.reshape(45)


def build_standin(path: Path) -> None:
    """Writes the stand-in body model to `path` (npz, the arrays of SMPLX_NEUTRAL.npz with 10 + 10 shape columns).

    The arrays are those that smplx reads (spec.md, section 8) and `part`, which names eyes, brows, ears and lips.
    Same bytes every time on the same machine. Pose blend shapes are zero.
    """
    figure = _renumber(_assemble())
    weights = skin_weights(figure)
    centres = joints()
    moves_of_skin = shape_directions(figure.vertices, Groups.of_weights(weights))
    moves_of_joints = shape_directions(centres, Groups.of_weights(np.eye(JOINTS)))
    regressor = joint_regressor(figure.vertices, moves_of_skin, centres, moves_of_joints, figure.part == 0)
    face = expressions(figure.vertices, figure.part)
    root = np.array(PARENTS, dtype=np.int64)
    arrays = {
        "v_template": figure.vertices,
        "f": figure.faces.astype(np.uint32),
        "shapedirs": np.concatenate([moves_of_skin, face], -1),
        "posedirs": np.zeros((VERTICES, 3, (JOINTS - 1) * 9), np.float32),
        "weights": weights,
        "J_regressor": regressor,
        "kintree_table": np.stack([root, np.arange(JOINTS)]).astype(np.uint32),
        "hands_componentsl": np.eye(45),
        "hands_componentsr": np.eye(45),
        "hands_meanl": _hand_mean(+1),
        "hands_meanr": _hand_mean(-1),
        "part": figure.part.astype(np.uint8),
        **_landmarks(figure),
    }
    if figure.vertices.shape != (VERTICES, 3) or figure.faces.shape != (FACES, 3):
        raise ValueError(f"stand-in body has {figure.vertices.shape} vertices and {figure.faces.shape} faces")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
