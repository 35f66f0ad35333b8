"""What MLflow's pages say of models and of their versions."""

from __future__ import annotations

import io
from typing import Any

DESCRIPTION = 5000
"""Characters that MLflow's store keeps of a description."""


def describe_version(version: dict[str, Any], card: str, picture: bytes) -> None:
    """Give a version of the current run its model card: as its description, and with a PNG among the run's artifacts."""
    import mlflow
    from PIL import Image

    folder = f"cards/{version['name']}"
    mlflow.log_text(card, f"{folder}/card.md")
    mlflow.log_image(Image.open(io.BytesIO(picture)), f"{folder}/card.png")
    if len(card) > DESCRIPTION:
        card = f"{card[: DESCRIPTION - 80]}…\n\nThe rest: {folder}/card.md of the run."
    describe(version, card)


def describe(version: dict[str, Any], page: str) -> None:
    """Give a version a description, Markdown."""
    from mlflow import MlflowClient

    MlflowClient().update_model_version(version["name"], version["version"], description=page[:DESCRIPTION])


def describe_model(name: str, length: int | None) -> None:
    """Say on a registered model's page what it answers and how it is asked. length: of the vectors, None of photos."""
    from mlflow import MlflowClient

    from model.scores import DIMENSIONS
    from tasks.registry import PERSONAL

    item = "`image` (base64, or a path)" if length is None else f"`vector` ({length} numbers)"
    who = "`user_id` (who is unknown gets the prior, and `known_user` says so) and " if name == PERSONAL else ""
    lines = [f"{', '.join(DIMENSIONS).capitalize()}, 0 to 10, as {'a user' if who else 'one rater'} would say.", ""]
    lines += [f"Asked with {who}{item}; serves as `models:/{name}@champion`:", ""]
    asked = {"user_id": ["ID"]} if who else {}
    asked |= {"image": ["PHOTO.jpg"]} if length is None else {"vector": ["…"]}
    lines += ["```", f"frame = pandas.DataFrame({asked})"]
    lines += [f'mlflow.pyfunc.load_model("models:/{name}@champion").predict(frame)', "```", "As a server: docs/serving.md."]
    MlflowClient().update_registered_model(name, "\n".join(lines))
