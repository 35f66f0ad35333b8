"""What expert models gain: from a joint start, and from preference vectors (PENet) made of surveys.

    uv run dvc repro pretrain                                  # a cohort with meshes, vectors and experts' labels
    uv run python bench/experts.py --seeds 3 --out experts.json
    uv run python bench/experts.py --data FOLDER --labels FOLDER/labels.parquet     # of another cohort

Every arm is judged on photos of the split `test`, seen by no training: per expert SRCC with the expert's own scores,
against the generic model, paired; experts and seeds resampled. New raters (`joint` arms): people who took no part,
scored by the joint model from their survey alone, against the same model with an empty survey.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model.lesson import Lesson  # noqa: E402
from model.metrics import crossed_interval, known_mean, srcc  # noqa: E402
from model.scores import DIMENSIONS  # noqa: E402
from tasks.experts import expert_settings  # noqa: E402
from tasks.frame_data import read_inputs, scores_by  # noqa: E402
from tasks.params import load_params  # noqa: E402
from tasks.splits import TEST, split_of  # noqa: E402
from tasks.tables import read_table  # noqa: E402
from tasks.train_experts import GENERIC, JOINT, Unit  # noqa: E402


def trained(unit: Unit) -> Unit:
    """All its epochs, then its best."""
    while not unit.done:
        unit.train_epoch()
    if unit.best is not None:
        unit.frame.load_state_dict(unit.best)
    return unit


def rotated(surveys: dict[str, dict]) -> dict[str, dict]:
    """Everybody has somebody else's answers."""
    names = sorted(surveys)
    return {name: surveys[other] for name, other in zip(names, names[1:] + names[:1])}


@torch.no_grad()
def judged(unit: Unit, opinions: dict[str, np.ndarray], test: np.ndarray, asked: dict[str, dict]) -> np.ndarray:
    """(raters, 3) SRCC of a model, asked with each rater's answers, with the rater's own scores on test photos."""
    lesson = Lesson(unit.frame, "sum", list(asked.values())).eval()
    parts = []
    for rows in torch.from_numpy(np.flatnonzero(test)).split(unit.config["judge_batch"]):
        views = [unit.inputs.view(rows, torch.full((len(rows),), flip), unit.frame.config) for flip in (False, True)]
        parts.append(sum(lesson.scores(view) for view in views) / 2)
    said = torch.cat(parts).numpy()
    pairs = [(said[:, r], opinions[who][test]) for r, who in enumerate(asked)]
    return np.array([[srcc(a[:, d], b[:, d])[0] for d in range(len(DIMENSIONS))] for a, b in pairs])


def seed_run(config: dict[str, Any], inputs: Any, opinions: dict, test: np.ndarray, arms: dict, newcomers: dict) -> dict:
    """{arm: (raters, 3) SRCC} of one seed."""
    device, found = torch.device("cpu"), {}
    experts = [name for name in config["units"] if name not in (GENERIC, JOINT)]
    generic = trained(Unit(GENERIC, inputs, config, device))
    found["generic"] = judged(generic, opinions, test, {who: {} for who in experts})
    for name, (begin, surveys, changes) in arms.items():
        started = time.process_time()
        own = config | changes | {"surveys": surveys}
        base = trained(Unit(JOINT, inputs, own, device, like=generic.frame)) if begin == "joint" else None
        if base is not None:
            found[f"{name}: the joint model itself"] = judged(base, opinions, test, {who: surveys[who] for who in experts})
            if newcomers and name in ("joint", "joint, shuffled surveys", "joint, no surveys"):
                for what, given in (("their survey", newcomers), ("no survey", {who: {} for who in newcomers})):
                    found[f"new raters, {name}, {what}"] = judged(base, opinions, test, given)
        start = base.frame if base is not None else None
        units = {who: trained(Unit(who, inputs, own, device, like=generic.frame, start=start)) for who in experts}
        found[name] = np.concatenate([judged(units[who], opinions, test, {who: surveys[who]}) for who in experts])
        print(f"  {name}: {np.nanmean(found[name]):.3f} ({time.process_time() - started:.0f} CPU s)", file=sys.stderr)
    return found


