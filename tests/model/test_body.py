"""The stand-in body model: a file that smplx takes for SMPL-X, a closed symmetrical person, betas that do as told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import smplx
import torch
from scipy.spatial import ConvexHull, cKDTree
from torch import Tensor

from model.body import ARRAYS, BETAS, POINTS15, Body, load_body, points15
from model.graph import MIRRORED
from model.measure import DENSITY, measure
from model.standin_shape import TWINS

FIELDS = {
    "v_template": ((10475, 3), "f"),
    "f": ((20908, 3), "u"),
    "shapedirs": ((10475, 3, 20), "f"),
    "posedirs": ((10475, 3, 486), "f"),
    "weights": ((10475, 55), "f"),
    "J_regressor": ((55, 10475), "f"),
    "kintree_table": ((2, 55), "u"),
    "hands_componentsl": ((45, 45), "f"),
    "hands_componentsr": ((45, 45), "f"),
    "hands_meanl": ((45,), "f"),
    "hands_meanr": ((45,), "f"),
    "lmk_faces_idx": ((51,), "i"),
    "lmk_bary_coords": ((51, 3), "f"),
    "dynamic_lmk_faces_idx": ((79, 17), "i"),
    "dynamic_lmk_bary_coords": ((79, 17, 3), "f"),
}
"""What SMPL-X files hold and of which kind, here with 10 + 10 shape columns."""
SHOULDER, ELBOW, WRIST, HIP, KNEE, ANKLE, HEAD = 16, 18, 20, 1, 4, 7, 15  # of the left side; the right is one more


@pytest.fixture(scope="session")
def arrays(body_file: Path) -> dict[str, np.ndarray]:
    with np.load(body_file, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


@pytest.fixture(scope="session")
def twin(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """(V,) which vertex lies at each vertex's mirror image."""
    gap, at = cKDTree(arrays["v_template"]).query(arrays["v_template"] * [-1, 1, 1])
    assert gap.max() < 1e-12
    return at


