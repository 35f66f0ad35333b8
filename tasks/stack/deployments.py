"""The deployments of prefect.yaml on the Prefect that PREFECT_API_URL names, and flow runs that a stop has cut off.

`physique up` runs it (`python -m tasks.stack.deployments`). Where prefect.yaml and the flows are what was deployed last,
nothing is deployed: a schedule that an operator has paused in the UI stays paused.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tasks.stack.parts import POOL
from tasks.stack.running import CLOCK_S, FOLDER
from tasks.tables import read_json, write_json

DEPLOYED = FOLDER / "deployed.json"
STOPPED = "`physique` was stopped while this ran. What was finished is kept: run it again and it goes on from there"
KILLED = "its process died without a word (kill -9, no memory, its Ray gone). What was finished is kept: run it again"
POOL_WAIT_S = 120.0
UNFINISHED = ["RUNNING", "PENDING", "CANCELLING", "PAUSED"]


def deploy(api: str) -> str:
    """Create all deployments, if they are not there as they should be, once there is a work pool; a line that says so.

    Raises:
        RuntimeError: no worker came, or Prefect refused; its last words.
    """
    made = {"api": api, "of": fingerprint()}
    if _last() == made and deployed(api):
        return "deployments are as they were"
    end = time.monotonic() + POOL_WAIT_S
    while call(api, "GET", f"/work_pools/{POOL}") is None:  # the worker makes it, with what its kind of pool needs
        if time.monotonic() > end:
            raise RuntimeError(f"no work pool {POOL!r} came; did the worker start?")
        time.sleep(0.3)
    words = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).split())
        raise RuntimeError(f"prefect deploy failed: {said[-400:]}")
    write_json(made, DEPLOYED)
    return "deployed"


def _last() -> Any:
    """What was deployed last; None if nothing was, or if the note of it is damaged."""
    try:
        return read_json(DEPLOYED)
    except (OSError, ValueError):
        return None


def fingerprint() -> str:
    """A hash of prefect.yaml, of the flows (their parameters are the forms) and of where this is."""
    found = hashlib.sha256(str(Path.cwd()).encode())
    for path in [Path("prefect.yaml"), *sorted(Path("flows").glob("*.py"))]:
        found.update(path.read_bytes())
    return found.hexdigest()


def deployed(api: str) -> list[dict[str, Any]]:
    """Deployments of our pool that the server knows."""
    return call(api, "POST", "/deployments/filter", {"work_pools": {"name": {"any_": [POOL]}}}) or []


def page_of(api: str, name: str) -> str:
    """The page where a deployment of this name is run from; '' if there is none."""
    found = call(api, "GET", f"/deployments/name/{name}/{name}")
    return f"{api.removesuffix('/api')}/deployments/deployment/{found['id']}" if found else ""


def cut_off(
    api: str, ids: Iterable[str] | None = None, before: float | None = None, why: tuple[str, str] = ("Stopped", STOPPED)
) -> int:
    """Tell Prefect of flow runs that ended without a word, else they run for ever there; how many.

    ids: None = all that are unfinished. before: only those that began before this time, seconds since 1970.
    why: name and message of the state that they get.
    """
    asked: dict[str, Any] = {"flow_runs": {"state": {"type": {"any_": UNFINISHED}}}}
    if ids is not None:
        if not (ids := list(ids)):
            return 0  # a server that may be gone is not waited for in vain
        asked["flow_runs"]["id"] = {"any_": ids}
    if before is not None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(before))
        asked["flow_runs"]["expected_start_time"] = {"before_": stamp}
    state = {"type": "CRASHED", "name": why[0], "message": why[1]}
    found = call(api, "POST", "/flow_runs/filter", asked) or []
    for run in found:
        call(api, "POST", f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    return len(found)


def unheard(api: str) -> set[str]:
    """Ids of flow runs that are shown as under way though their process on this machine is gone.

    A run's process is noted by its worker or by itself (`tasks.stage.cancelled`); a run inside another ends with that.
    """
    asked = {"flow_runs": {"state": {"type": {"any_": UNFINISHED}}}}
    open_ = {run["id"]: run for run in call(api, "POST", "/flow_runs/filter", asked) or []}
    inside = {run["parent_task_run_id"]: run["id"] for run in open_.values() if run.get("parent_task_run_id")}
    wanted = {"task_runs": {"id": {"any_": list(inside)}}}
    tasks = call(api, "POST", "/task_runs/filter", wanted) or [] if inside else []
    outer = {inside[each["id"]]: each["flow_run_id"] for each in tasks}
    gone = {key for key, run in open_.items() if key not in outer and died(run)}
    while more := {key for key, above in outer.items() if key not in gone and (above in gone or above not in open_)}:
        gone |= more
    return gone


def died(run: dict[str, Any]) -> bool:
    """Whether the process of a flow run is known, of this machine, and gone.

    A later one of its number is not it: of a run that has begun, the process was there before.
    """
    import psutil

    host, _, pid = str(run.get("infrastructure_pid") or "").rpartition(":")
    if not pid.isdigit() or host not in ("", socket.gethostname()):
        return False
    try:
        process = psutil.Process(int(pid))
        entered = datetime.fromisoformat(run["state"]["timestamp"]).timestamp()
        later = run["state"]["type"] != "PENDING" and process.create_time() > entered + CLOCK_S
        return later or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def call(api: str, method: str, path: str, body: Any = None) -> Any:
    """Prefect's REST API; None where it has no such thing or does not answer.

    Who asks is told as Prefect's own clients do: by the environment, else by the user's Prefect profile.
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY

    key = os.environ.get("PREFECT_API_KEY") or PREFECT_API_KEY.value()
    pair = os.environ.get("PREFECT_API_AUTH_STRING") or PREFECT_API_AUTH_STRING.value()
    about: dict[str, Any] = {"headers": {"Authorization": f"Bearer {key}"}} if key else {}
    if pair:
        about["auth"] = tuple(pair.split(":", 1))
    try:
        with httpx.Client(trust_env=not api.startswith("http://127."), timeout=20, **about) as client:
            for wait in (0.3, 0.6, 1.2, 2.4, 0):
                answer = client.request(method, f"{api}{path}", **({} if body is None else {"json": body}))
                if answer.status_code != 503 or not wait:  # SQLite was locked
                    break
                time.sleep(wait)
        return answer.json() if answer.is_success and answer.content else None
    except (httpx.HTTPError, ValueError):
        return None


if __name__ == "__main__":
    try:
        print(deploy(os.environ["PREFECT_API_URL"]))
    except RuntimeError as error:
        sys.exit(str(error))
