"""Ratings as text into the `labels` and `preferences` tables, on whole columns.

What goes aside is as small as can be: a bad score, date or preference costs its cell, an unknown photo, a
blank rater or a second rating of the same photo, rater and time costs its row (`whole`: a bad score or date
does too, for where what is left would take the place of an earlier rating). Rows with every score blank
are counted, and give what else they hold (a preference vector, answers). Scores come out on 0..10; a
dimension whose column is missing was never asked.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from model.scores import DIMENSIONS, SCALE
from tasks.intake.columns import moments, numbers, vectors
from tasks.intake.quarantine import BadInput, Quarantine
from tasks.intake.sieve import Sieve
from tasks.schemas import LABELS, PREFERENCES, check

LIKERT = (5, 7)


@dataclass
class Ratings:
    """Ratings that passed."""

    labels: pa.Table
    preferences: pa.Table
    rows_in: int
    blank: int
    set_aside: int


def settle_ratings(
    raw: pa.Table,
    scale: tuple[float, float],
    resolve: Callable[[str], str | None],
    now,
    quarantine: Quarantine,
    whole: bool = False,
) -> Ratings:
    """raw: text columns rater_id, photo, dimensions, [preference], [rated_at], [answers...], file, line.

    whole: a bad score or date costs its row.
    """
    sieve = Sieve(raw, quarantine)
    sieve.rows(_text(raw, "rater_id") == "", "rater_id", "blank rater")
    photo_ids = _photo_ids(raw, resolve)
    sieve.rows(_text(raw, "photo") == "", "photo", "blank photo")
    sieve.rows(np.array([one is None for one in photo_ids], bool), "photo", "unknown photo")

    scores, spoilt = {}, np.zeros(raw.num_rows, bool)
    for dimension in DIMENSIONS:
        if dimension not in raw.column_names:
            scores[dimension] = np.full(raw.num_rows, np.nan)
            continue
        values, bad = numbers(raw[dimension].combine_chunks())
        outside = (values < scale[0]) | (values > scale[1])
        sieve.cells(bad, dimension, "not a number")
        sieve.cells(outside, dimension, f"outside the scale {scale[0]:g} to {scale[1]:g}")
        spoilt |= bad | outside
        scores[dimension] = rescaled(np.where(outside, np.nan, values), scale)
    when, untimely = _times(raw, now, sieve)
    preferences = _preferences(raw, sieve)
    if whole:
        sieve.ok &= ~(spoilt | untimely)

    silent = np.all([np.isnan(values) for values in scores.values()], axis=0) & sieve.ok
    blank = int((silent & ~spoilt).sum())
    silent_rows = np.flatnonzero(silent)
    sieve.ok &= ~silent
    _drop_repeats(raw, photo_ids, when, scores, sieve)

    keep = np.flatnonzero(sieve.ok)
    labels = pa.table(
        [
            pa.array(photo_ids[keep], pa.string()),
            raw["rater_id"].combine_chunks().take(pa.array(keep)),
            *(pa.array(scores[d][keep].astype(np.float32), from_pandas=True) for d in DIMENSIONS),
            pa.repeat(pa.scalar("rated"), len(keep)),
            pa.array(np.zeros(len(keep), np.int32)),
            pa.array([when[row] for row in keep], LABELS.field("at").type),
        ],
        schema=LABELS,
    )
    extras = _extras(raw, photo_ids, preferences, np.union1d(keep, silent_rows))  # a vector needs no score beside it
    order = [("photo_id", "ascending"), ("rater_id", "ascending")]
    return Ratings(
        labels=check(labels.sort_by([*order, ("at", "ascending")]), "labels"),
        preferences=check(extras.sort_by(order), "preferences"),
        rows_in=raw.num_rows,
        blank=blank,
        set_aside=raw.num_rows - len(keep) - blank,
    )


def ask_for_scores(table: pa.Table, name: str, prefix: str = "") -> None:
    """Raise BadInput unless one dimension at least has a column."""
    if not set(DIMENSIONS) & set(table.column_names):
        wanted = ", ".join(prefix + dimension for dimension in DIMENSIONS)
        raise BadInput(f"{name}, line 1: no column holds scores; at least one of {wanted} is needed")


def rescaled(values: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Scores of a scale (low, high) on 0..10, linearly."""
    return (values - scale[0]) / (scale[1] - scale[0]) * (SCALE[1] - SCALE[0]) + SCALE[0]