def table(found: dict[str, np.ndarray]) -> list[str]:
    """Markdown of {model: (seeds, raters, 3) SRCC}: means, and what is gained over the generic model, paired by rater.

    New raters are paired with themselves without a survey.
    """
    lines = ["| model | " + " | ".join(DIMENSIONS) + " | all | against generic, paired |", "|---|" + "---:|" * 5]
    for name, values in found.items():
        cells = [f"{np.nanmean(values[..., d]):.3f}" for d in range(len(DIMENSIONS))] + [f"{np.nanmean(values):.3f}"]
        other = name.replace("their survey", "no survey") if name.startswith("new raters") else "generic"
        cells.append("" if other == name else gained(values - found[other]))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| over the generic model | " + " | ".join(DIMENSIONS) + " |", "|---|" + "---:|" * 3]
    for name, values in found.items():
        if not name.startswith(("new raters", "generic")):
            gap = values - found["generic"]
            lines.append(f"| {name} | " + " | ".join(gained(gap[..., d : d + 1]) for d in range(len(DIMENSIONS))) + " |")
    return lines


def gained(gap: np.ndarray) -> str:
    """(seeds, raters, D) differences: mean [95 %], raters and seeds resampled."""
    if not np.isfinite(gap).any():
        return "–"
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*crossed_interval(known_mean(gap, 2).T))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=ROOT / "data")
    parser.add_argument("--labels", type=Path, default=ROOT / "artifacts/pretrain", help="folder of labels.parquet")
    parser.add_argument("--newcomers", type=int, default=40, help="raters who took no part, scored from their survey")
    parser.add_argument("--arms", nargs="*", help="only these")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the section pretrain")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)  # steps of a tiny model are too short to share out

    params = load_params(ROOT / "params.yaml")
    inputs = read_inputs(asked.data / "mesh", asked.data / "embeddings")
    config = expert_settings(asked.data / "cohort", asked.data / "mesh", asked.data / "embeddings", asked.labels, params)
    config |= {key: type(config[key])(value) for key, value in (pair.split("=") for pair in asked.set)}
    labels, raters = read_table(asked.data / "cohort/labels.parquet"), read_table(asked.data / "cohort/raters.parquet")
    answers = {r: dict(a or []) for r, a in zip(raters["rater_id"].to_pylist(), raters["survey"].to_pylist())}
    experts = [name for name in config["units"] if name not in (GENERIC, JOINT)]
    rng = np.random.default_rng(0)
    others = [r for r, role in zip(*(raters[c].to_pylist() for c in ("rater_id", "role"))) if role == "user"]
    newcomers = {who: answers[who] for who in sorted(rng.permutation(sorted(others))[: asked.newcomers].tolist())}
    everybody = [*experts, *newcomers]
    opinions = dict(zip(everybody, scores_by(labels, everybody, inputs.rows()).numpy()))
    test = np.array([split_of(photo) == TEST for photo in inputs.ids])
    real, none = {who: config["surveys"].get(who, {}) for who in experts}, {who: {} for who in experts}
    arms = {
        "separate": ("separate", real, {}),
        "joint": ("joint", real, {}),
        "joint, shuffled surveys": ("joint", rotated(real), {}),
        "joint, no surveys": ("joint", none, {}),
        "joint, constant 0.5": ("joint", none, {"frame": config["frame"] | {"survey": False}}),
    }
    arms = {name: arm for name, arm in arms.items() if not asked.arms or name in asked.arms}
    runs = []
    for seed in range(asked.seeds):
        print(f"seed {seed}", file=sys.stderr)
        runs.append(seed_run(config | {"seed": seed}, inputs, opinions, test, arms, newcomers))

    print(f"{len(experts)} experts, {int(test.sum())} test photos, {asked.seeds} seeds\n")
    found = {name: np.stack([run[name] for run in runs]) for name in runs[0]}
    print("\n".join(table(found)))
    if asked.out:
        asked.out.write_text(json.dumps({name: values.tolist() for name, values in found.items()}))


if __name__ == "__main__":
    main()
