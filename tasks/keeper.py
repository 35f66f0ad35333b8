"""The pair of Prefect and Ray that all stages of a `dvc repro` share.

`dvc repro` runs each stage in a process of its own, and starting Prefect and Ray anew in each would cost
minutes. So the first stage starts a *keeper*, a process that holds both and watches the `dvc repro` (or
whatever was typed) that it was started for: when that process is gone, the keeper stops both and leaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tasks.engines import NotStarted, free_port, ray_environment

STATE = Path(".physique/engines")
START_LIMIT_S = 300
START_ATTEMPTS = 4
OBJECT_STORE_BYTES = 512 * 2**20


def root_process() -> int:
    """Process id of the outermost command of ours that this one is part of: `dvc repro`, pytest, a flow."""
    import psutil

    root = own = psutil.Process()
    for parent in own.parents():
        with contextlib.suppress(psutil.Error):
            command = " ".join(parent.cmdline()[:4])
            if any(word in command for word in ("dvc repro", "dvc exp", "bin/dvc", "bin/physique")):
                root = parent
    return root.pid


def alive(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def keep(owner: int, state: Path) -> None:
    """Body of the keeper: start what is missing, write down where it is, wait for `owner` to end, stop it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    log = state.with_suffix(".log").open("w")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_UI_ENABLED": "true"}
    quiet["PREFECT_SERVER_UI_API_URL"] = url  # else the page looks for its API at the usual port
    server = None
    stop = False

    def on_signal(*_: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner; we leave when it has left
    try:
        address = os.environ.get("RAY_ADDRESS", "")
        if not address:
            address = start_ray()  # first, alone: it gives itself half a minute
        if os.environ.get("PREFECT_API_URL"):
            url = os.environ["PREFECT_API_URL"]
        else:
            server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=os.environ | quiet)
            wait_healthy(url, server)
        found = {"pid": os.getpid(), "owner": owner, "prefect": url, "ray": address}
        temporary = state.with_suffix(".tmp")
        temporary.write_text(json.dumps(found))
        temporary.replace(state)
        while not stop and alive(owner):
            time.sleep(0.5)
    finally:
        state.unlink(missing_ok=True)
        if server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(10)
        if not os.environ.get("RAY_ADDRESS"):
            import ray

            ray.shutdown()


def start_ray() -> str:
    """Start a Ray of this machine's size in this process; its address."""
    import ray

    ray_environment()
    attempts = START_ATTEMPTS
    while True:
        try:
            # The dashboard costs a process of 200 MB and two seconds; `physique up` starts one to look at.
            context = ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=OBJECT_STORE_BYTES,
                configure_logging=False,
            )
            return context.address_info["gcs_address"]
        except Exception as error:  # Ray gives itself 30 s, which a busy machine may need twice, and says so by this type
            ray.shutdown()
            attempts -= 1
            if not attempts or "timed out" not in str(error):
                raise


def wait_healthy(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the Prefect server stopped at once with code {server.returncode}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the Prefect server did not answer within {START_LIMIT_S} s")


def shared(owner: int) -> dict[str, str]:
    """Addresses of the engines kept for `owner`; starts their keeper when there is none."""
    STATE.parent.mkdir(parents=True, exist_ok=True)
    state = STATE.with_name(f"engines-{owner}.json")
    if not (state.exists() and alive(json.loads(state.read_text())["pid"])):
        state.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "tasks.keeper", str(owner), str(state)]
        output = state.with_suffix(".keeper.log").open("w")
        keeper = subprocess.Popen(argv, stdout=output, stderr=output, start_new_session=True)
        end = time.monotonic() + START_LIMIT_S
        while not state.exists():
            if keeper.poll() is not None or time.monotonic() > end:
                raise NotStarted(f"Prefect and Ray did not start; on a busy machine try again ({output.name} says more)")
            time.sleep(0.1)
    return json.loads(state.read_text())


if __name__ == "__main__":
    keep(int(sys.argv[1]), Path(sys.argv[2]))
