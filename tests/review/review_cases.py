"""A small round to review, and where to serve it."""

from __future__ import annotations

import hashlib
import socket

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
