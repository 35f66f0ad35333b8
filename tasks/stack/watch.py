"""Starting the parts side by side, looking after them, stopping them: the inside of `physique up`.

A part that dies is started again after 1, 2, 4, … s; one that dies six times within ten minutes is given up, and so is
said. Logs are what the parts print, one file each, which are shortened here: a part appends to its file, so it may be
copied and emptied under it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tasks.stack import deployments, processes
from tasks.stack.parts import MLFLOW, POOL, PREFECT, RAY, WORKER, Part, Plan
from tasks.stack.running import LOGS, STATE, Begun, Running

TICK_S = 0.3
LOOK_S = 10.0
"""How often parts that are up are asked whether they are well, logs measured, and the disk."""
DEAF_S = 120.0
"""A part that has not answered for so long is taken for dead; a busy machine may be slow."""
FIRST_S = 180.0
"""The same, before it has answered for the first time."""
RESTARTS, WITHIN_S, BACK_OFF_S = 5, 600.0, 30.0
LOG_BYTES, LOGS_KEPT = 10 * 2**20, 3
DIED = "Killed", deployments.KILLED
LEAST_BYTES = 500 * 2**20
"""Below so much room on the disk nothing is started, and while things run it is said."""


@dataclass
class Led:
    """A part as it goes: its process, when it was started, last answered, died; due: when it is started (again)."""

    part: Part
    process: subprocess.Popen[bytes] | None = None
    begun: list[Begun] = field(default_factory=list)
    due: float = 0.0
    started: float = 0.0
    heard: float | None = None
    deaths: list[float] = field(default_factory=list)
    up: bool = False
    once_up: bool = False
    over: bool = False
    """It is done (a part that ends), or given up."""

    @property
    def log(self) -> Path:
        return LOGS / self.part.log


class Stack:
    """The parts of a plan in this folder. `run` returns when somebody has asked it to stop, and nothing is left then."""

    def __init__(self, plan: Plan, token: str, say: Callable[[str], None]):
        self.plan, self.say, self.folder = plan, say, Path.cwd()
        self.led = {part.name: Led(part) for part in plan.parts}
        self.asked_to_stop = 0
        self.short_of_room = False
        self.unwritten = False
        self.unheard: set[str] = set()
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        own = Begun.of(os.getpid())
        self.state = Running(own, token, since, plan.prefect, plan.mlflow, plan.ray, plan.pages)

    def run(self, ready: Callable[[float], object]) -> None:
        """Start, call `ready` with the seconds it took once all have answered, and look after them until asked to stop."""
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, self._stop)
        began, looked = time.monotonic(), 0.0
        self.state.write()
        try:
            while not self.asked_to_stop:
                look = time.monotonic() - looked >= LOOK_S
                for led in self.led.values():
                    self._tend(led, look)
                if look:
                    looked = time.monotonic()
                    self._housekeeping()
                    self._killed_runs()
                if not self.state.ready and all(led.once_up for led in self.led.values()):
                    self.state.ready = True
                    self._write()
                    ready(time.monotonic() - began)
                time.sleep(TICK_S)
        finally:
            self._end()

    def _stop(self, signum: int, *_: object) -> None:
        if signum != signal.SIGHUP or not self.asked_to_stop:  # the shell and the kernel both tell of a lost terminal
            self.asked_to_stop += 1

    def _write(self) -> None:
        """Write the state down; where that fails (a full disk) it is tried again at the next look, and all runs on."""
        try:
            self.state.write()
            self.unwritten = False
        except OSError:
            self.unwritten = True

    def _tend(self, led: Led, look: bool) -> None:
        """One part, a moment: start it if it is time, see whether it answers, or has died."""
        now = time.monotonic()
        if led.over or self.asked_to_stop:
            return
        if led.process is None:
            if now >= led.due and all(self.led[name].up for name in led.part.after):
                self._start(led)
            return
        code = led.process.poll()
        if code is not None and led.part.ends and code == 0:
            led.up = led.once_up = led.over = True
            self.say(f"{led.part.name:12} done after {now - led.started:.0f} s")
        elif code is not None:
            self._died(led, f"stopped with code {code}" if code >= 0 else f"was killed (signal {-code})")
        elif not led.part.ends and (look or not led.up):
            self._ask(led, now)

    def _ask(self, led: Led, now: float) -> None:
        if led.part.answers():
            led.heard = now
            if not led.up:
                led.up = True
                again = "again " if led.once_up else ""
                led.once_up = True
                self.say(f"{led.part.name:12} up {again}after {now - led.started:.0f} s")
            return
        silent = now - (led.heard or led.started)
        if silent > (DEAF_S if led.heard else FIRST_S):
            self._died(led, f"did not answer for {silent:.0f} s")

    def _start(self, led: Led) -> None:
        if led.part.name == WORKER and not led.deaths:
            self._first()
        led.log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | self.plan.environment | led.part.environment
        with led.log.open("ab") as log:
            led.process = subprocess.Popen(
                led.part.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
        led.started, led.heard, led.up = time.monotonic(), None, False
        with suppress(Exception):  # it may have ended already
            led.begun.append(Begun.of(led.process.pid))
        self.state.parts[led.part.name] = led.begun
        self._write()

    def _first(self) -> None:
        """Before the worker begins: runs that an earlier life left unfinished are not running any more."""
        if PREFECT in self.led and (gone := deployments.cut_off(self.plan.prefect, before=self.state.own.at)):
            self.say(f"{gone} flow runs of before were cut off; their pages in the Prefect UI say so")

    def _died(self, led: Led, how: str) -> None:
        """Say so, and see to it that it is started again, or given up."""
        assert led.process is not None
        now = time.monotonic()
        if led.part.name != WORKER:  # what is left of it holds its port; of the worker it is flow runs, which go on
            processes.stop(processes.started_by(led.begun), 3)
        else:  # Prefect shows it as online for a while, which would pass for the answer of the next one
            deployments.call(self.plan.prefect, "DELETE", f"/work_pools/{POOL}/workers/{POOL}-{self.state.token}")
        with suppress(subprocess.TimeoutExpired):
            led.process.wait(3)
        led.process, led.up = None, False
        led.deaths = [at for at in led.deaths if now - at < WITHIN_S] + [now]
        why = f"{led.part.name} {how}"
        if _room(self.folder) < LEAST_BYTES:
            why += f", and the disk of {self.folder} is full"
        last = last_line(led.log)
        said = f"; its last words in {led.log}: {last}" if last else f"; see {led.log}"
        if len(led.deaths) > RESTARTS:
            led.over = True
            self.say(f"{why}, {len(led.deaths)} times in {WITHIN_S / 60:.0f} minutes: given up{said}. "
                     "Mend it, then `physique down` and `physique up`")  # fmt: skip
            return
        wait = min(BACK_OFF_S, 2.0 ** (len(led.deaths) - 1))
        led.due = now + wait
        self.say(f"{why}; it is started again in {wait:.0f} s{said if len(led.deaths) > 1 or not led.once_up else ''}")

    def _housekeeping(self) -> None:
        for led in self.led.values():
            rotate(led.log)
        if self.unwritten:
            self._write()
        short = _room(self.folder) < LEAST_BYTES
        if short and not self.short_of_room:
            self.say(no_room(self.folder) + "; what runs now may fail, and goes on when it is run again")
        self.short_of_room = short

    def _killed_runs(self) -> None:
        """Runs whose process is gone at two looks: what a worker does not report, as it has gone too or never had them."""
        if PREFECT not in self.led or not self.led[PREFECT].up:
            return  # on a server for several machines a process that is not here may be elsewhere
        gone = deployments.unheard(self.plan.prefect)
        if (dead := gone & self.unheard) and (count := deployments.cut_off(self.plan.prefect, dead, why=DIED)):
            self.say(f"flow runs that were killed: {count}; their pages in the Prefect UI say so. Run them again")
        self.unheard = gone - dead

    def _end(self) -> None:
        """Stop all: first who starts work, then the work, then what the work needs; and see that nothing is left."""
        self.say("stopping")
        patience = 10.0 if self.asked_to_stop < 2 else 0.0
        early = [led for name, led in self.led.items() if name not in (PREFECT, MLFLOW, RAY)]
        working = processes.started_by(begun for led in early for begun in led.begun)
        processes.stop(working, patience)
        late = [begun for name in (PREFECT, MLFLOW, RAY) if name in self.led for begun in self.led[name].begun]
        serving = processes.started_by(late)
        keep = {process.pid for process in serving}
        left = [each for each in processes.started_by((), self.state.token) if each.pid not in keep]
        runs = processes.flow_runs([*working, *left])
        processes.stop(left, patience)
        deployments.cut_off(self.plan.prefect, None if PREFECT in self.led else runs)
        leaders = [each for each in serving if any(each.pid == begun.pid for begun in late)]
        processes.stop(leaders, 15.0 if patience else 0.0)
        processes.clean_up(self.state)
        STATE.unlink(missing_ok=True)


def rotate(log: Path, most: int = LOG_BYTES, kept: int = LOGS_KEPT) -> None:
    """Put a log that has grown too long aside as NAME.1, the ones before as NAME.2, …"""
    if not log.exists() or log.stat().st_size < most:
        return
    for number in range(kept - 1, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number + 1}"))
    with suppress(OSError):  # a full disk: then at least the log is emptied
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    os.truncate(log, 0)


def last_line(log: Path) -> str:
    """The last line that says something, without frames of boxes and colours."""
    with suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 8192))
        for line in reversed(stream.read().decode(errors="replace").splitlines()):
            if any(c.isalpha() for c in line):
                return line.strip("│╭╰─ ")[:300]
    return ""


def no_room(folder: Path) -> str:
    """The line about a disk that is full."""
    left, least = _room(folder) / 2**20, LEAST_BYTES / 2**20
    return f"disk full: {folder} has {left:,.0f} MB left, {least:.0f} MB are needed; make room"


def enough_room(folder: Path) -> bool:
    """Whether parts may be started that write there."""
    return _room(folder) >= LEAST_BYTES


def _room(folder: Path) -> int:
    return shutil.disk_usage(folder).free
