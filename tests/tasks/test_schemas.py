"""Tables that keep the contract pass and survive Parquet; others are refused by table, row and field."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from tasks import schemas
from tasks.schemas import SCHEMAS, BadTable, check, empty
from tasks.tables import read_json, read_shards, read_table, replaced_folder, write_json, write_table

A, B = "a" * 64, "b" * 64
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def labels(**changes) -> list[dict]:
    good = {"photo_id": A, "rater_id": "r1", "appearance": 5.0, "health": None, "posture": None,
            "origin": "rated", "round": 0, "at": None}  # fmt: skip
    return [good, good | {"photo_id": B} | changes]


def meshes(**changes) -> list[dict]:
    numbers = np.random.default_rng(1)
    found = {
        "photo_id": A, "person": 0, "status": "ok", "box": [0.0, 0.0, 10.0, 20.0], "betas": [0.5] * 10, "pose": [0.1] * 66,
        "camera": [500.0, 0.0, 0.0, 3.0, 320.0, 240.0], "vertices": numbers.normal(size=31425).astype(np.float16),
        "points": [1.0] * 30, "volume": 0.07, "extractor": "test", "reason": None,
    }  # fmt: skip
    nobody = dict.fromkeys(found) | {
        "photo_id": B,
        "person": 0,
        "status": "no_person",
        "extractor": "test",
        "reason": "nobody",
    }
    return [nobody, found | changes]


def table(rows: list[dict], name: str) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMAS[name])


@pytest.mark.parametrize("name", SCHEMAS)
def test_empty_tables_pass_and_survive_parquet(name, tmp_path):
    assert read_table(write_table(check(empty(name), name), tmp_path / "t.parquet")).schema == SCHEMAS[name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"appearance": 10.5}, r"labels table, row 1, appearance: 10\.5 is outside 0\.\.10"),
        (
            {"posture": float("nan")},
            r"labels table, row 1, posture: nan is outside 0\.\.10 \(not rated is null\)",
        ),
        (
            {"origin": "guess"},
            "labels table, row 1, origin: 'guess' is none of pseudo, revised, rated, feedback",
        ),
        ({"rater_id": None}, r"labels table, row 1, rater_id: None is missing \(null\)"),
        ({"photo_id": "001.jpg"}, "labels table, row 1, photo_id: '001.jpg' is not a sha256"),
        ({"round": -1}, "labels table, row 1, round: -1 is not a round"),
    ],
)
def test_bad_labels_are_named(changes, message):
    check(table(labels(), "labels"), "labels")
    with pytest.raises(BadTable, match=message):
        check(table(labels(**changes), "labels"), "labels")


def test_columns_are_ordered_and_cast_or_refused():
    good = table(labels(at=NOON), "labels")
    shuffled = good.select(good.column_names[::-1])
    shuffled = shuffled.set_column(0, "at", shuffled["at"].cast(pa.timestamp("ms", tz="UTC")))
    assert check(shuffled, "labels").equals(good)
    with pytest.raises(BadTable, match="labels table, column round: is missing"):
        check(good.drop_columns(["round"]), "labels")
    with pytest.raises(BadTable, match="labels table, column bmi: is unknown"):
        check(good.append_column("bmi", pa.nulls(2)), "labels")
    words = good.set_column(2, "appearance", pa.array(["five", "six"]))
    with pytest.raises(BadTable, match="labels table, column appearance: is string, should be float"):
        check(words, "labels")


def test_mesh_rows(tmp_path):
    good = check(table(meshes(), "mesh"), "mesh")
    back = read_table(write_table(good, tmp_path / "mesh.parquet"))
    assert back.equals(good)
    kept = back["vertices"][1].as_py()
    np.testing.assert_array_equal(np.array(kept, np.float16), meshes()[1]["vertices"])
    with pytest.raises(BadTable, match="mesh table, row 1, points: None is missing though status is ok"):
        check(table(meshes(points=None), "mesh"), "mesh")
    with pytest.raises(BadTable, match="mesh table, row 1, betas: holds NaN"):
        check(table(meshes(betas=[float("inf")] * 10), "mesh"), "mesh")
    with pytest.raises(BadTable, match="mesh table, row 1, status: 'lost' is none of ok, no_person, unreadable"):
        check(table(meshes(status="lost"), "mesh"), "mesh")
    with pytest.raises(BadTable, match=r"mesh table, row 1, photo_id: .* is there already"):
        check(table(meshes(photo_id=B), "mesh"), "mesh")
    check(table(meshes(photo_id=B, person=1), "mesh"), "mesh")  # somebody else in the same photo


def test_embedding_rows():
    rows = [{"photo_id": A, "flipped": flipped, "vector": [1.0, 2.0], "encoder": "e"} for flipped in (False, True)]
    check(table(rows, "embeddings"), "embeddings")
    for vector, message in (
        ([1.0], "row 1, vector: .* is not 2 numbers"),
        ([1.0, float("nan")], "row 1, vector: holds NaN"),
    ):
        with pytest.raises(BadTable, match=message):
            check(table([rows[0], rows[1] | {"vector": vector}], "embeddings"), "embeddings")
    with pytest.raises(BadTable, match="row 1, photo_id"):
        check(table([rows[0], rows[0]], "embeddings"), "embeddings")


def test_feedback_rows():
    event = {"event_id": "e1", "user_id": "u", "photo_id": A, "kind": "rating", "dimension": "health",
             "value": 9.0, "suggested": 4.0, "model_version": "1", "at": NOON, "text": None}  # fmt: skip
    check(table([event], "feedback"), "feedback")
    check(table([event | {"kind": "comment", "value": None, "photo_id": None}], "feedback"), "feedback")
    for changes, message in (
        ({"value": None}, "row 0, value: None is missing for a rating"),
        ({"kind": "thumb"}, r"row 0, value: 9\.0 is outside -1\.\.1"),
        ({"kind": "shrug"}, "row 0, kind: 'shrug' is none of rating"),
        ({"dimension": "beauty"}, "row 0, dimension: 'beauty' is none of appearance"),
    ):
        with pytest.raises(BadTable, match=message):
            check(table([event | changes], "feedback"), "feedback")


def test_unknown_table():
    with pytest.raises(BadTable, match="no table is called 'photo'; there are photos"):
        check(empty("photos"), "photo")


def test_roles_of_the_vocabulary():
    assert schemas.ROLES == ("expert", "user")
    people = [{"rater_id": "r", "role": "judge", "survey": []}]
    with pytest.raises(BadTable, match="raters table, row 0, role: 'judge'"):
        check(table(people, "raters"), "raters")


def test_shards_are_whole_deterministic_and_in_order(tmp_path):
    one, two = table(labels(), "labels"), table(labels(rater_id="r2"), "labels")
    write_table(two, tmp_path / "b.parquet")
    write_table(one, tmp_path / "a.parquet")
    first = (tmp_path / "a.parquet").read_bytes()
    write_table(one, tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == first
    (tmp_path / ".c.parquet.1.tmp").write_bytes(b"half")
    (tmp_path / ".c.parquet").write_bytes(b"half")
    assert read_shards(tmp_path).equals(pa.concat_tables([one, two]))
    assert read_shards(tmp_path, ["rater_id"]).column_names == ["rater_id"]
    with pytest.raises(KeyError, match="no column 'age'"):
        read_shards(tmp_path, ["age"])
    with pytest.raises(FileNotFoundError, match="holds no"):
        read_shards(tmp_path / "none")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = write_json({"old": 1}, tmp_path / "x.json")
    with pytest.raises(TypeError):
        write_json({"new": object()}, path)
    with pytest.raises((TypeError, pa.ArrowException, AttributeError)):
        write_table("no table", path)  # pyright: ignore[reportArgumentType]
    assert read_json(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_json_takes_numpy_and_names_the_bad_line(tmp_path):
    value = {"a": np.float32(0.5), "b": np.arange(2), "c": (np.int64(3), float("nan"))}
    assert read_json(write_json(value, tmp_path / "x.json")) == {"a": 0.5, "b": [0, 1], "c": [3, None]}
    (tmp_path / "x.json").write_text('{\n "a": }')
    with pytest.raises(ValueError, match=r"x\.json, line 2, column 7: not JSON"):
        read_json(tmp_path / "x.json")


def test_a_folder_is_swapped_whole(tmp_path):
    out = tmp_path / "out"
    with replaced_folder(out) as folder:
        (folder / "one").write_text("1")
    with pytest.raises(RuntimeError), replaced_folder(out) as folder:
        (folder / "two").write_text("2")
        raise RuntimeError
    assert [path.name for path in out.iterdir()] == ["one"]
    (tmp_path / ".out.new").mkdir()  # what a killed run leaves
    out.rename(tmp_path / ".out.old")
    with replaced_folder(out) as folder:
        assert (out / "one").exists()
        (folder / "two").write_text("2")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["two"]
