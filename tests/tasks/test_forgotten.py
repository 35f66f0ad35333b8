"""The list of the forgotten, and that whatever is read leaves them out, without a name anywhere."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from cohort_cases import NOW, RATERS, built, labels, source
from item_cases import items_folder

from tasks.cohort import build_cohort
from tasks.exchange.history import HISTORY, append
from tasks.forgotten import FILE, read_forgotten, remember
from tasks.intake.quarantine import BadInput
from tasks.listing import write_listing
from tasks.nights import night_paths, take_nights
from tasks.reviewed import write_reviewed
from tasks.reviews import Person, invite, offer, open_store, save
from tasks.tables import read_shards, read_table

RATINGS = "rater_id,photo,health\ne,1.png,5\ne,2.png,6\nu,1.png,5\nu,3.png,4\nv,2,7\nv,photos/3.PNG,8\nv,ghost.png,1\n"
FEEDBACK = (
    "event_id,user_id,photo,kind,dimension,value,suggested,model_version,at,other\n"
    "a,u,1.png,rating,health,5,,,2026-05-01T10:00:00Z,\n"
    "b,v,3.png,rating,health,5,,,2026-05-01T10:00:00Z,\n"
    "c,v,2.png,comparison,health,1,,,2026-05-01T10:00:00Z,3.png\n"
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source(tmp_path / "in", RATINGS, raters_csv=RATERS + "v,user,f\nv,user,m\n", feedback_csv=FEEDBACK)
    return tmp_path


def said(folder: Path) -> bytes:
    """All tables of a cohort and their cells, but photos' bytes."""
    parts = [path.read_bytes() for path in sorted(folder.rglob("*.json"))]
    parts += [str(read_table(path).to_pylist()).encode() for path in sorted(folder.glob("*.parquet"))]
    return b"".join(parts)


def test_a_line_says_nothing_but_hashes_and_is_written_once(here):
    first = remember([("person", "anna"), ("person", "anna"), ("name", "1.png")])
    assert remember([("person", "anna")]) == first[:1]
    text = FILE.read_text()
    assert len(text.splitlines()) == 2 and "anna" not in text and hashlib.sha256(b"anna").hexdigest() not in text
    found = read_forgotten()
    assert found.has("person", "anna") and not found.has("photo", "anna") and not found.has("person", "ann")
    other = Path("other.txt")
    remember([("person", "anna")], other)
    FILE.write_text("# merged\n\n" + text + other.read_text())
    assert read_forgotten().among("person", ["joanna", "anna", None]) == {"anna"}


def test_a_damaged_list_stops_the_run_instead_of_bringing_somebody_back(here):
    remember([("person", "anna")])
    FILE.write_text(FILE.read_text() + "person 12\n")
    with pytest.raises(ValueError, match=r"forgotten.txt, line 2: no entry"):
        built(here / "in")


def test_a_person_is_left_out_of_a_cohort_with_a_count_and_no_name(here):
    _, out = built(here / "in")
    assert b"'v'" in said(out)
    remember([("person", "v")])
    summary, out = built(here / "in")
    assert {rater for _, rater, *_ in labels(out)} == {"e", "u"}
    assert "7 rows and files of people and photos that were forgotten are left out" in summary["notes"][-1]
    assert b"'v'" not in said(out) and b"ghost" not in said(out)
    assert read_table(out / "feedback.parquet")["event_id"].to_pylist() == ["a"]


def test_a_photo_is_left_out_however_its_name_is_written_and_when_its_file_is_gone(here):
    photo = hashlib.sha256((here / "in/photos/3.png").read_bytes()).hexdigest()
    remember([("photo", photo), ("name", "3.png")])
    for gone in (False, True):
        if gone:
            (here / "in/photos/3.png").unlink()
        _, out = built(here / "in")
        assert {name for name, *_ in labels(out)} == {"1.png", "2.png"}
        assert read_table(out / "feedback.parquet")["event_id"].to_pylist() == ["a"]
        assert photo.encode() not in said(out) and b"3.png" not in said(out).lower()
        assert "3.png" not in write_listing(here / "in", here / "listing.txt", here / "known.json").read_text()
        assert photo not in (here / "known.json").read_text()


