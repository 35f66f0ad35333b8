"""A small checkout of this very tree in which the whole DAG has run once: what most end-to-end tests look at."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Two workers on two cores: threads of one wait, spinning, for the core that the other is using.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

SMALL = {
    "mannequins": {"photos": 90, "experts": 3, "users": 40, "nights": 2}
    | {"ratings_per_user": 50, "feedback_per_user": 10, "judging_per_user": 10},
    "meshnet": {"crops": 128, "held_out": 64, "epochs": 1},
    "mesh": {"shard": 30},
    "embed": {"shard": 45},
    "pretrain": {"rounds": 2, "epochs": 6, "own_epochs": 4},
    "finetune": {"iterations": 10},
    "evaluate": {"counts": [0, 5, 10], "repeats": 1, "bootstrap": 200},
}

BUILDS = "test_pipeline.py"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `-n 2`: a file's tests, and those of the official network, stay with one worker.

    One worker begins with the file that builds the checkout, the other with what needs none; then both go on with the rest.
    """
    for item in items:
        names = getattr(item, "fixturenames", ())
        group = "official" if "official" in names else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))
    if hasattr(config, "workerinput"):
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    if item.path.name == BUILDS:
        return 0
    return 2 if "checkout" in getattr(item, "fixturenames", ()) else 1


def small_params(folder: Path, **changes: dict) -> None:
    """Write folder/params.yaml: the project's own with SMALL and `changes` in it."""
    from ruamel.yaml import YAML

    yaml = YAML()
    values = yaml.load((ROOT / "params.yaml").read_text())
    for layer in (SMALL, changes):
        for section, keys in layer.items():
            values[section].update(keys)
    with (folder / "params.yaml").open("w") as stream:
        yaml.dump(values, stream)


class Checkout:
    """A copy of the tree with a git repository of its own."""

    first_run: subprocess.CompletedProcess[str]
    keeper: subprocess.Popen[bytes]

    def __init__(self, folder: Path, built: Path | None = None):
        """built: a checkout that is copied, the paths in its registry rewritten; None = the tree itself."""
        self.folder = folder
        self.environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "PREFECT_API_URL")} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PREFECT_HOME": str(folder / ".prefect"),
            "PYTHONPATH": str(folder),
        }
        if built is not None:
            shutil.copytree(built, folder, symlinks=True, dirs_exist_ok=True)
            return moved(folder / "mlflow.db", str(built), str(folder))
        names = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for name in names:
            if (ROOT / name).is_file() and name not in ("uv.lock", "dvc.lock"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        for words in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *words], cwd=folder, check=True)
        who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *who, "commit", "-qm", "start"], cwd=folder, check=True)

    def keep_engines(self) -> subprocess.Popen[bytes]:
        """Start one Prefect and one Ray for all that follows; kill the returned process when done."""
        state = self.folder / ".physique/engines-test.json"
        words = [sys.executable, "-m", "tasks.keeper", str(os.getpid()), str(state)]
        keeper = subprocess.Popen(words, cwd=self.folder, env=self.environment, start_new_session=True)
        end = time.monotonic() + 120
        while not state.exists():
            assert keeper.poll() is None and time.monotonic() < end, "Prefect and Ray did not start"
            time.sleep(0.1)
        found = json.loads(state.read_text())
        self.environment |= {"PREFECT_API_URL": found["prefect"], "RAY_ADDRESS": found["ray"]}
        return keeper

    def say(self, code: str) -> str:
        """What lines of Python print in the checkout."""
        return self.run(code, how="-c").stdout

    def run(
        self, *words: str, ok: bool = True, timeout: float = 900, how: str = "-m"
    ) -> subprocess.CompletedProcess[str]:
        """Run a Python module with its words in the checkout; fails with its output unless `ok` is False."""
        done = subprocess.run(
            [sys.executable, how, *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert not ok or done.returncode == 0, f"{words}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def start(self, *words: str, **how: Any) -> subprocess.Popen[str]:
        """Start a Python module in the checkout. how: of Popen."""
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **how,
        )


def moved(registry: Path, old: str, new: str) -> None:
    """Make the paths in an MLflow store say where it lies now."""
    with sqlite3.connect(registry) as base:
        for (table,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, kind, *_ in base.execute(f"PRAGMA table_info({table})").fetchall():
                if kind.upper().startswith(("VARCHAR", "TEXT")):
                    change = f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE {column} LIKE ?"
                    base.execute(change, (old, new, f"%{old}%"))


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """The whole DAG, run once on a small cohort with engines of its own; what tests run later shares a pair.

    Built once whatever the number of workers; each has a copy and engines of its own.
    """
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    built, said = common / "built", common / "built.json"
    with (common / "built.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            shutil.rmtree(built, ignore_errors=True)  # of a worker that failed
            built.mkdir()
            first = Checkout(built)
            small_params(built)
            run = first.run("dvc", "repro")
            said.write_text(json.dumps([run.args, run.returncode, run.stdout, run.stderr]))
    made = Checkout(tmp_path_factory.mktemp("checkout"), built)
    made.first_run = subprocess.CompletedProcess(*json.loads(said.read_text()))
    made.keeper = made.keep_engines()
    yield made
    made.keeper.terminate()
    made.keeper.wait(60)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos and references beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED.name}/ beside the project: real photos are not to be had here")
    return SHARED
