"""The paper's question, answered: does PAA+ beat one generic model that is fine-tuned, and after how many ratings?

Users whom no model has seen give `count` ratings of photos that may be rated, and are judged on photos that nobody's model
was fitted on: per user and dimension, SRCC, PLCC and mean absolute error. Every arm gets the same ratings, drawn anew in
each repeat, and comparisons are paired by user. The arms:

- `generic`: the generic model as it is.
- `fine-tuned, default`: its last layer fine-tuned on the user's ratings as is usually done (model/prevailing.py).
- `fine-tuned, tuned`: the same with the penalty and the scaling of features chosen, for every count and dimension, on the
  tuners: other users, and their ratings of the very photos that judge. That favours it.
- `fine-tuned, all data`: the same from a generic model that learned from the earlier users' ratings too, as PAA+ has.
- `selected expert`, `selected, fine-tuned`: the expert model that suits the user, and its last layer fine-tuned (tuned).
- `PAA+`: the default personal model, its prior learned from earlier users; `PAA+, chosen photos`: the ratings asked for are
  those that model/ask.py names; `PAA+, nights`: ratings come five a night, and what passes the gate is served.

    uv run physique study
    uv run pytest tests/tasks/test_study.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from model import metrics, personal, prevailing, unseen
from model.ask import next_photos
from model.bank import Bank, start_bank
from model.basis import GENERIC
from model.scores import DIMENSIONS
from tasks.personal import night
from tasks.ratings import Photos, Ratings

COUNTS = (0, 5, 10, 25, 50, 100)
OURS, PREVAILING = "PAA+", "fine-tuned, tuned"
NIGHTLY = 5
"""Ratings a night of `PAA+, nights`."""
PENALTIES = (*(10.0**k for k in np.arange(-2.5, 2.5, 0.5)), float("inf"))
MOST_TUNERS = 200


@dataclass
class Group:
    """Users: ids, survey answers, and y (U, N, D) what they rated of the photos, NaN = not."""

    users: list[str]
    surveys: list[dict]
    y: Tensor

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, rows: Tensor) -> Group:
        return Group([self.users[i] for i in rows], [self.surveys[i] for i in rows], self.y[rows])


@dataclass
class Setting:
    """What a study is made on.

    bank: of the stage `finetune`; its basis, prior and selection have seen nobody of `judged`. may (N,) bool: photos
    that may be rated, the others judge. tuners: users on whom the baselines' hyper-parameters are chosen. teachers: users
    whose ratings of `may` photos the generic model of `all data` learns from; None: it has learned from them already.
    """

    name: str
    simulated: bool
    bank: Bank
    photos: Photos
    may: Tensor
    judged: Group
    tuners: Group
    teachers: Group | None


def orders(group: Group, may: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Each user's photos that may be rated in a random order (U, most), -1 = no more, and how many there are (U,)."""
    there = (~group.y.isnan().all(2) & may).numpy()
    rng = np.random.default_rng(seed)
    lots = np.where(there, rng.random(there.shape), np.inf)
    have = there.sum(1)
    order = np.argsort(lots, 1, kind="stable")[:, : max(int(have.max(initial=0)), 1)]
    return torch.from_numpy(np.where(np.arange(order.shape[1]) < have[:, None], order, -1)), torch.from_numpy(have)


