"""Whether two folders of a model hold the same: to the byte, or how far their numbers lie apart.

    uv run pytest tests/tasks/test_same.py
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLOSE = 1e-4
"""Numbers that lie no further apart, relative to the largest of their array (at least 1), count as the same."""


@dataclass
class Same:
    """equal: files with the same bytes. apart: file → largest difference of its numbers. other: what cannot be compared."""

    equal: list[str] = field(default_factory=list)
    apart: dict[str, float] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)

    @property
    def close(self) -> bool:
        return not self.other and all(gap <= CLOSE for gap in self.apart.values())

    def __str__(self) -> str:
        """The verdict in a line."""
        files = len(self.equal) + len(self.apart) + len(self.other)
        if self.other:
            more = f" and {len(self.other) - 1} more" if len(self.other) > 1 else ""
            return f"not the same: {self.other[0]}{more}"
        if not self.apart:
            return f"the same, to the byte, in all {files} files"
        worst = max(self.apart, key=lambda name: self.apart[name])
        verdict = "the same" if self.close else "not the same"
        return (
            f"{verdict}: {len(self.equal)} of {files} files to the byte, numbers of the others up to "
            f"{self.apart[worst]:.1e} apart ({worst})"
        )


def compare(one: Path, two: Path) -> Same:
    """Compare two folders, file by file: tensors, tables and JSON by their numbers, all else by their bytes."""
    found = Same()
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} for folder in (one, two)]
    found.other += [f"{name} is only in one of them" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        if (one / name).read_bytes() == (two / name).read_bytes():
            found.equal.append(name)
            continue
        try:
            found.apart[name] = gap(_read(one / name), _read(two / name))
        except ValueError as error:
            found.other.append(f"{name}: {error}")
    return found


def _read(path: Path) -> Any:
    """What a file holds, as dicts, lists, arrays and numbers. Raises ValueError for a kind of file that is bytes only."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    if path.suffix == ".parquet":
        from tasks.tables import read_table

        return read_table(path).to_pydict()
    if path.suffix == ".json":
        return json.loads(path.read_text())
    raise ValueError("other bytes")


def gap(one: Any, two: Any, where: str = "") -> float:
    """The largest difference of two values' numbers, relative to the largest (at least 1).

    Raises:
        ValueError: they differ in something that is no number, or in shape; it says where.
    """
    import numpy as np

    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return max((gap(one[key], two[key], f"{where} {key}".strip()) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        return max((gap(*pair, where) for pair in zip(one, two)), default=0.0)
    if isinstance(one, np.ndarray) and isinstance(two, np.ndarray):
        if (one.shape, one.dtype) != (two.shape, two.dtype):
            raise ValueError(f"{where} differs: {one.dtype} {one.shape} and {two.dtype} {two.shape}")
        if one.dtype.kind != "f" or not one.size:
            if not np.array_equal(one, two):
                raise ValueError(f"{where} differs")
            return 0.0
        left, right = one.astype(np.float64), two.astype(np.float64)
        if not np.array_equal(np.isfinite(left), np.isfinite(right)):
            raise ValueError(f"{where} has numbers in other places")
        apart = np.abs(np.nan_to_num(left) - np.nan_to_num(right)).max()
        return float(apart / max(1.0, np.abs(np.nan_to_num(left)).max()))
    if type(one) is type(two) and isinstance(one, float):
        if math.isfinite(one) and math.isfinite(two):
            return abs(one - two) / max(1.0, abs(one))
        one, two = str(one), str(two)
    if one != two:
        raise ValueError(f"{where or 'it'} differs: {str(one)[:60]} and {str(two)[:60]}")
    return 0.0
