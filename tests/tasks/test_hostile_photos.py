"""The worst folder of photos that can be thought of: each file has its outcome, and none stops the run.

The picture in all of them is 64×48 px with a corner each of red, green, blue and white, so that no turn, flip or
exchange of channels goes unseen.
"""

import csv
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pyarrow as pa
import pytest
from cohort_cases import built, labels, source
from PIL import Image, ImageFont
from report_cases import simulated_results

from model.images import UnreadableImage, decode
from tasks.cohort import as_lines
from tasks.intake.photos import size_of
from tasks.intake.quarantine import Quarantine
from tasks.predict import _table
from tasks.printable import printable
from tasks.report.contact import Card, _fitted
from tasks.report.page import render
from tasks.report.results import clean
from tasks.tables import read_shards, read_table

SIZE = (64, 48)
RED, GREEN, BLUE, WHITE = (220, 20, 20), (20, 200, 20), (20, 20, 220), (235, 235, 235)
COLOURS = (RED, GREEN, BLUE, WHITE)  # upper left, upper right, lower left, lower right
GREYS = tuple(tuple([round(np.dot(colour, (0.299, 0.587, 0.114)))] * 3) for colour in COLOURS)
UNDO = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
"""EXIF orientation → Pillow's transpose that leaves a picture lying so."""


def picture(number: int = 0) -> Image.Image:
    """The picture; `number`, in its middle, makes its bytes its own."""
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    pixels[:24, :32], pixels[:24, 32:], pixels[24:, :32], pixels[24:, 32:] = COLOURS
    pixels[22:26, 30:34] = number
    return Image.fromarray(pixels)


