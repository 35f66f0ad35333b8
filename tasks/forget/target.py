"""Whom or what `physique forget` means, and by which words it is found.

Notable: an id of few characters or of digits only ("7") stands in any text; it is looked for only where people are named
(`FIELDS`) and a cell is nothing else. Other ids are also found inside longer texts, but not inside longer words: forgetting
`anna` leaves `joanna` alone, and `anna-2`, where the cohort has somebody of that name.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from model.bank_files import key_of
from tasks.intake.items import item_id
from tasks.intake.photos import plain
from tasks.intake.quarantine import BadInput
from tasks.tables import read_table, shard_paths

SHORT = 4
FIELDS = {"rater_id", "user_id", "person_id", "user", "expert", "rater", "model", "users", "experts", "models", "annotator"}
"""Columns and keys whose values are people: where a short id is looked for."""
PHOTO_FIELDS = {"photo", "item", "name", "other", "pic_name"}
"""The same of photos, for names as short as those of items may be."""
PIECE = 48
"""Bytes from the middle of a photo that no other file holds."""


@dataclass(frozen=True)
class Target:
    """kind: user, expert or photo. id: of the person, or the photo's. names: of the photo's files.

    md5: of its bytes, by which DVC names them. piece: some of its bytes, in hex. others: ids that hold this one.
    """

    kind: str
    id: str
    names: tuple[str, ...] = ()
    md5: str = ""
    piece: str = ""
    others: tuple[str, ...] = ()

    @property
    def is_photo(self) -> bool:
        return self.kind == "photo"

    @property
    def entries(self) -> list[tuple[str, str]]:
        """(kind, name) for the list of the forgotten."""
        written = {part for name in self.names for part in (name, name.rsplit("/", 1)[-1])}
        names = written | {end for name in written for end in (plain(name), plain(name).rsplit(".", 1)[0])}
        return [("photo" if self.is_photo else "person", self.id), *(("name", name) for name in sorted(names))]

    @property
    def short(self) -> bool:
        """Whether the id may stand in any text."""
        return not self.is_photo and (len(self.id) < SHORT or self.id.isdecimal())

    @cached_property
    def words(self) -> tuple[str, ...]:
        """All that names it in text."""
        from tasks.full_personal import FULL
        from tasks.registry import expert_model, registered_name

        if self.is_photo:
            names = [part for name in self.names for part in (name, name.rsplit("/", 1)[-1])]
            told = [name for name in names if len(name) >= SHORT and not name.isdecimal()]
            return tuple(dict.fromkeys(filter(None, [self.id, self.md5, *told])))
        own = expert_model(self.id), registered_name(FULL, self.id), key_of(self.id).decode()
        return tuple(dict.fromkeys([self.id, *own]))

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Registered models that are the person's own."""
        return () if self.is_photo else self.words[1:3]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        words = [unicodedata.normalize("NFC", word) for word in (self.words[1:] if self.short else self.words)]
        found = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
        longer = "|".join(re.escape(other) for other in sorted(self.others, key=len, reverse=True))
        bounded = rf"(?<![^\W_])({found})(?![^\W_])"
        return re.compile(f"(?:{longer})|{bounded}" if longer else bounded)

    def names_it(self, text: str) -> bool:
        """Whether a cell, key or value names it."""
        if text in (self.words[1:] if self.short else self.words):
            return True
        return any(match[1] for match in self._pattern.finditer(unicodedata.normalize("NFC", text)))

    def without_name(self, text: str) -> str:
        """A text with `forgotten` where it names it."""
        fresh = self._pattern.sub(lambda match: "forgotten" if match[1] else match[0], text)
        return "forgotten" if fresh == self.id else fresh

    def in_field(self, field: str, text: str) -> bool:
        """Whether the value `text` of a column or key names it; a short id only where people are named."""
        called = text in self.names and field in PHOTO_FIELDS if self.is_photo else self.short and field in FIELDS
        return self.names_it(text) or (called and (self.is_photo or text == self.id))

    @cached_property
    def raw(self) -> tuple[bytes, ...]:
        """Bytes that stand in a file that was not decoded: words as text and as JSON writes them, hashes, pixels."""
        found = [word.encode("utf-8", "surrogateescape") for word in (self.words[1:] if self.short else self.words)]
        for word in self.words if not all(word.isascii() for word in self.words) else ():
            forms = {word, *(unicodedata.normalize(form, word) for form in ("NFC", "NFD"))}
            found += [form.encode("utf-8", "surrogateescape") for form in forms]
            found += [json.dumps(form)[1:-1].encode() for form in forms]
        if self.is_photo:
            found += [bytes.fromhex(self.id), *([bytes.fromhex(self.piece)] if self.piece else [])]
        return tuple(dict.fromkeys(found))

    def in_bytes(self, data: bytes) -> bool:
        """Whether undecoded bytes hold it."""
        for word in self.raw:
            at = data.find(word)
            while at >= 0:
                around = data[max(0, at - 80) : at + len(word) + 80].decode("utf-8", "replace")
                if word not in self._texts or self.names_it(around):
                    return True
                at = data.find(word, at + 1)
        return False

    @cached_property
    def _texts(self) -> set[bytes]:
        """Those of `raw` that are words, of which a part of a longer word does not count."""
        return {word.encode("utf-8", "surrogateescape") for word in self.words}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, about: dict[str, Any]) -> Target:
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in about.items()})


