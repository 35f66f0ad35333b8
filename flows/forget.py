"""A person or a photo out of everything, from the Prefect UI; who it is stays out of Prefect.

uv run physique up                    then: forget → Run in the Prefect UI
uv run physique forget user-0001      the same as a command (docs/forget.md)
"""

from typing import Literal

from prefect import flow, pause_flow_run
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput, delete_flow_run_input

from tasks.forget.report import page
from tasks.forget.run import forget as forget_everywhere
from tasks.intake.quarantine import BadInput
from tasks.stage import publish, say

WAIT_S = 3600
ASKED = "Id of a user or an expert; of a photo its id, its name or its file. It is removed from Prefect too."


class Who(RunInput):
    """What is asked. A parameter would stay with the run, which the search for traces would find."""

    name: str = ""


@flow
def forget(
    kind: Literal["whatever is called so", "user", "expert", "photo"] = "whatever is called so",
    own_files: bool = False,
    only_look: bool = False,
) -> str:
    """Remove a person or a photo from data, models, caches and databases, and prove that nothing is left.

    Press *Resume* on the page of the run: it asks who. Models that learned from them are marked, and made anew by the next
    run. There is no way back.

    Args:
        kind: What it is, where the name does not say.
        own_files: Delete rows and files in your own cohort folder too.
        only_look: Remove nothing, only count where they are.
    """
    say("open this run's page and press Resume: it asks who is to be forgotten")
    try:
        asked = pause_flow_run(wait_for_input=Who.with_initial_data(description=ASKED), timeout=WAIT_S, poll_interval=2)
    except FlowPauseTimeout:
        return "nobody said who; nothing was done"
    delete_flow_run_input(asked.metadata.key)  # also where nothing is removed Prefect does not keep who was meant
    if not asked.name.strip():
        raise ValueError("forget: no name was given; nothing was done")
    which = None if kind == "whatever is called so" else kind
    name = asked.name.strip()
    try:
        done = forget_everywhere(name, which, own_files, only_look, say=say)
    except BadInput as error:  # whose words Prefect keeps
        raise BadInput(str(error).replace(name, "what was given")) from None
    publish("forget", page(done, only_look))
    if not only_look and not done.clean:
        raise RuntimeError("forget: something is left; on the machine, `physique forget` with the name says what and where")
    return "found" if only_look else "forgotten"
