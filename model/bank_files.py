"""Files of a bank: one fixed-width row per user, in segments that never change, found through an index.

    bank.json            what all users share, in words and numbers; the fields of a row; the segments. Written last
    shared.safetensors   basis, prior and selection
    index.npy            one record per user, sorted by key: segment, row, place in the order of users
    rows-<hash>.bin      a segment: its rows, then who they are and their survey answers (JSON); named by its content

Segments and index are memory-mapped: a user costs one search and one row. A new version writes the rows that changed as
one segment and an index; the other segments become hard links (copies where the file system has none), so their bytes
are not written again. Symmetric matrices are kept as their lower triangles. Every row has a checksum, looked at
whenever it is read; sizes and the hashes of the small files are looked at on opening. Nothing in a folder is executable.

    .venv/bin/python -m pytest tests/model/test_bank_files.py
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.files import file_hash, link

FORMAT = 5
INDEX = np.dtype([("key", "S24"), ("segment", "<u4"), ("row", "<u4"), ("place", "<u4")])
BLOCK = 1024
"""Rows that are copied at a time."""


def key_of(user: str) -> bytes:
    """24 hex digits that find a user in an index."""
    return hashlib.blake2b(user.encode(), digest_size=12).hexdigest().encode()


@dataclass(frozen=True)
class Field:
    """One array of a row: numpy's name of the type, the shape per user, and whether the last two axes are symmetric."""

    name: str
    kind: str
    shape: tuple[int, ...]
    symmetric: bool

    @property
    def kept(self) -> tuple[int, ...]:
        """Shape as stored."""
        if not self.symmetric:
            return self.shape
        size = self.shape[-1]
        return (*self.shape[:-2], size * (size + 1) // 2)


@dataclass(frozen=True)
class Layout:
    """The fields of a row; before them come the place of its text, its checksum and its user's key."""

    fields: tuple[Field, ...]

    @classmethod
    def of(cls, arrays: dict[str, Tensor], symmetric: Sequence[str]) -> Layout:
        """As arrays (users, …) need it; those named in `symmetric` are kept as triangles."""
        return cls(
            tuple(
                Field(name, np.dtype(value.numpy().dtype).str, tuple(value.shape[1:]), name in symmetric)
                for name, value in arrays.items()
            )
        )

    @classmethod
    def from_json(cls, rows: list[list[Any]]) -> Layout:
        return cls(tuple(Field(name, kind, tuple(shape), symmetric) for name, kind, shape, symmetric in rows))

    def to_json(self) -> list[list[Any]]:
        return [[f.name, f.kind, list(f.shape), f.symmetric] for f in self.fields]

    @cached_property
    def dtype(self) -> np.dtype:
        """The checksum covers what comes after it, so a row may move to another segment as it is."""
        head: list[Any] = [("text", "<u8"), ("crc", "<u4"), ("length", "<u4"), ("key", "S24")]
        return np.dtype(head + [(f.name, f.kind, f.kept) for f in self.fields])

    def pack(self, arrays: dict[str, Tensor], keys: list[bytes], texts: list[bytes]) -> np.ndarray:
        """Rows (U,) of arrays (U, …), with checksums; `text` is set when they go into a segment."""
        rows = np.zeros(len(keys), self.dtype)
        rows["key"], rows["length"] = keys, [len(text) for text in texts]
        for f in self.fields:
            value = arrays[f.name].numpy()
            if tuple(value.shape[1:]) != f.shape:
                raise ValueError(f"{f.name} has shape {tuple(value.shape[1:])} per user, this bank keeps {f.shape}")
            if f.symmetric:
                one, two = np.tril_indices(f.shape[-1])
                value = value[..., one, two]
            rows[f.name] = value
        rows["crc"] = _checksums(rows, texts)
        return rows

    def unpack(self, rows: np.ndarray) -> dict[str, Tensor]:
        """The arrays (U, …) of rows (U,), whole matrices again."""
        arrays = {}
        for f in self.fields:
            value = torch.from_numpy(np.array(rows[f.name], order="C"))
            if f.symmetric:
                one, two = torch.tril_indices(f.shape[-1], f.shape[-1]).unbind()
                whole = value.new_zeros(len(rows), *f.shape)
                whole[..., one, two] = value
                whole[..., two, one] = value
                value = whole
            arrays[f.name] = value
        return arrays


def _checksums(rows: np.ndarray, texts: list[bytes]) -> list[int]:
    width, start = rows.dtype.itemsize, rows.dtype.fields["crc"][1] + 4  # type: ignore[index]
    data = memoryview(np.ascontiguousarray(rows)).cast("B") if len(rows) else memoryview(b"")
    return [zlib.crc32(text, zlib.crc32(data[i * width + start : (i + 1) * width])) for i, text in enumerate(texts)]


@dataclass
class Segment:
    """Rows and their texts; `path` is None until a save has written it."""

    rows: np.ndarray
    text: np.ndarray
    path: Path | None = None

    def read(self, at: np.ndarray) -> tuple[np.ndarray, list[bytes]]:
        """Copies of the rows at `at` and their texts. ValueError names file and row where a checksum differs."""
        rows = np.array(self.rows[at])
        texts = [self.text[a : a + n].tobytes() for a, n in zip(rows["text"].tolist(), rows["length"].tolist())]
        found = np.array(_checksums(rows, texts), "<u4")
        if (found != rows["crc"]).any():
            bad = int(np.asarray(at)[int((found != rows["crc"]).argmax())])
            raise ValueError(f"{self.path}: row {bad} is damaged (its checksum differs); fetch the bank anew")
        return rows, texts

    def write(self, folder: Path) -> Path:
        """Into `folder`, under the name that its content gives."""
        digest, fresh = hashlib.sha256(), folder / ".segment"
        with fresh.open("wb") as file:
            for start in range(0, len(self.rows), BLOCK):
                block = np.ascontiguousarray(self.rows[start : start + BLOCK]).tobytes()
                digest.update(block)
                file.write(block)
            digest.update(self.text.tobytes())
            file.write(self.text.tobytes())
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"rows-{digest.hexdigest()[:20]}.bin"
        return fresh.replace(path)


class Draft:
    """A segment in the making, in a file without a name, so that memory does not grow with it."""

    def __init__(self, layout: Layout, near: Path | None = None):
        """near: a folder whose file system takes the file, when it can be written to."""
        self.dtype, self.count, self.at, self.texts = layout.dtype, 0, 0, []
        try:
            self.file = tempfile.TemporaryFile(dir=near)  # noqa: SIM115
        except OSError:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115

    def add(self, rows: np.ndarray, texts: list[bytes]) -> np.ndarray:
        """Append rows (`Layout.pack`, or of another segment); their numbers in this one."""
        rows = rows.copy()
        lengths = rows["length"].astype(np.int64)
        rows["text"] = self.at + np.cumsum(lengths) - lengths
        self.file.write(rows.tobytes())
        self.texts += texts
        self.at += int(lengths.sum())
        self.count += len(rows)
        return np.arange(self.count - len(rows), self.count)

    def segment(self) -> Segment:
        self.file.flush()
        rows = np.memmap(self.file, self.dtype, "r", shape=self.count) if self.count else np.zeros(0, self.dtype)
        return Segment(rows, np.frombuffer(b"".join(self.texts), np.uint8))


def positions(index: np.ndarray, users: Sequence[str]) -> np.ndarray:
    """Where each user stands in the index (int64), -1 for unknown ones; reads log(users) records of it for each."""
    if not len(index) or not len(users):
        return np.full(len(users), -1, np.int64)
    keys, known = np.array([key_of(user) for user in users], "S24"), index["key"]
    low, high = np.zeros(len(keys), np.int64), np.full(len(keys), len(known) - 1, np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        after = (known[middle] < keys) & (low < high)
        low, high = np.where(after, middle + 1, low), np.where(after, high, middle)
    return np.where(known[low] == keys, low, -1)


def write_folder(
    folder: Path,
    head: dict[str, Any],
    layout: Layout,
    index: np.ndarray,
    segments: list[Segment],
    shared: dict[str, Tensor] | Path,
) -> None:
    """Write a bank whole or not at all; one that is there is replaced in one rename.

    head: what `bank.json` says beside what stands here. shared: tensors, or the file of a bank that holds them.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fresh.chmod(0o755)
        if isinstance(shared, Path):
            link(shared, fresh / "shared.safetensors")
        else:
            save_file({name: value.contiguous().clone() for name, value in shared.items()}, fresh / "shared.safetensors")
        np.save(fresh / "index.npy", np.ascontiguousarray(index))
        paths = [s.write(fresh) if s.path is None else link(s.path, fresh / s.path.name) for s in segments]
        about = head | {
            "format": FORMAT,
            "users": len(index),
            "row": layout.to_json(),
            "segments": [[path.name, len(s.rows), len(s.text)] for path, s in zip(paths, segments)],
            "sha256": {name: file_hash(fresh / name) for name in ("index.npy", "shared.safetensors")},
        }
        (fresh / "bank.json").write_text(json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False))
        for name in ("bank.json", *about["sha256"]):
            with (fresh / name).open("rb") as file:
                os.fsync(file.fileno())
        old = None
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent)) / "bank"
            folder.rename(old)
        fresh.rename(folder)
        if old is not None:
            shutil.rmtree(old.parent)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def read_folder(folder: Path) -> tuple[dict[str, Any], Layout, np.ndarray, list[Segment], dict[str, Tensor]]:
    """Head, layout, index, segments and shared tensors of a bank.

    Raises:
        ValueError: no bank, another format, or a file that is missing, cut short or not the one it should be.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    file = folder / "bank.json"
    if not file.is_file():
        raise ValueError(f"{folder} is not a bank: expected bank.json in it")
    try:
        about = json.loads(file.read_text())
        form = about["format"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file} is damaged: not the JSON of a bank") from None
    if form != FORMAT:
        raise ValueError(f"{folder} has bank format {form}, this code reads {FORMAT}: make it again (dvc repro finetune)")
    for name, digest in about["sha256"].items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing")
        if file_hash(folder / name) != digest:
            raise ValueError(f"{folder / name} is damaged: not the file that {file.name} names (its sha256 differs)")
    layout = Layout.from_json(about["row"])
    width, segments = layout.dtype.itemsize, []
    for name, count, text in about["segments"]:
        path = folder / name
        size, due = path.stat().st_size if path.is_file() else -1, count * width + text
        if size != due:
            what = "is missing" if size < 0 else f"is damaged: {size:,} bytes where {due:,} belong"
            raise ValueError(f"{path} {what}")
        rows = np.memmap(path, layout.dtype, "r", shape=count) if count else np.zeros(0, layout.dtype)
        words = np.memmap(path, np.uint8, "r", offset=count * width, shape=text) if text else np.zeros(0, np.uint8)
        segments.append(Segment(rows, words, path))
    index = np.load(folder / "index.npy", mmap_mode="r" if about["users"] else None)
    return about, layout, index, segments, load_file(folder / "shared.safetensors")


def crowded(live: Sequence[int], rows: Sequence[int], most: int = 32) -> list[int]:
    """Segments whose living rows are better moved into a new one: less than half alive, or too many segments.

    So a bank takes at most twice the room of its rows and one of `most` + 1 segments' files; a row is moved again only
    after as many of its neighbours have died, which keeps the work per changed row constant.
    """
    thin = [k for k, (n, all_) in enumerate(zip(live, rows)) if n and n < math.ceil(all_ / 2)]
    rest = sorted((k for k, n in enumerate(live) if n and k not in set(thin)), key=lambda k: live[k])
    return sorted(thin + (rest[: len(rest) // 2] if len(rest) > most else []))