def lying(turn: int) -> Image.Image:
    return picture().transpose(Image.Transpose(UNDO[turn])) if turn in UNDO else picture()


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(turn: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = turn
    return found


def sixteen_bit(suffix: str, channels: int) -> bytes:
    """Grey (1), RGB (3) or RGBA (4) of 16 bits a sample, opaque; Pillow reads these but does not write them."""
    grey = np.asarray(picture().convert("L"), np.uint16) * 257
    colour = np.asarray(picture(), np.uint16)[..., ::-1] * 257  # OpenCV's BGR
    opaque = np.full((*colour.shape[:2], 1), 65535, np.uint16)
    pixels = {1: grey, 3: colour, 4: np.concatenate([colour, opaque], axis=2)}[channels]
    return cv2.imencode(suffix, pixels)[1].tobytes()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def huge_png(width: int = 20_000, height: int = 10_000) -> bytes:
    """A valid grey PNG of 200 megapixels in 0.2 MB."""
    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def exif_behind_the_pixels() -> bytes:
    plain = encoded(lying(6))
    return plain[:-12] + chunk(b"eXIf", exif(6).tobytes()[6:]) + plain[-12:]


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
BROKEN_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01\x03\0\x01\0\0\0\x06\0"  # nine entries promised, not one whole
BLACK = Image.new("RGB", SIZE)
FLOAT = np.asarray(picture().convert("L"), np.float32) / 255
FLOAT[23:25, 31:33] = [[np.nan, np.inf], [-np.inf, 0.5]]
PALETTE = picture().quantize(8, dither=Image.Dither.NONE)
CLEAR = PALETTE.getpixel((2, 2))  # the red corner is seen through
JPEG = encoded(picture(), "JPEG", quality=95)

COLOUR = {
    **{f"turned/{turn}.jpg": encoded(lying(turn), "JPEG", quality=95, exif=exif(turn)) for turn in range(1, 9)},
    **{f"turned/{turn}.png": encoded(lying(turn), exif=exif(turn)) for turn in (3, 6)},
    **{f"turned/{turn}.webp": encoded(lying(turn), "WEBP", quality=95, exif=exif(turn)) for turn in (5, 8)},
    **{f"turned/{turn}.tif": encoded(lying(turn), "TIFF", tiffinfo={0x0112: turn}) for turn in range(1, 9)},
    "turned/6_lzw.tif": encoded(lying(6), "TIFF", tiffinfo={0x0112: 6}, compression="tiff_lzw"),
    "turned/by_xmp.jpg": encoded(lying(6), "JPEG", quality=95, xmp=XMP),
    "turned/exif_behind.png": exif_behind_the_pixels(),
    "turned/exif_nonsense.jpg": encoded(picture(1), "JPEG", quality=95, exif=exif(99)),
    "turned/exif_broken.jpg": encoded(picture(2), "JPEG", quality=95, exif=BROKEN_EXIF),
    "cmyk.jpg": encoded(picture().convert("CMYK"), "JPEG", quality=95),
    "rgba.png": encoded(picture().convert("RGBA")),
    "16bit_rgb.png": sixteen_bit(".png", 3),
    "16bit_rgba.png": sixteen_bit(".png", 4),
    "16bit_rgb.tif": sixteen_bit(".tif", 3),
    "progressive.jpg": encoded(picture(), "JPEG", quality=95, progressive=True),
    "trailing.jpg": JPEG + b"GARBAGE\0\xff\xd9" * 500,
    "really_a_png.jpg": encoded(picture(3)),
    "no_suffix": encoded(picture(4)),
    "animated.gif": encoded(picture(), "GIF", save_all=True, append_images=[BLACK]),
    "animated.webp": encoded(picture(), "WEBP", lossless=True, save_all=True, append_images=[BLACK]),
    "animated.png": encoded(picture(), save_all=True, append_images=[BLACK]),
    "two_pages.tif": encoded(picture(5), "TIFF", save_all=True, append_images=[BLACK]),
    "bitmap.bmp": encoded(picture(), "BMP"),
    # names
    "new\nline.png": encoded(picture(10)),
    "\n.png\n": encoded(picture(11)),
    "tab\there.png": encoded(picture(12)),
    "return\r.png": encoded(picture(13)),
    'it\'s "quoted", with `ticks` and $(x).png': encoded(picture(14)),
    "-rf.png": encoded(picture(15)),
    " blanks around .png ": encoded(picture(16)),
    "emoji \U0001f3cb\U0001f3fd\u200d\u2640\ufe0f.png": encoded(picture(17)),
    "\u00e9te.png": encoded(picture(18)),  # NFC
    "e\u0301te.png": encoded(picture(19)),  # NFD: the same to the eye, another file
    "\u202egnp.esrever.png": encoded(picture(20)),
    "\x1b[31mred\x07.png": encoded(picture(21)),
    "%s {0} \\n <b>&amp;.png": encoded(picture(22)),
    "n" * 246 + ".png": encoded(picture(23)),  # 250 bytes
}
GREY = {
    "grey.jpg": encoded(picture().convert("L"), "JPEG", quality=95),
    "grey_alpha.png": encoded(picture().convert("LA")),
    "16bit_grey.png": sixteen_bit(".png", 1),
    "16bit_grey.tif": sixteen_bit(".tif", 1),
    "float.tif": encoded(Image.fromarray(FLOAT), "TIFF"),
}
SEEN_THROUGH = {
    "palette_clear.png": encoded(PALETTE, transparency=CLEAR),
    "palette_clear.gif": encoded(PALETTE, "GIF", transparency=CLEAR),
}
UNREADABLE = {  # bytes, size px that the header tells, how the reason begins
    "empty.jpg": (b"", None, "empty file (0 bytes)"),
    "huge.png": (huge_png(), None, "too large: more than 120 megapixels"),
    "large.png": (encoded(Image.new("1", (12_000, 10_100))), (12_000, 10_100), "too large: 12000×10100 px"),
    "cut.jpg": (JPEG[:-60], SIZE, "truncated picture"),
    "cut.png": (encoded(picture())[:-60], SIZE, "truncated picture"),
    "cut_in_the_head.jpg": (JPEG[:30], None, "truncated picture"),
    "letter.jpg": (b"Dear diary,\n" * 40, None, "not an image"),
    "poster.jpg": (encoded(picture(), "EPS"), None, "not an image"),  # opening one would start Ghostscript
    "zeros.png": (bytes(4096), None, "not an image"),
    "dot.png": (encoded(Image.new("RGB", (1, 1))), (1, 1), "too small: 1×1 px"),
    "strip.png": (encoded(Image.new("RGB", (4000, 200))), (4000, 200), "too long: 4000×200 px"),
}
ASIDE = {  # bytes, reason, value
    "notes\nof mine.txt": (b"not a photo", "not a photo", None),
    "empty": (b"x", "not a photo", None),
    ".hidden.png": (encoded(picture(30)), "hidden file", None),
    "zz copy\n.png": (COLOUR["new\nline.png"], "same bytes as another photo", "new\nline.png"),
    "zz empty too.jpg": (b"", "same bytes as another photo", "empty.jpg"),
}
NOT_THERE = ["pipe/x.jpg", "folder/x.jpg", "loop.jpg", "caf\u00e9.png", ".hidden.png", "no\nsuch.png"]
SPECIAL = {
    "caf\\xe9\n.png": "file name is not UTF-8",
    "dangling.jpg": "link that leads nowhere",
    "folder out": "link to a folder, not followed",
    "folder/x.jpg": "a folder, not a photo",
    "loop.jpg": "link that leads nowhere",
    "loop_a.jpg": "link that leads nowhere",
    "loop_b.jpg": "link that leads nowhere",
    "pipe/x.jpg": "not a regular file",
    "turned/loop": "link to a folder, not followed",
}
"""What is no file to be read, by what `quarantine` calls it; `leads out.png` is one."""


def rows_of(names: list[str]) -> str:
    """ratings.csv: an expert's and a user's rating of the first photo, the user's of all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["rater_id", "photo", "health"])
    writer.writerow(["e", names[0], 7])
    writer.writerows(["u", name, 5] for name in names)
    return text.getvalue()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """(summary of the cohort, its folder, how many entries the photos folder was given)."""
    tmp_path = tmp_path_factory.mktemp("hostile")
    files = {**COLOUR, **GREY, **SEEN_THROUGH} | {name: bad[0] for name, bad in {**UNREADABLE, **ASIDE}.items()}
    asked = [*COLOUR, *GREY, "empty.jpg", "zz empty too.jpg", *NOT_THERE]
    root = source(tmp_path / "in", rows_of(asked), photos=0, raters_csv="rater_id,role\ne,expert\nu,user\n")
    photos = root / "photos"
    for name, data in files.items():
        path = photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "linked.png").write_bytes(encoded(picture(31)))
    (photos / "leads out.png").symlink_to(outside / "linked.png")
    (photos / "folder out").symlink_to(outside, target_is_directory=True)
    (photos / "dangling.jpg").symlink_to(photos / "nowhere.jpg")
    (photos / "loop.jpg").symlink_to("loop.jpg")
    (photos / "loop_a.jpg").symlink_to("loop_b.jpg")
    (photos / "loop_b.jpg").symlink_to("loop_a.jpg")
    (photos / "turned" / "loop").symlink_to(photos, target_is_directory=True)
    (photos / "pipe").mkdir()
    os.mkfifo(photos / "pipe" / "x.jpg")
    (photos / "folder" / "x.jpg").mkdir(parents=True)
    (photos / "folder" / "x.jpg" / "inside.png").write_bytes(encoded(picture(32)))
    Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9\n.png")).write_bytes(encoded(picture(33)))
    summary, out = built(root)
    return summary, out, len(files) + len(SPECIAL) + 1


def shards(out: Path) -> dict[str, dict]:
    return {row["name"]: row for row in read_shards(out / "photos").to_pylist()}


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    width, height = image.size
    return [image.getpixel((x, y)) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]


@pytest.mark.timeout(60)
def test_the_cohort_holds_every_file_that_may_be_a_photo(cohort):
    _, out, _ = cohort
    assert sorted(shards(out)) == sorted([*COLOUR, *GREY, *SEEN_THROUGH, *UNREADABLE, "leads out.png"])


@pytest.mark.parametrize("name", [*COLOUR, *GREY, *SEEN_THROUGH, "leads out.png"], ids=lambda name: ascii(name[:40]))
def test_a_picture_comes_out_upright_and_in_its_colours(cohort, name):
    row = shards(cohort[1])[name]
    assert (row["width"], row["height"]) == SIZE
    image = decode(row["bytes"])
    assert (image.mode, image.size) == ("RGB", SIZE)
    wanted = GREYS if name in GREY else ((255, 255, 255), *COLOURS[1:]) if name in SEEN_THROUGH else COLOURS
    np.testing.assert_allclose(corners(image), wanted, atol=6)


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_picture_is_unreadable_in_one_line(cohort, name):
    _, size, words = UNREADABLE[name]
    row = shards(cohort[1])[name]
    assert (row["width"], row["height"]) == (size or (None, None))
    with pytest.raises(UnreadableImage) as caught:
        decode(row["bytes"])
    assert str(caught.value).startswith(words)
    assert str(caught.value).isprintable()


def test_what_is_set_aside_is_named_with_its_reason(cohort):
    _, out, _ = cohort
    found = {
        (row["file"], row["reason"], row["value"])
        for row in read_table(out / "quarantine.parquet").to_pylist()
        if row["row"] is None and row["field"] == "photo"
    }
    wanted = {(f"photos/{name}", reason, None) for name, reason in SPECIAL.items()}
    wanted |= {(f"photos/{name}", reason, first) for name, (_, reason, first) in ASIDE.items()}
    assert found == wanted


def test_nothing_is_lost(cohort):
    summary, out, given = cohort
    counts = summary["counts"]
    assert counts["files"] == given
    assert counts["files"] == counts["photos"] + counts["duplicates"] + counts["files_set_aside"]
    assert counts["photos"] == len(shards(out))
    assert counts["photos_without_size"] == sum(size is None for _, size, _ in UNREADABLE.values())


def test_ratings_find_their_photos_by_any_name(cohort):
    summary, out, _ = cohort
    user = [name for name, rater, *_ in labels(out) if rater == "u"]
    assert sorted(user) == sorted([*COLOUR, *GREY, "empty.jpg"])
    unknown = [
        row["value"] for row in read_table(out / "quarantine.parquet").to_pylist() if row["reason"] == "unknown photo"
    ]
    assert unknown == NOT_THERE
    assert summary["counts"]["ratings_set_aside"] == len(NOT_THERE) + 1  # the copy of a photo rated already


def test_lines_about_odd_names_stay_lines(cohort):
    _, out, _ = cohort
    lines = as_lines(read_table(out / "quarantine.parquet"), 1000)
    assert all(len(line.splitlines()) == 1 and printable(line) == line for line in lines)
    assert r"photos/notes\nof mine.txt, photo: not a photo" in lines
    assert r"photos/zz copy\n.png, photo: same bytes as another photo ('new\nline.png')" in lines
    assert r"photos/caf\xe9\n.png, photo: file name is not UTF-8" in lines


def test_the_report_shows_odd_names_on_one_line(cohort):
    _, out, _ = cohort
    rows = read_table(out / "quarantine.parquet").to_pylist()
    found = simulated_results() | {"quarantine": [row for row in rows if row["reason"] == "not a photo"]}
    page = render(clean(found), [Card(None, "new\nline\x1b[31m.png")])
    assert r"notes\nof mine.txt" in page and r"new\nline\x1b[31m.png" in page
    assert "notes\nof mine.txt" not in page and "new\nline" not in page and "\x1b" not in page
    assert _fitted("a\nb\tc", ImageFont.load_default(12), 500) == r"a\nb\tc"


def test_scores_of_a_photo_with_an_odd_name_are_printed(capsys):
    answer = SimpleNamespace(scores=[1.0, 2.0, 3.0], sd=[0.1] * 3, status="ok", row=None)
    _table([(Path("[/red] new\nline\udce9.jpg"), answer)], "[/b]user", SimpleNamespace(rated=[True] * 3))
    said = capsys.readouterr().out
    assert r"[/red] new\nline\udce9.jpg" in said and "scores for [/b]user" in said


def test_the_same_folder_gives_the_same_bytes(cohort):
    _, out, _ = cohort
    before = {path.name: path.read_bytes() for path in out.rglob("*.parquet")}
    _, again = built(out.parent / "in")
    assert {path.name: path.read_bytes() for path in again.rglob("*.parquet")} == before


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_a_200_megapixel_picture_is_refused_from_its_header(tmp_path):
    (tmp_path / "huge.png").write_bytes(UNREADABLE["huge.png"][0])
    (tmp_path / "small.png").write_bytes(encoded(picture()))
    code = (
        "import sys; from pathlib import Path; from model.images import UnreadableImage, decode\n"
        "from tasks.intake.photos import size_of\n"
        "def peak(): return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "small, huge = (Path(path).read_bytes() for path in sys.argv[1:])\n"
        "size_of(small); decode(small); before = peak(); size_of(huge)\n"
        "try: decode(huge)\n"
        "except UnreadableImage: print(peak() - before)\n"
    )
    paths = [str(tmp_path / name) for name in ("small.png", "huge.png")]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8 * 1024  # KiB; the pixels are 200 MB


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_set_aside(tmp_path):
    root = source(tmp_path / "in", "rater_id,photo,health\nu,1.png,5\n", photos=1)
    photos = root / "photos"
    for name in ("locked.jpg", "shut/inside.png", "listed/inside.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(encoded(picture(1)))
    modes = {"locked.jpg": 0, "shut": 0, "listed": 0o444}
    for name, mode in modes.items():
        (photos / name).chmod(mode)
    try:
        summary, out = built(root, experts=1)
    finally:
        for name in modes:
            (photos / name).chmod(0o755)
    assert as_lines(read_table(out / "quarantine.parquet")) == [
        "photos/listed/inside.png, photo: cannot be read (Permission denied)",
        "photos/locked.jpg, photo: cannot be read (Permission denied)",
        "photos/shut, photo: folder cannot be read (Permission denied)",
    ]
    counts = summary["counts"]
    assert (counts["files"], counts["photos"], counts["files_set_aside"]) == (4, 1, 3)


@pytest.mark.parametrize("seed", range(3))
def test_spoilt_bytes_are_a_picture_or_one_clear_line(seed):
    draw = np.random.default_rng(seed)
    for name, data in {**COLOUR, **GREY, **SEEN_THROUGH}.items():
        spoilt = bytearray(data[: draw.integers(1, len(data))] if draw.random() < 0.3 else data)
        for at in draw.integers(0, min(len(spoilt), 400), 4):
            spoilt[at] = draw.integers(256)
        size = size_of(bytes(spoilt))
        try:
            image = decode(bytes(spoilt), 10_000_000)
        except UnreadableImage as error:
            assert str(error).isprintable(), name
        else:
            assert image.mode == "RGB" and image.size == size, name


def test_quarantine_keeps_what_parquet_cannot_hold():
    aside = Quarantine()
    aside.add("photos/\udce9.png", None, "photo", "file name is not UTF-8", "\ud800")
    assert isinstance(aside.table(), pa.Table)
    assert as_lines(aside.table()) == [r"photos/\xe9.png, photo: file name is not UTF-8 ('\\ud800')"]
