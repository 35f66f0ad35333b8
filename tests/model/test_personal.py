import numpy as np
import pytest
import torch

from model import personal
from model.basis import fit_basis

D, P = 3, 5


@pytest.fixture
def cohort():
    """60 users x 30 photos over 3 dimensions, the last of them never rated, some ratings missing."""
    rng = np.random.default_rng(0)
    phi = torch.tensor(rng.normal(size=(200, D, P)))
    phi[..., 0] = 1.0
    user = torch.tensor(np.repeat(np.arange(60), 30))
    rows = torch.tensor(rng.integers(0, 200, len(user)))
    weights = torch.tensor(rng.normal(size=(60, D, P)))
    y = (phi[rows] * weights[user]).sum(-1) + torch.tensor(rng.normal(0, 0.5, (len(user), D)))
    y[torch.tensor(rng.random(y.shape) < 0.2)] = torch.nan
    y[:, 2] = torch.nan
    return phi[rows], y, user


def some_prior() -> personal.Prior:
    rng = np.random.default_rng(1)
    root = torch.tensor(rng.normal(size=(D, P, P)))
    return personal.Prior(
        torch.tensor(rng.normal(size=(D, P))),
        root @ root.transpose(1, 2) / P,
        torch.tensor([0.3, 0.5, 1.0], dtype=torch.float64),
        torch.zeros(D, dtype=torch.float64),
        torch.tensor([50.0, 50.0, 0.0], dtype=torch.float64),
    )


def test_posterior_equals_direct_solve(cohort):
    phi, y, user = cohort
    prior = some_prior()
    stats = personal.sufficient(phi, y, user, 60)
    mean, cov, _ = personal.posterior(prior, prior.mean.expand(60, -1, -1), stats)
    for u, d in ((0, 0), (31, 1), (59, 0)):
        mine = (user == u) & ~y[:, d].isnan()
        f, r = phi[mine, d].numpy(), y[mine, d].numpy()
        inverse = np.linalg.inv(prior.cov[d].numpy())
        direct_cov = np.linalg.inv(inverse + f.T @ f / prior.noise[d].item())
        direct = direct_cov @ (inverse @ prior.mean[d].numpy() + f.T @ r / prior.noise[d].item())
        np.testing.assert_allclose(mean[u, d], direct, atol=1e-9)
        np.testing.assert_allclose(cov[u, d], direct_cov, atol=1e-9)


def test_evidence_equals_the_density_of_the_ratings(cohort):
    phi, y, user = cohort
    prior = some_prior()
    value = personal.evidence(prior, prior.mean.expand(60, -1, -1), personal.sufficient(phi, y, user, 60))
    mine = (user == 7) & ~y[:, 1].isnan()
    f = phi[mine, 1]
    cov = f @ prior.cov[1] @ f.T + prior.noise[1] * torch.eye(len(f), dtype=torch.float64)
    expected = torch.distributions.MultivariateNormal(f @ prior.mean[1], cov).log_prob(y[mine, 1])
    assert value[7, 1].item() == pytest.approx(expected.item(), abs=1e-8)
    assert (value[:, 2] == 0).all()


