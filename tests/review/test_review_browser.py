"""A real browser: survey, ten photos by keyboard and slider, reload, back, undo, a server that is killed meanwhile."""

from __future__ import annotations

import shutil
import time

import pytest
from review_cases import Server, drafts, photo_id, survey_answers

from tasks.reviews import feedback_events, invite, offer, open_round, open_store, revised_labels, surveys_of


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as plays:
        browser = plays.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def store(tmp_path):
    engine = open_store(f"sqlite:///{tmp_path}/reviews.db")
    open_round(engine, 1, drafts(10), ["anna"])
    offer(engine, "uli", drafts(4), "bank/1")
    yield engine
    engine.dispose()


@pytest.fixture
def server(tmp_path, store):
    made = Server(f"sqlite:///{tmp_path}/reviews.db")
    yield made
    made.kill()


def opened(chromium, server, token, **about):
    """The page as a person sees it after the survey; anything that goes wrong in its scripts fails the test."""
    context = chromium.new_context(locale="en-GB", **about)
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.faults, page.abroad = [], []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda line: page.faults.append(line.text) if "Content Security Policy" in line.text else None)
    page.on("request", lambda asked: None if asked.url.startswith(server.base) else page.abroad.append(asked.url))
    page.goto(f"{server.base}/r/{token}")
    page.wait_for_url(f"{server.base}/**")
    page.wait_for_selector("#questions fieldset")
    assert token not in page.url
    return page


def fill_survey(page):
    for name, value in survey_answers().items():
        page.check(f"input[name={name}][value='{value}']", force=True)
    page.click("#questions button[type=submit]")
    page.wait_for_selector("#review:not([hidden])")


