"""PhysiqueFrame at full size: photos per second, per stream, against a straightforward version and the FLOP limit.

    uv run python bench/physique_frame.py --out frame.json                     # GPU if there is one, else CPU
    python3 bench/physique_frame.py --device cuda --compile --out frame.json   # on a machine with torch, timm and scipy
    uv run python bench/physique_frame.py --quick                              # does it run at all?

Prints Markdown (docs/benchmarks.md holds such tables) and writes the same as JSON. Weights are random, photos are noise,
bodies are capsules of differing build: none of it changes how long anything takes. Cases of a table are timed in turn,
round after round (bench/timing.py), so ratios within a table hold on a busy machine as well; compare no two runs.

What stands against what:
- "straightforward" is bench/straightforward.py: eager, float32, as the specification reads;
- "whole" searches centres and neighbours on every mesh as released weights want it; "shared mesh tables" takes those of
  one mean mesh, which is another network with the same weights (train with it, or accept the difference printed below);
- "tabled vectors" are the frozen tower's from the `embed` table. It holds both views of a photo, as it is and mirrored,
  so a training epoch, which shows each photo in one of the two, runs the tower nowhere: an epoch is as much faster as a
  step. Filling the table costs two passes of the tower per photo, once;
- the FLOP limit is what the specification's operations (215 GFLOP a photo, 53 without the tower) take at the device's
  peak: by data sheet for bfloat16 on known cards, else the best large matrix product of this very run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where nothing is installed

from bench.frame_cases import Load, differences
from bench.timing import Timing, Watch, chip, data_sheet

Row = dict[str, Any]
FAST_ENOUGH = 1.3  # bfloat16 is looked at on a CPU only if its matrix product is so much faster


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown; the first two columns to the left, numbers to the right."""
    line = "|" + "|".join("---" if i < 2 else "--:" for i in range(len(head))) + "|"
    return "\n".join("| " + " | ".join(cells) + " |" if cells else line for cells in (head, [], *rows))


def number(value: float | None, digits: int = 3) -> str:
    """Three digits, or all before the point; a dash for what is not known."""
    if value is None or value != value:
        return "–"
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


