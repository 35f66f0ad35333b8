"""The stack that is broken: `physique up` in a checkout of its own, real work asked for as a person would, what it says."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tasks.stack.deployments import call
from tests.conftest import ROOT, Checkout, small_params
from tests.test_up import GIVEN, Up

MESH = {"decoders": 1, "shard": 10, "batch": 5}
"""Small shards, so that every fault finds some finished and some not."""
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
FEW = "meshes of 3 photos"
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "a promotion": ("promote", {"version": 1, "model": "physique-expert-expert-01"}),
    FEW: ("meshes", {"folder": "few"}),
}
"""Small real jobs from their forms: one needs Prefect, the worker and MLflow, the other Ray instead of MLflow."""
ITSELF = "the work itself"


def prepared(folder: Path) -> Path:
    """A checkout with its models built, on a folder of photos as somebody's own cohort; built once, kept in `folder`."""
    built, done = folder / "built", folder / "built.ok"
    if done.exists():
        for name in ("flows", "tasks", "model", "review"):  # as they are now
            shutil.copytree(ROOT / name, built / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        _deployments(built)
        return built
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    made = Checkout(built)
    small_params(built, mesh=MESH, mannequins={"nights": 1})
    made.run("dvc", "repro", "mannequins")
    shutil.copytree(built / "data/mannequins", built / "people")
    (built / "people/cohort.yaml").write_text("name: drill\nscale: [0, 10]\n")
    (built / "few").mkdir()
    for photo in sorted((built / "people/photos").iterdir())[:3]:
        shutil.copy(photo, built / "few")
    small_params(built, mesh=MESH, data={"source": "folder", "path": "people"})
    _deployments(built)
    made.run("dvc", "repro")
    done.touch()
    return built


def _deployments(built: Path) -> None:
    """As they are, but nights come when the drill asks for them."""
    (built / "prefect.yaml").write_text((ROOT / "prefect.yaml").read_text().replace('"0 2 * * *"', '"0 2 29 2 *"'))


class Scene:
    """A running stack. `environment`: what it is given on top, as servers of one's own."""

    def __init__(self, folder: Path, built: Path, **environment: str):
        self.folder = folder
        if not folder.exists() or not any(folder.iterdir()):
            Checkout(folder, built)
        bare = {name: value for name, value in os.environ.items() if name not in GIVEN}
        first = {"PATH": f"{Path(os.sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # type: ignore[attr-defined]
        first |= {"PREFECT_HOME": str(folder / ".prefect"), "PYTHONPATH": str(folder)}
        self.environment = bare | first | environment
        self.store = environment.get("PHYSIQUE_REVIEWS") or f"sqlite:///{folder}/.physique/reviews.db"
        self.usual: dict[str, float] = {}
        self.up = Up(folder, self.environment)
        self.up.wait("all up after", 600)

    @property
    def api(self) -> str:
        return self.up.state().prefect

    def ask(self, deployment: str, **parameters: Any) -> str | None:
        """Ask for a flow run as the form does; its id, None while Prefect does not answer."""
        found = call(self.api, "GET", f"/deployments/name/{deployment}/{deployment}")
        if not found:
            return None
        wanted = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        made = call(self.api, "POST", f"/deployments/{found['id']}/create_flow_run", wanted)
        return made["id"] if made else None

    def state(self, run: str) -> dict[str, Any]:
        """The state of a flow run: type, name, message; empty while Prefect does not answer."""
        return (call(self.api, "GET", f"/flow_runs/{run}") or {}).get("state") or {}

    def over(self, run: str | None, limit: float = 400) -> dict[str, Any]:
        """The state in which a flow run has ended, or the one it is in when the limit is over."""
        end = time.monotonic() + limit
        while run and time.monotonic() < end:
            state = self.state(run)
            if state.get("type") in FINAL:
                return state
            time.sleep(0.5)
        return (self.state(run) if run else {}) | {"hangs": True}

    def done(self, deployment: str, limit: float = 600, **parameters: Any) -> dict[str, Any]:
        """Ask and wait for the end."""
        return self.over(until(lambda: self.ask(deployment, **parameters), 180), limit)

    def works(self, job: str, since: float, limit: float = 400) -> float:
        """Seconds from `since` (monotonic) until a small job has ended well, asked for again as long as it has not."""
        deployment, parameters = JOBS[job]
        while time.monotonic() < since + limit:
            fresh = {"out": f"data/meshes/{time.time_ns()}"} if deployment == "meshes" else {}
            run = self.ask(deployment, **parameters, **fresh)
            left = since + limit - time.monotonic()
            if run and self.over(run, left).get("type") == "COMPLETED":
                return time.monotonic() - since
            time.sleep(0.5)
        raise AssertionError(f"{job} did not work again within {limit:.0f} s: {self.up.said()[-2000:]}")

    def warm(self, job: str) -> None:
        """How long a small job takes when all is well."""
        if job in JOBS and job not in self.usual:
            self.usual[job] = self.works(job, time.monotonic())

    def said(self, since: int) -> list[str]:
        """Lines of `physique up` after that many characters."""
        return [line for line in self.up.said()[since:].splitlines() if line.strip()]

    def versions(self) -> dict[tuple[str, str], dict[str, Any]]:
        """All versions of the registry, by name and number."""
        found = httpx.get(f"{self.up.state().mlflow}/api/2.0/mlflow/model-versions/search", params={"max_results": 5000})
        return {(each["name"], each["version"]): each for each in found.json().get("model_versions", [])}

    def close(self) -> None:
        """Down again, whatever is left."""
        self.up.command("down")
        try:
            self.up.process.wait(60)
        finally:
            self.up.process.kill()


@contextmanager
def staged(folder: Path, built: Path, **environment: str) -> Iterator[Scene]:
    """A scene that is closed at the end."""
    scene = Scene(folder, built, **environment)
    try:
        yield scene
    finally:
        scene.close()


def until(what: Callable[[], Any], limit: float = 60) -> Any:
    """The first true value of `what`."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing came within {limit:.0f} s")


def photo_ids(folder: Path) -> list[str]:
    """Photos of the checkout's cohort."""
    from tasks.tables import read_shards

    return sorted(read_shards(folder / "data/cohort/photos", ["photo_id"])["photo_id"].to_pylist())


def facts(path: Path) -> dict[str, Any]:
    """A JSON file."""
    return json.loads(path.read_text())
