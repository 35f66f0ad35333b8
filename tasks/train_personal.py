"""Stages 2 and 3 as Ray Train loops: the first bank of personal models, and a night of feedback.

The mathematics is in `tasks.personal`, which needs no Ray; the loops read the tables, give it the workers to add
sums up over, write checkpoints, and let rank 0 write the result.

finetune_loop(config): every path is a string, every value JSON.
    predictions      parquet (photo_id, model, appearance, health, posture): each expert model and `generic`
    features         parquet (photo_id, vector) of fused features, or None
    labels, raters   parquet of the contract
    out              folder: bank/ (model.bank), users.parquet, finetune.json are written into it
    prior_share      share of users the prior is fitted on, by hash of the id; the rest are judged      [0.6]
    axes, fused_axes most axes of the experts' predictions and of the fused features in φ               [32, 8]
    iterations       most EM iterations; stops at a relative gain of 1e-6                               [30]
    caution, hold    how far Σ is held back (model.personal.maximise)                                   [10, 0.5]
    confidence       of the gate (model.gate)                                                           [0.8]
    min_ratings      fewer ratings: the prior is served                                                 [5]
    checkpoint_every EM iterations                                                                      [5]
    method           bayes, or lora; then also what `tasks.banks.lora_config` collects                  [bayes]

continual_loop(config):
    bank             folder of the bank that the nights are applied to
    first            folder of the bank of `finetune`, to which users go back who are learned anew (tasks.feedback)
    nights, earlier  parquet snapshots of the contract: those to apply, in order, and those that the bank knows already
    predictions, features   as above, for all photos with feedback
    labels, raters   parquet: ratings of test photos before all nights (for judging), surveys of unknown users
    out              folder: bank/, users.parquet, nights.parquet (tasks.night_metrics), served/, continual.json
    forget           weights that older ratings may get; each user's is chosen by the evidence           [1, .5, .25, .1]
    confidence, min_ratings  as above

    .venv/bin/python -m pytest tests/tasks/test_personal_stages.py
"""

import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model import gate, personal
from model.bank import Bank, load_bank
from model.bank_opened import OpenBank, open_bank
from model.lora_bank import LoraBank
from model.scores import DIMENSIONS
from tasks.lora import NEVER, Network, first_entries
from tasks.lora import decide as decide_lora
from tasks.lora import joined as joined_lora
from tasks.night_metrics import NIGHTS, with_alarms
from tasks.nightly import Nights, learn_nights
from tasks.personal import BLOCK, Night, Team, _of_users, finetune
from tasks.ratings import Photos, Ratings, as_ratings, as_users, read_photos
from tasks.tables import read_table, write_json, write_table

KEPT = 30
"""Nights of which `served/` keeps what users were served afterwards, for judging."""


def finetune_loop(config: dict[str, Any]) -> None:
    """Ray Train loop of stage 2; config in the module's head."""
    import ray.train

    started = time.perf_counter()
    team = _ray_team()
    photos = read_photos(config["predictions"], config.get("features"))
    users, surveys, experts, expert_surveys = as_users(read_table(config["raters"]))
    ratings, aside = as_ratings(read_table(config["labels"]), users, photos)
    resume = None
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = load_file(Path(folder) / "prior.safetensors")
        resume = int(state.pop("iteration")), personal.Prior(**state)

    def report(iteration: int, prior: personal.Prior, loglik: float) -> None:
        metrics = {"iteration": iteration, "log_evidence": loglik}
        if team.rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            state = prior.tensors() | {"iteration": torch.tensor(iteration)}
            save_file({k: v.contiguous() for k, v in state.items()}, Path(folder) / "prior.safetensors")
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    out, lora = Path(config["out"]), None
    how = config | ({"confidence": NEVER} if config.get("method") == "lora" else {})
    bank = finetune(photos, users, surveys, experts, expert_surveys, ratings, how, team, resume, report)
    if config.get("method") == "lora":
        lora = _finetune_lora(bank, out, photos, ratings, config, team)
    if bank is None:
        return
    bank.save(out / "bank")
    if lora is not None:
        lora.save(out / "bank")
    write_table(_entries(bank), out / "users.parquet")
    summary = {
        "users": len(users),
        "judged": int(bank.judged.sum()),
        "prior_users": dict(zip(DIMENSIONS, bank.prior.users.tolist())),
        "dimensions": [d for d, n in zip(DIMENSIONS, bank.prior.users.tolist()) if n > 0],
        "features": bank.basis.size,
        "models": photos.models,
        "kappa": dict(zip(DIMENSIONS, bank.prior.kappa.tolist())),
        "noise_sd": dict(zip(DIMENSIONS, bank.prior.noise.sqrt().tolist())),
        "temper": bank.selection.temper,
        "experts_chosen": dict(Counter(bank.basis.experts[i] for i in bank.expert.tolist())),
        "entries": _counted(bank.reason, bank.prior.users > 0),
        "set_aside": dict(aside),
        "seconds": round(time.perf_counter() - started, 3),
        **bank.about,
    }
    write_json(summary, out / "finetune.json")


