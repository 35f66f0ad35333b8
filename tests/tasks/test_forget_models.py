"""Forgetting in a real registry: every version ever made, also when the call is killed between two of them."""

from __future__ import annotations

import os

import mlflow
import pytest
from mlflow import MlflowClient

from model.bank_opened import content_hash, open_bank
from tasks.banks import CONTENT
from tasks.forget import scrub
from tasks.forget.models import REPLACED, STALE, Models, drop_replaced
from tasks.forget.target import Target
from tasks.forgotten import remember
from tasks.registry import PERSONAL, champion_bundle, promote
from tasks.rollback import rollback_user
from tests.cluster import S3, s3
from tests.tasks.test_rollback import Checkout, checkout

__all__ = ["checkout"]


@pytest.fixture
def distant(tmp_path, monkeypatch):
    """The same registry, its files in an S3 store."""
    from tasks.registry import EXPERIMENT

    monkeypatch.chdir(tmp_path)
    with s3() as store:
        for name, value in (store.environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}).items():
            monkeypatch.setenv(name, value)
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
        mlflow.create_experiment(EXPERIMENT, artifact_location=store.bucket("models"))
        made = Checkout(tmp_path)
        made.night([0, 1, 2], 0)
        made.register("2")
        yield made, store
        mlflow.set_tracking_uri(None)


class Killed(BaseException):
    """Stands for the end of the process."""


def tags(version: str) -> dict[str, str]:
    return MlflowClient().get_model_version(PERSONAL, version).tags


def test_a_user_leaves_every_version_and_whoever_taught_the_prior_marks_them(checkout, monkeypatch):
    bank = open_bank(checkout.bank)
    taught = next(user for user in bank.users if not bool(bank.part([user]).judged[0]))
    judged = next(user for user in bank.users if bool(bank.part([user]).judged[0]))
    target, held = Target("user", taught), champion_bundle(PERSONAL)
    real, calls = scrub.taught_prior, []

    def dying(*given):
        calls.append(given)
        if len(calls) == 2:
            raise Killed
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(scrub, "taught_prior", dying)
        with pytest.raises(Killed):
            Models().remove(target)
    assert Models().find(target)
    Models().remove(target)
    assert Models().find(target) == []
    assert STALE in tags("1") and STALE in tags("2")
    assert taught not in open_bank(held / "bank").users and judged in open_bank(held / "bank").users
    assert tags("2")[CONTENT] == content_hash(held / "bank")

    before = tags("1")[STALE]
    MlflowClient().set_model_version_tag(PERSONAL, "1", STALE, "no")
    Models().remove(Target("user", judged))
    assert Models().find(Target("user", judged)) == [] and tags("1")[STALE] == "no" != before


def test_who_was_rolled_back_is_named_by_no_run_and_no_tag(checkout):
    user = checkout.cohort.users[1]
    rollback_user(user)
    target = Target("user", user)
    assert any("params" in trace for trace in Models().find(target))
    Models().remove(target)
    assert Models().find(target) == []
    assert tags("3")["rollback.user"] == "forgotten" and tags("3")["parents"] == f"{PERSONAL}/2"


def test_an_experts_network_serves_nameless_until_another_version_does(checkout):
    expert = open_bank(checkout.bank).basis.experts[0]
    target = Target("expert", expert)
    remember(target.entries)
    Models().remove(target)
    assert Models().find(target) == []
    served = open_bank(champion_bundle(PERSONAL) / "bank")
    assert served.basis.experts[0].startswith("forgotten-") and len(served) == len(checkout.cohort.users)
    assert {each.version for each in MlflowClient().search_model_versions(f"name = '{PERSONAL}'")} == {2}
    assert tags("2")[REPLACED] == "replaced" and "expert" in tags("2")[STALE]
    assert drop_replaced() == 0
    checkout.register("3")
    promote(PERSONAL, "3")
    assert drop_replaced() == 1
    assert {each.version for each in MlflowClient().search_model_versions(f"name = '{PERSONAL}'")} == {3}


