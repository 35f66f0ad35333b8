"""The parts of `physique up`: how each is started, where it answers, what it waits for.

What the environment names already (PREFECT_API_URL, MLFLOW_TRACKING_URI, RAY_ADDRESS) is used and not started. Stores lie
in the folder: Prefect's database in .physique/, MLflow's where it is without a server too (`tasks.registry`), so models
are the same whether anything is up or not.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

POOL = "physique"
"""Work pool of prefect.yaml's deployments."""
WORKER_LIMIT = 4
"""Flow runs at a time: late ones of a schedule must not start all at once (`tasks/once.py`)."""
PRIVATE = ("10.*", "192.168.*", *(f"172.{number}.*" for number in range(16, 32)), "fc00:*", "fd00:*")
"""Addresses of private networks, under which MLflow may be opened unless it is told of other hosts."""
PREFECT, MLFLOW, RAY, WORKER, DEPLOYMENTS, REVIEW = "Prefect", "MLflow", "Ray", "worker", "deployments", "review page"


@dataclass(frozen=True)
class Ports:
    """Where things listen; a name is also that of the option of `physique up`."""

    prefect_port: int = 4200
    mlflow_port: int = 5000
    ray_port: int = 6379
    dashboard_port: int = 8265
    review_port: int = 8321


@dataclass(frozen=True)
class Part:
    """command: started in the folder with `environment` on top of all else. ports: option → port, which have to be free.

    answers: whether it does its work now; of a part that ends (`ends`) nobody asks, it is done when it ends with code 0.
    after: parts that must have answered before.
    """

    name: str
    command: tuple[str, ...]
    answers: Callable[[], bool] = lambda: True
    ports: dict[str, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    ends: bool = False

    @property
    def log(self) -> str:
        """Name of its log in .physique/logs."""
        return f"{self.name.lower().replace(' ', '-')}.log"


@dataclass(frozen=True)
class Plan:
    """All parts, what they all get in their environment, the addresses, and lines about what is not started."""

    parts: list[Part]
    environment: dict[str, str]
    prefect: str
    mlflow: str
    ray: str
    pages: dict[str, str]
    notes: list[str]


def plan(host: str, ports: Ports, folder: Path, token: str) -> Plan:
    """What has to be started here.

    host: where pages listen; Ray stays on the loopback whatever it is, for who reaches Ray can run anything.

    Raises:
        BadInput: the environment names a Prefect that does not answer.
    """
    from tasks.engines import past_proxy
    from tasks.intake.quarantine import BadInput
    from tasks.source_kind import without_photos
    from tasks.stack.access import FILE, USER, lock
    from tasks.stack.deployments import call
    from tasks.stack.running import MARK

    shown = host if host not in ("0.0.0.0", "::") else os.uname().nodename
    past_proxy(shown)
    prefect, mlflow, ray = given_prefect(), os.environ.get("MLFLOW_TRACKING_URI"), os.environ.get("RAY_ADDRESS")
    locked = lock(host, prefect=not prefect, mlflow=not mlflow)
    parts: list[Part] = []
    pages, notes = {}, []
    if prefect:
        if call(prefect, "POST", "/work_pools/filter", {}) is None:
            raise BadInput(
                f"PREFECT_API_URL: no Prefect answers us at {prefect}; start it, set the PREFECT_API_KEY or "
                "PREFECT_API_AUTH_STRING that it wants, or unset the variable"
            )
        notes.append(f"Prefect at {prefect} is used (PREFECT_API_URL)")
    else:
        prefect = f"http://{shown}:{ports.prefect_port}/api"
        parts.append(prefect_server(host, ports.prefect_port, prefect, folder, locked))
    pages["Prefect"] = prefect.removesuffix("/api")
    if mlflow:
        notes.append(f"MLflow at {mlflow} is used (MLFLOW_TRACKING_URI)")
    else:
        mlflow = f"http://{shown}:{ports.mlflow_port}"
        parts.append(mlflow_server(host, shown, ports.mlflow_port, mlflow, folder, locked))
    pages["MLflow"] = mlflow
    if locked:
        names = [part.name for part in parts]
        page = f"; Prefect's page wants {USER}:PASSWORD" if PREFECT in names else ""
        notes.append(
            f"other machines reach {' and '.join(names)} by a password only: user {USER}, password in {FILE} (from "
            f"PHYSIQUE_PASSWORD, or made up){page}. Nothing is encrypted: where others listen, put TLS before it"
        )
    if ray:
        notes.append(f"Ray at {ray} is used (RAY_ADDRESS)")
    else:
        ray = f"127.0.0.1:{ports.ray_port}"
        parts.append(ray_head(ports, folder))
        pages["Ray"] = f"http://127.0.0.1:{ports.dashboard_port}"
    if without_photos():
        notes.append("no review page: items of this cohort are vectors")
    else:
        parts.append(review_page(host, shown, ports.review_port))
        pages["review page"] = f"http://{shown}:{ports.review_port}"
    name = f"{POOL}-{token}"
    worker = (*_python("prefect"), "worker", "start", "--pool", POOL, "--type", "process", "--name", name)
    own = PREFECT if any(part.name == PREFECT for part in parts) else None
    after = (own,) if own else ()
    polls = {"PREFECT_WORKER_QUERY_SECONDS": "2"}  # what is triggered in the UI begins at once
    parts.append(
        Part(WORKER, (*worker, "--limit", str(WORKER_LIMIT)), lambda: polled(prefect, name), environment=polls, after=after)
    )
    parts.append(Part(DEPLOYMENTS, _python("tasks.stack.deployments"), after=after, ends=True))
    environment = {
        MARK: token,
        "PREFECT_API_URL": prefect,
        "MLFLOW_TRACKING_URI": mlflow,
        "RAY_ADDRESS": ray,
        "PWD": str(folder),  # prefect.yaml names the folder by it
        # `dvc repro` runs `python -m …`: the python that this runs with, also where nothing was activated
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONUNBUFFERED": "1",  # a log says what happened last
    }
    return Plan(parts, environment, prefect, mlflow, ray, pages, notes)


def given_prefect() -> str:
    """Prefect's API where the environment or the user's Prefect profile names one, else ''."""
    from prefect.settings import PREFECT_API_URL

    return (PREFECT_API_URL.value() or "").rstrip("/")


def prefect_server(host: str, port: int, api: str, folder: Path, locked: bool) -> Part:
    """Server, scheduler and UI on a SQLite of this folder's own: two checkouts do not see each other's deployments.

    locked: asks who comes (tasks.stack.access), as MLflow does.
    """
    from tasks.stack.access import of_prefect

    given = ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")
    environment = {"PREFECT_SERVER_UI_API_URL": api}
    if locked:
        environment |= of_prefect()
    if not any(os.environ.get(name) for name in given):
        environment[given[1]] = f"sqlite+aiosqlite:///{folder / '.physique/prefect.db'}"
    command = (*_python("prefect"), "server", "start", "--host", host, "--port", str(port))
    return Part(PREFECT, command, lambda: alright(f"{api}/health"), {"--prefect-port": port}, environment)


def mlflow_server(host: str, shown: str, port: int, address: str, folder: Path, locked: bool) -> Part:
    """The store that everything uses without a server, with a server before it; artifacts stay files in the folder."""
    from tasks.stack.access import of_mlflow

    command = (*_python("mlflow"), "server", "--host", host, "--port", str(port), "--workers", "1")
    command += ("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}")
    command += ("--default-artifact-root", (folder / "mlartifacts").as_uri())
    if shown not in ("127.0.0.1", "localhost"):
        command += ("--allowed-hosts", ",".join([shown, f"{shown}:*", "127.0.0.1:*", "localhost:*", *PRIVATE]))
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # half a dozen processes for what nobody uses here
    if locked:
        command, quiet = (*command, "--app-name", "basic-auth"), quiet | of_mlflow(folder)
    return Part(MLFLOW, command, lambda: alright(f"{address}/health"), {"--mlflow-port": port}, quiet)


def ray_head(ports: Ports, folder: Path) -> Part:
    """A Ray of this machine's size with its dashboard."""
    from tasks.engines import free_port
    from tasks.keeper import OBJECT_STORE_BYTES

    words = {
        "node-ip-address": "127.0.0.1",
        "port": ports.ray_port,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": ports.dashboard_port,
        "include-dashboard": "true",
        # With none given these two are fixed numbers, which a second Ray on the machine would want as well.
        "ray-client-server-port": free_port(),
        "dashboard-agent-listen-port": free_port(),
        "min-worker-port": 0,
        "max-worker-port": 0,
        "object-store-memory": OBJECT_STORE_BYTES,
        "temp-dir": ray_folder(folder),
    }
    command = (*_python("ray.scripts.scripts"), "start", "--head", "--block", "--disable-usage-stats")
    command += tuple(f"--{name}={value}" for name, value in words.items())
    health = f"http://127.0.0.1:{ports.dashboard_port}/api/gcs_healthz"
    taken = {"--ray-port": ports.ray_port, "--dashboard-port": ports.dashboard_port}
    return Part(RAY, command, lambda: alright(health), taken)


def ray_folder(folder: Path) -> Path:
    """Where Ray keeps sockets and logs: outside, as the path of a socket may have 107 characters and no more."""
    return Path(tempfile.gettempdir()) / f"physique-ray-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def review_page(host: str, shown: str, port: int) -> Part:
    """The page of experts and users; it can start before there is a cohort."""
    command = (*_python("flows.cli"), "review", "serve", "--host", host, "--port", str(port))
    return Part(REVIEW, command, lambda: alright(f"http://{shown}:{port}/health"), {"--review-port": port})


def polled(api: str, worker: str) -> bool:
    """Whether Prefect has heard of a worker lately."""
    from tasks.stack.deployments import call

    found = call(api, "POST", f"/work_pools/{POOL}/workers/filter", {})
    return any(each["name"] == worker and each["status"] == "ONLINE" for each in found or [])


def alright(url: str) -> bool:
    """Whether an address of this machine answers with 200; for their health servers ask no password."""
    import httpx

    try:  # no proxy between this machine and itself
        return httpx.get(url, trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _python(module: str) -> tuple[str, ...]:
    return sys.executable, "-m", module
