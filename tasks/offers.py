"""Predictions for users to review: photos whose ratings would teach most, with what their personal model says of them.

The order is that of `physique ask` (tasks/ask.py).

    uv run physique review invite user-0001 --role user
    uv run physique review offer --photos 20
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from model.scores import DIMENSIONS
from tasks.intake.quarantine import BadInput

if TYPE_CHECKING:
    from sqlalchemy import Engine


def offer_predictions(engine: Engine, count: int, user: str | None = None) -> list[tuple[str, int]]:
    """Offer each invited user, or one, `count` photos that they have neither rated nor been offered; who got how many.

    Somebody whom the bank does not know is shown what a new user is served. Photos of the split `test` stay unseen.

    Raises:
        LookupError: no champion is registered yet.
        BadInput: no predictions of the cohort's photos, or nobody is invited.
    """
    from model.bank_opened import open_bank
    from tasks.ask import cohort_pool
    from tasks.questions import page_of, rated_photos, surveys
    from tasks.registry import PERSONAL, champion
    from tasks.reviews import invited, offer

    people = invited(engine, "user")
    if user is not None and user not in people:
        raise BadInput(f"{user} has no link as a user; `physique review invite {user} --role user` first")
    if not people:
        raise BadInput("no user is invited; `physique review invite ID --role user` first")
    people = people if user is None else [user]
    bundle, version = champion(PERSONAL)
    pool = cohort_pool(open_bank(bundle / "bank"))
    rated, answered = rated_photos(people), surveys(people, engine)
    done = []
    for person in people:
        told, waiting = page_of(engine, person)
        rows = pool.next(person, count, rated[person] | told, set(waiting), answered.get(person))
        said = pool.said(person, rows)
        scores = {
            name: pa.array(said.scores[:, d].float().numpy(), pa.float32(), from_pandas=True)
            for d, name in enumerate(DIMENSIONS)
        }
        table = pa.table({"photo_id": pa.array([pool.photos.ids[i] for i in rows], pa.string()), **scores})
        offer(engine, person, table, f"{PERSONAL}/{version}")
        done.append((person, len(table)))
    return done
