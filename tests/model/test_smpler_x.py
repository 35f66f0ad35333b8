"""SMPLer-X: the reference's goldens, operations and the whole network; strict checkpoints; rows, quick and the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.body import Body
from model.images import apply_affine, crop_person, invert_affine
from model.smpler_checkpoint import RENAMED, current_names, fitted, is_smpler_x, layout, size_of, to_ours
from model.smpler_heads import restore_box, sample, soft_argmax
from model.smpler_rotations import sixd_to_axis_angle
from model.smpler_x import SIZES, SMPLerX, graph_points
from model.state_files import BadCheckpoint
from tests.model.smpler_cases import made_up_state, manifest, reference_body, reference_state

POSE, NUMBERS, METRES, CELLS, PIXELS = 1e-4, 1e-5, 1e-4, 5e-3, 1e-2
"""Tolerances of fill.md: axis-angle (also cells of heat maps), betas and expression, metres, projected joints, boxes."""


@pytest.fixture(scope="module")
def smplerx(shared: Path) -> Path:
    folder = shared / "reference/smplerx"
    if not (folder / "fill.py").is_file():
        pytest.skip(f"no {folder.name}/fill.py: what the reference computes is not to be had here")
    return folder


@pytest.fixture(scope="module")
def golden(smplerx: Path) -> dict[str, np.ndarray]:
    with np.load(smplerx / "golden_s32.npz") as data:
        return {name: data[name] for name in data.files}


@pytest.fixture(scope="module")
def ops(smplerx: Path) -> dict[str, np.ndarray]:
    with np.load(smplerx / "golden_ops.npz") as data:
        return {name: data[name] for name in data.files}


@pytest.fixture(scope="module")
def official(smplerx: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SMPLerX, Path]:
    """The goldens' network, read from a file as the training code writes it, and its body model."""
    folder = tmp_path_factory.mktemp("smplerx")
    state = {f"module.{key}": value for key, value in reference_state(smplerx, "s32").items()}
    torch.save({"epoch": 3, "network": state, "optimizer": {"state": {}, "param_groups": []}}, folder / "s.pth.tar")
    body = reference_body(smplerx, folder / "body.npz")
    model = SMPLerX.from_checkpoint(folder / "s.pth.tar", "s32", body)
    (folder / "s.pth.tar").unlink()
    return model, body


@pytest.fixture(scope="module")
def made_up(body: Body) -> SMPLerX:
    model = SMPLerX("s32", body)
    model.load_state_dict(to_ours(made_up_state()), strict=True)
    return model.eval().requires_grad_(False)


def crops(count: int, seed: int = 0) -> Tensor:
    """(count, 3, 512, 384) of blobs in [0, 1]."""
    coarse = torch.rand(count, 3, 16, 12, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(512, 384), mode="bilinear")


def close(ours: Tensor | np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=tolerance)


def test_the_whole_network_gives_the_references_numbers(official, golden):
    model, _ = official
    said = model(torch.from_numpy(golden["img"]))
    for name, theirs in (
        *(("root", "smplx_root_pose"), ("body_pose", "smplx_body_pose"), ("jaw", "smplx_jaw_pose")),
        *(("left_hand", "smplx_lhand_pose"), ("right_hand", "smplx_rhand_pose")),
    ):
        close(getattr(said, name), golden[theirs], POSE)
    close(said.betas, golden["shape"], NUMBERS)
    close(said.expression, golden["expr"], NUMBERS)
    close(said.camera, golden["cam_trans"], METRES)
    for name, theirs in (("left_box", "lhand_bbox"), ("right_box", "rhand_bbox"), ("face_box", "face_bbox")):
        close(getattr(said, name), golden[theirs], PIXELS)
    close(said.joints, golden["joint_cam_pelvis_rel"], METRES)
    close(said.joints_local, golden["joint_cam_rel"], METRES)
    close(said.seen, golden["joint_proj"], CELLS)
    close(said.found, golden["joint_img"], 2 * POSE)
    close(said.mesh[:, ::50], golden["mesh_cam_every50"], METRES)
    close(-said.mesh_point[:, ::50], golden["mesh_cam_zero_pose_every50"], METRES)
    close(said.volume, golden["volume"], METRES)


