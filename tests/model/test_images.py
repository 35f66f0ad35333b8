"""Decoding every kind of picture, and the geometry of crops."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from model.images import (
    GROWTH,
    UnreadableImage,
    apply_affine,
    crop_person,
    decode,
    invert_affine,
    letterbox,
    person_rectangle,
)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """Dark left half, bright right half, red lower edge."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 200
    pixels[-6:] = (220, 10, 10)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty file"),
        (b"dear diary, " * 50, "not an image"),
        (encoded(picture(), "JPEG")[:600], "truncated"),
        (encoded(picture(), "PNG")[:80], "truncated"),
        (encoded(Image.new("RGB", (1, 1)), "PNG"), "too small: 1×1"),
        (encoded(Image.new("RGB", (300, 15)), "PNG"), "too small: 300×15"),
    ],
)
def test_bad_bytes_get_one_clear_line(data: bytes, words: str) -> None:
    with pytest.raises(UnreadableImage) as caught:
        decode(data)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pixel_bomb_is_refused_before_it_is_decoded() -> None:
    bomb = encoded(Image.new("1", (16_000, 14_000)), "PNG")  # 224 megapixels in 30 kB
    with pytest.raises(UnreadableImage, match="too large"):
        decode(bomb)
    with pytest.raises(UnreadableImage, match="too large: 40×30 px"):
        decode(encoded(picture(), "PNG"), max_pixels=1000)


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "P", "LA", "RGBA", "I;16", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (32, 1)))
    if mode == "I;16":
        source = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        source = grey.convert("RGB").convert(mode) if mode != "1" else grey.convert("1", dither=Image.Dither.NONE)
    image = decode(encoded(source, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"))
    assert image.mode == "RGB"
    pixels = np.asarray(image).astype(int)
    assert pixels.shape == (32, 64, 3)
    assert pixels[:, :8].mean() < 60 < 190 < pixels[:, -8:].mean()


def test_transparency_is_white() -> None:
    image = decode(encoded(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), "PNG"))
    assert np.asarray(image).min() == 255


def test_exif_turns_the_photo_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90°
    image = decode(encoded(picture(40, 30), "JPEG", exif=exif, quality=95))
    assert image.size == (30, 40)
    pixels = np.asarray(image).astype(int)
    assert pixels[:, :4, 0].mean() > 180 and pixels[:, :4, 1].mean() < 60  # the lower edge is now the left one


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (24, 24), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(data))[0, 0].tolist() == [255, 0, 0] or np.asarray(decode(data))[0, 0, 0] > 240


def test_rectangle_follows_the_specification() -> None:
    # 100 wide, 100 high at (10, 20): loses one pixel, is made 3:4 and grown by 1.25
    found = person_rectangle(np.array([10.0, 20.0, 110.0, 120.0]), 400, 400)
    np.testing.assert_allclose(found, [59.5, 69.5, 99 * GROWTH, 99 / 0.75 * GROWTH], rtol=1e-6)
    with pytest.raises(ValueError, match="no area"):
        person_rectangle(np.array([500.0, 20.0, 600.0, 120.0]), 400, 400)


@pytest.mark.parametrize("size", [(96, 128), (384, 512)])
def test_crop_carries_points_there_and_back(size: tuple[int, int]) -> None:
    image = np.zeros((900, 700, 3), np.uint8)
    spot = np.array([333.5, 444.5])
    cv2.circle(image, (333, 444), 12, (255, 255, 255), -1)
    crop, matrix = crop_person(image, np.array([200.0, 150.0, 480.0, 800.0]), size)
    assert crop.shape == (size[1], size[0], 3) and crop.dtype == np.uint8
    rows, columns = np.nonzero(crop[..., 0] > 127)
    np.testing.assert_allclose(apply_affine(matrix, spot), [columns.mean() + 0.5, rows.mean() + 0.5], atol=0.6)
    np.testing.assert_allclose(apply_affine(invert_affine(matrix), apply_affine(matrix, spot)), spot, atol=1e-6)


def test_crop_is_black_beyond_the_photo() -> None:
    image = np.full((100, 60, 3), 255, np.uint8)
    crop, _ = crop_person(image, np.array([0.0, 0.0, 60.0, 100.0]))
    assert crop[64, 48].tolist() == [255, 255, 255] and crop[:, 0].max() == 0 and crop[0].max() == 0


def test_small_crop_of_a_large_photo_does_not_alias() -> None:
    stripes = np.zeros((1280, 960, 3), np.uint8)
    stripes[:, ::2] = 255
    crop, _ = crop_person(stripes, np.array([100.0, 100.0, 800.0, 1100.0]))
    middle = crop[40:90, 30:60].astype(int)
    assert abs(middle.mean() - 127.5) < 3 and middle.std() < 6


def test_letterbox_keeps_the_shape() -> None:
    image = np.full((200, 100, 3), 90, np.uint8)
    square, matrix = letterbox(image, 64)
    assert square.shape == (64, 64, 3)
    assert (square[:, 16:48] == 90).all() and square[:, :16].max() == 0 and square[:, 48:].max() == 0
    np.testing.assert_allclose(apply_affine(matrix, np.array([[0, 0], [100, 200]])), [[16, 0], [48, 64]])
