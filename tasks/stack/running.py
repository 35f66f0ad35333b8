"""What runs, as `physique up` writes it down in .physique/up.json, for whoever asks: `down`, a second `up`, every flow.

A process is named by its id and by when it began, so a number that the system has given to somebody else is never taken
for ours. Nothing heavy is imported.

    uv run pytest tests/test_up.py
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

FOLDER = Path(".physique")
STATE = FOLDER / "up.json"
LOGS = FOLDER / "logs"
MARK = "PHYSIQUE_UP"
"""Environment variable that everything `physique up` starts inherits; its value is `Running.token`."""
CLOCK_S = 2.0
"""How far two readings of when a process began may lie apart: the system's clock is set now and then."""


@dataclass(frozen=True)
class Begun:
    """A process: its id and when it began, seconds since 1970."""

    pid: int
    at: float

    @classmethod
    def of(cls, pid: int) -> Begun:
        """The process that has this id now. Raises psutil.NoSuchProcess."""
        import psutil

        return cls(pid, psutil.Process(pid).create_time())

    def lives(self) -> bool:
        """Whether it is still there, itself and not a later one of its number. Zombies do not count."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.at) < CLOCK_S and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@dataclass
class Running:
    """own: the `physique up` itself. prefect, mlflow, ray: addresses as the tools' own variables take them.

    pages: name → what a person opens. parts: name → the process that leads it; of what has died too, since what it
    started may be left. ready: all parts have answered once.
    """

    own: Begun
    token: str
    since: str
    prefect: str
    mlflow: str
    ray: str
    pages: dict[str, str] = field(default_factory=dict)
    parts: dict[str, list[Begun]] = field(default_factory=dict)
    ready: bool = False

    def write(self, path: Path = STATE) -> None:
        """Whole or not at all."""
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(asdict(self), indent=1))
        temporary.replace(path)


def written(path: Path = STATE) -> Running | None:
    """What was written down last, whether it still runs or not; None if there is nothing."""
    try:
        found = json.loads(path.read_text())
        parts = {name: [Begun(**each) for each in led] for name, led in found.pop("parts").items()}
        return Running(own=Begun(**found.pop("own")), parts=parts, **found)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def given_mlflow() -> str:
    """The MLflow server that `physique up` here uses and has not started; '' where there is none."""
    from tasks.stack.parts import MLFLOW

    up = running()
    return up.mlflow if up is not None and MLFLOW not in up.parts else ""


def running(path: Path = STATE) -> Running | None:
    """What runs in this folder now; None if nothing is up."""
    found = written(path)
    return found if found is not None and found.own.lives() else None
