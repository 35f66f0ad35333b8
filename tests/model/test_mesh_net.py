"""The small mesh network: shapes, independence of rows, learning, files; mirrored and augmented crops; rotations."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.spatial.transform import Rotation

from model.graph import MIRRORED
from model.mesh_augment import MIRROR_JOINTS, augment, mirror
from model.mesh_net import MeshNet, MeshNetConfig, MeshNetOutput, load_mesh_net, save_mesh_net
from model.rotations import axis_angle_to_matrix, matrix_to_axis_angle, matrix_to_sixd, sixd_to_matrix
from model.standin_shape import TWINS
from tasks.train_mesh_net import START, started

SHAPES = {
    "betas": (10,),
    "rotations": (22, 3, 3),
    "points": (15, 2),
    "presence": (),
    "heat": (15, 32, 24),
    "mask": (32, 24),
}

GEOMETRY = ("betas", "rotations", "points", "mask")


def fresh(seed: int = 0, **config: object) -> MeshNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MeshNet(MeshNetConfig(**config)).eval().requires_grad_(False)


def close(a: MeshNetOutput, b: MeshNetOutput, tolerance: float = 1e-4) -> None:
    for name in SHAPES:
        torch.testing.assert_close(
            getattr(a, name), getattr(b, name), atol=tolerance, rtol=tolerance / 10, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shapes_for_every_batch_size(net, crops, count):
    output = net(crops["images"][:count])
    assert {name: tuple(getattr(output, name).shape) for name in SHAPES} == {n: (count, *s) for n, s in SHAPES.items()}
    assert output.pose.shape == (count, 66)
    assert all(torch.isfinite(getattr(output, name)).all() for name in SHAPES)


def test_a_row_does_not_hang_on_its_batch(net, crops):
    together = net(crops["images"])
    for i in (0, 5, 11):
        alone = net(crops["images"][i : i + 1])
        close(alone, MeshNetOutput(**{name: getattr(together, name)[i : i + 1] for name in SHAPES}))
    order = torch.randperm(len(crops["images"]), generator=torch.Generator().manual_seed(1))
    shuffled = net(crops["images"][order])
    close(shuffled, MeshNetOutput(**{name: getattr(together, name)[order] for name in SHAPES}))


def test_what_is_read_is_what_is_said(net, crops):
    output, features = net.read(crops["images"][:4])
    close(output, net(crops["images"][:4]), 1e-6)
    assert features.shape == (4, net.width)
    torch.testing.assert_close(net.read(crops["images"][2:3])[1], features[2:3], atol=1e-4, rtol=1e-4)
    assert (features[0] - features[1]).abs().max() > 0.1  # another crop reads otherwise


@pytest.mark.parametrize("shape", [(2, 3, 96, 128), (2, 3, 128, 128), (2, 1, 128, 96), (3, 128, 96), (2, 128, 96, 3)])
def test_a_crop_of_another_size_is_refused(net, shape):
    with pytest.raises(ValueError) as caught:
        net(torch.zeros(shape))
    assert str(shape) in str(caught.value) and "(B, 3, 128, 96)" in str(caught.value)


def test_what_is_said_makes_sense(net, crops):
    output = net(crops["images"])
    eye = torch.eye(3).expand_as(output.rotations)
    torch.testing.assert_close(output.rotations @ output.rotations.mT, eye, atol=1e-5, rtol=0)
    assert (torch.linalg.det(output.rotations) - 1).abs().max() < 1e-5
    assert (output.heat.exp().sum((2, 3)) - 1).abs().max() < 1e-4
    assert (output.points > 0).all() and (output.points < torch.tensor([96, 128])).all()
    again = axis_angle_to_matrix(output.pose.unflatten(1, (22, 3)))
    torch.testing.assert_close(again, output.rotations, atol=1e-4, rtol=0)


def test_points_are_the_middle_of_their_heat(net, crops):
    output = net(crops["images"][:3])
    heat = output.heat.exp()
    x = (torch.arange(24) + 0.5) * 4  # cells of 4 px
    y = (torch.arange(32) + 0.5) * 4
    expected = torch.stack([(heat.sum(2) * x).sum(-1), (heat.sum(3) * y).sum(-1)], -1)
    torch.testing.assert_close(output.points, expected, atol=1e-2, rtol=0)


def test_an_untrained_network_says_the_mean_pose(crops):
    net = fresh()
    pose = torch.randn(50, 66, generator=torch.Generator().manual_seed(2)) * 0.1
    pose[:, 0] += 3.1  # nearly a half turn, as a camera with y down sees people
    net.set_statistics(pose, torch.zeros(7, 3, 10))
    expected = Rotation.concatenate([Rotation.from_rotvec(pose[:, 12:15].numpy())]).mean().as_matrix()
    np.testing.assert_allclose(net.mean_rotations[4].numpy(), expected, atol=5e-3)
    angle = matrix_to_axis_angle(net(crops["images"][:2]).rotations.mT @ net.mean_rotations).norm(dim=-1)
    assert angle.max() < 0.3


def test_the_shape_metric_is_the_mean_squared_vertex_distance(body):
    net = fresh()
    net.set_statistics(torch.zeros(3, 66), body.directions.unflatten(1, (-1, 3)).permute(1, 2, 0))
    betas = torch.randn(4, 10, generator=torch.Generator().manual_seed(3))
    expected = (body.zero_pose(betas) - body.rest).square().sum(-1).mean(-1)
    torch.testing.assert_close(((betas @ net.shape_gram) * betas).sum(-1), expected, rtol=1e-4, atol=1e-7)


def test_a_few_steps_reduce_the_loss(crops):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MeshNet(MeshNetConfig(widths=(16, 32, 64), hidden=64)).train()
    person = crops["presence"] > 0.5
    net.set_statistics(matrix_to_axis_angle(crops["rotations"][person]).flatten(1), torch.ones(1, 3, 10) / 30)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    history = []
    for _ in range(20):
        terms = net.loss(net(crops["images"]), crops)
        optimiser.zero_grad()
        terms["total"].backward()
        optimiser.step()
        history.append({name: value.item() for name, value in terms.items()})
    first, last = history[0], history[-1]
    for term in ("total", "shape", "pose", "points", "mask", "presence"):
        assert last[term] < 0.8 * first[term], term
    with torch.no_grad():  # and so does the network in eval mode
        said = net.eval()(crops["images"])
    assert net.loss(said, crops)["total"].item() < 0.8 * first["total"]


def test_the_shipped_network_knows_mannequins(net, crops):
    """Crops that are rendered here, of a seed that it has not learned."""
    person = crops["presence"] > 0.5
    output = net(crops["images"])
    assert torch.equal(output.presence > 0, person) and person.any() and not person.all()
    apart = (output.points - crops["points"])[person].norm(dim=-1)
    assert apart.mean() < 4 and apart.max() < 25  # of 128 px
    covered = (output.mask > 0) & person[:, None, None]
    true = (crops["mask"] > 0.5) & person[:, None, None]
    assert (covered & true).sum() / (covered | true).sum() > 0.7
    turned = matrix_to_axis_angle(output.rotations[person, 0].mT @ crops["rotations"][person, 0]).norm(dim=-1)
    assert turned.median() < 0.5
    guess = matrix_to_axis_angle(net.mean_rotations[0].mT @ crops["rotations"][person, 0]).norm(dim=-1)
    assert turned.mean() < 0.7 * guess.mean()
    error = (output.betas - crops["betas"])[person].square().mean(0)
    assert error[1] < crops["betas"][person, 1].square().mean()  # mass shows; stature does not


def test_the_total_is_the_weighted_sum(net, crops):
    terms = net.loss(net(crops["images"]), crops)
    weighted = sum(getattr(net.config, f"{name}_weight") * terms[{"betas": "shape"}.get(name, name)] for name in
                   ("betas", "pose", "points", "heat", "mask", "presence"))  # fmt: skip
    torch.testing.assert_close(terms["total"], weighted)
    assert all(value.ndim == 0 and value > 0 for value in terms.values())


def test_the_loss_is_zero_where_nothing_is_wrong(net, crops):
    output = net(crops["images"])
    terms = net.loss(output, {**crops, **{name: getattr(output, name) for name in ("betas", "rotations", "points")}})
    for name in ("shape", "pose", "points"):
        assert float(terms[name]) == pytest.approx(0, abs=1e-9)


def test_geometry_of_nobody_is_not_looked_at(net, crops):
    there = torch.nonzero(crops["presence"] > 0.5).flatten()[:6]
    presence = torch.ones(6)
    presence[[1, 4]] = 0
    output = net(crops["images"][there])
    known = {**{name: crops[name][there] for name in GEOMETRY}, "presence": presence}
    other = {name: value.clone() for name, value in known.items()}
    for name in GEOMETRY:
        other[name][[1, 4]] = 0.25
    before, after = net.loss(output, known), net.loss(output, other)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, msg=name)
    other["points"][0] += 50  # of somebody it is
    assert float(net.loss(output, other)["points"]) > float(before["points"])
    # the mean is over people, not over crops
    people = torch.tensor([0, 2, 3, 5])
    some = MeshNetOutput(**{name: getattr(output, name)[people] for name in SHAPES})
    only = net.loss(some, {name: value[people] for name, value in known.items()})
    for name in ("shape", "pose", "points", "heat", "mask"):
        torch.testing.assert_close(only[name], before[name], msg=name)


def test_a_batch_of_nobody_teaches_presence_alone(net, crops):
    output = net(crops["images"][:3])
    terms = net.loss(output, {**{name: crops[name][:3] for name in GEOMETRY}, "presence": torch.zeros(3)})
    for name in ("shape", "pose", "points", "heat", "mask"):
        assert float(terms[name]) == 0, name
    expected = torch.nn.functional.softplus(output.presence).mean()
    torch.testing.assert_close(terms["presence"], expected)
    torch.testing.assert_close(terms["total"], net.config.presence_weight * expected)


def test_saved_and_loaded_it_is_the_same(net, net_folder, crops):
    loaded = load_mesh_net(net_folder)
    assert loaded.config == net.config and not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded.mean_rotations, net.mean_rotations) and torch.equal(loaded.shape_gram, net.shape_gram)
    assert not torch.equal(loaded.mean_rotations, torch.eye(3).repeat(22, 1, 1))
    close(loaded(crops["images"][:5]), net(crops["images"][:5]), 1e-6)
    assert {p.name for p in net_folder.iterdir()} == {"mesh_net.safetensors", "mesh_net.json"}
    assert json.loads((net_folder / "mesh_net.json").read_text())["about"] == {"trained_on": "mannequins"}


def test_another_size_comes_back_as_it_was(tmp_path, crops):
    small = fresh(widths=(16, 24, 32), hidden=40)
    save_mesh_net(small, tmp_path / "deep" / "down")
    loaded = load_mesh_net(tmp_path / "deep" / "down")
    assert loaded.config == small.config == MeshNetConfig(widths=(16, 24, 32), hidden=40)
    close(loaded(crops["images"][:2]), small(crops["images"][:2]), 1e-6)


@pytest.mark.parametrize("name", ["mesh_net.json", "mesh_net.safetensors"])
def test_a_file_that_is_missing_is_named(net_folder, tmp_path, name):
    shutil.copytree(net_folder, tmp_path / "net")
    (tmp_path / "net" / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"net/{name} is missing"):
        load_mesh_net(tmp_path / "net")


def test_weights_of_another_size_are_refused(net_folder, tmp_path):
    save_mesh_net(fresh(widths=(16, 24, 32)), tmp_path)
    shutil.copy(net_folder / "mesh_net.json", tmp_path)
    with pytest.raises(ValueError, match="weights do not fit") as caught:
        load_mesh_net(tmp_path)
    assert str(tmp_path) in str(caught.value)
    names = load_file(tmp_path / "mesh_net.safetensors")
    assert any(name in str(caught.value) for name in names)


def test_a_tensor_that_is_missing_is_named(net_folder, tmp_path):
    shutil.copy(net_folder / "mesh_net.json", tmp_path)
    tensors = load_file(net_folder / "mesh_net.safetensors")
    del tensors["mean_rotations"]
    save_file(tensors, tmp_path / "mesh_net.safetensors")
    with pytest.raises(ValueError, match=r"weights do not fit(.|\n)*mean_rotations"):
        load_mesh_net(tmp_path)


def some_targets(crops, count: int = 6) -> dict[str, torch.Tensor]:
    return {name: crops[name][:count] for name in (*GEOMETRY, "presence")}


def test_mirrored_twice_is_as_it_was(crops):
    images, targets = crops["images"][:6], some_targets(crops)
    flip = torch.tensor([True, False, True, True, False, True])
    once = mirror(images, targets, flip)
    twice, back = mirror(*once, flip)
    assert torch.equal(twice, images)
    for name, value in targets.items():
        torch.testing.assert_close(back[name], value, msg=name)
    assert torch.equal(once[0][[1, 4]], images[[1, 4]])
    for name in targets:
        assert torch.equal(once[1][name][[1, 4]], targets[name][[1, 4]])
    assert torch.equal(once[0][0], images[0].flip(2)) and torch.equal(once[1]["mask"][0], targets["mask"][0].flip(1))
    expected = targets["points"][0, list(MIRRORED)] * torch.tensor([-1.0, 1]) + torch.tensor([96.0, 0])
    torch.testing.assert_close(once[1]["points"][0], expected)
    assert torch.equal(once[1]["betas"], targets["betas"]) and torch.equal(once[1]["presence"], targets["presence"])


def test_mirrored_rotations_are_conjugated(crops):
    targets = some_targets(crops)
    _, mirrored = mirror(crops["images"][:6], targets, torch.ones(6, dtype=torch.bool))
    through = torch.diag(torch.tensor([-1.0, 1, 1]))
    twin = dict(TWINS) | {right: left for left, right in TWINS.items()}
    assert [twin.get(j, j) for j in range(22)] == MIRROR_JOINTS
    for j in range(22):
        expected = through @ targets["rotations"][:, twin.get(j, j)] @ through
        torch.testing.assert_close(mirrored["rotations"][:, j], expected)


def test_a_mirrored_person_looks_like_the_mirrored_photo(crops, body):
    targets = some_targets(crops)
    person = targets["presence"] > 0.5
    assert person.sum() >= 3
    _, mirrored = mirror(crops["images"][:6], targets, torch.ones(6, dtype=torch.bool))
    before, after = (
        body.figure(t["betas"][person], matrix_to_axis_angle(t["rotations"][person]).flatten(1))[1]
        for t in (targets, mirrored)
    )
    expected = before[:, list(MIRRORED)] * torch.tensor([-1.0, 1, 1])
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=0)


def dotted(count: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Grey crops with a red dot at the pelvis and a green one at the neck, the cells round the pelvis covered."""
    points = torch.full((15, 2), 60.0)
    points[0], points[7] = torch.tensor([48.0, 84.0]), torch.tensor([48.0, 44.0])
    y, x = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    near = [torch.exp(-((x - p[0]) ** 2 + (y - p[1]) ** 2) / 18) for p in (points[0], points[7])]
    mask = torch.nn.functional.avg_pool2d((near[0] > 0.4)[None].float(), 4)
    targets = {
        "presence": torch.ones(count),
        "betas": torch.zeros(count, 10),
        "points": points.repeat(count, 1, 1),
        "rotations": torch.eye(3).repeat(count, 22, 1, 1),
        "mask": mask.repeat(count, 1, 1),
    }
    image = 0.4 + 0.3 * torch.stack([near[0], near[1], torch.zeros(128, 96)])
    return image.repeat(count, 1, 1, 1), targets


