"""Lineage of what the stages have really made: from the bank that serves to experts, runs, hashes and the commit."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Checkout

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
