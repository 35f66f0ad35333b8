"""A small round to review, and a process that serves it."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pyarrow as pa

from tasks.schemas import LABELS


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def photo_id(place: int) -> str:
    """The id of a photo that need not exist."""
    return hashlib.sha256(f"photo {place}".encode()).hexdigest()


def drafts(count: int, number: int = 1) -> pa.Table:
    """Pseudo-labels of a round."""
    rows = [
        {
            "photo_id": photo_id(place),
            "rater_id": "labeller",
            "appearance": 5.0 + place % 4,
            "health": 6.0,
            "posture": 4.5,
            "origin": "pseudo",
            "round": number,
            "at": None,
        }
        for place in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=LABELS)


def survey_answers() -> dict[str, str]:
    """A filled-in survey, as the simulated raters answer it."""
    return {
        "ideal_build": "slim",
        "muscles": "no matter",
        "favourite_body_type": "tall",
        "upright_matters": "very",
        "extraversion": "3",
        "openness": "5",
        "age_group": "60+",
    }


class Server:
    """The page in a process of its own, which can be killed and started again on the same port."""

    def __init__(self, url: str) -> None:
        self.url, self.port = url, free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        words = [sys.executable, str(Path(__file__).with_name("review_server.py")), self.url, str(self.port)]
        self.process = subprocess.Popen(words)
        end = time.monotonic() + 90
        while True:
            try:
                if httpx.get(f"{self.base}/health", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                assert self.process.poll() is None and time.monotonic() < end, "the page does not answer"
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up."""
        self.process.kill()
        self.process.wait(30)
