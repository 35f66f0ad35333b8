import json

import numpy as np
import pytest
import torch
from bank_cases import made_bank

from model.bank import load_bank
from model.bank_files import crowded
from model.bank_opened import content_hash, open_bank


@pytest.fixture
def bank():
    return made_bank()[0]


@pytest.fixture
def folder(bank, tmp_path):
    bank.save(tmp_path / "bank")
    return tmp_path / "bank"


def same(one, two) -> bool:
    arrays = two.arrays()
    return one.users == two.users and one.surveys == two.surveys and all(
        torch.equal(value, arrays[name]) for name, value in one.arrays().items()
    )  # fmt: skip


def changed(bank, users, by=1.0):
    part = bank.part(users)
    part.weights += by
    return part


def test_any_users_in_any_order_are_read_as_they_were_saved(bank, folder):
    opened = open_bank(folder)
    assert len(opened) == 10 and opened.users == bank.users
    for users in (["u7"], ["u9", "u0", "u4"], []):
        assert same(opened.part(users), bank.part(users))
    assert opened.index([*(f"x{k}" for k in range(50)), "u3"]).tolist()[:50] == [-1] * 50
    with pytest.raises(KeyError, match="'nobody' is not in the bank"):
        opened.part(["u3", "nobody"])


def test_a_batch_of_mixed_users_is_answered_as_by_the_bank_in_memory(folder):
    bank, predictions, fused, _ = made_bank()
    opened, users = open_bank(folder), ["u4", "nobody", "u0", "u4", "u9"]
    for who in (users, users[1:2], users[:1]):
        n = len(who)
        one = bank.predict(predictions[:n], bank.index(who), fused[:n])
        two = opened.predict(predictions[:n], opened.index(who), fused[:n])
        for name in ("scores", "sd", "known"):
            torch.testing.assert_close(getattr(two, name), getattr(one, name), rtol=0, atol=0, equal_nan=True)


