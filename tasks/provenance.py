"""Where a result comes from: the git commit, the DVC hashes of its inputs, the Prefect run, the versions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SOURCE = "source"
"""Folder of an MLflow run's artifacts: what the stage rested on, for `physique reproduce`."""
PATCH_BYTES = 20 * 2**20
"""What is not committed is kept up to this size."""
PACKAGES = ("prefect", "ray", "torch", "timm", "smplx", "dvc", "pyarrow", "mlflow")


def git_commit(folder: Path = Path()) -> str:
    """The commit that is checked out, with `+changes` when tracked files differ; '' outside a repository."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False
        ).stdout.strip()

    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock")
    return commit + ("+changes" if commit and changed else "")


def dvc_hashes(stage: str, folder: Path = Path()) -> dict[str, str]:
    """What DVC knows of a stage's inputs: {path: md5} of the outputs of other stages that they are, or lie in."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe")
    lock_file = folder / "dvc.lock"
    lock = (yaml.load(lock_file.read_text()) or {}) if lock_file.exists() else {}
    known = {out["path"]: out["md5"] for s in lock.get("stages", {}).values() for out in s.get("outs", [])}
    deps = lock.get("stages", {}).get(stage, {}).get("deps", [])
    wanted = yaml.load((folder / "dvc.yaml").read_text())["stages"].get(stage, {}).get("deps", [])
    paths = [w for w in wanted if isinstance(w, str)] or [dep["path"] for dep in deps]
    places = [next((p for p in (path, *map(str, Path(path).parents)) if p in known), None) for path in paths]
    return {place: known[place] for place in places if place is not None}


def prefect_run() -> dict[str, str]:
    """Id, name and page of the Prefect flow run this is called in; {} outside of one."""
    from prefect.context import FlowRunContext
    from prefect.settings import PREFECT_UI_URL

    from tasks.stack.running import running

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return {}
    run = context.flow_run
    lasts = bool(os.environ.get("PREFECT_API_URL")) or running() is not None  # else the server ends with its `dvc repro`
    page = f"{PREFECT_UI_URL.value()}/runs/flow-run/{run.id}" if lasts and PREFECT_UI_URL.value() else ""
    return {"id": str(run.id), "name": run.name, "url": page}


def versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def keep_source() -> None:
    """Keep with the current MLflow run what git may not have: the settings, DVC's hashes, what is not committed."""
    import mlflow

    with TemporaryDirectory() as folder:
        for name in ("params.yaml", "dvc.lock", *_uncached()):
            if Path(name).is_file():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(name, Path(folder) / name)
        changes = subprocess.run(
            ["git", "diff", "HEAD", "--binary", "--", ".", ":!dvc.lock", ":!params.yaml"], capture_output=True, check=False
        ).stdout
        if len(changes) <= PATCH_BYTES:
            (Path(folder) / "changes.patch").write_bytes(changes)
        mlflow.log_artifacts(folder, SOURCE)


def _uncached() -> list[str]:
    """Outputs that DVC's cache does not have: figures, which are few bytes."""
    from ruamel.yaml import YAML

    file = Path("dvc.yaml")
    stages = YAML(typ="safe").load(file.read_text())["stages"].values() if file.is_file() else ()
    metrics = [each for stage in stages for each in stage.get("metrics", []) if isinstance(each, dict)]
    return [path for each in metrics for path, how in each.items() if not how.get("cache", True)]


def tags(stage: str) -> dict[str, str]:
    """What every MLflow run and model version of a stage is tagged with."""
    run = prefect_run()
    found: dict[str, Any] = {"physique.stage": stage, "git.commit": git_commit()}
    found |= {f"dvc.{path}": md5 for path, md5 in dvc_hashes(stage).items()}
    found |= {f"prefect.{key}": value for key, value in run.items() if value}
    return {key: str(value) for key, value in found.items() if value}
