"""The database of reviews: found, made and brought up to date (Alembic), SQLite or Postgres.

Notable: two processes that open a fresh store at the same moment both succeed (a lock around the migration). SQLite writes
ahead (WAL) and syncs every commit to disk, so an answer that is acknowledged survives a power cut.

    PHYSIQUE_REVIEWS=postgresql://reviews@localhost/reviews uv run physique review progress
    uv run pytest tests/review/test_review_store.py
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tasks.intake.quarantine import BadInput
from tasks.reviewed import STORE

DEFAULT = f"sqlite:///{STORE}"
BUSY_SECONDS = 30
_LOCK = 5_270_914  # any number; who migrates on Postgres holds it


def open_store(url: str | None = None) -> Engine:
    """The store at `url`, its tables up to date; made if it is not there.

    Args:
        url: as SQLAlchemy writes it; None: the environment's PHYSIQUE_REVIEWS, else SQLite in .physique/reviews.db.
    Raises:
        BadInput: it cannot be reached or used, or is of a newer version; one line.
    """
    text = url or os.environ.get("PHYSIQUE_REVIEWS") or DEFAULT
    try:
        parsed = sa.make_url(text)
    except ArgumentError:  # its message would show a password
        raise BadInput("reviews: the address of the store is no database URL; right would be postgresql://…") from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    shown = parsed.render_as_string(hide_password=True)
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise BadInput(f"reviews: {shown} is neither SQLite nor Postgres; right would be sqlite:///FILE or postgresql://…")
    try:
        engine = _engine(parsed)
        _migrate(engine, shown)
    except ModuleNotFoundError as error:
        raise BadInput(f"reviews: {shown} needs {error.name}; install the extra `postgres` of physiqueflow") from None
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        why = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise BadInput(f"reviews: the store {shown} cannot be used ({why})") from None
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes; on SQLite it takes the writer's lock at once, so that it never has to give up midway."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection


def insert(connection: Connection) -> Any:
    """The INSERT of this database that knows ON CONFLICT."""
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert


def now() -> str:
    """The time as the store writes it: UTC, ISO 8601, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _engine(url: sa.URL) -> Engine:
    if not url.drivername.startswith("sqlite"):
        pool = {"pool_pre_ping": True, "pool_size": 10, "max_overflow": 30}
        return sa.create_engine(url, connect_args={"connect_timeout": 10}, **pool)
    if url.database in (None, "", ":memory:"):
        raise BadInput("reviews: SQLite needs a file, as in sqlite:///.physique/reviews.db")
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def settle(raw, _) -> None:
        raw.isolation_level = None  # transactions begin where we say, not where the driver guesses
        for line in (f"busy_timeout={BUSY_SECONDS * 1000}", "synchronous=FULL", "foreign_keys=ON"):
            raw.execute(f"PRAGMA {line}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    _write_ahead(engine)
    return engine


def _write_ahead(engine: Engine) -> None:
    """Turn on WAL, which stays in the file. SQLite does not wait its turn for this, so we do."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.05)
        finally:
            raw.close()


def _migrate(engine: Engine, shown: str) -> None:
    """Bring the tables to the newest revision."""
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    head = script.get_current_head()
    with engine.connect() as connection:
        if MigrationContext.configure(connection).get_current_revision() == head:
            return
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        found = MigrationContext.configure(connection).get_current_revision()
        if found == head:  # another process was faster
            return
        if found is not None and found not in {each.revision for each in script.walk_revisions()}:
            raise BadInput(f"reviews: the store {shown} is of version {found}, newer than {head}; update PhysiqueFlow")
        steps = EnvironmentContext(config, script, fn=lambda revision, _: script._upgrade_revs("head", revision))
        with steps:
            steps.configure(connection=connection)
            steps.run_migrations()
