"""SMPLer-X's rows: one look at the crop, its own camera, the mesh with the expression that it sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from model.images import apply_affine, invert_affine
from model.mesh_row import MeshRow
from model.prepare import Prepared
from model.smpler_x import FOCAL, PATCH, SMPLerX

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class SmplerNetwork:
    """Prepared crops → rows of their people, in the order of `Prepared.people`.

    Args:
        precision: of encoder and deconvolutions; rotations, body model and soft-argmax stay float32.
        compile: torch.compile the encoder, once: what is less than a batch is filled up to one.
        batch: people per pass at most, however many there are in the photos.
    """

    def __init__(
        self, model: SMPLerX, device: str = "cpu", precision: str = "fp32", compile: bool = False, batch: int = 64
    ):
        self.model, self.device = model.to(device).quick(PRECISIONS[precision]), device
        self.body, self.batch, self.precision = model.body, batch, precision
        self.compiled = compile
        if precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False  # else convolutions on a GPU have ten bits
        if compile:
            forward: Any = torch.compile(self.model.encoder.forward_features, dynamic=False)
            self.model.encoder.forward_features = forward

    @property
    def usual_pose(self) -> torch.Tensor:
        """(1, 66) upright before the camera, whose y axis points down, and otherwise at rest."""
        pose = torch.zeros(1, 66)
        pose[0, 0] = torch.pi
        return pose

    def _look(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 256, 192, 3) uint8 → the fields of `Rows` on the CPU, vertices (B, 31425) float16."""
        people = len(pixels)
        if self.compiled:
            pixels = torch.cat([pixels, pixels.new_zeros(self.batch - people, *pixels.shape[1:])])
        if self.device != "cpu":
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        said = self.model.rows(pixels.permute(0, 3, 1, 2).float() / 255)
        if not all(bool(torch.isfinite(field[:people]).all()) for field in said):
            advice = "; set mesh.precision to bf16" if self.precision == "fp16" else ""
            raise ValueError(f"SMPLer-X gives numbers that are not finite in {self.precision}{advice}")
        said = said._replace(vertices=said.vertices.flatten(1).half())
        return tuple(field[:people].cpu() for field in said)

    def rows(self, prepared: Prepared) -> list[MeshRow]:
        """One row per person; `extractor` is left to the caller."""
        if not prepared.people:
            return []
        assert prepared.crops is not None
        pixels = torch.from_numpy(prepared.crops)
        parts = [self._look(part) for part in pixels.split(self.batch)]
        betas, poses, cameras, vertices, points, volumes = (torch.cat(part).numpy() for part in zip(*parts))
        rows = []
        for k, person in enumerate(prepared.people):
            assert person.matrix is not None
            back = invert_affine(person.matrix)
            focal = FOCAL * 2 * back[0, 0]  # a px of the half crop spans two of the crop
            x, y = apply_affine(back, np.array(PATCH) / 2)
            rows.append(
                MeshRow(
                    "ok",
                    box=person.box.astype(np.float32),
                    betas=betas[k],
                    pose=poses[k],
                    camera=np.array([focal, *cameras[k], x, y], np.float32),
                    vertices=vertices[k],
                    points=apply_affine(back, points[k]).astype(np.float32).ravel(),
                    volume=float(volumes[k]),
                )
            )
        return rows
