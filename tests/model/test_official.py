"""Official checkpoints: every key there and back to the bit; whatever else is in a file is refused and nothing is run.

Most files here are whole checkpoints of 10 MB instead of 1.6 GB: each tensor is one number, expanded to its shape.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from model.compat import Compat
from model.official import Official, constants, current_names, full_frame, layout, read_official, to_official
from model.physique_frame import PhysiqueFrame
from model.state_files import BadCheckpoint, read_state

KEY = "pointmlp.embedding.net.0.weight"


@pytest.fixture(scope="module")
def bare() -> PhysiqueFrame:
    """The paper's network with random weights; its CLIP tower has shapes only."""
    return full_frame()


@pytest.fixture(scope="module")
def wanted(bare) -> dict[str, Official]:
    return layout(bare)


@pytest.fixture(scope="module")
def state(bare, wanted) -> dict[str, Tensor]:
    """A whole checkpoint of expanded numbers, each another one, with the backbone's true constants. To be copied."""
    computed = constants(bare)
    return {
        key: computed[key].reshape(known.shape)
        if key in computed
        else torch.full((1,), k / 4096).to(known.dtype).view([1] * len(known.shape)).expand(known.shape)
        for k, (key, known) in enumerate(wanted.items())
    }


def saved(path: Path, state: object, **options: bool) -> Path:
    torch.save(state, path, **options)
    return path


def refused(path: Path, *words: str) -> None:
    """Refused in one line that names the file and holds these words."""
    with pytest.raises(BadCheckpoint) as caught:
        PhysiqueFrame.from_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 1000, text
    for word in words:
        assert word in text, (word, text)


# The layout, and there and back


def test_the_layout_is_the_manifests(wanted, reference):
    manifest = json.loads((reference / "manifest.json").read_text())
    theirs = {key: (tuple(shape), getattr(torch, dtype)) for key, (shape, dtype) in manifest["state_dict"].items()}
    assert len(theirs) == manifest["n_keys"] == 1131
    assert {key: (known.shape, known.dtype) for key, known in wanted.items()} == theirs


def test_every_key_is_loaded_or_dropped_for_a_reason(bare, wanted):
    assert len(wanted) == 1131
    assert all(bool(known.ours) != bool(known.dropped) for known in wanted.values())
    loaded = [known.ours for known in wanted.values() if known.ours]
    assert len(set(loaded)) == len(loaded)
    # timm's tower has a bias that the official projection has not
    assert set(bare.state_dict()) - set(loaded) == {"clip.head.bias"} and set(loaded) <= set(bare.state_dict())
    dropped = [key for key, known in wanted.items() if known.dropped]
    assert len(dropped) == 96 and set(constants(bare)) < set(dropped)


def test_a_checkpoint_comes_back_to_the_bit(official_file):
    """What is dropped too: its numbers are kept beside the network."""
    theirs = read_state(official_file)
    frame, unused = read_official(official_file)
    ours = to_official(frame, unused)
    assert set(ours) == set(theirs) and len(ours) == 1131
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype and torch.equal(ours[key], value), key
    assert sum(bool(value.any()) for value in unused.values()) == len(unused) == 46
    without = to_official(frame, {})
    assert set(without) == set(theirs)
    changed = {key for key, value in theirs.items() if not torch.equal(without[key], value)}
    assert changed == set(unused)  # zeros in their place; nothing else


def test_the_tower_is_frozen_in_training(bare):
    bare.train()
    assert bare.posture.training and not any(module.training for module in bare.clip.modules())
    assert not any(parameter.requires_grad for parameter in bare.clip.parameters())
    assert bare.eval().posture.training is False


