"""What `pretrain` does around its training job: labels in, models judged on their own expert and registered."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from model.checkpoint import file_hash
from model.compat import Compat
from model.metrics import srcc
from model.physique_frame import FrameConfig
from model.scores import DIMENSIONS
from tasks.bodies import body_file
from tasks.frame_data import read_inputs, scores_of
from tasks.labeller import expert_labels
from tasks.mesh_table import mesh_recipe
from tasks.params import Model, Params
from tasks.splits import TEST, VAL, split_of
from tasks.tables import read_json, read_table, shard_paths, write_json, write_table
from tasks.train import run_name
from tasks.train_experts import GENERIC, JOINT

REPORT_EVERY = 20  # epochs between checkpoints; a tiny model's epoch is shorter than a report


def write_labels(cohort: Path, mesh: Path, embeddings: Path, out: Path, params: Params) -> None:
    """out/labels.parquet (what experts are trained on), out/pseudo.parquet and out/effort.json."""
    found = expert_labels(cohort, read_inputs(mesh, embeddings), params.pretrain, params.seed)
    if isinstance(found, pa.Table):
        write_table(found, out / "labels.parquet")
        write_json({"rows": [], "fall": {}}, out / "effort.json")
    else:
        write_table(found.labels, out / "labels.parquet")
        write_table(found.pseudo, out / "pseudo.parquet")
        write_json({"rows": found.effort, "fall": found.fall}, out / "effort.json")


def surveys(cohort: Path) -> dict[str, dict[str, str]]:
    """Every expert's answers."""
    table = read_table(cohort / "raters.parquet")
    people = zip(*(table[name].to_pylist() for name in ("rater_id", "role", "survey")))
    return {rater: {k: v or "" for k, v in answers or []} for rater, role, answers in people if role == "expert"}


def expert_settings(
    cohort: Path, mesh: Path, embeddings: Path, out: Path, params: Params
) -> dict[str, Any]:
    """Config of the training job; an expert with fewer than ten labelled photos gets no model of their own."""
    labels = read_table(out / "labels.parquet")
    fitted = [split_of(photo) not in (TEST, VAL) for photo in labels["photo_id"].to_pylist()]
    counts = {row["values"]: row["counts"] for row in labels["rater_id"].filter(fitted).value_counts().to_pylist()}
    experts = sorted(rater for rater, count in counts.items() if count >= 10)
    if not experts:
        raise ValueError(f"{cohort}: no expert rated ten photos or more; an expert model needs at least that")
    wanted = {"epochs", "own_epochs", "patience", "batch", "lr", "own_lr", "weight_decay", "loss", "schedule", "precision"}
    wanted |= {"recompute", "compile", "begin"}
    settings = params.pretrain.model_dump(include=wanted)
    names = [GENERIC, *([JOINT] if params.pretrain.begin == "joint" else []), *experts]
    full = params.model.size == "full"
    shards = [path.name for folder in (mesh, embeddings) for path in shard_paths(folder)]
    settings |= {
        "mesh": str(mesh.resolve()),
        "embeddings": str(embeddings.resolve()),
        "photos": str((cohort / "photos").resolve()),
        "pixels": str(Path(".physique/pixels").resolve()),
        "labels": str((out / "labels.parquet").resolve()),
        "units": names,
        "files": {name: f"{k:03d}" for k, name in enumerate(names)},
        "preferences": str(given.resolve()) if (given := cohort / "preferences.parquet").is_file() else None,
        "surveys": {rater: answers for rater, answers in surveys(cohort).items() if rater in experts},
        "dimensions": read_json(cohort / "cohort.json")["dimensions"],
        "seed": params.seed,
        "gpus": params.pretrain.gpus_per_worker,
        "report_every": 1 if full else REPORT_EVERY,
        "judge_batch": 16 if full else 256,
        "version": [file_hash(out / "labels.parquet"), *shards],  # another input is another run
    }
    settings |= frame_settings(params.model, embeddings)
    return settings | {"kept": str((Path(".physique/experts") / run_name("pretrain", settings)).resolve())}


