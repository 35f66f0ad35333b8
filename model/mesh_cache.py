"""Bodies out of the reference's file of cached meshes (`mesh_point_all_new.pt`), with nothing in it executed.

    cache = MeshCache("mesh_point_all_new.pt")
    cache.row("photo.jpg", width, height, body, extractor="cache")    # a MeshRow; None: the file does not know the photo

Warning: the released code never loads its SMPLer-X weights (spec of SMPLer-X, section 9), so a cache that it made holds
the bodies of a network of random weights.

Notable:
- numpy's own unpickling takes a file's word for which bytes are pointers, so weights-only loading with numpy allowed
  could still be made to run code: here stand-ins answer to its names, and they know plain numbers only;
- opening reads names and shapes; the numbers stay in the file until a row is asked for (in files that are no zip, as
  torch wrote them before 1.6, they come into memory).

    python -m pytest tests/model/test_mesh_cache.py
"""

from __future__ import annotations

import functools
import pickle
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.serialization import safe_globals

from model.body import VERTICES, Body
from model.files import file_hash
from model.images import apply_affine, invert_affine, person_rectangle
from model.mesh_row import MeshRow
from model.pose_graph import PIXELS
from model.state_files import BadCheckpoint, first_line, whole_archive
from model.views import REFERENCE_FOCAL, REFERENCE_ROWS

MESH_POINT, BODY_POSE, BODY_SHAPE, _, BOX, JOINT_PROJ, VOLUME = range(7)
"""Places in a photo's tuple; the fourth, root-relative joints, is not read."""
ITEMS = {
    MESH_POINT: ("mesh_point", (VERTICES, 3)),
    BODY_POSE: ("body_pose", (69,)),
    BODY_SHAPE: ("betas", (10,)),
    BOX: ("box", (4,)),
    JOINT_PROJ: ("joint_proj", (25, 2)),
    VOLUME: ("volume", ()),
}
NEEDED = (MESH_POINT, BOX, JOINT_PROJ)
EYES = [22, 23]
"""Left and right, among the 25 joints."""
LARGEST = 1e6
"""No number of a cache (metres, px, radians) can be that large and mean something."""
REACH = 10.0
"""Metres from its middle that no vertex of a body lies away."""
NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
WRONG = (RuntimeError, TypeError, ValueError)
"""What torch and numpy raise over tensors that are sparse, nested, quantised, or without numbers."""


class _Refused(Exception):
    """What the file holds that is not numbers."""


class _Fault(Exception):
    """What is wrong with one photo's entry: item, what it is, what would be right."""


class _Kind:
    """Stands for numpy.dtype while a file is read; of its state only the byte order is believed."""

    def __init__(self, code: str, *_: Any):
        if code not in NUMBERS:
            raise _Refused(f"an array of numpy type {code!r:.40}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<")


class _Array:
    """Stands for numpy.ndarray."""

    def __init__(self, *_: Any):
        self.tensor = torch.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_columns, data = state
        values = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if by_columns else "C")
        self.tensor = torch.from_numpy(values.astype(values.dtype.newbyteorder("=")))


def _scalar(kind: _Kind, data: bytes) -> float:
    return float(np.frombuffer(data, kind.dtype)[0])


