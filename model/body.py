"""The body model behind every mesh: `smplx` on the stand-in npz or on the licensed SMPLX_NEUTRAL.npz, both alike.

    python -c "from pathlib import Path; from model.body import build_standin; build_standin(Path('body.npz'))"

Notable:
- the zero pose (all rotations zero, hands at their mean pose) is affine in the betas, because skinning with fixed
  rotations is linear in vertices and joints; `Body.zero_pose` is therefore one matrix product and equals smplx;
- a body-model file is opened without pickle: only the arrays that smplx reads are taken, as plain numbers.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch

from model.standin import BETAS, VERTICES, build_standin

__all__ = ["BETAS", "POINTS15", "Body", "build_standin", "load_body", "measure", "points15"]

ARRAYS = (
    *("v_template", "f", "shapedirs", "posedirs", "weights", "J_regressor", "kintree_table"),
    *("hands_componentsl", "hands_componentsr", "hands_meanl", "hands_meanr", "lmk_faces_idx"),
    *("lmk_bary_coords", "dynamic_lmk_faces_idx", "dynamic_lmk_bary_coords"),
)
"""What smplx reads of a body-model file (spec.md, section 8)."""

POINTS15 = (0, 1, 2, 4, 5, 7, 8, 12, 16, 17, 18, 19, 20, 21)
"""Indices into the 144 joints: pelvis, L/R hip, knee, ankle, neck, L/R shoulder, elbow, wrist; the 15th point is
the middle of the eyes, joints 57 (left) and 56 (right)."""

_STILL = {
    **{"expression": 10, "jaw_pose": 3, "leye_pose": 3, "reye_pose": 3, "transl": 3},
    **{"left_hand_pose": 45, "right_hand_pose": 45},
}
"""What always stays zero, and its size."""

DENSITY = 985.0
"""kg per cubic metre of a body at the end of a normal breath."""


def open_body(path: Path) -> np.lib.npyio.NpzFile:
    """The arrays of a body-model file. ValueError, one line, if it is no npz."""
    try:
        opened = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile):  # numpy takes what is neither npz nor npy for a pickle
        opened = None
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise ValueError(f"{path}: not an SMPL-X body model: not an npz file, or cut short")
    return opened


def _plain_file(path: Path, folder: Path) -> Path:
    """A copy of the body model with nothing but plain arrays and 10 + 10 shape columns."""
    with open_body(path) as source:
        missing = [name for name in ARRAYS if name not in source.files]
        if missing:
            raise ValueError(f"{path}: not an SMPL-X body model, arrays missing: {', '.join(missing)}")
        data = {name: source[name] for name in ARRAYS}
    if data["v_template"].shape != (VERTICES, 3):
        raise ValueError(f"{path}: v_template is {data['v_template'].shape}, SMPL-X has ({VERTICES}, 3)")
    columns = data["shapedirs"].shape[2]
    if columns < 20:
        raise ValueError(f"{path}: shapedirs has {columns} columns, at least 10 betas + 10 expressions are needed")
    first = 300 if columns >= 400 else 10  # where smplx looks for the expressions
    data["shapedirs"] = np.concatenate([data["shapedirs"][:, :, :10], data["shapedirs"][:, :, first : first + 10]], -1)
    copy = folder / "SMPLX_NEUTRAL.npz"
    np.savez(copy, **data)
    return copy


class Body(torch.nn.Module):
    """SMPL-X with 10 betas. Poses are (B, 66) axis-angle in radians: root, then the 21 body joints."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.layer = layer
        self.faces = np.asarray(layer.faces, dtype=np.int64)
        self.register_buffer("triangles", torch.as_tensor(self.faces), persistent=False)
        probes = torch.cat([torch.zeros(1, 10), torch.eye(10)])
        rest, _ = self.posed(probes, torch.zeros(11, 66))
        self.register_buffer("rest", rest[0].contiguous(), persistent=False)
        self.register_buffer("directions", (rest[1:] - rest[0]).reshape(10, -1).contiguous(), persistent=False)

        shape = layer.shapedirs[:, :, :10]
        self.register_buffer("template", layer.v_template, persistent=False)
        self.register_buffer("shape_directions", shape.permute(2, 0, 1).reshape(10, -1), persistent=False)
        self.register_buffer("centres", layer.J_regressor @ layer.v_template, persistent=False)
        moved = torch.einsum("jv,vck->kjc", layer.J_regressor, shape)
        self.register_buffer("centre_directions", moved.reshape(10, -1), persistent=False)
        self.has_pose_directions = bool(layer.posedirs.any())

    @property
    def device(self) -> torch.device:
        return self.layer.v_template.device

    def zero_pose(self, betas: torch.Tensor) -> torch.Tensor:
        """(B, 10) betas -> (B, 10475, 3) vertices in metres with all rotations zero, hands at their mean pose."""
        moved = betas.to(self.rest) @ self.directions
        return self.rest + moved.reshape(len(betas), -1, 3)

    def posed(self, betas: torch.Tensor, pose: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 10), (B, 66) -> vertices (B, 10475, 3) and smplx's 144 joints (B, 144, 3), metres."""
        like = self.layer.v_template
        betas, pose = betas.to(like), pose.to(like)
        n = len(betas)
        out = self.layer(
            betas=betas,
            global_orient=pose[:, :3],
            body_pose=pose[:, 3:66],
            return_shaped=False,
            **{name: like.new_zeros(n, size) for name, size in _STILL.items()},
        )
        return out.vertices, out.joints

    def figure(self, betas: torch.Tensor, pose: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Like `posed` but quicker and with the 15 graph points only: vertices (B, 10475, 3), points (B, 15, 3).

        The same skinning (test: equal to smplx within 0.01 mm) without face landmarks, and without pose blend shapes
        where the file has none but zeros, which is most of the work.
        """
        from smplx.lbs import batch_rigid_transform, batch_rodrigues

        layer, like = self.layer, self.rest
        betas, pose = betas.to(like), pose.to(like)
        n = len(betas)
        full = torch.cat([pose, pose.new_zeros(n, 99)], 1) + layer.pose_mean
        turns = batch_rodrigues(full.reshape(-1, 3)).reshape(n, 55, 3, 3)
        shaped = self.template + (betas @ self.shape_directions).reshape(n, -1, 3)
        centres = self.centres + (betas @ self.centre_directions).reshape(n, 55, 3)
        if self.has_pose_directions:
            feature = (turns[:, 1:] - torch.eye(3, device=like.device)).reshape(n, -1)
            shaped = shaped + (feature @ layer.posedirs).reshape(n, -1, 3)
        joints, moves = batch_rigid_transform(turns, centres, layer.parents)
        skin = layer.lbs_weights @ moves[:, :, :3].reshape(n, 55, 12)
        vertices = torch.stack(
            [(skin[:, :, 4 * k : 4 * k + 3] * shaped).sum(-1) + skin[:, :, 4 * k + 3] for k in range(3)], -1
        )
        eyes = vertices[:, layer.vertex_joint_selector.extra_joints_idxs[1:3]].mean(1, keepdim=True)
        return vertices, torch.cat([joints[:, list(POINTS15)], eyes], 1)

    def volume(self, vertices: torch.Tensor) -> torch.Tensor:
        """(B, 10475, 3) metres -> (B,) enclosed volume in cubic metres (signed tetrahedra)."""
        centred = vertices - vertices.mean(1, keepdim=True)
        a, b, c = (centred[:, self.triangles[:, k]] for k in range(3))
        return (a * torch.linalg.cross(b, c)).sum((1, 2)) / 6.0

    def points15(self, joints: torch.Tensor) -> torch.Tensor:
        """See `points15`."""
        return points15(joints)


def points15(joints: torch.Tensor) -> torch.Tensor:
    """smplx's joints (B, 144, 3) -> the 15 graph points (B, 15, 3) in PhysiqueFrame's order (spec.md, section 7)."""
    eyes = 0.5 * (joints[:, 57] + joints[:, 56])
    return torch.cat([joints[:, list(POINTS15)], eyes[:, None]], 1)


def load_body(path: Path | str, device: torch.device | str = "cpu") -> Body:
    """Loads a body model, stand-in or licensed. FileNotFoundError or ValueError says what is wrong with the file."""
    import smplx

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"body model not found: {path} (build one: model.body.build_standin)")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        # smplx prints a warning about 10 + 10 columns, which is what we ask for
        layer = smplx.create(
            str(_plain_file(path, Path(folder))),
            model_type="smplx",
            gender="neutral",
            use_pca=False,
            use_face_contour=True,
            flat_hand_mean=False,
            num_betas=10,
            num_expression_coeffs=10,
            **{f"create_{name}": False for name in ("betas", "global_orient", "body_pose", *_STILL)},
        )
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        return Body(layer).to(device).eval()


def _girth(points: torch.Tensor) -> torch.Tensor:
    """(B, N, 2) -> (B,) perimeter of the convex hull: the mean width over all directions times pi (Cauchy)."""
    angle = torch.arange(48, device=points.device) * (torch.pi / 48)
    along = points @ torch.stack([angle.cos(), angle.sin()]).to(points)
    return (along.amax(1) - along.amin(1)).mean(1) * torch.pi


def _band(body: Body, joints: tuple[int, ...], axis: int, at: float, reach: float) -> torch.Tensor:
    """Numbers of the vertices that belong mostly to `joints` and lie within `reach` of `at` along `axis`."""
    mine = body.layer.lbs_weights[:, list(joints)].sum(1) > 0.5
    near = (body.rest[:, axis] - at).abs() < reach
    return torch.nonzero(mine & near).flatten()


@torch.no_grad()
def measure(body: Body, betas: torch.Tensor | np.ndarray) -> dict[str, np.ndarray]:
    """Measures bodies with tape and scales, in zero pose.

    betas (B, 10) -> arrays (B,), float64: height, chest, waist, hips (girths, m), shoulder_width (between the
    shoulder joints, m), hip_width, waist_width (m), leg_length (hip joint to sole, m), arm_length (shoulder to wrist
    joint, m), limb_girth (mean of upper arm and calf, m), volume (m3), mass (kg), bmi (kg/m2), and the ratios
    waist_hip, shoulder_waist, chest_waist, leg_height and muscularity (limb girth over waist girth).
    """
    betas = torch.as_tensor(np.asarray(betas, dtype=np.float32), device=body.device).reshape(-1, 10)
    v = body.zero_pose(betas)
    joints = torch.einsum("jv,bvc->bjc", body.layer.J_regressor, v)
    rest = body.layer.J_regressor @ body.rest
    trunk, y = (0, 3, 6, 9), 1

    def level(low: int, high: int, share: float) -> float:
        return float(rest[low, y] + share * (rest[high, y] - rest[low, y]))

    def girth(vertices: torch.Tensor, axes: list[int]) -> torch.Tensor:
        return _girth(v[:, vertices][:, :, axes])

    chest = _band(body, trunk, y, level(6, 9, 0.80), 0.025)
    waist = _band(body, trunk, y, level(0, 9, 0.36), 0.025)
    hips = _band(body, (0, 1, 2), y, level(0, 1, 0.60), 0.025)
    arm = _band(body, (16,), 0, float(rest[16, 0] + 0.5 * (rest[18, 0] - rest[16, 0])), 0.03)
    calf = _band(body, (4,), y, level(4, 7, 0.32), 0.03)
    out = {
        "height": v[:, :, y].amax(1) - v[:, :, y].amin(1),
        "chest": girth(chest, [0, 2]),
        "waist": girth(waist, [0, 2]),
        "hips": girth(hips, [0, 2]),
        "shoulder_width": (joints[:, 16] - joints[:, 17]).norm(dim=1),
        "hip_width": v[:, hips, 0].amax(1) - v[:, hips, 0].amin(1),
        "waist_width": v[:, waist, 0].amax(1) - v[:, waist, 0].amin(1),
        "leg_length": joints[:, 1, y] - v[:, :, y].amin(1),
        "arm_length": (joints[:, 20] - joints[:, 16]).norm(dim=1),
        "limb_girth": 0.5 * (girth(arm, [1, 2]) + girth(calf, [0, 2])),
        "volume": body.volume(v),
    }
    out["mass"] = out["volume"] * DENSITY
    out["bmi"] = out["mass"] / out["height"] ** 2
    out["waist_hip"] = out["waist"] / out["hips"]
    out["shoulder_waist"] = out["shoulder_width"] / out["waist_width"]
    out["chest_waist"] = out["chest"] / out["waist"]
    out["leg_height"] = out["leg_length"] / out["height"]
    out["muscularity"] = out["limb_girth"] / out["waist"]
    return {name: value.double().cpu().numpy() for name, value in out.items()}
