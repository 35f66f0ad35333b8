"""Method `lora` of fine-tuning and of nights: tables in, low-rank entries and the gate's decision out; no Ray in here.

Beside its entries there is a bank as of method `bayes` that promotes nothing: it selects experts, discounts old ratings and
answers with a user's prior where no low-rank entry is promoted, and for users it has never seen.

    uv run pytest tests/tasks/test_lora_stages.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model import gate, personal
from model.bank import Bank
from model.checkpoint import load_frame
from model.gate import Evidence
from model.lora import Base, Given, Layout, LoraSettings, Streams, base_of, padded, streams
from model.lora_bank import LoraBank, OpenLora, has_lora
from model.lora_users import LEFT_OUT, Experts, cross_fitted, evidence, folds, without
from model.physique_frame import PhysiqueFrame
from model.preference import survey_code
from model.scores import DIMENSIONS
from model.views import FrameInputs
from tasks.frame_data import read_inputs
from tasks.ratings import Photos, Ratings
from tasks.tables import read_json

NEVER = 2.0
"""Confidence that a bank's own gate is to ask for where its entries are not to be served."""


def lora_settings(config: dict[str, Any]) -> LoraSettings:
    return LoraSettings(config["rank"], config["pull"], config["steps"], config["lr"])


@dataclass
class Network:
    """The experts' networks in a folder of models, and the photos as they read them, for making `Experts`."""

    models: Path
    inputs: FrameInputs
    base: Base
    device: str = "cpu"

    @classmethod
    def read(cls, config: dict[str, Any]) -> Network:
        """config: models, mesh, embeddings, photos, pixels (paths), gpus."""
        models = Path(config["models"])
        first = next(iter(sorted(models.glob("*.json"))), None)
        if first is None:
            raise ValueError(f"{models}: holds no expert model; `dvc repro pretrain` makes them")
        frame, _ = load_frame(models, first.stem)
        if not isinstance(frame, PhysiqueFrame):
            raise ValueError(
                "finetune.method: lora changes adapter and heads of networks that read photos; these experts read vectors, "
                "for which it must be bayes"
            )
        mesh, embeddings, photos, pixels = (Path(config[name]) for name in ("mesh", "embeddings", "photos", "pixels"))
        inputs = read_inputs(mesh, embeddings, frame.config, photos, pixels, frame.compat.squash)
        return cls(models, inputs, base_of(frame), "cuda" if config.get("gpus") else "cpu")

    def start(self, users: int, rank: int) -> Tensor:
        """Rows (U, D, size) that change nothing."""
        return Layout.of(self.base, rank).start(users)

    def experts(self, names: list[str], ids: list[str], needed: Tensor) -> Experts:
        """Those called `names`, with streams of the photos `ids` where needed (E, N); zeros elsewhere."""
        file = {read_json(path)["about"]["rater"]: path.stem for path in self.models.glob("*.json")}
        missing = [name for name in names if name not in file]
        if missing:
            raise ValueError(f"{self.models}: no model of {', '.join(missing)}; `dvc repro pretrain` makes them")
        place = self.inputs.rows()
        where = torch.tensor([place.get(photo, -1) for photo in ids])
        bases: list[Base] = []
        said: list[Streams] = []
        for name, wanted in zip(names, needed):
            frame, about = load_frame(self.models, file[name], self.device)
            bases.append(base_of(frame))
            rows = torch.nonzero((where >= 0) & (wanted if wanted.any() else True)).flatten()
            rows = rows if wanted.any() else rows[:1]  # nobody's expert: one photo tells how wide its streams are
            found = streams(frame, self.inputs, where[rows], survey_code(about["survey"]).to(self.device), batch=64)
            wide = (torch.zeros(len(ids), *part.shape[1:]) for part in found)
            said.append(Streams(*(whole.index_copy_(0, rows, part) for whole, part in zip(wide, found))))
        return Experts(bases, said)


@dataclass
class Learned:
    """Of users in order: candidates (U, D, size), their experts (U,), evidence against what is served and the prior."""

    rows: Tensor
    expert: Tensor
    current: Evidence
    prior: Evidence
    nothing: Evidence


