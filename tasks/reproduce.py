"""A registered version built once more from what it says it was made from, and compared with what is registered.

A stage's MLflow run keeps what the stage rested on (`tasks.provenance.keep_source`): params.yaml, dvc.lock and what was
not committed. With the commit and DVC's cache (or remote) that is the checkout of that moment: it is made anew in a folder
of its own, with a registry of its own, and the stage runs in it. Nothing here is touched.

    uv run physique reproduce models:/physique-personal/3
    uv run pytest -m slow tests/test_lineage.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.ancestry import Version, parsed, version_of
from tasks.graph import needed_by
from tasks.intake.quarantine import BadInput
from tasks.provenance import PACKAGES, SOURCE
from tasks.same import Same, compare

STAGES = ("pretrain", "finetune", "continual")
FOLDER = Path(".physique/reproduced")
Say = Callable[[str], None]


@dataclass
class Reproduced:
    """A version, what came of building it again, and the packages that are others than then."""

    version: Version
    same: Same
    packages: list[str]


def reproduce(uri: str, say: Say, keep: Path | None = None) -> Reproduced:
    """Build a version again and compare.

    uri: models:/NAME/VERSION or models:/NAME@ALIAS. keep: a new folder, in which the checkout of then is left.

    Raises:
        BadInput, LookupError: no such version, or what it needs is not to be had; nothing is left behind.
        RuntimeError: the stage failed.
    """
    from tasks.registry import use_tracking

    use_tracking()
    version = version_of(*parsed(uri))
    if version.stage not in STAGES:
        raise BadInput(
            f"reproduce: {version.name} version {version.version} was made by {version.stage or 'hand'}; "
            f"what can be made again is what a stage has made: {', '.join(STAGES)}"
        )
    folder = (keep or FOLDER / f"{version.name}-{version.version}").resolve()
    if keep is None:
        shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
    elif folder.exists():
        raise BadInput(f"reproduce: {keep} is there already; name a folder that is not")
    try:
        packages = checked_out(version, folder, say)
        say(f"running {version.stage} in the checkout of then")
        _run(folder, "dvc", "repro", "--single-item", "--force", version.stage, say=say)
        same = compare(_bundle(version.name, version.version), _made(folder, version.name))
        return Reproduced(version, same, packages)
    finally:
        (folder / ".dvc/config.local").unlink(missing_ok=True)  # remotes as they are here, keys included
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def checked_out(version: Version, folder: Path, say: Say) -> list[str]:
    """Make the checkout that a version was made in, data included; packages that were others then, a line each."""
    source = _source(version)
    commit, _, changed = version.commit.partition("+")
    say(f"checking out {commit[:10]}" + (" with what was not committed" if changed else ""))
    _git("clone", "--quiet", "--no-checkout", str(Path.cwd()), str(folder))
    _git("-C", str(folder), "checkout", "--quiet", "--detach", commit)
    patch = source / "changes.patch"
    if not patch.is_file():
        raise LookupError(f"reproduce: {version.name} version {version.version} was made with changes too large to be kept")
    if patch.stat().st_size:
        _git("-C", str(folder), "apply", "--whitespace=nowarn", str(patch))
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("changes.patch"), dirs_exist_ok=True)
    _share_cache(folder)
    needed = [stage for stage in needed_by(version.stage, folder) if stage in _ran(folder / "dvc.lock")]
    say(f"checking out the data of {', '.join(needed)}")
    for words in (("checkout", *needed), ("pull", *needed)):
        done = _run(folder, "dvc", *words, ok=False)
        if done.returncode == 0:
            break
    else:
        lines = done.stdout.splitlines()
        begins = next((place for place, line in enumerate(lines) if line.startswith("ERROR")), len(lines))
        last = " ".join(lines[begins : begins + 2]) or "no reason given"  # the second one names what is missing
        raise LookupError(
            f"reproduce: data of {version.name} version {version.version} is neither in DVC's cache nor in its remote "
            f"({last}); what was forgotten or collected cannot be built again"
        )
    return _other_packages(folder / "uv.lock")


def _ran(lock: Path) -> set[str]:
    """Stages that had run then."""
    from ruamel.yaml import YAML

    return set((YAML(typ="safe").load(lock.read_text()) or {}).get("stages", {}))


def _source(version: Version) -> Path:
    """What the version's run has kept of what it rested on."""
    import mlflow
    from mlflow.exceptions import MlflowException

    from tasks.registry import quietly

    if not version.commit:
        raise BadInput(f"reproduce: {version.name} version {version.version} was made outside of a git repository")
    try:
        with quietly():
            return Path(mlflow.artifacts.download_artifacts(run_id=version.run, artifact_path=SOURCE))
    except (MlflowException, OSError):
        raise LookupError(
            f"reproduce: the run {version.run} of {version.name} version {version.version} kept no {SOURCE}/ with "
            "params.yaml and dvc.lock; what was registered before that was kept cannot be made again"
        ) from None


def _share_cache(folder: Path) -> None:
    """Let a clone read the cache and the remotes of this checkout, whose own settings may be relative or not in git."""
    from dvc.repo import Repo

    with Repo() as here, Repo(folder) as there, there.config.edit("local") as settings:
        settings["cache"]["dir"] = here.cache.local_cache_dir
        settings["cache"]["type"] = ["reflink", "hardlink", "copy"]
        settings["remote"] = {name: dict(about) for name, about in here.config["remote"].items()}
        settings["core"]["remote"] = here.config["core"].get("remote")


def _other_packages(lock: Path) -> list[str]:
    """Packages that decide results and had other versions then."""
    from tasks.provenance import versions

    if not lock.is_file():
        return []
    then = {each["name"]: each.get("version") for each in tomllib.loads(lock.read_text())["package"]}
    now = versions()
    return [f"{name} {then[name]} then, {now[name]} now" for name in PACKAGES
            if name in then and name in now and then[name] != now[name].partition("+")[0]]  # fmt: skip


def _bundle(name: str, version: str) -> Path:
    import mlflow

    from tasks.registry import quietly

    with quietly():
        return Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}")) / "artifacts/bundle"


def _made(folder: Path, name: str) -> Path:
    """The bundle that the rebuilt stage has registered in its own registry."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    made = client.search_model_versions(f"name = '{name}'")
    if not made:
        raise RuntimeError(f"reproduce: the stage ran and registered no {name}")
    newest = max(made, key=lambda each: int(each.version))
    where = client.get_model_version_download_uri(name, newest.version).removeprefix("file://")
    return Path(where) / "artifacts/bundle"


def _run(folder: Path, *words: str, ok: bool = True, say: Say | None = None) -> subprocess.CompletedProcess[str]:
    """A module of ours in the clone, with its code and its registry; what it prints is said as it comes."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # stages run `python -m …`
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(folder), "MLFLOW_TRACKING_URI": "", "PHYSIQUE_HOLD": ""}
    lines = []
    with subprocess.Popen(
        [sys.executable, "-m", *words], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in filter(None, map(str.rstrip, process.stdout)):
            lines.append(line)
            if say is not None:
                say(f"  {line}")
    if ok and process.returncode:
        raise RuntimeError(f"reproduce: {' '.join(words)} failed: {lines[-1] if lines else process.returncode}")
    return subprocess.CompletedProcess(words, process.returncode, "\n".join(lines))


def _git(*words: str) -> None:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [str(done.returncode)])[-1]
        raise LookupError(f"reproduce: git {words[0] if words[0] != '-C' else words[2]}: {last}")
