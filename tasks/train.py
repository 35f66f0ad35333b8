"""Ray Train, as every training stage uses it.

A loop is a plain function of its config. It asks `ray.train.get_checkpoint()` itself, so a killed worker
costs the epochs since the last report, and a killed driver no more than that: the run's name is made of its
config, and Ray Train finds the reported checkpoints again under the same name: in .physique/train, or where
PHYSIQUE_STORAGE says, a folder that all nodes see or s3://BUCKET/PREFIX.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

MAX_FAILURES = 3
IDLE = ("DatasetsCallback", "PlacementGroupCleanerCallback")
"""Helpers of Ray Train with an actor per job, three seconds of a core each: one deals out Ray Datasets, of which there are
none; one frees what a dead controller has reserved, which the end of the stage's process does."""
STORAGE = "PHYSIQUE_STORAGE"
"""Environment variable: where checkpoints of running trainings go."""


def storage() -> tuple[str, FileSystem, str]:
    """Where checkpoints go: the address as Ray Train takes it, its file system and the path there.

    Raises:
        BadInput: PHYSIQUE_STORAGE names nothing that can be written, or holds a password.
    """
    from pyarrow.fs import FileSystem

    from tasks.intake.quarantine import BadInput

    said = os.environ.get(STORAGE) or ".physique/train"
    if "://" not in said:
        said = str(Path(said).resolve())
    elif "@" in urlsplit(said).netloc:  # Ray writes the address into its logs
        raise BadInput(f"{STORAGE}: keys do not belong into the address; right would be AWS_ACCESS_KEY_ID and s3://BUCKET/PREFIX")
    try:
        system, path = FileSystem.from_uri(said)
        system.create_dir(path, recursive=True)
    except (OSError, ValueError) as error:  # pyarrow's own are ValueErrors
        why = " ".join(str(error).split())[:300]
        raise BadInput(f"{STORAGE}: {said} cannot be written ({why}); right is s3://BUCKET/PREFIX or a folder") from None
    return said, system, path


def run_name(stage: str, config: dict[str, Any]) -> str:
    """Name of a training run: the stage and a hash of all that decides its result."""
    text = json.dumps(config, sort_keys=True, default=str)
    return f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def fit_all(
    loop: Callable[[dict[str, Any]], None], groups: list[list[dict[str, Any]]], *, name: str, workers: int, **how: Any
) -> None:
    """One Ray Train job per config, group after group; of a group as many at a time as the cluster has room for.

    Args:
        groups: configs of jobs, each for `fit`.
        how: what else `fit` takes.
    """
    import ray

    from tasks.engines import connect

    connect()
    there = ray.cluster_resources()
    wanted = {"CPU": how["cpus_per_worker"] * workers, "GPU": how.get("gpus_per_worker", 0) * workers}
    room = min(there.get(kind, 0) / amount for kind, amount in wanted.items() if amount)
    for group in groups:
        with ThreadPoolExecutor(max(1, int(room))) as pool:
            running = [pool.submit(fit, loop, config, name=name, workers=workers, **how) for config in group]
            for job in running:
                job.result()


def fit(
    loop: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    *,
    name: str,
    workers: int,
    cpus_per_worker: float,
    gpus_per_worker: float = 0,
) -> dict[str, Any]:
    """Train with `loop` on `workers` Ray Train workers; the metrics it reported last.

    Args:
        loop: a module-level function of its config; see the module's head.
        config: JSON-able; with `name` it decides which interrupted run is gone on with.
        cpus_per_worker: below 1 where loader and worker have to share a small machine.

    Raises:
        BadInput: the place for checkpoints (`storage`) cannot be written.
        ray.train.TrainingFailedError: the loop failed more than three times.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from tasks.engines import connect

    class Trainer(TorchTrainer):
        """Without the helpers that a job of ours has no use for; where Ray names them otherwise one day, with them."""

        def _create_default_callbacks(self) -> list[Any]:
            return [each for each in super()._create_default_callbacks() if type(each).__name__ not in IDLE]

    connect()
    place, system, path = storage()
    run = run_name(name, config)
    trainer = Trainer(
        loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus_per_worker > 0,
            resources_per_worker={"CPU": cpus_per_worker}
            | ({"GPU": gpus_per_worker} if gpus_per_worker else {}),
        ),
        run_config=RunConfig(
            name=run,
            storage_path=place,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    result = trainer.fit()
    # A finished run is not to be gone on with: the same command given again trains again.
    with suppress(OSError):
        system.delete_dir(f"{path}/{run}")
    return dict(result.metrics or {})
