"""The low-rank entries of all users: `lora.safetensors` and `lora.json` beside the bank that they belong to.

Rows are of fixed width and are found by user id: the entry that is served, the one before it, and the ratings that are
replayed at night. An entry corrects the user's prior: what is served is what the bank answers, moved by as much as the
entry moves the expert's own score. Where nothing is promoted, the bank's answer stands.

Of more than `KEPT` ratings those stay whose hash with the user's id is smallest: a fair sample of all there ever were,
which does not depend on the order they came in.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from model import gate
from model.lora import Axes, base_of, streams, tangents
from model.physique_frame import PhysiqueFrame
from model.scores import DIMENSIONS, SCALE
from model.views import FrameInputs

FORMAT = 3
KEPT = 100
"""Ratings of a user that are kept for replay."""
_ARRAYS = (
    "expert", "rows", "served", "previous", "previous_served", "evidence", "ratings",
    "reason", "version", "photo", "y", "at", "weight",
)  # fmt: skip


@dataclass
class LoraBank:
    """experts: names. axes: of each expert, what its users' changes act on. users: ids. Arrays, one row per user:

    expert (U,) index of the expert whose layers are changed. rows, previous (U, D, size) and served, previous_served
    (U, D): `model.lora` rows and where they are promoted, now and before the last promotion. evidence
    (U, D, 3) as in `model.bank`; ratings (U, D): how many there were, reason (U, D): what the gate last said
    (`model.gate`). version (U,): promotions so far.
    photo (U, K, 32) uint8 sha256 of rated photos, y (U, K, D) their ratings, NaN = none, at (U, K) unix
    seconds or NaN, weight (U, K) 0 to 1: the ratings that are kept.
    """

    experts: list[str]
    axes: list[Axes]
    rank: int
    users: list[str]
    expert: Tensor
    rows: Tensor
    served: Tensor
    previous: Tensor
    previous_served: Tensor
    evidence: Tensor
    ratings: Tensor
    reason: Tensor
    version: Tensor
    photo: Tensor
    y: Tensor
    at: Tensor
    weight: Tensor

    @classmethod
    def empty(
        cls, experts: list[str], axes: list[Axes], rank: int, users: list[str], expert: Tensor, size: int
    ) -> LoraBank:
        """Nobody is served an entry yet, nothing is kept; size: numbers of a row (`model.lora.size_of`)."""
        count, dimensions = len(users), len(DIMENSIONS)
        rows, served = torch.zeros(count, dimensions, size), torch.zeros(count, dimensions, dtype=torch.bool)
        return cls(
            experts, axes, rank, users, expert, rows, served, rows.clone(), served.clone(),
            gate.no_evidence(count, dimensions), torch.zeros(count, dimensions, dtype=torch.float64),
            torch.full((count, dimensions), gate.NO_NEWS), torch.zeros(count, dtype=torch.long),
            torch.zeros(count, KEPT, 32, dtype=torch.uint8), torch.full((count, KEPT, dimensions), torch.nan),
            torch.full((count, KEPT), torch.nan, dtype=torch.float64), torch.zeros(count, KEPT),
        )  # fmt: skip

    def index(self, user_ids: list[str]) -> Tensor:
        """Row of each user (N,), -1 for unknown ones."""
        rows = {user: row for row, user in enumerate(self.users)}
        return torch.tensor([rows.get(user, -1) for user in user_ids], dtype=torch.long)

    def take(self, rows: Tensor) -> LoraBank:
        """Of these users only, in this order (copies)."""
        users = [self.users[row] for row in rows.tolist()]
        return LoraBank(self.experts, self.axes, self.rank, users, *(getattr(self, name)[rows] for name in _ARRAYS))

    def joined(self, other: LoraBank) -> LoraBank:
        """With other users behind."""
        arrays = (torch.cat([getattr(self, name), getattr(other, name)]) for name in _ARRAYS)
        return LoraBank(self.experts, self.axes, self.rank, [*self.users, *other.users], *arrays)

    def put(self, rows: Tensor, part: LoraBank) -> None:
        """Replace the entries at `rows` by those of `part`, in its order."""
        for name in _ARRAYS:
            getattr(self, name)[rows] = getattr(part, name)

    def without_users(self, user_ids: list[str]) -> LoraBank:
        """With these users' rows gone (`forget`)."""
        gone = set(user_ids)
        return self.take(torch.tensor([i for i, user in enumerate(self.users) if user not in gone], dtype=torch.long))

    def without_photo(self, photo: str) -> int:
        """Drop the kept ratings of a photo id (`forget`); of how many users there were any."""
        digest = torch.frombuffer(bytearray.fromhex(photo), dtype=torch.uint8)
        users = torch.nonzero((self.photo == digest).all(2).any(1)).flatten().tolist()
        for row in users:
            ids, y, at, weight = self.kept(row)
            left = [k for k, known in enumerate(ids) if known != photo]
            self.keep(row, [ids[k] for k in left], y[left], at[left], weight[left])
        return len(users)

    def promote(self, promoted: Tensor, rows: Tensor) -> None:
        """Serve `rows` (U, D, size) where promoted (U, D); what was served before is kept for rollback."""
        users = promoted.any(1)
        self.previous[users], self.previous_served[users] = self.rows[users], self.served[users]
        self.rows = torch.where(promoted[..., None], rows, self.rows)
        self.served = self.served | promoted
        self.version = self.version + users.long()
        self.served_anew(promoted)

    def served_anew(self, entries: Tensor) -> None:
        """What the gate knew of candidates against entries (U, D) that no longer serve is void."""
        self.evidence = torch.where(entries[..., None] & gate.SINCE_PROMOTION, 0.0, self.evidence)

    def rollback(self, rows: Tensor) -> None:
        """Serve the entries before the last promotion again; kept ratings stay."""
        self.rows[rows], self.served[rows] = self.previous[rows], self.previous_served[rows]
        self.version[rows] = (self.version[rows] - 1).clamp_min(0)
        entries = torch.zeros_like(self.served)
        entries[rows] = True
        self.served_anew(entries)

    def keep(self, row: int, photos: list[str], y: Tensor, at: Tensor, weight: Tensor) -> None:
        """Ratings (n, D) of photo ids at times (n,), with weights (n,): the ones kept of this user from now on."""
        by_chance = sorted(range(len(photos)), key=lambda i: sha256(f"{self.users[row]}/{photos[i]}".encode()).digest())
        chosen = by_chance[:KEPT]
        count = len(chosen)
        for array, empty, values in ((self.y, torch.nan, y), (self.at, torch.nan, at), (self.weight, 0.0, weight)):
            array[row] = empty
            array[row, :count] = values[chosen].to(array.dtype)
        self.photo[row] = 0
        for place, i in enumerate(chosen):
            self.photo[row, place] = torch.frombuffer(bytearray.fromhex(photos[i]), dtype=torch.uint8)

    def kept(self, row: int) -> tuple[list[str], Tensor, Tensor, Tensor]:
        """Photo ids, y (n, D), at (n,), weight (n,) of what is kept."""
        count = int((~self.y[row].isnan().all(1)).sum())
        ids = [bytes(photo.tolist()).hex() for photo in self.photo[row, :count]]
        return ids, self.y[row, :count].double(), self.at[row, :count], self.weight[row, :count].double()

    def save(self, folder: Path) -> None:
        """Into the folder of a bank, which has to be whole only once this is there."""
        arrays = {name: getattr(self, name).contiguous() for name in _ARRAYS}
        arrays |= {f"axes.{e}.{name}": axis for e, own in enumerate(self.axes) for name, axis in own.items()}
        save_file(arrays, folder / "lora.safetensors")
        about = {"format": FORMAT, "experts": self.experts, "rank": self.rank, "users": self.users}
        (folder / "lora.json").write_text(json.dumps(about, indent=1, ensure_ascii=False))