def _finetune_lora(
    bank: Bank | None, out: Path, photos: Photos, ratings: Ratings, config: dict[str, Any], team: Team
) -> LoraBank | None:
    """The first low-rank entries, on rank 0 (None elsewhere); what the gate says of them goes into the bank.

    bank: the one that promotes nothing, on rank 0. Users are dealt out to the ranks.
    """
    if bank is not None:
        bank.save(out / "bank")
    team.total(torch.zeros(1))  # a barrier: the others read it
    everybody = load_bank(out / "bank") if bank is None else bank
    rows = list(range(team.rank, len(everybody.users), team.world))
    own = _of_users(ratings, rows, len(everybody.users))
    made = first_entries(Network.read(config), everybody.take(rows), photos, own, config)
    parts = team.gather((rows, *made))
    if parts is None or bank is None:
        return None
    order = torch.argsort(torch.tensor([row for piece in parts for row in piece[0]], dtype=torch.long))
    lora, found = joined_lora([piece[1] for piece in parts], [piece[2] for piece in parts], order)
    decide_lora(lora, found, config)
    bank.expert, bank.reason, bank.version = lora.expert, lora.reason, lora.version
    bank.evidence = lora.evidence
    return lora


def continual_loop(config: dict[str, Any]) -> None:
    """Ray Train loop of stage 3; config in the module's head. Restarts whole: a night is one closed-form step."""
    import ray.train

    started = time.perf_counter()
    team = _ray_team()
    bank, first = open_bank(Path(config["bank"])), open_bank(Path(config["first"]))
    photos = read_photos(config["predictions"], config.get("features"))
    if photos.models != list(bank.basis.models):
        raise ValueError(
            f"predictions are of models {', '.join(photos.models)}, the bank in {config['bank']} was made for "
            f"{', '.join(bank.basis.models)}: predict with the same models"
        )
    known, answers, *_ = as_users(read_table(config["raters"]))
    done = learn_nights(bank, first, photos, config, dict(zip(known, answers)), team)
    if done is not None:
        _write_nights(Path(config["out"]), done, Path(config["bank"]).parent, time.perf_counter() - started)
    ray.train.report({"nights": len(config["nights"])})


