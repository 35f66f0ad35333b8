"""Letting a registered version serve, whatever kind of model it is, and a page that says what that changed."""

from __future__ import annotations

from typing import Any

from tasks.intake.quarantine import BadInput
from tasks.pipeline_page import model_link, version_link
from tasks.registry import CHAMPION, PERSONAL, promote, use_tracking


def serves(name: str) -> str:
    """The version that serves now; '' if none does.

    Raises:
        BadInput: nothing of that name is registered.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    use_tracking()
    try:
        return str(MlflowClient().get_registered_model(name).aliases.get(CHAMPION, ""))
    except MlflowException:
        found = MlflowClient().search_registered_models(filter_string="name LIKE 'physique-%'")
        known = ", ".join(model.name for model in found) or "none; run the pipeline first"
        raise BadInput(f"no model is registered as {name!r}; there are {known}") from None


def let_serve(name: str, version: str) -> tuple[str, str]:
    """Give a version the alias `champion`; the versions that served before and do now.

    A version of all users' bank also becomes what the next night starts from (`tasks.rollback`).

    Raises:
        BadInput: there is no such model or version. ValueError: the next night could not go on from that bank.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from tasks.rollback import rollback_to

    before = serves(name)
    try:
        MlflowClient().get_model_version(name, version)
    except MlflowException:
        there = sorted(int(each.version) for each in MlflowClient().search_model_versions(f"name = '{name}'"))
        raise BadInput(f"{name} has no version {version}; there are {', '.join(map(str, there))}") from None
    if name == PERSONAL:
        rollback_to(version)
    else:
        promote(name, version)
    return before, version


def compared(name: str, before: str, after: str) -> list[str]:
    """Markdown rows: metrics that both versions' runs have, side by side."""
    then, now = metrics_of(name, before) if before else {}, metrics_of(name, after)
    lines = [f"| metric | version {before or '–'} | version {after} |", "|---|---:|---:|"]
    for key in sorted(now.keys() | then.keys()):
        lines.append(f"| {key} | {_shown(then.get(key))} | {_shown(now.get(key))} |")
    return lines if len(lines) > 2 else []


def metrics_of(name: str, version: str) -> dict[str, float]:
    """Metrics that were logged of a version: those of its run that carry its name, else all of its run."""
    from mlflow import MlflowClient

    client = MlflowClient()
    run = client.get_model_version(name, version).run_id
    found: dict[str, Any] = dict(client.get_run(run).data.metrics) if run else {}
    own = {key.removeprefix(f"{name}."): value for key, value in found.items() if key.startswith(f"{name}.")}
    return own or found


def promotion_page(title: str, name: str, before: str, after: str) -> str:
    """What serves now, what did, and both in numbers."""
    served = f"{version_link(name, before)} served before" if before else "nothing served before"
    lines = [f"# {title}", "", f"{model_link(name)}: {version_link(name, after)} serves now, {served}.", ""]
    return "\n".join([*lines, *compared(name, before, after)])


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}"
