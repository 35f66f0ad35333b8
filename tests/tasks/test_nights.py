"""Snapshots of feedback: an event is in one only, poison goes aside, the order of arrival does not matter."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa
from cohort_cases import NOW, RATERS, built, source

from tasks.intake.quarantine import as_lines
from tasks.nights import UNREADABLE, night_paths, take_nights
from tasks.reviews import Person, invite, offer, open_store, save
from tasks.reviews.tables import ANSWERS
from tasks.tables import read_json, read_shards, read_table

FEEDBACK = "event_id,user_id,photo,kind,dimension,value,suggested,model_version,at,other\n"
ULI = Person("uli", "user")


def line(event: str, value: float = 5, day: int = 1, photo: int = 1, user: str = "u") -> str:
    return f"{event},{user},{photo}.png,rating,health,{value},,,2026-05-{day:02d}T10:00:00Z,\n"


class Nightly:
    """A small cohort with a review store, and what its nights hold."""

    def __init__(self, folder: Path):
        self.folder, self.url = folder, f"sqlite:///{folder}/reviews.db"
        self.nights, self.out = folder / "nights", folder / "feedback"
        source(folder / "in", "rater_id,photo,health\ne,1.png,5\nu,2.png,5\n", raters_csv=RATERS)
        self.write("")

    def write(self, lines: str, **files: str) -> None:
        (self.folder / "in/feedback.csv").write_text(FEEDBACK + lines)
        for name, text in files.items():
            (self.folder / "in" / name.replace("_", ".")).write_text(text)
        built(self.folder / "in")
        cohort = self.folder / "cohort"
        self.photos = sorted(read_shards(cohort / "photos", ["photo_id"])["photo_id"].to_pylist())

    def take(self, now: datetime = NOW):
        return take_nights(self.folder / "cohort", self.nights, self.out, self.url, now)

    def held(self) -> list[list[str]]:
        """Event ids, night by night."""
        return [read_table(path)["event_id"].to_pylist() for path in night_paths(self.nights)]

    def aside(self) -> list[str]:
        return as_lines(read_table(self.out / "quarantine.parquet"), 100)


@pytest.fixture
def nightly(tmp_path) -> Nightly:
    return Nightly(tmp_path)


@pytest.fixture
def store(nightly):
    engine = open_store(nightly.url)
    invite(engine, "uli", "user")
    rows = [{"photo_id": photo, "appearance": 4.0, "health": 5.0, "posture": None} for photo in nightly.photos]
    offer(engine, "uli", pa.Table.from_pylist(rows), "bank/1")
    yield engine
    engine.dispose()


def rating(photo: str, health: float) -> dict:
    return {"photo_id": photo, "appearance": None, "health": health, "posture": None}


def test_an_event_is_in_one_snapshot_and_missed_nights_are_caught_up(nightly):
    nightly.write(line("a") + line("b", day=2))
    assert nightly.take().events == 2
    before = [path.read_bytes() for path in night_paths(nightly.nights)]
    assert nightly.take().nights == [] and [p.read_bytes() for p in night_paths(nightly.nights)] == before
    late = line("c", day=3) + line("d", day=9) + line("e", photo=2, day=1)  # `e` is older than what was taken
    nightly.write(line("a") + late + line("b", day=2))
    nightly.take()
    assert nightly.held() == [["a", "b"], ["e", "c", "d"]]
    assert [path.read_bytes() for path in night_paths(nightly.nights)][:1] == before
    counts = read_json(nightly.out / "feedback.json")
    assert counts == {"seen": 5, "taken": 5, "set aside": 0}


def test_the_order_of_arrival_within_a_night_does_not_matter(nightly, tmp_path):
    nightly.write(line("a", day=3) + line("b") + line("c", day=2))
    nightly.take()
    other = Nightly(tmp_path / "other")
    other.write(line("c", day=2) + line("a", day=3) + line("b"))
    other.take()
    assert night_paths(nightly.nights)[0].read_bytes() == night_paths(other.nights)[0].read_bytes()


def test_the_first_content_of_an_event_stands(nightly):
    nightly.write(line("a", 5))
    nightly.take()
    nightly.write(line("a", 6) + line("b", day=2))
    nightly.take()
    assert nightly.held() == [["a"], ["b"]]
    assert nightly.aside() == ["feedback/a, event_id: event is there already with other content ('a')"]


def test_simulated_feedback_has_a_night_per_day_and_begins_anew_when_its_settings_change(nightly):
    nightly.write(line("a") + line("b", day=2) + line("c", day=2, photo=2), cohort_yaml="simulated: true")
    nightly.take()
    assert nightly.held() == [["a"], ["b", "c"]]
    nightly.write(line("a", 6) + line("b", day=4), cohort_yaml="simulated: true")
    nightly.take()
    assert nightly.held() == [["a"], ["b"]] and nightly.aside() == []
    assert read_table(night_paths(nightly.nights)[0])["value"].to_pylist() == [6.0]


def test_what_users_say_on_the_page_is_taken_beside_the_cohorts_own(nightly, store):
    nightly.write(line("a"))
    soon = datetime.now(UTC)
    save(store, ULI, "key-00000001", "rating", rating(nightly.photos[0], 7))
    save(store, ULI, "key-00000002", "thumb", {"photo_id": nightly.photos[1], "value": 1})
    nightly.take(soon)
    assert nightly.held() == [["a", "key-00000001:health", "key-00000002:appearance", "key-00000002:health"]]
    thumbs = [row for row in read_table(night_paths(nightly.nights)[0]).to_pylist() if row["kind"] == "thumb"]
    assert [(row["dimension"], row["suggested"]) for row in thumbs] == [("appearance", 4.0), ("health", 5.0)]
    save(store, ULI, "key-00000003", "undo", {"photo_id": nightly.photos[0]})
    nightly.take(soon)
    assert nightly.held()[1:] == [["key-00000003"]]
    (undo,) = read_table(night_paths(nightly.nights)[1]).to_pylist()
    assert (undo["kind"], undo["text"]) == ("delete", "key-00000001")


UNREAD = [
    ("rating", "{not json"), ("rating", "[1]"), ("rating", {"health": 5}), ("thumb", {}), ("comment", {"text": 5}),
    ("comparison", {"value": 1, "dimension": ["health"], "other_id": "e"}), ("survey", {"answers": "none"}),
    ("applause", {}),
]  # fmt: skip


def test_poison_in_the_store_goes_aside_and_the_rest_is_taken(nightly, store):
    photo, other = nightly.photos[:2]
    save(store, ULI, "key-00000001", "rating", rating(photo, 7))
    bad = [
        ("stranger", "rating", photo, rating(photo, 5), "user_id: unknown user ('nobody')"),
        ("photo", "rating", "f" * 64, rating("f" * 64, 5), f"photo_id: unknown photo ('{'f' * 64}')"),
        ("nan", "rating", photo, rating(photo, float("nan")), "value: not a number ('nan')"),
        ("eleven", "rating", photo, rating(photo, 11), "value: outside the scale 0 to 10 ('11')"),
        ("words", "rating", photo, rating(photo, "much"), "value: not a number ('much')"),
        ("long", "comment", photo, {"text": "x" * 2_000_000}, "text: longer than 4,000 characters"),
        ("itself", "comparison", photo, {"value": 1, "dimension": "health", "other_id": photo}, "text: the photo is"),
        ("gone", "comparison", photo, {"value": 1, "dimension": "health", "other_id": "e" * 64}, "text: unknown photo"),
        ("later", "rating", other, rating(other, 5), "at: in the future"),
        *((f"unreadable-{k}", kind, photo, payload, f"payload: {UNREADABLE}") for k, (kind, payload) in enumerate(UNREAD)),
    ]
    with store.begin() as connection:
        for key, kind, where, payload, _ in bad:
            at = datetime.now(UTC) + timedelta(days=2 * (key == "later"))
            row = {"key": key, "person_id": "nobody" if key == "stranger" else "uli", "role": "user", "kind": kind}
            text = payload if isinstance(payload, str) else json.dumps(payload)
            row |= {"photo_id": where, "payload": text, "posted_sha256": key, "at": at.isoformat()}
            connection.execute(sa.insert(ANSWERS).values(**row))
    nightly.take(datetime.now(UTC))
    assert nightly.held() == [["key-00000001:health"]]
    found = nightly.aside()
    assert len(found) == len(bad)
    for key, _, _, _, said in bad:
        assert any(each.startswith(f"reviews/{key}") and said in each for each in found), (key, found)
    nightly.take(datetime.now(UTC) + timedelta(days=3))  # what was dated in the future is taken when its day has come
    assert nightly.held()[1:] == [["later:health"]]


def test_poison_in_a_file_goes_aside(nightly):
    words = [
        ("long," "u,,comment,," + "x" * 50_000 + ",,,2026-05-01T10:00:00Z,", "value: longer than 4,000 characters"),
        ("huge," "u,,comment,," + "x" * 2_000_000 + ",,,2026-05-01T10:00:00Z,", "cell too long"),
        ("alone,u,1.png,comparison,health,1,,,2026-05-01T10:00:00Z,", "other: blank photo"),
        ("lost,u,1.png,comparison,health,1,,,2026-05-01T10:00:00Z,9.png", "other: unknown photo"),
        ("mirror,u,1.png,comparison,health,1,,,2026-05-01T10:00:00Z,1.png", "other: the photo is compared with itself"),
        ("vague,u,1.png,comparison,,1,,,2026-05-01T10:00:00Z,2.png", "dimension: unknown dimension"),
        ("form,u,,survey,,tall,,,2026-05-01T10:00:00Z,", "value: not a JSON object of answers"),
    ]
    good = "pair,u,1.png,comparison,health,-1,,,2026-05-01T10:00:00Z,2.png\n"
    nightly.write("".join(text + "\n" for text, _ in words) + good)
    nightly.take()
    assert nightly.held() == [["pair"]]
    aside = as_lines(read_table(nightly.folder / "cohort/quarantine.parquet"), 100)
    assert len(aside) == len(words)
    for said, (_, reason) in zip(aside, words):
        assert reason in said
