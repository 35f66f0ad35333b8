"""Timing side by side: every case of a group is run in turn, round after round, so that a busy neighbour slows all alike.

Of each case the fastest and the median round are kept, with the memory that its first pass added. A large matrix product
runs in every round of a group as well: it is the measured ceiling that shares are taken of.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

PEAKS = {"H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200": 989, "GH200": 989, "A100": 312}
"""TFLOP/s of dense bf16 products by data sheet; the first name that is part of the card's counts."""
LONGEST, MOST = 7, 30  # a pass may take so many times `seconds`; rounds at most


@dataclass
class Case:
    """Something to be timed; `run` does it once."""

    name: str
    run: Callable[[], object]
    photos: int = 1
    precision: str = "float32"
    gflop: float | None = None
    """Of the specification, per photo."""
    guess: float = 0.0
    """Seconds a pass should take, where something is known."""


@dataclass
class Timing:
    """Seconds of one pass, and what it took."""

    case: Case
    seconds: list[float] = field(default_factory=list)
    megabytes: float | None = None
    note: str = ""
    spent: float = 0.0
    """In all rounds."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")

    @property
    def best(self) -> float:
        return min(self.seconds, default=float("nan"))

    def to_dict(self) -> dict[str, Any]:
        """Numbers that were not measured are None."""
        there = bool(self.seconds)
        return {
            "part": self.case.name, "precision": self.case.precision, "batch": self.case.photos,
            "median_s": self.median if there else None, "best_s": self.best if there else None,
            "photos_per_s": self.case.photos / self.median if there else None, "runs": len(self.seconds),
            "gflop": self.case.gflop, "peak_mb": self.megabytes, "note": self.note,
        }  # fmt: skip


class Watch:
    """Times cases on one device, and knows its ceilings.

    Args:
        seconds: about what the rounds of one case may take together.
        least: rounds that are run in any case.
    """

    def __init__(self, device: torch.device, seconds: float, least: int = 2):
        self.device, self.seconds, self.least = device, seconds, least
        self.of_cpu = device.type == "cpu" and torch.get_num_threads() == 1
        self.clock = time.process_time if self.of_cpu else time.perf_counter
        self.ceilings: dict[str, list[float]] = {}
        side = 8192 if device.type == "cuda" else 2048
        # Random numbers: on zeros a chip draws less power and is faster than on any real data.
        self.factors = torch.randn(2, side, side, device=device)
        self.flop = 2 * side**3

    def settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def product(self, precision: str) -> Case:
        """A case that measures the ceiling for `precision`."""
        a, b = self.factors.to(getattr(torch, precision))
        return Case("matrix product", lambda: a @ b, 1, precision)

    def ceiling(self, precision: str) -> float:
        """TFLOP/s of the best matrix product so far; NaN when none was run."""
        return self.flop / min(self.ceilings.get(precision, []), default=float("nan")) / 1e12

    def is_faster(self, precision: str, times: float) -> bool:
        """Whether matrix products in `precision` are so many times as fast as in float32."""
        for name in ("float32", precision) * 3:
            self._round_of_product(name)
        return self.ceiling(precision) > times * self.ceiling("float32")

    def _round_of_product(self, precision: str) -> None:
        self.ceilings.setdefault(precision, []).append(self._once(self.product(precision), 1))

    def together(self, cases: list[Case]) -> list[Timing]:
        """Time these side by side; what would take too long is left out and says so."""
        timings = [Timing(case) for case in cases]
        limit = max(self.seconds * LONGEST, 1e-9)
        for timing in timings:
            if timing.case.guess > limit:
                timing.note = f"left out: a pass would take about {timing.case.guess:.0f} s"
            else:
                self._first(timing)
        products = [Timing(self.product(name)) for name in sorted({case.precision for case in cases})]
        for product in products:
            product.case.guess = self._once(product.case, 1)  # a first pass that does not count
            self._round(product)
        for _ in range(MOST):
            waiting = [timing for timing in timings if self._wanted(timing)]
            if not waiting:
                break
            for timing in (*products, *waiting):
                self._round(timing)
        for product in products:
            self.ceilings.setdefault(product.case.precision, []).extend(product.seconds)
        return timings

    def _wanted(self, timing: Timing) -> bool:
        return not timing.note and (len(timing.seconds) < self.least or timing.spent < self.seconds)

    def _first(self, timing: Timing) -> None:
        """The warm-up, with a look at memory. A long one counts as a round: what it warms is small beside it."""
        gc.collect()
        before = self._memory(reset=True)
        try:
            spent = self._once(timing.case, 1)
        except torch.OutOfMemoryError:
            timing.note = "left out: does not fit into memory"
            return
        after = self._memory()
        if before is not None and after is not None:
            timing.megabytes = max(after - before, 0.0)
        timing.case.guess = spent
        if spent > self.seconds:
            self._note(timing, spent, 1)

    def _round(self, timing: Timing) -> None:
        # Short passes are run in a row: reading the clock and waiting for a GPU cost some 20 µs.
        times = min(max(int(0.03 / max(timing.case.guess, 1e-6)), 1), 20)
        self._note(timing, self._once(timing.case, times), times)

    def _note(self, timing: Timing, spent: float, times: int) -> None:
        timing.spent += spent
        timing.seconds.append(spent / times)

    def _once(self, case: Case, times: int) -> float:
        self.settle()
        started = self.clock()
        for _ in range(times):
            case.run()
        self.settle()
        return self.clock() - started

    def _memory(self, reset: bool = False) -> float | None:
        """MB: what is in use now (`reset`), or the most that was since."""
        if self.device.type == "cuda":
            if reset:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                return torch.cuda.memory_allocated() / 1e6
            return torch.cuda.max_memory_allocated() / 1e6
        try:
            if reset:
                ctypes.CDLL(None).malloc_trim(0)  # what earlier cases have freed would else be used again unseen
                Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is in use
            status = Path("/proc/self/status").read_text()
        except (OSError, AttributeError):  # not Linux
            return None
        name = "VmRSS:" if reset else "VmHWM:"
        return next((int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith(name)), None)


def chip(device: torch.device) -> str:
    """The device's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines) if value}
    model = f"family {known.get('cpu family', '?')}, model {known.get('model', '?')}"
    return f"{known.get('model name', platform.machine())} ({model})"


def data_sheet(device: torch.device) -> float | None:
    """TFLOP/s of dense bf16 of the device by data sheet, if it is known here."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((float(peak) for card, peak in PEAKS.items() if card.lower() in name.lower()), None)
