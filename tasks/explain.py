"""`physique explain`: what moved the scores of a photo, as a picture and in a few lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tasks.printable import printable

ARROWS = "→↗↑↖←↙↓↘"
MOST = 3
"""So many points and parts are named."""


def explain_file(photo: Path, user: str | None, out: Path | None, as_json: bool) -> int:
    """Print what moved the scores and draw it; the exit code: 0, or 1 when the photo could not be read.

    Args:
        out: the picture, PNG; `PHOTO.explained.png` in the current folder when left out.

    Raises:
        LookupError: no champion is registered yet.
        ValueError: `out` is not a PNG, or its folder does not exist.
    """
    out = out or Path(f"{photo.stem}.explained.png")
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out: {out} does not end in .png; the picture is a PNG")
    if not out.parent.is_dir():
        raise ValueError(f"--out: there is no folder {out.parent}")
    from model.images import UnreadableImage, decode

    try:  # before the models are loaded: a wrong file is said at once
        data = photo.read_bytes()
        image = np.asarray(decode(data))
    except (OSError, UnreadableImage) as error:
        why = error.strerror or error if isinstance(error, OSError) else error
        print(f"physique: {printable(photo)}: {why}", file=sys.stderr)
        return 1
    import torch

    from model.predictor import Predictor
    from model.saliency import explain
    from tasks.explain_picture import draw
    from tasks.registry import PERSONAL, champion_bundle

    predictor = Predictor(champion_bundle(PERSONAL))
    if not predictor.frames[0].config.reads_photo:
        torch.set_num_threads(1)  # small networks: on a busy machine threads wait for each other five times as long
    answer = predictor([data], [user])[0]
    if user is not None and not answer.known:
        print(f"physique: user {user!r} is not in the bank; explained as for a new user", file=sys.stderr)
    if answer.status != "ok":
        why = answer.row.reason or "no person found"
        print(f"physique: {printable(photo)}: {why}; explained from the image alone", file=sys.stderr)
    shown = explain(predictor, image, answer, user)
    told = Told(shown, image, answer, predictor)
    draw(shown, image, answer, predictor, told.titles()).save(out)
    if as_json:
        about = {"photo": str(photo), "user": user, "known_user": bool(answer.known), "status": answer.status}
        print(json.dumps(about | {"picture": str(out), "dimensions": told.plain()}))
    else:
        told.table(printable(f"{photo.name} for {user or 'a new user'}"))
        print(f"picture: {printable(out)}")
    return 0


class Told:
    """An explanation in numbers and words."""

    def __init__(self, shown: Any, image: np.ndarray, answer: Any, predictor: Any):
        from model.graph import POINTS
        from model.saliency_maps import PARTS, part_of
        from model.scores import DIMENSIONS

        self.shown, self.answer = shown, answer
        self.sd = [float(answer.sd[DIMENSIONS.index(name)]) for name in shown.dimensions]
        self.score = [float(answer.scores[DIMENSIONS.index(name)]) for name in shown.dimensions]
        body = predictor.extractor.body
        self.names, self.points = list(PARTS), POINTS
        owner = part_of(body.layer.lbs_weights)
        seen = parts_in_photo(shown.image.shape[1:], image.shape[:2], answer.row, body, owner)
        self.photo = [_sums(one, seen, [*self.names, "background"]) for one in shown.image]
        self.mesh = [_sums(one * 0.01, owner, self.names) for one in shown.outward]

    def plain(self) -> dict[str, Any]:
        """JSON-able: per dimension what each stream gave and where."""
        out = {}
        for d, name in enumerate(self.shown.dimensions):
            pull = {
                point: {"gain": float(np.hypot(*at)), "right": float(at[0]), "down": float(at[1])}
                for point, at in zip(self.points, self.shown.pull[d], strict=True)
            }
            out[name] = {
                "score": round(self.score[d], 3),
                "sd": round(self.sd[d], 3) if np.isfinite(self.sd[d]) else None,
                "neutral_score": round(float(self.shown.neutral[d]), 3),
                "gave": {stream: float(v) for stream, v in zip(("photo", "mesh", "points"), self.shown.given[d])},
                "photo_parts": self.photo[d],
                "mesh_parts_per_cm": self.mesh[d] if self.shown.found else {},
                "points_per_twentieth": pull if self.shown.found else {},
            }
        return out

    def titles(self) -> list[str]:
        """One line per dimension: the score and what it is made of."""
        return [f"{name}  {self._score(d)}" for d, name in enumerate(self.shown.dimensions)]

    def _score(self, d: int) -> str:
        return f"{self.score[d]:.1f}" + (f" ± {self.sd[d]:.1f}" if np.isfinite(self.sd[d]) else "")

    def table(self, title: str) -> None:
        """Print it: a small table per dimension."""
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        console = Console()
        for d, name in enumerate(self.shown.dimensions):
            given = self.shown.given[d]
            total = max(float(np.abs(given).sum()), 1e-12)
            head = f"{name} {self._score(d)}: {escape(title)}; a neutral photo gets {self.shown.neutral[d]:.1f}"
            table = Table(title=head, title_justify="left")
            for column, side in (("", "left"), ("gave", "right"), ("share", "right"), ("where most", "left")):
                table.add_column(column, justify=side)
            for stream, value, where in zip(("photo", "mesh", "points"), given, self._where(d), strict=True):
                table.add_row(stream, f"{value:+.2f}", f"{100 * abs(value) / total:.0f} %", where)
            console.print(table)

    def _where(self, d: int) -> tuple[str, str, str]:
        if not self.shown.found:
            return _most(self.photo[d]), "nobody found", "nobody found"
        pull = self.shown.pull[d]
        gain = np.hypot(pull[:, 0], pull[:, 1])
        points = [f"{self.points[k]} {gain[k]:.2g} {arrow(pull[k])}" for k in np.argsort(-gain)[:MOST] if gain[k] > 0]
        return _most(self.photo[d]), _most(self.mesh[d]) + " if 1 cm larger", ", ".join(points) or "none"


def _most(parts: dict[str, float]) -> str:
    best = sorted((name for name in parts if parts[name]), key=lambda name: -abs(parts[name]))[:MOST]
    return ", ".join(f"{name} {parts[name]:+.2g}" for name in best) or "nothing"


def _sums(values: np.ndarray, owner: np.ndarray, names: list[str]) -> dict[str, float]:
    """Sum of `values` over each named part; owner: index of the part of each value."""
    total = np.bincount(owner.ravel(), weights=values.ravel().astype(np.float64), minlength=len(names))
    return dict(zip(names, (float(v) for v in total), strict=True))


def arrow(direction: np.ndarray) -> str:
    """The arrow nearest to (right, down)."""
    return ARROWS[round(np.arctan2(-direction[1], direction[0]) / (np.pi / 4)) % 8]


def parts_in_photo(
    size: tuple[int, int], photo: tuple[int, int], row: Any, body: Any, owner: np.ndarray
) -> np.ndarray:
    """(h, w) index of the part of the body that each pixel of a map shows; one past the last: none, the background.

    Args: size of the map, photo: of the photo, both (height, width) px; owner (V,): the part of each vertex.
    """
    import torch

    from model.mesh_row import project
    from tasks.mannequins.raster import rasterise

    seen = np.full(size, owner.max() + 1)
    if row.status != "ok":
        return seen
    betas, pose = (torch.from_numpy(np.array(v, np.float32))[None] for v in (row.betas, row.pose))
    with torch.no_grad():
        vertices = body.posed(betas, pose)[0][0].cpu().numpy()
    depth = vertices[:, 2] + row.camera[3]
    if depth.min() > 0.05:  # nothing behind the camera can be drawn
        uv = project(vertices, row.camera) * [size[1] / photo[1], size[0] / photo[0]]
        pixels, faces, _ = rasterise(uv, depth, body.faces, (0, 0, size[1], size[0]))
        seen[pixels[:, 1], pixels[:, 0]] = owner[body.faces[faces, 0]]
    return seen
