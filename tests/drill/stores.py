"""Postgres, S3 and a Ray of two nodes: the stack on servers of one's own, which go away."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tasks.engines import free_port
from tasks.stack.parts import alright
from tests import cluster
from tests.drill.ledger import Ledger
from tests.drill.nights import NIGHT
from tests.drill.scene import FEW, ITSELF, Scene, staged, until
from tests.drill.strike import MESHES, Work, clean, kill, strike
from tests.drill.table import Row, load_of_machine

GONE_S = 10
REFUSED_S = 60


@contextmanager
def elsewhere(folder: Path, built: Path) -> Iterator[tuple[Scene, Servers]]:
    """Reviews and Prefect on Postgres; MLflow's artifacts, DVC's remote and running trainings on S3; a Ray of two nodes.

    The registry is empty: the first night makes the first version.
    """
    with cluster.postgres() as database, cluster.s3() as store, ExitStack() as stack:
        folder.with_suffix(".servers").mkdir()
        port, logs = free_port(), folder.with_suffix(".servers")
        given = store.environment | {
            "PHYSIQUE_REVIEWS": database.url("reviews"),
            "PHYSIQUE_STORAGE": store.bucket("trainings"),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url("prefect", "asyncpg"),
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes that nobody asks for anything
        }
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        words += ["--backend-store-uri", f"sqlite:///{logs}/mlflow.db", "--default-artifact-root", store.bucket("models")]
        with (logs / "mlflow.log").open("w") as log:
            server = subprocess.Popen(words, stdout=log, stderr=log, env=os.environ | given, start_new_session=True)
        stack.callback(cluster.end, server)
        nodes = stack.enter_context(cluster.ray_nodes(2, logs, cpus=2, environment=given))
        until(lambda: alright(f"http://127.0.0.1:{port}/health"), 300)
        given |= {"RAY_ADDRESS": nodes.address} | nodes.environment
        with staged(folder, built, **given) as scene:
            remote = store.bucket("dvc")
            scene.up.python("-m", "dvc", "remote", "add", "--local", "--force", "--default", "store", remote)
            yield scene, Servers(database, store, nodes)


@dataclass
class Servers:
    """What can be taken away."""

    database: cluster.Postgres
    store: cluster.S3
    nodes: cluster.RayNodes


def postgres(scene: Scene, servers: Servers) -> Row:
    """A crash of the server that holds reviews, flow runs and the registry; it starts again after a while."""

    def blow(scene: Scene) -> None:
        servers.database.stop("immediate")
        time.sleep(GONE_S)
        servers.database.start()

    fault = f"Postgres crashes and is away for {GONE_S} s"
    return strike(scene, "postgres", fault, MESHES, FEW, blow)


def s3(scene: Scene, servers: Servers) -> Row:
    """Nobody answers while a bank's files go to MLflow's artifacts."""

    def blow(scene: Scene) -> None:
        servers.store.refuse()
        time.sleep(REFUSED_S)
        servers.store.accept()

    fault = f"S3 refuses for {REFUSED_S} s, models go there"
    return strike(scene, "s3", fault, NIGHT, FEW, blow)


def push(scene: Scene, servers: Servers) -> Row:
    """The same in the middle of `dvc push`."""
    store = servers.store
    ledger, load = Ledger.of(scene), load_of_machine()
    words = [sys.executable, "-m", "dvc", "push"]
    with (scene.folder / "push.out").open("w") as out:
        first = subprocess.Popen(words, cwd=scene.folder, env=scene.environment, stdout=out, stderr=out)
    until(lambda: store.keys("dvc") or first.poll() is not None, 120)
    began = time.monotonic()
    store.refuse()
    time.sleep(REFUSED_S)
    store.accept()
    code = first.wait(400)
    said = (scene.folder / "push.out").read_text().strip().splitlines()
    saw = [line for line in said if line.startswith("ERROR")] or said[-1:]
    lost = []
    if code:
        again = scene.up.python("-m", "dvc", "push")
        lost += [f"`dvc push` again failed: {again.stderr[-200:]}"] if again.returncode else []
    seconds = time.monotonic() - began
    said = scene.up.python("-m", "dvc", "status", "--cloud").stdout.strip().splitlines()
    lost += [] if "in sync" in said[-1] else [f"not on the remote: {'; '.join(said)[:300]}"]
    found, counted = ledger.lost()
    return Row(
        "push", f"S3 refuses for {REFUSED_S} s, data goes there", "`dvc push` is in the middle", lost + found,
        f"{len(store.keys('dvc')):,} objects on the remote, {counted}", "all is pushed", seconds, 0,
        "went on and ended well" if not code else f"ended with code {code}", [clean(line, scene) for line in saw],
        "`dvc push` again" if code else "nothing", time.strftime("%Y-%m-%d"), load,
    )  # fmt: skip


def node(scene: Scene, servers: Servers) -> Row:
    """A node goes with all that is computed on it; nobody starts it again, the other one has to do."""
    lost = psutil.Process(servers.nodes.nodes[-1].pid)

    def works_there(_: Scene) -> bool:
        for each in lost.children(recursive=True):
            with suppress(psutil.Error):  # it has just ended
                if " ".join(each.cmdline()).startswith(("ray::MeshActor", "ray::DecodeActor")):
                    return True
        return False

    work = Work("a pipeline extracts meshes, on that node too", "pipeline", {"stage": "mesh"}, MESHES.begin, works_there)
    blow = lambda _: kill([*lost.children(recursive=True), lost])  # noqa: E731
    return strike(scene, "node", "one of two Ray nodes is killed", work, ITSELF, blow)
