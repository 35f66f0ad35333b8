"""Label Studio's export on its way in: good annotations arrive once, bad ones are told by file, task and field.

Layout of the files: see tests/tasks/exchange_cases.py (https://labelstud.io/guide/task_format).
"""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from exchange_cases import (
    MAP,
    NAMES,
    A,
    B,
    C,
    annotation,
    cannot_tell,
    cohort,
    draft,
    imported,
    minimal,
    region,
    task,
    told,
)
from typer.testing import CliRunner

from flows.cli import app
from model.scores import DIMENSIONS
from tasks.exchange import annotations
from tasks.exchange.history import HISTORY, append, imported_labels, read_history
from tasks.exchange.labels import report
from tasks.intake.quarantine import BadInput
from tasks.schemas import LABELS, SCHEMAS, check
from tasks.tables import read_table, write_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cohort(tmp_path)
    return tmp_path


def labels(folder: Path) -> dict[tuple[str, str], tuple]:
    """Scores by (photo_id, rater_id) of the labels that count."""
    rows = imported_labels(folder / "imported").to_pylist()
    return {(row["photo_id"], row["rater_id"]): tuple(row[d] for d in DIMENSIONS) for row in rows}


@pytest.mark.parametrize("who", [7, "7", "ann@X.org", {"id": 7, "email": "other@x.org"}, {"id": 1, "email": "ann@x.org"}])
def test_an_annotation_becomes_a_revised_label(folder, who):
    done = imported(folder, [task(annotation(22, who, (5, 6.5, 7)))])
    (row,) = imported_labels(folder / "imported").to_pylist()
    assert row == {
        "photo_id": A,
        "rater_id": "expert-02" if "7" in str(who) else "expert-01",
        **dict(zip(DIMENSIONS, (5, 6.5, 7))),
        "origin": "revised",
        "round": 2,
        "at": datetime(2026, 1, 30, 2, 41, 0, 1, tzinfo=UTC),
    }
    assert (done.read, done.usable, done.added) == (1, 1, 1) and told(done) == []
    assert imported_labels(folder / "imported").schema.equals(LABELS)


def test_json_min_gives_what_json_gives(folder):
    given = [(1, "ann@x.org", (1, 2.5, 3), A), (2, 7, (4, None, 5), A), (3, 7, (10, 0, 0.1), B)]
    imported(folder, [task(annotation(n, who, scores), photo_id=photo) for n, who, scores, photo in given])
    first = labels(folder)
    assert first[A, "expert-02"] == (4, None, 5) and first[B, "expert-02"] == (10, 0, pytest.approx(0.1))
    done = imported(folder, [minimal(*each) for each in given])
    assert (done.read, done.usable, done.added) == (3, 3, 0)  # the same annotations, whichever layout they come in
    assert labels(folder) == first
    assert told(done) == ["export.json, task 2, health: not scored ('annotation 2')"]


def test_what_an_expert_cannot_tell_is_null_in_either_layout(folder):
    given = annotation(1)["result"]
    export = [
        task(annotation(1, 7, result=[*given, cannot_tell("health")])),
        task(annotation(2, 7, result=[*given, cannot_tell("appearance", "posture")]), photo_id=B),
        task(annotation(3, 7, result=[*given, cannot_tell(*DIMENSIONS)]), photo_id=C),
        task(annotation(4, "ann@x.org", result=[*given, cannot_tell() | {"value": None}, cannot_tell("charm")])),
    ]
    done = imported(folder, export)
    wanted = {(A, "expert-02"): (5, None, 7), (B, "expert-02"): (None, 6.5, None), (A, "expert-01"): (5, 6.5, 7)}
    assert labels(folder) == wanted
    assert told(done) == ["export.json, task 3, result: no dimension is scored ('annotation 3')"]
    scores = (5, 6.5, 7)
    small = [
        minimal(1, 7, scores, cannot_tell="health"),
        minimal(2, 7, scores, B, cannot_tell={"choices": ["appearance", "posture"]}),
        minimal(4, "ann@x.org", scores),
    ]
    assert imported(folder, small).added == 0 and labels(folder) == wanted


