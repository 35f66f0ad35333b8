"""The reference's quirks, each by name: what `compat: fixed | reference` switches (docs/quirks.md has their effect)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Compat:
    """How a photo is put before the full network. `fixed` and `reference` are the two presets."""

    joint_mask: Literal["own", "first"] = "own"
    """`first`: points hidden in a batch's first photo are hidden in all of them (the reference's training and
    validation). `own`: each photo has its own; nothing leaks between samples."""
    graph: Literal["body", "columns", "as_batched"] = "body"
    """`body`: the 17 edges of the body. `columns`: what is left of them when their table is read the wrong way
    round, as the reference's inference script does. `as_batched`: as the reference comes to it, `columns` for a
    single photo, `body` for a batch."""
    squash: bool = False
    """Photos are squeezed into a square (the reference's inference script) instead of letterboxed (its training)."""
    distances: Literal["expanded", "direct"] = "expanded"
    """Neighbours on the mesh by |a|² - 2ab + |b|² in float32, as released weights were trained, or the true ones."""

    arithmetic: Literal["fast", "literal"] = "fast"
    """The mesh stream operation by operation as the reference, to the last bit, or in a faster order."""

    @classmethod
    def of(cls, name: str | Compat) -> Compat:
        """A preset by name.

        Raises:
            ValueError: there is no such preset.
        """
        if isinstance(name, Compat):
            return name
        if name == "fixed":
            return cls()
        if name == "reference":
            return cls(joint_mask="first", graph="as_batched", squash=True, arithmetic="literal")
        raise ValueError(f"compat: {name!r} is not a setting; there are 'fixed' and 'reference'")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def weight_of(self, own: Tensor) -> Tensor:
        """(B, 15) weights of the points of each photo → those that count."""
        return own * own[:1] if self.joint_mask == "first" else own

    def graph_of(self, body: Tensor, batch: int) -> Tensor:
        """(15, 15) the graph for a batch of so many photos; `body` is the right one."""
        if self.graph == "body" or (self.graph == "as_batched" and batch > 1):
            return body
        wrong = torch.zeros_like(body)
        wrong[0, 0] = wrong[1, 2] = wrong[2, 1] = 1.0
        return wrong
