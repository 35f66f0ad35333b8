"""Method `lora` of fine-tuning and of nights: tables in, low-rank entries and the gate's decision out; no Ray in here.

Beside its entries there is a bank as of method `bayes` that promotes nothing: it selects experts, discounts old ratings and
answers with a user's prior, which entries correct by as much as they move the expert's own score. So they learn what the
prior gets wrong, and candidates start where the user is served from: which expert was selected, by the same ratings that
judge the candidate, says nothing yet.

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
from model.bank_opened import open_bank
from model.checkpoint import load_frame
from model.lora import Axes, Streams, axes_of, base_of, size_of, streams, tangents
from model.lora_bank import LoraBank, OpenLora, has_lora
from model.lora_fit import Given, padded
from model.lora_users import Experts, evidence
from model.physique_frame import PhysiqueFrame
from model.preference import survey_code
from model.scores import DIMENSIONS, SCALE
from model.views import FrameInputs
from tasks.frame_data import read_inputs
from tasks.personal import gate_settings
from tasks.ratings import Photos, Ratings
from tasks.splits import FIT, split_of
from tasks.tables import read_json

NEVER = 1.0
"""Confidence that a bank's own gate is to ask for where its entries are not to be served."""
LOOKED_AT = 128
"""Photos by which an expert's axes are found, the same for everybody."""
BLOCK = 256
"""Users learned at once."""


