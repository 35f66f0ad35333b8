"""Taking back what serves, against a real MLflow: one user's entry, or all of an earlier version."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from personal_cases import Cohort
from test_personal_stages import CONFIG, fitting_photos, read
from typer.testing import CliRunner

from model.bank_opened import open_bank
from tasks.intake.quarantine import BadInput
from tasks.personal import finetune, night
from tasks.ratings import as_feedback, as_photos
from tasks.rollback import rollback_to, rollback_user
from tasks.tables import read_json, write_json
from tests.conftest import ROOT

SERVED = ("weights", "cov", "noise")


class Checkout:
    """A folder with a pipeline's bank and its registry, in which nights can be run."""

    def __init__(self, folder: Path):
        self.cohort, self.bank = Cohort(users=24, photos=120, each=30), folder / "artifacts/continual/bank"
        self.photos, self.fit = as_photos(self.cohort.predictions), fitting_photos(self.cohort)
        shutil.copy(ROOT / "dvc.yaml", folder)
        first = finetune(*read(self.cohort), CONFIG)
        assert first is not None
        first.save(self.bank)
        self.register("1")

    def register(self, version: str) -> None:
        """As the stages do it: a bundle with the bank that is there, the champion from now on."""
        from tasks.registry import PERSONAL, register, stage_run

        shutil.rmtree("bundle", ignore_errors=True)
        Path("bundle/models").mkdir(parents=True)
        for name in ("bundle.json", "models/000.json"):
            (Path("bundle") / name).write_text("{}")
        shutil.copytree(self.bank, "bundle/bank")
        with stage_run("continual", {}):
            made = register(PERSONAL, Path("bundle"), "continual", metrics={}, about={}, champion=True)
        assert made["version"] == version
        write_json({"registered": made, "lineage": "kept"}, self.bank.parent / "continual.json")

    def night(self, users: list[int], start: int, seed: int = 0) -> None:
        """Feedback of tastes turned round, so that the gate lets it pass."""
        mixes = {u: np.roll(self.cohort.mix[u], 1 + seed) for u in users}
        feedback = self.cohort.feedback({u: self.fit[start : start + 40] for u in users}, mixes)
        named, ratings, _ = as_feedback(feedback, self.photos)
        done = night(open_bank(self.bank), self.photos, named, ratings, CONFIG | {"confidence": 0.5})
        assert done is not None
        done[0].save(self.bank)

    def of(self, user: int):
        return open_bank(self.bank).part([self.cohort.users[user]])


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.chdir(tmp_path)
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"  # in full: MLflow keeps what it has opened under another folder's name
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    mlflow.set_tracking_uri(store)
    made = Checkout(tmp_path)
    made.before = {u: made.of(u) for u in range(4)}
    made.night([0, 1, 2], 0)
    made.register("2")
    yield made
    mlflow.set_tracking_uri(None)


def champion() -> tuple[str, Path]:
    from mlflow import MlflowClient

    from tasks.registry import PERSONAL, champion_bundle

    return str(MlflowClient().get_model_version_by_alias(PERSONAL, "champion").version), champion_bundle(PERSONAL)


def same(one, two, names=SERVED) -> bool:
    return all(torch.equal(getattr(one, name), getattr(two, name)) for name in names)


def test_one_user_is_served_the_entry_before_and_the_next_night_goes_on_from_it(checkout):
    user, now = checkout.cohort.users[1], {u: checkout.of(u) for u in range(3)}
    assert int(now[1].version) == int(checkout.before[1].version) + 1
    made = rollback_user(user)
    version, bundle = champion()
    assert made["version"] == version == "3" and (bundle / "models/000.json").is_file()
    served = open_bank(bundle / "bank")
    assert same(served.part([user]), checkout.before[1]) and same(served.part([checkout.cohort.users[0]]), now[0])
    assert torch.equal(served.part([user]).stats.n, now[1].stats.n)  # no rating is lost
    facts = read_json(checkout.bank.parent / "continual.json")
    assert facts == {"registered": made, "lineage": "kept"}
    assert same(checkout.of(1), checkout.before[1]) and same(checkout.of(2), now[2])

    checkout.night([1], 45, seed=1)
    after = checkout.of(1)
    assert (after.stats.n > now[1].stats.n).any()
    assert same(after, checkout.before[1]) or torch.equal(after.previous, checkout.before[1].weights)


def test_twice_unknown_or_never_promoted_is_refused_and_changes_nothing(checkout):
    user = checkout.cohort.users[1]
    rollback_user(user)
    held = (checkout.bank / "bank.json").read_bytes()
    for name, said in ((user, "no entry before"), ("nobody", "not in the bank")):
        with pytest.raises(BadInput, match=said):
            rollback_user(name)
    assert champion()[0] == "3" and (checkout.bank / "bank.json").read_bytes() == held


def test_a_whole_version_serves_again_and_the_next_night_goes_on_from_it(checkout):
    users = checkout.cohort.users
    strangers = open_bank(checkout.bank).updated([open_bank(checkout.bank).starting(["late"], [{}])])
    strangers.save(checkout.bank)
    made = rollback_to("1")
    version, bundle = champion()
    assert made["version"] == version == "1"
    first, here = open_bank(bundle / "bank"), open_bank(checkout.bank)
    assert same(here.part(users), first.part(users), (*SERVED, "previous", "version"))
    assert (here.part(users).stats.n.sum(0) > first.part(users).stats.n.sum(0)).any()
    assert int(here.part(["late"]).version) == 0
    assert read_json(checkout.bank.parent / "continual.json")["registered"] == made


def test_a_version_that_does_not_exist_or_has_another_prior_is_refused(checkout):
    with pytest.raises(BadInput, match="no version 9"):
        rollback_to("9")
    other = finetune(*read(Cohort(users=24, photos=120, each=30, seed=5)), CONFIG)
    other.save(checkout.bank)
    with pytest.raises(ValueError, match="other experts or another prior"):
        rollback_to("1")
    assert champion()[0] == "2"


def test_the_command_wants_one_of_both(checkout):
    from flows.cli import app

    for words in (["rollback"], ["rollback", "u", "--to", "1"]):
        assert CliRunner().invoke(app, words).exit_code == 1
    done = CliRunner().invoke(app, ["rollback", "--to", "1"])
    assert done.exit_code == 0 and "physique-personal version 1" in done.stdout
