"""Measuring the models of all stages: pure functions on arrays, called by the flow `evaluate`.

Every figure is a mean over users (metrics are per user, over the photos that this user rated) with a bootstrap
interval over users; comparisons are paired by user. Only ratings of test photos are counted here, and only those
who are judged: users that the prior over users has never seen. A dimension that nobody rated has no row.

    .venv/bin/python -m pytest tests/tasks/test_personal_stages.py
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from model import metrics, personal
from model.bank import Bank
from model.basis import GENERIC
from model.scores import DIMENSIONS
from tasks.ratings import Photos, Ratings

Row = dict[str, Any]
Own = Callable[[list[str]], np.ndarray]
"""User ids → scores (U, N, D) of all photos by entries that are served over the bank's (method `lora`), NaN elsewhere."""


def wide(ratings: Ratings, users: int, photos: int) -> np.ndarray:
    """Ratings as (users, photos, D) float64 with NaN = not rated."""
    table = np.full((users, photos, len(DIMENSIONS)), np.nan)
    table[ratings.user.numpy(), ratings.photo.numpy()] = ratings.y.numpy()
    return table


AGAINST = {
    ("pretrain", "expert"): "generic",
    ("finetune", "selected expert"): "generic",
    ("finetune", "prior"): "selected expert",
    ("finetune", "personal"): "selected expert",
}
"""(stage, model) → the model of the same stage that its gain is measured against."""
MEAN = "mean"
"""The dimension of rows that average a user's figures over the dimensions they rated."""


