"""What bench/mesh.py runs end to end: the pipeline's own engine, or plain processes where Prefect and Ray are missing."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from model.extract import Recipe
from model.prepare import Preparer


def has_ray() -> bool:
    """Whether the pipeline itself can run here."""
    return all(find_spec(name) for name in ("ray", "prefect", "pyarrow", "psutil"))


def cpu_seconds() -> float:
    """Used so far by this process and every one below it."""
    import psutil

    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


@dataclass
class Progress:
    """When how many photos were finished: (seconds, CPU seconds, photos)."""

    networks: int = 1
    seen: list[tuple[float, float, int]] = field(default_factory=list)

    def note(self, photos: int, cpu: bool = True) -> None:
        """So many photos more are finished."""
        before = self.seen[-1][2] if self.seen else 0
        self.seen.append((time.perf_counter(), cpu_seconds() if cpu else 0.0, before + photos))

    def _slope(self, column: int) -> float:
        # Two shards per network are under way at once and end together: only whole rounds of them are looked at.
        round_ = min(2 * self.networks, len(self.seen) // 2)
        first = round_ - 1
        last = first + (len(self.seen) - 1 - first) // round_ * round_
        (start, end) = (self.seen[first], self.seen[last])
        return (end[column] - start[column]) / (end[2] - start[2])

    @property
    def wall_per_photo(self) -> float:
        return self._slope(0)

    @property
    def cpu_per_photo(self) -> float:
        """0 where it was not measured."""
        return self._slope(1)


def by_ray(
    recipe: Recipe, _: Any, photos: list[bytes], batch: int, decoders: int, device: str, compile: bool
) -> Progress:
    """The pipeline's engine: photos in Parquet, Prefect tasks, Ray actors, shards of rows in Parquet."""
    import hashlib

    import pyarrow as pa
    from prefect import flow

    from tasks import features
    from tasks.engines import engines
    from tasks.params import load_params
    from tasks.stage import quiet_prefect
    from tasks.tables import write_table

    cores = len(os.sched_getaffinity(0))
    root = Path(__file__).resolve().parent.parent
    settings = load_params(root / "params.yaml").mesh.model_copy(
        update={"actors": cores if device == "cpu" else 1, "decoders": decoders, "compile": compile}
    )
    done = Progress(settings.actors)
    usual = features.write_table

    def noted(rows: pa.Table, path: Path) -> Path:
        written = usual(rows, path)
        done.note(len(rows))
        return written

    here = Path.cwd()
    with TemporaryDirectory() as temporary:
        os.environ |= {"PREFECT_HOME": f"{temporary}/prefect", "PYTHONPATH": str(root)}
        os.chdir(temporary)
        try:
            ids = [hashlib.sha256(data + str(k).encode()).hexdigest() for k, data in enumerate(photos)]
            table = pa.table({"photo_id": ids, "bytes": pa.array(photos, pa.binary())})
            write_table(table, Path("photos/00000.parquet"), row_group_size=64)

            @flow
            def mesh() -> None:
                crews = features.mesh_crews(recipe, "bench", settings)
                features.compute_table("mesh", "extractor", "bench", Path("photos"), Path("mesh"), 2 * batch, batch, crews)

            features.write_table = noted
            quiet_prefect()
            with engines():
                mesh()
        finally:
            features.write_table = usual
            os.chdir(here)
    return done


_preparer: Preparer | None = None


def _start(recipe: Recipe, detector: Any) -> None:
    global _preparer
    torch.set_num_threads(1)
    _preparer = Preparer(detector, crops=True) if detector else recipe.preparer()


def _prepare(photos: list[bytes]) -> Any:
    assert _preparer is not None
    return _preparer(photos)


