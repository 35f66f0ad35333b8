"""Renders mannequins in numpy: no GL library, no screen, the same on any server.

Notable:
- a z-buffer (raster.py) finds the triangle under each pixel; smooth normals; clothes are cut out per pixel in the
  body's rest pose, so a hem stays sharp whatever the triangles;
- camera as in the mesh table: x right, y down, z forward, a vertex p projects to f * (p + t).xy / (p + t).z plus the
  image's centre, in continuous pixels (pixel i spans i .. i + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.mannequins.backdrop import paint
from tasks.mannequins.raster import rasterise
from tasks.mannequins.scene import Clothes, Framing, Light, Scene

if TYPE_CHECKING:
    from model.body import Body


@dataclass(frozen=True)
class Figure:
    """A posed body: vertices (10475, 3) and the 15 points (15, 3), metres, camera axes, without camera shift."""

    vertices: np.ndarray
    points: np.ndarray


@dataclass(frozen=True)
class Rendered:
    """A picture and what is true of it. `truth` is empty when nobody is there."""

    image: np.ndarray
    """(height, width, 3) uint8 RGB."""
    mask: np.ndarray
    """(height, width) bool, True where the person is."""
    truth: dict[str, np.ndarray]
    """betas (10,), pose (66,), camera (4,) focal px and shift in metres, points (15, 2) px, box (4,) xyxy px."""


@dataclass(frozen=True)
class View:
    """The part of a photo that is rendered: output pixel = scale * (photo pixel - origin)."""

    origin: np.ndarray
    scale: float
    size: tuple[int, int]


def project(points: np.ndarray, camera: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, 3) metres -> (N, 2) pixels of a photo of `size` = (width, height)."""
    x, y, z = points.T
    scale = camera[0] / (z + camera[3])
    return np.stack([scale * (x + camera[1]) + size[0] / 2, scale * (y + camera[2]) + size[1] / 2]).T


def place_camera(vertices: np.ndarray, framing: Framing, size: tuple[int, int]) -> np.ndarray:
    """(4,) focal length in pixels and shift in metres that frame the body as wished."""
    width, height = size
    focal = 0.5 * height / np.tan(0.5 * framing.field_of_view)
    sample = np.ascontiguousarray(vertices[::7].T)
    low, high = sample.min(1), sample.max(1)
    camera = np.array([focal, *(-0.5 * (low + high))])
    camera[3] += focal * (high[1] - low[1]) / (framing.fill * height)
    for _ in range(4):
        uv = project(sample.T, camera, size)
        a, b = uv.T.min(1), uv.T.max(1)
        span = b - a
        # A person wider than the frame (raised arms) is moved back until they fit.
        grow = max(span[1] / (framing.fill * height), span[0] / (0.96 * width))
        depth = camera[3] * grow
        wish = np.array(size) * 0.5 + 0.5 * np.array([framing.across, framing.down]) * np.maximum(
            np.array(size) - span / grow, 0.0
        )
        at = (0.5 * (a + b) - np.array(size) / 2.0) / grow + np.array(size) / 2.0
        camera[3] = depth
        camera[1:3] += (wish - at) * depth / focal
    return camera.astype(np.float32)


