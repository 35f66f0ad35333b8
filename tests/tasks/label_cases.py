"""A small cohort of photos, and an endpoint on this machine that labels them as well or as badly as a test wants."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from model.scores import DIMENSIONS
from tasks.drafts import Asking, Drafts, read_drafts
from tasks.intake.quarantine import as_lines
from tasks.schemas import PHOTOS, SCHEMAS, check
from tasks.tables import read_table, shard_paths, write_table

BRISK = Asking(per_minute=1e9, back_off_s=0.01, timeout_s=5, retries=3)
ONE_BY_ONE = replace(BRISK, at_once=1)


def jpeg(seed: int, size: tuple[int, int] = (40, 56), **options: Any) -> bytes:
    colour = np.random.default_rng(seed).integers(0, 255, 3).tolist()
    file = io.BytesIO()
    Image.new("RGB", size, tuple(colour)).save(file, "JPEG", **options)
    return file.getvalue() + seed.to_bytes(4)  # two of one colour are still two photos


def cohort(folder: Path, photos: int | list[bytes], shard: int = 20) -> dict[str, str]:
    """Photo shards of 0.jpg, 1.jpg, ... in folder/photos; photo_id by name."""
    files = photos if isinstance(photos, list) else [jpeg(i) for i in range(photos)]
    ids = {f"{i}.jpg": hashlib.sha256(data).hexdigest() for i, data in enumerate(files)}
    rows = [
        {"photo_id": photo_id, "name": name, "width": 40, "height": 56, "source": "test", "bytes": data}
        for (name, photo_id), data in zip(ids.items(), files)
    ]
    for start in range(0, len(rows), shard):
        table = pa.Table.from_pylist(rows[start : start + shard], schema=PHOTOS)
        write_table(check(table, "photos"), folder / "photos" / f"{start:05d}.parquet", row_group_size=7)
    return ids


def read(folder: Path, url: str, asking: Asking = BRISK, **options) -> tuple[Drafts, list[str]]:
    drafts, aside = read_drafts(url, folder / "photos", folder / "cache", asking=asking, **options)
    assert aside.schema == SCHEMAS["quarantine"]
    return drafts, as_lines(aside, 1000)


def kept(folder: Path) -> set[str]:
    """Photos whose labels are on disk."""
    paths = [path for key in (folder / "cache").iterdir() for path in shard_paths(key)]
    return {photo for path in paths for photo in read_table(path)["photo_id"].to_pylist()}


def every_file(folder: Path) -> bytes:
    """What is in the cache, of Parquet also what it holds: compressed, a secret would not be seen."""
    paths = [path for path in (folder / "cache").rglob("*") if path.is_file()]
    tables = [str(read_table(path).to_pylist()).encode() for path in paths if path.suffix == ".parquet"]
    return b"".join([path.read_bytes() for path in paths] + tables)


def score(photo_id: str, dimension: str) -> float:
    """What the good labeller says: depends on the photo and the dimension, 0 to 10 with one decimal."""
    return int(hashlib.sha256(f"{photo_id}{dimension}".encode()).hexdigest()[:6], 16) % 101 / 10


def label(photo_id: str, **changes: Any) -> dict[str, Any]:
    return {"photo_id": photo_id} | {d: {"score": score(photo_id, d), "spread": 0.5} for d in DIMENSIONS} | changes


@dataclass
class Reply:
    """What the endpoint says to one request; None as body: a good label for every photo."""

    status: int = 200
    body: bytes | Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


@dataclass
class Request:
    at: float
    ids: list[str]
    question: dict[str, Any]
    headers: dict[str, str]

    def image(self, place: int) -> Image.Image:
        return Image.open(io.BytesIO(base64.b64decode(self.question["photos"][place]["image"])))


@dataclass
class Served:
    url: str
    requests: list[Request]

    def asked(self) -> list[str]:
        """Photo ids in the order in which they came, as often as they came."""
        return [photo_id for request in self.requests for photo_id in request.ids]


@contextmanager
def endpoint(behave: Callable[[int, list[str]], Reply | None] = lambda number, ids: None) -> Iterator[Served]:
    """A labeller on a free port of this machine; behave(number of the request from 0, ids) says how it replies."""
    requests: list[Request] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            ids = [photo["photo_id"] for photo in question["photos"]]
            with lock:
                number = len(requests)
                requests.append(Request(time.monotonic(), ids, question, dict(self.headers)))
            reply = behave(number, ids) or Reply()
            time.sleep(reply.delay)
            body = {"labels": [label(photo_id) for photo_id in ids]} if reply.body is None else reply.body
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(data)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass  # who asked has hung up, as some tests want

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield Served(f"http://127.0.0.1:{server.server_port}/label", requests)
    finally:
        server.shutdown()
        server.server_close()
