"""Low-rank models of users with different experts, and what the gate may believe of them.

A candidate has no closed form, so its evidence is cross-fitted: a user's ratings are dealt into `FOLDS` folds, for every
two of them a model is trained on the rest, and a pair of ratings is put in order by the model that has seen neither. The
ten models of a user are ten more users of the same batched job. Pairs, because a model that has seen one of two ratings
has its level moved by it, and its order looks worse than it is (`model.gate`).

    uv run pytest tests/model/test_lora_users.py
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from model import gate
from model.gate import Evidence
from model.lora import Base, Given, Layout, LoraSettings, Streams, scores, train

FOLDS = 5
LEFT_OUT = list(combinations(range(FOLDS), 2))
"""The two folds that each of a user's cross-fitted models has not seen."""


@dataclass
class Experts:
    """E experts of one size of network: their layers, and their streams of the same photos."""

    bases: list[Base]
    said: list[Streams]

    def layout(self, rank: int) -> Layout:
        return Layout.of(self.bases[0], rank)

    def train(
        self, expert: Tensor, given: Given, settings: LoraSettings, before: Tensor | None = None, **how
    ) -> Tensor:
        """Rows (U, D, size) of users whose experts are `expert` (U,); the rest as of `model.lora.train`."""
        rows = self.layout(settings.rank).start(len(expert)) if before is None else before.clone()
        for e in expert.unique().tolist():
            users = torch.nonzero(expert == e).flatten()
            own = None if before is None else before[users]
            rows[users] = train(self.bases[e], self.said[e], given[users], settings, own, **how)
        return rows

    @torch.no_grad()
    def scores(self, expert: Tensor, rows: Tensor, photo: Tensor, rank: int, chunk: int = 64) -> Tensor:
        """Scores (U, R, D) of the photos at `photo` (U, R)."""
        found = torch.zeros(*photo.shape, rows.shape[1])
        for e in expert.unique().tolist():
            for users in torch.nonzero(expert == e).flatten().split(chunk):
                views = (each[photo[users]] for each in self.said[e])
                found[users] = scores(self.bases[e], self.layout(rank), rows[users], *views)
        return found


def folds(given: Given, judged: Tensor) -> Tensor:
    """Fold of each rating (U, R): dealt out in order to those that `judged` (U, R) says, -1 elsewhere."""
    return torch.where(judged, (judged.long().cumsum(1) - 1) % FOLDS, -1)


def without(given: Given, fold: Tensor, left_out: tuple[int, int]) -> Given:
    """The ratings of all folds but two."""
    gone = (fold == left_out[0]) | (fold == left_out[1])
    return Given(given.photo, torch.where(gone[..., None], torch.nan, given.y), given.weight)


def cross_fitted(
    experts: Experts,
    expert: Tensor,
    given: Given,
    fold: Tensor,
    settings: LoraSettings,
    before: Tensor | None = None,
    **how,
) -> Tensor:
    """(P, U, R, D) scores of the ratings' photos by models that have not seen the folds `LEFT_OUT[p]`.

    expert (P, U): each model's, selected without those folds; all else as of `Experts.train`.
    """
    many, users = len(LEFT_OUT), len(given.y)
    parts = [without(given, fold, pair) for pair in LEFT_OUT]
    photo = given.photo.repeat(many, 1)
    all_of = Given(photo, torch.cat([part.y for part in parts]), given.weight.repeat(many, 1))
    start = None if before is None else before.repeat(many, 1, 1)
    rows = experts.train(expert.flatten(), all_of, settings, start, **how)
    return experts.scores(expert.flatten(), rows, photo, settings.rank).unflatten(0, (many, users))


def evidence(found: Tensor, fold: Tensor, y: Tensor, rivals: list[Tensor], chunk: int = 64) -> list[Evidence]:
    """Evidence for the candidates against each rival, on the ratings that have a fold.

    found: of `cross_fitted`; y (U, R, D) ratings; rivals: scores (U, R, D) by models that have not seen these ratings.
    """
    users, _, dimensions = y.shape
    results = [gate.no_evidence(users, dimensions) for _ in rivals]
    for part in torch.arange(users).split(chunk):
        f = fold[part]
        for d in range(dimensions):
            known = (f >= 0) & ~y[part, :, d].isnan()
            r = torch.where(known, y[part, :, d], 0.0).double()
            difference = torch.zeros(len(part), f.shape[1], f.shape[1])
            for (a, b), said in zip(LEFT_OUT, found[:, part, :, d]):
                one, two = (f == a).float(), (f == b).float()
                across = one[:, :, None] * two[:, None, :] + two[:, :, None] * one[:, None, :]
                # Of two ratings in one fold, every model speaks that has not seen it.
                within = one[:, :, None] * one[:, None, :] + two[:, :, None] * two[:, None, :]
                difference += (across + within / (FOLDS - 1)) * (said[:, :, None] - said[:, None, :])
            count = known.sum(1)
            for result, rival in zip(results, rivals):
                other = rival[part, :, d]
                gain, variance = gate.of_pairs(difference.double(), other[:, :, None] - other[:, None, :], r, known)
                result.ratings[part, d] = count.double()
                result.gain[part, d] = torch.where(count >= 3, gain, 0.0)
                result.variance[part, d] = torch.where(count >= 3, variance, torch.inf)
    return results
