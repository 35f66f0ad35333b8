"""The stand-in body model, built once for all the tests that look at bodies; `conftest.py` of each room imports these."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.body import Body, build_standin, load_body
from tasks.mannequins.render import Renderer

__all__ = ["body", "body_file", "renderer"]


@pytest.fixture(scope="session")
def body_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in body model's npz; the same file for every room."""
    path = tmp_path_factory.getbasetemp() / "body" / "SMPLX_STANDIN.npz"
    if not path.is_file():
        build_standin(path)
    return path


@pytest.fixture(scope="session")
def body(body_file: Path) -> Body:
    """The stand-in body model, loaded."""
    return load_body(body_file)


@pytest.fixture(scope="session")
def renderer(body_file: Path) -> Renderer:
    """Renders mannequins of the stand-in body model."""
    return Renderer(body_file)
