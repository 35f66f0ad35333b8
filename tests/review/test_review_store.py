"""The store: made and migrated on both databases, by several at once; people and rounds."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from review_cases import drafts, photo_id

from tasks.intake.quarantine import BadInput
from tasks.reviews import (
    Person,
    close_round,
    drafts_of,
    feedback_events,
    invite,
    invited,
    items,
    may_see,
    offer,
    open_round,
    open_store,
    person_of,
    revised_labels,
    revoke,
    round_progress,
    rounds,
    save,
)
from tasks.reviews.tables import LINKS, METADATA
from tasks.schemas import BadTable

ANNA, BERT, USER = Person("anna", "expert"), Person("bert", "expert"), Person("uli", "user")


def test_migrations_make_the_tables_that_the_code_reads(engine):
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_opening_again_keeps_what_is_there(url):
    first = open_store(url)
    open_round(first, 1, drafts(3), ["anna"])
    first.dispose()
    again = open_store(url)
    assert rounds(again) == [(1, "open")]
    again.dispose()


def test_three_processes_open_a_fresh_store_at_the_same_moment(url):
    code = f"""
import alembic.config, alembic.script, sys
from tasks.reviews import open_store, rounds
print("ready", flush=True)
sys.stdin.readline()
print(rounds(open_store({url!r})))
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(3)]
    assert [each.stdout.readline() for each in started] == ["ready\n"] * 3
    for each in started:
        each.stdin.write("go\n")
        each.stdin.flush()
    assert [(each.communicate(timeout=120)[0], each.returncode) for each in started] == [("[]\n", 0)] * 3


def test_sqlite_syncs_what_it_acknowledges(tmp_path):
    with open_store(f"sqlite:///{tmp_path}/deep/er/reviews.db").connect() as connection:
        asked = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in asked]
    assert found == ["wal", 2, 1, 30000]


def test_a_newer_store_is_told_in_one_line(engine):
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(BadInput, match=r"version 9999, newer than 0001; update PhysiqueFlow"):
        open_store(engine.url.render_as_string(hide_password=False))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/none", "cannot be used"),
        ("mysql://me:hunter2@localhost/x", "neither SQLite nor Postgres"),
        ("sqlite://", "needs a file"),
        ("no url, hunter2", "is no database URL"),
        ("sqlite:////proc/none/reviews.db", "cannot be used"),
    ],
)
def test_an_unusable_store_is_told_in_one_line_without_its_password(bad, said):
    with pytest.raises(BadInput, match=said) as told:
        open_store(bad)
    assert "hunter2" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "reviews.db").write_text("not a database, but long enough to be looked at " * 100)
    with pytest.raises(BadInput, match="not a database"):
        open_store(f"sqlite:///{tmp_path}/reviews.db")


def test_the_environment_names_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("PHYSIQUE_REVIEWS", f"sqlite:///{tmp_path}/there.db")
    open_store().dispose()
    assert (tmp_path / "there.db").exists()


# people


def test_a_link_opens_for_its_person_until_revoked(engine):
    token, second = invite(engine, "anna", "expert"), invite(engine, "anna", "expert", 1)
    assert len(token) == 43
    assert person_of(engine, token) == person_of(engine, second) == ANNA
    assert invited(engine, "expert") == ["anna"]
    assert revoke(engine, "anna") == 2
    assert revoke(engine, "anna") == 0
    with pytest.raises(BadInput, match="^revoke: ann has never had a link; these have: anna$"):
        revoke(engine, "ann")
    assert person_of(engine, token) is None
    assert invited(engine, "expert") == []


def test_the_store_does_not_know_the_token(engine):
    token = invite(engine, "anna", "expert")
    with engine.connect() as connection:
        assert token not in str(connection.execute(sa.select(LINKS)).all())


def test_a_link_expires(engine):
    token = invite(engine, "anna", "expert", 1)
    with engine.begin() as connection:
        past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat(timespec="microseconds")
        connection.execute(LINKS.update().values(expires_at=past))
    assert person_of(engine, token) is None


@pytest.mark.parametrize("forged", ["", "x", "A" * 43, "' OR 1=1 --", "é" * 43, "A" * 100_000, "\0" * 43])
def test_a_forged_token_opens_nothing(engine, forged):
    invite(engine, "anna", "expert")
    assert person_of(engine, forged) is None