class Arms:
    """All arms of a setting: scores (U, N, D) of every photo for users who rated the photos `asked` (U, n)."""

    def __init__(self, setting: Setting, seed: int):
        bank, photos = setting.bank, setting.photos
        self.setting, self.bank, self.seed = setting, bank, seed
        self.phi = bank.basis.phi(photos.predictions, photos.fused)
        self.experts = photos.predictions[:, [photos.models.index(name) for name in bank.basis.experts]].nan_to_num(0.0)
        self.generic = torch.einsum("ndp,dp->nd", self.phi, bank.basis.generic_weights()).nan_to_num(0.0)
        if GENERIC in photos.models:
            self.generic = photos.predictions[:, photos.models.index(GENERIC)].nan_to_num(0.0)
        last = photos.fused if photos.fused is not None else self.generic
        features = [prevailing.standardised(last, setting.may, each) for each in (True, False)]
        self.features = torch.stack(features)[:, :, None].expand(-1, -1, len(DIMENSIONS), -1)  # (2, N, D, F)
        self.informed = self.generic if setting.teachers is None else self._informed(setting.teachers)
        self.settled: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def _informed(self, teachers: Group) -> Tensor:
        """The generic model (N, D) with what earlier users on average say, learned on its features."""
        may, y = self.setting.may, teachers.y
        mean = torch.from_numpy(metrics.known_mean((y - self._level(y)).numpy(), 0)) + self._level(y).nanmean(0)
        raters = (~y.isnan()).sum(0).to(torch.float64)
        phi = torch.cat([torch.ones_like(self.generic)[..., None], self.generic[..., None], self.features[1]], 2)
        start = torch.zeros(phi.shape[1:], dtype=torch.float64)
        start[:, 1] = 1.0
        held = self.setting.photos.held()[may]
        learned = unseen.population_mean(phi[may], mean[may], raters[may], start, held)
        return torch.einsum("ndp,dp->nd", phi, learned)

    def _level(self, y: Tensor) -> Tensor:
        """Mean rating of each user (U, 1, D)."""
        return y[:, self.setting.may].nanmean(1, keepdim=True)

    def stats(self, group: Group, asked: Tensor) -> personal.Stats:
        """What ratings of the photos `asked` say."""
        told = given(group, asked)
        return personal.sufficient(self.phi[told.photo], told.y, told.user, len(group))

    def start(self, kind: str, group: Group, asked: Tensor) -> Tensor:
        """What fine-tuning starts from (U, N, D): `generic`, `informed` or the selected `expert`."""
        if kind == "expert":
            expert, _ = self.bank.selection.choose(group.surveys, self.stats(group, asked))
            return self.experts[:, expert].transpose(0, 1)
        return (self.generic if kind == "generic" else self.informed).expand(len(group), -1, -1)

    def settle(self, kind: str, count: int, draws: int = 2) -> tuple[Tensor, Tensor]:
        """Features (N, D, F) and penalty (D,) that suit the tuners best with `count` ratings; chosen once."""
        if (kind, count) in self.settled:
            return self.settled[kind, count]
        score = torch.zeros(len(self.features), len(PENALTIES), len(DIMENSIONS), dtype=torch.float64)
        for draw in range(draws):
            order, have = orders(self.setting.tuners, self.setting.may, self.seed + 1000 + draw)
            enough = torch.nonzero(have >= count).flatten()[:MOST_TUNERS]
            group, asked = self.setting.tuners[enough], order[enough, :count]
            judges = torch.nonzero(~self.setting.may).flatten()
            base, truth = self.start(kind, group, asked), group.y[:, judges]
            for f, features in enumerate(self.features):
                for p, penalty in enumerate(PENALTIES):
                    weight = torch.full((len(DIMENSIONS),), penalty, dtype=torch.float64)
                    found = prevailing.ridge(features, base, asked, rated(group, asked), weight, judges)
                    score[f, p] += torch.from_numpy(metrics.known_mean(srcc(found, truth), 1)).nan_to_num(0.0)
        flat = score.flatten(0, 1).argmax(0)
        features = torch.stack([self.features[k // len(PENALTIES), :, d] for d, k in enumerate(flat.tolist())], 1)
        self.settled[kind, count] = features, torch.tensor([PENALTIES[k % len(PENALTIES)] for k in flat.tolist()]).double()
        return self.settled[kind, count]

    def tuned(self, kind: str, group: Group, asked: Tensor) -> Tensor:
        """Fine-tuned at its best."""
        features, penalty = self.settle(kind, asked.shape[1])
        return prevailing.ridge(features, self.start(kind, group, asked), asked, rated(group, asked), penalty)

    def default(self, group: Group, asked: Tensor) -> Tensor:
        """Fine-tuned as usual."""
        return prevailing.fine_tuned(self.features[0], self.start("generic", group, asked), asked, rated(group, asked))

    def own_prior(self, group: Group) -> Tensor:
        """Prior means (U, D, P), surveys included."""
        return self.bank.prior.of(self.bank.selection.shift(group.surveys))

    def ours(self, group: Group, asked: Tensor) -> Tensor:
        """The default personal model."""
        return self._scored(personal.posterior(self.bank.prior, self.own_prior(group), self.stats(group, asked)).mean)

    def chosen(self, group: Group, count: int) -> Tensor:
        """Photos (U, count) that `physique ask` would have each user rate."""
        prior = self.bank.prior
        noise = torch.where(prior.users > 0, prior.noise, torch.nan)
        pools = ~group.y.isnan().all(2) & self.setting.may
        aims = self.phi[self.setting.may]
        found = []
        for own, pool in zip(self.own_prior(group), pools):
            rows = torch.nonzero(pool).flatten()
            found.append(rows[next_photos(self.phi[rows], own, prior.cov, noise, count, aims)])
        return torch.stack(found) if found else torch.zeros(0, count, dtype=torch.long)

    def nights(self, group: Group, order: Tensor, counts: tuple[int, ...], config: dict[str, Any]) -> dict[int, Tensor]:
        """What is served (U, N, D) when each count of ratings is in."""
        bank = start_bank(self.bank.basis, self.bank.prior, self.bank.selection, group.users, group.surveys)
        last = min(max(counts), order.shape[1])
        stops = sorted({*range(0, last, NIGHTLY), *(c for c in counts if c <= last), last})
        served = {0: self._scored(bank.weights)}
        for first, stop in pairwise(stops):
            new = given(group, order[:, first:stop])
            found = night(bank, self.setting.photos, group.users, new, config)
            assert found is not None and isinstance(found[0], Bank)
            bank = found[0]
            if stop in counts:
                served[stop] = self._scored(bank.weights)
        return served

    def _scored(self, weights: Tensor) -> Tensor:
        scores = torch.einsum("ndp,udp->und", self.phi, weights)
        return torch.where(self.bank.prior.users > 0, scores, torch.nan)


def given(group: Group, asked: Tensor) -> Ratings:
    """The group's ratings of the photos `asked` (U, n), -1 = none."""
    user = torch.arange(len(group)).repeat_interleave(asked.shape[1])
    there = asked.flatten() >= 0
    user, photo = user[there], asked.flatten()[there]
    return Ratings(user, photo, group.y[user, photo], torch.full((len(user),), torch.nan, dtype=torch.float64))


def rated(group: Group, asked: Tensor) -> Tensor:
    """Ratings (U, n, D) of the photos `asked` (U, n)."""
    return group.y[torch.arange(len(group))[:, None], asked]


def judged_part(y: Tensor, may: Tensor) -> Tensor:
    """y (U, N, D) with NaN where a photo does not judge."""
    return torch.where(may[:, None], torch.nan, y)


def srcc(scores: Tensor, truth: Tensor) -> np.ndarray:
    """(D, U)."""
    return np.stack([metrics.srcc(scores[..., d].numpy(), truth[..., d].numpy()) for d in range(len(DIMENSIONS))])


def study(
    setting: Setting,
    counts: tuple[int, ...] = COUNTS,
    *,
    repeats: int = 4,
    seed: int = 0,
    config: dict[str, Any] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> pa.Table:
    """One row per user, arm, count and dimension: srcc, plcc and mae on the photos that judge, means over repeats.

    Users with fewer than `count` ratings are left out at that count. config: of `tasks.personal.night`. advance(1) is
    called after each count of each repeat, (repeats x counts) times in all.
    """
    torch.set_num_threads(1)
    arms, may = Arms(setting, seed), setting.may
    sums: dict[tuple[str, int], np.ndarray] = {}
    times: dict[tuple[str, int], int] = {}

    def judge(arm: str, count: int, users: Tensor, scores: Tensor) -> None:
        table = sums.setdefault((arm, count), np.full((len(setting.judged), len(DIMENSIONS), 3), np.nan))
        now = judgement(scores.numpy(), judged_part(setting.judged.y[users], may).numpy())
        times[arm, count] = times.get((arm, count), 0) + 1
        table[users] = now if times[arm, count] == 1 else table[users] + now

    for repeat in range(repeats):
        order, have = orders(setting.judged, may, seed + repeat)
        served = arms.nights(setting.judged, order, counts, config or {})
        for count in counts:
            users = torch.nonzero(have >= count).flatten()
            if len(users):
                group, asked = setting.judged[users], order[users, :count]
                if repeat == 0:
                    judge("generic", count, users, arms.start("generic", group, asked))
                    judge("PAA+, chosen photos", count, users, arms.ours(group, arms.chosen(group, count)))
                judge("fine-tuned, default", count, users, arms.default(group, asked))
                judge(PREVAILING, count, users, arms.tuned("generic", group, asked))
                if setting.teachers is not None:
                    judge("fine-tuned, all data", count, users, arms.tuned("informed", group, asked))
                judge("selected expert", count, users, arms.start("expert", group, asked))
                judge("selected, fine-tuned", count, users, arms.tuned("expert", group, asked))
                judge(OURS, count, users, arms.ours(group, asked))
                judge("PAA+, nights", count, users, served[count][users])
            advance(1)
    return _rows(setting.judged.users, {key: table / times[key] for key, table in sums.items()})


def judgement(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """SRCC, PLCC and mean absolute error (U, D, 3) of scores (U, N, D), truth NaN where a photo does not judge."""
    found = np.full((*truth.shape[::2], 3), np.nan)
    for d in range(truth.shape[2]):
        said, true = scores[..., d], truth[..., d]
        found[:, d, 0], found[:, d, 1] = metrics.srcc(said, true), metrics.plcc(said, true)
        found[:, d, 2] = metrics.known_mean(np.abs(said - true), 1)
    return found


def _rows(users: list[str], tables: dict[tuple[str, int], np.ndarray]) -> pa.Table:
    columns: dict[str, list] = {name: [] for name in ("user", "arm", "count", "dimension", "srcc", "plcc", "mae")}
    for (arm, count), table in tables.items():
        for u, d in np.argwhere(~np.isnan(table).all(2)).tolist():
            values = [None if np.isnan(v) else float(v) for v in table[u, d]]
            for column, value in zip(columns.values(), (users[u], arm, count, DIMENSIONS[d], *values)):
                column.append(value)
    return pa.table(columns)
