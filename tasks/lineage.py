"""Which nights a bank has learned from: its lineage, and what a run of `continual` has to do.

The lineage is the hash of the first bank, of the settings and code that learned, and of each night's snapshot, in order.
A run applies the nights that follow those of the bank that is there. If that bank's lineage is no beginning of what there
is now (other first bank, other settings, a snapshot that changed), all nights are applied to the first bank again.

    uv run pytest tests/tasks/test_nights_learned.py
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.bank_opened import content_hash
from model.files import file_hash
from tasks.nights import night_paths
from tasks.tables import read_json

ROOT = Path(__file__).resolve().parent.parent
LEARNS = (
    "model/choices.py", "model/gate.py", "model/lora.py", "model/lora_fit.py", "model/lora_users.py",
    "model/personal.py", "tasks/feedback.py", "tasks/lora.py", "tasks/lora_nights.py", "tasks/personal.py",
)  # fmt: skip
"""Code that decides what a night makes of a bank; also among the deps of the stage `continual`."""


@dataclass
class Plan:
    """start: folder whose bank the nights are applied to; goes_on: it is the one that is there, not the first.

    nights: snapshots still to apply; earlier: those that the bank has learned from. lineage: of the bank that results.
    """

    start: Path
    goes_on: bool
    nights: list[Path]
    earlier: list[Path]
    lineage: dict[str, Any]


def plan(there: Path, first: Path, nights: Path, settings: dict[str, Any]) -> Plan:
    """What brings the bank in the folder `there` up to date with the snapshots in `nights`.

    first: folder of `finetune`. settings: all that decides what a night makes of a bank.
    """
    paths = night_paths(nights)
    lineage = {
        "first": content_hash(first / "bank"),
        "rule": _rule(settings),
        "nights": [[path.stem, file_hash(path)] for path in paths],
    }
    done = lineage_of(there)
    count = len(done["nights"]) if done else 0
    goes_on = done == lineage | {"nights": lineage["nights"][:count]}
    learned = count if goes_on else 0
    return Plan(there if goes_on else first, goes_on, paths[learned:], paths[:learned], lineage)


def lineage_of(folder: Path) -> dict[str, Any] | None:
    """The lineage of a bank that a run of `continual` finished; None if there is none."""
    facts = folder / "continual.json"
    return read_json(facts).get("lineage") if facts.is_file() and (folder / "bank").is_dir() else None


def nights_of(folder: Path) -> list[str]:
    """Names of the nights that the bank in a folder has learned from."""
    return [name for name, _ in (lineage_of(folder) or {}).get("nights", [])]


def _rule(settings: dict[str, Any]) -> str:
    code = {name: file_hash(ROOT / name) for name in LEARNS}
    return hashlib.sha256(json.dumps([settings, code], sort_keys=True).encode()).hexdigest()
