"""The artifacts of a pipeline run and of a night: what ran and why, what serves now, where to read on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tasks.report.words import duration

REASONS = 3
"""Reasons of a stage that are listed."""


@dataclass(frozen=True)
class Ran:
    """A stage of a run: how it ended, why it ran, how long it took."""

    stage: str
    state: str
    message: str
    seconds: float


def pipeline_page(done: list[Ran], reports: list[tuple[str, str]], left: list[str]) -> str:
    """Markdown. reports: (title, page) of the artifacts that the stages published. left: stages that were not come to."""
    failed = [ran for ran in done if ran.state not in ("Completed", "Cached")]
    ran = [each for each in done if each.state == "Completed"]
    if failed:
        head = f"**{failed[0].stage} failed.** {' '.join(failed[0].message.split())[:600]}"
        head += "\n\nWhat was finished before is kept. When the cause is mended, run it again: it goes on from there."
    elif left:
        head = f"**Ended from outside while {left[0]} ran.** What is finished is kept: run it again, it goes on."
    else:
        head = f"{len(ran)} of {len(done)} stages ran, {len(done) - len(ran)} were up to date."
    lines = ["# Pipeline", "", head, "", "| stage | | took | why |", "|---|---|---:|---|"]
    for each in done:
        why = " ".join(each.message.split()).removeprefix(f"{each.stage} ran: ").replace("|", "\\|")
        shown = "" if each.state == "Cached" else reasons(why)
        lines.append(f"| {each.stage} | {each.state} | {duration(each.seconds)} | {shown} |")
    return "\n".join([*lines, *links(reports), "", *serving()])


def night_page(said: str, missed: list[str], reports: list[tuple[str, str]]) -> str:
    """Markdown: what a night did, in a sentence; the pages of its stages; what serves. missed: nights it stands for too."""
    late = f"\n\nIt stands for {len(missed)} more that were missed: {', '.join(missed)}." if missed else ""
    return "\n".join(["# Nightly", "", f"{said[0].upper()}{said[1:]}.{late}", *links(reports), "", *serving()])


def links(reports: list[tuple[str, str]]) -> list[str]:
    """Markdown lines with these pages, if there are any."""
    return ["", "**What came of it:** " + " · ".join(f"[{title}]({page})" for title, page in reports)] if reports else []


def reasons(why: str) -> str:
    """Why a stage ran, in a cell: paths that changed, without DVC's heads."""
    all_ = [reason.removeprefix("changed deps: ").removeprefix("changed outs: ") for reason in why.split("; ")]
    more = f", {len(all_) - REASONS} more" if len(all_) > REASONS else ""
    return ", ".join(all_[:REASONS])[:160] + more


def serving() -> list[str]:
    """Markdown lines: which version of every registered model serves now, with links where MLflow has pages."""
    from mlflow import MlflowClient

    from tasks.registry import CHAMPION, use_tracking

    use_tracking()
    client = MlflowClient()
    rows = []
    for model in client.search_registered_models(filter_string="name LIKE 'physique-%'"):
        version = model.aliases.get(CHAMPION)
        if version is not None:
            rows.append(f"| {model_link(model.name)} | {version_link(model.name, str(version))} |")
    if not rows:
        return ["No model is registered yet."]
    report = Path("report/index.html")
    where = [f"The whole report: `{report.resolve()}`"] if report.is_file() else []
    return [f"| model | serves (`{CHAMPION}`) |", "|---|---|", *rows, "", *where]


def mlflow_page() -> str:
    """Address of MLflow's pages; '' where there is no server."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    return f"{address.rstrip('/')}/#" if address.startswith("http") else ""


def model_link(name: str) -> str:
    """A registered model's page as Markdown, or its name."""
    return f"[{name}]({mlflow_page()}/models/{name})" if mlflow_page() else f"`{name}`"


def version_link(name: str, version: str) -> str:
    """A version's page as Markdown, or its number."""
    page = f"{mlflow_page()}/models/{name}/versions/{version}"
    return f"[version {version}]({page})" if mlflow_page() else f"version {version}"


def reports_since(began: float, besides: str = "pipeline") -> list[tuple[str, str]]:
    """(name, page) of the artifacts published since, but for one's own `besides`; seconds since 1970."""
    from datetime import UTC, datetime

    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_UI_URL

    base, then = PREFECT_UI_URL.value(), datetime.fromtimestamp(began, UTC)
    if not base:
        return []
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/latest/filter", json={"sort": "UPDATED_DESC", "limit": 100}).json()
    fresh = [each for each in reversed(found) if each.get("key") and datetime.fromisoformat(each["updated"]) >= then]
    return [(each["key"], f"{base}/artifacts/key/{each['key']}") for each in fresh if each["key"] != besides]
