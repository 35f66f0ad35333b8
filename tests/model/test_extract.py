"""Photos to mesh rows: the camera that is fitted, every kind of row, rows that do not hang on their batch."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import least_squares

from model.body import points15
from model.detect import Box, make_detector, overlap
from model.extract import Extractor, Recipe
from model.images import decode
from model.mesh_net import load_mesh_net, save_mesh_net
from model.mesh_row import MeshRow, project
from model.mesh_tiny import FOCAL, fit_camera
from tests.model_cases import encoded

FIELDS = {"box": (4,), "betas": (10,), "pose": (66,), "camera": (6,), "points": (30,)}


class Frame:
    """A detector for tests: somebody fills the middle of every photo that is not of one colour."""

    def __init__(self, margin: float = 0.1):
        self.margin = margin

    @property
    def settings(self) -> str:
        return f"frame margin={self.margin}"

    def __call__(self, image: np.ndarray) -> list[Box]:
        height, width = image.shape[:2]
        x, y = self.margin * width, self.margin * height
        return [Box(x, y, width - x, height - y, 1.0)] if np.ptp(image) > 8 else []


def framed(recipe: Recipe) -> Extractor:
    """An extractor that finds people by `Frame`."""
    made = Extractor(recipe)
    made.prepare.detector = Frame()
    return made


@pytest.fixture(scope="module")
def extractor(body_file, net_folder) -> Extractor:
    return framed(Recipe(str(body_file), str(net_folder)))


@pytest.fixture(scope="module")
def files(mannequins) -> list[bytes]:
    """Nine photos: five mannequins, one of them large and wide, a grey wall, and three that cannot be read."""
    shots = [shot.data for shot in mannequins[:5]]
    large = decode(shots[4]).resize((768, 1024))
    wall = Image.new("RGB", (180, 240), (120, 120, 120))
    shots[4] = encoded(large.crop((0, 100, 768, 612)), "PNG")
    return [shots[0], b"", shots[1], shots[2][:500], encoded(wall, "PNG"), shots[2], b"no photo", shots[3], shots[4]]


def some_joints(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Joints of a person (15, 3) and a shift (3,) that puts them before the camera."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, [0.3, 0.5, 0.15], (15, 3)), np.array([rng.normal(), rng.normal(), rng.uniform(1.5, 8)])


@pytest.mark.parametrize("seed", range(5))
def test_a_known_camera_is_recovered(seed):
    joints, shift = some_joints(seed)
    focal = 300.0 + 100 * seed
    points = project(joints, np.array([focal, *shift, 320, 240]))
    found = fit_camera(joints, points - [320, 240], focal)
    np.testing.assert_allclose(found, shift, atol=1e-6)
    np.testing.assert_allclose(project(joints, np.array([focal, *found, 320, 240])), points, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_the_camera_is_the_best_in_pixels_where_points_are_not_exact(seed):
    """Against a search for the smallest error in pixels; someone who reaches out, as then depth counts."""
    rng = np.random.default_rng(seed)
    joints = rng.normal(0, [0.4, 0.4, 0.6], (15, 3))
    shift = np.array([0.2, -0.1, 0.6 - joints[:, 2].min()])
    points = project(joints, np.array([400.0, *shift, 0, 0])) + rng.normal(0, 3.0, (15, 2))

    def residual(t: np.ndarray) -> np.ndarray:
        return (project(joints, np.array([400.0, *t, 0, 0])) - points).ravel()

    found = (residual(fit_camera(joints, points, 400.0)) ** 2).sum()
    best = (least_squares(residual, shift).fun ** 2).sum()
    assert best <= found < 1.01 * best


def test_nobody_stands_behind_the_camera():
    joints, _ = some_joints(1)
    far = fit_camera(joints, joints[:, :2] * 1e5, 300.0)  # only someone at the lens could look this large
    assert joints[:, 2].min() + far[2] >= 0.3 - 1e-9
    inverted = fit_camera(joints, -joints[:, :2] * 100, 300.0)
    assert joints[:, 2].min() + inverted[2] >= 0.3 - 1e-9


def test_projection_is_a_pinholes():
    camera = np.array([500.0, 0.5, -0.25, 2.0, 320.0, 240.0])
    np.testing.assert_allclose(project(np.zeros((1, 3)), camera), [[320 + 125, 240 - 62.5]])
    np.testing.assert_allclose(project(np.array([-0.5, 0.25, 7.0]), camera), [320, 240])
    corners = np.random.default_rng(0).normal(0, 0.1, (2, 4, 3))
    assert project(corners, camera).shape == (2, 4, 2)
    np.testing.assert_allclose(project(corners, camera)[1], project(corners[1], camera))


def test_every_photo_gets_its_row(extractor, files):
    rows = extractor(files)
    unreadable, person = "unreadable", "ok"
    assert [row.status for row in rows] == [
        person,
        unreadable,
        person,
        unreadable,
        "no_person",
        person,
        unreadable,
        person,
        person,
    ]
    assert {row.extractor for row in rows} == {extractor.extractor_id}
    assert [row.reason for row in rows if row.status == "no_person"] == ["no person found"]
    reasons = [row.reason for row in rows if row.status == unreadable]
    assert "empty" in reasons[0] and "truncated" in reasons[1] and "not an image" in reasons[2]
    for data, row in zip(files, rows):
        if row.status != "ok":
            assert [getattr(row, name) for name in (*FIELDS, "vertices", "volume")] == [None] * 7
            continue
        assert row.reason is None
        for name, shape in FIELDS.items():
            value = getattr(row, name)
            assert value.shape == shape and value.dtype == np.float32 and np.isfinite(value).all(), name
        assert row.vertices.shape == (31425,) and row.vertices.dtype == np.float16
        assert isinstance(row.volume, float)
        width, height = decode(data).size
        x1, y1, x2, y2 = row.box
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height and min(x2 - x1, y2 - y1) >= 8
        assert row.camera[0] == pytest.approx(FOCAL * max(width, height))
        assert len(set(row.points.tolist())) == 30


def test_the_numbers_of_a_row_belong_together(extractor, files):
    for data, row in zip(files, extractor(files)):
        if row.status != "ok":
            continue
        betas, pose = torch.from_numpy(row.betas)[None], torch.from_numpy(row.pose)[None]
        rest = extractor.body.zero_pose(betas)
        np.testing.assert_allclose(row.vertices.reshape(-1, 3), rest[0].numpy(), atol=1e-3)
        assert row.volume == pytest.approx(float(extractor.body.volume(rest)), rel=1e-4)
        width, height = decode(data).size
        _, joints = extractor.body.posed(betas, pose)
        joints = points15(joints)[0].numpy()
        seen = row.points.reshape(15, 2)
        assert (joints[:, 2] + row.camera[3]).min() > 0.29
        shift = fit_camera(joints, seen - [width / 2, height / 2], float(row.camera[0]))
        np.testing.assert_allclose(row.camera[1:4], shift, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(row.camera[4:], [width / 2, height / 2])


def test_the_body_lies_on_the_person(body_file, net_folder, mannequins):
    extractor = Extractor(Recipe(str(body_file), str(net_folder)))
    rows = extractor([shot.data for shot in mannequins])
    far, shares = [], []
    for shot, row in zip(mannequins, rows):
        assert row.status == "ok"
        far.append(np.linalg.norm(row.points.reshape(15, 2) - shot.truth["points"], axis=1).mean())
        vertices, _ = extractor.body.posed(torch.from_numpy(row.betas)[None], torch.from_numpy(row.pose)[None])
        skin = project(vertices[0].numpy(), row.camera)
        box = Box(*(float(v) for v in (*skin.min(0), *skin.max(0))), 1.0)
        shares.append(overlap(box, Box(*map(float, shot.truth["box"]), 1.0)))
    assert np.median(far) < 4  # px
    assert min(shares) > 0.5 and np.median(shares) > 0.75


def same(a: MeshRow, b: MeshRow) -> None:
    assert (a.status, a.reason, a.extractor) == (b.status, b.reason, b.extractor)
    if a.status == "ok":
        assert a.box.tolist() == b.box.tolist()
        tolerance = {"betas": 1e-4, "pose": 1e-3, "camera": 1e-2, "points": 1e-2, "vertices": 1e-3}
        for name, atol in tolerance.items():
            np.testing.assert_allclose(
                np.float64(getattr(a, name)), np.float64(getattr(b, name)), atol=atol, rtol=1e-3, err_msg=name
            )
        assert a.volume == pytest.approx(b.volume, rel=1e-4)


def test_a_row_does_not_hang_on_its_batch(extractor, files):
    together = extractor(files)
    for data, row in zip(files, together):
        same(extractor([data])[0], row)
    for row, turned in zip(together, reversed(extractor(files[::-1]))):
        same(row, turned)
    first, *_, last = extractor([files[0]] * 3 + [files[2]] * 2)
    same(first, together[0])
    same(last, together[2])
    assert np.abs(together[0].betas - together[2].betas).max() > 1e-3  # different people
    assert extractor([]) == []


def test_rows_move_with_the_photo(extractor, mannequins):
    """The same picture at twice the size: the same body, points and camera twice as large."""
    image = decode(mannequins[0].data)
    double = Image.fromarray(np.asarray(image).repeat(2, 0).repeat(2, 1))
    small, large = extractor([encoded(image, "PNG"), encoded(double, "PNG")])
    assert large.camera[0] == pytest.approx(2 * small.camera[0])
    assert np.abs(large.points / 2 - small.points).max() < 4
    assert np.abs(large.betas - small.betas).max() < 0.5


def test_the_version_names_what_computes(tmp_path, body_file, net_folder, extractor):
    assert extractor.extractor_id.startswith("tiny-") and len(extractor.extractor_id) == 17
    shutil.copytree(net_folder, tmp_path / "copy")
    recipe = extractor.recipe
    assert replace(recipe, mesh_net=str(tmp_path / "copy")).identity() == extractor.extractor_id  # wherever they lie
    other = load_mesh_net(net_folder)
    with torch.no_grad():
        other.presence.bias += 1e-3
    save_mesh_net(other, tmp_path / "other")
    shutil.copy(body_file, tmp_path / body_file.name)
    with zipfile.ZipFile(tmp_path / body_file.name, "a") as held:
        held.comment = b"another file"
    ids = [
        extractor.extractor_id,
        replace(recipe, mesh_net=str(tmp_path / "other")).identity(),
        replace(recipe, body=str(tmp_path / body_file.name)).identity(),
        replace(recipe, detector="hog").identity(),
        replace(recipe, people="all").identity(),
    ]
    assert len(set(ids)) == len(ids)


def test_detectors_by_name_find_who_is_there(body_file, net_folder, shared):
    street = (shared / "data" / "street" / "bus.jpg").read_bytes()
    extractor = Extractor(Recipe(str(body_file), str(net_folder), detector="hog"))
    assert extractor.prepare.detector.settings == make_detector("hog", None).settings
    person, wall = extractor([street, encoded(Image.new("RGB", (200, 300), (90, 90, 90)), "PNG")])
    assert (person.status, wall.status, wall.reason) == ("ok", "no_person", "no person found")


def test_models_that_are_not_there(tmp_path, net_folder):
    with pytest.raises(FileNotFoundError, match="body model not found"):
        Extractor(Recipe(str(tmp_path / "nobody.npz"), str(net_folder)))
