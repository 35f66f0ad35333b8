"""What MLflow runs of a model: bundle in, scores out. A model "from code": nothing is pickled.

model = mlflow.pyfunc.load_model("models:/physique-personal@champion")
model.predict(pandas.DataFrame({"user_id": ["u0001"], "image": ["photo.jpg"]}))
"""

from __future__ import annotations

import base64
import binascii
import errno
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
            photos, errors = zip(*(read_image(value) for value in frame["image"])) if len(frame) else ((), ())
            answers = self.predictor(photos, users)
        scores = np.array([answer.scores for answer in answers]).reshape(-1, len(DIMENSIONS))
        out = {name: scores[:, k] for k, name in enumerate(DIMENSIONS)}
        out |= {"known_user": [a.known for a in answers], "status": [a.status for a in answers]}
        out["error"] = [said or answer.error for said, answer in zip(errors, answers)]
        return pd.DataFrame(out)


def read_image(value: object) -> tuple[bytes, str]:
    """The bytes of an image given as a path or in base64, or b'' and one line that says what is wrong."""
    if not isinstance(value, str) or not value:
        return b"", f"image: {type(value).__name__}, expected a path or base64 text"
    try:
        if len(value) < 4096 and Path(value).is_file():
            return Path(value).read_bytes(), ""
    except OSError as error:
        # A short picture's base64 asked for as a path: too long a name. That is no path; a locked file is.
        if error.errno != errno.ENAMETOOLONG:
            return b"", f"image: {value[:80]!r}: {error.strerror}"
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True), ""
    except (binascii.Error, ValueError):
        return b"", f"image: {value[:80]!r} is neither a file here nor base64"


set_model(Served())
