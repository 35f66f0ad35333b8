"""JPEGs decoded together: the pixels, spans, turns and outcomes that Pillow gives one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from model import jpeg
from model.images import UnreadableImage
from model.jpeg import alone, decode_batch, reduced, together
from tests.model_cases import encoded


def photo(width: int = 640, height: int = 480) -> Image.Image:
    coarse = np.random.default_rng(3).integers(0, 255, (12, 16, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def turned(turn: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turn
    return encoded(photo(), "JPEG", quality=95, exif=exif)


@pytest.fixture
def as_on_a_gpu(monkeypatch) -> str:
    """A device that is not called `cpu` but is one: the way of GPUs, with torchvision's CPU decoder at its end."""
    usual = jpeg.together
    monkeypatch.setattr(jpeg, "together", lambda photos, device: usual(photos, "cpu"))
    return "cuda"


@pytest.mark.parametrize("side", [1000, 200, 50])
def test_photos_are_those_of_pillow(as_on_a_gpu, side):
    data = [turned(turn) for turn in range(1, 9)] + [encoded(photo().convert("L"), "JPEG"), encoded(photo(), "PNG")]
    for mine, file in zip(decode_batch(data, side, as_on_a_gpu), data, strict=True):
        pixels, span = alone(file, side)
        assert mine[1] == span and mine[0].shape == pixels.shape and mine[0].dtype == np.uint8
        assert np.abs(mine[0].astype(int) - pixels).mean() < 2.5


def test_what_is_no_plain_jpeg_has_pillows_outcome(as_on_a_gpu):
    whole = encoded(photo(), "JPEG")
    odd = [
        *(whole[: len(whole) // 2], b"", b"\xff\xd8 no jpeg \xff\xd9", encoded(photo().convert("CMYK"), "JPEG")),
        *(encoded(Image.new("RGB", (8, 8)), "JPEG"), encoded(Image.new("RGB", (900, 40)), "JPEG"), whole),
    ]
    for mine, file in zip(decode_batch(odd, 1000, as_on_a_gpu), odd, strict=True):
        expected = alone(file, 1000)
        if isinstance(expected, UnreadableImage):
            assert str(mine) == str(expected)
        else:
            assert np.abs(mine[0].astype(int) - expected[0]).mean() < 2.5


def test_one_bad_file_does_not_cost_the_others():
    whole = encoded(photo(), "JPEG")
    found = together([whole, b"\xff\xd8 no jpeg \xff\xd9", whole], "cpu")
    assert [one is None for one in found] == [False, True, False]


def test_nothing_to_decode(as_on_a_gpu):
    assert decode_batch([], 100, as_on_a_gpu) == []
    assert reduced(torch.zeros(3, 20, 30, dtype=torch.uint8), 1, 100)[0].shape == (20, 30, 3)
