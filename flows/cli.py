"""`physique`: predict from the registry, run the pipeline, see what is registered."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
    help="""**PhysiqueFlow**: personalised aesthetics assessment, from photos to personal models.

Start here:

- `dvc repro`: build everything that is stale (the first time: minutes)

- `physique predict PHOTO --user ID`: scores of any photo, with `--overlay OUT.png` for a picture

- open `report/index.html`: what was found

- `mlflow ui`: models, versions, aliases

- `physique run`: the same pipeline as a Prefect flow""",
)


@app.command()
def predict(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Image files.")],
    user: Annotated[str | None, typer.Option(help="Whose scores; a new user's without it.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Write the photo with its mesh here (PNG).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per photo.")] = False,
) -> None:
    """Scores of photos by the personal model that serves now.

    Exits with 1, and one line per photo at fault, when a photo cannot be read.
    """
    from tasks.faults import told
    from tasks.predict import predict_files

    with told():
        code = predict_files(photos, user, overlay, as_json)
    raise typer.Exit(code)


@app.command()
def run(
    target: Annotated[str | None, typer.Option(help="A stage of dvc.yaml; it and what it needs are run.")] = None,
    force: Annotated[bool, typer.Option(help="Run also what is up to date.")] = False,
    nightly: Annotated[bool, typer.Option("--nightly", help="The nightly job, now.")] = False,
) -> None:
    """The pipeline as a Prefect flow: stale stages run, the others show as cached."""
    from flows.nightly import nightly as nightly_flow
    from flows.pipeline import pipeline
    from tasks.engines import engines
    from tasks.faults import told

    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
    with told(), engines():
        done = nightly_flow() if nightly else pipeline(target=target, force=force)
    for stage, state in done.items():
        typer.echo(f"{stage:12} {state}")


@app.command()
def models() -> None:
    """Registered models: versions, aliases, where they come from."""
    from tasks.faults import told
    from tasks.registry import listing

    with told():
        from rich.console import Console

        Console().print(listing())


def main() -> None:
    """Entry point of the command `physique`."""
    app()


if __name__ == "__main__":
    main()
