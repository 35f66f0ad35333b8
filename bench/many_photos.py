"""Many small photos through the mesh engine with the small network: memory, losses, and what a second run costs.

    uv run python bench/many_photos.py --photos 20000 --kill 12      # needs data/body and data/mannequins: `dvc repro`

Photos are the default run's mannequins, cut and encoded anew, so each has bytes of its own; some show nobody, some are
broken. Workers are killed while it runs, a decoder and a network in turn. Memory is the sum of the private memory of every
process there is (USS) and what lies in shared memory, looked at every few seconds: its mean over each quarter of the run
says whether it is flat. Prints Markdown; docs/benchmarks.md holds it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tasks.tables import read_shards, write_table  # noqa: E402

SHARD = 512


def made_up(count: int, first: int) -> list[bytes]:
    """Photos `first` … `first + count` of an endless row of them."""
    from PIL import Image

    from model.images import decode

    pictures = []
    for path in sorted((ROOT / "data/mannequins/photos").glob("*")):
        with contextlib.suppress(ValueError):
            pictures.append(decode(path.read_bytes()))
    out = []
    for k in range(first, first + count):
        random = np.random.default_rng(k)
        picture = pictures[int(random.integers(len(pictures)))]
        left, up = random.uniform(0, 0.06, 2) * picture.size
        cut = picture.crop((int(left), int(up), picture.width - int(up), picture.height - int(left)))
        buffer = io.BytesIO()
        if k % 50 == 1:
            cut = Image.new("RGB", cut.size, tuple(int(c) for c in random.integers(0, 255, 3)))
        cut.save(buffer, "JPEG", quality=int(random.integers(70, 95)), comment=str(k).encode())
        out.append(buffer.getvalue()[: 300 if k % 100 == 2 else None])
    return out


def write_photos(folder: Path, count: int, first: int = 0) -> None:
    """Photo shards as the cohort stage writes them, as far as the mesh stage reads them."""
    for start in range(first, first + count, SHARD):
        files = made_up(min(SHARD, first + count - start), start)
        table = {
            "photo_id": [hashlib.sha256(data).hexdigest() for data in files],
            "name": [f"{start + k:06d}.jpg" for k in range(len(files))],
            "bytes": pa.array(files, pa.binary()),
        }
        write_table(pa.table(table), folder / f"{start:07d}.parquet", row_group_size=64)


class Watch(threading.Thread):
    """Memory of a process and all below it, every few seconds; kills a worker now and then."""

    def __init__(self, process: subprocess.Popen[bytes], every_s: float, kills: int):
        super().__init__(daemon=True)
        self.process, self.every_s, self.kills = psutil.Process(process.pid), every_s, kills
        self.seen: list[tuple[float, float]] = []
        self.killed: list[str] = []
        self.shared = psutil.virtual_memory().shared

    def run(self) -> None:
        turns = ["ray::DecodeActor.compute", "ray::MeshActor.compute"]
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            total, workers = 0, []
            with contextlib.suppress(psutil.Error):
                for process in (self.process, *self.process.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        total += process.memory_full_info().uss
                        workers.append((process, " ".join(process.cmdline())))
            self.seen.append((time.monotonic(), (total + psutil.virtual_memory().shared - self.shared) / 2**20))
            if len(self.killed) < self.kills and len(self.seen) % 6 == 0:
                wanted = turns[len(self.killed) % len(turns)]
                for process, title in workers:
                    if title.startswith(wanted):
                        with contextlib.suppress(psutil.Error):
                            process.send_signal(signal.SIGKILL)
                            self.killed.append(wanted)
                        break
            time.sleep(self.every_s)


def run(folder: Path, kills: int = 0) -> tuple[float, Watch]:
    """One run of the mesh stage as a person would start it; seconds, and what was seen."""
    started = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / ".prefect")}
    process = subprocess.Popen([sys.executable, "-m", "flows.mesh"], cwd=folder, env=environment)
    watch = Watch(process, 3.0, kills)
    watch.start()
    if process.wait() != 0:
        raise SystemExit("the mesh stage failed")
    return time.monotonic() - started, watch


def main() -> None:
    """Print what was seen."""
    from ruamel.yaml import YAML

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--new", type=int, default=500)
    parser.add_argument("--decoders", type=int, default=1)
    parser.add_argument("--kill", type=int, default=12, help="workers to kill while it runs")
    asked = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        params = YAML().load((ROOT / "params.yaml").read_text())
        params["mesh"]["decoders"] = asked.decoders
        with (folder / "params.yaml").open("w") as stream:
            YAML().dump(params, stream)
        (folder / "data").mkdir()
        for name in ("body", "meshnet"):
            (folder / "data" / name).symlink_to(ROOT / "data" / name)
        write_photos(folder / "data/cohort/photos", asked.photos)
        first, watch = run(folder, asked.kill)
        outcomes = counted(folder)
        again, _ = run(folder)
        write_photos(folder / "data/cohort/photos", asked.new, asked.photos)
        more, _ = run(folder)
        after = counted(folder)
    report(asked, first, watch, outcomes, again, more, after)


def counted(folder: Path) -> Counter:
    """Photos by outcome; every photo must have exactly one."""
    photos = read_shards(folder / "data/cohort/photos", ["photo_id"])["photo_id"].to_pylist()
    table = read_shards(folder / "data/mesh", ["photo_id", "status"])
    assert sorted(table["photo_id"].to_pylist()) == sorted(photos), "photos without an outcome, or with two"
    return Counter(table["status"].to_pylist())


def report(asked, first, watch, outcomes, again, more, after) -> None:
    """Markdown to standard output."""
    begin, end = watch.seen[0][0], watch.seen[-1][0]
    quarters: list[list[float]] = [[], [], [], []]
    for at, megabytes in watch.seen:
        quarters[min(3, int(4 * (at - begin) / (end - begin)))].append(megabytes)
    means = ", ".join(f"{statistics.mean(quarter):,.0f}" for quarter in quarters)
    killed = Counter(name.removeprefix("ray::").removesuffix(".compute") for name in watch.killed)
    print(f"""
| | |
|---|---|
| photos | {asked.photos:,}, {asked.decoders} decoder(s) per network |
| first run | {first:,.0f} s, {asked.photos / first:.1f} photos/s |
| killed on the way | {", ".join(f"{n} {name}" for name, n in killed.items()) or "nobody"} |
| outcomes | {", ".join(f"{n:,} {name}" for name, n in outcomes.items())}; one per photo |
| memory of all processes, MB | mean of each quarter {means}; peak {max(m for _, m in watch.seen):,.0f} |
| second run | {again:.0f} s |
| {asked.new} new photos | {more:.0f} s; {after.total() - outcomes.total()} rows more |""")


if __name__ == "__main__":
    main()
