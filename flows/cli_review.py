"""`physique review`: the page where experts and users review, and its rounds (docs/review.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

review = typer.Typer(no_args_is_help=True, help="The page where experts and users review (docs/review.md).")


@review.command("serve")
def serve_review(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8321,
    data: Annotated[Path, typer.Option(help="Where cohort/, mesh/ and body/ lie.")] = Path("data"),
) -> None:
    """Serve the page. The store is PHYSIQUE_REVIEWS, else .physique/reviews.db."""
    from review.command import serve
    from tasks.faults import told

    with told():
        serve(host, port, data)


@review.command("invite")
def invite_reviewer(
    person: Annotated[str, typer.Argument(metavar="ID")],
    role: Annotated[str, typer.Option(help="expert or user.")],
    days: Annotated[float, typer.Option(help="How long the link opens.")] = 30,
    base_url: Annotated[str, typer.Option(help="Where the page is served.")] = "http://127.0.0.1:8321",
) -> None:
    """Print a personal link, this once: only a hash of it is kept."""
    from review.command import link
    from tasks.faults import told

    with told():
        typer.echo(link(person, role, days, base_url))


@review.command("revoke")
def revoke_reviewer(person: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Make all links of a person useless. Their answers stay."""
    from tasks.faults import told
    from tasks.printable import counted
    from tasks.reviews import open_store, revoke

    with told():
        typer.echo(f"{counted(revoke(open_store(), person), 'link')} revoked")


@review.command("progress")
def review_progress() -> None:
    """Per round and expert, how much is reviewed."""
    from review.command import progress
    from tasks.faults import told

    with told():
        for line in progress():
            typer.echo(line)


@review.command("round")
def review_round() -> None:
    """Look whether enough of the open round is reviewed: then close it and open the next, or train after the last."""
    from flows.pipeline import pipeline
    from flows.rounds import look
    from tasks.engines import engines
    from tasks.faults import told

    with told():
        if look().over:
            with engines():
                pipeline(stage="evaluate")


@review.command("offer")
def offer_to_users(
    user: Annotated[str | None, typer.Argument(metavar="[ID]", help="One user; without it all who are invited.")] = None,
    photos: Annotated[int, typer.Option(min=1, help="How many each gets, the most telling first.")] = 20,
) -> None:
    """Offer users predictions of their personal models to review."""
    from tasks.faults import told
    from tasks.offers import offer_predictions
    from tasks.printable import counted
    from tasks.reviews import open_store

    with told():
        for person, count in offer_predictions(open_store(), photos, user):
            typer.echo(f"{person:24} {counted(count, 'photo')}")


@review.command("demo")
def review_demo(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8321,
    data: Annotated[Path, typer.Option(help="Where cohort/, mesh/ and body/ lie.")] = Path("data"),
    store: Annotated[Path, typer.Option(help="Its own store.")] = Path(".physique/review_demo.db"),
) -> None:
    """Open a small round of the built cohort for one expert and one user, print their links, and serve it."""
    from review.command import demo
    from tasks.faults import told

    with told():
        demo(port, data, store)
