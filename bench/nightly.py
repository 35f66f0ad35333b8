"""A night for many users: update, gate, pack, register; what it costs per user, and beside it one job per user.

    uv run python bench/nightly.py                                   # 1,000, 10,000 and 100,000 users, 50 the obvious way
    uv run python bench/nightly.py --users 10000 --threads 2         # the size that a goal is set for

Simulated users: each mixes the tastes of six experts, has `--stored` ratings in the bank and gives `--new` ones tonight,
three scores each. Every size is made ready in one process and run through a night in a fresh one, whose peak memory is
the operating system's figure for the whole process. A night is what the stage `continual` does around Ray Train: read
predictions and feedback, update and gate (`tasks.personal.night`), write bank and table, register with a real MLflow on
SQLite. Starting Ray Train and Prefect is not in it: some 40 s whatever the number of users. Calls of MLflow's stores
are counted. "The obvious way" gives every user a bank, a night, and a registered model of their own; all in one process,
which flatters it. Prints Markdown; docs/benchmarks.md holds it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

EXPERTS, PHOTOS, FUSED, BLOCK = 6, 600, 32, 512
BESIDE = Path("pretrain"), Path("body"), Path("meshnet")
CONFIG = {"prior_share": 0.999, "fused_axes": 24, "confidence": 0.6, "min_ratings": 5}
"""As params.yaml has it, but that all teachers teach: φ has 32 features."""


def predictions(rng: np.random.Generator) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Photo ids, model names, what the models say (N, M, 3), fused features (N, 32); none of the split `test`."""
    from tasks.splits import TEST, split_of

    ids = sorted(p for p in (f"{k:064x}" for k in range(PHOTOS * 2)) if split_of(p) != TEST)[:PHOTOS]
    common = rng.normal(size=(len(ids), 1, 3))
    said = 5 + 0.9 * common + 1.1 * rng.normal(size=(len(ids), EXPERTS, 3))
    said = np.concatenate([said, said.mean(1, keepdims=True)], 1)
    names = [f"expert-{k:02d}" for k in range(1, EXPERTS + 1)] + ["generic"]
    return ids, names, said, rng.normal(size=(len(ids), FUSED))


def rated(said: np.ndarray, users: int, each: int, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """user (R,), photo (R,) and scores (R, 3) of users who mix the experts' tastes; simulated."""
    rng = np.random.default_rng(seed[0])
    mix = rng.dirichlet([0.5] * EXPERTS, users)
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), each)
    photo = rng.integers(0, len(said), len(user))
    scores = np.einsum("re,red->rd", mix[user], said[photo, :EXPERTS]) + rng.normal(0, 1.0, (len(user), 3))
    return user, photo, scores.clip(0, 10)


def prepare(folder: Path, users: int, stored: int, new: int) -> None:
    """Predictions, a bank of `users` with `stored` ratings each, feedback, and what a bundle needs beside them."""
    import torch

    from model import personal
    from model.bank_opened import open_bank
    from tasks.personal import finetune
    from tasks.ratings import Photos, Ratings
    from tasks.tables import write_table

    rng = np.random.default_rng(0)
    ids, names, said, fused = predictions(rng)
    rows = [(photo, model) for photo in ids for model in names]
    columns = {d: said[:, :, k].reshape(-1).astype(np.float32) for k, d in enumerate(("appearance", "health", "posture"))}
    table = pa.table({"photo_id": [r[0] for r in rows], "model": [r[1] for r in rows], **columns})
    write_table(table, folder / "pretrain/predictions.parquet")
    table = pa.table({"photo_id": ids, "vector": pa.array(list(fused.astype(np.float32)))})
    write_table(table, folder / "pretrain/features.parquet")
    photos = Photos(ids, names, torch.from_numpy(said), torch.from_numpy(fused))

    def ratings(count: int, each: int, seed: tuple[int, ...]) -> Ratings:
        user, photo, y = map(torch.from_numpy, rated(said, count, each, seed))
        return Ratings(user, photo, y, torch.full((len(user),), torch.nan, dtype=torch.float64))

    teachers = [f"teacher-{k:03d}" for k in range(300)]
    bank = finetune(photos, teachers, [{}] * 300, names[:-1], [{}] * EXPERTS, ratings(300, 60, (1, 0)), CONFIG)
    assert bank is not None
    bank.save(folder / "finetune/bank")
    opened = open_bank(folder / "finetune/bank").without_users(teachers)
    phi = bank.basis.phi(photos.predictions, photos.fused)

    def entries() -> Iterator[Any]:
        for start in range(0, users, BLOCK):
            count = min(BLOCK, users - start)
            part = opened.starting([f"user-{start + k:07d}" for k in range(count)], [{}] * count)
            own = ratings(count, stored, (2 + start, 0))
            part.stats = personal.sufficient(phi[own.photo], own.y, own.user, count)
            part.ratings = part.stats.n.round().to(torch.long)
            found = personal.posterior(bank.prior, part.prior_mean, part.stats)
            part.evidence = torch.ones_like(part.evidence)
            part.promote(torch.ones(count, 3, dtype=torch.bool), found)
            yield part

    opened.updated(entries(), round=1).save(folder / "finetune/bank")
    per_block = []
    for start in range(0, users, BLOCK):
        user, photo, y = rated(said, min(BLOCK, users - start), new, (2 + start, 1))
        # One score per user and photo: whoever drew a photo twice rates the next one as well.
        _, keep = np.unique(user * len(ids) + photo, return_index=True)
        per_block.append((user[keep] + start, photo[keep], y[keep]))
    user, photo, y = (np.concatenate(column) for column in zip(*per_block))
    count = len(user)
    at = pa.array(np.repeat(1_777_000_000_000_000 + np.arange(count) * 1000, 3), pa.timestamp("us", tz="UTC"))
    table = pa.table(
        {
            "event_id": [f"e{k:09d}" for k in range(3 * count)],
            "user_id": np.repeat([f"user-{u:07d}" for u in user.tolist()], 3),
            "photo_id": np.repeat(np.array(ids)[photo], 3),
            "kind": ["rating"] * (3 * count),
            "dimension": ["appearance", "health", "posture"] * count,
            "value": y.reshape(-1).astype(np.float32),
            "at": at,
        }
    )
    write_table(table, folder / "cohort/feedback.parquet")
    _bundle_parts(folder, names)


