"""Crews of Ray actors in a line: decoders, say, feed networks, a batch at a time.

What one actor makes goes to the next as a Ray reference, never through this process, and only so many batches are under
way that nobody waits and memory stays flat. An actor whose process or node dies is started again by Ray, elsewhere if it
must; until it answers its work goes to the others, and the shards it had a part in are for the caller to retry. On what is
left of a cluster one crew does not keep another out.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tasks.stage import say

DEATHS = 5
"""An actor that dies so often while it starts is given up."""
PATIENCE_S = 20
"""After so many seconds without any worker of a crew another crew makes room for one, if it can spare one."""


@dataclass(frozen=True)
class Crew:
    """Actors of one kind: a class with `compute(batch)`, built once per process from `arguments`."""

    actor: type
    arguments: dict[str, Any]
    count: int
    cpus: float = 1.0
    gpus: float = 0.0


class Gone(RuntimeError):
    """A crew has nobody left and will have nobody; one line that says why."""


class Died(RuntimeError):
    """A worker died while it had a batch; one line that says which and how. Its shard is for the caller to retry."""


class Pool:
    """A crew at work: a batch goes to the actor that has fewest; one that died is left out until it answers again."""

    def __init__(self, crew: Crew, share: float, starved: Callable[[Pool], None]):
        import ray

        # Rounded down: claims that add up to a hair more than there is leave somebody waiting for ever.
        self.crew, self.starved, self.claim = crew, starved, math.floor(crew.cpus * share * 1e4) / 1e4
        options = {"num_cpus": self.claim, "num_gpus": crew.gpus}
        # max_restarts: Ray starts the process again; retrying the call is left to Prefect, which shows it.
        remote = ray.remote(**options, max_restarts=-1, max_task_retries=0)(crew.actor)
        self.actors = [remote.remote(**crew.arguments) for _ in range(crew.count)]
        self.load = [0] * crew.count
        self.away = {k: actor.__ray_ready__.remote() for k, actor in enumerate(self.actors)}
        self.gone: dict[int, str] = {}
        """Actors that never come back, and why."""
        self.deaths = [0] * crew.count
        """Times that an actor died before it answered, in a row."""
        self.restart: dict[int, float] = {}
        """Until when it may take to start an actor again."""
        self.patience = time.monotonic() + PATIENCE_S
        self.closed = False
        self.lock = threading.Condition()

    def submit(self, batch: Any) -> tuple[int, Any]:
        """Number of the actor that takes a batch, and a reference to what will come of it. Raises Gone."""
        while True:
            with self.lock:
                chosen = self._choose()
                starved = chosen is None and time.monotonic() > self.patience
                if starved:
                    self.patience = time.monotonic() + PATIENCE_S
                if chosen is None and not starved:
                    self.lock.wait(0.2)
            if chosen is not None:  # outside of the lock: a batch is megabytes that are copied now
                try:
                    return chosen, self.actors[chosen].compute.remote(batch)
                except BaseException:
                    self.release(chosen, True)
                    raise
            if starved:
                self.starved(self)

    def _choose(self) -> int | None:
        """The actor that has least to do, with one batch more; None while nobody answers."""
        if self.closed:
            raise Gone("the run has ended")
        self._welcome()
        here = self.here()
        if not here:
            if len(self.gone) == len(self.actors):
                raise Gone(f"no {self.crew.actor.__name__} is left: {next(iter(self.gone.values()))}")
            return None
        chosen = min(here, key=lambda k: self.load[k])
        self.load[chosen] += 1
        self.patience = time.monotonic() + PATIENCE_S
        return chosen

    def here(self) -> list[int]:
        """Numbers of the actors that answer."""
        return [k for k in range(len(self.actors)) if k not in self.away and k not in self.gone]

    def spare(self) -> bool:
        """Let one actor go, if another one is left; whether it did."""
        import ray

        with self.lock:
            here = self.here()
            if len(here) < 2:
                return False
            self.gone[here[-1]] = "it made room for others"
        ray.kill(self.actors[here[-1]])
        return True

    def _welcome(self) -> None:
        """Take back the actors that answer; give up those whose own start fails, or that die again and again in it."""
        import ray

        for k, answer in list(self.away.items()):
            if k in self.gone or not ray.wait([answer], timeout=0)[0]:
                continue
            try:
                ray.get(answer)
            except ray.exceptions.RayError as error:
                now = time.monotonic()
                # That it is being restarted Ray says at once, as often as it is asked: one death, unless it takes for ever.
                if "is restarting" not in str(error) or now > self.restart.setdefault(k, now + PATIENCE_S):
                    self.deaths[k] += 1
                    self.restart.pop(k, None)
                failed = getattr(error, "actor_init_failed", False)
                if failed or self.deaths[k] >= DEATHS:
                    why = str(error).strip().splitlines()
                    self.gone[k] = why[-1] if failed and why else f"it died {DEATHS} times while it started (memory?)"
                    say(f"a {self.crew.actor.__name__} is given up: {self.gone[k]}")
                else:
                    self.away[k] = self.actors[k].__ray_ready__.remote()
            else:
                self.deaths[k] = 0
                self.restart.pop(k, None)
                del self.away[k]

    def release(self, k: int, well: bool) -> None:
        """A batch of actor `k` has ended; if not well, the actor is left out until it answers."""
        with self.lock:
            self.load[k] -= 1
            if not well and k not in self.away and k not in self.gone and not self.closed:
                self.away[k] = self.actors[k].__ray_ready__.remote()
            self.lock.notify()

    def close(self) -> None:
        import ray

        with self.lock:
            self.closed = True
            self.lock.notify_all()
        for handle in self.actors:
            ray.kill(handle)


class Line:
    """Crews one after the other: each batch of a shard goes through all of them."""

    def __init__(self, crews: Sequence[Crew]):
        share = _share(crews)
        self.pools: list[Pool] = []
        for crew in reversed(crews):  # those at the end need the accelerator: they choose their place first
            self.pools.insert(0, Pool(crew, share, self._make_room))
        last = crews[-1].count
        self.places = threading.Semaphore(2 * last)  # the next shard is under way while one is written
        self.window = 1 + max(1, -(-sum(crew.count for crew in crews) // (2 * last)))
        self.halted: str | None = None
        self.deaths = 0
        """Shards that a worker's death has cost."""

    def run(self, batches: Iterable[Any]) -> list[Any]:
        """What comes of each batch, in order."""
        out: list[Any] = []
        under_way: deque[tuple[Any, list[tuple[Pool, int]]]] = deque()
        try:
            for batch in batches:
                if len(under_way) >= self.window:
                    out.append(self._collect(under_way))
                under_way.append(self._start(batch))
            while under_way:
                out.append(self._collect(under_way))
        finally:
            for _, hands in under_way:  # of a shard that failed: what is still computed, nobody fetches
                for pool, k in hands:
                    pool.release(k, True)
        return out

    def _start(self, batch: Any) -> tuple[Any, list[tuple[Pool, int]]]:
        hands: list[tuple[Pool, int]] = []
        try:
            for pool in self.pools:
                k, batch = pool.submit(batch)
                hands.append((pool, k))
        except BaseException:
            for pool, k in hands:
                pool.release(k, True)
            raise
        return batch, hands

    def _collect(self, under_way: deque[tuple[Any, list[tuple[Pool, int]]]]) -> Any:
        import ray

        made, hands = under_way.popleft()
        well = False
        try:
            result = ray.get(made)
            well = True
            return result
        except ray.exceptions.RayActorError as error:
            self.deaths += 1
            raise Died(_death(error, hands)) from None
        finally:
            for pool, k in hands:
                pool.release(k, well)

    def _make_room(self, pool: Pool) -> None:
        """For a crew without anybody: on what is left of a cluster one crew must not keep the others out."""
        needs = f"{pool.claim:g} CPU" + (f" and {pool.crew.gpus:g} GPU" if pool.crew.gpus else "")
        say(f"waiting for a {pool.crew.actor.__name__} ({needs}): none has started yet")
        claimed = [sum(each.claim * (each.crew.count - len(each.gone)) for each in self.pools)]
        claimed += [sum(each.crew.gpus * (each.crew.count - len(each.gone)) for each in self.pools)]
        if claimed[0] <= _there("CPU") and claimed[1] <= _there("GPU"):
            return  # there is room for all: they are on their way
        for other in self.pools:
            if other is not pool and other.spare():
                say(f"one {other.crew.actor.__name__} less makes room")
                return

    @contextmanager
    def place(self) -> Iterator[None]:
        """Waits until a shard more can be under way."""
        with self.places:
            yield

    def close(self) -> None:
        for pool in self.pools:
            pool.close()


