"""One expert's model outside of the stage `pretrain`: the same labels and loop, one unit; registered beside the rest."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from model.metrics import srcc
from model.scores import DIMENSIONS
from tasks.experts import expert_settings, write_labels
from tasks.frame_data import scores_by
from tasks.intake.quarantine import BadInput
from tasks.params import Params
from tasks.pipeline_page import model_link, version_link
from tasks.promotion import serves
from tasks.ratings import read_photos
from tasks.registry import expert_model, photo_reader, promote, register, stage_run
from tasks.tables import read_table
from tasks.train import fit_all
from tasks.train_experts import JOINT, expert_loop, jobs


@dataclass(frozen=True)
class Made:
    """said: in one line what came of it. page: the same as Markdown, with the comparison."""

    said: str
    page: str


def train_expert(
    who: str, serve: str, params: Params, data: Path = Path("data"), pretrain: Path = Path("artifacts/pretrain")
) -> Made:
    """Train, compare with the last pipeline run's model on the expert's photos of the split `test`, register.

    serve: `if better`, `always` or `never`.

    Raises:
        BadInput: the pipeline has not made expert models yet, or the expert has too few labels.
    """
    if not (pretrain / "predictions.parquet").is_file():
        raise BadInput(f"{pretrain}: no expert models yet; run the pipeline up to the stage pretrain first")
    work = Path(".physique/one-expert")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_labels(data / "cohort", data / "mesh", data / "embeddings", data / "reviews", work, params)
    config = expert_settings(data / "cohort", data / "mesh", data / "embeddings", work, params)
    if who not in config["units"] or who not in config["surveys"]:
        known = ", ".join(sorted(config["surveys"])[:8])
        raise BadInput(f"expert {who!r} has no ten labelled photos to learn from; experts that have: {known}")
    kept = (work / "kept").resolve()
    config |= {"units": [who], "kept": str(kept)}
    if (pretrain / JOINT).is_dir():
        shutil.copytree(pretrain / JOINT, kept / JOINT)
    elif config["begin"] == "joint":
        raise BadInput(f"{pretrain / JOINT} is missing, from which experts' models start; run the stage pretrain again")
    workers, gpus = params.pretrain.workers, params.pretrain.gpus_per_worker
    fit_all(expert_loop, jobs(config), name="expert", workers=workers, cpus_per_worker=0.5, gpus_per_worker=gpus)
    made = _registered(who, serve, config, kept, data, pretrain, params)
    shutil.rmtree(work)
    return made


def _registered(
    who: str, serve: str, config: dict, kept: Path, data: Path, pretrain: Path, params: Params
) -> Made:
    from model.predictor import write_bundle

    dimensions, file = config["dimensions"], config["files"][who]
    before = _agreement(who, pretrain / "predictions.parquet", data, dimensions)
    after = _agreement(who, kept / "predictions" / f"{file}.parquet", data, dimensions)
    gain = float(np.nanmean([after[d] - before[d] for d in dimensions])) if before else float("nan")
    better = serve == "always" or (serve == "if better" and (not before or gain > 0))
    name = expert_model(who)
    with stage_run("expert", {"expert": who, "serve": serve}), TemporaryDirectory() as folder:
        bundle = write_bundle(
            Path(folder) / "bundle",
            reader=photo_reader(kept / "models", data / "body", data / "meshnet", params),
            models=kept / "models",
            files={who: file},
            dimensions=dimensions,
        )
        metrics = {f"test_srcc_{d}": value for d, value in after.items() if value == value}
        version = register(name, bundle, "expert", metrics=metrics, about={"expert": who}, champion=False)
    if better:
        promote(name, version["version"])
    serving = serves(name)
    labels = read_table(config["labels"])
    count = labels["rater_id"].to_pylist().count(who)
    said = f"{name} version {version['version']}: mean SRCC {gain:+.3f}; version {serving} serves"
    lines = [f"# Expert {who}", "", f"{model_link(name)} {version_link(name, version['version'])}, from {count:,} labels. "]
    lines[-1] += f"**Version {serving} serves now** (asked for: {serve})."
    lines += ["", "| dimension | last pipeline run | this one |", "|---|---:|---:|"]
    lines += [f"| {d} | {_shown(before.get(d))} | {_shown(after[d])} |" for d in dimensions]
    lines += ["", "SRCC with the expert's own scores on photos of the split `test`, seen by no training."]
    return Made(said, "\n".join(lines))


def _agreement(who: str, predictions: Path, data: Path, dimensions: list[str]) -> dict[str, float]:
    """dimension → SRCC with the expert's scores on test photos; empty where there is no model of theirs in the file."""
    table = read_table(predictions)
    photos = read_photos(predictions) if who in set(table["model"].to_pylist()) else None
    if photos is None:
        return {}
    test = ~photos.fitting().numpy()
    rated = scores_by(read_table(data / "cohort/labels.parquet"), [who], photos.rows())[0].numpy()[test]
    said = photos.predictions.numpy()[test][:, photos.models.index(who)]
    found = {}
    for name in dimensions:
        k = DIMENSIONS.index(name)
        known = np.isfinite(rated[:, k])
        found[name] = float(srcc(said[known, k], rated[known, k])[0]) if known.sum() > 2 else float("nan")
    return found


def _shown(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"
