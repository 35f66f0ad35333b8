"""Shards over Ray actors, each shard a Prefect task run with retries.

Actors are called from ordinary Prefect tasks rather than through a Ray task runner: every task's logs and
state arrive, a killed worker is seen and retried here, and an actor keeps its model (shared/ecosystem.md
has the measurements; docs/benchmarks.md those against Ray Data). How a shard's batches go from actor to actor is in
tasks/pools.py.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.futures import as_completed

from tasks.pools import Crew, Gone, Line
from tasks.stage import say

__all__ = ["Crew", "Halted", "Piece", "fan_out"]

RETRIES = 4
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Piece:
    """One shard to compute: its `name` (a hash of what is in it) and what the stage has to know of it."""

    name: str
    payload: Any
    rows: int


class Halted(RuntimeError):
    """Nothing can be written any more; one line that says so. What is finished stays."""


def _again(task: Any, run: Any, state: Any) -> bool:
    """Whether a failed shard is tried again: not if the disk is full."""
    try:
        state.result()
    except (Halted, Gone):
        return False
    except Exception:
        return True
    return True


@task(
    retries=RETRIES, retry_delay_seconds=1, retry_condition_fn=_again, cache_policy=None, task_run_name="{piece.name}"
)
def compute_shard(
    piece: Piece,
    read: Callable[[Any], Iterable[Any]],
    line: Line,
    write: Callable[[str, list[Any]], None],
) -> int:
    """Send one shard's batches down the line, write the result whole; its number of rows."""
    with line.place():
        if line.halted:
            raise Halted(line.halted)
        made = line.run(read(piece.payload))
        try:
            write(piece.name, made)
        except OSError as error:
            if error.errno not in FULL:
                raise
            line.halted = f"{error.strerror} ({error.filename or 'while a shard was written'})"
            raise Halted(line.halted) from None
    return piece.rows


def fan_out(
    label: str,
    pieces: Sequence[Piece],
    crews: Sequence[Crew],
    *,
    read: Callable[[Any], Iterable[Any]],
    write: Callable[[str, list[Any]], None],
) -> None:
    """Compute every piece on a line of crews and show how far it is.

    Args:
        read: gives a piece's batches when its turn comes (bytes are not held before).
        write: stores what came of a piece's batches under its name, whole or not at all.

    Raises:
        Halted: the disk is full. Finished shards stay.
        RuntimeError: a shard failed every retry; the message has the first failure. Finished shards stay.
    """
    from tasks.engines import connect
    from tasks.progress import progress

    if not pieces:
        return
    connect()
    failed: list[str] = []
    line = Line(crews)
    try:
        futures = [compute_shard.submit(piece, read, line, write) for piece in pieces]
        with progress(label, sum(piece.rows for piece in pieces)) as advance:
            for future in as_completed(futures):
                try:
                    advance(future.result())
                except Exception as error:
                    failed.append(" ".join(str(error).split())[-300:] or type(error).__name__)
    finally:
        line.close()
    if line.deaths:
        say(f"{label}: {line.deaths} shards were tried again, as a worker had died with them")
    kept = f"{len(pieces) - len(failed)} of {len(pieces)} shards are finished and kept"
    if line.halted:
        raise Halted(f"{label}: {line.halted}; {kept}: make room and run the same command again")
    if failed:
        raise RuntimeError(
            f"{label}: {len(failed)} of {len(pieces)} shards failed after {RETRIES} retries; the first said: "
            f"{failed[0]}. {kept}: run the same command again"
        )
