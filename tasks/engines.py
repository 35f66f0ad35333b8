"""Prefect and Ray for a flow: the ones the environment names, else those of `physique up`, else a pair shared by the run.

The pair is kept by a process of its own (`tasks/keeper.py`).

    with engines():          # PREFECT_API_URL and RAY_ADDRESS, where set, are used and nothing is started
        flow()
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

ANSWER_LIMIT_S = 120
"""A server that died is started again within so long (`physique up`); what begins meanwhile waits for it."""
LAST_WORDS_S = 0.5


class NotStarted(RuntimeError):
    """Prefect or Ray did not come up; one line that says so."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ray_environment(address: str | None = None) -> None:
    """Settings Ray reads from the environment only, most of them when it is imported.

    address: of the Ray that will be used, None = the one that RAY_ADDRESS names, if any.
    """
    address = address or os.environ.get("RAY_ADDRESS", "")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a private head on the loopback
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # fails when run from another folder
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    past_proxy()
    if address.startswith("127.0.0.1:"):
        # Else Ray takes the loopback for this machine's address in the network, and does not find who listens on it alone.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if not address or address.startswith("127.0.0.1:"):
        # A Ray of our own is one machine that nobody takes away and no Prometheus scrapes: two processes less a job.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
        # How often a job's workers are asked; every two seconds, as is usual, costs a short job four.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")


def past_proxy(*names: str) -> None:
    """Have no proxy between this machine and itself, here and in all that is started from here.

    names: others of this machine than the loopback's.
    """
    spellings = ("NO_PROXY", "no_proxy")  # some read the one, some the other, so each gets what either has
    known = [name.strip() for each in spellings for name in os.environ.get(each, "").split(",") if name.strip()]
    if "*" not in known:  # it stands for all, but only where it stands alone
        every = ",".join(dict.fromkeys([*known, "127.0.0.1", "localhost", *names]))
        os.environ.update(dict.fromkeys(spellings, every))


def wait_answers(url: str, limit: float = ANSWER_LIMIT_S) -> None:
    """Wait until Prefect answers; a client of its own gives up at once if it never has. Raises NotStarted."""
    end = time.monotonic() + limit
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except urllib.error.HTTPError:
            return  # it is there, whatever it wants
        except (OSError, ValueError) as error:
            if time.monotonic() > end:
                why = getattr(error, "reason", error)
                raise NotStarted(f"Prefect at {url} does not answer ({why}); start it, then run the same again") from None
        time.sleep(0.5)


@contextlib.contextmanager
def engines() -> Iterator[None]:
    """Prefect's API, Ray's address and MLflow's for what runs inside.

    With PREFECT_API_URL and RAY_ADDRESS set, those are used and nothing is started. What `physique up` has started in this
    folder comes next.
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    from tasks.keeper import root_process, shared
    from tasks.stack.access import credentials
    from tasks.stack.running import running

    url, address, mlflow = PREFECT_API_URL.value(), os.environ.get("RAY_ADDRESS"), os.environ.get("MLFLOW_TRACKING_URI")
    secrets: dict[str, str | None] = {}
    if up := running():
        url, address, mlflow = url or up.prefect, address or up.ray, mlflow or up.mlflow
        kept = credentials(prefect=url == up.prefect, mlflow=mlflow == up.mlflow)
        secrets = {name: os.environ.get(name) or value for name, value in kept.items()}
    ray_environment(address)
    if not url or not address:
        found = shared(root_process())
        url, address = url or found["prefect"], address or found["ray"]
    wait_answers(url)
    given = secrets | {"RAY_ADDRESS": address, "MLFLOW_TRACKING_URI": mlflow}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update({name: value for name, value in given.items() if value})
    settings: dict[Any, Any] = {PREFECT_API_URL: url}
    if "PREFECT_API_AUTH_STRING" in secrets:  # Prefect has read its environment long since
        settings[PREFECT_API_AUTH_STRING] = os.environ["PREFECT_API_AUTH_STRING"]
    try:
        with temporary_settings(settings):
            yield
    finally:
        disconnect()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def connect() -> None:
    """Connect this process to the Ray at RAY_ADDRESS, once; without one, start a Ray of its own.

    What workers print goes to the log of the flow run in which this is called.
    """
    import logging

    import ray

    from tasks.worker_logs import follow

    ray_environment()
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS") or "local"
        before = signal.getsignal(signal.SIGTERM)
        ray.init(address=address, logging_level=logging.WARNING, namespace="physique")
        with contextlib.suppress(ValueError):  # not the main thread, whose handler Ray has left alone then
            signal.signal(signal.SIGTERM, before)  # Ray exits on it; Prefect's own handler tells who cancels
    follow()


def disconnect() -> None:
    """Leave Ray, if this process is connected to one, once the workers' last words have had time to come."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        time.sleep(LAST_WORDS_S)
        ray.shutdown()
