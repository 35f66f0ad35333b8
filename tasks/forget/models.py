"""MLflow: every version that holds somebody, their own models, runs, cards and whatever else names them.

    user      their entry leaves the bank of every version ever registered, older ones too; their own models go
    expert    their own models go; of `physique-personal` the version that serves calls them `forgotten-…` and is `stale`
              until the next run replaces it, every other one that holds their network goes
    photo     the ratings of it that low-rank entries keep go; versions that learned from it are `stale`

A version that learned from somebody without holding them carries the tag `stale`, which says why; `pretrain` and what
follows make new ones, since what they read has changed. A service has a bank in memory until it loads the model again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.forget.artifacts import delete_artifacts, local_copy, local_models, local_roots, remote_models, remote_runs
from tasks.forget.logged import examples, runs
from tasks.forget.target import Target

STALE = "stale"
REPLACED = "forget.until"
"""Tag of a version that has to go as soon as another one serves."""
BEHIND = "MLFLOW_BACKEND_STORE_URI"
"""Environment variable by which `mlflow server` is told its database; it is searched here, where it can be reached."""
_BUNDLE = "artifacts/bundle"


class Models:
    """As one of the places of `tasks.forget.run.places`."""

    name = "MLflow"

    def find(self, target: Target) -> list[str]:
        """Rows of the database, its bytes, and every file of every artifact."""
        from tasks.forget.databases import traces
        from tasks.forget.search import in_file, in_folder
        from tasks.registry import use_tracking

        use_tracking()
        found, engine = [], database()
        if engine is not None:
            found += traces(engine, target)
            if engine.dialect.name == "sqlite":
                files = [Path(f"{engine.url.database}{end}") for end in ("", "-wal", "-journal")]
                found += [f"{path}: {what}" for path in files if path.is_file() for what in in_file(path, target)]
        for root in local_roots():
            found += in_folder(root, target)
        for place in [*remote_models(), *remote_runs()]:
            with local_copy(place, "") as folder:
                found += [f"{place}: {what}" for what in in_folder(folder, target)]
        return found

    def remove(self, target: Target) -> dict[str, int]:
        """Take it out of artifacts first, then out of the database."""
        from tasks.forget.databases import erase, write_anew
        from tasks.registry import use_tracking

        use_tracking()
        counts: dict[str, int] = {}

        def count(what: str, more: int = 1) -> None:
            counts[what] = counts.get(what, 0) + more

        _own_models(target, count)
        _banks(target, count)
        examples(target, count)
        runs(target, count)
        engine = database()
        if engine is not None:
            counts |= {f"rows of {name}": rows for name, rows in erase(engine, target).items()}
            write_anew(engine)
        return {what: number for what, number in counts.items() if number}


@contextmanager
def directly() -> Iterator[None]:
    """MLflow's store without the server that `physique up` has put before it, whose log would say who was looked for."""
    import mlflow

    from tasks.stack.parts import MLFLOW
    from tasks.stack.running import running

    up, given = running(), os.environ.get("MLFLOW_TRACKING_URI")
    if up is None or MLFLOW not in up.parts or given != up.mlflow:
        yield
        return
    del os.environ["MLFLOW_TRACKING_URI"]
    try:
        yield
    finally:
        os.environ["MLFLOW_TRACKING_URI"] = given
        mlflow.set_tracking_uri(given)


def database() -> Any:
    """SQLAlchemy's engine of the tracking database, behind a server that of MLFLOW_BACKEND_STORE_URI; None without one."""
    import mlflow
    import sqlalchemy as sa

    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        uri = os.environ.get(BEHIND, "")
    if uri.startswith("sqlite"):
        path = sa.make_url(uri).database
        return sa.create_engine(uri, connect_args={"timeout": 60}) if path and Path(path).is_file() else None
    return sa.create_engine(uri) if uri.startswith(("postgresql", "mysql", "mssql")) else None


