"""Everything the report says, gathered: judged models, learning curve, the night, accounting, where it came from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from model.bank import Bank, load_bank
from model.scores import DIMENSIONS
from tasks.banks import lora_config
from tasks.intake.items import holds_vectors
from tasks.judge import Own, Row, learning_curve, night_table, stage_table
from tasks.lora import served_over
from tasks.mesh_pictures import cards as mesh_cards
from tasks.mesh_table import largest
from tasks.params import Params
from tasks.ratings import Photos, Ratings, as_feedback, as_ratings, read_photos
from tasks.recovery import comments, drifted_users, feedback_of, night_by_night
from tasks.splits import TEST, split_of
from tasks.stage import DURATIONS
from tasks.tables import read_json, read_shards, read_table

METRICS = ("srcc", "plcc", "accuracy")


def results(data: Path, artifacts: Path, params: Params) -> dict[str, Any]:
    """The report's contents (tasks/report/results.py) from the stages' outputs below `data` and `artifacts`."""
    cohort, mesh, feedback = (data / name for name in ("cohort", "mesh", "feedback"))
    about = read_json(cohort / "cohort.json")
    pretrain, finetune, continual = (artifacts / name for name in ("pretrain", "finetune", "continual"))
    photos = read_photos(pretrain / "predictions.parquet", pretrain / "features.parquet")
    labels = read_table(cohort / "labels.parquet")
    before, after = load_bank(finetune / "bank"), load_bank(continual / "bank")
    events, drifted = feedback_of(data / "nights"), drifted_users(Path(params.data.path) / "raters_truth.csv")
    ratings, _ = as_ratings(labels, before.users, photos)
    own, _ = as_ratings(labels, list(before.basis.experts), photos)
    lora = lora_config(cohort, mesh, mesh.parent / "embeddings", pretrain, params)
    over = (served_over(finetune / "bank", lora, photos), served_over(continual / "bank", lora, photos))
    table = stage_table(before, photos, ratings, seed=params.seed, expert_ratings=own, over=over[0])
    night_facts = read_json(continual / "continual.json")
    effort = read_json(pretrain / "effort.json")
    return {
        "simulated": about["simulated"],
        "cohort": {"name": about["name"]} | _counts(about, photos, before),
        "vectors": about["vector"] is not None,
        "provenance": _provenance(artifacts, params),
        "stages": _stages(),
        "table": _table(table, ratings, photos),
        "effort": _effort(effort),
        "curve": _curve(before, photos, ratings, params),
        "night": _night(before, after, photos, events, drifted, params, over),
        "nights": read_table(continual / "nights.parquet").to_pylist(),
        "recovery": night_by_night(continual / "served", before, photos, events, labels, drifted, params.seed),
        "comments": comments(events, _names(cohort)),
        "gate": _gate(night_facts),
        "mesh_error": _mesh_error(data / "meshnet" / "metrics.json"),
        "quarantine": [
            row for folder in (cohort, feedback) for row in read_table(folder / "quarantine.parquet").to_pylist()
        ],
        "accounting": _accounting(about, mesh, read_json(feedback / "feedback.json")),
        "notes": _notes(about, night_facts),
    }


def _effort(effort: dict[str, Any]) -> dict[str, Any] | None:
    if not effort["rows"]:
        return None
    if not (fall := effort["fall"]):
        return {"rows": effort["rows"]}
    less, lo, hi = fall["fall"]
    note = (
        f"On {fall['photos']} photos that taught the labeller nothing, revising its drafts would have taken "
        f"{fall['before'][0]:.2f} points a score before the first round and {fall['after'][0]:.2f} after the last: "
        f"{less:.2f} less ({lo:.2f} to {hi:.2f}; experts and photos resampled)."
    )
    return {"rows": effort["rows"], "note": note}


def _counts(about: dict[str, Any], photos: Photos, bank: Bank) -> dict[str, int]:
    counts, things = about["counts"], "photos" if about["vector"] is None else "items"
    return {
        things: counts["photos"],
        f"{things} held out": sum(split_of(photo) == TEST for photo in photos.ids),
        "experts": counts["experts"],
        "users": counts["users"],
        "users unseen by the prior": int(bank.judged.sum()),
        "ratings": counts["ratings_out"],
        "feedback events": counts["feedback_out"],
    }


def _provenance(artifacts: Path, params: Params) -> dict[str, Any]:
    from datetime import UTC, datetime

    from tasks.provenance import dvc_hashes, git_commit, prefect_run, versions

    experts = read_json(artifacts / "pretrain" / "pretrain.json")["experts"].values()
    bank = read_json(artifacts / "continual" / "continual.json")["registered"]
    return {
        "git_commit": git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "dvc": dvc_hashes("evaluate"),
        "models": {each["name"]: each["version"] for each in (*experts, bank)},
        "params": params.model_dump(),
        "prefect_run": prefect_run().get("name", ""),
    }


def _stages() -> list[dict[str, Any]]:
    known = read_json(DURATIONS) if DURATIONS.exists() else {}
    return [{"name": name, "seconds": seconds} for name, seconds in known.items() if name != "evaluate"]


def _table(rows: list[Row], ratings: Ratings, photos: Photos) -> list[dict[str, Any]]:
    """One row per stage, model and dimension from the judge's one row per metric; gains where they are paired."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    test = sum(split_of(photo) == TEST for photo in photos.ids)
    for row in rows:
        key = (row["stage"], row["model"], row["dimension"])
        entry = found.setdefault(
            key,
            {"stage": key[0], "model": key[1], "dimension": key[2], "baseline": key[1] == "generic"}
            | {"gain": None, "raters": row["users"], "photos": test},
        )
        if row["metric"] in METRICS:
            entry[row["metric"]] = [row["mean"], row["lo"], row["hi"]]
        elif row["metric"] == "gain":
            entry["gain"] = [row["mean"], row["lo"], row["hi"]]
            entry["against"] = row["against"]
    return [entry for entry in found.values() if all(metric in entry for metric in METRICS)]


