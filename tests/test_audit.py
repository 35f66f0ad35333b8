""".ci/audit against a server that speaks OSV: a vulnerability fails it, an accepted one does not, nor does silence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from tasks.engines import free_port
from tests.conftest import ROOT

ACCEPTED = [line.split() for line in (ROOT / ".ci/accepted.txt").read_text().splitlines() if line and line[0] != "#"]
pytestmark = pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not on the path")


@contextmanager
def osv(vulnerability: str | None) -> Iterator[str]:
    """A server that knows one vulnerability, of Ray, or none; its address."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
            known = {"vulns": [{"id": vulnerability, "modified": "2026-01-01T00:00:00Z"}]}
            self.say({"results": [known if vulnerability and each["package"]["name"] == "ray" else {} for each in asked]})

        def do_GET(self) -> None:
            affected = {"package": {"name": "ray", "ecosystem": "PyPI"}, "ranges": []}
            dates = dict.fromkeys(("modified", "published"), "2026-01-01T00:00:00Z")
            self.say({"id": vulnerability, "summary": "runs what it is told", "affected": [affected], **dates})

        def say(self, what: dict[str, Any]) -> None:
            data = json.dumps(what).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def audit(url: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"AUDIT_URL": url, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return subprocess.run([ROOT / ".ci/audit"], env=environment, capture_output=True, text=True, timeout=120)


def test_a_known_vulnerability_fails_and_is_named():
    with osv("GHSA-aaaa-bbbb-cccc") as url:
        done = audit(url)
    assert done.returncode == 1 and "GHSA-aaaa-bbbb-cccc: runs what it is told" in done.stdout, done.stdout + done.stderr
    assert "ray" in done.stdout and ".ci/accepted.txt" in done.stdout


def test_accepted_ones_have_a_reason_and_pass():
    assert all(len(words) > 5 for words in ACCEPTED), "an id and why"
    with osv(ACCEPTED[0][0]) as url:
        done = audit(url)
    assert (done.returncode, done.stdout.startswith("audit: Found no known vulnerabilities")) == (0, True), done.stdout


def test_a_database_that_cannot_be_reached_is_said_and_passes():
    done = audit(f"http://127.0.0.1:{free_port()}/")
    said = "audit: not done, the database of vulnerabilities cannot be reached from here\n"
    assert (done.returncode, done.stdout) == (0, said), done.stderr
