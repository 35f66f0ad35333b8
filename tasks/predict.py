"""`physique predict`: photos to a table of scores by the champion, and a picture of what was seen."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from model.scores import DIMENSIONS
from tasks.printable import printable


def predict_files(
    photos: list[Path], user: str | None, overlay: Path | None, as_json: bool, items: list[str] | None = None
) -> int:
    """Print scores; the exit code: 0, or 1 when a photo could not be answered (a line on stderr says why).

    Args:
        photos: image files, or Parquet files of items that are vectors. items: names of such items of the cohort.

    Raises:
        LookupError: no champion is registered yet.
        ValueError: nothing to score, --overlay with several photos, or the champion reads something else.
    """
    tables = [path for path in photos if path.suffix.lower() == ".parquet"]
    if items or tables:
        from tasks.predict_items import predict_items

        if len(tables) < len(photos) or overlay is not None:
            raise ValueError("items and Parquet files cannot be mixed with photos, and have no picture for --overlay")
        return predict_items(items or [], tables, user, as_json)
    if not photos:
        raise ValueError("nothing to score: give photo files, or --item NAME where items are vectors")
    if overlay is not None and len(photos) > 1:
        raise ValueError(f"--overlay: {overlay} is one picture, {len(photos)} photos were given; give one photo")
    readable, failed = [], 0
    for path in photos:
        try:
            readable.append((path, path.read_bytes()))
        except OSError as error:
            failed += 1
            print(f"physique: {printable(path)}: {error.strerror or error}", file=sys.stderr)
    if readable:
        failed += _answer(readable, user, overlay, as_json)
    return int(failed > 0)


def _answer(photos: list[tuple[Path, bytes]], user: str | None, overlay: Path | None, as_json: bool) -> int:
    from model.images import UnreadableImage, decode
    from model.predictor import Predictor
    from tasks.predict_items import NEEDED
    from tasks.registry import PERSONAL, champion_bundle

    good, failed = [], 0
    for path, data in photos:  # before the models are loaded: a wrong file is said at once
        try:
            decode(data)
            good.append((path, data))
        except UnreadableImage as error:
            failed += 1
            print(f"physique: {printable(path)}: {error}", file=sys.stderr)
    if not good:
        return failed
    predictor = Predictor(champion_bundle(PERSONAL))
    if predictor.length is not None:
        raise ValueError(f"the model that serves now reads vectors of {predictor.length} numbers, not photos; {NEEDED}")
    if user is not None and int(predictor.bank.index([user])[0]) < 0:  # type: ignore[union-attr]
        print(f"physique: user {user!r} is not in the bank; answered as for a new user", file=sys.stderr)
    answers = predictor([data for _, data in good], [user] * len(good))
    rows = []
    for (path, data), answer in zip(good, answers):
        rows.append((path, answer))
        if overlay is not None:
            draw(np.asarray(decode(data)), answer, predictor).save(overlay)
    if as_json:
        for path, answer in rows:
            print(json.dumps(_plain(path, user, answer)))
    else:
        _table(rows, user, predictor)
    return failed


def draw(image: np.ndarray, answer: Any, predictor: Any) -> Any:
    """The photo (PIL image) with its mesh and scores, or as it is when nobody was found."""
    from PIL import Image

    from model.overlay import overlay

    if answer.status != "ok":
        return Image.fromarray(image)
    return Image.fromarray(overlay(image, answer.row, predictor.extractor.body))


def _plain(path: Path, user: str | None, answer: Any) -> dict[str, Any]:
    scores = {d: round(float(s), 3) for d, s in zip(DIMENSIONS, answer.scores) if np.isfinite(s)}
    box = None if answer.row.box is None else [round(float(v), 1) for v in answer.row.box]
    return {"photo": str(path), "user": user, "known_user": bool(answer.known), "status": answer.status,
            "box": box, "scores": scores}  # fmt: skip


def _table(rows: list[tuple[Path, Any]], user: str | None, predictor: Any) -> None:
    from rich.console import Console
    from rich.markup import escape  # a name such as [draft].jpg is no markup
    from rich.table import Table

    rated = [k for k in range(len(DIMENSIONS)) if predictor.rated[k]]
    table = Table(title=f"scores for {escape(printable(user or 'a new user'))}, 0 to 10", title_justify="left")
    table.add_column("photo")
    table.add_column("person")
    for k in rated:
        table.add_column(DIMENSIONS[k], justify="right")
    for path, answer in rows:
        found = "found" if answer.status == "ok" else f"nobody found: {answer.row.reason or 'scored from the image'}"
        table.add_row(escape(printable(path)), found, *cells(answer, rated))
    Console().print(table)


def cells(answer: Any, rated: list[int]) -> list[str]:
    """Scores on the rated dimensions, with how sure they are."""
    sure = [f" ± {answer.sd[k]:.1f}" if np.isfinite(answer.sd[k]) else "" for k in rated]
    return [f"{answer.scores[k]:.2f}{sd}" for k, sd in zip(rated, sure)]
