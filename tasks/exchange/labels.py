"""`physique labels`: drafts to another annotation tool, and what experts made of them back into the house.

Notable: raters are named by a map, a CSV of `annotator,rater_id`, and must be raters of the cohort, so that no typing
error makes a new person of one; what cannot be used goes to data/imported/quarantine.parquet, the rest is imported.
Test: `uv run pytest tests/tasks/test_exchange_*.py`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from tasks.exchange.annotations import read_annotations
from tasks.exchange.drafts import photo_finder, photo_names, read_drafts
from tasks.exchange.history import FOLDER, append
from tasks.exchange.label_studio import write_project
from tasks.exchange.sheet import read_sheet, write_sheet
from tasks.intake.csv_file import read_csv
from tasks.intake.quarantine import BadInput, Quarantine, as_lines
from tasks.schemas import check
from tasks.tables import read_table, write_table

FORMATS = ("label-studio", "csv")
COHORT = Path("data/cohort")
DRAFTS = Path("artifacts/pretrain/pseudo.parquet")


@dataclass
class Imported:
    """What came of an import."""

    read: int
    """Annotations, or rows of the spreadsheet."""
    usable: int
    added: int
    """Of the usable ones, those that were not there yet."""
    quarantine: pa.Table


def export_labels(
    form: str, out: Path, images: str | None = None, cohort: Path = COHORT, drafts: Path = DRAFTS
) -> tuple[int, dict[str, Path]]:
    """Write the drafts of a cohort in the layout of `form` (FORMATS); how many, and what was written.

    images: address of the photos for Label Studio; None = a folder of them is written beside `out`.
    Raises BadInput (one line); nothing was written.
    """
    _ask_for_format(form)
    if out.is_dir():
        raise BadInput(f"--out: {out} is a folder; name the file to write")
    if images is not None and form == "csv":
        raise BadInput("--images: a spreadsheet shows no photos; leave it out, or take --format label-studio")
    found = read_drafts(cohort, drafts)
    if form == "csv":
        write_sheet(found, photo_finder(photo_names(cohort)), out)
        return len(found), {"spreadsheet": out}
    return len(found), write_project(found, cohort, out, images)


def import_labels(
    path: Path,
    form: str,
    people: Path | None = None,
    round: int | None = None,
    cohort: Path = COHORT,
    folder: Path = FOLDER,
    now: datetime | None = None,
) -> Imported:
    """Add the revised labels of a file in the layout of `form` to folder/labels.parquet.

    people: the map `annotator,rater_id`; a spreadsheet may do without. round: of review; None = what the tasks say, else 1.
    Raises BadInput (one line) where the file is of no use; folder/ is then as it was.
    """
    _ask_for_format(form)
    if round is not None and not 0 <= round < 2**31:
        raise BadInput(f"--round: {round} is not a round; give 0 or more")
    if form == "label-studio" and people is None:
        raise BadInput("--map: is missing; name a CSV of annotator,rater_id (e-mail or number in Label Studio, rater here)")
    quarantine = Quarantine()
    rater_of = _rater_finder(people, cohort, quarantine)
    read = read_annotations if form == "label-studio" else read_sheet
    rows, count = read(path, rater_of, photo_finder(photo_names(cohort)), now or datetime.now(UTC), quarantine, round)
    added = append(rows, folder)
    table = check(quarantine.table(), "quarantine")
    write_table(table, folder / "quarantine.parquet")
    return Imported(count, rows.num_rows, added, table)


def report(done: Imported) -> list[str]:
    """What came of an import, a line each: the counts, then what was set aside."""
    counts = f"{done.read} read, {done.usable} usable, {done.added} of them new; {done.quarantine.num_rows} findings"
    return [counts, *as_lines(done.quarantine, unit="task")]


def _ask_for_format(form: str) -> None:
    if form not in FORMATS:
        raise BadInput(f"--format: {form!r} is unknown; it is one of {', '.join(FORMATS)}")


def _rater_finder(people: Path | None, cohort: Path, quarantine: Quarantine) -> Callable[[list[str]], str | None]:
    """A function from what somebody is called to their rater_id: by the map, or without one by the rater_id itself."""
    if not (cohort / "raters.parquet").is_file():
        raise BadInput(f"{cohort}: holds no raters.parquet; `dvc repro cohort` makes one")
    known = set(read_table(cohort / "raters.parquet", ["rater_id"])["rater_id"].to_pylist())
    raters = {rater_id.casefold(): rater_id for rater_id in known} if people is None else {}
    if people is not None:
        for row in read_csv(people, people.name, quarantine, required=("annotator", "rater_id")).to_pylist():
            name, rater_id = row["annotator"].casefold(), row["rater_id"]
            if not name:
                quarantine.add(people.name, row["line"], "annotator", "blank annotator", rater_id)
            elif rater_id not in known:
                quarantine.add(people.name, row["line"], "rater_id", "unknown rater", rater_id)
            elif raters.setdefault(name, rater_id) != rater_id:
                quarantine.add(people.name, row["line"], "annotator", "annotator is listed already", row["annotator"])
    return lambda names: next((raters[name.casefold()] for name in names if name.casefold() in raters), None)
