"""What MLflow runs of a model: bundle in, scores out. A model "from code": nothing is pickled.

model = mlflow.pyfunc.load_model("models:/physique-personal@champion")
model.predict(pandas.DataFrame({"user_id": ["u0001"], "image": ["photo.jpg"]}))
"""

from __future__ import annotations

import base64
import binascii
import errno
import os
import threading
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import set_model


class Served(mlflow.pyfunc.PythonModel):
    """Columns in: `image` (a path, or the file's bytes in base64) and `user_id` (of personal models). Models of items that
    are vectors ask for `vector` (a list of numbers) in place of `image`.

    Columns out: one per dimension, 0 to 10 and empty where that dimension was never rated; `known_user`;
    `status` (ok, no_person, unreadable); `error`, one line, where a row could not be answered. One bad row
    never costs the others.
    """

    def load_context(self, context) -> None:
        from model.predictor import Predictor

        self.predictor = Predictor(Path(context.artifacts["bundle"]))
        # A server asks from many threads; one photo after the other is what the detector can stand, and no slower.
        self.turn = threading.Lock()

    # The type tells MLflow that frames come in as they are; without one it prints a warning at every load.
    def predict(self, context, model_input: pd.DataFrame, params=None):
        from model.scores import DIMENSIONS

        frame = pd.DataFrame(model_input)
        column = "image" if self.predictor.length is None else "vector"
        if column not in frame:
            raise ValueError(f"column '{column}' is missing; there are {list(frame.columns)}")
        users = frame["user_id"].tolist() if "user_id" in frame else [None] * len(frame)
        users = [user if isinstance(user, str) and user else None for user in users]
        if column == "vector":
            answers, errors = self.predictor.of_vectors(frame["vector"].tolist(), users), [""] * len(frame)
        else:
            root = served_folder()
            photos, errors = zip(*(read_image(value, root) for value in frame["image"])) if len(frame) else ((), ())
            with self.turn:
                answers = self.predictor(photos, users)
        scores = np.array([answer.scores for answer in answers]).reshape(-1, len(DIMENSIONS))
        out = {name: scores[:, k] for k, name in enumerate(DIMENSIONS)}
        out |= {"known_user": [a.known for a in answers], "status": [a.status for a in answers]}
        out["error"] = [said or answer.error for said, answer in zip(errors, answers)]
        table = pd.DataFrame(out)
        # JSON has no NaN: what a server leaves empty is null.
        return table.astype(object).where(table.notna(), None) if serving() else table


def serving() -> bool:
    """Whether this is MLflow's server, which says so, and not a process of one's own."""
    return os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT") == "true"


def served_folder() -> Path | None:
    """Where photos given as paths have to lie: PHYSIQUE_PHOTOS; a server's current folder without it, None = anywhere."""
    named = os.environ.get("PHYSIQUE_PHOTOS") or ("." if serving() else "")
    return Path(named).resolve() if named else None


def read_image(value: object, root: Path | None = None) -> tuple[bytes, str]:
    """The bytes of an image given as a path in `root` or in base64, or b'' and one line that says what is wrong."""
    if not isinstance(value, str) or not value:
        return b"", f"image: {type(value).__name__}, expected a path or base64 text"
    try:
        path = Path(value)
        if root is not None and len(value) < 4096:
            path = (root / value).resolve()
            if not path.is_relative_to(root):
                # Whether there is such a file is nobody's business; the text may be base64 that looks like a path.
                return from_base64(value, f"image: {value[:80]!r} is outside the folder that is served, and no base64")
        if len(value) < 4096 and path.is_file():
            return path.read_bytes(), ""
    except (OSError, ValueError) as error:  # a ValueError: a NUL in what was to be a path
        # A short picture's base64 asked for as a path: too long a name. That is no path; a locked file is.
        if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
            return b"", f"image: {value[:80]!r}: {error.strerror}"
    return from_base64(value, f"image: {value[:80]!r} is neither a file here nor base64")


def from_base64(value: str, otherwise: str) -> tuple[bytes, str]:
    """The bytes of base64 text, a data: URL or not; else b'' and `otherwise`."""
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True), ""
    except (binascii.Error, ValueError):
        return b"", otherwise


set_model(Served())
