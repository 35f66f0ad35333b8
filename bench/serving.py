"""The served model under load: right answers row by row, and how long they take.

    uv run python bench/serving.py                     # models:/physique-personal@champion, 200 requests, 8 at a time
    uv run python bench/serving.py --model models:/physique-expert-expert-01@champion --requests 50

Starts `mlflow models serve` on a free port and asks it: requests of 1 to 4 rows of mixed users, photos as paths or as
base64; one row in four cannot be answered (no such file, no base64, a text for a photo, a photo outside the served folder).
What each row has to be is found by the same model in this process, photo by photo. Exit code 1 if any row is not that. A
warm-up request is not counted. Prints JSON.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

DIMENSIONS = ("appearance", "health", "posture")
USERS = ("user-0001", "user-0002", "user-0003", "nobody", None)


def cases(folder: Path, photos: list[Path]) -> list[tuple[dict[str, Any], str]]:
    """Rows to ask for, and what the answer's error says ('' = none)."""
    text = base64.b64encode(b"this is a text").decode()
    bad = [
        ({"image": str(folder / "missing.jpg")}, "neither a file here nor base64"),
        ({"image": "/etc/hostname"}, "outside"),
        ({"image": "not base64!"}, "neither a file here nor base64"),
        ({"image": text}, "not an image"),
    ]
    good = [({"image": str(photo)}, "") for photo in photos]
    good += [({"image": base64.b64encode(photo.read_bytes()).decode()}, "") for photo in photos]
    return [({"user_id": user} | row, said) for user in USERS for rows in (good, bad) for row, said in rows]


def truth(model: str, photos: list[Path]) -> dict[tuple[str, str | None], list[float]]:
    """(image, user) → scores of the good rows, each photo on its own."""
    import mlflow
    import pandas as pd

    served, found = mlflow.pyfunc.load_model(model), {}
    for photo in photos:
        frame = pd.DataFrame({"user_id": list(USERS), "image": [str(photo)] * len(USERS)})
        said = served.predict(frame)[list(DIMENSIONS)].to_numpy(float)
        for image in (str(photo), base64.b64encode(photo.read_bytes()).decode()):
            found |= {(image, user): scores.tolist() for user, scores in zip(USERS, said)}
    return found


def serve(model: str, folder: Path, log: Any) -> tuple[subprocess.Popen[bytes], str]:
    """A server of the model on a free port of this machine, and its address; waits until it answers. log: a file."""
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local", "-h", "127.0.0.1"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where MLflow looks for uvicorn
    server = subprocess.Popen(
        [*words, "-p", str(port)], env=os.environ | {"PHYSIQUE_PHOTOS": str(folder), "PATH": path}, stdout=log,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 180
    while True:
        try:
            if httpx.get(f"{url}/ping").status_code == 200:
                return server, url
        except httpx.TransportError:
            pass
        if server.poll() is not None or time.monotonic() > end:
            log.seek(0)
            raise RuntimeError(f"the server did not start:\n{log.read().decode()[-3000:]}")
        time.sleep(0.3)


def wrong(row: dict[str, Any], said: str, answer: dict[str, Any], expected: dict) -> str:
    """What is wrong with an answer; '' if nothing is."""
    scores = [answer[d] for d in DIMENSIONS]
    if said:
        empty = all(score is None for score in scores)
        return "" if empty and said in answer["error"] else f"{row['image'][:60]}: {answer}, expected an error: {said}"
    wanted = expected[row["image"], row["user_id"]]
    near = all((a is None and math.isnan(b)) or (a is not None and abs(a - b) < 1e-3) for a, b in zip(scores, wanted))
    read = not all(map(math.isnan, wanted))  # one of the default photos is deliberately broken
    known = not read or answer["known_user"] == (row["user_id"] in USERS[:3])
    return "" if near and known and read == (not answer["error"]) else f"{row['user_id']}: {answer}, expected {wanted}"


def main(stack: ExitStack) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models:/physique-personal@champion")
    parser.add_argument("--photos", type=Path, default=Path("data/mannequins/photos"))
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=8)
    words = parser.parse_args()
    import httpx
    import mlflow

    if not os.environ.get("MLFLOW_TRACKING_URI"):
        os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///mlflow.db"
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    folder = words.photos.resolve()
    photos = sorted(folder.glob("*.jpg"))[:6]
    rows = cases(folder, photos)
    expected = truth(words.model, photos)
    good, bad = ([case for case in rows if bool(case[1]) == is_bad] for is_bad in (False, True))
    rng = np.random.default_rng(0)
    asked = []
    for _ in range(words.requests):
        picks = [good if rng.random() < 0.75 else bad for _ in range(rng.integers(1, 5))]
        asked.append([pick[rng.integers(len(pick))] for pick in picks])
    started = time.monotonic()
    log = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    server, url = serve(words.model, folder, log)
    stack.callback(lambda: (os.killpg(server.pid, 15), server.wait(30)))
    ready = time.monotonic() - started

    def ask(request: list) -> tuple[float, list[str]]:
        began = time.monotonic()
        body = {"dataframe_records": [row for row, _ in request]}
        reply = httpx.post(f"{url}/invocations", json=body, timeout=120)
        took = time.monotonic() - began
        if reply.status_code != 200:
            return took, [f"HTTP {reply.status_code}: {reply.text[:300]}"]
        answers = reply.json()["predictions"]
        found = [wrong(*case, answer, expected) for case, answer in zip(request, answers, strict=True)]
        return took, [line for line in found if line]

    ask(asked[0])
    began = time.monotonic()
    with ThreadPoolExecutor(words.concurrency) as pool:
        done = list(pool.map(ask, asked))
    whole = time.monotonic() - began
    took, faults = np.array([seconds for seconds, _ in done]), [line for _, lines in done for line in lines]
    count = sum(map(len, asked))
    print(json.dumps({
        "model": words.model, "requests": len(asked), "concurrency": words.concurrency, "rows": count,
        "bad rows": sum(bool(said) for request in asked for _, said in request), "wrong": faults[:10],
        "ready after s": round(ready, 1), "rows a second": round(count / whole, 1),
        "p50 s": round(float(np.quantile(took, 0.5)), 3), "p99 s": round(float(np.quantile(took, 0.99)), 3),
    }, indent=1))  # fmt: skip
    return 1 if faults else 0


if __name__ == "__main__":
    with ExitStack() as stack:
        code = main(stack)
    sys.exit(code)
