"""The DVC graph: which stages there are, in which order, which are stale; and running one of them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

Stage = Literal[
    "all", "source", "body", "mannequins", "meshnet", "listing", "cohort", "mesh", "embed", "reviews", "nights",
    "pretrain", "finetune", "continual", "evaluate",
]  # fmt: skip
"""Stages of dvc.yaml, or all of them, as the choices of a form; a test holds them equal."""
LOCK_WAIT_S = 3600


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


def changes(stage: str) -> list[str]:
    """Why a stage is stale, a line each; empty when it is up to date."""
    from dvc.repo import Repo

    with Repo() as repo:
        status = repo.status(targets=[stage])
    lines = []
    for reason in status.get(stage, []):
        if isinstance(reason, str):
            lines.append(reason)
            continue
        for kind, paths in reason.items():
            lines += [f"{kind}: {path} {what}" for path, what in paths.items()]
    return lines


def reproduce(stage: str, force: bool, say: Callable[[str], None]) -> None:
    """Run one stage through `dvc repro`, waiting for another `dvc repro` in this checkout to end.

    Raises:
        RuntimeError: the stage failed; the message ends with what it said of that (`last_words`).
    """
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage] + (["--force"] if force else [])
    end, waited = time.monotonic() + LOCK_WAIT_S, False
    while True:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=Path()
        )
        assert process.stdout is not None
        lines = [line.rstrip() for line in process.stdout if line.strip()]
        if process.wait() == 0:
            for line in lines:
                say(line)
            return
        if not _locked(lines) or time.monotonic() > end:
            raise RuntimeError(f"stage {stage} failed: {last_words(lines) or process.returncode}")
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