def elsewhere() -> str:
    """The address of an MLflow server whose database cannot be reached from here; '' where there is none."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    return "" if "://" not in uri or database() is not None else uri


def drop_replaced() -> int:
    """Delete versions that `physique forget` left only until another one serves; how many."""
    from mlflow import MlflowClient

    from tasks.registry import CHAMPION, PERSONAL, use_tracking

    use_tracking()
    client, count = MlflowClient(), 0
    for version in client.search_model_versions(f"name = '{PERSONAL}' and tags.`{REPLACED}` = 'replaced'"):
        if CHAMPION not in client.get_model_version(PERSONAL, version.version).aliases:
            _delete_version(PERSONAL, version)
            count += 1
    return count


def _own_models(target: Target, count: Any) -> None:
    from mlflow import MlflowClient

    client = MlflowClient()
    for name in target.models:
        versions = client.search_model_versions(f"name = '{name}'")
        for version in versions:
            delete_artifacts(version.source)
            count("versions of their own models")
        for place in local_models():  # logged, never registered: a run was killed in between
            if _name_of(place) == name:
                shutil.rmtree(place)
        if versions or any(model.name == name for model in client.search_registered_models(f"name = '{name}'")):
            client.delete_registered_model(name)


def _banks(target: Target, count: Any) -> None:
    """Every bundle with a bank in it, and what its version says from now on."""
    from mlflow import MlflowClient

    from model.bank_opened import content_hash
    from tasks.banks import CONTENT
    from tasks.forget.databases import NOBODY
    from tasks.forget.scrub import rename_expert, scrub_bank, settled, taught_prior
    from tasks.registry import CHAMPION, PERSONAL

    client = MlflowClient()
    found = client.search_model_versions(f"name = '{PERSONAL}'")  # which tells no aliases
    versions = {each.source: client.get_model_version(PERSONAL, each.version) for each in found}
    sources = dict.fromkeys([*versions, *(f"models:/{place.name}" for place in local_models())])
    for source in sources:
        version, held, serving = versions.get(source), False, False
        try:
            with local_copy(source, _BUNDLE, write=True) as bundle:
                if bundle is None:
                    continue
                settled(bundle)
                if not (bundle / "bank").is_dir():  # somebody's own network; it may say which expert it began with
                    count("bundles renamed", rename_expert(bundle, target, NOBODY) if target.kind == "expert" else 0)
                    continue
                if target.kind == "expert":
                    held = _expert_in(bundle, target)
                    serving = version is not None and CHAMPION in version.aliases
                    if held and serving:  # marks first: who is killed here finds the name again, and no mark otherwise
                        client.set_model_version_tag(PERSONAL, version.version, REPLACED, "replaced")
                        rename_expert(bundle, target, _alias(target))
                        count("versions that no longer name them")
                else:
                    if version is not None and taught_prior(bundle / "bank", target):
                        _stale(PERSONAL, version.version, "its prior was learned from users of whom one was forgotten")
                    changed = scrub_bank(bundle / "bank", target)
                    count("entries of banks", changed)
                    if changed and version is not None:
                        client.set_model_version_tag(PERSONAL, version.version, CONTENT, content_hash(bundle / "bank"))
        except ValueError:  # a bank of an older format, which nobody can take apart any more
            held, serving = True, False
        if held and not serving:
            if version is not None:
                _delete_version(PERSONAL, version)
            else:
                delete_artifacts(source)
            count("versions that were deleted")
    if target.kind != "user":
        learned = "a forgotten expert" if target.kind == "expert" else "labels of a forgotten photo"
        names = [model.name for model in client.search_registered_models(filter_string="name LIKE 'physique-%'")]
        for name in names:
            for version in client.search_model_versions(f"name = '{name}'"):
                _stale(name, version.version, f"it learned from {learned}")
                count("versions marked as stale")


def _stale(name: str, version: str, why: str) -> None:
    from mlflow import MlflowClient

    MlflowClient().set_model_version_tag(name, version, STALE, why)


def _expert_in(bundle: Path, target: Target) -> bool:
    from tasks.tables import read_json

    files = (bundle / "bundle.json", bundle / "bank" / "bank.json")
    return any(target.id in read_json(path).get("models", ()) for path in files)


def _alias(target: Target) -> str:
    """What an expert is called until the next run; the same in all files, also when a second call has to finish them."""
    from tasks.forgotten import read_forgotten

    line = read_forgotten().line_of("person", target.id)
    return f"forgotten-{line[2][:8] if line else 'expert'}"


def _delete_version(name: str, version: Any) -> None:
    from mlflow import MlflowClient

    delete_artifacts(version.source)
    MlflowClient().delete_model_version(name, version.version)


def _name_of(place: Path) -> str | None:
    """Whose own model a folder of artifacts is."""
    from tasks.registry import expert_model
    from tasks.tables import read_json

    path = place / "artifacts" / _BUNDLE / "bundle.json"
    about = read_json(path) if path.is_file() else {}
    if about.get("personal") or len(about.get("models", {})) != 1:
        return None
    return expert_model(next(iter(about["models"])))