class Report:
    """What was measured so far, as rows; and as Markdown."""

    def __init__(self, watch: Watch, peak: float | None, cut: bool):
        self.watch, self.peak, self.cut = watch, peak, cut
        self.rows: dict[str, list[Row]] = {"forward": [], "mesh": [], "training": []}
        self.errors: dict[str, dict[str, float]] = {}

    def add(self, group: str, timings: list[Timing]) -> None:
        self.rows[group] += [timing.to_dict() for timing in timings]

    def find(self, group: str, part: str, batch: int | None = None, precision: str = "float32") -> list[Row]:
        return [
            row for row in self.rows[group]
            if row["part"] == part and row["precision"] == precision and batch in (None, row["batch"]) and row["runs"]
        ]  # fmt: skip

    def limit(self, precision: str) -> float:
        """TFLOP/s that shares are taken of."""
        return self.peak if self.peak and precision == "bfloat16" else self.watch.ceiling(precision)

    def share(self, row: Row) -> float | None:
        """Of the FLOP limit, by the fastest round."""
        if not row["runs"] or not row["gflop"] or self.cut:
            return None
        return row["gflop"] * row["batch"] / row["best_s"] / 1000 / self.limit(row["precision"])

    def ratio(self, group: str, slow: tuple, fast: tuple) -> float | None:
        """How many times faster, by the fastest rounds, which a busy machine disturbs least."""
        a, b = self.find(group, *slow), self.find(group, *fast)
        return a[0]["best_s"] / b[0]["best_s"] if a and b else None

    def timed(self, group: str, title: str) -> str:
        cells = []
        for row in self.rows[group]:
            per_photo = [1000 * (row[name] or math.nan) / row["batch"] for name in ("median_s", "best_s")]
            share = self.share(row)
            cells.append([
                row["part"], row["precision"], str(row["batch"]), *map(number, (*per_photo, row["photos_per_s"])),
                "–" if share is None else f"{share:.0%}", number(row["peak_mb"]), row["note"] or f"{row['runs']} rounds",
            ])  # fmt: skip
        head = ["part", "precision", "batch", "ms/photo", "fastest", "photos/s", "of the limit", "MB", ""]
        return f"### {title}\n\n" + table(head, cells)

    def mesh(self) -> str:
        """The mesh stream in parts, ms per photo by the fastest rounds."""
        blocks = []
        for batch in sorted({row["batch"] for row in self.rows["mesh"]}):
            best = {row["part"]: 1000 * (row["best_s"] or math.nan) / batch for row in self.rows["mesh"]
                    if row["batch"] == batch}  # fmt: skip
            shown = [
                ("straightforward", "plain sampling", "plain neighbours", "plain network", "plain", ""),
                ("ours, expanded, literal", "sampling", "expanded neighbours", "literal network", "", "mesh, literal"),
                ("ours, expanded", "sampling", "expanded neighbours", "network", "expanded", "mesh, expanded"),
                ("ours, direct", "sampling", "direct neighbours", "network", "direct", "mesh, direct"),
                ("ours, shared", "", "", "", "shared", "mesh, shared"),
            ]
            for name, *parts, whole, error in shown:
                split = [best.get(part, math.nan) for part in parts]
                total = best[whole] if whole else sum(split)
                alone = total if whole == "shared" else split[2]
                numbers = (*split, total, best["plain"] / total, best["plain network"] / alone)
                gap = self.errors.get(error, {}).get("max", 0.0)
                blocks.append([name, str(batch), *map(number, numbers), f"{gap:.1e}" if gap else "0"])
        head = ["mesh stream", "batch", "sampling", "neighbours", "network", "all, ms/photo", "times faster",
                "network alone", "largest difference"]  # fmt: skip
        spread = number(self.errors["spread of mesh features"]["max"], 2)
        return f"### Mesh stream, float32 (its features have a spread of {spread})\n\n" + table(head, blocks)

    def targets(self) -> dict[str, float | None]:
        """What the issue asks for."""
        whole = [row for row in self.rows["forward"] if row["precision"] == "bfloat16" and row["part"].startswith("whole")]
        shares = [share for row in whole if "tabled" not in row["part"] and (share := self.share(row)) is not None]
        found = {
            "mesh stream, expanded, batch 1, times faster than straightforward (≥ 2)":
                self.ratio("mesh", ("plain", 1), ("expanded", 1)),
            "whole, batch 1, float32, times faster than straightforward":
                self.ratio("forward", ("whole, straightforward", 1), ("whole", 1)),
            "whole, bfloat16, share of the FLOP limit at the best batch (GPU: ≥ 0.35)": max(shares, default=None),
            "epoch with tabled vectors, times faster than the straightforward one (≥ 3)":
                self._epoch("straightforward, CLIP in the step", "float32"),
        }  # fmt: skip
        for precision in ("float32", "bfloat16"):
            found[f"epoch with tabled vectors, times faster than ours without, {precision} (FLOPs allow 2.0)"] = self.ratio(
                "training", ("CLIP in the step", None, precision), ("tabled vectors", None, precision)
            )
        return found

    def _epoch(self, slow: str, precision: str) -> float | None:
        ratios = (self.ratio("training", (slow, None, precision), ("tabled vectors", None, kind))
                  for kind in ("float32", "bfloat16"))  # fmt: skip
        return max((ratio for ratio in ratios if ratio), default=None)

    def markdown(self) -> str:
        lines = [self.timed("forward", "Forward pass"), self.mesh(), self.timed("training", "Training step")]
        said = [f"- {name}: {number(value)}" for name, value in self.targets().items()]
        said += [
            f"- {name}: at most {gap['max']:.1e}, on average {gap['mean']:.1e} (0 to 10)"
            for name, gap in self.errors.items() if name.startswith("scores")
        ]  # fmt: skip
        return "\n\n".join([*lines, "### Ratios (fastest rounds) and differences\n\n" + "\n".join(said)])


def say(text: str, started: float) -> None:
    print(f"[{time.monotonic() - started:4.0f} s] {text}", file=sys.stderr, flush=True)


