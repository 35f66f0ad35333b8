"""SMPLer-X as an extractor: rows whose numbers belong together, precisions, one identity per checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.body import points15
from model.extract import Extractor, Recipe
from model.images import decode
from model.mesh_row import project
from model.mesh_smpler import SmplerNetwork
from model.smpler_x import SMPLerX
from model.views import camera_shift
from tests.model.smpler_cases import made_up_state
from tests.model_cases import encoded


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "smpler_x_s32.pth.tar"
    torch.save({"network": {f"module.{key}": value for key, value in made_up_state().items()}}, path)
    return path


@pytest.fixture(scope="module")
def recipe(body_file, net_folder, weights) -> Recipe:
    return Recipe(str(body_file), str(net_folder), "s32", str(weights), people="all")


@pytest.fixture(scope="module")
def extractor(recipe) -> Extractor:
    return Extractor(recipe)


def test_rows_of_photos(extractor, mannequins):
    wall = encoded(Image.new("RGB", (180, 240), (120, 120, 120)), "PNG")
    photos = [mannequins[0].data, wall, b"", mannequins[1].data]
    rows = extractor(photos)
    assert [row.status for row in rows] == ["ok", "no_person", "unreadable", "ok"]
    assert {row.extractor for row in rows} == {extractor.extractor_id} and extractor.extractor_id.startswith("s32-")
    for row, data in ((rows[0], photos[0]), (rows[3], photos[3])):
        shapes = {"box": (4,), "betas": (10,), "pose": (66,), "camera": (6,), "points": (30,), "vertices": (31425,)}
        for name, shape in shapes.items():
            value = getattr(row, name)
            assert value.shape == shape and np.isfinite(value).all(), name
            assert value.dtype == (np.float16 if name == "vertices" else np.float32), name
        assert row.person == 0 and isinstance(row.volume, float)
        # Its camera is the one that the network assumes behind its crop, so official frames read its very shift.
        np.testing.assert_allclose(camera_shift(row.box, row.camera, *decode(data).size), row.camera[1:4], rtol=1e-4)
    assert np.abs(rows[0].betas - rows[3].betas).max() > 1e-3


def test_points_are_where_the_camera_sees_the_body(extractor, mannequins):
    (row,) = extractor([mannequins[2].data])
    betas, pose = torch.from_numpy(row.betas)[None], torch.from_numpy(row.pose)[None]
    _, joints = extractor.body.posed(betas, pose)
    seen = project(points15(joints)[0].numpy(), row.camera)
    far = np.linalg.norm(seen - row.points.reshape(15, 2), axis=1)
    assert far.max() < 0.05 * np.ptp(row.points.reshape(15, 2), axis=0).max()  # the row has no expression


def test_a_row_does_not_hang_on_its_batch(extractor, mannequins):
    photos = [shot.data for shot in mannequins[:3]]
    for together, data in zip(extractor(photos), photos):
        (alone,) = extractor([data])
        np.testing.assert_allclose(together.betas, alone.betas, atol=1e-4)
        np.testing.assert_allclose(together.points, alone.points, atol=0.1)


def test_a_crowd_is_looked_at_in_parts(extractor, mannequins):
    """However many people a batch of photos holds, the network sees no more than its own batch at once."""
    prepared = extractor.prepare([shot.data for shot in mannequins[:5]])
    network = SmplerNetwork(extractor.network.model, batch=2)
    for part, whole in zip(network.rows(prepared), extractor.network.rows(prepared), strict=True):
        np.testing.assert_allclose(part.betas, whole.betas, atol=1e-4)


@pytest.mark.parametrize(("precision", "millimetres"), [("fp16", 1.0), ("bf16", 8.0)])
def test_what_a_precision_costs(extractor, recipe, mannequins, precision, millimetres):
    rough = Extractor(replace(recipe, precision=precision))
    assert rough.extractor_id != extractor.extractor_id
    (exact,), (row,) = extractor([mannequins[0].data]), rough([mannequins[0].data])
    off = (row.vertices.astype(float) - exact.vertices).reshape(-1, 3)
    assert 0 < np.linalg.norm(off, axis=1).mean() * 1000 < millimetres


def test_an_overflow_is_told(body, extractor, mannequins):
    model = SMPLerX("s32", body)
    model.load_state_dict(extractor.network.model.state_dict(), strict=False)
    network = SmplerNetwork(model.eval().requires_grad_(False), precision="fp16")
    network.model.encoder.blocks[3].mlp.fc2.weight.fill_(6e4)
    with pytest.raises(ValueError, match="not finite in fp16; set mesh.precision to bf16"):
        network.rows(extractor.prepare([mannequins[0].data]))


def test_weights_that_are_not_there(recipe):
    with pytest.raises(ValueError, match="mesh.weights: missing; l32 needs an official checkpoint"):
        replace(recipe, network="l32", weights=None).identity()
    with pytest.raises(ValueError, match="mesh.weights: only SMPLer-X takes weights"):
        replace(recipe, network="tiny").identity()
    with pytest.raises(FileNotFoundError, match="mesh.weights not found: nowhere.pth.tar"):
        replace(recipe, weights="nowhere.pth.tar").identity()
