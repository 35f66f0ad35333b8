"""A model on disk: `<name>.safetensors` with the tensors, `<name>.json` with what rebuilds it. No pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import init
from torch.overrides import TorchFunctionMode

from model.compat import Compat
from model.physique_frame import FrameConfig, PhysiqueFrame
from model.vector_frame import SIZE, Frame, VectorFrame


class Unfilled(TorchFunctionMode):
    """Modules built inside get no random numbers: for those whose every weight is then loaded (seconds at full size).

    Constants are computed all the same, which on the meta device they would not be.
    """

    RANDOM = (
        torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.erfinv_,
        init.uniform_, init.normal_, init.trunc_normal_, init.kaiming_uniform_, init.xavier_uniform_,
    )  # fmt: skip

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def tensors_hash(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 hex of tensors, whatever file they came in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def new_frame(config: FrameConfig, compat: str | Compat = "fixed") -> Frame:
    """A frame of the class that `config` asks for."""
    return VectorFrame(config, compat) if config.size == SIZE else PhysiqueFrame(config, compat)


def save_frame(frame: Frame, folder: Path, name: str, about: dict[str, Any]) -> None:
    """Write a frame and what is to be known of it (`about`: JSON-able)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in frame.state_dict().items()}
    save_file(tensors, folder / f"{name}.safetensors")
    description = {"config": frame.config.to_dict(), "compat": frame.compat.to_dict(), "about": about}
    text = json.dumps(description, indent=1, sort_keys=True)
    (folder / f"{name}.json").write_text(text)


def load_frame(folder: Path, name: str, device: str = "cpu") -> tuple[Frame, dict[str, Any]]:
    """The frame called `name` in `folder`, in eval mode, and its `about`.

    Raises:
        FileNotFoundError: a file is missing.
        RuntimeError: tensors do not fit the config; the message names each key.
    """
    description = json.loads((folder / f"{name}.json").read_text())
    with Unfilled():
        frame = new_frame(FrameConfig.from_dict(description["config"]), Compat(**description.get("compat", {})))
    frame.load_state_dict(load_file(folder / f"{name}.safetensors"), strict=True)
    return frame.to(device).eval().requires_grad_(False), description["about"]


def seeded(*parts: object) -> torch.Generator:
    """A generator that depends on `parts` alone: a resumed epoch draws what it would have drawn."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
