"""Tensors out of a TorchScript archive without running it: how OpenAI publishes CLIP.

An archive holds a program and a pickle of the object tree that it works on. Only the tree is read, by an unpickler that
knows tensors, containers and nothing else: a class of the program becomes a bare holder of attributes, and anything
beside that is refused.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32, "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8, "CharStorage": torch.int8, "ShortStorage": torch.int16,
}  # fmt: skip


class Holder:
    """An object of the program: attributes, no behaviour."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})


def tensor_of(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)


def same(value: Any, *_: Any) -> Any:
    return value


KNOWN: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): tensor_of,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch.jit._pickle", "build_intlist"): same,
    ("torch.jit._pickle", "build_doublelist"): same,
    ("torch.jit._pickle", "build_boollist"): same,
    ("torch.jit._pickle", "build_tensorlist"): same,
    ("torch.jit._pickle", "restore_type_tag"): same,
}


class Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive, self.root, self.storages = archive, root, {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return Holder
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        raise pickle.UnpicklingError(f"{module}.{name} is not a tensor or a container")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, count = pid
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.root}/data/{key}"))
            self.storages[key] = torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
        return self.storages[key]


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """All tensors of an archive by their place in the object tree, as `state_dict()` would name them.

    Raises:
        pickle.UnpicklingError, KeyError, ValueError, zipfile.BadZipFile: damaged, or it holds something else.
    """
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("/data.pkl")
        tree = Reader(archive, root).load()
    found: dict[str, Tensor] = {}

    def walk(holder: Any, prefix: str) -> None:
        for name, value in vars(holder).items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, Holder):
                walk(value, f"{prefix}{name}.")

    walk(tree, "")
    return found
