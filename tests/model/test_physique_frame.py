"""The network that scores: ranges, what has no influence, its two streams, its losses, both views of a photo."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from model.graph import EDGES, MIRRORED, POINTS, GraphTransformer, adjacency, normalise_points
from model.losses import LOSSES, SumOfSquares, UncertaintyWeighted
from model.physique_frame import ADAPTER_SHARE, Adapter, FrameConfig, PhysiqueFrame
from model.point_mlp import PointMLP, furthest_points, nearest_points
from model.preference import SURVEY_WIDTH, PreferenceNet, survey_code
from model.views import mirror_points, score_views

WIDTH = 24
CONFIG = FrameConfig.tiny(WIDTH)


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def frame(body) -> PhysiqueFrame:
    """A frame with random weights that has seen a few bodies, so that its statistics are not those of nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = PhysiqueFrame(CONFIG)
        torch.nn.init.normal_(made.nobody)
        made.mesh.set_topology(body.rest)
        made.train()
        with torch.no_grad():
            for seed in range(20):
                made(**inputs(body, 16, seed))
    return made.eval().requires_grad_(False)


def inputs(body, count: int, seed: int = 0) -> dict[str, Tensor]:
    """Vectors, bodies, points and preferences of `count` people."""
    given = draw(seed)
    return {
        "image": torch.randn(count, WIDTH, generator=given),
        "vertices": body.zero_pose(torch.randn(count, 10, generator=given)),
        "points": torch.rand(count, 15, 2, generator=given) * 200,
        "preference": torch.tanh(torch.randn(count, 5, generator=given)),
    }


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_scores_lie_on_the_scale(frame, body, count):
    scores = frame(**inputs(body, count))
    assert scores.shape == (count, 3)
    assert (scores > 0).all() and (scores < 10).all()
    together = frame(**inputs(body, 16))
    alone = frame(**{name: value[:1] for name, value in inputs(body, 16).items()})
    torch.testing.assert_close(alone, together[:1], atol=1e-4, rtol=0)
    assert together.std(0).min() > 1e-3


def test_extreme_inputs_stay_on_the_scale(frame, body):
    wild = {name: value * 1000 for name, value in inputs(body, 4).items()}
    scores = frame(**wild)
    assert (scores >= 0).all() and (scores <= 10).all()


def test_every_input_counts(frame, body):
    known = inputs(body, 2)
    scores = frame(**known)
    for name, value in inputs(body, 2, seed=99).items():
        assert (frame(**{**known, name: value}) - scores).abs().max() > 1e-4, name
    some = torch.ones(2, 15, dtype=torch.bool)
    torch.testing.assert_close(frame(**known, visible=some), scores)
    some[:, :5] = False
    assert (frame(**known, visible=some) - scores).abs().max() > 1e-5


def test_nobody_is_scored_from_the_image_alone(frame, body):
    known, other = inputs(body, 3), inputs(body, 3, seed=5)
    visible = torch.tensor([[True] * 15, [False] * 15, [False] * 15])
    scores = frame(**known, visible=visible)
    swapped = {**known, "vertices": known["vertices"].clone(), "points": known["points"].clone()}
    swapped["vertices"][1:] = other["vertices"][1:]
    swapped["points"][1:] = other["points"][1:]
    swapped["vertices"][2], swapped["points"][2] = 0.0, 0.0  # as the mesh table has it
    torch.testing.assert_close(frame(**swapped, visible=visible), scores, atol=1e-6, rtol=0)
    for name in ("image", "preference"):
        assert (frame(**{**known, name: other[name]}, visible=visible) - scores)[1:].abs().max() > 1e-4
    assert (frame(**known) - scores)[1:].abs().max() > 1e-4  # with the body it is another score


def test_the_fused_feature_is_image_posture_mesh_preference(frame, body):
    known = inputs(body, 4)
    fused = frame.fuse(**known)
    assert fused.shape == (4, frame.width) == (4, WIDTH + 64 + 64 + 5)
    torch.testing.assert_close(fused[:, -5:], known["preference"])
    image, posture, mesh = fused[:, :WIDTH], fused[:, WIDTH : WIDTH + 64], fused[:, WIDTH + 64 : -5]
    torch.testing.assert_close(image, frame.layernorm_x(frame.adapter(known["image"])))
    moved = frame.fuse(**{**known, "points": known["points"].flip(1)})
    assert torch.equal(moved[:, WIDTH + 64 :], fused[:, WIDTH + 64 :]) and not torch.allclose(
        moved[:, WIDTH : WIDTH + 64], posture
    )
    other = frame.fuse(**{**known, "vertices": known["vertices"].flip(0)})
    assert torch.equal(other[:, : WIDTH + 64], fused[:, : WIDTH + 64]) and not torch.allclose(
        other[:, WIDTH + 64 : -5], mesh
    )
    torch.testing.assert_close(frame.score(fused), frame(**known))


