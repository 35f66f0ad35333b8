import pytest
import torch
from bank_cases import made_bank

from model import gate
from model.bank import load_bank


@pytest.fixture
def bank():
    return made_bank()


def test_comes_back_from_disk_as_it_was(bank, tmp_path):
    bank, predictions, fused, _ = bank
    bank.about = {"stage": "finetune"}
    bank.save(tmp_path / "bank")
    bank.save(tmp_path / "bank")  # over itself
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bank"]
    again = load_bank(tmp_path / "bank")
    assert again.users == bank.users and again.surveys == bank.surveys and again.about == bank.about
    for name, value in bank.arrays().items():
        assert torch.equal(again.arrays()[name], value), name
    index = torch.tensor([3, -1, 7])
    one, two = (b.predict(predictions[:3], index, fused[:3]) for b in (bank, again))
    assert torch.equal(one.scores.nan_to_num(), two.scores.nan_to_num())
    best = [b.selection.choose(b.surveys, b.stats)[1] for b in (bank, again)]
    assert torch.equal(*best)


def test_same_bank_same_bytes(bank, tmp_path):
    for name in ("one", "two"):
        bank[0].save(tmp_path / name)
    for file in (path.name for path in (tmp_path / "one").iterdir()):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_mixed_users_in_one_batch_equal_one_at_a_time(bank):
    bank, predictions, fused, _ = bank
    index = bank.index(["u4", "nobody", "u0", "u4", "u9"])
    assert index.tolist() == [4, -1, 0, 4, 9]
    batch = bank.predict(predictions[:5], index, fused[:5])
    assert batch.known.tolist() == [True, False, True, True, True]
    for i in range(5):
        single = bank.predict(predictions[i : i + 1], index[i : i + 1], fused[i : i + 1])
        torch.testing.assert_close(single.scores[0], batch.scores[i], equal_nan=True)
    assert batch.scores[:, 1].isnan().all() and batch.sd[:, 1].isnan().all()
    assert ((batch.scores[:, [0, 2]] >= 0) & (batch.scores[:, [0, 2]] <= 10)).all()
    assert (batch.sd[:, [0, 2]] > 0).all()


def test_unknown_user_gets_the_prior_and_an_empty_bank_answers(bank):
    bank, predictions, fused, _ = bank
    phi = bank.basis.phi(predictions[:2], fused[:2])
    expected = (phi * bank.prior.mean).sum(-1).clamp(0, 10)
    nobody = bank.without_users(bank.users)
    for which in (bank, nobody):
        got = which.predict(predictions[:2], torch.tensor([-1, -1]), fused[:2])
        torch.testing.assert_close(got.scores[:, [0, 2]], expected[:, [0, 2]])
        assert not got.known.any()


def test_promotion_serves_only_what_passed_and_rollback_undoes_it(bank):
    bank, _, _, mean = bank
    assert torch.equal(bank.weights[:6, 0], mean[:6, 0])
    assert torch.equal(bank.weights[:6, 2], bank.prior_mean[:6, 2])
    assert torch.equal(bank.weights[6:], bank.prior_mean[6:])
    assert bank.version.tolist() == [1] * 6 + [0] * 4
    bank.rollback(torch.tensor([2, 8]))
    assert torch.equal(bank.weights[2], bank.prior_mean[2])
    assert bank.version[2] == 0 and bank.version[8] == 0 and bank.version[3] == 1


def test_users_come_and_go(bank):
    bank, *_ = bank
    more = bank.updated([bank.starting(["new"], [{"q": "x"}])])
    assert more.users[-1] == "new" and more.stats.n[-1].sum() == 0
    assert (more.reason[-1] == gate.NO_NEWS).all()
    assert torch.equal(more.weights[:10], bank.weights)
    fewer = more.without_users(["u3"])
    assert "u3" not in fewer.users and torch.equal(fewer.weights[3], bank.weights[4])
    assert all(len(value) == 10 for value in fewer.arrays().values())


def test_delta_is_what_differs_from_the_expert(bank):
    bank, predictions, fused, _ = bank
    phi = bank.basis.phi(predictions, fused)
    expert = bank.basis.expert_weights()[bank.expert]
    total = torch.einsum("ndp,udp->und", phi, expert + bank.delta())
    torch.testing.assert_close(total, torch.einsum("ndp,udp->und", phi, bank.weights))


def test_a_folder_that_is_no_bank_says_so(tmp_path):
    with pytest.raises(ValueError, match="is not a bank"):
        load_bank(tmp_path)