def test_nobody_stays_in_models_and_sources_on_s3(distant):
    made, store = distant
    user, expert = made.cohort.users[0], open_bank(made.bank).basis.experts[0]
    with mlflow.start_run(experiment_id=mlflow.get_experiment_by_name("physique").experiment_id) as run:
        mlflow.log_text(f"+ photos of {user} and {expert} are blurred\n", "source/README.md")
    for target in (Target("user", user), Target("expert", expert)):
        remember(target.entries)
        assert named(store, target)
        Models().remove(target)
        assert Models().find(target) == [] and named(store, target) == []
    (left,) = [key for key in store.keys("models") if run.info.run_id in key]
    assert held(store, left).endswith(b"are blurred\n")
    served = open_bank(champion_bundle(PERSONAL) / "bank")
    assert user not in served.users and len(served) == len(made.cohort.users) - 1
    assert served.basis.experts[0].startswith("forgotten-")


def named(store: S3, target: Target) -> list[str]:
    """Objects that name it, as bytes."""
    return [key for key in store.keys("models") if target.in_bytes(held(store, key)) or target.names_it(key)]


def held(store: S3, key: str) -> bytes:
    return store.client().get_object(Bucket="models", Key=key)["Body"].read()


def test_the_database_behind_a_server_is_searched_where_it_is_named(tmp_path, monkeypatch):
    from tasks.forget.models import database, elsewhere

    base = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(base)
    MlflowClient().create_registered_model("physique-personal", description="of user-0001")
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://127.0.0.1:9")
    assert elsewhere() == "http://127.0.0.1:9" and database() is None
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", base)
    assert elsewhere() == "" and str(database().url) == base
    mlflow.set_tracking_uri(None)


def test_under_up_the_store_is_opened_without_its_server_whose_log_would_tell(tmp_path, monkeypatch):
    from tasks.forget.models import database, directly, elsewhere
    from tasks.registry import use_tracking
    from tasks.stack import running

    monkeypatch.chdir(tmp_path)
    server = "http://127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    mine = running.Begun.of(os.getpid())
    (tmp_path / ".physique").mkdir()
    state = running.Running(mine, "t", "now", "http://127.0.0.1:9/api", server, "127.0.0.1:9", parts={"MLflow": [mine]})
    state.write()
    with directly():
        use_tracking()
        assert elsewhere() == "" and str(database().url) == "sqlite:///mlflow.db"
    assert os.environ["MLFLOW_TRACKING_URI"] == server and mlflow.get_tracking_uri() == server
    state.parts = {}  # somebody else's server
    state.write()
    with directly():
        assert elsewhere() == server and database() is None


def test_a_prefect_on_the_loopback_is_searched_only_where_its_database_is_ours(tmp_path, monkeypatch):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tasks.forget.prefect_runs import BEHIND, UP, elsewhere
    from tasks.stack.running import Begun, Running

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    server, mine = "http://127.0.0.1:9/api", Begun.of(os.getpid())
    (tmp_path / ".physique").mkdir()
    with temporary_settings({PREFECT_API_URL: server}):
        assert elsewhere() == server  # a container's port, say
        (tmp_path / ".physique/engines-7.json").write_text(f'{{"prefect": "{server}"}}')
        assert elsewhere() == ""
    up = Running(mine, "t", "now", server, "", "", parts={"Prefect": [mine]})
    up.write()
    assert elsewhere() == server  # on a database that it alone was told
    UP.touch()
    assert elsewhere() == ""
    UP.unlink()
    monkeypatch.setenv(BEHIND, "postgresql+asyncpg://me@127.0.0.1/prefect")
    assert elsewhere() == ""


def test_a_command_uses_the_server_that_up_was_given(tmp_path, monkeypatch):
    from tasks.stack.running import Begun, Running, given_mlflow

    monkeypatch.chdir(tmp_path)
    (tmp_path / ".physique").mkdir()
    mine = Begun.of(os.getpid())
    up = Running(mine, "t", "now", "", "http://far:5000", "", parts={"MLflow": [mine]})
    up.write()
    assert given_mlflow() == ""  # its own, whose store is the file here
    up.parts = {}
    up.write()
    assert given_mlflow() == "http://far:5000"
