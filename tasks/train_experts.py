"""Stage 1 as a Ray Train loop: one PhysiqueFrame per expert, and the generic one, in a single job.

A job costs half a minute to start. A `tiny` model takes seconds to train, so models are dealt out to the workers: rank r
trains models r, r + W, r + 2W …. A `full` one takes all workers: they train one model after the other together (DDP),
each on its part of every batch. Every few epochs each rank reports where it is; what is finished is kept in a folder of
the job's own, so a resumed job trains what is missing and nothing twice.

    dvc repro pretrain
"""

from __future__ import annotations

import math
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.checkpoint import save_frame, seeded
from model.lesson import Lesson, optimiser, rate, start_at_mean, start_frame
from model.physique_frame import FrameConfig, PhysiqueFrame
from model.preference import survey_code
from model.scores import DIMENSIONS
from model.views import FrameInputs
from tasks.frame_data import predict_all, read_inputs, scores_of
from tasks.splits import FIT, split_of
from tasks.tables import read_table, shard_paths, write_table

GENERIC = "generic"


class Unit:
    """One model in training: its network, its labels, where it is."""

    def __init__(
        self,
        name: str,
        inputs: FrameInputs,
        config: dict[str, Any],
        device: torch.device,
        ranks: tuple[int, int] = (0, 1),
        like: PhysiqueFrame | None = None,
    ):
        """
        Args:
            ranks: this worker's and how many there are, of those who train this model together.
            like: a model of the same inputs, whose mesh topology is taken instead of being worked out again.
        """
        self.name, self.inputs, self.config, self.device, self.ranks = name, inputs, config, device, ranks
        labels = read_table(config["labels"])
        if name != GENERIC:
            labels = labels.filter([r == name for r in labels["rater_id"].to_pylist()])
        self.labels = scores_of(labels, inputs.rows())
        fit = torch.tensor([split_of(photo) == FIT for photo in inputs.ids])
        self.fit_rows = torch.nonzero(fit & self.labels.isfinite().any(1)).flatten()
        if len(self.fit_rows) < 2:
            raise ValueError(
                f"expert {name}: {len(self.fit_rows)} labelled photos to fit on; at least 2 are needed"
            )
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=seeded(config["seed"], name)).item()))
        self.survey = survey_code(config["surveys"].get(name, {}))
        self.frame = start_frame(
            FrameConfig.from_dict(config["frame"]), config["compat"], config["start"], config["backbone"]
        )
        if like is not None:
            self.frame.mesh.take_topology(like.mesh)
        elif config["start"] is None:
            self.frame.mesh.set_topology(inputs.mean_mesh())
        if config["start"] is None:
            start_at_mean(self.frame, self.labels[self.fit_rows])
        self.frame.recompute(config["recompute"])
        self.lesson = Lesson(self.frame, config["loss"], self.survey).to(device)
        self.optimiser = optimiser(self.lesson, config["schedule"], config["lr"], config["weight_decay"])
        self.step: nn.Module = self.lesson
        if ranks[1] > 1:
            self.step = nn.parallel.DistributedDataParallel(self.step)
        if config["compile"]:
            self.step = torch.compile(self.step)  # type: ignore[assignment]
        self.epoch = 0

    def train_epoch(self) -> None:
        """One pass over the fitting photos; what is drawn depends on (seed, model, epoch) alone."""
        rank, world = self.ranks
        draw = seeded(self.config["seed"], self.name, self.epoch)
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=draw).item()) + rank)  # dropout
        order = self.fit_rows[torch.randperm(len(self.fit_rows), generator=draw)]
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.config["schedule"], self.config["lr"], self.epoch, self.config["epochs"])
        self.step.train()
        for rows in order.split(self.config["batch"]):
            flip = torch.rand(len(rows), generator=draw) < 0.5
            if len(rows) < 2 * world:  # BatchNorm has nothing to normalise by
                continue
            rows, flip = rows[rank::world], flip[rank::world]
            view = self.inputs.view(rows, flip, self.frame.config, self.device)
            self.optimiser.zero_grad(set_to_none=True)
            with self._precision():
                loss = self.step(view, self.labels[rows].to(self.device))
            loss.backward()
            self.optimiser.step()
        self.epoch += 1

    def _precision(self):
        half = self.config["precision"] == "bf16" or (self.config["precision"] == "auto" and self.device.type == "cuda")
        return torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()

    def state(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "lesson": self.lesson.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
        }

    def resume(self, state: dict[str, Any]) -> None:
        self.lesson.load_state_dict(state["lesson"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch = state["epoch"]

    def finish(self) -> None:
        """Keep the model, its predictions and, of the generic one, its fused features."""
        import pyarrow as pa

        config, kept = self.config, Path(self.config["kept"])
        rated, file = set(config["dimensions"]), config["files"][self.name]
        scores, fused = predict_all(self.frame, self.inputs, self.survey, config["judge_batch"], self.device)
        about = {"rater": self.name, "survey": config["surveys"].get(self.name, {}), "dimensions": sorted(rated)}
        save_frame(self.frame, kept / "models", file, about)
        # A head that no rating has trained says nothing; its numbers never leave the model.
        columns = {
            d: pa.array(scores[:, k].numpy() if d in rated else [None] * len(scores), pa.float32())
            for k, d in enumerate(DIMENSIONS)
        }
        said = {"photo_id": self.inputs.ids, "model": [self.name] * len(scores), **columns}
        write_table(pa.table(said), kept / "predictions" / f"{file}.parquet")
        if self.name == GENERIC:
            vectors = pa.array(list(fused.numpy()), pa.list_(pa.float32()))
            write_table(pa.table({"photo_id": self.inputs.ids, "vector": vectors}), kept / "features.parquet")


def expert_loop(config: dict[str, Any]) -> None:
    """Ray Train loop.

    config: what tasks.experts.expert_settings collects. Models, predictions and features end up in config["kept"].
    """
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    together = config["size"] == "full"
    torch.set_num_threads(1 if world > 1 else torch.get_num_threads())
    device = get_device() if config["gpus"] else torch.device("cpu")
    frame = FrameConfig.from_dict(config["frame"])
    photos = Path(config["photos"])
    inputs = read_inputs(
        Path(config["mesh"]), Path(config["embeddings"]), frame, photos, Path(config["pixels"]), config["squash"]
    )
    mine = config["units"] if together else config["units"][rank::world]
    first, saved = 0, None
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder) / f"{0 if together else rank}.pt", weights_only=True, map_location=device)
            first = saved["turn"]

    every, epochs = config["report_every"], config["epochs"]
    blocks = math.ceil(epochs / every)
    turns = math.ceil(len(config["units"]) / (1 if together else world)) * blocks  # a report is a barrier for all ranks
    unit: Unit | None = None
    for turn in range(first, turns):
        place, block = divmod(turn, blocks)
        if place < len(mine):
            if unit is None or unit.name != mine[place]:
                like = unit.frame if unit is not None and not together else None
                ranks = (rank, world) if together else (0, 1)
                unit = Unit(mine[place], inputs, config, device, ranks, like)
                if saved is not None and saved.get("name") == unit.name:
                    unit.resume(saved)
            while unit.epoch < min((block + 1) * every, epochs):
                unit.train_epoch()
            if block == blocks - 1 and (rank == 0 or not together):
                unit.finish()
        with tempfile.TemporaryDirectory() as folder:
            state = unit.state() if unit is not None else {}
            said = None
            if rank == 0 or not together:
                torch.save(state | {"turn": turn + 1}, Path(folder) / f"{rank}.pt")
                said = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"turn": turn + 1, "turns": turns}, checkpoint=said)


def collect(kept: Path, out: Path) -> None:
    """Bring what a finished job has kept to the stage's own folder."""
    import shutil

    import pyarrow as pa

    parts = [read_table(path) for path in shard_paths(kept / "predictions")]
    write_table(pa.concat_tables(parts), out / "predictions.parquet")
    shutil.copytree(kept / "models", out / "models", dirs_exist_ok=True)
    shutil.copy(kept / "features.parquet", out / "features.parquet")
    shutil.rmtree(kept)
