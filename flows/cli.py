"""`physique`: predict from the registry, run the pipeline, see what is registered."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_forget import forget
from flows.cli_labels import labels
from flows.cli_lineage import lineage, reproduce
from flows.cli_personal import rollback
from flows.cli_review import review
from flows.cli_up import down, up
from tasks.graph import Stage

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
    help="""**PhysiqueFlow**: personalised aesthetics assessment, from photos to personal models.

Start here:

- `dvc repro`: build everything that is stale (the first time: minutes)

- `physique predict PHOTO --user ID`: scores of any photo, with `--overlay OUT.png` for a picture

- `physique explain PHOTO --user ID`: what moved them, as a picture

- `physique ask USER`: which photos to have them rate next

- open `report/index.html`: what was found

- `physique up`: Prefect, MLflow, Ray and the review page, all in the browser

- `physique run`: the same pipeline as a Prefect flow""",
)


@app.command()
def predict(
    photos: Annotated[
        list[Path] | None, typer.Argument(metavar="[PHOTO]...", help="Image files, or a Parquet of vectors.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Whose scores; a new user's without it.")] = None,
    item: Annotated[list[str] | None, typer.Option(metavar="NAME", help="An item of a cohort of vectors.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Write the photo with its mesh here (PNG).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per photo.")] = False,
) -> None:
    """Scores of photos, or of items that are vectors, by the personal model that serves now.

    Exits with 1, and one line per photo or item at fault, when a photo cannot be read.
    """
    from tasks.faults import told
    from tasks.predict import predict_files

    with told():
        code = predict_files(photos or [], user, overlay, as_json, item)
    raise typer.Exit(code)


@app.command()
def explain(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="An image file.")],
    user: Annotated[str | None, typer.Option(help="Whose scores; a new user's without it.")] = None,
    out: Annotated[Path | None, typer.Option(help="The picture (PNG); PHOTO.explained.png without it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Which part of the photo, of the mesh and which points moved its scores, as a picture (docs/explain.md).

    Exits with 1, and one line, when the photo cannot be read.
    """
    from tasks.explain import explain_file
    from tasks.faults import told

    with told():
        code = explain_file(photo, user, out, as_json)
    raise typer.Exit(code)


@app.command()
def ask(
    user: Annotated[str, typer.Argument(metavar="USER", help="A user's id; one that is not known is a new user.")],
    count: Annotated[int, typer.Option(min=1, help="How many photos.")] = 10,
    pool: Annotated[Path | None, typer.Option(metavar="DIR", help="Photos to choose from instead of the cohort's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per photo.")] = False,
) -> None:
    """What to ask a user next: the photos whose ratings would teach most, in the order of the review page."""
    from tasks.faults import told
    from tasks.questions import ask_user

    with told():
        ask_user(user, count, pool, as_json)


@app.command()
def study(
    out: Annotated[Path, typer.Option(help="Folder for study.md, study.png and study.parquet.")] = Path("report/study"),
    counts: Annotated[str, typer.Option(help="Numbers of ratings a user has given.")] = "0,5,10,25,50,100",
    repeats: Annotated[int, typer.Option(min=1, help="Draws of ratings per count.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
) -> None:
    """PAA+ against fine-tuning one generic model, on users and photos that no model has seen (docs/study.md)."""
    from tasks.faults import told
    from tasks.study_cohort import study_cohort

    with told():
        try:
            numbers = tuple(int(count) for count in counts.split(","))
        except ValueError:
            raise ValueError(f"--counts: {counts!r}; right are whole numbers with commas, as in 0,10,50") from None
        study_cohort(out, numbers, repeats, seed)


@app.command()
def run(
    target: Annotated[Stage, typer.Option(help="A stage of dvc.yaml; it and what it needs are run.")] = "all",
    force: Annotated[bool, typer.Option(help="Run also what is up to date.")] = False,
    nightly: Annotated[bool, typer.Option("--nightly", help="The nightly job, now.")] = False,
) -> None:
    """The pipeline as a Prefect flow: stale stages run, the others show as cached."""
    from flows.nightly import nightly as nightly_flow
    from flows.pipeline import pipeline
    from tasks.engines import engines
    from tasks.faults import told
    from tasks.stage import cancelled

    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
    with told(), engines(), cancelled(nightly_flow if nightly else pipeline) as flow:
        done = flow() if nightly else flow(stage=target, force=force)
    for stage, state in done.items():
        typer.echo(f"{stage:12} {state}")


@app.command("personal-full")
def personal_full(user: Annotated[str, typer.Argument(metavar="USER", help="A user of the bank.")]) -> None:
    """Train a whole network for one user, from their expert on (docs/methods.md), and register it."""
    from flows.personal_full import personal_full as flow
    from tasks.engines import engines
    from tasks.faults import told

    with told(), engines():
        typer.echo(flow(user))


weights = typer.Typer(no_args_is_help=True, help="Weights of others: official checkpoints, CLIP, Swin-V2, SMPLer-X.")
app.add_typer(weights, name="weights")


@weights.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="A PhysiqueFrame or SMPLer-X checkpoint, CLIP ViT-L/14, or a Swin-V2-B.")],
    register: Annotated[str | None, typer.Option(metavar="ID", help="Register it as physique-expert-ID.")] = None,
    compat: Annotated[str, typer.Option(help="fixed, or reference: with the reference's quirks.")] = "fixed",
    folder: Annotated[Path, typer.Option(help="Where the converted files go.")] = Path("data/weights"),
) -> None:
    """Check a file key by key and convert it to safetensors; nothing in it is executed."""
    from tasks.faults import told
    from tasks.weights import import_file, register_frame, summary

    with told():
        about = import_file(file, folder, compat)
        typer.echo(summary(about))
        if register is not None:
            made = register_frame(about, register)
            typer.echo(f"registered {made['name']} version {made['version']}")


@weights.command("check")
def check_weights() -> None:
    """Which licensed files params.yaml names, whether they load, what stands in for the others, who publishes them.

    Exits with 1 when a file that is named cannot be used.
    """
    from tasks.faults import told
    from tasks.licensed import check_all, lines

    with told():
        from rich.console import Console

        found = check_all()
        for line in lines(found):
            Console().print(line, soft_wrap=True, highlight=False)
    raise typer.Exit(int(any(each.broken for each in found)))


@weights.command("export")
def export_weights(
    name: Annotated[str, typer.Argument(help="FOLDER/NAME of an imported frame, or models:/physique-expert-ID@champion.")],
    out: Annotated[Path, typer.Argument(help="The file to write.")],
) -> None:
    """Write a frame back in the official layout of 1,131 keys."""
    from tasks.faults import told
    from tasks.weights import export_file

    with told():
        typer.echo(f"{out}: {export_file(name, out)} keys")


app.command()(up)
app.command()(down)
app.command()(rollback)
app.command()(forget)
app.command()(lineage)
app.command()(reproduce)
app.add_typer(labels, name="labels")
app.add_typer(review, name="review")


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