def test_photos_are_found_by_id_or_by_the_end_of_their_address(folder):
    found = []
    for number, image in enumerate(
        [
            "/data/local-files/?d=any/where/a.png",
            "https://host/x/more/b%20c%26d.png?version=2",
            "/data/upload/29/bc171829-a.png",
            "s3://bucket/a.png",
            f"/data/local-files/?d=tasks_photos/{B}.png",
            "..\\..\\a.png",
            "/data/local-files/?d=../../a.png",
            "../../../../etc/passwd",
            "http://[broken/a.jpg",
            "x" * 100_000,
            "",
            None,
            ["a.png"],
        ]
    ):
        done = imported(folder, [task(annotation(number), data={"image": image})])
        if done.added:
            found.append(read_table(folder / "imported/labels.parquet")["photo_id"][-1].as_py())
        else:
            found.append(told(done)[0].removeprefix("export.json, task 1, data.image: ").split(";")[0])
    assert found == [A, B, A, A, B, *["unknown photo"] * 5, *["blank photo"] * 3]
    named = [task(annotation(90 + n), photo_id=name) for n, name in enumerate(NAMES)]
    assert imported(folder, named).added == 4  # data.photo_id may hold the name as well


def test_what_is_wrong_is_told_and_the_rest_goes_on(folder):
    late = {"updated_at": "2036-01-01T00:00:00Z"}
    done = imported(
        folder,
        [
            task(annotation(1, 8), annotation(2, {"id": 9, "email": "who@x.org"}), annotation(3, None)),  # 1
            task(annotation(4, 7, was_cancelled=True)),  # 2
            task(annotation(5, 7, (10.1, -1, 5))),  # 3
            task(annotation(6), photo_id="f" * 64),  # 4
            task(annotation(7, 7, (None, 8, None)), photo_id=B),  # 5
            task(annotation(8, 7, ())),  # 6
            task(annotation(9, "ann@x.org"), photo_id=C),  # 7: good
            task(annotation(9, "ann@x.org"), photo_id=C),  # 8: the same once more
            task(annotation(10, 7, ("5", True, float("nan")))),  # 9
            task(annotation(11, "ann@x.org", updated_at="yesterday"), annotation(12, "ann@x.org", **late)),  # 10
            task(annotation(13, result=[region("health", 4), region("health", 5), region("posture", 6)]), photo_id=C),  # 11
            task("22", annotation(14, result="none"), annotation(15, result=[region("beauty", 3), None])),  # 12
            "task",  # 13
            task() | {"annotations": {"id": 1}},  # 14
            task(annotation(16), data=[]),  # 15
            task(),  # 16: nobody has looked at it yet
            {"id": 88, "data": {"image": "a.png"}, "predictions": []},  # 17: no annotation either
            task(annotation(17, "ghost@x.org")),  # 18
        ],
    )
    unknown = "completed_by: annotator is not in the map; add a line annotator,rater_id to map.csv"
    number = "not a number; right is 0 to 10, or blank"
    photo = "unknown photo; right is a photo_id or name as it was exported"
    assert told(done) == [
        "export.json, task 1, completed_by: annotator is absent; right is an e-mail or a number ('annotation 3')",
        f"export.json, task 1, {unknown} ('8, annotation 1')",
        f"export.json, task 1, {unknown} ('who@x.org / 9, annotation 2')",
        "export.json, task 2, was_cancelled: skipped by the annotator ('annotation 4')",
        "export.json, task 3, appearance: outside the scale 0 to 10 ('10.1, annotation 5')",
        "export.json, task 3, health: outside the scale 0 to 10 ('-1, annotation 5')",
        f"export.json, task 4, data.photo_id: {photo} ('{'f' * 64}, annotation 6')",
        "export.json, task 5, appearance: not scored ('annotation 7')",
        "export.json, task 5, posture: not scored ('annotation 7')",
        "export.json, task 6, result: no dimension is scored ('annotation 8')",
        "export.json, task 8, id: annotation is there twice ('kept: task 7, annotation 9')",
        f"export.json, task 9, appearance: {number} ('5, annotation 10')",
        f"export.json, task 9, health: {number} ('True, annotation 10')",
        f"export.json, task 9, posture: {number} ('nan, annotation 10')",
        "export.json, task 10, updated_at: in the future ('2036-01-01T00:00:00Z, annotation 12')",
        "export.json, task 10, updated_at: not a date (ISO 8601) ('yesterday, annotation 11')",
        "export.json, task 11, appearance: not scored ('annotation 13')",
        "export.json, task 11, health: scored twice (\"[{'number': 4}, {'number': 5}], annotation 13\")",
        "export.json, task 12, annotations: not an object ('22, annotation')",
        "export.json, task 12, result: no dimension is scored ('annotation 15')",
        "export.json, task 12, result: not a list ('none, annotation 14')",
        "export.json, task 13, task: not an object ('\"task\"')",
        "export.json, task 14, annotations: not a list (\"{'id': 1}\")",
        "export.json, task 15, data: not an object ('[]')",
        f"export.json, task 18, {unknown} ('ghost@x.org, annotation 17')",
    ]
    whole = read_table(folder / "imported/quarantine.parquet")
    assert whole.schema.equals(SCHEMAS["quarantine"]) and whole.equals(done.quarantine)
    assert labels(folder) == {(B, "expert-02"): (None, 8, None), (C, "expert-01"): (5, 6.5, 7)}
    assert (done.read, done.usable, done.waiting) == (18, 2, "2 tasks without an annotation")