def learn(
    network: Network,
    part: Bank,
    photos: Photos,
    new: Ratings,
    settings: LoraSettings,
    lora: LoraBank | None = None,
    device: str = "cpu",
) -> Learned:
    """Candidates of the users of `part` from their `new` ratings (user indexes `part.users`), and their evidence.

    lora: the entries of the same users to go on from, whose kept ratings are replayed; None = from their experts. Only new
    ratings are judged: what went before has spoken, in its time.
    """
    users, phi = len(part.users), part.basis.phi(photos.predictions, photos.fused)
    names = list(part.basis.experts)
    given, judged = _given(photos, new, users, lora)
    fold = folds(given, judged)
    if lora is None:
        chosen = _selected(part, phi, given)
        expert = torch.stack([_selected(part, phi, without(given, fold, pair)) for pair in LEFT_OUT])
        before = None
    else:
        chosen, before = lora.expert, lora.rows
        expert = chosen.expand(len(LEFT_OUT), -1)
    needed = torch.zeros(len(names), len(photos.ids), dtype=torch.bool)
    real = ~given.y.isnan().all(2)
    for who in (*expert, chosen):
        needed[who[:, None].expand_as(real)[real], given.photo[real]] = True
    experts = network.experts(names, photos.ids, needed)
    rows = experts.train(chosen, given, settings, before, device=device)
    found = cross_fitted(experts, expert, given, fold, settings, before, device=device)
    prior = torch.einsum("urdp,udp->urd", phi[given.photo], part.prior_mean).nan_to_num()  # NaN where nobody rated
    current = prior
    if lora is not None:
        served = experts.scores(chosen, lora.rows, given.photo, settings.rank)
        current = torch.where(lora.served[:, None], served.double(), prior)
    return Learned(rows, chosen, *evidence(found, fold, given.y, [current, prior, torch.zeros_like(prior)]))


def _given(photos: Photos, new: Ratings, users: int, lora: LoraBank | None) -> tuple[Given, Tensor]:
    """Kept ratings, then new ones, and which of them (U, R) are new. A photo rated anew counts as new."""
    weight = torch.ones(len(new), dtype=torch.float64)
    columns = [new.user, new.photo, new.y, weight]
    if lora is not None:
        place, fresh = photos.rows(), set(zip(new.user.tolist(), new.photo.tolist()))
        old: list[list] = [[], [], [], []]
        for user in range(users):
            ids, y, _, weights = lora.kept(user)
            for photo, rated, counts in zip(ids, y, weights.tolist()):
                if photo in place and (user, place[photo]) not in fresh:
                    for column, value in zip(old, (user, place[photo], rated, counts)):
                        column.append(value)
        if old[0]:
            earlier = (torch.tensor(old[0]), torch.tensor(old[1]), torch.stack(old[2]), torch.tensor(old[3]).double())
            columns = [torch.cat(pair) for pair in zip(earlier, columns)]
    count = len(columns[0]) - len(new)
    given = padded(*columns, users)  # type: ignore[arg-type]
    is_new = padded(columns[0], columns[1], columns[2], (torch.arange(len(columns[0])) >= count).double(), users)
    return given, is_new.weight > 0


def _selected(part: Bank, phi: Tensor, given: Given) -> Tensor:
    """The expert (U,) that surveys and these ratings lead to."""
    user, at = torch.nonzero(~given.y.isnan().all(2), as_tuple=True)
    stats = personal.sufficient(phi[given.photo[user, at]], given.y[user, at].double(), user, len(part.users))
    return part.selection.choose(part.surveys, stats)[0]


def first_entries(
    network: Network, part: Bank, photos: Photos, ratings: Ratings, config: dict[str, Any]
) -> tuple[LoraBank, Learned]:
    """Entries of the users of `part`, none promoted yet, with what they have rated kept; and the candidates."""
    ratings = ratings[photos.fitting()[ratings.photo]]
    settings = lora_settings(config)
    found = learn(network, part, photos, ratings, settings, device=network.device)
    start = network.start(len(part.users), settings.rank)
    lora = LoraBank.empty(list(part.basis.experts), settings.rank, part.users, found.expert, start)
    _keep(lora, photos, ratings)
    return lora, found


