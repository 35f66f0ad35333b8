"""`physique labels`: drafts to other tools and back (docs/exchange.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

labels = typer.Typer(no_args_is_help=True, help="Drafts to Label Studio or a spreadsheet, and back (docs/exchange.md).")

Format = Annotated[
    Literal["label-studio", "csv"] | None, typer.Option("--format", help="Layout; else as the file's name and content say.")
]
Cohort = Annotated[Path, typer.Option(help="The cohort whose photos and raters are meant.")]


@labels.command("export")
def export_labels(
    out: Annotated[Path, typer.Option(help="The file to write; for Label Studio more is written beside it.")],
    form: Format = None,
    images: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Where the photos are served; without it a folder is written.")
    ] = None,
    cohort: Cohort = Path("data/cohort"),
    drafts: Annotated[Path, typer.Option(help="Labels of origin pseudo.")] = Path("artifacts/pretrain/pseudo.parquet"),
) -> None:
    """Write the drafts for experts to revise."""
    from tasks.exchange.labels import export_labels as export
    from tasks.faults import told
    from tasks.printable import counted

    with told():
        count, written = export(form, out, images, cohort, drafts)
    typer.echo(counted(count, "draft"))
    for what, path in written.items():
        typer.echo(f"{what:12} {path}")


@labels.command("import")
def import_labels(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Label Studio's JSON or JSON-MIN, or a CSV.")],
    form: Format = None,
    people: Annotated[Path | None, typer.Option("--map", help="CSV of annotator,rater_id.")] = None,
    review_round: Annotated[int | None, typer.Option("--round", help="Of review; else as exported.")] = None,
    cohort: Cohort = Path("data/cohort"),
    out: Annotated[Path, typer.Option(help="Where imported labels are kept.")] = Path("data/imported"),
) -> None:
    """Add revised labels to data/imported; what cannot be used is set aside and told. Nothing in the file is executed."""
    from tasks.exchange.labels import import_labels as take
    from tasks.exchange.labels import report
    from tasks.faults import told

    with told():
        done = take(file, form, people, review_round, cohort, out)
        for line in report(done):
            typer.echo(line)