def test_what_is_bad_in_an_annotation_leaves_the_earlier_label(folder):
    imported(folder, [task(annotation(1, 7, (4.9, 5.8, 5.0)))])
    kept = labels(folder)
    late = {"created_at": "2026-02-01T00:00:00Z", "updated_at": "2026-02-01T00:00:00Z"}
    for changes in ({"scores": (11, 5.8, 1)}, {"scores": (1, "abc", 1)}, {"updated_at": "soon"}):
        done = imported(folder, [task(annotation(2, 7, **late | changes))])
        assert (done.read, done.usable, len(told(done))) == (1, 0, 1) and labels(folder) == kept
        done = imported(folder, [minimal(2, 7, **{"scores": (1, 1, 1)} | late | changes)])
        assert (done.read, done.usable, len(told(done))) == (1, 0, 1) and labels(folder) == kept
    with pytest.raises(BadInput, match=r"^export\.json: holds no label that can be used, 1 read; export\.json, task 1, up"):
        report(done)


def test_json_min_may_have_scores_plain(folder):
    plain = {"appearance": [7.1], "health": "7.2", "posture": 7}
    done = imported(folder, [minimal(1, 7, (), **plain), minimal(2, 7, (), B, **plain | {"health": "", "posture": []})])
    assert done.usable == 2 and labels(folder) == {
        (A, "expert-02"): (pytest.approx(7.1), pytest.approx(7.2), 7),
        (B, "expert-02"): (pytest.approx(7.1), None, None),
    }
    done = imported(folder, [minimal(3, 7, (), C, **plain | {bad: "7,1"}) for bad in DIMENSIONS] + [task()])
    assert [line.split(" (")[1] for line in told(done)] == ["'7,1, annotation 3')"] * 3 and done.usable == 0


def test_importing_again_doubles_nothing_and_the_newest_version_counts(folder):
    old = [task(annotation(1, 7, (1, 1, 1))), task(annotation(2, 7, (2, 2, 2)), photo_id=B)]
    assert imported(folder, old).added == 2
    before = (folder / "imported/labels.parquet").read_bytes()
    assert imported(folder, old).added == 0
    assert (folder / "imported/labels.parquet").read_bytes() == before
    changed = annotation(1, 7, (9, 9, 9), updated_at="2026-02-01T00:00:00Z")
    assert imported(folder, [task(changed), old[1]]).added == 1
    assert labels(folder) == {(A, "expert-02"): (9, 9, 9), (B, "expert-02"): (2, 2, 2)}
    assert imported(folder, old).added == 0  # an old export after a new one changes nothing
    assert labels(folder)[A, "expert-02"] == (9, 9, 9)
    assert read_table(folder / "imported/labels.parquet").num_rows == 3  # every version is kept


def test_two_annotations_of_one_expert_and_photo(folder):
    late = annotation(5, 7, (8, 8, 8), created_at="2026-03-01T00:00:00Z", updated_at="2026-03-01T00:00:00Z")
    imported(folder, [task(late, annotation(6, 7, (3, 3, 3)))])
    assert labels(folder) == {(A, "expert-02"): (8, 8, 8)}


