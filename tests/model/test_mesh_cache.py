"""Cached meshes of the reference: what is read of them, how exactly, what is set aside, and that nothing in them runs."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.body import Body, points15
from model.files import file_hash
from model.images import apply_affine, invert_affine, person_rectangle
from model.mesh_cache import MeshCache, square_matrix
from model.mesh_row import MeshRow, project
from model.state_files import BadCheckpoint
from model.views import camera_shift, square

JOINTS25 = (0, 1, 2, 4, 5, 7, 8, 12, 16, 17, 18, 19, 20, 21, 60, 61, 62, 63, 64, 65, 59, 58, 57, 56, 55)
SIZES = [(600, 900), (1280, 719), (224, 224), (90, 120)]
BOX = [70.5, 24.0, 160.0, 207.25]
CASES = [
    ((600, 900), BOX),
    ((600, 900), [60.0, 100.0, 180.0, 190.0]),
    ((600, 900), [90.0, 0.0, 150.0, 224.0]),
    ((3000, 4000), BOX),
    ((1280, 719), [80.0, 52.0, 140.0, 170.0]),
    ((1280, 719), [60.0, 60.0, 200.0, 170.0]),
    ((224, 224), BOX),
    ((90, 120), BOX),
]
"""Width and height of a photo, box in its square."""
SHIFT = np.array([0.15, -0.1, 41.3])
NOBODY = (None,) * 7
SHAPES = {"box": (4,), "betas": (10,), "pose": (66,), "camera": (6,), "vertices": (31425,), "points": (30,)}


def person(body: Body, seed: int = 0, box: list[float] = BOX, shift: np.ndarray = SHIFT) -> dict[str, Any]:
    """A photo's seven items as the reference computes them, in its order, and nothing of ours in between."""
    given = torch.Generator().manual_seed(seed)
    betas = torch.randn(1, 10, generator=given)
    pose = torch.randn(1, 66, generator=given) * 0.2
    pose[0, :3] = torch.tensor([3.0, 0.1, -0.2])  # upside down: the camera's y points down
    vertices = body.zero_pose(betas)
    joints = body.posed(betas, pose)[1][0, list(JOINTS25)].double().numpy()
    at = joints + shift
    crop = at[:, :2] / (at[:, 2:] + 1e-4) * 5000 + [96, 128]
    x, y, _, rows = person_rectangle(np.array(box), 224, 224)
    return {
        "mesh_point": -(vertices[0].double() + torch.from_numpy(shift)).float(),
        "body_pose": torch.cat([torch.full((1, 3), 9.0), pose], 1),
        "betas": betas,
        "joints": torch.zeros(1, 137, 3),
        "box": list(box),
        "joint_proj": (crop - [96, 128]) * (rows / 256) + [x, y],
        "volume": float(body.volume(vertices)[0]),
    }


def saved(path: Path, given: Any, **options: Any) -> Path:
    torch.save(given, path, **options)
    return path


def cached(path: Path, **entries: Any) -> MeshCache:
    return MeshCache(saved(path, {f"{name}.jpg": entry for name, entry in entries.items()}))


def one_line(text: str, *words: str) -> None:
    assert "\n" not in text and len(text) < 500, text
    for word in words:
        assert word in text, (word, text)


def refused(path: Path, *words: str) -> None:
    """Refused in one line that names the file and holds these words."""
    with pytest.raises(BadCheckpoint) as caught:
        MeshCache(path)
    one_line(str(caught.value), f"{path}: ", *words)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "mesh_point_all_new.pt"


@pytest.fixture(scope="module")
def known(body) -> dict[str, Any]:
    """Somebody; tests that change it take a copy."""
    return person(body)


def altered(known: dict[str, Any], **items: Any) -> tuple:
    return tuple({**known, **items}.values())


def row(cache: MeshCache, body: Body, photo: str = "a.jpg", size: tuple[int, int] = (600, 900)) -> MeshRow:
    found = cache.row(photo, *size, body, extractor="cache")
    assert found is not None
    return found


# What is read


