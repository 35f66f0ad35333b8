"""The mesh over its photo: where it is drawn, how large the picture may be, what is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from model.images import decode
from model.mesh_row import MeshRow
from model.overlay import LONG_SIDE, overlay
from tasks.mannequins.photos import SIZE
from tasks.mannequins.scene import sample_scene


def row_of(truth: dict, scale: float = 1.0) -> MeshRow:
    """The row of an extractor that is never wrong, of the photo `scale` times as large."""
    camera = np.array([*truth["camera"], SIZE[0] / 2, SIZE[1] / 2], np.float32)
    camera[[0, 4, 5]] *= scale
    return MeshRow(
        "ok",
        box=truth["box"] * np.float32(scale),
        betas=truth["betas"],
        pose=truth["pose"],
        camera=camera,
        points=truth["points"].ravel() * np.float32(scale),
    )


@pytest.fixture(scope="module")
def shot(mannequins) -> tuple[np.ndarray, dict]:
    return np.asarray(decode(mannequins[0].data)), mannequins[0].truth


def test_it_draws_on_the_person_and_nowhere_else(shot, body):
    image, truth = shot
    kept = image.copy()
    drawn = overlay(image, row_of(truth), body)
    assert np.array_equal(image, kept)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    change = (drawn != image).any(-1)
    x1, y1, x2, y2 = truth["box"].astype(int)
    inside = np.zeros(change.shape, bool)
    inside[max(y1 - 2, 0) : y2 + 3, max(x1 - 2, 0) : x2 + 3] = True
    assert not change[~inside].any()
    assert change[inside].mean() > 0.2


def test_the_mesh_covers_the_silhouette(renderer, body):
    for seed in range(3):
        scene = sample_scene(np.random.default_rng(seed))
        picture = renderer.render(scene, SIZE)
        change = (overlay(picture.image, row_of(picture.truth), body) != picture.image).any(-1)
        x1, y1, x2, y2 = picture.truth["box"].astype(int)
        for edge in (np.s_[:, x1 - 1 : x1 + 2], np.s_[:, x2 - 1 : x2 + 2], np.s_[y1 - 1 : y1 + 2], np.s_[y2 - 1 : y2 + 2]):
            change[edge] = picture.mask[edge]  # there runs the box
        assert (change & picture.mask).sum() / (change | picture.mask).sum() > 0.9


def test_points_and_box_have_their_colours(shot, body):
    image, truth = shot
    drawn = overlay(image, row_of(truth), body).astype(int)
    for x, y in np.round(truth["points"]).astype(int):
        assert np.abs(drawn[y, x] - [230, 40, 60]).max() <= 2
    x1, y1, x2, y2 = np.round(truth["box"]).astype(int)
    for y, x in ((y1, (x1 + x2) // 2), ((y1 + y2) // 2, x1)):
        assert drawn[y, x].tolist() == [60, 220, 90]


def test_alpha_is_how_much_the_mesh_covers(shot, body):
    image, truth = shot
    strength = [
        np.abs(overlay(image, row_of(truth), body, alpha=alpha).astype(int) - image).sum() for alpha in (0.0, 0.3, 0.6, 1.0)
    ]
    assert strength == sorted(strength) and strength[0] < 0.5 * strength[-1]


@pytest.mark.parametrize(("width", "height"), [(2048, 1536), (768, 1025), (1024, 512), (40, 30)])
def test_no_picture_is_larger_than_the_limit(body, width, height):
    drawn = overlay(np.zeros((height, width, 3), np.uint8), MeshRow("no_person"), body)
    scale = min(1.0, LONG_SIDE / max(width, height))
    assert drawn.shape == (round(height * scale), round(width * scale), 3)
    assert max(drawn.shape) <= LONG_SIDE == 1024


def test_a_large_photo_is_drawn_in_the_same_place(shot, body):
    image, truth = shot
    large = np.ascontiguousarray(image.repeat(8, 0).repeat(8, 1))  # 1536 × 2048
    drawn = overlay(large, row_of(truth, 8.0), body)
    assert drawn.shape == (1024, 768, 3)
    plain = overlay(large, MeshRow("no_person"), body)
    rows, columns = np.nonzero((drawn != plain).any(-1))
    found = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
    np.testing.assert_allclose(found, truth["box"] * 4, atol=4)


def test_a_picture_of_nobody_is_left_alone_but_for_the_text(body):
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    assert np.array_equal(overlay(image, MeshRow("no_person"), body), image)
    said = overlay(image, MeshRow("no_person", reason="no person found"), body)
    told = overlay(image, MeshRow("no_person", reason="no person found"), body, text="no person found")
    assert np.array_equal(said, told)  # the reason is what is written
    other = overlay(image, MeshRow("no_person", reason="no person found"), body, text="5.1  6.2  7.3")
    assert not np.array_equal(said, other)
    for drawn in (said, other):
        rows, columns = np.nonzero((drawn != image).any(-1))
        assert len(rows) > 30 and rows.max() < 40 and columns.min() < 15  # the upper left corner


def test_a_body_at_the_lens_does_no_harm(shot, body):
    image, truth = shot
    row = row_of(truth)
    row.camera = row.camera.copy()
    row.camera[3] = 0.0
    drawn = overlay(image, row, body)
    assert drawn.shape == image.shape and (drawn != image).any()  # points and box are still drawn
