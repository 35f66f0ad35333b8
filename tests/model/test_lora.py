"""Low-rank personal models: a batch of users is these users one by one, and starts where the expert is."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from model.lora import Layout, LoraSettings, Streams, base_of, padded, scores, streams, train
from model.physique_frame import FrameConfig, PhysiqueFrame
from model.preference import survey_code
from model.views import FrameInputs, score_views

SETTINGS = LoraSettings(rank=2, pull=1.0, steps=15, lr=0.02)


@pytest.fixture(scope="module")
def inputs() -> FrameInputs:
    draw = torch.Generator().manual_seed(4)
    return FrameInputs(
        [str(k) for k in range(24)],
        torch.randn(24, 2, 32, generator=draw),
        (0.3 * torch.randn(24, 10475, 3, generator=draw)).half(),
        200 * torch.rand(24, 15, 2, generator=draw),
        torch.arange(24) != 3,  # nobody is in one of them
    )


@pytest.fixture(scope="module")
def frame(inputs: FrameInputs) -> PhysiqueFrame:
    """A frame whose BatchNorm has seen something, and whose heads tell photos apart."""
    torch.manual_seed(1)
    frame = PhysiqueFrame(FrameConfig.tiny(32))
    frame.mesh.set_topology(inputs.mean_mesh())
    for module in frame.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    return frame.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def said(frame: PhysiqueFrame, inputs: FrameInputs) -> Streams:
    return streams(frame, inputs, torch.arange(24), survey_code({"likes": "sport"}))


@pytest.fixture(scope="module")
def given():
    """Five users with 3, 9, 0, 6 and 12 ratings; nobody rates health, the fourth no posture."""
    draw = torch.Generator().manual_seed(9)
    user = torch.repeat_interleave(torch.arange(5), torch.tensor([3, 9, 0, 6, 12]))
    y = 10 * torch.rand(30, 3, generator=draw)
    y[:, 1] = torch.nan
    y[user == 3, 2] = torch.nan
    photo = torch.randint(24, (30,), generator=draw)
    return padded(user, photo, y, torch.ones(30), 5)


def said_by(base, layout, rows, said: Streams) -> torch.Tensor:
    """(U, N, D) of all photos."""
    return scores(base, layout, rows, *(each.expand(len(rows), *each.shape) for each in said))


def test_without_a_step_everybody_gets_the_experts_scores(frame, inputs, said, given):
    base = base_of(frame)
    rows = train(base, said, given, replace(SETTINGS, steps=0))
    own, _ = score_views(frame, inputs, torch.arange(24), survey_code({"likes": "sport"}))
    assert float(own.std(0).min()) > 0.05  # the test sees something
    torch.testing.assert_close(
        said_by(base, Layout.of(base, 2), rows, said), own.expand(5, -1, -1), rtol=0, atol=2e-5
    )


@pytest.mark.parametrize("chunk", [2, 256])
def test_users_together_are_users_one_by_one(frame, said, given, chunk):
    base = base_of(frame)
    together = train(base, said, given, SETTINGS, chunk=chunk)
    alone = torch.cat([train(base, said, given[torch.tensor([u])], SETTINGS) for u in range(5)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    moved = (together - train(base, said, given, replace(SETTINGS, steps=0))).abs().amax(2)
    assert (moved > 1e-3).tolist() == [
        [True, False, True], [True, False, True], [False] * 3, [True, False, False], [True, False, True]
    ]  # fmt: skip


def test_a_users_ratings_move_nobody_elses_gradient(frame, said, given):
    base, layout = base_of(frame), Layout.of(base_of(frame), 2)
    rows = (layout.start(5) + 0.01).requires_grad_(True)
    vector, rest = (each[given.photo] for each in said)
    error = scores(base, layout, rows, vector, rest)[1, :, 0] - given.y[1, :, 0].nan_to_num()
    error.square().sum().backward()
    touched = rows.grad.abs().amax(2) > 0
    assert touched.nonzero().tolist() == [[1, 0]]


def test_training_comes_nearer_and_a_strong_pull_holds_it_back(frame, said, given):
    base, layout = base_of(frame), Layout.of(base_of(frame), 2)

    def error(settings: LoraSettings) -> float:
        rows = train(base, said, given, settings)
        found = scores(base, layout, rows, *(each[given.photo] for each in said))
        return float((found - given.y).square().nanmean())

    start, free, held = (error(replace(SETTINGS, **how)) for how in ({"steps": 0}, {"pull": 0.0}, {"pull": 1e6}))
    assert free < 0.7 * start
    assert abs(held - start) < 0.02 * start


def test_the_distance_of_two_entries_is_that_of_their_whole_matrices(frame):
    layout = Layout.of(base_of(frame), 3)
    draw = torch.Generator().manual_seed(0)
    rows, other = (0.1 * torch.randn(2, 3, layout.size, generator=draw) for _ in range(2))
    wanted = torch.zeros(2, 3)
    (own, level), (anchor, other_level) = layout.split(rows), layout.split(other)
    for name, (a, b) in own.items():
        c, d = anchor[name]
        wanted += (b @ a - 0.5 * (d @ c)).square().sum((-1, -2))
    wanted += (level - 0.5 * other_level).square().sum(-1)
    torch.testing.assert_close(layout.distance(rows, other, 0.5), wanted)


def test_an_entry_goes_on_from_the_one_before_and_is_held_near_it(frame, said, given):
    base = base_of(frame)
    layout, first = Layout.of(base, 2), train(base, said, given, SETTINGS)
    fewer = given[torch.arange(5)]
    fewer.y[:, 2:] = torch.nan  # two ratings each tonight
    night = train(base, said, fewer, replace(SETTINGS, pull=1e6, steps=60), first)
    anew = train(base, said, fewer, replace(SETTINGS, pull=1e6, steps=60))
    kept, forgotten = (layout.distance(rows, first, 0.0)[0, 0] for rows in (night, anew))
    before = layout.distance(first, first, 0.0)[0, 0]
    assert float(kept) == pytest.approx(0.25 * float(before), rel=0.2)  # half of the change
    assert float(forgotten) < 0.01 * float(before)
    assert torch.equal(night[2], first[2])  # nobody heard of this user
