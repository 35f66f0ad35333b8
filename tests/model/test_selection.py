import numpy as np
import pytest
import torch

from model import personal
from model.basis import fit_basis
from model.selection import fit_selection, loglik, read_survey

D = 3


def people(users: int, seed: int, informative: bool, each: int = 12):
    """Users who each follow one of 3 experts on the first two dimensions, with their own offset and slope."""
    rng = np.random.default_rng(seed)
    predictions = torch.tensor(np.random.default_rng(99).normal(5, 1.5, (120, 3, D)))
    predictions[:, :, 2] = torch.nan
    basis = fit_basis(["a", "b", "c"], predictions)
    phi = basis.phi(predictions)
    truth = rng.integers(0, 3, users)
    user = np.repeat(np.arange(users), each)
    photo = rng.integers(0, 120, len(user))
    offset, slope = rng.normal(0, 1, users), rng.uniform(0.5, 1.5, users)
    y = np.full((len(user), D), np.nan)
    for d in range(2):
        followed = predictions[photo, truth[user], d].numpy()
        y[:, d] = 5 + offset[user] + slope[user] * (followed - 5) + rng.normal(0, 0.8, len(user))
    stats = personal.sufficient(phi[photo], torch.tensor(y), torch.tensor(user), users)
    says = truth if informative else rng.integers(0, 3, users)
    lies = rng.random(users) < 0.2
    says = np.where(lies, rng.integers(0, 3, users), says)
    surveys = [{"taste": f"t{s}", "age": f"{a:.0f}"} for s, a in zip(says, rng.uniform(18, 80, users))]
    return basis, stats, surveys, truth


def test_ratings_find_the_expert_and_no_rating_works():
    basis, stats, surveys, truth = people(150, 0, informative=False)
    chosen = fit_selection(surveys, stats, basis.expert_weights())
    best, p = chosen.choose(surveys, stats)
    assert (best.numpy() == truth).mean() > 0.9
    torch.testing.assert_close(p.sum(1), torch.ones(150, dtype=torch.float64))
    best, p = chosen.choose([{}, {"unheard": "of"}], personal.no_stats(2, D, basis.size))
    assert best.shape == (2,) and torch.isfinite(p).all()
    assert (chosen.shift([{}, {"unheard": "of"}]) == 0).all()


def test_informative_survey_is_used_and_noise_is_not():
    basis, stats, surveys, truth = people(200, 1, informative=True)
    told = fit_selection(surveys, stats, basis.expert_weights())
    _, _, new, new_truth = people(200, 2, informative=True)
    best, _ = told.choose(new, personal.no_stats(200, D, basis.size))
    assert (best.numpy() == new_truth).mean() > 0.7

    basis, stats, surveys, _ = people(200, 3, informative=False)
    noise = fit_selection(surveys, stats, basis.expert_weights())
    p = noise.from_survey(surveys).exp()
    assert (p.max(0).values - p.min(0).values).max() < 0.15


def test_likelihood_equals_the_density_of_the_ratings():
    basis, stats, _, _ = people(5, 4, informative=True, each=6)
    points = basis.expert_weights()
    noise = torch.tensor([0.7, 0.9, 1.0], dtype=torch.float64)
    mean = torch.tensor([[0.2, 0.9]] * D, dtype=torch.float64)
    var = torch.tensor([[1.5, 0.1]] * D, dtype=torch.float64)
    value = loglik(stats, points, noise, mean, var)
    # The same through a Bayesian regression on two features: `personal.evidence` is tested against the density.
    for e in range(3):
        to_two = torch.zeros(D, basis.size, 2, dtype=torch.float64)
        to_two[:, 0, 0] = 1
        to_two[:, :, 1] = points[e]
        small = personal.Stats(
            to_two.transpose(1, 2) @ stats.A @ to_two,
            torch.einsum("dpk,udp->udk", to_two, stats.b),
            stats.yy,
            stats.n,
        )
        prior = personal.Prior(mean, torch.diag_embed(var), noise, torch.zeros(D, dtype=torch.float64), torch.ones(D))
        expected = personal.evidence(prior, mean.expand(5, -1, -1), small)[:, :2].sum(1)
        torch.testing.assert_close(value[:, e], expected)


def test_survey_types():
    answers = [{"age": str(20 + i), "sex": "fm"[i % 2], "name": f"n{i}", "likes": ""} for i in range(30)]
    survey = read_survey(answers)
    assert list(survey.numbers) == ["age"] and list(survey.categories) == ["sex"]
    rows = survey.encode([{"age": "34.5", "sex": "f"}, {"age": "nan", "sex": "?"}])
    assert rows[0].tolist() == pytest.approx([1.0, 0.0, 0.0])
    assert (rows[1] == 0).all()
