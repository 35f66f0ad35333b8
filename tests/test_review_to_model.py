"""From a personal link to a registered model: an expert reviews a round in a real browser, and the pipeline goes on."""

from __future__ import annotations

import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from hashlib import sha256

import pytest

from tests.conftest import Checkout, small_params
from tests.review.review_cases import survey_answers

pytestmark = pytest.mark.timeout(900)
PRETRAIN = {"rounds": 1, "round_photos": 10, "enough": 1.0, "epochs": 4, "own_epochs": 2}
GO_ON = "from flows.rounds import rounds; rounds(stage='pretrain')"


@pytest.fixture
def reviewing(checkout: Checkout) -> Iterator[Checkout]:
    """The checkout with one round of ten photos ahead; what comes later looks at its meshes alone."""
    small_params(checkout.folder, pretrain=PRETRAIN)
    lock = (checkout.folder / "dvc.lock").read_bytes()
    yield checkout
    small_params(checkout.folder)
    (checkout.folder / "dvc.lock").write_bytes(lock)
    checkout.run("dvc", "checkout", "--force")
    for path in (checkout.folder / ".physique").glob("reviews.db*"):
        path.unlink()


def served(base: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(base, timeout=2)
        except urllib.error.HTTPError:  # it answers: without a link nobody may enter
            return
        except OSError:
            assert time.monotonic() < end, "the review page did not start"
            time.sleep(0.2)
        else:
            return


def test_users_are_offered_what_their_personal_model_says(checkout: Checkout, monkeypatch, tmp_path):
    from tasks.reviews import Person, items, open_store

    url = f"sqlite:///{tmp_path}/reviews.db"
    monkeypatch.setitem(checkout.environment, "PHYSIQUE_REVIEWS", url)
    nobody = checkout.run("flows.cli", "review", "offer", ok=False)
    assert nobody.returncode == 1 and "no user is invited; `physique review invite ID --role user` first" in nobody.stderr
    for user in ("user-0001", "somebody-new"):
        checkout.run("flows.cli", "review", "invite", user, "--role", "user")
    # of 90 photos user-0001 has not rated a handful, test photos apart
    assert "somebody-new             2 photos" in checkout.run("flows.cli", "review", "offer", "--photos", "2").stdout
    checkout.run("flows.cli", "review", "offer", "user-0001", "--photos", "1")
    store = open_store(url)
    theirs, others = (items(store, Person(user, "user")) for user in ("user-0001", "somebody-new"))
    store.dispose()
    assert (len(theirs), len({item.photo_id for item in theirs}), len(others)) == (3, 3, 2)
    assert all(0 <= item.suggested["health"] <= 10 for item in theirs + others)
    assert theirs[0].model_version.startswith("physique-personal/")


def test_ask_shows_the_photos_of_the_review_page_in_its_order(checkout: Checkout, monkeypatch, tmp_path):
    from tasks.reviews import Person, items, open_store, save

    def asked(*words: str) -> list[dict]:
        return [json.loads(line) for line in checkout.run("flows.cli", "ask", *words, "--json").stdout.splitlines()]

    before = asked("user-0001", "--count", "2")
    assert len({row["photo_id"] for row in before}) == 2 and not any(row["on_page"] for row in before)
    assert all(0 <= score["score"] <= 10 and score["sd"] > 0 for row in before for score in row["scores"].values())

    url = f"sqlite:///{tmp_path}/reviews.db"
    monkeypatch.setitem(checkout.environment, "PHYSIQUE_REVIEWS", url)
    checkout.run("flows.cli", "review", "invite", "user-0001", "--role", "user")
    checkout.run("flows.cli", "review", "offer", "user-0001", "--photos", "2")
    store, person = open_store(url), Person("user-0001", "user")
    page = items(store, person)
    assert [item.photo_id for item in page] == [row["photo_id"] for row in before]
    save(store, person, "rated-first", "rating", {"photo_id": page[0].photo_id, **dict.fromkeys(page[0].suggested, 5.0)})
    store.dispose()
    after = asked("user-0001", "--count", "2")
    assert after[0]["photo_id"] == page[1].photo_id
    assert [row["on_page"] for row in after] == [True, False]
    assert page[0].photo_id not in {row["photo_id"] for row in after}


def test_a_stranger_is_asked_too_and_of_a_folder(checkout: Checkout, tmp_path):
    said = checkout.run("flows.cli", "ask", "somebody-new", "--count", "3")
    assert "user 'somebody-new' is not in the bank; asked as a new user" in said.stderr
    assert "0 rated" in said.stdout and "physique-personal version" in said.stdout
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = checkout.run("flows.cli", "ask", "user-0001", "--pool", str(empty), ok=False)
    assert nothing.returncode == 1 and f"--pool: {empty} holds no photo that can be read" in nothing.stderr
    photos = sorted(checkout.folder.glob("data/mannequins/photos/*.jpg"))[:12]
    folder = tmp_path / "mine"
    folder.mkdir()
    for path in photos:
        shutil.copy(path, folder)
    (folder / "broken.jpg").write_bytes(b"no picture")
    rows = checkout.run("flows.cli", "ask", "somebody-new", "--pool", str(folder), "--json").stdout.splitlines()
    ids = {sha256(path.read_bytes()).hexdigest(): path.name for path in photos}
    assert rows and all(ids[json.loads(row)["photo_id"]] == json.loads(row)["photo"] for row in rows)


def test_what_an_expert_reviews_in_a_browser_becomes_a_registered_model(reviewing: Checkout):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    from tasks.engines import free_port
    from tasks.tables import read_json, read_table

    port = free_port()
    base = f"http://127.0.0.1:{port}"
    invited = reviewing.run("flows.cli", "review", "invite", "anna", "--role", "expert", "--base-url", base).stdout
    (link,) = re.findall(r"http://\S+/r/[\w-]+", invited)
    assert "round 1 is open: 10 photos for 1 expert" in reviewing.run("flows.rounds").stdout
    server = reviewing.start("flows.cli", "review", "serve", "--port", str(port))
    try:
        served(base)
        with sync_playwright() as plays:
            browser = plays.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
            page = browser.new_page(locale="en-GB")
            page.set_default_timeout(60_000)
            page.goto(link)
            page.wait_for_selector("#questions fieldset")
            for name, value in survey_answers().items():
                page.check(f"input[name={name}][value='{value}']", force=True)
            page.click("#questions button[type=submit]")
            page.wait_for_selector("#review:not([hidden])")
            for place in range(1, 11):
                page.locator("#slide-appearance").fill(str(place - 0.5))
                page.keyboard.press("Escape")
                page.click("#save")
                if place == 5:
                    page.reload()
                    page.wait_for_selector("#review:not([hidden])")
            page.locator("#endtitle", has_text="Thank you").wait_for()
            browser.close()
    finally:
        server.terminate()
        server.wait(30)

    done = reviewing.say(GO_ON)
    assert "round 1 is closed: 10 of 10 reviewed; the only round is over" in done
    labels = read_table(reviewing.folder / "artifacts/pretrain/labels.parquet").to_pylist()
    mine = [row for row in labels if row["rater_id"] == "anna"]
    assert sorted(round(row["appearance"], 1) for row in mine) == [place - 0.5 for place in range(1, 11)]
    assert {row["origin"] for row in mine} == {"revised"}
    version = read_json(reviewing.folder / "artifacts/pretrain/pretrain.json")["experts"]["anna"]
    assert version["name"] == "physique-expert-anna"
    look = "from tasks.registry import champion_bundle; print(champion_bundle('physique-expert-anna'))"
    reviewing.say(look)
    cards = list((reviewing.folder / "mlartifacts").rglob("cards/physique-expert-anna/card.md"))
    assert cards and "revised | 10" in cards[0].read_text()
