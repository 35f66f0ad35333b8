"""`physique up --host 0.0.0.0`: who is let in, and where the password lies."""

from __future__ import annotations

import importlib.util
import os
import stat
from pathlib import Path

import pytest

from tasks.intake.quarantine import BadInput
from tasks.stack.access import FILE, PASSWORD, credentials, lock, of_mlflow, of_prefect
from tasks.stack.parts import mlflow_server

NAMES = ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", PASSWORD)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name not in NAMES})
    FILE.parent.mkdir()
    return tmp_path


def test_the_loopback_asks_for_nothing_and_forgets_an_earlier_password():
    assert lock("0.0.0.0") and FILE.exists()
    assert not any(lock(host) for host in ("127.0.0.1", "127.0.0.2", "localhost", "::1"))
    assert not FILE.exists() and credentials() == {}


def test_a_password_is_made_up_kept_and_readable_by_its_owner_only():
    assert lock("0.0.0.0")
    first = credentials()
    assert stat.S_IMODE(FILE.stat().st_mode) == 0o600 and len(first["MLFLOW_TRACKING_PASSWORD"]) >= 24
    assert first["PREFECT_API_AUTH_STRING"] == f"physique:{first['MLFLOW_TRACKING_PASSWORD']}"
    assert {name: os.environ[name] for name in first} == first
    for name in first:
        del os.environ[name]
    assert lock("192.0.2.1") and credentials() == first, "the next start keeps it"


def test_a_given_password_is_taken_and_a_short_one_refused():
    os.environ[PASSWORD] = "correct horse battery"
    assert lock("0.0.0.0") and credentials()["MLFLOW_TRACKING_PASSWORD"] == "correct horse battery"
    os.environ[PASSWORD] = "correct"
    with pytest.raises(BadInput, match="7 characters; right are 12") as told:
        lock("0.0.0.0")
    assert "correct " not in str(told.value)


def test_servers_get_the_password_by_their_environment_and_no_file_of_theirs_holds_it(folder):
    lock("0.0.0.0")
    password = credentials()["MLFLOW_TRACKING_PASSWORD"]
    assert of_prefect() == {"PREFECT_SERVER_API_AUTH_STRING": f"physique:{password}"}
    mlflow = of_mlflow(folder)
    assert mlflow["MLFLOW_AUTH_ADMIN_PASSWORD"] == password
    holding = [path for path in folder.rglob("*") if path.is_file() and password in path.read_text()]
    assert holding == [folder / FILE]


def test_what_a_server_of_yours_asks_for_stays():
    os.environ["PREFECT_API_AUTH_STRING"] = "team:their-own-password"
    lock("0.0.0.0")
    assert os.environ["PREFECT_API_AUTH_STRING"] == credentials()["PREFECT_API_AUTH_STRING"] == "team:their-own-password"


def test_each_server_that_is_started_has_its_pair_and_the_password_is_kept_between_them():
    assert lock("0.0.0.0", mlflow=False)
    (pair,) = credentials().values()
    del os.environ["PREFECT_API_AUTH_STRING"]
    assert lock("0.0.0.0", prefect=False) and "PREFECT_API_AUTH_STRING" not in os.environ
    assert credentials() == {"MLFLOW_TRACKING_USERNAME": "physique", "MLFLOW_TRACKING_PASSWORD": pair.partition(":")[2]}
    assert credentials(mlflow=False) == {}
    assert not lock("0.0.0.0", prefect=False, mlflow=False) and not FILE.exists()


def test_mlflow_is_opened_by_name_and_by_every_address_that_it_allows_by_itself(folder):
    import mlflow

    path = Path(mlflow.__file__).parent / "server/security_utils.py"  # alone: its package loads a whole server
    spec = importlib.util.spec_from_file_location("security_utils", path)
    assert spec is not None and spec.loader is not None
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    command = mlflow_server("0.0.0.0", "box", 5000, "http://box:5000", folder, locked=False).command
    allowed = command[command.index("--allowed-hosts") + 1].split(",")
    assert set(theirs.get_private_ip_patterns()) <= set(allowed)
    for host in ("box", "box:5000", "localhost:5000", "127.0.0.1:5000", "192.168.1.7:5000", "10.0.0.3:80", "172.31.9.9:1"):
        assert theirs.is_allowed_host_header(allowed, host), host
    for host in ("evil.example", "172.32.0.1:5000", "8.8.8.8"):
        assert not theirs.is_allowed_host_header(allowed, host), host
