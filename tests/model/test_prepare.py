"""What networks are given of a photo: reduced decoding, crops at half size, people in order, with OpenCV and without."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from model import warp as warping
from model.detect import Box
from model.images import apply_affine, crop_person, decode, decode_reduced, invert_affine
from model.prepare import Preparer, crop_half, wider
from tests.model_cases import encoded


def scene(width: int, height: int, blur: int = 16) -> np.ndarray:
    """(height, width, 3) uint8: soft blobs, the same picture at every size."""
    coarse = np.random.default_rng(5).integers(0, 255, (blur * 4 // 3, blur, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


class Two:
    """A detector that sees a small person left of a large one, and nobody in a dark photo."""

    settings = "two"

    def __call__(self, image: np.ndarray) -> list[Box]:
        height, width = image.shape[:2]
        small = Box(0.05 * width, 0.3 * height, 0.25 * width, 0.7 * height, 0.9)
        return [small, Box(0.4 * width, 0.1 * height, 0.9 * width, 0.95 * height, 0.6)] if image.mean() > 20 else []


@pytest.fixture(params=["OpenCV", "torch"])
def either(request, monkeypatch) -> str:
    """With OpenCV, and as where it is not installed."""
    if request.param == "torch":
        monkeypatch.setattr(warping, "opencv", lambda: None)
    return request.param


def test_a_large_jpeg_is_decoded_smaller(monkeypatch):
    photo = Image.fromarray(scene(2000, 1500))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo, "JPEG", quality=95, exif=exif)
    whole = decode(data)
    assert whole.size == (1500, 2000)
    for side, span in ((None, 1), (2000, 1), (1001, 1), (1000, 2), (500, 4), (1, 8)):
        reduced, found = decode_reduced(data, side)
        assert found == span and reduced.size == (-(-1500 // span), -(-2000 // span))
        again = np.asarray(whole.resize(reduced.size, Image.Resampling.BOX), float)
        assert np.abs(np.asarray(reduced, float) - again).mean() < 3
    assert decode_reduced(encoded(photo, "PNG"), 100)[1] == 1  # only JPEG can


@pytest.mark.parametrize("box", [(100, 80, 500, 760), (-20, 0, 300, 790), (300, 500, 420, 620)])
def test_the_half_crop_is_every_second_pixel_of_the_references(either, box):
    image = scene(600, 800)
    whole, matrix = crop_person(image, np.array(box, float), (384, 512))
    half, again = crop_half(image, np.array(box, float))
    np.testing.assert_allclose(again, matrix, atol=1e-4, rtol=1e-6)
    assert half.shape == (256, 192, 3) and half.dtype == np.uint8
    difference = np.abs(half.astype(int) - whole[::2, ::2])
    assert difference.max() <= 3 and difference.mean() < 0.3  # coordinates are read in 32nds of a px


@pytest.mark.parametrize("size", [(96, 128), (384, 512)])
def test_crops_without_opencv_are_the_same(monkeypatch, size):
    image = scene(900, 1200, blur=40)
    box = np.array([150.0, 100.0, 700.0, 1150.0])
    usual, matrix = crop_person(image, box, size)
    monkeypatch.setattr(warping, "opencv", lambda: None)
    other, again = crop_person(image, box, size)
    np.testing.assert_allclose(again, matrix, atol=1e-3, rtol=1e-5)
    difference = np.abs(usual.astype(int) - other)
    assert difference.mean() < 1 and np.percentile(difference, 99) <= 6


def test_a_large_person_is_averaged_not_skipped(either):
    """Stripes of one pixel become grey instead of a pattern that is not there; places stay right."""
    stripes = np.zeros((3000, 2400, 3), np.uint8)
    stripes[:, ::2] = 255
    stripes[1490:1510, 1190:1210] = (255, 0, 0)
    half, matrix = crop_half(stripes, np.array([300.0, 100.0, 2100.0, 2900.0]))
    middle = half[60:110, 50:90].astype(int)
    assert abs(middle.mean() - 127.5) < 3 and middle.std() < 8
    red = (half[..., 0].astype(int) - half[..., 1]) > 90
    rows, columns = np.nonzero(red)
    seen = apply_affine(matrix, np.array([1199.5, 1499.5])) / 2
    np.testing.assert_allclose([columns.mean(), rows.mean()], seen, atol=0.6)


def test_a_map_from_a_reduced_photo_becomes_one_from_the_photo():
    matrix = np.array([[0.7, 0.0, 12.0], [0.0, 0.7, -5.0]])
    for span in (1, 2, 8):
        centres = np.array([[0.0, 0.0], [100.0, 40.0]])
        there = centres * span + (span - 1) / 2  # of the block of photo px that a reduced px is
        np.testing.assert_allclose(apply_affine(wider(matrix, span), there), apply_affine(matrix, centres))
        back = apply_affine(invert_affine(wider(matrix, span)), apply_affine(matrix, centres))
        np.testing.assert_allclose(back, there)


@pytest.mark.parametrize("people", ["largest", "all"])
@pytest.mark.parametrize("crops", [False, True])
def test_people_are_prepared_in_order(people, crops):
    bright, dark = Image.fromarray(scene(400, 500)), Image.new("RGB", (60, 80))
    done = Preparer(Two(), people, crops)([encoded(dark, "PNG"), encoded(bright, "PNG"), b"", encoded(bright, "JPEG")])
    assert done.count == 4 and done.others == {
        0: ("no_person", "no person found"),
        2: ("unreadable", "empty file (0 bytes)"),
    }
    assert [person.photo for person in done.people] == ([1, 3] if people == "largest" else [1, 1, 3, 3])
    np.testing.assert_allclose(done.people[0].box, [160, 50, 360, 475])
    assert all(person.size == (400, 500) for person in done.people)
    if crops:
        assert done.crops.shape == (len(done.people), 256, 192, 3) and not done.pixels
        assert all(person.matrix.shape == (2, 3) for person in done.people)
    else:
        assert [image.shape for image, _ in done.pixels] == [(500, 400, 3)] * len(done.people)
        assert done.crops is None


def test_boxes_of_a_reduced_photo_are_the_photos(monkeypatch):
    monkeypatch.setattr("model.prepare.WORKING_SIDE", 300)
    data = encoded(Image.fromarray(scene(960, 1200)), "JPEG", quality=95)
    whole, reduced = (Preparer(Two(), crops=True)([d]) for d in (encoded(decode(data), "PNG"), data))
    for a, b in zip(whole.people, reduced.people):
        assert a.size == b.size == (960, 1200)
        np.testing.assert_allclose(a.box, b.box, atol=4)
        corners = np.array([[400.0, 200.0], [800.0, 1100.0]])
        np.testing.assert_allclose(apply_affine(a.matrix, corners), apply_affine(b.matrix, corners), atol=3)
    assert np.abs(whole.crops.astype(int) - reduced.crops).mean() < 3


def test_nobody_at_all():
    done = Preparer(Two(), crops=True)([b"", io.BytesIO().getvalue()])
    assert done.crops.shape == (0, 256, 192, 3) and not done.people


@pytest.mark.parametrize("people", ["largest", "all"])
@pytest.mark.parametrize("crops", [False, True])
def test_a_sliver_at_the_edge_is_nobody(people, crops):
    """Detectors give boxes a pixel thin or beyond the photo; there is nothing in them to cut out."""

    class Slivers:
        settings = "slivers"

        def __call__(self, image: np.ndarray) -> list[Box]:
            height, width = image.shape[:2]
            return [Box(width - 0.7, 20, width, 250, 0.9), Box(width + 5, 0, width + 90, 80, 0.9), Box(9, 9, 9, 9, 1.0)]

    done = Preparer(Slivers(), people, crops)([encoded(Image.fromarray(scene(200, 300)), "PNG")])
    assert done.others == {0: ("no_person", "no person found")} and not done.people
