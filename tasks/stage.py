"""Running one stage as a command: engines up, the flow, how long it took, and errors a person can read."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CANCELLED = "What was finished is kept: run it again and it goes on from there"
CANCELLED_CODE = 128 + signal.SIGTERM
DURATIONS = Path(".physique/durations.json")
"""Seconds of each stage's last run. Not a DVC output: a clock never makes a stage stale."""


def run(flow: Callable[[], Any]) -> None:
    """Body of `python -m flows.<stage>`: exits 1 with one line when the input is at fault."""
    from tasks.engines import engines
    from tasks.faults import told

    started = time.monotonic()
    quiet_prefect()
    with told():
        with engines(), cancelled(flow) as watched:
            watched()
        record(getattr(flow, "name", "stage"), time.monotonic() - started)


@contextmanager
def cancelled(flow: Any) -> Iterator[Any]:
    """The flow, whose run is shown as *Cancelled* when a signal ends it, which Prefect alone takes for a crash.

    It also tells Prefect its process, as runs of a worker do, so that `physique up` knows what is left of it.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import TerminationSignal
    from prefect.states import Cancelled

    ids = []

    def begun(flow: Any, run: Any, state: Any) -> None:
        ids.append(run.id)
        with get_client(sync_client=True) as client:
            client.update_flow_run(run.id, infrastructure_pid=f"{socket.gethostname()}:{os.getpid()}")

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(CANCELLED_CODE))  # else it ends before it has told
    try:
        yield flow.with_options(on_running=[*flow.on_running_hooks, begun])
    except (TerminationSignal, SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, SystemExit) and error.code != CANCELLED_CODE:
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with get_client(sync_client=True) as client:
            for run in ids:
                client.set_flow_run_state(run, Cancelled(message=CANCELLED), force=True)
        sys.exit(f"physique: {getattr(flow, 'name', 'the stage')} was cancelled. {CANCELLED}")
    finally:
        signal.signal(signal.SIGTERM, before)


def quiet_prefect() -> None:
    """On the terminal, Prefect's own lines at warning and above: what a person waits for is said by the progress bars."""
    import logging

    from prefect.logging.configuration import setup_logging

    from tasks.faults import OneLine

    setup_logging()
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(OneLine(silent=False))
    for handler in logging.getLogger().handlers:
        handler.addFilter(OneLine(silent=True))
        handler.addFilter(lambda record: record.levelno >= logging.WARNING or not record.name.startswith("prefect"))


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