def by_processes(
    recipe: Recipe, detector: Any, photos: list[bytes], batch: int, decoders: int, device: str, compile: bool
) -> Progress:
    """Decoding processes, and this one computes; no rows are written."""
    network, done = recipe.make_network(device, compile), Progress()
    cpu = bool(find_spec("psutil"))
    batches = [photos[k : k + batch] for k in range(0, len(photos), batch)]
    workers = decoders or max(1, len(os.sched_getaffinity(0)) - 1)
    with ProcessPoolExecutor(workers, get_context("spawn"), _start, (recipe, detector)) as pool:
        waiting = deque(pool.submit(_prepare, part) for part in batches[: 2 * workers])
        rest = iter(batches[2 * workers :])
        while waiting:
            prepared = waiting.popleft().result()
            if (part := next(rest, None)) is not None:
                waiting.append(pool.submit(_prepare, part))
            network.rows(prepared)
            done.note(prepared.count, cpu)
    return done


def table_seconds(network: Any, prepared: Any, folder: Path) -> float:
    """CPU seconds per photo from the network's numbers to rows on disk, as the engine writes them."""
    from model.extract import rows_of
    from tasks.features import write_table
    from tasks.mesh_table import mesh_table
    from tasks.schemas import check

    rows = rows_of(prepared, network, "bench")
    ids = [f"{k:064x}" for k in range(len(rows))]
    for round_ in range(6):
        if round_ == 1:  # the first one warms up
            started = time.process_time()
        write_table(check(mesh_table(ids, rows), "mesh"), folder / "rows.parquet")
    return (time.process_time() - started) / (5 * len(rows))


def by_ray_data(recipe: Recipe, photos: list[bytes], batch: int, decoders: int) -> Progress:
    """Instead of our engine: Ray Data reads, decodes and computes, on the same actors (bench/mesh.py --engine data)."""
    import hashlib

    import pyarrow as pa
    import ray

    from tasks.features import DecodeActor, MeshActor
    from tasks.tables import write_table

    cores = len(os.sched_getaffinity(0))
    done = Progress(cores)

    class Decode(DecodeActor):
        def __call__(self, rows: pa.Table) -> dict[str, list]:
            ids, prepared = self.compute((rows["photo_id"].to_pylist(), rows["bytes"].to_pylist()))
            return {"work": [(ids, prepared)]}

    class Network(MeshActor):
        def __call__(self, rows: Any) -> pa.Table:
            if isinstance(rows, pa.Table):
                made = self.compute((rows["photo_id"].to_pylist(), rows["bytes"].to_pylist()))
            else:
                made = pa.concat_tables([self.compute(work) for work in rows["work"]])
            return made.append_column("at", pa.array([time.perf_counter()] * len(made)))  # one clock for all processes

    networks = {"recipe": recipe, "extractor": "bench", "device": "cpu", "threads": 1, "compile": False, "batch": batch}
    with TemporaryDirectory() as temporary:
        ids = [hashlib.sha256(data + str(k).encode()).hexdigest() for k, data in enumerate(photos)]
        for k in range(0, len(photos), 2 * batch):
            part = {"photo_id": ids[k : k + 2 * batch], "bytes": pa.array(photos[k : k + 2 * batch], pa.binary())}
            write_table(pa.table(part), Path(temporary) / f"photos/{k:06d}.parquet")
        os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # else every worker makes an environment of its own
        # One CPU more than there are: the reading tasks want a whole one, and wait for ever where actors hold them all.
        ray.init(address="local", num_cpus=cores + 1, include_dashboard=False, log_to_driver=False)
        data = ray.data.read_parquet(f"{temporary}/photos")
        share = round(1 / (1 + decoders), 3)
        if decoders:
            data = data.map_batches(
                Decode, fn_constructor_args=(recipe, "cpu"), batch_size=batch, batch_format="pyarrow", num_cpus=share,
                concurrency=cores * decoders,
            )  # fmt: skip
        data = data.map_batches(
            Network, fn_constructor_kwargs=networks | {"prepares": not decoders}, num_cpus=share, concurrency=cores,
            batch_size=1 if decoders else batch, batch_format="default" if decoders else "pyarrow",
        )  # fmt: skip
        finished: list[float] = []  # Ray Data hands rows over in large blocks, so their own time of day is taken
        for rows in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            write_table(rows, Path(temporary) / f"mesh/{len(finished)}.parquet")
            finished += rows["at"].to_pylist()
        done.seen = [(at, 0.0, sum(other <= at for other in finished)) for at in sorted(set(finished))]
        ray.shutdown()
    return done
