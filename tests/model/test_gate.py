import numpy as np
import pytest
import torch

from model import gate, personal
from model.gate import Evidence

D, P = 3, 6


def a_night(users: int, new: int, real: float, seed: int, stored: int = 30):
    """Users with `stored` ratings and `new` ones of tonight; a share `real` of their taste has moved, or else the
    new ratings are pure noise. One dimension is rated. Returns evidence against current and prior, and the true
    gain in Spearman-like correlation of the candidate over the current entry."""
    rng = np.random.default_rng(seed)
    cov = np.diag([0.5, 0.6, 0.3, 0.3, 0.2, 0.2])
    mean = np.array([5, 1.0, 0, 0, 0, 0])
    root = np.sqrt(cov)
    draw = lambda: mean + rng.normal(size=(users, P)) @ root  # noqa: E731
    taste = draw()
    later = taste + real * (draw() - taste)
    noise = 1.2

    def rate(weights, each, pure_noise=False):
        phi = rng.normal(size=(users * each, D, P))
        phi[..., 0] = 1
        user = np.repeat(np.arange(users), each)
        y = np.full((len(user), D), np.nan)
        y[:, 0] = (phi[:, 0] * weights[user]).sum(1) + rng.normal(0, noise, len(user))
        if pure_noise:
            y[:, 0] = rng.permutation(y[:, 0])
        return tuple(map(torch.tensor, (phi, y, user)))

    prior = personal.Prior(
        torch.tensor(np.stack([mean] * D)),
        torch.tensor(np.stack([cov] * D)),
        torch.full((D,), noise**2, dtype=torch.float64),
        torch.zeros(D, dtype=torch.float64),
        torch.tensor([100.0, 0, 0]),
    )
    start = prior.mean.expand(users, -1, -1)
    phi, y, user = rate(taste, stored)
    old = personal.sufficient(phi, y, user, users)
    current = personal.posterior(prior, start, old)
    (earlier,) = gate.weigh(phi, y, user, *current, [start])
    phi, y, user = rate(later, new, pure_noise=real == 0)
    keep = 0.2 if real else 1.0
    stats = old.decayed(torch.full_like(old.n, keep)) + personal.sufficient(phi, y, user, users)
    candidate = personal.posterior(prior, start, stats)
    now, against_prior = gate.weigh(phi, y, user, *candidate, [current.mean, start])
    probe = rng.normal(size=(400, P))
    score = lambda w: probe @ w[:, 0].numpy().T  # noqa: E731
    truth = probe @ later.T

    def agreement(values):
        return np.array([np.corrcoef(values[:, u], truth[:, u])[0, 1] for u in range(users)])

    gain = agreement(score(candidate.mean)) - agreement(score(current.mean))
    earlier.variance /= keep
    return now, against_prior.combined(earlier), gain


@pytest.mark.parametrize("new", [5, 20])
def test_pure_noise_is_promoted_no_more_than_stated(new):
    shares = []
    for seed in range(6):
        now, prior, _ = a_night(200, new, real=0.0, seed=seed)
        promoted, _ = gate.decide(now, prior, confidence=0.7)
        shares.append(promoted[:, 0].double().mean().item())
    assert np.mean(shares) <= 0.1


def test_real_gains_are_promoted_and_worth_it():
    now, prior, gain = a_night(300, 20, real=1.0, seed=1)
    promoted, reason = gate.decide(now, prior, confidence=0.7)
    assert gain.mean() > 0.04
    assert promoted[:, 0].double().mean() > 0.6
    chosen = promoted[:, 0].numpy()
    assert gain[chosen].mean() > 0.04
    assert (reason[:, 1:] == gate.NO_NEWS).all() and not promoted[:, 1:].any()


def test_leave_two_out_is_exact():
    rng = np.random.default_rng(2)
    n = 7
    phi = torch.tensor(rng.normal(size=(n, 1, P)))
    y = torch.tensor(rng.normal(5, 2, (n, 1)))
    prior = personal.Prior(
        torch.zeros(1, P, dtype=torch.float64), torch.eye(P, dtype=torch.float64)[None], torch.tensor([1.3]).double(),
        torch.zeros(1), torch.ones(1),
    )  # fmt: skip
    user = torch.zeros(n, dtype=torch.long)
    start = prior.mean[None]
    found = personal.posterior(prior, start, personal.sufficient(phi, y, user, 1))
    rival = torch.tensor(rng.normal(size=(1, 1, P)))
    (evidence,) = gate.weigh(phi, y, user, *found, [rival])
    total = weight = 0.0
    for i in range(n):
        for j in range(i):
            rest = [k for k in range(n) if k not in (i, j)]
            stats = personal.sufficient(phi[rest], y[rest], user[rest], 1)
            without, *_ = personal.posterior(prior, start, stats)
            order = np.sign((y[i] - y[j]).item())
            ours, theirs = (order * np.sign(((phi[i] - phi[j]) * w[0]).sum().item()) for w in (without, rival))
            total += abs((y[i] - y[j]).item()) * (ours - theirs) / 2
            weight += abs((y[i] - y[j]).item())
    assert evidence.gain[0, 0].item() == pytest.approx(total / weight)


def evidence(gains, variance, ratings=20):
    gain = torch.tensor(gains, dtype=torch.float64)[:, None]
    return Evidence(gain, torch.full_like(gain, variance), torch.full_like(gain, ratings))


def test_one_user_alone_is_judged_by_own_ratings():
    assert gate.decide(*[evidence([0.20], 0.05**2)] * 2)[0].item()
    assert not gate.decide(*[evidence([0.01], 0.05**2)] * 2)[0].item()


def test_others_lend_strength_and_take_it():
    """The same doubtful gain passes among users who gain and fails among users who do not."""
    among_winners = evidence([0.02] + [0.05, 0.06, 0.04, 0.05] * 30, 0.05**2)
    among_losers = evidence([0.02] + [-0.05, -0.06, -0.04, -0.05] * 30, 0.05**2)
    assert gate.decide(among_winners, among_winners)[0][0].item()
    assert not gate.decide(among_losers, among_losers)[0][0].item()


def test_reasons_name_what_failed():
    good, bad = evidence([0.3], 0.05**2), evidence([-0.3], 0.05**2)
    say = lambda *pair, **options: gate.REASONS[gate.decide(*pair, **options)[1].item()]  # noqa: E731
    assert say(good, good) == "promoted"
    assert say(bad, good) == "not above current entry"
    assert say(good, bad) == "not above prior"
    assert say(good, good, min_ratings=30) == "too few ratings"
    assert say(good, good, news=torch.zeros(1, 1, dtype=torch.bool)) == "no news"
