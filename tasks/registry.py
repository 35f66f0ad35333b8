"""MLflow: one run per stage, `physique-expert-<id>` per expert, `physique-personal` for the bank.

Without MLFLOW_TRACKING_URI everything lies in `mlflow.db` and `mlartifacts/` of the current folder, which
is what a plain `mlflow ui` opens.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.predictor import PhotoReader
    from tasks.params import Params

PERSONAL = "physique-personal"
CHAMPION, CHALLENGER = "champion", "challenger"
HOLD, HELD = "PHYSIQUE_HOLD", "physique.held"
"""Environment variable: new versions do not serve until somebody has decided (tasks/approval.py). Tag of such versions."""
EXPERIMENT = "physique"
SERVED = Path(__file__).with_name("served.py")
REQUIREMENTS = ["mlflow", "torch", "timm", "smplx", "safetensors", "numpy", "pandas", "pillow", "scipy",
                "opencv-python-headless<5"]  # fmt: skip


def photo_reader(models: Path, body: Path, meshnet: Path, params: Params) -> PhotoReader | None:
    """What the photos of the frames in `models` are read with; None where they read vectors."""
    from model.predictor import PhotoReader
    from model.vector_frame import SIZE
    from tasks.bodies import body_file
    from tasks.mesh_table import mesh_recipe
    from tasks.tables import read_json

    if any(read_json(path)["config"]["size"] == SIZE for path in sorted(models.glob("*.json"))[:1]):
        return None
    recipe = mesh_recipe(body, meshnet, params.mesh)
    return PhotoReader(recipe, body_file(body)[1], params.embed.encoder, params.embed.weights)


def expert_model(rater_id: str) -> str:
    """Registered name of an expert's model."""
    return registered_name("physique-expert-", rater_id)


def registered_name(prefix: str, rater_id: str) -> str:
    """Name of somebody's own model; characters that MLflow refuses become `-`."""
    return prefix + re.sub(r"[^A-Za-z0-9_.-]", "-", rater_id)


def use_tracking() -> None:
    """Point MLflow at MLFLOW_TRACKING_URI, else the server that `physique up` was given, else this folder's own store."""
    # Our artifacts are local copies of a few files: a bar of them is noise, whoever wants it may set it to true.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Artifacts on S3: without these a store that refuses for seven seconds ends the stage; with them it may for a minute.
    os.environ.setdefault("AWS_RETRY_MODE", "standard")
    os.environ.setdefault("AWS_MAX_ATTEMPTS", "15")
    import mlflow

    from tasks.stack.running import given_mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        given = given_mlflow()
        mlflow.set_tracking_uri(given or "sqlite:///mlflow.db")
        if not given and mlflow.get_experiment_by_name(EXPERIMENT) is None:
            mlflow.create_experiment(EXPERIMENT, artifact_location=Path("mlartifacts").resolve().as_uri())
    mlflow.set_experiment(EXPERIMENT)


@contextmanager
def quietly() -> Iterator[None]:
    """MLflow without its progress bars, hints and 'successfully registered'; its errors are raised all the same."""
    with redirect_stderr(io.StringIO()):
        yield


def example(length: int | None = None) -> Any:
    """What a model is asked: one row, a picture of 32×32 px in base64, or a vector of `length` zeros."""
    import pandas as pd
    from PIL import Image

    if length is not None:
        return pd.DataFrame({"user_id": ["somebody"], "vector": [[0.0] * length]})
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), (128, 128, 128)).save(picture, "JPEG")
    return pd.DataFrame({"user_id": ["somebody"], "image": [base64.b64encode(picture.getvalue()).decode()]})


@contextmanager
def stage_run(stage: str, params: dict[str, Any]) -> Iterator[str]:
    """An MLflow run of a stage, tagged with where it comes from; yields its id, says at the end what it registered."""
    import mlflow

    from tasks.provenance import keep_source, tags

    use_tracking()
    with mlflow.start_run(run_name=stage, tags=tags(stage)) as run:
        mlflow.log_params(params)
        with quietly():
            keep_source()
        yield run.info.run_id
    said = registered_line(run.info.run_id)
    if said:
        print(said, file=sys.stderr)


def registered_line(run_id: str) -> str:
    """What a run registered, in one line however many models it is; '' when nothing."""
    from mlflow import MlflowClient

    made = MlflowClient().search_model_versions(f"run_id = '{run_id}'")
    names = sorted(f"{each.name} version {each.version}" for each in made)
    more = f" … {names[-1]} ({len(names)} models)" if len(names) > 1 else ""
    return f"registered {names[0]}{more}" if names else ""