def test_points_of_another_number_are_refused(frame, body):
    with pytest.raises(ValueError, match=r"points: shape \(2, 17, 2\), expected \(B, 15, 2\)"):
        frame(**{**inputs(body, 2), "points": torch.zeros(2, 17, 2)})


def test_the_adapter_keeps_a_share_of_its_input():
    adapter = Adapter(WIDTH)
    x = torch.randn(3, WIDTH, generator=draw(0))
    for layer in (adapter.fc[0], adapter.fc[2]):
        torch.nn.init.zeros_(layer.weight)
    torch.testing.assert_close(adapter(x), (1 - ADAPTER_SHARE) * x)


def test_a_configuration_comes_back_from_json():
    import json

    config = FrameConfig(WIDTH, mesh_points=64, mesh_channels=(16, 48), head_widths=(32, 16), dropout=0.1)
    again = FrameConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and isinstance(again.mesh_channels, tuple)
    assert FrameConfig.from_dict(CONFIG.to_dict()) == CONFIG
    assert FrameConfig.of("tiny", 7) == FrameConfig.tiny(7)
    assert PhysiqueFrame(config).width == WIDTH + 64 + 48 + 5


def test_configurations_that_do_not_exist():
    with pytest.raises(ValueError, match=r"FrameConfig: unknown \['depth'\]; known are \['dropout', .*'size'\]"):
        FrameConfig.from_dict({**CONFIG.to_dict(), "depth": 3})
    with pytest.raises(ValueError, match="'huge' is not a size; there is 'tiny'"):
        FrameConfig.of("huge", WIDTH)


# The mesh stream


def test_furthest_points_are_those_of_a_plain_search():
    points = torch.randn(200, 3, generator=draw(1))
    apart = ((points[:, None] - points[None]).double() ** 2).sum(-1).numpy()
    chosen = [0]
    while len(chosen) < 40:
        chosen.append(int(apart[:, chosen].min(1).argmax()))
    assert furthest_points(points, 40).tolist() == chosen


def test_furthest_points_take_the_first_of_equals():
    square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 0]])
    assert furthest_points(square, 4).tolist() == [0, 3, 1, 2]


def test_nearest_points_are_those_of_a_plain_search():
    points = torch.randn(300, 3, generator=draw(2))
    centres = points[::30] + 0.01
    expected = [sorted(range(300), key=lambda i: float((points[i] - c).norm()))[:7] for c in centres]
    assert nearest_points(centres, points, 7).tolist() == expected


def test_the_topology_is_that_of_the_mean_mesh(body):
    stream = PointMLP(256, (16, 32, 64), 8)
    stream.set_topology(body.rest)
    assert len(set(stream.kept.tolist())) == 256
    kept = body.rest[stream.kept]
    assert [len(stage.centres) for stage in stream.stages] == [64, 16] and stream.width == 64
    first = stream.stages[0]
    assert first.neighbours[:, 0].tolist() == first.centres.tolist()  # the nearest to a point is itself
    reach = (kept[first.neighbours] - kept[first.centres][:, None]).norm(dim=-1)
    assert (reach.diff(dim=1) >= 0).all() and reach.max() < 0.35
    assert float(torch.cdist(body.rest, kept).min(1).values.max()) < 0.08  # no part of the body is left out


def test_the_mesh_feature_reads_the_kept_vertices_only(frame, body):
    mesh = body.zero_pose(torch.randn(2, 10, generator=draw(3)))
    feature = frame.mesh(mesh)
    other = mesh.clone()
    unkept = torch.ones(10475, dtype=torch.bool)
    unkept[frame.mesh.kept] = False
    other[:, unkept] += 1.0
    assert torch.equal(frame.mesh(other), feature)
    other[:, frame.mesh.kept[5]] += 0.1
    assert not torch.equal(frame.mesh(other), feature)
    torch.testing.assert_close(frame.mesh(mesh.half()), feature, atol=0.05, rtol=0.05)  # as the mesh table stores them


# The posture stream


@pytest.fixture(scope="module")
def stream() -> GraphTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return GraphTransformer(64, 2, 4, 0.1).eval().requires_grad_(False)


def people(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 15, 2, generator=draw(seed)) * torch.tensor([120.0, 250.0])