def test_the_same_numbers_in_another_installation_are_other_annotations(folder):
    imported(folder, [task(annotation(1, 7, (1, 1, 1)))])
    other = annotation(1, "ann@x.org", (2, 2, 2), created_at="2026-01-05T00:00:00Z", updated_at="2026-01-05T00:00:00Z")
    imported(folder, [task(other, photo_id=B)])
    assert labels(folder) == {(A, "expert-02"): (1, 1, 1), (B, "expert-01"): (2, 2, 2)}


def test_a_corrected_map_takes_labels_from_the_wrong_expert(folder):
    export = [task(annotation(1, 7, (1, 1, 1)))]
    imported(folder, export)
    imported(folder, export, people="annotator,rater_id\n7,expert-01\n")
    assert labels(folder) == {(A, "expert-01"): (1, 1, 1)}


def test_the_round_is_the_tasks_or_what_is_asked_for(folder):
    def rounds(data_round, **options):
        imported(folder, [task(annotation(), data={"photo_id": A, "round": data_round})], **options)
        return [row["round"] for row in imported_labels(folder / "imported").to_pylist()]

    assert [rounds(each) for each in (3, 0, None, "3", True, -1, 2**40)] == [[3], [0], [1], [1], [1], [1], [1]]
    assert rounds(3, round=5) == [5]
    with pytest.raises(BadInput, match="--round: -1 is not a round"):
        rounds(3, round=-1)


def test_the_map_is_judged_too(folder):
    rows = ("7;expert-01;", "7;expert-02;again", "7;expert-01;the same", ";expert-01;", "8;;", "8;user-01;")
    people = "\n".join(["Annotator;rater_id;note", *rows])
    done = imported(folder, [task(annotation(1, 8), annotation(2, 7))], people=people)
    assert [line for line in (told(done) or []) if "export" in line] == []
    assert [(r["row"], r["field"], r["reason"]) for r in done.quarantine.to_pylist()] == [
        (3, "annotator", "annotator is listed already"),
        (5, "annotator", "blank annotator"),
        (6, "rater_id", "no rater of the cohort; those are expert-01, expert-02, user-01"),
    ]
    assert set(labels(folder)) == {(A, "user-01"), (A, "expert-01")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"export\.json: breaks off \(line 1, column 1: Expecting value\); nothing was imported"),
        (json.dumps([task(annotation())])[:900], r"export\.json: breaks off \(line 1, column \d+: "),
        ('[{"id": 1, "data": {"image": "a.p', r"export\.json: breaks off \(line 1, column 30: Unterminated string"),
        ("[1, 2,, 3]", r"export\.json: is not JSON \(line 1, column 7"),
        ("photo,health\na.png,5\n", r"export\.json: is not JSON \(line 1, column 1"),
        (b"\xff\xfe[\x00]\x00", r"export\.json: is not UTF-8 \(byte 0\)"),
        ("[]", r"export\.json: holds no tasks; export the project as JSON or JSON-MIN"),
        ("null", "holds no tasks"),
        ('"x"', "holds no tasks"),
        ([task(), {"data": {}, "predictions": []}], "none of its 2 tasks holds an annotation"),
        ("[" * 200_000 + "]" * 200_000, "is nested too deeply to be an export of Label Studio"),
        ('{"annotations": ' * 50_000, "is nested too deeply"),
    ],
)
def test_a_file_of_no_use_is_one_line_and_changes_nothing(folder, content, message):
    imported(folder, [task(annotation(1))])
    before = {path: path.read_bytes() for path in (folder / "imported").iterdir()}
    with pytest.raises(BadInput, match=message) as caught:
        imported(folder, content)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert {path: path.read_bytes() for path in (folder / "imported").iterdir()} == before


def test_files_that_are_missing_or_too_large(folder, monkeypatch):
    with pytest.raises(BadInput, match="--map: is missing"):
        imported(folder, [task(annotation())], people=None)
    with pytest.raises(BadInput, match=r"map\.csv, line 1: column 'annotator' is missing"):
        imported(folder, [task(annotation())], people="email,rater_id\n")
    monkeypatch.setattr(annotations, "LARGEST_FILE", 100)
    with pytest.raises(BadInput, match="is larger than 0 MiB; export the project in parts"):
        imported(folder, [task(annotation())])
    with pytest.raises(BadInput, match=r"none\.json: cannot be read \(No such file or directory\)"):
        annotations.read_tasks(folder / "none.json")
    (folder / "cohort/raters.parquet").unlink()
    with pytest.raises(BadInput, match="holds no raters"):
        imported(folder, [task(annotation())])


