"""The items of a `features` source: a name and a vector each, from items.parquet into shards of the `photos` table.

Notable: an item's id is the sha256 of its name (a name of 64 hex digits is the id itself), so it keeps its split and its
ratings when vectors are made anew. `bytes` of its row holds the vector, float32, little-endian. The file is read twice in
batches, never whole. A row that cannot be used goes aside with its number (1 = the first) and the rest goes on.

Test: `uv run pytest tests/tasks/test_items.py`; layout: docs/cohorts.md
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.forgotten import Forgotten
from tasks.intake.csv_file import check_header
from tasks.intake.photos import SHARD_BYTES, PhotoIndex, write_shard
from tasks.intake.quarantine import BadInput, Quarantine
from tasks.tables import shard_paths

FILE, SOURCE = "items.parquet", "features"
NUMBER = np.dtype("<f4")
LARGEST = float(np.finfo(NUMBER).max)
_NAMES = ("item", "photo")
_BATCH = 4096
_ID = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Items:
    """A file whose columns can be used."""

    path: Path
    column: str
    """Which column names the item, `item` or `photo`, and the two as they are spelt in the file."""
    fields: tuple[str, str]
    rows: int
    length: int
    """Numbers in a vector: what most rows have."""


def find_items(path: Path, quarantine: Quarantine) -> Items:
    """Look at the columns of items.parquet and at how long its vectors are.

    Raises:
        BadInput: it cannot be read, lacks a column, or has no vector; one line.
    """
    shown = path.name
    try:
        with path.open("rb") as file:  # opened here: Arrow's own errors are long
            schema = pq.ParquetFile(file).schema_arrow
    except FileNotFoundError:
        other = "; photos/ is there, which data.source: folder reads" if (path.parent / "photos").is_dir() else ""
        raise BadInput(f"{shown}: no such file in {path.parent}; its columns are item,vector{other}") from None
    except OSError as error:
        raise BadInput(f"{shown}: cannot be read ({error.strerror or error})") from None
    except pa.ArrowException as error:
        raise BadInput(f"{shown}: is not a Parquet file ({str(error).splitlines()[0]})") from None
    header = [name.strip().lower() for name in schema.names]
    column = next((name for name in _NAMES if name in header), "item")
    if "vector" not in header:
        raise BadInput(_no_vector(header, schema, shown))
    check_header(header, shown, (column, "vector"))
    fields = schema.names[header.index(column)], schema.names[header.index("vector")]
    _check_types(schema, fields, shown)
    for name in schema.names:
        if name not in fields:
            quarantine.add(shown, None, name or "column without a name", "column is not used")
    lengths: Counter[int] = Counter()
    rows = 0
    for batch in _batches(path, fields[1:]):
        rows += batch.num_rows
        for pair in pc.value_counts(pc.list_value_length(batch.column(0)).drop_null()).to_pylist():
            lengths[pair["values"]] += pair["counts"]
    lengths.pop(0, None)
    if not lengths:
        raise BadInput(f"{shown}: {f'none of its {rows} rows has a vector' if rows else 'holds no item'}")
    usual = max(lengths, key=lambda length: (lengths[length], length))
    return Items(path, column, fields, rows, usual)


def write_items(
    items: Items,
    folder: Path,
    quarantine: Quarantine,
    on_progress: Callable[[int, int], None] | None = None,
    forgotten: Forgotten | None = None,
) -> PhotoIndex:
    """Write the items that can be used to `folder`/NNNNN.parquet (`photos` table), in the order of the file.

    Raises:
        BadInput: the file breaks off.
    """
    index, rows = PhotoIndex(), []
    most = max(64, min(_BATCH, SHARD_BYTES // (NUMBER.itemsize * items.length)))
    for name, vector in usable(items, quarantine, index, on_progress):
        if forgotten is not None and forgotten.has("photo", item_id(name)):
            continue
        index.ids[name] = item_id(name)
        index.photos += 1
        row = {"photo_id": index.ids[name], "name": name, "width": None, "height": None, "source": SOURCE}
        rows.append(row | {"bytes": vector.tobytes()})
        if len(rows) == most:
            write_shard(rows, folder, index)
            rows = []
    if rows:
        write_shard(rows, folder, index)
    return index


def usable(
    items: Items, quarantine: Quarantine, index: PhotoIndex, on_progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, (D,) float32) of the rows that can be used; the others are told, and counted in `index`."""
    file, done = items.path.name, 0
    seen: dict[str, int] = {}
    for batch in _batches(items.path, items.fields):
        names = _names(batch.column(0), file)
        for place, (name, vector) in enumerate(zip(names, _vectors(batch.column(1), items.length)), done + 1):
            said = hash(vector.tobytes()) if isinstance(vector, np.ndarray) else 0
            if name and isinstance(vector, np.ndarray) and name not in seen:
                seen[name] = said
                yield name, vector
            elif name in seen and seen[name] == said:
                quarantine.add(file, place, "item", "repeated item", name)
                index.duplicates += 1
            else:
                index.set_aside += 1
                if not name:
                    quarantine.add(file, place, "item", "blank item", "")
                elif isinstance(vector, tuple):
                    quarantine.add(file, place, "vector", vector[0], f"{name}: {vector[1]}")
                else:
                    quarantine.add(file, place, "item", "second vector of the same item", name)
        done += batch.num_rows
        if on_progress is not None:
            on_progress(done, items.rows)


