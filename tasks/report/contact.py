"""A contact sheet: photos with what was found on them, in even cells whatever their shape.

from tasks.report.contact import Card, contact_sheet
png = contact_sheet([Card(jpeg, "anna.jpg", scores={"posture": 6.2}, rated={"posture": 7.0})])
"""

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.printable import printable

if TYPE_CHECKING:
    from PIL import Image, ImageFont

STATUS_COLOURS = {"ok": "#0072b2", "no_person": "#8a6d00", "unreadable": "#b3261e"}


@dataclass(frozen=True)
class Card:
    """One photo on the sheet.

    `picture`: an encoded image (JPEG, PNG; the mesh overlay already drawn), or None where there is none,
    as with an unreadable file. `scores`: predicted, 0..10 by dimension; `rated`: what the rater said.
    `lines`: free caption lines. `status`: as in the mesh table. Dimensions nobody rated are left out.
    """

    picture: bytes | None
    title: str
    lines: tuple[str, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    rated: dict[str, float] = field(default_factory=dict)
    status: str = "ok"


def thumbnail(picture: bytes | None, width: int, height: int) -> "Image.Image | None":
    """The picture as RGB, upright, no larger than the box, its shape kept; None if it cannot be read."""
    from PIL import Image, ImageOps

    if not picture:
        return None
    try:
        with Image.open(io.BytesIO(picture)) as opened:
            opened.draft("RGB", (2 * width, 2 * height))  # JPEGs decode at a fraction of their size
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    image.thumbnail((width, height), Image.Resampling.LANCZOS)
    return image


def small_jpeg(picture: bytes | None, width: int = 300, height: int = 400, quality: int = 82) -> bytes | None:
    """A JPEG light enough for a page of many; None if the picture cannot be read."""
    image = thumbnail(picture, width, height)
    if image is None:
        return None
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, optimize=True, progressive=True)
    return out.getvalue()


def contact_sheet(cards: list[Card], *, columns: int = 6, cell: int = 200) -> bytes:
    """PNG of all cards, `columns` to a row, each picture fitted whole into a `cell` × 4/3 `cell` px box.

    An unreadable picture leaves its status in the box. Without cards, the sheet says that it is empty.
    """
    from PIL import Image, ImageDraw, ImageFont

    pad, tall = max(8, cell // 14), cell * 4 // 3
    size = max(11, cell // 14)
    font, bold = ImageFont.load_default(size), ImageFont.load_default(size + 1)
    captions = [_caption(card) for card in cards]
    step = round(size * 1.45)
    deep = tall + pad + step * max((len(lines) for lines in captions), default=1)
    columns = max(1, min(columns, len(cards) or 1))
    rows = -(-len(cards) // columns) or 1
    sheet = Image.new("RGB", (pad + columns * (cell + pad), pad + rows * (deep + pad)), "#ffffff")
    draw = ImageDraw.Draw(sheet)
    if not cards:
        draw.text((pad, pad), "no photos", fill="#5d6878", font=font)
    for at, (card, lines) in enumerate(zip(cards, captions)):
        left, top = pad + at % columns * (cell + pad), pad + at // columns * (deep + pad)
        draw.rounded_rectangle((left, top, left + cell, top + tall), pad // 2, fill="#eef1f5")
        image = thumbnail(card.picture, cell, tall)
        if image is None:
            word = card.status.replace("_", " ") if card.status != "ok" else "no picture"
            draw.text((left + cell / 2, top + tall / 2), word, fill="#b3261e", font=bold, anchor="mm")
        else:
            sheet.paste(image, (left + (cell - image.width) // 2, top + (tall - image.height) // 2))
        draw.rectangle((left, top + tall, left + cell, top + tall + 3), fill=_colour(card.status))
        for row, text in enumerate(lines):
            ink = "#1c2430" if row == 0 else "#5d6878"
            face = bold if row == 0 else font
            place = (left, top + tall + pad * 0.7 + row * step)
            draw.text(place, _fitted(text, face, cell), fill=ink, font=face)
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()


def _caption(card: Card) -> list[str]:
    """Title, one line per dimension, then the free lines."""
    lines = [card.title]
    for dimension in dict.fromkeys([*card.scores, *card.rated]):
        found = f"{card.scores[dimension]:.1f}" if dimension in card.scores else "–"
        said = f" (rated {card.rated[dimension]:.1f})" if dimension in card.rated else ""
        lines.append(f"{dimension} {found}{said}")
    if card.status != "ok":
        lines.append(card.status.replace("_", " "))
    return [*lines, *card.lines]


def _colour(status: str) -> str:
    return STATUS_COLOURS.get(status, "#5d6878")


def _fitted(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", width: int) -> str:
    """The text on one line, its end cut off with an ellipsis where it is wider than the cell."""
    text = printable(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
