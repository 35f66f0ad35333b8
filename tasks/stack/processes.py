"""Finding and stopping all that a part has started, however deep, and nothing else.

Every part leads a session of its own, and everything it starts carries a mark in its environment. Either is enough: Ray's
workers overwrite their environment with their title, a flow run may leave the session. A session's number is not given
away while anybody is in it, so it cannot be somebody else's as long as its leader is ours or gone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.stack.parts import ray_folder
from tasks.stack.running import CLOCK_S, LOGS, MARK, Begun, Running

if TYPE_CHECKING:
    import psutil

FLOW_RUN = "PREFECT__FLOW_RUN_ID"
"""Prefect tells a flow run's process by this variable which run it is."""


def started_by(leaders: Iterable[Begun], token: str | None = None) -> list[psutil.Process]:
    """Living processes of the sessions that `leaders` lead, and with `token` all that carry that mark; never this one."""
    import psutil

    sessions = set()
    for leader in leaders:
        with suppress(psutil.NoSuchProcess):
            if abs(psutil.Process(leader.pid).create_time() - leader.at) >= CLOCK_S:
                continue  # the number is somebody else's by now, so nobody of the session is left
        sessions.add(leader.pid)
    sessions.discard(0)  # kernel threads, and in a container whoever came in from outside: led by nobody of ours
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if os.getsid(process.pid) in sessions or (token is not None and process.environ().get(MARK) == token):
                found.append(process)
    return found


def flow_runs(processes: Iterable[psutil.Process]) -> set[str]:
    """Ids of the Prefect flow runs that these processes are part of."""
    import psutil

    found = set()
    for process in processes:
        with suppress(psutil.Error, OSError):
            found.add(process.environ().get(FLOW_RUN, ""))
    return found - {""}


def stop(processes: list[psutil.Process], patience: float) -> list[psutil.Process]:
    """Ask them to end, wait up to `patience` seconds, kill the rest; those that are there even then."""
    import psutil

    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=patience)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    _, left = psutil.wait_procs(left, timeout=10)
    return [process for process in left if Begun(process.pid, process.create_time()).lives()] if left else []


def clean_up(state: Running) -> int:
    """Stop whatever is left of a stack, of this life or of one that was killed; how many processes that were."""
    leaders = [begun for led in state.parts.values() for begun in led]
    left = started_by(leaders, state.token)
    stop(left, 5)
    again = started_by(leaders, state.token)  # started in that moment
    stop(again, 0)
    folder = ray_folder(Path.cwd())
    if folder.is_dir():
        logs = folder / "session_latest/logs"
        kept = LOGS / "ray"
        shutil.rmtree(kept, ignore_errors=True)
        if logs.is_dir():
            with suppress(OSError):
                shutil.copytree(logs, kept, ignore_dangling_symlinks=True)
        shutil.rmtree(folder, ignore_errors=True)
    return len({process.pid for process in left + again})


def listener(port: int) -> str:
    """Who listens on a port, ` (python, pid 12)`; '' if that is not to be seen."""
    import psutil

    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.pid is not None
            if listens and getattr(connection.laddr, "port", None) == port:
                return f" (by {psutil.Process(connection.pid).name()}, pid {connection.pid})"
    return ""
