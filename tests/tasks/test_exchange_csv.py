"""The spreadsheet on its way back: the intake's rules for CSV files, and nobody's drafts for somebody's opinion."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from exchange_cases import A, B, C, D, annotation, cohort, imported, task, told
from typer.testing import CliRunner

from flows.cli import app
from model.scores import DIMENSIONS
from tasks.exchange.history import imported_labels
from tasks.exchange.labels import export_labels, report
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
    assert told(done) == [] and done.waiting == "4 rows not filled in (no rater_id, or no score)"
    with pytest.raises(BadInput, match=r"^revised\.csv: holds no label that can be used, 4 read; 4 rows not filled in"):
        report(done)
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
    known = "unknown rater; those of the cohort are expert-01, expert-02, user-01"
    number = "not a number; right is 0 to 10, or blank"
    assert told(done) == [
        "revised.csv, line 2, health: outside the scale 0 to 10 ('11')",
        f"revised.csv, line 2, posture: {number} ('nan')",
        "revised.csv, line 3, photo: unknown photo; right is a photo_id or name as it was exported ('../../etc/passwd')",
        f"revised.csv, line 5, rater_id: {known} ('stranger')",
        "revised.csv, line 8, photo: repeated rating ('kept: revised.csv, line 4')",
        f"revised.csv, line 9, rater_id: {known} (\"'; DROP TABLE labels; --\")",
        "revised.csv, line 10, row: wrong number of cells ('3 where the header has 5: expert-02,a.png,1')",
        f"revised.csv, line 11, appearance: {number} (\"__import__('os').abort()\")",
    ]
    assert labels(folder) == {(B, "expert-02"): (5, None, None)}  # a row with a bad cell goes aside whole
    assert (done.read, done.usable, done.waiting) == (9, 1, "2 rows not filled in (no rater_id, or no score)")


def test_a_typing_error_leaves_the_earlier_label(folder):
    imported(folder, HEAD + "expert-01,a.png,4.9,5.8,5.0\n", "csv", None)
    dated = HEAD.strip() + ",rated_at\n"
    spoilt = ["expert-01,a.png,11,5.8,abc,", "expert-01,a.png,1,1,1,yesterday", "expert-01,a.png,1,1,1,2036-01-01"]
    done = imported(folder, dated + "\n".join(spoilt), "csv", None)
    assert [(row["row"], row["field"]) for row in done.quarantine.to_pylist()] == [
        (2, "appearance"),
        (2, "posture"),
        (3, "rated_at"),
        (4, "rated_at"),
    ]
    assert (done.read, done.usable) == (3, 0)
    assert labels(folder) == {(A, "expert-01"): (pytest.approx(4.9), pytest.approx(5.8), 5)}
    repeated = HEAD + "expert-01,a.png,abc,1,1\nexpert-01,a.png,2,2,2\n"  # the first is no rating to be repeated
    assert imported(folder, repeated, "csv", None).usable == 1
    assert labels(folder) == {(A, "expert-01"): (2, 2, 2)}


def test_rows_that_are_not_filled_in_are_one_line(folder):
    rows = ["expert-01,a.png,5,5,5", f"expert-01,{B},,,", f",{C},3,3,3", f"stranger,{D},,,", f"expert-02,{D},-,,"]
    done = imported(folder, HEAD + "\n".join(rows + [f",{B},1,11,abc"] * 300), "csv", None)
    assert report(done) == [
        "305 read, 1 usable, 1 of them new; 1 finding",
        "303 rows not filled in (no rater_id, or no score)",
        "revised.csv, line 6, appearance: not a number; right is 0 to 10, or blank ('-')",
    ]
    alone = imported(folder, HEAD + ",,,,\n" + f",{B},1,1,1\n", "csv", None)
    assert alone.waiting == "1 row not filled in (no rater_id, or no score)" and told(alone) == []


def test_the_layout_follows_from_the_file(folder, tmp_path):
    def command(file, *words):
        places = ["--cohort", str(folder / "cohort"), "--out", str(folder / "imported")]
        return CliRunner().invoke(app, ["labels", "import", str(tmp_path / file), *places, *words])

    (tmp_path / "good.csv").write_text(HEAD + "expert-01,a.png,5,5,5\n")
    (tmp_path / "good.txt").write_text(HEAD + "expert-01,a.png,6,6,6\n")
    (tmp_path / "x.json").write_text(json.dumps([task(annotation(1))]))
    (tmp_path / "y.csv").write_text("\ufeff\n [{}]")
    (tmp_path / "bad.csv").write_text(HEAD + "Expert-99,a.png,5,5,5\nexpert-01,b.png,5,5,5\n")
    for name in ("good.csv", "good.txt"):
        done = command(name)
        assert (done.exit_code, done.output) == (0, "1 read, 1 usable, 1 of them new; 0 findings\n")
    for words, line in (
        (["none.csv"], f"{tmp_path / 'none.csv'}: no such file"),
        (["none.json"], f"{tmp_path / 'none.json'}: no such file"),
        (["cohort"], f"{tmp_path / 'cohort'}: is a folder; name a file"),
        (["x.json", "--format", "csv"], "x.json: is JSON, not a spreadsheet; leave out --format csv"),
        (["y.csv", "--format", "csv"], "y.csv: is JSON, not a spreadsheet; leave out --format csv"),
        (["x.json"], "--map: is missing; name a CSV of annotator,rater_id (e-mail or number in Label Studio, rater here)"),
        (
            ["good.csv", "--format", "label-studio"],
            "good.csv: is a spreadsheet, not JSON; take --format csv, or leave --format out",
        ),
        (
            ["bad.csv"],
            "bad.csv: holds no label that can be used, 2 read; bad.csv, line 2, rater_id: unknown rater; those of the "
            f"cohort are expert-01, expert-02, user-01 ('Expert-99'); 1 more in {folder / 'imported/quarantine.parquet'}",
        ),
    ):
        done = command(*words)
        assert (done.exit_code, done.output) == (1, f"physique: {line}\n"), words


def test_the_map_names_people_in_a_spreadsheet_too(folder):
    done = imported(folder, HEAD + "ann@x.org,a.png,5,5,5\n7,a.png,6,6,6\nexpert-01,a.png,7,7,7\n", "csv")
    assert told(done) == [
        "revised.csv, line 4, rater_id: not in the map; map.csv lists 7, ann@x.org ('expert-01')"
    ]
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
