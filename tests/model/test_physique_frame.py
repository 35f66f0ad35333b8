"""The network that scores: ranges, what has no influence, its sizes, its posture stream, its losses, both views."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from torch import Tensor

from model.compat import Compat
from model.graph import EDGES, MIRRORED, POINTS, GraphTransformer, adjacency, normalise_points
from model.losses import LOSSES, SumOfSquares, UncertaintyWeighted
from model.physique_frame import ADAPTER_SHARE, Adapter, FrameConfig, PhysiqueFrame, Scores, normalise
from model.preference import NEUTRAL, SURVEY_WIDTH, PreferenceNet, survey_code
from model.scores import DIMENSIONS

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


def scored(frame: PhysiqueFrame, **given: Tensor) -> Tensor:
    """(B, 3) scores in the order of DIMENSIONS."""
    return torch.stack(frame(**given), dim=1)


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_scores_lie_on_the_scale(frame, body, count):
    scores = scored(frame, **inputs(body, count))
    assert scores.shape == (count, 3)
    assert (scores > 0).all() and (scores < 10).all()
    together = scored(frame, **inputs(body, 16))
    alone = scored(frame, **{name: value[:1] for name, value in inputs(body, 16).items()})
    torch.testing.assert_close(alone, together[:1], atol=1e-4, rtol=0)
    assert together.std(0).min() > 1e-3


def test_scores_are_named(frame, body):
    scores = frame(**inputs(body, 2))
    assert isinstance(scores, Scores) and scores._fields == DIMENSIONS
    assert scores.health.shape == (2,) and torch.equal(scores.health, scores[1])
    for name, value in zip(DIMENSIONS, scores):
        logits = frame.classifiers[name](frame.fuse(**inputs(body, 2)))
        torch.testing.assert_close(value, 10 * torch.sigmoid(logits[:, 0]), atol=1e-6, rtol=0)


def test_extreme_inputs_stay_on_the_scale(frame, body):
    wild = {name: value * 1000 for name, value in inputs(body, 4).items()}
    scores = scored(frame, **wild)
    assert (scores >= 0).all() and (scores <= 10).all()


def test_every_input_counts(frame, body):
    known = inputs(body, 2)
    scores = scored(frame, **known)
    for name, value in inputs(body, 2, seed=99).items():
        assert (scored(frame, **{**known, name: value}) - scores).abs().max() > 1e-4, name
    some = torch.ones(2, 15, dtype=torch.bool)
    torch.testing.assert_close(scored(frame, **known, visible=some), scores)
    some[:, :5] = False
    assert (scored(frame, **known, visible=some) - scores).abs().max() > 1e-5


def test_nobody_is_scored_from_the_image_alone(frame, body):
    known, other = inputs(body, 3), inputs(body, 3, seed=5)
    visible = torch.tensor([[True] * 15, [False] * 15, [False] * 15])
    scores = scored(frame, **known, visible=visible)
    swapped = {**known, "vertices": known["vertices"].clone(), "points": known["points"].clone()}
    swapped["vertices"][1:] = other["vertices"][1:]
    swapped["points"][1:] = other["points"][1:]
    swapped["vertices"][2], swapped["points"][2] = 0.0, 0.0  # as the mesh table has it
    torch.testing.assert_close(scored(frame, **swapped, visible=visible), scores, atol=1e-6, rtol=0)
    for name in ("image", "preference"):
        assert (scored(frame, **{**known, name: other[name]}, visible=visible) - scores)[1:].abs().max() > 1e-4
    assert (scored(frame, **known) - scores)[1:].abs().max() > 1e-4  # with the body it is another score


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
    torch.testing.assert_close(frame.score(fused), scored(frame, **known))


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("points", (2, 17, 2), "(2, 15, 2)"),
        ("image", (2, WIDTH + 1), f"(2, {WIDTH})"),
        ("image", (3, WIDTH), f"(2, {WIDTH})"),
        ("vertices", (2, 6890, 3), "(2, 10475, 3)"),
        ("preference", (2, 4), "(2, 5)"),
        ("visible", (2, 14), "(2, 15)"),
        ("vector", (1, WIDTH), f"(2, {WIDTH})"),
    ],
)
def test_an_input_of_another_shape_is_refused_by_name(frame, body, name, shape, wanted):
    with pytest.raises(ValueError, match=re.escape(f"{name}: shape {shape}, expected {wanted}")):
        frame(**{**inputs(body, 2), name: torch.zeros(shape)})


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
    with pytest.raises(ValueError, match=r"FrameConfig: unknown \['depth'\]; known are \['camera', .*'survey'\]"):
        FrameConfig.from_dict({**CONFIG.to_dict(), "depth": 3})
    with pytest.raises(ValueError, match="model.size: 'huge' is not a size; there are 'tiny', 'full'"):
        FrameConfig.of("huge", WIDTH)


def test_the_full_size_is_the_papers():
    import json

    config = FrameConfig.full()
    assert FrameConfig.of("full", 768) == config and config.size == "full" and config.image_width == 768
    assert FrameConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.reads_photo and not config.clip and not CONFIG.reads_photo
    changed = FrameConfig.full(512, clip=True, survey=False)
    assert (changed.image_width, changed.clip, changed.survey, changed.mesh_points) == (512, True, False, 10475)
    with pytest.raises(TypeError, match="depth"):
        FrameConfig.full(depth=3)


# What the full size asks for

UNUSED = 2_369_280 + 1_025_000 + 3 * 65_792 + 514
"""Parameters that a checkpoint holds and nothing reads: an encoder, an ImageNet classifier, the last of three MLPs."""


@pytest.fixture(scope="module")
def full() -> PhysiqueFrame:
    """The paper's network with random weights, without its CLIP tower."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PhysiqueFrame(FrameConfig.full(survey=False)).eval().requires_grad_(False)


