"""The photo files of a source: found, hashed, measured and packed into shards, one photo in memory at a time.

Notable: a photo is known by the sha256 of its bytes, so a second file with the same bytes is an alias of the
first (in name order). Only headers are read here; a file that no decoder understands stays in the table
without a size and the `mesh` stage marks it `unreadable`. Every file is either a photo, an alias, or in
quarantine.
"""

import errno
import hashlib
import stat
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from model.images import UnreadableImage, opened, orientation
from tasks.intake.quarantine import Quarantine
from tasks.schemas import PHOTOS, check
from tasks.tables import write_table

SHARD_ROWS = 512
SHARD_BYTES = 128 * 2**20
LARGEST_FILE = 200 * 2**20  # bytes
_ROW_GROUP = 64

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".mpo", ".avif",
    ".heic", ".heif", ".jp2", ".ppm", ".pgm",
)  # fmt: skip


def find_photos(root: Path, quarantine: Quarantine, label: str, also_there: tuple[str, ...] = ()) -> dict[str, Path]:
    """Files under `root` (sub-folders too) by their path inside it, sorted; links to files are followed.

    label: what the quarantine table calls the folder. also_there: suffixes that belong to the source but are
    no photos (`.csv`); they are passed over in silence.
    """
    found: dict[str, Path] = {}
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = list(folder.iterdir())
        except OSError as error:  # no permission, or gone since
            place = "" if folder == root else f"/{folder.relative_to(root).as_posix()}"
            quarantine.add(label + place, None, "photo", f"folder cannot be read ({error.strerror})")
            continue
        for path in entries:
            name = path.relative_to(root).as_posix()
            shown = f"{label}/{name}"
            suffix = path.suffix.lower()
            reason = _why_not(path, name)
            if reason is not None:
                quarantine.add(shown, None, "photo", reason)
            elif path.is_dir():
                folders.append(path)
            elif suffix not in also_there:
                found[name] = path
    return dict(sorted(found.items()))


def _why_not(path: Path, name: str) -> str | None:
    """Why a folder entry cannot be a photo or hold any; None if it can."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "file name is not UTF-8"
    if path.name.startswith(".") or path.name.lower() in ("thumbs.db", "desktop.ini"):
        return "hidden file"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        nowhere = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # it is listed, so it is a link
        return "link that leads nowhere" if nowhere else f"cannot be read ({error.strerror})"
    if stat.S_ISDIR(mode):
        if path.suffix.lower() in SUFFIXES:
            return "a folder, not a photo"
        return "link to a folder, not followed" if path.is_symlink() else None
    return None if stat.S_ISREG(mode) else "not a regular file"


def size_of(raw: bytes) -> tuple[int, int] | None:
    """(width, height) px as seen (EXIF orientation applied), from the header only; None if there is none or if
    Pillow refuses it (over 179 megapixels)."""
    from PIL.TiffImagePlugin import TiffImageFile

    try:
        with opened(raw) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):  # some versions of Pillow have its sides exchanged already
                width, height = image.tag_v2[256], image.tag_v2[257]
            elif image.format == "PNG" and "exif" not in image.info and (at := raw.rfind(b"eXIf")) > 0:
                # EXIF may stand behind the pixels, where it is only seen once they are decoded
                image.info["exif"] = raw[at + 4 : at + 4 + int.from_bytes(raw[at - 4 : at])]
            turned = orientation(image) in (5, 6, 7, 8)
    except UnreadableImage:
        return None
    if width < 1 or height < 1:
        return None
    return (height, width) if turned else (width, height)


@dataclass
class PhotoIndex:
    """Which file is which photo."""

    ids: dict[str, str] = field(default_factory=dict)
    """photo_id by file name, aliases too."""
    photos: int = 0
    duplicates: int = 0
    unreadable: int = 0
    set_aside: int = 0
    shards: int = 0

    def resolver(self, suffixless: bool = True) -> Callable[[str], str | None]:
        """A function from a photo's name as people write it to its photo_id, or None.

        Exact names first; then without `photos/`, with / for \\, in either Unicode form; then without regard
        to case and blanks around it, and (`suffixless`) without suffix, where this fits one photo only.
        """
        loose: dict[str, set[str]] = {}
        for name, photo_id in self.ids.items():
            for key in {plain(name), plain(name).rsplit(".", 1)[0] if suffixless else plain(name)}:
                loose.setdefault(key, set()).add(photo_id)

        def resolve(name: str) -> str | None:
            tidy = name.replace("\\", "/").removeprefix("./").removeprefix("photos/")
            for exact in (name, tidy):
                if exact in self.ids:
                    return self.ids[exact]
            fits = loose.get(plain(tidy), set())
            return next(iter(fits)) if len(fits) == 1 else None

        return resolve


def plain(name: str) -> str:
    """A photo's name without regard to case, blanks around it and the form of its letters."""
    return unicodedata.normalize("NFC", name).casefold().strip()  # cells of a table come without outer blanks


def write_photos(
    files: dict[str, Path],
    folder: Path,
    source: str,
    label: str,
    quarantine: Quarantine,
    on_progress: Callable[[int, int], None] | None = None,
) -> PhotoIndex:
    """Pack `files` into `folder`/NNNNN.parquet (512 rows or 128 MiB at most), in order of their names."""
    index = PhotoIndex()
    rows: list[dict] = []
    held = 0
    first: dict[str, str] = {}
    for done, (name, raw, photo_id) in enumerate(_read(files, label, quarantine, index), 1):
        if raw is not None and photo_id in first:
            quarantine.add(f"{label}/{name}", None, "photo", "same bytes as another photo", first[photo_id])
            index.ids[name] = photo_id
            index.duplicates += 1
        elif raw is not None:
            size = size_of(raw)
            if size is None and Path(name).suffix.lower() not in SUFFIXES:
                quarantine.add(f"{label}/{name}", None, "photo", "not a photo")
                index.set_aside += 1
            else:
                if rows and (len(rows) == SHARD_ROWS or held + len(raw) > SHARD_BYTES):
                    write_shard(rows, folder, index)
                    rows, held = [], 0
                width, height = size or (None, None)
                rows.append(dict(zip(PHOTOS.names, (photo_id, name, width, height, source, raw))))
                held += len(raw)
                first[photo_id] = name
                index.ids[name] = photo_id
                index.photos += 1
                index.unreadable += size is None
        if on_progress is not None:
            on_progress(done, len(files))
    if rows:
        write_shard(rows, folder, index)
    return index


def _read(
    files: dict[str, Path], label: str, quarantine: Quarantine, index: PhotoIndex
) -> Iterator[tuple[str, bytes | None, str]]:
    """(name, bytes, sha256 in hex) of each file; bytes is None for one that was set aside."""
    for name, path in files.items():
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise OSError(0, f"larger than {LARGEST_FILE // 2**20} MiB")
            raw = path.read_bytes()
        except OSError as error:
            quarantine.add(f"{label}/{name}", None, "photo", f"cannot be read ({error.strerror})")
            index.set_aside += 1
            yield name, None, ""
            continue
        yield name, raw, hashlib.sha256(raw).hexdigest()


def write_shard(rows: list[dict], folder: Path, index: PhotoIndex) -> None:
    """Write rows of the `photos` table as the next shard of `folder`."""
    table = check(pa.Table.from_pylist(rows, schema=PHOTOS), "photos")
    write_table(table, folder / f"{index.shards:05d}.parquet", row_group_size=_ROW_GROUP)
    index.shards += 1
