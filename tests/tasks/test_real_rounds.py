"""Rounds with real experts, on a real store: who waits for what, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest

from model.scores import DIMENSIONS
from tasks.experts import write_labels
from tasks.params import Params, load_params
from tasks.reviewed import read_reviewed, write_reviewed
from tasks.reviews import Person, drafts_of, invite, open_store, rounds, save
from tasks.rounds import advance
from tasks.schemas import VERTICES
from tasks.splits import FIT, split_of
from tasks.tables import read_json, read_table, write_json, write_table

PHOTOS = [f"{k * 2**26:08x}" + "0" * 56 for k in range(64)]
ANNA, BEN = Person("anna", "expert"), Person("ben", "expert")


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A cohort of 64 photos that nobody has rated but anna, ten of them; meshes and vectors; nothing reviewed."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(PHOTOS), 4)).astype(np.float32)
    embeddings = {
        "photo_id": [photo for photo in PHOTOS for _ in range(2)],
        "flipped": [False, True] * len(PHOTOS),
        "vector": pa.array(list(vectors.repeat(2, 0)), pa.list_(pa.float32())),
        "encoder": ["made up"] * 2 * len(PHOTOS),
    }
    write_table(pa.table(embeddings), tmp_path / "embeddings/1.parquet")
    body = rng.normal(size=VERTICES * 3).astype(np.float16)
    mesh = {
        "photo_id": PHOTOS, "person": [0] * 64, "status": ["ok"] * 64,
        "vertices": pa.array([body + np.float16(k / 64) for k in range(64)], pa.list_(pa.float16())),
        "points": pa.array(list(rng.uniform(0, 200, (64, 30)).astype(np.float32)), pa.list_(pa.float32())),
        "box": pa.array([[0.0, 0, 9, 9]] * 64, pa.list_(pa.float32())),
        "camera": pa.array([[1.0] * 6] * 64, pa.list_(pa.float32())),
    }  # fmt: skip
    write_table(pa.table(mesh), tmp_path / "mesh/1.parquet")
    first = [photo for photo in PHOTOS if split_of(photo) == FIT][:10]
    scores = {d: pa.array([4.0 + k / 5 for k in range(10)], pa.float32()) for d in DIMENSIONS}
    labels = {"photo_id": first, "rater_id": ["anna"] * 10, **scores, "origin": ["rated"] * 10,
              "round": pa.array([0] * 10, pa.int32()), "at": pa.nulls(10, pa.timestamp("us", tz="UTC"))}  # fmt: skip
    write_table(pa.table(labels), tmp_path / "cohort/labels.parquet")
    survey = pa.array([[("likes", "strong")], []], pa.map_(pa.string(), pa.string()))
    raters = {"rater_id": ["anna", "ben"], "role": ["expert"] * 2, "survey": survey}
    write_table(pa.table(raters), tmp_path / "cohort/raters.parquet")
    write_json({"simulated": False, "dimensions": list(DIMENSIONS)}, tmp_path / "cohort/cohort.json")
    return tmp_path


def settings(**changes) -> Params:
    return load_params().changed(pretrain={"rounds": 2, "enough": 0.75, "round_photos": 8} | changes)


def look(house: Path, engine, **changes):
    return advance(engine, house / "cohort", house / "mesh", house / "embeddings", settings(**changes))


def review(engine, person: Person, number: int, photos: list[str], score: float) -> None:
    for photo in photos:
        payload = {"photo_id": photo, "round": number, **dict.fromkeys(DIMENSIONS, score)}
        save(engine, person, str(uuid4()), "review", payload)


def test_rounds_wait_for_people_and_go_on_by_themselves(house):
    engine = open_store(f"sqlite:///{house}/reviews.db")
    with pytest.raises(ValueError, match="nobody to review: `physique review invite ID --role expert` first"):
        look(house, engine)
    invite(engine, "anna", "expert")
    invite(engine, "ben", "expert")
    assert look(house, engine).said == "round 1 is open: 8 photos for 2 experts"
    photos = drafts_of(engine, 1)["photo_id"].to_pylist()
    assert all(split_of(photo) == FIT for photo in photos)

    waits = look(house, engine)
    assert waits.said == "round 1: 0 of 16 reviewed, goes on at 12 (anna 0/8, ben 0/8)" and not waits.over
    review(engine, ANNA, 1, photos, 8.5)
    assert "8 of 16 reviewed" in look(house, engine).said and rounds(engine) == [(1, "open")]
    review(engine, BEN, 1, photos[:4], 8.0)
    assert look(house, engine).said == "round 1 is closed: 12 of 16 reviewed; round 2 is open: 8 photos for 2 experts"

    second = drafts_of(engine, 2)
    assert not set(second["photo_id"].to_pylist()) & set(photos)
    # Ten scores about 5 before, twelve above 8 since: what is drafted next has learned of it.
    before, after = (np.mean(drafts_of(engine, number)["health"].to_pylist()) for number in (1, 2))
    assert after > before + 1
    review(engine, ANNA, 2, second["photo_id"].to_pylist(), 7.0)
    review(engine, BEN, 2, second["photo_id"].to_pylist(), 7.0)
    done = look(house, engine)
    assert done.over and "all 2 rounds are over" in done.said
    again = look(house, engine)
    assert not again.over and "all 2 rounds are over" in again.said  # training is not started twice


def test_what_was_reviewed_arrives_where_experts_are_trained(house):
    url = f"sqlite:///{house}/reviews.db"
    engine = open_store(url)
    invite(engine, "anna", "expert")
    invite(engine, "carl", "expert")  # of whom the cohort knows nothing
    look(house, engine)
    photos = drafts_of(engine, 1)["photo_id"].to_pylist()
    review(engine, ANNA, 1, photos, 9.0)
    review(engine, Person("carl", "expert"), 1, photos[:7], 2.0)
    write_reviewed(house / "reviews", house / "reviews.db", house / "none")
    labels, drafts, _ = read_reviewed(house / "reviews")
    assert len(labels) == 15 and drafts["photo_id"].to_pylist() == photos

    write_labels(house / "cohort", house / "mesh", house / "embeddings", house / "reviews", house / "out", settings())
    found = read_table(house / "out/labels.parquet")
    by = {}
    for row in found.to_pylist():
        by.setdefault((row["rater_id"], row["origin"]), []).append(row["posture"])
    twice = set(photos) & set(read_table(house / "cohort/labels.parquet")["photo_id"].to_pylist())
    assert {key: len(scores) for key, scores in by.items()} == {
        ("anna", "rated"): 10 - len(twice),
        ("anna", "revised"): 8,
        ("carl", "revised"): 7,
    }
    assert set(by["anna", "revised"]) == {9.0} and set(by["carl", "revised"]) == {2.0}
    effort = read_json(house / "out/effort.json")["rows"]
    assert {row["round"] for row in effort} == {1} and all(row["labels"] == 15 for row in effort)


def test_a_store_that_cannot_be_read_is_one_line(house, monkeypatch):
    from tasks.intake.quarantine import BadInput

    (house / "reviews.db").write_text("no database")
    monkeypatch.delenv("PHYSIQUE_REVIEWS", raising=False)
    with pytest.raises(BadInput, match="reviews.db") as error:
        write_reviewed(house / "reviews", house / "reviews.db", house / "none")
    assert "\n" not in str(error.value)
    assert not (house / "reviews").exists()
