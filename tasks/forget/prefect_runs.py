"""Prefect's database: parameters, artifacts, logs and events that name somebody; of a photo also artifacts with pictures.

The databases are that of `physique up` and the one that any other Prefect server of this machine and user would open
(PREFECT_SERVER_DATABASE_CONNECTION_URL, else `prefect.db` in PREFECT_HOME). One behind a server elsewhere cannot be
reached from here, which is said.
"""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa

from tasks.forget.target import Target
from tasks.keeper import STATE
from tasks.stack.parts import PREFECT
from tasks.tables import read_json

UP = Path(".physique/prefect.db")
"""Of `physique up`, unless it was given another."""
BEHIND = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
ROWS = frozenset({
    "log", "artifact", "artifact_collection", "events", "event_resources", "flow_run", "task_run", "flow_run_input",
    "flow_run_state", "task_run_state", "task_run_state_cache",
})  # fmt: skip


class PrefectRuns:
    """As one of the places of `tasks.forget.run.places`."""

    name = "Prefect"

    def find(self, target: Target) -> list[str]:
        """Rows, bytes of the database's files, and files of results."""
        from tasks.forget.databases import traces
        from tasks.forget.search import in_file, in_folder

        found = []
        for engine in databases():
            found += traces(engine, target)
            files = [Path(f"{engine.url.database}{end}") for end in ("", "-wal", "-journal")]
            sqlite = engine.dialect.name == "sqlite"
            engine.dispose()
            found += [f"{path}: {what}" for path in files if sqlite and path.is_file() for what in in_file(path, target)]
        return found + in_folder(_results(), target) if _results().is_dir() else found

    def remove(self, target: Target) -> dict[str, int]:
        """Delete what names it. Runs lose their record, not their results."""
        from tasks.forget.databases import erase, write_anew
        from tasks.forget.search import in_file

        counts: dict[str, int] = {}
        pictures = (lambda text: "data:image/" in text) if target.is_photo else (lambda text: False)
        for engine in databases():
            for table, count in erase(engine, target, ROWS, pictures).items():
                counts[table] = counts.get(table, 0) + count
            write_anew(engine)
            engine.dispose()
        for path in sorted(_results().rglob("*")) if _results().is_dir() else []:
            if path.is_file() and in_file(path, target):
                path.unlink()
                counts["results"] = counts.get("results", 0) + 1
        return counts


def databases() -> list[sa.Engine]:
    """Prefect's databases that are there, opened without Prefect."""
    from prefect.settings import get_current_settings

    text = get_current_settings().server.database.connection_url
    urls = [sa.make_url(f"sqlite:///{UP.resolve()}")]
    if text is not None:
        urls.append(sa.make_url(text.get_secret_value() if hasattr(text, "get_secret_value") else str(text)))
    found = {}
    for url in urls:
        if not url.drivername.startswith("sqlite"):
            found[str(url)] = sa.create_engine(url.set(drivername="postgresql+psycopg"))
        elif url.database and Path(url.database).is_file():
            file = sa.make_url(f"sqlite:///{Path(url.database).resolve()}")
            found[str(file)] = sa.create_engine(file, connect_args={"timeout": 60})
    return list(found.values())


def elsewhere() -> str:
    """The address of a Prefect server whose database is neither one of ours nor named; '' where there is none.

    An address of the loopback says little: a container's port looks like that.
    """
    from prefect.settings import PREFECT_API_URL

    from tasks.stack.running import running

    up = running()
    url = PREFECT_API_URL.value() or (up.prefect if up is not None else "")
    if not url or os.environ.get(BEHIND) or any(not engine.url.drivername.startswith("sqlite") for engine in databases()):
        return ""
    if up is not None and url == up.prefect:
        files = [Path(f"{UP}{end}") for end in ("", "-wal")]
        ours = PREFECT in up.parts and any(file.is_file() and file.stat().st_mtime > up.own.at for file in files)
    else:
        ours = any(read_json(path).get("prefect") == url for path in STATE.parent.glob(f"{STATE.name}-*.json"))
    return "" if ours else url


def _results() -> Path:
    from prefect.settings import get_current_settings

    return Path(get_current_settings().home) / "storage"
