"""The password that Prefect and MLflow ask for when `physique up` lets others than this machine reach them.

It is PHYSIQUE_PASSWORD, or made up, and lies in .physique/access.json, which only its owner can read, as the variables that
clients take it from, for whatever runs in this folder meanwhile. Nothing else holds it: no command line, no log.

    uv run pytest tests/tasks/test_access.py
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from tasks.stack.running import FOLDER

PASSWORD = "PHYSIQUE_PASSWORD"
USER = "physique"
FILE = FOLDER / "access.json"
LEAST = 12
"""Characters that MLflow wants at least."""


def outside(host: str) -> bool:
    """Whether an address to listen on can be reached from other machines."""
    return host not in ("localhost", "::1") and not host.startswith("127.")


def lock(host: str, prefect: bool = True, mlflow: bool = True) -> bool:
    """Put what clients need into this process's environment, if `host` asks for it; whether it does.

    prefect, mlflow: whether that server is started here. To one that is not, clients would send our password: for it there
    is what the environment has already, and nothing else.

    Raises:
        BadInput: the password that is given is too short.
    """
    from tasks.intake.quarantine import BadInput

    if not outside(host) or not (prefect or mlflow):
        FILE.unlink(missing_ok=True)
        return False
    given = os.environ.get(PASSWORD, "")
    if given and len(given) < LEAST:
        raise BadInput(f"{PASSWORD}: {len(given)} characters; right are {LEAST} or more, or none at all and one is made up")
    last = credentials()
    before = last.get("MLFLOW_TRACKING_PASSWORD") or last.get("PREFECT_API_AUTH_STRING", "").partition(":")[2]
    password = given or before or secrets.token_urlsafe(18)
    ours = {}
    if prefect:
        ours["PREFECT_API_AUTH_STRING"] = f"{USER}:{password}"
    if mlflow:
        ours |= {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": password}
    kept = {name: os.environ.get(name) or value for name, value in ours.items()}
    FILE.unlink(missing_ok=True)
    with os.fdopen(os.open(FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        json.dump(kept, stream, indent=1)
    os.environ.update(kept)
    return True


def credentials(prefect: bool = True, mlflow: bool = True) -> dict[str, str]:
    """What clients of Prefect and MLflow read from the environment; nothing where no password is asked for.

    prefect, mlflow: whether they will ask the server of `physique up`, and not another.
    """
    try:
        found = json.loads(FILE.read_text())
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in found.items() if (prefect if name.startswith("PREFECT") else mlflow)}


def of_prefect() -> dict[str, str]:
    """Environment of a Prefect server that asks for the password."""
    return {"PREFECT_SERVER_API_AUTH_STRING": os.environ["PREFECT_API_AUTH_STRING"]}


def of_mlflow(folder: Path) -> dict[str, str]:
    """Environment of an MLflow server that asks for the password (`--app-name basic-auth`).

    Every start makes its users anew: MLflow reads an administrator's password once only.
    """
    users, settings = folder / FOLDER / "mlflow_users.db", folder / FOLDER / "mlflow_users.ini"
    for end in ("", "-wal", "-shm"):
        users.with_name(users.name + end).unlink(missing_ok=True)
    lines = ["[mlflow]", "default_permission = NO_PERMISSIONS", f"database_uri = sqlite:///{users}".replace("%", "%%")]
    lines += ["auth_cache_ttl_seconds = 60"]  # else every request costs a hash that is slow by design
    settings.write_text("\n".join(lines) + "\n")
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_USERNAME": os.environ["MLFLOW_TRACKING_USERNAME"],
        "MLFLOW_AUTH_ADMIN_PASSWORD": os.environ["MLFLOW_TRACKING_PASSWORD"],
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
    }
