"""Weights of others: checked key by key, converted to safetensors, registered if wanted.

uv run physique up                              then: weights → Run in the Prefect UI
uv run physique weights import checkpoint.pth   the same as a command
"""

from pathlib import Path
from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from tasks.pipeline_page import model_link, version_link
from tasks.stage import publish
from tasks.weights import FOLDER, import_file, register_frame, summary


@flow
def weights(
    file: Annotated[
        str,
        Field(
            title="File",
            description="On the pipeline's machine: a PhysiqueFrame or SMPLer-X checkpoint, CLIP ViT-L/14, Swin-V2-B.",
        ),
    ],
    register: Annotated[
        str, Field(title="Register as expert", description="An id, for physique-expert-<id>. Empty: it is not registered.")
    ] = "",
    compat: Annotated[
        Literal["fixed", "reference"],
        Field(title="Quirks", description="reference: with the quirks of the published code (docs/quirks.md)."),
    ] = "fixed",
) -> str:
    """Import a checkpoint: every key is checked, nothing in the file is executed, what was dropped is told with why."""
    about = import_file(Path(file).expanduser(), FOLDER, compat)
    said = summary(about)
    page = f"# Weights\n\n```\n{said}\n```\n"
    if register:
        made = register_frame(about, register)
        page += f"\nRegistered: {model_link(made['name'])} {version_link(made['name'], made['version'])}"
    publish("weights", page)
    return said
