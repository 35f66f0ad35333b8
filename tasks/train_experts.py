"""Stage 1 as a Ray Train loop: one frame per expert, the joint model they start from, and the generic one.

A job costs half a minute to start. A `tiny` model takes seconds to train, so one job trains them all and deals them out
to its workers: rank r trains models r, r + W, r + 2W …, experts when the joint one is there. A `full` one is a job of
its own (`jobs`), whose workers train it together (DDP), each on its part of every batch. Every few epochs each rank
reports where it is; what is finished is kept in a folder of the run's own, so a resumed job trains what is missing and
nothing twice.

    dvc repro pretrain
"""

from __future__ import annotations

import math
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.checkpoint import load_frame, save_frame, seeded
from model.lesson import Lesson, begin, optimiser, rate, start_frame
from model.physique_frame import FrameConfig
from model.preference import WIDTH, survey_code
from model.scores import DIMENSIONS
from model.vector_frame import Frame, VectorFrame
from model.views import FrameInputs
from tasks.frame_data import predict_all, read_inputs, scores_by, scores_of
from tasks.splits import FIT, VAL, split_of
from tasks.tables import read_table, shard_paths, write_table

GENERIC, JOINT = "generic", "joint"
"""Models that are no expert's: of everybody's mean scores, and of every expert at once by their surveys."""