def test_an_imported_frame_is_ready_to_score(state, wanted, tmp_path):
    """From a wrapped file of several GPUs, in half precision, with the old names of the heads: all at once."""
    given = {}
    for key, value in state.items():
        for old, new in (
            ("pam_classifier.", "appearance_classifier."),
            ("pam_shape_classifier.", "health_classifier."),
            ("pam_pose_classifier.", "posture_classifier."),
        ):
            key = key.replace(new, old)
        half = value.dtype.is_floating_point and not any(value.stride())  # one number
        given[f"module.{key}"] = value[(0,) * value.ndim].half().expand(value.shape) if half else value
    path = saved(tmp_path / "wrapped.pth", {"state_dict": given, "epoch": 3})
    assert path.stat().st_size < 2e7 and not any("appearance_classifier" in key for key in given)
    frame = PhysiqueFrame.from_checkpoint(path, compat="reference")
    assert frame.compat == Compat.of("reference") and not frame.training and frame.config.size == "full"
    ours = frame.state_dict()
    for key, known in wanted.items():
        if known.ours:
            value = ours[known.ours]
            assert value.dtype == known.dtype and not value.requires_grad
            assert value.flatten()[0] == value.flatten()[-1] == state[key].half().float().flatten()[0], key
    assert not any(parameter.requires_grad for parameter in frame.parameters())


@pytest.mark.parametrize("wrapper", ["", "state_dict", "model", "network", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_and_prefixes_are_taken_off(tmp_path, wrapper, prefix):
    given = {f"{prefix}{name}": torch.tensor([float(k)]) for k, name in enumerate(("a.weight", "b"))}
    path = saved(tmp_path / "file.pth", {wrapper: given, "epoch": 1} if wrapper else given)
    found = read_state(path)
    assert {key: float(value) for key, value in found.items()} == {"a.weight": 0.0, "b": 1.0}


def test_a_prefix_of_some_keys_is_their_name(tmp_path):
    path = saved(tmp_path / "file.pth", {"module.a": torch.zeros(1), "b": torch.zeros(1)})
    assert set(read_state(path)) == {"module.a", "b"}


def test_older_names_are_the_newer_ones():
    old = {"pam_classifier.0.bias": 1, "pam_shape_classifier.0.bias": 2, "pam_pose_classifier.0.bias": 3, "pam.x": 4}
    new = {"appearance_classifier.0.bias": 1, "health_classifier.0.bias": 2, "posture_classifier.0.bias": 3, "pam.x": 4}
    assert current_names(old) == new and current_names(new) == new


@pytest.mark.parametrize("kind", ["zip", "older", "safetensors"])
def test_every_kind_of_file_is_read(tmp_path, kind):
    from safetensors.torch import save_file

    given = {"a.weight": torch.arange(6.0).view(2, 3), "n": torch.tensor(7)}
    path = tmp_path / "file"
    if kind == "safetensors":
        save_file(given, path)
    else:
        torch.save(given, path, _use_new_zipfile_serialization=kind == "zip")
    found = read_state(path)
    assert set(found) == set(given) and all(torch.equal(found[key], given[key]) for key in given)


# What is in a file but should not be


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def torchscript_of(path: Path, tree: object) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(()))
        archive.writestr("archive/data.pkl", pickle.dumps(tree))
    return path


@pytest.mark.parametrize("kind", ["zip", "older", "pickle", "torchscript"])
@pytest.mark.parametrize("where", ["alone", "beside", "inside"])
def test_nothing_in_a_file_is_run(tmp_path, kind, where):
    bomb = Bomb(tmp_path / "exploded")
    given = {"alone": bomb, "beside": {"state_dict": {KEY: torch.zeros(1)}, "args": bomb}, "inside": {KEY: [bomb]}}[where]
    path = tmp_path / "model.pth"
    if kind == "torchscript":
        torchscript_of(path, given if where != "beside" else {"args": bomb})
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(given))
    else:
        torch.save(given, path, _use_new_zipfile_serialization=kind == "zip")
    refused(path)
    assert not bomb.folder.exists()
    pickle.loads(pickle.dumps(bomb))
    assert bomb.folder.exists()  # it would have worked


