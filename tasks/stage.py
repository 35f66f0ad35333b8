"""Running one stage as a command: engines up, the flow, how long it took, and errors a person can read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DURATIONS = Path(".physique/durations.json")
"""Seconds of each stage's last run. Not a DVC output: a clock never makes a stage stale."""


def run(flow: Callable[[], Any]) -> None:
    """Body of `python -m flows.<stage>`: exits 1 with one line when the input is at fault."""
    from tasks.engines import engines
    from tasks.faults import told

    started = time.monotonic()
    quiet_prefect()
    with told():
        with engines():
            noted(flow)()
        record(getattr(flow, "name", "stage"), time.monotonic() - started)


def noted(flow: Any) -> Any:
    """The flow, whose runs tell Prefect their process, as those of a worker do: `physique up` looks after them."""

    def note(flow: Any, run: Any, state: Any) -> None:
        import os
        import socket

        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            client.update_flow_run(run.id, infrastructure_pid=f"{socket.gethostname()}:{os.getpid()}")

    flow.on_running_hooks.append(note)
    return flow


def quiet_prefect() -> None:
    """Prefect's own lines at warning and above; what a person waits for is said by the progress bars."""
    import logging

    from tasks.faults import OneLine

    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).addFilter(OneLine(silent=False))
    for handler in logging.getLogger("prefect").handlers:
        handler.addFilter(OneLine(silent=True))


def record(stage: str, seconds: float) -> None:
    """Note how long a stage took."""
    from tasks.tables import read_json, write_json

    known = read_json(DURATIONS) if DURATIONS.exists() else {}
    write_json(known | {stage: round(seconds, 1)}, DURATIONS)
    print(f"{stage} took {seconds:.0f} s", file=sys.stderr)


def say(text: str) -> None:
    """One line for whoever started this: on the terminal, and in the log of the flow run where there is one."""
    from prefect.context import FlowRunContext

    print(text, file=sys.stderr)
    if FlowRunContext.get() is not None:
        from prefect import get_run_logger

        get_run_logger().info(text)


def publish(key: str, markdown: str) -> None:
    """Put a Markdown page on the current flow run; nothing happens outside of one."""
    from prefect.artifacts import create_markdown_artifact
    from prefect.context import FlowRunContext

    if FlowRunContext.get() is not None:
        create_markdown_artifact(markdown=markdown, key=key)