def with_mean(values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """(D, U) → (dimension, (U,)) of each dimension that somebody rated, and their mean where there are several."""
    rated = [d for d in range(len(values)) if not np.isnan(values[d]).all()]
    named = [(DIMENSIONS[d], values[d]) for d in rated]
    if len(rated) > 1:
        some = ~np.isnan(values[rated]).all(0)
        mean = np.full(values.shape[1], np.nan)
        mean[some] = np.nanmean(values[rated][:, some], 0)
        named.append((MEAN, mean))
    return named


def rows_of(predicted: dict[str, np.ndarray], rated: np.ndarray, seed: int, stage: str) -> list[Row]:
    """One row per model, dimension and metric: stage, model, dimension, metric, mean, lo, hi, users.

    predicted: model → (U, N, D) or (N, D); rated (U, N, D). The metric `gain` is the SRCC minus that of the model
    in AGAINST (column `against`), paired by user. Dimensions without a single user's value are left out.
    """
    result: list[Row] = []
    scores: dict[str, np.ndarray] = {}
    for model, said in predicted.items():
        per_dimension = [metrics.per_rater(said[..., d], rated[..., d]) for d in range(len(DIMENSIONS))]
        found = {name: np.stack([each[name] for each in per_dimension]) for name in metrics.METRICS}
        scores[model] = found["srcc"]
        against = AGAINST.get((stage, model))
        if against in scores:
            found["gain"] = scores[model] - scores[against]
        for name, values in found.items():
            for dimension, users in with_mean(values):
                mean, lo, hi = metrics.interval(users, seed)
                row = {"stage": stage, "model": model, "dimension": dimension, "metric": name}
                row |= {"mean": mean, "lo": lo, "hi": hi, "users": int((~np.isnan(users)).sum())}
                result.append(row | ({"against": against} if name == "gain" else {}))
    return result


def stage_table(
    bank: Bank,
    photos: Photos,
    ratings: Ratings,
    *,
    seed: int = 0,
    expert_ratings: Ratings | None = None,
    over: Own | None = None,
) -> list[Row]:
    """Rows of stage x model x dimension x metric; see `rows_of` for the columns, plus stage and model.

    ratings: user indexes `bank.users`, photo indexes `photos` (any splits; only test photos of judged users are
    used). expert_ratings: user indexes `bank.basis.experts`; with it the stage `pretrain` says how each expert
    model, and the generic model, agree with the experts' own labels on test photos. over: what is served over the bank.
    """
    test = ~photos.fitting()
    scores = photos.predictions.numpy()
    named = {name: i for i, name in enumerate(photos.models)}
    result: list[Row] = []
    if expert_ratings is not None:
        own = expert_ratings[test[expert_ratings.photo]]
        rated = wide(own, len(bank.basis.experts), len(photos.ids))
        expert = np.stack([scores[:, named[name]] for name in bank.basis.experts])
        said = {GENERIC: scores[:, named[GENERIC]]} if GENERIC in named else {}
        result += rows_of(said | {"expert": expert}, rated, seed, "pretrain")
    judged = bank.judged[ratings.user] & test[ratings.photo]
    rated, users = _compact(ratings[judged], len(photos.ids))
    if len(users) == 0:
        return result
    said = predictions_of(bank, photos, users)
    said["personal"] = _over(over, [bank.users[i] for i in users.tolist()], said["personal"])
    return result + rows_of(said, rated, seed, "finetune")


def predictions_of(bank: Bank, photos: Photos, users: torch.Tensor) -> dict[str, np.ndarray]:
    """What each model says of every photo, for these rows of the bank: model → (U, N, D).

    `generic` (if there is one), `selected expert` (no personal part at all), `prior` (before any rating of the
    user: survey only), `personal` (as served).
    """
    scores = photos.predictions.numpy()
    result = {}
    if GENERIC in photos.models:
        result[GENERIC] = np.broadcast_to(
            scores[:, photos.models.index(GENERIC)], (len(users), len(scores), len(DIMENSIONS))
        )
    column = torch.tensor([photos.models.index(name) for name in bank.basis.experts])
    chosen = column[bank.expert[users]].numpy()
    result["selected expert"] = scores[:, chosen].transpose(1, 0, 2)
    phi = bank.basis.phi(photos.predictions, photos.fused)
    result["prior"] = _score(bank, phi, bank.prior_mean[users])
    result["personal"] = _score(bank, phi, bank.weights[users])
    return result


def _score(bank: Bank, phi: torch.Tensor, weights: torch.Tensor) -> np.ndarray:
    scores = torch.einsum("ndp,udp->und", phi, weights)
    return torch.where(bank.prior.users == 0, torch.nan, scores).numpy()


def _over(own: Own | None, users: list[str], said: np.ndarray) -> np.ndarray:
    """What is served: `own` where it has anything to say, else `said` (U, N, D)."""
    if own is None:
        return said
    over = own(users)
    return np.where(np.isnan(over), said, over)


def _compact(ratings: Ratings, photos: int) -> tuple[np.ndarray, torch.Tensor]:
    """Ratings of the users that have any, (U, N, D), and these users' indices."""
    users, place = torch.unique(ratings.user, return_inverse=True)
    return wide(Ratings(place, ratings.photo, ratings.y, ratings.at), len(users), photos), users


def learning_curve(
    bank: Bank,
    photos: Photos,
    ratings: Ratings,
    *,
    counts: tuple[int, ...] = (0, 5, 10, 25, 50),
    repeats: int = 3,
    seed: int = 0,
) -> list[Row]:
    """How much `count` ratings of a judged user are worth: SRCC on test photos and its paired gains.

    For each repeat a random `count` of the user's rated fitting photos is given (users with fewer are left out at
    that count), the expert is selected and the posterior taken from these alone; no gate. A user's value is the
    mean over repeats. Rows: count, dimension, model (`generic`, `selected expert`, `personal`) with srcc mean, lo,
    hi; and `gain over generic`, `gain over selected expert`, paired by user; users.
    """
    fitting = photos.fitting()
    mine = bank.judged[ratings.user]
    rated, users = _compact(ratings[mine & ~fitting[ratings.photo]], len(photos.ids))
    given = ratings[mine & fitting[ratings.photo]]
    place = torch.full((len(bank.users),), -1, dtype=torch.long)
    place[users] = torch.arange(len(users))
    given = given[place[given.user] >= 0]
    who = place[given.user]
    if len(users) == 0:
        return []
    phi = bank.basis.phi(photos.predictions, photos.fused)
    scores = photos.predictions.numpy()
    column = torch.tensor([photos.models.index(name) for name in bank.basis.experts])
    surveys = [bank.surveys[i] for i in users.tolist()]
    own_prior = bank.prior_mean[users]
    have = torch.bincount(who, minlength=len(users)).numpy()
    rng = np.random.default_rng(seed)
    result: list[Row] = []
    for count in counts:
        values: dict[str, list[np.ndarray]] = {"generic": [], "selected expert": [], "personal": []}
        for _ in range(repeats if count else 1):
            # The first `count` of each user's ratings in a random order.
            shuffled = torch.from_numpy(rng.permutation(len(given)))
            by_user = shuffled[torch.argsort(who[shuffled], stable=True)]
            first = np.arange(len(given)) - np.repeat(np.cumsum(have) - have, have)
            pick = by_user[torch.from_numpy(first < count)]
            stats = personal.sufficient(phi[given.photo[pick]], given.y[pick], who[pick], len(users))
            expert, _ = bank.selection.choose(surveys, stats)
            weights, *_ = personal.posterior(bank.prior, own_prior, stats)
            chosen = scores[:, column[expert].numpy()].transpose(1, 0, 2)
            values["personal"].append(_srcc(_score(bank, phi, weights), rated))
            values["selected expert"].append(_srcc(chosen, rated))
            if GENERIC in photos.models:
                values["generic"].append(_srcc(scores[:, photos.models.index(GENERIC)], rated))
        means = {name: np.mean(v, 0) for name, v in values.items() if v}
        enough = have >= count
        series = {name: np.where(enough, v, np.nan) for name, v in means.items()}
        for rival in ("generic", "selected expert"):
            if rival in series:
                series[f"gain over {rival}"] = series["personal"] - series[rival]
        for name, values in series.items():
            for dimension, v in with_mean(values):
                mean, lo, hi = metrics.interval(v, seed)
                row = {"count": count, "dimension": dimension, "model": name}
                result.append(row | {"mean": mean, "lo": lo, "hi": hi, "users": int((~np.isnan(v)).sum())})
    return result


def _srcc(predicted: np.ndarray, rated: np.ndarray) -> np.ndarray:
    """(D, U)."""
    return np.stack([metrics.srcc(predicted[..., d], rated[..., d]) for d in range(len(DIMENSIONS))])


def night_table(
    before: Bank,
    after: Bank,
    photos: Photos,
    ratings: Ratings,
    users: list[str],
    *,
    drifted: dict[str, bool] | None = None,
    seed: int = 0,
    over: tuple[Own | None, Own | None] = (None, None),
) -> list[Row]:
    """What a night changed: the bank before and after it on test-photo ratings given since (by the feedback).

    ratings: user indexes `users`, photo indexes `photos`, those of the feedback; only test photos are used.
    drifted: user → truth where it is known; with it the groups `drifted` and `undrifted` have rows beside `all`.
    Rows: group, dimension, metric, before, after, and the paired change mean, lo, hi; users. A user that the bank
    before did not know is answered by its prior. over: what is served over the bank before and the one after.
    """
    ratings = ratings[~photos.fitting()[ratings.photo]]
    rated, busy = _compact(ratings, len(photos.ids))
    names = [users[i] for i in busy.tolist()]
    if not names:
        return []
    phi = before.basis.phi(photos.predictions, photos.fused)
    scores = []
    for bank, own in zip((before, after), over):
        row = bank.index(names)
        weights = torch.where((row >= 0)[:, None, None], bank.weights[row.clamp_min(0)], bank.prior.mean)
        scores.append(_over(own, names, _score(bank, phi, weights)))
    groups = {"all": np.ones(len(names), bool)}
    if drifted is not None:
        truth = [drifted.get(name) for name in names]
        groups["drifted"] = np.array([t is True for t in truth])
        groups["undrifted"] = np.array([t is False for t in truth])
    result: list[Row] = []
    for metric in metrics.METRICS:
        then, now = (
            np.stack([metrics.per_rater(said[..., d], rated[..., d])[metric] for d in range(len(DIMENSIONS))])
            for said in scores
        )
        for (dimension, was), (_, became) in zip(with_mean(then), with_mean(now)):
            for group, members in groups.items():
                both = members & ~np.isnan(was) & ~np.isnan(became)
                if not both.any():
                    continue
                mean, lo, hi = metrics.interval((became - was)[both], seed)
                row = {"group": group, "dimension": dimension, "metric": metric, "users": int(both.sum())}
                row |= {"before": float(was[both].mean()), "after": float(became[both].mean())}
                result.append(row | {"mean": mean, "lo": lo, "hi": hi})
    return result
