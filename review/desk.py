"""What lies on a person's desk: the survey, the photos in order, what was answered so far; for users also pairs to compare.

Notable: pairs are worked out from the order of the photos alone, so they are the same on every visit. Of each four photos,
the two that the model finds most alike in one dimension are compared: there an answer says most.

    uv run pytest tests/review/test_review_requests.py
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import combinations
from typing import Any

from sqlalchemy import Engine

from model.scores import DIMENSIONS
from tasks.reviews import Item, Person, items, said, survey_of
from tasks.surveys import Survey

GROUP = 4


def desk(engine: Engine, person: Person, survey: Survey) -> dict[str, Any]:
    """As JSON for the page: person_id, role, dimensions, survey, surveyed, steps.

    A step is a photo (`item`, and a user's `thumb`) or a pair (`pair`, and its `answer`).
    """
    found, answered = items(engine, person), survey_of(engine, person.person_id)
    thumbs, compared = said(engine, person) if person.role == "user" else ({}, [])
    chosen = {(each["photo_id"], each["other_id"], each["dimension"]): each["value"] for each in compared}
    steps: list[dict[str, Any]] = []
    for place, item in enumerate(found, start=1):
        steps.append({"item": asdict(item), "thumb": thumbs.get(item.photo_id)})
        if person.role == "user" and place % GROUP == 0:
            pair = closest(found[place - GROUP : place], DIMENSIONS[(place // GROUP - 1) % len(DIMENSIONS)])
            steps.append({"pair": pair, "answer": chosen.get((pair["photo_id"], pair["other_id"], pair["dimension"]))})
    return {
        "person_id": person.person_id,
        "role": person.role,
        "dimensions": list(DIMENSIONS),
        "survey": survey.model_dump(),
        "surveyed": answered is not None and answered["version"] == survey.version,
        "former": answered["answers"] if answered else {},
        "steps": steps,
    }


def closest(group: list[Item], dimension: str) -> dict[str, Any]:
    """The two photos of a group whose predicted scores differ least."""

    def apart(pair: tuple[Item, Item]) -> float:
        a, b = (item.suggested[dimension] for item in pair)
        return abs(a - b) if a is not None and b is not None else float("inf")

    one, other = min(combinations(group, 2), key=apart)
    version = one.model_version
    return {"photo_id": one.photo_id, "other_id": other.photo_id, "dimension": dimension, "model_version": version}
