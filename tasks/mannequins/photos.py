"""Writes mannequin photos as a folder of JPEGs, and crops of people for training the small mesh network.

    python -c "from pathlib import Path; from tasks.mannequins.photos import make_photos; \
               make_photos(Path('cohort'), Path('body.npz'), n=100, seed=0, workers=2)"

Notable:
- photo i depends on (seed, i) and nothing else: asking for more photos never changes the ones that are there;
- as in real folders a few photos show nobody and a few files cannot be read.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.mannequins.scene import POSTURE, Scene, sample_scene

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.mannequins.render import Renderer

SIZE = (192, 256)
"""Width and height of a photo in pixels."""
NOBODY, UNREADABLE = 0.02, 0.01
"""Shares of photos without a person and of files that are not images."""
_BATCH = 16
_STRETCH = 256
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Photo:
    """One file of the cohort. kind: person, nobody or unreadable; truth: empty unless there is a person."""

    name: str
    kind: str
    data: bytes
    truth: dict[str, np.ndarray | float]


def kind_of(seed: int, index: int, nobody: float = NOBODY, unreadable: float = UNREADABLE) -> str:
    """What photo `index` shows; spread evenly, so that any hundred photos have about the same shares."""
    start = np.random.default_rng([seed, 1]).random()
    place = (start + index * _GOLDEN) % 1.0
    if place < unreadable:
        return "unreadable"
    return "nobody" if place < unreadable + nobody else "person"


def _jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _broken(rng: np.random.Generator, index: int, image: np.ndarray) -> bytes:
    """A file that no decoder reads: cut off in its header, text, or empty."""
    how = rng.integers(3)
    if how == 0:
        return _jpeg(image)[: int(rng.integers(60, 400))]
    if how == 1:
        return f"This is not photo {index}: the download stopped here.\n".encode()
    return b""


def photos(
    body_path: Path | str,
    seed: int,
    start: int,
    stop: int,
    size: tuple[int, int] = SIZE,
    renderer: Renderer | None = None,
    nobody: float = NOBODY,
    unreadable: float = UNREADABLE,
) -> Iterator[Photo]:
    """Renders photos `start` .. `stop` - 1 in memory, in order. Give a `renderer` to load the body model only once."""
    from model.measure import measure
    from tasks.mannequins.render import Renderer

    renderer = renderer or Renderer(body_path)
    for first in range(start - start % _BATCH, stop, _BATCH):
        # People are posed in batches that always hold the same ones: the last bits of a matrix product depend on
        # its size, and a photo must not depend on what else was asked for.
        indices = range(first, first + _BATCH)
        kinds = [kind_of(seed, i, nobody, unreadable) for i in indices]
        rngs = [np.random.default_rng([seed, 2, i]) for i in indices]
        scenes = [sample_scene(rng, nobody=kind != "person") for rng, kind in zip(rngs, kinds)]
        people = [s for s in scenes if s.person is not None]
        figures = iter(renderer.pose(people))
        tape = measure(renderer.body, np.stack([s.person.betas for s in people])) if people else {}
        seen = 0
        for i, kind, rng, scene in zip(indices, kinds, rngs, scenes):
            figure = next(figures) if kind == "person" else None
            person, seen = seen, seen + (figure is not None)
            if not start <= i < stop:
                continue
            picture = renderer.render(scene, size, figure=figure)
            truth: dict[str, np.ndarray | float] = {}
            if kind == "person":
                truth = picture.truth | scene.person.posture | {k: float(v[person]) for k, v in tape.items()}
            data = _broken(rng, i, picture.image) if kind == "unreadable" else _jpeg(picture.image)
            yield Photo(f"{i:05d}.jpg", kind, data, truth)


def truth_table(rows: list[Photo]) -> pa.Table:
    """What is known of each photo, in the order given: lists betas (10), pose (66), camera (4), points (30: 15 x 2 px,
    x before y), box (4); posture attributes in radians and measurements (model.body.measure) as float columns. Null
    where nobody is."""
    import pyarrow as pa

    columns: dict[str, pa.Array] = {
        "photo": pa.array([r.name for r in rows], pa.string()),
        "kind": pa.array([r.kind for r in rows], pa.string()),
    }
    for name in ("betas", "pose", "camera", "points", "box"):
        values = [np.asarray(r.truth[name]).ravel().tolist() if r.truth else None for r in rows]
        columns[name] = pa.array(values, pa.list_(pa.float32()))  # fixed-size lists with nulls cannot be read back
    for name in (*POSTURE, *MEASURES):
        columns[name] = pa.array([r.truth[name] if r.truth else None for r in rows], pa.float64())
    return pa.table(columns)


MEASURES = (
    *("height", "chest", "waist", "hips", "shoulder_width", "hip_width", "waist_width", "leg_length"),
    *("arm_length", "limb_girth", "volume", "mass", "bmi", "waist_hip", "shoulder_waist", "chest_waist"),
    *("leg_height", "muscularity"),
)
"""Columns of `model.body.measure`, in the table's order."""


