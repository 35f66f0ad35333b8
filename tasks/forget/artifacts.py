"""Files of MLflow's models, wherever they lie: found, read, changed and deleted.

In folders of this machine all of them are seen, those too that were logged and never registered, or whose version was
deleted; elsewhere (S3, a server) those of registered versions.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlparse


def delete_artifacts(source: str) -> None:
    """The logged model behind a version, and all its files."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    location = location_of(source) if source.startswith("models:/") else None  # else files that are not MLflow's own
    if location is None:
        return
    local = local_path(location)
    if local is not None:
        shutil.rmtree(local.parent if local.name == "artifacts" else local, ignore_errors=True)
    else:
        get_artifact_repository(location).delete_artifacts("")
    try:
        MlflowClient().delete_logged_model(source.removeprefix("models:/"))
    except MlflowException:
        return  # of an older MLflow, or deleted already


def location_of(source: str) -> str | None:
    """Where the files of a source (`models:/m-…`) lie; None when that is gone."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    if not source.startswith("models:/"):
        return source
    for root in local_roots():
        if (place := root / "models" / source.removeprefix("models:/") / "artifacts").is_dir():
            return place.as_uri()
    try:
        return MlflowClient().get_logged_model(source.removeprefix("models:/")).artifact_location
    except MlflowException:
        return None


def local_path(location: str) -> Path | None:
    parsed = urlparse(location)
    if parsed.scheme in ("", "file"):
        return Path(unquote(parsed.path))
    return None


def local_roots() -> list[Path]:
    """Artifact folders of this machine, of all experiments, deleted ones too."""
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    places = [local_path(each.artifact_location) for each in MlflowClient().search_experiments(view_type=ViewType.ALL)]
    return sorted({place for place in places if place is not None and place.is_dir()})


def local_models() -> list[Path]:
    return [place for root in local_roots() for place in sorted(root.glob("models/m-*")) if place.is_dir()]


def remote_models() -> list[str]:
    """Locations of the versions' files that lie elsewhere."""
    from mlflow import MlflowClient

    client = MlflowClient()
    places = set()
    for model in client.search_registered_models(filter_string="name LIKE 'physique-%'"):
        places |= {location_of(version.source) for version in client.search_model_versions(f"name = '{model.name}'")}
    return sorted(place for place in places if place and local_path(place) is None)


def remote_runs() -> list[str]:
    """Locations of the runs' own files that lie elsewhere."""
    from mlflow import MlflowClient

    client = MlflowClient()
    experiments = [each.experiment_id for each in client.search_experiments()]
    places = {run.info.artifact_uri for run in all_runs(client, experiments)}
    return sorted(place for place in places if local_path(place) is None)


def all_runs(client: Any, experiments: list[str]) -> Iterator[Any]:
    """Every run of these experiments, deleted ones too."""
    from mlflow.entities import ViewType

    token = None
    while experiments:
        page = client.search_runs(experiments, run_view_type=ViewType.ALL, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def local_copy(source: str, part: str, write: bool = False) -> Iterator[Path | None]:
    """A part of a source's files as a folder here; None when it has none. Elsewhere: what `write` changed goes back."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    location = location_of(source)
    if location is None:
        yield None
        return
    local = local_path(location)
    if local is not None:
        yield local / part if (local / part).is_dir() else None
        return
    repository = get_artifact_repository(location)
    with TemporaryDirectory() as temporary:
        folder = Path(repository.download_artifacts(part, temporary))
        before = _contents(folder) if write else {}
        yield folder
        after = _contents(folder) if write else {}
        for name, data in after.items():
            if before.get(name) != data:
                repository.log_artifact(str(folder / name), (Path(part) / name).parent.as_posix())
        for name in before.keys() - after.keys():
            repository.delete_artifacts((Path(part) / name).as_posix())


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
