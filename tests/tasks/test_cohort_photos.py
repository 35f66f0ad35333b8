"""Photos on their way into a cohort: every file is counted, copies and odd names find their photo."""

import hashlib
import os

import pyarrow.parquet as pq
from cohort_cases import aside, built, labels, picture, source
from PIL import Image

from tasks.intake import photos as intake_photos
from tasks.tables import read_shards


def test_every_file_among_the_photos_is_accounted_for(tmp_path):
    root = source(tmp_path / "in", "rater_id,photo,health\nu,1.png,5\n", photos=2)
    photos = root / "photos"
    (photos / "copy.png").write_bytes(picture(1))
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 nothing more")
    (photos / "notes.txt").write_text("not a photo")
    (photos / "no_suffix").write_bytes(picture(50))
    (photos / ".DS_Store").write_bytes(b"x")
    (photos / "folder.jpg").mkdir()
    (photos / "more").mkdir()
    (photos / "more" / "turned.jpg").write_bytes(turned := picture(51, (8, 6), exif=_orientation(6)))
    (photos / "more" / "up").symlink_to(photos, target_is_directory=True)
    (photos / "loop.png").symlink_to(photos / "loop.png")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    (photos / "linked.png").symlink_to(root / "elsewhere.png")
    (root / "elsewhere.png").write_bytes(picture(52))
    os.mkfifo(photos / "pipe.png")
    summary, out = built(root, experts=1)
    rows = {row["name"]: row for row in read_shards(out / "photos").to_pylist()}
    assert list(rows) == [
        "1.png",
        "2.png",
        "broken.jpg",
        "empty.jpg",
        "linked.png",
        "more/turned.jpg",
        "no_suffix",
    ]
    assert (rows["1.png"]["width"], rows["1.png"]["height"]) == (8, 6)
    assert (rows["more/turned.jpg"]["width"], rows["more/turned.jpg"]["height"]) == (6, 8)
    assert (rows["broken.jpg"]["width"], rows["empty.jpg"]["height"]) == (None, None)
    assert rows["more/turned.jpg"]["bytes"] == turned
    assert all(row["photo_id"] == hashlib.sha256(row["bytes"]).hexdigest() for row in rows.values())
    assert aside(out) == [
        "photos/.DS_Store, photo: hidden file",
        "photos/copy.png, photo: same bytes as another photo ('1.png')",
        "photos/folder.jpg, photo: a folder, not a photo",
        "photos/gone.png, photo: link that leads nowhere",
        "photos/loop.png, photo: link that leads nowhere",
        "photos/more/up, photo: link to a folder, not followed",
        "photos/notes.txt, photo: not a photo",
        "photos/pipe.png, photo: not a regular file",
    ]
    counts = summary["counts"]
    assert (counts["files"], counts["photos"], counts["duplicates"], counts["files_set_aside"]) == (
        15,
        7,
        1,
        7,
    )
    assert counts["photos_without_size"] == 2


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_ratings_of_a_copy_count_for_the_first(tmp_path):
    root = source(
        tmp_path / "in",
        "rater_id,photo,health\nu,copy.png,5\nv,copy.png,6\nv,1.png,7\ne,1.png,8\n",
        raters_csv="rater_id,role\ne,expert\nu,\nv,user\n",
    )
    (root / "photos" / "copy.png").write_bytes(picture(1))
    summary, out = built(root)
    assert [(row[0], row[1], row[3]) for row in labels(out)] == [
        ("1.png", "e", 8),
        ("1.png", "u", 5),
        ("1.png", "v", 6),
    ]
    assert aside(out)[1] == (
        "ratings.csv, line 4, photo: second rating of the same rater, photo and time ('kept: ratings.csv, line 3')"
    )
    assert summary["counts"]["duplicates"] == 1


def test_photo_names_as_people_write_them(tmp_path):
    names = ["photos/1.png", "./2.png", "photos\\3.png", "IMG.PNG", "1", "été", "IMG.jpg"]
    text = "rater_id,photo,health\n" + "".join(f"r{n},{name},5\n" for n, name in enumerate(names))
    root = source(tmp_path / "in", text)
    (root / "photos" / "img.png").write_bytes(picture(60))
    (root / "photos" / "e\u0301te\u0301.png").write_bytes(picture(61))  # as macOS writes it
    _, out = built(root)
    assert {row[1]: row[0] for row in labels(out)} == {
        **{"r0": "1.png", "r1": "2.png", "r2": "3.png", "r3": "img.png", "r4": "1.png"},
        "r5": "e\u0301te\u0301.png",
    }
    assert aside(out) == ["ratings.csv, line 8, photo: unknown photo ('IMG.jpg')"]


def test_photos_are_packed_in_shards_by_rows_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(intake_photos, "SHARD_ROWS", 4)
    root = source(tmp_path / "in", "rater_id,photo,health\nu,1.png,5\n", photos=10)
    seen = []
    summary, out = built(root, on_progress=lambda done, total: seen.append((done, total)))
    shards = sorted((out / "photos").iterdir())
    assert [pq.read_metadata(path).num_rows for path in shards] == [4, 4, 2]
    assert seen == [(done, 10) for done in range(1, 11)]
    names = read_shards(out / "photos", ["name"])["name"].to_pylist()
    assert names == sorted(names)
    monkeypatch.setattr(intake_photos, "SHARD_BYTES", 3 * len(picture(1)))
    monkeypatch.setattr(intake_photos, "LARGEST_FILE", 10_000)
    (root / "photos" / "huge.png").write_bytes(b"0" * 10_001)
    summary, out = built(root)
    assert summary["counts"]["shards"] >= 4
    assert len(read_shards(out / "photos", ["name"])) == 10
    assert aside(out) == ["photos/huge.png, photo: cannot be read (larger than 0 MiB)"]
