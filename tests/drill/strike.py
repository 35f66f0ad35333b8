"""One fault: work is begun, something is broken, the stack is watched until it works again, and all is counted."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

from tasks.stack.processes import FLOW_RUN, started_by
from tasks.stack.running import MARK
from tasks.tables import shard_paths
from tests.drill.ledger import Ledger
from tests.drill.reviewers import Reviewer
from tests.drill.scene import FINAL, ITSELF, Scene, until
from tests.drill.table import Row, load_of_machine

RUN_AGAIN = "the same run again"


@dataclass
class Work:
    """What is under way when the fault comes: a flow run, asked for as from its form.

    begin: makes it necessary. under_way: whether it is in the middle. versions: how many it registers at the end.
    """

    words: str
    deployment: str
    parameters: dict[str, Any] = field(default_factory=dict)
    begin: Callable[[Scene], object] = bool
    under_way: Callable[[Scene], object] = bool
    versions: int = 0


def unmake_meshes(scene: Scene) -> None:
    """All meshes have to be computed again."""
    shutil.rmtree(scene.folder / "data/mesh", ignore_errors=True)


def some_meshes(scene: Scene) -> int:
    """Shards that are finished."""
    out = scene.folder / "data/mesh"
    return len(shard_paths(out)) if out.is_dir() else 0


MESHES = Work("a pipeline extracts meshes", "pipeline", {"stage": "mesh"}, unmake_meshes, some_meshes)


def strike(
    scene: Scene, key: str, fault: str, work: Work, job: str, blow: Callable[[Scene], object], heal: Callable | None = None
) -> Row:
    """job: the small job that is asked for until it works, or ITSELF, for which the work under way has to end.

    heal: what ends the fault itself (a disk that has room again); the clock starts with the blow all the same.
    """
    scene.warm(job)
    reviewer = Reviewer(scene)
    reviewer.start()
    try:
        return _struck(scene, key, fault, work, job, blow, heal, reviewer)
    finally:
        reviewer.stop()


def _struck(
    scene: Scene, key: str, fault: str, work: Work, job: str, blow: Callable, heal: Callable | None, reviewer: Reviewer
) -> Row:
    load = load_of_machine()
    ledger, run = _caught(scene, work, reviewer)
    mark, began = len(scene.up.said()), time.monotonic()
    blow(scene)
    if heal is not None:
        heal(scene)
    seconds = scene.works(job, began) if job != ITSELF else 0.0
    state = scene.over(run)
    seconds = seconds or time.monotonic() - began
    saw = scene.said(mark)
    needs, became = "nothing", "went on and ended well"
    if state.get("type") != "COMPLETED":
        saw.append(f"[the page of the run] {state.get('name')}: {state.get('message')}")
        became, needs = f"ended as {state.get('name')}", RUN_AGAIN
        if state.get("hangs"):
            became = f"hangs as {state.get('name')}"
        again = scene.done(work.deployment, **work.parameters)
        if again.get("type") != "COMPLETED":
            saw.append(f"[and run again] {again.get('name')}: {again.get('message')}")
            became += ", and so it did when it was run again"
    reviewer.stop()
    lost, counted = ledger.lost(work.versions)
    if "hangs" in became or "so it did" in became:
        lost.append(f"the work under way {became}")
    saw += [f"[the review page] {why} ({count} times)" for why, count in reviewer.refused.items()]
    lines = [clean(line, scene) for line in saw]
    at = time.strftime("%Y-%m-%d")
    return Row(
        key, fault, work.words, lost, counted, job, seconds, scene.usual.get(job, 0), became, lines, needs, at, load
    )


def _caught(scene: Scene, work: Work, reviewer: Reviewer) -> tuple[Ledger, str]:
    """What was there before, and a flow run in the middle of its work; one that was over sooner is asked for again."""
    for _ in range(3):
        ledger = Ledger.of(scene, reviewer)
        work.begin(scene)
        run = until(lambda: scene.ask(work.deployment, **work.parameters), 60)
        until(lambda: work.under_way(scene) or scene.state(run).get("type") in FINAL, 900)  # noqa: B023
        if scene.state(run).get("type") not in FINAL:
            return ledger, run
    raise AssertionError(f"{work.words}: over each time before it was seen in the middle")


def clean(line: str, scene: Scene) -> str:
    """A line without the path of this machine, and not endless."""
    line = re.sub(r"\s+", " ", line.replace(str(scene.folder), "."))
    return line if len(line) < 400 else f"{line[:400]}…"


def kill(processes: Iterable[psutil.Process]) -> int:
    """SIGKILL; how many there were."""
    count = 0
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
            count += 1
    return count


def part(scene: Scene, name: str) -> list[psutil.Process]:
    """All processes of a part of `physique up`."""
    return started_by(scene.up.state().parts[name])


def of_runs(scene: Scene, run: str | None = None) -> list[psutil.Process]:
    """Processes of the flow runs of this stack, or of one of them."""
    found, token = [], scene.up.state().token
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            told = process.environ()
            if told.get(MARK) == token and told.get(FLOW_RUN) and run in (None, told[FLOW_RUN]):
                found.append(process)
    return found
