"""Parquet shards and small JSON files, written whole or not at all.

Notable: a file appears under its name only when it is complete and on disk (temp file in the same folder,
then `os.replace`), and the same table gives the same bytes. Folders of a stage are swapped in whole
(`replaced_folder`).
Command: `python -c "from tasks.tables import read_shards; print(read_shards('data/mesh', ['status']))"`
"""

import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

_STAGES = {"photos": "cohort", "mesh": "mesh", "embeddings": "embed"}
"""Which stage of dvc.yaml writes a folder of shards, by the folder's name."""


def write_table(table: pa.Table, path: str | Path, row_group_size: int | None = None) -> Path:
    """Write `table` as Parquet (zstd) in one step; deterministic bytes.

    row_group_size: rows that a reader may take at once; None = all in one group up to a million.
    """
    repeated = [field.name for field in table.schema if _repeats(field.type)]

    def write(file: BinaryIO) -> None:
        pq.write_table(table, file, row_group_size=row_group_size, compression="zstd", use_dictionary=repeated)

    return _in_one_step(Path(path), write)


def _repeats(kind: pa.DataType) -> bool:
    """Whether a dictionary pays: strings and such, not pictures or lists of floats."""
    return not (pa.types.is_binary(kind) or pa.types.is_floating(kind) or pa.types.is_nested(kind))


def read_table(path: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """One Parquet file. Raises KeyError for a column that it does not have (Parquet itself keeps silent)."""
    with pq.ParquetFile(path) as file:
        lacking = [column for column in columns or () if column not in file.schema_arrow.names]
        if lacking:
            raise KeyError(f"{path} has no column {lacking[0]!r}; it has {', '.join(file.schema_arrow.names)}")
        return file.read(columns=None if columns is None else list(columns))


def read_shards(folder: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """All `*.parquet` of a folder in order of their names, as one table (columns: only these)."""
    paths = shard_paths(folder)
    if not paths:
        stage = _STAGES.get(Path(folder).name)
        run = f"`uv run dvc repro {stage}`" if stage else "the stage that writes it (`uv run dvc repro`)"
        raise FileNotFoundError(f"{folder} holds no *.parquet shard; run {run}")
    return pa.concat_tables([read_table(path, columns) for path in paths])


def shard_paths(folder: str | Path) -> list[Path]:
    """The finished shards of a folder, sorted by name (half-written ones start with a dot)."""
    return sorted(path for path in Path(folder).glob("*.parquet") if not path.name.startswith("."))


def write_json(value: Any, path: str | Path) -> Path:
    """Write JSON in one step: UTF-8, indented, keys in the order given. NaN and infinity become null."""
    return write_text(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", path)


def write_text(text: str, path: str | Path) -> Path:
    """Write UTF-8 text in one step."""
    return _in_one_step(Path(path), lambda file: file.write(text.encode("utf-8")))


def write_bytes(data: bytes, path: str | Path) -> Path:
    """Write a file as it is in one step."""
    return _in_one_step(Path(path), lambda file: file.write(data))


def read_json(path: str | Path) -> Any:
    """A JSON file. Raises ValueError, one line with file, line and column, if it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg})") from None


def _plain(value: Any) -> Any:
    """Numpy numbers, paths and tuples as JSON knows them."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _in_one_step(path: Path, write: Callable[[BinaryIO], Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # the name must never point at a file that a power cut leaves empty
        os.replace(temporary, path)  # noqa: PTH105
    finally:
        temporary.unlink(missing_ok=True)
    return path


def clear_unfinished(folder: Path) -> None:
    """Remove what killed processes were just writing in a folder: in an output of DVC it would count as a change."""
    import psutil

    for path in folder.glob(".*.tmp"):
        writer = path.name.split(".")[-3]
        if not (writer.isdigit() and psutil.pid_exists(int(writer))):
            path.unlink(missing_ok=True)


@contextmanager
def replaced_folder(out: str | Path) -> Iterator[Path]:
    """A fresh folder beside `out` that takes its place when the block ends well; else `out` stays as it was.

    What a killed run left behind (`.NAME.new`, `.NAME.old`) is cleared up by the next one.
    """
    out = Path(out)
    fresh, former = out.with_name(f".{out.name}.new"), out.with_name(f".{out.name}.old")
    out.parent.mkdir(parents=True, exist_ok=True)
    found_again(out)
    for leftover in (fresh, former):
        if leftover.exists():
            shutil.rmtree(leftover)
    fresh.mkdir()
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if out.exists():
        out.rename(former)
    fresh.rename(out)
    if former.exists():
        shutil.rmtree(former)


def found_again(out: Path) -> None:
    """Put back a folder that `replaced_folder` was about to replace when it was killed between its two renames."""
    former = out.with_name(f".{out.name}.old")
    if former.exists() and not out.exists():
        former.rename(out)


def only(table: pa.Table, wanted: Iterable[bool]) -> pa.Table:
    """The rows that are wanted; an empty table too, which Arrow's own `filter` refuses when given a list."""
    return table.filter(pa.array(list(wanted), pa.bool_()))
