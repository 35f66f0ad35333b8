"""`physique up --host 0.0.0.0`: Prefect and MLflow answer nobody without the password, which lies in one file."""

from __future__ import annotations

import secrets

import psutil
import pytest

from tests.conftest import Checkout
from tests.test_up import GIVEN, Up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PASSWORD = secrets.token_hex(10)  # not to be found in a copy of this file


class Opened(Up):
    def start(self) -> None:
        self.options += ["--host", "0.0.0.0"]
        super().start()


def test_without_the_password_there_is_health_and_nothing_else(tmp_path):
    import httpx

    folder = tmp_path / "opened"
    environment = {name: value for name, value in Checkout(folder).environment.items() if name not in GIVEN}
    environment |= {"PHYSIQUE_PASSWORD": PASSWORD, "RAY_ADDRESS": "127.0.0.1:1"}  # no Ray: it is not asked for a password
    up = Opened(folder, environment)
    try:
        for part in ("MLflow      ", "Prefect     ", "review page ", "worker      "):
            said = up.wait(f"{part} up after")
        assert PASSWORD not in said and "other machines reach Prefect and MLflow by a password only" in said
        state = up.state()
        searches = {f"{state.mlflow}/api/2.0/mlflow/registered-models/search": "GET", state.mlflow: "GET",
                    f"{state.prefect}/deployments/filter": "POST", f"{state.prefect}/admin/settings": "GET"}  # fmt: skip
        with httpx.Client(trust_env=False, timeout=30) as client:
            for url, method in searches.items():
                assert client.request(method, url, json={} if method == "POST" else None).status_code == 401, url
                wrong = client.request(method, url, auth=("physique", "wrong-wrong-wrong"))
                assert wrong.status_code == 401, url
                assert client.request(method, url, auth=("physique", PASSWORD)).status_code in (200, 422), url
            assert [client.get(f"{url}/health").status_code for url in (state.mlflow, state.prefect)] == [200, 200]
            assert client.get(f"{state.pages['review page']}/api/desk").status_code == 401
        shell = up.python("-c", "import mlflow; from tasks.engines import engines\n"
                                "with engines(): print(len(mlflow.search_experiments()))")  # fmt: skip
        assert int(shell.stdout) >= 1, shell.stderr
        holding = [path for path in folder.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
        assert holding == [folder / ".physique/access.json"]
        words = [word for process in psutil.process_iter(["cmdline"]) for word in process.info["cmdline"] or ()]
        assert not any(PASSWORD in word for word in words)
    finally:
        up.command("down")
        up.process.wait(60)