def test_augmented_targets_lie_where_the_picture_went():
    images, targets = dotted(64)
    untouched = images.clone(), {name: value.clone() for name, value in targets.items()}
    new, told = augment(images, targets, torch.Generator().manual_seed(4))
    assert torch.equal(images, untouched[0]) and all(torch.equal(targets[n], untouched[1][n]) for n in targets)
    assert new.shape == images.shape and {n: v.shape for n, v in told.items()} == {n: v.shape for n, v in targets.items()}
    assert new.min() >= 0 and new.max() <= 1
    kept = told["presence"] > 0.5
    assert 50 <= kept.sum() < 64  # a tenth is badly framed, which teaches presence
    for i in torch.nonzero(kept).flatten().tolist():
        for k, colour in ((0, 0), (7, 1)):
            at = int(new[i, colour].argmax())
            spot = torch.tensor([at % 96 + 0.5, at // 96 + 0.5])
            assert (told["points"][i, k] - spot).norm() < 1.5
        cells = told["mask"][i] > 0.5
        rows, columns = torch.nonzero(cells, as_tuple=True)
        middle = torch.stack([columns.float().mean(), rows.float().mean()]) * 4 + 2
        assert (middle - told["points"][i, 0]).norm() < 3
        # the root turns with the picture
        spine = told["points"][i, 7] - told["points"][i, 0]
        turned = told["rotations"][i, 0] @ torch.tensor([0.0, -1.0, 0.0])
        torch.testing.assert_close(turned[:2], spine / spine.norm(), atol=1e-4, rtol=0)
        assert torch.equal(told["rotations"][i, 1:], targets["rotations"][i, 1:])
        assert 0 < float((spine[0] / spine[1]).abs()) <= math.tan(math.radians(5)) + 1e-6


def test_augmentation_hangs_on_its_generator_alone(crops):
    def once(seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return augment(crops["images"][:8], some_targets(crops, 8), torch.Generator().manual_seed(seed))

    (a, first), (b, second), (c, _) = once(5), once(5), once(6)
    assert torch.equal(a, b) and all(torch.equal(first[name], second[name]) for name in first)
    assert (a - c).abs().mean() > 0.01
    assert torch.equal(first["betas"], crops["betas"][:8])
    assert (first["presence"] <= crops["presence"][:8]).all()  # nobody never becomes somebody


def turns() -> torch.Tensor:
    """(N, 3) axis-angles of length up to π: none, tiny, random, half turns about any axis."""
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(60, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    angles = np.concatenate([rng.uniform(0, np.pi, 40), np.full(10, np.pi - 1e-3), np.full(10, 1e-5)])
    special = np.array([[0, 0, 0], [np.pi, 0, 0], [0, np.pi, 0], [0, 0, np.pi], [0, 1e-9, 0]])
    return torch.from_numpy(np.concatenate([axes * angles[:, None], special])).double()


def test_rotation_matrices_are_those_of_scipy():
    vectors = turns()
    expected = Rotation.from_rotvec(vectors.numpy()).as_matrix()
    np.testing.assert_allclose(axis_angle_to_matrix(vectors).numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(axis_angle_to_matrix(vectors.float()).numpy(), expected, atol=2e-6)


def test_rotation_vectors_come_back():
    vectors = turns()
    back = matrix_to_axis_angle(axis_angle_to_matrix(vectors))
    assert (back.norm(dim=-1) <= math.pi + 1e-9).all()
    apart = Rotation.from_rotvec(back.numpy()) * Rotation.from_rotvec(vectors.numpy()).inv()
    assert apart.magnitude().max() < 1e-6
    short = vectors.norm(dim=-1) < 3.1
    torch.testing.assert_close(back[short], vectors[short], atol=1e-6, rtol=0)


def test_rotation_has_a_gradient_at_zero():
    vector = torch.zeros(3, requires_grad=True)
    axis_angle_to_matrix(vector)[1, 0].backward()
    assert vector.grad.tolist() == [0, 0, 1]


def test_rotation_in_six_numbers_comes_back_and_rows_do_not_mix():
    matrices = axis_angle_to_matrix(turns().float())
    torch.testing.assert_close(sixd_to_matrix(matrix_to_sixd(matrices)), matrices, atol=1e-5, rtol=0)
    anything = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))  # three rows: a known trap of torch.cross
    together = sixd_to_matrix(anything)
    for i in range(3):
        torch.testing.assert_close(sixd_to_matrix(anything[i]), together[i])
        first, second = anything[i, 0::2], anything[i, 1::2]  # columns of a 3 × 2 matrix, row by row
        torch.testing.assert_close(together[i, :, 0], first / first.norm())
        assert float(together[i, :, 1] @ second) > 0 and float(together[i, :, 2] @ second) == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(torch.linalg.det(together), torch.ones(3))


def test_shipped_betas_are_kept_for_the_stand_in_wherever_it_was_built(body_file, tmp_path):
    """Another processor builds it with other last bits; a head that starts anew for that knows nothing of shape."""
    with np.load(body_file, allow_pickle=False) as arrays:
        known = dict(arrays)
    shipped = load_mesh_net(START).betas.state_dict()
    drawn = np.random.default_rng(0)
    for name, noise, kept in (("same", 1e-7, True), ("other", 1e-3, False)):
        moved = known["shapedirs"] + noise * drawn.standard_normal(known["shapedirs"].shape)
        np.savez(tmp_path / f"{name}.npz", **{**known, "shapedirs": moved})
        betas = started(START, tmp_path / f"{name}.npz").betas.state_dict()
        assert all(torch.equal(betas[key], shipped[key]) for key in shipped) == kept, name
