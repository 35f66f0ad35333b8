"""`physique forget`: a person or a photo out of everything, and the proof (docs/forget.md)."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def forget(
    name: Annotated[str, typer.Argument(metavar="USER|EXPERT|PHOTO", help="An id; of a photo its name or file will do.")],
    kind: Annotated[
        Literal["user", "expert", "photo"] | None, typer.Option(help="What it is, where the name does not say.")
    ] = None,
    source: Annotated[
        bool, typer.Option("--source", help="Delete rows and files in your own cohort folder too, not only say which.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say where it is.")] = False,
) -> None:
    """Remove a person or a photo from data, models, caches and databases, and prove that nothing is left.

    Exits with 1 when something is left, with 3 when a server keeps a database that was not searched. Killed or not, it may
    be run again.
    """
    from tasks.faults import told
    from tasks.forget.report import lines
    from tasks.forget.run import forget as run

    with told():
        done = run(name, kind, source, dry_run, say=lambda text: typer.echo(text, err=True))
        for line in lines(done, dry_run):
            typer.echo(line)
    if not dry_run:
        raise typer.Exit(1 if not done.clean else 3 if done.unsearched else 0)
