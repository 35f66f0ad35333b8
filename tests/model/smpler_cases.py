"""SMPLer-X with made-up weights: the reference's filler where it is to be had, a filler of our own everywhere."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from model.smpler_checkpoint import layout


def script(path: Path) -> ModuleType:
    """A Python file beside the goldens, imported."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def manifest(reference: Path, size: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Key → shape and type of an official checkpoint."""
    listed = json.loads((reference / f"manifest_{size}.json").read_text())["state_dict"]
    return {key: (tuple(shape), getattr(torch, kind)) for key, (shape, kind) in listed.items()}


def reference_state(reference: Path, size: str) -> dict[str, Tensor]:
    """The weights that the goldens were computed with."""
    fill = script(reference / "fill.py")
    return {key: fill.fill_tensor(key, *about) for key, about in manifest(reference, size).items()}


def reference_body(reference: Path, path: Path) -> Path:
    """The body model that the goldens were computed with, as a file."""
    np.savez(path, **script(reference / "standin.py").build())
    return path


def made_up_state(size: str = "s32", seed: int = 0) -> dict[str, Tensor]:
    """Weights that give people of moderate poses before a camera: rotations near none, heat maps that are not flat."""
    random, state = torch.Generator().manual_seed(seed), {}
    for key, (shape, kind) in layout(size).items():
        noise = torch.randn(shape, generator=random) if kind.is_floating_point else torch.zeros(shape, dtype=kind)
        if not kind.is_floating_point or key.endswith("running_mean"):
            state[key] = 0 * noise
        elif key.endswith("running_var"):
            state[key] = torch.ones(shape)
        elif key.endswith("pose_out.0.bias"):
            state[key] = torch.tensor([1.0, 0, 0, 1, 0, 0]).repeat(shape[0] // 6) + 0.1 * noise
        elif key.endswith("bias") or len(shape) == 1:
            state[key] = (0.0 if key.endswith("bias") else 1.0) + 0.05 * noise
        elif key.endswith(("task_tokens", "pos_embed")):
            state[key] = 0.3 * noise
        else:
            inside = shape[0] * 4 if "deconv" in key else int(np.prod(shape[1:]))
            gain = 4.0 if "position_net" in key else 0.4 if "pose_out" in key else 1.0
            state[key] = noise * gain / inside**0.5
    return state