@pytest.mark.parametrize("zipped", [True, False])
def test_a_row_holds_what_the_file_holds(path, body, known, zipped):
    saved(path, {"a.jpg": altered(known), "none.jpg": NOBODY}, _use_new_zipfile_serialization=zipped)
    cache = MeshCache(path)
    found = row(cache, body)
    assert (found.status, found.extractor, found.reason) == ("ok", "cache", None)
    for name, shape in SHAPES.items():
        value = getattr(found, name)
        assert value.shape == shape and np.isfinite(value).all(), name
        assert value.dtype == (np.float16 if name == "vertices" else np.float32), name
    assert np.array_equal(found.pose, known["body_pose"][0, 3:].numpy())
    assert np.array_equal(found.betas, known["betas"][0].numpy())
    assert found.volume == pytest.approx(known["volume"])
    np.testing.assert_allclose(found.camera[1:4], SHIFT, atol=1e-5)
    nobody = cache.row("none.jpg", 600, 900, body, extractor="cache", reason="nobody")
    assert nobody == MeshRow("no_person", extractor="cache", reason="nobody")
    assert len(cache) == 2 and not cache.set_aside and cache.identity == file_hash(path)


def test_vertices_and_shift_are_the_mesh_to_half_precision(path, body, known):
    found = row(cached(path, a=altered(known)), body)
    mesh = found.vertices.astype(np.float64).reshape(-1, 3) + found.camera[1:4]
    error = np.abs(mesh + known["mesh_point"].double().numpy())
    size = np.abs(found.vertices.astype(np.float64)).reshape(-1, 3)
    assert (error <= 2.0**-11 * size + 1e-6).all()  # half of a float16's last place


