"""What moved a score: does it say the truth where it is known, does it see the weights, does it add up."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from model import personal
from model.bank import start_bank
from model.basis import fit_basis
from model.checkpoint import save_frame
from model.encoder import ClipEncoder, Encoder
from model.extract import Recipe
from model.images import apply_affine, decode
from model.mesh_row import MeshRow
from model.physique_frame import FrameConfig, PhysiqueFrame
from model.pose_graph import PoseGraph
from model.predictor import Answer, PhotoReader, Predictor, write_bundle
from model.saliency import STEP, explain, gradients, readings, shares
from model.saliency_maps import CENTIMETRE, PARTS, bulge_field, bulges, map_size, normals, on_photo, part_of
from model.saliency_subject import Scorer, Subject, _with_soft_points, blurred, subject_of
from model.scores import DIMENSIONS
from model.selection import fit_selection

ALL = [0, 1, 2]


def settle(frame: PhysiqueFrame, predictor: Predictor, data: list[bytes], seed: int, steps: int = 150) -> None:
    """Teach a frame made-up scores of the photos by heart; seed: of the scores."""
    images = [np.asarray(decode(one)) for one in data]
    inputs = predictor.inputs(images, predictor.extractor(data))
    kept = {f.name: getattr(inputs, f.name) for f in dataclasses.fields(inputs)}
    inputs = type(inputs)(**{k: v.clone() if isinstance(v, Tensor) else v for k, v in kept.items()})
    drawn = torch.Generator().manual_seed(seed)
    target = 2 + 6 * torch.rand(len(data), 3, generator=drawn)
    frame.mesh.set_topology(inputs.mean_mesh())
    frame.train().requires_grad_(True)
    optimiser = torch.optim.Adam(frame.parameters(), lr=2e-3)
    rows = torch.arange(len(data))
    for _ in range(steps):
        flip = torch.rand(len(data), generator=drawn) < 0.5
        view = inputs.view(rows, flip, frame.config)
        vector = view.vector * (torch.rand(len(data), 1, generator=drawn) < 0.5)  # so that mesh and points count, too
        preference = frame.preference(torch.zeros(len(data), 32), vector)
        fused = frame.fuse(vector, view.vertices, view.points, preference, view.visible, vector)
        loss = (frame.score(fused) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    frame.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def photos(mannequins) -> list[bytes]:
    return [photo.data for photo in mannequins]


@pytest.fixture(scope="module")
def predictor(body_file: Path, net_folder: Path, net, photos, tmp_path_factory) -> Predictor:
    """One expert who knows twelve mannequins by heart; `posture` was never rated."""
    folder = tmp_path_factory.mktemp("saliency")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frame = PhysiqueFrame(FrameConfig.tiny(net.width))
        save_frame(frame, folder / "models", "000", {"survey": {}})
        reader = PhotoReader(Recipe(str(body_file), str(net_folder), detector="presence"), True, "meshnet", None)
        bundle = write_bundle(
            folder / "bundle", reader=reader, models=folder / "models", files={"expert-01": "000"},
            dimensions=DIMENSIONS[:2],
        )  # fmt: skip
        made = Predictor(bundle)
        settle(made.frames[0], made, photos, 1)
    return made


@pytest.fixture(scope="module")
def answered(predictor: Predictor, photos) -> tuple[np.ndarray, Answer]:
    answer = predictor(photos[:1])[0]
    assert answer.status == "ok"
    return np.asarray(decode(photos[0])), answer


@pytest.fixture(scope="module")
def subject(predictor: Predictor, answered) -> Subject:
    return subject_of(predictor, answered[0], answered[1].row)


def with_frame(predictor: Predictor, frame: PhysiqueFrame) -> Predictor:
    other = copy.copy(predictor)
    other.frames = [frame]
    return other


def exact(subject: Subject) -> dict[str, Tensor]:
    """The photo itself as the only reading."""
    return {name: leaf[None] for name, leaf in subject.leaves.items()}


# What is explained is what is served


def test_the_explained_score_is_the_served_one(predictor, answered, subject):
    score = Scorer.of(predictor)(exact(subject), subject)[0].numpy()
    np.testing.assert_allclose(score[:2], answered[1].scores[:2], atol=1e-4)


def test_a_users_score_is_explained(predictor, photos, answered):
    """Six experts' frames and a bank; the bank's user differs from a new one, and so does what is explained."""
    frames = []
    for seed in (2, 3):
        frame = copy.deepcopy(predictor.frames[0])
        settle(frame, predictor, photos, seed, steps=20)
        frames.append(frame)
    other = copy.copy(predictor)
    other.names, other.frames, other.surveys = ["a", "generic"], frames, predictor.surveys * 2
    rng = np.random.default_rng(0)
    predictions = torch.tensor(rng.normal(5, 1.5, (40, 2, 3)))
    predictions[:, :, 2] = torch.nan
    fused = torch.tensor(rng.normal(size=(40, frames[0].width)))
    basis = fit_basis(other.names, predictions, fused, fused_axes=2)
    ratings = torch.tensor(rng.uniform(0, 10, (200, 3)))
    ratings[:, 2] = torch.nan
    photo, rater = torch.tensor(rng.integers(0, 40, 200)), torch.arange(200) % 4
    stats = personal.sufficient(basis.phi(predictions, fused)[photo], ratings, rater, 4)
    selection = fit_selection([{}] * 4, stats, basis.expert_weights())
    prior = personal.fit_prior(stats, basis.generic_weights(), iterations=3)
    other.bank = start_bank(basis, prior, selection, ["u0", "u1"], [{}, {}])
    other.bank.weights[1] += 0.3 * torch.randn(other.bank.weights[1].shape, generator=torch.Generator().manual_seed(0))
    given = {}
    for user in ("u1", "stranger"):
        answer = other(photos[:1], [user])[0]
        shown = explain(other, answered[0], answer, user, samples=2)
        assert shown.dimensions == ["appearance", "health"]
        np.testing.assert_allclose(shown.score.clip(0, 10), answer.scores[:2], atol=1e-3)
        assert np.isfinite(shown.image).all() and np.abs(shown.image).max() > 0
        given[user] = shown.given
    assert np.abs(given["u1"] - given["stranger"]).max() > 1e-3


def test_what_photo_mesh_and_points_gave_adds_up(predictor, subject):
    scorer = Scorer.of(predictor)
    given, neutral = shares(scorer, subject)
    mixed = dataclasses.replace(subject, leaves=subject.neutral)
    torch.testing.assert_close(neutral, scorer(exact(mixed), subject)[0].double(), atol=1e-4, rtol=0)
    score = scorer(exact(subject), subject)[0].double()
    torch.testing.assert_close(neutral + given.sum(1), score, atol=1e-5, rtol=0)
    assert given.abs().amax(0)[:2].min() > 1e-2 and given[:, 2].abs().max() > 1e-6  # small frames hardly read points


def test_the_same_seed_gives_the_same_maps(predictor, answered):
    one, two = (explain(predictor, *answered, None, samples=3) for _ in range(2))
    assert np.array_equal(one.image, two.image) and np.array_equal(one.bulge, two.bulge)


# Gradients are those of the score


def slope_by_difference(scorer: Scorer, subject: Subject, leaf: str, move: Tensor, step: float) -> Tensor:
    """(3,) gain of the scores per unit of a move of one leaf, by differences."""
    ends = []
    with torch.no_grad():
        for sign in (-step, step):
            leaves = exact(subject)
            leaves[leaf] = leaves[leaf] + sign * move
            ends.append(scorer(leaves, subject)[0])
    return (ends[1] - ends[0]) / (2 * step)


@pytest.mark.parametrize("camera", [False, True])
def test_gradients_are_those_of_small_moves(predictor, subject, body, camera):
    """A bulge of the belly, two points, a faded patch of the photo; also for frames that see meshes negated."""
    if camera:
        frame = copy.deepcopy(predictor.frames[0])
        frame.config = dataclasses.replace(frame.config, camera=True)
        predictor = with_frame(predictor, frame)
        subject = dataclasses.replace(subject, shift=torch.tensor([0.1, 0.3, 0.2]))
    scorer = Scorer.of(predictor)
    found = gradients(scorer, subject, exact(subject), ALL)
    vertices = subject.leaves["vertices"]
    outwards = normals(vertices, body.triangles)
    belly = int(np.flatnonzero(part_of(body.layer.lbs_weights) == list(PARTS).index("belly"))[0])
    lift = bulge_field(vertices[[belly]], outwards[[belly]], vertices, outwards)[0, :, None] * outwards
    aside, down = torch.zeros(15, 2), torch.zeros(15, 2)
    aside[3, 0] = down[12, 1] = STEP * subject.height
    fade = subject.leaves["looks"] - subject.neutral["looks"]
    patch = torch.zeros_like(fade)
    patch[:, :, 40:72, 30:66] = 1
    moves = (
        ("vertices", lift * CENTIMETRE, 0.05),
        ("points", aside, 0.02),
        ("points", down, 0.02),
        ("looks", fade * patch, 0.002),
    )
    for leaf, move, step in moves[: 3 if camera else 4]:  # the photo is read alike by both
        expected = slope_by_difference(scorer, subject, leaf, move, step)
        said = (found[leaf] * move).flatten(1).sum(1)
        assert expected.abs().max() > 1e-5
        torch.testing.assert_close(
            said, expected, atol=0.05 * float(expected.abs().max()) + 2e-5, rtol=0.05, msg=f"{leaf}: {said} {expected}"
        )


def test_a_bulge_is_what_its_vertices_gain(predictor, subject, body):
    found = gradients(Scorer.of(predictor), subject, exact(subject), ALL)["vertices"]
    vertices = subject.leaves["vertices"]
    outwards = normals(vertices, body.triangles)
    said = bulges((found * outwards).sum(-1), vertices, outwards)
    at = torch.tensor([5, 4000, 9000])
    field = bulge_field(vertices[at], outwards[at], vertices, outwards)[..., None] * outwards * CENTIMETRE
    torch.testing.assert_close(said[:, at], torch.einsum("dvk,nvk->dn", found, field), atol=1e-6, rtol=1e-4)


def test_the_photo_map_foretells_what_fading_does(predictor, photos):
    """Patches of the crop faded by 30 %, 48 of each photo, against the sum of the map over them."""
    said, true = [], []
    for data in photos[:3]:
        image = np.asarray(decode(data))
        subject = subject_of(predictor, image, predictor.extractor([data])[0])
        scorer, looks, neutral = Scorer.of(predictor), subject.leaves["looks"], subject.neutral["looks"]
        slope = gradients(scorer, subject, readings(subject, None, 12, 0), ALL)["looks"] * (looks - neutral)
        masks = torch.zeros(48, 1, 1, 128, 96)
        for k in range(48):
            masks[k, :, :, k // 6 * 16 : k // 6 * 16 + 16, k % 6 * 16 : k % 6 * 16 + 16] = 1
        leaves = {name: leaf.expand(48, *leaf.shape) for name, leaf in subject.leaves.items()}
        with torch.no_grad():
            faded = scorer(leaves | {"looks": looks + 0.3 * masks * (neutral - looks)}, subject)
            base = scorer(exact(subject), subject)
        true.append((base - faded).numpy())
        said.append(torch.einsum("dlchw,nh,nw->nd", slope, masks.amax((1, 2, 4)), masks.amax((1, 2, 3))).numpy())
    for d in range(2):
        assert np.corrcoef(np.concatenate(said)[:, d], np.concatenate(true)[:, d])[0, 1] > 0.6


# Sanity (Adebayo et al., 2018)


def maps(shown) -> dict[str, np.ndarray]:
    return {"image": shown.image, "bulge": shown.bulge, "points": np.hypot(shown.pull[..., 0], shown.pull[..., 1])}


def likeness(one, two) -> dict[str, float]:
    """|rank correlation| of each map, mean over dimensions."""
    pairs = {name: (maps(one)[name], maps(two)[name]) for name in maps(one)}
    return {
        name: float(np.mean([abs(spearmanr(a[d].ravel(), b[d].ravel())[0]) for d in range(len(a))]))
        for name, (a, b) in pairs.items()
    }


def test_randomised_weights_destroy_the_maps(predictor, photos):
    lost, kept = [], []
    with torch.random.fork_rng():
        torch.manual_seed(7)
        random = with_frame(predictor, PhysiqueFrame(predictor.frames[0].config).eval().requires_grad_(False))
        random.frames[0].mesh.take_topology(predictor.frames[0].mesh)  # which vertices are read is no weight
        random.encoder = copy.copy(predictor.encoder)
        random.encoder.net = copy.deepcopy(predictor.encoder.net)
        for module in random.encoder.net.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    for data in photos[:4]:
        image, answer = np.asarray(decode(data)), predictor([data])[0]
        shown = explain(predictor, image, answer, None)
        kept.append(likeness(shown, explain(predictor, image, answer, None, seed=1)))
        lost.append(likeness(shown, explain(random, image, answer, None)))
    for name, limit in (("image", 0.1), ("bulge", 0.3), ("points", 0.5)):  # of 15 points, 0.2 by chance
        assert np.mean([one[name] for one in lost]) < limit, name
        assert np.mean([one[name] for one in kept]) > 0.8, name


# Where the truth is known


@pytest.mark.parametrize("stream", ["photo", "mesh", "points"])
def test_a_frame_that_reads_one_stream_is_moved_by_it_alone(predictor, answered, stream):
    frame = copy.deepcopy(predictor.frames[0])
    wide = frame.config.image_width
    of = {"photo": slice(0, wide), "points": slice(wide, wide + 64), "mesh": slice(wide + 64, wide + 128)}
    for head in frame.classifiers.values():
        weight = head[0].weight.clone()
        head[0].weight.zero_()
        head[0].weight[:, of[stream]] = weight[:, of[stream]]
    shown = explain(with_frame(predictor, frame), *answered, None, samples=2)
    moved = {"photo": shown.image, "mesh": shown.bulge, "points": shown.pull}
    for place, (name, found) in enumerate(moved.items()):
        assert (np.abs(found).max() > 0) == (name == stream), name
        assert np.abs(shown.given[:, place]).max() == pytest.approx(0, abs=1e-5) or name == stream
    np.testing.assert_allclose(shown.neutral + shown.given.sum(1), shown.score, atol=1e-5)


def test_nobody_is_explained_from_the_image_alone(predictor, answered):
    image, answer = answered
    alone = dataclasses.replace(answer, status="no_person", row=MeshRow("no_person"))
    shown = explain(predictor, image, alone, None, samples=2)
    assert not shown.found
    assert not shown.given[:, 1:].any() and not shown.bulge.any() and not shown.pull.any()
    assert np.abs(shown.image).max() > 0 and np.abs(shown.given[:, 0]).max() > 0


def test_the_map_lies_where_the_network_looked():
    """A spot in the crop, brought to photos of several sizes, keeps its sum and lands where the matrix says."""
    given = np.zeros((1, 128, 96))
    given[0, 60:64, 30:34] = 1.0
    for size, matrix in (
        ((256, 192), np.array([[0.5, 0, 3.0], [0, 0.5, -4.0]])),
        ((2000, 3000), np.array([[0.05, 0, -20.0], [0, 0.05, 10.0]])),
        ((2000, 3000), np.array([[0.4, 0, -300.0], [0, 0.4, -200.0]])),
    ):
        shown = on_photo(given, matrix, size)[0]
        assert shown.shape == map_size(size) and max(shown.shape) == 480
        assert shown.sum() == pytest.approx(16, rel=0.05)
        rows, columns = np.indices(shown.shape) + 0.5
        scale = size[0] / shown.shape[0]
        at = np.array([(shown * columns).sum(), (shown * rows).sum()]) / shown.sum() * scale
        np.testing.assert_allclose(apply_affine(matrix, at), [32, 62], atol=0.5)


def test_bulges_leave_the_other_leg_alone(body):
    rest = body.rest
    outwards = normals(rest, body.triangles)
    assert float(body.volume((rest + 0.001 * outwards)[None])) > float(body.volume(rest[None])) + 0.001  # 1.8 m² of skin
    part = part_of(body.layer.lbs_weights)
    thighs = part == list(PARTS).index("thighs")
    inner = int(np.flatnonzero(thighs & (rest[:, 0] > 0).numpy())[rest[thighs & (rest[:, 0] > 0).numpy(), 0].argmin()])
    lifted = bulge_field(rest[[inner]], outwards[[inner]], rest, outwards)[0]
    assert float(lifted[inner]) == pytest.approx(1, abs=1e-4)
    assert float(lifted[torch.from_numpy(thighs) & (rest[:, 0] < -0.02)].max()) < 0.35
    assert set(part) == set(range(len(PARTS)))


def test_a_blur_keeps_what_is_even():
    flat = torch.full((2, 3, 64, 48), 0.4)
    torch.testing.assert_close(blurred(flat), flat)
    stripes = (torch.arange(64) % 4 < 2).float().view(1, 1, 64, 1).expand(1, 3, 64, 48)
    assert float(blurred(stripes)[:, :, 16:48].std()) < 0.01 < 0.4 < float(stripes.std())


# Encoders


class Small(nn.Module):
    """Stands for a timm model or the CLIP tower."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("kind", ["meshnet", "timm", "clip"])
