"""Ray: its head killed, and a second node killed while meshes are extracted on it."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil

from tasks.stack.parts import RAY
from tests.drill.scene import FEW, ITSELF, Scene, until
from tests.drill.strike import MESHES, Work, kill, part, strike
from tests.drill.table import Row


def head(scene: Scene) -> Row:
    """GCS, raylet, dashboard and all workers of it."""
    return strike(scene, "head", "Ray's head is killed", MESHES, FEW, lambda s: kill(part(s, RAY)))


def node(scene: Scene) -> Row:
    """Joined by `ray start --address`; it has a CPU more than the head, so actors go there."""
    process = _join(scene)
    below = lambda: psutil.Process(process.pid).children(recursive=True)  # noqa: E731

    def works_there(_: Scene) -> bool:
        titles = [" ".join(each.cmdline()) for each in below() if each.is_running()]
        return any(title.startswith(("ray::MeshActor.compute", "ray::DecodeActor.compute")) for title in titles)

    work = Work("a pipeline extracts meshes, on that node too", "pipeline", {"stage": "mesh"}, MESHES.begin, works_there)
    blow = lambda s: kill([*below(), psutil.Process(process.pid)])  # noqa: E731
    try:
        return strike(scene, "node", "a second Ray node is killed", work, ITSELF, blow)
    finally:
        process.kill()
        process.wait()


def _join(scene: Scene) -> subprocess.Popen[bytes]:
    """A second node on this machine."""
    address = scene.up.state().ray
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    words = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}", "--node-ip-address=127.0.0.1"]
    words += ["--num-cpus=3", "--object-store-memory=200000000", "--block", "--disable-usage-stats"]
    with (scene.folder / "node.out").open("w") as out:
        environment = os.environ | scene.environment | loopback
        process = subprocess.Popen(words, cwd=scene.folder, env=environment, stdout=out, stderr=out, start_new_session=True)
    page = scene.up.state().pages["Ray"]
    import httpx

    def nodes() -> bool:
        told = httpx.get(f"{page}/api/v0/nodes").json()["data"]["result"]["result"]
        return sum(each["state"] == "ALIVE" for each in told) == 2

    until(nodes, 120)
    return process
