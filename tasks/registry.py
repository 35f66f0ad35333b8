"""MLflow: one run per stage, `physique-expert-<id>` per expert, `physique-personal` for the bank.

Without MLFLOW_TRACKING_URI everything lies in `mlflow.db` and `mlartifacts/` of the current folder, which
is what a plain `mlflow ui` opens.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PERSONAL = "physique-personal"
CHAMPION, CHALLENGER = "champion", "challenger"
EXPERIMENT = "physique"
SERVED = Path(__file__).with_name("served.py")
REQUIREMENTS = ["mlflow", "torch", "timm", "smplx", "safetensors", "numpy", "pandas", "pillow", "scipy",
                "opencv-python-headless<5"]  # fmt: skip


def expert_model(rater_id: str) -> str:
    """Registered name of an expert's model; characters that MLflow refuses become `-`."""
    return "physique-expert-" + re.sub(r"[^A-Za-z0-9_.-]", "-", rater_id)


def use_tracking() -> None:
    """Point MLflow at MLFLOW_TRACKING_URI, or at this folder's own store."""
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri("sqlite:///mlflow.db")
        if mlflow.get_experiment_by_name(EXPERIMENT) is None:
            mlflow.create_experiment(EXPERIMENT, artifact_location=Path("mlartifacts").resolve().as_uri())
    mlflow.set_experiment(EXPERIMENT)


@contextmanager
def stage_run(stage: str, params: dict[str, Any]) -> Iterator[str]:
    """An MLflow run of a stage, tagged with where it comes from; yields its id."""
    import mlflow

    from tasks.provenance import tags

    use_tracking()
    with mlflow.start_run(run_name=stage, tags=tags(stage)) as run:
        mlflow.log_params(params)
        yield run.info.run_id


def register(
    name: str, bundle: Path, stage: str, *, metrics: dict[str, float], about: dict[str, str], champion: bool
) -> dict[str, Any]:
    """Log a bundle as a model of the current run and register it; name, version and uri.

    The new version is the `challenger`; with `champion`, or as the first of its name, it takes that alias.
    """
    import mlflow
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    from model.scores import DIMENSIONS
    from tasks.provenance import tags

    columns = [ColSpec("string", "user_id", required=False), ColSpec("string", "image")]
    answers = [ColSpec("double", d) for d in DIMENSIONS]
    answers += [ColSpec("boolean", "known_user"), ColSpec("string", "status"), ColSpec("string", "error")]
    info = mlflow.pyfunc.log_model(
        name=name,
        python_model=str(SERVED),
        artifacts={"bundle": str(bundle)},
        code_paths=[str(SERVED.parent.parent / "model")],
        signature=ModelSignature(Schema(columns), Schema(answers)),
        pip_requirements=REQUIREMENTS,
        registered_model_name=name,
    )
    client = MlflowClient()
    version = str(info.registered_model_version)
    for key, value in (tags(stage) | about).items():
        client.set_model_version_tag(name, version, key, value)
    for key, value in metrics.items():
        mlflow.log_metric(f"{name}.{key}", value)
    client.set_registered_model_alias(name, CHALLENGER, version)
    if champion or CHAMPION not in client.get_registered_model(name).aliases:
        promote(name, version)
    return {"name": name, "version": version, "uri": f"models:/{name}/{version}"}


def promote(name: str, version: str) -> None:
    """Give a version the alias `champion`; it stops being a challenger."""
    from mlflow import MlflowClient

    client = MlflowClient()
    client.set_registered_model_alias(name, CHAMPION, version)
    if str(client.get_registered_model(name).aliases.get(CHALLENGER)) == version:
        client.delete_registered_model_alias(name, CHALLENGER)


def champion_bundle(name: str) -> Path:
    """Local folder of the champion's bundle, downloaded when the store is remote.

    Raises:
        LookupError: nothing of that name has the alias yet.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    use_tracking()
    try:
        folder = mlflow.artifacts.download_artifacts(f"models:/{name}@{CHAMPION}")
    except MlflowException as error:
        why = str(error).splitlines()[0][:120]
        raise LookupError(f"no {name}@{CHAMPION} in the registry ({why}); run `dvc repro` first") from None
    return Path(folder) / "artifacts" / "bundle"


def listing() -> Any:
    """A table (rich) of the registered models of this project: version, aliases, stage, commit."""
    from mlflow import MlflowClient
    from rich.table import Table

    use_tracking()
    client = MlflowClient()
    table = Table(title="registered models", title_justify="left")
    for head in ("model", "version", "alias", "stage", "git commit"):
        table.add_column(head)
    for model in client.search_registered_models(filter_string="name LIKE 'physique-%'"):
        named = {str(version): alias for alias, version in model.aliases.items()}
        for version, alias in sorted(named.items()):
            tags = client.get_model_version(model.name, version).tags
            table.add_row(model.name, version, alias, tags.get("physique.stage"), tags.get("git.commit", "")[:12])
    return table