def item_id(name: str) -> str:
    """The id of an item of this name: 64 hex digits."""
    return name if _ID.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()


def holds_vectors(photos: Path) -> bool:
    """Whether the shards of a `photos` table hold items' vectors and no pictures."""
    paths = shard_paths(photos)
    if not paths:
        return False
    with pq.ParquetFile(paths[0]) as file:
        return file.read_row_group(0, ["source"])["source"][0].as_py() == SOURCE


def needs_photos(photos: Path, what: str) -> None:
    """Raise BadInput where items are vectors. what: `the review page shows photos`."""
    if holds_vectors(photos):
        raise BadInput(f"{what}, and items of this cohort are vectors (data.source: features)")


def as_vectors(data: list[bytes]) -> np.ndarray:
    """(N, D) float32 of the `bytes` of items."""
    return np.stack([np.frombuffer(each, NUMBER) for each in data]).astype(np.float32)


def _no_vector(header: list[str], schema: pa.Schema, shown: str) -> str:
    """The line for a file without the column `vector`; a file of pictures is told where they belong."""
    line = f"{shown}: column 'vector' is missing; found {', '.join(header) or 'nothing'}, needed item, vector"
    named = ("image", "picture", "bytes")
    pictures = [name for name, kind in zip(header, schema.types) if name in named or _is_bytes(kind)]
    if pictures:
        return f"{line}; column {pictures[0]!r} holds pictures: write them as files, for data.source: folder"
    return f"{line}, a list of numbers (pandas: df['vector'] = df[columns].to_numpy().tolist())"


def _is_bytes(kind: pa.DataType) -> bool:
    inside = [kind.field(k).type for k in range(kind.num_fields)] if pa.types.is_struct(kind) else [kind]
    return any(pa.types.is_binary(each) or pa.types.is_large_binary(each) for each in inside)


def _check_types(schema: pa.Schema, fields: tuple[str, str], shown: str) -> None:
    name, vector = (schema.field(field).type for field in fields)
    plain = name.value_type if pa.types.is_dictionary(name) else name
    if not (pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_integer(plain)):
        raise BadInput(f"{shown}: column {fields[0]!r} holds {name}; it must hold text or whole numbers")
    lists = pa.types.is_list(vector) or pa.types.is_large_list(vector) or pa.types.is_fixed_size_list(vector)
    if not (lists and (pa.types.is_floating(vector.value_type) or pa.types.is_integer(vector.value_type))):
        raise BadInput(f"{shown}: column {fields[1]!r} holds {vector}; it must hold lists of numbers")


def _batches(path: Path, fields: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    try:
        with path.open("rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=list(fields)):
                yield batch.select(list(fields))
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path.name}: breaks off ({str(error).splitlines()[0]})") from None


def _names(column: pa.Array, shown: str) -> list[str]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    try:
        text = column.cast(kind).cast(pa.string())
        text.validate(full=True)
    except pa.ArrowException as error:
        raise BadInput(f"{shown}: column 'item' cannot be read ({str(error).splitlines()[0]})") from None
    return pc.utf8_trim_whitespace(pc.fill_null(text, "")).to_pylist()


def _vectors(column: pa.Array, length: int) -> Iterator[np.ndarray | tuple[str, str]]:
    """(length,) float32 per row, or why there is none: reason and what was found."""
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(column).cast(pa.float64()).to_numpy(zero_copy_only=False)
    ends = np.cumsum(np.maximum(lengths, 0))
    for row, end in enumerate(ends):
        values = flat[end - max(lengths[row], 0) : end]
        if lengths[row] < 0:
            yield "no vector", "null"
        elif len(values) != length:
            yield "vector of another length", f"{len(values)} numbers where most have {length}"
        elif not (good := np.isfinite(values) & (np.abs(values) <= LARGEST)).all():
            place = int(np.argmin(good))
            reason = "vector holds a number beyond 3e38" if np.isfinite(values[place]) else "vector holds NaN or infinity"
            yield reason, f"number {place + 1} is {values[place]:g}"
        else:
            yield values.astype(NUMBER)