@pytest.mark.parametrize(
    ("who", "role", "days"),
    [("", "expert", 1), (" a", "user", 1), ("a\nb", "user", 1), ("a" * 201, "user", 1), ("a", "admin", 1)]
    + [("a", "user", days) for days in (0, -1, float("nan"), float("inf"), 1e9)],
)
def test_bad_invitations(engine, who, role, days):
    with pytest.raises(BadInput, match="^invite: "):
        invite(engine, who, role, days)


def test_one_person_has_one_role(engine):
    invite(engine, "anna", "expert")
    with pytest.raises(BadInput, match="anna has links as expert"):
        invite(engine, "anna", "user")


def test_a_name_full_of_sql_is_a_name(engine):
    name = "x'); DROP TABLE links; --"
    assert person_of(engine, invite(engine, name, "user")) == Person(name, "user")
    assert revoke(engine, name) == 1


# rounds and offers


def test_a_round_is_given_to_every_expert_and_opened_twice_is_the_same(engine):
    open_round(engine, 1, drafts(4), ["anna", "bert"])
    open_round(engine, 1, drafts(4), ["bert", "anna"])
    assert rounds(engine) == [(1, "open")]
    assert round_progress(engine, 1) == {"anna": (0, 4), "bert": (0, 4)}
    assert drafts_of(engine, 1).equals(drafts(4))
    assert [item.photo_id for item in items(engine, ANNA)] == [photo_id(k) for k in range(4)]
    assert items(engine, ANNA)[1].suggested == {"appearance": 6.0, "health": 6.0, "posture": 4.5}
    with pytest.raises(ValueError, match="round 1 is there already with other drafts"):
        open_round(engine, 1, drafts(5), ["anna", "bert"])
    with pytest.raises(ValueError, match="round 1 is there already"):
        open_round(engine, 1, drafts(4), ["anna"])
    assert drafts_of(engine, 1).num_rows == 4


@pytest.mark.parametrize(
    ("number", "table", "experts", "said"),
    [
        (1, drafts(0), ["anna"], "no drafts"),
        (1, drafts(2), [], "no experts"),
        (0, drafts(2, 0), ["anna"], "count from 1"),
        (2, drafts(2, 1), ["anna"], "drafts have round 1; right is 2"),
        (1, pa.concat_tables([drafts(2), drafts(2)]), ["anna"], "a photo is drafted twice"),
    ],
)
def test_rounds_that_cannot_be(engine, number, table, experts, said):
    with pytest.raises(BadInput, match=said):
        open_round(engine, number, table, experts)
    assert rounds(engine) == []


def test_a_closed_round_is_over(engine):
    open_round(engine, 1, drafts(2), ["anna"])
    close_round(engine, 1)
    close_round(engine, 1)
    assert rounds(engine) == [(1, "closed")]
    assert items(engine, ANNA) == []
    with pytest.raises(BadInput, match="round 7: there is none"):
        close_round(engine, 7)


def test_offers_show_the_latest_prediction_of_a_photo(engine):
    table = drafts(3).select(["photo_id", "appearance", "health", "posture"])
    offer(engine, "uli", table, "bank/1")
    offer(engine, "uli", table, "bank/1")
    offer(engine, "uli", table.slice(1, 1), "bank/2")
    found = items(engine, USER)
    assert [item.photo_id for item in found] == [photo_id(k) for k in range(3)]
    assert [item.model_version for item in found] == ["bank/1", "bank/2", "bank/1"]
    assert may_see(engine, USER, photo_id(2))
    assert not may_see(engine, USER, photo_id(3))
    assert not may_see(engine, Person("eve", "user"), photo_id(2))
    with pytest.raises(BadTable):
        offer(engine, "uli", table.set_column(0, "photo_id", [["no id"] * 3]), "bank/1")


def test_nothing_is_said_of_an_empty_store(engine):
    assert revised_labels(engine).num_rows == feedback_events(engine).num_rows == 0
    assert round_progress(engine, 1) == {}
    assert drafts_of(engine, 1).num_rows == 0


def test_progress_counts_who_reviewed(engine):
    open_round(engine, 1, drafts(3), ["anna", "bert"])
    unsure = {"photo_id": photo_id(0), "round": 1, "appearance": None, "health": None, "posture": None}
    save(engine, ANNA, "key-00000001", "review", unsure)
    assert round_progress(engine, 1) == {"anna": (1, 3), "bert": (0, 3)}
    save(engine, ANNA, "key-00000002", "undo", {"photo_id": photo_id(0), "round": 1})
    assert round_progress(engine, 1) == {"anna": (0, 3), "bert": (0, 3)}