class Unit:
    """One model in training: its network, its labels, where it is."""

    def __init__(
        self,
        name: str,
        inputs: FrameInputs,
        config: dict[str, Any],
        device: torch.device,
        ranks: tuple[int, int] = (0, 1),
        like: Frame | None = None,
        start: Frame | None = None,
    ):
        """
        Args:
            ranks: this worker's and how many there are, of those who train this model together.
            like: a model of the same inputs, whose mesh topology is taken instead of being worked out again.
            start: the model whose weights this one starts from (`joint`, for an expert's).
        """
        self.name, self.inputs, self.config, self.device, self.ranks = name, inputs, config, device, ranks
        surveys = config["surveys"]
        raters = {GENERIC: [], JOINT: sorted(surveys)}.get(name, [name])
        self.labels, self.given = _labels(config, raters, inputs)
        split = [split_of(photo) for photo in inputs.ids]
        rated = self.labels.isfinite().any(2).any(1)
        self.fit_rows, self.val_rows = (
            torch.nonzero(torch.tensor([s == wanted for s in split]) & rated).flatten() for wanted in (FIT, VAL)
        )
        if len(self.fit_rows) < 2:
            raise ValueError(f"expert {name}: {len(self.fit_rows)} labelled photos to fit on; at least 2 are needed")
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=seeded(config["seed"], name)).item()))
        self.answers = surveys.get(name, {})
        self.frame = start_frame(
            FrameConfig.from_dict(config["frame"]), config["compat"], config["start"], config["backbone"]
        )
        begin(self.frame, inputs, self.labels, self.fit_rows, start, like, config["start"] is not None)
        self.frame.recompute(config["recompute"])
        self.epochs, self.lr = unit_epochs(name, config), config["own_lr" if start is not None else "lr"]
        self.lesson = Lesson(self.frame, config["loss"], [surveys.get(r, {}) for r in raters] or [{}]).to(device)
        self.optimiser = optimiser(self.lesson, config["schedule"], self.lr, config["weight_decay"])
        self.step: nn.Module = self.lesson
        if ranks[1] > 1:
            self.step = nn.parallel.DistributedDataParallel(self.step)
        if config["compile"]:
            self.step = torch.compile(self.step)  # type: ignore[assignment]
        self.epoch, self.curve, self.best = 0, [], None
        self.held: list[tuple[Tensor, Tensor]] = []
        if "from" in config:  # of one user: the model started from is held to
            self.held = [(p, p.detach().clone()) for p in self.frame.parameters() if p.requires_grad]
        if self.held or isinstance(self.frame, VectorFrame):  # what it starts from may be the best there is
            self._look(math.nan)

    @property
    def done(self) -> bool:
        """All epochs are over, or the last `patience` of them brought nothing on the expert's own validation photos."""
        errors = [epoch["val"] for epoch in self.curve]
        patience = self.config["patience"]
        stuck = patience and len(errors) > patience and min(errors[-patience:]) > min(errors[:-patience])
        return self.epoch >= self.epochs or bool(stuck)

    def train_epoch(self) -> None:
        """One pass over the fitting photos; what is drawn depends on (seed, model, epoch) alone."""
        rank, world = self.ranks
        draw = seeded(self.config["seed"], self.name, self.epoch)
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=draw).item()) + rank)  # dropout
        order = self.fit_rows[torch.randperm(len(self.fit_rows), generator=draw)]
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.config["schedule"], self.lr, self.epoch, self.epochs)
        self.step.train()
        for module in self.frame.modules() if self.held else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()  # a handful of photos is no population
        losses = []
        for rows in order.split(self.config["batch"]):
            flip = torch.rand(len(rows), generator=draw) < 0.5
            if len(rows) < 2 * world:  # BatchNorm has nothing to normalise by
                continue
            rows, flip = rows[rank::world], flip[rank::world]
            view = self.inputs.view(rows, flip, self.frame.config, self.device)
            given = None if self.given is None else self.given[rows].to(self.device)
            self.optimiser.zero_grad(set_to_none=True)
            with self._precision():
                loss = self.step(view, self.labels[rows].to(self.device), given)
            (loss + self._pull()).backward()
            self.optimiser.step()
            losses.append(loss.detach())
        self.epoch += 1
        loss = float(torch.stack(losses).mean()) if losses else math.nan  # too few photos for these many workers
        self._look(loss)

    def _look(self, loss: float) -> None:
        """Note the error after this epoch; keep the weights if there were no better ones."""
        self.curve.append({"epoch": self.epoch, "loss": loss, "val": self.error()})
        if len(self.val_rows) and self.curve[-1]["val"] <= min(epoch["val"] for epoch in self.curve):
            self.best = {key: value.detach().cpu().clone() for key, value in self.frame.state_dict().items()}

    def _pull(self) -> Tensor | float:
        """½ pull·|weights - those started from|² per photo fitted on, so that many ratings weigh more than it; else 0."""
        far = [(now - then).square().sum() for now, then in self.held]
        return 0.5 * self.config["pull"] / len(self.fit_rows) * sum(far, torch.zeros((), device=self.device)) if far else 0

    @torch.no_grad()
    def error(self) -> float:
        """Root mean squared error on the raters' own photos of the split `val`, points; NaN where there are none."""
        self.lesson.eval()
        rank, world = self.ranks
        total = torch.zeros(2, device=self.device)  # squares, and how many
        mine = self.val_rows[rank::world]
        for rows in mine.split(self.config["judge_batch"]) if len(mine) else ():
            view = self.inputs.view(rows, torch.zeros(len(rows), dtype=torch.bool), self.frame.config, self.device)
            with self._precision():
                off = (self.lesson.scores(view) - self.labels[rows].to(self.device)).square()
            total += torch.stack([off.nansum(), off.isfinite().sum()])
        if world > 1:  # all of them have to agree on when to stop
            torch.distributed.all_reduce(total)
        return float((total[0] / total[1]).sqrt())

    def _precision(self):
        half = self.config["precision"] == "bf16" or (self.config["precision"] == "auto" and self.device.type == "cuda")
        return torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()

    def state(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "lesson": self.lesson.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "curve": self.curve,
            "best": self.best,
        }

    def resume(self, state: dict[str, Any]) -> None:
        self.lesson.load_state_dict(state["lesson"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.curve, self.best = state["epoch"], state["curve"], state["best"]

    def finish(self) -> None:
        """Keep the model, its predictions and, of the generic one, its fused features."""
        import pyarrow as pa

        config, kept = self.config, Path(self.config["kept"])
        if self.best is not None:
            self.frame.load_state_dict(self.best)
        rated, file = set(config["dimensions"]), config["files"][self.name]
        curve = [{key: value if math.isfinite(value) else None for key, value in epoch.items()} for epoch in self.curve]
        about = {"rater": self.name, "survey": self.answers, "dimensions": sorted(rated), "curve": curve}
        if self.name == JOINT:  # nobody's: it speaks for whoever's survey it is given
            return save_frame(self.frame, kept / JOINT, JOINT, about)
        save_frame(self.frame, kept / "models", file, about)
        survey = survey_code(self.answers)
        scores, fused = predict_all(self.frame, self.inputs, survey, config["judge_batch"], self.device)
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


def _labels(config: dict[str, Any], raters: list[str], inputs: FrameInputs) -> tuple[Tensor, Tensor | None]:
    """(N, R, 3) labels, and (N, R, 5) given preference vectors if any; without raters everybody's mean, (N, 1, 3)."""
    table, rows = read_table(config["labels"]), inputs.rows()
    if not raters:
        return scores_of(table, rows)[:, None], None
    labels = scores_by(table, raters, rows).transpose(0, 1)
    if not config["preferences"]:
        return labels, None
    given = torch.full((len(inputs), len(raters), WIDTH), float("nan"))
    for row in read_table(config["preferences"], ["photo_id", "rater_id", "preference"]).to_pylist():
        if row["preference"] and row["photo_id"] in rows and row["rater_id"] in raters:
            given[rows[row["photo_id"]], raters.index(row["rater_id"])] = torch.tensor(row["preference"])
    return labels, given if given.isfinite().any() else None


def joint(name: str, config: dict[str, Any]) -> Frame | None:
    """The model that the model of this name starts from: the joint one for an expert's if `begin` is `joint`, a user's
    expert for the user's own (`from`)."""
    if "from" in config:
        return load_frame(Path(config["from"]).parent, Path(config["from"]).name)[0]
    if name in (GENERIC, JOINT) or config["begin"] != "joint":
        return None
    return load_frame(Path(config["kept"]) / JOINT, JOINT)[0]


def unit_epochs(name: str, config: dict[str, Any]) -> int:
    """Passes over the photos that a model may take."""
    return config["own_epochs" if name not in (GENERIC, JOINT) and config["begin"] == "joint" else "epochs"]


def jobs(config: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Configs of the training jobs, in groups; those of a group may run at once, when the groups before are over."""
    if config["size"] != "full":
        return [[config]]
    return [[config | {"units": [name]} for name in wave] for wave in waves(config["units"])]


def waves(units: list[str]) -> list[list[str]]:
    """Models that belong to nobody, then those of experts, which may start from them."""
    return [[name for name in units if (name in (GENERIC, JOINT)) == shared] for shared in (True, False)]


def expert_loop(config: dict[str, Any]) -> None:
    """Ray Train loop.

    config: what tasks.experts.expert_settings collects. Models, predictions and features end up in config["kept"].
    """
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    together = config["size"] == "full"
    # Steps of a tiny model are too short to share out; on a busy machine sharing made them thirty times slower.
    torch.set_num_threads(1 if world > 1 or not together else torch.get_num_threads())
    device = get_device() if config["gpus"] else torch.device("cpu")
    frame = FrameConfig.from_dict(config["frame"])
    photos = Path(config["photos"])
    inputs = read_inputs(
        Path(config["mesh"]), Path(config["embeddings"]), frame, photos, Path(config["pixels"]), config["squash"]
    )
    mine, turns = [], []
    for wave in waves(config["units"]):
        rows = [[name] * world for name in wave] if together else [wave[k : k + world] for k in range(0, len(wave), world)]
        for row in rows:
            epochs = max(unit_epochs(name, config) for name in row)
            mine.append(row[rank] if rank < len(row) else None)
            turns += [(len(mine) - 1, end) for end in range(config["report_every"], epochs, config["report_every"])]
            turns.append((len(mine) - 1, epochs))
    first, saved = 0, None
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder) / f"{0 if together else rank}.pt", weights_only=True, map_location=device)
            first = saved["turn"]

    unit: Unit | None = None
    for turn in range(first, len(turns)):  # a report is a barrier for all ranks
        place, until = turns[turn]
        name = mine[place]
        if name is not None:
            if unit is None or unit.name != name:
                like = unit.frame if unit is not None and not together else None
                unit = Unit(name, inputs, config, device, (rank, world) if together else (0, 1), like, joint(name, config))
                if saved is not None and saved.get("name") == unit.name:
                    unit.resume(saved)
            while unit.epoch < until and not unit.done:
                unit.train_epoch()
            last = turn + 1 == len(turns) or turns[turn + 1][0] != place
            if last and (rank == 0 or not together):
                unit.finish()
        with tempfile.TemporaryDirectory() as folder:
            state = unit.state() if unit is not None else {}
            said = None
            if rank == 0 or not together:
                torch.save(state | {"turn": turn + 1}, Path(folder) / f"{rank}.pt")
                said = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"turn": turn + 1, "turns": len(turns)}, checkpoint=said)


def collect(kept: Path, out: Path) -> None:
    """Bring what a finished job has kept to the stage's own folder."""
    import shutil

    import pyarrow as pa

    parts = [read_table(path) for path in shard_paths(kept / "predictions")]
    write_table(pa.concat_tables(parts), out / "predictions.parquet")
    for models in ("models", JOINT):
        if (kept / models).is_dir():
            shutil.copytree(kept / models, out / models, dirs_exist_ok=True)
    shutil.copy(kept / "features.parquet", out / "features.parquet")
    shutil.rmtree(kept)
