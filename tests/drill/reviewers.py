"""Somebody who rates on the review page all the while, and remembers what was acknowledged."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import httpx
import pyarrow as pa
import sqlalchemy as sa

from review.app import COOKIE
from tasks.reviews import invite, offer, open_store
from tasks.reviews.tables import ANSWERS
from tests.drill.scene import Scene, photo_ids

PAUSE_S = 0.5


class Reviewer(threading.Thread):
    """Posts ratings of one user, each until it is acknowledged, as the page does; `stop` ends it."""

    def __init__(self, scene: Scene, name: str = "rae"):
        super().__init__(daemon=True)
        self.scene, self.user, self.mark = scene, name, time.time_ns()
        self.photos = photo_ids(scene.folder)[:20]
        self.acknowledged: dict[str, dict[str, Any]] = {}
        self.refused: dict[str, int] = {}
        """What the page answered instead, and how often."""
        self.ended = threading.Event()
        store = open_store(scene.store)
        self.token = invite(store, name, "user")
        offered = [{"photo_id": photo, "appearance": 4.0, "health": 5.0, "posture": 6.0} for photo in self.photos]
        offer(store, name, pa.Table.from_pylist(offered), "bank/1")
        store.dispose()

    def run(self) -> None:
        base, place = self.scene.up.state().pages["review page"], 0
        with httpx.Client(base_url=base, cookies={COOKIE: self.token}, timeout=20, trust_env=False) as client:
            while not self.ended.is_set():
                rating = {"photo_id": self.photos[place % 20], "appearance": place % 11, "health": None, "posture": 3.5}
                key = f"{self.user}-{self.mark}-{place:06d}"
                while not self.ended.is_set():
                    try:
                        reply = client.post("/api/answers", json={"key": key, "kind": "rating", "payload": rating})
                        if reply.status_code == 200:
                            self.acknowledged[key] = rating
                            break
                        why = f"{reply.status_code}: {reply.text[:160]}"
                    except httpx.HTTPError as error:
                        why = type(error).__name__
                    self.refused[why] = self.refused.get(why, 0) + 1
                    time.sleep(PAUSE_S)
                place += 1
                self.ended.wait(PAUSE_S)

    def stop(self) -> None:
        """No more ratings after the one under way."""
        self.ended.set()
        if self.is_alive():
            self.join(30)

    def lost(self) -> list[str]:
        """Answers that were acknowledged and do not lie in the store once, as they were given."""
        store = open_store(self.scene.store)
        with store.connect() as connection:
            rows = connection.execute(
                sa.select(ANSWERS.c.key, ANSWERS.c.payload).where(ANSWERS.c.person_id == self.user)
            ).all()
        store.dispose()
        kept: dict[str, list[dict]] = {}
        for row in rows:
            kept.setdefault(row.key, []).append(json.loads(row.payload))
        out = []
        for key, rating in list(self.acknowledged.items()):
            found = kept.get(key, [])
            if len(found) != 1 or any(found[0][name] != value for name, value in rating.items()):
                out.append(f"review {key} is stored {len(found)} times")
        return out
