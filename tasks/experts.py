"""What `pretrain` does around its training job: labels in, models judged on their own expert and registered."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from model.compat import Compat
from model.files import file_hash
from model.metrics import known_mean
from model.physique_frame import FrameConfig
from model.scores import DIMENSIONS
from model.vector_frame import SIZE
from tasks.features import VECTORS
from tasks.frame_data import read_inputs, scores_by
from tasks.labeller import MIDDLE, expert_labels
from tasks.params import Model, Params, Pretrain
from tasks.ratings import read_photos
from tasks.reviewed import read_reviewed
from tasks.splits import TEST, VAL, split_of
from tasks.tables import read_json, read_table, shard_paths, write_json, write_table
from tasks.train import run_name
from tasks.train_experts import GENERIC, JOINT

REPORT_EVERY = 20  # epochs between checkpoints; a tiny model's epoch is shorter than a report


def write_labels(
    cohort: Path, mesh: Path, embeddings: Path, reviews: Path, out: Path, params: Params
) -> None:
    """out/labels.parquet (what experts are trained on), out/pseudo.parquet, out/effort.json and out/surveys.json."""
    inputs = read_inputs(mesh, embeddings)
    labels, drafts, answers = read_reviewed(reviews)
    base = base_drafts(cohort / "photos", inputs.rows(), params.pretrain, out)
    found = expert_labels(cohort, (labels, drafts), inputs, params.pretrain, params.seed, base)
    write_table(found.labels, out / "labels.parquet")
    write_table(found.pseudo, out / "pseudo.parquet")
    write_json({"rows": found.effort, "fall": found.fall}, out / "effort.json")
    write_json(surveys(cohort) | answers, out / "surveys.json")


def base_drafts(photos: Path, rows: dict[str, int], settings: Pretrain, out: Path) -> np.ndarray:
    """(N, 3) what the labeller starts from: the middle of the scale, or what a labeller made elsewhere says.

    Where that one is silent it is its mean. What could not be used goes to out/quarantine.parquet.

    Raises:
        BadInput: `pretrain.labeller` names no usable file or endpoint.
    """
    base = np.full((len(rows), len(DIMENSIONS)), MIDDLE)
    if settings.labeller == "builtin":
        return base
    from tasks.drafts import read_drafts

    said, aside = read_drafts(settings.labeller, photos, Path(".physique/drafts"), scale=tuple(settings.labeller_scale))
    if len(aside):
        write_table(aside, out / "quarantine.parquet")
    known = [(rows[photo], k) for k, photo in enumerate(said.photo_ids) if photo in rows]
    at, where = (list(part) for part in zip(*known)) if known else ([], [])
    base[:] = np.nan
    base[at] = said.scores[where]
    mean = np.nan_to_num(known_mean(base, 0), nan=MIDDLE)
    return np.where(np.isfinite(base), base, mean)


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
        "surveys": {rater: told for rater, told in read_json(out / "surveys.json").items() if rater in experts},
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
    one = read_table(shard_paths(embeddings)[0], ["vector", "encoder"]).slice(0, 1).to_pylist()[0]
    width, size = len(one["vector"]), SIZE if one["encoder"].startswith(VECTORS) else model.size
    config, compat = FrameConfig.of(size, width), Compat.of(model.compat)
    if model.start is not None and size != SIZE:
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
        "size": size,
        "frame": config.to_dict(),
        "compat": model.compat,
        "squash": compat.squash,
        "start": model.start and str(Path(model.start).resolve()),
        "backbone": model.backbone and str(Path(model.backbone).resolve()),
    }


def register_experts(out: Path, cohort: Path, body: Path, meshnet: Path, params: Params) -> str:
    """Register one model per expert, write out/pretrain.json with the versions; a page for Prefect."""
    from model.predictor import write_bundle
    from tasks.descriptions import describe_version
    from tasks.registry import expert_model, photo_reader, register, stage_run
    from tasks.report.card import card, measured, pictures

    photos, truth = read_photos(out / "predictions.parquet"), read_table(cohort / "labels.parquet")
    cohort_about, taught = read_json(cohort / "cohort.json"), read_table(out / "labels.parquet")
    dimensions, simulated = cohort_about["dimensions"], cohort_about["simulated"]
    abouts = {path.stem: read_json(path)["about"] for path in sorted((out / "models").glob("*.json"))}
    test, places = ~photos.fitting().numpy(), [DIMENSIONS.index(name) for name in dimensions]
    said = dict(zip(photos.models, photos.predictions.numpy()[test][:, :, places].swapaxes(0, 1)))
    origins = Counter(zip(taught["rater_id"].to_pylist(), taught["origin"].to_pylist()))
    reader = photo_reader(out / "models", body, meshnet, params)
    registered, lines = {}, ["# Expert models", "", "| expert | model | version | " + " | ".join(dimensions) + " |"]
    lines.append("|---|---|---|" + "---:|" * len(dimensions))
    with stage_run("pretrain", params.pretrain.model_dump() | {"size": params.model.size}) as run_id:
        for file, about in abouts.items():
            name = about["rater"]
            if name == GENERIC:
                continue
            rated = scores_by(truth, [name], photos.rows())[0].numpy()[test][:, places]
            found = measured(said[name], said[GENERIC], rated, dimensions)
            mine = {origin: count for (rater, origin), count in origins.items() if rater == name}
            page = card(name, about, found, mine, simulated, cohort_about["name"])
            metrics = {f"test_srcc_{row['dimension']}": row["srcc"][0] for row in found if np.isfinite(row["srcc"][0])}
            with TemporaryDirectory() as folder:
                bundle = write_bundle(
                    Path(folder) / "bundle",
                    reader=reader,
                    models=out / "models",
                    files={name: file},
                    dimensions=dimensions,
                )
                version = register(
                    expert_model(name), bundle, "pretrain", metrics=metrics, about={"expert": name}, champion=True
                )
            describe_version(version, page, pictures(about, said[name], rated, dimensions))
            registered[name] = version | metrics
            shown = " | ".join(f"{row['srcc'][0]:.3f}" if np.isfinite(row["srcc"][0]) else "–" for row in found)
            lines.append(f"| {name} | {version['name']} | {version['version']} | {shown} |")
    write_json({"mlflow_run": run_id, "experts": registered, "dimensions": dimensions}, out / "pretrain.json")
    lines += ["", "SRCC with the expert's own scores on photos of the split `test`, seen by no training."]
    return "\n".join(lines)
