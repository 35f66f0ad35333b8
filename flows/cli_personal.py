"""`physique rollback`: what serves somebody, or everybody, taken back (tasks/rollback.py)."""

from __future__ import annotations

from typing import Annotated

import typer


def rollback(
    user: Annotated[str | None, typer.Argument(metavar="USER", help="Whose last promotion is taken back.")] = None,
    to: Annotated[str | None, typer.Option(metavar="VERSION", help="This version serves all again.")] = None,
) -> None:
    """Serve what served before: one user's entry before their last promotion, or a whole earlier version.

    No rating is lost; the next night goes on from what is served then.
    """
    from tasks.faults import told
    from tasks.intake.quarantine import BadInput
    from tasks.once import in_turn
    from tasks.rollback import rollback_to, rollback_user

    with told():
        if (user is None) == (to is None):
            raise BadInput("rollback: name a USER, or --to VERSION for everybody")
        with in_turn("rollback"):
            made = rollback_user(user) if user is not None else rollback_to(str(to))
    what = f"{user}: the entry before their last promotion" if user is not None else "all entries as they were"
    typer.echo(f"{what}; serving: {made['name']} version {made['version']}")