def find_target(name: str, kind: str | None, data: Path = Path("data")) -> Target:
    """Whom `name` means: a rater of the cohort or of the review store, a photo by id, by name, or a file's path.

    kind: user, expert or photo, where the name alone would not say it.

    Raises:
        BadInput: nobody and nothing is called so and no kind is given, or a photo's name is of several.
    """
    roles = _roles(data)
    if kind in (None, "photo"):
        photo = _photo(name, data / "cohort" / "photos", sure=kind == "photo")
        if photo is not None and kind is None and name in roles:
            raise BadInput(f"forget: {name} is both; say which it is, --kind {roles[name]} or --kind photo")
        if photo is not None:
            return photo
    if kind is None and name not in roles:
        raise BadInput(
            f"forget: {name} is no rater, reviewer or photo that is known here; if traces of theirs may be left all the "
            "same, say what it is: --kind user, --kind expert or --kind photo"
        )
    others = tuple(sorted(other for other in roles if name in other and other != name))
    return Target(kind or roles[name], name, others=others)


def _roles(data: Path) -> dict[str, str]:
    """Role by id, of the cohort and of the review store."""
    from tasks.forget.reviews import people

    found = people()
    path = data / "cohort" / "raters.parquet"
    if path.is_file():
        table = read_table(path, ["rater_id", "role"])
        found |= dict(zip(table["rater_id"].to_pylist(), table["role"].to_pylist()))
    return found


def _photo(name: str, photos: Path, sure: bool) -> Target | None:
    """The photo that `name` means; None if there is none. sure: it is meant to be one."""
    raw = Path(name).read_bytes() if Path(name).is_file() else None
    wanted = hashlib.sha256(raw).hexdigest() if raw is not None else name
    fits: dict[str, tuple[list[str], bytes]] = {}
    for path in shard_paths(photos):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                head = file.read_row_group(group, ["photo_id", "name"]).to_pylist()
                for row, about in enumerate(head):
                    if wanted == about["photo_id"] or name in (about["name"], about["name"].rsplit("/", 1)[-1]):
                        blob = file.read_row_group(group, ["bytes"])["bytes"][row].as_py()
                        fits.setdefault(about["photo_id"], ([], blob))[0].append(about["name"])
    if len(fits) > 1:
        raise BadInput(f"forget: {name} is the name of {len(fits)} photos; give one's id: {', '.join(sorted(fits))}")
    if not fits and raw is not None and sure:
        fits[wanted] = [Path(name).name], raw
    for photo_id, (names, blob) in fits.items():
        middle = max(0, len(blob) // 2 - PIECE // 2)
        piece = blob[middle : middle + PIECE]
        piece = piece if len(set(piece)) > PIECE // 3 else b""  # a plain white one is no mark of this photo
        names += _aliases(photos.parent, set(names))
        return Target("photo", photo_id, tuple(dict.fromkeys(names)), hashlib.md5(blob).hexdigest(), piece.hex())
    if sure:
        photo_id = name if re.fullmatch("[0-9a-f]{64}", name) else item_id(name)
        return Target("photo", photo_id, () if photo_id == name else (name,))
    return None


def _aliases(cohort: Path, names: set[str]) -> list[str]:
    """Names of other files of the same bytes, which the quarantine of the cohort lists beside the first one's name."""
    path = cohort / "quarantine.parquet"
    rows = read_table(path).to_pylist() if path.is_file() else []
    same = [row for row in rows if row["reason"] == "same bytes as another photo" and row["value"] in names]
    return [row["file"].split("/", 1)[-1] for row in same]
