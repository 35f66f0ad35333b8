"""Method `full`: a whole network for one user, from their expert on, as a Ray Train job of its own.

It is `tasks.train_experts` with the user as the rater: from the weights of the user's expert, held to them (L2-SP, Li et
al. 2018) by `PULL`, BatchNorm left as it is, stopped where the user's own ratings of the split `val` get no
better; the expert itself is the first candidate. With several workers (`pretrain.workers`) every batch is shared out (DDP).

    uv run physique personal-full USER
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from model.bank import load_bank
from model.metrics import srcc
from model.scores import DIMENSIONS
from tasks.feedback import undeleted
from tasks.nights import night_paths
from tasks.params import Params
from tasks.ratings import Photos, Ratings, as_feedback, as_ratings, as_users, read_photos
from tasks.recovery import feedback_of
from tasks.splits import FIT, TEST, split_of
from tasks.tables import read_json, read_table, write_table
from tasks.train import fit, run_name
from tasks.train_experts import expert_loop

FULL = "physique-personal-full-"
"""Names of the registered models begin with this; the user's id follows."""
PULL = 10.0
"""How strongly the network is held to the expert's, points² per squared change of its weights."""


def ratings_of(user: str, cohort: Path, nights: Path, photos: Photos) -> Ratings:
    """All ratings of a user, of labels and feedback, one per photo, the feedback's where there are both.

    nights: snapshots of feedback, from the review page too; before the first of them the cohort's own feedback counts.

    Raises:
        LookupError: the cohort has no such user, or nothing of theirs that could be used.
    """
    users, *_ = as_users(read_table(cohort / "raters.parquet"))
    feedback = feedback_of(nights) if night_paths(nights) else undeleted(read_table(cohort / "feedback.parquet"))
    who, told, _ = as_feedback(feedback, photos)
    if user not in {*users, *who}:
        raise LookupError(f"user {user!r} is not in {cohort / 'raters.parquet'}; there are {', '.join(users[:3])} …")
    given, _ = as_ratings(read_table(cohort / "labels.parquet"), [user], photos)
    later = told[torch.tensor([who[i] == user for i in told.user.tolist()], dtype=torch.bool)]
    y = torch.full((len(photos.ids), len(DIMENSIONS)), torch.nan, dtype=torch.float64)
    for part in (given, later):
        y[part.photo] = torch.where(part.y.isnan(), y[part.photo], part.y)
    rows = torch.nonzero(~y.isnan().all(1)).flatten()
    fitted = sum(split_of(photos.ids[i]) == FIT for i in rows.tolist())
    if fitted < 2:
        raise LookupError(f"user {user!r} rated {fitted} photos that may be fitted on; a model of their own needs 2")
    return Ratings(torch.zeros(len(rows), dtype=torch.long), rows, y[rows], torch.full((len(rows),), torch.nan).double())


def unit_settings(
    user: str, expert: str, photos: Photos, ratings: Ratings, pretrain: Path, params: Params
) -> dict[str, Any]:
    """What a `tasks.train_experts.Unit` needs to know to train the user's model, but for where its labels are."""
    models = {read_json(path)["about"]["rater"]: path for path in (pretrain / "models").glob("*.json")}
    described = read_json(models[expert])
    wanted = {"own_epochs", "patience", "batch", "own_lr", "schedule", "precision", "recompute", "compile"}
    return params.pretrain.model_dump(include=wanted) | {
        "units": [user],
        "files": {user: "000"},
        # Answers of the expert: what their model makes of a survey belongs to the model that is started from.
        "surveys": {user: described["about"]["survey"]},
        "dimensions": described["about"]["dimensions"],
        "frame": described["config"],
        "compat": params.model.compat,
        "squash": described["compat"]["squash"],
        "from": str(models[expert].with_suffix("").resolve()),
        "expert": expert,
        "pull": PULL,
        "weight_decay": 0.0,  # towards the expert, not towards nothing
        "loss": "sum",
        "begin": "joint",
        "size": "full",  # all workers train one model together
        "start": None,
        "backbone": None,
        "preferences": None,
        "seed": params.seed,
        "gpus": params.pretrain.gpus_per_worker,
        "report_every": 4,
        "judge_batch": 16 if params.model.size == "full" else 256,
        "ratings": [[photos.ids[i], *row] for i, row in zip(ratings.photo.tolist(), _plain(ratings))],
    }


