"""The paper's layout, with one of everything that can be wrong in it, from the folder to the tables.

`<stage>/<expert>/train.csv, val.csv` with tiny made-up JPEGs; the columns are those of the paper's download.
"""

import os
from pathlib import Path

import pytest
from cohort_cases import NOW, aside, labels, picture

from tasks.cohort import BadInput, build_cohort
from tasks.tables import read_table

HEAD = "pic_name,score_appearance,score_health,score_posture,preference_score_list,bmi,people_answer\n"
VECTOR = '"[0.1, 0.25, 0, 1, 0.75]"'


def tree(root: Path, photos: int = 4, **tables: str | bytes) -> Path:
    """root/images/1.jpg, 2.jpg, ... and the given tables; `pretrain__e1__train` is pretrain/e1/train.csv."""
    (root / "images").mkdir(parents=True)
    for number in range(1, photos + 1):
        (root / "images" / f"{number}.jpg").write_bytes(picture(number, quality=90))
    for name, text in tables.items():
        path = root.joinpath(*name.split("__")).with_suffix(".csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def built(root: Path) -> tuple[dict, Path]:
    out = root.parent / "cohort"
    return build_cohort("physiqueaa50k", root, out, now=NOW), out


def preferences(out: Path) -> list[tuple]:
    rows = read_table(out / "preferences.parquet").to_pylist()
    found = [(row["rater_id"], row["preference"], dict(row["answers"])) for row in rows]
    return sorted(found, key=lambda row: (row[0], str(row[1]), len(row[2])))


def test_every_row_arrives_with_the_vector_that_was_given(tmp_path):
    root = tree(
        tmp_path / "in",
        pretrain__e1__train=HEAD + f"1.jpg,10,0,6.5,{VECTOR},21.5,often\n2.jpg,1,2,3,,,\n",
        pretrain__e1__val=HEAD + "3.jpg,4,,,[0;0;0;0;0],,\n",
        finetune__u1__train=HEAD + f"1.jpg,5,6,7,{VECTOR},30,\n4.jpg,,,,{VECTOR},,\n",
    )
    summary, out = built(root)
    assert labels(out) == [
        ("images/1.jpg", "e1", 10, 0, 6.5),
        ("images/1.jpg", "u1", 5, 6, 7),
        ("images/2.jpg", "e1", 1, 2, 3),
        ("images/3.jpg", "e1", 4, None, None),
    ]
    assert preferences(out) == [
        ("e1", pytest.approx([0.1, 0.25, 0, 1, 0.75]), {"bmi": "21.5", "people_answer": "often"}),
        ("u1", pytest.approx([0.1, 0.25, 0, 1, 0.75]), {}),  # of 4.jpg, which has no score
        ("u1", pytest.approx([0.1, 0.25, 0, 1, 0.75]), {"bmi": "30"}),
    ]
    assert aside(out) == [
        "pretrain/e1/val.csv, line 2, preference_score_list: "
        "not a JSON list of 5 numbers from 0 to 1 ('[0;0;0;0;0]')"
    ]
    counts = summary["counts"]
    assert (counts["experts"], counts["users"], counts["ratings_blank"], counts["preferences"]) == (1, 1, 1, 3)


CELLS = [
    ("1.jpg,nan,5,5,,,", "appearance: not a number ('nan')"),
    ("2.jpg,5,inf,5,,,", "health: not a number ('inf')"),
    ("3.jpg,5,5,10.01,,,", "posture: outside the scale 0 to 10 ('10.01')"),
    ("4.jpg,-1,5,5,,,", "appearance: outside the scale 0 to 10 ('-1')"),
    ("5.jpg,5,five,5,,,", "health: not a number ('five')"),
    ("6.jpg,5,5,5,,heavy,", "bmi: not a number above 0 ('heavy')"),
    ("7.jpg,5,5,5,,-3,", "bmi: not a number above 0 ('-3')"),
]
ROWS = [
    ("1.jpg,5,5,5,,,", "photo: second rating of the same rater, photo and time ('kept: pretrain/e1/train.csv, line 2')"),
    ("2.jpg,5,,5,,,", "photo: repeated rating ('kept: pretrain/e1/train.csv, line 3')"),
    ("lost.jpg,5,5,5,,,", "photo: unknown photo ('lost.jpg')"),
    ("../../images/8.jpg,5,5,5,,,", "photo: unknown photo ('../../images/8.jpg')"),
    ("..\\8.jpg,5,5,5,,,", "photo: unknown photo ('../8.jpg')"),
    ("/etc/passwd,5,5,5,,,", "photo: unknown photo ('/etc/passwd')"),
    (",5,5,5,,,", "photo: blank photo ('')"),
    ("8.jpg,5,5", "row: wrong number of cells ('3 where the header has 7: 8.jpg,5,5')"),
]


def test_bad_cells_and_rows_cost_themselves_only(tmp_path):
    rows = CELLS + ROWS
    text = HEAD + "".join(row + "\n" for row, _ in rows) + "8.jpg,8,8,8,,,\n"
    summary, out = built(tree(tmp_path / "in", photos=8, pretrain__e1__train=text))
    assert aside(out) == [f"pretrain/e1/train.csv, line {line}, {reason}" for line, (_, reason) in enumerate(rows, 2)]
    found = labels(out)
    assert [row[0] for row in found] == [f"images/{n}.jpg" for n in range(1, 9)]
    assert sum(score is None for row in found for score in row[2:]) == 5
    counts = summary["counts"]
    assert counts["ratings_in"] == counts["ratings_out"] + counts["ratings_blank"] + counts["ratings_set_aside"] == 15


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch evaluated')",
        "[0.1, 0.2, 0.3, 0.4]",
        "[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]",
        "[0.1, 0.2, 0.3, 0.4, 1.5]",
        "[0.1, 0.2, 0.3, 0.4, -0.1]",
        "[0.1, 0.2, 0.3, 0.4, NaN]",
        "[0.1, 0.2, 0.3, 0.4, 1e999]",
        "[0.1, 0.2, 0.3, 0.4, true]",
        "[0.1, 0.2, 0.3, 0.4, '0.5']",
        "[0.1, 0.2, 0.3, 0.4, 0.5",
        "(0.1, 0.2, 0.3, 0.4, 0.5)",
        '{"0": 0.1}',
        "0.5",
        "[" * 100_000,
    ],
    ids=lambda text: text[:32],
)
def test_what_is_no_vector_is_set_aside_and_never_run(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    cell = '"' + text.replace('"', '""') + '"'
    _, out = built(tree(tmp_path / "in", pretrain__e1__train=HEAD + f"1.jpg,5,5,5,{cell},,\n"))
    (line,) = aside(out)
    assert line.startswith(
        "pretrain/e1/train.csv, line 2, preference_score_list: not a JSON list of 5 numbers from 0 to 1"
    )
    assert labels(out) == [("images/1.jpg", "e1", 5, 5, 5)]
    assert preferences(out) == []
    assert not (tmp_path / "evaluated").exists()


BAD_TABLES = {
    "empty": (b"", "is empty; it must start with a header line (pic_name, ...)"),
    "blank": (b"\xef\xbb\xbf\r\n\r\n", "is empty; it must start with a header line (pic_name, ...)"),
    "no_photo": (
        b"name,score_health\n1.jpg,5\n",
        "line 1: column 'pic_name' is missing; found name, score_health, needed pic_name",
    ),
    "no_scores": (
        b"pic_name,bmi\n1.jpg,20\n",
        "line 1: no column holds scores; at least one of score_appearance, score_health, score_posture is needed",
    ),
    "twice": (b"pic_name,score_health,score_health\n1.jpg,5,5\n", "line 1: column 'score_health' is there twice; keep one"),
    "picture": (picture(1, quality=90), "line 1: column 'pic_name' is missing"),
    "utf16_without_bom": ((HEAD + "1.jpg,5,5,5,,,\n").encode("utf-16-le"), "line 1: column 'pic_name' is missing"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_table_that_cannot_be_used_stops_no_other(tmp_path, name):
    raw, reason = BAD_TABLES[name]
    root = tree(tmp_path / "in", pretrain__e1__train=HEAD + "1.jpg,5,5,5,,,\n", pretrain__e2__train=raw)
    summary, out = built(root)
    assert labels(out) == [("images/1.jpg", "e1", 5, 5, 5)]
    (row,) = read_table(out / "quarantine.parquet").to_pylist()
    assert (row["file"], row["row"], row["field"]) == ("pretrain/e2/train.csv", 1, "file")
    assert row["reason"] == "table cannot be used"
    assert row["value"].startswith(reason)
    assert summary["counts"]["files"] == summary["counts"]["photos"] == 4  # tables are no photos


def test_nothing_but_bad_tables_is_one_line(tmp_path):
    root = tree(tmp_path / "in", pretrain__e1__train="", pretrain__e1__val="x\n1\n")
    message = r"^in: none of the 2 tables can be used; the first: pretrain/e1/train\.csv: is empty"
    with pytest.raises(BadInput, match=message):
        built(root)
    assert not (tmp_path / "cohort").exists()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(tmp_path, encoding):
    text = HEAD.replace("\n", "\r\n") + "größe.jpg,5,5,5,,,déjà\r\n"
    root = tree(tmp_path / "in", pretrain__e1__train=text.encode(encoding))
    (root / "images" / "größe.jpg").write_bytes(picture(9, quality=90))
    _, out = built(root)
    assert labels(out) == [("images/größe.jpg", "e1", 5, 5, 5)]
    assert preferences(out) == [("e1", None, {"people_answer": "déjà"})]
    assert aside(out) == []


def test_unknown_columns_are_told_once_per_table(tmp_path):
    head = HEAD.replace("pic_name", "pic_name,photo,charm")
    _, out = built(tree(tmp_path / "in", pretrain__e1__train=head + "1.jpg,2.jpg,9,5,6,7,,,\n"))
    assert labels(out) == [("images/1.jpg", "e1", 5, 6, 7)]
    assert aside(out) == [
        "pretrain/e1/train.csv, line 1, charm: column is not used",
        "pretrain/e1/train.csv, line 1, photo: column is not used",
    ]


def test_missing_columns_are_told_once_per_table(tmp_path):
    head, row = "pic_name,score_posture,bmi\n", "1.jpg,5,20\n"
    _, out = built(tree(tmp_path / "in", pretrain__e1__train=head + row))
    assert labels(out) == [("images/1.jpg", "e1", None, None, 5)]
    assert aside(out) == [
        f"pretrain/e1/train.csv, line 1, {column}: column is missing, taken as blank"
        for column in ("preference_score_list", "score_appearance", "score_health")
    ]


def test_tables_in_the_wrong_place_are_told(tmp_path):
    row = HEAD + "1.jpg,5,5,5,,,\n"
    root = tree(tmp_path / "in", pretrain__e1__train=row, pretrain__train=row, pretrain__e1__test=row)
    (root / "pretrain/e1/loop").symlink_to(root)
    summary, _ = built(root)
    assert summary["notes"][0] == (
        "2 CSV files are no <stage>/<expert>/train.csv or val.csv, not read: pretrain/e1/test.csv, pretrain/train.csv"
    )


def test_photos_with_the_same_bytes_are_one_photo(tmp_path):
    rows = "1.jpg,1,1,1,,,\ncopy.jpg,2,2,2,,,\n"
    root = tree(tmp_path / "in", pretrain__e1__train=HEAD + rows, finetune__u1__train=HEAD + "copy.jpg,3,3,3,,,\n")
    (root / "images" / "copy.jpg").write_bytes(picture(1, quality=90))
    summary, out = built(root)
    assert labels(out) == [("images/1.jpg", "e1", 1, 1, 1), ("images/1.jpg", "u1", 3, 3, 3)]
    assert aside(out) == [
        "in/images/copy.jpg, photo: same bytes as another photo ('images/1.jpg')",
        "pretrain/e1/train.csv, line 3, photo: second rating of the same rater, photo and time "
        "('kept: pretrain/e1/train.csv, line 2')",
    ]
    assert summary["counts"]["duplicates"] == 1


def test_a_huge_cell_costs_its_row(tmp_path):
    text = HEAD + "1.jpg,5,5,5,,," + "x" * 10_000_000 + "\n2.jpg,5,5,5,,,\n"
    _, out = built(tree(tmp_path / "in", pretrain__e1__train=text))
    assert [row[0] for row in labels(out)] == ["images/2.jpg"]
    (line,) = aside(out)
    assert line.startswith("pretrain/e1/train.csv, line 2, row: cell too long ('1.jpg,5,5,5,,,xxx")
    assert len(line) < 300


def test_odd_things_in_the_tree(tmp_path):
    root = tree(tmp_path / "in", pretrain__e1__train=HEAD + "1.jpg,5,5,5,,,\n", pretrain__e3__VAL="")
    (root / "pretrain/e3/VAL.csv").rename(root / "pretrain/e3/Val.CSV")
    (root / "pretrain/e3/Val.CSV").write_text(HEAD + "2.jpg,6,6,6,,,\n")
    (root / "pretrain/e1/.ipynb_checkpoints").mkdir()
    (root / "pretrain/.ipynb_checkpoints").mkdir()
    (root / "pretrain/.ipynb_checkpoints/train.csv").write_text(HEAD + "1.jpg,9,9,9,,,\n")
    (root / "pretrain/e2").mkdir()
    os.mkfifo(root / "pretrain/e2/train.csv")
    (root / "pretrain/e4/train.csv").mkdir(parents=True)
    latin = Path(os.fsdecode(os.fsencode(root / "pretrain") + b"/caf\xe9"))
    latin.mkdir()
    (latin / "train.csv").write_text(HEAD + "1.jpg,9,9,9,,,\n")
    _, out = built(root)
    assert labels(out) == [("images/1.jpg", "e1", 5, 5, 5), ("images/2.jpg", "e3", 6, 6, 6)]
    assert aside(out) == [
        "in/pretrain/.ipynb_checkpoints, photo: hidden file",
        r"in/pretrain/caf\xe9, photo: file name is not UTF-8",
        "in/pretrain/e1/.ipynb_checkpoints, photo: hidden file",
        "in/pretrain/e2/train.csv, photo: not a regular file",
        "pretrain/e4/train.csv, line 1, file: table cannot be used ('cannot be read (Is a directory)')",
    ]


def test_two_folders_are_never_one_rater(tmp_path):
    row = HEAD + "1.jpg,5,5,5,,,\n"
    root = tree(tmp_path / "in", a__e__train=row, b__e__train=row)
    (root / "c/a-e").mkdir(parents=True)
    (root / "c/a-e/train.csv").write_text(row)
    with pytest.raises(BadInput, match="in: two folders would be the same rater; rename one of a-e, a-e, b-e"):
        built(root)


def test_the_same_tree_gives_the_same_bytes_from_inside_too(tmp_path, monkeypatch):
    root = tree(tmp_path / "in", pretrain__e1__train=HEAD + f"1.jpg,5,5,5,{VECTOR},,\nlost.jpg,1,1,1,,,\n")
    _, out = built(root)
    first = {path.name: path.read_bytes() for path in out.rglob("*.parquet")}
    monkeypatch.chdir(root)
    build_cohort("physiqueaa50k", ".", tmp_path / "again", now=NOW)
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").rglob("*.parquet")} == first