def frame_settings(model: Model, embeddings: Path) -> dict[str, Any]:
    """Which frame is trained and where its weights start.

    Raises:
        ValueError: `model.start` names no imported frame, or one that does not fit what `embed` made.
    """
    width = len(read_table(shard_paths(embeddings)[0], ["vector"])["vector"][0])
    config, compat = FrameConfig.of(model.size, width), Compat.of(model.compat)
    if model.start is not None:
        described = Path(f"{model.start}.json")
        if not described.is_file():
            raise ValueError(f"model.start: {described} is missing; `physique weights import FILE` makes it")
        config = FrameConfig.from_dict(read_json(described)["config"])
        if (config.size, config.image_width) != (model.size, width):
            raise ValueError(
                f"model.start: {model.start} is of size {config.size!r} and reads vectors of {config.image_width} numbers; "
                f"model.size is {model.size!r} and embed.encoder gives {width}"
            )
    return {
        "size": model.size,
        "frame": config.to_dict(),
        "compat": model.compat,
        "squash": compat.squash,
        "start": model.start and str(Path(model.start).resolve()),
        "backbone": model.backbone and str(Path(model.backbone).resolve()),
    }


def own_photos(predictions: pa.Table, labels: pa.Table, model: str, rater: str, split: str) -> dict[str, float]:
    """SRCC per dimension of a model with one rater's labels on the photos of a split; NaN where too few."""
    said = predictions.filter([m == model for m in predictions["model"].to_pylist()])
    rows = {photo: i for i, photo in enumerate(said["photo_id"].to_pylist())}
    mine = labels.filter(
        [r == rater and split_of(p) == split for r, p in zip(*(labels[c].to_pylist() for c in ("rater_id", "photo_id")))]
    )
    rated = scores_of(mine, rows).numpy()
    return {
        name: float(srcc(said[name].to_numpy(zero_copy_only=False).astype(float), rated[:, d])[0])
        for d, name in enumerate(DIMENSIONS)
    }


def register_experts(out: Path, cohort: Path, body: Path, meshnet: Path, params: Params) -> str:
    """Register one model per expert, write out/pretrain.json with the versions; a page for Prefect."""
    from model.predictor import write_bundle
    from tasks.registry import expert_model, register, stage_run

    predictions, labels = read_table(out / "predictions.parquet"), read_table(cohort / "labels.parquet")
    dimensions = read_json(cohort / "cohort.json")["dimensions"]
    files = {
        name: read_json(path)["about"]["rater"] and path.stem
        for path in sorted((out / "models").glob("*.json"))
        for name in [read_json(path)["about"]["rater"]]
    }
    recipe, (_, ours) = mesh_recipe(body, meshnet, params.mesh), body_file(body)
    registered, lines = {}, ["# Expert models", "", "| expert | model | version | " + " | ".join(dimensions) + " |"]
    lines.append("|---|---|---|" + "---:|" * len(dimensions))
    with stage_run("pretrain", params.pretrain.model_dump() | {"size": params.model.size}) as run_id:
        for name, file in files.items():
            if name == GENERIC:
                continue
            found = own_photos(predictions, labels, name, name, VAL)
            metrics = {f"val_srcc_{d}": found[d] for d in dimensions if np.isfinite(found[d])}
            with TemporaryDirectory() as folder:
                bundle = write_bundle(
                    Path(folder) / "bundle",
                    recipe=recipe,
                    body_is_ours=ours,
                    encoder=params.embed.encoder,
                    encoder_weights=params.embed.weights,
                    models=out / "models",
                    files={name: file},
                    dimensions=dimensions,
                )
                version = register(
                    expert_model(name), bundle, "pretrain", metrics=metrics, about={"expert": name}, champion=True
                )
            registered[name] = version | {"val_srcc": metrics}
            shown = " | ".join(f"{found[d]:.3f}" if np.isfinite(found[d]) else "–" for d in dimensions)
            lines.append(f"| {name} | {version['name']} | {version['version']} | {shown} |")
    write_json({"mlflow_run": run_id, "experts": registered, "dimensions": dimensions}, out / "pretrain.json")
    lines += ["", "SRCC with the expert's own scores on photos of the split `val`, seen by no training."]
    return "\n".join(lines)