def measure(asked: argparse.Namespace, device: torch.device) -> Report:
    """Everything, in the order of the tables."""
    started, quick, gpu = time.monotonic(), asked.quick, device.type == "cuda"
    watch = Watch(device, asked.seconds, least=1 if quick else 2)
    report = Report(watch, asked.peak or data_sheet(device), quick)
    precisions = ["float32"]
    if not quick and (gpu or watch.is_faster("bfloat16", FAST_ENOUGH)):
        precisions.append("bfloat16")
    load = Load(device, max(*asked.batches, asked.train_batch), quick)
    say("network is there", started)
    report.errors = differences(load, 1 if quick or not gpu else 8, precisions[1:])
    say("differences", started)
    known: dict[tuple[str, str], float] = {}  # seconds per photo
    for batch in asked.batches:
        cases = [case for name in precisions for case in load.forward_cases(batch, name, gpu or batch == 1)]
        for case in cases:
            case.guess = known.get((case.name, case.precision), 0.0) * batch
        if asked.compile and batch == (asked.batches[-1] if gpu else asked.batches[0]):  # it takes minutes
            try:
                cases += load.compiled_cases(batch, precisions[-1])
            except Exception as error:  # a compiler that gives up, or is not there, must not cost the other figures
                say(f"torch.compile: {type(error).__name__}: {str(error).strip().splitlines()[0]}", started)
        timings = watch.together(cases)
        known |= {(t.case.name, t.case.precision): t.best / batch for t in timings if t.seconds}
        report.add("forward", timings)
        say(f"forward passes of {batch}", started)
    for batch in [1, 8] if gpu and not quick else [1]:
        report.add("mesh", watch.together(load.mesh_cases(min(batch, max(asked.batches)))))
    say("mesh stream", started)
    report.add("training", watch.together(load.training_cases(asked.train_batch, precisions)))
    say("training steps", started)
    return report


def settings(asked: argparse.Namespace, report: Report, device: torch.device) -> Row:
    ceilings = {name: report.watch.ceiling(name) for name in report.watch.ceilings}
    return {
        "chip": chip(device), "device": device.type, "torch": torch.__version__, "threads": torch.get_num_threads(),
        "cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d"), "load": os.getloadavg()[0],
        "bf16_peak_tflop_per_s": report.peak, "matrix_product_tflop_per_s": ceilings,
        "clock": "processor" if report.watch.of_cpu else "wall", "seconds": asked.seconds,
        "train_batch": asked.train_batch, "compiled": asked.compile, "cut": asked.quick,
    }  # fmt: skip


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--batches", default="1,8,64", help="photos of a forward pass, comma-separated")
    parser.add_argument("--train-batch", type=int, help="photos of a training step (16 on a GPU, 2 on a CPU)")
    parser.add_argument("--seconds", type=float, help="for the rounds of one case (1.5 on a GPU, 2 on a CPU)")
    parser.add_argument("--threads", type=int, help="of the CPU; 1 on a busy machine (then times are the processor's own)")
    parser.add_argument("--peak", type=float, help="dense bfloat16 TFLOP/s, for cards that are not known here")
    parser.add_argument("--compile", action="store_true", help="also through torch.compile, at one batch size")
    parser.add_argument("--quick", action="store_true", help="a network cut short, one round: does it run?")
    parser.add_argument("--out", type=Path, help="JSON")
    asked = parser.parse_args()
    name = asked.device if asked.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    asked.batches = [1] if asked.quick else sorted({int(batch) for batch in asked.batches.split(",")})
    asked.train_batch = asked.train_batch or (16 if name == "cuda" else 2)
    asked.seconds = asked.seconds or (1e-3 if asked.quick else 1.5 if name == "cuda" else 2.0)
    report = measure(asked, device)
    known = settings(asked, report, device)
    products = ", ".join(f"{rate:.3g} {kind}" for kind, rate in known["matrix_product_tflop_per_s"].items())
    sheet = f"{report.peak:.0f} TFLOP/s of dense bfloat16 by data sheet" if report.peak else "no data-sheet peak known"
    threads = f"{known['threads']} of {known['cores']} cores, {known['clock']} clock, load {known['load']:.1f}"
    print(f"{known['chip']}; {threads}; torch {known['torch']}; {known['date']}")
    print(f"\nPeak: {sheet}; best matrix product of this run, TFLOP/s: {products}\n")
    if asked.quick:
        print("A network cut short (--quick): these numbers say nothing.\n")
    print(report.markdown())
    if asked.out:
        found = {"settings": known, **report.rows, "targets": report.targets(), "differences": report.errors}
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
