"""Low-rank entries taken back, beside those of the bank (`tasks.rollback`).

    uv run pytest tests/tasks/test_lora_rollback.py
"""

from __future__ import annotations

from pathlib import Path

import torch

from model.lora_bank import LoraBank, OpenLora, has_lora
from tasks.intake.quarantine import BadInput

_SERVED = ("rows", "served", "previous", "previous_served", "version")


def user_taken_back(folder: Path, user: str) -> LoraBank:
    """All entries in a bank's folder, with `user`'s as it was before their last promotion.

    Raises:
        BadInput: the user has no entry, or none before the one that is served.
    """
    lora = OpenLora(folder).whole()
    row = lora.index([user])
    same = torch.equal(lora.rows[row], lora.previous[row]) and torch.equal(lora.served[row], lora.previous_served[row])
    if int(row[0]) < 0 or same:
        raise BadInput(f"user {user!r} has no entry before the one that is served; nothing was changed")
    lora.rollback(row)
    return lora


def as_then(folder: Path, then: Path) -> LoraBank | None:
    """Entries in a bank's folder with what `then`, the folder of an earlier one, served: to users who came later their
    prior, and to all where that had none; ratings as they are. None: there are no entries in `folder`.

    Raises:
        ValueError: entries of another rank or other axes, which a night could not go on from.
    """
    if not has_lora(folder):
        return None
    now = OpenLora(folder).whole()
    old = OpenLora(then).whole() if has_lora(then) else now.take(torch.zeros(0, dtype=torch.long))
    if old.rank != now.rank or not all(
        torch.equal(axis, theirs[name]) for ours, theirs in zip(now.axes, old.axes) for name, axis in ours.items()
    ):
        raise ValueError(
            f"--to: its low-rank entries are of rank {old.rank} or axes that {folder} does not have, and a night could not "
            "go on from it; check out the commit and data it was made with, then `physique run`"
        )
    row = old.index(now.users)
    for name in _SERVED:
        value = torch.zeros_like(getattr(now, name))
        value[row >= 0] = getattr(old, name)[row[row >= 0]]
        setattr(now, name, value)
    now.served_anew(torch.ones_like(now.reason, dtype=torch.bool))
    return now
