"""Evidence is the density of new ratings given old ones, under the model and its rivals; whom it lets through, and why."""

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from model import gate, personal
from model.gate import CURRENT, NOISE, PRIOR

D, P = 3, 6
COV = np.diag([0.5, 0.6, 0.3, 0.3, 0.2, 0.2])
MEAN = np.array([5, 1.0, 0, 0, 0, 0])


def prior_of(noise: float = 1.44, scales: torch.Tensor | None = None, shares: torch.Tensor | None = None) -> personal.Prior:
    """One dimension is rated."""
    tensor = lambda value: torch.tensor(np.stack([value] * D))  # noqa: E731
    many = {} if scales is None else {"scales": scales.expand(D, -1), "shares": shares.expand(D, -1)}
    return personal.Prior(
        tensor(MEAN), tensor(COV), torch.full((D,), noise, dtype=torch.float64), torch.zeros(D, dtype=torch.float64),
        torch.tensor([100.0, 0, 0]), **many,
    )  # fmt: skip


def rated(rng, weights: np.ndarray, each: int, noise: bool = False):
    """Statistics of `each` ratings by users with these weights (U, P); phi (U, each, P) and y (U, each) as well."""
    users = len(weights)
    phi = rng.normal(size=(users * each, D, P))
    phi[..., 0] = 1
    user = np.repeat(np.arange(users), each)
    y = np.full((len(user), D), np.nan)
    y[:, 0] = (phi[:, 0] * weights[user]).sum(1) + rng.normal(0, 1.2, len(user))
    if noise:
        y[:, 0] = rng.permutation(y[:, 0])
    f, r = torch.tensor(phi), torch.tensor(y)
    return personal.sufficient(f, r, torch.tensor(user), users), f[:, 0].view(users, each, P), r[:, 0].view(users, each)


def a_night(users: int, new: int, real: float, seed: int, stored: int = 30):
    """Users with `stored` ratings and `new` ones of tonight; a share `real` of their taste has moved, or else the
    new ratings are pure noise. Returns evidence, ratings, and the true gain in correlation of the candidate."""
    rng = np.random.default_rng(seed)
    draw = lambda: MEAN + rng.normal(size=(users, P)) @ np.sqrt(COV)  # noqa: E731
    taste = draw()
    later = taste + real * (draw() - taste)
    prior = prior_of()
    start = prior.mean.expand(users, -1, -1)
    before = rated(rng, taste, stored)[0]
    current = personal.posterior(prior, start, before)
    earlier = gate.weigh(prior, start, start, personal.no_stats(users, D, P), before) * ~gate.SINCE_PROMOTION
    keep = 0.2 if real else 1.0
    old = before.decayed(torch.full_like(before.n, keep))
    fresh = rated(rng, later, new, noise=real == 0)[0]
    found = gate.weigh(prior, start, current.mean, old, fresh) + keep * earlier
    candidate = personal.posterior(prior, start, old + fresh)
    probe = rng.normal(size=(400, P))
    score = lambda w: probe @ w[:, 0].numpy().T  # noqa: E731
    truth = probe @ later.T

    def agreement(values):
        return np.array([np.corrcoef(values[:, u], truth[:, u])[0, 1] for u in range(users)])

    return found, (old + fresh).n, agreement(score(candidate.mean)) - agreement(score(current.mean))


@pytest.mark.parametrize("new", [5, 10, 25])
def test_pure_noise_is_promoted_no_more_than_stated(new):
    nights = [a_night(400, new, real=0.0, seed=seed) for seed in range(3)]
    shares = [gate.decide(found, ratings)[0][:, 0].double().mean().item() for found, ratings, _ in nights]
    assert 0 < np.mean(shares) <= 0.12


def test_users_who_tell_nothing_new_are_promoted_no_more_than_stated():
    """Their honest ratings are of exactly what is served."""
    rng = np.random.default_rng(3)
    prior, users = prior_of(), 1000
    start = prior.mean.expand(users, -1, -1)
    nothing = personal.no_stats(users, D, P)
    for each in (5, 20):
        fresh = rated(rng, np.tile(MEAN, (users, 1)), each)[0]
        found = gate.weigh(prior, start, start, nothing, fresh)
        assert gate.decide(found, fresh.n)[0][:, 0].double().mean() <= 0.2


def test_real_gains_are_promoted_and_worth_it():
    found, ratings, gain = a_night(300, 20, real=1.0, seed=1)
    promoted, reason = gate.decide(found, ratings)
    assert gain.mean() > 0.04
    assert promoted[:, 0].double().mean() > 0.6
    chosen = promoted[:, 0].numpy()
    assert gain[chosen].mean() > 0.04
    assert (reason[:, 1:] == gate.NO_NEWS).all() and not promoted[:, 1:].any()


