"""Drafts on their way out: what Label Studio and a spreadsheet are given, and what names may not do on the way.

Predictions must fit the interface as Label Studio checks it on import (label_studio_sdk 2.1.2,
`LabelInterface.validate_prediction`): from_name, to_name and type of a region are a control's, and so is its value.
"""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pytest
from exchange_cases import IDS, NAMES, PHOTOS_, A, B, C, D, cohort, draft
from typer.testing import CliRunner

from flows.cli import app
from tasks.exchange.labels import export_labels
from tasks.intake.quarantine import BadInput
from tasks.schemas import LABELS, PHOTOS
from tasks.tables import write_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cohort(tmp_path)
    return tmp_path


def exported(folder: Path, form: str = "label-studio", out: str = "out/tasks.json", **options):
    return export_labels(form, folder / out, cohort=folder / "cohort", drafts=folder / "pseudo.parquet", **options)


def tasks_of(folder: Path) -> dict[str, dict]:
    return {task["data"]["photo_id"]: task for task in json.loads((folder / "out/tasks.json").read_text("utf-8"))}


def test_the_newest_draft_of_each_photo_becomes_a_prediction(folder):
    count, written = exported(folder)
    tasks = tasks_of(folder)
    assert count == 4 and set(tasks) == {A, B, C, D}
    assert {path.relative_to(folder).as_posix() for path in written.values()} == {
        "out/tasks.json",
        "out/tasks.xml",
        "out/tasks_photos",
    }
    (prediction,) = tasks[A]["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("labeller-round-2", 1.0)
    assert {r["from_name"]: r["value"] for r in prediction["result"]} == {
        "appearance": {"number": 5.7},
        "health": {"number": 6.9},
        "posture": {"number": 10.0},
    }
    assert tasks[A]["data"]["round"] == 2 and tasks[A]["data"]["photo"] == "a.png"
    (half,) = tasks[B]["predictions"]  # a dimension without a draft is left out, a draft of 0 is not
    assert {r["from_name"]: r["value"]["number"] for r in half["result"]} == {"appearance": 0.0, "posture": 4.2}
    assert half["score"] == 0.67


def test_predictions_fit_the_interface(folder):
    exported(folder)
    view = ET.fromstring((folder / "out/tasks.xml").read_text())
    controls = {tag.get("name"): tag for tag in view.iter() if tag.get("toName")}
    objects = {tag.get("name"): tag.get("value") for tag in view.iter("Image")}
    choices = controls.pop("cannot_tell")
    assert [choice.get("value") for choice in choices] == list(controls) == ["appearance", "health", "posture"]
    assert choices.get("choice") == "multiple" and objects == {"photo": "$image"}
    for control in controls.values():
        assert (control.tag, control.get("min"), control.get("max"), control.get("step")) == ("Number", "0", "10", "0.1")
        assert control.get("required") is None  # an expert may leave a dimension out
    seen = set()
    for task in tasks_of(folder).values():
        assert task["data"]["image"]
        for region in task["predictions"][0]["result"]:
            control = controls[region["from_name"]]
            assert region["to_name"] == control.get("toName") and region["to_name"] in objects
            assert region["type"] == control.tag.lower() and 0 <= region["value"]["number"] <= 10
            seen.add(region["id"])
    assert len(seen) == 11  # ids of regions must differ


def test_photos_lie_beside_the_tasks_under_safe_names(folder):
    exported(folder)
    found = {path.name: path.read_bytes() for path in (folder / "out/tasks_photos").iterdir()}
    suffixes = dict(zip(NAMES, (".png", ".png", ".png", ".jpg")))
    assert found == {IDS[name] + suffixes[name]: raw for name, raw in PHOTOS_.items()}
    for photo_id, task in tasks_of(folder).items():
        address = urlsplit(task["data"]["image"])
        assert address.path == "/data/local-files/"
        (place,) = parse_qs(address.query)["d"]
        assert (folder / "out" / place).is_file() and photo_id in place


def test_a_name_that_climbs_out_of_its_folder_writes_nothing_there(folder):
    name = "../../../escaped.png/../x.<svg>"
    row = {"photo_id": "a" * 64, "name": name, "width": 8, "height": 6, "source": "test", "bytes": b"hostile"}
    write_table(pa.Table.from_pylist([row], schema=PHOTOS), folder / "cohort/photos/00009.parquet")
    write_table(pa.Table.from_pylist([draft("a" * 64, (1, 1, 1), 1)], schema=LABELS), folder / "pseudo.parquet")
    before = {path for path in folder.parent.rglob("*")}
    exported(folder)
    new = {path.relative_to(folder).as_posix() for path in set(folder.parent.rglob("*")) - before}
    assert new == {"out", "out/tasks.json", "out/tasks.xml", "out/tasks_photos", f"out/tasks_photos/{'a' * 64}"}


@pytest.mark.parametrize(
    ("images", "start"),
    [
        ("https://photos.example/x", "https://photos.example/x/"),
        ("https://photos.example/x/", "https://photos.example/x/"),
        ("/data/local-files/?d=", "/data/local-files/?d="),
        ("/data/local-files/?d=mine", "/data/local-files/?d=mine/"),
        ("s3://bucket", "s3://bucket/"),
    ],
)
def test_photos_that_are_served_elsewhere_keep_their_names(folder, images, start):
    _, written = exported(folder, images=images)
    assert "photos" not in written and not (folder / "out/tasks_photos").exists()
    addresses = {photo_id: task["data"]["image"] for photo_id, task in tasks_of(folder).items()}
    assert all(address.startswith(start) for address in addresses.values())
    assert {unquote(address.removeprefix(start)): photo_id for photo_id, address in addresses.items()} == IDS
    assert addresses[B].removeprefix(start) == "more/b%20c%26d.png"


@pytest.mark.parametrize("images", ["javascript:alert(1)//", "photos", "", "http://a b", "file:///etc"])
def test_addresses_that_label_studio_cannot_open(folder, images):
    with pytest.raises(BadInput, match="--images: .* is no address"):
        exported(folder, images=images)
    assert not (folder / "out").exists()


def test_the_spreadsheet_is_prefilled_and_runs_no_formula(folder):
    exported(folder, "csv", "drafts.csv")
    assert (folder / "drafts.csv").read_text("utf-8").splitlines() == [
        "rater_id,photo,appearance,health,posture",
        f",{C},3.0,3.0,3.0",  # '=cmd|...' by its id
        ",a.png,5.7,6.9,10.0",
        ",more/b c&d.png,0.0,,4.2",
        f",{D},4.0,4.0,4.0",  # a name over two lines by its id
    ]


def test_the_same_drafts_give_the_same_files(folder):
    exported(folder)
    first = {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
    exported(folder)
    assert {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()} == first


def test_an_export_that_cannot_be_made_is_one_line(folder, tmp_path_factory):
    def refused(match, form="label-studio", **options):
        named = {"cohort": folder / "cohort", "drafts": folder / "pseudo.parquet"} | options
        with pytest.raises(BadInput, match=match) as caught:
            export_labels(form, folder / "out.json", **named)
        assert "\n" not in str(caught.value) and not (folder / "out.json").exists()

    refused("'xml' is unknown; it is one of label-studio, csv", form="xml")
    refused("a spreadsheet shows no photos", form="csv", images="/x")
    refused("holds no cohort; `uv run dvc repro cohort` makes one", cohort=folder / "nowhere")
    refused("no such file; `uv run dvc repro pretrain` writes drafts", drafts=folder / "nowhere.parquet")
    refused("is no table of labels", drafts=folder / "cohort/raters.parquet")
    (folder / "text.parquet").write_text("no table")
    refused("is no table of labels", drafts=folder / "text.parquet")
    write_table(pa.Table.from_pylist([draft(A, (1, 1, 1), 1, origin="rated")], schema=LABELS), folder / "rated.parquet")
    refused("none of its 1 rows is a draft", drafts=folder / "rated.parquet")
    with pytest.raises(BadInput, match="is a folder; name the file to write"):
        export_labels("csv", folder, cohort=folder / "cohort", drafts=folder / "pseudo.parquet")


def test_the_command(folder):
    words = ["labels", "export", "--cohort", str(folder / "cohort"), "--drafts", str(folder / "pseudo.parquet")]
    done = CliRunner().invoke(app, [*words, "--format", "csv", "--out", str(folder / "d.csv")])
    assert done.exit_code == 0 and "4 drafts" in done.output and (folder / "d.csv").exists()
    done = CliRunner().invoke(app, [*words, "--out", str(folder / "e.csv")])  # the ending says which layout
    assert done.exit_code == 0 and (folder / "e.csv").read_text() == (folder / "d.csv").read_text()
    done = CliRunner().invoke(app, [*words[:-1], str(folder / "none"), "--out", str(folder / "t.json")])
    assert done.exit_code == 1 and "no such file" in done.output and "Traceback" not in done.output
