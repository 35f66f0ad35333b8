"""Does revising get less as the labeller learns? Rules of learning × ways of picking photos, on simulated experts.

    uv run dvc repro embed                      # mannequins with meshes and vectors
    uv run python bench/labelling.py --repeats 8 --out labelling.json

Each repeat draws anew who is seen when and what experts notice (the opinions of the six experts stay). Per arm:
effort in each round (mean |revised - pseudo|, points of 0 to 10), and the effort that the same photos, seen by nobody's
learning, would take before the first and after the last round. Intervals: experts and photos resampled, repeats averaged.
`none` never learns: what falls there as well is not the labeller's doing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model.labeller import describe  # noqa: E402
from model.metrics import crossed_interval  # noqa: E402
from model.scores import DIMENSIONS  # noqa: E402
from tasks.frame_data import read_inputs, scores_by  # noqa: E402
from tasks.labeller import PICKS, RULES, Rounds, revised_by  # noqa: E402
from tasks.splits import FIT, split_of  # noqa: E402
from tasks.tables import read_table  # noqa: E402


def arm(
    x: np.ndarray, opinions: np.ndarray, fit: np.ndarray, unseen: np.ndarray, asked: Any, rule: str, pick: str, repeat: int
) -> tuple[np.ndarray, ...]:
    """(rounds,) effort and share touched, (E, n) effort on unseen photos before and after, (rounds + 1,) drafts' error."""
    rng = np.random.default_rng([repeat, 20])
    order = rng.permutation(fit)
    first, pool = order[: max(10, round(asked.seed_share * len(fit)))], order[max(10, round(asked.seed_share * len(fit))) :]
    known = np.full_like(opinions, np.nan)
    known[:, first] = opinions[:, first]
    work = Rounds(x, np.zeros(opinions.shape[1:]), rule, pick, repeat, known)

    def effort(drafts: np.ndarray, at: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        revised = revised_by(opinions[:, at], drafts, asked.just_noticeable, repeat * 100 + number)
        return revised, np.abs(revised - drafts)

    efforts, touched = [], []
    drafts = work.draft(unseen)
    errors = [np.nanmean(np.abs(np.nanmean(opinions[:, unseen], 0) - drafts))]
    before = effort(drafts, unseen, 99)[1]
    for number in range(1, asked.rounds + 1):
        at = work.next(pool, -(-len(pool) // (asked.rounds + 1 - number)), number)
        drafts = work.draft(at)
        revised, moved = effort(drafts, at, number)
        efforts.append(np.nanmean(moved))
        touched.append(np.nanmean(moved[np.isfinite(moved)] > 0))
        work.learn(at, drafts, revised)
        pool = np.setdiff1d(pool, at)
        errors.append(np.nanmean(np.abs(np.nanmean(opinions[:, unseen], 0) - work.draft(unseen))))
    after = effort(work.draft(unseen), unseen, 99)[1]
    return np.array(efforts), np.array(touched), before.mean(2), after.mean(2), np.array(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--seed-share", type=float, default=0.1)
    parser.add_argument("--just-noticeable", type=float, default=0.7)
    parser.add_argument("--data", type=Path, default=ROOT / "data")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()

    inputs = read_inputs(asked.data / "mesh", asked.data / "embeddings")
    labels, raters = read_table(asked.data / "cohort/labels.parquet"), read_table(asked.data / "cohort/raters.parquet")
    roles = zip(raters["rater_id"].to_pylist(), raters["role"].to_pylist())
    experts = sorted(rater for rater, role in roles if role == "expert")
    opinions = scores_by(labels, experts, inputs.rows()).double().numpy()
    rated = np.isfinite(opinions).all((0, 2))
    fit = np.flatnonzero(rated & [split_of(photo) == FIT for photo in inputs.ids])
    unseen = np.flatnonzero(rated & [split_of(photo) != FIT for photo in inputs.ids])
    x = describe(inputs)
    print(f"{len(experts)} simulated experts, {len(fit)} photos to draft, {len(unseen)} that no learning sees; "
          f"{asked.repeats} repeats, seed share {asked.seed_share}\n")  # fmt: skip
    heads = ["rule", "pick", *(f"round {k}" for k in range(1, asked.rounds + 1)), "touched first → last"]
    heads += ["unseen: before", "after", "fall [95 %]", "draft error first → last"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    found = []
    for rule in RULES:
        for pick in PICKS if rule != "none" else PICKS[:1]:
            runs = [arm(x, opinions, fit, unseen, asked, rule, pick, repeat) for repeat in range(asked.repeats)]
            efforts, touched, before, after, errors = (np.mean([run[k] for run in runs], 0) for k in range(5))
            mean, lo, hi = crossed_interval(before - after)
            row = {"rule": rule, "pick": pick, "effort": efforts.tolist(), "touched": touched.tolist(),
                   "before": float(before.mean()), "after": float(after.mean()), "fall": [mean, lo, hi],
                   "draft_error": errors.tolist()}  # fmt: skip
            found.append(row)
            cells = [rule, pick, *(f"{value:.3f}" for value in efforts), f"{touched[0]:.2f} → {touched[-1]:.2f}"]
            cells += [f"{before.mean():.3f}", f"{after.mean():.3f}", f"{mean:.3f} [{lo:.3f}, {hi:.3f}]"]
            print("| " + " | ".join([*cells, f"{errors[0]:.3f} → {errors[-1]:.3f}"]) + " |", flush=True)
    print(f"\nDimensions: {', '.join(DIMENSIONS)}, averaged. All of it simulated.")
    if asked.out:
        asked.out.write_text(json.dumps({"settings": {k: str(v) for k, v in vars(asked).items()}, "arms": found}, indent=1))


if __name__ == "__main__":
    main()
