"""Personal banks around their training jobs: settings in, one registered model for all users out."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.lineage import Plan
from tasks.params import Params
from tasks.tables import read_json, read_table, write_json

CONTENT = "bank.sha256"
"""Tag of a model version: the hash of its bank's content."""


def said_of_photos(pretrain: Path) -> dict[str, str]:
    """Where the personal loops find what the model base says of each photo."""
    return {
        "predictions": str((pretrain / "predictions.parquet").resolve()),
        "features": str((pretrain / "features.parquet").resolve()),
    }


LORA = {"method", "rank", "pull"}
"""Settings of `finetune` that say what method lora does."""


def lora_config(cohort: Path, mesh: Path, embeddings: Path, pretrain: Path, params: Params) -> dict[str, Any]:
    """What `tasks.lora` needs to know; nothing where another method is chosen."""
    if params.finetune.method != "lora":
        return {}
    paths = {"models": pretrain / "models", "mesh": mesh, "embeddings": embeddings, "photos": cohort / "photos"}
    paths |= {"pixels": Path(".physique/pixels")}
    return {name: str(path.resolve()) for name, path in paths.items()} | params.finetune.model_dump(include=LORA)


def finetune_settings(cohort: Path, pretrain: Path, out: Path, params: Params) -> dict[str, Any]:
    """Config of `finetune_loop`."""
    settings = params.finetune
    return said_of_photos(pretrain) | {
        "labels": str((cohort / "labels.parquet").resolve()),
        "raters": str((cohort / "raters.parquet").resolve()),
        "out": str(out.resolve()),
        "prior_share": settings.prior_users,
        "fused_axes": settings.fused,
        "iterations": settings.iterations,
        "confidence": settings.confidence,
        "min_ratings": settings.min_ratings,
    }


def night_rule(params: Params) -> dict[str, Any]:
    """Settings that decide what a night makes of a bank."""
    settings = params.continual
    return {
        "forget": list(settings.forget),
        "confidence": settings.confidence,
        "min_ratings": params.finetune.min_ratings,
    } | (params.finetune.model_dump(include=LORA) if params.finetune.method == "lora" else {})


def night_settings(cohort: Path, pretrain: Path, first: Path, todo: Plan, out: Path, params: Params) -> dict[str, Any]:
    """Config of `continual_loop`."""
    paths = {"bank": todo.start / "bank", "first": first / "bank", "out": out}
    paths |= {"labels": cohort / "labels.parquet", "raters": cohort / "raters.parquet"}
    return said_of_photos(pretrain) | night_rule(params) | {
        **{name: str(path.resolve()) for name, path in paths.items()},
        "nights": [str(path.resolve()) for path in todo.nights],
        "earlier": [str(path.resolve()) for path in todo.earlier],
    }


def register_bank(
    folder: Path, stage: str, summary: str, pretrain: Path, body: Path, meshnet: Path, params: Params, *before: Path
) -> dict[str, Any]:
    """Register the bank in `folder` as `physique-personal` and note its version in the stage's summary.

    before: folders of the banks that this one was made from.
    A bank that is registered already, by a run that was killed later on, is not registered again.
    """
    from model.bank_opened import content_hash, open_bank
    from model.predictor import write_bundle
    from tasks.ancestry import parents_of
    from tasks.descriptions import describe
    from tasks.registry import HOLD, PERSONAL, photo_reader, promote, register, registered_with, stage_run

    facts, content = read_json(folder / summary), content_hash(folder / "bank")
    known = registered_with(PERSONAL, CONTENT, content)
    if known is not None:
        if not os.environ.get(HOLD):
            promote(PERSONAL, known["version"])
        write_json(facts | {"registered": known}, folder / summary)
        return facts | {"registered": known}
    about = [read_json(file)["about"] | {"file": file.stem} for file in sorted((pretrain / "models").glob("*.json"))]
    settings = getattr(params, stage).model_dump()
    with stage_run(stage, settings) as run_id, TemporaryDirectory() as temporary:
        bundle = write_bundle(
            Path(temporary) / "bundle",
            reader=photo_reader(pretrain / "models", body, meshnet, params),
            models=pretrain / "models",
            files={each["rater"]: each["file"] for each in about},
            dimensions=about[0]["dimensions"],
            bank=folder / "bank",
        )
        metrics = {key: float(value) for key, value in facts.items() if isinstance(value, (int, float))}
        # Entries passed the gate one by one, so the bank they are in serves from now on.
        about_bank = {"bank.stage": stage, CONTENT: content} | parents_of(pretrain, *before)
        version = register(PERSONAL, bundle, stage, metrics=metrics, about=about_bank, champion=True)
        count = len(open_bank(folder / "bank"))
        describe(version, "\n".join([f"Made by `{stage}`: personal models of {count:,} users.", "", *decisions(facts)]))
    write_json(facts | {"mlflow_run": run_id, "registered": version}, folder / summary)
    return facts | {"registered": version}


def keep_bank(folder: Path, summary: str, before: Path) -> dict[str, Any]:
    """Note that the bank of the folder `before` goes on serving: a night that changes nothing registers nothing."""
    then = next(before / name for name in ("continual.json", "finetune.json") if (before / name).exists())
    facts = read_json(folder / summary) | {"registered": read_json(then)["registered"]}
    write_json(facts, folder / summary)
    return facts


def bank_page(title: str, facts: dict[str, Any], users: Path) -> str:
    """A page for Prefect: what the gate decided, by reason, and the model that serves now."""
    version = facts["registered"]
    lines = [f"# {title}", "", f"Serving: `{version['name']}` version {version['version']}", ""]
    return "\n".join([*lines, *decisions(facts), "", f"{len(read_table(users)):,} entries in `{users}`"])


def decisions(facts: dict[str, Any]) -> list[str]:
    """What the gate decided, by dimension and reason, and what was set aside, as lines of Markdown."""
    lines = ["| dimension | decision | entries |", "|---|---|---:|"]
    for dimension, reasons in facts.get("entries", {}).items():
        lines += [f"| {dimension} | {reason} | {count:,} |" for reason, count in reasons.items()]
    if facts.get("reason"):
        lines += ["", facts["reason"]]
    if facts.get("set_aside"):
        lines += ["", "Set aside: " + ", ".join(f"{why} ({n:,})" for why, n in facts["set_aside"].items())]
    return lines
