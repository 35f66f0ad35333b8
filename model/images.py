"""Bytes of a photo → upright RGB pixels → network crops, and points back again.

Notable: every broken photo ends in one `UnreadableImage` with one clear line; nothing else is raised for
bad bytes. The person crop follows SMPLer-X (spec §1.3-1.5: box clip, aspect 3:4, growth ×1.25, zero border,
no half-pixel shift), so the same function feeds the small network (96×128) and the full one (384×512).

    python -m pytest tests/model/test_images.py
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from model.warp import shrink, three_points, warp

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 120_000_000
"""Largest photo that is decoded (a decoded pixel costs 3–4 bytes; phones make 12–108 megapixels)."""
MIN_SIDE = 16
"""A photo narrower or lower than this (px) shows no body."""
MAX_ASPECT = 8
"""A photo's longer side over its shorter. Beyond, OpenCV breaks: its people detector reads past the end of a
photo lower than a tenth of its width, and its warp takes sides under 32,768 px (√(8 · 120e6) = 30,984)."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM")
"""What Pillow may recognise: pictures only (no EPS, which starts another program)."""
GROWTH = 1.25
"""Context kept around a person box (spec §1.4)."""


class UnreadableImage(ValueError):
    """The bytes are no photo that can be used; `str()` is the reason, one line."""


def opened(data: bytes) -> Image.Image:
    """The picture in `data`, its header read and no pixel decoded.

    Raises:
        UnreadableImage: empty, not an image, or far over `MAX_PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise UnreadableImage("empty file (0 bytes)")
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]  # some builds of Pillow lack some
    try:
        with warnings.catch_warnings():  # Pillow warns of large images; `decode` has its own limit
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise UnreadableImage("not an image (no known picture format)") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(f"too large: more than {MAX_PIXELS / 1e6:.0f} megapixels") from None
    except Exception as error:  # parsers of rare formats raise struct.error, SyntaxError, ... on bad headers
        raise _damaged(error) from None


def orientation(image: Image.Image) -> int:
    """How an opened picture lies, 1–8 as in EXIF (or XMP); 1, upright, where that block says nothing sensible."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            turn = Image.Image.getexif(image).get(0x0112, 1)  # PNG's own method would decode the pixels
            return turn if turn in _TURNS else 1
    except Exception:  # a malformed EXIF block says nothing about the pixels: they are kept as stored
        return 1


_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""EXIF orientation → Pillow's name of what makes it upright."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a photo to an upright PIL RGB image.

    EXIF orientation is applied, 16-bit and float samples are scaled to 8 bit, CMYK and palettes are
    converted, transparency is laid over white, and of an animation the first frame is taken.

    Raises:
        UnreadableImage: empty, not an image, truncated, over `max_pixels`, a side under 16 px, or one side
            more than 8 times the other.
    """
    return decode_reduced(data, None, max_pixels)[0]


def decode_reduced(data: bytes, side: int | None, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, int]:
    """Like `decode`, but a JPEG that is large is decoded at a half, a quarter or an eighth, which costs so much less.

    Args:
        side: px that the longer side keeps at least; None: nothing is reduced.
    Returns:
        The upright image, and how many px of the photo one of its px spans: 1, 2, 4 or 8.
    """
    image = opened(data)
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadableImage(
            f"too large: {width}×{height} px, at most {max_pixels / 1e6:.0f} megapixels are decoded"
        )
    if min(width, height) < MIN_SIDE:
        raise UnreadableImage(f"too small: {width}×{height} px, at least {MIN_SIDE}×{MIN_SIDE} are needed")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImage(f"too long: {width}×{height} px, one side is over {MAX_ASPECT} times the other")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.seek(0)
            span = 1
            if side and image.format == "JPEG":
                while span < 8 and max(width, height) >= 2 * span * side:
                    span *= 2
                image.draft(None, (width // span, height // span))
                span = round(width / image.size[0])  # what the decoder agreed to
            image.load()
            return _to_rgb(_upright(image)), span
    except Exception as error:  # any decoder's failure in the pixel data means the same to us
        raise _damaged(error) from None


def _damaged(error: Exception) -> UnreadableImage:
    text = " ".join(str(error).split())[:120] or type(error).__name__
    cut = isinstance(error, EOFError) or "truncated" in text.lower()
    return UnreadableImage(f"{'truncated' if cut else 'damaged'} picture ({text})")


def _upright(image: Image.Image) -> Image.Image:
    from PIL import Image

    turn = orientation(image)  # of a TIFF that is loaded it is 1: Pillow has turned it
    return image.transpose(Image.Transpose[_TURNS[turn]]) if turn != 1 else image


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips these on convert, so a 16-bit grey photo would come out white.
        values = np.nan_to_num(np.asarray(image, np.float32), nan=0, posinf=0, neginf=0)  # dead pixels are black
        top = float(values.max(initial=0.0))
        scale = 255.0 if image.mode == "F" and top <= 1.0 else 1.0 if top <= 255.0 else 1.0 / 257.0
        if image.mode.startswith("I;16"):
            scale = 1.0 / 257.0
        return Image.fromarray(np.clip(values * scale + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, rgba).convert("RGB")
    return image.convert("RGB")


# Affine maps are (2, 3) float64 matrices: target = M[:, :2] @ source + M[:, 2], points as (x, y) px.


def apply_affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points (..., 2) px with a (2, 3) matrix; returns float64 of the same shape."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def invert_affine(matrix: np.ndarray) -> np.ndarray:
    """(2, 3) matrix of the inverse map: `apply_affine(invert_affine(m), apply_affine(m, p)) == p`."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate([linear, -(linear @ matrix[:, 2:])], axis=1)