def test_reading_a_user_touches_no_other_row(folder):
    """Every other row is spoilt, and nobody notices until it is read."""
    opened = open_bank(folder)
    at = opened.entries[opened.index(["u6"])]["row"].item()
    path = opened.segments[0].path
    width = opened.layout.dtype.itemsize
    data = bytearray(path.read_bytes())
    for row in set(range(10)) - {at}:
        data[row * width + width // 2] ^= 255
    path.write_bytes(data)
    opened = open_bank(folder)
    assert opened.part(["u6"]).users == ["u6"]
    with pytest.raises(ValueError, match=rf"{path.name}: row \d+ is damaged"):
        opened.part(["u5"])
    with pytest.raises(ValueError, match=path.name):
        load_bank(folder)


def test_a_night_writes_the_rows_it_touched_and_links_the_rest(bank, folder, tmp_path):
    opened = open_bank(folder)
    parts = [changed(bank, ["u3", "u1"]), opened.starting(["new"], [{"q": "x"}])]
    after = opened.updated(parts, round=4, about={"stage": "continual"})
    expected = bank.updated([changed(bank, ["u3", "u1"]), bank.starting(["new"], [{"q": "x"}])], round=4)
    assert same(after.part(expected.users), expected)  # before it is saved, too
    after.save(tmp_path / "next")
    again = load_bank(tmp_path / "next")
    assert same(again, expected) and again.round == 4 and again.about == {"stage": "continual"}
    assert same(load_bank(folder), bank)  # the bank that came in is as it was
    old, new = (sorted(p.name for p in f.glob("rows-*.bin")) for f in (folder, tmp_path / "next"))
    assert len(old) == 1 and len(new) == 2 and set(old) < set(new)
    assert (folder / old[0]).samefile(tmp_path / "next" / old[0])
    fresh = next(tmp_path / "next" / name for name in new if name not in old)
    assert fresh.stat().st_size < 4 * opened.layout.dtype.itemsize


def test_the_same_night_in_parts_of_another_size_gives_the_same_bytes(bank, folder, tmp_path):
    users = ["u2", "u5", "u8"]
    whole, single = [changed(bank, users)], [changed(bank, [user]) for user in users]
    for name, parts in (("one", whole), ("two", single)):
        open_bank(folder).updated(parts, round=1).save(tmp_path / name)
    assert content_hash(tmp_path / "one") == content_hash(tmp_path / "two") != content_hash(folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_nights_that_follow_each_other_unsaved_equal_nights_saved_in_between(bank, folder, tmp_path):
    unsaved = open_bank(folder)
    for night in range(40):
        users = [f"u{night % 10}", f"u{night * 7 % 10}"]
        part = changed(unsaved, sorted(set(users)), night)
        unsaved = unsaved.updated([part], round=night)
        open_bank(tmp_path / "bank").updated([part], round=night).save(tmp_path / "bank")
    unsaved.save(tmp_path / "unsaved")
    assert content_hash(tmp_path / "unsaved") == content_hash(tmp_path / "bank")
    opened = open_bank(tmp_path / "bank")
    assert sum(len(s.rows) for s in opened.segments) <= 2 * len(opened)
    expected = bank
    for night in range(40):
        users = sorted({f"u{night % 10}", f"u{night * 7 % 10}"})
        expected = expected.updated([changed(expected, users, night)])
    assert same(load_bank(tmp_path / "bank"), expected)


def test_crowded_segments_are_those_half_dead_and_the_smaller_half_of_too_many():
    assert crowded([10, 4, 5, 0], [10, 10, 10, 10]) == [1]
    assert crowded([5, 1, 4, 2], [5, 1, 4, 2], most=3) == [1, 3]


def test_somebody_forgotten_leaves_no_byte_behind(bank, folder, tmp_path):
    opened = open_bank(folder)
    for k in range(3):  # rows of theirs lie dead in several segments
        opened = opened.updated([changed(opened, ["u3", f"u{k}"])])
    opened = opened.updated([changed(opened, ["u8"])])
    opened.save(tmp_path / "bank")
    opened = open_bank(tmp_path / "bank")
    theirs = [opened.part(["u3"]).weights.numpy().tobytes(), b'"u3"', bank.part(["u3"]).weights.numpy().tobytes()]
    held = b"".join(path.read_bytes() for path in (tmp_path / "bank").iterdir())
    assert all(piece in held for piece in theirs[:2])
    opened.without_users(["u3", "nobody"]).save(tmp_path / "bank")
    for path in (tmp_path / "bank").iterdir():
        data = path.read_bytes()
        assert not any(piece in data for piece in theirs), path.name
    left = load_bank(tmp_path / "bank")
    expected = opened.part([user for user in opened.users if user != "u3"])
    assert same(left, expected)


def test_everybody_may_go_and_somebody_come(folder, tmp_path):
    nobody = open_bank(folder).without_users([f"u{i}" for i in range(10)])
    nobody.save(tmp_path / "bank")
    opened = open_bank(tmp_path / "bank")
    assert len(opened) == 0 and opened.users == [] and len(load_bank(tmp_path / "bank")) == 0
    opened.updated([opened.starting(["first"], [{}])]).save(tmp_path / "bank")
    assert load_bank(tmp_path / "bank").users == ["first"]


def test_the_same_user_twice_in_one_night_is_refused(bank, folder):
    with pytest.raises(ValueError, match="twice"):
        open_bank(folder).updated([changed(bank, ["u1"]), changed(bank, ["u2", "u1"])])


@pytest.mark.parametrize("load", [open_bank, load_bank])
@pytest.mark.parametrize("name", ["bank.json", "index.npy", "shared.safetensors", "rows"])
def test_files_cut_short_missing_or_altered_are_named(folder, name, load):
    path = next(folder.glob("rows-*.bin")) if name == "rows" else folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=path.name):
        load(folder)
    path.unlink()
    with pytest.raises(ValueError, match=path.name):
        load(folder)
    if name != "rows":  # of rows: test_reading_a_user_touches_no_other_row
        path.write_bytes(whole.replace(b"\0", b"\1", 1) if name != "bank.json" else whole.replace(b"{", b"[", 1))
        with pytest.raises(ValueError, match=path.name):
            load(folder)


def test_a_save_that_fails_leaves_what_was_there(bank, folder, tmp_path):
    def broken():
        yield changed(bank, ["u1"])
        raise RuntimeError("killed")

    opened = open_bank(folder)
    with pytest.raises(RuntimeError, match="killed"):
        opened.updated(broken())
    next(iter(folder.glob("rows-*.bin"))).unlink()  # what is to be linked is not there any more
    with pytest.raises(OSError):
        opened.updated([changed(bank, ["u1"])]).save(folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bank"] and (folder / "bank.json").exists()


def test_another_format_says_what_to_do(folder):
    about = json.loads((folder / "bank.json").read_text())
    (folder / "bank.json").write_text(json.dumps(about | {"format": 2}))
    with pytest.raises(ValueError, match="bank format 2, this code reads 5: make it again"):
        open_bank(folder)


def test_a_row_costs_what_its_numbers_cost(bank, folder):
    """Triangles for symmetric matrices, cov in float32: no more than a small head besides."""
    d, p = bank.weights.shape[1:]
    numbers = 4 * 2 * d * p * (p + 1) // 2 + 8 * d * p * (p + 1) // 2 + 8 * 4 * d * p
    assert open_bank(folder).layout.dtype.itemsize < numbers + 400
    assert np.isfinite(open_bank(folder).part(["u1"]).cov.numpy()).all()