def _write_nights(out: Path, done: Nights, before: Path, seconds: float) -> None:
    """All that `continual` leaves behind; figures and entries of nights before this run come from the folder `before`."""
    after, last = done.bank, done.last
    after.save(out / "bank")
    rows = done.rows
    if (before / "nights.parquet").exists():
        rows = read_table(before / "nights.parquet").to_pylist() + rows
    write_table(pa.Table.from_pylist(with_alarms(rows), schema=NIGHTS), out / "nights.parquet")
    (out / "served").mkdir()
    kept = sorted([*(before / "served").glob("*.safetensors")])[-KEPT:]
    for path in kept:
        shutil.copy(path, out / "served")
    done.save_served(out / "served")
    for path in sorted((out / "served").iterdir())[:-KEPT]:
        path.unlink()
    summary = {
        "nights": len(done.nights),
        "changed": done.changed,
        "users": len(after),
        "updated": 0 if last is None else len(last.users),
        "new_users": 0 if last is None else last.known.count(False),
        "promoted": 0 if last is None else int(last.promoted.any(1).sum()),
        "entries": {} if last is None else _counted(last.reason, after.prior.users > 0),
        "drifting": 0 if last is None else int((last.forget < 1).sum()),
        "learned_anew": done.again,
        "ratings_fitted": done.fitted,
        "ratings_kept_for_judging": done.test,
        "choices": done.choices,
        "comments": done.comments,
        "set_aside": dict(done.aside),
        "unchanged": done.changed == 0,
        "reason": None if done.changed else "no feedback that changes a personal model: the bank is unchanged",
        "round": after.round,
        "seconds": round(seconds, 3),
    }
    write_table(_entries(after, last), out / "users.parquet")
    write_json(summary, out / "continual.json")


def _counted(reason: Tensor, rated: Tensor) -> dict[str, dict[str, int]]:
    """dimension → reason → entries, rated dimensions only."""
    return {
        name: {gate.REASONS[code]: count for code, count in sorted(Counter(reason[:, d].tolist()).items())}
        for d, name in enumerate(DIMENSIONS)
        if rated[d]
    }


def _entries(bank: Bank | OpenBank, what: Night | None = None) -> pa.Table:
    """One row per user and rated dimension: what the gate said. With `what`, only the users of the night.

    evidence_…: log Bayes factors of the personal model against its rivals (`model.gate`), as the gate weighed them.
    """
    names = ("expert", "judged", "ratings", "reason", "version", "evidence")
    if what is not None:
        parts = (bank.part(what.users[start : start + BLOCK]) for start in range(0, len(what.users), BLOCK))
    else:
        parts = [bank] if isinstance(bank, Bank) else bank.parts()
    users, columns = [], [[torch.empty(0)] for _ in names]
    for part in parts:
        users += part.users
        for column, name in zip(columns, names):
            column.append(getattr(part, name))
    found = {name: torch.cat(column[1:] or column).numpy() for name, column in zip(names, columns)}
    experts, reasons = np.array(bank.basis.experts), np.array(gate.REASONS)
    tables = []
    for d, dimension in enumerate(DIMENSIONS):
        if bank.prior.users[d] == 0:
            continue
        table = {
            "user_id": pa.array(users, pa.string()),
            "dimension": pa.array([dimension] * len(users), pa.string()),
            "expert": experts[found["expert"]],
            "judged": found["judged"],
            "ratings": found["ratings"][:, d],
            "reason": reasons[found["reason"][:, d]],
            "version": found["version"],
            "evidence_prior": found["evidence"][:, d, gate.PRIOR],
        }
        if what is not None:
            table |= {
                "new_ratings": what.new_ratings[:, d].to(torch.long).numpy(),
                "forget": what.forget.numpy(),
                "evidence_current": what.evidence[:, d, gate.CURRENT].numpy(),
                "evidence_noise": what.evidence[:, d, gate.NOISE].numpy(),
                "new_user": ~np.array(what.known, bool),
            }
        tables.append(pa.table(table))
    return pa.concat_tables(tables)


def _ray_team() -> Team:
    """The workers of this Ray Train job, over torch.distributed where there are several."""
    import ray.train

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if world == 1:
        return Team()
    torch.set_num_threads(1)

    def total(tensor: Tensor) -> Tensor:
        whole = tensor.clone()
        torch.distributed.all_reduce(whole)
        return whole

    def gather(value: Any) -> list | None:
        values: list = [None] * world
        torch.distributed.gather_object(value, values if rank == 0 else None)
        return values if rank == 0 else None

    def share(value: Any) -> Any:
        values = [value]
        torch.distributed.broadcast_object_list(values, 0)
        return values[0]

    return Team(rank, world, total, gather, share)
