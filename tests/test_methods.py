"""Methods lora and full on the small cohort, from params.yaml to what the registry serves."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Checkout, small_params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ASK = """
from pathlib import Path
import mlflow, pandas, json
from tasks.registry import use_tracking
use_tracking()
model = mlflow.pyfunc.load_model("models:/{name}@champion")
photos = [str(p) for p in sorted(Path("data/mannequins/photos").glob("*.jpg"))[:6]]
users = {users}
asked = pandas.DataFrame([(user, photo) for user in users for photo in photos], columns=["user_id", "image"])
print(json.dumps(model.predict(asked)[["appearance", "health", "posture"]].to_numpy().round(5).tolist()))
"""


def answers(checkout: Checkout, name: str, *users: str) -> list:
    """(users, photos, D) of a registered champion."""
    said = json.loads(checkout.say(ASK.format(name=name, users=repr(users))).splitlines()[-1])
    return [said[k : k + 6] for k in range(0, len(said), 6)]


def test_lora_by_a_setting_is_learned_gated_registered_and_served_and_taken_back(checkout: Checkout):
    from model.lora_bank import OpenLora
    from tasks.tables import read_json, read_table

    first, last = (checkout.folder / "artifacts" / name for name in ("finetune", "continual"))
    before = read_json(last / "continual.json")["registered"]["version"]
    held = {"confidence": 0.5, "min_ratings": 3}  # few photos and users: let some of them through
    small_params(checkout.folder, finetune={"method": "lora"} | held, continual={"confidence": 0.5})
    try:
        checkout.run("dvc", "repro", "finetune")
        facts = read_json(first / "finetune.json")
        entries = OpenLora(first / "bank").whole()
        promoted = int(entries.served.sum())
        table = read_table(first / "users.parquet")
        assert promoted == table["reason"].to_pylist().count("promoted") > 0
        assert sum(reasons.get("promoted", 0) for reasons in facts["entries"].values()) == promoted
        has = next(user for user, served in zip(entries.users, entries.served) if served.any())
        own, prior = answers(checkout, "physique-personal", has, "somebody new")
        assert own != prior
        assert "report/index.html" in checkout.run("dvc", "repro").stdout
        after = OpenLora(last / "bank").whole()
        assert sorted(after.users) == sorted(entries.users)
        assert len(after.kept(0)[0]) > len(entries.kept(int(entries.index(after.users[:1])[0]))[0])
        assert read_json(last / "continual.json")["registered"]["version"] != before
        row = int(after.index([has])[0])
        served = answers(checkout, "physique-personal", has)
        checkout.run("flows.cli", "rollback", has)
        assert int(OpenLora(last / "bank").part([has]).version[0]) == int(after.version[row]) - 1
        assert answers(checkout, "physique-personal", has) != served
        # A night that has no news touches nothing, and what the user is served stays taken back.
        checkout.run("dvc", "repro")
        assert int(OpenLora(last / "bank").part([has]).version[0]) == int(after.version[row]) - 1
    finally:
        small_params(checkout.folder)
        checkout.run("dvc", "repro")
        checkout.say(f"from tasks.registry import *; use_tracking(); promote('physique-personal', '{before}')")


def test_full_for_one_user(checkout: Checkout):
    said = checkout.run("flows.cli", "personal-full", "user-0001").stdout
    assert "physique-personal-full-user-0001" in said and "| posture |" in said
    (own,) = answers(checkout, "physique-personal-full-user-0001", "user-0001")
    assert len({tuple(scores) for scores in own}) > 1
    refused = checkout.run("flows.cli", "personal-full", "nobody", ok=False)
    assert refused.returncode == 1
    assert "user 'nobody' is not in" in refused.stderr and "Traceback" not in refused.stderr
