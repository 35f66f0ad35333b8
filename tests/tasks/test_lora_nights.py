"""Nights of low-rank entries: who was heard of, who is learned anew, what is written down."""

import torch

from tasks.lora_nights import LoraNights
from tests.tasks.test_lora_stages import CONFIG, DIMENSIONS, first, made

__all__ = ["first", "made"]


def nights(made, first, folder) -> LoraNights:
    bank, lora, _, _ = first
    lora.save(folder)
    from model.lora_bank import OpenLora

    return LoraNights(made.network, CONFIG, OpenLora(folder), OpenLora(folder).whole())


def test_two_nights_then_learned_anew_is_as_if_the_first_had_not_been(made, first, tmp_path):
    bank, before, _, _ = first
    some = ["u05", "u07"]
    one = made.ratings(40, 46, [5, 7])
    two = made.ratings(46, 52, [5, 7])
    for ratings in (one, two):
        ratings.user = (ratings.user == 7).long()
    going = nights(made, first, tmp_path)
    going.learn(some, one, [], {}, bank, made.photos)
    assert going.lora.users == [user for user in before.users if user not in some] + some
    assert len(going.lora.kept(int(going.lora.index(["u05"])[0]))[0]) == 46
    others = [user for user in before.users if user not in some]
    assert torch.equal(going.lora.take(going.lora.index(others)).rows, before.take(before.index(others)).rows)
    going.learn(some, two, ["u07"], {}, bank, made.photos)  # what u07 said the first night is deleted

    only = nights(made, first, tmp_path)
    only.learn(some, two, [], {}, bank, made.photos)
    mine, wanted = (each.lora.take(each.lora.index(["u07"])) for each in (going, only))
    torch.testing.assert_close(mine.rows, wanted.rows, rtol=0, atol=1e-5)
    assert torch.equal(mine.photo, wanted.photo) and torch.equal(mine.reason, wanted.reason)
    assert len(going.lora.kept(int(going.lora.index(["u05"])[0]))[0]) == 52


def test_what_is_written_down_of_a_night(made, first, tmp_path):
    bank, *_ = first
    ratings = made.ratings(40, 47, [2, 9])
    ratings.user = (ratings.user == 9).long()
    going = nights(made, first, tmp_path)
    rated = torch.tensor([True, False, True])
    assert going.summary(rated) == {"promoted": 0, "entries": {}} and going.entries(rated).num_rows == 0
    going.learn(["u02", "u09"], ratings, [], {"u09": 0.5}, bank, made.photos)
    said = going.summary(rated)
    assert set(said["entries"]) == {DIMENSIONS[0], DIMENSIONS[2]}
    assert all(sum(each.values()) == 2 for each in said["entries"].values())
    table = going.entries(rated)
    assert table.num_rows == 4 and table["ratings"].to_pylist() == [47] * 4
    weight = going.lora.kept(int(going.lora.index(["u09"])[0]))[3]
    assert sorted(weight.tolist()) == [0.5] * 40 + [1.0] * 7
