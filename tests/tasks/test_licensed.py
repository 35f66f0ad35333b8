"""Files that come from others: what is named, what is wrong with it, and SMPLer-X's checkpoint brought to safetensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from flows.cli import app
from model.extract import Recipe
from model.smpler_checkpoint import read_smpler_x
from model.state_files import BadCheckpoint
from tasks.licensed import check_all, lines
from tasks.params import load_params
from tasks.weights import import_file, summary
from tests.bodies import body_file
from tests.model.smpler_cases import made_up_state

__all__ = ["body_file"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "smpler_x_s32.pth.tar"
    torch.save({"network": {f"module.{key}": value for key, value in made_up_state().items()}, "epoch": 1}, path)
    return path


def params(**mesh: object):
    whole = load_params()
    return whole.model_copy(update={"mesh": whole.mesh.model_copy(update=mesh)})


def found(given, setting: str):
    return next(each for each in check_all(given) if each.setting == setting)


def test_without_any_file_everything_has_a_stand_in():
    said = check_all(load_params())
    assert not any(each.broken or each.path for each in said)
    assert all(each.found == "not named" and each.without and each.published for each in said)
    assert [each.setting for each in said][:2] == ["body.model", "mesh.weights"]
    done = CliRunner().invoke(app, ["weights", "check"])
    assert done.exit_code == 0 and "body.model" in done.output and "stand-in body model" in done.output


def test_a_checkpoint_that_loads(weights):
    one = found(params(network="s32", weights=str(weights)), "mesh.weights")
    assert not one.broken and one.found == "loads: s32, 223 keys"
    one = found(params(weights=str(weights)), "mesh.weights")
    assert one.broken and "but mesh.network is tiny, which takes no weights" in one.found
    assert found(params(detector="onnx"), "mesh.detector_weights").found == "not named, and needed"


def test_what_is_wrong_is_told(tmp_path, weights):
    assert found(params(network="h32"), "mesh.weights").found == "not named, and needed"
    one = found(params(network="b32", weights=str(weights)), "mesh.weights")
    assert one.broken and one.found == "is of size s32, but mesh.network is b32"
    assert found(params(network="s32", weights=str(tmp_path / "none.pth.tar")), "mesh.weights").found == "no such file"
    state = made_up_state()
    state.pop("body_regressor.cam_out.0.bias")
    torch.save(state, tmp_path / "cut.pth.tar")
    one = found(params(network="s32", weights=str(tmp_path / "cut.pth.tar")), "mesh.weights")
    assert one.broken and "missing: body_regressor.cam_out.0.bias" in one.found
    (text,) = [line for line in lines([one]) if "missing" in line]
    assert "[red]" in text and "\n" not in text


def test_a_checkpoint_becomes_safetensors_and_keeps_its_identity(tmp_path, weights, body_file):
    about = import_file(weights, tmp_path, "fixed")
    assert about["kind"] == "smpler_x_s32" and about["loaded"] == 223
    assert "smpler_x_s32 of smpler_x_s32.pth.tar" in summary(about)
    file = tmp_path / about["files"][0]
    ours, theirs = read_smpler_x(file, "s32"), read_smpler_x(weights, "s32")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    as_it_was = Recipe(str(body_file), "", "s32", str(weights), detector="hog")
    imported = Recipe(str(body_file), "", "s32", str(file), detector="hog")
    assert as_it_was.identity() == imported.identity()


def test_a_checkpoint_of_no_known_size(tmp_path):
    state = {key: value for key, value in made_up_state().items() if ".blocks.11." not in key}
    torch.save(state, tmp_path / "odd.pth.tar")
    with pytest.raises(BadCheckpoint, match="an SMPLer-X of width 384 and depth 11; there are s32: 384, 12"):
        import_file(tmp_path / "odd.pth.tar", tmp_path / "out", "fixed")
    assert not (tmp_path / "out").exists()
