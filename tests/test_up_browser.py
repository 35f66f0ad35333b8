"""A person and a browser: the pipeline through its form, its artifact, the model in MLflow; a run cancelled, a decision,
somebody forgotten; two nightlies, 30 missed ones.

uv run pytest -m slow tests/test_up_browser.py        screenshots lie in PHYSIQUE_SHOTS, if that is set
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from playwright.sync_api import TimeoutError as NotYet
from playwright.sync_api import sync_playwright

from tasks.stack.deployments import call
from tests.conftest import Checkout, small_params
from tests.test_nightly import rate
from tests.test_up import Up, ours, started, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def up(tmp_path_factory) -> Iterator[Up]:
    made = Checkout(tmp_path_factory.mktemp("browsed"))
    small_params(made.folder)
    with started(made) as found:
        yield found


@pytest.fixture(scope="module")
def page(up: Up):
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    with sync_playwright() as plays:
        browser = plays.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1300, "height": 1000}, locale="en-GB")
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def shot(page, name: str) -> None:
    folder = os.environ.get("PHYSIQUE_SHOTS")
    if folder:
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(folder) / f"{name}.png")


def api(up: Up, method: str, path: str, body: dict | None = None) -> dict:
    found = call(up.state().prefect, method, path, body)
    assert found is not None, (method, path)
    return found


GOING = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")


def submit(up: Up, page, deployment: str, switch: str | None = None) -> str:
    """Open a deployment's form, flip a switch of it, press Submit; the id of the run that came of it."""
    before = set(runs(up, deployment))
    found = api(up, "GET", f"/deployments/name/{deployment}/{deployment}")
    page.goto(f"{up.state().pages['Prefect']}/deployments/deployment/{found['id']}/run")
    page.get_by_role("button", name="Submit").wait_for()
    page.wait_for_load_state("networkidle")  # pressed before the form is whole, the button does nothing
    if switch is not None:
        page.get_by_text(switch).first.wait_for()
        page.get_by_role("switch").last.click()
    shot(page, f"{deployment}-form")
    form = page.url
    for _ in range(4):  # the first page of a fresh browser can swallow a press; whoever sees nothing happen presses again
        page.get_by_role("button", name="Submit").click()
        with suppress(NotYet):
            page.wait_for_url(lambda url: url != form, timeout=15_000)
        if page.url != form:
            break
        shot(page, f"{deployment}-pressed")
    (made,) = set(runs(up, deployment)) - before
    return made


def runs(up: Up, deployment: str) -> dict[str, dict]:
    wanted = {"deployments": {"name": {"any_": [deployment]}}, "sort": "START_TIME_DESC", "limit": 200}
    return {run["id"]: run for run in api(up, "POST", "/flow_runs/filter", wanted)}


def over(up: Up, run: str, limit: float) -> dict:
    """The state in which a run ended."""
    until(lambda: api(up, "GET", f"/flow_runs/{run}")["state"]["type"] not in GOING, limit)
    return api(up, "GET", f"/flow_runs/{run}")["state"]


def artifact(up: Up, page, run: str, name: str) -> str:
    """The text of a run's artifact as its page shows it, reached from the run's page."""
    page.goto(f"{up.state().pages['Prefect']}/runs/flow-run/{run}")
    page.get_by_text("Artifacts", exact=True).click()
    shot(page, f"{name}-run")
    page.locator("a", has_text=re.compile(name, re.I)).last.click()
    page.locator("table, h1").first.wait_for()
    page.wait_for_timeout(1500)
    shot(page, f"{name}-artifact")
    return page.inner_text("body")


def test_the_pipeline_through_its_form_to_the_model_that_serves(up: Up, page):
    run = submit(up, page, "pipeline")
    assert over(up, run, 900)["type"] == "COMPLETED", (up.folder / ".physique/logs/worker.log").read_text()[-3000:]
    text = artifact(up, page, run, "pipeline")
    assert "14 of 14 stages ran" in text and "physique-personal" in text
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="physique-personal", exact=True).click()
    model = opened.value
    model.get_by_text("champion").first.wait_for()
    assert model.url.startswith(f"{up.state().mlflow}/#/models/physique-personal")
    shot(model, "mlflow-model")
    model.close()


def test_the_second_of_two_nightlies_explains_itself(up: Up, page):
    pair = [submit(up, page, "nightly"), submit(up, page, "nightly")]
    assert [over(up, run, 300)["type"] for run in pair] == ["COMPLETED", "COMPLETED"]
    names = {run: runs(up, "nightly")[run]["name"] for run in pair}
    texts = {run: artifact(up, page, run, "nightly") for run in pair}
    (idle,) = [run for run in pair if "did nothing" in texts[run]]
    (worked,) = set(pair) - {idle}
    assert f"did nothing: another nightly '{names[worked]}' has been running in this folder since" in texts[idle]
    assert "Nothing new: no feedback has come since the last night" in texts[worked]