def test_an_expression_does_not_move_the_body(path, body, known):
    """Two fifths of the vertices, about as many as are the head's; what they do leaves the shift alone."""
    mesh = known["mesh_point"].clone()
    mesh[torch.arange(len(mesh)) % 5 < 2] += torch.tensor([0.0, 0.02, 0.03])
    found = row(cached(path, a=altered(known, mesh_point=mesh)), body)
    np.testing.assert_allclose(found.camera[1:4], SHIFT, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_box_and_points_come_back_to_the_square(path, body, known, size):
    found = row(cached(path, a=altered(known)), body, size=size)
    _, matrix = square(np.zeros((size[1], size[0], 3), np.uint8))
    assert np.array_equal(square_matrix(*size), matrix)
    np.testing.assert_allclose(apply_affine(matrix, found.box.reshape(2, 2)).ravel(), BOX, atol=1e-4)
    joints = known["joint_proj"]
    wanted = np.concatenate([joints[:14], (joints[22:23] + joints[23:24]) / 2])
    np.testing.assert_allclose(apply_affine(matrix, found.points.reshape(15, 2)), wanted, atol=1e-4)


@pytest.mark.parametrize(("size", "box"), CASES)
def test_the_body_is_seen_where_its_joints_were(path, body, size, box):
    """To a hundredth of a px of the square, but for what is whole pixels there: its short side. A photo's two scales
    differ by up to 0.7 % here for that, and a camera has one focal length."""
    found = row(cached(path, a=altered(person(body, box=box))), body, size=size)
    with torch.no_grad():
        _, joints = body.posed(torch.from_numpy(found.betas[None]), torch.from_numpy(found.pose[None]))
    points, (across, down) = found.points.reshape(15, 2), square_matrix(*size)[[0, 1], [0, 1]]
    off = np.abs(project(points15(joints)[0].numpy(), found.camera) - points) * [across, down]
    aside = np.abs(points - found.camera[4:])[:, 0] * across
    assert (off[:, 0] < 0.01 + abs(across / down - 1) * aside).all() and off[:, 1].max() < 0.01
    assert off.max() < 0.6


@pytest.mark.parametrize(("size", "box"), CASES)
def test_the_reference_would_see_the_body_where_the_file_says(path, body, size, box):
    """Within 1 % of the depth and 7 mm sideways: person_rectangle takes a pixel off the box, in the reference one of
    the square, in `camera_shift` one of the photo, which is 0.5 % of a box that is 183 px of the square high."""
    found = row(cached(path, a=altered(person(body, box=box))), body, size=size)
    again = camera_shift(found.box, found.camera, *size)
    assert abs(again[2] / SHIFT[2] - 1) < 0.01
    assert np.abs(again[:2] - SHIFT[:2]).max() < 0.007
    if size == (224, 224):
        np.testing.assert_allclose(again, SHIFT, rtol=1e-5, atol=1e-5)


def test_a_box_that_reaches_into_the_bars_is_cut_in_the_photo(path, body):
    """There the reference keeps the part in the bar, so depth is off by as much as the box is cut: 2 + 2 of 129 px."""
    found = row(cached(path, a=altered(person(body, box=[80.0, 47.0, 140.0, 176.0]))), body, size=(1280, 719))
    assert 0.02 < 1 - camera_shift(found.box, found.camera, 1280, 719)[2] / SHIFT[2] < 0.03


def test_names(path, body, known):
    tall, other = altered(known), altered(person(body, 1))
    cache = MeshCache(saved(path, {"1.jpg": tall, "b/1.jpg": other}))
    names = ("1.jpg", "a/1.jpg", "b/1.jpg", "c/b/1.jpg", "2.jpg", "1.JPG")
    assert [cache.key(name) for name in names] == ["1.jpg", "1.jpg", "b/1.jpg", "1.jpg", None, None]
    assert cache.row("2.jpg", 600, 900, body) is None
    assert np.array_equal(row(cache, body, "b/1.jpg").betas, other[2][0].numpy())


# What may look otherwise


def test_numbers_come_in_many_kinds(path, body, known):
    """Half precision, gradients, tensors for numbers, arrays for tensors, axes of one: all the same to a row."""
    plain = row(cached(path.with_name("plain.pt"), a=altered(known)), body)
    joints = known["joint_proj"]
    kinds = {
        "grown": altered(known, mesh_point=known["mesh_point"][None].requires_grad_(), joint_proj=joints[None]),
        "numpy": altered(
            known, mesh_point=known["mesh_point"].numpy(), box=np.array(BOX), volume=np.float32(known["volume"])
        ),
        "tensors": altered(known, box=[torch.tensor(v) for v in BOX], volume=torch.tensor(known["volume"])),
        "rows": altered(
            known, box=torch.tensor([BOX]), joint_proj=torch.from_numpy(joints), volume=np.array(known["volume"])
        ),
        "columns": altered(known, joint_proj=np.asfortranarray(joints), box=tuple(np.float64(v) for v in BOX)),
        "big-endian": altered(known, joint_proj=joints.astype(">f4")),
        "list": list(altered(known)),
    }
    cache = cached(path, **kinds)
    assert not cache.set_aside
    for name in kinds:
        found = row(cache, body, f"{name}.jpg")
        for field in (*SHAPES, "volume"):
            np.testing.assert_allclose(getattr(found, field), getattr(plain, field), rtol=1e-6, err_msg=f"{name} {field}")
    half = row(cached(path, a=altered(known, joint_proj=joints.astype(np.float16))), body)
    np.testing.assert_allclose(half.points, plain.points, atol=0.5)


def test_what_is_not_needed_may_be_anything(path, body, known):
    nothing = row(cached(path, a=altered(known, body_pose=None, betas=None, joints=None, volume=None)), body)
    assert not nothing.pose.any()
    np.testing.assert_allclose(nothing.betas, known["betas"][0], atol=1e-3)
    np.testing.assert_allclose(nothing.camera[1:4], SHIFT, atol=1e-4)
    assert nothing.volume == pytest.approx(known["volume"], rel=1e-4)
    odd = altered(known, body_pose=torch.zeros(1, 63), betas=torch.full((10,), torch.nan), joints="?", volume=float("nan"))
    odd = row(cached(path, a=odd), body)
    assert np.array_equal(odd.betas, nothing.betas) and not odd.pose.any() and odd.volume == nothing.volume
    flat = row(cached(path, a=altered(known, body_pose=known["body_pose"].reshape(23, 3), betas=known["betas"][0])), body)
    assert np.array_equal(flat.pose, known["body_pose"][0, 3:].numpy()) and np.array_equal(flat.betas, known["betas"][0])


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_sat_on_a_gpu(path, body, known, monkeypatch, zipped):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        saved(path, {"a.jpg": altered(known)}, _use_new_zipfile_serialization=zipped)
    assert b"cuda:0" in path.read_bytes()
    assert row(MeshCache(path), body).status == "ok"


@pytest.mark.parametrize("core", ["core", "_core"])
def test_arrays_of_either_numpy(path, body, known, core):
    saved(path, {"a.jpg": altered(known, volume=np.float64(0.07))}, _use_new_zipfile_serialization=False)
    renamed = re.sub(rb"numpy\._?core\.multiarray", f"numpy.{core}.multiarray".encode(), path.read_bytes())
    assert renamed.count(f"numpy.{core}.multiarray".encode()) == 2
    path.write_bytes(renamed)
    found = row(MeshCache(path), body)
    assert found.volume == 0.07
    wanted = apply_affine(invert_affine(square_matrix(600, 900)), known["joint_proj"][0])
    np.testing.assert_allclose(found.points[:2], wanted, rtol=1e-6)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc: what is mapped cannot be seen")
def test_meshes_stay_in_the_file(path, known):
    """A zip is mapped, not read."""
    cache = cached(path, a=altered(known))
    data = cache._entries["a.jpg"][0].untyped_storage().data_ptr()
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    ranges = [tuple(int(edge, 16) for edge in line[0].split("-")) for line in mapped]
    assert any(low <= data < high for low, high in ranges)


# What is set aside


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_one_bad_entry_does_not_lose_the_others(path, body, known):
    mesh, joints = known["mesh_point"], known["joint_proj"]
    broken = mesh.clone()
    broken[7, 1] = torch.nan
    at_once = {
        "short": (altered(known)[:5], "5 items", "tuple of 7"),
        "none": (None, "NoneType", "tuple of 7"),
        "text": (altered(known, mesh_point="mesh"), "mesh_point", "str", "(10475, 3)"),
        "half": (altered(known, mesh_point=None), "mesh_point", "NoneType", "(10475, 3)"),
        "smpl": (altered(known, mesh_point=mesh[:6890]), "mesh_point", "(6890, 3)", "(10475, 3)"),
        "lying": (altered(known, mesh_point=mesh.T), "mesh_point", "(3, 10475)", "(10475, 3)"),
        "complex": (altered(known, mesh_point=mesh.to(torch.complex64)), "mesh_point", "real"),
        "boxes": (altered(known, box=[BOX, BOX]), "box", "(4,)"),
        "words": (altered(known, box=["1", "2", "3", "4"]), "box", "(4,)"),
        "crop": (altered(known, joint_proj=joints[:15]), "joint_proj", "(15, 2)", "(25, 2)"),
    }
    when_asked = {
        "nan": (altered(known, mesh_point=broken), "mesh_point", "NaN"),
        "sparse": (altered(known, mesh_point=mesh.to_sparse()), "mesh_point", "plain tensor"),
        "far": (altered(known, joint_proj=joints * 1e9), "joint_proj", "1e+06"),
        "infinite": (altered(known, joint_proj=joints + np.inf), "joint_proj", "infinity"),
        "positive": (altered(known, mesh_point=-mesh), "mesh_point", "behind the camera"),
        "millimetres": (altered(known, mesh_point=mesh * 1000), "mesh_point", "metres"),
        "turned": (altered(known, box=[BOX[2], BOX[1], BOX[0], BOX[3]]), "box", "no area", "x1 y1 x2 y2"),
        "in the bar": (altered(known, box=[190.0, 10.0, 220.0, 200.0]), "box", "600×900"),
    }
    given = {f"{name}.jpg": entry for name, (entry, *_) in {**at_once, **when_asked}.items()}
    cache = MeshCache(saved(path, {**given, "a.jpg": altered(known), 7: altered(known), "nobody.jpg": NOBODY}))
    assert set(cache.set_aside) == {*(f"{name}.jpg" for name in at_once), "7"}
    for name, (_, *words) in {**at_once, **when_asked}.items():
        for _ in range(2):
            with pytest.raises(BadCheckpoint) as caught:
                cache.row(f"photos/{name}.jpg", 600, 900, body)
            one_line(str(caught.value), f"{path}: {name}.jpg: ", cache.set_aside[f"{name}.jpg"], *words)
    assert len(cache.set_aside) == len(given) + 1
    assert row(cache, body).status == "ok" and row(cache, body, "nobody.jpg").status == "no_person"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, ["an empty dict", "photo names"]),
        ([1, 2], ["a list", "photo names"]),
        (torch.zeros(3), ["a Tensor", "photo names"]),
        ({"layer.weight": torch.zeros(3)}, ["none of 1 entries", "layer.weight: is a Tensor, expected a tuple of 7"]),
    ],
)
def test_what_is_no_cache_at_all(path, given, words):
    refused(saved(path, given), *words)


