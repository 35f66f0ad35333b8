"""Who may review: personal links, each with a secret token, a role and a last day.

Notable: the token is shown once, by `invite`; the store knows its sha256 only, so who reads the store cannot enter. A token
has 256 random bits, which needs no slow hash.

    uv run physique review invite anna --role expert --days 30
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Engine

from tasks.forgotten import FILE, read_forgotten
from tasks.intake.quarantine import BadInput
from tasks.reviews.store import now, writing
from tasks.reviews.tables import LINKS
from tasks.schemas import ROLES

LONGEST_DAYS = 3650


@dataclass(frozen=True)
class Person:
    """Who came by a personal link."""

    person_id: str
    role: str
    """expert or user"""


def invite(engine: Engine, person_id: str, role: str, days: float = 30) -> str:
    """A new link for a person: its token (43 characters), which nobody can look up later.

    A person may hold several links, all of one role.

    Raises:
        BadInput: no id (1 to 200 printable characters), no role, no number of days, or the person has the other role.
    """
    check_id(person_id, "invite")
    if role not in ROLES:
        raise BadInput(f"invite: {role!r} is no role; right are {' and '.join(ROLES)}")
    if not (math.isfinite(days) and 0 < days <= LONGEST_DAYS):
        raise BadInput(f"invite: {days:g} days; right is a number above 0, {LONGEST_DAYS} at most")
    if line := read_forgotten().line_of("person", person_id):
        raise BadInput(f"invite: {person_id} was forgotten; should they come back, take {' '.join(line)} out of {FILE}")
    token = secrets.token_urlsafe(32)
    expires = (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="microseconds")
    with writing(engine) as connection:
        others = sa.select(LINKS.c.role).where(LINKS.c.person_id == person_id, LINKS.c.role != role).limit(1)
        if other := connection.scalar(others):
            raise BadInput(f"invite: {person_id} has links as {other}; one person has one role, use another id")
        row = {"token_sha256": _digest(token), "person_id": person_id, "role": role, "expires_at": expires}
        connection.execute(LINKS.insert().values(invited_at=now(), **row))
    return token


def revoke(engine: Engine, person_id: str) -> int:
    """Make all links of a person useless; how many that were. Answers stay.

    Raises BadInput for what is no id, or nobody's who ever had a link.
    """
    check_id(person_id, "revoke")
    with writing(engine) as connection:
        held = LINKS.update().where(LINKS.c.person_id == person_id, LINKS.c.revoked_at.is_(None))
        count = connection.execute(held.values(revoked_at=now())).rowcount
        if not count and connection.scalar(sa.select(LINKS.c.person_id).where(LINKS.c.person_id == person_id)) is None:
            some = connection.scalars(sa.select(LINKS.c.person_id).distinct().order_by(LINKS.c.person_id).limit(4)).all()
            raise BadInput(f"revoke: {person_id} has never had a link; these have: {', '.join(some) or 'nobody yet'}")
        return count


def person_of(engine: Engine, token: str) -> Person | None:
    """Who holds a token; None if it is forged, expired or revoked."""
    if not (isinstance(token, str) and re.fullmatch(r"[A-Za-z0-9_-]{43}", token)):
        return None
    valid = (LINKS.c.token_sha256 == _digest(token), LINKS.c.revoked_at.is_(None), LINKS.c.expires_at > now())
    with engine.connect() as connection:
        row = connection.execute(sa.select(LINKS.c.person_id, LINKS.c.role).where(*valid)).first()
    return None if row is None else Person(row.person_id, row.role)


def invited(engine: Engine, role: str) -> list[str]:
    """Ids of people with a link that opens today, sorted."""
    valid = (LINKS.c.role == role, LINKS.c.revoked_at.is_(None), LINKS.c.expires_at > now())
    with engine.connect() as connection:
        return sorted(connection.scalars(sa.select(LINKS.c.person_id).distinct().where(*valid)))


def known_people(engine: Engine, role: str) -> set[str]:
    """Ids of all who ever had a link: what they said stays when it is over."""
    with engine.connect() as connection:
        return set(connection.scalars(sa.select(LINKS.c.person_id).distinct().where(LINKS.c.role == role)))


def check_id(person_id: str, where: str) -> None:
    """Raises BadInput that begins with `where` if nobody can be called `person_id`."""
    text = person_id if isinstance(person_id, str) else ""
    if not (0 < len(text) <= 200 and text.isprintable() and text == text.strip()):
        shown = repr(person_id)[:80]
        raise BadInput(f"{where}: {shown} is no id of a person; right are 1 to 200 printable characters, no blanks around")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8")).hexdigest()
