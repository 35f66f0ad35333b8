"""Low-rank entries taken back, against a real MLflow."""

import shutil
from pathlib import Path

import pytest
import torch

from model.lora_bank import OpenLora
from tasks.intake.quarantine import BadInput
from tasks.rollback import rollback_to, rollback_user
from tasks.tables import write_json
from tests.conftest import ROOT
from tests.tasks.test_lora_stages import first, made

__all__ = ["first", "made"]


def register(bank: Path, version: str) -> None:
    """As the stages do it: a bundle with the bank that is there, the champion from now on."""
    from tasks.registry import PERSONAL, register, stage_run

    shutil.rmtree("bundle", ignore_errors=True)
    Path("bundle").mkdir()
    Path("bundle/bundle.json").write_text("{}")
    shutil.copytree(bank, "bundle/bank")
    with stage_run("continual", {}):
        done = register(PERSONAL, Path("bundle"), "continual", metrics={}, about={}, champion=True)
    assert done["version"] == version
    write_json({"registered": done}, bank.parent / "continual.json")


@pytest.fixture
def folder(first, tmp_path, monkeypatch):
    """A pipeline's bank: u03 is served nothing in version 1, an entry in version 2, another in version 3."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    mlflow.set_tracking_uri(store)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    bank, lora, *_ = first
    here = tmp_path / "artifacts/continual/bank"
    bank.save(here)
    entries = lora.take(torch.arange(len(lora.users)))
    entries.rows[3], entries.served[3], entries.version[3] = 0, False, 0
    entries.previous[3], entries.previous_served[3] = 0, False
    for version in (1, 2, 3):
        if version > 1:
            promoted = torch.zeros_like(entries.served)
            promoted[3, 0] = True
            entries.promote(promoted, torch.full_like(entries.rows, float(version)))
        entries.save(here)
        register(here, str(version))
    yield here
    mlflow.set_tracking_uri(None)


def champion() -> OpenLora:
    from tasks.registry import PERSONAL, champion_bundle

    return OpenLora(champion_bundle(PERSONAL) / "bank")


def test_one_user_is_served_the_entry_before_and_nobody_else_changes(folder):
    before = OpenLora(folder).whole()
    assert rollback_user("u03")["version"] == "4"
    for opened in (champion(), OpenLora(folder)):
        found, others = opened.part(["u03"]), torch.tensor([i for i, u in enumerate(before.users) if u != "u03"])
        assert (found.rows[0, 0] == 2).all() and found.served[0].tolist() == [True, False, False]
        assert int(found.version) == 1 and torch.equal(found.photo, before.photo[[3]])  # no rating is lost
        assert torch.equal(opened.whole().take(others).rows, before.take(others).rows)
    with pytest.raises(BadInput, match="no entry before"):
        rollback_user("u03")


def test_a_whole_version_serves_again(folder):
    kept = OpenLora(folder).part(["u03"]).photo
    rollback_to("1")
    found = OpenLora(folder).part(["u03"])
    assert not found.served.any() and int(found.version) == 0
    assert torch.equal(found.photo, kept) and kept.any()
    assert not champion().part(["u03"]).served.any()
    rollback_to("3")
    assert (OpenLora(folder).part(["u03"]).rows[0, 0] == 3).all()


def test_entries_of_another_rank_are_refused(folder):
    entries = OpenLora(folder).whole()
    entries.rank = 7
    entries.save(folder)
    with pytest.raises(ValueError, match="of rank 4 or axes"):
        rollback_to("1")
