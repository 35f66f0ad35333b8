"""The DVC graph: which stages there are, in which order, which are stale; and running one of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

Stage = Literal[
    "all", "source", "body", "mannequins", "meshnet", "listing", "cohort", "mesh", "embed", "reviews", "nights",
    "pretrain", "finetune", "continual", "evaluate",
]  # fmt: skip
"""Stages of dvc.yaml, or all of them, as the choices of a form; a test holds them equal."""
LOCK_WAIT_S = 3600
PATIENCE_S = 25.0
"""How long a stage that is ended may take to tidy up; Prefect gives the run 30 s."""


def stages(target: str | None = None) -> list[str]:
    """Names of all stages, or of those `target` needs, in the order they have to run."""
    import networkx
    from dvc.repo import Repo

    with Repo() as repo:
        graph = repo.index.graph
        order = [stage for stage in networkx.dfs_postorder_nodes(graph) if getattr(stage, "name", None)]
        names = [stage.name for stage in order]
        if target is None:
            return names
        if target not in names:
            raise ValueError(f"dvc.yaml has no stage {target!r}; there are {', '.join(names)}")
        needed = networkx.descendants(graph, order[names.index(target)]) | {order[names.index(target)]}
        return [stage.name for stage in order if stage in needed]


def needed_by(stage: str, folder: Path) -> list[str]:
    """Stages of the checkout in `folder` whose outputs `stage` may look at: all but itself and what comes after it."""
    import networkx
    from dvc.repo import Repo

    with Repo(folder) as repo:
        graph = repo.index.graph
        (own,) = [node for node in graph if getattr(node, "name", None) == stage]
        after = networkx.ancestors(graph, own)  # edges lead from a stage to what it depends on
        return sorted(node.name for node in graph if getattr(node, "name", None) and node not in {own, *after})


def changes(stage: str) -> list[str]:
    """Why a stage is stale, a line each; empty when it is up to date. It waits for whoever holds DVC's lock."""
    from dvc.lock import LockError
    from dvc.repo import Repo

    end = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            with Repo() as repo:
                status = repo.status(targets=[stage])
            break
        except LockError:
            if time.monotonic() > end:
                raise
            time.sleep(2)
    lines = []
    for reason in status.get(stage, []):
        if isinstance(reason, str):
            lines.append(reason)
            continue
        for kind, paths in reason.items():
            lines += [f"{kind}: {path} {what}" for path, what in paths.items()]
    return lines


def reproduce(stage: str, force: bool, say: Callable[[str], None]) -> None:
    """Run one stage through `dvc repro`, saying what it prints as it does, after any other `dvc repro` in this checkout.

    Ended from outside (a signal, Ctrl-C) it ends the stage too, and waits for that.

    Raises:
        RuntimeError: the stage failed; the message ends with what it said of that (`last_words`).
    """
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage] + (["--force"] if force else [])
    end, waited = time.monotonic() + LOCK_WAIT_S, False
    while True:
        last: deque[str] = deque(maxlen=500)
        begun = False  # what comes before is about the lock, and comes every two seconds
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=Path()
        )
        assert process.stdout is not None
        try:
            for line in filter(None, map(str.rstrip, process.stdout)):
                last.append(line)
                begun = begun or line.startswith("Running stage")
                if begun:
                    say(line)
            code = process.wait()
        except BaseException:
            _end(process.pid)
            raise
        if code == 0:
            for line in () if begun else last:
                say(line)
            return
        lines = list(last)
        if not _locked(lines) or time.monotonic() > end:
            raise RuntimeError(f"stage {stage} failed: {last_words(lines) or code}")
        if not waited:
            say(f"another dvc repro is running in this checkout; {stage} waits for it")
            waited = True
        time.sleep(2)


def _locked(lines: list[str]) -> bool:
    """Whether DVC has refused as another of its kind is at work; what a stage says of locks of its own is no such thing."""
    return any(line.startswith("ERROR: ") and ("acquire lock" in line or "blocked by" in line) for line in lines[-8:])


def last_words(lines: list[str]) -> str:
    """Why a stage failed, of all that it and DVC have printed: its line for people, else the last one that is not DVC's."""
    told = [line.removeprefix("physique: ") for line in lines if line.startswith("physique: ")]
    own = [line for line in lines if not line.startswith("ERROR: failed to reproduce")]
    return (told or own or lines or [""])[-1]


def _end(pid: int) -> None:
    """Ask a stage to end, all of it but the engines, which are shared and end by themselves; kill what does not."""
    import psutil

    from tasks.stack.processes import stop

    mine, below = os.getsid(0), []
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.Error, OSError):
                if os.getsid(each.pid) == mine:
                    below.append(each)
    stop(below, PATIENCE_S)
