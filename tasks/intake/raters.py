"""Who rated: the `raters` table, with a role for everybody.

Rules, in the order a user would expect them:
- `raters.csv` decides. A blank role means user; an unknown role goes aside and the rater is a user.
- Somebody who rated but has no row there is a user with an empty survey: their ratings count.
- If `raters.csv` names no expert (or there is none), those with the most ratings become experts: as many as
  asked for (`data.experts`), else a tenth of the raters, 2 to 8. At least one rater stays a user where there
  are two.
"""

from dataclasses import dataclass, field

import pyarrow as pa

from tasks.intake.quarantine import BadInput, Quarantine
from tasks.schemas import RATERS, ROLES, check


@dataclass
class Raters:
    """Everybody, and how the roles came about."""

    table: pa.Table
    experts: int
    users: int
    without_row: int
    """Rated, but not in raters.csv."""
    without_ratings: int
    experts_from: str
    """`raters.csv`, or `most ratings`."""
    notes: list[str] = field(default_factory=list)


def settle_raters(
    raw: pa.Table | None, rated: dict[str, int], experts: int | None, source_name: str, quarantine: Quarantine
) -> Raters:
    """raw: text columns rater_id, [role], survey..., file, line. rated: usable ratings per rater_id."""
    if experts is not None and experts < 1:
        raise BadInput(f"data.experts: {experts} is not a number of experts; give 1 or more, or null")
    people = _listed(raw, quarantine) if raw is not None else {}
    without_row = sorted(set(rated) - set(people))
    for rater_id in without_row:
        people[rater_id] = ("user", [])
    named = [rater_id for rater_id, (role, _) in people.items() if role == "expert"]
    notes = []
    if without_row and raw is not None:
        notes.append(f"{len(without_row)} raters have no row in {source_name}: users with an empty survey")
    if named:
        experts_from = source_name
        silent = sorted(set(named) - set(rated))
        if len(silent) == len(named):
            raise BadInput(f"{source_name}: none of the {len(named)} experts has a usable rating")
        if silent:
            notes.append(f"{len(silent)} experts have no usable rating ({', '.join(silent[:5])})")
    else:
        experts_from = "most ratings"
        chosen = _most_rating(rated, experts)
        for rater_id in chosen:
            people[rater_id] = ("expert", people[rater_id][1])
        notes.append(f"no expert was named: the {len(chosen)} raters with the most ratings are the experts")
    rows = [
        {"rater_id": rater_id, "role": role, "survey": survey} for rater_id, (role, survey) in sorted(people.items())
    ]
    table = check(pa.Table.from_pylist(rows, schema=RATERS), "raters")
    count = sum(row["role"] == "expert" for row in rows)
    return Raters(table, count, len(rows) - count, len(without_row), len(set(people) - set(rated)), experts_from, notes)


def _listed(raw: pa.Table, quarantine: Quarantine) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """(role, survey) by rater_id; the survey holds the answers given, blank ones left out."""
    questions = [name for name in raw.column_names if name not in ("rater_id", "role", "file", "line", "")]
    people: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for row in raw.to_pylist():
        rater_id, role = row["rater_id"], row.get("role", "").lower()
        if not rater_id:
            quarantine.add(row["file"], row["line"], "rater_id", "blank rater", "")
            continue
        if rater_id in people:
            quarantine.add(row["file"], row["line"], "rater_id", "rater is listed already", rater_id)
            continue
        if role and role not in ROLES:
            quarantine.add(row["file"], row["line"], "role", "unknown role", row["role"])
        survey = [(question, row[question]) for question in questions if row[question]]
        people[rater_id] = (role if role in ROLES else "user", survey)
    return people


def _most_rating(rated: dict[str, int], experts: int | None) -> list[str]:
    wanted = experts or min(8, max(2, len(rated) // 10))
    ranked = sorted(rated, key=lambda rater_id: (-rated[rater_id], rater_id))
    return ranked[: max(1, min(wanted, len(ranked) - 1))]
