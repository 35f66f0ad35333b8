"""What events mean: which of them stand, what a night adds to that, and whose entry is learned anew.

Of all that a user said of the same thing (a photo's dimension, a pair, the survey) the latest stands, by date and then by
event_id, whichever night it came in. A `delete` takes away what it names: an event (`KEY` names `KEY:health` too), all that
was said until then about a photo, or everything said until then. What stands after a night depends on the events alone,
not on the order of their arrival; docs/feedback.md has the table.

A user of whom something learned before no longer stands (corrected, deleted, or overtaken by an older event that came
late) goes back to the entry of the first bank, and all that stands of theirs is learned anew.

    uv run pytest tests/tasks/test_feedback.py
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from model.bank import Bank
from model.bank_opened import OpenBank
from model.choices import Choices
from model.scores import DIMENSIONS
from tasks.intake.feedback import answers_of
from tasks.ratings import Photos, Ratings, as_feedback
from tasks.schemas import FEEDBACK
from tasks.tables import read_table

LEARNED = ("rating", "comparison", "thumb")
Survey = dict[str, str | None]


@dataclass
class Heard:
    """A night's ratings and choices of `users`, who is learned anew, changed surveys (None = the first one again).

    right: of every thumb on a score that was shown, whether it was right for the user.
    """

    users: list[str]
    ratings: Ratings
    choices: Choices
    again: list[str] = field(default_factory=list)
    surveys: dict[str, Survey | None] = field(default_factory=dict)
    comments: int = 0
    right: list[bool] = field(default_factory=list)
    aside: Counter = field(default_factory=Counter)


def standing(events: Iterable[dict]) -> dict[tuple, dict]:
    """The events that count, by what they are about; deletes themselves are not among them."""
    ordered = sorted(events, key=lambda event: (event["at"], event["event_id"]))
    named: set[tuple[str, str]] = set()
    until: dict[tuple, object] = {}
    for event in ordered:
        if event["kind"] != "delete":
            continue
        if event["text"]:
            named.add((event["user_id"], event["text"]))
        else:
            until[event["user_id"], event["photo_id"]] = event["at"]
    found: dict[tuple, dict] = {}
    for event in ordered:
        user, name, photo = event["user_id"], event["event_id"], event["photo_id"]
        if event["kind"] == "delete" or (user, name) in named or (user, name.rpartition(":")[0]) in named:
            continue
        limits = [until.get((user, where)) for where in (None, photo)]
        if any(limit is not None and event["at"] <= limit for limit in limits):
            continue
        found.pop(key := _about(event), None)
        found[key] = event
    return found


def undeleted(table: pa.Table) -> pa.Table:
    """Events without what was deleted, and without what was said again; as they are where nobody deleted anything."""
    if not pc.any(pc.equal(table["kind"], "delete")).as_py():
        return table
    return pa.Table.from_pylist(list(standing(table.to_pylist()).values()), schema=FEEDBACK)


def _about(event: dict) -> tuple:
    kind, user, photo = event["kind"], event["user_id"], event["photo_id"]
    if kind == "survey":
        return kind, user
    if kind == "comment":
        return kind, event["event_id"]
    if kind == "comparison":
        photo = tuple(sorted((photo, event["text"] or "")))
    return kind, user, photo, event["dimension"]


def hear(tonight: pa.Table, earlier: Iterable[Path], photos: Photos) -> Heard:
    """What the events of a night (FEEDBACK) add, given the snapshots of all nights before it."""
    people = pc.unique(tonight["user_id"])
    parts = [FEEDBACK.empty_table(), *(_of(read_table(path), people) for path in earlier)]
    old = pa.concat_tables(parts).to_pylist()
    new = tonight.to_pylist()
    before, now = standing(old), standing(old + new)
    again = {event["user_id"] for key, event in before.items() if event["kind"] in LEARNED and now.get(key) is not event}
    came = {event["event_id"] for event in new}
    stands = {event["event_id"] for event in now.values()}
    use = [event for event in now.values() if event["event_id"] in came or event["user_id"] in again]
    ratings = [event for event in use if event["kind"] == "rating"]
    raters, given, aside = as_feedback(pa.Table.from_pylist(ratings, schema=FEEDBACK), photos)
    chosen = [event for event in use if event["kind"] in ("comparison", "thumb")]
    users = sorted({*raters, *(event["user_id"] for event in chosen)})
    place = {user: row for row, user in enumerate(users)}
    given.user = torch.tensor([place[user] for user in raters], dtype=torch.long)[given.user]
    choices, more = as_choices(chosen, place, photos)
    aside += more
    gone = [event for event in new if event["kind"] != "delete" and event["event_id"] not in stands]
    aside.update({"deleted, or said again later": len(gone)} if gone else {})
    surveys: dict[str, Survey | None] = {}
    for user in sorted(people.to_pylist()):
        was, found = before.get(("survey", user)), now.get(("survey", user))
        if found is not was or (found is not None and user in again):
            surveys[user] = None if found is None else answers_of(found["text"])
    comments = sum(event["kind"] == "comment" for event in use)
    shown = [event for event in use if event["kind"] == "thumb" and event["suggested"] is not None]
    right = [event["value"] > 0 for event in shown]
    return Heard(users, given, choices, sorted(again), surveys, comments, right, aside)


def as_choices(events: list[dict], place: dict[str, int], photos: Photos) -> tuple[Choices, Counter]:
    """Comparisons and thumbs as the model reads them, in order of user, date and id; what was set aside by reason.

    A thumb without a dimension is about all of them.
    """
    known, rows, aside = photos.rows(), [], Counter()
    for event in sorted(events, key=lambda event: (event["user_id"], event["at"], event["event_id"])):
        pair = [event["photo_id"]] + [event["text"]] * (event["kind"] == "comparison")
        if len(pair) == 1 and event["suggested"] is not None:
            aside["thumb on a score that was shown: counted, teaches nothing"] += 1
        elif any(photo not in known for photo in pair):
            aside["photo has no predictions"] += 1
        else:
            other = known[pair[1]] if len(pair) > 1 else -1
            about = range(len(DIMENSIONS)) if event["dimension"] is None else [DIMENSIONS.index(event["dimension"])]
            rows += [(place[event["user_id"]], d, known[pair[0]], other, event["value"]) for d in about]
    columns = list(zip(*rows)) if rows else [()] * 5
    index = (torch.tensor(column, dtype=torch.long) for column in columns[:4])
    return Choices(*index, torch.tensor(columns[4], dtype=torch.float64)), aside


def _of(table: pa.Table, people: pa.Array) -> pa.Table:
    return table.filter(pc.is_in(table["user_id"], value_set=people))


def prepared(
    bank: Bank | OpenBank, first: Bank | OpenBank, heard: Heard, surveys: dict[str, Survey]
) -> Bank | OpenBank:
    """The bank as the night's ratings find it: who is learned anew is back at the first entry, changed surveys are in.

    first: the bank of `finetune`. surveys: the cohort's, of users that the first bank does not know. The bank that came
    in stays as it is. A changed survey moves a user's prior; where the prior is served, it is served changed at once.
    """
    touched = [user for user in dict.fromkeys([*heard.again, *heard.surveys]) if int(bank.index([user])[0]) >= 0]
    parts = []
    for user in touched:
        known = int(first.index([user])[0]) >= 0
        fresh = first.part([user]) if known else first.starting([user], [surveys.get(user, {})])
        entry = fresh if user in heard.again else bank.part([user])
        if user in heard.surveys:
            answers = heard.surveys[user]
            entry = _surveyed(entry, fresh.surveys[0] if answers is None else answers)
        parts.append(entry)
    return bank.updated(parts) if parts else bank


def _surveyed(entry: Bank, answers: Survey) -> Bank:
    """The entry of one user with another survey."""
    fresh = entry.starting(entry.users, [answers])
    unrated = (entry.weights == entry.prior_mean).all(2)  # (1, D): the prior is served
    entry.weights[unrated], entry.cov[unrated] = fresh.weights[unrated], fresh.cov[unrated]
    entry.noise[unrated] = fresh.noise[unrated]
    entry.prior_mean = fresh.prior_mean
    entry.surveys = [answers]
    entry.expert, entry.expert_probability = entry.selection.choose([answers], entry.stats)
    return entry
