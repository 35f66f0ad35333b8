import numpy as np
import torch

from model.ask import next_photos

D, P = 3, 5


def a_user(photos: int = 40, seed: int = 0):
    rng = np.random.default_rng(seed)
    phi = torch.tensor(rng.normal(size=(photos, D, P)))
    phi[..., 0] = 1.0
    root = torch.tensor(rng.normal(size=(D, P, P)))
    mean = torch.zeros(D, P, dtype=torch.float64)
    mean[:, 0] = 5.0
    return phi, mean, root @ root.transpose(1, 2) / P, torch.tensor([0.5, 0.5, torch.nan], dtype=torch.float64)


def left(phi, cov, noise, rows) -> float:
    """Mean variance of differences between all photos after ratings of `rows`, on the rated dimensions."""
    total = 0.0
    for d in range(2):
        f = phi[rows, d]
        after = torch.linalg.inv(torch.linalg.inv(cov[d]) + f.T @ f / noise[d])
        centred = phi[:, d] - phi[:, d].mean(0)
        total += ((centred @ after) * centred).sum().item() / ((centred @ cov[d]) * centred).sum().item()
    return total


def test_chosen_photos_teach_more_than_any_of_a_thousand_random_sets():
    phi, mean, cov, noise = a_user()
    chosen = next_photos(phi, mean, cov, noise, 6)
    assert len(set(chosen.tolist())) == 6
    rng = np.random.default_rng(1)
    random = [left(phi, cov, noise, torch.tensor(rng.choice(40, 6, replace=False))) for _ in range(1000)]
    assert left(phi, cov, noise, chosen) < min(random)


def test_a_level_is_nothing_to_ask_about():
    """All that is unknown is the level and one slope: only photos far out on the slope are asked."""
    phi, mean, _, noise = a_user()
    cov = torch.zeros(D, P, P, dtype=torch.float64)
    cov[:, 0, 0], cov[:, 1, 1] = 100.0, 0.2
    chosen = next_photos(phi[:, :1].expand(-1, D, -1), mean, cov, noise, 6)
    far = (phi[:, 0, 1] - phi[:, 0, 1].mean()).abs()
    assert set(chosen.tolist()) <= set(far.argsort(descending=True)[:14].tolist())
    assert {-1.0, 1.0} == set(torch.sign(phi[chosen, 0, 1]).tolist()), "from both ends"


def test_pairs_that_are_settled_do_not_count():
    """Of two kinds of photo one is surely better: what orders photos within a kind is asked."""
    rng = np.random.default_rng(3)
    phi = torch.zeros(30, 1, 3, dtype=torch.float64)
    phi[:, 0, 0] = 1
    phi[:15, 0, 1] = 1.0
    phi[15:, 0, 2] = torch.tensor(rng.normal(size=15))
    mean = torch.tensor([[5.0, 50.0, 0.0]], dtype=torch.float64)
    cov = torch.diag(torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64))[None]
    chosen = next_photos(phi, mean, cov, torch.tensor([0.5], dtype=torch.float64), 4)
    assert (chosen >= 15).all()


def test_missing_dimensions_and_short_lists():
    phi, mean, cov, noise = a_user(4)
    assert sorted(next_photos(phi, mean, cov, noise, 10).tolist()) == [0, 1, 2, 3]
    phi[:, 0] = torch.nan
    assert len(next_photos(phi, mean, cov, noise, 2)) == 2
    nothing = torch.full_like(noise, torch.nan)
    assert next_photos(phi, mean, cov, nothing, 2).tolist() == []
