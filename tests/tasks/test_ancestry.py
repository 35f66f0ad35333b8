"""Lineage, against a real MLflow: versions and what they were made from, runs, users."""

import re

import pytest
from typer.testing import CliRunner

from tasks.ancestry import PARENTS, lineage, lines, parents_of
from tasks.intake.quarantine import BadInput
from tasks.registry import PERSONAL
from tasks.rollback import rollback_user
from tasks.tables import write_json
from tests.tasks.test_rollback import checkout

__all__ = ["checkout"]


def test_a_version_leads_to_what_it_was_made_from_to_its_run_and_commit(checkout):
    rollback_user(checkout.cohort.users[1])
    found = lineage(f"models:/{PERSONAL}@champion")
    (versions,) = found["chains"]
    assert [(each["generation"], each["version"], each["stage"]) for each in versions] == [
        (0, "3", "rollback"), (1, "2", "continual"),
    ]  # fmt: skip
    newest = versions[0]
    assert newest["aliases"] == ["champion"] and newest["about"]["rollback.user"] == checkout.cohort.users[1]
    assert re.fullmatch("[0-9a-f]{32}", newest["run"])
    text = "\n".join(lines(found))
    assert f"{PERSONAL} version 3 (champion)" in text and f"made from                        {PERSONAL}/2" in text
    by_run = lineage(newest["run"])
    assert by_run["what"] == "MLflow run" and by_run["chains"] == found["chains"]
    assert lineage(f"models:/{PERSONAL}/3")["chains"] == found["chains"]


def test_a_user_leads_to_their_entry_and_the_bank_that_serves(checkout):
    found = lineage(checkout.cohort.users[1])
    assert found["what"] == "user" and found["entry"]["promotions"] == int(checkout.of(1).version[0])
    assert set(found["entry"]["gate"].values()) <= {"promoted", "not above current entry", "not above prior", "no news"}
    assert found["chains"][0][0]["version"] == "2"


MISSING = ("nobody", "models:/x@champion", f"models:/{PERSONAL}/99", "models:/y", "0" * 32, "1" * 36)


@pytest.mark.parametrize("name", MISSING)
def test_what_is_not_there_is_one_line(checkout, name):
    from flows.cli import app

    with pytest.raises((BadInput, LookupError), match="lineage: "):
        lineage(name)
    done = CliRunner().invoke(app, ["lineage", name])
    assert done.exit_code == 1 and "Traceback" not in done.output


def test_a_bank_names_the_experts_and_banks_it_was_made_from(tmp_path):
    version = {"name": "physique-expert-a", "version": "4", "uri": "models:/physique-expert-a/4"}
    write_json({"experts": {"a": version | {"test_srcc_health": 0.5}}}, tmp_path / "pretrain/pretrain.json")
    write_json({"registered": {"name": PERSONAL, "version": "7"}}, tmp_path / "finetune/finetune.json")
    found = parents_of(tmp_path / "pretrain", tmp_path / "continual", tmp_path / "finetune", tmp_path / "finetune")
    assert found == {PARENTS: f"{PERSONAL}/7 physique-expert-a/4"}
    assert parents_of(tmp_path) == {}
