import pytest
import torch

from model.prevailing import fine_tuned, ridge, standardised

U, N, D, F, n = 7, 30, 3, 5, 6


@pytest.fixture
def case():
    drawn = torch.Generator().manual_seed(0)
    features = torch.randn(N, D, F, generator=drawn, dtype=torch.float64)
    base = torch.randn(U, N, D, generator=drawn, dtype=torch.float64)
    asked = torch.stack([torch.randperm(N, generator=drawn)[:n] for _ in range(U)])
    y = torch.randn(U, n, D, generator=drawn, dtype=torch.float64)
    y[0, 2, 1] = torch.nan
    y[1, :, 2] = torch.nan
    return features, base, asked, y


def test_ridge_is_the_minimum_of_what_it_says(case):
    features, base, asked, y = case
    penalty = torch.tensor([0.1, 2.0, 30.0], dtype=torch.float64)
    found = ridge(features, base, asked, y, penalty)
    for u in range(U):
        for d in range(D):
            rows = asked[u][~y[u, :, d].isnan()]
            x = torch.cat([torch.ones(len(rows), 1, dtype=torch.float64), features[rows, d]], 1)
            residual = y[u, :, d][~y[u, :, d].isnan()] - base[u, rows, d]
            pull = torch.diag(torch.tensor([1.0] + [float(penalty[d]) * F] * F, dtype=torch.float64))
            weights = torch.linalg.solve(x.T @ x + pull, x.T @ residual)
            expected = base[u, :, d] + weights[0] + features[:, d] @ weights[1:]
            torch.testing.assert_close(found[u, :, d], expected)
    some = torch.tensor([4, 0, 9])
    torch.testing.assert_close(ridge(features, base, asked, y, penalty, some), found[:, some])


def test_no_ratings_and_an_endless_penalty_leave_the_order_as_it_was(case):
    features, base, asked, y = case
    assert torch.equal(ridge(features, base, asked[:, :0], y[:, :0], torch.ones(D)), base)
    assert torch.equal(fine_tuned(features, base, asked[:, :0], y[:, :0]), base)
    moved = ridge(features, base, asked, y, torch.full((D,), torch.inf)) - base
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved))
    assert moved[0].abs().min() > 0, "the level does follow the user"


def test_users_fine_tuned_together_are_as_each_would_be_alone(case):
    """One torch.nn.Linear and torch.optim.Adam per user and dimension, the way it is usually written."""
    features, base, asked, y = case
    found = fine_tuned(features, base, asked, y, epochs=40, step=0.01)
    for u, d in ((0, 1), (1, 2), (3, 0)):
        known = ~y[u, :, d].isnan()
        layer = torch.nn.Linear(F, 1, dtype=torch.float64)
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
        adam = torch.optim.Adam(layer.parameters(), lr=0.01)
        rows = asked[u][known]
        for _ in range(40 if known.any() else 0):
            adam.zero_grad()
            error = base[u, rows, d] + layer(features[rows, d])[:, 0] - y[u, known, d]
            (error**2).mean().backward()
            adam.step()
        expected = base[u, :, d] + layer(features[:, d])[:, 0].detach()
        torch.testing.assert_close(found[u, :, d], expected)


def test_features_are_brought_to_one_scale_on_the_photos_named():
    drawn = torch.Generator().manual_seed(1)
    raw = torch.randn(50, 4, generator=drawn, dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.1, 0.0]) + 3
    on = torch.arange(50) < 40
    each, together = standardised(raw, on), standardised(raw, on, each=False)
    torch.testing.assert_close(each[on].square().mean(0), torch.tensor([1.0, 1, 1, 0], dtype=torch.float64))
    assert float(together[on].square().mean()) == pytest.approx(1.0)
    assert float(together[:, 1].std() / together[:, 0].std()) == pytest.approx(float(raw[:, 1].std() / raw[:, 0].std()))
