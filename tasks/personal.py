"""Fine-tuning and a night of continual learning, on tables already read: plain functions that need no Ray.

`finetune` makes the first bank (selection, prior over users, entries, gate), `night` the next one from new ratings.
Both take a `Team`: alone they run in one process, inside Ray Train (`tasks.train_personal`) users are split over
the ranks, sums are all-reduced and rank 0 gets the bank. Results do not depend on the number of ranks beyond
rounding.

    .venv/bin/python -m pytest tests/tasks/test_personal_stages.py
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from model import gate, personal, unseen
from model.bank import Bank, joined, start_bank
from model.bank_opened import OpenBank
from model.basis import fit_basis
from model.choices import Choices, Sites, no_choices, observed, usable, weigh
from model.scores import DIMENSIONS
from model.selection import fit_selection
from tasks.ratings import Photos, Ratings, user_split

SELECTION_USERS = 2000
"""Survey answers of more users than this teach selection nothing new."""
BLOCK = 512
"""Users of a night that are in memory at a time."""


@dataclass
class Team:
    """The workers of a job.

    `total` adds a tensor over all, `gather` collects objects on rank 0 (None elsewhere), `share` gives rank 0's to all.
    """

    rank: int = 0
    world: int = 1
    total: Callable[[Tensor], Tensor] = lambda tensor: tensor
    gather: Callable[[Any], list | None] = lambda value: [value]
    share: Callable[[Any], Any] = lambda value: value


def finetune(
    photos: Photos,
    users: list[str],
    surveys: list[dict],
    expert_ids: list[str],
    expert_surveys: list[dict],
    ratings: Ratings,
    config: dict[str, Any],
    team: Team | None = None,
    resume: tuple[int, personal.Prior] | None = None,
    report: Callable[[int, personal.Prior, float], None] = lambda *_: None,
) -> Bank | None:
    """The first bank, on rank 0 (None elsewhere).

    ratings: of all splits; only those on fitting photos are used. report is called on every rank after the
    iterations where a checkpoint is due and after the last, with (iteration, prior, log evidence).
    """
    team = team or Team()
    use = photos.fitting()
    basis = fit_basis(
        photos.models,
        photos.predictions[use],
        None if photos.fused is None else photos.fused[use],
        axes=config.get("axes", 32),
        fused_axes=config.get("fused_axes", 8),
    )
    phi = basis.phi(photos.predictions, photos.fused)
    ratings = ratings[use[ratings.photo]]
    share = config.get("prior_share", 0.6)
    judged = torch.tensor([user_split(user, share) == "judged" for user in users], dtype=torch.bool)
    teachers = torch.nonzero(~judged).flatten()
    if len(teachers) == 0:
        raise ValueError(f"no user to fit the prior on: {len(users)} users, prior_share {share}")

    def stats_of(rows: Tensor, part: Ratings) -> personal.Stats:
        place = torch.full((len(users),), -1, dtype=torch.long)
        place[rows] = torch.arange(len(rows))
        part = part[place[part.user] >= 0]
        return personal.sufficient(phi[part.photo], part.y, place[part.user], len(rows))

    # Selection, the same on every rank.
    few = teachers[:SELECTION_USERS]
    odd = torch.arange(len(ratings)) % 2 == 1
    by_name = dict(zip(expert_ids, expert_surveys))
    selection = fit_selection(
        [surveys[i] for i in few],
        stats_of(few, ratings),
        basis.expert_weights(),
        expert_answers=[by_name.get(name, {}) for name in basis.experts],
        half=(stats_of(few, ratings[odd]), stats_of(few, ratings[~odd])),
    )

    # Prior over users: EM on this rank's teachers, sums added over the ranks.
    held = photos.held()
    mine = teachers[team.rank :: team.world]
    stats = stats_of(mine, ratings)
    shift = selection.shift([surveys[i] for i in mine])
    if resume is None:
        own = stats.total()
        whole = [team.total(part) for part in (own.A, own.b, own.yy, own.n)]
        counted = team.total((stats.n > 0).sum(0).to(torch.float64))
        common = _population_mean(phi, ratings, mine, users, basis.generic_weights(), held, team)
        first, prior = 0, personal.start_prior(personal.Stats(*whole), counted, common)
    else:
        first, prior = resume
    # Users who rated the same few photos tell less about other photos than their number promises: with N photos
    # the P features are known no better than from N/P independent looks, so caution grows with users·P/N.
    looks = int(torch.unique(ratings.photo).numel())
    caution = config.get("caution", 10.0) + len(teachers) * basis.size / max(1, looks)
    last, every = config.get("iterations", 30), config.get("checkpoint_every", 5)
    before, done, now = -torch.inf, first, float("nan")
    for iteration in range(first + 1, last + 1):
        sums = personal.em_sums(prior, stats, shift)
        sums = sums.filled(team.total(sums.flat()))
        prior = personal.maximise(prior, sums, caution=caution, hold=config.get("hold", 0.5), fixed=True)
        done, now = iteration, float(sums.loglik.sum())
        # Convergence is looked at within a block of iterations, so that a resumed run stops where this one would.
        if iteration % every == 0 or iteration == last:
            report(iteration, prior, now)
            if abs(now - before) < 1e-6 * abs(now):
                break
        before = now

    prior = _believed(prior, phi, ratings, held, mine, len(users), prior.of(shift), team)

    # Entries of all users, split over ranks.
    rows = list(range(team.rank, len(users), team.world))
    part = start_bank(basis, prior, selection, [users[i] for i in rows], [surveys[i] for i in rows], judged[rows])
    own = _of_users(ratings, rows, len(users))
    f = phi[own.photo]
    part.stats = personal.sufficient(f, own.y, own.user, len(rows))
    part.ratings = part.stats.n.round().to(torch.long)
    part.expert, part.expert_probability = selection.choose(part.surveys, part.stats)
    found = personal.posterior(prior, part.prior_mean, part.stats)
    nothing = personal.no_stats(len(rows), len(DIMENSIONS), basis.size)
    part.evidence = gate.weigh(prior, part.prior_mean, part.weights, nothing, part.stats)
    parts = team.gather((rows, part, found))
    if parts is None:
        return None
    order = torch.argsort(torch.tensor([row for piece in parts for row in piece[0]], dtype=torch.long))
    bank = joined([piece[1] for piece in parts]).take(order.tolist())
    found = personal.stacked([piece[2] for piece in parts], order)
    promoted, bank.reason = gate.decide(bank.evidence, bank.stats.n, **gate_settings(config))
    bank.promote(promoted, found)
    bank.about = {"stage": "finetune", "em_iterations": done, "log_evidence": now}
    return bank


def _population_mean(
    phi: Tensor, ratings: Ratings, mine: Tensor, users: list[str], base: Tensor, held: Tensor, team: Team
) -> Tensor:
    """`unseen.population_mean` of the users `mine` of all ranks."""
    own = _of_users(ratings, mine.tolist(), len(users))
    known = ~own.y.isnan()
    y = torch.where(known, own.y, 0.0)
    per_user = torch.zeros(len(mine), y.shape[1], dtype=torch.float64)
    level = per_user.clone().index_add_(0, own.user, y)
    count = per_user.index_add_(0, own.user, known.to(torch.float64))
    level = level / count.clamp_min(1)
    there = (count > 0).to(torch.float64)
    sums = team.total(torch.stack([(level * there).sum(0), there.sum(0)]))
    grand = sums[0] / sums[1].clamp_min(1)
    per_photo = torch.zeros(2, len(phi), y.shape[1], dtype=torch.float64)
    per_photo[0].index_add_(0, own.photo, torch.where(known, y - level[own.user], 0.0))
    per_photo[1].index_add_(0, own.photo, known.to(torch.float64))
    total, raters = team.total(per_photo)
    target = torch.where(raters > 0, total / raters.clamp_min(1) + grand, torch.nan)
    return unseen.population_mean(phi, target, raters, base, held)


def _believed(
    prior: personal.Prior, phi: Tensor, ratings: Ratings, held: Tensor, mine: Tensor, users: int, own: Tensor, team: Team
) -> personal.Prior:
    """What of a prior holds on photos that no model was fitted on, by the ratings of the users `mine` of all ranks.

    own (U, D, P): prior means of these users. With few such photos the prior stays as it is.
    """
    told = _of_users(ratings, mine.tolist(), users)
    if int(held[torch.unique(ratings.photo)].sum()) < unseen.ENOUGH:
        return prior
    seen, rest = told[~held[told.photo]], told[held[told.photo]]
    stats = personal.sufficient(phi[seen.photo], seen.y, seen.user, len(mine))
    sums = team.total(unseen.gains(prior, own, stats, phi[rest.photo], rest.y, rest.user))
    return unseen.narrowed(prior, unseen.believed(sums))


def _of_users(ratings: Ratings, rows: list[int], users: int) -> Ratings:
    """Ratings of the users at `rows`, renumbered 0.. in that order."""
    place = torch.full((users,), -1, dtype=torch.long)
    place[rows] = torch.arange(len(rows))
    kept = ratings[place[ratings.user] >= 0]
    kept.user = place[kept.user]
    return kept


@dataclass
class Night:
    """What a night did to the users it touched, rows in order of `users`; (U, D) but forget (U,), evidence (U, D, 3)."""

    users: list[str]
    known: list[bool]
    new_ratings: Tensor
    forget: Tensor
    promoted: Tensor
    reason: Tensor
    evidence: Tensor


def night(
    bank: Bank | OpenBank,
    photos: Photos,
    users: list[str],
    ratings: Ratings,
    config: dict[str, Any],
    *,
    choices: Choices | None = None,
    surveys: dict[str, dict] | None = None,
    team: Team | None = None,
) -> tuple[Bank | OpenBank, Night] | None:
    """The next bank, of the kind that came in, and what happened, on rank 0 (None elsewhere).

    Only users with news are touched, BLOCK at a time: with an `OpenBank` memory does not grow with users beyond a few
    numbers each. users: those with feedback; ratings.user and choices.user index them, photo indexes `photos`. Users that
    the bank does not know start from the prior. Ratings and choices on test photos are left out.
    """
    team = team or Team()
    phi, fitting = bank.basis.phi(photos.predictions, photos.fused), photos.fitting()
    ratings, choices = ratings[fitting[ratings.photo]], no_choices() if choices is None else choices
    others = torch.where(choices.other < 0, choices.photo, choices.other)
    choices = choices[fitting[choices.photo] & fitting[others] & usable(choices, phi, bank.prior)]
    busy = torch.unique(torch.cat([ratings.user, choices.user]))
    users = [users[i] for i in busy.tolist()]
    ratings, choices = (
        replace(told, user=torch.searchsorted(busy, told.user))[torch.argsort(told.user, stable=True)]
        for told in (ratings, choices)
    )
    known = (bank.index(users) >= 0).tolist()
    news = _News(bank, phi, users, known, ratings, choices, surveys or {})
    # Every rank has as many blocks as the others, for they meet after each; ranks' blocks one after the other are in order.
    slabs = torch.arange(len(users)).split(BLOCK * team.world)
    blocks = [slab.tensor_split(team.world)[team.rank] for slab in slabs]

    grid = tuple(config.get("forget", (1.0, 0.5, 0.25, 0.1)))
    foretold = [_foretold(*news.entries(block)[:2], grid) for block in blocks]
    weight = _forgetting(torch.cat(foretold), grid, team).split([len(block) for block in blocks])

    table = torch.zeros(len(users), len(DIMENSIONS), 6, dtype=torch.float64)
    for block, kept in zip(blocks, weight):
        part, new, rated, sites = news.entries(block)
        old = part.stats.decayed(kept[:, None].expand_as(new.n))
        told = gate.weigh(part.prior, part.prior_mean, part.weights, old, rated)
        if sites is not None:
            found = personal.posterior(part.prior, part.prior_mean, old + new)
            told = told + weigh(*sites, found, [part.weights, part.prior_mean])
        # What earlier nights found counts as much as the ratings they rest on still do.
        told = told + kept[:, None, None] * part.evidence
        columns = new.n, part.ratings + new.n, kept[:, None].expand_as(new.n)
        table[block] = torch.cat([told, torch.stack(columns, -1)], -1)
    table = team.total(table)
    evidence, (count, whole, kept) = table[..., :3], table[..., 3:].unbind(-1)
    promoted, reason = gate.decide(evidence, whole, news=count > 0, **gate_settings(config))

    def decided() -> Iterator[Bank]:
        for block, old in zip(blocks, weight):
            part, new, *_ = news.entries(block)
            found = _update(part, new, old)
            part.expert, part.expert_probability = bank.selection.choose(part.surveys, part.stats)
            part.reason, part.evidence = reason[block], evidence[block]
            part.promote(promoted[block], found)
            yield from team.gather(part) or ()

    if team.rank != 0:
        for _ in decided():
            pass
        return None
    after = bank.updated(decided(), round=bank.round + 1, about={"stage": "continual"})
    return after, Night(users, known, count, kept[:, 0], promoted, reason, evidence)


def gate_settings(config: dict[str, Any]) -> dict[str, Any]:
    """What a config says to `gate.decide`."""
    return {name: config[name] for name in ("confidence", "min_ratings") if name in config}


@dataclass
class _News:
    """The users of a night and their new ratings, in order of user; phi (photos, D, P)."""

    bank: Bank | OpenBank
    phi: Tensor
    users: list[str]
    known: list[bool]
    ratings: Ratings
    choices: Choices
    surveys: dict[str, dict]

    def entries(
        self, rows: Tensor
    ) -> tuple[Bank, personal.Stats, personal.Stats, tuple[Choices, Sites] | None]:
        """Entries of the users at `rows`; as statistics what is new, and the ratings of it alone; the choices."""
        names = [(self.users[i], self.known[i]) for i in rows.tolist()]
        there = self.bank.part([user for user, known in names if known])
        fresh = [user for user, known in names if not known]
        part = joined([there, self.bank.starting(fresh, [self.surveys.get(user, {}) for user in fresh])])
        if fresh:
            part = part.take(part.index([user for user, _ in names]).tolist())
        at, user = _rows_of(self.ratings.user, rows)
        own = self.ratings[at]
        rated = personal.sufficient(self.phi[own.photo], own.y, user, len(rows))
        if not len(self.choices):
            return part, rated, rated, None
        at, place = _rows_of(self.choices.user, rows)
        chosen = replace(self.choices[at], user=place)
        sites = observed(part.prior, part.prior_mean, part.stats + rated, chosen, self.phi)
        return part, rated + sites.stats(chosen, *part.prior_mean.shape[:2]), rated, (chosen, sites)


def _rows_of(user: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Where the sorted `user` is one of `rows`, and which (place in `rows`)."""
    first = torch.searchsorted(user, rows)
    count = torch.searchsorted(user, rows, right=True) - first
    place = torch.repeat_interleave(torch.arange(len(rows)), count)
    return torch.arange(len(place)) + (first - (count.cumsum(0) - count))[place], place