def test_its_parts_give_the_references_numbers(official, golden):
    model, _ = official
    with torch.inference_mode():
        read = model.read(torch.from_numpy(golden["img"])[:, :, ::2, ::2])
        tokens = model.encoder.forward_features(torch.from_numpy(golden["img"])[:, :, ::2, ::2])[:, :31]
        centre, size = model.box_net(read.features, read.heat)
        left, right = (restore_box(centre[:, k], size[:, k], 2.0) for k in (0, 1))
        hands = model.hand_roi_net(read.features, left, right)
        heat, joints = model.hand_position_net(hands)
        turned = model.hand_regressor(hands, joints)
    close(read.features, golden["img_feat"], 2e-5)
    close(tokens, golden["task_tokens"], 2e-5)
    close(read.heat, golden["body_joint_hm"], 2e-6)
    close(read.joints, golden["body_joint_img"], POSE)
    for ours, theirs, tolerance in (
        (read.root, "raw_root_6d", NUMBERS),
        (read.body_pose, "raw_body_6d", NUMBERS),
        (read.jaw, "raw_jaw_6d", NUMBERS),
        (read.camera, "raw_cam", NUMBERS),
        (hands[:, :16], "hand_feat_first16", 1e-3),  # cut at boxes that are known to some thousandths of a pixel
        (joints, "hand_joint_img_raw", 1e-3),
        (heat[:, 0], "hand_hm_joint0", POSE),
        (turned, "raw_hand_6d", POSE),
    ):
        close(ours, golden[theirs], tolerance)
    for k, part in enumerate(("lhand", "rhand", "face")):
        close(centre[:, k], golden[f"box_{part}_center"], POSE)
        close(size[:, k], golden[f"box_{part}_size"], POSE)


def test_every_operation_gives_the_references_numbers(ops):
    read = {name: torch.from_numpy(value) for name, value in ops.items() if value.dtype.kind == "f"}
    close(sixd_to_axis_angle(read["rot6d_in"]), ops["rot6d_axis_angle"], POSE)
    for growth, name in ((2.0, "hand"), (1.5, "face")):
        close(restore_box(read["bbox_center"], read["bbox_size"], growth), ops[f"bbox_{name}"], PIXELS)
    close(soft_argmax(read["hm3_in"])[1], ops["soft_argmax_3d"], POSE)
    close(soft_argmax(read["hm2_in"])[1], ops["soft_argmax_2d"], POSE)
    close(sample(read["samp_feat"], read["samp_xy"]), ops["samp_out"], NUMBERS)


def test_crops_and_points_are_the_references(ops):
    for k, (x, y, w, h) in enumerate(ops["boxes_xywh"]):
        patch, matrix = crop_person(ops["crop_img"], np.array([x, y, x + w, y + h]), (384, 512))
        close(patch[::4, ::4], ops["patch_every4"][k], 0)
        close(matrix, ops["img2bb"][k], PIXELS)
        close(invert_affine(matrix), ops["bb2img"][k], PIXELS)
        if k == 0:
            back = invert_affine(matrix)
            joints = apply_affine(back, ops["jp_in"] * 32)
            close(joints[:25], ops["jp_img_box0"], PIXELS)
            # The reference cuts the joints themselves to whole pixels, after the middle of the eyes is taken.
            points = apply_affine(back, graph_points(torch.from_numpy(ops["jp_in"])[None])[0].numpy())
            assert (points.astype(np.int32) == ops["graph_points_box0"]).all()


def test_odd_rotations():
    """A zero vector is a half turn about y, what is not a number is no turn, the identity is none."""
    turns = sixd_to_axis_angle(torch.tensor([[0.0] * 6, [float("nan")] * 6, [1.0, 0, 0, 1, 0, 0]]))
    close(turns, np.array([[0, np.pi, 0], [0, 0, 0], [0, 0, 0]]), 1e-6)


@pytest.mark.parametrize("size", list(SIZES))
def test_the_layout_is_that_of_the_official_checkpoints(smplerx, size):
    """Every key of the manifest with its shape and type, and the network takes all of them."""
    listed = manifest(smplerx, size)
    assert layout(size) == listed
    state = {f"module.{key}": torch.zeros((), dtype=kind).expand(shape) for key, (shape, kind) in listed.items()}
    state = {key.removeprefix("module."): value for key, value in state.items()}
    assert is_smpler_x(state) and size_of(Path("x"), state) == size
    with torch.device("meta"):
        from model.smpler_x import make_encoder

        network = torch.nn.ModuleDict({"encoder": make_encoder(size), **SMPLerX.heads(size)})
    network.load_state_dict(to_ours(fitted(Path("x"), state, size)), strict=True, assign=True)
    assert not [key for key, value in network.state_dict().items() if value.is_meta]
    assert sum(value.numel() for value in network.parameters()) == sum(
        int(np.prod(shape)) for key, (shape, kind) in listed.items() if kind.is_floating_point and "running" not in key
    ) - listed["encoder.pos_embed"][0][2]  # the row of the class token is added to the others


