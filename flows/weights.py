"""Weights of others: checked key by key, converted to safetensors, registered if wanted.

uv run physique up                              then: weights → Run in the Prefect UI
uv run physique weights import checkpoint.pth   the same as a command
"""

from pathlib import Path
from typing import Literal

from prefect import flow

from tasks.pipeline_page import model_link, version_link
from tasks.stage import publish
from tasks.weights import FOLDER, import_file, register_frame, summary


@flow
def weights(file: str, expert: str = "", compat: Literal["fixed", "reference"] = "fixed") -> str:
    """Import a checkpoint: every key is checked, nothing in the file is executed, what was dropped is told with why.

    Args:
        file: A PhysiqueFrame or SMPLer-X checkpoint, CLIP ViT-L/14, or a Swin-V2-B; a path on the machine of the pipeline.
        expert: Register it as physique-expert-<this>. Empty: it is not registered.
        compat: reference has the quirks of the published code (docs/quirks.md).
    """
    about = import_file(Path(file).expanduser(), FOLDER, compat)
    said = summary(about)
    page = f"# Weights\n\n```\n{said}\n```\n"
    if expert:
        made = register_frame(about, expert)
        page += f"\nRegistered: {model_link(made['name'])} {version_link(made['name'], made['version'])}"
    publish("weights", page)
    return said
