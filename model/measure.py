"""Bodies measured with tape and scales: heights, girths, mass, and the ratios that simulated raters look at."""

from __future__ import annotations

import numpy as np
import torch

from model.body import Body

DENSITY = 985.0
"""kg per cubic metre of a body at the end of a normal breath."""


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
