"""What `physique review …` does.

    uv run physique review demo
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from sqlalchemy import Engine

from tasks.intake.items import needs_photos
from tasks.intake.quarantine import BadInput

SHOWS = "the review page shows photos"
HOME = "http://127.0.0.1:8321"
DEMO_PHOTOS = 12


def serve(host: str, port: int, data: Path, engine: Engine | None = None) -> None:
    """Serve the page until stopped; every answer goes to the store before it is acknowledged."""
    import uvicorn

    from review.app import make_app
    from review.media import CohortMedia
    from tasks.reviews import open_store
    from tasks.surveys import load_survey

    ask_for_port(host, port)
    needs_photos(data / "cohort/photos", SHOWS)
    store = engine or open_store()
    app = make_app(store, CohortMedia(data / "cohort/photos", data / "mesh", data / "body"), load_survey())
    # The token of a link stands in its path: no access log.
    uvicorn.run(app, host=host, port=port, access_log=False, log_level="info", server_header=False)


def ask_for_port(host: str, port: int) -> None:
    """Raises BadInput if nobody can listen there now: uvicorn itself says so only after all else is made."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
            trial.bind(address)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "is in use; name another with --port" if taken else f"cannot be listened on ({error.strerror or error})"
        raise BadInput(f"{host}, port {port}: {why}") from None


def link(person_id: str, role: str, days: float, base_url: str = HOME) -> str:
    """A new personal link, shown this once."""
    from tasks.reviews import invite, open_store

    if not base_url.startswith(("http://", "https://")):
        raise BadInput(f"--base-url: {base_url!r} is no address; right would be https://review.example.org")
    return f"{base_url.rstrip('/')}/r/{invite(open_store(), person_id, role, days)}"


def progress() -> list[str]:
    """One line per round and expert."""
    from tasks.reviews import open_store, round_progress, rounds

    engine, lines = open_store(), []
    for number, state in rounds(engine):
        lines.append(f"round {number} ({state})")
        for expert, (done, of) in round_progress(engine, number).items():
            lines.append(f"  {expert:24} {done:6,} of {of:,}")
    return lines or ["no round yet"]


def demo(port: int, data: Path, store: Path) -> None:
    """A small round for one expert and the same photos for one user, from the built cohort; then serve it."""
    from tasks.reviews import invite, offer, open_round, open_store
    from tasks.schemas import LABELS
    from tasks.tables import read_table

    ask_for_port("127.0.0.1", port)
    cohort = data / "cohort"
    if not (cohort / "labels.parquet").exists():
        raise BadInput(f"{cohort} is not built; run `uv run dvc repro` first")
    needs_photos(cohort / "photos", SHOWS)
    import pyarrow as pa

    rows = read_table(cohort / "labels.parquet").slice(0, 5000).to_pylist()
    first = {row["photo_id"]: row for row in rows if None not in (row["appearance"], row["health"], row["posture"])}
    fill = {"rater_id": "labeller", "origin": "pseudo", "round": 1, "at": None}
    drafts = pa.Table.from_pylist([row | fill for row in list(first.values())[:DEMO_PHOTOS]], schema=LABELS)
    engine = open_store(f"sqlite:///{store}")
    open_round(engine, 1, drafts, ["demo-expert"])
    offer(engine, "demo-user", drafts, "demo")
    for role in ("expert", "user"):
        print(f"{role:7} http://127.0.0.1:{port}/r/{invite(engine, f'demo-{role}', role, 1)}")
    print("Scores shown are one rater's of the cohort, not a model's. Stop with Ctrl-C.", flush=True)
    serve("127.0.0.1", port, data, engine)