def letterbox(image: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit a whole photo into a square without distortion, black bars on the short side.

    Args: image (H, W, 3) uint8; size of the square in px.
    Returns: (size, size, 3) uint8 and the (2, 3) matrix photo px → square px; pixel i spans i … i + 1.
    """
    import cv2

    height, width = image.shape[:2]
    scale = size / max(height, width)
    new_w, new_h = max(1, round(width * scale)), max(1, round(height * scale))
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image, (new_w, new_h), interpolation=mode)
    left, top = (size - new_w) // 2, (size - new_h) // 2
    square = np.zeros((size, size, 3), np.uint8)
    square[top : top + new_h, left : left + new_w] = small
    return square, np.array([[new_w / width, 0.0, left], [0.0, new_h / height, top]], np.float64)


def person_rectangle(box: np.ndarray, width: int, height: int, aspect: float = 0.75) -> np.ndarray:
    """Rectangle around a person as the networks see it (spec §1.3-1.4): (centre x, centre y, w, h) px.

    `box` is (x1, y1, x2, y2) px; it is clipped to the photo, grown to `aspect` = w/h and by ×1.25.

    Raises:
        ValueError: nothing of the box lies in the photo.
    """
    x1, y1, x2, y2 = (float(v) for v in box[:4])
    w, h = x2 - x1, y2 - y1
    x1, y1 = max(0.0, x1), max(0.0, y1)
    x2, y2 = min(width - 1.0, x1 + max(0.0, w - 1.0)), min(height - 1.0, y1 + max(0.0, h - 1.0))
    w, h = x2 - x1, y2 - y1
    if w <= 0 or h <= 0:
        raise ValueError(f"person box {list(box[:4])} has no area inside the {width}×{height} photo")
    centre_x, centre_y = x1 + w / 2, y1 + h / 2
    if w > aspect * h:
        h = w / aspect
    else:
        w = h * aspect
    return np.array([centre_x, centre_y, w * GROWTH, h * GROWTH], np.float32)


def crop_person(
    image: np.ndarray, box: np.ndarray, size: tuple[int, int] = (96, 128)
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a person out of a photo, zero beyond the border.

    At 384×512 px this is the reference's crop to the bit (spec §1.5: one bilinear sample per pixel, pixel
    centres at whole numbers). Other sizes are sampled without aliasing, and pixel i spans i … i + 1.

    Args:
        image: (H, W, 3) uint8 or float32 RGB; the crop keeps the dtype.
        box: (x1, y1, x2, y2) px of the photo.
        size: (width, height) px of the crop: (96, 128) small network, (384, 512) SMPLer-X.
    Returns:
        (height, width, 3) crop and the (2, 3) matrix photo px → crop px.
    Raises:
        ValueError: the box does not overlap the photo.
    """
    height, width = image.shape[:2]
    centre_x, centre_y, w, h = person_rectangle(np.asarray(box, np.float64), width, height, size[0] / size[1])
    target = np.array([[0.5, 0.5], [0.5, 1.0], [1.0, 0.5]], np.float32) * np.array(size, np.float32)
    source = np.array(
        [[centre_x, centre_y], [centre_x, centre_y + h * 0.5], [centre_x + w * 0.5, centre_y]], np.float32
    )
    matrix = three_points(source, target).astype(np.float32)
    small, there = image, matrix
    if tuple(size) != (384, 512):
        matrix = matrix.astype(np.float64)
        factor = int(h // size[1])
        there = matrix.copy()
        if factor >= 2 and min(height, width) >= 2 * factor:  # a bilinear warp alone would skip pixels
            small, span = shrink(image, factor)
            there[:, :2] *= span
        there[:, 2] += there[:, :2].sum(1) * 0.5 - 0.5  # warps count from the centre of pixel 0
    return warp(small, there, tuple(size)), matrix.astype(np.float64)