def likert_scale(raw: pa.Table) -> tuple[float, float] | None:
    """(1, 5) or (1, 7) if the scores leave no doubt, else None.

    No doubt: a thousand scores or more, whole numbers all, each of 1..n used, nothing else. On a scale of 0
    to 10 so many raters do not all stay away from 0 and from the upper end.
    """
    asked = [numbers(raw[d].combine_chunks())[0] for d in DIMENSIONS if d in raw.column_names]
    used, times = np.unique(np.concatenate([v[~np.isnan(v)] for v in asked]), return_counts=True)
    for steps in LIKERT:
        if times.sum() >= 1000 and np.array_equal(used, np.arange(1, steps + 1)):
            return 1.0, float(steps)
    return None


def _text(raw: pa.Table, column: str) -> np.ndarray:
    return raw[column].to_numpy()


def _photo_ids(raw: pa.Table, resolve: Callable[[str], str | None]) -> np.ndarray:
    """photo_id of every row as an object array, None where unknown; each name is looked up once."""
    names = raw["photo"].combine_chunks().dictionary_encode()
    ids = np.array([resolve(name) if name else None for name in names.dictionary.to_pylist()] + [None], object)
    return ids[names.indices.to_numpy()]


def _times(raw: pa.Table, now, sieve: Sieve) -> tuple[list, np.ndarray]:
    """(date or None, whether one is given that cannot be used) of every row."""
    if "rated_at" not in raw.column_names:
        return [None] * raw.num_rows, np.zeros(raw.num_rows, bool)
    when, bad = moments(raw["rated_at"].combine_chunks())
    sieve.cells(bad, "rated_at", "not a date (ISO 8601)")
    future = np.array([one is not None and one > now for one in when], bool)
    sieve.cells(future, "rated_at", "in the future")
    return [None if late else one for one, late in zip(when, future)], bad | future


def _preferences(raw: pa.Table, sieve: Sieve) -> list:
    if "preference" not in raw.column_names:
        return [None] * raw.num_rows
    values, bad = vectors(raw["preference"].combine_chunks())
    sieve.cells(bad, "preference", "not 5 numbers")
    return values


def _drop_repeats(
    raw: pa.Table, photo_ids: np.ndarray, when: list, scores: dict[str, np.ndarray], sieve: Sieve
) -> None:
    """Keep the first row of each (rater, photo, time); say which row that was."""
    rows = np.flatnonzero(sieve.ok)
    rater = raw["rater_id"].combine_chunks().dictionary_encode().indices.to_numpy()[rows]
    photo = np.unique(photo_ids[rows].astype(str), return_inverse=True)[1]
    time = np.array([0 if when[row] is None else int(when[row].timestamp() * 1e6) for row in rows], np.int64)
    order = np.lexsort((rows, time, photo, rater))
    same = np.zeros(len(rows), bool)
    same[1:] = (np.diff(rater[order]) == 0) & (np.diff(photo[order]) == 0) & (np.diff(time[order]) == 0)
    if not same.any():
        return
    firsts = np.maximum.accumulate(np.where(same, 0, np.arange(len(rows))))
    kept_by = dict(zip(rows[order][same].tolist(), rows[order][firsts[same]].tolist()))
    files, lines = raw["file"], raw["line"]
    table = np.stack(list(scores.values()))
    for conflict, reason in (
        (False, "repeated rating"),
        (True, "second rating of the same rater, photo and time"),
    ):
        chosen = [
            row
            for row in sorted(kept_by)
            if conflict != np.array_equal(table[:, row], table[:, kept_by[row]], equal_nan=True)
        ]
        bad = np.zeros(raw.num_rows, bool)
        bad[chosen] = True
        values = [f"kept: {files[kept_by[row]]}, line {lines[kept_by[row]]}" for row in chosen]
        sieve.rows(bad, "photo", reason, values)


def _extras(raw: pa.Table, photo_ids: np.ndarray, preferences: list, keep: np.ndarray) -> pa.Table:
    """Preference vectors and answers given per photo, for those of the rows `keep` that have any."""
    asked = [column for column in ("bmi", "people_answer") if column in raw.column_names]
    answers = {column: raw[column].to_pylist() for column in asked}
    rows = []
    for row in keep if asked or "preference" in raw.column_names else ():
        said = [(column, answers[column][row]) for column in asked if answers[column][row]]
        if said or preferences[row] is not None:
            rater = raw["rater_id"][row].as_py()
            rows.append(
                {
                    "photo_id": photo_ids[row],
                    "rater_id": rater,
                    "preference": preferences[row],
                    "answers": said,
                }
            )
    return pa.Table.from_pylist(rows, schema=PREFERENCES)