# What is refused, and that nothing of it runs


class Bomb:
    """Pickled, it is a call that leaves a file behind."""

    def __init__(self, left: Path):
        self.left = left

    def __reduce__(self):
        return (exec, (f"open({str(self.left)!r}, 'w').close()",))


class Pointers(np.ndarray):
    """Pickled, it is an array of plain numbers whose type claims that they are pointers."""

    def __reduce__(self):
        rebuild, start, (version, shape, _, *rest) = np.ndarray.__reduce__(self)
        return rebuild, (np.ndarray, *start[1:]), (version, shape, PointerType(), *rest)


class PointerType:
    def __reduce__(self):
        return np.dtype, ("f8", False, True), (3, "<", None, None, None, -1, -1, 63)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(path, known, zipped):
    left = path.with_name("left")
    bomb = Bomb(left)
    hidden = np.array([bomb], object)
    entries = [altered(known, joints=bomb), altered(known, joints=hidden), bomb]
    for given in (bomb, hidden, {bomb: altered(known)}, *({"a.jpg": altered(known), "b.jpg": one} for one in entries)):
        refused(saved(path, given, _use_new_zipfile_serialization=zipped), "holds", "nothing was run")
        assert not left.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("item", "kind"),
    [
        (np.array([None, "x"], object), "'O8'"),
        (np.array(["a photo"]), "'U7'"),
        (np.zeros(2, "f4,O"), "'V12'"),
        (np.datetime64("2024-01-01"), "'M8'"),
        (Path("here"), "pathlib"),
        (torch.nn.Linear(1, 1), "torch.nn"),
    ],
)
def test_more_than_numbers_is_refused(path, known, item, kind, zipped):
    saved(path, {"a.jpg": altered(known, joints=item)}, _use_new_zipfile_serialization=zipped)
    refused(path, "holds", kind, "nothing was run")


