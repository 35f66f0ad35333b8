"""The stage `cohort`: any data source into `data/cohort/`, checked, with everything that was set aside named.

Notable: photos stream through (never more than one shard in memory); the folder appears whole or not at all;
the same input gives the same bytes. What is wrong costs a cell, a row or a file and is told in
`quarantine.parquet`; what makes the run useless raises BadInput, one line, and leaves an earlier
`data/cohort/` as it was.
Command: `dvc repro cohort`, or `python -c "from tasks.cohort import build_cohort;
print(build_cohort('folder', '../shared/data/london', 'data/cohort'))"`
"""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc

from model.scores import DIMENSIONS
from tasks.forgotten import read_forgotten
from tasks.intake.feedback import settle_feedback
from tasks.intake.items import write_items
from tasks.intake.left_out import leave_out
from tasks.intake.photos import write_photos
from tasks.intake.quarantine import BadInput, Quarantine, as_lines
from tasks.intake.raters import settle_raters
from tasks.intake.ratings import settle_ratings
from tasks.schemas import check
from tasks.sources import Cohort, read_source
from tasks.tables import replaced_folder, write_json, write_table

__all__ = ["BadInput", "as_lines", "build_cohort"]

IN_ITEMS = {"photo": "item"}, {"unknown photo": "unknown item", "blank photo": "blank item"}
"""Fields and reasons of a quarantine as a cohort of vectors says them."""


def build_cohort(
    source: str,
    path: str | Path,
    out: str | Path,
    *,
    experts: int | None = None,
    scale: tuple[float, float] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    now: datetime | None = None,
) -> dict:
    """Write `out` (photos/, one Parquet file per table, cohort.json) and return what cohort.json says.

    experts: how many raters become experts where the source names none (see tasks/intake/raters.py).
    scale: (low, high) of the scores where cohort.yaml does not say. on_progress(done, total): photo files.
    now: aware datetime against which future dates are judged; None = the clock.
    Raises BadInput (one line) if the run cannot go on; `out` is then as it was before.
    """
    now = now or datetime.now(UTC)
    cohort, forgotten = read_source(source, path, scale), read_forgotten()
    leave_out(cohort, forgotten)
    aside = cohort.quarantine
    items = cohort.items
    not_photos = 0 if items else len(aside.of_files())
    with replaced_folder(out) as folder:
        shards, label = folder / "photos", cohort.photos_label
        if items:
            index = write_items(items, shards, aside, on_progress, forgotten)
            if not index.photos:
                raise BadInput(f"{label}: none of its {items.rows} rows can be used: {_reasons(aside)}")
        else:
            index = write_photos(cohort.photos, shards, cohort.source, label, aside, on_progress)
            if index.photos == index.unreadable:
                raise BadInput(f"{label}: none of the {len(cohort.photos)} files is a picture")
        resolve = index.resolver(suffixless=items is None)
        ratings = settle_ratings(cohort.ratings, cohort.scale, resolve, now, aside)
        if items:
            aside.reword(*IN_ITEMS)
        if not ratings.labels.num_rows:
            raise BadInput(_no_rating(cohort))
        rated = Counter(ratings.labels["rater_id"].to_pylist())
        listed = "raters.csv" if source != "physiqueaa50k" else "the folder names"
        raters = settle_raters(cohort.raters, rated, experts, listed, aside)
        people = set(raters.table["rater_id"].to_pylist())
        feedback = settle_feedback(cohort.feedback, cohort.scale, resolve, people, now, aside)
        if items:
            aside.reword(*IN_ITEMS)

        write_table(ratings.labels, folder / "labels.parquet")
        write_table(ratings.preferences, folder / "preferences.parquet")
        write_table(raters.table, folder / "raters.parquet")
        write_table(feedback.table, folder / "feedback.parquet")
        write_table(check(aside.table(), "quarantine"), folder / "quarantine.parquet")
        scores = {d: ratings.labels.num_rows - ratings.labels[d].null_count for d in DIMENSIONS}
        summary = {
            "name": cohort.name,
            "simulated": cohort.simulated,
            "source": cohort.source,
            "scale": list(cohort.scale),
            "scale_from": cohort.scale_from,
            "dimensions": [d for d in DIMENSIONS if scores[d]],
            "experts_from": raters.experts_from,
            "vector": items.length if items else None,  # numbers of an item's vector; null = photos
            "notes": cohort.notes + raters.notes,
            "counts": {
                "files": items.rows if items else len(cohort.photos) + not_photos,
                "photos": index.photos,
                "duplicates": index.duplicates,
                "files_set_aside": index.set_aside + not_photos,
                "photos_without_size": index.unreadable,
                "photos_rated": pc.count_distinct(ratings.labels["photo_id"]).as_py(),
                "shards": index.shards,
                "ratings_in": ratings.rows_in,
                "ratings_out": ratings.labels.num_rows,
                "ratings_blank": ratings.blank,
                "ratings_set_aside": ratings.set_aside,
                "scores": scores,
                "preferences": ratings.preferences.num_rows,
                "experts": raters.experts,
                "users": raters.users,
                "raters_without_row": raters.without_row,
                "raters_without_ratings": raters.without_ratings,
                "feedback_in": feedback.rows_in,
                "feedback_out": feedback.table.num_rows,
                "feedback_replayed": feedback.replayed,
                "feedback_set_aside": feedback.set_aside,
                "quarantined": aside.reasons(),
            },
        }
        write_json(summary, folder / "cohort.json")
    return summary


def _no_rating(cohort: Cohort) -> str:
    """One line that says why not a single rating is left."""
    rows = cohort.ratings.num_rows
    return f"{cohort.name}: none of the {rows} ratings can be used: {_reasons(cohort.quarantine) or 'all are blank'}"


def _reasons(aside: Quarantine) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in aside.reasons().items())
