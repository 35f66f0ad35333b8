"""What people have reviewed so far, as a snapshot that DVC can version: `data/reviews/`.

Labels come from the store of the review page and from files imported out of other tools (`physique labels import`). The
store may be a database elsewhere, which DVC cannot see; so this runs on every `dvc repro`, and `pretrain` is stale only
when a label has come or changed.

Notable: without a store none is made, and the tables are empty. No Prefect and no Ray are started.
Command: `python -m tasks.reviewed` (data/reviews)
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa

from tasks.exchange.history import FOLDER, imported_labels
from tasks.forgotten import read_forgotten
from tasks.schemas import LABELS, check
from tasks.tables import read_json, read_table, replaced_folder, write_json, write_table

STORE = Path(".physique/reviews.db")
"""Of the review page, where PHYSIQUE_REVIEWS names no other."""


def write_reviewed(out: Path = Path("data/reviews"), store: Path = STORE, imported: Path = FOLDER) -> pa.Table:
    """Write out/labels.parquet and out/pseudo.parquet (LABELS), out/surveys.json; the labels.

    Per expert and photo the latest label counts, whichever way it came.

    Raises:
        BadInput: there is a store, but it cannot be read.
    """
    labels, drafts, surveys = [LABELS.empty_table()], [LABELS.empty_table()], {}
    if os.environ.get("PHYSIQUE_REVIEWS") or store.exists():
        from tasks.reviews import drafts_of, open_store, revised_labels, rounds, surveys_of

        engine = open_store(os.environ.get("PHYSIQUE_REVIEWS") or f"sqlite:///{store}")
        labels.append(revised_labels(engine))
        drafts += [drafts_of(engine, number) for number, _ in rounds(engine)]
        surveys = surveys_of(engine)
        engine.dispose()
    forgotten, gone = read_forgotten(), {"rater_id": "person", "photo_id": "photo"}
    found = forgotten.without(latest(pa.concat_tables([*labels, imported_labels(imported)])), **gone)
    surveys = {person: answers for person, answers in surveys.items() if not forgotten.has("person", person)}
    with replaced_folder(out) as folder:
        write_table(check(found, "labels"), folder / "labels.parquet")
        write_table(check(forgotten.without(pa.concat_tables(drafts), **gone), "labels"), folder / "pseudo.parquet")
        write_json(surveys, folder / "surveys.json")
    return found


def latest(labels: pa.Table) -> pa.Table:
    """One row per rater and photo: the one dated last (undated ones come first, else the order given), in order of id."""
    rows: dict[tuple[str, str], dict] = {}
    for row in labels.to_pylist():
        key = row["rater_id"], row["photo_id"]
        if key not in rows or rows[key]["at"] is None or (row["at"] is not None and row["at"] >= rows[key]["at"]):
            rows[key] = row
    return pa.Table.from_pylist([rows[key] for key in sorted(rows)], schema=LABELS)


def read_reviewed(folder: Path) -> tuple[pa.Table, pa.Table, dict[str, dict[str, str]]]:
    """Labels, pseudo-labels and surveys of a snapshot."""
    return (
        read_table(folder / "labels.parquet"),
        read_table(folder / "pseudo.parquet"),
        read_json(folder / "surveys.json"),
    )


if __name__ == "__main__":
    import sys

    from tasks.faults import told

    with told():
        count = len(write_reviewed())
        if count:
            print(f"reviews: {count:,} labels by experts", file=sys.stderr)
