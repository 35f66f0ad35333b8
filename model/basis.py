"""φ(x): what a personal model sees of a photo, namely what the expert models think of it.

Per dimension φ = [1, z_1 … z_K, fused_1 … fused_F]: the experts' predictions, centred on the fitting photos and
rotated to their principal axes (the first is nearly their mean, the others are what experts disagree about),
and, if given, the leading axes of a fused feature vector. All share one scale per block, so an axis along which
experts hardly differ stays small and an isotropic prior holds it back. Every expert is a point s_e in this
space: f_e(x) = s_e·φ(x), exactly so when no axis is dropped.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.scores import DIMENSIONS

GENERIC = "generic"


@dataclass
class Basis:
    """models: names along the models axis of predictions (M), `generic` may be among them.

    centre (D, M), rotation (D, M, K), fused_centre (F0,), fused_rotation (F0, F), rated (D,) bool: False where
    no expert model exists for the dimension; φ is zero there and predictions are NaN.
    """

    models: tuple[str, ...]
    centre: Tensor
    rotation: Tensor
    rated: Tensor
    fused_centre: Tensor
    fused_rotation: Tensor

    @property
    def size(self) -> int:
        """P: length of φ."""
        return 1 + self.rotation.shape[2] + self.fused_rotation.shape[1]

    @property
    def experts(self) -> tuple[str, ...]:
        return tuple(name for name in self.models if name != GENERIC)

    def phi(self, predictions: Tensor, fused: Tensor | None = None) -> Tensor:
        """predictions (N, M, D), NaN where a model does not score a dimension; fused (N, F0) → (N, D, P) float64.

        A photo that misses a prediction on a dimension that is otherwise there has NaN φ on that dimension.
        """
        predictions = torch.as_tensor(predictions, dtype=torch.float64)
        if predictions.shape[1:] != (len(self.models), len(DIMENSIONS)):
            raise ValueError(
                f"predictions have shape {tuple(predictions.shape)}, expected (photos, {len(self.models)} models, "
                f"{len(DIMENSIONS)} dimensions) with models {', '.join(self.models)}"
            )
        centred = predictions.permute(0, 2, 1) - self.centre  # (N, D, M)
        axes = torch.einsum("ndm,dmk->ndk", torch.where(self.rated[:, None], centred, 0.0), self.rotation)
        parts = [torch.ones(*axes.shape[:2], 1, dtype=torch.float64), axes]
        if self.fused_rotation.shape[1]:
            if fused is None:
                raise ValueError(f"this basis was fitted with {len(self.fused_centre)} fused features, none given")
            extra = (torch.as_tensor(fused, dtype=torch.float64) - self.fused_centre) @ self.fused_rotation
            parts.append(extra[:, None].expand(-1, axes.shape[1], -1))
        return torch.where(self.rated[:, None], torch.cat(parts, 2), 0.0)

    def expert_weights(self) -> Tensor:
        """s_e of every selectable expert: (E, D, P), f_e(x) = s_e·φ(x)."""
        keep = [i for i, name in enumerate(self.models) if name != GENERIC]
        return self._points()[keep]

    def generic_weights(self) -> Tensor:
        """The generic model as a point of the space (D, P): its own where there is one, the experts' mean elsewhere."""
        points = self._points()
        return points[self.models.index(GENERIC)] if GENERIC in self.models else points.mean(0)

    def _points(self) -> Tensor:
        # rotation = V / scale with orthonormal V: its pseudo-inverse is scale · Vᵀ
        back = torch.linalg.pinv(self.rotation)  # (D, K, M)
        zeros = torch.zeros(*self.centre.shape, self.fused_rotation.shape[1], dtype=torch.float64)
        points = torch.cat([self.centre[..., None], back.transpose(1, 2), zeros], 2)  # (D, M, P)
        return torch.where(self.rated[:, None, None], points, 0.0).permute(1, 0, 2)


def _axes(centred: Tensor, most: int) -> Tensor:
    """Principal axes of (N, M) rows as columns (M, most), scaled so that the first has unit variance on N."""
    values, vectors = torch.linalg.eigh(centred.T @ centred / max(len(centred), 1))
    values, vectors = values.flip(0)[:most], vectors.flip(1)[:, :most]
    # A sign that does not depend on the linear algebra library: the largest entry is positive.
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
    real = values > values[0] * 1e-6
    return vectors * real / values[0].clamp_min(1e-12).sqrt()


def fit_basis(
    models: list[str] | tuple[str, ...],
    predictions: Tensor,
    fused: Tensor | None = None,
    *,
    axes: int = 32,
    fused_axes: int = 8,
) -> Basis:
    """Basis from the predictions (N, M, D) of M models on the fitting photos, and optional fused features (N, F0)."""
    predictions = torch.as_tensor(predictions, dtype=torch.float64)
    if GENERIC in models and len(models) == 1:
        raise ValueError("predictions hold only the generic model; selection needs at least one expert model")
    most = min(axes, len(models))
    centres, rotations, rated = [], [], []
    for d in range(predictions.shape[2]):
        rows = predictions[:, :, d]
        rows = rows[~rows.isnan().any(1)]
        rated.append(len(rows) > 1)
        centre = rows.mean(0) if rated[-1] else torch.zeros(len(models), dtype=torch.float64)
        centres.append(centre)
        rotations.append(_axes(rows - centre, most) if rated[-1] else torch.zeros(len(models), most, dtype=torch.float64))
    if fused is None or fused_axes == 0:
        fused_centre, fused_rotation = torch.zeros(0), torch.zeros(0, 0)
    else:
        fused = torch.as_tensor(fused, dtype=torch.float64)
        fused_centre = fused.mean(0)
        fused_rotation = _axes(fused - fused_centre, min(fused_axes, fused.shape[1]))
    return Basis(
        tuple(models),
        torch.stack(centres),
        torch.stack(rotations),
        torch.tensor(rated),
        fused_centre.to(torch.float64),
        fused_rotation.to(torch.float64),
    )
