"""Tensors out of somebody else's file, with nothing in it executed: PyTorch (zip or older) and safetensors."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WRAPPERS = ("state_dict", "model", "network", "model_state_dict")


class BadCheckpoint(ValueError):
    """A weights file cannot be used; the message names the file, the key where there is one, and what is wrong."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a weights file: name → tensor, as stored, unwrapped and without `module.`.

    Raises:
        BadCheckpoint: no such file, empty, truncated, not a weights file, or one that would have to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise BadCheckpoint(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise BadCheckpoint(f"{path}: empty file (0 bytes)")
    with path.open("rb") as stream:
        start = stream.read(16)
    if start[8:9] == b"{":  # a safetensors header follows its own length
        found = _safetensors(path)
    elif start[:2] == b"PK" or start[:1] == b"\x80":
        found = _pytorch(path)
    else:
        raise BadCheckpoint(f"{path}: not a weights file (neither PyTorch nor safetensors)")
    return _unwrapped(path, found)


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise BadCheckpoint(f"{path}: damaged safetensors file ({first_line(error)})") from None


def _pytorch(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    with path.open("rb") as stream:
        if stream.read(2) == b"PK" and not zipped:
            raise BadCheckpoint(f"{path}: truncated (the end of the archive is missing)")
    if zipped and any(member.filename.endswith("/constants.pkl") for member in whole_archive(path)):
        return _program(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        # torch's own words end in advice to load it all the same, which would run what is in it
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            raise BadCheckpoint(f"{path}: holds more than tensors ({asked[1]}); nothing was run") from None
        raise BadCheckpoint(f"{path}: damaged, or not a file of torch.save; nothing was run") from None
    except Exception as error:  # torch raises RuntimeError, EOFError, ValueError, KeyError on damaged files
        raise BadCheckpoint(f"{path}: damaged or truncated ({first_line(error)})") from None


def whole_archive(path: Path) -> list[zipfile.ZipInfo]:
    """What a zip file of torch.save holds, every checksum compared: torch itself compares none. Raises BadCheckpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged, members = archive.testzip(), archive.infolist()
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError) as error:
        raise BadCheckpoint(f"{path}: damaged or truncated ({first_line(error)})") from None
    if damaged is not None:
        raise BadCheckpoint(f"{path}: damaged ({damaged} is not what was saved)")
    return members


def _program(path: Path) -> dict[str, Tensor]:
    """A TorchScript archive: its tensors are read, its program is not run."""
    from model.torchscript import read_torchscript

    try:
        return read_torchscript(path)
    except pickle.UnpicklingError as error:
        raise BadCheckpoint(f"{path}: holds more than tensors; nothing was run ({first_line(error)})") from None
    except Exception as error:  # a damaged archive fails in as many ways as it has parts
        raise BadCheckpoint(f"{path}: damaged or truncated ({first_line(error)})") from None


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _unwrapped(path: Path, found: Any) -> dict[str, Tensor]:
    for name in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not found:
        raise BadCheckpoint(f"{path}: holds a {type(found).__name__}, expected a state dict (names to tensors)")
    other = [key for key, value in found.items() if not isinstance(value, Tensor) or not isinstance(key, str)]
    if other:
        raise BadCheckpoint(f"{path}: {other[0]!r} is a {type(found[other[0]]).__name__}, expected a tensor")
    for key, value in found.items():
        if value.is_nested or value.is_quantized or value.layout != torch.strided or value.device.type != "cpu":
            raise BadCheckpoint(f"{path}: {key} is not a plain tensor but sparse, nested, quantised or without numbers")
    if all(key.startswith("module.") for key in found):
        return {key.removeprefix("module."): value for key, value in found.items()}
    return dict(found)
