"""What MLflow keeps beside models: runs, their cards and sources, examples of what a model is asked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.forget.artifacts import all_runs, local_copy, local_models, remote_models
from tasks.forget.target import Target
from tasks.tables import write_text


def runs(target: Target, count: Any) -> None:
    """Runs of the person alone (`personal-full`) are deleted; of runs of many their cards, and the name in sources."""
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    from tasks.provenance import SOURCE

    client = MlflowClient()
    experiments = [each.experiment_id for each in client.search_experiments()]
    for run in all_runs(client, experiments):
        if run.data.params.get("user") == target.id and run.data.tags.get("physique.stage") == "personal-full":
            client.delete_run(run.info.run_id)
            count("runs")
        repository = get_artifact_repository(run.info.artifact_uri)
        kept = {each.path for each in repository.list_artifacts()}
        cards = {Path(each.path).name for each in repository.list_artifacts("cards")} if "cards" in kept else set()
        for name in cards.intersection(target.models):
            repository.delete_artifacts(f"cards/{name}")
            count("model cards")
        if SOURCE in kept:
            with local_copy(run.info.artifact_uri, SOURCE, write=True) as folder:
                count("files of runs", _nameless(target, sorted(folder.rglob("*")) if folder is not None else []))


def examples(target: Target, count: Any) -> None:
    """Text beside a bundle that names it: examples of what a model is asked, as they once were."""
    for place in [*((each / "artifacts").as_uri() for each in local_models()), *remote_models()]:
        with local_copy(place, "", write=True) as folder:
            if folder is not None:
                count("examples", _nameless(target, [*folder.glob("*.json"), *folder.glob("code/model/*.py")]))


def _nameless(target: Target, paths: Iterable[Path]) -> int:
    """Take the name out of files of text; out of how many."""
    changed = 0
    for path in paths:
        if path.is_file() and target.in_bytes(path.read_bytes()):
            write_text(target.without_name(path.read_text(encoding="utf-8", errors="replace")), path)
            changed += 1
    return changed
