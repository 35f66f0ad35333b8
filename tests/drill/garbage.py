"""Malformed feedback of many kinds, each with what is wrong with it, and beside it good feedback that must be learned."""

from __future__ import annotations

import json
from typing import Any

import httpx
import sqlalchemy as sa

from review.app import COOKIE
from tasks.nights import night_paths
from tasks.reviews import invite, open_store
from tasks.reviews.store import now
from tasks.reviews.tables import ANSWERS
from tasks.tables import read_shards, read_table
from tests.drill.scene import Scene

GOOD = "{user},{photo},rating,health,6.5,,,2026-06-01T10:00:00Z"
ROWS: dict[str, bytes] = {
    "unknown user": b"bad-1,nobody,{photo},rating,health,5,,,2026-06-01T10:00:00Z",
    "unknown photo": b"bad-2,{user},no.jpg,rating,health,5,,,2026-06-01T10:00:00Z",
    "unknown kind": b"bad-3,{user},{photo},applause,health,5,,,2026-06-01T10:00:00Z",
    "unknown dimension": b"bad-4,{user},{photo},rating,beauty,5,,,2026-06-01T10:00:00Z",
    "not a number": b"bad-5,{user},{photo},rating,health,five,,,2026-06-01T10:00:00Z",
    "NaN": b"bad-6,{user},{photo},rating,health,NaN,,,2026-06-01T10:00:00Z",
    "endless": b"bad-7,{user},{photo},rating,health,1e999,,,2026-06-01T10:00:00Z",
    "off the scale": b"bad-8,{user},{photo},rating,health,11,,,2026-06-01T10:00:00Z",
    "no date": b"bad-9,{user},{photo},rating,health,5,,,yesterday",
    "no time zone": b"bad-10,{user},{photo},rating,health,5,,,2026-06-01T10:00:00",
    "in the future": b"bad-11,{user},{photo},rating,health,5,,,2099-06-01T10:00:00Z",
    "no id": b",{user},{photo},rating,health,5,,,2026-06-01T10:00:00Z",
    "no photo": b"bad-13,{user},,rating,health,5,,,2026-06-01T10:00:00Z",
    "survey that is no JSON": b"bad-14,{user},,survey,,what?,,,2026-06-01T10:00:00Z",
    "blank comment": b"bad-15,{user},{photo},comment,, ,,,2026-06-01T10:00:00Z",
    "too many cells": b"bad-16,{user},{photo},rating,health,5,,,2026-06-01T10:00:00Z,,,x",
    "too few cells": b"bad-17,{user},{photo}",
    "an open quote": b'bad-18,"{user},{photo},rating,health,5,,,2026-06-01T10:00:00Z',
    "a cell without end": b"bad-19,{user},{photo},comment,," + b"x" * 140_000 + b",,,2026-06-01T10:00:00Z",
    "noise": b"\xff\xfe\x00\x9d\x81,\x00\x00\x1b[2J",
    "path": b"bad-21,{user},../../etc/passwd,rating,health,5,,,2026-06-01T10:00:00Z",
    "another content": b"good-0,{user},{photo},rating,health,1,,,2026-06-01T10:00:00Z",
}
"""Lines of feedback.csv; the last one is an event that is there already."""
STORED: dict[str, tuple[str, ...]] = {
    "stored-1": ("rating", "{not json"),
    "stored-2": ("rating", '["a list"]'),
    "stored-3": ("rating", '{"appearance": 5}'),
    "stored-4": ("rating", '{"appearance": NaN, "health": null, "posture": null}'),
    "stored-5": ("rating", '{"appearance": 1e6, "health": null, "posture": null}'),
    "stored-6": ("rating", '{"appearance": "tall", "health": null, "posture": null}'),
    "stored-7": ("thumb", "{}"),
    "stored-8": ("comparison", '{"value": 1, "dimension": "charm", "other_id": "nobody"}'),
    "stored-9": ("comment", '{"text": ""}'),
    "stored-10": ("survey", '{"answers": "none"}'),
    "stored-11": ("comment", '{"text": "well"}', "the day before"),
}
"""key → kind, payload, date of rows that no page of ours writes: another program, a broken disk, a hand in the database."""
POSTED: list[Any] = [
    {"kind": "rating", "payload": {"photo_id": "0" * 64, "appearance": 1, "health": 1, "posture": 1}, "key": "posted-0001"},
    {"kind": "rating", "payload": {"appearance": 99}, "key": "posted-0002"},
    {"kind": "applause", "payload": {}, "key": "posted-0003"},
    {"kind": "comment", "payload": {"text": " "}, "key": "posted-0004"},
    {"kind": "rating", "payload": "none", "key": "../../etc"},
    ["no", "object"],
    "{",
]