STANDINS = [
    (_Kind, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *((_Array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),  # numpy 1 and 2
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


class MeshCache:
    """The bodies of a cache, by name of the photo.

    set_aside: name → reason for every entry that cannot be used; those of wrong form are there from the start, those
    with numbers that make no body from when their row was asked for.
    """

    def __init__(self, path: str | Path):
        """Raises BadCheckpoint: no such file, damaged, not numbers only, or no dictionary of photos."""
        self.path = Path(path)
        self.set_aside: dict[str, str] = {}
        self._entries: dict[str, tuple] = {}
        found = _load(self.path)
        if not isinstance(found, dict) or not found:
            what = "an empty dict" if isinstance(found, dict) else f"a {type(found).__name__}"
            raise BadCheckpoint(f"{self.path}: holds {what}, expected a dict of photo names to tuples of 7")
        for name, entry in found.items():
            try:
                self._entries[name] = _formed(name, entry)
            except _Fault as fault:
                self.set_aside[name if isinstance(name, str) else repr(name)[:80]] = str(fault)
        if not self._entries:
            name, reason = next(iter(self.set_aside.items()))
            raise BadCheckpoint(f"{self.path}: no cache of meshes, none of {len(found)} entries is right; {name}: {reason}")

    @functools.cached_property
    def identity(self) -> str:
        """sha256 hex of the file; reads all of it, once."""
        return file_hash(self.path)

    def __len__(self) -> int:
        """Entries of right form, those of photos without a person among them."""
        return len(self._entries)

    def key(self, photo: str) -> str | None:
        """The name by which the file knows `photo` (a path with /): the same, or its last part; None if it does not."""
        names = (photo, PurePosixPath(photo).name)
        return next((name for name in names if name in self._entries or name in self.set_aside), None)

    def row(
        self, photo: str, width: int, height: int, body: Body, extractor: str = "", reason: str = "no person found"
    ) -> MeshRow | None:
        """What the file knows of a photo, in a row of the mesh table; None where it does not know the photo.

        The camera is SMPLer-X's, brought to the photo: 5,000 px behind a crop of 256 rows, looking at the crop's middle.
        A pose that is missing is zeros, betas are fitted to the mesh, the volume is measured on it.

        Args:
            photo: name, as in the photos table. width, height: px, upright. body: the model that the bodies are of.
            extractor: goes into the row. reason: likewise, where nobody was found.
        Raises:
            BadCheckpoint: the entry is at fault; one line, file: photo: item.
        """
        key = self.key(photo)
        if key is None:
            return None
        entry = self._entries.get(key)
        if entry is not None:
            if _nobody(entry):
                return MeshRow("no_person", extractor=extractor, reason=reason)
            try:
                return _row(entry, width, height, body, extractor)
            except _Fault as fault:
                self.set_aside[key] = str(fault)
        raise BadCheckpoint(f"{self.path}: {key}: {self.set_aside[key]}")


def square_matrix(width: int, height: int) -> np.ndarray:
    """(2, 3) photo px → px of the square that the reference fits a photo into; the same as `model.views.square`'s."""
    columns, rows = (max(1, int(PIXELS * side / max(width, height))) for side in (width, height))
    left, top = (PIXELS - columns) // 2, (PIXELS - rows) // 2
    return np.array([[columns / width, 0.0, left], [0.0, rows / height, top]], np.float64)


@torch.no_grad()
def _row(entry: tuple, width: int, height: int, body: Body, extractor: str) -> MeshRow:
    seen_from_camera, box, joints = -_numbers(entry, MESH_POINT), _numbers(entry, BOX), _numbers(entry, JOINT_PROJ)
    betas, pose, volume = (_optional(entry, place) for place in (BODY_SHAPE, BODY_POSE, VOLUME))
    betas = fit_betas(seen_from_camera, body) if betas is None else betas
    rest = body.zero_pose(torch.from_numpy(betas[None]).float().to(body.device))[0].double().cpu().numpy()
    # The median: the mesh has an expression too, which moves the face and must not move the body.
    shift = np.median(seen_from_camera - rest, axis=0).astype(np.float32)
    vertices = seen_from_camera - shift
    if shift[2] <= 0:
        raise _Fault(f"mesh_point: lies {-shift[2]:.2f} m behind the camera, expected minus the vertices in camera space")
    if np.abs(vertices).max() > REACH:
        raise _Fault(f"mesh_point: reaches {np.abs(vertices).max():.0f} m from its middle, expected a body in metres")
    if volume is None or volume <= 0:
        volume = body.volume(torch.from_numpy(vertices[None]).float().to(body.device))[0]
    matrix = square_matrix(width, height)
    to_photo = invert_affine(matrix)
    placed = apply_affine(to_photo, box.reshape(2, 2)).ravel()
    try:
        x, y, _, rows = person_rectangle(box, PIXELS, PIXELS)
        person_rectangle(placed, width, height)  # whoever reads the row draws this one
    except ValueError:
        raise _Fault(f"box: {box.round(1).tolist()} has no area inside the photo, expected x1 y1 x2 y2 in px of the "
                     f"{PIXELS}-px square around {width}×{height}") from None  # fmt: skip
    focal = REFERENCE_FOCAL * rows / matrix[1, 1] / REFERENCE_ROWS
    points = np.concatenate([joints[:14], joints[EYES].mean(0, keepdims=True)])
    return MeshRow(
        "ok",
        box=placed.astype(np.float32),
        betas=betas.astype(np.float32),
        pose=(np.zeros(66) if pose is None else pose[3:]).astype(np.float32),  # the first three turn the jaw
        camera=np.array([focal, *shift, *apply_affine(to_photo, np.array([x, y]))], np.float32),
        vertices=vertices.astype(np.float16).ravel(),
        points=apply_affine(to_photo, points).astype(np.float32).ravel(),
        volume=float(volume),
        extractor=extractor,
    )


@torch.no_grad()
def fit_betas(vertices: np.ndarray, body: Body) -> np.ndarray:
    """(10,) betas whose zero pose lies closest to (10475, 3) vertices in metres, wherever these are."""
    probes = torch.cat([torch.zeros(1, 10), torch.eye(10)]).to(body.device)
    rest = body.zero_pose(probes).double().cpu().numpy()
    centred = [mesh - mesh.mean(0) for mesh in (vertices, *rest)]
    directions = np.stack([(mesh - centred[1]).ravel() for mesh in centred[2:]], 1)
    return np.linalg.lstsq(directions, (centred[0] - centred[1]).ravel(), rcond=None)[0]


# One photo's tuple


def _nobody(entry: tuple) -> bool:
    return all(entry[place] is None for place in NEEDED)


def _formed(name: Any, entry: Any) -> tuple:
    """The entry if its form is right; no numbers are read."""
    if not isinstance(name, str):
        raise _Fault(f"its name is a {type(name).__name__}, expected text")
    if not isinstance(entry, (tuple, list)) or len(entry) != 7:
        what = f"{len(entry)} items" if isinstance(entry, (tuple, list)) else f"a {type(entry).__name__}"
        raise _Fault(f"is {what}, expected a tuple of 7")
    for place in () if _nobody(tuple(entry)) else NEEDED:
        item, wanted = ITEMS[place]
        try:
            shape = tuple(_tensor(entry[place]).shape)
        except WRONG as error:
            raise _Fault(f"{item}: is {first_line(error)}, expected {wanted}") from None
        if (1,) * (len(shape) - len(wanted)) + wanted != shape:
            raise _Fault(f"{item}: is {shape}, expected {wanted}")
    return tuple(entry)


def _tensor(item: Any) -> Tensor:
    """A tensor, an array, a number, or a list of numbers; nothing large is copied."""
    if isinstance(item, Tensor) and not item.is_complex():
        return item.detach()
    if isinstance(item, _Array):
        return item.tensor
    if isinstance(item, (int, float)):
        return torch.tensor(item, dtype=torch.float64)
    if isinstance(item, (list, tuple)) and item:
        return torch.stack([_tensor(one).reshape(()).double() for one in item])
    raise TypeError(f"a {type(item).__name__} without real numbers")


def _numbers(entry: tuple, place: int) -> np.ndarray:
    """An item as float64 in its shape, every number of it finite."""
    item, shape = ITEMS[place]
    try:
        values = _tensor(entry[place]).reshape(shape).double().numpy()
    except WRONG as error:
        raise _Fault(f"{item}: is no plain tensor or array ({first_line(error)}), expected {shape}") from None
    if not (np.abs(values) < LARGEST).all():  # NaN compares false
        raise _Fault(f"{item}: holds NaN, infinity or a number of {LARGEST:.0e} or more, expected metres or px")
    return values


def _optional(entry: tuple, place: int) -> np.ndarray | None:
    try:
        return _numbers(entry, place)
    except _Fault:
        return None


# The file


def _load(path: Path) -> Any:
    """What torch.save was given, arrays as `_Array`."""
    if not path.is_file():
        raise BadCheckpoint(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise BadCheckpoint(f"{path}: empty file (0 bytes)")
    with path.open("rb") as stream:
        start = stream.read(2)
    zipped = start == b"PK"
    if not zipped and start[:1] != b"\x80":
        raise BadCheckpoint(f"{path}: not a file of torch.save")
    if zipped and any(member.compress_type != zipfile.ZIP_STORED for member in whole_archive(path)):
        raise BadCheckpoint(f"{path}: packed with compression, expected it as torch.save writes it")  # read as numbers
    try:
        with safe_globals(STANDINS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except _Refused as refused:
        raise BadCheckpoint(f"{path}: holds {refused}, expected numbers only; nothing was run") from None
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))  # the rest of torch's words is advice to run it all the same
        what = f"holds more than numbers ({asked[1]})" if asked else "damaged, or not a file of torch.save"
        raise BadCheckpoint(f"{path}: {what}; nothing was run") from None
    except Exception as error:  # a damaged file fails in as many ways as it has parts
        raise BadCheckpoint(f"{path}: damaged, truncated or not a file of torch.save ({first_line(error)})") from None
