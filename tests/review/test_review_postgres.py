"""Fifty reviewers at once on Postgres, 5,000 reviews, the server killed twice: what is acknowledged is stored exactly once.

Every answer is posted until it is acknowledged, under one key; replies that are lost make repeats.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter

import httpx
import sqlalchemy as sa
from review_cases import Server, drafts, photo_id

from review.app import COOKIE
from tasks.reviews import invite, open_round, open_store, revised_labels, round_progress
from tasks.reviews.tables import ANSWERS

PEOPLE, PHOTOS = 50, 100


class Reviewer:
    """Posts one review per photo, each until it is acknowledged."""

    def __init__(self, base: str, place: int, token: str) -> None:
        self.base, self.place, self.token = base, place, token
        self.acknowledged: dict[str, dict] = {}
        self.repeats = self.failures = 0

    async def work(self) -> None:
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=self.base, cookies={COOKIE: self.token}, limits=limits, timeout=20) as client:
            for photo in range(PHOTOS):
                scores = {"appearance": (self.place + photo) % 11, "health": photo / 10, "posture": None}
                payload = {"photo_id": photo_id(photo), "round": 1, **scores}
                await self.post(client, {"key": f"key-{self.place:02d}-{photo:04d}", "kind": "review", "payload": payload})

    async def post(self, client: httpx.AsyncClient, answer: dict) -> None:
        while True:
            try:
                reply = await client.post("/api/answers", json=answer)
                if reply.status_code == 200:
                    self.repeats += reply.json()["repeat"]
                    self.acknowledged[answer["key"]] = answer["payload"]
                    return
                assert reply.status_code == 503, reply.text
            except httpx.HTTPError:
                self.failures += 1
            await asyncio.sleep(0.3)


def test_fifty_reviewers_and_a_server_that_dies_twice(fresh_postgres):
    store = open_store(fresh_postgres)
    people = [f"expert-{k:02d}" for k in range(PEOPLE)]
    open_round(store, 1, drafts(PHOTOS), people)
    server = Server(fresh_postgres)
    reviewers = [Reviewer(server.base, k, invite(store, person, "expert")) for k, person in enumerate(people)]

    async def all_of_it() -> int:
        working = asyncio.gather(*(each.work() for each in reviewers))
        kills = 0
        for share in (0.25, 0.6):
            while sum(len(each.acknowledged) for each in reviewers) < share * PEOPLE * PHOTOS:
                if working.done():  # a reviewer failed
                    await working
                await asyncio.sleep(0.02)
            kills += not working.done()
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await working
        return kills

    start = time.monotonic()
    try:
        kills = asyncio.run(all_of_it())
    finally:
        server.kill()
    took = time.monotonic() - start

    assert kills == 2 and sum(each.failures for each in reviewers) > 0, "the server died while people were working"
    acknowledged = {key: payload for each in reviewers for key, payload in each.acknowledged.items()}
    with store.connect() as connection:
        rows = connection.execute(sa.select(ANSWERS.c.key, ANSWERS.c.payload)).all()
    assert len(acknowledged) == PEOPLE * PHOTOS
    assert Counter(row.key for row in rows) == Counter(list(acknowledged))
    kept = {row.key: {k: v for k, v in json.loads(row.payload).items() if k != "comment"} for row in rows}
    assert kept == acknowledged
    assert round_progress(store, 1) == dict.fromkeys(people, (PHOTOS, PHOTOS))
    assert revised_labels(store, 1).num_rows == PEOPLE * PHOTOS
    repeats = sum(each.repeats for each in reviewers)
    print(f"{len(rows):,} reviews in {took:.0f} s, {sum(e.failures for e in reviewers)} lost requests, {repeats} repeats")
    store.dispose()
