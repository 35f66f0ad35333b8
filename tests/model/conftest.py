"""Bodies, photos, training crops, a mesh network and an official checkpoint, each made once."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.mesh_net import MeshNet, load_mesh_net, save_mesh_net
from model.official import constants, full_frame
from model.physique_frame import PhysiqueFrame
from tasks.mannequins.photos import Photo, photos
from tasks.mannequins.render import Renderer
from tasks.train_mesh_net import START, load_crops, render_chunk
from tests.bodies import body, body_file, renderer

__all__ = ["body", "body_file", "renderer"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """What is computed here is small: threads that wait for each other on a busy machine cost more than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def mannequins(body_file: Path, renderer: Renderer) -> list[Photo]:
    """Twelve photos of people, 192×256 px."""
    return list(photos(body_file, 5, 0, 12, renderer=renderer, nobody=0.0, unreadable=0.0))


@pytest.fixture(scope="session")
def crops(body_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """16 training crops as `MeshNet.loss` takes them: images (16, 3, 128, 96) in [0, 1], and the targets."""
    path = tmp_path_factory.mktemp("crops") / "crops.npz"
    render_chunk(str(body_file), str(path), 0, 16, 3)
    read = load_crops([path])
    return {**read, "images": read["images"].float() / 255}


@pytest.fixture(scope="session")
def net() -> MeshNet:
    """The network of the shipped weights; tests leave it as it is."""
    return load_mesh_net(START)


@pytest.fixture(scope="session")
def net_folder(net: MeshNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network, saved."""
    folder = tmp_path_factory.mktemp("mesh_net")
    save_mesh_net(net, folder, {"trained_on": "mannequins"})
    return folder


@pytest.fixture(scope="session")
def reference(shared: Path) -> Path:
    """The folder with what the reference computes: manifest.json, fill.py, golden_*.npz."""
    folder = shared / "reference/physiqueframe"
    if not (folder / "fill.py").is_file():
        pytest.skip(f"no {folder}: what the reference computes is not to be had here")
    return folder


def filled(reference: Path) -> dict[str, Tensor]:
    """All 1,131 tensors of an official checkpoint, 1.6 GB, with the made-up weights that the goldens were computed with."""
    spec = importlib.util.spec_from_file_location("fill", reference / "fill.py")
    assert spec is not None and spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    layout = json.loads((reference / "manifest.json").read_text())["state_dict"]
    state = fill.state_dict_from_manifest(reference / "manifest.json")
    computed = constants(full_frame(clip=False))
    for place, key in enumerate(sorted(set(layout) - set(state))):
        # What is not filled is a constant of the backbone or a counter; each counter is another number.
        state[key] = computed[key].cpu() if key in computed else torch.tensor(place)
    return {key: state[key] for key in layout}


@pytest.fixture(scope="session")
def official_file(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """That checkpoint as a file; gone afterwards, pytest would keep three of them."""
    path = tmp_path_factory.mktemp("official") / "official.pth"
    torch.save(filled(reference), path)
    yield path
    path.unlink()


@pytest.fixture(scope="session")
def official(official_file: Path) -> PhysiqueFrame:
    """That checkpoint, imported. Tests may `set_compat`, all else they leave as it is."""
    return PhysiqueFrame.from_checkpoint(official_file)