@pytest.mark.parametrize("size", [(256, 192), (120, 300)])
def test_encoders_say_the_same_with_gradients(predictor, photos, monkeypatch, kind, size):
    image = np.asarray(decode(photos[1]).resize(size[::-1]))
    with torch.random.fork_rng():
        if kind == "timm":
            encoder = Encoder(Small(), 96, torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4]), "small", "cpu")
        elif kind == "clip":
            monkeypatch.setattr("model.physique_frame.clip_tower", Small)
            monkeypatch.setattr(ClipEncoder, "width", 64)
            encoder = ClipEncoder("random", "cpu")
        else:
            encoder = predictor.encoder
    looks, matrices = encoder.looks(image)
    looks.requires_grad_()
    vectors = encoder.differentiable(looks)
    np.testing.assert_allclose(vectors.detach().numpy(), encoder([image])[0], atol=1e-4, rtol=1e-4)
    vectors.sum().backward()
    assert looks.grad is not None and looks.grad.abs().amax((1, 2, 3)).min() > 0
    # the second matrix is that of the flipped photo
    height, width = size
    bright = np.zeros_like(image)
    bright[int(0.4 * height) : int(0.5 * height), int(0.2 * width) : int(0.3 * width)] = 255
    if kind != "meshnet":  # which looks elsewhere in another photo
        for look, matrix, x in zip(encoder.looks(bright)[0], matrices, (0.25 * width, 0.75 * width), strict=True):
            rows, columns = np.indices(look.shape[1:]) + 0.5
            weight = look.sum(0).numpy()
            at = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
            np.testing.assert_allclose(apply_affine(matrix, np.array([x, 0.45 * height])), at, atol=1.0)