def write_labels(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """Put the ratings that may be fitted on where a unit reads labels; the settings that say so."""
    rows = [row for row in settings["ratings"] if split_of(row[0]) != TEST]
    columns = {d: pa.array([row[1 + k] for row in rows], pa.float32()) for k, d in enumerate(DIMENSIONS)}
    who = settings["units"] * len(rows)
    write_table(pa.table({"photo_id": [row[0] for row in rows], "rater_id": who, **columns}), path)
    return settings | {"labels": str(path)}


def full_settings(
    user: str, cohort: Path, nights: Path, mesh: Path, embeddings: Path, pretrain: Path, bank: Path, params: Params
) -> tuple[dict[str, Any], Photos, Ratings]:
    """Config of the training job, what the model base says of the photos, and the user's ratings.

    bank: a stage's folder with `bank/` in it, which selects the expert. Labels go to the job's own folder.
    """
    photos = read_photos(pretrain / "predictions.parquet", pretrain / "features.parquet")
    ratings = ratings_of(user, cohort, nights, photos)
    chosen = load_bank(bank / "bank")
    row = int(chosen.index([user])[0])
    if row < 0:
        raise LookupError(f"user {user!r} is not in the bank {bank / 'bank'}; `dvc repro` puts everybody into it")
    expert = chosen.basis.experts[int(chosen.expert[row])]
    paths = {"mesh": mesh, "embeddings": embeddings, "photos": cohort / "photos", "pixels": Path(".physique/pixels")}
    settings = unit_settings(user, expert, photos, ratings, pretrain, params)
    settings |= {name: str(path.resolve()) for name, path in paths.items()}
    kept = (Path(".physique/full") / run_name("full", settings)).resolve()
    return write_labels(settings, kept / "labels.parquet") | {"kept": str(kept)}, photos, ratings


def _plain(ratings: Ratings) -> list[list[float | None]]:
    return [[None if value != value else value for value in row] for row in ratings.y.tolist()]


def train_full(config: dict[str, Any], params: Params) -> Path:
    """Train; the folder with models/000 and predictions/000.parquet."""
    settings = params.pretrain
    fit(
        expert_loop, config, name="full", workers=settings.workers, cpus_per_worker=0.5,
        gpus_per_worker=settings.gpus_per_worker,
    )  # fmt: skip
    return Path(config["kept"])


def against_expert(kept: Path, config: dict[str, Any], photos: Photos, ratings: Ratings) -> dict[str, dict[str, float]]:
    """dimension → SRCC of the expert and of the user's own model with the user's ratings of the split `test`."""
    own = read_table(kept / "predictions" / "000.parquet")
    place = {photo: i for i, photo in enumerate(own["photo_id"].to_pylist())}
    test = [i for i, photo in enumerate(ratings.photo.tolist()) if split_of(photos.ids[photo]) == TEST]
    found = {}
    for k, dimension in enumerate(DIMENSIONS):
        if dimension not in config["dimensions"] or not test:
            continue
        rated = ratings.y[test, k].numpy()
        rows = ratings.photo[test]
        expert = photos.predictions[rows, photos.models.index(config["expert"]), k].numpy()
        mine = own[dimension].to_numpy()[[place[photos.ids[i]] for i in rows.tolist()]]
        found[dimension] = {"expert": float(srcc(expert, rated)[0]), "own": float(srcc(np.asarray(mine), rated)[0])}
    return found


def register_full(
    user: str, kept: Path, config: dict[str, Any], found: dict[str, dict[str, float]],
    body: Path, meshnet: Path, params: Params,
) -> dict[str, Any]:  # fmt: skip
    """Register the model as `physique-personal-full-<user>`; name, version, uri."""
    from model.predictor import write_bundle
    from tasks.ancestry import PARENTS
    from tasks.registry import photo_reader, register, registered_name, stage_run

    name = registered_name(FULL, user)
    base = Path(config["from"]).parent.parent / "pretrain.json"
    expert = read_json(base)["experts"].get(config["expert"]) if base.is_file() else None
    about = {"user": user, "expert": config["expert"]}
    with stage_run("personal-full", about | {"pull": config["pull"]}), TemporaryDirectory() as folder:
        bundle = write_bundle(
            Path(folder) / "bundle",
            reader=photo_reader(kept / "models", body, meshnet, params),
            models=kept / "models",
            files={user: "000"},
            dimensions=config["dimensions"],
        )
        said = {f"test_srcc_{d}_{who}": value for d, row in found.items() for who, value in row.items() if value == value}
        tags = about | ({PARENTS: f"{expert['name']}/{expert['version']}"} if expert else {})
        return register(name, bundle, "personal-full", metrics=said, about=tags, champion=True)


def full_page(user: str, version: dict[str, Any], config: dict[str, Any], found: dict[str, dict[str, float]]) -> str:
    """A page for Prefect and the terminal: the model, and how it and the expert agree with the user."""
    lines = [f"# {user}", "", f"`{version['name']}` version {version['version']}, from expert {config['expert']}", ""]
    lines += ["SRCC with the user's ratings of test photos:", "", "| dimension | expert | own model |", "|---|---:|---:|"]
    lines += [f"| {name} | {row['expert']:.3f} | {row['own']:.3f} |" for name, row in found.items()]
    return "\n".join(lines)
