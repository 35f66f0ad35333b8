"""`physique explain`: a picture and what it says, on good and bad files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tasks.explain import arrow, explain_file
from tests.conftest import Checkout

pytestmark = pytest.mark.timeout(900)


def test_a_photo_is_explained(checkout: Checkout, tmp_path):
    photo = next(iter(sorted((checkout.folder / "data/mannequins/photos").glob("*5.jpg"))))
    out = tmp_path / "why.png"
    words = ("flows.cli", "explain", str(photo), "--user", "user-0001", "--out", str(out), "--json")
    said = json.loads(checkout.run(*words).stdout)
    assert said["known_user"] and said["picture"] == str(out)
    assert list(said["dimensions"]) == ["appearance", "health", "posture"]
    scores = json.loads(checkout.run("flows.cli", "predict", str(photo), "--user", "user-0001", "--json").stdout)
    for name, about in said["dimensions"].items():
        assert about["score"] == pytest.approx(scores["scores"][name], abs=2e-3)
        if 0 < about["score"] < 10:
            assert about["neutral_score"] + sum(about["gave"].values()) == pytest.approx(about["score"], abs=5e-3)
        if said["status"] == "ok":
            assert len(about["points_per_twentieth"]) == 15
            assert set(about["mesh_parts_per_cm"]) < set(about["photo_parts"])
    picture = Image.open(out)
    assert picture.width == 1200
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 1000


def test_nobody_is_explained_from_the_image_alone(checkout: Checkout, tmp_path):
    photo, out = tmp_path / "sea.png", tmp_path / "why.png"
    Image.fromarray(np.repeat(np.linspace(80, 200, 240, dtype=np.uint8)[:, None, None], 320, 1).repeat(3, 2)).save(photo)
    done = checkout.run("flows.cli", "explain", str(photo), "--out", str(out), "--user", "who")
    assert "user 'who' is not in the bank" in done.stderr
    assert f"{photo}: no person found; explained from the image alone" in done.stderr
    assert done.stdout.count("nobody found") == 6
    assert str(out) in done.stdout.replace("\n", "")
    assert Image.open(out).width == 1200


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("note.jpg", b"a text", "not an image"), ("missing.jpg", None, "No such file"), ("empty.jpg", b"", "empty file")],
)
def test_a_bad_file_is_one_line_and_a_failure(tmp_path, capsys, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert explain_file(tmp_path / name, None, tmp_path / "out.png", False) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and name in told and said in told
    assert not (tmp_path / "out.png").exists()


def test_a_picture_that_cannot_be_written_is_said_before_the_work(tmp_path):
    with pytest.raises(ValueError, match=r"--out: .*why.jpg does not end in .png"):
        explain_file(tmp_path / "a.jpg", None, tmp_path / "why.jpg", False)
    with pytest.raises(ValueError, match="--out: there is no folder"):
        explain_file(tmp_path / "a.jpg", None, tmp_path / "no" / "why.png", False)


@pytest.mark.parametrize(("right", "down", "shown"), [(1, 0, "→"), (-1, 0.1, "←"), (0, -1, "↑"), (2, 2, "↘")])
def test_arrows_point_where_the_score_rises(right, down, shown):
    assert arrow(np.array([right, down])) == shown