def test_hostile_content_is_only_text(folder, tmp_path):
    script = "<script>alert(1)</script>'); DROP TABLE labels; --"
    text = {"text": [script, "x" * 10_000_000]}
    comment = {"from_name": "comment", "to_name": "photo", "type": "textarea", "value": text}
    surrogate = "\ud800\x1b[31m" + script
    digits = "9" * 6000
    text = json.dumps(
        [
            task(annotation(1, 7, (5, 5, 5), result=[*annotation()["result"], comment])),
            task(annotation(surrogate, {"id": 7, "email": surrogate}, (6, 6, 6)), photo_id=B, meta={"x": script}),
            task(annotation(3, surrogate), photo_id=surrogate),
            task(annotation(4), photo_id="'; DELETE FROM photos; --"),
            task(annotation(5, 7, ("__import__('os').system('touch pwned')", 1, 2)), photo_id=C),
            task(annotation(6, 7, ("NINES", 1, 2)), photo_id=C),
        ]
    ).replace('"NINES"', digits)
    done = imported(folder, text)
    assert labels(folder) == {
        (A, "expert-02"): (5, 6.5, 7),
        (B, "expert-02"): (6, 6, 6),
    }
    lines = told(done)
    assert all(line.isprintable() and len(line) < 400 for line in lines) and len(lines) == 4
    assert "outside" not in "".join(lines) and "('inf, annotation 6')" in "".join(lines)
    assert not list(tmp_path.rglob("pwned"))


def test_a_history_that_is_no_table_is_told(folder):
    (folder / "imported").mkdir()
    (folder / "imported/labels.parquet").write_text("spoilt")
    with pytest.raises(BadInput, match="is no table of imported labels"):
        imported(folder, [task(annotation())])
    write_table(pa.table({"photo_id": ["x"]}), folder / "imported/labels.parquet")
    with pytest.raises(BadInput, match="is no table of imported labels"):
        imported_labels(folder / "imported")


def test_imports_at_once_lose_nothing(folder):
    empty = HISTORY.empty_table()
    fields = {name: [value] for name, value in draft(A, (1, 2, 3), 1, "revised").items()}
    parts = [pa.table(fields | {"annotation": [str(number)]}, schema=HISTORY) for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        added = list(pool.map(lambda part: append(part, folder / "imported"), [*parts, empty, *parts]))
    assert sum(added) == 12
    assert sorted(read_history(folder / "imported")["annotation"].to_pylist(), key=int) == [str(n) for n in range(12)]


def test_dates_that_no_calendar_of_ours_has(folder):
    odd = ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-02-30T00:00:00Z", 20260101, {"at": 1}, None]
    export = [task(*(annotation(n, 7, updated_at=when, created_at=when) for n, when in enumerate(odd)))]
    done = imported(folder, export)
    assert [line.split(", ")[2].split(" (")[0] for line in told(done)] == ["updated_at: not a date"] * 5
    assert done.usable == 1 and imported_labels(folder / "imported")["at"].to_pylist() == [None]


def test_without_an_import_there_are_no_labels(tmp_path):
    assert check(imported_labels(tmp_path / "nowhere"), "labels").num_rows == 0


def test_the_command(folder):
    (folder / "map.csv").write_text(MAP)
    (folder / "export.json").write_text(json.dumps([task(annotation(1), annotation(2, 8))]))
    words = ["labels", "import", str(folder / "export.json"), "--cohort", str(folder / "cohort")]
    words += ["--out", str(folder / "imported"), "--map", str(folder / "map.csv")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        "2 read, 1 usable, 1 of them new; 2 findings",
        "export.json, task 1, completed_by: annotator is not in the map; "
            "add a line annotator,rater_id to map.csv ('8, annotation 2')",
        "map.csv, line 4, rater_id: no rater of the cohort; those are expert-01, expert-02, user-01 ('nobody')",
    ]
    (folder / "export.json").write_text("[")
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1 and "breaks off" in done.output and "Traceback" not in done.output
