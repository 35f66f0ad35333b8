"""Drafts of a labeller made elsewhere: three scores per photo, from a file or from an HTTP endpoint.

The setting `pretrain.labeller` names it. What cannot be used becomes lines of a quarantine table, and the rest goes
on. Answers of an endpoint are kept (tasks/label_endpoint.py), so asking again costs only what is missing.

    python -m tasks.drafts LABELLER data/cohort/photos .physique/drafts      # how many drafts, and what is wrong
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.scores import DIMENSIONS, SCALE
from tasks.intake.items import needs_photos
from tasks.intake.quarantine import BadInput, Quarantine
from tasks.label_client import Asking, address
from tasks.label_endpoint import ask_endpoint
from tasks.label_file import SPREADS, SUFFIXES, read_label_file
from tasks.schemas import check
from tasks.tables import read_table, shard_paths

__all__ = ["Asking", "Drafts", "read_drafts"]


@dataclass(frozen=True)
class Drafts:
    """What a labeller says of N photos, in the cohort's order; photos without any score are not among them."""

    photo_ids: list[str]
    scores: np.ndarray
    """(N, 3) float64, 0..10, in the order of DIMENSIONS; NaN = none."""
    spread: np.ndarray
    """(N, 3) float64, the labeller's own uncertainty in points; NaN = not given."""


def read_drafts(
    labeller: str,
    photos: Path,
    cache: Path,
    *,
    scale: tuple[float, float] = SCALE,
    asking: Asking = Asking(),  # noqa: B008  (frozen)
) -> tuple[Drafts, pa.Table]:
    """Drafts of a cohort's photos, and the `quarantine` table of what cannot be used.

    Args:
        labeller: a .csv or .parquet file, or the http(s):// address of an endpoint (docs/labeller.md).
        photos: the cohort's folder of photo shards.
        cache: folder where answers of endpoints are kept.
        scale: (lowest, highest) score of the file, or what the endpoint is asked for; scores are brought to 0..10.
        asking: how an endpoint is asked.

    Raises:
        BadInput: no such labeller, or not one draft can be used; one line. Answers that came are kept.
    """
    if len(scale) != 2 or not -math.inf < scale[0] < scale[1] < math.inf:
        raise BadInput(f"labeller's scale is {scale}; it must be two numbers, the lowest and the highest score")
    names = _names(photos)
    quarantine, shown = Quarantine(), labeller
    if labeller.lower().startswith(("http://", "https://")):
        needs_photos(photos, "labeller: an endpoint is sent photos")
        shown = address(labeller)
        table = ask_endpoint(labeller, photos, names, cache, scale, asking, quarantine)
    elif labeller.lower().endswith(SUFFIXES):
        table = read_label_file(Path(labeller), names, scale, quarantine)
    else:
        right = f"a {' or '.join(SUFFIXES)} file, or the http(s):// address of an endpoint"
        raise BadInput(f"labeller is {labeller!r}; it must be {right}")
    drafts = _in_order(table, names)
    if not drafts.photo_ids:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in quarantine.reasons().items())
        raise BadInput(f"{shown}: no draft of any of the {len(names):,} photos; {reasons or 'all are blank'}")
    return drafts, check(quarantine.table(), "quarantine")


def _names(photos: Path) -> dict[str, str]:
    """Photo name by photo_id, in the cohort's order."""
    names: dict[str, str] = {}
    for path in shard_paths(photos):
        head = read_table(path, ["photo_id", "name"])
        names.update(zip(head["photo_id"].to_pylist(), head["name"].to_pylist()))
    if not names:
        raise BadInput(f"{photos}: holds no photo; run the stage cohort first (dvc repro cohort)")
    return names


def _in_order(table: pa.Table, names: dict[str, str]) -> Drafts:
    """Rows of the `drafts` table that have a score, in the order of `names`."""
    rank = {photo_id: i for i, photo_id in enumerate(names)}
    ids = table["photo_id"].to_pylist()
    scores, spread = (
        np.stack([pc.fill_null(table[c], math.nan).to_numpy() for c in columns], 1).reshape(-1, len(DIMENSIONS))
        for columns in (DIMENSIONS, SPREADS)
    )
    some = np.isfinite(scores).any(1)
    rows = sorted((row for row in range(len(ids)) if some[row] and ids[row] in rank), key=lambda row: rank[ids[row]])
    return Drafts([ids[row] for row in rows], scores[rows], spread[rows])


if __name__ == "__main__":
    from argparse import ArgumentParser

    from tasks.faults import told
    from tasks.intake.quarantine import as_lines

    words = ArgumentParser(prog="python -m tasks.drafts", description="Drafts of a labeller made elsewhere.")
    words.add_argument("labeller", help="a .csv or .parquet file, or the address of an endpoint")
    words.add_argument("photos", type=Path, help="folder of photo shards: data/cohort/photos")
    words.add_argument("cache", type=Path, help="where answers are kept; the pipeline's is .physique/drafts")
    words.add_argument("--scale", type=float, nargs=2, default=SCALE, metavar=("LOW", "HIGH"))
    words.add_argument("--per-minute", type=float, default=Asking.per_minute, help="requests to an endpoint")
    words.add_argument("--at-once", type=int, default=Asking.at_once, help="requests under way")
    given = words.parse_args()
    if given.per_minute <= 0 or given.at_once < 1:
        words.error("--per-minute must be above 0, --at-once at least 1")
    with told():
        asking = Asking(per_minute=given.per_minute, at_once=given.at_once)
        drafts, aside = read_drafts(given.labeller, given.photos, given.cache, scale=tuple(given.scale), asking=asking)
        print(f"{len(drafts.photo_ids):,} photos with drafts, {len(aside):,} lines of quarantine")
        print("\n".join(as_lines(aside)))
