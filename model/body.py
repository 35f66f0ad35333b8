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

__all__ = ["BETAS", "POINTS15", "Body", "build_standin", "load_body", "points15"]

ARRAYS = (
    *("v_template", "f", "shapedirs", "posedirs", "weights", "J_regressor", "kintree_table"),
    *("hands_componentsl", "hands_componentsr", "hands_meanl", "hands_meanr", "lmk_faces_idx"),
    *("lmk_bary_coords", "dynamic_lmk_faces_idx", "dynamic_lmk_bary_coords"),
)
"""What smplx reads of a body-model file (spec.md, section 8)."""

POINTS15 = (0, 1, 2, 4, 5, 7, 8, 12, 16, 17, 18, 19, 20, 21)
"""Indices into the 144 joints: pelvis, L/R hip, knee, ankle, neck, L/R shoulder, elbow, wrist; the 15th point is
the middle of the eyes, joints 57 (left) and 56 (right)."""

_SIZES = {
    **{"global_orient": 3, "body_pose": 63, "jaw_pose": 3, "leye_pose": 3, "reye_pose": 3},
    **{"left_hand_pose": 45, "right_hand_pose": 45},
}
"""The parts of a full pose in smplx's order, and their size: 165 numbers."""


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
    """SMPL-X with 10 betas and 10 expressions. Poses are axis-angle in radians: (B, 66) root and 21 body joints, or
    (B, 165) with jaw, eyes and hands after them, in smplx's order; hands are added to the model's mean hand."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.layer = layer
        self.faces = np.asarray(layer.faces, dtype=np.int64)
        self.register_buffer("triangles", torch.as_tensor(self.faces), persistent=False)
        probes = torch.cat([torch.zeros(1, 20), torch.eye(20)])
        rest, _ = self.posed(probes[:, :10], torch.zeros(21, 66), probes[:, 10:])
        self.register_buffer("rest", rest[0].contiguous(), persistent=False)
        moves = (rest[1:] - rest[0]).reshape(20, -1)
        self.register_buffer("directions", moves[:10].contiguous(), persistent=False)
        self.register_buffer("grimaces", moves[10:].contiguous(), persistent=False)

        shape = torch.cat([layer.shapedirs[:, :, :10], layer.expr_dirs[:, :, :10]], -1)
        self.register_buffer("template", layer.v_template, persistent=False)
        self.register_buffer("shape_directions", shape.permute(2, 0, 1).reshape(20, -1).contiguous(), persistent=False)
        self.register_buffer("centres", layer.J_regressor @ layer.v_template, persistent=False)
        moved = torch.einsum("jv,vck->kjc", layer.J_regressor, shape)
        self.register_buffer("centre_directions", moved.reshape(20, -1), persistent=False)
        self.has_pose_directions = bool(layer.posedirs.any())
        eyes = layer.vertex_joint_selector.extra_joints_idxs[1:3]
        self.register_buffer("eyes", eyes.clone(), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.layer.v_template.device

    def zero_pose(self, betas: torch.Tensor, expression: torch.Tensor | None = None) -> torch.Tensor:
        """(B, 10) betas and (B, 10) expression (without it 0) -> (B, 10475, 3) vertices in metres with all rotations
        zero, hands at their mean pose."""
        moved = betas.to(self.rest) @ self.directions
        if expression is not None:
            moved = moved + expression.to(self.rest) @ self.grimaces
        return self.rest + moved.reshape(len(betas), -1, 3)

    def posed(
        self, betas: torch.Tensor, pose: torch.Tensor, expression: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 10) betas, (B, 66 or 165) pose, (B, 10) expression -> vertices (B, 10475, 3) and smplx's 144 joints
        (B, 144, 3), metres."""
        like = self.layer.v_template
        parts = dict(zip(_SIZES, _full(pose.to(like)).split(list(_SIZES.values()), 1)))
        n = len(betas)
        expression = like.new_zeros(n, 10) if expression is None else expression.to(like)
        still = like.new_zeros(n, 3)
        out = self.layer(betas=betas.to(like), expression=expression, transl=still, return_shaped=False, **parts)
        return out.vertices, out.joints

    def figure(self, betas: torch.Tensor, pose: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Like `posed` but quicker and with the 15 graph points only: vertices (B, 10475, 3), points (B, 15, 3).

        The same skinning (test: equal to smplx within 0.01 mm) without face landmarks, and without pose blend shapes
        where the file has none but zeros, which is most of the work.
        """
        turns, joints, moves = self._chain(betas, pose, None)
        vertices = self._skinned(betas, None, turns, moves, slice(None))
        eyes = vertices[:, self.eyes].mean(1, keepdim=True)
        return vertices, torch.cat([joints[:, list(POINTS15)], eyes], 1)

    def landmarks(self, betas: torch.Tensor, pose: torch.Tensor, expression: torch.Tensor | None = None) -> torch.Tensor:
        """What graph points are made of (B, 16, 3), metres: the 14 joints and both eyes of `posed`, with two vertices
        skinned instead of 10,475."""
        turns, joints, moves = self._chain(betas, pose, expression)
        eyes = self._skinned(betas, expression, turns, moves, self.eyes)
        return torch.cat([joints[:, list(POINTS15)], eyes], 1)

    def _chain(
        self, betas: torch.Tensor, pose: torch.Tensor, expression: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotations (B, 55, 3, 3), joints (B, 55, 3) and how each joint moves its skin (B, 55, 4, 4)."""
        from smplx.lbs import batch_rigid_transform, batch_rodrigues

        n = len(betas)
        turns = batch_rodrigues((_full(pose.to(self.rest)) + self.layer.pose_mean).reshape(-1, 3)).reshape(n, 55, 3, 3)
        centres = self.centres + (_shape(betas, expression, self.rest) @ self.centre_directions).reshape(n, 55, 3)
        joints, moves = batch_rigid_transform(turns, centres, self.layer.parents)
        return turns, joints, moves

    def _skinned(
        self,
        betas: torch.Tensor,
        expression: torch.Tensor | None,
        turns: torch.Tensor,
        moves: torch.Tensor,
        which: torch.Tensor | slice,
    ) -> torch.Tensor:
        """Posed vertices (B, n, 3), those of `which`."""
        layer, n = self.layer, len(betas)
        directions = self.shape_directions.view(20, -1, 3)[:, which].flatten(1)
        shaped = self.template[which] + (_shape(betas, expression, self.rest) @ directions).reshape(n, -1, 3)
        if self.has_pose_directions:
            feature = (turns[:, 1:] - torch.eye(3, device=turns.device)).reshape(n, -1)
            pushed = layer.posedirs.view(486, -1, 3)[:, which].flatten(1)
            shaped = shaped + (feature @ pushed).reshape(n, -1, 3)
        skin = layer.lbs_weights[which] @ moves[:, :, :3].reshape(n, 55, 12)
        return torch.stack([(skin[:, :, 4 * k : 4 * k + 3] * shaped).sum(-1) + skin[:, :, 4 * k + 3] for k in range(3)], -1)

    def volume(self, vertices: torch.Tensor) -> torch.Tensor:
        """(B, 10475, 3) metres -> (B,) enclosed volume in cubic metres, float64 (the divergence of x, as trimesh's)."""
        a, b, c = (vertices[:, self.triangles[:, k]].double() for k in range(3))
        u, v = b - a, c - a
        along = u[..., 1] * v[..., 2] - u[..., 2] * v[..., 1]
        return (along * (a + b + c)[..., 0]).sum(1) / 6.0

    def points15(self, joints: torch.Tensor) -> torch.Tensor:
        """See `points15`."""
        return points15(joints)


def _full(pose: torch.Tensor) -> torch.Tensor:
    """(B, 66 or 165) -> (B, 165): jaw, eyes and hands that are not given stay still."""
    return torch.cat([pose, pose.new_zeros(len(pose), 165 - pose.shape[1])], 1)


def _shape(betas: torch.Tensor, expression: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """(B, 20) betas and expression."""
    betas = betas.to(like)
    return torch.cat([betas, torch.zeros_like(betas) if expression is None else expression.to(like)], 1)


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
            **{f"create_{name}": False for name in ("betas", "expression", "transl", *_SIZES)},
        )
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        return Body(layer).to(device).eval()