def test_an_array_that_claims_to_hold_pointers_is_numbers(path, body, known):
    """numpy itself believes it, which is why it is not asked."""
    claimed = np.dtype("f8", False, True)
    claimed.__setstate__((3, "<", None, None, None, -1, -1, 63))
    assert claimed.hasobject
    cache = cached(path, a=altered(known, joint_proj=known["joint_proj"].view(Pointers)))
    plain = cached(path.with_name("plain.pt"), a=altered(known))
    assert np.array_equal(row(cache, body).points, row(plain, body).points)


def test_the_allowance_ends_with_the_reading(path, known):
    before = set(torch.serialization.get_safe_globals())
    cached(path, a=altered(known))
    refused(saved(path, {"a.jpg": np.array([None])}), "'O8'")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files(path, known, zipped):
    refused(path, "no such file")
    saved(path, {f"{k}.jpg": altered(known) for k in range(2)}, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for share in (0.001, 0.01, 0.3, 0.9, 0.9999):
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path)
    path.write_bytes(b"")
    refused(path, "empty file")
    path.write_bytes(b"a.jpg,1,2,3\n" * 100)
    refused(path, "not a file of torch.save")
    if zipped:
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        refused(path, "damaged", "not what was saved")


def test_an_archive_that_was_packed_again(path, known):
    stored = saved(path.with_name("stored.pt"), {"a.jpg": altered(known)})
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    refused(path, "compression", "torch.save")
