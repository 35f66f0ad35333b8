"""The picture of an explanation: a row per dimension; photo, mesh and points side by side.

Red raises the score and blue lowers it, wherever one of them is seen. Drawn on matplotlib's Agg canvas, as the report's
plots are (no pyplot, no global figure).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

WIDTH, HEAD, ROW, PANEL, DPI = 12.0, 0.55, 5.35, 3.55, 100
"""Inches: of the picture, of its headline, of a row, of a panel in it; pixels per inch."""
INK, SOFT = "#1c2430", "#5d6878"
SPOT = 0.03
"""Radius of a spot of the photo whose effect is shown, as a share of the person's height (or the photo's longer side)."""
ARROW = 0.13
"""Length of the longest arrow, likewise."""
LEAST = 0.01
"""No scale ends below this (points of the score): what moves next to nothing is to look like it."""


def draw(shown: Any, image: np.ndarray, answer: Any, predictor: Any, titles: list[str]) -> Image.Image:
    """The picture, 1200 px wide: explanation, (H, W, 3) uint8 photo, its answer, and a title per dimension."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    height = HEAD + ROW * len(titles)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    head = "What moved the scores: red raises, blue lowers. Mind the scales: each panel has its own."
    figure.text(0.02, 1 - 0.3 / height, head, fontsize=13, color=SOFT, va="center")
    small, scale = shrunk(image, shown.image.shape[1:])
    canvas = Canvas(figure, small, scale, window(shown, answer, scale))
    for d, title in enumerate(titles):
        at = height - HEAD - ROW * d  # upper edge of the row
        figure.text(0.02, (at - 0.3) / height, title, fontsize=17, weight="bold", color=INK, va="center")
        figure.text(0.31, (at - 0.3) / height, sum_of(shown, d), fontsize=12, color=SOFT, va="center")
        bounds = [(left, (at - 0.8 - PANEL) / height, wide, PANEL / height)
                  for left, wide in ((0.015, 0.29), (0.325, 0.36), (0.7, 0.29))]  # fmt: skip
        axes = [figure.add_axes(bound) for bound in bounds]
        canvas.heat(axes[0], shown.image[d], answer)
        if shown.found:
            canvas.body(axes[1], shown.bulge[d], answer, predictor)
            canvas.points(axes[2], shown.pull[d], answer)
        else:
            for one, name in zip(axes[1:], ("mesh", "points")):
                one.set_axis_off()
                one.text(0.5, 0.5, f"{name}: nobody was found", ha="center", color=SOFT, fontsize=12)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def sum_of(shown: Any, d: int) -> str:
    """What the score is made of, as a sum."""
    parts = [
        f"{'−' if value < 0 else '+'} {abs(value):.2f} {name}"
        for name, value in zip(("photo", "mesh", "points"), shown.given[d])
    ]
    if not shown.found:
        return f"=  {shown.neutral[d]:.2f} blurred photo  {parts[0]}"
    return f"=  {shown.neutral[d]:.2f} blurred photo, average body and pose  {'  '.join(parts)}"