def register(
    name: str, bundle: Path, stage: str, *, metrics: dict[str, float], about: dict[str, str], champion: bool
) -> dict[str, Any]:
    """Log a bundle as a model of the current run and register it; name, version and uri.

    The new version is the `challenger`; with `champion`, or as the first of its name, it takes that alias, unless that is
    to be decided by somebody (`HOLD`). A version comes with its tags or not at all, and aliases move last: what is killed
    in between serves as before.
    """
    import mlflow
    from mlflow import MlflowClient
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    from model.scores import DIMENSIONS
    from tasks.descriptions import describe_model
    from tasks.provenance import tags
    from tasks.tables import read_json

    class NotAsked(Model):
        """MLflow loads a model that has an input example and asks it, seconds each; tests/test_registry.py does that."""

        def get_serving_input(self, path: str) -> None:
            return None

    length = read_json(bundle / "bundle.json").get("vector")
    asked = ColSpec("string", "image") if length is None else ColSpec(Array(DataType.double), "vector")
    columns = [ColSpec("string", "user_id", required=False), asked]
    answers = [ColSpec("double", d) for d in DIMENSIONS]
    answers += [ColSpec("boolean", "known_user"), ColSpec("string", "status"), ColSpec("string", "error")]
    with quietly():
        info = NotAsked.log(
            artifact_path=None,
            name=name,
            flavor=mlflow.pyfunc,
            python_model=str(SERVED),
            artifacts={"bundle": str(bundle)},
            code_paths=[str(SERVED.parent.parent / "model")],
            signature=ModelSignature(Schema(columns), Schema(answers)),
            input_example=example(length),
            pip_requirements=REQUIREMENTS,
        )
        for key, value in metrics.items():
            mlflow.log_metric(f"{name}.{key}", value)
        hold = {HELD: "yes"} if champion and os.environ.get(HOLD) else {}
        made = mlflow.register_model(info.model_uri, name, tags=tags(stage) | about | hold)
    client = MlflowClient()
    version = str(made.version)
    if version == "1":
        describe_model(name, length)
    client.set_registered_model_alias(name, CHALLENGER, version)
    if (champion and not hold) or CHAMPION not in client.get_registered_model(name).aliases:
        promote(name, version)
    return {"name": name, "version": version, "uri": f"models:/{name}/{version}"}


def registered_with(name: str, key: str, value: str) -> dict[str, Any] | None:
    """The newest version of a model that carries this tag: name, version and uri; None if there is none."""
    from mlflow import MlflowClient

    use_tracking()
    found = MlflowClient().search_model_versions(f"name = '{name}' and tags.`{key}` = '{value}'")
    if not found:
        return None
    version = str(max(int(each.version) for each in found))
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
    return champion(name)[0]


def champion(name: str) -> tuple[Path, str]:
    """The champion's bundle as `champion_bundle` gives it, and its version.

    Raises:
        LookupError: nothing of that name has the alias yet.
    """
    import mlflow
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    use_tracking()
    try:
        version = MlflowClient().get_model_version_by_alias(name, CHAMPION).version
        with quietly():
            folder = mlflow.artifacts.download_artifacts(f"models:/{name}/{version}")
    except MlflowException as error:
        why = str(error).splitlines()[0][:120]
        raise LookupError(f"no {name}@{CHAMPION} in the registry ({why}); run `dvc repro` first") from None
    return Path(folder) / "artifacts" / "bundle", str(version)


def listing() -> Any:
    """A table (rich) of the registered models of this project: version, aliases, stage, commit."""
    from mlflow import MlflowClient
    from rich.table import Table

    use_tracking()
    client = MlflowClient()
    table = Table(title="registered models", title_justify="left")
    for head in ("model", "version", "alias", "stage", "git commit"):
        table.add_column(head, overflow="fold")  # a narrow terminal still shows names that can be copied
    for model in client.search_registered_models(filter_string="name LIKE 'physique-%'"):
        named = {str(version): alias for alias, version in model.aliases.items()}
        for version, alias in sorted(named.items()):
            tags = client.get_model_version(model.name, version).tags
            commit, plus, _ = tags.get("git.commit", "").partition("+")  # `+`: of a tree with changes
            table.add_row(model.name, version, alias, tags.get("physique.stage"), commit[:10] + plus)
    return table