def has_lora(folder: Path) -> bool:
    """Whether a bank's folder holds low-rank entries."""
    return (folder / "lora.json").is_file()


class OpenLora:
    """The entries in a bank's folder, of which only the rows that are asked for are read."""

    def __init__(self, folder: Path):
        self.folder, about = folder, json.loads((folder / "lora.json").read_text())
        if about["format"] != FORMAT:
            raise ValueError(f"{folder}: lora.json has format {about['format']}, this code reads {FORMAT}")
        self.experts, self.rank, self.users = about["experts"], about["rank"], about["users"]
        self.axes: list[Axes] = [{} for _ in self.experts]
        with safe_open(str(folder / "lora.safetensors"), "pt") as file:
            for name in [key for key in file.keys() if key.startswith("axes.")]:  # noqa: SIM118 (it is no dict)
                _, e, layer = name.split(".")
                self.axes[int(e)][layer] = file.get_tensor(name)
        self._row = {user: row for row, user in enumerate(self.users)}

    def part(self, users: list[str]) -> LoraBank:
        """Those of `users` that are known, each once, in order of first mention."""
        known = [user for user in dict.fromkeys(users) if user in self._row]
        with safe_open(str(self.folder / "lora.safetensors"), "pt") as file:
            parts = []
            for name in _ARRAYS:
                rows, whole = file.get_slice(name), file.get_slice(name).get_shape()
                found = [rows[self._row[user] : self._row[user] + 1] for user in known]
                parts.append(torch.cat(found) if found else rows[:0].reshape(0, *whole[1:]))
        return LoraBank(self.experts, self.axes, self.rank, known, *parts)

    def whole(self) -> LoraBank:
        return self.part(self.users)

    @torch.no_grad()
    def answer(
        self, frames: dict[str, tuple[PhysiqueFrame, Tensor]], inputs: FrameInputs, users: list[str], said: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`said` (N, D), the bank's answer, moved by promoted entries, and where they are: (N, D) bool.

        frames: expert → network and (32,) survey code. inputs, users (N,): who asks about which photo.
        """
        entries = self.part(users)
        row = entries.index(users)
        put = (row >= 0)[:, None] & entries.served[row] if len(entries.users) else torch.zeros(said.shape, dtype=torch.bool)
        asked = torch.nonzero(put.any(1)).flatten()
        for e in entries.expert[row[asked]].unique().tolist():
            at = asked[entries.expert[row[asked]] == e]
            frame, survey = frames[self.experts[e]]
            slopes = tangents(base_of(frame), self.axes[e], streams(frame, inputs, at, survey))
            moved = (said[at] + (slopes * entries.rows[row[at]]).sum(2).to(said.dtype)).clamp(*SCALE)
            said = said.index_copy(0, at, torch.where(put[at], moved, said[at]))
        return said, put
