"""Forgetting in folders: one's own cohort is only touched when asked to, outputs lose rows, reports go whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.forget.folders import WORK, Folder, Report, Source
from tasks.forget.target import Target, find_target
from tasks.intake.quarantine import BadInput
from tasks.tables import read_table, write_json, write_table
from tests.tasks.cohort_cases import RATERS, built, picture, source

RATINGS = "rater_id,photo,health\nexpert-e,1.png,5\nuser-u,1.png,6\nuser-u,2.png,4\n"
OTHERS = RATERS.replace("\ne,", "\nexpert-e,").replace("\nu,", "\nuser-u,")


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """Somebody's own folder, and the cohort made of it in data/."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    source(tmp_path / "data/mine", RATINGS, raters_csv=OTHERS)
    (tmp_path / "data/mine/photos/copy.png").write_bytes(picture(2))
    built(tmp_path / "data/mine")
    return tmp_path / "data/mine"


def test_rows_of_ones_own_are_listed_by_line_and_deleted_only_when_asked_to(own):
    target, before = find_target("user-u", None), (own / "ratings.csv").read_bytes()
    listed = ["ratings.csv: delete lines 3, 4 (2 in all)", "raters.csv: delete lines 3 (1 in all)"]
    assert Source(own, False).remove(target) == {} and (own / "ratings.csv").read_bytes() == before
    assert sorted(line.split("/")[-1] for line in Source(own, False).find(target)) == sorted(listed)
    assert Source(own, True).remove(target) == {"rows": 3} and Source(own, True).find(target) == []
    assert (own / "ratings.csv").read_text() == "rater_id,photo,health\nexpert-e,1.png,5\n"


def test_a_photo_is_known_by_name_id_and_file_and_goes_with_its_copies(own):
    photo = hashlib.sha256(picture(2)).hexdigest()
    found = find_target("2.png", None)
    assert found == find_target(photo, None) == find_target(str(own / "photos/copy.png"), None)
    assert (found.kind, found.id, set(found.names)) == ("photo", photo, {"2.png", "copy.png"})
    assert ("name", "copy") in found.entries and ("photo", photo) in found.entries
    assert Source(own, True).remove(found) == {"rows": 1, "files": 2} and Source(own, True).find(found) == []
    assert [path.name for path in sorted((own / "photos").iterdir())] == ["1.png", "3.png"]


def test_an_expert_of_the_papers_download_is_a_folder(own):
    (own / "pretrain/anna").mkdir(parents=True)
    (own / "pretrain/anna/train.csv").write_text("pic_name,score_health\n1.png,3\n")
    for name in ("anna", "pretrain-anna"):
        target = Target("expert", name)
        assert Source(own, False).find(target) == [f"{own}/pretrain/anna: delete it"]
    assert Source(own, True).remove(target) == {"files": 1} and not (own / "pretrain/anna").exists()


def test_who_is_meant_is_asked_where_a_name_does_not_say(own):
    with pytest.raises(BadInput, match=r"nobody is no rater, reviewer or photo that is known here; .* --kind user"):
        find_target("nobody", None)
    assert find_target("nobody", "user").kind == "user"
    (own / "raters.csv").write_text(OTHERS + "2.png,user,f\n")
    built(own)
    with pytest.raises(BadInput, match=r"2.png is both; say which it is, --kind user or --kind photo"):
        find_target("2.png", None)
    assert find_target("2.png", "user") == Target("user", "2.png")


def test_outputs_lose_rows_and_keep_what_is_anothers(own):
    target = find_target("user-u", None)
    write_table(pa.table({"user_id": ["user-u", "user-v"]}), "data/nights/0001.parquet")
    write_json({"user-u": {"a": "b"}, "user-v": {}}, WORK / "kept/surveys.json")
    (WORK / "train/run").mkdir(parents=True)
    (WORK / "reviews.db").write_bytes(b"user-u")
    data = Folder(Path("data"), (own,))
    assert data.find(target) and data.remove(target)["rows and files"] > 1
    assert read_table("data/cohort/raters.parquet")["rater_id"].to_pylist() == ["expert-e"]
    assert read_table("data/nights/0001.parquet")["user_id"].to_pylist() == ["user-v"]
    assert Folder(WORK).remove(target) == {"folders": 1, "rows and files": 1}
    assert (WORK / "reviews.db").exists() and not Folder(WORK).find(target) and not data.find(target)
    assert "user-u" in (own / "ratings.csv").read_text()


def test_a_report_goes_whole_when_it_names_somebody_or_may_show_a_photo(own):
    cases = ((Target("user", "user-w"), False), (Target("user", "user-u"), True), (find_target("2.png", None), True))
    for target, goes in cases:
        Path("report/plots").mkdir(parents=True, exist_ok=True)
        Path("report/index.html").write_text("<p>user-u says …</p>")
        assert bool(Report(Path("report")).remove(target)) is goes and Path("report").exists() is not goes


@pytest.mark.parametrize("kind", ["expert", "user", "photo"])
def test_networks_of_interrupted_trainings_go_whole_as_they_name_nobody(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    for name in ("one-expert/kept/models/003.safetensors", "full/run/models/000.safetensors", "kept.txt"):
        (WORK / name).parent.mkdir(parents=True, exist_ok=True)
        (WORK / name).write_bytes(b"weights")
    Folder(WORK).remove(Target(kind, "ab" * 32))
    assert [str(path.relative_to(WORK)) for path in WORK.rglob("*") if path.is_file()] == ["kept.txt"]


def test_a_log_that_is_being_written_loses_lines_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (WORK / "logs").mkdir(parents=True)
    with (WORK / "logs/mlflow.log").open("ab", buffering=0) as log:
        log.write(b"GET user-0007\nGET others\n")
        Folder(WORK).remove(Target("user", "user-0007"))
        log.write(b"GET more\n")
    assert (WORK / "logs/mlflow.log").read_bytes() == b"GET others\nGET more\n"


def test_a_form_that_is_refused_tells_prefect_no_name(monkeypatch):
    from types import SimpleNamespace

    import flows.forget as form

    asked = SimpleNamespace(name=" anna ", metadata=SimpleNamespace(key="key"))
    monkeypatch.setattr(form, "pause_flow_run", lambda **_: asked)
    monkeypatch.setattr(form, "delete_flow_run_input", lambda _: None)

    def refused(name: str, *_: object, **__: object) -> None:
        raise BadInput(f"forget: {name} is no rater")

    monkeypatch.setattr(form, "forget_everywhere", refused)
    with pytest.raises(BadInput, match="forget: what was given is no rater") as caught:
        form.forget.fn()
    assert caught.value.__suppress_context__
