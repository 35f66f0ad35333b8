"""Low-rank changes: what a row does is what its changes do to the network, to first order, and is scored in both views."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from model.lora import LAYERS, Axes, Base, Streams, _run, axes_of, base_of, size_of, streams, tangents
from model.physique_frame import FrameConfig, PhysiqueFrame
from model.preference import survey_code
from model.views import FrameInputs, score_views


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
def base(frame):
    return base_of(frame)


@pytest.fixture(scope="module")
def axes(base, said) -> Axes:
    return axes_of(base, said, 2)


def test_axes_are_orthonormal_and_where_the_input_varies_most(axes, said):
    assert set(axes) == {*LAYERS, "mean"}
    for name, axis in ((name, axes[name]) for name in LAYERS):
        torch.testing.assert_close(axis @ axis.transpose(1, 2), torch.eye(2).expand(len(axis), 2, 2), rtol=0, atol=1e-5)
        assert len(axis) == (3 if name in ("second", "last") else 1)
    seen = said.vector.flatten(0, 1)
    along = ((seen - seen.mean(0)) @ axes["narrow"][0].T).var(0)
    whole = torch.linalg.svdvals(seen - seen.mean(0)).square() / (len(seen) - 1)
    torch.testing.assert_close(along, whole[:2], rtol=1e-4, atol=0)


def test_the_layers_of_an_expert_give_the_experts_scores(frame, base, inputs, said):
    own, _ = score_views(frame, inputs, torch.arange(24), survey_code({"likes": "sport"}))
    assert float(own.std(0).min()) > 0.05  # the test sees something
    torch.testing.assert_close(_run(base, said)[0], own, rtol=0, atol=2e-5)


def changed(base: Base, axes: Axes, row: torch.Tensor, dimension: int) -> Base:
    """The layers with the changes of `row` (size,) in them: right for this dimension, which alone may be looked at."""
    layers, start = {}, 0
    for name in LAYERS:
        out, rank = getattr(base, name).shape[-2], axes[name].shape[1]
        b = row[start : start + out * rank].unflatten(0, (out, rank))
        start += out * rank
        layers[name] = getattr(base, name) + b @ axes[name][dimension if len(axes[name]) > 1 else 0]
    return replace(base, **layers)


def test_tangents_are_the_slopes_of_the_changed_network_less_their_mean(base, axes, said):
    exact = replace(base, **{name: value.double() for name, value in vars(base).items() if name != "epsilon"})
    axes, said = {name: axis.double() for name, axis in axes.items()}, Streams(*(each.double() for each in said))
    found = tangents(exact, axes, said, chunk=7)
    assert found.shape == (24, 3, size_of(base, axes))
    draw = torch.Generator().manual_seed(0)
    for dimension in range(3):
        row = torch.randn(found.shape[2], generator=draw).double()
        up, down = (_run(changed(exact, axes, by * row, dimension), said)[0][:, dimension] for by in (1e-6, -1e-6))
        slope = (up - down) / 2e-6
        assert float(slope.std()) > 1e-2
        row[-1] = 0.5
        torch.testing.assert_close(found[:, dimension] @ row, slope - slope.mean() + 0.5, rtol=1e-3, atol=1e-4)