def test_posture_does_not_mind_place_or_size(stream):
    points = people(5)
    visible = torch.rand(5, 15, generator=draw(1)) < 0.7
    feature = stream(points, visible)
    assert feature.shape == (5, 64)
    for scale, shift in ((3.0, (500.0, -40.0)), (0.5, (7.0, 9.0))):
        torch.testing.assert_close(stream(points * scale + torch.tensor(shift), visible), feature, atol=1e-4, rtol=0)
    stretched = stream(points * torch.tensor([2.0, 1.0]), visible)
    assert (stretched - feature).abs().max() > 1e-2  # but another shape is another posture


def test_hidden_points_take_no_part(stream):
    points = people(4)
    visible = torch.rand(4, 15, generator=draw(2)) < 0.6
    visible[0] = torch.arange(15) == 3
    elsewhere = torch.where(visible[..., None], points, people(4, seed=9) * 100 - 5000)
    torch.testing.assert_close(stream(elsewhere, visible), stream(points, visible), atol=1e-6, rtol=0)
    moved = points.clone()
    moved[1, int(visible[1].nonzero()[0])] += 40
    assert (stream(moved, visible)[1] - stream(points, visible)[1]).abs().max() > 1e-3
    assert torch.isfinite(stream(points, torch.zeros(4, 15, dtype=torch.bool))).all()


def test_what_a_hidden_point_is_called_takes_no_part(stream):
    points, visible = people(4), torch.ones(4, 15, dtype=torch.bool)
    visible[:, [3, 7, 12]] = False
    renamed = copy.deepcopy(stream)
    renamed.names[[3, 7, 12]] += 5 * torch.randn(3, 64, generator=draw(4))
    torch.testing.assert_close(renamed(points, visible), stream(points, visible), atol=1e-6, rtol=0)
    visible[2, 7] = True
    apart = (renamed(points, visible) - stream(points, visible)).abs().amax(1)
    assert apart[2] > 1e-2 and apart[[0, 1, 3]].max() < 1e-6


