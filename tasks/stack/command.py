"""What `physique up` and `physique down` do (docs/operating.md).

    uv run physique up
    uv run pytest tests/test_up.py
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tasks.intake.quarantine import BadInput
from tasks.once import taken
from tasks.stack.running import FOLDER, LOGS, STATE, Running, running, written

STOP_LIMIT_S = 90.0


def up(host: str, ports: dict[str, int], say: Callable[[str], None]) -> None:
    """Start all that is missing, look after it until Ctrl-C, SIGTERM or `down`; a line if it is up already.

    Raises:
        BadInput: not a checkout of this project, a port is taken, the disk is full, a server that is named does not answer.
    """
    from tasks.engines import ray_environment
    from tasks.stack.parts import Ports, plan
    from tasks.stack.processes import clean_up
    from tasks.stack.watch import Stack, enough_room, no_room

    if not Path("prefect.yaml").is_file() or not Path("dvc.yaml").is_file():
        raise BadInput(f"{Path.cwd()} is no checkout of this project: prefect.yaml is missing. Run `physique up` in one")
    if not enough_room(Path.cwd()):
        raise BadInput(no_room(Path.cwd()))
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "up.lock").open("w") as lock:
        if not taken(lock):
            already = running()
            say(f"up already{f', since {already.since}' if already else ''}; `physique down` stops it")
            for line in addresses(already) if already else []:
                say(line)
            return
        before = written()
        if before is not None and (left := clean_up(before)):
            say(f"an earlier `physique up` was killed: the {left} processes that it left are stopped")
        token = os.urandom(4).hex()
        planned = plan(host, Ports(**ports), Path.cwd(), token)
        ray_environment(planned.ray)
        _free(host, planned.parts)
        LOGS.mkdir(exist_ok=True)
        for note in planned.notes:
            say(note)
        say(f"starting {', '.join(part.name for part in planned.parts)}; logs are in {LOGS}")
        stack = Stack(planned, token, say)
        stack.run(lambda seconds: [say(line) for line in welcome(stack.state, seconds)])
        say("all stopped")


def down(say: Callable[[str], None]) -> None:
    """Stop what `up` started in this folder, also what is left of one that was killed.

    Raises:
        RuntimeError: a process is there still; it is named.
    """
    from tasks.stack.processes import clean_up, started_by

    found = written()
    if found is None:
        say(f"nothing is up in {Path.cwd()}")
        return
    if found.own.lives():
        os.kill(found.own.pid, signal.SIGTERM)
        end = time.monotonic() + STOP_LIMIT_S
        while found.own.lives() and time.monotonic() < end:
            time.sleep(0.2)
        if found.own.lives():
            os.kill(found.own.pid, signal.SIGKILL)
        found = written() or found  # parts that were started meanwhile
    clean_up(found)
    STATE.unlink(missing_ok=True)
    leaders = [begun for led in found.parts.values() for begun in led]
    if left := started_by(leaders, found.token):
        raise RuntimeError(f"not stopped: {', '.join(f'{each.name()} (pid {each.pid})' for each in left)}")
    say("all stopped")


def addresses(state: Running) -> list[str]:
    """What a person opens."""
    return [f"  {name:12} {page}" for name, page in state.pages.items()]


def welcome(state: Running, seconds: float) -> list[str]:
    """All that is said when everything has answered."""
    from tasks.stack.deployments import page_of

    page = page_of(state.prefect, "pipeline") or f"{state.pages['Prefect']}/deployments"
    return [
        f"all up after {seconds:.0f} s",
        *addresses(state),
        f"Click first: {page} → Run → Quick run. It builds all models; its Artifacts say what came of it.",
        "Stop with Ctrl-C, or with `uv run physique down` from elsewhere.",
    ]


def _free(host: str, parts: list) -> None:
    """Raise BadInput, with a line for every port that is taken."""
    from tasks.stack.parts import RAY
    from tasks.stack.processes import listener

    taken = []
    for part in parts:
        for option, port in part.ports.items():
            if not _can_listen("127.0.0.1" if part.name == RAY else host, port):
                use = f"{part.name}: port {port} is in use{listener(port)}"
                taken.append(f"{use}; stop that, or name another port with {option}")
    if taken:
        raise BadInput("\nphysique: ".join(taken))


def _can_listen(host: str, port: int) -> bool:
    import socket

    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(kind) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError:
            return False
    return True
