"""Photos that no model was fitted on decide what of users is believed."""

import numpy as np
import torch

from model import personal, unseen
from model.personal import Prior

D, P = 3, 6


def generic(photos: int, seed: int):
    """A generator, phi (photos, D, 20), the generic model `base` on it, and raters: 200 of every photo."""
    rng = np.random.default_rng(seed)
    phi = torch.tensor(rng.normal(size=(photos, D, 20)))
    phi[..., 0] = 1.0
    base = torch.zeros(D, 20, dtype=torch.float64)
    base[:, 0], base[:, 1] = 5.0, 1.0
    return rng, phi, base, torch.full((photos, D), 200.0, dtype=torch.float64)


def test_population_mean_is_the_generic_model_unless_left_out_photos_say_otherwise():
    rng, phi, base, raters = generic(60, seed=8)
    agreed = 6.0 + 1.5 * phi[..., 1] + torch.tensor(rng.normal(0, 1.0, (60, D)))  # what φ cannot explain is shared
    mean = unseen.population_mean(phi, agreed, raters, base)
    assert mean[:, 2:].abs().max() < 1e-3
    np.testing.assert_allclose(mean[:, 0], 6.0, atol=0.5)
    np.testing.assert_allclose(mean[:, 1], 1.5, atol=0.5)

    other = 6.0 + 1.5 * phi[..., 1] + 1.5 * phi[..., 2] + torch.tensor(rng.normal(0, 0.5, (60, D)))
    other[:, 2] = torch.nan
    mean = unseen.population_mean(phi, other, raters, base)
    np.testing.assert_allclose(mean[:2, 2], 1.5, atol=0.4)
    assert torch.equal(mean[2], base[2])


def test_what_models_say_of_photos_they_were_fitted_on_is_not_taken_at_its_word():
    """A feature that knows what it was fitted on and nothing else is believed, unless held photos tell."""
    rng, phi, base, raters = generic(150, seed=9)
    agreed = 5.0 + phi[..., 1] + torch.tensor(rng.normal(0, 1.0, (150, D)))
    held = torch.arange(150) % 5 == 0
    phi[~held, :, 2] = (agreed - 5.0 - phi[..., 1])[~held]
    vain = unseen.population_mean(phi[~held], agreed[~held], raters[~held], base)
    assert vain[:, 2].min() > 0.9
    mean = unseen.population_mean(phi, agreed, raters, base, held)
    assert mean[:, 2].abs().max() < 0.3
    few = held & (torch.arange(150) < 50)  # too few to choose by
    assert unseen.population_mean(phi, agreed, raters, base, few)[:, 2].min() > 0.5


def prior(cov: float, noise: float) -> Prior:
    mean = torch.zeros(D, P, dtype=torch.float64)
    mean[:, 0], mean[:, 1] = 5.0, 1.0
    each = lambda value: torch.full((D,), value, dtype=torch.float64)  # noqa: E731
    return Prior(mean, cov * torch.eye(P).double().repeat(D, 1, 1), each(noise), each(0.0), each(100.0))


def test_levels_differ_as_they_did_and_the_rest_as_far_as_is_believed():
    wide = prior(2.0, 1.0)
    wide.cov[:, 0, 1] = wide.cov[:, 1, 0] = 0.6
    narrow = unseen.narrowed(wide, torch.tensor([1.0, 0.25, 0.0]).double())
    assert torch.equal(narrow.cov[0], wide.cov[0]) and torch.equal(narrow.noise, wide.noise)
    assert narrow.cov[1, 0, 0] == 2.0 and narrow.cov[1, 2, 2] == 0.5
    np.testing.assert_allclose(narrow.cov[1, 0, 1], 0.6 * 0.5)
    assert narrow.cov[2, 0, 0] == 2.0 and narrow.cov[2, 1:].abs().sum() == 0
    assert (torch.linalg.eigvalsh(narrow.cov) >= -1e-12).all()


def test_differences_that_held_photos_do_not_show_are_not_believed():
    """Dimension 0: users differ as EM found. 1: what they said of seen photos tells nothing of held ones. 2: not rated."""
    rng = np.random.default_rng(3)
    users, each = 60, 40
    found = prior(0.5, 1.0)
    weights = torch.tensor(found.mean.numpy() + rng.normal(0, 0.5**0.5, (users, D, P)))
    user = torch.arange(users).repeat_interleave(each)

    def rated(weights):
        phi = torch.tensor(rng.normal(size=(len(user), D, P)))
        phi[..., 0] = 1.0
        y = (phi * weights[user]).sum(-1) + torch.tensor(rng.normal(0, 1.0, (len(user), D)))
        y[:, 2] = torch.nan
        return phi, y

    phi, y = rated(weights)
    seen = personal.sufficient(phi, y, user, users)
    others = weights.clone()
    others[:, 1, 1:] = found.mean[1, 1:]
    held = *rated(others), user
    own = found.mean.expand(users, -1, -1)
    sums = unseen.gains(found, own, seen, *held)
    ratio = unseen.believed(sums)
    assert ratio[0] == 1.0 and ratio[1] <= 0.02 and ratio[2] == 1.0
    half = user < 30
    parts = []
    for who, first in ((half, 0), (~half, 30)):
        asked = held[0][who], held[1][who], held[2][who] - first
        parts.append(unseen.gains(found, own[first : first + 30], seen[first : first + 30], *asked))
    torch.testing.assert_close(parts[0] + parts[1], sums)
