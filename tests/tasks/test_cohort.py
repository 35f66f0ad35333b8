"""Stage `cohort`: good rows arrive, bad ones are named by file, row and field; a useless run leaves no trace."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cohort_cases import NOW, RATERS, aside, built, labels, picture, source

from tasks.cohort import BadInput, build_cohort
from tasks.schemas import SCHEMAS
from tasks.tables import read_json, read_table

LONDON = Path("..") / "shared" / "data" / "london"
REPO = Path(__file__).parents[2]


def test_good_rows_arrive_on_0_to_10(tmp_path):
    root = source(
        tmp_path / "in",
        "rater_id,photo,appearance,health,rated_at,preference\n"
        "e,1.png,1,7,2026-05-01T12:00:00+02:00,[1 2 3 4 5]\n"
        "u,2.png,4,,,\n"
        "u,3.png,,,,\n",
        raters_csv=RATERS,
        cohort_yaml="scale: [1, 7]\nname: small\n",
    )
    summary, out = built(root)
    assert labels(out) == [("1.png", "e", 0.0, 10.0, None), ("2.png", "u", 5.0, None, None)]
    rows = {row["rater_id"]: row for row in read_table(out / "labels.parquet").to_pylist()}
    assert rows["e"]["at"] == datetime(2026, 5, 1, 10, tzinfo=UTC)
    assert (rows["u"]["at"], rows["u"]["origin"], rows["u"]["round"]) == (None, "rated", 0)
    assert read_table(out / "raters.parquet").to_pylist() == [
        {"rater_id": "e", "role": "expert", "survey": [("sex", "f")]},
        {"rater_id": "u", "role": "user", "survey": []},
    ]
    assert [row["preference"] for row in read_table(out / "preferences.parquet").to_pylist()] == [[1, 2, 3, 4, 5]]
    assert aside(out) == []
    assert summary == read_json(out / "cohort.json")
    assert (summary["name"], summary["simulated"], summary["scale"]) == ("small", False, [1, 7])
    assert summary["dimensions"] == ["appearance", "health"]
    counts = summary["counts"]
    assert counts["scores"] == {"appearance": 2, "health": 1, "posture": 0}
    assert (counts["ratings_in"], counts["ratings_out"], counts["ratings_blank"]) == (3, 2, 1)
    for name in ("labels", "raters", "preferences", "feedback", "quarantine"):
        assert pq.read_schema(out / f"{name}.parquet").equals(SCHEMAS[name])


def test_bad_ratings_are_named_and_the_rest_goes_on(tmp_path):
    root = source(
        tmp_path / "in",
        "rater_id,photo,appearance,health,posture,rated_at,preference\n"
        "u,1.png,5,11,6,,\n"  # 2: one cell
        "u,2.png,nan,-0.1,ten,,\n"  # 3: all cells
        ",1.png,5,5,5,,\n"  # 4
        "u,9.png,5,5,5,,\n"  # 5
        "u,,5,5,5,,\n"  # 6
        "u,3.png,5,5,5,yesterday,1 2 3\n"  # 7
        "e,3.png,5,5,5,2036-01-01,\n"  # 8
        "e,1.png,5,5\n"  # 9
        "e,2.png,1,1,1,2026-01-01,\n"  # 10
        "e,2.png,1,1,1,2026-01-01T00:00:00Z,\n"  # 11: the same again
        "e,2.png,2,1,1,2026-01-01T01:00:00+01:00,\n"  # 12: the same moment, another score
        "e,2.png,2,1,1,2026-01-02,\n",  # 13: another day
        raters_csv=RATERS,
    )
    summary, out = built(root)
    assert aside(out) == [
        "ratings.csv, line 2, health: outside the scale 0 to 10 ('11')",
        "ratings.csv, line 3, appearance: not a number ('nan')",
        "ratings.csv, line 3, health: outside the scale 0 to 10 ('-0.1')",
        "ratings.csv, line 3, posture: not a number ('ten')",
        "ratings.csv, line 4, rater_id: blank rater ('')",
        "ratings.csv, line 5, photo: unknown photo ('9.png')",
        "ratings.csv, line 6, photo: blank photo ('')",
        "ratings.csv, line 7, preference: not 5 numbers ('1 2 3')",
        "ratings.csv, line 7, rated_at: not a date (ISO 8601) ('yesterday')",
        "ratings.csv, line 8, rated_at: in the future ('2036-01-01')",
        "ratings.csv, line 9, row: wrong number of cells ('4 where the header has 7: e,1.png,5,5')",
        "ratings.csv, line 11, photo: repeated rating ('kept: ratings.csv, line 10')",
        "ratings.csv, line 12, photo: second rating of the same rater, photo and time ('kept: ratings.csv, line 10')",
    ]
    assert labels(out) == [
        ("1.png", "u", 5, None, 6),
        ("2.png", "e", 1, 1, 1),
        ("2.png", "e", 2, 1, 1),
        ("3.png", "e", 5, 5, 5),
        ("3.png", "u", 5, 5, 5),
    ]
    counts = summary["counts"]
    assert counts["ratings_in"] == counts["ratings_out"] + counts["ratings_blank"] + counts["ratings_set_aside"]
    assert counts["quarantined"]["not a number"] == 2
    assert sum(counts["quarantined"].values()) == 13


def test_raters(tmp_path):
    root = source(
        tmp_path / "in",
        "rater_id,photo,health\ne,1.png,5\nu,1.png,5\nnew,1.png,5\nj,1.png,5\n",
        raters_csv="rater_id,role,age\ne, Expert ,40\nu,,\nj,judge,50\n,user,1\nu,expert,\nsilent,user,30\n",
    )
    summary, out = built(root)
    people = {row["rater_id"]: (row["role"], row["survey"]) for row in read_table(out / "raters.parquet").to_pylist()}
    assert people == {
        "e": ("expert", [("age", "40")]),
        "j": ("user", [("age", "50")]),
        "new": ("user", []),
        "silent": ("user", [("age", "30")]),
        "u": ("user", []),
    }
    assert aside(out) == [
        "raters.csv, line 4, role: unknown role ('judge')",
        "raters.csv, line 5, rater_id: blank rater ('')",
        "raters.csv, line 6, rater_id: rater is listed already ('u')",
    ]
    assert summary["notes"] == ["1 raters have no row in raters.csv: users with an empty survey"]
    assert (summary["counts"]["raters_without_row"], summary["counts"]["raters_without_ratings"]) == (1, 1)


@pytest.mark.parametrize(("experts", "chosen"), [(None, ["a", "c"]), (1, ["c"]), (9, ["a", "b", "c"])])
def test_without_experts_those_who_rated_most(tmp_path, experts, chosen):
    rated = {"a": 2, "b": 1, "c": 3, "d": 1}
    rows = [f"{rater},{n + 1}.png,5\n" for rater, photos in rated.items() for n in range(photos)]
    text = "rater_id,photo,health\n" + "".join(rows)
    summary, out = built(source(tmp_path / "in", text), experts=experts)
    people = read_table(out / "raters.parquet").to_pylist()
    assert [row["rater_id"] for row in people if row["role"] == "expert"] == chosen
    assert summary["experts_from"] == "most ratings"
    assert (summary["counts"]["experts"], summary["counts"]["users"]) == (len(chosen), 4 - len(chosen))


FEEDBACK = "event_id,user_id,photo,kind,dimension,value,suggested,model_version,at\n"


def test_feedback(tmp_path):
    good = "1,u,1.png,rating,health,7,4,v1,2026-05-01T10:00:00+02:00\n"
    bad = [
        ("2,x,1.png,rating,health,5,,,2026-05-01T10:00:00Z", "user_id: unknown user ('x')"),
        ("3,u,9.png,rating,health,5,,,2026-05-01T10:00:00Z", "photo: unknown photo ('9.png')"),
        ("4,u,,rating,health,5,,,2026-05-01T10:00:00Z", "photo: blank photo ('')"),
        ("5,u,1.png,shrug,health,5,,,2026-05-01T10:00:00Z", "kind: unknown kind ('shrug')"),
        ("6,u,1.png,rating,charm,5,,,2026-05-01T10:00:00Z", "dimension: unknown dimension ('charm')"),
        ("7,u,1.png,rating,health,8,,,2026-05-01T10:00:00Z", "value: outside the scale 1 to 7 ('8')"),
        ("8,u,1.png,rating,health,,,,2026-05-01T10:00:00Z", "value: not a number ('')"),
        ("9,u,1.png,rating,health,5,0,,2026-05-01T10:00:00Z", "suggested: outside the scale 1 to 7 ('0')"),
        ("10,u,1.png,rating,health,5,,,2026-05-01T10:00:00", "at: no time zone (end it with Z or +02:00) "
         "('2026-05-01T10:00:00')"),
        ("11,u,1.png,rating,health,5,,,2026-07-01T10:00:00Z", "at: in the future ('2026-07-01T10:00:00Z')"),
        ("12,u,1.png,rating,health,5,,,soon", "at: not a date (ISO 8601) ('soon')"),
        ("13,u,1.png,thumb,,2,,,2026-05-01T10:00:00Z", "value: outside the scale -1 to 1 ('2')"),
        (",u,1.png,rating,health,5,,,2026-05-01T10:00:00Z", "event_id: blank event ('')"),
        ("1,u,1.png,rating,health,6,4,v1,2026-05-01T10:00:00+02:00",
         "event_id: event is there already with other content ('1')"),
    ]  # fmt: skip
    words = "20,u,,comment,,too strict,,,2026-05-02T10:00:00Z\n21,u,2.png,thumb,,-1,,,2026-05-03T10:00:00Z\n"
    root = source(
        tmp_path / "in",
        "rater_id,photo,health\ne,1.png,5\n",
        raters_csv=RATERS,
        cohort_yaml="scale: [1, 7]",
        feedback_csv=FEEDBACK + good + "".join(line + "\n" for line, _ in bad) + good + words,
    )
    summary, out = built(root)
    assert aside(out) == [f"feedback.csv, line {line}, {text}" for line, (_, text) in enumerate(bad, 3)]
    first, comment, thumb = read_table(out / "feedback.parquet").to_pylist()
    assert (first["value"], first["suggested"], first["dimension"]) == (10, 5, "health")
    assert first["at"] == datetime(2026, 5, 1, 8, tzinfo=UTC)
    assert (comment["text"], comment["value"], comment["photo_id"]) == ("too strict", None, None)
    assert (thumb["value"], thumb["dimension"]) == (-1, None)
    counts = summary["counts"]
    assert (counts["feedback_in"], counts["feedback_out"]) == (18, 3)
    assert (counts["feedback_replayed"], counts["feedback_set_aside"]) == (1, 14)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_input_gives_the_same_bytes_whatever_the_row_order(tmp_path):
    rows = [f"r{n % 5},{1 + n // 5}.png,{n % 11}\n" for n in range(15)]
    root = source(tmp_path / "in", "rater_id,photo,health\n" + "".join(rows))
    _, out = built(root)
    first = everything(out)
    built(root)
    assert everything(out) == first
    (root / "ratings.csv").write_text("rater_id,photo,health\n" + "".join(rows[::-1]))
    built(root)
    assert everything(out) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cohort", "in"]


@pytest.mark.parametrize(
    ("text", "damage", "message"),
    [
        (
            "rater_id,photo,health\nu,9.png,5\n",
            "",
            r"in: none of the 1 ratings can be used: unknown photo \(1\)",
        ),
        ("rater_id,photo,health\nu,1.png,\n", "", "in: none of the 1 ratings can be used: all are blank"),
        ("rater_id,photo,health\nu,1.png,5\n", "photos", "photos: none of the 3 files is a picture"),
        (
            "rater_id,photo,health\nu,1.png,5\n",
            "raters",
            r"raters\.csv: none of the 1 experts has a usable rating",
        ),
    ],
)
def test_a_useless_run_stops_and_leaves_the_old_cohort(tmp_path, text, damage, message):
    root = source(tmp_path / "in", "rater_id,photo,health\nu,1.png,5\n")
    _, out = built(root)
    before = everything(out)
    (root / "ratings.csv").write_text(text)
    if damage == "photos":
        for path in (root / "photos").iterdir():
            path.write_text("no picture " + path.name)
    if damage == "raters":
        (root / "raters.csv").write_text("rater_id,role\ne,expert\n")
    with pytest.raises(BadInput, match=message) as caught:
        built(root)
    assert "\n" not in str(caught.value)
    assert everything(out) == before


def test_the_papers_layout_from_end_to_end(tmp_path):
    root = tmp_path / "in"
    for folder, text in (
        (
            "pretrain/e1",
            'pic_name,score_appearance,preference_score_list,bmi\na.png,9,"[0,1,0.5,0.25,1]",21\nb.png,3,x,\n',
        ),
        ("finetune/u1", "pic_name,score_appearance,score_health\na.png,1,2\nlost.png,1,2\n"),
    ):
        (root / folder).mkdir(parents=True)
        (root / folder / "train.csv").write_text(text)
    (root / "images").mkdir()
    for number, name in enumerate("ab"):
        (root / "images" / f"{name}.png").write_bytes(picture(number))
    out = tmp_path / "cohort"
    summary = build_cohort("physiqueaa50k", root, out, now=NOW)
    assert labels(out) == [
        ("images/a.png", "e1", 9, None, None),
        ("images/a.png", "u1", 1, 2, None),
        ("images/b.png", "e1", 3, None, None),
    ]
    missing = "column is missing, taken as blank"
    assert aside(out) == [
        f"finetune/u1/train.csv, line 1, preference_score_list: {missing}",
        f"finetune/u1/train.csv, line 1, score_posture: {missing}",
        "finetune/u1/train.csv, line 3, photo: unknown photo ('lost.png')",
        f"pretrain/e1/train.csv, line 1, score_health: {missing}",
        f"pretrain/e1/train.csv, line 1, score_posture: {missing}",
        "pretrain/e1/train.csv, line 3, preference_score_list: not a JSON list of 5 numbers from 0 to 1 ('x')",
    ]
    (row,) = read_table(out / "preferences.parquet").to_pylist()
    assert (row["preference"], row["answers"]) == ([0, 1, 0.5, 0.25, 1], [("bmi", "21")])
    assert (summary["counts"]["experts"], summary["counts"]["users"]) == (1, 1)


def test_london(tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    if not LONDON.is_dir():
        pytest.skip("../shared/data/london is not there")
    summary = build_cohort("folder", LONDON, tmp_path / "cohort")
    counts = summary["counts"]
    assert (counts["files"], counts["photos"], counts["photos_without_size"]) == (102, 102, 0)
    assert (counts["ratings_in"], counts["ratings_out"], counts["experts"], counts["users"]) == (
        122400,
        122400,
        24,
        1176,
    )
    assert counts["quarantined"] == {}
    assert counts["scores"] == {"appearance": 122400, "health": 0, "posture": 0}
    assert summary["dimensions"] == ["appearance"]
    assert (summary["scale"], summary["scale_from"], summary["simulated"]) == ([1, 7], "ratings", False)
    table = read_table(tmp_path / "cohort" / "labels.parquet")
    assert np.unique(table["appearance"].to_numpy()) == pytest.approx([10 * (n - 1) / 6 for n in range(1, 8)])
    assert table["health"].null_count == table["posture"].null_count == 122400
    assert json.loads((tmp_path / "cohort" / "cohort.json").read_text()) == summary
