"""Predictions for users to review: what their personal model says of photos, most uncertain first.

    uv run physique review invite user-0001 --role user
    uv run physique review offer --photos 20
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import torch

from model.bank import load_bank
from model.scores import DIMENSIONS
from tasks.intake.quarantine import BadInput
from tasks.ratings import read_photos
from tasks.tables import read_json

if TYPE_CHECKING:
    from sqlalchemy import Engine


def offer_predictions(
    engine: Engine, count: int, user: str | None = None, artifacts: Path = Path("artifacts")
) -> list[tuple[str, int]]:
    """Offer each invited user, or one, `count` photos that they have not been offered before; who got how many.

    Somebody whom the bank does not know is shown what a new user is served. Photos of the split `test` stay unseen.

    Raises:
        BadInput: no bank yet, or nobody is invited.
    """
    from tasks.reviews import Person, invited, items, offer

    pretrain, served = artifacts / "pretrain", artifacts / "continual"
    if not (served / "continual.json").is_file():
        raise BadInput(f"{served}: no personal models yet; run `dvc repro` first")
    people = invited(engine, "user")
    if user is not None and user not in people:
        raise BadInput(f"{user} has no link as a user; `physique review invite {user} --role user` first")
    if not people:
        raise BadInput("no user is invited; `physique review invite ID --role user` first")
    bank, photos = load_bank(served / "bank"), read_photos(pretrain / "predictions.parquet", pretrain / "features.parquet")
    version = read_json(served / "continual.json")["registered"]
    columns = [photos.models.index(name) for name in bank.basis.models]
    done = []
    for person in people if user is None else [user]:
        seen = {item.photo_id for item in items(engine, Person(person, "user"))}
        fresh = photos.fitting() & torch.tensor([photo not in seen for photo in photos.ids])
        rows = torch.nonzero(fresh).flatten()
        who = bank.index([person]).expand(len(rows))
        fused = None if photos.fused is None else photos.fused[rows]
        said = bank.predict(photos.predictions[rows][:, columns], who, fused)
        order = said.sd.nan_to_num(0).mean(1).argsort(descending=True, stable=True)[:count]
        scores = {
            name: pa.array(said.scores[order, d].float().numpy(), pa.float32(), from_pandas=True)
            for d, name in enumerate(DIMENSIONS)
        }
        table = pa.table({"photo_id": [photos.ids[i] for i in rows[order].tolist()], **scores})
        offer(engine, person, table, f"{version['name']}/{version['version']}")
        done.append((person, len(table)))
    return done
