"""The mesh stream: its ways of computing agree, whose neighbours it reads, what training it does to its statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from model import point_mlp
from model.neighbours import furthest_points
from model.point_mlp import PointMLP, Stage

SMALL = {"points": 128, "channels": (16, 32, 64), "neighbours": 8}
MIDDLE = {"points": 1024, "channels": (16, 32, 64, 64), "neighbours": 24, "blocks": (1, 2, 1), "divide": 2}


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unsettled(stream: PointMLP, seed: int = 0) -> PointMLP:
    """With affine numbers and norms that are not those of a beginner: a formula that forgets one shows."""
    given = draw(seed)
    with torch.no_grad():
        for name, value in [*stream.named_parameters(), *stream.named_buffers()]:
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=given)
            if name.endswith("running_var"):
                value.copy_(1 + 0.3 * noise.abs())
            elif value.ndim == 1:
                value.copy_(float(name.endswith(("weight", "affine_alpha"))) + 0.2 * noise)
            else:
                value.copy_(noise * value.shape[1] ** -0.5)
    return stream.eval().requires_grad_(False)


def made(body, settings: dict, search: str = "shared") -> PointMLP:
    stream = unsettled(PointMLP(**settings, search=search))
    stream.set_topology(body.rest)
    return stream


def meshes(body, count: int, seed: int = 0) -> Tensor:
    return body.zero_pose(torch.randn(count, 10, generator=draw(seed)))


def apart(a: Tensor, b: Tensor) -> float:
    """Largest difference, as a share of the largest number."""
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max())


# Three ways to compute the same


@pytest.mark.parametrize("search", ["shared", "direct"])
@pytest.mark.parametrize("settings", [SMALL, MIDDLE], ids=["small", "middle"])
def test_fast_literal_and_with_gradients_are_the_same(body, settings, search):
    stream = made(body, settings, search)
    for count in (1, 2, 3):
        given = meshes(body, count)
        with torch.no_grad():
            fast = stream(given)
            stream.set_literal(True)
            literal = stream(given)
            stream.set_literal(False)
        stream.requires_grad_(True)
        whole = stream(given)
        stream.requires_grad_(False)
        assert whole.requires_grad and not fast.requires_grad
        assert fast.shape == (count, settings["channels"][-1]) and fast.std() > 0.1
        assert apart(fast, literal) < 1e-5 and apart(whole, literal) < 1e-5
        assert stream.maps(given).shape[1] == stream.sizes[-1]


def test_blocks_of_any_size_give_the_same(body, monkeypatch):
    stream, given = made(body, MIDDLE), meshes(body, 2)
    wanted = None
    for block in (1, 1 << 12, 1 << 18, 1 << 30):  # a centre at a time, some, as it is, all as on a GPU
        monkeypatch.setattr(point_mlp, "BLOCK", block)
        with torch.no_grad():
            found = stream(given)
        wanted = found if wanted is None else wanted
        assert apart(found, wanted) < 1e-5, block


def test_a_batch_is_its_meshes_one_by_one(body):
    for search in ("shared", "direct", "expanded"):
        stream = made(body, SMALL, search)
        given = meshes(body, 5)
        for literal in (False, True):
            stream.set_literal(literal)
            with torch.no_grad():
                alone = torch.cat([stream(mesh[None]) for mesh in given])
                assert apart(stream(given), alone) < 1e-5, (search, literal)


def test_a_mesh_of_nobody_has_a_feature(body):
    for search in ("shared", "direct", "expanded"):
        stream = made(body, SMALL, search)
        given = torch.stack([torch.zeros(10475, 3), meshes(body, 1)[0]])
        for literal in (False, True):
            stream.set_literal(literal)
            with torch.no_grad():
                both = stream(given)
                assert torch.isfinite(both).all()
                assert apart(both[1:], stream(given[1:])) < 1e-5


def test_every_part_of_a_stage_counts(body):
    """Each parameter and statistic moves the feature, whichever way it is computed."""
    stream, given = made(body, SMALL), meshes(body, 2)
    for literal in (False, True):
        stream.set_literal(literal)
        with torch.no_grad():
            before = stream(given)
            for name, value in [*stream.named_parameters(), *stream.named_buffers()]:
                if value.is_floating_point():
                    kept = value.clone()
                    value.mul_(1.3).add_(0.1)
                    assert apart(stream(given), before) > 1e-4, (name, literal)
                    value.copy_(kept)
            assert torch.equal(stream(given), before)


# Whose neighbours


def test_the_topology_is_that_of_the_mean_mesh(body):
    stream = made(body, {**SMALL, "points": 256})
    assert torch.equal(stream.kept, furthest_points(body.rest, 256))
    kept = body.rest[stream.kept]
    assert stream.sizes == [64, 16] and stream.width == 64
    assert stream.centres0.tolist() == list(range(64))  # already sorted so: see model/neighbours.py
    assert (stream.neighbours0 == stream.centres0[:, None]).any(1).all()  # a centre is its own neighbour
    reach = (kept[stream.neighbours0] - kept[stream.centres0][:, None]).norm(dim=-1)
    assert reach.amax(1).min() > 0 and reach.max() < 0.35
    assert float(torch.cdist(body.rest, kept).min(1).values.max()) < 0.08  # no part of the body is left out


def test_topology_travels(body):
    ours, theirs = made(body, SMALL), unsettled(PointMLP(**SMALL))
    given = meshes(body, 2)
    assert apart(theirs(given), ours(given)) > 1e-3
    theirs.take_topology(ours)
    assert torch.equal(theirs(given), ours(given))
    again = unsettled(PointMLP(**SMALL), seed=5)
    again.load_state_dict(ours.state_dict())  # and is saved with the weights
    assert torch.equal(again(given), ours(given))


def test_what_is_found_on_every_mesh_is_not_saved():
    assert "kept" in PointMLP(**SMALL).state_dict()
    whole = PointMLP(10475, (8, 8), 4, search="expanded")
    assert not {"kept", "centres0", "neighbours0"} & set(whole.state_dict())
    assert torch.equal(whole.kept, torch.arange(10475))


def test_on_the_mean_mesh_shared_and_searched_are_equal(body):
    shared, direct = made(body, MIDDLE), made(body, MIDDLE, "direct")
    assert torch.equal(shared.kept, direct.kept)
    mean, others = body.rest[None], meshes(body, 2, seed=3)
    assert torch.equal(shared(mean), direct(mean))
    assert apart(shared(others), direct(others)) > 1e-3  # elsewhere it is an approximation


def test_near_the_origin_direct_and_expanded_are_equal(body):
    direct, expanded = made(body, MIDDLE, "direct"), made(body, MIDDLE, "expanded")
    uneven = meshes(body, 2) + 1e-3 * torch.randn(10475, 3, generator=draw(1))  # a body's two sides have equal distances
    assert apart(expanded(uneven), direct(uneven)) < 1e-6


def test_tables_that_are_given_are_used(body):
    stream, given = made(body, MIDDLE, "direct"), meshes(body, 2)
    tables = stream.tables(given[:, stream.kept], "direct")
    assert torch.equal(stream(given, tables), stream(given))
    other = stream.tables(given.flip(0)[:, stream.kept], "direct")
    assert apart(stream(given, other), stream(given)) > 1e-3
    one = [(centres[:1], near[:1]) for centres, near in tables]  # one table may serve all meshes
    assert apart(stream(given, one)[0], stream(given)[0]) < 1e-6
    assert apart(stream(given, one)[1], stream(given)[1]) > 1e-3


def test_tables_are_those_of_sampling_anew_at_each_stage(body):
    stream, given = made(body, MIDDLE, "direct"), meshes(body, 2)
    points = given[:, stream.kept]
    for size, (centres, near) in zip(stream.sizes, stream.tables(points, "direct"), strict=True):
        assert torch.equal(centres, furthest_points(points, size))
        assert near.shape == (2, size, 24) and near.max() < points.shape[1]
        points = points.gather(1, centres[..., None].expand(-1, -1, 3))


def test_the_mesh_feature_reads_the_kept_vertices_only(body):
    stream, mesh = made(body, SMALL), meshes(body, 2, seed=3)
    feature = stream(mesh)
    other = mesh.clone()
    unkept = torch.ones(10475, dtype=torch.bool)
    unkept[stream.kept] = False
    other[:, unkept] += 1.0
    assert torch.equal(stream(other), feature)
    other[:, stream.kept[5]] += 0.1
    assert not torch.equal(stream(other), feature)
    torch.testing.assert_close(stream(mesh.half()), feature, atol=0.05, rtol=0.05)  # as the mesh table stores them


# Training


def step(stream: PointMLP, given: Tensor) -> int:
    """One backward pass; how often a stage was run."""
    runs = []
    hooks = [stage.register_forward_pre_hook(lambda *_: runs.append(1)) for stage in stream.stages]
    found = stream(given)
    (found * torch.randn(found.shape, generator=draw(2))).sum().backward()
    for hook in hooks:
        hook.remove()
    return len(runs)


@pytest.mark.parametrize("settings", [SMALL, MIDDLE], ids=["small", "middle"])
def test_recomputing_changes_neither_gradients_nor_statistics(body, settings):
    kept = made(body, settings).train().requires_grad_(True)
    before = {name: value.clone() for name, value in kept.named_buffers()}
    again = copy.deepcopy(kept)
    again.checkpointed = True
    given = meshes(body, 3)
    for _ in range(2):  # statistics of two steps: a batch that counts twice shows
        assert step(again, given) == 2 * step(kept, given) == 2 * len(kept.stages)
    for (name, mine), theirs in zip(kept.named_parameters(), again.parameters(), strict=True):
        # affine_beta shifts what a norm centres again: in training its gradient is rounding
        atol = 1e-6 * float(mine.grad.abs().max()) if mine.grad.abs().max() > 1e-2 else 1e-3
        assert mine.grad.abs().max() > 1e-2 or name.endswith("affine_beta"), name
        torch.testing.assert_close(theirs.grad, mine.grad, rtol=1e-6, atol=atol, msg=name)
    for (name, mine), theirs in zip(kept.named_buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-6, atol=1e-7, msg=name)
        if "running" in name or "num_batches" in name:
            assert not torch.equal(mine, before[name]), name
    assert {m.momentum for m in again.modules() if isinstance(m, nn.BatchNorm1d)} == {0.1}  # as before
    assert {int(m.num_batches_tracked) for m in again.modules() if isinstance(m, nn.BatchNorm1d)} == {2}


def test_in_evaluation_nothing_is_recomputed_or_counted(body):
    stream = made(body, SMALL).requires_grad_(True)
    stream.checkpointed = True
    before = copy.deepcopy(stream.state_dict())
    assert step(stream, meshes(body, 2)) == len(stream.stages)
    assert all(torch.equal(value, before[name]) for name, value in stream.state_dict().items())


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_a_stream_learns_to_tell_bodies_apart(body, half):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stream, last = PointMLP(**SMALL), nn.Linear(64, 1)
    stream.set_topology(body.rest)
    stream.train()
    betas = torch.randn(32, 10, generator=draw(4))
    given = body.zero_pose(betas)
    optimiser = torch.optim.Adam([*stream.parameters(), *last.parameters()], lr=3e-3)
    losses = []
    for _ in range(40):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            feature = stream(given)
        loss = (last(feature)[:, 0] - betas[:, 0]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 < losses[0]


@pytest.mark.parametrize("away", [0.0, 30.0])
def test_half_precision_stays_close(body, away):
    """bfloat16 has 8 bits: 4 % of the largest number, also where coordinates are a thousand times their differences."""
    stream = made(body, MIDDLE, "direct")
    given = meshes(body, 2) + torch.tensor([0.0, 0.0, away])
    for literal in (False, True):
        stream.set_literal(literal)
        with torch.no_grad():
            exact = stream(given)
            with torch.autocast("cpu", torch.bfloat16):
                close = stream(given)
        assert close.dtype == torch.float32
        assert 0 < apart(close, exact) < 0.04, literal


def test_without_blocks_each_stage_has_one():
    stream = PointMLP(**SMALL)
    assert [(len(stage.pre), len(stage.pos)) for stage in stream.stages] == [(1, 1), (1, 1)]
    deep = PointMLP(**{**SMALL, "blocks": (2, 3)})
    assert [(len(stage.pre), len(stage.pos)) for stage in deep.stages] == [(2, 2), (3, 3)]
    assert all(isinstance(stage, Stage) for stage in deep.stages)
