"""What goes out to be revised: every photo that has a draft, with the draft's scores.

Notable: photos are named by their own files' names, which may hold anything; whoever writes them into a path, an
address or a spreadsheet makes them safe there.
Test: `uv run pytest tests/tasks/test_exchange_export.py`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from model.scores import DIMENSIONS
from tasks.intake.photos import PhotoIndex
from tasks.intake.quarantine import BadInput
from tasks.tables import read_shards, read_table, shard_paths


@dataclass
class Draft:
    """One photo and the newest draft of it."""

    photo_id: str
    name: str
    """Path inside the photos folder of the source, with /."""
    scores: dict[str, float]
    """By dimension, 0 to 10 with one decimal; a dimension without a draft is left out."""
    labeller: str
    round: int


def photo_names(cohort: Path) -> dict[str, str]:
    """Names by photo_id. Raises BadInput (one line) where there is no cohort."""
    if not shard_paths(cohort / "photos"):
        raise BadInput(f"{cohort}: holds no cohort; `uv run dvc repro cohort` makes one")
    table = read_shards(cohort / "photos", ["photo_id", "name"])
    return dict(zip(table["photo_id"].to_pylist(), table["name"].to_pylist()))


def photo_finder(names: dict[str, str]) -> Callable[[str], str | None]:
    """A function from a photo_id (with or without a suffix), or a name as people write it, to the photo_id.

    It gives None for what fits no photo.
    """
    ids = {name: photo_id for photo_id, name in names.items()}
    by_name = PhotoIndex(ids=ids).resolver()
    return lambda text: stem if (stem := text.rpartition("/")[2].partition(".")[0]) in names else by_name(text)


def read_drafts(cohort: Path, labels: Path) -> list[Draft]:
    """The newest draft (origin `pseudo`, highest round) of each photo of the cohort, in order of the photos' names.

    Raises:
        BadInput: no such file, not a table of labels, or no draft of any photo of the cohort.
    """
    names = photo_names(cohort)
    if not labels.is_file():
        raise BadInput(f"{labels}: no such file; `uv run dvc repro pretrain` writes drafts, --drafts names others")
    try:
        table = read_table(labels, ["photo_id", "rater_id", *DIMENSIONS, "origin", "round"])
    except (KeyError, pa.ArrowInvalid) as error:
        raise BadInput(f"{labels}: is no table of labels ({error})") from None
    newest: dict[str, dict] = {}
    for row in table.to_pylist():
        if row["origin"] == "pseudo" and row["photo_id"] in names:
            before = newest.setdefault(row["photo_id"], row)
            newest[row["photo_id"]] = row if row["round"] >= before["round"] else before
    if not newest:
        raise BadInput(f"{labels}: none of its {table.num_rows} rows is a draft (origin pseudo) of a photo in {cohort}")
    return [
        Draft(
            photo_id,
            names[photo_id],
            {d: round(row[d], 1) for d in DIMENSIONS if row[d] is not None},  # a step of the slider
            row["rater_id"],
            row["round"],
        )
        for photo_id, row in sorted(newest.items(), key=lambda item: names[item[0]])
    ]