class GarbageIn:
    """Puts all of it in, and knows afterwards what should have become of it."""

    def __init__(self, scene: Scene):
        self.scene = scene
        self.photo = sorted(path.name for path in (scene.folder / "people/photos").iterdir())[0]
        raters = read_table(scene.folder / "data/cohort/raters.parquet").to_pylist()
        self.user = next(row["rater_id"] for row in raters if row["role"] == "user")

    def filed(self) -> None:
        """At the end of the cohort's own feedback.csv; good lines before, between and after."""
        lines = [line for place, row in enumerate(ROWS.values()) for line in (f"good-{place},{GOOD}".encode(), row)]
        text = b"\n".join([*lines, f"good-{len(ROWS)},{GOOD}".encode(), b""])
        with (self.scene.folder / "people/feedback.csv").open("ab") as file:
            file.write(text.replace(b"{user}", self.user.encode()).replace(b"{photo}", self.photo.encode()))

    def stored(self) -> None:
        """Straight into the store of reviews."""
        store = open_store(self.scene.store)
        photo = read_shards(self.scene.folder / "data/cohort/photos", ["photo_id"])["photo_id"][0].as_py()
        with store.begin() as connection:
            for key, (kind, payload, *at) in STORED.items():
                row = {"key": key, "person_id": self.user, "role": "user", "kind": kind, "photo_id": photo}
                row |= {"payload": payload, "posted_sha256": "0" * 64, "at": at[0] if at else now()}
                connection.execute(sa.insert(ANSWERS).values(row))
        store.dispose()

    def posted(self) -> tuple[list[str], list[str]]:
        """To the page; its answers, and what it took."""
        store = open_store(self.scene.store)
        token = invite(store, self.user, "user")
        store.dispose()
        refused, taken = [], []
        with httpx.Client(cookies={COOKIE: token}, trust_env=False, timeout=30) as client:
            for what in POSTED:
                body = what if isinstance(what, str) else json.dumps(what)
                where = f"{self.scene.up.state().pages['review page']}/api/answers"
                reply = client.post(where, content=body, headers={"Content-Type": "application/json"})
                (taken if reply.status_code < 400 else refused).append(f"{reply.status_code}: {reply.text[:160]}")
        return refused, taken

    def aside(self) -> list[dict[str, Any]]:
        """What the cohort and the nights have set aside of it."""
        rows = read_table(self.scene.folder / "data/cohort/quarantine.parquet").to_pylist()
        rows = [row for row in rows if row["file"] == "feedback.csv"]
        return rows + read_table(self.scene.folder / "data/feedback/quarantine.parquet").to_pylist()

    def forgotten_of(self, aside: list[dict[str, Any]]) -> list[str]:
        """Bad events that are in no quarantine: neither by their line nor by their id."""
        lines = (self.scene.folder / "people/feedback.csv").read_bytes().split(b"\n")
        first = len(lines) - 1 - (2 * len(ROWS) + 1)
        said = {row["row"] for row in aside if row["file"] == "feedback.csv"}
        missing = [what for place, what in enumerate(ROWS) if first + 2 * place + 2 not in said]
        told = {row["file"].rpartition("/")[2].partition(":")[0] for row in aside}
        return missing + [f"{key} {' '.join(what)}" for key, what in STORED.items() if key not in told]

    def good_lost(self) -> list[str]:
        """Good lines that are in no night."""
        held = {
            event
            for path in night_paths(self.scene.folder / "data/nights")
            for event in read_table(path, ["event_id"])["event_id"].to_pylist()
        }
        return [f"good-{place} was not learned" for place in range(len(ROWS) + 1) if f"good-{place}" not in held]
