"""The spreadsheet on its way back: the intake's rules for CSV files, and nobody's drafts for somebody's opinion."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from exchange_cases import A, B, C, D, cohort, imported, told

from model.scores import DIMENSIONS
from tasks.exchange.history import imported_labels
from tasks.exchange.labels import export_labels
from tasks.intake.quarantine import BadInput
from tasks.reviewed import read_reviewed, write_reviewed
from tasks.tables import read_table

HEAD = "rater_id,photo,appearance,health,posture\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cohort(tmp_path)
    return tmp_path


def labels(folder: Path) -> dict[tuple[str, str], tuple]:
    rows = imported_labels(folder / "imported").to_pylist()
    return {(row["photo_id"], row["rater_id"]): tuple(row[d] for d in DIMENSIONS) for row in rows}


def test_there_and_back(folder, monkeypatch):
    monkeypatch.delenv("PHYSIQUE_REVIEWS", raising=False)
    export_labels("csv", folder / "drafts.csv", cohort=folder / "cohort", drafts=folder / "pseudo.parquet")
    text = (folder / "drafts.csv").read_text("utf-8")
    done = imported(folder, text, "csv", None)
    assert (done.read, done.usable) == (4, 0)  # nobody has looked at it: nothing is revised
    assert [line.split(", ")[2] for line in told(done)] == ["rater_id: blank rater ('')"] * 4
    signed = text.replace("\n,", "\nexpert-01,").replace("5.7,6.9", "6,")
    done = imported(folder, signed, "csv", None)
    assert (done.usable, done.added) == (4, 4) and told(done) == []
    assert labels(folder) == {
        (A, "expert-01"): (6, None, 10),
        (B, "expert-01"): (0, None, pytest.approx(4.2)),
        (C, "expert-01"): (3, 3, 3),
        (D, "expert-01"): (4, 4, 4),
    }
    row = imported_labels(folder / "imported").to_pylist()[0]
    assert (row["origin"], row["round"], row["at"]) == ("revised", 1, None)
    assert imported(folder, signed, "csv", None).added == 0
    write_reviewed(folder / "reviews", folder / "none.db", folder / "imported")
    assert read_reviewed(folder / "reviews")[0].num_rows == 4  # where experts are trained


def test_what_is_wrong_is_told_and_the_rest_goes_on(folder):
    done = imported(
        folder,
        HEAD + "expert-01,a.png,5,11,nan\n"  # 2
        "expert-01,../../etc/passwd,5,5,5\n"  # 3
        "Expert-02,MORE/B C&D.PNG,5,,\n"  # 4: good, as people write
        "stranger,a.png,5,5,5\n"  # 5
        ",a.png,5,5,5\n"  # 6
        f"expert-02,{A},,,\n"  # 7: says nothing
        f"expert-02,{B},5,,\n"  # 8: row 4 once more
        "'; DROP TABLE labels; --,a.png,1,1,1\n"  # 9
        "expert-02,a.png,1\n"  # 10
        "expert-02,a.png,__import__('os').abort(),1,2\n",  # 11
        "csv",
        None,
    )
    assert told(done) == [
        "revised.csv, line 2, health: outside the scale 0 to 10 ('11')",
        "revised.csv, line 2, posture: not a number ('nan')",
        "revised.csv, line 3, photo: unknown photo ('../../etc/passwd')",
        "revised.csv, line 5, rater_id: unknown rater ('stranger')",
        "revised.csv, line 6, rater_id: blank rater ('')",
        "revised.csv, line 8, photo: repeated rating ('kept: revised.csv, line 4')",
        "revised.csv, line 9, rater_id: unknown rater (\"'; DROP TABLE labels; --\")",
        "revised.csv, line 10, row: wrong number of cells ('3 where the header has 5: expert-02,a.png,1')",
        "revised.csv, line 11, appearance: not a number (\"__import__('os').abort()\")",
    ]
    assert labels(folder) == {
        (A, "expert-01"): (5, None, None),
        (B, "expert-02"): (5, None, None),
        (A, "expert-02"): (None, 1, 2),
    }


def test_the_map_names_people_in_a_spreadsheet_too(folder):
    done = imported(folder, HEAD + "ann@x.org,a.png,5,5,5\n7,a.png,6,6,6\nexpert-01,a.png,7,7,7\n", "csv")
    assert told(done) == ["revised.csv, line 4, rater_id: unknown rater ('expert-01')"]
    assert labels(folder) == {(A, "expert-01"): (5, 5, 5), (A, "expert-02"): (6, 6, 6)}


def test_dates_decide_and_without_them_the_later_import(folder):
    head = HEAD.strip() + ",rated_at\n"
    imported(folder, head + "expert-01,a.png,5,5,5,2026-03-01\n", "csv", None)
    imported(folder, head + "expert-01,a.png,4,4,4,2026-02-01\n", "csv", None)
    assert labels(folder) == {(A, "expert-01"): (5, 5, 5)}
    assert imported_labels(folder / "imported")["at"][0].as_py() == datetime(2026, 3, 1, tzinfo=UTC)
    imported(folder, HEAD + "expert-01,a.png,3,3,3\n", "csv", None, round=4)
    assert labels(folder) == {(A, "expert-01"): (3, 3, 3)}
    assert imported_labels(folder / "imported")["round"].to_pylist() == [4]
    assert read_table(folder / "imported/labels.parquet").num_rows == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"revised\.csv: is empty; it must start with a header line"),
        ("photo,health\na.png,5\n", r"revised\.csv, line 1: column 'rater_id' is missing"),
        ("rater_id,photo,beauty\nexpert-01,a.png,5\n", r"revised\.csv, line 1: no column holds scores"),
    ],
)
def test_a_file_of_no_use_is_one_line_and_changes_nothing(folder, text, message):
    with pytest.raises(BadInput, match=message):
        imported(folder, text, "csv", None)
    assert not (folder / "imported").exists()
