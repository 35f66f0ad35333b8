"""Mannequin photos: photo i hangs on (seed, i) alone, what is said of it is what it shows, some files are broken."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.spatial.transform import Rotation

from model.body import Body
from model.images import UnreadableImage, decode
from model.measure import measure
from tasks.mannequins.photos import MEASURES, SIZE, Photo, kind_of, make_photos, photos, training_crops, truth_table
from tasks.mannequins.render import Renderer, View, project
from tasks.mannequins.scene import POSTURE, Scene, sample_pose, sample_scene, turn

SEED = 0


@pytest.fixture(scope="module")
def shots(body_file: Path, renderer: Renderer) -> list[Photo]:
    """Photos 0 to 31 of seed 0, a tenth of them of nobody and a tenth unreadable."""
    return list(photos(body_file, SEED, 0, 32, renderer=renderer, nobody=0.1, unreadable=0.1))


@pytest.fixture(scope="module")
def scenes(renderer: Renderer) -> list[tuple[Scene, object, object]]:
    """Eight scenes with a person: the scene, the figure and the whole picture."""
    made = [sample_scene(np.random.default_rng([SEED, 2, i])) for i in range(8)]
    return [
        (scene, figure, renderer.render(scene, SIZE, figure=figure)) for scene, figure in zip(made, renderer.pose(made))
    ]


@pytest.fixture(scope="module")
def crops(body_file: Path, renderer: Renderer) -> dict[str, np.ndarray]:
    return training_crops(body_file, 96, 1, renderer=renderer)


def files(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((folder / "photos").iterdir())}


def test_a_photo_asked_for_alone_is_the_same(shots, body_file, renderer):
    other = []
    for i, known in enumerate(shots):
        (alone,) = photos(body_file, SEED, i, i + 1, renderer=renderer, nobody=0.1, unreadable=0.1)
        assert (alone.name, alone.kind) == (known.name, known.kind) == (f"{i:05d}.jpg", known.kind)
        assert alone.truth.keys() == known.truth.keys()
        for name, value in alone.truth.items():
            np.testing.assert_allclose(value, known.truth[name], rtol=1e-4, atol=1e-4, err_msg=f"{i} {name}")
        if alone.data != known.data:
            other.append(i)
    assert not other


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, body_file: Path) -> tuple[Path, pa.Table, list[tuple[int, int]]]:
    """17 photos on disk, their truth table, and what was told of the progress."""
    out, seen = tmp_path_factory.mktemp("photos"), []
    return out, make_photos(out, body_file, 17, 3, on_progress=lambda *at: seen.append(at)), seen


def test_a_folder_of_photos(folder):
    out, table, seen = folder
    assert list(files(out)) == [f"{i:05d}.jpg" for i in range(17)] == table["photo"].to_pylist()
    assert pq.read_table(out / "truth.parquet").equals(table)
    assert {path.name for path in out.iterdir()} == {"photos", "truth.parquet"}
    assert seen[-1] == (17, 17)


def test_more_photos_do_not_change_those_that_are_there(folder, tmp_path, body_file):
    out, few, _ = folder
    many = make_photos(tmp_path, body_file, 24, 3)
    before, after = files(out), files(tmp_path)
    assert len(after) == 24 and few.select(["photo", "kind"]).equals(many.slice(0, 17).select(["photo", "kind"]))
    assert [name for name in before if before[name] != after[name]] == []


def test_more_workers_write_the_same_files(folder, tmp_path, body_file):
    out, one, _ = folder
    two = make_photos(tmp_path, body_file, 17, 3, workers=2)
    assert files(tmp_path) == files(out)
    assert two.equals(one) and pq.read_table(tmp_path / "truth.parquet").equals(one)


def test_another_seed_gives_other_photos(shots, body_file, renderer):
    (other,) = photos(body_file, SEED + 1, 1, 2, renderer=renderer, nobody=0.0, unreadable=0.0)
    assert other.name == shots[1].name and other.data != shots[1].data
    assert np.abs(other.truth["betas"] - shots[1].truth["betas"]).max() > 0.1


def test_every_file_is_a_jpeg_or_cannot_be_read(shots):
    kinds = [shot.kind for shot in shots]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"person": 25, "nobody": 4, "unreadable": 3}
    for shot in shots:
        if shot.kind == "unreadable":
            with pytest.raises(UnreadableImage):
                decode(shot.data)
            continue
        assert shot.data[:2] == b"\xff\xd8"
        image = decode(shot.data)
        assert image.size == SIZE
        assert np.asarray(image).std() > 10
    assert len({shot.data for shot in shots if shot.kind != "unreadable"}) == kinds.count("person") + kinds.count("nobody")


def test_unreadable_files_are_broken_in_every_way(body_file, renderer):
    reasons = []
    for shot in photos(body_file, SEED, 0, 24, renderer=renderer, nobody=0.0, unreadable=1.0):
        assert shot.kind == "unreadable" and not shot.truth
        with pytest.raises(UnreadableImage) as caught:
            decode(shot.data)
        reasons.append(str(caught.value).split(" ")[0])
    assert {"empty", "not", "truncated"} <= set(reasons)


@pytest.mark.parametrize(("nobody", "unreadable"), [(0.02, 0.01), (0.25, 0.1), (0.0, 0.3), (1.0, 0.0), (0.0, 0.0)])
def test_shares_follow_the_arguments_in_any_hundred(nobody, unreadable):
    for seed in range(5):
        kinds = [kind_of(seed, i, nobody, unreadable) for i in range(1000)]
        for start in (0, 37, 900):
            some = kinds[start : start + 100]
            assert abs(some.count("nobody") - 100 * nobody) <= 3
            assert abs(some.count("unreadable") - 100 * unreadable) <= 3
        assert abs(kinds.count("nobody") - 1000 * nobody) <= 4
        assert abs(kinds.count("unreadable") - 1000 * unreadable) <= 4


def test_truth_is_of_the_person_alone(shots, body):
    for shot in shots:
        assert bool(shot.truth) == (shot.kind == "person")
    person = [shot.truth for shot in shots if shot.truth]
    assert set(person[0]) == {"betas", "pose", "camera", "points", "box", *POSTURE, *MEASURES}
    taken = measure(body, np.stack([truth["betas"] for truth in person]))
    assert set(MEASURES) == set(taken)
    for name in MEASURES:
        np.testing.assert_allclose([truth[name] for truth in person], taken[name], rtol=1e-5)


def test_points_are_where_the_camera_sees_the_joints(shots, body):
    for shot in (shot for shot in shots if shot.truth):
        truth = shot.truth
        betas, pose = (torch.from_numpy(np.asarray(truth[name]))[None] for name in ("betas", "pose"))
        vertices, joints = body.posed(betas, pose)
        points = project(body.points15(joints)[0].numpy().astype(float), truth["camera"], SIZE)
        np.testing.assert_allclose(truth["points"], points, atol=0.01)
        skin = project(vertices[0].numpy().astype(float), truth["camera"], SIZE)
        assert (vertices[0, :, 2] + truth["camera"][3] > 0.3).all()  # all of the body before the camera
        edges = np.concatenate([skin.min(0), skin.max(0)])
        np.testing.assert_allclose(truth["box"], edges, atol=1.0)  # a pixel is drawn if its centre is covered
        assert (truth["box"][:2] >= 0).all() and (truth["box"][2:] <= SIZE).all()


def test_what_is_drawn_is_what_is_said(scenes, renderer):
    for scene, _, picture in scenes:
        rows, columns = np.nonzero(picture.mask)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert picture.truth["box"].tolist() == box
        assert 0.03 < picture.mask.mean() < 0.6
        at = np.floor(picture.truth["points"]).astype(int)
        assert picture.mask[at[:, 1], at[:, 0]].all()  # joints lie inside the body
        empty = renderer.render(
            Scene(None, scene.framing, scene.light, scene.backdrop, scene.grain, scene.grain_seed), SIZE
        )
        assert not empty.mask.any() and empty.truth == {}
        change = np.abs(picture.image.astype(int) - empty.image).max(-1)
        assert (change[picture.mask] > 3).mean() > 0.8
        upper = slice(0, box[1] + (box[3] - box[1]) // 3)  # further down lies the shadow
        assert change[upper][~picture.mask[upper]].max() <= 3


def test_the_silhouette_is_that_of_the_triangles(scenes, body):
    """The z-buffer's mask against OpenCV's own polygon filler."""
    for _, figure, picture in scenes[:3]:
        pixels = project(figure.vertices, picture.truth["camera"], SIZE)
        filled = np.zeros(SIZE[::-1], np.uint8)
        for triangle in np.round((pixels[body.faces] - 0.5) * 16).astype(np.int32):
            cv2.fillConvexPoly(filled, triangle, 255, cv2.LINE_8, 4)
        cover = filled > 0
        assert (picture.mask & ~cover).sum() == 0  # OpenCV also paints the pixels that an edge only touches
        assert (picture.mask & cover).sum() / cover.sum() > 0.9
        grown = cv2.dilate(picture.mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert (cover & ~grown).mean() < 0.002


def test_a_view_is_a_part_of_the_photo(scenes, renderer):
    scene, figure, whole = scenes[0]
    view = View(np.array([30.0, 40.0]), 2.0, (160, 120))
    part = renderer.render(scene, SIZE, figure=figure, view=view)
    assert part.image.shape == (120, 160, 3)
    np.testing.assert_allclose(part.truth["points"], (whole.truth["points"] - [30, 40]) * 2, atol=1e-3)
    np.testing.assert_allclose(part.truth["camera"], whole.truth["camera"])
    seen = cv2.resize(part.mask.astype(np.float32), (80, 60), interpolation=cv2.INTER_AREA)
    assert np.abs(seen - whole.mask[40:100, 30:110]).mean() < 0.02
    beyond = renderer.render(scene, SIZE, figure=figure, view=View(np.array([-20.0, -10.0]), 1.0, (100, 100)))
    assert beyond.image[:, :20].max() == 0 and beyond.image[:10].max() == 0 and beyond.image[10:, 20:].mean() > 20
    assert not beyond.mask[:, :20].any()


def test_framing_is_kept(renderer):
    from tasks.mannequins.render import place_camera
    from tasks.mannequins.scene import Framing

    (figure,) = renderer.pose([sample_scene(np.random.default_rng(3))])
    for fill, down in ((0.6, -1.0), (0.85, 1.0)):
        camera = place_camera(figure.vertices, Framing(fill=fill, across=0.0, down=down), SIZE)
        pixels = project(figure.vertices, camera, SIZE)
        low, high = pixels.min(0), pixels.max(0)
        assert (high[1] - low[1]) / SIZE[1] == pytest.approx(fill, abs=0.01)
        assert (low[0] + high[0]) / 2 == pytest.approx(SIZE[0] / 2, abs=1)
        assert (low[1] if down < 0 else SIZE[1] - high[1]) == pytest.approx(0, abs=1.5)


def test_turn_is_the_product_of_rotations():
    rng = np.random.default_rng(0)
    for _ in range(50):
        parts = rng.normal(0, 2, (3, 3))
        expected = Rotation.from_rotvec(parts[0]) * Rotation.from_rotvec(parts[1]) * Rotation.from_rotvec(parts[2])
        found = turn(*parts)
        assert (Rotation.from_rotvec(found).inv() * expected).magnitude() < 1e-9
        assert np.linalg.norm(found) <= np.pi + 1e-9
    assert turn((0.0, 0.0, 0.0)).tolist() == [0, 0, 0]


def stands(body: Body, **posture: float) -> np.ndarray:
    """(15, 3) points of the mean body in a posture, seen from the body itself (x to its left, y up, z forward)."""
    attributes = dict.fromkeys(POSTURE, 0.0) | posture
    pose = sample_pose(np.random.default_rng(11), attributes)
    pose[:3] = 0
    _, points = body.figure(torch.zeros(1, 10), torch.from_numpy(pose.astype(np.float32))[None])
    return points[0].numpy()


def test_posture_attributes_bend_what_they_name(body):
    pelvis, neck, eyes, knee = 0, 7, 14, 3
    plain = stands(body)
    tilted = stands(body, shoulder_tilt=0.2) - plain
    assert tilted[8, 1] > 0.01 and tilted[9, 1] < -0.01  # the left shoulder higher
    forward = stands(body, head_forward=0.4) - plain
    assert forward[eyes, 2] > 0.02 and np.abs(forward[neck]).max() < 1e-3
    slouched = stands(body, slouch=0.6) - plain
    assert slouched[neck, 2] > 0.05 and slouched[neck, 1] < -0.01
    assert stands(body, lean=0.2)[neck, 0] - plain[neck, 0] > 0.03  # to the left
    tipped = stands(body, pelvis_tilt=0.2) - plain  # seen from the pelvis: legs forward, back straight up in the room
    assert tipped[knee, 2] > 0.05 and tipped[knee + 1, 2] > 0.05 and tipped[neck, 2] < -0.05
    bent = stands(body, knee_bend=0.3) - plain
    assert bent[knee, 2] > 0.03 and bent[knee + 1, 2] > 0.03
    assert np.abs(bent[[pelvis, neck, eyes]]).max() < 1e-6


def test_truth_table_has_every_column(shots):
    table = truth_table(shots)
    lists = {"betas": 10, "pose": 66, "camera": 4, "points": 30, "box": 4}
    assert table.column_names == ["photo", "kind", *lists, *POSTURE, *MEASURES]
    assert table["photo"].to_pylist() == [shot.name for shot in shots]
    assert table["kind"].to_pylist() == [shot.kind for shot in shots]
    for name in table.column_names[2:]:
        assert table.schema.field(name).type == (pa.list_(pa.float32()) if name in lists else pa.float64())
        for shot, value in zip(shots, table[name].to_pylist()):
            if shot.kind != "person":
                assert value is None
            else:
                np.testing.assert_allclose(np.ravel(value), np.ravel(shot.truth[name]), rtol=1e-6)
    first = next(i for i, shot in enumerate(shots) if shot.truth)
    assert table["points"][first].as_py()[:2] == shots[first].truth["points"][0].tolist()  # x before y


def test_crops_say_what_they_show(crops, body):
    assert crops["images"].shape == (96, 128, 96, 3) and crops["images"].dtype == np.uint8
    there = crops["present"]
    assert 6 <= (~there).sum() <= 18  # 0.12 of 96
    for name, shape in (("betas", (10,)), ("pose", (66,)), ("points", (15, 2)), ("box", (4,)), ("camera", (4,))):
        assert crops[name].shape == (96, *shape) and crops[name].dtype == np.float32
        assert np.isfinite(crops[name][there]).all() and np.isnan(crops[name][~there]).all()
    _, joints = body.posed(torch.from_numpy(crops["betas"][there]), torch.from_numpy(crops["pose"][there]))
    points = body.points15(joints).numpy()
    for k, i in enumerate(np.flatnonzero(there)):
        origin, scale = crops["crop"][i, :2], crops["crop"][i, 2]
        photo = project(points[k].astype(float), crops["camera"][i], SIZE)
        np.testing.assert_allclose(crops["points"][i], (photo - origin) * scale, atol=0.02)
    inside = ((crops["points"] > 0) & (crops["points"] < [96, 128])).all(-1)[there]
    assert inside.mean() > 0.97
    box = crops["box"][there]
    assert ((box[:, :2] >= 0) & (box[:, 2:] <= [96, 128])).all()
    high = box[:, 3] - box[:, 1]
    assert high.min() > 60 and 85 < high.mean() < 115  # framed as a detector's box would, with a quarter of margin
    assert (np.abs((box[:, :2] + box[:, 2:]) / 2 - [48, 64]) < 25).all()


def test_a_crop_is_of_its_photo(crops, body_file, renderer):
    """Shown again from its numbers alone, the person covers the same place."""
    assert len({image.tobytes() for image in crops["images"]}) == 96
    for i in np.flatnonzero(crops["present"])[:4]:
        vertices, _ = renderer.body.figure(
            torch.from_numpy(crops["betas"][i : i + 1]), torch.from_numpy(crops["pose"][i : i + 1])
        )
        skin = (project(vertices[0].numpy(), crops["camera"][i], SIZE) - crops["crop"][i, :2]) * crops["crop"][i, 2]
        edges = np.concatenate([skin.min(0), skin.max(0)]).clip(0, [96, 128, 96, 128])
        np.testing.assert_allclose(crops["box"][i], edges, atol=1.5)


def test_shares_of_crops_without_a_person(body_file, renderer):
    none = training_crops(body_file, 12, 1, absent=0.0, renderer=renderer)
    assert none["present"].all()
    every = training_crops(body_file, 12, 1, absent=1.0, renderer=renderer)
    assert not every["present"].any() and np.isnan(every["points"]).all()
    assert every["images"].reshape(12, -1).std(1).min() > 1  # a place, not a blank


def test_a_crop_asked_for_alone_is_the_same(crops, body_file, renderer):
    other = []
    for i in range(0, 96, 2):
        alone = training_crops(body_file, i + 1, 1, start=i, renderer=renderer)
        assert len(alone["images"]) == 1 and alone["present"][0] == crops["present"][i]
        for name in ("betas", "pose", "points", "box", "camera", "crop"):
            np.testing.assert_allclose(alone[name][0], crops[name][i], rtol=1e-4, atol=1e-3, err_msg=f"{i} {name}")
        if (alone["images"][0] != crops["images"][i]).any():
            other.append(i)
    assert not other


def test_crops_that_do_not_exist(body_file, renderer):
    assert len(training_crops(body_file, 5, 1, start=3, stop=9, renderer=renderer)["images"]) == 2
    assert len(training_crops(body_file, 5, 1, start=5, renderer=renderer)["images"]) == 0
