"""The nightly job: killed at ten moments of its run, and fed with garbage."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter

import pyarrow as pa

from tasks.reviews import Person, invite, offer, open_store, save
from tasks.stack.deployments import call
from tests.drill.garbage import ROWS, STORED, GarbageIn
from tests.drill.ledger import Ledger, feedback_lost
from tests.drill.scene import FINAL, Scene, photo_ids, until
from tests.drill.strike import RUN_AGAIN, Work, clean, kill, of_runs
from tests.drill.table import Row, load_of_machine

MOMENTS = 10
SAME = """
from pathlib import Path
import torch
from model.bank import load_bank
from tasks.banks import night_settings
from tasks.lineage import Plan
from tasks.nightly import learn_nights
from tasks.nights import night_paths
from tasks.params import load_params
from tasks.ratings import as_users, read_photos
from tasks.tables import read_table

here, first = Path("artifacts/continual"), Path("artifacts/finetune")
todo = Plan(first, False, night_paths(Path("data/nights")), [], {})
cohort, out = Path("data/cohort"), Path(".physique/again")
config = night_settings(cohort, Path("artifacts/pretrain"), first, todo, out, load_params())
users, answers, *_ = as_users(read_table(config["raters"]))
bank, photos = load_bank(first / "bank"), read_photos(config["predictions"], config["features"])
again, there = learn_nights(bank, bank, photos, config, dict(zip(users, answers))).bank, load_bank(here / "bank")
assert again.users == there.users and again.round == there.round, (again.round, there.round)
for name, value in again.arrays().items():
    torch.testing.assert_close(value, there.arrays()[name], rtol=1e-9, atol=1e-12, equal_nan=True, msg=name)
