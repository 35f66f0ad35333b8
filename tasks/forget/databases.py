"""Databases of others (MLflow's, Prefect's): rows that name somebody go, or lose the name; the file is written anew.

Their own interfaces delete models and runs but keep rows marked as deleted, and know nothing of a name inside a
description, a log line or the name of a metric. So what they leave is looked for in every text column of every table.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from tasks.forget.target import Target

NOBODY = "forgotten"
_NO_TEXT = (sa.Numeric, sa.Integer, sa.Boolean, sa.DateTime, sa.LargeBinary, sa.Uuid)


def erase(
    engine: sa.Engine, target: Target, rows: frozenset[str] = frozenset(), also: Callable[[str], bool] = lambda _: False
) -> dict[str, int]:
    """Delete rows that name it in the tables `rows` or in their key, put NOBODY for the name elsewhere; rows by table.

    also: texts whose rows go too, though they name nobody (pictures).
    """
    counts = {}
    with engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA secure_delete=ON")
        for table in reversed(_tables(connection)):
            hits = _hits(connection, table, target, also)
            for key, values in hits:
                same = [sa.type_coerce(c, sa.String) == key[c.name] for c in table.primary_key]
                if table.name in rows or any(isinstance(v, str) and target.names_it(v) for v in key.values()):
                    connection.execute(table.delete().where(*same))
                else:
                    fresh = {
                        name: sa.type_coerce(sa.literal(_nameless(value, name, target), sa.String), table.c[name].type)
                        for name, value in values.items()
                    }
                    connection.execute(sa.update(table).where(*same).values(fresh))
            if hits:
                counts[table.name] = len(hits)
    return counts


def traces(engine: sa.Engine, target: Target) -> list[str]:
    """`table NAME: N rows` of the tables that name it."""
    with engine.connect() as connection:
        found = {table.name: len(_hits(connection, table, target, lambda _: False)) for table in _tables(connection)}
    return [f"table {name}: {count} rows" for name, count in found.items() if count]


def write_anew(engine: sa.Engine) -> None:
    """Leave nothing of deleted rows in the database's files.

    Raises:
        sqlalchemy.exc.OperationalError: another process is using a SQLite file.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("VACUUM")
            end = time.monotonic() + 30
            while connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0] and time.monotonic() < end:
                time.sleep(0.2)  # a server is reading just now
        elif connection.dialect.name == "postgresql":
            connection.exec_driver_sql("VACUUM FULL")


def _tables(connection: sa.Connection) -> list[sa.Table]:
    """All tables, those that others refer to first; SQLAlchemy warns of Prefect's, which refer to each other."""
    meta = sa.MetaData()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        meta.reflect(connection)
        return list(meta.sorted_tables)


def _hits(
    connection: sa.Connection, table: sa.Table, target: Target, also: Callable[[str], bool]
) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """(primary key, texts that name it) of the rows that do."""
    columns = [column for column in table.columns if not isinstance(column.type, _NO_TEXT)]
    if not columns or not len(table.primary_key):
        return []
    shown = [sa.type_coerce(column, sa.String).label(column.name) for column in {*columns, *table.primary_key}]
    found = []
    for row in connection.execute(sa.select(*shown)).mappings():
        texts = {c.name: _text(row[c.name]) for c in columns}
        named = {k: v for k, v in texts.items() if v and (target.in_field(k, v) or target.in_bytes(v.encode()) or also(v))}
        if named:
            found.append(({column.name: row[column.name] for column in table.primary_key}, named))
    return found


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, default=str, ensure_ascii=False)


def _nameless(text: str, field: str, target: Target) -> str:
    """A text without the name; long ones go whole, for what else they say is about the same person."""
    fresh = target.without_name(text)
    return NOBODY if len(text) > 1000 or target.in_field(field, fresh) else fresh
