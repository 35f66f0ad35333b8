"""`mlflow models serve` under load: every row its right answer, good ones and bad ones, users mixed."""

import json

import pytest

from tests.conftest import ROOT, Checkout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_each_row_has_its_right_answer(checkout: Checkout):
    script = str(ROOT / "bench/serving.py")
    done = checkout.run(script, "--requests", "40", how="-u")
    said = json.loads(done.stdout[done.stdout.index("{") :])
    assert said["wrong"] == [] and said["rows"] > 60 and said["bad rows"] > 10
    assert 0 < said["p50 s"] <= said["p99 s"]