print(len(there), "entries")
"""
"""All nights learned in one go, from the first bank, in a process where nothing is killed: the same bank."""


def news(scene: Scene) -> None:
    """Ratings of 30 photos that no night has taken in yet."""
    mark, uli, store = time.time_ns(), Person("uli", "user"), open_store(scene.store)
    photos = photo_ids(scene.folder)
    start = mark // 1000 % (len(photos) - 30)
    invite(store, "uli", "user")
    shown = [{"photo_id": photo, "appearance": 4.0, "health": 5.0, "posture": 6.0} for photo in photos]
    offer(store, "uli", pa.Table.from_pylist(shown), "bank/1")
    for place, photo in enumerate(photos[start : start + 30]):
        rating = {"photo_id": photo, "appearance": place % 9 + 0.5, "health": None, "posture": 9 - place % 9}
        save(store, uli, f"news-{mark}-{place:02d}", "rating", rating)
    store.dispose()


def logging(scene: Scene) -> bool:
    """Whether the night has learned and is about to log: it calls MLflow within seconds."""
    return (scene.folder / "artifacts/.continual.new/continual.json").exists()


NIGHT = Work("the nightly job registers a bank", "nightly", {}, news, logging, versions=1)


def moments(scene: Scene) -> Row:
    """Killed at ten moments, spread over the run, and run again each time until it is through; then the next night.

    At the end there is the bank that the same nights give where nothing is killed.
    """
    load = load_of_machine()
    news(scene)
    whole = usual = _night(scene)
    stages, took, lost, saw = Counter[str](), [0.0], [], []
    ledger, struck = None, 0.0
    while stages.total() < MOMENTS or ledger is not None:
        if ledger is None:
            news(scene)
            ledger = Ledger.of(scene)
        run, began = _begun(scene), time.monotonic()
        at, killed = "", 0
        if stages.total() < MOMENTS and not _ends_within(scene, run, whole * (stages.total() + 0.5) / MOMENTS):
            at, killed = _stage(scene, run), kill(of_runs(scene, run))
        state = scene.over(run, 120 if killed else 600)
        name = state.get("name")
        if killed and state.get("type") != "COMPLETED":
            stages[at], struck = stages[at] + 1, time.monotonic()
            saw.append(f"[the page of the run, killed in {at}] {name}: {state.get('message')}")
            lost += [f"a killed night is shown as {name}"] if state.get("type") not in FINAL else []
        elif state.get("type") == "COMPLETED":  # run again after kills, or faster than the moment, which then comes sooner
            whole = whole if struck else min(whole, 0.97 * (time.monotonic() - began))
            took.append(time.monotonic() - struck if struck else 0)
            lost += ledger.lost(new_versions=1)[0]
            ledger, struck = None, 0.0
        else:
            lost.append(f"a night that was run again ended as {name}: {state.get('message')}")
            ledger = None
    events, count = feedback_lost(scene)
    lost += events + _same(scene)
    when = ", ".join(f"{stage} {n}×" for stage, n in stages.items())
    counted = f"{count:,} events, {len(scene.versions())} versions, the bank equal to that of all nights learned in one go"
    saw = [clean(line, scene) for line in dict.fromkeys(saw)]
    return Row(
        "nights", f"the nightly job is killed (-9) at {stages.total()} moments", f"in {when}", lost, counted,
        "the night run again, at most", max(took), usual, "ended as Crashed", saw, RUN_AGAIN,
        time.strftime("%Y-%m-%d"), load,
    )  # fmt: skip


def _ends_within(scene: Scene, run: str, seconds: float) -> bool:
    """Whether a flow run is over before so many seconds have gone by."""
    return not scene.over(run, seconds).get("hangs")


def garbage(scene: Scene) -> Row:
    """Malformed feedback of many kinds beside good one, in the cohort's file, in the store, and posted to the page."""
    load, ledger = load_of_machine(), Ledger.of(scene)
    put = GarbageIn(scene)
    refused, taken = put.posted()
    put.filed()
    put.stored()
    news(scene)
    mark, began = len(scene.up.said()), time.monotonic()
    state = scene.done("nightly")
    seconds = time.monotonic() - began
    lost = ledger.lost(new_versions=1)[0] if state.get("type") == "COMPLETED" else [f"the night {state.get('message')}"]
    lost += [f"the page took garbage: {each}" for each in taken]
    aside = put.aside()
    lost += [f"neither set aside nor learned: {each}" for each in put.forgotten_of(aside)]
    events, count = feedback_lost(scene)
    lost += events + _same(scene) + put.good_lost()
    reasons = Counter(row["reason"] for row in aside)
    saw = [f"[quarantine] {n} × {reason}" for reason, n in reasons.most_common()]
    saw += [f"[the page] {answer}" for answer in refused] + scene.said(mark)
    counted = f"{len(ROWS) + len(STORED)} bad events set aside with a reason, {len(refused)} refused by the page, "
    counted += f"{count:,} good ones each in one night, the bank equal to that of all nights learned in one go"
    saw = [clean(line, scene) for line in saw]
    return Row(
        "garbage", "the nightly job is fed with garbage", "feedback comes in by file, store and page", lost, counted,
        "the night itself", seconds, 0, f"ended as {state.get('name')}", saw, "nothing", time.strftime("%Y-%m-%d"), load,
    )  # fmt: skip


def _begun(scene: Scene) -> str:
    """A night that runs."""
    run = until(lambda: scene.ask("nightly"), 60)
    until(lambda: scene.state(run).get("type") == "RUNNING", 90)
    return run


def _night(scene: Scene) -> float:
    """Seconds that a night takes from where it begins."""
    run, began = _begun(scene), time.monotonic()
    state = scene.over(run, 600)
    assert state.get("type") == "COMPLETED", state
    return time.monotonic() - began


def _stage(scene: Scene, run: str) -> str:
    """The stage that a night is at."""
    asked = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}
    inner = [each["id"] for each in call(scene.api, "POST", "/flow_runs/filter", asked) or []]
    wanted = {"task_runs": {"state": {"type": {"any_": ["RUNNING"]}}}, "flow_runs": {"id": {"any_": inner}}}
    found = (call(scene.api, "POST", "/task_runs/filter", wanted) or []) if inner else []
    return found[0]["name"] if found else "between stages" if inner else "its start"


def _same(scene: Scene) -> list[str]:
    """A line if the bank is not the one that the same nights give without any of this."""
    words = [sys.executable, "-c", SAME]
    done = subprocess.run(words, cwd=scene.folder, env=scene.environment, capture_output=True, text=True)
    return [] if done.returncode == 0 else [f"the bank is another one: {done.stderr.strip().splitlines()[-1][:300]}"]