def _write(out: Path, body_path: Path, seed: int, start: int, stop: int, nobody: float, unreadable: float) -> list[Photo]:
    """Renders and writes one stretch of photos; returns them without their bytes."""
    done = []
    for photo in photos(body_path, seed, start, stop, nobody=nobody, unreadable=unreadable):
        (out / "photos" / photo.name).write_bytes(photo.data)
        done.append(Photo(photo.name, photo.kind, b"", photo.truth))
    return done


def make_photos(
    out: Path,
    body_path: Path,
    n: int,
    seed: int,
    *,
    workers: int = 1,
    nobody: float = NOBODY,
    unreadable: float = UNREADABLE,
    on_progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Writes photos 0 .. n - 1 to out/photos and out/truth.parquet; returns the truth table.

    `workers` processes share the work; the files are the same for any number of them.
    """
    import pyarrow.parquet as pq

    out = Path(out)
    (out / "photos").mkdir(parents=True, exist_ok=True)
    step = min(_STRETCH, max(_BATCH, -(-n // max(1, 2 * workers) // _BATCH) * _BATCH))
    jobs = [(out, Path(body_path), seed, a, min(a + step, n), nobody, unreadable) for a in range(0, n, step)]
    rows: list[Photo] = []
    if on_progress:
        on_progress(0, n)
    with _processes(min(workers, len(jobs))) as each:
        for stretch in each(_write, *zip(*jobs, strict=True)):
            rows += stretch
            if on_progress:
                on_progress(len(rows), n)
    table = truth_table(rows)
    partial = out / "truth.partial"
    pq.write_table(table, partial)
    partial.replace(out / "truth.parquet")
    return table


@contextmanager
def _processes(count: int) -> Iterator[Callable]:
    """`map` over `count` processes of one thread each; the built-in one where one is enough."""
    if count < 2:
        yield map
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # spawn: a fork of a process with threads (Ray, Prefect, torch) may hang
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_alone) as pool:
        yield pool.map


def _alone() -> None:
    """One thread per process: the processes are what runs in parallel."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def person_crop(box: np.ndarray, size: tuple[int, int], grow: float = 1.25) -> tuple[np.ndarray, float]:
    """The crop around a person's box (4,) xyxy that SMPLer-X uses (spec.md, section 1.4): grown to the aspect of
    `size`, then by `grow`. Returns the crop's corner (2,) in photo pixels and the scale to crop pixels."""
    width, height = size
    w, h = max(box[2] - box[0], 1.0), max(box[3] - box[1], 1.0)
    h = max(h, w * height / width) * grow
    scale = height / h
    centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2.0
    return centre - np.array([width, height]) / (2.0 * scale), float(scale)


def training_crops(
    body_path: Path | str,
    n: int,
    seed: int,
    size: tuple[int, int] = (96, 128),
    start: int = 0,
    stop: int | None = None,
    absent: float = 0.12,
    renderer: Renderer | None = None,
) -> dict[str, np.ndarray]:
    """Crops for training the mesh network, rendered at crop size; crop i depends on (seed, i) only.

    Returns crops start .. stop - 1 (of n) as arrays: images (m, height, width, 3) uint8 RGB; present (m,) bool;
    betas (m, 10); pose (m, 66) axis-angle; points (m, 15, 2) and box (m, 4) xyxy in crop pixels; camera (m, 4) of the
    192 x 256 photo that the crop is of, and crop (m, 3): its corner x, y in photo pixels and its scale. `absent` of
    the crops show nobody (a bare place, or a place beside the person); their numbers are NaN. What lies outside of
    the photo is black, as in a crop by affine warp.
    """
    from tasks.mannequins.render import Renderer

    stop = n if stop is None else min(stop, n)
    m = max(stop - start, 0)
    width, height = size
    renderer = renderer or Renderer(body_path)
    out = {
        "images": np.zeros((m, height, width, 3), np.uint8),
        "present": np.zeros(m, bool),
        "betas": np.full((m, 10), np.nan, np.float32),
        "pose": np.full((m, 66), np.nan, np.float32),
        "points": np.full((m, 15, 2), np.nan, np.float32),
        "box": np.full((m, 4), np.nan, np.float32),
        "camera": np.full((m, 4), np.nan, np.float32),
        "crop": np.full((m, 3), np.nan, np.float32),
    }
    for first in range(start - start % _BATCH, stop, _BATCH):  # whole batches, as in `photos`
        indices = range(first, first + _BATCH)
        rngs = [np.random.default_rng([seed, 3, i]) for i in indices]
        draws = [rng.random() for rng in rngs]
        scenes = [sample_scene(rng, nobody=d < 0.6 * absent) for rng, d in zip(rngs, draws)]
        figures = iter(renderer.pose([s for s in scenes if s.person is not None]))
        for i, rng, draw, scene in zip(indices, rngs, draws, scenes):
            figure = next(figures) if scene.person is not None else None
            if not start <= i < stop:
                continue
            _crop(out, i - start, renderer, scene, figure, rng, beside=0.6 * absent <= draw < absent, size=size)
    return out


def _crop(
    out: dict[str, np.ndarray],
    at: int,
    renderer: Renderer,
    scene: Scene,
    figure,
    rng: np.random.Generator,
    beside: bool,
    size: tuple[int, int],
) -> None:
    from tasks.mannequins.render import View, place_camera, project

    camera = None
    if figure is None:
        w = rng.uniform(40, 150)
        x, y = rng.uniform(0, SIZE[0] - 0.5 * w), rng.uniform(0, 120)
        box = np.array([x, y, x + w, y + rng.uniform(1.0, 2.2) * w])
    else:
        camera = place_camera(figure.vertices, scene.framing, SIZE)
        uv = project(figure.vertices, camera, SIZE)
        box = np.concatenate([np.clip(uv.min(0), 0, SIZE), np.clip(uv.max(0), 0, SIZE)])
        if beside:
            # a smaller box in the wider free strip to the left or right
            high = rng.uniform(0.3, 0.7) * (box[3] - box[1])
            wide, bottom = high * rng.uniform(0.35, 0.7), rng.uniform(box[1] + high, box[3])
            side = -1 if box[0] > SIZE[0] - box[2] else 1
            middle = (box[0] if side < 0 else box[2]) + side * (0.47 * high * rng.uniform(0.9, 1.3))
            box = np.array([middle - wide / 2, bottom - high, middle + wide / 2, bottom])
    # A detector's box is not exact: sides off by some percent, now and then a hand or the feet cut off.
    w, h = box[2:] - box[:2]
    jitter = rng.normal(0, 0.04, 4) * np.array([w, h, w, h])
    origin, scale = person_crop(box + jitter, size, grow=1.25 * float(np.exp(rng.normal(0, 0.06))))
    picture = renderer.render(scene, SIZE, figure=figure, view=View(origin, scale, size), camera=camera)
    if beside and picture.mask.mean() > 0.04:  # a hand at the edge may stay, more than that is a person
        picture = renderer.render(replace(scene, person=None), SIZE, view=View(origin, scale, size))
    image = picture.image
    if rng.random() < 0.5:
        image = _recompressed(image, int(rng.integers(50, 95)))
    out["images"][at] = image
    out["crop"][at] = (*origin, scale)
    if figure is not None and not beside:
        out["present"][at] = True
        for name in ("betas", "pose", "camera", "points", "box"):
            out[name][at] = picture.truth[name]


def _recompressed(image: np.ndarray, quality: int) -> np.ndarray:
    import cv2

    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
