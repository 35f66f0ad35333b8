"""`physique labels`: drafts to another annotation tool, and what experts made of them back into the house.

Notable: raters are named by a map, a CSV of `annotator,rater_id`, and must be raters of the cohort, so that no typing
error makes a new person of one; what cannot be used goes to data/imported/quarantine.parquet, the rest is imported.
Which layout a file has is read off its first character, then its ending, where `form` does not say.
Test: `uv run pytest tests/tasks/test_exchange_*.py`
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from model.scores import SCALE
from tasks.exchange.annotations import read_annotations
from tasks.exchange.drafts import photo_finder, photo_names, read_drafts
from tasks.exchange.history import FOLDER, append
from tasks.exchange.label_studio import write_project
from tasks.exchange.sheet import read_sheet, write_sheet
from tasks.forgotten import KINDS, read_forgotten
from tasks.intake.csv_file import read_csv
from tasks.intake.quarantine import BadInput, Quarantine, as_lines
from tasks.printable import counted
from tasks.schemas import check
from tasks.tables import read_table, write_table

FORMATS = ("label-studio", "csv")
COHORT = Path("data/cohort")
DRAFTS = Path("artifacts/pretrain/pseudo.parquet")
_RIGHT = {
    "not a number": f"not a number; right is {SCALE[0]:g} to {SCALE[1]:g}, or blank",
    "unknown photo": "unknown photo; right is a photo_id or name as it was exported",
    "blank photo": "blank photo; right is a photo_id or name as it was exported",
}
"""What is added to reasons that do not say what would be right."""


@dataclass
class Imported:
    """What came of an import."""

    read: int
    """Annotations, or rows of the spreadsheet."""
    usable: int
    added: int
    """Of the usable ones, those that were not there yet."""
    quarantine: pa.Table
    waiting: str
    """What nobody has filled in yet, as a line; "" = nothing."""
    path: Path
    folder: Path


def export_labels(
    form: str | None, out: Path, images: str | None = None, cohort: Path = COHORT, drafts: Path = DRAFTS
) -> tuple[int, dict[str, Path]]:
    """Write the drafts of a cohort in the layout of `form` (FORMATS; None = by the ending of `out`).

    Returns: how many, and what was written.
    images: address of the photos for Label Studio; None = a folder of them is written beside `out`.
    Raises BadInput (one line); nothing was written.
    """
    form = _asked_for(form) or ("csv" if out.suffix.lower() == ".csv" else "label-studio")
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
    form: str | None = None,
    people: Path | None = None,
    round: int | None = None,
    cohort: Path = COHORT,
    folder: Path = FOLDER,
    now: datetime | None = None,
) -> Imported:
    """Add the revised labels of a file in the layout of `form` (None = as it looks) to folder/labels.parquet.

    people: the map `annotator,rater_id`; a spreadsheet may do without. round: of review; None = what the tasks say, else 1.
    Raises BadInput (one line) where the file is of no use; folder/ is then as it was.
    """
    form = _layout(path, _asked_for(form))
    if round is not None and not 0 <= round < 2**31:
        raise BadInput(f"--round: {round} is not a round; give 0 or more")
    if form == "label-studio" and people is None:
        raise BadInput("--map: is missing; name a CSV of annotator,rater_id (e-mail or number in Label Studio, rater here)")
    quarantine = Quarantine()
    rater_of, words = _rater_finder(people, cohort, quarantine)
    names = photo_names(cohort)
    read = read_annotations if form == "label-studio" else read_sheet
    rows, count, waiting = read(path, rater_of, photo_finder(names), now or datetime.now(UTC), quarantine, round)
    quarantine.reword({}, _RIGHT | words)
    forgotten = read_forgotten()
    quarantine.leave_out(lambda text: any(forgotten.has(kind, text) for kind in KINDS))
    added = append(rows, folder)
    table = check(quarantine.table(), "quarantine")
    write_table(table, folder / "quarantine.parquet")
    return Imported(count, rows.num_rows, added, table, waiting, path, folder)


def report(done: Imported) -> list[str]:
    """What came of an import, a line each: the counts, what is not filled in, what was set aside.

    Raises BadInput (one line) where nothing of the file could be used.
    """
    if not done.usable:
        first = as_lines(done.quarantine, 1, "task")[:1]
        more = done.quarantine.num_rows - 1
        rest = [f"{more} more in {done.folder / 'quarantine.parquet'}"] if more > 0 else []
        why = "; ".join([*filter(None, [done.waiting]), *first, *rest])
        raise BadInput(f"{done.path.name}: holds no label that can be used, {done.read} read" + (f"; {why}" if why else ""))
    findings = counted(done.quarantine.num_rows, "finding")
    counts = f"{done.read} read, {done.usable} usable, {done.added} of them new; {findings}"
    return [counts, *filter(None, [done.waiting]), *as_lines(done.quarantine, unit="task")]


def _asked_for(form: str | None) -> str | None:
    """The layout that was asked for. Raises BadInput if there is none of that name."""
    if form is not None and form not in FORMATS:
        raise BadInput(f"--format: {form!r} is unknown; it is one of {', '.join(FORMATS)}")
    return form


def _layout(path: Path, asked: str | None) -> str:
    """The layout of a file. Raises BadInput where it is not there, or is plainly not what was asked for."""
    if not path.is_file():
        raise BadInput(f"{path}: {'is a folder; name a file' if path.is_dir() else 'no such file'}")
    with path.open("rb") as file:
        json = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"[", b"{")
    sheet = not json and path.suffix.lower() == ".csv"
    if asked == "csv" and json:
        raise BadInput(f"{path.name}: is JSON, not a spreadsheet; leave out --format csv")
    if asked == "label-studio" and sheet:
        raise BadInput(f"{path.name}: is a spreadsheet, not JSON; take --format csv, or leave --format out")
    return asked or ("csv" if sheet or not (json or path.suffix.lower() == ".json") else "label-studio")


def _few(names: Iterable[str]) -> str:
    """The first of some names, for a line that says what would be right."""
    shown = sorted(names)
    return ", ".join([*shown[:4], *(["..."] if len(shown) > 4 else [])])


def _rater_finder(
    people: Path | None, cohort: Path, quarantine: Quarantine
) -> tuple[Callable[[list[str]], str | None], dict[str, str]]:
    """(function from what somebody is called to their rater_id, what to say where it finds none).

    By the map, or without one by the rater_id itself.
    """
    if not (cohort / "raters.parquet").is_file():
        raise BadInput(f"{cohort}: holds no raters.parquet; `uv run dvc repro cohort` makes one")
    known = set(read_table(cohort / "raters.parquet", ["rater_id"])["rater_id"].to_pylist())
    raters = {rater_id.casefold(): rater_id for rater_id in known} if people is None else {}
    if people is not None:
        for row in read_csv(people, people.name, quarantine, required=("annotator", "rater_id")).to_pylist():
            name, rater_id = row["annotator"].casefold(), row["rater_id"]
            if not name:
                quarantine.add(people.name, row["line"], "annotator", "blank annotator", rater_id)
            elif rater_id not in known:
                quarantine.add(people.name, row["line"], "rater_id", "no rater of the cohort", rater_id)
            elif raters.setdefault(name, rater_id) != rater_id:
                quarantine.add(people.name, row["line"], "annotator", "annotator is listed already", row["annotator"])
    words = {"no rater of the cohort": f"no rater of the cohort; those are {_few(known)}"}
    if people is None:
        words["unknown rater"] = f"unknown rater; those of the cohort are {_few(known)}"
    else:
        words["unknown rater"] = f"not in the map; {people.name} lists {_few(raters) or 'nobody'}"
        absent = "annotator is not in the map"
        words[absent] = f"{absent}; add a line annotator,rater_id to {people.name}"
    return (lambda names: next((raters[name.casefold()] for name in names if name.casefold() in raters), None)), words
