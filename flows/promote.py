"""What serves: let a version serve, or take one back.

uv run physique up                          then: promote or rollback → Run in the Prefect UI
uv run physique rollback user-0001          the same as a command
"""

from contextlib import nullcontext

from prefect import flow

from tasks.once import in_turn
from tasks.promotion import let_serve, promotion_page, serves
from tasks.registry import PERSONAL
from tasks.rollback import rollback_user
from tasks.stage import publish


@flow
def promote(version: int, model: str = PERSONAL) -> str:
    """Let a registered version serve: it takes the alias *champion*, and services load it from now on.

    An earlier version works as well: that takes back all that came since. Of `physique-personal` the next night goes on
    from it, and no rating is lost.

    Args:
        version: Its number in the registry.
        model: physique-personal, or physique-expert-ID, as MLflow's Models page shows it.
    """
    with in_turn("promotion") if model == PERSONAL else nullcontext():  # from whose bank a night goes on
        before, after = let_serve(model, str(version))
    publish("promote", promotion_page("Promoted", model, before, after))
    return f"{model}: version {after} serves, {before or 'none'} did"


@flow
def rollback(user: str) -> str:
    """Let one user's personal entry before their last promotion serve again, as a new version of `physique-personal`.

    No rating is lost; a new entry has to beat the one that serves from now on.

    Args:
        user: Whose last promotion is taken back. Nobody else is touched.
    """
    with in_turn("rollback"):
        before = serves(PERSONAL)
        made = rollback_user(user)
    publish("rollback", promotion_page(f"Taken back: {user}", PERSONAL, before, made["version"]))
    return f"{made['name']} version {made['version']} serves"
