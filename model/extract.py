"""Photos → rows of the mesh table: a preparer (decode, find, cut) and a network (body, camera), by one recipe.

Notable:
- a row depends on its photo alone, not on what else is in the batch or on the order;
- a recipe is all that rows depend on: its `identity` is the version of what computed them, whatever the paths;
- preparer and network can live in different processes (tasks/features.py); `Extractor` is both in one.

    python -m pytest tests/model/test_extract.py
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from model.body import load_body
from model.detect import make_detector
from model.files import file_hash
from model.mesh_net import load_mesh_net
from model.mesh_row import MeshRow
from model.mesh_smpler import SmplerNetwork
from model.mesh_tiny import TinyNetwork
from model.prepare import Prepared, Preparer

VERSION = "3"
"""Raise it when code changes what comes out; it is part of every identity."""
TINY = "tiny"


@dataclass(frozen=True)
class Recipe:
    """What makes a mesh row, with the files that it needs (paths as text; it travels to workers and into bundles)."""

    body: str
    """SMPL-X-format npz, stand-in or licensed."""
    mesh_net: str
    """Folder of the small mesh network, which also finds people; not read where neither is asked for."""
    network: str = TINY
    """`tiny`, or SMPLer-X: `s32`, `b32`, `l32`, `h32`."""
    weights: str | None = None
    """SMPLer-X: an official checkpoint, or what `physique weights import` made of one."""
    detector: str = "auto"
    """See `model.detect.make_detector`."""
    detector_weights: str | None = None
    people: str = "largest"
    """`largest`: one row per photo; `all`: a row for everybody whom the detector sees."""
    precision: str = "fp32"
    """Of SMPLer-X: `fp32`, `bf16`, `fp16`."""
    cache: str | None = None
    """Meshes made elsewhere; photos found in it by name are not computed (model/mesh_cache.py)."""

    @property
    def looks_for_itself(self) -> bool:
        """Whether the detector is the small mesh network."""
        return self.detector in ("auto", "presence")

    def check(self) -> None:
        """Raises ValueError or FileNotFoundError, one line, where the recipe cannot be followed."""
        if self.network != TINY and self.weights is None:
            raise ValueError(
                f"mesh.weights: missing; {self.network} needs an official checkpoint (`physique weights check` says more)"
            )
        if self.network == TINY and self.weights is not None:
            raise ValueError("mesh.weights: only SMPLer-X takes weights; mesh.network is tiny, of the stage meshnet")
        for what, file in (
            ("body model", self.body),
            ("mesh.weights", self.weights),
            ("mesh.detector_weights", self.detector_weights),
            ("mesh.cache", self.cache),
        ):
            if file is not None and not Path(file).is_file():
                raise FileNotFoundError(f"{what} not found: {file}")

    def identity(self) -> str:
        """Name of the network and twelve hex digits that change whenever rows could."""
        self.check()
        detector = make_detector(self.detector, self._net(), self.detector_weights)
        parts = [VERSION, self.network, file_hash(Path(self.body)), detector.settings]
        if self.network == TINY or self.looks_for_itself:
            parts.append(file_hash(Path(self.mesh_net) / "mesh_net.safetensors"))
        if self.weights is not None:
            parts += [weights_hash(Path(self.weights)), self.precision]
        if self.people != "largest":
            parts.append(self.people)
        if self.cache is not None:
            parts.append(file_hash(Path(self.cache)))
        return f"{self.network}-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

    def preparer(self, device: str = "cpu") -> Preparer:
        """The part that needs photos."""
        detector = make_detector(self.detector, self._net(device), self.detector_weights, device)
        return Preparer(detector, self.people, self.network != TINY, device)

    def make_network(self, device: str = "cpu", compile: bool = False, batch: int = 64) -> TinyNetwork | SmplerNetwork:
        """The part that needs an accelerator."""
        from model.smpler_x import SMPLerX

        self.check()
        if self.network == TINY:
            return TinyNetwork(load_mesh_net(Path(self.mesh_net), device), load_body(self.body, device), device)
        model = SMPLerX.from_checkpoint(str(self.weights), self.network, self.body)
        return SmplerNetwork(model, device, self.precision, compile, batch)

    def _net(self, device: str = "cpu"):
        return load_mesh_net(Path(self.mesh_net), device) if self.looks_for_itself else None


def weights_hash(path: Path) -> str:
    """sha256 of the checkpoint that a weights file is, or was made of by `physique weights import`."""
    described = path.with_suffix(".json")
    if path.suffix == ".safetensors" and described.is_file():
        source = json.loads(described.read_text()).get("source", {})
        if "sha256" in source:
            return source["sha256"]
    return file_hash(path)


class Extractor:
    """Mesh rows of photos; loads its models once, is called many times."""

    def __init__(self, recipe: Recipe, device: str = "cpu"):
        self.recipe, self.device, self.extractor_id = recipe, device, recipe.identity()
        self.prepare, self.network = recipe.preparer(device), recipe.make_network(device)
        self.body = self.network.body

    def __call__(self, photos: list[bytes]) -> list[MeshRow]:
        """One row per photo, in order, of the largest person; nothing is raised for a bad photo."""
        return [rows[0] for rows in self.everybody(photos)]

    def everybody(self, photos: list[bytes]) -> list[list[MeshRow]]:
        """Rows of each photo, at least one: where nobody is, it says so."""
        return rows_of(self.prepare(photos), self.network, self.extractor_id)


@torch.inference_mode()
def rows_of(prepared: Prepared, network: TinyNetwork | SmplerNetwork, extractor: str) -> list[list[MeshRow]]:
    """Rows of each prepared photo, people in the order that the preparer gave them."""
    out: list[list[MeshRow]] = [[] for _ in range(prepared.count)]
    for person, row in zip(prepared.people, network.rows(prepared), strict=True):
        row.person, row.extractor = len(out[person.photo]), extractor
        out[person.photo].append(row)
    for photo, (status, reason) in prepared.others.items():
        out[photo].append(MeshRow(status, extractor=extractor, reason=reason))
    return out