class Renderer:
    """Holds the body model and what of it never changes; one per process."""

    def __init__(self, body_path: Path | str):
        from model.body import load_body

        self.body: Body = load_body(body_path)
        with np.load(body_path, allow_pickle=False) as data:
            self.rest = data["v_template"].astype(np.float32)
            part = data["part"] if "part" in data.files else np.where(np.arange(len(self.rest)) >= 9383, 1, 0)
            joints = data["J_regressor"] @ data["v_template"]
        self.faces = self.body.faces.astype(np.int32)
        self.part_of_face = np.asarray(part)[self.faces].max(1)
        self.landmarks = {name: joints[j] for name, j in _LANDMARKS.items()}
        self._f0, self._f1, self._f2 = np.ascontiguousarray(self.faces.T)
        order = np.argsort(self.faces.ravel(), kind="stable")
        self._corner_face = (order // 3).astype(np.int64)
        self._starts = np.searchsorted(self.faces.ravel()[order], np.arange(len(self.rest)))

    def pose(self, scenes: list[Scene]) -> list[Figure]:
        """Poses the people of `scenes` (each must have one) in one batch."""
        import torch

        if not scenes:
            return []
        betas = torch.from_numpy(np.stack([s.person.betas for s in scenes]))
        poses = torch.from_numpy(np.stack([s.person.pose for s in scenes]))
        with torch.no_grad():
            vertices, points = self.body.figure(betas, poses)
        return [Figure(v, p) for v, p in zip(vertices.numpy(), points.numpy())]

    def render(
        self,
        scene: Scene,
        size: tuple[int, int] = (192, 256),
        figure: Figure | None = None,
        view: View | None = None,
        camera: np.ndarray | None = None,
    ) -> Rendered:
        """Renders a scene as a photo of `size` = (width, height), or only the part of that photo that `view` names.

        `figure` is the scene's posed person if it is at hand already, `camera` (4,) a camera other than the framing's.
        """
        import cv2

        photo = paint(scene.backdrop, size)
        if view is None:
            view = View(np.zeros(2), 1.0, size)
            image = photo
        else:
            shift = -view.scale * view.origin + 0.5 * view.scale - 0.5  # cv2 counts from pixel centres
            matrix = np.array([[view.scale, 0, shift[0]], [0, view.scale, shift[1]]])
            image = cv2.warpAffine(photo, matrix, view.size, flags=cv2.INTER_LINEAR)
        mask = np.zeros(view.size[::-1], bool)
        truth: dict[str, np.ndarray] = {}
        if scene.person is not None:
            figure = figure or self.pose([scene])[0]
            if camera is None:
                camera = place_camera(figure.vertices, scene.framing, size)
            self._shadow(image, figure, camera, size, view, scene.light)
            mask = self._draw(image, figure, camera, size, view, scene)
            points = _in_view(project(figure.points, camera, size), view)
            truth = {
                "betas": scene.person.betas,
                "pose": scene.person.pose,
                "camera": camera,
                "points": points.astype(np.float32),
                "box": _box(mask),
            }
        rng = np.random.default_rng(scene.grain_seed)
        noise = scene.grain * rng.standard_normal(image.shape, dtype=np.float32)
        image = np.clip(image * scene.light.tint.astype(np.float32) + noise, 0, 255)
        if view.size != size or view.scale != 1.0:
            left, top, right, bottom = _frame_in_view(size, view)
            inside = np.zeros(image.shape[:2], bool)
            inside[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
            image[~inside] = 0.0  # outside of the photo a crop is black
        return Rendered(image.round().astype(np.uint8), mask, truth)

    def _normals(self, vertices: np.ndarray) -> np.ndarray:
        """(V, 3) vertex normals, weighted by the triangles' areas; outward."""
        columns = []
        (ax, bx), (ay, by), (az, bz) = (
            (c[self._f1] - c[self._f0], c[self._f2] - c[self._f0]) for c in np.ascontiguousarray(vertices.T)
        )
        for n in (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx):
            columns.append(np.add.reduceat(n[self._corner_face], self._starts))
        return np.stack(columns, 1)

    def _draw(
        self, image: np.ndarray, figure: Figure, camera: np.ndarray, size: tuple[int, int], view: View, scene: Scene
    ) -> np.ndarray:
        """Draws the person into `image`; returns the mask (height, width)."""
        mask = np.zeros(view.size[::-1], bool)
        left, top, right, bottom = _frame_in_view(size, view)
        frame = (max(left, 0), max(top, 0), min(right, view.size[0]), min(bottom, view.size[1]))
        uv = _in_view(project(figure.vertices, camera, size), view)
        pixels, face, weights = rasterise(uv, figure.vertices[:, 2] + camera[3], self.faces, frame)
        if not len(face):
            return mask
        corners = self.faces[face]
        normals = self._normals(figure.vertices)
        share = [(corners[:, k], weights[:, k, None]) for k in range(3)]
        n = sum(normals[at] * w for at, w in share)
        rest = sum(self.rest[at] * w for at, w in share)
        n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-12)
        colour = self._colours(rest, self.part_of_face[face], scene.person.clothes)
        lit = scene.light.ambient + scene.light.diffuse * np.clip(n @ scene.light.towards.astype(np.float32), 0, None)
        lit *= 0.85 - 0.15 * n[:, 1]  # a little less light from below
        image[pixels[:, 1], pixels[:, 0]] = colour * lit[:, None]
        mask[pixels[:, 1], pixels[:, 0]] = True
        return mask

    def _colours(self, rest: np.ndarray, part: np.ndarray, clothes: Clothes) -> np.ndarray:
        """(N, 3) colours of skin points by where they lie in the rest pose (T-pose) and which part they are of."""
        at = self.landmarks
        x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]
        out = np.repeat(clothes.skin[None].astype(np.float32), len(rest), axis=0)
        arm = x > at["shoulder"][0] - 0.005
        waist = at["pelvis"][1] + 0.06
        hem = at["hip"][1] - clothes.hem * (at["hip"][1] - at["ankle"][1])
        sleeve = at["shoulder"][0] + max(clothes.sleeve, 0.01) * (at["wrist"][0] - at["shoulder"][0])
        collar = at["neck"][1] + 0.005
        bottom = (y < waist) & (y > hem) & (x < 0.45)
        out[bottom] = clothes.bottom
        neck = (z > 0) & (y > collar - clothes.neckline * (1 - x / 0.09))
        top = (y >= waist) & (y < collar) & (x < sleeve) & ~neck
        if clothes.stripes:
            top_colour = np.where(
                ((y * clothes.stripes) % 1.0 < 0.5)[:, None] & ~arm[:, None], clothes.stripe_colour, clothes.top
            )
            out[top] = top_colour[top]
        else:
            out[top] = clothes.top
        out[y < at["ankle"][1] + 0.015] = clothes.shoes
        eyes = at["eyes"]
        if not clothes.bald:
            back = eyes[2] - 0.055
            line = eyes[1] + 0.048
            hair = (y > line) | ((z < back) & (y > eyes[1] - 0.055 - 0.9 * np.clip(back - z, 0, 0.06)))
            out[hair & (y > at["neck"][1] + 0.05) & ~arm] = clothes.hair
        out[part == 1] = (240, 240, 240)
        out[part == 2] = (45, 35, 30)
        out[part == 3] = clothes.hair * 0.8
        out[part == 4] = clothes.skin
        out[part >= 5] = clothes.skin * np.array([0.80, 0.55, 0.55])
        return out

    def _shadow(
        self, image: np.ndarray, figure: Figure, camera: np.ndarray, size: tuple[int, int], view: View, light: Light
    ) -> None:
        """A soft dark patch on the floor under the feet."""
        height = figure.vertices[:, 1]
        uv = _in_view(project(figure.vertices[height > height.max() - 0.10], camera, size), view)
        reach = np.maximum(uv.max(0) - uv.min(0), 2.0)
        across, down = uv.mean(0)
        x = (np.arange(image.shape[1]) + 0.5 - across + 0.3 * light.towards[0] * reach[0]) / (0.75 * reach[0])
        y = (np.arange(image.shape[0]) + 0.5 - down - 0.2 * reach[1]) / (0.60 * reach[1])
        dark = np.exp(-0.5 * y * y)[:, None] * (np.exp(-0.5 * x * x) * min(light.diffuse, 0.6))
        image *= (1.0 - dark[..., None]).astype(np.float32)


_LANDMARKS = {"pelvis": 0, "hip": 1, "ankle": 7, "neck": 12, "shoulder": 16, "wrist": 20, "eyes": 23}


def _in_view(uv: np.ndarray, view: View) -> np.ndarray:
    """(N, 2) pixels of the photo -> pixels of the view, same type."""
    return (uv - view.origin.astype(uv.dtype)) * uv.dtype.type(view.scale)


def _frame_in_view(size: tuple[int, int], view: View) -> tuple[int, int, int, int]:
    """The photo's frame in pixels of the view: left, top, right, bottom."""
    low = np.round(-view.origin * view.scale).astype(int)
    high = np.round((np.array(size) - view.origin) * view.scale).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _box(mask: np.ndarray) -> np.ndarray:
    """(4,) float32 x0, y0, x1, y1 around a mask; NaN if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.full(4, np.nan, np.float32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