def _death(error: Exception, hands: list[tuple[Pool, int]]) -> str:
    """Ray's page on a worker's death as a line. hands: who had the batch, in order."""
    said = " ".join(str(error).split())
    who = (pool.crew.actor.__name__ for pool, k in hands if pool.actors[k]._actor_id.hex() in said)
    how = re.search(r"Worker exit detail: (.*?)(?: Some common causes|$)", said)
    why = how[1][:200].rstrip(". ") if how else "its process or its node is gone"
    return f"a {next(who, 'worker')} died with this shard in hand: {why}"


def _there(kind: str) -> float:
    """CPUs or GPUs of the cluster as it is now."""
    import ray

    return sum(node["Resources"].get(kind, 0.0) for node in ray.nodes() if node["Alive"])


def _share(crews: Sequence[Crew]) -> float:
    """What part of the CPUs asked for is claimed: all, or what a single machine has, so that everybody gets to work.

    Raises:
        ValueError: GPUs are asked for that the single machine does not have.
    """
    import ray

    single = sum(node["Alive"] for node in ray.nodes()) == 1
    gpus = sum(crew.count * crew.gpus for crew in crews)
    if single and gpus > _there("GPU"):
        raise ValueError(
            f"{gpus:g} GPUs are asked for and {_there('GPU'):g} are there; set gpus_per_actor, gpus_per_decoder, actors or "
            "decoders (which are per actor) lower"
        )
    asked = sum(crew.count * crew.cpus for crew in crews)
    return min(1.0, _there("CPU") / asked) if single and asked else 1.0