# Full size


def test_rounded_points_have_a_gradient_all_the_same():
    """Of the full posture stream: values stay, the gradient foretells what two cells of a heat map make."""
    from model.compat import Compat

    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = PoseGraph(channels=16, layers=2).eval().requires_grad_(False)
    drawn = torch.Generator().manual_seed(1)
    features, towards = torch.randn(1, 16, 7, 7, generator=drawn), torch.randn(256, generator=drawn)
    points = 30 + 160 * torch.rand(1, 15, 2, generator=drawn)
    seen = torch.ones(1, 15, dtype=torch.bool)

    def value(at: Tensor) -> Tensor:
        return (head(features, at, seen, Compat()) * towards).sum()

    plain = value(points)
    hook = head.register_forward_hook(_with_soft_points)
    moving = points.clone().requires_grad_()
    soft = value(moving)
    (found,) = torch.autograd.grad(soft, moving)
    hook.remove()
    torch.testing.assert_close(soft, plain)
    expected = torch.zeros_like(points)
    for k in range(15):
        for axis in range(2):
            move = torch.zeros_like(points)
            move[0, k, axis] = 7.0
            expected[0, k, axis] = (value(points + move) - value(points - move)) / 14
    assert np.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.6


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_frame_of_full_size_is_explained(predictor, answered):
    image, _ = answered
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frame = PhysiqueFrame(FrameConfig.full(predictor.encoder.width)).eval().requires_grad_(False)
    frame.mesh.set_topology(predictor.extractor.body.rest)
    full = with_frame(predictor, frame)
    answer = full([_bytes(image)])[0]
    shown = explain(full, image, answer, None, samples=1)
    np.testing.assert_allclose(shown.score, answer.scores[:2], atol=1e-2)
    for found in (shown.image, shown.bulge, shown.pull):
        assert np.isfinite(found).all() and (np.abs(found).reshape(2, -1).max(1) > 0).all()


def _bytes(image: np.ndarray) -> bytes:
    from PIL import Image

    from tests.model_cases import encoded

    return encoded(Image.fromarray(image), "PNG")
