"""Feedback as immutable snapshots, one per night: `data/nights/0001.parquet`, … (the stage `nights`).

What has come since the last snapshot, out of the cohort's own feedback and the store of the review page, becomes the next
one; nights that were missed are caught up in it. An event is in one snapshot only, found by its event_id and not by its
date, so what arrives late is not lost. Without news no snapshot is written, and `continual` has nothing to do.

Notable: simulated feedback of several days is all there from the start, so each of its days becomes a night. The nights
belong to a cohort (`cohort.json` in the folder): of another one they begin anew.

    python -m tasks.nights          # data/nights, data/feedback
    uv run pytest tests/tasks/test_nights.py
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.files import file_hash
from tasks.forgotten import read_forgotten
from tasks.intake.feedback import sift
from tasks.intake.quarantine import Quarantine
from tasks.reviewed import STORE
from tasks.schemas import FEEDBACK, check
from tasks.tables import (
    clear_unfinished,
    only,
    read_json,
    read_shards,
    read_table,
    replaced_folder,
    write_json,
    write_table,
)

COHORT = "cohort.json"
OTHER_CONTENT = "event is there already with other content"
UNREADABLE = "no answer as the review page writes them"


@dataclass
class Taken:
    """What a run took: files of new snapshots, their events, what went aside."""

    nights: list[Path]
    events: int
    aside: Quarantine


def night_paths(nights: Path) -> list[Path]:
    """The snapshots in a folder, the first night first."""
    return sorted(path for path in Path(nights).glob("*.parquet") if re.fullmatch(r"\d{4,}", path.stem))


def take_nights(
    cohort: Path, nights: Path, out: Path, store: str | None = None, now: datetime | None = None
) -> Taken:
    """Write the snapshots that are due into `nights`; out/quarantine.parquet and out/feedback.json say what went aside.

    store: URL of the review store, None = there is none. now: aware, None = the clock.

    Raises:
        BadInput: the review store cannot be read. Nothing was written then.
    """
    now = now or datetime.now(UTC)
    clear_unfinished(nights)
    aside = Quarantine()
    own = read_table(cohort / "feedback.parquet")
    reviewed, seen = _reviewed(cohort, store, now, aside)
    about = _identity(cohort, own)
    known = nights / COHORT
    same = known.exists() and read_json(known) == about
    earlier = [read_table(path) for path in night_paths(nights)] if same else []
    past = pa.concat_tables([FEEDBACK.empty_table(), *earlier])
    seen += len(own)
    own, again = _news(own, past, "feedback", aside)
    reviewed, more = _news(reviewed, pa.concat_tables([past, own]), "reviews", aside)
    groups = _days(own) if about["simulated"] else [own] * bool(len(own))
    if len(reviewed):  # of the day that is now
        groups[-1:] = [pa.concat_tables([*groups[-1:], reviewed])]
    if same:
        written = [_write(group, nights, len(earlier) + k) for k, group in enumerate(groups, 1)]
    else:
        with replaced_folder(nights) as folder:
            write_json(about, folder / COHORT)
            written = [nights / _write(group, folder, k).name for k, group in enumerate(groups, 1)]
    events = sum(map(len, groups))
    with replaced_folder(out) as folder:
        write_table(check(aside.table(), "quarantine"), folder / "quarantine.parquet")
        write_json({"seen": seen, "taken": again + more + events, "set aside": len(aside)}, folder / "feedback.json")
    return Taken(written, events, aside)


def _reviewed(cohort: Path, store: str | None, now: datetime, aside: Quarantine) -> tuple[pa.Table, int]:
    """Usable events of the review store, and how many there are in all."""
    if store is None:
        return FEEDBACK.empty_table(), 0
    from tasks.reviews import feedback_rows, known_people, open_store, unreadable

    engine = open_store(store)
    broken = unreadable(engine)
    for key in broken:
        aside.add(f"reviews/{key}", None, "payload", UNREADABLE, key)
    forgotten, rows, guests = read_forgotten(), feedback_rows(engine), known_people(engine, "user")
    gone = forgotten.among("person", (row["user_id"] for row in rows))
    lost = forgotten.among("photo", (photo for row in rows for photo in (row["photo_id"], row["text"]) if photo))
    rows = [row for row in rows if row["user_id"] not in gone and not {row["photo_id"], row["text"]} & lost]
    engine.dispose()
    people = read_table(cohort / "raters.parquet", ["rater_id"])["rater_id"].to_pylist()
    photos = set(read_shards(cohort / "photos", ["photo_id"])["photo_id"].to_pylist())
    good = sift(rows, guests.union(people), photos, now, aside)
    return pa.Table.from_pylist(good, schema=FEEDBACK), len(rows) + len(broken)


def _identity(cohort: Path, own: pa.Table) -> dict[str, Any]:
    """What nights belong to. A simulated cohort whose settings changed is another one."""
    about = read_json(cohort / "cohort.json")
    found = {key: about[key] for key in ("name", "source", "scale", "simulated")}
    return found | ({"feedback": file_hash(cohort / "feedback.parquet")} if about["simulated"] else {})


def _news(table: pa.Table, past: pa.Table, file: str, aside: Quarantine) -> tuple[pa.Table, int]:
    """Events whose id is not in `past`, and how many are there as they are.

    An event that is there with other content goes aside: the first one stands.
    """
    place = pc.index_in(table["event_id"], value_set=past["event_id"])
    old, then = table.filter(pc.is_valid(place)), past.take(place.drop_null())
    same = np.ones(len(old), bool)
    for a, b in zip(old.columns, then.columns):
        equal = pc.or_(pc.fill_null(pc.equal(a, b), False), pc.and_(pc.is_null(a), pc.is_null(b)))
        same &= equal.to_numpy()
    for event in only(old, ~same)["event_id"].to_pylist():
        aside.add(f"{file}/{event}", None, "event_id", OTHER_CONTENT, event)
    return table.filter(pc.is_null(place)), int(same.sum())


def _days(table: pa.Table) -> list[pa.Table]:
    """Events by the day (UTC) of their date, the first day first."""
    days = pc.floor_temporal(table["at"], unit="day")
    return [table.filter(pc.equal(days, day)) for day in sorted(pc.unique(days).to_pylist())]


def _write(events: pa.Table, folder: Path, number: int) -> Path:
    """A snapshot: its events in order of date and id, whatever the order they came in."""
    ordered = events.sort_by([("at", "ascending"), ("event_id", "ascending")])
    return write_table(check(ordered, "feedback"), folder / f"{number:04d}.parquet")


if __name__ == "__main__":
    import sys

    from tasks.faults import told

    with told():
        url = os.environ.get("PHYSIQUE_REVIEWS") or (f"sqlite:///{STORE}" if STORE.exists() else None)
        found = take_nights(Path("data/cohort"), Path("data/nights"), Path("data/feedback"), url)
        last = found.nights[-1].stem if found.nights else "none"
        news = f"{found.events:,} new events, last snapshot {last}" if found.nights else "no new feedback"
        aside = f"; {len(found.aside):,} set aside (data/feedback/quarantine.parquet)" if len(found.aside) else ""
        print(f"nights: {news}{aside}", file=sys.stderr)
