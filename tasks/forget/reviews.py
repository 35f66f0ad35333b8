"""The review store: links, answers, offers, drafts and reviewers of a person, or all that is about a photo.

Notable: SQLite keeps deleted rows in its file, in the log beside it and in free pages: so they are overwritten
(`secure_delete`), the log is emptied and the file written anew. Postgres is vacuumed; its own logs and backups are its
administrator's.

    uv run pytest tests/review/test_forget_reviews.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tasks.forget.target import Target
from tasks.reviewed import STORE
from tasks.reviews.tables import ANSWERS, DRAFTS, LINKS, METADATA, OFFERS, REVIEWERS


def urls() -> list[str]:
    """Where review stores are: the one that is named or the one of this checkout, and that of the demo."""
    named = os.environ.get("PHYSIQUE_REVIEWS")
    files = [] if named else [STORE]
    files.append(STORE.with_name("review_demo.db"))
    return ([named] if named else []) + [f"sqlite:///{path}" for path in files if path.is_file()]


def people() -> dict[str, str]:
    """Role by id of all who ever had a link."""
    from tasks.reviews import open_store

    found: dict[str, str] = {}
    for url in urls():
        engine = open_store(url)
        with engine.connect() as connection:
            found |= {row.person_id: row.role for row in connection.execute(sa.select(LINKS.c.person_id, LINKS.c.role))}
        engine.dispose()
    return found


class Reviews:
    """The stores of the review page, as one of the places of `tasks.forget.run.places`."""

    name = "review store"

    def find(self, target: Target) -> list[str]:
        """Tables with a row that names it, every column looked at, and the bytes of a SQLite store's files."""
        from tasks.forget.search import in_file
        from tasks.reviews import open_store

        found = []
        for url in urls():
            engine = open_store(url)
            with engine.connect() as connection:
                for table in METADATA.sorted_tables:
                    rows = connection.execute(sa.select(table)).mappings()
                    hits = sum(any(isinstance(v, str) and target.in_field(k, v) for k, v in row.items()) for row in rows)
                    found += [f"{engine.url.render_as_string()}: table {table.name}: {hits} rows"] if hits else []
            base = engine.url.database
            engine.dispose()
            if url.startswith("sqlite"):
                files = [Path(f"{base}{end}") for end in ("", "-wal", "-journal")]
                found += [f"{path}: {what}" for path in files if path.is_file() for what in in_file(path, target)]
        return found

    def remove(self, target: Target) -> dict[str, int]:
        """Delete its rows, and what the database remembers of them."""
        from tasks.reviews import open_store

        counts: dict[str, int] = {}
        for url in urls():
            engine = open_store(url)
            with engine.connect() as connection:
                raw = connection.connection.driver_connection
                if connection.dialect.name == "sqlite":
                    raw.execute("PRAGMA secure_delete=ON")
                with connection.execution_options(writes=True).begin():
                    for what, count in _delete(connection, target).items():
                        counts[what] = counts.get(what, 0) + count
            _vacuum(engine)
            engine.dispose()
        return {what: count for what, count in counts.items() if count}


def _delete(connection: sa.Connection, target: Target) -> dict[str, int]:
    if target.is_photo:
        mine = [(DRAFTS, DRAFTS.c.photo_id == target.id), (OFFERS, OFFERS.c.photo_id == target.id)]
        about = sa.or_(
            ANSWERS.c.photo_id == target.id,
            ANSWERS.c.payload.contains(target.id, autoescape=True),  # the other photo of a comparison
            ANSWERS.c.offer_id.in_(sa.select(OFFERS.c.id).where(OFFERS.c.photo_id == target.id)),
        )
    else:
        tables = (LINKS, REVIEWERS, OFFERS)
        mine: list[Any] = [(table, table.c.person_id == target.id) for table in tables]
        mine.append((DRAFTS, DRAFTS.c.rater_id == target.id))
        theirs = sa.select(OFFERS.c.id).where(OFFERS.c.person_id == target.id)
        about = sa.or_(ANSWERS.c.person_id == target.id, ANSWERS.c.offer_id.in_(theirs))
    counts = {"answers": connection.execute(ANSWERS.delete().where(about)).rowcount}
    for table, which in mine:
        counts[table.name] = connection.execute(table.delete().where(which)).rowcount
    return counts


def _vacuum(engine: sa.Engine) -> None:
    """Write the database anew without what was deleted."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if connection.dialect.name == "postgresql":
            for table in METADATA.sorted_tables:
                connection.execute(sa.text(f"VACUUM FULL {table.name}"))
            return
        raw = connection.connection.driver_connection
        raw.execute("VACUUM")
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