def _bundle_parts(folder: Path, names: list[str]) -> None:
    """Body model, mesh network and experts' frames as the tiny pipeline has them, untrained: they are only copied."""
    from model.checkpoint import save_frame
    from model.mesh_net import MeshNet, MeshNetConfig, save_mesh_net
    from model.physique_frame import FrameConfig, PhysiqueFrame
    from tasks.bodies import write_standin

    shutil.copy(ROOT / "dvc.yaml", folder)  # versions are tagged with what DVC knows of a stage
    write_standin(folder / "body")
    save_mesh_net(MeshNet(MeshNetConfig()), folder / "meshnet")
    for k, name in enumerate(names):
        frame = PhysiqueFrame(FrameConfig.of("tiny", 128))
        about = {"rater": name, "survey": {}, "dimensions": ["appearance", "health", "posture"]}
        save_frame(frame, folder / "pretrain/models", f"{k:03d}", about)


class Calls:
    """Counts calls from outside of MLflow's registry and tracking stores."""

    def __init__(self) -> None:
        from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

        self.found: Counter[str] = Counter()
        self.inside = False
        for store, what in ((Registry, "registry"), (Tracking, "tracking")):
            for name in [n for n in dir(store) if not n.startswith("_") and callable(getattr(store, n))]:
                setattr(store, name, self._counted(getattr(store, name), what))

    def _counted(self, method: Any, what: str) -> Any:
        def counted(*args: Any, **options: Any) -> Any:
            if self.inside:
                return method(*args, **options)
            self.inside = True
            self.found[what] += 1
            try:
                return method(*args, **options)
            finally:
                self.inside = False

        return counted


def run_night(folder: Path, threads: int) -> dict[str, Any]:
    """One night of all users in `folder`; seconds of its steps, peak memory in MB, calls, bytes written."""
    os.chdir(folder)
    import torch

    from model.bank_opened import open_bank
    from tasks.banks import register_bank
    from tasks.params import load_params
    from tasks.personal import night
    from tasks.ratings import as_feedback, read_photos
    from tasks.tables import read_table, write_json, write_table
    from tasks.train_personal import _entries

    torch.set_num_threads(threads)
    params, calls = load_params(ROOT / "params.yaml"), Calls()
    _registered_before(params)
    calls.found.clear()
    clock = [time.perf_counter()]
    cpu = time.process_time()
    photos = read_photos("pretrain/predictions.parquet", "pretrain/features.parquet")
    users, ratings, _ = as_feedback(read_table("cohort/feedback.parquet"), photos)
    clock.append(time.perf_counter())
    result = night(open_bank(Path("finetune/bank")), photos, users, ratings, CONFIG)
    assert result is not None
    after, what = result
    clock.append(time.perf_counter())
    out = Path("continual")
    after.save(out / "bank")
    write_table(_entries(after, what), out / "users.parquet")
    write_json({"updated": len(what.users)}, out / "continual.json")
    clock.append(time.perf_counter())
    made = register_bank(out, "continual", "continual.json", *BESIDE, params)
    clock.append(time.perf_counter())
    steps = dict(zip(("read", "update and gate", "pack", "register"), np.diff(clock).tolist()))
    return {
        "users": len(after),
        "updated": len(what.users),
        "promoted": float(what.promoted.any(1).double().mean()),
        **steps,
        "seconds": clock[-1] - clock[0],
        "cpu": time.process_time() - cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "bank_mb": sum(path.stat().st_size for path in (out / "bank").iterdir()) / 2**20,
        "calls": dict(calls.found),
        "version": made["registered"]["version"],
    }