def photo_inputs(body, count: int) -> dict[str, Tensor]:
    known = inputs(body, count)
    given = draw(5)
    return {
        **known,
        "image": torch.randint(0, 256, (count, 3, 224, 224), generator=given).to(torch.uint8),
        "vector": torch.randn(count, 768, generator=given),
    }


def test_the_full_size_scores_photos(full, body):
    known = photo_inputs(body, 1)
    full.mesh.set_topology(body.rest)
    scores = scored(full, **known)
    assert scores.shape == (1, 3) and (scores > 0).all() and (scores < 10).all()
    assert full.width == 768 + 256 + 256 + 5 == full.fuse(**known).shape[1]
    floats = {**known, "image": normalise(known["image"])}
    torch.testing.assert_close(scored(full, **floats), scores, atol=1e-5, rtol=0)
    assert sum(p.numel() for p in full.parameters()) + 303_966_208 == 409_324_297 - UNUSED + full.nobody.numel()


def test_images_of_another_shape_are_refused(full, body):
    known = photo_inputs(body, 2)
    for image in (known["image"][..., :200], known["image"].permute(0, 2, 3, 1), known["vector"]):
        with pytest.raises(ValueError, match=r"image: shape \(2, .*\), expected \(2, 3, 224, 224\)"):
            full(**{**known, "image": image})


def test_a_frame_without_an_encoder_wants_its_vectors(full, body):
    known = photo_inputs(body, 2)
    del known["vector"]
    with pytest.raises(ValueError, match=r"vector: missing; this frame has no image encoder of its own"):
        full(**known)


def test_a_frame_of_given_preferences_reads_no_surveys(full):
    found = full.preference(torch.ones(3, SURVEY_WIDTH), torch.zeros(3, 768))
    assert found.shape == (3, 5) and (found == NEUTRAL).all()


def test_recomputing_is_switched_on_and_off(full):
    full.recompute()
    assert full.mesh.checkpointed and all(layer.grad_checkpointing for layer in full.posture.backbone.layers)
    full.recompute(False)
    assert not full.mesh.checkpointed and not any(layer.grad_checkpointing for layer in full.posture.backbone.layers)


def test_what_compat_says_is_passed_on(full):
    assert full.compat == Compat.of("fixed") and not full.mesh.stages[0].literal
    full.set_compat("reference")
    assert full.compat.joint_mask == "first" and all(stage.literal for stage in full.mesh.stages)
    full.set_compat("fixed")
    assert not any(stage.literal for stage in full.mesh.stages)
    assert full.mesh.search == "shared"  # whatever the distances
    small = PhysiqueFrame(FrameConfig(WIDTH, mesh_search="direct"), Compat(distances="direct"))
    assert small.mesh.search == "direct"
    small.set_compat("fixed")
    assert small.mesh.search == "expanded"
    with pytest.raises(ValueError, match="compat: 'old' is not a setting"):
        full.set_compat("old")


def test_pixels_are_normalised_as_imagenet():
    photo = torch.randint(0, 256, (2, 3, 5, 4), generator=draw(6)).to(torch.uint8)
    found = normalise(photo)
    for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))):
        torch.testing.assert_close(found[:, channel], (photo[:, channel].float() / 255 - mean) / std)
    assert normalise(found) is found


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


def test_preferences_are_five_numbers_between_nought_and_one():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = PreferenceNet(WIDTH)
    image = torch.randn(6, WIDTH, generator=draw(0)) * 100
    survey = survey_code({"sport": "often", "age": "34"}).expand(6, -1)
    assert (net(survey, image) == NEUTRAL).all()  # until it has learned something
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net.out.reset_parameters()
    found = net(survey, image)
    assert found.shape == (6, 5) and (found >= 0).all() and (found <= 1).all()
    assert (net(torch.zeros(6, SURVEY_WIDTH), image) - found).abs().max() > 1e-4
    assert (net(survey, image.flip(0)) - found).abs().max() > 1e-4
