"""Versions that wait for a decision, on a registry of their own. Asking in the browser: tests/test_up_browser.py."""

from __future__ import annotations

import pytest

from tasks.approval import Waiting, comparison, held, settle, waiting
from tasks.registry import CHALLENGER, CHAMPION, HELD, HOLD


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """physique-expert-ann: version 1 serves, 2 waits; physique-expert-bob: 1 serves, 2 is an ordinary challenger."""
    import mlflow
    from mlflow import MlflowClient

    patch, tmp_path = pytest.MonkeyPatch(), tmp_path_factory.mktemp("registry")
    patch.chdir(tmp_path)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    client = MlflowClient()
    for name, tags in (("physique-expert-ann", {HELD: "yes"}), ("physique-expert-bob", {})):
        client.create_registered_model(name)
        for version, srcc in enumerate((0.5, 0.6), 1):
            run = client.create_run(client.create_experiment(f"{name}-{version}"))
            client.log_metric(run.info.run_id, f"{name}.test_srcc_health", srcc)
            client.create_model_version(name, str(tmp_path), run.info.run_id, tags=tags if version == 2 else {})
        client.set_registered_model_alias(name, CHAMPION, "1")
        client.set_registered_model_alias(name, CHALLENGER, "2")
    yield client
    patch.undo()
    mlflow.set_tracking_uri(before)


def aliases(client, name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def test_only_what_is_held_is_asked_about_with_both_in_numbers(registry):
    found = waiting()
    assert found == [Waiting("physique-expert-ann", "2", "1")]
    page = comparison(found)
    assert "version 2 in place of version 1" in page and "| test_srcc_health | 0.5 | 0.6 |" in page


def test_a_decision_is_carried_out_and_nothing_is_asked_twice(registry):
    settle(waiting(), False)
    assert aliases(registry, "physique-expert-ann") == {CHAMPION: "1", CHALLENGER: "2"}
    assert waiting() == []
    registry.set_model_version_tag("physique-expert-ann", "2", HELD, "yes")
    settle(waiting(), True)
    assert aliases(registry, "physique-expert-ann") == {CHAMPION: "2"}
    assert aliases(registry, "physique-expert-bob") == {CHAMPION: "1", CHALLENGER: "2"}
    assert waiting() == []


def test_holding_ends_with_the_run(monkeypatch):
    import os

    monkeypatch.delenv(HOLD, raising=False)
    with held(False):
        assert HOLD not in os.environ
    with pytest.raises(RuntimeError), held(True):
        assert os.environ[HOLD]
        raise RuntimeError
    assert HOLD not in os.environ
