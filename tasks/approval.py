"""A person decides what serves: models are trained and registered, and a run waits in the Prefect UI for yes or no.

Versions that are made while `held` have the tag `physique.held` and no alias `champion`, but for a model's very first, as
something has to serve. `decide` shows what they would change and waits.

    uv run pytest tests/tasks/test_approval.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tasks.registry import CHALLENGER, CHAMPION, HELD, HOLD, PERSONAL, promote, use_tracking

WAIT_S = 20 * 3600
"""Less than a day: the next night finds this one gone."""


@dataclass(frozen=True)
class Waiting:
    """A version that waits for a decision, and the one that serves."""

    name: str
    version: str
    serves: str


@contextmanager
def held(wanted: bool) -> Iterator[None]:
    """While this lasts, stages (also in processes of their own) register versions without letting them serve."""
    before = os.environ.get(HOLD)
    if wanted:
        os.environ[HOLD] = "1"
    try:
        yield
    finally:
        if wanted and before is None:
            del os.environ[HOLD]


def waiting() -> list[Waiting]:
    """All that waits for a decision, also of runs that were killed before they could ask."""
    from mlflow import MlflowClient

    use_tracking()
    client, found = MlflowClient(), []
    for model in client.search_registered_models(filter_string="name LIKE 'physique-%'"):
        version, serves = (str(model.aliases.get(alias, "")) for alias in (CHALLENGER, CHAMPION))
        if version and version != serves and HELD in client.get_model_version(model.name, version).tags:
            found.append(Waiting(model.name, version, serves))
    return sorted(found, key=lambda each: each.name)


def settle(found: list[Waiting], serve: bool) -> None:
    """Carry out a decision.

    A bank that is refused is no bank to go on from: the next night starts from the one that serves.
    """
    from mlflow import MlflowClient

    from tasks.rollback import rollback_to

    for each in found:
        if serve:
            promote(each.name, each.version)
        elif each.name == PERSONAL:
            with suppress(ValueError):  # made with other experts: the next run makes all entries anew whatever is decided
                rollback_to(each.serves)
        MlflowClient().delete_model_version_tag(each.name, each.version, HELD)


def comparison(found: list[Waiting]) -> str:
    """Markdown: per model, the version that serves and the one that waits, in numbers."""
    from tasks.pipeline_page import model_link, version_link
    from tasks.promotion import compared

    lines = ["# To be decided", "", "*Resume* asks whether these are to serve. Until then what served serves.", ""]
    for each in found:
        lines += [f"## {model_link(each.name)}", ""]
        lines += [f"{version_link(each.name, each.version)} in place of {version_link(each.name, each.serves)}", ""]
        lines += [*compared(each.name, each.serves, each.version), ""]
    return "\n".join(lines)


def decide(wait: int = WAIT_S) -> str:
    """Ask, in the run's page in the Prefect UI, and do what is answered; what came of it in a line, '' if nothing waits.

    Nobody answering is a no that may be changed: the versions keep their tag, and the next run asks again.
    """
    from prefect import pause_flow_run
    from prefect.exceptions import FlowPauseTimeout
    from prefect.input import RunInput

    from tasks.once import in_turn
    from tasks.stage import publish, say

    found = waiting()
    if not found:
        return ""
    page = comparison(found)
    publish("decision", page)

    class Decision(RunInput):
        """What is asked."""

        let_them_serve: bool = False  # a switch: choices do not open with the mouse in this dialog of Prefect 3.8

    say(f"{len(found)} new versions wait for a decision: open this run's page and press Resume")
    try:
        answer = pause_flow_run(wait_for_input=Decision.with_initial_data(description=page), timeout=wait, poll_interval=3)
    except FlowPauseTimeout:
        return "nobody decided in time: what served serves on, and the next run asks again"
    yes = answer.let_them_serve
    with in_turn("decision"):
        settle(found, yes)
    names = ", ".join(f"{each.name} version {each.version if yes else each.serves}" for each in found)
    return f"decided {'for' if yes else 'against'} the new versions: {names} {'serves' if len(found) == 1 else 'serve'}"
