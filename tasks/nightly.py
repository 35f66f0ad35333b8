"""Nights applied to a bank one after the other: plain functions that need no Ray.

`learn_nights` is a fold over the snapshots of feedback: each night is heard (`tasks.feedback`), learned (`tasks.personal`)
and measured (`tasks.night_metrics`). Nights give the same bank whether they are applied in one run or in several.

    uv run pytest tests/tasks/test_nights_learned.py
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.torch import save_file
from torch import Tensor

from model.bank import Bank
from model.bank_opened import OpenBank, open_bank
from tasks.feedback import Heard, Survey, hear, prepared, undeleted
from tasks.night_metrics import night_rows
from tasks.personal import Night, Team, night
from tasks.ratings import Photos, Ratings, as_feedback, as_ratings
from tasks.schemas import FEEDBACK
from tasks.tables import read_table

AnyBank = Bank | OpenBank


@dataclass
class Nights:
    """The bank that results and what the nights did.

    last: decisions of the last night that brought ratings; rows: figures per night and dimension; served: night → users
    of it and what they are served after it (U, D, P) float32; changed: nights that changed the bank.
    """

    bank: AnyBank
    nights: list[str] = field(default_factory=list)
    last: Night | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    served: dict[str, tuple[list[str], Tensor]] = field(default_factory=dict)
    changed: int = 0
    again: int = 0
    fitted: int = 0
    test: int = 0
    choices: int = 0
    comments: int = 0
    aside: Counter = field(default_factory=Counter)

    def save_served(self, folder: Path) -> None:
        """A file per night: what its users are served after it, and who they are."""
        for name, (users, weights) in self.served.items():
            save_file({"weights": weights}, folder / f"{name}.safetensors", {"users": json.dumps(users)})


def learn_nights(
    bank: AnyBank, first: AnyBank, photos: Photos, config: dict[str, Any], surveys: dict[str, Survey],
    team: Team | None = None,
) -> Nights | None:  # fmt: skip
    """Apply the snapshots config["nights"] in order; the result on rank 0, None elsewhere.

    first: the bank of `finetune`. config: see `tasks.train_personal.continual_loop`. surveys: of the cohort's users.
    """
    team = team or Team()
    labels = read_table(config["labels"]) if config.get("labels") else None
    earlier = [Path(path) for path in config["earlier"]]
    done = Nights(bank)
    for path in map(Path, config["nights"]):
        heard = hear(read_table(path), earlier, photos)
        before = done.bank
        after, what = learn(before, first, photos, heard, config, surveys, team)
        done.nights.append(path.stem)
        done.changed += after is not before
        done.again += len(heard.again)
        test = int((~photos.fitting()[heard.ratings.photo]).sum())
        done.test, done.fitted = done.test + test, done.fitted + len(heard.ratings) - test
        done.choices += len(heard.choices)
        done.comments += heard.comments
        done.aside.update(heard.aside)
        if team.rank == 0 and heard.users:
            held = _held(labels, earlier, heard.users, photos)
            unseen = torch.tensor([user not in heard.again for user in heard.users])  # of these the bank knew none
            new = heard.ratings[unseen[heard.ratings.user]]
            rows = night_rows(path.stem, before, after, first, photos, heard.users, new, held, what)
            right = sum(heard.right) / len(heard.right) if heard.right else None
            done.rows += [row | {"right": right} for row in rows]
            users = [user for user, row in zip(heard.users, after.index(heard.users).tolist()) if row >= 0]
            done.served[path.stem] = users, after.part(users).weights.to(torch.float32)
        done.last = what or done.last
        done.bank = after
        earlier.append(path)
    return done if team.rank == 0 else None


def learn(
    bank: AnyBank, first: AnyBank, photos: Photos, heard: Heard, config: dict[str, Any], surveys: dict[str, Survey],
    team: Team,
) -> tuple[AnyBank, Night | None]:  # fmt: skip
    """The bank after a night, on every rank, and what happened (None where nothing was to be decided)."""
    ready = prepared(bank, first, heard, surveys)
    told = surveys | {user: answers for user, answers in heard.surveys.items() if answers is not None}
    fitting = photos.fitting()
    if bool(torch.cat([fitting[heard.ratings.photo], fitting[heard.choices.photo]]).any()):
        heard_of = heard.users, heard.ratings, config
        found = night(ready, photos, *heard_of, choices=heard.choices, surveys=told, team=team)
        after, what = _everywhere(found, Path(config.get("out", "")) / "bank", team)
        if what.users:
            return after, what
    return (bank if ready is bank else ready.updated([], round=bank.round + 1)), None


def _everywhere(found: tuple[AnyBank, Night] | None, folder: Path, team: Team) -> tuple[AnyBank, Night]:
    """What a night gave rank 0, on every rank; where there are several they read the bank from `folder`."""
    if found is not None and team.world == 1:
        return found
    if found is not None:
        found[0].save(folder)
    what = team.share(None if found is None else found[1])
    return open_bank(folder), what


def _held(labels: pa.Table | None, earlier: list[Path], users: list[str], photos: Photos) -> tuple[Ratings, Ratings]:
    """Ratings of test photos by `users`: before all nights, and before this one."""
    mine = pa.array(users)
    test = pa.array([photo for photo, fitting in zip(photos.ids, photos.fitting().tolist()) if not fitting])

    def kept(table: pa.Table, who: str) -> pa.Table:
        return table.filter(
            pc.and_(pc.is_in(table[who], value_set=mine), pc.is_in(table["photo_id"], value_set=test))
        )

    parts = [read_table(path) for path in earlier]
    parts = [FEEDBACK.empty_table(), *(part.filter(pc.is_in(part["user_id"], value_set=mine)) for part in parts)]
    who, given, _ = as_feedback(kept(undeleted(pa.concat_tables(parts)), "user_id"), photos)
    row = {user: place for place, user in enumerate(users)}
    given.user = torch.tensor([row[user] for user in who], dtype=torch.long)[given.user] if who else given.user
    if labels is None:
        return given[:0], given
    own, _ = as_ratings(kept(labels, "rater_id"), users, photos)
    both = Ratings(*(torch.cat([getattr(own, name), getattr(given, name)]) for name in ("user", "photo", "y", "at")))
    return own, both
