"""Links, rounds, drafts, offers and answers.

Notable: written out, not read from `tables.py`, which is free to go on changing.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_COUNTER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _scores() -> list[sa.Column]:
    return [sa.Column(name, sa.Float) for name in ("appearance", "health", "posture")]


def upgrade() -> None:
    """From nothing."""
    op.create_table(
        "links",
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column("person_id", sa.String(200), nullable=False),
        sa.Column("role", sa.String(10), nullable=False),
        sa.Column("invited_at", sa.String(32), nullable=False),
        sa.Column("expires_at", sa.String(32), nullable=False),
        sa.Column("revoked_at", sa.String(32)),
        sa.PrimaryKeyConstraint("token_sha256", name="pk_links"),
        sa.CheckConstraint("role IN ('expert', 'user')", name="ck_links_role"),
    )
    op.create_index("ix_links_person", "links", ["person_id"])
    op.create_table(
        "rounds",
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("content_sha256", sa.String(64), nullable=False),
        sa.Column("opened_at", sa.String(32), nullable=False),
        sa.Column("closed_at", sa.String(32)),
        sa.PrimaryKeyConstraint("number", name="pk_rounds"),
    )
    op.create_table(
        "drafts",
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("photo_id", sa.String(64), nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("rater_id", sa.String(200), nullable=False),
        *_scores(),
        sa.Column("at", sa.String(32)),
        sa.PrimaryKeyConstraint("round", "photo_id", name="pk_drafts"),
        sa.ForeignKeyConstraint(["round"], ["rounds.number"], name="fk_drafts_rounds"),
    )
    op.create_table(
        "reviewers",
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("person_id", sa.String(200), nullable=False),
        sa.PrimaryKeyConstraint("round", "person_id", name="pk_reviewers"),
        sa.ForeignKeyConstraint(["round"], ["rounds.number"], name="fk_reviewers_rounds"),
    )
    op.create_table(
        "offers",
        sa.Column("id", _COUNTER, nullable=False, autoincrement=True),
        sa.Column("person_id", sa.String(200), nullable=False),
        sa.Column("photo_id", sa.String(64), nullable=False),
        sa.Column("model_version", sa.String(200), nullable=False),
        *_scores(),
        sa.Column("at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_offers"),
        sa.UniqueConstraint("person_id", "photo_id", "model_version", name="uq_offers_person_id"),
    )
    op.create_table(
        "answers",
        sa.Column("id", _COUNTER, nullable=False, autoincrement=True),
        sa.Column("key", sa.String(100), nullable=False),
        sa.Column("person_id", sa.String(200), nullable=False),
        sa.Column("role", sa.String(10), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("photo_id", sa.String(64)),
        sa.Column("round", sa.Integer),
        sa.Column("offer_id", _COUNTER),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("posted_sha256", sa.String(64), nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_answers"),
        sa.UniqueConstraint("key", name="uq_answers_key"),
        sa.ForeignKeyConstraint(["offer_id"], ["offers.id"], name="fk_answers_offers"),
        sa.ForeignKeyConstraint(["round"], ["rounds.number"], name="fk_answers_rounds"),
    )
    op.create_index("ix_answers_person", "answers", ["person_id", "kind"])
    op.create_index("ix_answers_round", "answers", ["round", "kind"])
