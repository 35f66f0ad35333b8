"""`physique up` and `physique down`: everything on one machine (docs/operating.md)."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

Port = typer.Option(min=1024, max=65535)


def up(
    host: Annotated[str, typer.Option(help="Where pages listen; 0.0.0.0 = for all. Ray never does.")] = "127.0.0.1",
    prefect_port: Annotated[int, Port] = 4200,
    mlflow_port: Annotated[int, Port] = 5000,
    ray_port: Annotated[int, Port] = 6379,
    dashboard_port: Annotated[int, Port] = 8265,
    review_port: Annotated[int, Port] = 8321,
) -> None:
    """Start Prefect, a worker with all deployments, MLflow, Ray and the review page, and keep them running.

    What PREFECT_API_URL, MLFLOW_TRACKING_URI and RAY_ADDRESS name is used and not started. Ctrl-C stops all of it.
    """
    from tasks.faults import told
    from tasks.stack.command import up as start

    ports = {
        "prefect_port": prefect_port,
        "mlflow_port": mlflow_port,
        "ray_port": ray_port,
        "dashboard_port": dashboard_port,
        "review_port": review_port,
    }
    with told():
        start(host, ports, _say)


def down() -> None:
    """Stop everything that `physique up` started in this folder, also what a killed one has left."""
    from tasks.faults import told
    from tasks.stack.command import down as stop

    with told():
        stop(_say)


def _say(line: str) -> None:
    """A terminal that is gone, or a full disk under what is printed to, ends nothing that is being looked after."""
    with suppress(OSError):
        print(line, flush=True)