def _curve(bank: Bank, photos: Photos, ratings: Ratings, params: Params) -> list[dict[str, Any]]:
    settings = params.evaluate
    rows = learning_curve(
        bank, photos, ratings, counts=tuple(settings.counts), repeats=settings.repeats, seed=params.seed
    )
    points: dict[tuple[int, str, str], dict[str, Any]] = {}
    for row in rows:
        value = [row["mean"], row["lo"], row["hi"]]
        model = "personal" if row["model"].startswith("gain over") else row["model"]
        point = points.setdefault(
            (row["count"], row["dimension"], model),
            {"ratings": row["count"], "dimension": row["dimension"], "model": model, "users": row["users"]}
            | {"gain_generic": None, "gain_expert": None},
        )
        name = {"gain over generic": "gain_generic", "gain over selected expert": "gain_expert"}.get(row["model"], "srcc")
        point[name] = value
    return [point for point in points.values() if "srcc" in point]


def _names(cohort: Path) -> dict[str, str]:
    """What photos are called."""
    table = read_shards(cohort / "photos", ["photo_id", "name"])
    return dict(zip(table["photo_id"].to_pylist(), table["name"].to_pylist()))


def _night(
    before: Bank, after: Bank, photos: Photos, events: pa.Table, drifted: dict[str, bool] | None, params: Params,
    over: tuple[Own | None, Own | None],
) -> list[dict[str, Any]]:  # fmt: skip
    users, given, _ = as_feedback(events, photos)
    if not users:
        return []
    names = {"all": "everyone", "drifted": "taste drifted", "undrifted": "taste the same"}
    return [
        {
            "group": names[row["group"]],
            "dimension": row["dimension"],
            "before": [row["before"], None, None],
            "after": [row["after"], None, None],
            "gain": [row["mean"], row["lo"], row["hi"]],
            "users": row["users"],
        }
        for row in night_table(before, after, photos, given, users, drifted=drifted, seed=params.seed, over=over)
        if row["metric"] == "srcc"
    ]