def test_another_photo_of_a_forgotten_name_is_a_photo_like_any_other(here):
    remember([("photo", "0" * 64), ("name", "3.png")])
    _, out = built(here / "in")
    assert {name for name, *_ in labels(out)} == {"1.png", "2.png", "3.png"}


def test_items_that_are_vectors_are_left_out_too(here):
    remember([("photo", hashlib.sha256(b"b").hexdigest())])
    rows = "rater_id,item,health\ne,a,5\nu,b,6\nu,c,6\n"
    items_folder(here / "items", [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], ratings_csv=rows)
    build_cohort("features", here / "items", here / "out", now=NOW)
    assert read_shards(here / "out/photos", ["name"])["name"].to_pylist() == ["a", "c"]
    assert read_table(here / "out/quarantine.parquet").num_rows == 0


def test_the_review_store_and_imports_bring_nobody_back(here):
    import pyarrow as pa

    _, out = built(here / "in")
    photos = sorted(read_shards(out / "photos", ["photo_id"])["photo_id"].to_pylist())
    url = f"sqlite:///{here}/reviews.db"
    store = open_store(url)
    scores = {"appearance": 1.0, "health": 2.0, "posture": 3.0}
    for user in ("u", "v"):
        invite(store, user, "user")
        offer(store, user, pa.Table.from_pylist([scores | {"photo_id": photo} for photo in photos]), "bank/1")
        for place, photo in enumerate(photos):
            save(store, Person(user, "user"), f"{user}-{place:06d}", "rating", scores | {"photo_id": photo})
    remember([("person", "v"), ("photo", photos[0])])
    take_nights(out, here / "nights", here / "feedback", url, NOW.replace(year=2100))
    (night, *more) = [read_table(path) for path in night_paths(here / "nights")]
    seen = pa.concat_tables([night, *more])
    reviewed = seen.filter(pa.array([event.startswith("u-") for event in seen["event_id"].to_pylist()]))
    assert set(reviewed["user_id"].to_pylist()) == {"u"} and set(reviewed["photo_id"].to_pylist()) == set(photos[1:])
    assert not read_table(here / "feedback/quarantine.parquet").num_rows
    with pytest.raises(BadInput, match=r"v was forgotten; should they come back, take person [0-9a-f ]+ out of"):
        invite(store, "v", "user")
    store.dispose()

    label = scores | {"photo_id": photos[1], "origin": "revised", "round": 1, "at": None, "annotation": None}
    append(pa.Table.from_pylist([label | {"rater_id": "v"}, label | {"rater_id": "e"}], schema=HISTORY), here / "imported")
    found = write_reviewed(here / "reviews", here / "none.db", here / "imported")
    assert found["rater_id"].to_pylist() == ["e"]


def test_simulated_people_and_photos_do_not_come_back_either(here, body_file):
    from tasks.mannequins.cohort import write_mannequins
    from tasks.params import Mannequins, load_params
    from tests.conftest import ROOT

    shutil.copy(ROOT / "params.yaml", here)
    small = {"photos": 12, "experts": 2, "users": 3, "ratings_per_user": 6, "feedback_per_user": 2, "judging_per_user": 0}
    settings = Mannequins(**load_params().mannequins.model_dump() | small)
    write_mannequins(here / "whole", body_file, settings, 1)
    names = sorted(path.name for path in (here / "whole/photos").iterdir())
    lost = hashlib.sha256((here / "whole/photos" / names[3]).read_bytes()).hexdigest()
    remember([("person", "user-0002"), ("photo", lost)])
    write_mannequins(here / "less", body_file, settings, 1)
    assert sorted(path.name for path in (here / "less/photos").iterdir()) == [name for name in names if name != names[3]]
    for name in ("ratings.csv", "feedback.csv", "raters.csv", "raters_truth.csv"):
        whole, less = ((here / part / name).read_text().splitlines() for part in ("whole", "less"))
        assert less == [line for line in whole if "user-0002" not in line and names[3] not in line] != whole
    assert names[3] not in read_table(here / "less/truth.parquet")["photo"].to_pylist()
