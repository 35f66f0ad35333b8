"""Where something comes from: model version ↔ MLflow run ↔ Prefect run ↔ DVC hashes ↔ git commit ↔ parents.

Everything is read off what the stages logged (`tasks.provenance.tags`, the tag `parents` of `tasks.banks`), so it holds for
versions whose files are gone too.

    uv run physique lineage models:/physique-personal@champion
    uv run physique lineage user-0001                            also: an expert, a photo, an MLflow run, a Prefect run
    uv run pytest tests/tasks/test_ancestry.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.intake.quarantine import BadInput
from tasks.tables import read_json, read_shards, read_table

PARENTS = "parents"
"""Tag of a version: `NAME/VERSION` of the versions that it was made from."""


@dataclass
class Version:
    """A registered version and where it comes from."""

    name: str
    version: str
    aliases: list[str]
    stage: str
    commit: str
    run: str
    prefect: str
    dvc: dict[str, str]
    parents: list[str]
    about: dict[str, str] = field(default_factory=dict)
    """Tags beside these: whose it is, whether it is stale, the hash of its bank."""


def version_of(name: str, version: str) -> Version:
    """What is known of a version.

    Raises:
        LookupError: there is none.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        found = MlflowClient().get_model_version(name, version)
    except MlflowException:
        raise LookupError(f"lineage: {name} has no version {version}; `physique models` lists what there is") from None
    tags = dict(found.tags)
    dvc = {key.removeprefix("dvc."): tags.pop(key) for key in sorted(tags) if key.startswith("dvc.")}
    prefect = [tags.pop(f"prefect.{part}", "") for part in ("name", "id", "url")]
    return Version(
        name, str(version), sorted(found.aliases), tags.pop("physique.stage", ""), tags.pop("git.commit", ""),
        found.run_id or "", " ".join(part for part in prefect[:2] if part), dvc, tags.pop(PARENTS, "").split(), tags,
    )  # fmt: skip


def chain(name: str, version: str) -> Iterator[tuple[int, Version]]:
    """(generation, version) of a version and all that it was made from, each once; what is gone is left out."""
    seen, queue = set(), [(0, name, version)]
    while queue:
        depth, name, version = queue.pop(0)
        if (name, version) in seen:
            continue
        seen.add((name, version))
        try:
            found = version_of(name, version)
        except LookupError:
            if depth == 0:
                raise
            continue
        yield depth, found
        queue += [(depth + 1, *parent.rsplit("/", 1)) for parent in found.parents]


def lineage(name: str, data: Path = Path("data")) -> dict[str, Any]:
    """What `name` is, what is known of it, and the chains of the versions that have to do with it.

    name: models:/NAME@ALIAS, models:/NAME/VERSION, the id of an MLflow or a Prefect run, of a user, an expert or a photo.

    Raises:
        LookupError, BadInput: there is no such thing.
    """
    from tasks.registry import use_tracking

    use_tracking()
    if name.startswith("models:/"):
        return {"what": "model version", "chains": [_chain(*parsed(name))]}
    if re.fullmatch(r"[0-9a-f]{32}", name):
        return _of_run(name)
    if re.fullmatch(r"[0-9a-f-]{36}", name):
        return _of_prefect(name)
    for of in (_of_person, _of_photo):
        if (found := of(name, data)) is not None:
            return found
    raise BadInput(f"lineage: {name} is no models:/NAME@ALIAS, run, user, expert or photo that is known here")


