"""Who was forgotten, as salted hashes in `forgotten.txt`: what reads rows leaves theirs out, with a count and no name.

The file lies beside dvc.yaml, belongs into git, and is a dep of the stages that read rows: so nobody comes back with the
next run, in this checkout or another one. Each line has a salt of its own, so lists of two checkouts merge as text.

Notable: to those who know or guess an id the file tells that it was forgotten. Photos are known by the hash of their bytes:
the same picture saved anew is another one.

    uv run pytest tests/tasks/test_forgotten.py
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks.tables import write_text

FILE = Path("forgotten.txt")
KINDS = ("person", "photo", "name")
"""What a line is about: a user or an expert, a photo by its id, what a forgotten photo was called."""
_LINE = re.compile(r"(person|photo|name) ([0-9a-f]{16}) ([0-9a-f]{64})")


@dataclass(frozen=True)
class Forgotten:
    """lines: (kind, salt, hash) of everybody and everything on the list."""

    lines: tuple[tuple[str, str, str], ...] = ()

    @cached_property
    def _by_kind(self) -> dict[str, list[tuple[str, str]]]:
        return {kind: [(salt, found) for k, salt, found in self.lines if k == kind] for kind in KINDS}

    def line_of(self, kind: str, name: object) -> tuple[str, str, str] | None:
        """The line about `name`; None if there is none."""
        text = str(name)
        for salt, found in self._by_kind[kind]:
            if _digest(salt, kind, text) == found:
                return kind, salt, found
        return None

    def has(self, kind: str, name: object) -> bool:
        """Whether `name` was forgotten."""
        return name is not None and self.line_of(kind, name) is not None

    def among(self, kind: str, names: Iterable[object]) -> set[str]:
        """Those of `names` that were forgotten; each is looked at once."""
        if not self._by_kind[kind]:
            return set()
        return {str(name) for name in set(names) if self.has(kind, name)}

    def without(self, table: pa.Table, **columns: str) -> pa.Table:
        """A table without rows that name somebody forgotten. columns: kind by column, of columns that it may have."""
        for column, kind in columns.items():
            if column in table.column_names and self._by_kind[kind] and len(table):
                gone = self.among(kind, pc.unique(table[column]).to_pylist())
                if gone:
                    known = pa.array(sorted(gone), table.schema.field(column).type)
                    table = table.filter(pc.invert(pc.is_in(table[column], value_set=known)))
        return table


def read_forgotten(path: Path = FILE) -> Forgotten:
    """The list; empty without a file.

    Raises:
        ValueError: a line that is no entry; one line that names it. Dropping it silently would bring somebody back.
    """
    if not path.is_file():
        return Forgotten()
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"{path}, line {number}: no entry; right is: kind salt hash, as `physique forget` writes it")
        lines.append((found[1], found[2], found[3]))
    return Forgotten(tuple(dict.fromkeys(lines)))


def remember(entries: Iterable[tuple[str, str]], path: Path = FILE) -> list[str]:
    """Put (kind, name) on the list, those that are not there yet; the hashes of all of them."""
    there, text = read_forgotten(path), path.read_text(encoding="utf-8") if path.is_file() else ""
    hashes, fresh = [], []
    for kind, name in dict.fromkeys(entries):
        line = there.line_of(kind, name)
        if line is None:
            salt = secrets.token_hex(8)
            line = kind, salt, _digest(salt, kind, name)
            fresh.append(" ".join(line) + "\n")
        hashes.append(line[2])
    if fresh:
        write_text(text + ("\n" if text and not text.endswith("\n") else "") + "".join(fresh), path)
        _synced(path)
    return hashes


def _digest(salt: str, kind: str, name: str) -> str:
    return hashlib.sha256(f"{salt} {kind} {name}".encode("utf-8", "surrogateescape")).hexdigest()


def _synced(path: Path) -> None:
    """The name is on disk too: what is removed after this must not outlive a power cut that takes the list."""
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