@dataclass
class Network:
    """The experts' networks in a folder of models, and the photos as they read them, for making `Experts`."""

    models: Path
    inputs: FrameInputs
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
        return cls(models, inputs, "cuda" if config.get("gpus") else "cpu")

    def experts(
        self, names: list[str], ids: list[str], needed: Tensor, rank: int, axes: list[Axes] | None = None
    ) -> Experts:
        """Those called `names`, with tangents of the photos `ids` where needed (E, N).

        axes: of each expert, if they are known; else they are found, by photos that may be fitted on.
        """
        file = {read_json(path)["about"]["rater"]: path.stem for path in self.models.glob("*.json")}
        missing = [name for name in names if name not in file]
        if missing:
            raise ValueError(f"{self.models}: no model of {', '.join(missing)}; `dvc repro pretrain` makes them")
        place = self.inputs.rows()
        where = torch.tensor([place.get(photo, -1) for photo in ids])
        looked = torch.zeros(len(ids), dtype=torch.bool)
        if axes is None:
            fitting = [i for i in sorted(range(len(ids)), key=ids.__getitem__) if where[i] >= 0 and split_of(ids[i]) == FIT]
            looked[fitting[:: -(-len(fitting) // LOOKED_AT) or 1]] = True
        found: list[tuple[Axes, Tensor, Tensor]] = []
        for e, (name, wanted) in enumerate(zip(names, needed)):
            frame, about = load_frame(self.models, file[name], self.device)
            base, survey = base_of(frame), survey_code(about["survey"]).to(self.device)
            rows = torch.nonzero((where >= 0) & (wanted | looked)).flatten()
            own = axes[e] if axes is not None else {}
            slopes, place = torch.zeros(0), torch.zeros(len(ids), dtype=torch.long)
            if len(rows):
                said = streams(frame, self.inputs, where[rows], survey, batch=64)
                if axes is None:
                    own = axes_of(base, Streams(*(part[looked[rows]] for part in said)), rank)
                at = wanted[rows]
                slopes = tangents(base, own, Streams(*(part[at] for part in said))) if at.any() else slopes
                place[rows[at]] = torch.arange(int(at.sum()))
            if not len(slopes):  # nobody's expert
                slopes = torch.zeros(1, len(DIMENSIONS), size_of(base, own))
            found.append((own, slopes, place))
        return Experts(*map(list, zip(*found)))


@dataclass
class Learned:
    """Of users in order: candidates (U, D, size), their experts (U,), evidence (U, D, 3) for them and how many ratings
    (U, D) it is of; axes: of each expert."""

    rows: Tensor
    expert: Tensor
    axes: list[Axes]
    evidence: Tensor
    ratings: Tensor


def learn(
    network: Network,
    part: Bank,
    photos: Photos,
    new: Ratings,
    config: dict[str, Any],
    lora: LoraBank | None = None,
) -> Learned:
    """Candidates of the users of `part` from their `new` ratings (user indexes `part.users`), and their evidence.

    lora: the entries of the same users to go on from, whose kept ratings are replayed; None = from their experts. Only new
    ratings are judged: what went before has spoken, in its time. config: rank, pull.
    """
    users, phi = len(part.users), part.basis.phi(photos.predictions, photos.fused)
    names = list(part.basis.experts)
    given, judged = _given(photos, new, users, lora)
    chosen = _selected(part, phi, given) if lora is None else lora.expert
    needed = torch.zeros(len(names), len(photos.ids), dtype=torch.bool)
    real = ~given.y.isnan().all(2)
    needed[chosen[:, None].expand_as(real)[real], given.photo[real]] = True
    experts = network.experts(names, photos.ids, needed, config["rank"], None if lora is None else lora.axes)
    rows, told = [], []
    for block in torch.arange(users).split(BLOCK):
        own, expert = given[block], chosen[block]
        before = None if lora is None else lora.rows[block]
        prior = torch.einsum("urdp,udp->urd", phi[own.photo], part.weights[block]).nan_to_num()  # NaN where nobody rated
        # What the prior gets wrong is what the expert's score should be moved by.
        found = experts.fit(expert, replace(own, y=(own.y - prior).float()), config["pull"], before)
        current = prior
        if lora is not None:
            moved = experts.moved(expert, lora.rows[block], own.photo)
            current = torch.where(lora.served[block, None], prior + moved, prior)
        told.append(evidence(found, own, judged[block, : own.y.shape[1]], part.prior, prior, current))
        rows.append(found.rows)
    ratings = (~given.y.isnan() & judged[..., None]).sum(1).double()
    return Learned(torch.cat(rows), chosen, experts.axes, torch.cat(told), ratings)


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
    found = learn(network, part, photos, ratings, config)
    size, names = found.rows.shape[2], list(part.basis.experts)
    lora = LoraBank.empty(names, found.axes, config["rank"], part.users, found.expert, size)
    _keep(lora, photos, ratings)
    return lora, found


def joined(loras: list[LoraBank], founds: list[Learned], order: Tensor) -> tuple[LoraBank, Learned]:
    """Entries and candidates of different users put together, then brought into `order`."""
    lora = reduce(LoraBank.joined, loras).take(order)
    names = ("rows", "expert", "evidence", "ratings")
    rows, expert, told, ratings = (torch.cat([getattr(found, name) for found in founds])[order] for name in names)
    return lora, Learned(rows, expert, founds[0].axes, told, ratings)


def decide(lora: LoraBank, found: Learned, config: dict[str, Any], news: Tensor | None = None) -> Tensor:
    """Put candidates into the entries where the gate lets them; promoted (U, D)."""
    promoted, lora.reason = gate.decide(found.evidence, found.ratings, news=news, **gate_settings(config))
    lora.evidence, lora.ratings = found.evidence, found.ratings
    lora.promote(promoted, found.rows)
    return promoted


def night(
    network: Network, lora: LoraBank, part: Bank, photos: Photos, new: Ratings, forget: Tensor, config: dict[str, Any]
) -> tuple[LoraBank, Learned]:
    """Entries of the users of `part` after their new ratings, nothing promoted yet; older ratings count `forget` (U,).

    lora: entries of those of them who have one.
    """
    known = set(lora.users)
    strangers = [user for user in part.users if user not in known]
    if strangers:
        rows = part.index(strangers)
        size = lora.rows.shape[2]
        lora = lora.joined(LoraBank.empty(lora.experts, lora.axes, lora.rank, strangers, part.expert[rows], size))
    lora = lora.take(lora.index(part.users))
    kept = forget[:, None].float()
    lora.weight = lora.weight * kept
    found = learn(network, part, photos, new, config, lora)
    # What earlier nights found counts as much as the ratings they rest on still do.
    found.evidence = found.evidence + kept[..., None] * lora.evidence
    found.ratings = found.ratings + lora.ratings
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
    opened, network, bank = OpenLora(folder), Network.read(config), open_bank(folder)
    test = torch.nonzero(~photos.fitting()).flatten()
    phi = bank.basis.phi(photos.predictions, photos.fused)[test]

    def scores(users: list[str]) -> np.ndarray:
        entries = opened.part(users)
        found = np.full((len(users), len(photos.ids), len(DIMENSIONS)), np.nan)
        needed = torch.zeros(len(opened.experts), len(photos.ids), dtype=torch.bool)
        needed[entries.expert.unique()[:, None], test] = True
        experts = network.experts(opened.experts, photos.ids, needed, opened.rank, opened.axes)
        moved = experts.moved(entries.expert, entries.rows, test.expand(len(entries.users), -1))
        said = torch.einsum("ndp,udp->und", phi, bank.part(entries.users).weights).clamp(*SCALE) + moved
        said = torch.where(entries.served[:, None], said.clamp(*SCALE), torch.nan).double().numpy()
        row = entries.index(users)
        known = torch.nonzero(row >= 0).flatten()
        found[known[:, None].numpy(), test.numpy()] = said[row[known].numpy()]
        return found

    return scores
