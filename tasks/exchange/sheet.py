"""Drafts as a spreadsheet to be revised, and the spreadsheet as rows of imported labels.

    rater_id,photo,appearance,health,posture[,rated_at]

Notable: rater_id goes out blank; whoever has looked at a row writes theirs into it, and rows without one count as not
filled in (else drafts that nobody has seen would come back as revised). A row with a bad cell goes aside whole: what is
left of it would take the place of the label that was there. A photo whose name a spreadsheet would change, or run as a
formula, goes out under its photo_id.
Test: `uv run pytest tests/tasks/test_exchange_csv.py`
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from model.scores import DIMENSIONS, SCALE
from tasks.exchange.drafts import Draft
from tasks.exchange.history import HISTORY
from tasks.intake.columns import numbers
from tasks.intake.csv_file import read_csv
from tasks.intake.quarantine import Quarantine
from tasks.intake.ratings import ask_for_scores, settle_ratings
from tasks.printable import counted
from tasks.tables import write_text

_FORMULA = ("=", "+", "-", "@")


def write_sheet(drafts: list[Draft], resolve: Callable[[str], str | None], out: Path) -> None:
    """Write `out`, a row per draft. resolve: a photo's name to its photo_id."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rater_id", "photo", *DIMENSIONS])
    for draft in drafts:
        plain = draft.name.isprintable() and draft.name == draft.name.strip() and not draft.name.startswith(_FORMULA)
        photo = draft.name if plain and resolve(draft.name) == draft.photo_id else draft.photo_id
        writer.writerow(["", photo, *(draft.scores.get(d, "") for d in DIMENSIONS)])
    write_text(text.getvalue(), out)


def read_sheet(
    path: Path,
    rater_of: Callable[[list[str]], str | None],
    resolve: Callable[[str], str | None],
    now: datetime,
    quarantine: Quarantine,
    round: int | None = None,
) -> tuple[pa.Table, int, str]:
    """(rows of `HISTORY` with origin `revised`, how many rows the file holds, a line on those not filled in or "").

    round: of review; None = 1.

    Raises BadInput (one line) where the file cannot be used at all.
    """
    raw = read_csv(path, path.name, quarantine, required=("rater_id", "photo"))
    ask_for_scores(raw, path.name)
    count = raw.num_rows
    filled = _filled(raw)
    raw = raw.filter(pa.array(filled))
    given = raw["rater_id"].to_pylist()
    people = [rater_of([name]) for name in given]
    unknown = np.array([person is None for person in people], bool)
    for row in np.flatnonzero(unknown):
        quarantine.add(path.name, raw["line"][int(row)].as_py(), "rater_id", "unknown rater", given[row])
    raters = pa.array([person or "" for person in people], pa.string())
    raw = raw.set_column(raw.column_names.index("rater_id"), "rater_id", raters).filter(pa.array(~unknown))
    labels = settle_ratings(raw, SCALE, resolve, now, quarantine, whole=True).labels
    columns = {name: labels[name] for name in labels.column_names} | {
        "origin": pa.repeat("revised", labels.num_rows),
        "round": pa.repeat(pa.scalar(1 if round is None else round, pa.int32()), labels.num_rows),
        "annotation": pa.nulls(labels.num_rows, pa.string()),
    }
    waiting = count - int(filled.sum())
    note = f"{counted(waiting, 'row')} not filled in (no rater_id, or no score)" if waiting else ""
    return pa.table(columns, schema=HISTORY), count, note


def _filled(raw: pa.Table) -> np.ndarray:
    """Which rows have a rater_id and something, right or wrong, for a score: (rows,) bool."""
    said = np.zeros(raw.num_rows, bool)
    for dimension in set(DIMENSIONS) & set(raw.column_names):
        values, bad = numbers(raw[dimension].combine_chunks())
        said |= bad | ~np.isnan(values)
    return said & (raw["rater_id"].to_numpy() != "")