def _registered_before(params: Any) -> None:
    """The bank of the stage before is in the registry, as it is on every night."""
    from tasks.banks import register_bank
    from tasks.tables import write_json

    write_json({}, Path("finetune/finetune.json"))
    register_bank(Path("finetune"), "finetune", "finetune.json", *BESIDE, params)


def run_obvious(folder: Path, count: int) -> dict[str, Any]:
    """One job per user: a bank of one is loaded, updated, written and registered as a model of its own."""
    os.chdir(folder)
    import torch

    from model.bank import load_bank
    from model.bank_opened import open_bank
    from tasks.banks import register_bank
    from tasks.params import load_params
    from tasks.personal import night
    from tasks.ratings import as_feedback, read_photos
    from tasks.tables import read_table, write_json

    torch.set_num_threads(1)
    params, calls = load_params(ROOT / "params.yaml"), Calls()
    _registered_before(params)
    calls.found.clear()
    opened = open_bank(Path("finetune/bank"))
    users = [f"user-{k:07d}" for k in range(count)]
    for user in users:
        opened.part([user]).save(Path("single") / user / "bank")
    start = time.perf_counter()
    for user in users:
        photos = read_photos("pretrain/predictions.parquet", "pretrain/features.parquet")
        table = read_table("cohort/feedback.parquet")
        table = table.filter(pa.compute.equal(table["user_id"], user))
        result = night(load_bank(Path("single") / user / "bank"), photos, *as_feedback(table, photos)[:2], CONFIG)
        assert result is not None
        folder = Path("single") / user
        result[0].save(folder / "bank")
        write_json({}, folder / "continual.json")
        register_bank(folder, "continual", "continual.json", *BESIDE, params)
    seconds = time.perf_counter() - start
    return {"users": count, "seconds": seconds, "calls": dict(calls.found)}


def _child(*words: object) -> dict[str, Any]:
    """What this file prints in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1] or "{}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--stored", type=int, default=30)
    parser.add_argument("--new", type=int, default=5)
    parser.add_argument("--obvious", type=int, default=50, help="users of the obvious way; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        what, folder, *more = options.step
        if what == "prepare":
            prepare(Path(folder), *map(int, more))
            print("{}")
        else:
            print(json.dumps({"night": run_night, "obvious": run_obvious}[what](Path(folder), int(more[0]))))
        return
    rows, obvious = [], None
    for count in options.users:
        with TemporaryDirectory(prefix="nightly-") as folder:
            _child("--step", "prepare", folder, count, options.stored, options.new)
            if options.obvious and obvious is None:
                obvious = _child("--step", "obvious", folder, options.obvious)
            rows.append(_child("--step", "night", folder, options.threads))
            print(f"{count:,} users: {rows[-1]['seconds']:.1f} s", file=sys.stderr)
    text = report(rows, obvious, options)
    print(text)
    if options.out:
        options.out.write_text(json.dumps({"nights": rows, "obvious": obvious}, indent=1))


def report(rows: list[dict[str, Any]], obvious: dict[str, Any] | None, options: argparse.Namespace) -> str:
    """The figures as Markdown."""
    load = os.getloadavg()[0]
    lines = [
        f"{platform.processor() or platform.machine()}, {options.threads} thread(s) of {os.cpu_count()} cores, load "
        f"{load:.1f}; simulated users, {options.stored} stored and {options.new} new ratings of three scores each.",
        "",
        "| users | read | update and gate | pack | register | all, s | CPU ms/user | peak MB | bank MB | calls |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        steps = " | ".join(f"{row[name]:.1f}" for name in ("read", "update and gate", "pack", "register"))
        calls = ", ".join(f"{count} {name}" for name, count in sorted(row["calls"].items()))
        lines.append(
            f"| {row['users']:,} | {steps} | **{row['seconds']:.1f}** | {1000 * row['cpu'] / row['users']:.2f} | "
            f"{row['peak_mb']:,.0f} | {row['bank_mb']:,.0f} | {calls} |"
        )
    if len(rows) > 1:
        x = np.log([row["users"] for row in rows])
        lines += ["", "Exponents of cost in users (1 = constant per user):"]
        lines += [
            f"- {name}: {np.polyfit(x, np.log([max(row[key], 1e-9) for row in rows]), 1)[0]:.2f}"
            for name, key in (("seconds", "seconds"), ("update and gate", "update and gate"), ("CPU seconds", "cpu"))
        ]
    if obvious is not None:
        per, best = obvious["seconds"] / obvious["users"], min(row["seconds"] / row["users"] for row in rows)
        calls = sum(obvious["calls"].values()) / obvious["users"]
        lines += [
            "",
            f"One job per user, {obvious['users']} users: {per:.2f} s and {calls:.0f} calls of the stores each, "
            f"**{per / best:,.0f} times** what a user costs in a night of {rows[-1]['users']:,}.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
