"""All personal models in one packed bank: arrays over users, one folder, one prediction for mixed users.

A user's entry is their weights on φ(x) (`personal`), what is needed to update them exactly (`Stats`), what the gate
last said, and the entry before it for rollback. `weights` is what is served; the statistics hold every rating,
also those whose candidate was refused. Here a bank is in memory, whole or some users of it; `model.bank_opened` serves
from the folder and reads only the rows that are asked for, `model.bank_files` says what a folder holds.

    .venv/bin/python -m pytest tests/model/test_bank.py
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model import gate, personal
from model.bank_files import INDEX, Draft, Layout, key_of, read_folder, write_folder
from model.basis import Basis
from model.personal import Posterior, Prior, Stats
from model.scores import DIMENSIONS, SCALE
from model.selection import Selection, Survey


@dataclass
class Prediction:
    """scores and sd (N, D), NaN on dimensions that nobody rated; known (N,): False = unknown user, the prior answered."""

    scores: Tensor
    sd: Tensor
    known: Tensor


@dataclass
class Bank:
    """Shapes: U users, D dimensions, P features, E experts.

    users: ids, in order. surveys: their answers. judged (U,) bool: not among the users the prior was fitted on.
    expert (U,) index into `basis.experts`, expert_probability (U, E). prior_mean (U, D, P): the user's own prior.
    weights, previous (U, D, P), cov, previous_cov (U, D, P, P) float32 and noise, previous_noise (U, D): served entry
    and the one before.
    stats: all fitted ratings, decayed. ratings (U, D): how many, undecayed. evidence (U, D, 3): what the gate knows for
    the personal model against the entry that is served and against noise, both since that was promoted, and against the
    prior. reason (U, D): index into `gate.REASONS`. version (U,): promotions so far, 0 = the prior is served. round:
    nights behind this bank.
    """

    basis: Basis
    prior: Prior
    selection: Selection
    users: list[str]
    surveys: list[dict[str, str | None]]
    judged: Tensor
    expert: Tensor
    expert_probability: Tensor
    prior_mean: Tensor
    weights: Tensor
    cov: Tensor
    noise: Tensor
    previous: Tensor
    previous_cov: Tensor
    previous_noise: Tensor
    stats: Stats
    ratings: Tensor
    evidence: Tensor
    reason: Tensor
    version: Tensor
    round: int = 0
    about: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.users)

    def index(self, user_ids: list[str]) -> Tensor:
        """Row of each user (N,), -1 for unknown ones."""
        rows = {user: row for row, user in enumerate(self.users)}
        return torch.tensor([rows.get(user, -1) for user in user_ids], dtype=torch.long)

    def predict(
        self, predictions: Tensor, user_index: Tensor, fused: Tensor | None = None, *, clip: bool = True
    ) -> Prediction:
        """Scores of N (photo, user) pairs in one batch; users may be mixed, -1 is answered by the prior.

        predictions (N, M, D) of the models in `basis.models`; user_index (N,); fused (N, F0) where the basis has it.
        """
        phi = self.basis.phi(predictions, fused)
        known = user_index >= 0
        row = user_index.clamp_min(0)
        stranger = personal.unrated(self.prior, self.prior.mean[None])
        if len(self.users):
            weights = torch.where(known[:, None, None], self.weights[row], stranger.mean)
            cov = torch.where(known[:, None, None, None], self.cov[row].to(torch.float64), stranger.cov)
            noise = torch.where(known[:, None], self.noise[row], stranger.noise)
        else:
            weights, cov, noise = (part.expand(len(phi), *part.shape[1:]) for part in stranger)
        scores, sd = personal.predict(phi, weights, cov, noise)
        nobody = self.prior.users == 0
        if clip:
            scores = scores.clamp(*SCALE)
        return Prediction(torch.where(nobody, torch.nan, scores), torch.where(nobody, torch.nan, sd), known)

    def delta(self) -> Tensor:
        """w = v - s_e (U, D, P): what differs from the chosen expert."""
        return self.weights - self.basis.expert_weights()[self.expert]

    def starting(self, user_ids: list[str], surveys: list[dict[str, str | None]]) -> "Bank":
        """A bank of new users only; they start from the prior that their survey gives."""
        return start_bank(self.basis, self.prior, self.selection, user_ids, surveys)

    def part(self, user_ids: list[str]) -> "Bank":
        """The entries of these users (copies), all of whom are known."""
        return self.take(self.index(user_ids).tolist())

    def updated(self, parts: "Iterable[Bank]", *, round: int | None = None, about: dict | None = None) -> "Bank":
        """A bank with the entries of `parts` in place of its own, new users appended; this one stays as it is."""
        after = self.take(list(range(len(self.users))))
        rows = {user: row for row, user in enumerate(self.users)}
        strangers = []
        for part in parts:
            at = torch.tensor([rows.get(user, -1) for user in part.users], dtype=torch.long)
            known, fresh = torch.nonzero(at >= 0).flatten(), torch.nonzero(at < 0).flatten()
            after.put(at[known].tolist(), part.take(known.tolist()))
            strangers.append(part.take(fresh.tolist()))
        after = joined([after, *strangers])
        after.round = self.round if round is None else round
        after.about = dict(self.about if about is None else about)
        return after

    def without_users(self, user_ids: list[str]) -> "Bank":
        """This bank with these users' rows gone (`forget`)."""
        gone = set(user_ids)
        return self.take([row for row, user in enumerate(self.users) if user not in gone])

    def take(self, rows: list[int]) -> "Bank":
        """A bank of these users only, in this order (copies)."""
        return _from_arrays(
            self,
            {name: value[rows] for name, value in self.arrays().items()},
            [self.users[row] for row in rows],
            [self.surveys[row] for row in rows],
        )

    def put(self, rows: list[int], part: "Bank") -> None:
        """Replace the entries at `rows` by those of `part`, in its order."""
        own, others = self.arrays(), part.arrays()
        for name, value in own.items():
            value[rows] = others[name]
        for row, survey in zip(rows, part.surveys, strict=True):
            self.surveys[row] = survey

    def promote(self, promoted: Tensor, found: Posterior) -> None:
        """Serve what was `found` where promoted (U, D) is true; what was served before is kept for rollback."""
        any_of = promoted.any(1)
        self.previous[any_of], self.previous_cov[any_of] = self.weights[any_of], self.cov[any_of]
        self.previous_noise[any_of] = self.noise[any_of]
        self.weights = torch.where(promoted[..., None], found.mean, self.weights)
        self.cov = torch.where(promoted[..., None, None], found.cov.to(self.cov.dtype), self.cov)
        self.noise = torch.where(promoted, found.noise, self.noise)
        self.version = self.version + any_of.to(self.version.dtype)
        self.served_anew(promoted)

    def served_anew(self, entries: Tensor) -> None:
        """What the gate knew of candidates against entries (U, D) that no longer serve is void."""
        self.evidence = torch.where(entries[..., None] & gate.SINCE_PROMOTION, 0.0, self.evidence)

    def rollback(self, rows: Tensor) -> None:
        """Serve the entry before the last promotion again (rows: indices of users); statistics stay."""
        self.weights[rows], self.cov[rows] = self.previous[rows], self.previous_cov[rows]
        self.noise[rows] = self.previous_noise[rows]
        self.version[rows] = (self.version[rows] - 1).clamp_min(0)
        entries = torch.zeros_like(self.reason, dtype=torch.bool)
        entries[rows] = True
        self.served_anew(entries)

    def arrays(self) -> dict[str, Tensor]:
        """Everything that has one row per user."""
        own = {name: getattr(self, name) for name in _PER_USER}
        return own | {f"stats.{name}": getattr(self.stats, name) for name in ("A", "b", "yy", "n")}

    def save(self, folder: Path) -> None:
        """Write the folder whole or not at all, all rows anew; an existing bank is replaced in one rename."""
        layout = row_layout(self)
        draft = Draft(layout)
        keys = [key_of(user) for user in self.users]
        for start in range(0, len(keys), 512):
            rows, texts = packed(layout, self.take(list(range(start, min(start + 512, len(keys))))))
            draft.add(rows, texts)
        index = np.zeros(len(keys), INDEX)
        index["key"], index["row"], index["place"] = keys, np.arange(len(keys)), np.arange(len(keys))
        head, tensors = shared_parts(self)
        write_folder(folder, head, layout, np.sort(index, order="key"), [draft.segment()] if keys else [], tensors)


