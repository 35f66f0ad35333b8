"""The source `features`: items' vectors arrive, bad rows are named and cost themselves only, bad files are one line."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cohort_cases import NOW, labels
from item_cases import items_folder, tastes

from tasks.cohort import BadInput, as_lines, build_cohort
from tasks.drafts import read_drafts
from tasks.features import VECTORS, pass_vectors
from tasks.frame_data import read_inputs
from tasks.intake.items import as_vectors, holds_vectors
from tasks.schemas import empty
from tasks.tables import read_shards, read_table, shard_paths, write_table

GOOD = [[1.0, 2.0], [3.0, 4.5], [5.0, 6.0]]


def built(root):
    out = root.parent / "cohort"
    return build_cohort("features", root, out, now=NOW), out


def told(out):
    return as_lines(read_table(out / "quarantine.parquet"), 1000, "row")


def stored(out):
    rows = read_shards(out / "photos").to_pylist()
    return {row["name"]: as_vectors([row["bytes"]])[0].tolist() for row in rows}


@pytest.mark.parametrize(
    "vectors",
    [
        GOOD,
        pa.array(GOOD, pa.large_list(pa.float32())),
        pa.array(GOOD, pa.list_(pa.float16())),
        pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(GOOD)), 2),
    ],
    ids=["list", "large", "half", "fixed"],
)
def test_vectors_arrive_however_they_are_kept(tmp_path, vectors):
    summary, out = built(items_folder(tmp_path / "in", vectors))
    assert stored(out) == dict(zip("abc", GOOD))
    assert told(out) == []
    assert labels(out) == [("a", "e", None, 5, None), ("b", "u", None, 6, None)]
    (row,) = [row for row in read_shards(out / "photos").to_pylist() if row["name"] == "a"]
    assert (row["photo_id"], row["source"]) == (hashlib.sha256(b"a").hexdigest(), "features")
    assert summary["vector"] == 2 and holds_vectors(out / "photos")


def test_bad_rows_are_named_and_the_rest_goes_on(tmp_path):
    bad = [GOOD[0], [np.nan, 1], [1, None], [1, 2, 3], None, [], [1e39, 1], GOOD[1], [9.0, 9.0], GOOD[0], [7.0, 7.0]]
    names = ["a", "nan", "null", "long", "none", "empty", "huge", " b ", "b", "a", None]
    ratings = "rater_id,item,health\ne,a,5\nu,b,6\nu,nan,6\nu,,6\nu,B,7\nu,zebra,1\n"
    summary, out = built(items_folder(tmp_path / "in", bad, names, ratings_csv=ratings))
    assert stored(out) == {"a": GOOD[0], "b": GOOD[1]}
    assert told(out) == [
        "items.parquet, row 2, vector: vector holds NaN or infinity ('nan: number 1 is nan')",
        "items.parquet, row 3, vector: vector holds NaN or infinity ('null: number 2 is nan')",
        "items.parquet, row 4, vector: vector of another length ('long: 3 numbers where most have 2')",
        "items.parquet, row 5, vector: no vector ('none: null')",
        "items.parquet, row 6, vector: vector of another length ('empty: 0 numbers where most have 2')",
        "items.parquet, row 7, vector: vector holds a number beyond 3e38 ('huge: number 1 is 1e+39')",
        "items.parquet, row 9, item: second vector of the same item ('b')",
        "items.parquet, row 10, item: repeated item ('a')",
        "items.parquet, row 11, item: blank item ('')",
        "ratings.csv, line 4, item: unknown item ('nan')",
        "ratings.csv, line 5, item: blank item ('')",
        "ratings.csv, line 6, item: second rating of the same rater, photo and time ('kept: ratings.csv, line 3')",
        "ratings.csv, line 7, item: unknown item ('zebra')",
    ]
    counts = summary["counts"]
    assert counts["files"] == counts["photos"] + counts["duplicates"] + counts["files_set_aside"] == 11
    assert (counts["photos"], counts["duplicates"]) == (2, 1)


def test_a_name_is_not_cut_at_its_dot(tmp_path):
    root = items_folder(tmp_path / "in", GOOD, ["1.5", "2", "3"], ratings_csv="rater_id,item,health\ne,1,5\ne,2,5\n")
    _, out = built(root)
    assert told(out) == ["ratings.csv, line 2, item: unknown item ('1')"]


def test_numbered_items_and_the_column_photo(tmp_path):
    root = tmp_path / "in"
    items_folder(root, None, ratings_csv="rater_id,photo,health\ne,7,5\nu,8,6\n")
    known = hashlib.sha256(b"a photo").hexdigest()
    pq.write_table(pa.table({"Photo": [7, 8], "Vector": [[1], [2]]}), root / "items.parquet")
    _, out = built(root)
    assert stored(out) == {"7": [1], "8": [2]} and told(out) == []
    pq.write_table(pa.table({"photo": [known, "8", "7"], "vector": [[1], [2], [3]]}), root / "items.parquet")
    _, out = built(root)
    assert known in read_shards(out / "photos")["photo_id"].to_pylist()


def test_a_column_of_pictures_is_told_and_not_read(tmp_path):
    root = items_folder(tmp_path / "in", GOOD)
    table = pq.read_table(root / "items.parquet").append_column("image", pa.array([b"x"] * 3))
    pq.write_table(table, root / "items.parquet")
    summary, out = built(root)
    assert told(out) == ["items.parquet, image: column is not used"]
    assert summary["counts"]["files_set_aside"] == 0


BYTES = pa.table({"item": ["a"], "image": pa.array([{"bytes": b"x", "path": "a"}])})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"items\.parquet: no such file in .*in; its columns are item,vector"),
        (b"", r"items\.parquet: is not a Parquet file \(Parquet file size is 0 bytes\)"),
        (b"item,vector\na,1\n" * 20, r"items\.parquet: is not a Parquet file"),
        (BYTES, r"column 'vector' is missing; found item, image, .* column 'image' holds pictures: write them as files"),
        (pa.table({"item": ["a"], "x": [1.0]}), r"column 'vector' is missing; found item, x, .*to_numpy\(\)\.tolist"),
        (pa.table({"vector": [[1.0]]}), r"column 'item' is missing; found vector, needed item, vector"),
        (pa.table({"item": ["a"], "vector": ["[1, 2]"]}), r"column 'vector' holds string; it must hold lists of numbers"),
        (pa.table({"item": ["a"], "vector": [["x"]]}), r"column 'vector' holds list<.*string>; it must hold lists of n"),
        (pa.table({"item": [1.5], "vector": [[1.0]]}), r"column 'item' holds double; it must hold text or whole numbers"),
        (pa.table({"item": ["a"], "vector": pa.array([None], pa.list_(pa.float32()))}), r"none of its 1 rows has a vector"),
        (pa.table({"item": pa.array([], pa.string()), "vector": pa.array([], pa.list_(pa.float32()))}), "holds no item"),
        (pa.table({"item": ["a"], "vector": [[float("nan")]]}), r"none of its 1 rows can be used: vector holds NaN or inf"),
    ],
)
def test_files_that_cannot_be_used_are_one_line(tmp_path, content, message):
    root = items_folder(tmp_path / "in", None)
    if isinstance(content, bytes):
        (root / "items.parquet").write_bytes(content)
    elif content is not None:
        pq.write_table(content, root / "items.parquet")
    with pytest.raises(BadInput, match=message) as caught:
        built(root)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cohort").exists()


def test_a_file_that_breaks_off_is_one_line(tmp_path):
    root = items_folder(tmp_path / "in", np.random.default_rng(0).normal(size=(3000, 4)).tolist(), [*map(str, range(3000))])
    path = root / "items.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:2000] + b"\xff" * 20_000 + whole[22_000:])
    with pytest.raises(BadInput, match=r"items\.parquet: breaks off") as caught:
        built(root)
    assert "\n" not in str(caught.value)


def test_the_wrong_source_is_told_the_right_one(tmp_path):
    vectors, photos = items_folder(tmp_path / "v", GOOD), items_folder(tmp_path / "p", None)
    (photos / "photos").mkdir()
    with pytest.raises(BadInput, match=r"items\.parquet is there, which data.source: features reads"):
        build_cohort("folder", vectors, tmp_path / "out", now=NOW)
    with pytest.raises(BadInput, match=r"photos/ is there, which data.source: folder reads"):
        build_cohort("features", photos, tmp_path / "out", now=NOW)


def test_columns_of_csv_files_are_called_item(tmp_path):
    root = items_folder(tmp_path / "in", GOOD, ratings_csv="rater_id,health\ne,5\n")
    with pytest.raises(BadInput, match=r"ratings\.csv, line 1: column 'item' is missing; found rater_id, health"):
        built(root)


def test_what_is_sent_or_shown_photos_says_that_there_are_none(tmp_path):
    _, out = built(items_folder(tmp_path / "in", GOOD))
    with pytest.raises(BadInput, match=r"an endpoint is sent photos, and items of this cohort are vectors"):
        read_drafts("http://localhost:1/", out / "photos", tmp_path / "kept")
    (tmp_path / "drafts.csv").write_text("photo,health\na,3\n")
    drafts, _ = read_drafts(str(tmp_path / "drafts.csv"), out / "photos", tmp_path / "kept")  # a file of names will do
    assert drafts.scores[0, 1] == 3


def test_vectors_pass_through_and_are_keyed_by_content(tmp_path):
    summary, out = built(tastes(tmp_path / "in"))
    embeddings = tmp_path / "embeddings"
    assert pass_vectors(out / "photos", embeddings) == {"kept": 0, "computed": 90}
    (first,) = shard_paths(embeddings)
    assert pass_vectors(out / "photos", embeddings) == {"kept": 90, "computed": 0}
    assert shard_paths(embeddings) == [first]
    write_table(empty("mesh"), tmp_path / "mesh/none.parquet")
    inputs = read_inputs(tmp_path / "mesh", embeddings)
    names = {row["photo_id"]: row["name"] for row in read_shards(out / "photos", ["photo_id", "name"]).to_pylist()}
    rows = stored(out)
    for k, photo in enumerate(inputs.ids):
        assert inputs.vector[k, 0].tolist() == inputs.vector[k, 1].tolist() == rows[names[photo]]
    assert not inputs.visible.any() and inputs.vertices.numel() == 0
    (key,) = set(read_table(first)["encoder"].to_pylist())
    assert key.startswith(VECTORS)
    path = tmp_path / "in/items.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "vector", pa.array(table["vector"].to_pylist()[::-1])), path)
    built(tmp_path / "in")
    assert pass_vectors(out / "photos", embeddings) == {"kept": 0, "computed": 90}
    assert first not in shard_paths(embeddings)