def until(page, expression, seconds=60):
    """Wait from outside: the page's own policy forbids what Playwright's wait_for_function does inside."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never came true: {expression}"
        page.wait_for_timeout(50)


def saved(page):
    until(page, "!Object.keys(localStorage).some(name => name.startsWith('physique:out:'))")


def at(page, place):
    until(page, f"location.hash === '{place}'")


def test_ten_photos(chromium, server, store):
    page = opened(chromium, server, invite(store, "anna", "expert"))
    page.check("input[name=muscles][value=some]", force=True)
    page.reload()  # in the middle of the survey
    page.wait_for_selector("#questions fieldset")
    assert page.is_checked("input[name=muscles][value=some]")
    page.click("#questions button[type=submit]")
    assert page.is_visible("#wrong"), "required questions are open"
    fill_survey(page)
    assert page.inner_text("#count") == "0 of 10 reviewed"

    for _ in range(8):
        page.keyboard.press("ArrowRight")
    assert page.inner_text(".slider.active .change") == "+0.8"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("x")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("c")
    page.keyboard.type("long arms <b>?")
    page.reload()  # in the middle of a photo
    page.wait_for_selector("#review:not([hidden])")
    assert page.input_value("#comment") == "long arms <b>?"
    assert page.inner_text(".slider[data-name=appearance] output") == "5.8"
    page.click("#save")
    at(page, "#2")
    page.locator("#slide-health").fill("9.3")
    page.click("#save")
    at(page, "#3")
    for place in range(4, 8):
        page.keyboard.press("Enter")
        at(page, f"#{place}")
    page.go_back()
    at(page, "#6")
    assert page.inner_text("#count") == "6 of 10 reviewed"
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Enter")
    at(page, "#7")

    saved(page)
    server.kill()  # what is answered now waits in the browser
    page.keyboard.press("Enter")
    at(page, "#8")
    page.keyboard.press("Enter")
    at(page, "#9")
    until(page, "document.querySelector('#state').innerText.includes('kept here: 2')")
    assert page.get_attribute("#state", "data-is") == "offline"
    server.start()
    saved(page)
    page.reload()
    page.wait_for_selector("#review:not([hidden])")
    assert page.inner_text("#count") == "8 of 10 reviewed"
    page.keyboard.press("Enter")
    at(page, "#10")
    page.keyboard.press("u")  # nothing answered here: the one before is taken back
    at(page, "#9")
    assert page.inner_text("#count") == "8 of 10 reviewed"
    page.keyboard.press("Enter")
    at(page, "#10")
    saved(page)
    server.kill()
    page.keyboard.press("Enter")
    at(page, "#end")
    assert "Please keep this page open" in page.inner_text("#end"), "all is answered, not all is saved"
    server.start()
    page.locator("#endtitle", has_text="Thank you").wait_for()

    rows = {row["photo_id"]: row for row in revised_labels(store).to_pylist()}
    assert len(rows) == 10
    scores = [[rows[photo_id(k)][name] for name in ("appearance", "health", "posture")] for k in range(10)]
    expected = [[5.0 + k % 4, 6.0, 4.5] for k in range(10)]
    expected[0] = [pytest.approx(5.8), None, 3.5]
    expected[1] = [6.0, pytest.approx(9.3), 4.5]
    expected[5][0] += 1
    assert scores == expected
    assert surveys_of(store) == {"anna": survey_answers()}
    assert page.faults == [] and page.abroad == []
    page.context.close()


def test_two_tabs_and_a_phone_in_chinese(chromium, server, store):
    page = opened(chromium, server, invite(store, "uli", "user"), viewport={"width": 390, "height": 844}, has_touch=True)
    fill_survey(page)
    page.click("#language")
    assert page.inner_text("#place") == "" or "第 1 张" in page.text_content("#place")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out on a phone"
    other = page.context.new_page()
    other.goto(f"{server.base}/#1")
    other.wait_for_selector("#review:not([hidden])")
    page.context.set_offline(True)
    page.click("#thumbs button[data-value='1']")
    page.click("#save")
    at(page, "#2")
    other.click("#thumbs button[data-value='-1']")
    page.wait_for_timeout(1500)
    page.context.set_offline(False)
    saved(page)
    saved(other)
    page.keyboard.press("n")
    page.keyboard.press("n")
    page.keyboard.press("n")
    page.wait_for_selector("#compare:not([hidden])")
    page.click("#one")
    at(page, "#end")
    saved(page)
    rows = feedback_events(store).to_pylist()
    assert sorted(row["kind"] for row in rows) == ["comparison"] + ["rating"] * 3 + ["survey"] + ["thumb"] * 6
    assert {row["photo_id"] for row in rows if row["kind"] == "rating"} == {photo_id(0)}
    assert page.faults == [] and page.abroad == []
    page.context.close()


def test_two_people_in_one_browser(chromium, server, store):
    """The cookie is the browser's: what anna answers after ben's link was opened beside her page is hers or nobody's."""
    offer(store, "ben", drafts(3), "bank/1")
    anna, ben = invite(store, "anna", "expert"), invite(store, "ben", "user")
    page = opened(chromium, server, anna)
    fill_survey(page)
    saved(page)
    other = page.context.new_page()
    other.goto(f"{server.base}/r/{ben}")
    other.wait_for_selector("#questions fieldset")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#state').dataset.is === 'other'")
    assert "Somebody else" in page.inner_text("#notice")
    assert len(revised_labels(store)) == 0
    other.goto(f"{server.base}/r/{anna}")
    other.wait_for_selector("#review:not([hidden])")
    saved(page)
    assert revised_labels(store)["rater_id"].to_pylist() == ["anna"]
    assert page.faults == []
    page.context.close()


def test_gaps_and_refusals_are_shown(chromium, server, store):
    page = opened(chromium, server, invite(store, "anna", "expert"))
    fill_survey(page)
    for place in (2, 4):  # photos 1 and 3 are passed over
        page.keyboard.press("n")
        page.keyboard.press("Enter")
        at(page, f"#{place + 1}")
    for place in range(6, 11):
        page.keyboard.press("Enter")
        at(page, f"#{place}")
    page.keyboard.press("Enter")
    at(page, "#end")
    assert "Not reviewed yet: 2" in page.inner_text("#end")
    page.click("#again")
    at(page, "#1")
    page.keyboard.press("Enter")
    at(page, "#2")
    assert page.inner_text("#place").endswith("\u2713")
    page.keyboard.press("n")
    page.keyboard.press("Enter")  # the last gap: no need to walk through the rest
    at(page, "#end")
    page.locator("#endtitle", has_text="Thank you").wait_for()
    bad = {"key": "k1", "kind": "review", "payload": {"photo_id": photo_id(0), "round": 1, "appearance": 11}}
    page.evaluate("([name, answer]) => localStorage.setItem(name, JSON.stringify(answer))", ["physique:out:anna:0:k1", bad])
    page.reload()
    page.wait_for_selector("#notice:not([hidden])")
    assert page.inner_text("#notice").startswith("Not taken: ") and "{" not in page.inner_text("#notice")
    assert page.faults == []
    page.context.close()


def test_the_page_without_a_link_says_so(chromium, server, store):
    page = chromium.new_page()
    page.goto(server.base)
    assert "personal link" in page.inner_text("h1")
    page.close()
