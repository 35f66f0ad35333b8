"""`physique lineage`: where a model, a person's entry, a photo or a run comes from (tasks/ancestry.py)."""

from __future__ import annotations

import json
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
