"""Taking somebody out of files and banks, and the search that has to see whatever was overlooked."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import pickle
import sqlite3
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from model.bank_opened import open_bank
from model.lora_bank import OpenLora
from tasks.forget.databases import erase, traces, write_anew
from tasks.forget.scrub import rename_expert, scrub, scrub_bank, scrub_csv, settled, taught_prior
from tasks.forget.search import in_file, in_folder
from tasks.forget.target import Target
from tasks.tables import read_json, read_table, write_json, write_table
from tests.tasks.test_lora_stages import first, made

__all__ = ["first", "made"]
ANNA = Target("user", "anna", others=("joanna", "anna-2"))
BLOB = bytes(range(256)) * 4
PHOTO = Target("photo", hashlib.sha256(BLOB).hexdigest(), ("a/1.jpg",), hashlib.md5(BLOB).hexdigest(), BLOB[100:148].hex())


@pytest.mark.parametrize("text", ["anna", "user anna rated", '{"anna": 1}', "physique-expert-anna", "/anna/", "anna_x"])
def test_a_name_is_found_inside_texts(text):
    assert ANNA.names_it(text) and ANNA.in_bytes(b"\0\1" + text.encode() + b"\0")


@pytest.mark.parametrize("text", ["joanna", "anna-2", "annals", "Anna", "hanna", ""])
def test_and_not_inside_other_names(text):
    assert not ANNA.names_it(text) and not ANNA.in_bytes(text.encode())


def test_a_short_id_is_looked_for_where_people_are_named_only(tmp_path):
    seven = Target("user", "7")
    table = pa.table({"rater_id": ["7", "17", "8"], "answer": ["8", "7", "7"]})
    path = write_table(table, tmp_path / "t.parquet")
    assert in_file(path, seven) == ["column rater_id"] and scrub(path, seven) == 1
    assert read_table(path)["rater_id"].to_pylist() == ["17", "8"] and in_file(path, seven) == []
    named = write_json({"surveys": {"7": {"q": "1"}, "8": {"q": "7"}}, "users": ["7", "8"]}, tmp_path / "j.json")
    assert in_file(named, seven) == ["JSON"] and scrub(named, seven) == 2
    assert read_json(named) == {"surveys": {"8": {"q": "7"}}, "users": ["8"]} and in_file(named, seven) == []


def test_an_item_of_a_short_name_is_looked_for_where_items_are_named_only(tmp_path):
    item = Target("photo", hashlib.sha256(b"b").hexdigest(), ("b",))
    path = write_table(pa.table({"item": ["a", "b"], "note": ["b", "x"]}), tmp_path / "items.parquet")
    assert in_file(path, item) == ["column item"] and scrub(path, item) == 1
    assert read_table(path).to_pylist() == [{"item": "a", "note": "b"}] and not in_file(path, item)


def test_letters_that_are_written_in_two_ways_are_the_same():
    for written in ("Chlo\u00eb", "Chloe\u0308"):
        zoe = Target("user", written)
        for other in ("Chlo\u00eb", "Chloe\u0308"):
            assert zoe.names_it(f"of {other}.") and zoe.in_bytes(f"of {other}.".encode())
            assert zoe.in_bytes(json.dumps(other).encode())


def test_rows_cells_keys_and_lines_go_and_the_rest_stays(tmp_path):
    table = pa.table({"photo_id": ["x", PHOTO.id], "name": ["b", "c"], "bytes": [b"1", BLOB], "v": [[1.0], [2.0]]})
    path = write_table(table, tmp_path / "t.parquet", row_group_size=1)
    assert scrub(path, PHOTO) == 1 and read_table(path).to_pylist() == table.slice(0, 1).to_pylist()
    (tmp_path / "l.txt").write_text(f"{PHOTO.id}  photos/a/1.jpg\nother  photos/2.jpg\n")
    assert scrub(tmp_path / "l.txt", PHOTO) == 1 and (tmp_path / "l.txt").read_text() == "other  photos/2.jpg\n"
    write_json({"/p/photos/a/1.jpg": [1, 2, "x"], "/p/photos/11.jpg": [3, 4, "y"]}, tmp_path / "k.json")
    assert scrub(tmp_path / "k.json", PHOTO) == 1 and list(read_json(tmp_path / "k.json")) == ["/p/photos/11.jpg"]
    (tmp_path / "copy.bin").write_bytes(b"head" + BLOB)
    assert scrub(tmp_path / "copy.bin", PHOTO) == 1 and not (tmp_path / "copy.bin").exists()
    clean = write_table(pa.table({"user_id": ["joanna"]}), tmp_path / "u.parquet")
    before = clean.stat().st_mtime_ns
    assert scrub(clean, ANNA) == 0 and clean.stat().st_mtime_ns == before


def test_a_csv_file_of_somebodys_own_loses_its_rows_and_keeps_every_other_byte(tmp_path):
    path = tmp_path / "ratings.csv"
    rows = ['rater_id;photo;note', 'anna;1.jpg;"two\nlines"', "joanna;2.jpg; anna ", '"anna" ;3.jpg;', "b;4.jpg;caf\xe9"]
    path.write_bytes("\r\n".join(rows).encode("latin-1"))
    assert scrub_csv(path, ANNA) == 3  # a cell that is nothing but the id counts, wherever it stands
    assert path.read_bytes() == "rater_id;photo;note\r\nb;4.jpg;caf\xe9".encode("latin-1")
    photos = tmp_path / "p.csv"
    photos.write_text("rater_id,photo\nx,a/1.jpg\nx,photos/A/1.JPG\nx,a/1\nx,1.jpg\nx,a/11.jpg\n")
    assert scrub_csv(photos, PHOTO) == 3 and photos.read_text() == "rater_id,photo\nx,1.jpg\nx,a/11.jpg\n"
    scores = tmp_path / "s.csv"
    scores.write_text("rater_id,photo,health\n7,1.jpg,3\n8,1.jpg,7\n")
    assert scrub_csv(scores, Target("user", "7")) == 1 and scores.read_text().endswith("health\n8,1.jpg,7\n")


def test_what_is_packed_is_opened_and_what_is_written_otherwise_is_read(tmp_path):
    zoe = Target("user", "Zoë")
    hidden = {
        "a.gz": gzip.compress(b"of anna here"),
        "result": base64.encodebytes(pickle.dumps(ValueError("user 'anna' is not in the bank"))),
        "b.json": json.dumps({"who": "anna"}).encode(),
        "d.txt": "rated by anna".encode("utf-16"),
        "e.zst": pa.compress(b"anna", "zstd", asbytes=True),
    }
    for name, data in hidden.items():
        (tmp_path / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("in.json.gz", gzip.compress(b'{"user_id": "anna"}'))
    np.savez(tmp_path / "f.npz", anna=np.zeros(2))
    survey = pa.array([[("told", "like anna")]], pa.map_(pa.string(), pa.string()))
    write_table(pa.table({"survey": survey, "blob": [gzip.compress(b"-")]}), tmp_path / "g.parquet")
    with sqlite3.connect(tmp_path / "h.db") as base:
        base.execute("CREATE TABLE t (a TEXT, b BLOB)")
        base.execute("INSERT INTO t VALUES (?, ?)", ("joanna", b"xx anna yy"))
    (tmp_path / "of anna").mkdir()
    found = in_folder(tmp_path, ANNA)
    assert {Path(line.split(": ")[0]).name for line in found} == {*hidden, "c.zip", "f.npz", "g.parquet", "h.db", "of anna"}
    (tmp_path / "b.json").write_bytes(json.dumps({"who": "Zoë"}).encode())
    assert in_file(tmp_path / "b.json", zoe)


def test_deleted_rows_leave_the_file_of_a_database_too(tmp_path):
    import sqlalchemy as sa

    path = tmp_path / "m.db"
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE params (key TEXT, value TEXT, run TEXT, PRIMARY KEY (key, run))")
        base.execute("CREATE TABLE runs (run TEXT PRIMARY KEY, name TEXT, note TEXT)")
        base.execute("INSERT INTO params VALUES ('user', 'anna', 'r1'), ('user', 'joanna', 'r2')")
        base.execute("INSERT INTO runs VALUES ('r1', 'full anna', NULL), ('r2', 'full joanna', hex(zeroblob(900)))")
        base.execute("DELETE FROM params WHERE 0")
    engine = sa.create_engine(f"sqlite:///{path}")
    assert traces(engine, ANNA) == ["table params: 1 rows", "table runs: 1 rows"]
    assert erase(engine, ANNA, frozenset({"params"})) == {"params": 1, "runs": 1}
    write_anew(engine)
    engine.dispose()
    with sqlite3.connect(path) as base:
        assert base.execute("SELECT * FROM params").fetchall() == [("user", "joanna", "r2")]
        assert base.execute("SELECT name FROM runs").fetchall() == [("full forgotten",), ("full joanna",)]
    assert in_file(path, ANNA) == []


def test_a_user_leaves_both_parts_of_a_bank_and_a_photo_its_ratings(first, tmp_path):
    bank, lora, *_ = first
    here = tmp_path / "bank"
    bank.save(here)
    lora.save(here)
    gone, kept = lora.users[0], lora.users[1]
    judged = bool(open_bank(here).part([gone]).judged[0])
    photo = lora.kept(1)[0][0]
    others = [row for row, user in enumerate(lora.users) if photo in lora.kept(row)[0]]
    count = scrub_bank(here, Target("photo", photo))
    assert count == len(others) > 0
    after = OpenLora(here).whole()
    assert all(photo not in after.kept(row)[0] for row in range(len(after.users)))
    assert after.kept(1)[0] == lora.kept(1)[0][1:]
    assert bytes.fromhex(photo) not in (here / "lora.safetensors").read_bytes()
    torch.testing.assert_close(after.rows, lora.rows)

    assert taught_prior(here, Target("user", gone)) is not judged
    assert scrub_bank(here, Target("user", gone)) == 2
    assert gone not in open_bank(here).users and gone not in OpenLora(here).users and kept in OpenLora(here).users
    assert not in_folder(here, Target("user", gone))
    assert scrub_bank(here, Target("user", gone)) == 0 and not taught_prior(here, Target("user", gone))


def test_a_bank_killed_while_it_was_swapped_is_put_back(first, tmp_path):
    bank, *_ = first
    bank.save(tmp_path / "bank")
    bank.save(tmp_path / ".bank.forgets")
    (tmp_path / "bank").rename(tmp_path / ".bank.old")
    settled(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bank"] and open_bank(tmp_path / "bank").users == bank.users


def test_an_expert_loses_the_name_and_the_rest_of_a_bundle_stays(tmp_path):
    (tmp_path / "models").mkdir()
    write_json({"models": {"e1": "000", "e11": "001"}, "personal": True}, tmp_path / "bundle.json")
    write_json({"about": {"rater": "e1", "n": 1.5}}, tmp_path / "models/000.json")
    assert rename_expert(tmp_path, Target("expert", "e1"), "forgotten-1") == 2
    assert read_json(tmp_path / "bundle.json")["models"] == {"forgotten-1": "000", "e11": "001"}
    assert read_json(tmp_path / "models/000.json")["about"] == {"rater": "forgotten-1", "n": 1.5}
