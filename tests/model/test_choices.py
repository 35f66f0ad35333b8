"""Comparisons and thumbs move a user's posterior as they should, and no further."""

import pytest
import torch
from scipy import integrate, stats

from model import choices as ch
from model import gate, personal
from model.choices import Choices
from model.personal import Prior

P = 4


def prior(scales: bool = False) -> Prior:
    mean = torch.tensor([[5.0, 0.8, 0.0, 0.0]], dtype=torch.float64)
    cov = torch.diag(torch.tensor([0.5, 0.3, 0.6, 0.6], dtype=torch.float64))[None]
    one = Prior(mean, cov, torch.tensor([1.2]).double(), torch.zeros(1).double(), torch.tensor([50.0]).double())
    if not scales:
        return one
    grid, shares = torch.tensor([[0.6, 1.0, 1.6]]).double(), torch.tensor([[0.3, 0.5, 0.2]]).double()
    return Prior(mean, cov, one.noise, one.kappa, one.users, grid / (shares * grid).sum(), shares)


def given(*rows: tuple) -> Choices:
    """(user, photo, other or -1, value)"""
    user, photo, other, value = zip(*rows)
    index = [torch.tensor(list(each)) for each in (user, photo, other)]
    return Choices(index[0], torch.zeros_like(index[0]), *index[1:], torch.tensor(list(value), dtype=torch.float64))


def photos(count: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    phi = torch.randn(count, 1, P, dtype=torch.float64)
    phi[..., 0] = 1.0
    return phi


def learned(prior: Prior, choices: Choices, phi, users: int = 1):
    nothing = personal.no_stats(users, 1, P)
    own = prior.mean.expand(users, -1, -1)
    sites = ch.observed(prior, own, nothing, choices, phi)
    return sites, personal.posterior(prior, own, nothing + sites.stats(choices, users, 1))


@pytest.mark.parametrize(
    "row", [(0, 0, 1, 1.0), (0, 0, 1, -1.0), (0, 0, 1, 0.0), (0, 2, -1, 1.0), (0, 2, -1, -1.0)]
)
def test_one_choice_gives_the_moments_that_integration_gives(row):
    choices, phi, about = given(row), photos(3), prior()
    sites, found = learned(about, choices, phi)
    f = sites.f[0]
    mean, spread = float(f @ about.mean[0]), float(f @ about.cov[0] @ f)
    _, _, other, value = row
    noise = 1.2 * (2 if other >= 0 else 1)

    def probability(x: float) -> float:
        at = stats.norm(x, noise**0.5)
        if other >= 0:
            low, high = at.cdf(-ch.NOTICEABLE), at.sf(ch.NOTICEABLE)
            return {1.0: high, -1.0: low, 0.0: 1 - low - high}[value]
        return at.sf(5.0) if value > 0 else at.cdf(5.0)

    edge = mean - 10 * spread**0.5, mean + 10 * spread**0.5
    density = lambda x, k: x**k * probability(x) * stats.norm(mean, spread**0.5).pdf(x)  # noqa: E731
    moment = [integrate.quad(density, *edge, args=(k,))[0] for k in range(3)]
    expected = moment[1] / moment[0]
    assert float(f @ found.mean[0, 0]) == pytest.approx(expected, abs=2e-3)
    assert float(f @ found.cov[0, 0] @ f) == pytest.approx(moment[2] / moment[0] - expected**2, rel=5e-3)


def test_the_order_of_choices_does_not_matter_and_less_certain_ones_count_less():
    phi = photos(8)
    rows = [(0, 0, 1, 1.0), (0, 2, 3, -1.0), (0, 4, -1, 1.0), (0, 5, 6, 0.0)]
    (_, one), (_, two) = (learned(prior(), given(*order), phi) for order in (rows, rows[::-1]))
    torch.testing.assert_close(one.mean, two.mean, rtol=1e-9, atol=1e-9)
    sites, _ = learned(prior(), given((0, 0, 1, 1.0)), phi)
    half, _ = learned(prior(), given((0, 0, 1, 0.5)), phi)
    assert 0 < float(half.weight) < float(sites.weight) < 0.4


def test_many_comparisons_find_a_taste_for_users_of_any_scale():
    torch.manual_seed(1)
    phi, users, about = photos(200), 20, prior(scales=True)
    noise = 1.2**0.5
    taste = about.mean[0] + torch.randn(users, P).double() * about.cov[0].diagonal().sqrt()
    told = []
    for user in range(users):
        for pair in torch.randperm(200)[:60].reshape(30, 2).tolist():
            scores = phi[pair, 0] @ taste[user] + noise * torch.randn(2).double()
            apart = float(scores[0] - scores[1])
            told.append((user, *pair, 0.0 if abs(apart) < 0.7 else 1.0 if apart > 0 else -1.0))
    choices = given(*told)
    sites, found = learned(about, choices, phi, users)
    truth = phi[:, 0] @ taste.T

    def order(weights: torch.Tensor) -> float:
        said = phi[:, 0] @ weights.T
        return sum(stats.kendalltau(said[:, u], truth[:, u]).statistic for u in range(users)) / users

    assert order(found.mean[:, 0]) > order(about.mean.expand(users, -1)) + 0.15
    start = about.mean.expand(users, 1, -1)
    mean = ch.weigh(choices, sites, found, [start, -start])[:, 0].mean(0)
    assert float(mean[gate.CURRENT]) > 0.5 and float(mean[gate.PRIOR]) > float(mean[gate.NOISE]) > float(mean[gate.CURRENT])


def test_comparisons_of_a_coin_are_no_evidence():
    torch.manual_seed(2)
    phi, users, about = photos(200), 60, prior(scales=True)
    told = [
        (user, *pair, 1.0 if torch.rand(()) < 0.5 else -1.0)
        for user in range(users)
        for pair in torch.randperm(200)[:20].reshape(10, 2).tolist()
    ]
    choices = given(*told)
    sites, found = learned(about, choices, phi, users)
    start = about.mean.expand(users, 1, -1)
    evidence = ch.weigh(choices, sites, found, [start, start])[:, 0]
    assert float((evidence[:, gate.NOISE] > 0.4).double().mean()) < 0.15


def test_what_cannot_be_used_is_left_out():
    phi = photos(4)
    phi[2] = torch.nan
    choices = given((0, 0, 1, 1.0), (0, 0, 2, 1.0), (0, 3, 3, 1.0), (0, 2, -1, 1.0))
    assert ch.usable(choices, phi, prior()).tolist() == [True, False, False, False]
    none = ch.no_choices()
    _, found = learned(prior(), none, phi)
    assert torch.equal(found.mean, prior().mean[None])
