"""`physique ask`: what to ask a user next, and what is known of who has rated what.

Photos that wait on the user's review page come first, in the page's order; then those that would teach most (tasks/ask.py).

    uv run physique ask user-0001 --count 10 --json
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import torch

from model.scores import DIMENSIONS
from tasks.printable import printable
from tasks.reviewed import STORE
from tasks.tables import read_table

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tasks.ask import Pool


def ask_user(user: str, count: int, folder: Path | None, as_json: bool) -> None:
    """Print the `count` photos to ask a user about, from the cohort or a folder of photos, the most telling first.

    Raises:
        LookupError: no champion is registered yet.
        BadInput: no predictions of the cohort's photos, or no photo in the folder.
    """
    from model.bank_opened import open_bank
    from model.predictor import Predictor
    from tasks.ask import cohort_pool, folder_pool
    from tasks.registry import PERSONAL, champion

    bundle, version = champion(PERSONAL)
    pool = folder_pool(folder, Predictor(bundle)) if folder else cohort_pool(open_bank(bundle / "bank"))
    store = store_if_any()
    rated, waiting = page_of(store, user)
    rated |= rated_photos([user])[user]
    if int(pool.bank.index([user])[0]) < 0:
        print(f"physique: user {printable(user)!r} is not in the bank; asked as a new user", file=sys.stderr)
    place = pool.photos.rows()
    first = [place[photo] for photo in waiting if photo in place][:count]
    rows = first + pool.next(user, count - len(first), rated, set(waiting), surveys([user], store).get(user))
    said = pool.said(user, rows)
    known = torch.tensor([photo in rated for photo in pool.photos.ids])
    left = int((pool.may & ~known).sum())
    if as_json:
        for k, row in enumerate(rows):
            scores = {
                name: {"score": round(float(said.scores[k, d]), 3), "sd": round(float(said.sd[k, d]), 3)}
                for d, name in enumerate(DIMENSIONS)
                if not said.scores[k, d].isnan()
            }
            about = {"photo_id": pool.photos.ids[row], "photo": pool.names[row], "on_page": k < len(first)}
            print(json.dumps(about | {"user": user, "scores": scores}))
        return
    _table(pool, user, rows, said, len(first))
    print(f"{int(known.sum())} rated, {left} left to ask about; asked for {PERSONAL} version {version}")


def _table(pool: Pool, user: str, rows: list[int], said, on_page: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"what to ask {escape(printable(user))} next", title_justify="left")
    table.add_column("", justify="right")
    table.add_column("photo", overflow="fold")
    scored = [d for d in range(len(DIMENSIONS)) if not said.scores[:, d].isnan().all()]
    for d in scored:
        table.add_column(DIMENSIONS[d], justify="right")
    if on_page:
        table.add_column("")
    for k, row in enumerate(rows):
        cells = [f"{said.scores[k, d]:.1f} ± {said.sd[k, d]:.1f}" for d in scored]
        where = ["on the review page"] if k < on_page else []
        table.add_row(str(k + 1), escape(printable(pool.names[row])), *cells, *where)
    Console().print(table)


def rated_photos(users: list[str], cohort: Path = Path("data/cohort")) -> dict[str, set[str]]:
    """Per user, the photos that they have rated according to the cohort's labels and feedback."""
    rated: dict[str, set[str]] = {user: set() for user in users}
    for file, who in (("labels", "rater_id"), ("feedback", "user_id")):
        if (cohort / f"{file}.parquet").is_file():
            table = read_table(cohort / f"{file}.parquet")
            table = table.filter(pc.is_in(table[who], pa.array(users, table[who].type)))
            kinds = table["kind"].to_pylist() if file == "feedback" else ["rating"] * len(table)
            for user, photo, kind in zip(table[who].to_pylist(), table["photo_id"].to_pylist(), kinds):
                if kind == "rating":
                    rated[user].add(photo)
    return rated


def surveys(users: list[str], engine: Engine | None, cohort: Path = Path("data/cohort")) -> dict[str, dict]:
    """Answers of users to the survey, of the cohort and the review page; the page's are the newer ones."""
    answers: dict[str, dict] = {}
    if (cohort / "raters.parquet").is_file():
        table = read_table(cohort / "raters.parquet", ["rater_id", "survey"])
        answers = {u: dict(s or {}) for u, s in zip(table["rater_id"].to_pylist(), table["survey"].to_pylist())}
    if engine is not None:
        from tasks.reviews import surveys_of

        answers |= surveys_of(engine)
    return {user: answers[user] for user in users if user in answers}


def page_of(engine: Engine | None, user: str) -> tuple[set[str], list[str]]:
    """What the review page knows of a user: photos that they rated, and those that still wait, in order."""
    if engine is None:
        return set(), []
    from tasks.reviews import Person, items

    offered = items(engine, Person(user, "user"))
    return {i.photo_id for i in offered if i.answer}, [i.photo_id for i in offered if not i.answer]


def store_if_any() -> Engine | None:
    """The store of the review page, if there is one; none is made."""
    if not (os.environ.get("PHYSIQUE_REVIEWS") or STORE.exists()):
        return None
    from tasks.reviews import open_store

    return open_store()
