"""Rows of people and photos that were forgotten, left out of a cohort before anything in it is judged (docs/forget.md).

Notable: nothing of them goes to quarantine, which would name them; how many rows there were is told.

    uv run pytest tests/tasks/test_forgotten.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from model.files import file_hash
from tasks.forgotten import KINDS, Forgotten
from tasks.intake.photos import PhotoIndex, plain

if TYPE_CHECKING:
    from tasks.sources import Cohort


def leave_out(cohort: Cohort, forgotten: Forgotten) -> int:
    """Take what was forgotten out of `cohort`, say how much in its notes; rows and files that went."""
    if not forgotten.lines:
        return 0
    before = _size(cohort)
    gone = _photos(cohort, forgotten)
    for name in ("ratings", "raters", "feedback"):
        table = getattr(cohort, name)
        if table is not None:
            table = forgotten.without(table, rater_id="person", user_id="person")
            for column in {"photo", "other"} & set(table.column_names) if name != "raters" else ():
                table = _without_photos(table, column, cohort, gone, forgotten)
            setattr(cohort, name, table)
    cohort.quarantine.leave_out(lambda text: any(forgotten.has(kind, text) for kind in KINDS))
    count = before - _size(cohort)
    if count:
        cohort.notes.append(f"{count:,} rows and files of people and photos that were forgotten are left out")
    return count


def _size(cohort: Cohort) -> int:
    tables = [table for table in (cohort.ratings, cohort.raters, cohort.feedback) if table is not None]
    return len(cohort.photos) + sum(map(len, tables))


def _photos(cohort: Cohort, forgotten: Forgotten) -> dict[str, str]:
    """Take forgotten photos out of `cohort.photos`; their ids by name."""
    gone: dict[str, str] = {}
    if not any(kind == "photo" for kind, *_ in forgotten.lines):
        return gone
    for name, path in list(cohort.photos.items()):
        try:
            photo_id = file_hash(path)
        except OSError:
            continue  # set aside later on, with the reason
        if forgotten.has("photo", photo_id):
            gone[name] = photo_id
            del cohort.photos[name]
    return gone


def _without_photos(
    table: pa.Table, column: str, cohort: Cohort, gone: dict[str, str], forgotten: Forgotten
) -> pa.Table:
    """Rows whose photo was not forgotten, however they write its name."""
    from tasks.intake.items import item_id

    if not len(table) or not any(kind != "person" for kind, *_ in forgotten.lines):
        return table
    named = PhotoIndex(ids=gone).resolver()
    kept = PhotoIndex(ids={name: name for name in cohort.photos}).resolver()

    def left(name: str) -> bool:
        if not name or name in cohort.photos:
            return False
        if named(name) is not None:
            return True
        if cohort.items is not None and forgotten.has("photo", item_id(name)):
            return True
        written = name.replace("\\", "/").removeprefix("./").removeprefix("photos/")
        gone_for_good = any(forgotten.has("name", each) for each in {name, written, plain(written)})
        return kept(name) is None and (gone_for_good or forgotten.has("photo", name))

    out = [name for name in pc.unique(table[column]).to_pylist() if left(name or "")]
    if not out:
        return table
    return table.filter(pc.invert(pc.is_in(table[column], value_set=pa.array(out, table.schema.field(column).type))))
