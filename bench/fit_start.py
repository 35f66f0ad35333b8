"""What a training job costs before and after its work: `tasks.train.fit` and Ray Train as it comes, in turn, on one Ray.

uv run python bench/fit_start.py --repeats 3
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable

USUAL = "2"
"""Seconds between two looks of a controller at its workers, Ray Train's own default."""


def nothing(config: dict) -> None:
    """A job that has nothing to do."""
    import ray.train

    ray.train.report({"done": 1})


def main() -> None:
    """Print seconds of each, and the ratio."""
    says = argparse.ArgumentParser(description=__doc__)
    says.add_argument("--repeats", type=int, default=3)
    repeats = says.parse_args().repeats
    os.environ.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        from tasks.engines import connect
        from tasks.train import fit

        connect()
        ours = os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"]
        kinds: dict[str, tuple[str, Callable[[], object]]] = {
            "Ray Train as it comes": (USUAL, lambda: _plain(folder)),
            "tasks.train.fit": (ours, lambda: fit(nothing, {}, name="nothing", workers=1, cpus_per_worker=0.5)),
        }
        took: dict[str, list[float]] = {name: [] for name in kinds}
        _plain(folder)  # warms up what both share
        for _ in range(repeats):
            for name, (interval, job) in kinds.items():
                os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = interval
                began = time.monotonic()
                job()
                took[name].append(time.monotonic() - began)
    for name, seconds in took.items():
        print(f"{name}: {', '.join(f'{each:.1f}' for each in seconds)} s")
    plain, lean = (sum(each) for each in took.values())
    print(f"ratio {plain / lean:.2f}")


def _plain(folder: str) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    scaling = ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5})
    run = RunConfig(name=f"plain-{time.time_ns()}", storage_path=folder)
    TorchTrainer(nothing, train_loop_config={}, scaling_config=scaling, run_config=run).fit()


if __name__ == "__main__":
    main()