def test_new_models_serve_when_somebody_has_said_yes(up: Up, page):
    from tasks.tables import read_shards

    photos = sorted(read_shards(up.folder / "data/cohort/photos", ["photo_id"])["photo_id"].to_pylist())
    rate(up.folder / ".physique", photos[:20], "first")
    before = champion(up)
    run = submit(up, page, "nightly", "approve")
    until(lambda: api(up, "GET", f"/flow_runs/{run}")["state"]["type"] == "PAUSED", 300)
    assert champion(up) == before
    page.goto(f"{up.state().pages['Prefect']}/runs/flow-run/{run}")
    page.get_by_role("button", name="Resume").click()
    page.get_by_text("in place of").wait_for()
    shot(page, "decision")
    page.get_by_role("switch").last.click()
    page.get_by_role("button", name="Submit").click()
    assert over(up, run, 120)["type"] == "COMPLETED"
    assert champion(up) == str(int(before) + 1)
    text = artifact(up, page, run, "nightly")
    assert "Decided for the new versions: physique-personal version" in text
    assert "What came of it:" in text and "physique-personal" in text
    assert page.get_by_role("link", name="continual", exact=True).count() == 1


def champion(up: Up) -> str:
    asked = f"{up.state().mlflow}/api/2.0/mlflow/registered-models/alias?name=physique-personal&alias=champion"
    return httpx.get(asked).json()["model_version"]["version"]


def test_cancelling_in_the_ui_stops_the_work_on_ray_within_seconds(up: Up, page):
    shutil.rmtree(up.folder / "data/mesh")
    run = submit(up, page, "pipeline")
    until(lambda: newest(up, "mesh")["state"]["type"] == "RUNNING" and newest(up, "pipeline")["id"] == run, 200)
    mesh = newest(up, "mesh")["id"]
    until(lambda: titled(up, "ray::MeshActor"), 100)
    page.goto(f"{up.state().pages['Prefect']}/runs/flow-run/{run}")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Confirm").wait_for()
    shot(page, "cancel")
    page.get_by_role("button", name="Confirm").click()
    pressed = time.monotonic()
    until(lambda: not titled(up, "ray::MeshActor"), 20)
    assert over(up, run, 60)["type"] == "CANCELLED", time.monotonic() - pressed
    assert over(up, mesh, 20)["type"] == "CANCELLED"
    again = submit(up, page, "pipeline")
    assert over(up, again, 300)["type"] == "COMPLETED"
    assert "mesh" in artifact(up, page, again, "pipeline")


def newest(up: Up, flow: str) -> dict:
    asked = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 1}
    return (api(up, "POST", "/flow_runs/filter", asked) or [{"id": "", "state": {"type": ""}}])[0]


def titled(up: Up, title: str) -> list[psutil.Process]:
    """Our processes whose title begins with this."""
    found = []
    for process in ours(up.state()):
        with suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
    return found


def test_somebody_is_forgotten_by_a_form_and_prefect_does_not_keep_who(up: Up, page):
    who = b"user-0009"
    assert any(who in path.read_bytes() for path in (up.folder / "data").rglob("*.csv"))
    run = submit(up, page, "forget")
    until(lambda: api(up, "GET", f"/flow_runs/{run}")["state"]["type"] == "PAUSED", 100)
    page.goto(f"{up.state().pages['Prefect']}/runs/flow-run/{run}")
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("textbox").last.fill(who.decode())
    shot(page, "forget-asks")
    page.get_by_role("button", name="Submit").click()
    assert over(up, run, 300)["type"] == "COMPLETED", (up.folder / ".physique/logs/worker.log").read_text()[-3000:]
    text = artifact(up, page, run, "forget")
    assert "Forgotten" in text and who.decode() not in text and "0 traces" in text
    left = [path for path in up.folder.rglob("*") if path.is_file() and ".git/" not in str(path) and path.suffix != ".py"]
    assert [str(path) for path in left if who in path.read_bytes()] == []


def test_thirty_missed_nights_are_one_run(up: Up):
    deployment = api(up, "GET", "/deployments/name/nightly/nightly")["id"]
    before = set(runs(up, "nightly"))
    call(up.state().prefect, "PATCH", "/work_pools/physique", {"is_paused": True})  # nobody works for a month
    for night in range(30, 0, -1):
        at = (datetime.now(UTC) - timedelta(days=night)).isoformat()
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": at}}
        api(up, "POST", f"/deployments/{deployment}/create_flow_run", {"state": state})
    call(up.state().prefect, "PATCH", "/work_pools/physique", {"is_paused": False})

    def mine() -> list[dict]:
        return [run for run in runs(up, "nightly").values() if run["id"] not in before and not run["auto_scheduled"]]

    until(lambda: all(run["state"]["type"] in ("COMPLETED", "CANCELLED", "FAILED", "CRASHED") for run in mine()), 600, mine)
    found = mine()
    assert len(found) == 30
    pages = api(up, "POST", "/artifacts/filter", {"artifacts": {"key": {"any_": ["nightly"]}}, "limit": 200})
    said = {each["flow_run_id"]: each["data"] for each in pages}
    worked = [run for run in found if run["state"]["type"] == "COMPLETED" and "did nothing" not in said[run["id"]]]
    skipped = [run for run in found if run["state"]["name"] == "Skipped"]
    assert len(worked) == 1 and len(skipped) >= 20
    assert all("missed nights are caught up in one" in run["state"]["message"] for run in skipped)
    (count,) = re.findall(r"stands for (\d+) more that were missed", said[worked[0]["id"]])
    assert int(count) == len(skipped)
    until(lambda: not [run for run in runs(up, "nightly").values() if run["state"]["type"] == "RUNNING"], 60)
