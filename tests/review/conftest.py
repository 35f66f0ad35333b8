"""A real Postgres of our own, and stores on both databases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tasks.reviews import open_store


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a Postgres cluster that lives as long as the tests."""
    from tests import cluster

    try:
        with cluster.postgres() as server:
            yield server.url()
    except cluster.Missing as why:
        pytest.skip(str(why))


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
