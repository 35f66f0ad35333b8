"""A bank served from its folder: only the rows that are asked for are read, only rows that change are written.

    bank = open_bank(folder)
    bank.predict(predictions, bank.index(["u1", "u7", "somebody new"]), fused)     users may be mixed
    after = bank.updated([part, …], round=bank.round + 1)                           parts: `Bank`s of some users each
    after.save(folder)                                                              the other rows' bytes are linked

`bank.part(users)` is a `model.bank.Bank`, where all mathematics is. What was opened is never changed, and stays readable
when its folder is replaced.

    .venv/bin/python -m pytest tests/model/test_bank_opened.py
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.bank import Bank, Prediction, empty_bank, packed, shared_parts, unpacked
from model.bank_files import BLOCK, INDEX, Draft, Layout, Segment, crowded, key_of, positions, read_folder, write_folder
from model.basis import Basis
from model.files import file_hash
from model.personal import Prior
from model.selection import Selection


@dataclass(frozen=True)
class OpenBank:
    """`common`: a bank without users that holds all they share. Numbers of users are places in the index, not in time."""

    common: Bank
    layout: Layout
    entries: np.ndarray
    segments: tuple[Segment, ...]
    folder: Path

    @property
    def basis(self) -> Basis:
        return self.common.basis

    @property
    def prior(self) -> Prior:
        return self.common.prior

    @property
    def selection(self) -> Selection:
        return self.common.selection

    @property
    def round(self) -> int:
        return self.common.round

    @property
    def about(self) -> dict[str, Any]:
        return self.common.about

    @property
    def users(self) -> list[str]:
        """All ids in order; reads every row."""
        return [user for part in self.parts() for user in part.users]

    def __len__(self) -> int:
        return len(self.entries)

    def index(self, user_ids: list[str]) -> Tensor:
        """Number of each user (N,), -1 for unknown ones."""
        return torch.from_numpy(positions(self.entries, user_ids))

    def part(self, user_ids: list[str]) -> Bank:
        """The entries of these users, all of whom are known, in memory."""
        at = positions(self.entries, user_ids)
        if (at < 0).any():
            raise KeyError(f"user {user_ids[int((at < 0).argmax())]!r} is not in the bank {self.folder}")
        return self._read(at)

    def parts(self, size: int = BLOCK) -> Iterator[Bank]:
        """All users in order, `size` at a time."""
        order = np.argsort(self.entries["place"], kind="stable")
        for start in range(0, len(order), size):
            yield self._read(order[start : start + size])

    def _read(self, at: np.ndarray) -> Bank:
        entries = self.entries[at]
        rows, texts = np.zeros(len(at), self.layout.dtype), [b""] * len(at)
        for k in np.unique(entries["segment"]).tolist():
            here = np.flatnonzero(entries["segment"] == k)
            rows[here], words = self.segments[k].read(entries["row"][here])
            for place, text in zip(here.tolist(), words):
                texts[place] = text
        return unpacked(self.common, self.layout, rows, texts)

    def predict(
        self, predictions: Tensor, user_index: Tensor, fused: Tensor | None = None, *, clip: bool = True
    ) -> Prediction:
        """As `Bank.predict`, with numbers that `index` gave; reads the rows of the users in the batch."""
        numbers, local = torch.unique(user_index, return_inverse=True)
        strangers = int((numbers < 0).sum())  # unique sorts: -1 comes first
        part = self._read(numbers[strangers:].numpy())
        return part.predict(predictions, local - strangers, fused, clip=clip)

    def starting(self, user_ids: list[str], surveys: list[dict[str, str | None]]) -> Bank:
        """A bank in memory of new users only; they start from the prior that their survey gives."""
        return self.common.starting(user_ids, surveys)

    def updated(self, parts: Iterable[Bank], *, round: int | None = None, about: dict | None = None) -> OpenBank:
        """This bank with the entries of `parts` in place of its own, new users appended; nothing is saved yet.

        Parts are taken one at a time and their rows go to a file without a name, so memory does not grow with them.
        """
        draft, fresh = Draft(self.layout, self._near()), [np.zeros(0, INDEX)]
        for part in parts:
            rows, texts = packed(self.layout, part)
            more = np.zeros(len(rows), INDEX)
            more["key"], more["segment"], more["row"] = rows["key"], len(self.segments), draft.add(rows, texts)
            fresh.append(more)
        changed = np.concatenate(fresh)
        order = np.argsort(changed["key"], kind="stable")
        if (changed["key"][order][1:] == changed["key"][order][:-1]).any():
            raise ValueError("a user was updated twice at once")
        known = np.isin(changed["key"], self.entries["key"])
        changed["place"][~known] = int(self.entries["place"].max(initial=0)) + 1 + np.arange(int((~known).sum()))
        index = np.array(self.entries)
        at = np.searchsorted(index["key"], changed["key"][known])
        for name in ("segment", "row"):
            index[name][at] = changed[name][known]
        index = np.sort(np.concatenate([index, changed[~known]]), order="key")
        common = replace(
            self.common,
            round=self.round if round is None else round,
            about=dict(self.about if about is None else about),
        )
        return replace(self, common=common)._tidied(index, draft)

    def without_users(self, user_ids: list[str]) -> OpenBank:
        """This bank without these users (`forget`): no segment that ever held a row of theirs is taken over."""
        gone = np.array([key_of(user) for user in user_ids], "S24")
        index = np.array(self.entries[~np.isin(self.entries["key"], gone)])
        held = [k for k, segment in enumerate(self.segments) if np.isin(segment.rows["key"], gone).any()]
        return self._tidied(index, Draft(self.layout, self._near()), move=held)

    def _tidied(self, index: np.ndarray, draft: Draft, move: list[int] | None = None) -> OpenBank:
        """With `draft` as last segment; into it go the living rows of the segments `move` and of crowded ones."""
        live = np.bincount(index["segment"], minlength=len(self.segments) + 1)[: len(self.segments)]
        move = sorted({*(move or ()), *crowded(live.tolist(), [len(s.rows) for s in self.segments])})
        for k in move:
            here = np.flatnonzero(index["segment"] == k)
            here = here[np.argsort(index["row"][here])]
            for start in range(0, len(here), BLOCK):
                some = here[start : start + BLOCK]
                rows, texts = self.segments[k].read(index["row"][some])
                index["segment"][some], index["row"][some] = len(self.segments), draft.add(rows, texts)
        segments = (*self.segments, draft.segment())
        used = np.unique(index["segment"])
        index["segment"] = np.searchsorted(used, index["segment"])
        return replace(self, entries=index, segments=tuple(segments[k] for k in used.tolist()))

    def _near(self) -> Path | None:
        return self.folder.parent if self.folder.parent.is_dir() else None

    def save(self, folder: Path) -> None:
        """Write the folder whole or not at all; segments that have a file already become links to it."""
        head, tensors = shared_parts(self.common)
        write_folder(Path(folder), head, self.layout, self.entries, list(self.segments), tensors)


def open_bank(folder: Path) -> OpenBank:
    """Open a bank's folder. ValueError names the folder or file when it is none, cut short or damaged."""
    folder = Path(folder)
    head, layout, index, segments, tensors = read_folder(folder)
    return OpenBank(empty_bank(head, tensors), layout, index, tuple(segments), folder)


def content_hash(folder: Path) -> str:
    """sha256 of a bank's content: `bank.json` names all other files by theirs, but for low-rank entries beside them."""
    digest = sha256((Path(folder) / "bank.json").read_bytes())
    for path in sorted(Path(folder).glob("lora.*")):
        digest.update(bytes.fromhex(file_hash(path)))
    return digest.hexdigest()