def _gate(facts: dict[str, Any]) -> dict[str, Any] | None:
    if facts["unchanged"]:
        return None
    reasons: Counter[str] = Counter()
    for decided in facts["entries"].values():
        reasons.update(decided)
    promoted = sum(count for reason, count in reasons.items() if reason.startswith("promoted"))
    kept = {reason: count for reason, count in reasons.items() if not reason.startswith("promoted")}
    return {
        "promoted": promoted,
        "kept_back": sum(kept.values()),
        "reasons": kept,
        "version": f"{facts['registered']['name']} version {facts['registered']['version']}",
    }


def _mesh_error(path: Path) -> dict[str, Any] | None:
    facts = read_json(path)
    keys = ("zero_pose_mm", "zero_pose_baseline_mm")
    if not all(key in facts for key in keys):
        return None
    return {
        "error_mm": [facts[keys[0]], None, None],
        "baseline_mm": [facts[keys[1]], None, None],
        "photos": facts["held_out"],
        "others": [
            (words, facts[f"{key}_mm"], facts[f"{key}_baseline_mm"])
            for key, words in (("scaled", "brought to the true stature"), ("posed", "posed, pelvis on pelvis"))
        ],
        "precision": facts.get("presence_precision"),
        "recall": facts.get("presence_recall"),
    }


def _accounting(about: dict[str, Any], mesh: Path, feedback: dict[str, int]) -> dict[str, dict[str, int]]:
    counts = about["counts"]
    if about["vector"] is None:
        status = Counter(largest(read_shards(mesh, ["status", "person"]))["status"].to_pylist())
        found = {name: status.get(name, 0) for name in ("ok", "no_person", "unreadable")}
    else:
        found = {"ok": counts["photos"]}
    photos = {"seen": counts["files"]} | found
    photos |= {"duplicates": counts["duplicates"], "set aside": counts["files_set_aside"]}
    ratings = {"seen": counts["ratings_in"], "used": counts["ratings_out"], "blank": counts["ratings_blank"]}
    things = "photos" if about["vector"] is None else "items"
    ratings["set aside"] = counts["ratings_set_aside"]
    replayed, refused = counts["feedback_replayed"], counts["feedback_set_aside"]
    events = {"seen": feedback["seen"] + replayed + refused, "taken": feedback["taken"], "replayed": replayed}
    events["set aside"] = feedback["set aside"] + refused
    return {things: photos, "ratings": ratings} | ({"feedback": events} if events["seen"] else {})


def _notes(about: dict[str, Any], night: dict[str, Any]) -> dict[str, str]:
    notes = {}
    if not about["simulated"]:
        notes["effort"] = "The experts' own ratings were used as they are: no pseudo-labels, no revision round."
    if about["vector"] is not None:
        notes["mesh_error"] = "Items of this cohort are vectors: there are no bodies."
        notes["cards"] = f"Items of this cohort are vectors of {about['vector']:,} numbers: there are no photos to show."
    if night["unchanged"]:
        notes["night"] = notes["gate"] = f"No feedback in this cohort: {night['reason']}."
    return notes


def cards(cohort: Path, mesh: Path, pretrain: Path, body: Path, count: int = 18) -> list[Any]:
    """Contact sheet: photos with mesh overlay and the generic model's scores, the odd ones among them; none of vectors."""
    if holds_vectors(cohort / "photos"):
        return []
    predictions = read_table(pretrain / "predictions.parquet")
    said = {
        row["photo_id"]: {d: row[d] for d in DIMENSIONS if row[d] is not None}
        for row in predictions.filter(pc.equal(predictions["model"], "generic")).to_pylist()
    }
    return mesh_cards(cohort / "photos", mesh, body, count, said)
