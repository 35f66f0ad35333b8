"""The tables of the store of reviews, as SQLAlchemy sees them; `migrations/` makes them.

Notable: answers are only ever appended; what counts is worked out from them (`tasks.reviews.answers`). Of a personal link
only the sha256 of its token is kept. Times are UTC, written as ISO 8601 text, so that SQLite and Postgres agree.

    uv run pytest tests/review/test_review_store.py
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from model.scores import DIMENSIONS

NAMES = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(referred_table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
METADATA = MetaData(naming_convention=NAMES)
COUNTER = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up by itself only in INTEGER keys."""

LINKS = Table(
    "links",
    METADATA,
    Column("token_sha256", String(64), primary_key=True),
    Column("person_id", String(200), nullable=False),
    Column("role", String(10), nullable=False),
    Column("invited_at", String(32), nullable=False),
    Column("expires_at", String(32), nullable=False),
    Column("revoked_at", String(32)),
    CheckConstraint("role IN ('expert', 'user')", name="role"),
    Index("ix_links_person", "person_id"),
)
ROUNDS = Table(
    "rounds",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("content_sha256", String(64), nullable=False),  # of drafts and experts: the same round opened again is no error
    Column("opened_at", String(32), nullable=False),
    Column("closed_at", String(32)),
)
DRAFTS = Table(
    "drafts",
    METADATA,
    Column("round", Integer, ForeignKey("rounds.number"), primary_key=True),
    Column("photo_id", String(64), primary_key=True),
    Column("place", Integer, nullable=False),  # in the order given
    Column("rater_id", String(200), nullable=False),
    *(Column(dimension, Float) for dimension in DIMENSIONS),
    Column("at", String(32)),
)
REVIEWERS = Table(
    "reviewers",
    METADATA,
    Column("round", Integer, ForeignKey("rounds.number"), primary_key=True),
    Column("person_id", String(200), primary_key=True),
)
OFFERS = Table(
    "offers",
    METADATA,
    Column("id", COUNTER, primary_key=True),
    Column("person_id", String(200), nullable=False),
    Column("photo_id", String(64), nullable=False),
    Column("model_version", String(200), nullable=False),
    *(Column(dimension, Float) for dimension in DIMENSIONS),
    Column("at", String(32), nullable=False),
    UniqueConstraint("person_id", "photo_id", "model_version"),
)
ANSWERS = Table(
    "answers",
    METADATA,
    Column("id", COUNTER, primary_key=True),  # the order in which answers came
    Column("key", String(100), nullable=False, unique=True),  # made in the browser: the same answer posted twice is one
    Column("person_id", String(200), nullable=False),
    Column("role", String(10), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("photo_id", String(64)),
    Column("round", Integer),
    Column("offer_id", COUNTER),  # what the model had said, for a user's answer
    Column("payload", Text, nullable=False),  # JSON
    Column("posted_sha256", String(64), nullable=False),  # of person, kind and payload as posted
    Column("at", String(32), nullable=False),
    ForeignKeyConstraint(["offer_id"], ["offers.id"]),
    ForeignKeyConstraint(["round"], ["rounds.number"]),
    Index("ix_answers_person", "person_id", "kind"),
    Index("ix_answers_round", "round", "kind"),
)