def test_normalised_points_are_centred_and_of_unit_size():
    points = people(6)
    visible = torch.rand(6, 15, generator=draw(3)) < 0.6
    unit = normalise_points(points, visible)
    for one, seen in zip(unit, visible):
        torch.testing.assert_close(one[seen].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
        assert float((one[seen].amax(0) - one[seen].amin(0)).max()) == pytest.approx(1, abs=1e-5)
        assert (one[~seen] == 0).all()


def test_the_graph_is_the_papers():
    matrix = adjacency()
    assert torch.equal(matrix, matrix.T) and matrix.diagonal().sum() == 0
    assert matrix.sum() == 34 == 2 * len(EDGES)
    mirrored = matrix[list(MIRRORED)][:, list(MIRRORED)]
    assert torch.equal(mirrored, matrix)
    for i, name in enumerate(POINTS):
        assert POINTS[MIRRORED[i]] == name.replace("left", "?").replace("right", "left").replace("?", "right")


# Losses


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_what_nobody_rated_takes_no_part(name):
    loss = LOSSES[name]()
    predicted = (torch.rand(6, 3, generator=draw(0)) * 10).requires_grad_()
    rated = torch.rand(6, 3, generator=draw(1)) * 10
    rated[:, 1] = math.nan
    rated[2, 0] = rated[5, 2] = math.nan
    value = loss(predicted, rated)
    value.backward()
    assert torch.isfinite(value)
    assert (predicted.grad[:, 1] == 0).all() and predicted.grad[2, 0] == 0 and predicted.grad[5, 2] == 0
    known = torch.isfinite(rated)
    assert (predicted.grad[known] != 0).all()
    assert (predicted.grad[known].sign() == (predicted.detach() - rated)[known].sign()).all()
    wild = torch.where(known, predicted.detach(), 1e6)
    assert loss(wild, rated).item() == pytest.approx(value.item(), rel=1e-6)
    for parameter in loss.parameters():
        assert parameter.grad[1] == 0 and (parameter.grad[[0, 2]] != 0).all()


def test_losses_are_means_over_who_rated():
    predicted = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    rated = torch.tensor([[2.0, math.nan, 3], [2, math.nan, 8], [math.nan, 9, 9]])
    mse = [(1 + 4) / 2, 1.0, (0 + 4 + 0) / 3]
    assert SumOfSquares()(predicted, rated).item() == pytest.approx(sum(mse))
    weighted = UncertaintyWeighted()
    assert weighted(predicted, rated).item() == pytest.approx(sum(mse))  # log-variances start at 0
    with torch.no_grad():
        weighted.log_variance.copy_(torch.tensor([0.5, -1.0, 2.0]))
    expected = sum(math.exp(-s) * m + s for s, m in zip((0.5, -1.0, 2.0), mse))
    assert weighted(predicted, rated).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_batch_without_ratings_is_no_loss(name):
    loss = LOSSES[name]()
    predicted = torch.full((4, 3), 5.0, requires_grad=True)
    value = loss(predicted, torch.full((4, 3), math.nan))
    value.backward()
    assert value.item() == 0 and (predicted.grad == 0).all()


# Preferences


def test_a_survey_is_coded_by_what_it_says():
    code = survey_code({"age": "34", "sport": "often", "note": ""})
    assert code.shape == (SURVEY_WIDTH,) and 1 <= (code != 0).sum() <= 2
    assert torch.equal(code, survey_code({"sport": " often ", "age": "34", "other": None}))  # order, spaces, no answer
    assert torch.equal(survey_code({}), torch.zeros(SURVEY_WIDTH))
    assert torch.equal(survey_code({"sport": "often"}) + survey_code({"age": "34"}), code)
    assert not torch.equal(survey_code({"sport": "never"}), survey_code({"sport": "often"}))
    ages = [survey_code({"age": str(age)}) for age in (20, 40, 60)]
    assert len({int((one != 0).nonzero()) for one in ages}) == 1  # a number keeps its question's place
    weights = [float(one.abs().max()) for one in ages]
    assert weights == sorted(weights) and weights[-1] <= 1


def test_preferences_are_five_numbers_between_minus_one_and_one():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = PreferenceNet(WIDTH)
    image = torch.randn(6, WIDTH, generator=draw(0)) * 100
    survey = survey_code({"sport": "often", "age": "34"}).expand(6, -1)
    found = net(survey, image)
    assert found.shape == (6, 5) and (found.abs() <= 1).all()
    assert (net(torch.zeros(6, SURVEY_WIDTH), image) - found).abs().max() > 1e-4
    assert (net(survey, image.flip(0)) - found).abs().max() > 1e-4


# Both views


def views(body, count: int) -> dict[str, Tensor]:
    known = inputs(body, count)
    return {
        "image": torch.randn(count, 2, WIDTH, generator=draw(7)),
        "vertices": known["vertices"],
        "points": known["points"],
        "visible": torch.ones(count, 15, dtype=torch.bool),
        "survey": survey_code({"sport": "often"}),
    }


def flipped(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same photos mirrored: vectors change places, points their side and name, bodies stay."""
    points = given["points"][:, list(MIRRORED)] * torch.tensor([-1.0, 1.0]) + torch.tensor([199.0, 0.0])
    visible = given["visible"][:, list(MIRRORED)]
    return {**given, "image": given["image"].flip(1), "points": points, "visible": visible}


def test_points_mirrored_twice_are_as_they_were():
    points = people(4)
    once = mirror_points(points)
    torch.testing.assert_close(mirror_points(once), points)
    torch.testing.assert_close(once.mean(1), points.mean(1))
    assert torch.equal(once[..., 1], points[:, list(MIRRORED), 1])
    left, right = POINTS.index("left wrist"), POINTS.index("right wrist")
    torch.testing.assert_close(once[:, left, 0] - once[:, 0, 0], points[:, 0, 0] - points[:, right, 0])


def test_a_mirrored_photo_gets_the_same_scores(frame, body):
    given = views(body, 5)
    given["visible"][3] = False  # nobody
    scores, fused = score_views(frame, **given)
    other, mirrored = score_views(frame, **flipped(given))
    assert scores.shape == (5, 3) and fused.shape == (5, frame.width)
    torch.testing.assert_close(other, scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(mirrored, fused, atol=1e-4, rtol=0)


def test_a_mirrored_photo_with_hidden_points_gets_the_same_scores(frame, body):
    given = views(body, 5)
    given["visible"][:, [POINTS.index("left wrist"), POINTS.index("left elbow")]] = False
    scores, fused = score_views(frame, **given)
    other, mirrored = score_views(frame, **flipped(given))
    torch.testing.assert_close(other, scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(mirrored, fused, atol=1e-4, rtol=0)


def test_the_score_is_the_mean_of_both_views(frame, body):
    given = views(body, 3)
    scores, fused = score_views(frame, **given)
    survey = given["survey"].expand(3, -1)
    each = []
    for k, points in enumerate((given["points"], mirror_points(given["points"]))):
        vector = given["image"][:, k]
        each.append(frame(vector, given["vertices"], points, frame.preference(survey, vector), given["visible"]))
    torch.testing.assert_close(scores, (each[0] + each[1]) / 2, atol=1e-5, rtol=0)
    assert (each[0] - each[1]).abs().max() > 1e-3