def test_incremental_update_equals_all_at_once(cohort):
    phi, y, user = cohort
    first = torch.arange(len(y)) % 3 == 0
    parts = personal.sufficient(phi[first], y[first], user[first], 60) + personal.sufficient(
        phi[~first], y[~first], user[~first], 60
    )
    whole = personal.sufficient(phi, y, user, 60, chunk=101)
    for name in ("A", "b", "yy", "n"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_decay_makes_old_ratings_count_less_and_the_posterior_wider(cohort):
    phi, y, user = cohort
    prior, stats = some_prior(), personal.sufficient(phi, y, user, 60)
    own = prior.mean.expand(60, -1, -1)
    _, sharp, _ = personal.posterior(prior, own, stats)
    _, wide, _ = personal.posterior(prior, own, stats.decayed(torch.full_like(stats.n, 0.1)))
    traces = [c[:, :2].diagonal(dim1=-2, dim2=-1).sum(-1) for c in (sharp, wide)]
    assert (traces[1] > traces[0]).all()


def test_zero_ratings_give_the_prior(cohort):
    prior = some_prior()
    mean, cov, _ = personal.posterior(prior, prior.mean.expand(2, -1, -1), personal.no_stats(2, D, P))
    torch.testing.assert_close(mean, prior.mean.expand(2, -1, -1))
    torch.testing.assert_close(cov, prior.cov.expand(2, -1, -1, -1))


def known_users(users: int, seed: int, size: int = 4, each: int = 40):
    """Ratings of users drawn from a known prior on one dimension, the other two unrated."""
    rng = np.random.default_rng(seed)
    mean = np.array([5.0, 1.0, 0.0, -0.5])
    root = np.array([[1.0, 0, 0, 0], [0.2, 0.5, 0, 0], [0, 0.3, 0.6, 0], [0, 0, 0, 0.05]])
    weights = mean + rng.normal(size=(users, size)) @ root.T
    phi = rng.normal(size=(users * each, D, size))
    phi[..., 0] = 1
    user = np.repeat(np.arange(users), each)
    y = np.full((len(user), D), np.nan)
    y[:, 0] = (phi[:, 0] * weights[user]).sum(1) + rng.normal(0, 0.8, len(user))
    stats = personal.sufficient(*map(torch.tensor, (phi, y, user)), users)
    return stats, mean, root @ root.T, weights


def test_em_recovers_a_known_prior_and_climbs():
    stats, mean, cov, _ = known_users(800, seed=0)
    base = torch.zeros(D, 4, dtype=torch.float64)
    prior = personal.start_prior(stats.total(), (stats.n > 0).sum(0).double(), base)
    shift = torch.zeros_like(stats.b)
    climbed = []
    for _ in range(40):
        sums = personal.em_sums(prior, stats, shift)
        climbed.append(sums.loglik[0].item())
        prior = personal.maximise(prior, sums, caution=-4.0)  # no caution: plain maximum likelihood
    assert (np.diff(climbed) > -1e-6).all()
    np.testing.assert_allclose(prior.mean[0], mean, atol=0.12)
    np.testing.assert_allclose(prior.cov[0], cov, atol=0.12)
    assert prior.noise[0].item() == pytest.approx(0.64, abs=0.03)
    assert prior.users.tolist() == [800, 0, 0]


def test_sums_over_groups_of_users_add_up():
    stats, *_ = known_users(50, seed=1)
    prior = personal.fit_prior(stats, torch.zeros(D, 4, dtype=torch.float64), iterations=3)
    shift = torch.zeros_like(stats.b)
    whole = personal.em_sums(prior, stats, shift)
    even, odd = slice(0, None, 2), slice(1, None, 2)
    parts = [personal.em_sums(prior, stats[s], shift[s]) for s in (even, odd)]
    added = parts[0].filled(parts[0].flat() + parts[1].flat())
    torch.testing.assert_close(added.flat(), whole.flat())


def test_holds_back_with_few_users_to_learn_from():
    """Learned on 8 users, the prior is tighter than on 400, and personal models do no worse than no personality."""
    few, *_ = known_users(8, seed=2, each=12)
    many, *_ = known_users(400, seed=3, each=12)
    base = torch.zeros(D, 4, dtype=torch.float64)
    cautious, sure = (personal.fit_prior(s, base) for s in (few, many))
    bold = personal.fit_prior(few, base, caution=-4.0)
    own = lambda prior: prior.cov[0].diagonal()[1:].sum().item()  # noqa: E731
    assert own(cautious) < own(sure)
    assert own(cautious) < own(bold)

    new, _, _, truth = known_users(300, seed=4, each=5)
    start = cautious.mean.expand(300, -1, -1)
    mean, *_ = personal.posterior(cautious, start, new)
    target = torch.tensor(truth)
    error = ((mean[:, 0] - target) ** 2)[:, 1:].sum(1)
    impersonal = ((start[:, 0] - target) ** 2)[:, 1:].sum(1)
    assert error.mean() < impersonal.mean()


def test_kappa_follows_how_much_the_shift_says():
    rng = np.random.default_rng(17)
    stats, *_ = known_users(600, seed=5)
    shift = torch.zeros_like(stats.b)
    shift[:, 0] = torch.tensor(rng.normal(size=(600, 4)))
    base = torch.zeros(D, 4, dtype=torch.float64)
    useless = personal.fit_prior(stats, base, shift)
    assert useless.kappa[0].item() < 0.08
    # Users who truly are what the shift says, at 70 %.
    moved = personal.Stats(stats.A, stats.b.clone(), stats.yy.clone(), stats.n)
    step = 0.7 * shift
    moved.b += torch.einsum("udpq,udq->udp", stats.A, step)
    moved.yy += 2 * (stats.b * step).sum(-1) + torch.einsum("udp,udpq,udq->ud", step, stats.A, step)
    assert personal.fit_prior(moved, base, shift).kappa[0].item() == pytest.approx(0.7, abs=0.08)


def test_experts_are_points_of_the_feature_space():
    rng = np.random.default_rng(6)
    predictions = torch.tensor(rng.normal(5, 1, (50, 4, D)))
    predictions[:, :, 1] = torch.nan  # nobody was trained on this dimension
    basis = fit_basis(["e1", "e2", "e3", "generic"], predictions)
    phi = basis.phi(predictions)
    scores = torch.einsum("ndp,edp->ned", phi, basis.expert_weights())
    torch.testing.assert_close(scores[:, :, [0, 2]], predictions[:, :3][:, :, [0, 2]])
    generic = (phi * basis.generic_weights()).sum(-1)
    torch.testing.assert_close(generic[:, 0], predictions[:, 3, 0])
    assert (phi[:, 1] == 0).all() and not basis.rated[1]
    with pytest.raises(ValueError, match="4 models"):
        basis.phi(predictions[:, :2])


def scaled_prior() -> personal.Prior:
    prior = some_prior()
    scales, shares = torch.tensor([[0.5, 1.0, 2.0]] * D).double(), torch.tensor([[0.5, 0.25, 0.25]] * D).double()
    scales = scales / (scales * shares).sum(1, keepdim=True)
    return personal.Prior(prior.mean, prior.cov, prior.noise, prior.kappa, prior.users, scales, shares)


def test_scale_use_equals_the_mixture_summed_by_hand(cohort):
    """For every scale the ratings are Gaussian: their densities, means and covariances, weighed and summed."""
    phi, y, user = cohort
    prior, level = scaled_prior(), torch.zeros(D, P, dtype=torch.float64)
    level[:, 0] = prior.mean[:, 0]
    stats = personal.sufficient(phi, y, user, 60)
    own = prior.mean.expand(60, -1, -1)
    found, loglik = personal.posterior(prior, own, stats), personal.evidence(prior, own, stats)
    mine = (user == 7) & ~y[:, 1].isnan()
    f, r = phi[mine, 1], y[mine, 1]
    logs, means, covs = [], [], []
    for s, share in zip(prior.scales[1], prior.shares[1]):
        mean, cov, noise = level[1] + s * (prior.mean[1] - level[1]), s**2 * prior.cov[1], s**2 * prior.noise[1]
        spread = f @ cov @ f.T + noise * torch.eye(len(f), dtype=torch.float64)
        logs.append(share.log() + torch.distributions.MultivariateNormal(f @ mean, spread).log_prob(r))
        gain = cov @ f.T @ torch.linalg.inv(spread)
        means.append(mean + gain @ (r - f @ mean))
        covs.append(cov - gain @ f @ cov)
    belief = torch.softmax(torch.stack(logs), 0)
    expected = sum(p * m for p, m in zip(belief, means))
    second = sum(p * (c + torch.outer(m, m)) for p, m, c in zip(belief, means, covs))
    assert loglik[7, 1].item() == pytest.approx(torch.logsumexp(torch.stack(logs), 0).item(), abs=1e-8)
    torch.testing.assert_close(found.mean[7, 1], expected)
    torch.testing.assert_close(found.cov[7, 1], second - torch.outer(expected, expected), atol=1e-9, rtol=1e-9)
    assert found.noise[7, 1].item() == pytest.approx(float((belief * prior.scales[1] ** 2).sum() * prior.noise[1]))


def test_scale_use_is_learned_and_helps():
    """Half the users spread their scores three times as widely as the others: the grid says so, predictions gain by it."""
    stats, _, _, weights = known_users(600, seed=8, each=12)
    wide = torch.where(torch.arange(600) % 2 == 0, 1.5, 0.5).double()[:, None]
    level = 5.0
    a, b = stats.A[..., 0], stats.b  # y → level + s (y - level), in terms of the sums
    moved = personal.Stats(stats.A, b.clone(), stats.yy.clone(), stats.n)
    moved.b = level * a + wide[..., None] * (b - level * a)
    about = stats.yy - 2 * level * b[..., 0] + level**2 * stats.n
    moved.yy = wide**2 * about + 2 * level * moved.b[..., 0] - level**2 * stats.n
    base = torch.zeros(D, 4, dtype=torch.float64)
    base[0, 0] = level
    learned, alike = personal.fit_prior(moved, base), personal.fit_prior(moved, base, scales=torch.ones(1).double())
    spread = (learned.shares[0] * (learned.scales[0] - 1) ** 2).sum().sqrt().item()
    assert (learned.shares * learned.scales).sum(1).tolist() == pytest.approx([1.0] * D)
    assert 0.3 < spread < 0.7, "the truth is 0.5"
    assert personal.evidence(learned, learned.mean.expand(600, -1, -1), moved)[:, 0].mean() > 0.3 + (
        personal.evidence(alike, alike.mean.expand(600, -1, -1), moved)[:, 0].mean()
    )
    truth = torch.tensor(weights) * wide + (1 - wide) * torch.tensor([level, 0, 0, 0]).double()
    error = [
        (personal.posterior(p, p.mean.expand(600, -1, -1), moved).mean[:, 0] - truth).square().sum(1).mean().item()
        for p in (learned, alike)
    ]
    assert error[0] < 0.97 * error[1]
