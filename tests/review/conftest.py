"""A real Postgres of our own, and stores on both databases."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from review_cases import free_port
from sqlalchemy import Engine

from tasks.reviews import open_store


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a Postgres cluster that lives as long as the tests."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("no Postgres here (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="physique-postgres-"))  # pytest's own folders are closed to other users
    who: list[str] = []
    if os.geteuid() == 0:  # initdb refuses root
        if not shutil.which("runuser"):
            pytest.skip("Postgres refuses to run as root, and there is no runuser to be somebody else")
        who = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres", "postgres")
    data, port = folder / "data", free_port()
    make = [*who, f"{found[-1]}/initdb", "-D", str(data), "-A", "trust", "-U", "reviews", "--no-sync", "-E", "UTF8"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/")
    control = [*who, f"{found[-1]}/pg_ctl", "-D", str(data), "-w"]
    options = f"-p {port} -k {data} -c listen_addresses=127.0.0.1 -c max_connections=100 -c fsync=off"
    started = [*control, "-l", str(data / "log"), "-o", options, "start"]
    subprocess.run(started, check=True, stdout=subprocess.DEVNULL, cwd="/")
    yield f"postgresql://reviews@127.0.0.1:{port}"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd="/")
    shutil.rmtree(folder)


@pytest.fixture
def fresh_postgres(postgres: str) -> str:
    """URL of an empty store: a schema of its own, which is made a hundred times faster than a database."""
    import psycopg

    name = f"reviews_{os.urandom(6).hex()}"
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{postgres}/postgres?options=-csearch_path%3D{name}"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty store on either database."""
    if request.param == "postgres":
        return request.getfixturevalue("fresh_postgres")
    return f"sqlite:///{tmp_path}/reviews.db"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """An open store on either database."""
    made = open_store(url)
    yield made
    made.dispose()