@pytest.mark.parametrize("kept", ["pth.tar", "bare", "older names"])
def test_a_checkpoint_is_read_however_it_was_kept(tmp_path, body, body_file, made_up, kept):
    state = made_up_state()
    if kept == "pth.tar":
        whole = {"epoch": 1, "network": {f"module.{k}": v for k, v in state.items()}}
    elif kept == "bare":
        whole = state | {"smplx_layer.v_template": torch.zeros(3, 3)}
    else:
        whole = {"network": {}}
        for key, value in state.items():
            for before, new in RENAMED.items():
                key = before + key.removeprefix(new) if key.startswith(new) else key
            whole["network"][key] = value
        assert current_names(whole["network"]).keys() == state.keys() != whole["network"].keys()
    torch.save(whole, tmp_path / "s.pth.tar")
    model = SMPLerX.from_checkpoint(tmp_path / "s.pth.tar", "s32", body_file)
    for (name, ours), theirs in zip(model.state_dict().items(), made_up.state_dict().values()):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("box_net.deconv.4.bias"), "missing: box_net.deconv.4.bias"),
        (lambda s: s.update({"head.weight": torch.zeros(3)}), "unexpected: head.weight"),
        (lambda s: s.update({"encoder.pos_embed": torch.zeros(1, 192, 384)}), "pos_embed is .1, 192, 384., expected"),
        (lambda s: s["face_regressor.expr_out.0.bias"].fill_(float("nan")), "expr_out.0.bias holds numbers that"),
    ],
)
def test_a_key_that_does_not_fit_is_named(tmp_path, body_file, change, words):
    state = made_up_state()
    change(state)
    torch.save({"network": state}, tmp_path / "s.pth.tar")
    with pytest.raises(BadCheckpoint, match=rf"s\.pth\.tar.*{words}"):
        SMPLerX.from_checkpoint(tmp_path / "s.pth.tar", "s32", body_file)


def test_a_checkpoint_of_another_size_is_told(tmp_path, body_file):
    torch.save(made_up_state(), tmp_path / "s.pth.tar")
    with pytest.raises(BadCheckpoint, match=r"expected .*\(size b32\)"):
        SMPLerX.from_checkpoint(tmp_path / "s.pth.tar", "b32", body_file)
    with pytest.raises(ValueError, match="'m32': there are s32, b32, l32, h32"):
        SMPLerX.from_checkpoint(tmp_path / "s.pth.tar", "m32", body_file)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_people_do_not_hang_on_each_other(made_up, count):
    """Each person's answer is the same in every batch, also in one of three, where the reference is wrong."""
    together = made_up(crops(4)[:count])
    assert together.mesh.shape == (count, 10475, 3)
    for k in range(count):
        alone = made_up(crops(4)[k : k + 1])
        for name in ("root", "jaw", "body_pose", "left_hand", "betas", "camera", "seen", "left_box", "mesh"):
            torch.testing.assert_close(getattr(together, name)[k], getattr(alone, name)[0], atol=2e-4, rtol=2e-5)


def test_the_left_hand_is_read_as_a_mirrored_right_one(made_up):
    """Of features that are their own mirror image, hands in mirrored boxes are each other's mirror image."""
    with torch.inference_mode():
        read = made_up.read(crops(2)[:, :, ::2, ::2])
        fine = made_up.hand_roi_net.deconv(read.features)
        left = torch.tensor([[20.0, 60.0, 70.0, 110.0], [40.0, 90.0, 80.0, 130.0]])
        right = torch.stack([188 - left[:, 2], left[:, 1], 188 - left[:, 0], left[:, 3]], 1)
        net = made_up.hand_roi_net
        deconv, net.deconv = net.deconv, torch.nn.Identity()
        both = net(fine + fine.flip(-1), left, right)
        net.deconv = deconv
    torch.testing.assert_close(both[:2], both[2:], atol=1e-4, rtol=1e-4)


def test_rows_are_what_the_whole_network_says(official, made_up, golden):
    """With a body whose eyes hang on its hands, and with one where they do not and the hands are left out."""
    for model, patches in ((official[0], torch.from_numpy(golden["img"])), (made_up, crops(3))):
        whole, rows = model(patches), model.rows(patches[:, :, ::2, ::2])
        close(rows.pose, torch.cat([whole.root, whole.body_pose], 1), 1e-6)
        close(rows.betas, whole.betas, 0)
        close(rows.camera, whole.camera, 0)
        close(rows.vertices + rows.camera[:, None], -whole.mesh_point, 1e-6)
        close(rows.points, whole.points, 2e-2)
    assert official[0].hands_move_eyes and not made_up.hands_move_eyes


def test_a_row_reads_only_every_second_pixel(made_up):
    patches = crops(1)
    other = patches.clone()
    other[:, :, 1::2] = 0
    other[:, :, :, 1::2] = 1
    assert torch.equal(made_up(patches).mesh, made_up(other).mesh)


@pytest.mark.parametrize("shape", [(1, 3, 512, 512), (3, 512, 384), (1, 1, 512, 384)])
def test_a_patch_of_another_shape(made_up, shape):
    with pytest.raises(ValueError, match=r"patches: .*expected \(B, 3, 512, 384\)"):
        made_up(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"halves: .*expected \(B, 3, 256, 192\)"):
        made_up.rows(torch.zeros(shape))


def test_the_body_model_is_not_part_of_the_network(made_up):
    assert not [key for key in made_up.state_dict() if "body." in key.split("regressor")[0]]
