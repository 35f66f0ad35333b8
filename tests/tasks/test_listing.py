"""The listing that tells DVC when a cohort's folder has changed: every kind of entry, and what is read again."""

import hashlib
import os
from pathlib import Path

import pytest

from tasks import listing
from tasks.intake.quarantine import BadInput
from tasks.listing import write_listing


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "cohort"
    (root / "photos").mkdir(parents=True)
    (root / "photos" / "a.jpg").write_bytes(b"a")
    (root / "ratings.csv").write_bytes(b"rater_id\n")
    for path in root.rglob("*"):
        os.utime(path, ns=(10**18, 10**18))
    return root


def listed(root) -> dict[str, str]:
    out = write_listing(root, root.parent / "listing.txt", root.parent / "known.json")
    return {name: what for what, name in (line.split("  ", 1) for line in out.read_text().splitlines())}


def test_files_by_their_content(folder):
    a, csv = (hashlib.sha256(data).hexdigest() for data in (b"a", b"rater_id\n"))
    assert listed(folder) == {"photos/a.jpg": a, "ratings.csv": csv}


def test_what_dvc_stops_at_is_a_line_each(folder):
    photos = folder / "photos"
    (photos / "circle.jpg").symlink_to("circle.jpg")
    (photos / "nowhere.jpg").symlink_to("gone.jpg")
    (photos / "up").symlink_to("..")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "one\ntwo.jpg").write_bytes(b"")
    (photos / "写真.jpg").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(photos) + b"/\xff.jpg")).write_bytes(b"")
    found = listed(folder)
    empty = hashlib.sha256().hexdigest()
    assert found["photos/circle.jpg"].startswith("link that leads nowhere")
    assert found["photos/nowhere.jpg"].startswith("link that leads nowhere")
    assert found["photos/up"] == "link to a folder"
    assert found["photos/pipe.jpg"] == "not a regular file"
    assert found[r"photos/one\ntwo.jpg"] == found["photos/写真.jpg"] == found[r"photos/\udcff.jpg"] == empty
    assert len(found) == 9


def test_only_what_is_new_is_read_again(folder, monkeypatch):
    before = listed(folder)
    read = []
    usual = listing._sha256
    monkeypatch.setattr(listing, "_sha256", lambda path: read.append(path.name) or usual(path))
    assert listed(folder) == before and read == []
    (folder / "photos" / "a.jpg").write_bytes(b"b")
    assert listed(folder) != before and read == ["a.jpg"]
    listed(folder)
    assert read == ["a.jpg", "a.jpg"]  # changed a moment ago: not trusted yet


def test_a_touched_file_changes_nothing(folder):
    before = listed(folder)
    os.utime(folder / "ratings.csv", ns=(10**18 + 5, 10**18 + 5))
    assert listed(folder) == before


@pytest.mark.parametrize(("name", "what"), [("nowhere", "no such folder"), ("cohort/ratings.csv", "is a file")])
def test_no_folder_is_one_line(folder, name, what):
    with pytest.raises(BadInput, match=f"^data.path: {what}"):
        write_listing(folder.parent / name, folder.parent / "listing.txt", folder.parent / "known.json")
    assert not (folder.parent / "listing.txt").exists()
