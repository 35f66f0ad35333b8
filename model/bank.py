"""All personal models in one packed bank: arrays over users, one folder, one prediction for mixed users.

A user's entry is their weights on φ(x) (`personal`), what is needed to update them exactly (`Stats`), what the gate
last said, and the entry before it for rollback. `weights` is what is served; the statistics hold every rating,
also those whose candidate was refused. The folder holds `bank.safetensors` and `bank.json`, nothing executable.

    .venv/bin/python -m pytest tests/model/test_bank.py
"""

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model import gate, personal
from model.basis import Basis
from model.personal import Posterior, Prior, Stats
from model.scores import DIMENSIONS, SCALE
from model.selection import Selection, Survey

FORMAT = 2


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
    stats: all fitted ratings, decayed. ratings (U, D): how many, undecayed. gain, gain_variance (U, D): what the
    gate knows of the entry against the prior. reason (U, D): index into `gate.REASONS`. version (U,): promotions
    so far, 0 = the prior is served. round: nights behind this bank.
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
    gain: Tensor
    gain_variance: Tensor
    reason: Tensor
    version: Tensor
    round: int = 0
    about: dict = field(default_factory=dict)

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

    def with_users(self, user_ids: list[str], surveys: list[dict[str, str | None]]) -> "Bank":
        """This bank with new users appended; they start from the prior that their survey gives."""
        if not user_ids:
            return self
        return joined([self, start_bank(self.basis, self.prior, self.selection, user_ids, surveys)])

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

    def promote(self, promoted: Tensor, found: Posterior) -> None:
        """Serve what was `found` where promoted (U, D) is true; what was served before is kept for rollback."""
        any_of = promoted.any(1)
        self.previous[any_of], self.previous_cov[any_of] = self.weights[any_of], self.cov[any_of]
        self.previous_noise[any_of] = self.noise[any_of]
        self.weights = torch.where(promoted[..., None], found.mean, self.weights)
        self.cov = torch.where(promoted[..., None, None], found.cov.to(self.cov.dtype), self.cov)
        self.noise = torch.where(promoted, found.noise, self.noise)
        self.version = self.version + any_of.to(self.version.dtype)

    def rollback(self, rows: Tensor) -> None:
        """Serve the entry before the last promotion again (rows: indices of users); statistics stay."""
        self.weights[rows], self.cov[rows] = self.previous[rows], self.previous_cov[rows]
        self.noise[rows] = self.previous_noise[rows]
        self.version[rows] = (self.version[rows] - 1).clamp_min(0)

    def arrays(self) -> dict[str, Tensor]:
        """Everything that has one row per user."""
        own = {name: getattr(self, name) for name in _PER_USER}
        return own | {f"stats.{name}": getattr(self.stats, name) for name in ("A", "b", "yy", "n")}

    def save(self, folder: Path) -> None:
        """Write the folder whole or not at all; an existing bank is replaced in one rename."""
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        fresh.chmod(0o755)
        tensors = self.arrays()
        tensors |= {f"prior.{name}": value for name, value in self.prior.tensors().items()}
        tensors |= {f"basis.{name}": getattr(self.basis, name) for name in _BASIS}
        tensors |= {f"selection.{name}": getattr(self.selection, name) for name in _SELECTION}
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, fresh / "bank.safetensors")
        about = {
            "format": FORMAT,
            "dimensions": list(DIMENSIONS),
            "models": list(self.basis.models),
            "round": self.round,
            "temper": self.selection.temper,
            "survey": {
                "categories": self.selection.survey.categories,
                "numbers": {k: list(v) for k, v in self.selection.survey.numbers.items()},
            },
            "about": self.about,
            "users": self.users,
            "surveys": self.surveys,
        }
        (fresh / "bank.json").write_text(json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False))
        old = None
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent)) / "bank"
            folder.rename(old)
        fresh.rename(folder)
        if old is not None:
            shutil.rmtree(old.parent)


_PER_USER = (
    "judged", "expert", "expert_probability", "prior_mean", "weights", "cov", "noise", "previous", "previous_cov",
    "previous_noise", "ratings", "gain", "gain_variance", "reason", "version",
)  # fmt: skip
PRIOR = ("mean", "cov", "noise", "kappa", "users", "scales", "shares")
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
    nothing = gate.no_evidence(count, dimensions)
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
        gain=nothing.gain,
        gain_variance=nothing.variance,
        reason=torch.full((count, dimensions), gate.NO_NEWS),
        version=torch.zeros(count, dtype=torch.long),
    )


def load_bank(folder: Path) -> Bank:
    """Read a bank folder written by `Bank.save`. ValueError names the folder when it is not one."""
    folder = Path(folder)
    if not (folder / "bank.json").is_file() or not (folder / "bank.safetensors").is_file():
        raise ValueError(f"{folder} is not a bank: expected bank.json and bank.safetensors in it")
    about = json.loads((folder / "bank.json").read_text())
    if about["format"] != FORMAT:
        raise ValueError(f"{folder} has bank format {about['format']}, this code reads {FORMAT}")
    tensors = load_file(folder / "bank.safetensors")
    survey = Survey(about["survey"]["categories"], {k: (v[0], v[1]) for k, v in about["survey"]["numbers"].items()})
    basis = Basis(tuple(about["models"]), **{name: tensors[f"basis.{name}"] for name in _BASIS})
    prior = Prior(**{n: tensors[f"prior.{n}"] for n in PRIOR})
    selection = Selection(
        survey=survey,
        temper=about["temper"],
        **{name: tensors[f"selection.{name}"] for name in _SELECTION},
    )
    empty = start_bank(basis, prior, selection, [], [])
    bank = _from_arrays(empty, tensors, about["users"], about["surveys"])
    bank.round, bank.about = about["round"], about["about"]
    return bank
