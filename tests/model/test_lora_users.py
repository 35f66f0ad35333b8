"""Users learned together are users one by one; evidence rests on nothing an entry has seen; entries come back from disk."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal

from model import gate
from model.lora_bank import KEPT, LoraBank, OpenLora
from model.lora_fit import LEVEL, Given, padded
from model.lora_users import Experts, evidence
from model.personal import Prior

PULL = 10.0


@pytest.fixture(scope="module")
def experts() -> Experts:
    """Two experts; a photo's tangents are 12 random numbers and a level, of 60 photos."""
    draw = torch.Generator().manual_seed(2)
    slopes = torch.randn(60, 3, 13, generator=draw)
    slopes[..., 12] = 1
    back = torch.arange(60).flip(0)
    return Experts([{}, {}], [slopes, slopes.flip(0)], [torch.arange(60), back])


def ratings(experts: Experts, taste: torch.Tensor, each: int = 30):
    """Users rate `each` random photos by what their linear taste (U, 12) makes of the photo's vector."""
    draw = torch.Generator().manual_seed(7)
    photo = torch.cat([torch.randperm(60, generator=draw)[:each] for _ in taste])
    user = torch.arange(len(taste)).repeat_interleave(each)
    liked = (experts.slopes[0][photo, 0, :12] * taste[user]).sum(1)
    y = (5 + liked)[:, None].expand(-1, 3).clone()
    y[:, 1] = torch.nan
    return padded(user, photo, y, torch.ones(len(y)), len(taste))


@pytest.fixture
def few() -> Given:
    """Five users with 3, 9, 0, 6 and 12 ratings; nobody rates health, the fourth no posture."""
    draw = torch.Generator().manual_seed(9)
    user = torch.repeat_interleave(torch.arange(5), torch.tensor([3, 9, 0, 6, 12]))
    y = torch.randn(30, 3, generator=draw)
    y[:, 1] = torch.nan
    y[user == 3, 2] = torch.nan
    return padded(user, torch.randint(60, (30,), generator=draw), y, torch.ones(30), 5)


