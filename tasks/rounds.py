"""Rounds of review with real experts: a round waits for people, and goes on by itself when enough is reviewed.

The state is the store of the review page (`tasks.reviews`) alone, so whoever looks, a polling deployment, a command, two
at once, sees the same and takes the same next step. What the labeller knows is worked out anew from the cohort's
ratings and the rounds that are closed.

    uv run physique review round            # one look, now
    flows/rounds.py                         # the polling deployment
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model.labeller import describe
from tasks.experts import base_drafts
from tasks.frame_data import read_inputs, scores_by, scores_of
from tasks.intake.items import needs_photos
from tasks.labeller import LABELLER, Rounds, label_table
from tasks.params import Params
from tasks.printable import counted
from tasks.splits import FIT, split_of
from tasks.tables import read_table

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from model.views import FrameInputs


@dataclass(frozen=True)
class Step:
    """What one look came to."""

    said: str
    """A line for people."""
    over: bool = False
    """The last round has been closed in this very step: the expert models can be trained."""


def advance(engine: Engine, cohort: Path, mesh: Path, embeddings: Path, params: Params) -> Step:
    """Close the open round if enough of it is reviewed, then draft and open the next one.

    Raises:
        ValueError: no expert has been invited.
        BadInput: there are no photos to review.
    """
    from tasks.reviews import close_round, invited, open_round, round_progress, rounds

    needs_photos(cohort / "photos", "experts review photos")
    settings, said = params.pretrain, ""
    known = dict(rounds(engine))
    for number in (number for number, state in known.items() if state == "open"):
        progress = round_progress(engine, number)
        done, of = (sum(each[k] for each in progress.values()) for k in (0, 1))
        wanted = math.ceil(settings.enough * of)
        if done < wanted:
            waiting = ", ".join(f"{expert} {a}/{b}" for expert, (a, b) in sorted(progress.items()) if a < b)
            return Step(f"round {number}: {done} of {of} reviewed, goes on at {wanted} ({waiting})")
        close_round(engine, number)
        said = f"round {number} is closed: {done} of {of} reviewed; "
    number = max(known, default=0) + 1
    if number > settings.rounds:
        ended = f"all {settings.rounds} rounds are" if settings.rounds > 1 else "the only round is"
        return Step(f"{said}{ended} over; `uv run dvc repro` trains the expert models", bool(said))
    experts = invited(engine, "expert")
    if not experts:
        raise ValueError("nobody to review: `physique review invite ID --role expert` first")
    inputs = read_inputs(mesh, embeddings)
    work, pool = taught(engine, cohort, inputs, experts, params)
    count = -(-len(pool) // (settings.rounds + 1 - number))
    if settings.round_photos is not None:
        count = min(count, settings.round_photos)
    if not count:
        return Step(f"{said}no photo is left to draft; `uv run dvc repro` trains the expert models", bool(said))
    at = work.next(pool, count, number)
    drafts = label_table([inputs.ids[i] for i in at], LABELLER, work.draft(at), "pseudo", number)
    open_round(engine, number, drafts, experts)
    return Step(f"{said}round {number} is open: {counted(count, 'photo')} for {counted(len(experts), 'expert')}")


def taught(
    engine: Engine, cohort: Path, inputs: FrameInputs, experts: list[str], params: Params
) -> tuple[Rounds, np.ndarray]:
    """The labeller after the rounds that are closed, and the row numbers of photos that may be drafted next."""
    from tasks.reviews import drafts_of, revised_labels, rounds

    labels, rows = read_table(cohort / "labels.parquet"), inputs.rows()
    fit = np.array([split_of(photo) == FIT for photo in inputs.ids])
    known = np.where(fit[None, :, None], scores_by(labels, experts, rows).double().numpy(), np.nan)
    pool = fit & ~np.isfinite(known).any(2).all(0)
    settings = params.pretrain
    base = base_drafts(cohort / "photos", rows, settings, Path(".physique/drafts"))
    work = Rounds(describe(inputs, params.seed), base, settings.rule, settings.pick, params.seed, known)
    for number, state in rounds(engine):
        drafts = drafts_of(engine, number)
        at = np.array([rows[photo] for photo in drafts["photo_id"].to_pylist() if photo in rows], int)
        pool[at] = False
        if state == "closed" and len(at):
            revised = scores_by(revised_labels(engine, number), experts, rows).double().numpy()
            work.learn(at, scores_of(drafts, rows).double().numpy()[at], revised[:, at])
    return work, np.flatnonzero(pool)
