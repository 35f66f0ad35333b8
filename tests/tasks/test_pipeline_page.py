"""The pages of a pipeline run and of a night, with a real registry."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from tasks.pipeline_page import Ran, night_page, pipeline_page

LINKS = [("continual", "http://prefect/artifacts/key/continual")]


@pytest.fixture
def registry(tmp_path, monkeypatch) -> MlflowClient:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    client.create_registered_model("physique-personal")
    client.create_model_version("physique-personal", str(tmp_path))
    return client


def test_a_night_says_what_it_did_what_it_stands_for_and_what_serves(registry: MlflowClient):
    assert "No model is registered yet." in night_page("nothing new", [], [])
    registry.set_registered_model_alias("physique-personal", "champion", "1")
    page = night_page("feedback was learned", ["first", "second"], LINKS)
    assert page.startswith("# Nightly\n\nFeedback was learned.\n\nIt stands for 2 more that were missed: first, second.\n")
    assert "**What came of it:** [continual](http://prefect/artifacts/key/continual)" in page
    assert "| `physique-personal` | version 1 |" in page


def test_a_pipeline_says_why_stages_ran_and_which_failed(registry: MlflowClient):
    ran = Ran("mesh", "Completed", "mesh ran: changed deps: data/cohort; changed outs: data/mesh; a|b; c", 61.0)
    page = pipeline_page([ran, Ran("embed", "Cached", "embed is up to date", 0.1)], [], [])
    assert "1 of 2 stages ran, 1 were up to date." in page
    assert "| data/cohort, data/mesh, a\\|b, 1 more |" in page
    failed = pipeline_page([ran, Ran("embed", "Failed", "stage embed failed: no room", 3.0)], [], ["pretrain"])
    assert "**embed failed.** stage embed failed: no room" in failed and "it goes on from there" in failed
    assert "**Ended from outside while embed ran.**" in pipeline_page([ran], [], ["embed"])