@pytest.mark.parametrize("shared", [True, False])
def test_users_together_are_users_one_by_one(experts, few, shared):
    expert, before = torch.tensor([0, 1, 0, 1, 1]), torch.randn(5, 3, 13, generator=torch.Generator().manual_seed(1))
    ways = [experts.fit(expert, few, PULL, before, shared=way) for way in (True, False)]
    torch.testing.assert_close(ways[0].rows, ways[1].rows, rtol=0, atol=1e-5)
    torch.testing.assert_close(ways[0].missed, ways[1].missed, rtol=0, atol=1e-5)
    together = experts.fit(expert, few, PULL, shared=shared)
    for user in range(5):
        alone = experts.fit(expert[[user]], few[torch.tensor([user])], PULL)
        wide = alone.missed.shape[2]
        torch.testing.assert_close(together.rows[user], alone.rows[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together.missed[user, :, :wide], alone.missed[0], rtol=0, atol=1e-5)
        assert not together.missed[user, :, wide:].any()
    assert (together.rows.abs().amax(2) > 1e-3).tolist() == [
        [True, False, True], [True, False, True], [False] * 3, [True, False, False], [True, False, True]
    ]  # fmt: skip


def test_rows_are_where_the_objective_has_no_slope(experts, few):
    few.weight[:, 4:] = 0.3
    expert, before = torch.tensor([0, 1, 0, 1, 1]), torch.randn(5, 3, 13, generator=torch.Generator().manual_seed(1))
    rows = experts.fit(expert, few, PULL, before).rows.requires_grad_(True)
    slopes = torch.stack([experts.slopes[e][experts.place[e][few.photo[u]]] for u, e in enumerate(expert.tolist())])
    pull = torch.tensor([*[PULL] * 12, LEVEL])
    error = torch.where(few.y.isnan(), 0.0, torch.einsum("urdp,udp->urd", slopes, rows) - few.y.nan_to_num())
    value = (few.weight[..., None] * error.square()).sum() + (pull * (rows - 0.5 * before).square()).sum()
    (slope,) = torch.autograd.grad(value, rows)
    said = ~few.y.isnan().all(1)
    assert float(slope[said].abs().max()) < 1e-3
    assert torch.equal(rows[~said], before[~said])  # nothing was said of these


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_what_is_missed_is_missed_by_a_row_that_has_seen_the_ratings_before_it(experts, few, weight):
    expert, told = torch.zeros(1, dtype=torch.long), few[torch.tensor([4])]
    told.weight[0, :6] = weight
    before = torch.randn(1, 3, 13, generator=torch.Generator().manual_seed(1))
    found = experts.fit(expert, told, PULL, before)
    for k in (3, 7, 11):
        seen = told[torch.tensor([0])]
        seen.y[0, k:] = torch.nan
        rows = experts.fit(expert, seen, PULL, before).rows
        missed = told.y[0, k, 0] - experts.moved(expert, rows, told.photo)[0, k, 0]
        torch.testing.assert_close(found.missed[0, 0, k], missed, rtol=0, atol=1e-4)


def prior(noise: float = 1.0) -> Prior:
    """Of posture and appearance; what it says the tests make up."""
    zeros = lambda *shape: torch.zeros(shape, dtype=torch.float64)  # noqa: E731
    return Prior(zeros(3, 1), zeros(3, 1, 1), zeros(3) + noise, zeros(3), torch.tensor([9.0, 0, 9.0]))


def test_evidence_is_the_density_of_new_ratings_given_old_ones(experts):
    """Of one user, eight old ratings of which four count half, and four new ones."""
    given = ratings(experts, torch.ones(1, 12) / 4, each=12)
    given.weight[0, :4] = 0.5
    judged = torch.arange(12)[None] >= 8
    found = experts.fit(torch.zeros(1, dtype=torch.long), replace(given, y=given.y - 5), PULL)
    mean = torch.full_like(given.y, 5.0)
    current = mean + torch.randn(given.y.shape, generator=torch.Generator().manual_seed(4))
    told = evidence(found, given, judged, prior(1.7), mean, current)
    y, weight = given.y[0, :, 0].double(), given.weight[0].double()
    ours = -0.5 * (4 * math.log(2 * math.pi * 1.7) + float(found.missed[0, 0, 8:].double().square().sum()) / 1.7)

    def density(says: torch.Tensor, noise: float) -> float:
        """Of twelve ratings less that of eight, the level unknown; a rating of weight w has the noise of 1/w."""
        spread = 1.7 / LEVEL + noise * torch.diag(1 / weight)
        return sum(
            sign * MultivariateNormal(says[:n], spread[:n, :n]).log_prob(y[:n]).item() for sign, n in ((1, 12), (-1, 8))
        )

    flat = torch.full_like(y, 5.0)
    for rival, says in ((gate.CURRENT, current[0, :, 0].double()), (gate.PRIOR, flat), (gate.NOISE, flat)):
        assert told[0, 0, rival].item() == pytest.approx(ours - density(says, 1.7), abs=1e-3)
    assert not told[0, 1].any()


def test_real_tastes_are_told_from_noise_and_tastes_of_noise_are_not(experts):
    draw = torch.Generator().manual_seed(0)
    given = ratings(experts, torch.randn(24, 12, generator=draw) / 3)
    noise = given[torch.arange(24)]
    for user in range(24):
        noise.y[user] = noise.y[user, torch.randperm(30, generator=draw)]
    expert = torch.arange(24) % 2
    mean = torch.full_like(given.y, 5.0)
    shares = []
    for told in (given, noise):
        found = experts.fit(expert, replace(told, y=told.y - 5), PULL)
        said = evidence(found, told, ~told.y.isnan().all(2), prior(), mean, mean)
        assert not said[:, 1].any() and torch.equal(said[..., gate.CURRENT], said[..., gate.PRIOR])
        shares.append(float((said[:, 0] > 0.4).all(1).double().mean()))
    assert shares[0] > 0.7 and shares[1] <= 0.2


def test_entries_come_back_as_they_were(tmp_path):
    draw = torch.Generator().manual_seed(3)
    rows = torch.randn(4, 3, 10, generator=draw)
    axes = [{"first": torch.randn(1, 2, 5, generator=draw), "last": torch.randn(3, 2, 6, generator=draw)} for _ in range(2)]
    how = ["ann", "bob"], axes, 2, ["u", "v", "w", "x"], torch.tensor([0, 1, 1, 0]), 10
    bank = LoraBank.empty(*how)
    photos = [f"{k:064x}" for k in range(150)]
    y = 10 * torch.rand(150, 3, generator=draw)
    bank.keep(1, photos, y, torch.arange(150.0), torch.ones(150))
    shuffled = torch.randperm(150, generator=draw)
    again = LoraBank.empty(*how)
    again.keep(1, [photos[i] for i in shuffled], y[shuffled], shuffled.double(), torch.ones(150))
    assert torch.equal(again.y[1], bank.y[1]) and torch.equal(again.photo, bank.photo)

    bank.promote(torch.tensor([[True, False, False]] + [[False] * 3] * 3), rows)
    bank.save(tmp_path)
    part = OpenLora(tmp_path).part(["v", "stranger", "u", "v"])
    assert part.users == ["v", "u"] and part.rank == 2
    assert torch.equal(part.rows[1, 0], rows[0, 0]) and not part.rows[1, 1].any()
    assert all(torch.equal(part.axes[e][name], axes[e][name]) for e in range(2) for name in ("first", "last"))
    assert part.served.tolist() == [[False] * 3, [True, False, False]]
    ids, kept, at, _ = part.kept(0)
    assert len(ids) == KEPT and set(ids) <= set(photos)
    torch.testing.assert_close(kept[0].float(), y[photos.index(ids[0])])
    assert float(at[0]) == photos.index(ids[0])
    part.rollback(torch.tensor([1]))
    assert not part.rows.any() and not part.served.any()
    assert OpenLora(tmp_path).whole().without_users(["v"]).users == ["u", "w", "x"]
    assert OpenLora(tmp_path).part([]).rows.shape == (0, 3, 10)
