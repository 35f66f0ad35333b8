"""Both views of a photo, the square that the full network sees, and where its camera stands."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.graph import MIRRORED, POINTS
from model.images import apply_affine
from model.physique_frame import FrameConfig, PhysiqueFrame
from model.preference import survey_code
from model.views import FrameInputs, camera_shift, mirror_points, score_views, square

WIDTH = 24
SURVEY = survey_code({"sport": "often"})


@pytest.fixture(scope="module")
def frame(body) -> PhysiqueFrame:
    """Random weights, settled on a few bodies."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = PhysiqueFrame(FrameConfig.tiny(WIDTH))
        torch.nn.init.normal_(made.nobody)
        made.mesh.set_topology(body.rest)
        made.train()
        with torch.no_grad():
            for _ in range(20):
                given = people(body, 16, torch.randint(1 << 30, ()).item())
                view = given.view(torch.arange(16), torch.zeros(16, dtype=torch.bool), made.config)
                made(view.image, view.vertices, view.points, made.preference(SURVEY.expand(16, -1), view.vector))
    return made.eval().requires_grad_(False)


def people(body, count: int, seed: int = 0) -> FrameInputs:
    given = torch.Generator().manual_seed(seed)
    return FrameInputs(
        ids=[f"{k:064x}" for k in range(count)],
        vector=torch.randn(count, 2, WIDTH, generator=given),
        vertices=body.zero_pose(torch.randn(count, 10, generator=given)).half(),
        points=torch.rand(count, 15, 2, generator=given) * 200,
        visible=torch.ones(count, dtype=torch.bool),
    )


def mirrored(given: FrameInputs, width: float = 199.0) -> FrameInputs:
    """The same photos mirrored: vectors change places, points their side and name, bodies stay."""
    points = given.points[:, list(MIRRORED)] * torch.tensor([-1.0, 1.0]) + torch.tensor([width, 0.0])
    photo = None if given.photo is None else given.photo.flip(2)
    return FrameInputs(given.ids, given.vector.flip(1), given.vertices, points, given.visible, photo)


def test_points_mirrored_twice_are_as_they_were(body):
    points = people(body, 4).points
    for width in (None, 224):
        once = mirror_points(points, width)
        torch.testing.assert_close(mirror_points(once, width), points, atol=1e-4, rtol=0)
        assert torch.equal(once[..., 1], points[:, list(MIRRORED), 1])
        left, right = POINTS.index("left wrist"), POINTS.index("right wrist")
        torch.testing.assert_close(once[:, left, 0] - once[:, 0, 0], points[:, 0, 0] - points[:, right, 0])
    torch.testing.assert_close(mirror_points(points).mean(1), points.mean(1))


def test_a_mirrored_photo_gets_the_same_scores(frame, body):
    given = people(body, 5)
    given.visible[3] = False  # nobody
    rows = torch.arange(5)
    scores, fused = score_views(frame, given, rows, SURVEY)
    other, seen = score_views(frame, mirrored(given), rows, SURVEY)
    assert scores.shape == (5, 3) and fused.shape == (5, frame.width)
    torch.testing.assert_close(other, scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(seen, fused, atol=1e-4, rtol=0)


def test_the_score_is_the_mean_of_both_views(frame, body):
    given, rows = people(body, 3), torch.arange(3)
    scores, _ = score_views(frame, given, rows, SURVEY)
    each = []
    for flip in (False, True):
        view = given.view(rows, torch.full((3,), flip), frame.config)
        preference = frame.preference(SURVEY.expand(3, -1), view.vector)
        each.append(torch.stack(frame(view.image, view.vertices, view.points, preference, view.visible), dim=1))
    torch.testing.assert_close(scores, (each[0] + each[1]) / 2, atol=1e-5, rtol=0)
    assert (each[0] - each[1]).abs().max() > 1e-3


def test_a_mirrored_view_mirrors_pixels_points_and_place_but_not_the_body(body):
    """What the reference forgets with cached meshes: its photo flips, points and mesh do not."""
    given = people(body, 2)
    given.photo = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    given.shift = torch.tensor([[0.3, 0.2, 20.0], [-0.1, 0.0, 30.0]])
    config, rows = FrameConfig.full(camera=True), torch.arange(2)
    plain = given.view(rows, torch.tensor([False, False]), config)
    flipped = given.view(rows, torch.tensor([False, True]), config)
    for name, one, other in zip(plain._fields, plain, flipped):
        assert torch.equal(one[0], other[0]), name
    assert torch.equal(flipped.image[1], plain.image[1].flip(-1))
    torch.testing.assert_close(flipped.points[1, 1, 0], 224 - plain.points[1, 2, 0])
    torch.testing.assert_close(flipped.vector[1], given.vector[1, 1])
    moved = flipped.vertices[1] - plain.vertices[1]
    torch.testing.assert_close(moved, torch.tensor([-0.2, 0.0, 0.0]).expand_as(moved), atol=1e-5, rtol=0)
    torch.testing.assert_close(plain.vertices[0], -(given.vertices[0].float() + given.shift[0]))


def test_nobody_is_an_empty_mesh_where_the_reference_trained(body):
    given = people(body, 2)
    given.photo, given.shift = torch.zeros(2, 224, 224, 3, dtype=torch.uint8), torch.tensor([[0.0, 0.0, 20.0]] * 2)
    given.visible[1] = False
    view = given.view(torch.arange(2), torch.tensor([True, True]), FrameConfig.full(camera=True, nobody=False))
    assert view.visible.all()
    assert not view.vertices[1].any() and not view.points[1].any()
    assert view.vertices[0].any() and view.points[0].any()


@pytest.mark.parametrize(("height", "width"), [(300, 100), (100, 300), (224, 224), (1000, 7), (50, 40)])
def test_a_square_keeps_the_shape_of_a_photo_and_its_points(height, width):
    image = np.full((height, width, 3), 200, np.uint8)
    image[height // 2, width // 2] = 255
    out, matrix = square(image)
    assert out.shape == (224, 224, 3)
    rows, columns = np.flatnonzero(out.any(axis=(1, 2))), np.flatnonzero(out.any(axis=(0, 2)))
    assert max(len(rows), len(columns)) == 224
    assert len(columns) == max(1, int(224 * width / max(height, width)))
    corners = apply_affine(matrix, np.array([[0, 0], [width, height]]))
    np.testing.assert_allclose(corners, [[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]], atol=1e-6)


def test_a_squashed_square_has_no_bars():
    out, matrix = square(np.full((300, 100, 3), 200, np.uint8), squash=True)
    assert (out == 200).all()
    np.testing.assert_allclose(apply_affine(matrix, np.array([100, 300])), [224, 224])


def test_the_camera_of_smpler_x_sees_the_body_where_ours_does():
    """A point of the body lies at the same place of the crop, by our camera and by the one that is assumed."""
    width, height = 640, 960
    box, camera = np.array([200.0, 200.0, 420.0, 760.0]), np.array([1150.0, -0.1, 0.2, 3.5, 330.0, 470.0])
    shift = camera_shift(box, camera, width, height).astype(np.float64)
    from model.images import person_rectangle

    x, y, _, rows = person_rectangle(box, width, height)
    scale = 256 / rows
    for offset in ([0, 0, 0], [0.3, 0, 0], [0, -0.8, 0]):
        at = camera[1:4] + offset
        ours = (camera[0] * at[:2] / at[2] + camera[4:] - [x, y]) * scale
        there = shift + offset
        np.testing.assert_allclose(5000 * there[:2] / there[2], ours, atol=0.5)
    assert 5 < shift[2] < 56