def shrunk(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """The photo at a map's (height, width), and px of the map per px of the photo."""
    import cv2

    mode = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(image, (size[1], size[0]), interpolation=mode), size[0] / image.shape[0]


def window(shown: Any, answer: Any, scale: float) -> tuple[float, float, float, float]:
    """Left, right, bottom, top of what is shown of the photo, px of the map: where anything moved a score."""
    touched = np.abs(shown.image).sum(0) > 0
    rows, columns = np.flatnonzero(touched.any(1)), np.flatnonzero(touched.any(0))
    height, width = touched.shape
    if not len(rows):
        return -0.5, width - 0.5, height - 0.5, -0.5
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    if answer.row.box is not None:
        x1, y1, x2, y2 = np.asarray(answer.row.box) * scale
        left, right, top, bottom = min(left, x1), max(right, x2), min(top, y1), max(bottom, y2)
    return max(left, 0) - 0.5, min(right, width) - 0.5, min(bottom, height) - 0.5, max(top, 0) - 0.5


class Canvas:
    """Panels over one photo: `photo` (h, w, 3) uint8, `scale` px of it per px of the original, `frame`: what is shown."""

    def __init__(self, figure: Any, photo: np.ndarray, scale: float, frame: tuple[float, float, float, float]):
        self.figure, self.scale, self.frame = figure, scale, frame
        grey = photo.mean(2, keepdims=True)
        low, high = np.percentile(grey, (1, 99))
        grey = ((grey - low) / max(high - low, 1.0)).clip(0, 1)
        self.pale = np.repeat(0.4 + 0.58 * grey, 3, 2)

    def _person(self, answer: Any) -> float:
        """The person's height, px of `photo`; the longer side without one."""
        if answer.row.points is None:
            return float(max(self.pale.shape))
        points = np.asarray(answer.row.points).reshape(15, 2) * self.scale
        return float((points.max(0) - points.min(0)).max())

    def _photo(self, axes: Any, title: str, picture: np.ndarray) -> None:
        self._panel(axes, title, picture)
        axes.set_xlim(self.frame[0], self.frame[1])
        axes.set_ylim(self.frame[2], self.frame[3])

    def _panel(self, axes: Any, title: str, picture: np.ndarray) -> None:
        axes.set_axis_off()
        axes.imshow(picture)
        axes.set_anchor("N")
        place = axes.get_position(original=True)
        y = place.y1 + 0.14 / self.figure.get_figheight()
        middle = (place.x0 + place.x1) / 2
        self.figure.text(middle, y, title, fontsize=12, color=INK, ha="center", va="center", weight="bold")

    def _legend(self, axes: Any, colours: Any, limit: float, text: str, both: bool = True) -> None:
        """A bar of colours below a panel, from -limit (or 0) to limit, and what is measured."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        place, inch = axes.get_position(), 1 / self.figure.get_figheight()
        bar = self.figure.add_axes(
            (place.x0 + 0.15 * place.width, place.y0 - 0.2 * inch, 0.7 * place.width, 0.11 * inch)
        )
        scale = Normalize(-limit if both else 0.0, limit)
        drawn = self.figure.colorbar(ScalarMappable(scale, colours), cax=bar, orientation="horizontal")
        drawn.set_ticks([-limit, 0, limit] if both else [0, limit])
        drawn.set_ticklabels([f"−{limit:.2g}", "0", f"+{limit:.2g}"] if both else ["0", f"+{limit:.2g}"])
        drawn.outline.set_visible(False)
        bar.tick_params(labelsize=10, length=0, colors=INK)
        bar.set_xlabel(text, fontsize=10, color=SOFT, labelpad=1)

    def heat(self, axes: Any, given: np.ndarray, answer: Any) -> None:
        """The photo under what each spot of it gave; given (h, w)."""
        import cv2
        from matplotlib import colormaps

        sigma = SPOT * self._person(answer)
        spot = cv2.GaussianBlur(given, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT) * (2 * np.pi * sigma**2)
        limit = max(float(np.percentile(np.abs(spot), 99.7)), LEAST)
        level = (spot / limit).clip(-1, 1)
        strength = (((np.abs(level) - 0.06) / 0.94).clip(0, 1) ** 0.6)[..., None] * 0.85
        colour = colormaps["RdBu_r"](0.5 + 0.5 * level)[..., :3]
        self._photo(axes, "photo", (1 - strength) * self.pale + strength * colour)
        self._legend(axes, "RdBu_r", limit, "what is seen here gives the score")

    def body(self, axes: Any, bulge: np.ndarray, answer: Any, predictor: Any) -> None:
        """The body from the front and from behind, coloured by what swelling there would do; bulge (10475,)."""
        from matplotlib import colormaps

        limit = max(float(np.abs(bulge).max()), LEAST)
        colours = colormaps["RdBu_r"](0.5 + 0.5 * bulge / limit)[:, :3]
        self._panel(axes, "mesh, front and back", figures(answer.row.betas, predictor.extractor, colours))
        self._legend(axes, "RdBu_r", limit, "the score gains, if the body swells by 1 cm here")

    def points(self, axes: Any, pull: np.ndarray, answer: Any) -> None:
        """The 15 points, and where the score wants them; pull (15, 2)."""
        from matplotlib import colormaps

        from model.graph import EDGES, POINTS

        points = np.asarray(answer.row.points).reshape(15, 2) * self.scale - 0.5
        gain = np.hypot(pull[:, 0], pull[:, 1])
        most = max(float(gain.max()), 1e-12)
        limit = max(most, LEAST)
        self._photo(axes, "points", self.pale)
        for a, b in EDGES:
            axes.plot(*points[[a, b]].T, color="#6f7a8a", lw=1, zorder=1)
        level = colormaps["YlOrRd"](0.05 + 0.9 * gain / limit)
        axes.scatter(*points.T, s=14 + 120 * gain / most, c=level, edgecolors=INK, linewidths=0.7, zorder=3)
        for at, towards in zip(points, pull / most * ARROW * self._person(answer), strict=True):
            if np.hypot(*towards) > 0.1 * ARROW * self._person(answer):
                axes.annotate("", at + towards, at, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.5,
                              "shrinkA": 0, "shrinkB": 0, "mutation_scale": 11}, zorder=4)  # fmt: skip
        names = [(points[k], POINTS[k]) for k in np.argsort(-gain)[:3]]
        self._names(axes, names, float(np.median(points[:, 0])))
        text = "the score gains, if the point moves along\nits arrow by 5 % of the person's height"
        if most < LEAST:
            text += f"\n(next to nothing: {most:.1g} at most)"
        self._legend(axes, _upper("YlOrRd"), limit, text, both=False)


    def _names(self, axes: Any, named: list[tuple[np.ndarray, str]], middle: float) -> None:
        """Names beside points, on the side away from the `middle` (x), none over another."""
        apart = 0.055 * abs(self.frame[2] - self.frame[3])
        lowest = {True: -np.inf, False: -np.inf}
        for at, name in sorted(named, key=lambda one: one[0][1]):
            left = bool(at[0] < middle)
            y = lowest[left] = max(float(at[1]), lowest[left] + apart)
            x = at[0] + (-1 if left else 1) * 0.75 * apart
            axes.text(x, y, name, fontsize=9.5, color=INK, ha="right" if left else "left", va="center", zorder=5,
                      bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8})  # fmt: skip


def _upper(name: str) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps[name](np.linspace(0.05, 0.95, 128)))


def figures(betas: np.ndarray, extractor: Any, colours: np.ndarray, pixels: int = 420) -> np.ndarray:
    """(pixels, W, 3) floats: a body in the mean pose, upright, from the front and from behind, in (V, 3) colours."""
    import torch

    from tasks.mannequins.raster import rasterise

    pose = extractor.network.usual_pose
    pose[:, :3] = 0
    with torch.no_grad():
        vertices = extractor.body.posed(torch.from_numpy(np.array(betas, np.float32))[None], pose)[0][0].cpu().numpy()
    faces = extractor.body.faces
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-12)
    low, high = vertices.min(0), vertices.max(0)
    scale = (pixels - 8) / (high[1] - low[1])
    width = int((high[0] - low[0]) * scale) + 16
    sides = []
    for turn in (1.0, -1.0):  # from the front the person's left is on the right
        canvas = np.ones((pixels, width, 3))
        centre = (low[0] + high[0]) / 2
        uv = np.stack([(vertices[:, 0] - centre) * turn * scale + width / 2, (high[1] - vertices[:, 1]) * scale + 4], 1)
        depth = 10.0 - turn * vertices[:, 2]
        at, face, weights = rasterise(uv, depth, faces, (0, 0, width, pixels))
        light = 0.55 + 0.45 * (normal[face] @ (np.array([0.3 * turn, 0.45, 0.84 * turn]))).clip(0, 1)
        colour = (weights[:, :, None] * colours[faces[face]]).sum(1)
        canvas[at[:, 1], at[:, 0]] = colour * light[:, None]
        sides.append(canvas)
    return np.concatenate(sides, axis=1)
