"""`physique forget`: every place where somebody may be, one after the other, then the proof.

    1  what is to be forgotten is written down (.physique/forgetting.json), and its hash put on the list `forgotten.txt`,
       which intake honours: from here on nothing brings it back
    2  every place of `places` removes it
    3  every place is searched (`tasks.forget.search`), which is the proof
    4  what was removed is kept by hash, in .physique/forgotten/, and what 1 wrote down is deleted

Killed anywhere, the next call goes on with what was written down. DVC's lock is held throughout, so no pipeline runs
meanwhile, and where one has begun this is refused.

    uv run pytest tests/test_forget.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from tasks.forget.folders import PENDING, RECORDS, WORK, Folder, Report, Source
from tasks.forget.models import directly
from tasks.forget.target import Target, find_target
from tasks.forgotten import FILE, remember
from tasks.intake.quarantine import BadInput
from tasks.tables import read_json, write_json


class Place(Protocol):
    """Where somebody may be. find: what a search sees, a line each; remove: how much went, by what it was."""

    name: str

    def find(self, target: Target) -> list[str]: ...

    def remove(self, target: Target) -> dict[str, int]: ...


@dataclass
class Done:
    """removed, left: by place. unsearched: servers with databases that this machine does not reach.

    hash: by which the record of it is kept. notes: what the reader has to know or do.
    """

    target: Target
    hash: str
    removed: dict[str, dict[str, int]] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    unsearched: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not any(self.left.values())


def places(source: bool) -> list[Place]:
    """Every place, those that others are made from first. source: rows of the user's own folder are deleted too."""
    from tasks.forget.cache import Cache
    from tasks.forget.checkpoints import Checkpoints
    from tasks.forget.models import Models
    from tasks.forget.prefect_runs import PrefectRuns
    from tasks.forget.reviews import Reviews
    from tasks.params import load_params
    from tasks.train import STORAGE

    data = load_params().data
    own = Path(data.path)
    folder = Source(own, source or data.source == "mannequins")
    elsewhere = [Checkpoints()] if os.environ.get(STORAGE) else []
    return [
        folder, Reviews(), Folder(Path("data"), (own, Path("data/weights"))), Folder(Path("artifacts"), (own,)),
        Folder(WORK, (own,)), Report(Path("report")), Folder(Path("exchange"), (own,)), Models(), PrefectRuns(), Cache(),
        *elsewhere,
    ]  # fmt: skip


def forget(
    name: str, kind: str | None = None, source: bool = False, dry_run: bool = False, say: Callable[[str], None] = print
) -> Done:
    """Forget whoever or whatever `name` is; with `dry_run` only say where it is.

    Raises:
        BadInput: nobody is called so, or a pipeline is running.
    """
    with alone(), directly():
        target, removed = _pending(name) or (find_target(name, kind), {})
        everywhere = places(source)
        if dry_run:
            return Done(target, "", left={place.name: place.find(target) for place in everywhere})
        write_json({"target": target.to_json(), "removed": removed}, PENDING)
        done = Done(target, remember(target.entries)[0], removed)
        for place in everywhere:
            say(f"{place.name}: removing")
            before, more = removed.get(place.name, {}), place.remove(target)
            removed[place.name] = {what: before.get(what, 0) + more.get(what, 0) for what in {**before, **more}}
            write_json({"target": target.to_json(), "removed": removed}, PENDING)
        for place in everywhere:
            done.left[place.name] = place.find(target)
        done.unsearched = _unsearched()
        done.notes = _notes(target, done)
        if done.clean:
            _record(done)
            PENDING.unlink()
    return done


def _pending(name: str) -> tuple[Target, dict[str, dict[str, int]]] | None:
    """What a killed call was about and what it had removed, if it is what is meant now; else None.

    It had to be written down: the names of a photo may be known from nowhere else any more.

    Raises:
        BadInput: it was about somebody else, and is not finished.
    """
    if not PENDING.is_file():
        return None
    known = read_json(PENDING)
    target = Target.from_json(known["target"])
    if name in (target.id, *target.names, *(each.rsplit("/", 1)[-1] for each in target.names)):
        return target, known["removed"]
    raise BadInput(f"forget: somebody else is not forgotten entirely yet; first the same again for whom {PENDING} names")


@contextmanager
def alone() -> Iterator[None]:
    """With DVC's lock, and that of the pipeline, which holds DVC's only while a stage runs.

    Raises:
        BadInput: a `dvc repro`, the pipeline or a night is running in this checkout.
    """
    from dvc.lock import LockError
    from dvc.repo import Repo, lock_repo

    from tasks.once import alone as only_one

    busy = "forget: a pipeline or a night is running in this checkout; wait until it is done, nothing was changed"
    with only_one("pipeline") as other, Repo() as repo:
        if other:
            raise BadInput(busy)
        try:
            lock = lock_repo(repo)
            lock.__enter__()
        except LockError:
            raise BadInput(busy) from None
        try:
            if _stage_runs(Path(repo.tmp_dir) / "rwlock"):
                raise BadInput(busy)
            yield
        finally:
            lock.__exit__(None, None, None)


def _stage_runs(path: Path) -> bool:
    """Whether a stage runs: DVC leaves its lock meanwhile, and notes here who reads and writes what."""
    import psutil

    try:
        held = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError:
        return False
    owners = [owner for owners in held.get("read", {}).values() for owner in owners] + list(held.get("write", {}).values())
    return any(psutil.pid_exists(owner["pid"]) for owner in owners if owner)


def _unsearched() -> list[str]:
    """Servers whose databases this machine does not reach."""
    from tasks.forget import models, prefect_runs

    servers = (("Prefect", prefect_runs.elsewhere()), ("MLflow", models.elsewhere()))
    return [f"{tool} at {server}" for tool, server in servers if server]


def _notes(target: Target, done: Done) -> list[str]:
    from tasks.forget.cache import git_commits

    notes = [f"{FILE} has changed; commit it, so that no other checkout brings them back"]
    commits = git_commits(target)
    if commits:
        some = ", ".join(commits[:5]) + (" …" if len(commits) > 5 else "")
        notes.append(f"git: commits that name it: {len(commits)} ({some}); history is not rewritten, `git filter-repo` can")
    unnamed = "may keep a database of its own, which was not searched: it is not named (docs/forget.md)"
    notes += [f"{each} {unnamed}" for each in done.unsearched]
    what = {
        "user": "all that reads ratings runs again: experts' models, the prior over users, everybody's entry",
        "expert": "every expert's model, the prior and all entries are made anew without them",
        "photo": "all models are trained anew without its labels",
    }[target.kind]
    notes.append(f"the next `dvc repro` or night: {what}; until then versions tagged `stale` serve")
    notes.append("services that have loaded a model keep it in memory until they are started again")
    return notes


def _record(done: Done) -> None:
    """What was removed, by hash: nobody is named."""
    proof = f"nothing found; not searched: {', '.join(done.unsearched)}" if done.unsearched else "nothing found"
    about = {"hash": done.hash, "kind": done.target.kind, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    places = {name.split(" (")[0]: counts for name, counts in done.removed.items()}
    write_json(about | {"removed": places, "proof": proof}, RECORDS / f"{done.hash[:16]}.json")
