"""Stage 1 as a Ray Train loop: one PhysiqueFrame per expert, and the generic one, in a single job.

A job costs half a minute to start, a tiny model seconds to train, so the models are dealt out to the
workers: rank r trains models r, r + W, r + 2W … Every few epochs each rank reports its part of the
checkpoint; a model's file says how far it is, so a resumed job trains what is missing and nothing twice.

    dvc repro pretrain
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import save_frame, seeded
from model.losses import LOSSES
from model.physique_frame import FrameConfig, PhysiqueFrame
from model.preference import survey_code
from model.scores import SCALE
from tasks.frame_data import FrameInputs, predict_all, read_inputs, scores_of
from tasks.splits import FIT, split_of
from tasks.tables import read_table, write_table

GENERIC = "generic"


class Unit:
    """One model in training: its network, its labels, where it is."""

    def __init__(self, name: str, inputs: FrameInputs, config: dict[str, Any], like: PhysiqueFrame | None = None):
        """`like`: a model of the same inputs, whose mesh topology is taken instead of being worked out again."""
        self.name, self.inputs, self.config = name, inputs, config
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
        self.survey = survey_code(config["surveys"].get(name, {}))
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=seeded(config["seed"], name)).item()))
        self.frame = PhysiqueFrame(FrameConfig.of(config["size"], inputs.image.shape[-1]))
        if like is None:
            self.frame.mesh.set_topology(inputs.mean_mesh())
        else:
            self.frame.mesh.take_topology(like.mesh)
        self._start_at_mean()
        self.loss = LOSSES[config["loss"]]()
        self.optimiser = torch.optim.AdamW(
            [*self.frame.parameters(), *self.loss.parameters()],
            lr=config["lr"],
            weight_decay=config["weight_decay"],
            fused=True,
        )
        self.epoch = 0

    def _start_at_mean(self) -> None:
        """Heads start at the mean label, so that no epoch is spent on finding it."""
        mean = self.labels[self.fit_rows].nanmean(0).nan_to_num(nan=5.0).clamp(0.5, 9.5) / SCALE[1]
        for head, value in zip(self.frame.classifiers.values(), mean):
            torch.nn.init.constant_(head[-1].bias, math.log(value / (1 - value)))

    def train_epoch(self) -> None:
        """One pass over the fitting photos; what is drawn depends on (seed, model, epoch) alone."""
        draw = seeded(self.config["seed"], self.name, self.epoch)
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=draw).item()))  # dropout
        order = self.fit_rows[torch.randperm(len(self.fit_rows), generator=draw)]
        share = (self.epoch + 0.5) / self.config["epochs"]
        rate = self.config["lr"] * min(1.0, 8 * share) * 0.5 * (1 + math.cos(math.pi * share))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.frame.train()
        for rows in order.split(self.config["batch"]):
            if len(rows) < 2:  # BatchNorm has nothing to normalise by
                continue
            flip = torch.rand(len(rows), generator=draw) < 0.5
            image, vertices, points, visible = self.inputs.batch(rows, flip)
            preference = self.frame.preference(self.survey.expand(len(rows), -1), image)
            predicted = self.frame(image, vertices, points, preference, visible)
            self.optimiser.zero_grad(set_to_none=True)
            self.loss(predicted, self.labels[rows]).backward()
            self.optimiser.step()
        self.epoch += 1

    def state(self) -> dict[str, Any]:
        return {
            "frame": self.frame.state_dict(),
            "loss": self.loss.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
        }

    def resume(self, state: dict[str, Any]) -> None:
        self.frame.load_state_dict(state["frame"])
        self.loss.load_state_dict(state["loss"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch = state["epoch"]

    def result(self) -> tuple[str, dict[str, Tensor], Tensor, Tensor]:
        scores, fused = predict_all(self.frame, self.inputs, self.survey)
        return self.name, self.frame.state_dict(), scores, fused


def expert_loop(config: dict[str, Any]) -> None:
    """Ray Train loop.

    config: mesh, embeddings (folders), labels (parquet of expert labels), units (model names, GENERIC first),
    surveys {name: answers}, out (folder), seed, size, epochs, batch, lr, weight_decay, loss, report_every.
    Rank 0 writes out/models/<name>.*, out/predictions.parquet, out/features.parquet.
    """
    import ray.train
    import torch.distributed as dist

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(1 if world > 1 else torch.get_num_threads())
    inputs = read_inputs(Path(config["mesh"]), Path(config["embeddings"]))
    units: list[Unit] = []
    for name in config["units"][rank::world]:
        units.append(Unit(name, inputs, config, units[0].frame if units else None))
    first = 0
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            for place, unit in enumerate(units):
                saved = torch.load(Path(folder) / f"{rank}-{place}.pt", weights_only=True)
                unit.resume(saved)
                first = saved["turn"]

    every, epochs = config["report_every"], config["epochs"]
    blocks = math.ceil(epochs / every)
    turns = math.ceil(len(config["units"]) / world) * blocks  # the same on every rank: a report is a barrier
    for turn in range(first, turns):
        place, block = divmod(turn, blocks)
        for unit in units[place : place + 1]:
            while unit.epoch < min((block + 1) * every, epochs):
                unit.train_epoch()
        with tempfile.TemporaryDirectory() as folder:
            for k, unit in enumerate(units):
                torch.save(unit.state() | {"turn": turn + 1}, Path(folder) / f"{rank}-{k}.pt")
            ray.train.report(
                {"turn": turn + 1, "turns": turns}, checkpoint=ray.train.Checkpoint.from_directory(folder)
            )
    parts: list[Any] = [[unit.result() for unit in units]]
    if world > 1:
        gathered: list[Any] = [None] * world
        dist.all_gather_object(gathered, parts[0])
        parts = gathered
    if rank == 0:
        _write(config, inputs, [result for part in parts for result in part])


def _write(config: dict[str, Any], inputs: FrameInputs, results: list[Any]) -> None:
    import pyarrow as pa

    from model.scores import DIMENSIONS

    out = Path(config["out"])
    tables = []
    rated = set(config["dimensions"])
    for name, state, scores, fused in sorted(results, key=lambda r: r[0]):
        frame = PhysiqueFrame(FrameConfig.of(config["size"], inputs.image.shape[-1]))
        frame.load_state_dict(state)
        about = {"rater": name, "survey": config["surveys"].get(name, {}), "dimensions": sorted(rated)}
        save_frame(frame, out / "models", config["files"][name], about)
        # A head that no rating has trained says nothing; its numbers never leave the model.
        columns = {
            d: pa.array(scores[:, k].numpy() if d in rated else [None] * len(scores), pa.float32())
            for k, d in enumerate(DIMENSIONS)
        }
        tables.append(pa.table({"photo_id": inputs.ids, "model": [name] * len(scores), **columns}))
        if name == GENERIC:
            vectors = pa.array(list(fused.numpy()), pa.list_(pa.float32()))
            write_table(pa.table({"photo_id": inputs.ids, "vector": vectors}), out / "features.parquet")
    write_table(pa.concat_tables(tables), out / "predictions.parquet")
