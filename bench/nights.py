"""In how many nights do users recover whose taste has changed, and do the others forget? Simulated raters, no pictures.

    uv run python bench/nights.py                       # 160 users, 6 nights of 20 ratings, as the default run has 3
    uv run python bench/nights.py --seeds 5             # more cohorts, one line each

Raters are those of the mannequins (tasks/mannequins/), bodies are drawn from the population they judge. In place of expert
networks: regressions of each expert's scores on attributes of the body and their squares, fitted on the photos of the
splits fit and val. The nights are learned as the stage `continual` learns them. `from scratch`: a model of the same users
that knows nothing but what they said since the first night, and all of that, without a gate; who is served as well has
recovered. All figures are of simulated people.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model import personal  # noqa: E402
from model.bank import Bank  # noqa: E402
from model.basis import GENERIC  # noqa: E402
from model.scores import DIMENSIONS  # noqa: E402
from tasks.mannequins.raters import Simulated, simulate  # noqa: E402
from tasks.mannequins.tastes import REFERENCE, attributes, key, together_of  # noqa: E402
from tasks.nightly import Nights, learn_nights  # noqa: E402
from tasks.personal import finetune  # noqa: E402
from tasks.ratings import Photos, as_feedback, as_photos, as_ratings, as_users  # noqa: E402
from tasks.recovery import BEFORE, night_by_night  # noqa: E402
from tasks.schemas import FEEDBACK  # noqa: E402
from tasks.splits import TEST, split_of  # noqa: E402
from tasks.tables import read_table, write_table  # noqa: E402

CONFIG = {"prior_share": 0.5, "confidence": 0.6, "min_ratings": 5, "forget": [1, 0.5, 0.25, 0.1]}


def bodies(photos: int, seed: int) -> pd.DataFrame:
    """A truth table of so many people, attributes correlated as in the population of `REFERENCE`."""
    rng = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(together_of(list(REFERENCE)))
    drawn = rng.normal(size=(photos, len(REFERENCE))) @ (vectors * np.sqrt(values.clip(0))).T
    truth = pd.DataFrame({name: m + s * drawn[:, k] for k, (name, (m, s)) in enumerate(REFERENCE.items())})
    for name in ("slouch", "head_forward", "shoulder_tilt", "pelvis_tilt"):
        truth[name] = truth[name] ** 2
    truth["photo"] = [f"{i:05d}.jpg" for i in range(photos)]
    truth["photo_id"] = [f"{key(seed, 'hash', name):016x}" * 4 for name in truth["photo"]]
    return truth.assign(kind="person")


def model_base(truth: pd.DataFrame, found: Simulated) -> Photos:
    """What each expert's regression, and their mean's, says of every photo."""
    z = np.stack(list(attributes(truth).values()), 1)
    x = np.c_[np.ones(len(z)), z, z**2]
    fit = np.array([split_of(photo) != TEST for photo in truth["photo_id"]])
    tables = []
    own = found.ratings[found.ratings.rater_id.str.startswith("expert")]
    scores = {name: mine.set_index("photo").loc[truth["photo"], list(DIMENSIONS)] for name, mine in own.groupby("rater_id")}
    scores[GENERIC] = sum(scores.values()) / len(scores)
    for name, y in scores.items():
        weights = np.linalg.solve(x[fit].T @ x[fit] + 3 * np.eye(x.shape[1]), x[fit].T @ y.to_numpy()[fit])
        said = pa.table({d: pa.array((x @ weights)[:, k].clip(0, 10), pa.float32()) for k, d in enumerate(DIMENSIONS)})
        tables.append(said.append_column("photo_id", [truth["photo_id"]]).append_column("model", [[name] * len(x)]))
    vectors = pa.table({"photo_id": truth["photo_id"], "vector": z.tolist()})
    return as_photos(pa.concat_tables(tables), vectors)


def run(seed: int, words: argparse.Namespace) -> tuple[list[dict], list[dict]]:
    """Rows of `night_by_night`, and of the figures of every night."""
    truth = bodies(words.photos, seed)
    dates = [f"2026-05-{2 + k:02d}" for k in range(words.nights)]
    how = {"experts": 6, "users": words.users, "ratings_per_user": 120, "feedback_per_user": 20, "judging_per_user": 40}
    found = simulate(truth, **how, drift=0.3, seed=seed, nights=dates)
    photos = model_base(truth, found)
    ids = truth.set_index("photo")["photo_id"]
    ratings = found.ratings.assign(photo_id=found.ratings.photo.map(ids), origin="rated", at=None)
    labels = pa.Table.from_pandas(ratings[["photo_id", "rater_id", *DIMENSIONS, "origin", "at"]], preserve_index=False)
    labels = labels.set_column(labels.column_names.index("at"), "at", pa.nulls(len(labels), pa.timestamp("us", "UTC")))
    survey = [[(k, v) for k, v in row.items() if k not in ("rater_id", "role")] for row in found.raters.to_dict("records")]
    people = found.raters[["rater_id", "role"]].assign(survey=survey)
    kind = pa.map_(pa.string(), pa.string())
    raters = pa.table({"rater_id": people.rater_id, "role": people.role, "survey": pa.array(people.survey.tolist(), kind)})
    users, surveys, experts, of_experts = as_users(raters)
    given, _ = as_ratings(labels, users, photos)
    first = finetune(photos, users, surveys, experts, of_experts, given, CONFIG)
    assert first is not None
    events = found.feedback.assign(photo_id=found.feedback.photo.map(ids), text=None)
    events["at"] = pd.to_datetime(events["at"])
    events[["suggested", "model_version"]] = None
    everything = pa.Table.from_pandas(events[FEEDBACK.names], schema=FEEDBACK, preserve_index=False)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_table(labels, work / "labels.parquet")
        paths = []
        for number, date in enumerate(dates, 1):
            day = pa.array(events["at"].dt.strftime("%Y-%m-%d") == date)
            paths.append(write_table(everything.filter(day), work / f"{number:04d}.parquet"))
        config = CONFIG | {"nights": paths, "earlier": [], "labels": work / "labels.parquet"}
        done = learn_nights(first, first, photos, config, {})
        assert done is not None
        served = work / "served"
        served.mkdir()
        done.save_served(served)
        again = work / "again"
        again.mkdir()
        from_scratch(first, photos, list(map(read_table, paths))).save_served(again)
        drifted = {row["rater_id"]: bool(row["drifted"]) for row in found.truth.to_dict("records")}
        feedback = pa.concat_tables(map(read_table, paths))
        rows = night_by_night(served, first, photos, feedback, labels, drifted, seed)
        afresh = night_by_night(again, first, photos, feedback, labels, drifted, seed)
        rivals = {(row["night"], row["group"]): row["srcc"][0] for row in afresh if row["ratings"] == "new"}
        for row in rows:
            if row["ratings"] == "new" and row["night"] != BEFORE:
                row["scratch"] = rivals[row["night"], row["group"]]
        return rows, done.rows


def from_scratch(first: Bank, photos: Photos, nights: list[pa.Table]) -> Nights:
    """What each night's users would be served by their prior and the ratings since the first night alone."""
    done = Nights(first)
    phi = first.basis.phi(photos.predictions, photos.fused)
    for number in range(1, len(nights) + 1):
        users, told, _ = as_feedback(pa.concat_tables(nights[:number]), photos)
        told = told[photos.fitting()[told.photo]]
        stats = personal.sufficient(phi[told.photo], told.y, told.user, len(users))
        found = personal.posterior(first.prior, first.part(users).prior_mean, stats)
        done.served[f"{number:04d}"] = users, found.mean.to(torch.float32)
    return done


def table(rows: list[dict]) -> str:
    """Markdown: per group of users and kind of ratings, a line per night."""
    lines = ["| group | users | judged on | after night | SRCC | since before all nights [95 %] | from scratch |"]
    lines.append("|---|---:|---|---|---:|---|---:|")
    for row in sorted(rows, key=lambda row: (row["ratings"] == "old", row["group"])):
        change = "" if row["change"] is None else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row["change"])
        kind = "what they say now" if row["ratings"] == "new" else "what they said before"
        scratch = f"{row['scratch']:.3f}" if "scratch" in row else ""
        cells = (row["group"], row["users"], kind, row["night"], f"{row['srcc'][0]:.3f}", change, scratch)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=600)
    parser.add_argument("--users", type=int, default=160)
    parser.add_argument("--nights", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1, help="cohorts")
    words = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(words.seeds):
        rows, nights = run(seed, words)
        print(f"\ncohort {seed} (simulated)\n\n{table(rows)}\n")
        for row in nights:
            if row["dimension"] == "mean":
                figures = ("srcc", "mae", "backward", "forgetting", "promoted", "drifting")
                print(row["night"], "  ".join(f"{name} {row[name]:+.3f}" for name in figures))


if __name__ == "__main__":
    main()
