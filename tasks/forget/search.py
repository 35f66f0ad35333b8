"""The search behind the proof: whether a file holds somebody, whatever file it is; it knows nothing of who wrote it.

A file is looked at as bytes, and decoded where its bytes would not show what is in it: Parquet cell by cell, SQLite row by
row, what is packed (gzip, Zip and npz, zstandard, base64) unpacked, text in UTF-16. Rows of tables and entries of banks are
removed without it (`tasks.forget.scrub`), so what that overlooks is found.

    uv run pytest tests/tasks/test_forget_scrub.py
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import mmap
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.forget.target import Target

DEEPEST = 4
"""Files packed in files."""
_PICKLED = b"gA"
"""How a pickle in base64 begins, as Prefect keeps what ended a run; it is looked into, not loaded."""
_SQLITE, _PARQUET, _GZIP, _ZIP, _ZSTD = b"SQLite format 3\0", b"PAR1", b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd"


def in_folder(folder: Path, target: Target, skip: tuple[Path, ...] = ()) -> list[str]:
    """`file: what` of every trace below a folder; links are not followed, what they lead to has a place of its own.

    skip: absolute paths of what is not looked at.
    """
    found = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
        if any(path.absolute().is_relative_to(each) for each in skip):
            continue
        if target.names_it(path.relative_to(folder.parent).as_posix()):
            found.append(f"{path}: its name")
        if path.is_file() and not path.is_symlink():
            found += [f"{path}: {what}" for what in in_file(path, target)]
    return found


def in_file(path: Path, target: Target) -> list[str]:
    """What a file holds of it, in words; [] for nothing. A database's write-ahead log is a file of its own."""
    if path.stat().st_size == 0:
        return []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = list(_traces(data, target, 0))
        if data[: len(_SQLITE)] == _SQLITE:
            found += _in_sqlite(path, target)
    return list(dict.fromkeys(found))


def in_bytes(data: bytes, target: Target) -> list[str]:
    """The same for what is no file here: an object of a remote."""
    return list(dict.fromkeys(_traces(data, target, 0))) if data else []


def _traces(data: Any, target: Target, depth: int) -> Iterator[str]:
    if target.in_bytes(data):
        yield "bytes"
    if depth > DEEPEST:
        return
    head = bytes(data[:16])
    if head.startswith(_PARQUET):
        yield from _in_parquet(data, target)
    elif head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        if target.names_it(bytes(data).decode("utf-16", "replace")):
            yield "text"
    elif target.short and head.lstrip()[:1] in (b"{", b"["):
        yield from _in_json(data, target)
    for name, inner in _unpacked(data, head):
        if target.names_it(name):
            yield f"name of the packed file {name}"
        yield from (f"{name or 'unpacked'}: {what}" for what in _traces(inner, target, depth + 1))


def _unpacked(data: Any, head: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        if head.startswith(_GZIP):
            yield "", gzip.decompress(bytes(data))
        elif head.startswith(_ZSTD):
            yield "", pa.input_stream(pa.py_buffer(bytes(data)), compression="zstd").read()
        elif head.startswith(_PICKLED):
            yield "", base64.b64decode(bytes(data))
        elif head.startswith(_ZIP):
            with zipfile.ZipFile(io.BytesIO(bytes(data))) as packed:
                for name in packed.namelist():
                    yield name, packed.read(name)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError):
        return  # cut short or encrypted: its bytes were looked at


def _in_parquet(data: Any, target: Target) -> Iterator[str]:
    try:
        file = pq.ParquetFile(pa.BufferReader(bytes(data)))
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            for name in table.column_names:
                if _numbers(table.schema.field(name).type):
                    continue
                for value in table[name].to_pylist():
                    if _names(value, name, target):
                        yield f"column {name}"
                        break
    except pa.ArrowException:
        return


def _numbers(kind: pa.DataType) -> bool:
    """Whether a type holds nothing but numbers: lists of floats are long, and name nobody."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _numbers(kind.value_type)
    types = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_temporal)
    return any(is_one(kind) for is_one in types)


def _names(value: Any, field: str, target: Target) -> bool:
    if isinstance(value, bytes):
        return target.in_bytes(value)
    if isinstance(value, str):
        return target.in_field(field, value)
    if isinstance(value, dict):
        return any(key == target.id or _names(item, key, target) for key, item in value.items())
    if isinstance(value, list | tuple):
        return any(_names(item, field, target) for item in value)
    return False


def _in_json(data: Any, target: Target) -> Iterator[str]:
    try:
        if _names(json.loads(bytes(data)), "", target):
            yield "JSON"
    except (ValueError, RecursionError):
        return


def _in_sqlite(path: Path, target: Target) -> Iterator[str]:
    base = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
    base.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        for (table,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            rows = base.execute(f'SELECT * FROM "{table}"')
            names = [column[0] for column in rows.description]
            hits = sum(any(_names(value, name, target) for name, value in zip(names, row)) for row in rows)
            if hits:
                yield f"table {table}: {hits} rows"
    except sqlite3.DatabaseError as error:
        yield f"cannot be read ({error})"
    finally:
        base.close()
