"""Drafts from a file that a labeller elsewhere has written (CSV or Parquet) as rows of the `drafts` table.

Columns: photo (its name in the cohort or its photo_id), appearance, health, posture, and for each, if known,
appearance_spread and so on, in points of the file's scale. Blank = none. What is wrong costs a cell or a row and
is told by file, row and field; of several rows for a photo the first one counts. Rows of a CSV file are lines as
an editor shows them (1 = header); those of a Parquet file count from 1.

Test: `uv run pytest tests/tasks/test_label_file.py`; layout: docs/labeller.md
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.scores import DIMENSIONS, SCALE
from tasks.intake.columns import numbers
from tasks.intake.csv_file import check_header, read_csv
from tasks.intake.photos import PhotoIndex
from tasks.intake.quarantine import BadInput, Quarantine
from tasks.intake.ratings import rescaled
from tasks.intake.sieve import Sieve
from tasks.schemas import DRAFTS, check

SUFFIXES = (".csv", ".parquet")
SPREADS = tuple(f"{dimension}_spread" for dimension in DIMENSIONS)
_COLUMNS = ("photo", *DIMENSIONS, *SPREADS)


def read_label_file(path: Path, names: dict[str, str], scale: tuple[float, float], quarantine: Quarantine) -> pa.Table:
    """Rows of the `drafts` table for the photos that the file scores, on 0..10.

    Args:
        names: photo name by photo_id, the whole cohort.
        scale: (lowest, highest) score of the file.

    Raises:
        BadInput: the file cannot be read, or lacks the column `photo` or every column of scores; one line.
    """
    name = path.as_posix()
    read = read_csv if path.suffix.lower() == ".csv" else _read_parquet
    raw = read(path, name, quarantine, ("photo",))
    _tell_columns(raw, name, 1 if read is read_csv else None, quarantine)
    sieve = Sieve(raw, quarantine)
    photo_ids = _photo_ids(raw["photo"].to_pylist(), names)
    blank = pc.equal(raw["photo"], "").to_numpy()
    sieve.rows(blank, "photo", "blank photo")
    sieve.rows(np.array([one is None for one in photo_ids], bool), "photo", "unknown photo")

    width = scale[1] - scale[0]
    columns = {d: rescaled(_cells(raw, d, scale, "the scale ", sieve), scale) for d in DIMENSIONS}
    for dimension, field in zip(DIMENSIONS, SPREADS):
        spread = _cells(raw, field, (0.0, width), "", sieve)
        lost = np.isfinite(spread) & np.isnan(columns[dimension])
        sieve.cells(lost, field, "spread without a score")
        columns[field] = np.where(lost, np.nan, spread) / width * (SCALE[1] - SCALE[0])
    sieve.ok &= ~np.all([np.isnan(columns[d]) for d in DIMENSIONS], axis=0)
    _drop_repeats(raw, photo_ids, np.stack(list(columns.values())), sieve)

    keep = np.flatnonzero(sieve.ok)
    scores = [pa.array(values[keep], pa.float64(), from_pandas=True) for values in columns.values()]
    return check(pa.table([pa.array(photo_ids[keep], pa.string()), *scores], schema=DRAFTS), "drafts")


def _read_parquet(path: Path, name: str, quarantine: Quarantine, required: tuple[str, ...]) -> pa.Table:
    """Like `read_csv`: columns of text plus `file` and `line`, so that both kinds of file meet the same checks."""
    try:
        with path.open("rb") as file:  # opened here: Arrow's own errors are long
            table = pq.ParquetFile(file).read()
    except OSError as error:
        raise BadInput(f"{name}: cannot be read ({error.strerror or error})") from None
    except pa.ArrowException as error:
        raise BadInput(f"{name}: is not a Parquet file ({str(error).splitlines()[0]})") from None
    header = [column.strip().lower() for column in table.column_names]
    check_header(header, name, required)
    columns = [_as_text(column, name, field) for field, column in zip(header, table.columns)]
    lines = pa.array(np.arange(1, table.num_rows + 1))
    return pa.table([*columns, lines, pa.repeat(pa.scalar(name), table.num_rows)], names=[*header, "line", "file"])


def _as_text(column: pa.ChunkedArray, name: str, field: str) -> pa.ChunkedArray:
    """Cells as a CSV file would have them; those of a column that is not read stay blank."""
    if field not in _COLUMNS:
        return pa.chunked_array([pa.repeat(pa.scalar(""), len(column))])
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind) or pa.types.is_boolean(kind) or pa.types.is_temporal(kind):
        wanted = "text" if field == "photo" else "numbers"
        raise BadInput(f"{name}: column {field!r} holds {kind}; it must hold {wanted}")
    try:
        text = column.cast(kind).cast(pa.string())
    except pa.ArrowException as error:
        raise BadInput(f"{name}: column {field!r} cannot be read ({str(error).splitlines()[0]})") from None
    return pc.utf8_trim_whitespace(pc.fill_null(text, ""))


def _tell_columns(raw: pa.Table, name: str, row: int | None, quarantine: Quarantine) -> None:
    """Quarantine lines for columns that are unknown or missing. Raises BadInput if there is no score at all."""
    if not set(DIMENSIONS) & set(raw.column_names):
        raise BadInput(f"{name}: no column holds scores; at least one of {', '.join(DIMENSIONS)} is needed")
    known = f"known: {', '.join(_COLUMNS)}"
    for column in raw.column_names:
        if column not in (*_COLUMNS, "file", "line"):
            quarantine.add(name, row, column or "(no name)", "unknown column, not read", known)
    for dimension in DIMENSIONS:
        if dimension not in raw.column_names:
            quarantine.add(name, row, dimension, "column is missing: no scores of this dimension")


def _photo_ids(written: list[str], names: dict[str, str]) -> np.ndarray:
    """photo_id of each cell as an object array, None where unknown: a photo_id, or a name as people write it."""
    resolve = PhotoIndex({name: photo_id for photo_id, name in names.items()}).resolver()
    known = {one: one.lower() if one.lower() in names else resolve(one) for one in set(written) if one}
    return np.array([known.get(one) for one in written], object)


def _cells(raw: pa.Table, field: str, span: tuple[float, float], what: str, sieve: Sieve) -> np.ndarray:
    """Numbers of a column, NaN where blank or set aside; a column that is not there is blank."""
    if field not in raw.column_names:
        return np.full(raw.num_rows, np.nan)
    values, bad = numbers(raw[field].combine_chunks())
    outside = (values < span[0]) | (values > span[1])
    sieve.cells(bad, field, "not a number")
    sieve.cells(outside, field, f"outside {what}{span[0]:g} to {span[1]:g}")
    return np.where(outside, np.nan, values)


def _drop_repeats(raw: pa.Table, photo_ids: np.ndarray, values: np.ndarray, sieve: Sieve) -> None:
    """Keep the first row of each photo that says something; say which row that was."""
    first: dict[str, int] = {}
    same, other = np.zeros((2, raw.num_rows), bool)
    for row in np.flatnonzero(sieve.ok).tolist():
        kept = first.setdefault(photo_ids[row], row)
        if kept != row:
            equal = np.array_equal(values[:, row], values[:, kept], equal_nan=True)
            (same if equal else other)[row] = True
    for rows, reason in ((same, "repeated label"), (other, "second label of the same photo")):
        lines = [raw["line"][first[photo_ids[row]]].as_py() for row in np.flatnonzero(rows)]
        sieve.rows(rows, "photo", reason, [f"kept: line {line}" for line in lines])
