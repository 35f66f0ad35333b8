"""Stage 1's first half, round by round: the labeller drafts, experts revise, revisions teach the labeller.

Before the first round experts score a small share of the photos unaided. Then each round picks photos, drafts them
(`pseudo`), takes the experts' revisions (`revised`), teaches the labeller (model/labeller.py) and measures the effort
that the revising took. Which photos come next: `random`, the labeller's `uncertainty`, or the `disagreement` of experts.

Here the experts are simulated (tasks/mannequins/raters.py: what is hardly noticed stays, what is revised keeps some of
the draft), so all rounds run at once, unattended. Real experts' rounds wait for people: tasks/rounds.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from model.labeller import Labeller, describe, disagreement, preference, supervised
from model.metrics import crossed_interval, known_mean
from model.scores import DIMENSIONS
from model.views import FrameInputs
from tasks.frame_data import scores_by, scores_of
from tasks.params import Pretrain
from tasks.schemas import LABELS, check
from tasks.splits import TEST, VAL, split_of
from tasks.tables import only, read_json, read_table

LABELLER = "labeller"
RULES = ("supervised", "preference", "none")
PICKS = ("random", "uncertainty", "disagreement")
MIDDLE = 5.0
"""Where the built-in labeller starts from, points."""


@dataclass
class Rounds:
    """A labeller at work on N photos with features (N, F), for E experts. Scores are (…, 3), NaN = none."""

    x: np.ndarray
    base: np.ndarray
    """(N, 3) what it starts from: the middle of the scale, or the drafts of a labeller made elsewhere."""
    rule: str
    pick: str
    seed: int
    known: np.ndarray
    """(E, N, 3) labels so far: seeds as they came, then revisions."""
    taught: Labeller = field(init=False)

    def __post_init__(self) -> None:
        self.taught = supervised(self.x, known_mean(self.known, 0), self.base)

    def next(self, pool: np.ndarray, count: int, number: int) -> np.ndarray:
        """`count` of the photos (row numbers) in `pool`, for round `number`."""
        if self.pick == "random":
            return np.random.default_rng([self.seed, 22, number]).permutation(pool)[:count]
        if self.pick == "uncertainty":
            worth = (self.taught.unknown(self.x[pool]) / self.taught.noise).mean(1)
        else:
            use = np.isfinite(self.known).any((0, 2))
            worth = disagreement(self.x[use], self.known[:, use], self.base[use], self.x[pool], self.base[pool])
        return pool[np.argsort(-worth, kind="stable")[:count]]

    def draft(self, rows: np.ndarray) -> np.ndarray:
        """(n, 3) drafts of photos, to a tenth of a point, as people score."""
        return np.round(self.taught.draft(self.x[rows], self.base[rows]), 1)

    def learn(self, rows: np.ndarray, drafts: np.ndarray, revised: np.ndarray) -> None:
        """Take (E, n, 3) revisions of a round's drafts."""
        self.known[:, rows] = revised
        if self.rule == "supervised":
            self.taught = supervised(self.x, known_mean(self.known, 0), self.base)
        elif self.rule == "preference":
            self.taught = preference(self.taught, self.x[rows], drafts, revised)


def revised_by(opinions: np.ndarray, drafts: np.ndarray, just_noticeable: float, seed: int) -> np.ndarray:
    """(E, n, 3) what simulated experts of these opinions (E, n, 3) make of the drafts (n, 3)."""
    from tasks.mannequins.raters import review

    settings = [{"just_noticeable": just_noticeable, "seed": seed * 1000 + e} for e in range(len(opinions))]
    return np.stack([review(opinion, drafts, **setting)[0] for opinion, setting in zip(opinions, settings)])


@dataclass
class Reviewed:
    """What the rounds came to."""

    labels: pa.Table
    """LABELS: seeds (`rated`) and revisions (`revised`), with their round."""
    pseudo: pa.Table
    effort: list[dict[str, Any]]
    """Rows of the report: per round and dimension."""
    fall: dict[str, Any]
    """How much less revising the same unseen photos would take after the last round than before the first."""


