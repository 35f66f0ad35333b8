"""Cross-fitted evidence never rests on what a model has seen; entries come back from disk as they were."""

import pytest
import torch

from model.lora import Base, LoraSettings, Streams, padded
from model.lora_bank import KEPT, LoraBank, OpenLora
from model.lora_users import FOLDS, LEFT_OUT, Experts, cross_fitted, evidence, folds

SETTINGS = LoraSettings(rank=2, pull=0.5, steps=40, lr=0.03)


@pytest.fixture(scope="module")
def experts() -> Experts:
    """Two experts with layers of random numbers, 16 wide, and 60 photos."""
    draw = torch.Generator().manual_seed(2)

    def some(*shape: int, by: float = 0.3) -> torch.Tensor:
        return by * torch.randn(shape, generator=draw)

    bases = [
        Base(
            some(4, 12), some(12, 4), torch.ones(12), torch.zeros(12), some(3, 8, 16), some(3, 8),
            some(3, 6, 8), some(3, 6), some(3, 1, 6), some(3, 1), 1e-5,
        )
        for _ in range(2)
    ]  # fmt: skip
    vector = some(60, 1, 12, by=1.0).expand(-1, 2, -1).contiguous()
    said = Streams(vector, some(60, 1, 4, by=1.0).expand(-1, 2, -1).contiguous())
    return Experts(bases, [said, said])


def ratings(experts: Experts, taste: torch.Tensor, each: int = 30):
    """Users rate `each` random photos by what their linear taste (U, 12) makes of the photo's vector."""
    draw = torch.Generator().manual_seed(7)
    photo = torch.cat([torch.randperm(60, generator=draw)[:each] for _ in taste])
    user = torch.arange(len(taste)).repeat_interleave(each)
    liked = (experts.said[0].vector[photo, 0] * taste[user]).sum(1)
    y = (5 + liked)[:, None].expand(-1, 3).clone()
    y[:, 1] = torch.nan
    return padded(user, photo, y, torch.ones(len(y)), len(taste))


def test_real_tastes_have_gains_and_tastes_of_noise_have_none(experts):
    draw = torch.Generator().manual_seed(0)
    taste = torch.randn(24, 12, generator=draw)
    given = ratings(experts, taste)
    noise = given[torch.arange(24)]
    noise.y = torch.where(noise.y.isnan(), noise.y, 10 * torch.rand(noise.y.shape, generator=draw))
    expert = torch.arange(24) % 2
    fold = folds(given, ~given.y.isnan().all(2))
    assert torch.bincount(fold[0]).tolist() == [6] * FOLDS
    rival = experts.scores(expert, experts.layout(2).start(24), given.photo, 2)
    gains = []
    for told in (given, noise):
        found = cross_fitted(experts, expert.expand(len(LEFT_OUT), -1), told, fold, SETTINGS)
        (said,) = evidence(found, fold, told.y, [rival])
        assert said.ratings.tolist() == [[30.0, 0.0, 30.0]] * 24
        assert said.variance[:, 1].isinf().all()
        gains.append(said.gain[:, 0])
    real, none = gains
    assert float(real.mean()) > 0.15
    assert abs(float(none.mean())) < 3 * float(none.std()) / 24**0.5


def test_a_pair_is_ordered_by_models_that_have_not_seen_it(experts):
    given = ratings(experts, torch.randn(2, 12, generator=torch.Generator().manual_seed(1)), each=10)
    fold = folds(given, ~given.y.isnan().all(2))
    expert = torch.zeros(len(LEFT_OUT), 2, dtype=torch.long)
    before = cross_fitted(experts, expert, given, fold, SETTINGS)
    changed = given[torch.arange(2)]
    changed.y[0, (fold[0] == 1), 0] = 0.0
    after = cross_fitted(experts, expert, changed, fold, SETTINGS)
    same = [torch.equal(one[0], two[0]) for one, two in zip(before, after)]
    assert same == [1 in pair for pair in LEFT_OUT]
    torch.testing.assert_close(before[:, 1], after[:, 1])


def test_what_is_known_already_is_trained_on_and_not_judged(experts):
    given = ratings(experts, torch.ones(1, 12), each=12)
    judged = torch.arange(12)[None] >= 8
    fold = folds(given, judged)
    assert fold.tolist() == [[-1] * 8 + [0, 1, 2, 3]]
    rival = torch.zeros(1, 12, 3)
    found = cross_fitted(experts, torch.zeros(len(LEFT_OUT), 1, dtype=torch.long), given, fold, SETTINGS)
    (said,) = evidence(found, fold, given.y, [rival])
    assert said.ratings.tolist() == [[4.0, 0.0, 4.0]]


def test_entries_come_back_as_they_were(tmp_path):
    draw = torch.Generator().manual_seed(3)
    rows = torch.randn(4, 3, 10, generator=draw)
    bank = LoraBank.empty(["ann", "bob"], 2, ["u", "v", "w", "x"], torch.tensor([0, 1, 1, 0]), rows)
    photos = [f"{k:064x}" for k in range(150)]
    y = 10 * torch.rand(150, 3, generator=draw)
    bank.keep(1, photos, y, torch.arange(150.0), torch.ones(150))
    shuffled = torch.randperm(150, generator=draw)
    again = LoraBank.empty(["ann", "bob"], 2, ["u", "v", "w", "x"], torch.tensor([0, 1, 1, 0]), rows)
    again.keep(1, [photos[i] for i in shuffled], y[shuffled], shuffled.double(), torch.ones(150))
    assert torch.equal(again.y[1], bank.y[1]) and torch.equal(again.photo, bank.photo)

    bank.promote(torch.tensor([[True, False, False]] + [[False] * 3] * 3), rows + 1)
    bank.save(tmp_path)
    part = OpenLora(tmp_path).part(["v", "stranger", "u", "v"])
    assert part.users == ["v", "u"] and part.rank == 2
    assert torch.equal(part.rows[1, 0], rows[0, 0] + 1) and torch.equal(part.rows[1, 1], rows[0, 1])
    assert part.served.tolist() == [[False] * 3, [True, False, False]]
    ids, kept, at, _ = part.kept(0)
    assert len(ids) == KEPT and set(ids) <= set(photos)
    torch.testing.assert_close(kept[0].float(), y[photos.index(ids[0])])
    assert float(at[0]) == photos.index(ids[0])
    part.rollback(torch.tensor([1]))
    assert torch.equal(part.rows[1], rows[0]) and not part.served.any()
    assert OpenLora(tmp_path).whole().without_users(["v"]).users == ["u", "w", "x"]
    assert OpenLora(tmp_path).part([]).rows.shape == (0, 3, 10)
