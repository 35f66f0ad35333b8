"""Revised labels that came back, kept in `data/imported/labels.parquet`: every version, in the order of import.

Notable: a row that is there already is not added again, so the same file may be imported as often as one likes.
What counts is decided on reading (`imported_labels`): of an annotation its newest version, of an expert's labels of
a photo the newest. Undated rows count as newer than what was imported before them (as in tasks/ratings.py).
Test: `uv run pytest tests/tasks/test_exchange_import.py`
"""

from __future__ import annotations

import fcntl
from collections.abc import Hashable
from pathlib import Path

import pyarrow as pa

from tasks.intake.quarantine import BadInput
from tasks.schemas import LABELS, check
from tasks.tables import read_table, write_table

FOLDER = Path("data/imported")
HISTORY = LABELS.append(pa.field("annotation", pa.string()))
"""annotation: which annotation of the other tool a row is a version of; null = a row of a spreadsheet."""


def read_history(folder: Path) -> pa.Table:
    """Every version ever imported (`HISTORY`). Raises BadInput where the file is not such a table."""
    path = folder / "labels.parquet"
    if not path.exists():
        return HISTORY.empty_table()
    try:
        return read_table(path, HISTORY.names).cast(HISTORY)
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BadInput(f"{path}: is no table of imported labels ({error})") from None


def append(rows: pa.Table, folder: Path) -> int:
    """Add the rows (`HISTORY`) that are not there yet; how many those were. Two imports at once wait for each other."""
    check(rows.select(LABELS.names), "labels")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = read_history(folder)
        known = set(_tuples(before))
        fresh = []
        for index, row in enumerate(_tuples(rows)):
            if row not in known:
                known.add(row)
                fresh.append(index)
        if fresh:
            write_table(pa.concat_tables([before, rows.take(fresh)]), folder / "labels.parquet")
    return len(fresh)


def imported_labels(folder: str | Path = FOLDER) -> pa.Table:
    """The newest revised label of each expert and photo, as a `labels` table sorted by both; empty if there is none."""
    table = read_history(Path(folder))
    columns = ("annotation", "at", "rater_id", "photo_id")
    annotation, at, rater, photo = (table[name].to_pylist() for name in columns)
    kept = _newest(range(len(at)), [a if a is not None else index for index, a in enumerate(annotation)], at)
    kept = _newest(kept, list(zip(photo, rater)), at)
    labels = table.select(LABELS.names).take(pa.array(kept, pa.int64()))
    return check(labels.sort_by([("photo_id", "ascending"), ("rater_id", "ascending")]), "labels")


def _newest(rows: range | list[int], keys: list[Hashable], at: list) -> list[int]:
    """Of the rows with the same key the last one, unless it is dated before the one it would replace."""
    newest: dict[Hashable, int] = {}
    for row in rows:
        before = newest.setdefault(keys[row], row)
        if at[row] is None or at[before] is None or at[row] >= at[before]:
            newest[keys[row]] = row
    return sorted(newest.values())


def _tuples(table: pa.Table) -> zip:
    return zip(*(table[name].to_pylist() for name in HISTORY.names))
