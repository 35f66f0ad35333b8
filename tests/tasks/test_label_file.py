"""Labels made elsewhere, in a file: good ones arrive on 0..10, bad ones are named by file, row and field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from label_cases import cohort

from tasks.drafts import Drafts, read_drafts
from tasks.intake.quarantine import BadInput, as_lines
from tasks.schemas import SCHEMAS


@pytest.fixture
def ids(tmp_path: Path) -> dict[str, str]:
    return cohort(tmp_path, 5, shard=2)


def read(folder: Path, name: str = "labels.csv", **options) -> tuple[Drafts, list[str]]:
    drafts, aside = read_drafts(str(folder / name), folder / "photos", folder / "cache", **options)
    assert aside.schema == SCHEMAS["quarantine"]
    return drafts, [line.removeprefix(f"{folder.as_posix()}/") for line in as_lines(aside, 100)]


def written(folder: Path, text: str) -> Path:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return folder


def test_names_and_ids_arrive_in_the_cohorts_order(tmp_path, ids):
    text = (
        "photo,appearance,health,posture,posture_spread\n"
        f"{ids['3.jpg']},1,2,3,0.5\n"
        f"{ids['4.jpg'].upper()},9,,,\n"
        "photos/0.JPG,10,0,5.5,\n"
        "1,,4.25,,\n"
    )
    drafts, aside = read(written(tmp_path, text))
    assert aside == []
    assert drafts.photo_ids == [ids[f"{i}.jpg"] for i in (0, 1, 3, 4)]
    nan = np.nan
    np.testing.assert_array_equal(drafts.scores, [[10, 0, 5.5], [nan, 4.25, nan], [1, 2, 3], [9, nan, nan]])
    np.testing.assert_array_equal(drafts.spread, [[nan] * 3, [nan] * 3, [nan, nan, 0.5], [nan] * 3])
    assert drafts.scores.dtype == drafts.spread.dtype == np.float64


def test_another_scale_is_brought_to_0_to_10(tmp_path, ids):
    text = "photo,appearance,health,posture,appearance_spread\n0.jpg,1,7,4,3\n1.jpg,0.5,2.5,7.1,6.5\n2.jpg,7,1,1,6\n"
    drafts, aside = read(written(tmp_path, text), scale=(1, 7))
    np.testing.assert_allclose(drafts.scores, [[0, 10, 5], [np.nan, 2.5, np.nan], [10, 0, 0]])
    np.testing.assert_allclose(drafts.spread[:, 0], [5, np.nan, 10])
    assert aside == [
        "labels.csv, line 3, appearance: outside the scale 1 to 7 ('0.5')",
        "labels.csv, line 3, appearance_spread: outside 0 to 6 ('6.5')",
        "labels.csv, line 3, posture: outside the scale 1 to 7 ('7.1')",
    ]


@pytest.mark.parametrize("scale", [(0.1, 0.7), (-1.3, 1.1), (1, 100)])
def test_the_ends_of_a_scale_are_0_and_10_exactly(tmp_path, ids, scale):
    low, high = scale
    text = f"photo,appearance,health,posture\n0.jpg,{low},{high},{(low + high) / 2}\n"
    drafts, aside = read(written(tmp_path, text), scale=scale)
    assert aside == [] and drafts.scores[0, :2].tolist() == [0, 10]
    assert drafts.scores[0, 2] == pytest.approx(5)


def test_what_is_wrong_is_named_and_the_rest_goes_on(tmp_path, ids):
    text = (
        "Photo,Appearance,Health,Posture,health_spread,Notes\n"
        "0.jpg,nan,11,5,-1,nice\n"  # 2
        "9.jpg,5,5,5,,\n"  # 3
        ",5,5,5,,\n"  # 4
        "1.jpg,,,,,\n"  # 5: says nothing
        "1.jpg,5,,inf,1,\n"  # 6
        "1.jpg,5,,,,\n"  # 7
        f"{ids['1.jpg']},6,,,,\n"  # 8
        "2.jpg,ten,1e999,-0.01,,\n"  # 9
        "3.jpg,1,2\n"  # 10
        '4.jpg,"3,5",2,1,0,\n'  # 11
    )
    drafts, aside = read(written(tmp_path, text))
    assert aside == [
        "labels.csv, line 1, notes: unknown column, not read "
        "('known: photo, appearance, health, posture, appearance_spread, health_spread, posture_spread')",
        "labels.csv, line 2, appearance: not a number ('nan')",
        "labels.csv, line 2, health: outside the scale 0 to 10 ('11')",
        "labels.csv, line 2, health_spread: outside 0 to 10 ('-1')",
        "labels.csv, line 3, photo: unknown photo ('9.jpg')",
        "labels.csv, line 4, photo: blank photo ('')",
        "labels.csv, line 6, health_spread: spread without a score ('1')",
        "labels.csv, line 6, posture: not a number ('inf')",
        "labels.csv, line 7, photo: repeated label ('kept: line 6')",
        "labels.csv, line 8, photo: second label of the same photo ('kept: line 6')",
        "labels.csv, line 9, appearance: not a number ('ten')",
        "labels.csv, line 9, health: not a number ('1e999')",
        "labels.csv, line 9, posture: outside the scale 0 to 10 ('-0.01')",
        "labels.csv, line 10, row: wrong number of cells ('3 where the header has 6: 3.jpg,1,2')",
        "labels.csv, line 11, appearance: not a number ('3,5')",
    ]
    assert drafts.photo_ids == [ids[f"{i}.jpg"] for i in (0, 1, 4)]
    np.testing.assert_array_equal(drafts.scores[:, 0], [np.nan, 5, np.nan])


def test_a_missing_dimension_is_told_and_a_missing_spread_is_not(tmp_path, ids):
    drafts, aside = read(written(tmp_path, "photo,health,posture_spread\n0.jpg,3,1\n"))
    assert drafts.scores[0, 1] == 3 and np.isnan(drafts.spread).all()
    assert aside == [
        "labels.csv, line 1, appearance: column is missing: no scores of this dimension",
        "labels.csv, line 1, posture: column is missing: no scores of this dimension",
        "labels.csv, line 2, posture_spread: spread without a score ('1')",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; it must start with a header line"),
        ("name,health\n0.jpg,1\n", "line 1: column 'photo' is missing; found name, health"),
        ("photo,beauty\n0.jpg,1\n", "no column holds scores; at least one of appearance, health, posture is needed"),
        ("photo,health,health\n0.jpg,1,2\n", "line 1: column 'health' is there twice"),
        (
            "photo,health,appearance,posture\n0.jpg,55,61,70\n1.jpg,90,,\n",
            r"no draft of any of the 5 photos; outside the scale 0 to 10 \(4\)",
        ),
        ("photo,health,appearance,posture\n0.jpg,,,\n", "no draft of any of the 5 photos; all are blank"),
    ],
)
def test_a_file_of_no_use_is_one_line(tmp_path, ids, text, message):
    with pytest.raises(BadInput, match=message) as error:
        read(written(tmp_path, text))
    assert "labels.csv" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("labeller", ["builtin", "labels.json", "ftp://host/labels", "gpt", "", "csv"])
def test_other_labellers_are_told_what_would_be_right(tmp_path, ids, labeller):
    with pytest.raises(BadInput, match=r"it must be a \.csv or \.parquet file, or the http\(s\):// address"):
        read_drafts(labeller, tmp_path / "photos", tmp_path / "cache")


@pytest.mark.parametrize("scale", [(10, 0), (1, 1), (0, float("nan")), (0, float("inf"))])
def test_a_scale_rises(tmp_path, ids, scale):
    with pytest.raises(BadInput, match="must be two numbers, the lowest and the highest score"):
        read(written(tmp_path, "photo,health\n0.jpg,1\n"), scale=scale)


def test_files_and_cohorts_that_are_not_there(tmp_path, ids):
    for name in ("none.csv", "none.parquet"):
        with pytest.raises(BadInput, match=rf"{name}: cannot be read \(No such file or directory\)"):
            read(tmp_path, name)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(BadInput, match=r"folder\.parquet: (cannot be read|is not a Parquet file)"):
        read(tmp_path, "folder.parquet")
    with pytest.raises(BadInput, match="holds no photo; run the stage cohort first"):
        read_drafts("labels.csv", tmp_path / "nowhere", tmp_path / "cache")


def test_parquet_gives_what_csv_gives(tmp_path, ids):
    table = pa.table(
        {
            "photo": pa.array(["2.jpg", ids["0.jpg"], "1.jpg", "7.jpg", "2.jpg", None]).dictionary_encode(),
            "appearance": pa.array([6.1, None, float("nan"), 5.0, 6.1, 1.0], pa.float32()),
            "health": pa.array([7, 3, 12, 5, None, 1], pa.int8()),
            "posture": pa.array(["5.5", " 4 ", "", "5", "", "1"]),
            "health_spread": pa.array([0.25, None, None, None, None, None], pa.float16()),
            "why": pa.array([["a"], ["b"], None, None, None, None]),
        }
    )
    pq.write_table(table, tmp_path / "labels.parquet")
    drafts, aside = read(tmp_path, "labels.parquet")
    assert aside == [
        "labels.parquet, why: unknown column, not read "
        "('known: photo, appearance, health, posture, appearance_spread, health_spread, posture_spread')",
        "labels.parquet, line 3, appearance: not a number ('nan')",
        "labels.parquet, line 3, health: outside the scale 0 to 10 ('12')",
        "labels.parquet, line 4, photo: unknown photo ('7.jpg')",
        "labels.parquet, line 5, photo: second label of the same photo ('kept: line 1')",
        "labels.parquet, line 6, photo: blank photo ('')",
    ]
    assert drafts.photo_ids == [ids["0.jpg"], ids["2.jpg"]]
    np.testing.assert_array_equal(drafts.scores, [[np.nan, 3, 4], [6.1, 7, 5.5]])
    np.testing.assert_array_equal(drafts.spread, [[np.nan] * 3, [np.nan, 0.25, np.nan]])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"photo": ["0.jpg"], "health": [True]}, "column 'health' holds bool; it must hold numbers"),
        ({"photo": [["0.jpg"]], "health": [1]}, r"column 'photo' holds list<.*>; it must hold text"),
        ({"photo": [b"\xff\xfe"], "health": [1]}, "column 'photo' cannot be read"),
        ({"name": ["0.jpg"], "health": [1]}, "column 'photo' is missing; found name, health"),
        ({"photo": ["0.jpg"], "Health": [1], "health ": [1]}, "column 'health' is there twice"),
    ],
)
def test_parquet_of_no_use_is_one_line(tmp_path, ids, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
    with pytest.raises(BadInput, match=message):
        read(tmp_path, "labels.parquet")


def test_what_is_no_parquet_is_told(tmp_path, ids):
    (tmp_path / "labels.parquet").write_text("photo,health\n0.jpg,1\n")
    with pytest.raises(BadInput, match=r"labels\.parquet: is not a Parquet file"):
        read(tmp_path, "labels.parquet")