def test_who_asks_for_more_than_tensors_is_told_so(tmp_path):
    path = saved(tmp_path / "model.pth", {KEY: torch.zeros(1), "args": Bomb(tmp_path / "exploded")})
    refused(path, "holds more than tensors (", "mkdir); nothing was run")


def test_a_flipped_byte_is_refused(tmp_path):
    """torch.load would take another number for what was saved: it compares no checksums."""
    path = tmp_path / "flipped.pth"
    torch.save({"vit.class_embedding": torch.full((1024,), 1.0)}, path)
    data = bytearray(path.read_bytes())
    at = data.index(torch.full((8,), 1.0).numpy().tobytes())
    data[at + 2] ^= 0x20
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["vit.class_embedding"].unique().numel() == 2
    refused(path, "is not what was saved")


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["zip", "older", "safetensors", "torchscript"])
def test_a_truncated_file_is_refused(tmp_path, kind, keep):
    from safetensors.torch import save_file

    path, given = tmp_path / "model.pth", {f"layer{k}.weight": torch.randn(30, 30) for k in range(20)}
    if kind == "safetensors":
        save_file(given, path)
    elif kind == "torchscript":
        torchscript_of(path, [b"x" * 20000])
    else:
        torch.save(given, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    refused(path, "safetensors" if kind == "safetensors" else "truncated")
    path.write_bytes(whole[:-1])
    refused(path)


def garbage(count: int) -> bytes:
    return np.random.default_rng(0).bytes(count)


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("word/document.xml", "<document/>")
    return stream.getvalue()


def arrays() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty file"),
        (b"epoch 3, loss 0.2\n" * 50, "not a weights file"),
        (b'{"a": 1, {"b": 2}}' * 50, "not a weights file"),
        (b"weights {and more text than that}", "damaged safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1647714845\n", "not a weights file"),
        (picture(), "not a weights file"),
        (zipped(), "damaged or truncated"),
        (arrays(), "damaged or truncated"),
        (garbage(1000), "not a weights file"),
        (b"PK" + garbage(1000), "truncated"),
        (b"\x80\x02" + garbage(1000), "damaged, or not a file of torch.save"),
        (pickle.dumps({KEY: [0.0]}, 2), "damaged or truncated"),
        (pickle.dumps({KEY: [0.0]}, 4), "damaged, or not a file of torch.save"),
        (struct.pack("<Q", 1 << 60) + b"{" + garbage(1000), "damaged safetensors file"),
        (struct.pack("<Q", 30) + b'{"a": {"dtype": "F32", "shap', "damaged safetensors file"),
    ],
    ids=[
        "empty",
        "text",
        "json",
        "text with a brace",
        "lfs",
        "png",
        "zip",
        "npz",
        "bytes",
        "PK",
        "pickled",
        "pickle 2",
        "pickle 4",
        "header",
        "cut",
    ],
)
def test_other_files_are_refused(tmp_path, content, said):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    refused(path, said)


def test_what_is_no_file_is_refused(tmp_path):
    refused(tmp_path / "none.pth", "no such file")
    refused(tmp_path, "no such file")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({KEY: torch.zeros(1), "epoch": 3}, "'epoch' is a int, expected a tensor"),
        ({KEY: [torch.zeros(1)]}, f"{KEY!r} is a list, expected a tensor"),
        ({7: torch.zeros(1)}, "7 is a Tensor"),
        ([torch.zeros(1)], "holds a list, expected a state dict"),
        (torch.zeros(3), "holds a Tensor, expected a state dict"),
        ({}, "holds a dict, expected a state dict"),
        ({"state_dict": {}}, "holds a dict, expected a state dict"),
        ({KEY: torch.zeros(3, 3).to_sparse()}, f"{KEY} is not a plain tensor"),
        ({KEY: torch.zeros(3, device="meta")}, f"{KEY} is not a plain tensor"),
        ({"a": torch.zeros(3), "b": torch.zeros(2)}, "missing: adapter.fc.0.weight"),
    ],
    ids=["number", "list inside", "key", "list", "tensor", "empty", "wrapped", "sparse", "meta", "other network"],
)
def test_what_is_no_state_dict_is_refused(tmp_path, given, said):
    refused(saved(tmp_path / "model.pth", given), said)