def row_layout(bank: Bank) -> Layout:
    """The fields of one user's row in this bank's files."""
    return Layout.of(bank.arrays(), ("cov", "previous_cov", "stats.A"))


def packed(layout: Layout, bank: Bank) -> tuple[np.ndarray, list[bytes]]:
    """Rows of all of a bank's users and their texts, as `bank_files.Draft` takes them."""
    texts = [
        json.dumps({"user": user, "survey": survey}, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
        for user, survey in zip(bank.users, bank.surveys)
    ]
    return layout.pack(bank.arrays(), [key_of(user) for user in bank.users], texts), texts


def unpacked(like: Bank, layout: Layout, rows: np.ndarray, texts: list[bytes]) -> Bank:
    """Rows and texts as a bank of these users, in this order; all else is that of `like`."""
    said = [json.loads(text) for text in texts]
    return _from_arrays(like, layout.unpack(rows), [each["user"] for each in said], [each["survey"] for each in said])


def shared_parts(bank: "Bank") -> tuple[dict, dict[str, Tensor]]:
    """What all users have in common: what goes into `bank.json`, and tensors."""
    tensors = {f"prior.{name}": value for name, value in bank.prior.tensors().items()}
    tensors |= {f"basis.{name}": getattr(bank.basis, name) for name in _BASIS}
    tensors |= {f"selection.{name}": getattr(bank.selection, name) for name in _SELECTION}
    survey = bank.selection.survey
    head = {
        "dimensions": list(DIMENSIONS),
        "models": list(bank.basis.models),
        "round": bank.round,
        "temper": bank.selection.temper,
        "survey": {"categories": survey.categories, "numbers": {k: list(v) for k, v in survey.numbers.items()}},
        "about": bank.about,
    }
    return head, tensors


def empty_bank(head: dict, tensors: dict[str, Tensor]) -> Bank:
    """A bank without users out of `shared_parts`."""
    survey = Survey(head["survey"]["categories"], {k: (v[0], v[1]) for k, v in head["survey"]["numbers"].items()})
    basis = Basis(tuple(head["models"]), **{name: tensors[f"basis.{name}"] for name in _BASIS})
    prior = Prior(**{name.removeprefix("prior."): t for name, t in tensors.items() if name.startswith("prior.")})
    parts = {name: tensors[f"selection.{name}"] for name in _SELECTION}
    bank = start_bank(basis, prior, Selection(survey=survey, temper=head["temper"], **parts), [], [])
    bank.round, bank.about = head["round"], head["about"]
    return bank


_PER_USER = (
    "judged", "expert", "expert_probability", "prior_mean", "weights", "cov", "noise", "previous", "previous_cov",
    "previous_noise", "ratings", "evidence", "reason", "version",
)  # fmt: skip
_BASIS = ("centre", "rotation", "rated", "fused_centre", "fused_rotation")
_SELECTION = ("weights", "points", "noise", "prior_mean", "prior_var", "average")


def _from_arrays(like: Bank, arrays: dict[str, Tensor], users: list[str], surveys: list[dict]) -> Bank:
    return Bank(
        basis=like.basis,
        prior=like.prior,
        selection=like.selection,
        users=users,
        surveys=surveys,
        stats=Stats(*(arrays[f"stats.{name}"] for name in ("A", "b", "yy", "n"))),
        round=like.round,
        about=dict(like.about),
        **{name: arrays[name] for name in _PER_USER},
    )


def joined(banks: list[Bank]) -> Bank:
    """Banks of different users over the same prior, one after the other."""
    arrays = [bank.arrays() for bank in banks]
    return _from_arrays(
        banks[0],
        {name: torch.cat([each[name] for each in arrays]) for name in arrays[0]},
        [user for bank in banks for user in bank.users],
        [survey for bank in banks for survey in bank.surveys],
    )


def start_bank(
    basis: Basis,
    prior: Prior,
    selection: Selection,
    users: list[str],
    surveys: list[dict[str, str | None]],
    judged: Tensor | None = None,
) -> Bank:
    """A bank in which every user is served their prior (survey answers included) and has no ratings yet."""
    count, dimensions, size = len(users), len(prior.noise), basis.size
    stats = personal.no_stats(count, dimensions, size)
    expert, probability = selection.choose(surveys, stats)
    served = personal.unrated(prior, prior.of(selection.shift(surveys)))
    own, cov = served.mean, served.cov.to(torch.float32)
    return Bank(
        basis=basis,
        prior=prior,
        selection=selection,
        users=list(users),
        surveys=list(surveys),
        judged=torch.zeros(count, dtype=torch.bool) if judged is None else judged,
        expert=expert,
        expert_probability=probability,
        prior_mean=own.clone(),
        weights=own.clone(),
        cov=cov.clone(),
        noise=served.noise.clone(),
        previous=own.clone(),
        previous_cov=cov.clone(),
        previous_noise=served.noise.clone(),
        stats=stats,
        ratings=torch.zeros(count, dimensions, dtype=torch.long),
        evidence=gate.no_evidence(count, dimensions),
        reason=torch.full((count, dimensions), gate.NO_NEWS),
        version=torch.zeros(count, dtype=torch.long),
    )


def load_bank(folder: Path) -> Bank:
    """All of a bank's folder in memory. ValueError names the folder or file when it is none, or damaged."""
    head, layout, index, segments, tensors = read_folder(Path(folder))
    empty = empty_bank(head, tensors)
    if not len(index):
        return empty
    rows, texts = np.zeros(len(index), layout.dtype), [b""] * len(index)
    place = np.argsort(np.argsort(index["place"], kind="stable"))
    for k, segment in enumerate(segments):
        here = np.flatnonzero(index["segment"] == k)
        found, words = segment.read(index["row"][here])
        rows[place[here]] = found
        for at, text in zip(place[here].tolist(), words):
            texts[at] = text
    return unpacked(empty, layout, rows, texts)