@pytest.mark.parametrize("scales, shares", [([1.0], [1.0]), ([0.6, 1.0, 1.5], [0.2, 0.6, 0.2])])
def test_evidence_is_the_density_of_new_ratings_given_old_ones(scales, shares):
    """Against densities written out, of one scale and of a mixture of three."""
    rng = np.random.default_rng(2)
    prior = prior_of(1.3, *(torch.tensor(x, dtype=torch.float64) for x in (scales, shares)))
    old, f_old, y_old = rated(rng, MEAN[None], 4)
    new, f_new, y_new = rated(rng, MEAN[None], 3)
    f, y = torch.cat([f_old, f_new], 1)[0], torch.cat([y_old, y_new], 1)[0]
    start, served = prior.mean[None], prior.mean[None] + 0.3 * torch.tensor(rng.normal(size=(1, D, P)))
    level = torch.zeros(P, dtype=torch.float64)
    level[0] = MEAN[0]

    def density(n: int, about: torch.Tensor, cov: torch.Tensor, noise: float = 1.3):
        """Log density of the first n ratings, for every scale, given weights level + s·N(about, cov)."""
        each = []
        for s in scales:
            spread = s**2 * (f[:n] @ cov @ f[:n].T + noise * torch.eye(n, dtype=torch.float64))
            each.append(MultivariateNormal(f[:n] @ (level + s * about), spread).log_prob(y[:n]))
        return torch.stack(each)

    log_share = torch.tensor(shares, dtype=torch.float64).log()
    whole, only_level = torch.tensor(COV), torch.zeros(P, P, dtype=torch.float64)
    only_level[0, 0] = COV[0, 0]
    about = prior.mean[0] - level
    ours = [torch.logsumexp(log_share + density(n, about, whole), 0) for n in (4, 7)]
    belief = torch.log_softmax(log_share + density(4, about, whole), 0)
    thought = (belief.exp() * torch.tensor(scales)).sum()
    together = torch.cov(f[:, 1:].T, correction=0)
    wide = 1.3 + about[1:] @ together @ about[1:] + (together * whole[1:, 1:]).sum()
    wide = float(wide)
    rivals = {
        CURRENT: (belief, (served[0, 0] - level) / thought, 1.3),
        PRIOR: (belief, about, 1.3),
        NOISE: (torch.log_softmax(log_share + density(4, 0 * about, only_level, wide), 0), 0 * about, wide),
    }
    found = gate.weigh(prior, start, served, old, new)
    for rival, (known, weights, noise) in rivals.items():
        late, early = (density(n, weights, only_level, noise) for n in (7, 4))
        theirs = torch.logsumexp(known + late - early, 0)
        assert found[0, 0, rival].item() == pytest.approx((ours[1] - ours[0] - theirs).item()), rival
    assert not found[0, 1:].any()


def test_nights_add_up_and_a_night_without_ratings_says_nothing():
    rng = np.random.default_rng(5)
    prior, nothing = prior_of(), personal.no_stats(3, D, P)
    taste = MEAN + rng.normal(size=(3, P)) @ np.sqrt(COV)
    start = prior.mean.expand(3, -1, -1)
    parts = [rated(rng, taste, each)[0] for each in (1, 2, 6)]
    one_night = gate.weigh(prior, start, start, nothing, parts[0] + parts[1] + parts[2])
    old, added = nothing, gate.no_evidence(3, D)
    for part in parts:
        added, old = added + gate.weigh(prior, start, start, old, part), old + part
    torch.testing.assert_close(added[..., :NOISE], one_night[..., :NOISE])
    assert not gate.weigh(prior, start, start, old, nothing).any()


def test_a_level_or_a_spread_of_ones_own_is_no_evidence():
    """Users who score like the prior, but two points higher or twice as widely, tell it from nothing but noise."""
    rng = np.random.default_rng(6)
    scales = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    prior, users = prior_of(1.44, scales, torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)), 400
    start, nothing = prior.mean.expand(users, -1, -1), personal.no_stats(users, D, P)
    for level, wide in ((7, 1), (5, 2)):
        _, phi, y = rated(rng, np.tile(MEAN, (users, 1)), 25)
        y = level + wide * (y - MEAN[0])
        flat = phi.reshape(-1, 1, P).expand(-1, D, -1), y.reshape(-1, 1).expand(-1, D)
        stats = personal.sufficient(*flat, torch.arange(users).repeat_interleave(25), users)
        found = gate.weigh(prior, start, start, nothing, stats)
        assert (found[:, 0, PRIOR] > gate.MARGIN).double().mean() < 0.2
        assert (found[:, 0, NOISE] > 0).double().mean() > 0.8


def evidence(current: float, prior: float, noise: float) -> torch.Tensor:
    return torch.tensor([[[current, prior, noise]]], dtype=torch.float64)


def test_reasons_name_what_failed():
    twenty = torch.full((1, 1), 20.0)
    say = lambda *three, **how: gate.REASONS[gate.decide(evidence(*three), twenty, **how)[1].item()]  # noqa: E731
    assert say(3, 3, 3) == say(0.2, 0.2, 0.5) == "promoted"
    assert say(-3, 3, 3) == say(0.0, 3, 3) == "not above current entry"
    assert say(3, -3, 3) == "not above prior"
    assert say(3, 3, 0.3) == say(3, 3, 300, confidence=1.0) == "not told from noise"
    assert say(3, 3, 1.3, confidence=0.8) == "not told from noise" and say(3, 3, 1.5, confidence=0.8) == "promoted"
    assert say(3, 3, 3, min_ratings=30) == "too few ratings"
    assert say(3, 3, 3, news=torch.zeros(1, 1, dtype=torch.bool)) == "no news"
