"""What the stages have really made: lineage from the bank that serves to the commit, and the bank built once more."""

from __future__ import annotations

import json

import pytest

from tasks.graph import needed_by
from tests.conftest import ROOT, Checkout

pytestmark = pytest.mark.timeout(900)

ASK = """
import json
from tasks.ancestry import lineage
bank = lineage("models:/physique-personal@champion")
prefect = bank["chains"][0][0]["prefect"].split()[1]
print(json.dumps([bank] + [lineage(name) for name in ("user-0002", "expert-01", "00007.jpg", prefect)]))
"""


def test_everything_leads_to_everything_it_was_made_from(checkout: Checkout):
    bank, user, expert, photo, prefect = json.loads(checkout.say(ASK).strip().splitlines()[-1])
    (versions,) = bank["chains"]
    stages = [(each["generation"], each["stage"]) for each in versions]
    assert stages[:2] == [(0, "continual"), (1, "finetune")] and stages[2:] == [(1, "pretrain")] * 3
    for each in versions:
        assert len(each["run"]) == 32 and each["commit"] and each["prefect"] and each["dvc"]
    assert {"data/nights", "data/cohort", "artifacts/finetune"} <= set(versions[0]["dvc"])
    assert all("data/cohort" in each["dvc"] for each in versions)
    assert user["what"] == "user" and user["chains"] == bank["chains"] and user["entry"]["nights with something of theirs"]
    assert expert["what"] == "expert" and expert["chains"][0][0]["name"] == "physique-expert-expert-01"
    assert photo["what"] == "photo" and len(photo["entry"]["extractor"]) == 1 and len(photo["chains"]) == 4
    assert prefect["what"] == "Prefect run" and prefect["chains"] == bank["chains"]


def test_a_stage_is_built_again_without_what_it_makes_itself_which_its_kept_lock_cannot_know():
    needed = needed_by("continual", ROOT)
    assert {"finetune", "nights", "pretrain"} < set(needed) and not {"continual", "evaluate"} & set(needed)


@pytest.mark.slow
def test_a_version_is_built_again_from_what_it_was_made_from(checkout: Checkout):
    """Though what lies in the checkout is something else by now."""
    params, nights = checkout.folder / "params.yaml", checkout.folder / "data/nights"
    held, moved = params.read_text(), checkout.folder / "data/nights.aside"
    params.write_text(held.replace("confidence: 0.6", "confidence: 0.9"))
    assert params.read_text() != held
    nights.rename(moved)
    before = sorted(path.name for path in checkout.folder.iterdir())
    try:
        done = checkout.run("flows.cli", "reproduce", "models:/physique-personal@champion")
    finally:
        params.write_text(held)
        moved.rename(nights)
    assert "running continual in the checkout of then" in done.stderr
    said = done.stdout.strip().splitlines()[-1]
    assert said.startswith("physique-personal version 2 came out the same")
    assert sorted(path.name for path in checkout.folder.iterdir()) == before
    assert not list((checkout.folder / ".physique/reproduced").iterdir())


def test_what_cannot_be_built_again_is_one_line(checkout: Checkout):
    for asked, why in (
        ("models:/physique-personal/77", "physique-personal has no version 77"),
        ("physique-personal", "physique-personal is no model; right are models:/NAME@ALIAS and models:/NAME/VERSION"),
    ):
        bad = checkout.run("flows.cli", "reproduce", asked, ok=False)
        assert bad.returncode == 1 and why in bad.stderr and len(bad.stderr.splitlines()) == 1, bad.stderr
