"""Readers of data sources: CSV as spreadsheets write it, settings, the paper's layout, and bad ones."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.intake.columns import moment, numbers, vector
from tasks.intake.csv_file import read_csv
from tasks.intake.quarantine import BadInput, Quarantine, as_lines
from tasks.intake.ratings import likert_scale
from tasks.sources import read_source


def read(tmp_path: Path, raw: bytes | str, required: tuple[str, ...] = ("rater_id",)):
    """(rows without file, lines of the quarantine)."""
    path = tmp_path / "x.csv"
    path.write_bytes(raw.encode() if isinstance(raw, str) else raw)
    aside = Quarantine()
    table = read_csv(path, "x.csv", aside, required)
    assert set(table["file"].to_pylist()) <= {"x.csv"}
    return table.drop_columns(["file"]).to_pylist(), as_lines(aside.table())


@pytest.mark.parametrize(
    "raw",
    [
        "rater_id,photo\nJosé, 1.jpg \n\nr2,2.jpg".encode(),
        "\ufeffRater_ID ,photo\r\nJosé,1.jpg\r\n\r\nr2,2.jpg\r\n".encode(),
        "rater_id;photo\rJosé;1.jpg\r;\rr2;2.jpg\r".encode(),
        "rater_id\tphoto\nJosé\t1.jpg\n\nr2\t2.jpg\n".encode("latin-1"),
        'rater_id,photo,,\n"José",1.jpg,,\n,,,\nr2,2.jpg,,\n'.encode(),
        "rater_id,photo\nJosé,1.jpg\n\nr2,2.jpg".encode("utf-16"),
    ],
    ids=["utf-8", "bom+crlf", "semicolon+cr", "tab+latin-1", "spreadsheet", "utf-16"],
)
def test_csv_as_spreadsheets_write_it(tmp_path, raw):
    rows, aside = read(tmp_path, raw)
    assert rows == [
        {"rater_id": "José", "photo": "1.jpg", "line": 2},
        {"rater_id": "r2", "photo": "2.jpg", "line": 4},
    ]
    assert aside == []


def test_decimal_comma_where_the_semicolon_separates(tmp_path):
    rows, _ = read(tmp_path, "rater_id;appearance\na;3,5\n")
    assert rows[0]["appearance"] == "3.5"


def test_broken_rows_cost_themselves_only(tmp_path):
    text = 'rater_id,photo\na,1\nb,"2\nc,3\nd,4,5\ne\nf,"6" x\n"g\nh",7\ni,8\n'
    rows, aside = read(tmp_path, text)
    assert [(row["rater_id"], row["line"]) for row in rows] == [("a", 2), ("c", 4), ("g\nh", 8), ("i", 10)]
    assert aside == [
        "x.csv, line 3, row: broken quoting ('b,\"2')",
        "x.csv, line 5, row: wrong number of cells ('3 where the header has 2: d,4,5')",
        "x.csv, line 6, row: wrong number of cells ('1 where the header has 2: e')",
        "x.csv, line 7, row: broken quoting ('f,\"6\" x')",
    ]


def test_an_open_quote_at_the_end_swallows_nothing(tmp_path):
    rows, aside = read(tmp_path, 'rater_id,photo\na,"1\n' + "".join(f"r{n},x\n" for n in range(500)))
    assert len(rows) == 500
    assert rows[0]["line"] == 3
    assert len(aside) == 1


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", r"x\.csv: is empty"),
        (b"\xef\xbb\xbf\r\n \n", r"x\.csv: is empty"),
        (
            b"name,photo\n",
            r"x\.csv, line 1: column 'rater_id' is missing; found name, photo, needed rater_id",
        ),
        (b"rater_id,photo,Photo\n", r"x\.csv, line 1: column 'photo' is there twice"),
        (b"rater_id,line\n", r"x\.csv, line 1: column 'line' is reserved"),
        (b'name,"two\nlines"\n', r"x\.csv, line 1: column 'rater_id' is missing; found name, two lines, needed"),
    ],
)
def test_a_csv_that_cannot_be_used(tmp_path, raw, message):
    with pytest.raises(BadInput, match=message) as caught:
        read(tmp_path, raw)
    assert "\n" not in str(caught.value)


def test_numbers_are_plain_decimals():
    text = ["5", "+.5", "1e1", "", "nan", "inf", "0x10", "1_0", "five", "1e999", "- 3", "٣"]
    values, bad = numbers(pa.array(text))
    assert bad.tolist() == [False] * 4 + [True] * 8
    np.testing.assert_array_equal(values[:3], [5, 0.5, 10])
    assert np.isnan(values[3:]).all()


@pytest.mark.parametrize("text", ["[1, 2, 3, 4, 5]", "1 2 3 4 5", "1;2;3;4;5", "[1. 2. 3. 4. 5.]", "(1,2, 3 ,4,5)"])
def test_preference_vectors(text):
    assert vector(text) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("text", ["", "[1,2,3,4]", "[1,2,3,4,nan]", "[1,2,3,4,1e99]", "__import__('os').getcwd()"])
def test_what_is_no_preference_vector(text):
    assert vector(text) is None


def test_dates():
    assert moment("2026-05-01").isoformat() == "2026-05-01T00:00:00"
    assert moment("2026-05-01 10:30:00+02:00").utcoffset().total_seconds() == 7200
    assert moment("2026-05-01T10:30:00Z").tzinfo is not None
    for text in ("", "now", "01.05.2026", "2026-13-01", "2026-05-01T25:00", "20260501", "2026", "0001-01-01T00:00+14:00"):
        assert moment(text) is None


def test_a_likert_scale_is_seen_only_where_there_is_no_doubt():
    def of(scores):
        return likert_scale(pa.table({"appearance": [str(score) for score in scores]}))

    assert of([*range(1, 8)] * 200) == (1, 7)
    assert of([*range(1, 6)] * 200) == (1, 5)
    assert of([*range(1, 8)] * 10) is None  # too few to tell
    assert of([*range(8)] * 200) is None
    assert of([*range(1, 7), 7.5] * 200) is None


def a_folder(root: Path, **files: str) -> Path:
    """A folder with one photo and one rating; `files` adds or replaces (None removes)."""
    (root / "photos").mkdir(parents=True)
    (root / "photos" / "a.jpg").write_bytes(b"a")
    contents = {"ratings_csv": "rater_id,photo,health\nr,a.jpg,5\n"} | files
    for name, text in contents.items():
        if text is not None:
            (root / name.replace("_", ".")).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"ratings_csv": None},
            r"ratings\.csv: no such file in .*; its columns are rater_id,photo,appearance",
        ),
        ({"ratings_csv": "rater_id,photo\nr,a.jpg\n"}, r"ratings\.csv, line 1: no column holds scores"),
        ({"ratings_csv": "rater_id,health\nr,5\n"}, r"ratings\.csv, line 1: column 'photo' is missing"),
        ({"ratings_csv": "rater_id,photo,health\n"}, "no rating could be read"),
        ({"raters_csv": "id,role\nr,user\n"}, r"raters\.csv, line 1: column 'rater_id' is missing"),
        ({"feedback_csv": "event_id,user_id\n"}, r"feedback\.csv, line 1: column 'photo' is missing"),
        (
            {"cohort_yaml": "scale: [7, 1]"},
            r"cohort\.yaml, scale: \[7, 1\] is not a scale; .* as in \[1, 7\]",
        ),
        ({"cohort_yaml": "scale: wide"}, r"cohort\.yaml, scale: 'wide' is not a scale"),
        ({"cohort_yaml": "scal: [1, 7]"}, r"cohort\.yaml: 'scal' is unknown; did you mean 'scale'\?"),
        ({"cohort_yaml": "simulated: maybe"}, r"cohort\.yaml, simulated: 'maybe' is neither true nor false"),
        ({"cohort_yaml": "scale: [1, 7"}, r"cohort\.yaml: is not YAML"),
        ({"cohort_yaml": "- 1"}, r"cohort\.yaml: must be lines of key: value"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, files, message):
    with pytest.raises(BadInput, match=message) as caught:
        read_source("folder", a_folder(tmp_path / "f", **files))
    assert "\n" not in str(caught.value)


def test_places_that_hold_no_cohort(tmp_path):
    for source, path, message in (
        ("folder", tmp_path / "nowhere", "data.path: no such folder"),
        ("folder", tmp_path, "photos: no such folder"),
        ("physiqueaa50k", tmp_path, "no <stage>/<expert>/train.csv"),
        ("video", tmp_path, "data.source: 'video' is unknown; it is one of mannequins, folder"),
    ):
        with pytest.raises(BadInput, match=message):
            read_source(source, path)
    a_folder(tmp_path / "f")
    (tmp_path / "f/photos/a.jpg").unlink()
    with pytest.raises(BadInput, match="photos: holds no photo"):
        read_source("folder", tmp_path / "f")


def test_settings_and_where_the_scale_comes_from(tmp_path):
    root = a_folder(tmp_path / "f", cohort_yaml="scale: [1, 5]\nname: ours\nlicence: CC0\n")
    cohort = read_source("folder", root)
    assert (cohort.name, cohort.scale, cohort.scale_from, cohort.simulated) == (
        "ours",
        (1, 5),
        "cohort.yaml",
        False,
    )
    assert cohort.notes == ["cohort.yaml: 'licence' is not used (known: scale, simulated, name)"]
    assert read_source("folder", root, scale=(0, 100)).scale_from == "data.scale"
    (root / "cohort.yaml").unlink()
    assert read_source("folder", root).scale == (0, 10)
    assert read_source("mannequins", root).simulated is True


def test_the_papers_layout(tmp_path):
    head = "pic_name,score_appearance,score_health,score_posture,preference_score_list,bmi,people_answer\n"
    for folder, file, rows in (
        ("pretrain/e1", "train.csv", 'p1.jpg,5,6,7,"[0.1, 0.2, 0, 1, 0.5]",21.5,often\n'),
        ("pretrain/e1", "val.csv", "p2.jpg,5,6,7,,,\n"),
        ("finetune/u1", "train.csv", "p1.jpg,1,2,,,,\n"),
        ("finetune/e1", "train.csv", "p3.jpg,1,2,3,,,\n"),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / file).write_text(head + rows)
    (tmp_path / "pretrain/e1/p1.jpg").write_bytes(b"1")
    (tmp_path / "pretrain/images").mkdir()
    (tmp_path / "pretrain/images/p2.jpg").write_bytes(b"2")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/deep").mkdir()
    (tmp_path / "images/deep/p3.jpg").write_bytes(b"3")
    (tmp_path / "images/p1.jpg").write_bytes(b"another p1")
    cohort = read_source("physiqueaa50k", tmp_path)
    assert cohort.raters.select(["rater_id", "role"]).to_pylist() == [
        {"rater_id": "finetune-e1", "role": "user"},
        {"rater_id": "u1", "role": "user"},
        {"rater_id": "pretrain-e1", "role": "expert"},
    ]
    seen = {(row["rater_id"], row["photo"]): row for row in cohort.ratings.to_pylist()}
    assert set(seen) == {
        ("pretrain-e1", "pretrain/e1/p1.jpg"),
        ("pretrain-e1", "pretrain/images/p2.jpg"),
        ("u1", "images/p1.jpg"),
        ("finetune-e1", "images/deep/p3.jpg"),
    }
    first = seen["pretrain-e1", "pretrain/e1/p1.jpg"]
    assert (first["appearance"], first["preference"], first["bmi"]) == ("5", "[0.1, 0.2, 0, 1, 0.5]", "21.5")
    assert (first["file"], first["line"]) == ("pretrain/e1/train.csv", 2)
    assert len(cohort.photos) == 4
    assert len(cohort.quarantine) == 0