def people(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random betas (count, 10) and poses (count, 66), the root turned any way."""
    draw = torch.Generator().manual_seed(seed)
    pose = torch.randn(count, 66, generator=draw) * 0.4
    pose[:, :3] = torch.randn(count, 3, generator=draw)
    return torch.randn(count, 10, generator=draw), pose


def test_the_file_has_smplx_arrays_and_no_others(arrays):
    assert {name: (value.shape, value.dtype.kind) for name, value in arrays.items() if name != "part"} == FIELDS
    assert set(ARRAYS) == set(FIELDS)
    assert arrays["part"].shape == (10475,) and set(arrays["part"]) == set(range(7))


def test_numbers_of_the_file_are_those_of_a_body_model(arrays):
    for name in ("weights", "J_regressor", "lmk_bary_coords", "dynamic_lmk_bary_coords"):
        np.testing.assert_allclose(arrays[name].sum(-1), 1.0, atol=1e-9, err_msg=name)
    assert arrays["weights"].min() >= 0
    for name in ("lmk_faces_idx", "dynamic_lmk_faces_idx"):
        assert arrays[name].min() >= 0 and arrays[name].max() < 20908
    parents, own = arrays["kintree_table"].astype(np.int64)
    assert parents[0] == 2**32 - 1  # as SMPL-X writes "no parent"
    assert own.tolist() == list(range(55))
    assert (parents[1:] < own[1:]).all()
    assert all(np.isfinite(value).all() for value in arrays.values())


def test_smplx_itself_loads_the_file_and_finds_its_points(body_file):
    model = smplx.create(
        str(body_file),
        model_type="smplx",
        gender="neutral",
        use_pca=False,
        use_face_contour=True,
        num_betas=10,
        num_expression_coeffs=10,
    )
    with torch.no_grad():
        out = model()
    assert out.vertices.shape == (1, 10475, 3) and out.joints.shape == (1, 144, 3)
    x, y, z = out.joints[0].numpy().T
    assert z[55] > max(z[56], z[57])  # the nose before the eyes
    assert x[56] < 0 < x[57] and x[58] < x[56] and x[59] > x[57]  # right and left eye, right and left ear
    for toe, small_toe, heel, ankle, side in ((60, 61, 62, ANKLE, 1), (63, 64, 65, ANKLE + 1, -1)):
        assert z[heel] < z[ankle] < z[small_toe] < z[toe]
        assert max(y[toe], y[small_toe], y[heel]) < y[ankle]
        assert side * x[small_toe] > side * x[toe]
    for tips, lasts, side in ((range(66, 71), (39, 27, 30, 36, 33), 1), (range(71, 76), (54, 42, 45, 51, 48), -1)):
        for tip, last in zip(tips, lasts):
            assert 0.01 < side * (x[tip] - x[last]) < 0.04, (tip, last)
    assert np.abs(x[76:144]).max() < 0.12 and y[76:144].min() > y[12]  # landmarks lie on the head
    assert abs(z[76:127].mean() - z[55]) < 0.05


def test_the_surface_is_closed(body, arrays):
    faces = arrays["f"].astype(np.int64)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there = edges[:, 0] * 10475 + edges[:, 1]
    back = edges[:, 1] * 10475 + edges[:, 0]
    assert len(np.unique(there)) == len(there)  # no edge twice in the same direction
    assert set(there) == set(back)  # and each once in the other
    assert len(np.unique(faces)) == 10475  # every vertex is used
    corners = arrays["v_template"][faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    assert area.min() > 0


def test_volume_and_height_are_a_persons(body):
    taken = measure(body, np.zeros((1, 10)))
    assert 0.05 < taken["volume"][0] < 0.1
    assert taken["height"][0] == pytest.approx(1.72, abs=0.005)
    assert taken["waist"][0] < taken["chest"][0] < taken["hips"][0] + 0.1 < 1.2


def test_volume_is_that_of_the_triangles(body):
    import trimesh

    mesh = body.zero_pose(torch.eye(10)[:2])
    expected = [trimesh.Trimesh(one.double().numpy(), body.faces, process=False).volume for one in mesh]
    np.testing.assert_allclose(body.volume(mesh + torch.tensor([3.0, -2.0, 9.0])).numpy(), expected, rtol=1e-4)


def test_left_and_right_are_alike(arrays, twin):
    flip = np.array([-1.0, 1.0, 1.0])
    np.testing.assert_array_equal(twin[twin], np.arange(10475))
    faces = arrays["f"].astype(np.int64)
    faces = faces[(arrays["part"][faces] < 5).all(1)]  # the lips' vertices are symmetrical, their diagonals are not

    def oriented(faces):
        first = faces.argmin(1)[:, None]
        return {tuple(row) for row in np.take_along_axis(faces, (first + np.arange(3)) % 3, 1).tolist()}

    assert len(faces) > 20000
    assert not oriented(twin[faces][:, ::-1]) ^ oriented(faces)  # the mirror turns triangles inside out
    np.testing.assert_allclose(arrays["shapedirs"][twin], arrays["shapedirs"] * flip[:, None], atol=1e-9, err_msg="betas")
    swap = np.arange(55)
    for left, right in TWINS.items():
        swap[left], swap[right] = right, left
    assert len(TWINS) == 24 and (swap[swap] == np.arange(55)).all()
    np.testing.assert_allclose(arrays["weights"][twin][:, swap], arrays["weights"], atol=1e-9)
    joints = arrays["J_regressor"] @ arrays["v_template"]
    np.testing.assert_allclose(joints[swap], joints * flip, atol=1e-6)
    moved = np.einsum("jv,vck->jck", arrays["J_regressor"], arrays["shapedirs"][:, :, :10])
    np.testing.assert_allclose(moved[swap], moved * flip[:, None], atol=1e-6)


def test_a_pose_and_its_mirror_image_give_mirrored_bodies(body):
    betas, pose = people(2)
    swap = torch.arange(22)
    for left, right in TWINS.items():
        if right < 22:
            swap[left], swap[right] = right, left
    mirrored = pose.unflatten(1, (22, 3))[:, swap] * torch.tensor([1.0, -1.0, -1.0])
    _, points = body.figure(betas, pose)
    _, other = body.figure(betas, mirrored.flatten(1))
    torch.testing.assert_close(other, points[:, list(MIRRORED)] * torch.tensor([-1.0, 1.0, 1.0]), atol=1e-5, rtol=0)


@pytest.fixture(scope="session")
def changes(body: Body) -> dict[str, np.ndarray]:
    """What +1 of each beta changes: measure → (10,); `mean` measures under "=measure"."""
    probes = np.concatenate([np.zeros((1, 10)), np.eye(10)])
    taken = measure(body, probes)
    mesh = body.zero_pose(torch.from_numpy(probes).float())
    joints = torch.einsum("jv,bvc->bjc", body.layer.J_regressor, mesh).numpy().astype(float)
    head = (body.layer.lbs_weights[:, HEAD] > 0.95).numpy()
    taken["hip_to_ankle"] = joints[:, HIP, 1] - joints[:, ANKLE, 1]
    taken["trunk"] = joints[:, 12, 1] - joints[:, 0, 1]
    taken["head_height"] = mesh[..., 1].amax(1).numpy() - joints[:, HEAD, 1]
    taken["head_width"] = np.ptp(mesh.numpy()[:, head, 0], axis=1)

    def around(low: int, high: int, share: float, axis: int) -> np.ndarray:
        """Hull of a thin slice of one limb's skin between two joints of the left side."""
        rest = mesh[0].numpy()
        at = joints[0, low, axis] + share * (joints[0, high, axis] - joints[0, low, axis])
        skin = (body.layer.lbs_weights[:, low].numpy() > 0.5) & (np.abs(rest[:, axis] - at) < 0.03)
        plane = [k for k in range(3) if k != axis]
        return np.array([ConvexHull(one[skin][:, plane]).area for one in mesh.numpy()])

    taken["upper_arm"] = around(SHOULDER, ELBOW, 0.5, 0)
    taken["thigh"] = around(HIP, KNEE, 0.5, 1)
    taken["calf"] = around(KNEE, ANKLE, 0.3, 1)
    return {name: value[1:] - value[0] for name, value in taken.items()} | {f"={k}": v[0] for k, v in taken.items()}


DOES = [
    # beta, what it changes, by at least, at most (metres; shares of the mean figure where the name ends in %)
    ("height", "height", 0.064, 0.066),
    ("height", "waist%", 0.036, 0.040),  # the whole figure scaled alike
    ("height", "shoulder_width%", 0.036, 0.040),
    ("height", "leg_length%", 0.036, 0.040),
    ("height", "volume%", 0.110, 0.125),
    ("height", "waist_hip", -0.001, 0.001),
    ("mass", "volume%", 0.10, 0.14),
    ("mass", "waist", 0.06, 0.10),
    ("mass", "waist_hip", 0.01, 0.05),  # most of it at the belly
    ("mass", "limb_girth%", 0.04, 0.12),  # and some everywhere
    ("mass", "height", -0.001, 0.001),
    ("shoulder_width", "shoulder_width", 0.0255, 0.0265),
    ("shoulder_width", "waist", -0.001, 0.001),
    ("chest", "chest", 0.035, 0.06),
    ("chest", "hips", -0.001, 0.001),
    ("waist", "waist", 0.05, 0.07),
    ("waist", "chest", -0.005, 0.005),
    ("hip_width", "hip_width", 0.022, 0.035),
    ("hip_width", "shoulder_width", -0.001, 0.001),
    ("leg_length", "hip_to_ankle", 0.0245, 0.0255),
    ("leg_length", "height", -0.001, 0.001),
    ("leg_length", "trunk", -0.030, -0.015),
    ("muscularity", "upper_arm%", 0.06, 0.10),
    ("muscularity", "thigh%", 0.05, 0.10),
    ("muscularity", "calf%", 0.06, 0.10),
    ("muscularity", "chest", 0.01, 0.05),
    ("muscularity", "waist_width", -0.012, -0.008),
    ("head_size", "head_height%", 0.035, 0.045),
    ("head_size", "head_width%", 0.035, 0.045),
    ("head_size", "arm_length", -0.001, 0.001),
    ("arm_length", "arm_length", 0.0175, 0.0185),
    ("arm_length", "height", -0.001, 0.001),
]


@pytest.mark.parametrize(("beta", "what", "least", "most"), DOES)
def test_a_beta_does_what_its_text_says(changes, beta, what, least, most):
    k = [one.name for one in BETAS].index(beta)
    name = what.rstrip("%")
    change = changes[name][k] / (changes[f"={name}"] if what.endswith("%") else 1.0)
    assert least <= change <= most


def test_every_beta_is_documented_and_tried():
    assert len(BETAS) == 10
    assert {one.name for one in BETAS} == {beta for beta, *_ in DOES}


def test_measures_hang_together(body):
    betas, _ = people(5)
    one = measure(body, betas)
    np.testing.assert_allclose(one["mass"], one["volume"] * DENSITY, rtol=1e-6)
    np.testing.assert_allclose(one["bmi"], one["mass"] / one["height"] ** 2, rtol=1e-6)
    np.testing.assert_allclose(one["leg_height"], one["leg_length"] / one["height"], rtol=1e-6)
    np.testing.assert_allclose(one["waist_hip"], one["waist"] / one["hips"], rtol=1e-6)
    assert all(value.shape == (5,) and value.dtype == np.float64 for value in one.values())
    for i in range(5):  # each body on its own
        for name, value in measure(body, betas[i : i + 1]).items():
            assert value[0] == pytest.approx(one[name][i], rel=1e-5), name


@pytest.mark.parametrize("side", [0, 1], ids=["left", "right"])
def test_bending_an_elbow_moves_that_wrist_and_not_the_hip(body, side):
    pose = torch.zeros(2, 66)
    pose[1, 3 * (ELBOW + side) + 1] = 1.2
    vertices, joints = body.posed(torch.zeros(2, 10), pose)
    moved = (joints[1] - joints[0]).norm(dim=-1)
    forearm = (joints[0, WRIST + side] - joints[0, ELBOW + side]).norm()
    assert moved[WRIST + side] == pytest.approx(float(2 * forearm * np.sin(0.6)), rel=1e-4)
    for still in (HIP, HIP + 1, ELBOW + side, SHOULDER + side, WRIST + 1 - side):
        assert moved[still] < 1e-6
    skin = (vertices[1] - vertices[0]).norm(dim=-1)
    own = body.layer.lbs_weights[:, [ELBOW + side, WRIST + side]].sum(1)
    arm = own + body.layer.lbs_weights[:, 25 + 15 * side : 40 + 15 * side].sum(1)
    assert skin[arm == 0].max() < 1e-6 and skin[own > 0.99].min() > 0.01


def test_zero_pose_is_smplx_without_rotations(body):
    betas, _ = people(6)
    expected, _ = body.posed(betas, torch.zeros(6, 66))
    torch.testing.assert_close(body.zero_pose(betas), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(body.zero_pose(torch.zeros(1, 10))[0], body.rest)


def test_figure_is_posed(body):
    betas, pose = people(8)
    vertices, joints = body.posed(betas, pose)
    quick, points = body.figure(betas, pose)
    assert (quick - vertices).abs().max() < 1e-5  # 0.01 mm
    assert (points - points15(joints)).abs().max() < 1e-5


def test_the_15_points_are_the_named_joints(body):
    _, joints = body.posed(*people(2))
    points = body.points15(joints)
    assert points.shape == (2, 15, 3)
    torch.testing.assert_close(points[:, :14], joints[:, list(POINTS15)])
    torch.testing.assert_close(points[:, 14], (joints[:, 56] + joints[:, 57]) / 2)


def test_a_file_of_the_licensed_ones_make(arrays, tmp_path):
    """400 shape columns, of which expressions start at 300, and pose blend shapes that are not zero."""
    rng = np.random.default_rng(0)
    wide = np.zeros((10475, 3, 400), np.float32)
    wide[:, :, :10] = arrays["shapedirs"][:, :, :10]
    wide[:, :, 10:20] = 7.0  # betas 11 to 20: not read
    wide[:, :, 300:310] = arrays["shapedirs"][:, :, 10:]
    bumps = rng.normal(0, 0.002, (10475, 3, 486)).astype(np.float32)
    path = tmp_path / "SMPLX_NEUTRAL.npz"
    np.savez(path, **{**arrays, "shapedirs": wide, "posedirs": bumps, "vt": np.zeros(3)})
    body = load_body(path)
    path.unlink()
    expressions = body.layer.expr_dirs.numpy()
    np.testing.assert_allclose(expressions, arrays["shapedirs"][:, :, 10:], atol=1e-7)
    betas, pose = people(2)
    vertices, joints = body.posed(betas, pose)
    quick, points = body.figure(betas, pose)
    assert (quick - vertices).abs().max() < 1e-5 and (points - points15(joints)).abs().max() < 1e-5
    flat, _ = body.posed(betas, torch.zeros(2, 66))
    torch.testing.assert_close(body.zero_pose(betas), flat, atol=2e-6, rtol=0)
    still = arrays["weights"][:, 25:].sum(1) == 0  # fingers are bent in zero pose, the rest of the body is not
    moved = (body.zero_pose(torch.eye(10)) - body.rest).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(moved[still], arrays["shapedirs"][still][:, :, :10], atol=1e-6)


def test_a_body_model_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"body model not found: .*nobody\.npz \(build one: .*build_standin"):
        load_body(tmp_path / "nobody.npz")


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_is_missing_is_named(tmp_path, name):
    path = tmp_path / "SMPLX_NEUTRAL.npz"
    np.savez(path, **{other: np.zeros(1) for other in ARRAYS if other != name})
    with pytest.raises(ValueError, match=rf"SMPLX_NEUTRAL\.npz: .* arrays missing: {name}$") as caught:
        load_body(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("v_template", (6890, 3), r"v_template is \(6890, 3\), SMPL-X has \(10475, 3\)"),  # SMPL
        ("shapedirs", (10475, 3, 16), "shapedirs has 16 columns, at least 10 betas"),
    ],
)
def test_a_body_model_of_another_kind(tmp_path, name, shape, words):
    path = tmp_path / "SMPLX_NEUTRAL.npz"
    held = {other: np.zeros(1) for other in ARRAYS} | {"v_template": np.zeros((10475, 3)), name: np.zeros(shape)}
    np.savez(path, **held)
    with pytest.raises(ValueError, match=words) as caught:
        load_body(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["empty", "text", "cut short", "npy", "pickle"])
def test_a_file_that_is_no_body_model_gets_one_clear_error(tmp_path, body_file, kind):
    path = tmp_path / "SMPLX_NEUTRAL.npz"
    whole = body_file.read_bytes()
    held = {"empty": b"", "text": b"404: not found\n", "cut short": whole[: len(whole) // 2], "pickle": b"\x80\x04}."}
    if kind == "npy":
        with path.open("wb") as stream:
            np.save(stream, np.zeros((5, 3)))
    else:
        path.write_bytes(held[kind])
    with pytest.raises(ValueError) as caught:
        load_body(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value) and "allow_pickle" not in str(caught.value)
