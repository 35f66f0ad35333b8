"""Precision and recall of the person detectors: what `mesh.detector: auto` was decided by.

    uv run python bench/detectors.py --photos 300 --street ../shared/data/street/bus.jpg
    uv run python bench/detectors.py --also onnx yolo11n.onnx       # beside them, one that needs a weights file

Mannequin photos of another seed than the cohort's, so the mesh network has not seen them. A box counts as a
hit when it overlaps the true one by half (intersection over union); a photo with nobody in it counts as a
false alarm when any box is reported. Milliseconds are of one thread, the same photos for all: read them as
ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

STREET = {"bus.jpg": [(48, 399, 245, 903), (669, 382, 810, 880), (221, 406, 345, 860), (0, 550, 63, 873)]}
"""People in the street photo, boxes read off by eye."""


def mannequins(body: Path, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Photos (H, W, 3) uint8 with the true box (4,) px, None where nobody is."""
    from model.images import UnreadableImage, decode
    from tasks.mannequins.photos import photos

    for photo in photos(body, seed, 0, count, nobody=0.25):
        try:
            image = np.asarray(decode(photo.data))
        except UnreadableImage:
            continue
        yield image, np.asarray(photo.truth["box"]) if photo.truth else None


def main() -> None:
    """Print one line per detector."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from model.detect import Box, make_detector, overlap, pick_largest
    from model.images import decode
    from model.mesh_net import load_mesh_net

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--body", type=Path, default=Path("data/body/SMPLX_STANDIN.npz"))
    parser.add_argument("--meshnet", type=Path, default=Path("data/meshnet"))
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--street", type=Path)
    parser.add_argument("--portraits", type=Path, help="folder of photos without whole bodies")
    parser.add_argument("--also", nargs=2, action="append", default=[], metavar=("DETECTOR", "WEIGHTS"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cases = list(mannequins(asked.body, asked.photos, asked.seed))
    net = load_mesh_net(asked.meshnet)
    street = np.asarray(decode(asked.street.read_bytes())) if asked.street else None
    people = [Box(*map(float, box), 1.0) for box in STREET.get(asked.street.name, [])] if asked.street else []
    portraits = sorted(asked.portraits.glob("*.jpg")) if asked.portraits else []
    table = Table("detector", "precision", "recall", "false alarms", "ms", "street: hits / boxes", "portraits found")
    for name, weights in (("hog", None), ("presence", None), ("auto", None), *asked.also):
        detector = make_detector(name, net, weights)
        hits = boxes = alarms = 0
        started = time.perf_counter()
        for image, truth in cases:
            box = pick_largest(detector(image))
            boxes += box is not None
            alarms += box is not None and truth is None
            hits += box is not None and truth is not None and overlap(box, Box(*map(float, truth), 1.0)) >= 0.5
        spent = (time.perf_counter() - started) / len(cases)
        there = sum(truth is not None for _, truth in cases)
        said = "–"
        if street is not None:
            found = detector(street)
            said = f"{sum(any(overlap(b, p) >= 0.5 for b in found) for p in people)} of {len(people)} / {len(found)}"
        found_portraits = sum(bool(detector(np.asarray(decode(path.read_bytes())))) for path in portraits)
        table.add_row(
            name,
            f"{hits / max(boxes, 1):.3f}",
            f"{hits / there:.3f}",
            f"{alarms} of {len(cases) - there}",
            f"{spent * 1000:.0f}",
            said,
            f"{found_portraits} of {len(portraits)}" if portraits else "–",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
