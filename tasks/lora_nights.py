"""Nights of feedback for low-rank entries, beside those of the bank (`tasks.nightly`).

A night's ratings are learned together with those that are kept, near the entry before (`model.lora_fit.ANCHORED`); how much
older ratings count, the bank has found out. Comparisons and thumbs teach the bank only. Who is learned anew goes back to
the first entry, as in the bank.

    uv run pytest tests/tasks/test_lora_nights.py
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from model import gate
from model.bank import Bank
from model.bank_opened import OpenBank, open_bank
from model.lora_bank import LoraBank, OpenLora
from model.scores import DIMENSIONS
from tasks.feedback import hear
from tasks.lora import Network, decide, night
from tasks.ratings import Photos, Ratings, read_photos
from tasks.tables import read_json, read_table, write_json, write_table


@dataclass
class LoraNights:
    """The entries of all users while nights go by; `last`: users of the last night that brought ratings, and promoted."""

    network: Network
    config: dict[str, Any]
    first: OpenLora
    lora: LoraBank
    last: tuple[list[str], Tensor] = field(default_factory=lambda: ([], torch.zeros(0, len(DIMENSIONS), dtype=torch.bool)))

    def learn(
        self, users: list[str], ratings: Ratings, again: list[str], forget: dict[str, float],
        bank: Bank | OpenBank, photos: Photos,
    ) -> None:  # fmt: skip
        """One night: `ratings` of `users` (ratings.user indexes them); `again` are learned anew; bank: the one after it.

        forget: what older ratings of a user count, 1 for all who are not in it.
        """
        if again:
            self.lora = self.lora.without_users(again).joined(self.first.part(again))
        ratings = ratings[photos.fitting()[ratings.photo]]
        if not len(ratings):
            return
        busy, user = torch.unique(ratings.user, return_inverse=True)
        names = [users[i] for i in busy.tolist()]
        new = Ratings(user, ratings.photo, ratings.y, ratings.at)
        weight = torch.tensor([1.0 if name in again else forget.get(name, 1.0) for name in names], dtype=torch.float64)
        there = set(self.lora.users)
        known = [name for name in names if name in there]
        part, found = night(
            self.network, self.lora.take(self.lora.index(known)), bank.part(names), photos, new, weight, self.config
        )
        self.last = names, decide(part, found, self.config)
        gone = set(names)
        kept = torch.tensor([i for i, name in enumerate(self.lora.users) if name not in gone], dtype=torch.long)
        self.lora = self.lora.take(kept).joined(part)

    def summary(self, rated: Tensor) -> dict[str, Any]:
        """What the last night did; rated (D,) bool."""
        users, promoted = self.last
        reason = self.lora.reason[self.lora.index(users)]
        entries = {
            name: {gate.REASONS[code]: count for code, count in sorted(Counter(reason[:, d].tolist()).items())}
            for d, name in enumerate(DIMENSIONS)
            if rated[d] and users
        }
        return {"promoted": int(promoted.any(1).sum()), "entries": entries}

    def entries(self, rated: Tensor) -> pa.Table:
        """One row per user of the last night and rated dimension: what the gate said."""
        rows, users = self.lora.index(self.last[0]), self.last[0]
        part, tables = self.lora.take(rows), []
        for d in torch.nonzero(rated).flatten().tolist():
            table = {
                "user_id": pa.array(users, pa.string()),
                "dimension": pa.array([DIMENSIONS[d]] * len(users), pa.string()),
                "expert": pa.array([part.experts[i] for i in part.expert.tolist()], pa.string()),
                "ratings": pa.array(part.ratings[:, d].long().tolist(), pa.int64()),
                "reason": pa.array([gate.REASONS[i] for i in part.reason[:, d].tolist()], pa.string()),
                "version": pa.array(part.version.tolist(), pa.int64()),
                "evidence_prior": part.evidence[:, d, gate.PRIOR].double().numpy(),
            }
            tables.append(pa.table(table))
        return pa.concat_tables(tables)


def lora_nights_loop(config: dict[str, Any]) -> None:
    """Ray Train loop, after that of the bank; one worker.

    config: that of `continual_loop`, whose bank lies in config["out"] by now, and of `tasks.banks.lora_config`. The entries
    go beside it, and its users.parquet and continual.json say what the gate said of them.
    """
    import ray.train

    out = Path(config["out"])
    bank, nights = open_bank(out / "bank"), _read(config)
    photos = read_photos(config["predictions"], config.get("features"))
    table = read_table(out / "users.parquet")
    # What the bank found out of the last night; nights before it, caught up with in the same run, discount nothing.
    names = ("user_id", "forget")
    forget = dict(zip(*(table[name].to_pylist() for name in names))) if "forget" in table.column_names else {}
    earlier = [Path(path) for path in config["earlier"]]
    for path in map(Path, config["nights"]):
        heard = hear(read_table(path), earlier, photos)
        last = path.name == Path(config["nights"][-1]).name
        nights.learn(heard.users, heard.ratings, heard.again, forget if last else {}, bank, photos)
        earlier.append(path)
    nights.lora.save(out / "bank")
    rated = bank.prior.users > 0
    if nights.last[0]:
        write_table(nights.entries(rated), out / "users.parquet")
        write_json(read_json(out / "continual.json") | nights.summary(rated), out / "continual.json")
    ray.train.report({"users": len(nights.lora.users)})


def _read(config: dict[str, Any]) -> LoraNights:
    first, bank = (OpenLora(Path(config[name])) for name in ("first", "bank"))
    return LoraNights(Network.read(config), config, first, bank.whole())