def review_rounds(
    own: pa.Table, inputs: FrameInputs, settings: Pretrain, seed: int, base: np.ndarray | None = None
) -> Reviewed:
    """All rounds with simulated experts, whose opinions are their own labels `own` (LABELS).

    Photos of the split `val` get no drafts: their labels stay the experts' own, and the fall is measured on them.
    """
    rows = inputs.rows()
    experts = sorted(set(own["rater_id"].to_pylist()))
    opinions = scores_by(own, experts, rows).double().numpy()
    rated = np.isfinite(opinions).any((0, 2))
    unseen = np.array([split_of(photo) == VAL for photo in inputs.ids])
    pool, judged = np.flatnonzero(rated & ~unseen), np.flatnonzero(rated & unseen)
    order = np.random.default_rng([seed, 20]).permutation(pool)
    first = order[: max(10, round(settings.rounds_seed_share * len(pool)))]
    pool = np.setdiff1d(pool, first)

    known = np.full_like(opinions, np.nan)
    known[:, first] = opinions[:, first]
    base = np.full(opinions.shape[1:], MIDDLE) if base is None else base
    work = Rounds(describe(inputs, seed), base, settings.rule, settings.pick, seed, known)

    def revise(drafts: np.ndarray, at: np.ndarray, number: int) -> np.ndarray:
        return revised_by(opinions[:, at], drafts, settings.just_noticeable, seed * 100 + number)

    flat = np.round(np.nanmean(opinions[:, first], (0, 1)), 1)
    unaided = {inputs.ids[i] for i in [*first, *judged]}
    parts, pseudo, effort = [only(own, [photo in unaided for photo in own["photo_id"].to_pylist()])], [], []
    before = work.draft(judged)
    for number in range(1, settings.rounds + 1):
        at = work.next(pool, -(-len(pool) // (settings.rounds + 1 - number)), number)
        drafts = work.draft(at)
        revised = revise(drafts, at, number)
        plain = np.broadcast_to(flat, drafts.shape)
        effort += effort_rows(drafts, revised, plain, revise(plain, at, number), number)
        ids = [inputs.ids[i] for i in at]
        pseudo.append(label_table(ids, LABELLER, drafts, "pseudo", number))
        parts += [label_table(ids, expert, revised[e], "revised", number) for e, expert in enumerate(experts)]
        work.learn(at, drafts, revised)
        pool = np.setdiff1d(pool, at)
    after = work.draft(judged)
    moved = [np.abs(revise(drafts, judged, 99) - drafts) for drafts in (before, after)]
    return Reviewed(pa.concat_tables(parts), pa.concat_tables(pseudo), effort, fall(*moved))


def expert_labels(
    cohort: Path, reviewed: tuple[pa.Table, pa.Table], inputs: FrameInputs, settings: Pretrain, seed: int, base: np.ndarray
) -> Reviewed:
    """What expert models are trained on.

    Simulated experts go through all rounds here. Real ones have theirs on the review page: their own ratings count, and
    where they reviewed a photo, what they said there. Photos of the split `test` are left out.

    Args:
        reviewed: labels and pseudo-labels of `tasks.reviewed.read_reviewed`.
        base: (N, 3) drafts of a labeller made elsewhere, else the middle of the scale.

    Raises:
        ValueError: no expert rated or reviewed a photo that may be fitted on.
    """
    labels, raters = read_table(cohort / "labels.parquet"), read_table(cohort / "raters.parquet")
    role = dict(zip(raters["rater_id"].to_pylist(), raters["role"].to_pylist()))
    pairs = zip(labels["rater_id"].to_pylist(), labels["photo_id"].to_pylist())
    own = only(labels, [role.get(rater) == "expert" and split_of(photo) != TEST for rater, photo in pairs])
    there, (said, drafts) = inputs.rows(), reviewed
    said = only(said, [photo in there and split_of(photo) != TEST for photo in said["photo_id"].to_pylist()])
    if not len(own) and not len(said):
        raise ValueError(
            f"{cohort}/labels.parquet: no expert rated any photo of the splits fit and val; "
            "have them review some: `physique review invite ID --role expert`"
        )
    if read_json(cohort / "cohort.json")["simulated"] and len(own):
        found = review_rounds(own, inputs, settings, seed, base)
    else:
        found = Reviewed(own, drafts, real_effort(said, drafts, there), {})
    return replace(found, labels=overlaid(found.labels, said))


def overlaid(labels: pa.Table, said: pa.Table) -> pa.Table:
    """LABELS, with what was said of the same photos by the same raters in the place of what was there."""
    both = set(zip(said["rater_id"].to_pylist(), said["photo_id"].to_pylist()))
    pairs = zip(labels["rater_id"].to_pylist(), labels["photo_id"].to_pylist())
    return pa.concat_tables([only(labels, [pair not in both for pair in pairs]), said])


def real_effort(said: pa.Table, drafts: pa.Table, rows: dict[str, int]) -> list[dict[str, Any]]:
    """Rows of the report: the effort of each round that real experts had."""
    found, experts = [], sorted(set(said["rater_id"].to_pylist()))
    for number in sorted(set(drafts["round"].to_pylist())):
        shown = scores_of(only(drafts, [r == number for r in drafts["round"].to_pylist()]), rows).double().numpy()
        at = np.flatnonzero(np.isfinite(shown).any(1))
        mine = only(said, [r == number for r in said["round"].to_pylist()])
        if len(mine) and len(at):
            revised = scores_by(mine, experts, rows).double().numpy()[:, at]
            found += effort_rows(shown[at], revised, None, None, number)
    return found


def effort_rows(
    drafts: np.ndarray, revised: np.ndarray, plain: np.ndarray | None, replain: np.ndarray | None, number: int
) -> list[dict[str, Any]]:
    """Per dimension: mean |revised - pseudo| with an interval over experts and photos, and the share touched.

    drafts: (n, 3). revised: (E, n, 3). plain, replain: the same with a constant as the draft, where it can be known.
    """
    found = []
    moved = np.abs(revised - drafts)
    for d, name in enumerate(DIMENSIONS):
        there = moved[..., d][np.isfinite(moved[..., d])]
        if not len(there):
            continue
        row = {
            "dimension": name,
            "round": number,
            "change": list(crossed_interval(moved[..., d])),
            "changed": float((there > 0).mean()),
            "labels": len(there),
        }
        if plain is not None and replain is not None:
            row["baseline"] = list(crossed_interval(np.abs(replain - plain)[..., d]))
        found.append(row)
    return found


def fall(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Effort (E, n, 3) on the same photos: before, after, and how much less, with intervals over experts and photos."""
    if not before.size:
        return {}
    efforts = {"before": before, "after": after, "fall": before - after}
    found = {name: list(crossed_interval(known_mean(effort, 2))) for name, effort in efforts.items()}
    return found | {"photos": before.shape[1]}


def label_table(photos: list[str], rater: str, scores: np.ndarray, origin: str, number: int) -> pa.Table:
    """(n, 3) scores of a rater as LABELS; photos without any score are left out."""
    there = np.isfinite(scores).any(1)
    photos, scores = [photo for photo, use in zip(photos, there) if use], scores[there]
    columns: dict[str, Any] = {"photo_id": photos, "rater_id": [rater] * len(photos)}
    for d, name in enumerate(DIMENSIONS):
        columns[name] = pa.array(scores[:, d], pa.float32(), from_pandas=True)
    columns |= {"origin": [origin] * len(photos), "round": [number] * len(photos), "at": [None] * len(photos)}
    return check(pa.table({name: pa.array(columns[name], LABELS.field(name).type) for name in LABELS.names}), "labels")