def parsed(uri: str) -> tuple[str, str]:
    """Name and version of models:/NAME@ALIAS or models:/NAME/VERSION. Raises BadInput, LookupError."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    found = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if found is None:
        raise BadInput(f"lineage: {uri} is no model; right are models:/NAME@ALIAS and models:/NAME/VERSION")
    name, alias, version = found.groups()
    if version is None:
        try:
            version = MlflowClient().get_model_version_by_alias(name, alias).version
        except MlflowException:
            raise LookupError(f"lineage: no {name}@{alias}; `physique models` lists what there is") from None
    return name, str(version)


def _chain(name: str, version: str) -> list[dict[str, Any]]:
    return [{"generation": depth, **asdict(found)} for depth, found in chain(name, version)]


def _of_run(run_id: str) -> dict[str, Any]:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    try:
        run = client.get_run(run_id)
    except MlflowException:
        raise LookupError(f"lineage: MLflow has no run {run_id}") from None
    made = client.search_model_versions(f"run_id = '{run_id}'")
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    return {
        "what": "MLflow run", "name": run.info.run_name, "tags": tags, "params": dict(run.data.params),
        "chains": [_chain(each.name, str(each.version)) for each in made],
    }  # fmt: skip


def _of_prefect(run_id: str) -> dict[str, Any]:
    import mlflow

    which = f"tags.`prefect.id` = '{run_id}'"
    runs = mlflow.search_runs(search_all_experiments=True, filter_string=which, output_format="list")
    if not runs:
        raise LookupError(f"lineage: no MLflow run was made by the Prefect run {run_id}")
    return _of_run(runs[0].info.run_id) | {"what": "Prefect run", "mlflow": runs[0].info.run_id}


def _of_person(name: str, data: Path) -> dict[str, Any] | None:
    """A user: their entry in the bank that serves. An expert: their model."""
    from model.bank_opened import open_bank
    from model.gate import REASONS
    from model.scores import DIMENSIONS
    from tasks.registry import CHAMPION, PERSONAL, champion, expert_model

    try:
        return {"what": "expert", "chains": [_chain(*parsed(f"models:/{expert_model(name)}@{CHAMPION}"))]}
    except LookupError:
        pass
    try:
        bundle, version = champion(PERSONAL)
    except LookupError:
        return None
    bank = open_bank(bundle / "bank")
    if int(bank.index([name])[0]) < 0:
        return None
    part = bank.part([name])
    entry = {
        "expert": bank.basis.experts[int(part.expert[0])],
        "promotions": int(part.version[0]),
        "prior learned from them": not bool(part.judged[0]),
        "ratings": dict(zip(DIMENSIONS, part.ratings[0].tolist())),
        "gate": {name: REASONS[reason] for name, reason in zip(DIMENSIONS, part.reason[0].tolist())},
        "nights with something of theirs": _nights(data, "user_id", name),
    }
    return {"what": "user", "entry": entry, "chains": [_chain(PERSONAL, version)]}


def _of_photo(name: str, data: Path) -> dict[str, Any] | None:
    """A photo: its rows, and the versions that were made from a cohort like the one here."""
    from mlflow import MlflowClient

    from tasks.provenance import dvc_hashes
    from tasks.registry import CHAMPION

    photos = data / "cohort" / "photos"
    if not photos.is_dir():
        return None
    rows = read_shards(photos, ["photo_id", "name"]).to_pylist()
    ids = {row["photo_id"] for row in rows if name in (row["photo_id"], row["name"])}
    if len(ids) != 1:
        return None
    (photo,) = ids
    labels = read_table(data / "cohort" / "labels.parquet", ["photo_id", "rater_id"]).to_pylist()
    about = {"photo_id": photo, "names": [row["name"] for row in rows if row["photo_id"] == photo]}
    about["raters"] = sum(row["photo_id"] == photo for row in labels)
    for folder, column in (("mesh", "extractor"), ("embeddings", "encoder")):
        made = read_shards(data / folder, ["photo_id", column]).to_pylist() if (data / folder).is_dir() else []
        about[column] = sorted({row[column] for row in made if row["photo_id"] == photo})
    about["nights with something of it"] = _nights(data, "photo_id", photo)
    here, client = dvc_hashes("pretrain").get("data/cohort"), MlflowClient()
    learned = []
    for model in client.search_registered_models(filter_string="name LIKE 'physique-%'"):
        version = model.aliases.get(CHAMPION)
        tags = client.get_model_version(model.name, version).tags if version is not None else {}
        if version is not None and here in (None, tags.get("dvc.data/cohort")):
            learned.append(_chain(model.name, str(version)))
    return {"what": "photo", "entry": about, "chains": learned}


def _nights(data: Path, column: str, value: str) -> list[str]:
    from tasks.nights import night_paths

    return [path.stem for path in night_paths(data / "nights") if value in read_table(path, [column])[column].to_pylist()]


def parents_of(pretrain: Path, *before: Path) -> dict[str, str]:
    """The tag of a bank made from the experts in `pretrain` and from the banks in the folders `before`."""
    summaries = [folder / name for folder in before for name in ("continual.json", "finetune.json")]
    made = [read_json(path).get("registered") for path in summaries if path.is_file()]
    path = pretrain / "pretrain.json"
    made += list(read_json(path)["experts"].values()) if path.is_file() else []
    named = [f"{each['name']}/{each['version']}" for each in made if each]
    return {PARENTS: " ".join(dict.fromkeys(named))} if named else {}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """As a person reads it."""
    yield found["what"] + (f" {found['name']}" if found.get("name") else "")
    for part in ("entry", "tags", "params"):
        yield from (f"  {key:32} {_said(value)}" for key, value in found.get(part, {}).items())
    told: set[str] = set()
    for versions in found["chains"]:
        for each in versions:
            title = f"{each['name']} version {each['version']}"
            indent = "  " * each["generation"]
            if title in told:
                yield f"{indent}{title}: see above"
                continue
            told.add(title)
            yield f"{indent}{title}" + (f" ({', '.join(each['aliases'])})" if each["aliases"] else "")
            facts = {"stage": each["stage"], "git commit": each["commit"], "MLflow run": each["run"]}
            facts |= {"Prefect run": each["prefect"]} | {f"DVC {path}": md5 for path, md5 in each["dvc"].items()}
            facts |= each["about"] | {"made from": ", ".join(each["parents"])}
            yield from (f"{indent}  {key:32} {value}" for key, value in facts.items() if value)


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
