"""What Ray workers print, in the log of the Prefect run that they work for.

Ray hands what the workers of a job print to its driver, which prints it, so that it is in nobody's log. Here every line
goes to the run whose flow has connected to Ray. A terminal shows none of it: who waits there reads progress bars.
PHYSIQUE_RAY_LOGS=1 prints it there as well.

    uv run pytest tests/test_engine.py
"""

from __future__ import annotations

import contextvars
import os
from typing import Any

NAME = "physique"


def follow() -> None:
    """From now on, what workers of this process's Ray job print goes to the current flow run's log."""
    from prefect.context import FlowRunContext
    from ray._private import ray_logging  # Ray has no other door to these lines

    dispatcher = ray_logging.global_worker_stdstream_dispatcher
    if not os.environ.get("PHYSIQUE_RAY_LOGS"):
        dispatcher.remove_handler("ray_print_logs")
    dispatcher.remove_handler(NAME)
    if FlowRunContext.get() is None:
        return
    repeats = ray_logging.LogDeduplicator(5, None, None)
    # Ray calls from a thread of its own, which knows neither the run nor Prefect's address.
    here = contextvars.copy_context()
    dispatcher.add_handler(NAME, lambda batch: here.run(_log, repeats.deduplicate(batch)))


def _log(batches: list[dict[str, Any]]) -> None:
    """Write batches of lines, as Ray hands them over, to the run that this context is of."""
    from prefect import get_run_logger

    log = get_run_logger()
    for batch in batches:
        if batch.get("pid") == "autoscaler":  # a page of nothing new every five seconds
            continue
        elsewhere = f", {batch['ip']}" if batch.get("ip") != batch.get("localhost") else ""
        who = batch.get("actor_name") or batch.get("task_name") or "Ray"
        for line in batch["lines"]:
            if line.strip():
                log.info("%s (pid %s%s): %s", who, batch.get("pid"), elsewhere, line.rstrip())
