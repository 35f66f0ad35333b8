"""Shards over a pool of Ray actors, each shard a Prefect task run with retries.

Actors are called from ordinary Prefect tasks rather than through a Ray task runner: every task's logs and
state arrive, a killed worker is seen and retried here, and an actor keeps its model (shared/ecosystem.md
has the measurements). An actor whose process dies is started again by Ray; the shard it held is retried.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.futures import as_completed

RETRIES = 4


@dataclass(frozen=True)
class Piece:
    """One shard to compute: its `name` (a hash of what is in it) and what the stage has to know of it."""

    name: str
    payload: Any
    rows: int


class Pool:
    """Idle actors wait in a queue; `borrow` hands one out and puts it back, dead or alive."""

    def __init__(self, actor: type, arguments: dict[str, Any], count: int, cpus: float, gpus: float):
        import ray

        # max_restarts: Ray starts the process again; retrying the call is left to Prefect, which shows it.
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=0)(actor)
        self.actors = [remote.remote(**arguments) for _ in range(count)]
        self.idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for handle in self.actors:
            self.idle.put(handle)

    @contextmanager
    def borrow(self) -> Iterator[Any]:
        handle = self.idle.get()
        try:
            yield handle
        finally:
            self.idle.put(handle)

    def close(self) -> None:
        import ray

        for handle in self.actors:
            ray.kill(handle)


@task(retries=RETRIES, retry_delay_seconds=1, cache_policy=None, task_run_name="{piece.name}")
def compute_shard(
    piece: Piece, read: Callable[[Any], Any], pool: Pool, write: Callable[[str, Any], None]
) -> int:
    """Read one shard's input, have an actor compute it, write the result whole; its number of rows."""
    import ray

    with pool.borrow() as actor:
        result = ray.get(actor.compute.remote(read(piece.payload)))
    write(piece.name, result)
    return piece.rows


def fan_out(
    label: str,
    pieces: Sequence[Piece],
    *,
    actor: type,
    arguments: dict[str, Any],
    read: Callable[[Any], Any],
    write: Callable[[str, Any], None],
    actors: int,
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> None:
    """Compute every piece on a pool of `actors` and show how far it is.

    Args:
        actor: class with a `compute(input) -> result` method, built once per process from `arguments`.
        read: makes an actor's input from a piece's payload, when its turn comes (bytes are not held before).
        write: stores a finished shard under its name, whole or not at all.

    Raises:
        RuntimeError: a shard failed every retry; the message has the first failure. Finished shards stay.
    """
    from tasks.engines import connect
    from tasks.progress import progress

    if not pieces:
        return
    connect()
    pool = Pool(actor, arguments, min(actors, len(pieces)), cpus, gpus)
    try:
        futures = [compute_shard.submit(piece, read, pool, write) for piece in pieces]
        failed: list[str] = []
        with progress(label, sum(piece.rows for piece in pieces)) as advance:
            for future in as_completed(futures):
                try:
                    advance(future.result())
                except Exception as error:
                    failed.append(" ".join(str(error).split())[-300:] or type(error).__name__)
    finally:
        pool.close()
    if failed:
        raise RuntimeError(
            f"{label}: {len(failed)} of {len(pieces)} shards failed after {RETRIES} retries; the first said: "
            f"{failed[0]}. Finished shards are kept: run the same command again"
        )