def test_a_torchscript_of_something_else_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.script(nn.Linear(2, 3)).save(str(path))
    assert set(read_state(path)) == {"weight", "bias"}  # its tensors are read, its program is not run
    refused(path, "not a whole PhysiqueFrame checkpoint", "missing", "unknown: bias, weight")


# Whole files with one thing wrong


def without(*keys: str) -> Callable[[dict], dict]:
    return lambda state: {key: value for key, value in state.items() if key not in keys}


def having(key: str, value: Tensor) -> Callable[[dict], dict]:
    return lambda state: {**state, key: value}


def one(number: float, *shape: int) -> Tensor:
    return torch.tensor(number).expand(shape)


HEAD = "health_classifier.8.bias"
TABLE = "pam.encoder_sample.layers.0.blocks.0.attn.relative_coords_table"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without(KEY), [f"missing: {KEY}"]),
        (
            without("vit.proj", "pam.keypoint_head.kpt_branch.2.mlp.6.bias"),
            ["missing: pam.keypoint_head.kpt", ", vit.proj"],
        ),
        (having("vit.proj.bias", one(0.0, 768)), ["unknown: vit.proj.bias"]),
        (having(KEY, one(0.0, 32, 3)), [f"misshapen: {KEY} is (32, 3), expected (32, 3, 1)"]),
        (having(HEAD, one(0.0, 3)), [f"{HEAD} is (3,), expected (1,)"]),
        (having("pam_shape_classifier.8.bias", one(0.0, 1)), ["unknown: pam_shape_classifier.8.bias"]),
        (having(KEY, one(float("nan"), 32, 3, 1)), [KEY, "not finite"]),
        (having(HEAD, one(float("inf"), 1)), [HEAD, "not finite"]),
        (having(HEAD, torch.tensor([1e300], dtype=torch.float64)), [HEAD, "not finite"]),
        (having(KEY, one(0, 32, 3, 1)), [f"{KEY} holds torch.int64, expected torch.float32"]),
        (having(HEAD, torch.zeros(1, dtype=torch.complex64)), [f"{HEAD} holds torch.complex64"]),
        (having("health_classifier.1.num_batches_tracked", torch.tensor(1.0)), ["tracked holds torch.float32"]),
        (having("health_classifier.1.num_batches_tracked", torch.tensor(1j)), ["tracked holds torch.complex64"]),
        (having(TABLE, one(0.5, 1, 27, 27, 2)), [TABLE, "not the constant"]),
    ],
)
def test_a_file_with_one_thing_wrong_is_refused(state, tmp_path, change, said):
    refused(saved(tmp_path / "model.pth", change(state)), *said)


def test_everything_wrong_is_named_at_once(state, tmp_path):
    some = sorted(key for key in state if key.startswith("layernorm_x") or key.startswith("groupnorm") or "fc" in key)[:7]
    given = {key: value for key, value in state.items() if key not in some} | {"what": one(0.0, 2), KEY: one(0.0, 5)}
    words = [f"missing: {', '.join(sorted(some)[:5])} and 2 more", "unknown: what", f"misshapen: {KEY} is (5,)"]
    refused(saved(tmp_path / "model.pth", given), "not a whole PhysiqueFrame checkpoint", *words)


def test_a_compat_that_does_not_exist(state, tmp_path):
    path = saved(tmp_path / "model.pth", state)
    with pytest.raises(ValueError, match="compat: 'old' is not a setting; there are 'fixed' and 'reference'"):
        PhysiqueFrame.from_checkpoint(path, compat="old")