def joined(loras: list[LoraBank], founds: list[Learned], order: Tensor) -> tuple[LoraBank, Learned]:
    """Entries and candidates of different users put together, then brought into `order`."""
    lora = reduce(LoraBank.joined, loras).take(order)
    rows, expert = (torch.cat([getattr(found, name) for found in founds])[order] for name in ("rows", "expert"))
    against = (gate.stacked([getattr(found, name) for found in founds], order) for name in ("current", "prior", "nothing"))
    return lora, Learned(rows, expert, *against)


def decide(lora: LoraBank, found: Learned, config: dict[str, Any], news: Tensor | None = None) -> Tensor:
    """Put candidates into the entries where the gate lets them; promoted (U, D)."""
    promoted, lora.reason = gate.decide(
        found.current,
        found.prior,
        found.nothing,
        confidence=config.get("confidence", 0.8),
        min_ratings=config.get("min_ratings", 5),
        news=news,
    )
    lora.gain, lora.variance, lora.ratings = found.prior.gain, found.prior.variance, found.prior.ratings
    lora.promote(promoted, found.rows)
    return promoted


def night(
    network: Network, lora: LoraBank, part: Bank, photos: Photos, new: Ratings, forget: Tensor, config: dict[str, Any]
) -> tuple[LoraBank, Learned]:
    """Entries of the users of `part` after their new ratings, nothing promoted yet; older ratings count `forget` (U,).

    lora: entries of those of them who have one.
    """
    settings = replace(lora_settings(config), rank=lora.rank)
    strangers = [user for user in part.users if user not in set(lora.users)]
    if strangers:
        rows = part.index(strangers)
        start = network.start(len(strangers), lora.rank)
        lora = lora.joined(LoraBank.empty(lora.experts, lora.rank, strangers, part.expert[rows], start))
    lora = lora.take(lora.index(part.users))
    kept = forget[:, None].float()
    lora.weight = lora.weight * kept
    found = learn(network, part, photos, new, settings, lora, network.device)
    # What earlier nights found counts as much as the ratings they rest on still do.
    earlier = Evidence(lora.gain, lora.variance / kept.double().clamp_min(1e-9), lora.ratings)
    found.prior = found.prior.combined(earlier)
    _keep(lora, photos, new)
    return lora, found


def _keep(lora: LoraBank, photos: Photos, new: Ratings) -> None:
    """Of each user, kept and new ratings together as far as there is room; a photo rated anew replaces what was said."""
    new = new[torch.argsort(new.user, stable=True)]
    counts = torch.bincount(new.user, minlength=len(lora.users)).tolist()
    for user, rows in enumerate(torch.arange(len(new)).split(counts)):
        ids, y, at, weights = lora.kept(user)
        rated = {photo: (y[i], float(at[i]), float(weights[i])) for i, photo in enumerate(ids)}
        for i in rows.tolist():
            photo = photos.ids[int(new.photo[i])]
            before = rated[photo][0] if photo in rated else torch.full_like(new.y[i], torch.nan)
            said = torch.where(new.y[i].isnan(), before, new.y[i])
            rated[photo] = (said, float(new.at[i]), 1.0)
        if rated:
            said, when, counts_as = zip(*rated.values())
            when, counts_as = torch.tensor(when).double(), torch.tensor(counts_as).double()
            lora.keep(user, list(rated), torch.stack(said), when, counts_as)


def served_over(folder: Path, config: dict[str, Any], photos: Photos) -> Callable[[list[str]], np.ndarray] | None:
    """For `tasks.judge`: what the low-rank entries in a bank's folder say of test photos; None if there are none."""
    if not has_lora(folder):
        return None
    opened, network = OpenLora(folder), Network.read(config)
    test = torch.nonzero(~photos.fitting()).flatten()

    def scores(users: list[str]) -> np.ndarray:
        entries = opened.part(users)
        found = np.full((len(users), len(photos.ids), len(DIMENSIONS)), np.nan)
        needed = torch.zeros(len(opened.experts), len(photos.ids), dtype=torch.bool)
        needed[entries.expert.unique()[:, None], test] = True
        experts = network.experts(opened.experts, photos.ids, needed)
        said = experts.scores(entries.expert, entries.rows, test.expand(len(entries.users), -1), opened.rank)
        said = torch.where(entries.served[:, None], said, torch.nan).double().numpy()
        row = entries.index(users)
        known = torch.nonzero(row >= 0).flatten()
        found[known[:, None].numpy(), test.numpy()] = said[row[known].numpy()]
        return found

    return scores
