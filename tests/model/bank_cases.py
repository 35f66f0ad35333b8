"""A small bank of ten users on four models, health never rated; six users' appearance is promoted."""

import numpy as np
import torch

from model import personal
from model.bank import start_bank
from model.basis import fit_basis
from model.selection import fit_selection

D = 3


def made_bank():
    """bank, predictions (40, 4, 3), fused (40, 6), and the posterior means that were found."""
    rng = np.random.default_rng(0)
    predictions = torch.tensor(rng.normal(5, 1.5, (40, 4, D)))
    predictions[:, :, 1] = torch.nan
    basis = fit_basis(["a", "b", "c", "generic"], predictions, torch.tensor(rng.normal(size=(40, 6))), fused_axes=2)
    fused = torch.tensor(rng.normal(size=(40, 6)))
    phi = basis.phi(predictions, fused)
    user, photo = torch.arange(300) % 10, torch.tensor(rng.integers(0, 40, 300))
    y = torch.tensor(rng.uniform(0, 10, (300, D)))
    y[:, 1] = torch.nan
    stats = personal.sufficient(phi[photo], y, user, 10)
    surveys = [{"q": "xy"[u % 2]} for u in range(10)]
    selection = fit_selection(surveys, stats, basis.expert_weights())
    prior = personal.fit_prior(stats, basis.generic_weights(), iterations=5)
    bank = start_bank(basis, prior, selection, [f"u{i}" for i in range(10)], surveys)
    bank.stats = stats
    found = personal.posterior(prior, bank.prior_mean, stats)
    promoted = torch.zeros(10, D, dtype=torch.bool)
    promoted[:6, 0] = True
    bank.promote(promoted, found)
    return bank, predictions, fused, found.mean
