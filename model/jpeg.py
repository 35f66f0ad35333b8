"""JPEG photos decoded together by torchvision, on the GPU where there is one; everything else, one by one, by Pillow.

What cannot be trusted to a hardware decoder (other formats, CMYK, files that do not end as JPEGs end, whatever it
refuses) goes to `model.images`, so that each photo has the outcome it would have had there.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from model.images import MAX_ASPECT, MAX_PIXELS, MIN_SIDE, UnreadableImage, decode_reduced, opened, orientation

END = b"\xff\xd9"
Decoded = tuple[np.ndarray, int] | UnreadableImage
"""The upright photo (H, W, 3) uint8 and how many photo px one of its px spans; or why it cannot be read."""


def decode_batch(photos: list[bytes], side: int, device: str) -> list[Decoded]:
    """Photos, each reduced as `model.images.decode_reduced` does."""
    turns = [_simple(data) if device != "cpu" else None for data in photos]
    at = [k for k, turn in enumerate(turns) if turn is not None]
    out: list[Decoded | None] = [None] * len(photos)
    for k, found in zip(at, together([photos[k] for k in at], device)):
        if found is not None:
            out[k] = reduced(found, int(turns[k] or 1), side)
    return [alone(data, side) if found is None else found for data, found in zip(photos, out)]


def alone(data: bytes, side: int) -> Decoded:
    """One photo, by Pillow."""
    try:
        image, span = decode_reduced(data, side)
    except UnreadableImage as error:
        return error
    return np.asarray(image), span


def _simple(data: bytes) -> int | None:
    """The EXIF orientation of a JPEG that any decoder reads alike; None for all other photos."""
    if data[:2] != b"\xff\xd8" or END not in data[-64:]:
        return None
    try:
        image = opened(data)
    except UnreadableImage:
        return None
    width, height = image.size
    fits = min(width, height) >= MIN_SIDE and max(width, height) <= MAX_ASPECT * min(width, height)
    if image.format != "JPEG" or image.mode not in ("RGB", "L") or width * height > MAX_PIXELS or not fits:
        return None
    return orientation(image)


def together(photos: list[bytes], device: str) -> list[torch.Tensor | None]:
    """JPEG files → (3, H, W) uint8 RGB on `device`, None where that failed."""
    from torchvision.io import ImageReadMode, decode_jpeg

    if not photos:
        return []
    files = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in photos]
    try:
        return list(decode_jpeg(files, ImageReadMode.RGB, device=device))
    except RuntimeError:
        if len(photos) == 1:
            return [None]
        half = len(photos) // 2  # one bad file must not cost the others
        return [*together(photos[:half], device), *together(photos[half:], device)]


def reduced(pixels: torch.Tensor, turn: int, side: int) -> tuple[np.ndarray, int]:
    """(3, H, W) uint8, its EXIF orientation 1–8 → upright on the CPU, and its span: means over span × span px, as a JPEG
    decoder's own reduction is in effect."""
    span = 1
    while span < 8 and max(pixels.shape[1:]) >= 2 * span * side:
        span *= 2
    if span > 1:
        pixels = F.avg_pool2d(pixels[None].float(), span, ceil_mode=True)[0].round().byte()
    if turn in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 2)
    if turn in (2, 3, 6, 7):
        pixels = pixels.flip(2)
    if turn in (3, 4, 7, 8):
        pixels = pixels.flip(1)
    return pixels.permute(1, 2, 0).contiguous().cpu().numpy(), span