def _update(part: Bank, new: personal.Stats, weight: Tensor) -> personal.Posterior:
    """Put new ratings into the entries, older ones counting `weight` (U,); what they say now."""
    part.stats = part.stats.decayed(weight[:, None].expand_as(new.n)) + new
    part.ratings = part.ratings + new.n.round().to(torch.long)
    return personal.posterior(part.prior, part.prior_mean, part.stats)


def _foretold(part: Bank, new: personal.Stats, grid: tuple[float, ...]) -> Tensor:
    """Log probability of the new ratings (U, G), had the older ones counted as each weight of the grid says."""
    scores = []
    for weight in grid:
        old = part.stats.decayed(torch.full_like(new.n, weight))
        with_new, without = (personal.evidence(part.prior, part.prior_mean, stats) for stats in (old + new, old))
        scores.append((with_new - without).sum(1))
    return torch.stack(scores, 1)


def _forgetting(loglik: Tensor, grid: tuple[float, ...], team: Team) -> Tensor:
    """Weight of each user's older ratings (U,), by how well so discounted they foretell the new ones: `_foretold`.

    Empirical Bayes over the users of the night, all ranks': shares of the grid by EM, then the most probable weight.
    """
    # Start from "nobody drifts" being as likely as all else together, one pseudo-user's worth of it is kept.
    start = torch.full((len(grid),), 0.5 / max(1, len(grid) - 1), dtype=torch.float64)
    start[0] = 0.5 if len(grid) > 1 else 1.0
    share = start
    for _ in range(50):
        sums = torch.softmax(loglik + share.log(), 1).sum(0)
        sums = team.total(torch.cat([sums, torch.tensor([len(loglik)], dtype=torch.float64)]))
        share = (sums[:-1] + start) / (sums[-1] + 1)
    best = torch.softmax(loglik + share.log(), 1).argmax(1)
    return torch.tensor(grid, dtype=torch.float64)[best]
