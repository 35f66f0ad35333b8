"""`physique predict` where items are vectors: items of the cohort by name, or of a Parquet file, to a table of scores."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.scores import DIMENSIONS
from tasks.intake.items import SOURCE, as_vectors, find_items, usable
from tasks.intake.photos import PhotoIndex
from tasks.intake.quarantine import Quarantine, as_lines
from tasks.printable import printable
from tasks.tables import read_table, shard_paths

NEEDED = "name items of the cohort with --item, or give a Parquet file of item and vector"
COHORT = Path("data/cohort/photos")


def predict_items(
    names: Sequence[str], files: Sequence[Path], user: str | None, as_json: bool, cohort: Path = COHORT
) -> int:
    """Print scores; the exit code: 0, or 1 when an item could not be answered (a line on stderr says why).

    Raises:
        LookupError: no champion is registered yet, or the cohort has no such item.
        ValueError: the champion reads photos, or vectors of another length.
        BadInput: a file cannot be used.
    """
    from model.predictor import Predictor
    from tasks.registry import PERSONAL, champion_bundle

    predictor = Predictor(champion_bundle(PERSONAL))
    if predictor.length is None:
        raise ValueError("the model that serves now reads photos, not vectors; give photo files")
    items, aside = named_vectors(names, cohort) if names else [], Quarantine()
    for path in files:
        found = find_items(path, aside)
        if found.length != predictor.length:
            wanted = f"the model that serves now reads length {predictor.length}"
            raise ValueError(f"{path.name}: its vectors have length {found.length}; {wanted}")
        items += usable(found, aside, PhotoIndex())
    for line in as_lines(aside.table(), unit="row"):
        print(f"physique: {line}", file=sys.stderr)
    if user is not None and int(predictor.bank.index([user])[0]) < 0:  # type: ignore[union-attr]
        print(f"physique: user {user!r} is not in the bank; answered as for a new user", file=sys.stderr)
    answers = predictor.of_vectors([vector for _, vector in items], [user] * len(items))
    if as_json:
        for (name, _), answer in zip(items, answers):
            scores = {d: round(float(s), 3) for d, s in zip(DIMENSIONS, answer.scores) if np.isfinite(s)}
            print(json.dumps({"item": name, "user": user, "known_user": bool(answer.known), "scores": scores}))
    else:
        _table([name for name, _ in items], answers, user, predictor)
    return int(any(row["reason"] != "column is not used" for row in aside.table().to_pylist()))


def named_vectors(names: Sequence[str], cohort: Path = COHORT) -> list[tuple[str, np.ndarray]]:
    """(name, vector) of items of the cohort.

    Raises:
        LookupError: the cohort has no item of that name.
    """
    wanted, found = set(names), {}
    for path in shard_paths(cohort):
        heads = read_table(path, ["name", "source"]).to_pylist()
        at = [k for k, row in enumerate(heads) if row["source"] == SOURCE and row["name"] in wanted]
        if at:
            vectors = as_vectors(read_table(path, ["bytes"])["bytes"].take(at).to_pylist())
            found |= dict(zip((heads[k]["name"] for k in at), vectors))
    for name in names:
        if name not in found:
            raise LookupError(f"--item: the cohort in {cohort.parent} has no item {name!r}")
    return [(name, found[name]) for name in names]


def _table(names: list[str], answers: list[Any], user: str | None, predictor: Any) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from tasks.predict import cells

    rated = [k for k in range(len(DIMENSIONS)) if predictor.rated[k]]
    table = Table(title=f"scores for {escape(printable(user or 'a new user'))}, 0 to 10", title_justify="left")
    table.add_column("item")
    for k in rated:
        table.add_column(DIMENSIONS[k], justify="right")
    for name, answer in zip(names, answers):
        table.add_row(escape(printable(name)), *cells(answer, rated))
    Console().print(table)
