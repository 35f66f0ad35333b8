"""`physique lineage`: where a model, a person's entry, a photo or a run comes from (tasks/ancestry.py).

`physique reproduce`: a version built again and compared (tasks/reproduce.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def lineage(
    name: Annotated[
        str, typer.Argument(metavar="WHAT", help="models:/NAME@ALIAS or /VERSION, a run's id, a user, an expert, a photo.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Model version, MLflow run, Prefect run, DVC hashes, git commit and parents, generation by generation."""
    from tasks.ancestry import lineage as trace
    from tasks.ancestry import lines
    from tasks.faults import told

    with told():
        found = trace(name)
        for line in [json.dumps(found, ensure_ascii=False)] if as_json else lines(found):
            typer.echo(line)


def reproduce(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="models:/NAME/VERSION or models:/NAME@ALIAS.")],
    keep: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Leave the checkout of then in this folder.")] = None,
) -> None:
    """Check out what a version was made from, build it again, and say whether it came out the same (exit code 1: not)."""
    from tasks.faults import told
    from tasks.reproduce import reproduce as build

    with told():
        try:
            done = build(model, lambda text: typer.echo(text, err=True), keep)
        except RuntimeError as error:
            raise SystemExit(f"physique: {error}") from None
    for line in done.packages:
        typer.echo(f"other package: {line}")
    typer.echo(f"{done.version.name} version {done.version.version} came out {done.same}")
    if not done.same.close:
        raise typer.Exit(1)
