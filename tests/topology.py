"""The stack of infra/compose.yaml without containers: its services' own words and environments, on servers of this machine.

Postgres with a password, MLflow and Prefect that ask who comes, an S3 store, Ray on two nodes with a token, the worker
and the deployments. Host names become addresses of the loopback; Ray's nodes need more words, to be two on one machine.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tasks.engines import free_port
from tests.cluster import S3, Postgres, RayNodes, listens, postgres, ray_nodes, s3, until
from tests.conftest import Checkout
from tests.infra_cases import INFRA, SECRETS, compose

GIVEN = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "PREFECT_API_AUTH_STRING")


@dataclass
class Topology:
    """secrets: what infra/.env would hold. places: host:port of compose → where it is here."""

    folder: Path
    checkout: Checkout
    database: Postgres
    store: S3
    nodes: RayNodes
    secrets: dict[str, str]
    places: dict[str, str] = field(default_factory=dict)
    services: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """What compose says, with this machine's addresses."""
        for said, here in self.places.items():
            text = text.replace(said, here)
        return re.sub(r"\$\{([A-Z_]+):\?[^}]*\}", lambda found: self.secrets[found[1]], text)

    def environment(self, service: str) -> dict[str, str]:
        """The environment of a service of compose, on top of this machine's."""
        said = compose()["services"][service]["environment"]
        own = {name: value for name, value in os.environ.items() if name not in GIVEN}
        own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own |= {"PREFECT_HOME": str(self.folder / "prefect"), "NO_PROXY": "127.0.0.1"}
        own["PYTHONPATH"] = str(self.checkout.folder)
        return own | {name: self.here(str(value)) for name, value in said.items()}

    def log(self, service: str) -> Path:
        return self.folder / f"{service}.log"

    def start(self, service: str, words: list[str] | None = None) -> subprocess.Popen[bytes]:
        """Start a service as compose does."""
        words = words or [self.here(str(word)) for word in compose()["services"][service]["command"]]
        how: Any = {"cwd": self.checkout.folder, "env": self.environment(service), "start_new_session": True}
        with self.log(service).open("ab") as log:
            self.services[service] = subprocess.Popen(words, stdout=log, stderr=log, **how)
        return self.services[service]

    def answers(self, service: str, url: str, limit: float = 240) -> None:
        def well() -> bool:
            assert self.services[service].poll() is None, self.log(service).read_text()[-2000:]
            try:
                return httpx.get(url, trust_env=False, timeout=5).status_code == 200
            except httpx.HTTPError:
                return False

        until(well, limit, service)

    def prefect(self, method: str, path: str, body: Any = None) -> Any:
        """Prefect's API, with the password."""
        url = f"http://{self.places['prefect:4200']}/api{path}"
        pair = tuple(self.secrets["PREFECT_API_AUTH_STRING"].split(":", 1))
        answer = httpx.request(method, url, json=body, auth=pair, trust_env=False, timeout=60)
        return answer.raise_for_status().json() if answer.content else None


@contextmanager
def topology(folder: Path) -> Iterator[Topology]:
    """All of it up, in `folder`, and gone again."""
    from tests.cluster import end

    hidden = {name: secrets.token_hex(20) for name in SECRETS}
    hidden |= {"MLFLOW_TRACKING_USERNAME": "physique", "PREFECT_API_AUTH_STRING": f"physique:{secrets.token_hex(20)}"}
    with ExitStack() as stack:
        checkout = Checkout(folder / "checkout")
        database = stack.enter_context(postgres("physique", hidden["PGPASSWORD"]))
        for line in (INFRA / "databases.sql").read_text().splitlines():
            if line.startswith("CREATE DATABASE"):
                database.url(line.split()[-1].rstrip(";"))
        store = stack.enter_context(s3())
        store.bucket("physique")
        ports = {name: f"127.0.0.1:{free_port()}" for name in ("prefect:4200", "mlflow:5000")}
        places = {"postgres:5432": f"127.0.0.1:{database.port}", "s3:8333": f"127.0.0.1:{store.port}", **ports}
        places |= {"127.0.0.1:4200": ports["prefect:4200"], "127.0.0.1:5000": ports["mlflow:5000"], "0.0.0.0": "127.0.0.1"}
        places |= {"4200": ports["prefect:4200"].split(":")[1], "=5000": f"={ports['mlflow:5000'].split(':')[1]}"}
        users = folder / "mlflow_users.ini"
        users.write_text((INFRA / "mlflow_users.ini").read_text().replace("postgres:5432", places["postgres:5432"]))
        places |= {"/etc/mlflow/users.ini": str(users), "/work": str(checkout.folder)}
        made = Topology(folder, checkout, database, store, RayNodes("", [], {}), hidden, places)
        on_nodes = made.environment("ray-worker")
        made.nodes = stack.enter_context(
            ray_nodes(2, folder / "nodes", environment=on_nodes, token=hidden["RAY_AUTH_TOKEN"])
        )
        places["ray-head:6379"] = made.nodes.address
        checkout.environment = made.environment("worker")
        try:
            made.start("prefect")
            made.start("mlflow")
            made.answers("prefect", f"http://{places['prefect:4200']}/api/health")
            made.answers("mlflow", f"http://{places['mlflow:5000']}/health")
            # The `ray start` before it makes a node of a container; here two nodes are on this machine already.
            worker = made.here(compose()["services"]["worker"]["command"][2]).split("exec ")[1].split()
            made.start("worker", worker)
            deployed = made.start("deployments", [sys.executable, "-m", "tasks.stack.deployments"])
            assert deployed.wait(300) == 0, made.log("deployments").read_text()[-2000:]
            nightly = made.prefect("GET", "/deployments/name/nightly/nightly")
            made.prefect("PATCH", f"/deployments/{nightly['id']}", {"paused": True})  # two o'clock may come while tests run
            yield made
        finally:
            for process in made.services.values():
                end(process)
            assert not listens(int(places["mlflow:5000"].split(":")[1])), "MLflow outlived its end"
