"""Prefect's server, the worker, MLflow, Ray: killed while they are needed."""

from __future__ import annotations

from tasks.stack.parts import MLFLOW, PREFECT, RAY, WORKER
from tests.drill.nights import NIGHT
from tests.drill.scene import FEW, Scene
from tests.drill.strike import MESHES, kill, of_runs, part, strike
from tests.drill.table import Row


def prefect(scene: Scene) -> Row:
    """Its server, database and scheduler are one process and those below it."""
    return strike(scene, "prefect", "Prefect's server is killed", MESHES, "a promotion", lambda s: kill(part(s, PREFECT)))


def worker(scene: Scene) -> Row:
    """The process that starts flow runs; those it has started are processes of their own."""

    def blow(scene: Scene) -> None:
        (leader,) = [each for each in part(scene, WORKER) if each.pid == scene.up.state().parts[WORKER][-1].pid]
        kill([leader])

    return strike(scene, "worker", "the worker is killed", MESHES, "a promotion", blow)


def memory(scene: Scene) -> Row:
    """What a machine without memory does: the worker and all it has started are gone at once, nobody is left to say so."""
    fault = "the worker and the flow runs that it had started are killed"
    return strike(scene, "memory", fault, MESHES, "a promotion", lambda s: kill([*part(s, WORKER), *of_runs(s)]))


def mlflow(scene: Scene) -> Row:
    """While a stage logs and registers a model."""
    return strike(scene, "mlflow", "MLflow is killed", NIGHT, "a promotion", lambda s: kill(part(s, MLFLOW)))


def head(scene: Scene) -> Row:
    """GCS, raylet, dashboard and all workers of it."""
    return strike(scene, "head", "Ray's head is killed", MESHES, FEW, lambda s: kill(part(s, RAY)))
