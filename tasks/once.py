"""One at a time in this folder, and one for all the nights that were missed.

Prefect has concurrency limits for deployments, but its server keeps who holds one in memory: after a crash a slot stays
taken, or is given twice. A lock on a file belongs to the process that holds it and ends with it, whatever ends it. It also
holds between the Prefect UI and `physique run`.

    uv run pytest tests/tasks/test_once.py
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

LOCKS = Path(".physique/locks")
WAIT_S = 6 * 3600.0
MISSED = timedelta(minutes=1)
DUE = ["Scheduled", "Late", "AwaitingConcurrencySlot"]
"""Names of states of runs that have not begun."""


@contextmanager
def alone(name: str, wait: float = 0.0, what: str = "") -> Iterator[str]:
    """Hold the lock `name`, waiting up to `wait` seconds; yields '' or, where another holds it still, who that is.

    what: the others are told that this runs, if it is not `name`.
    """
    from tasks.stage import say

    LOCKS.mkdir(parents=True, exist_ok=True)
    path = LOCKS / f"{name}.lock"
    with path.open("a+") as file:
        end, told = time.monotonic() + wait, False
        while not taken(file):
            if time.monotonic() >= end:
                yield holder(path)
                return
            if not told:
                say(f"{holder(path)}; this one waits for it")
                told = True
            time.sleep(1)
        file.truncate(0)
        json.dump(whoami() | {"since": time.strftime("%Y-%m-%d %H:%M:%S"), "pid": os.getpid(), "what": what or name}, file)
        file.flush()
        try:
            yield ""
        finally:
            file.truncate(0)


@contextmanager
def in_turn(what: str) -> Iterator[None]:
    """Hold the pipeline's lock, after whoever holds it, for a pipeline or for what changes the bank that it goes on from.

    Raises:
        TimeoutError: that took more than `WAIT_S`.
    """
    with alone("pipeline", wait=WAIT_S, what=what) as other:
        if other:
            raise TimeoutError(f"{other}; nothing was done. Cancel that one, or run this again when it is over")
        yield


def taken(file: Any) -> bool:
    """Whether this process now holds the lock on an open file. The lock ends with the process, however that ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def holder(path: Path) -> str:
    """Who holds a lock, as the line that the others say."""
    try:
        about = json.loads(path.read_text())
    except (OSError, ValueError):
        return f"another {path.stem} is running in this folder"
    which = f" {about['name']!r}" if about.get("name") else f" (pid {about['pid']})"
    page = f", {about['url']}" if about.get("url") else ""
    return f"another {about['what']}{which} has been running in this folder since {about['since']}{page}"


def whoami() -> dict[str, str]:
    """The name and page of the Prefect run this is called in; of the outermost one, as a person started that."""
    from prefect.context import FlowRunContext

    from tasks.provenance import prefect_run

    return prefect_run() if FlowRunContext.get() is not None else {}


def catch_up(now: datetime | None = None) -> list[str]:
    """Take over the other scheduled runs of this run's deployment that are due: they are skipped; the times they were for.

    After an outage Prefect starts every run that was missed. What they would do, one does. Nothing happens outside of a
    deployment's run.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.context import FlowRunContext
    from prefect.states import Cancelled

    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is None or run.deployment_id is None:
        return []
    now = now or datetime.now(UTC)
    skipped = []
    wanted = FlowRunFilter.model_validate(
        {
            "state": {"name": {"any_": DUE}},
            "deployment_id": {"any_": [run.deployment_id]},
            "expected_start_time": {"before_": now},
        }
    )
    message = f"missed nights are caught up in one: {run.name!r} does what this run was for"
    with get_client(sync_client=True) as client:
        for other in client.read_flow_runs(flow_run_filter=wanted, limit=200):
            late = other.expected_start_time is None or now - other.expected_start_time > MISSED
            if late or other.auto_scheduled:  # what somebody has asked for just now explains itself (`alone`)
                client.set_flow_run_state(other.id, Cancelled(name="Skipped", message=message), force=True)
                skipped.append(f"{other.expected_start_time:%Y-%m-%d %H:%M}" if other.expected_start_time else "")
    return sorted(skipped)
