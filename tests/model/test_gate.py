import numpy as np
import pytest
import torch

from model import gate, personal
from model.gate import Evidence

D, P = 3, 6


def a_night(users: int, new: int, real: float, seed: int, stored: int = 30):
    """Users with `stored` ratings and `new` ones of tonight; a share `real` of their taste has moved, or else the
    new ratings are pure noise. One dimension is rated. Returns what `decide`
    takes, and the true gain in correlation of the candidate over the current entry."""
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
    now, against_prior, nothing = gate.weigh(phi, y, user, *candidate, [current.mean, start, torch.zeros_like(start)])
    probe = rng.normal(size=(400, P))
    score = lambda w: probe @ w[:, 0].numpy().T  # noqa: E731
    truth = probe @ later.T

    def agreement(values):
        return np.array([np.corrcoef(values[:, u], truth[:, u])[0, 1] for u in range(users)])

    gain = agreement(score(candidate.mean)) - agreement(score(current.mean))
    earlier.variance /= keep
    return (now, against_prior.combined(earlier), nothing), gain


@pytest.mark.parametrize("new", [5, 10, 25])
def test_pure_noise_is_promoted_no_more_than_stated_even_when_all_others_gain(new):
    """A share of 1 - confidence, and no more of those who gave noise among users who gain than of those on their own."""
    noise = [a_night(300, new, real=0.0, seed=seed)[0] for seed in range(4)]
    gaining = a_night(300, new, real=1.0, seed=9)[0]
    alone, among = [], []
    for pair in noise:
        alone.append(gate.decide(*pair, confidence=0.8)[0][:, 0])
        both = [gate.Evidence(*(torch.cat([x, y]) for x, y in zip(vars(a).values(), vars(b).values())))
                for a, b in zip(pair, gaining)]  # fmt: skip
        among.append(gate.decide(*both, confidence=0.8)[0][:300, 0])
    assert torch.equal(torch.cat(alone), torch.cat(among))
    assert 0 < torch.cat(alone).double().mean() <= 0.2


def test_real_gains_are_promoted_and_worth_it():
    evidence, gain = a_night(300, 20, real=1.0, seed=1)
    promoted, reason = gate.decide(*evidence, confidence=0.8)
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
    ours, theirs, given = [], [], []
    for i in range(n):
        for j in range(i):
            rest = [k for k in range(n) if k not in (i, j)]
            stats = personal.sufficient(phi[rest], y[rest], user[rest], 1)
            without, *_ = personal.posterior(prior, start, stats)
            for said, weights in ((ours, without), (theirs, rival)):
                said.append(((phi[i] - phi[j]) * weights[0]).sum().item())
            given.append((y[i] - y[j]).item())
    along = lambda one, two: np.dot(one, two) / np.sqrt(np.dot(one, one) * np.dot(two, two))  # noqa: E731
    assert evidence.gain[0, 0].item() == pytest.approx(along(ours, given) - along(theirs, given))


def test_the_gain_is_blind_to_level_and_scale_use_and_its_variance_falls_with_ratings():
    rng = np.random.default_rng(3)
    said = lambda values: torch.tensor(values[None, :, None] - values[None, None, :])  # noqa: E731
    y = rng.normal(size=60)
    ours, theirs = y + rng.normal(size=60), y + 2 * rng.normal(size=60)
    mask = torch.ones(1, 60, dtype=torch.bool)
    gain, variance = gate.of_pairs(said(ours), said(theirs), torch.tensor(y)[None], mask)
    correlate = lambda one: np.corrcoef(one, y)[0, 1]  # noqa: E731
    assert gain.item() == pytest.approx(correlate(ours) - correlate(theirs))
    again = gate.of_pairs(said(3 * ours - 7), said(theirs / 2), torch.tensor(5 + 2 * y)[None], mask)
    torch.testing.assert_close(again, (gain, variance))
    few = torch.arange(60)[None] < 15
    assert gate.of_pairs(said(ours), said(theirs), torch.tensor(y)[None], few)[1] > 2 * variance


def test_the_variance_is_that_of_many_draws():
    rng = np.random.default_rng(4)
    for n in (8, 40):
        y = torch.tensor(rng.normal(size=(3000, n)))
        ours, theirs = (y + torch.tensor(rng.normal(size=(3000, n))) for _ in range(2))
        pairs = [each[:, :, None] - each[:, None, :] for each in (ours, theirs)]
        gain, variance = gate.of_pairs(*pairs, y, torch.ones(3000, n, dtype=torch.bool))
        assert variance.mean().sqrt() == pytest.approx(gain.std().item(), rel=0.25)


def test_who_says_nothing_is_beaten_as_clearly_as_a_correlation_differs_from_none():
    """On noise the share at 0.8 is a fifth."""
    rng = np.random.default_rng(5)
    y, ours = (torch.tensor(rng.normal(size=(4000, 7))) for _ in range(2))
    said = ours[:, :, None] - ours[:, None, :]
    gain, variance = gate.of_pairs(said, torch.zeros_like(said), y, torch.ones(4000, 7, dtype=torch.bool))
    better = gate.probability_better(Evidence(gain, variance, torch.zeros(4000)))
    assert (better >= 0.8).double().mean() == pytest.approx(0.2, abs=0.03)


def evidence(gains, variance, ratings=20):
    gain = torch.tensor(gains, dtype=torch.float64)[:, None]
    return Evidence(gain, torch.full_like(gain, variance), torch.full_like(gain, ratings))


def test_reasons_name_what_failed():
    good, bad, doubtful = evidence([0.3], 0.05**2), evidence([-0.3], 0.05**2), evidence([0.03], 0.05**2)
    say = lambda *three, **options: gate.REASONS[gate.decide(*three, **options)[1].item()]  # noqa: E731
    assert say(good, good, good) == say(doubtful, doubtful, good) == "promoted"
    assert say(bad, good, good) == "not above current entry"
    assert say(good, bad, good) == "not above prior"
    assert say(good, good, doubtful) == "not told from noise"
    assert say(good, good, good, min_ratings=30) == "too few ratings"
    assert say(good, good, good, news=torch.zeros(1, 1, dtype=torch.bool)) == "no news"
