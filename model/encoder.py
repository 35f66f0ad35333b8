"""The frozen image encoder: a photo to a vector, as the `embed` stage tables it and `predict` computes it.

`meshnet` is what the small mesh network reads, which needs no download; any timm name takes its place,
with weights from a local safetensors file or, without one, from where timm publishes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model.checkpoint import file_hash
from model.images import letterbox

MESHNET = "meshnet"
VERSION = 2  # raise when the vectors of the same weights change


class Encoder:
    """Letterboxed whole photos to vectors; build with `load_encoder`.

    Attributes:
        id: name and hash of what computes the vectors; rows of another id are stale.
        width: length of a vector.
    """

    def __init__(self, network: nn.Module, pixels: int, mean: Tensor, std: Tensor, id: str, device: str):
        self.network = network.to(device).eval().requires_grad_(False)
        self.pixels, self.id, self.device = pixels, id, device
        self.mean, self.std = mean.to(device).view(1, 3, 1, 1), std.to(device).view(1, 3, 1, 1)
        self.width = int(self.vectors(np.zeros((1, pixels, pixels, 3), np.uint8)).shape[1])

    @torch.inference_mode()
    def vectors(self, squares: np.ndarray) -> Tensor:
        """(B, pixels, pixels, 3) uint8 → (B, width) float32."""
        images = torch.from_numpy(squares).to(self.device).permute(0, 3, 1, 2).float() / 255
        return self.network((images - self.mean) / self.std).float().cpu()

    def __call__(self, images: Sequence[np.ndarray], batch: int = 32) -> np.ndarray:
        """(H, W, 3) uint8 photos → (N, 2, width) float32: as it is, and flipped left to right."""
        out = np.zeros((len(images), 2, self.width), np.float32)
        for start in range(0, len(images), batch):
            squares = np.stack([letterbox(image, self.pixels)[0] for image in images[start : start + batch]])
            for flip, view in enumerate((squares, squares[:, :, ::-1])):
                out[start : start + batch, flip] = self.vectors(np.ascontiguousarray(view)).numpy()
        return out


class MeshNetEncoder:
    """Photos to what the small mesh network's heads read: it looks at the whole photo, then at who is there.

    Same attributes and call as `Encoder`. A photo with nobody in it has a vector, too.
    """

    def __init__(self, folder: Path, device: str):
        from model.mesh_net import load_mesh_net

        self.net, self.device = load_mesh_net(folder, device), device
        self.id = f"meshnet-{file_hash(folder / 'mesh_net.safetensors')[:12]}-{VERSION}"
        self.width = self.net.width

    def __call__(self, images: Sequence[np.ndarray], batch: int = 32) -> np.ndarray:
        """See `Encoder`."""
        out = np.zeros((len(images), 2, self.width), np.float32)
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            for flip, view in enumerate((part, [image[:, ::-1] for image in part])):
                out[start : start + batch, flip] = self._vectors([np.ascontiguousarray(v) for v in view])
        return out

    @torch.inference_mode()
    def _vectors(self, images: list[np.ndarray]) -> np.ndarray:
        from model.detect import box_from_points
        from model.images import apply_affine, crop_person, invert_affine

        boxes = []
        for image in images:  # framed so that the crop, which grows a box by a quarter, is the whole photo
            height, width = image.shape[:2]
            boxes.append(np.array([0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height]))
        for look in range(2):
            cut = [crop_person(image, box) for image, box in zip(images, boxes, strict=True)]
            crops = torch.from_numpy(np.stack([crop for crop, _ in cut])).to(self.device)
            output, features = self.net.read(crops.permute(0, 3, 1, 2).float() / 255)
            if look == 0:
                for i, ((_, matrix), points) in enumerate(zip(cut, output.points.cpu().numpy(), strict=True)):
                    limits = np.array([images[i].shape[1], images[i].shape[0]] * 2, np.float64)
                    # whole pixels: rounding noise of a batch must not reach the second crop
                    box = np.round(box_from_points(apply_affine(invert_affine(matrix), points))).clip(0, limits)
                    boxes[i] = box if (box[2:] - box[:2]).min() >= 8 else boxes[i]
        return features.cpu().numpy()


def load_encoder(
    name: str, weights: str | Path | None, mesh_net: str | Path, device: str = "cpu"
) -> Encoder | MeshNetEncoder:
    """The encoder called `name`.

    Args:
        name: `meshnet`, or a timm model name such as `vit_large_patch14_clip_quickgelu_224.openai`.
        weights: safetensors file of a timm model; None takes timm's own published weights.
        mesh_net: folder of the small mesh network, for `meshnet`.

    Raises:
        ValueError: timm knows no such name, its weights cannot be had, or the file does not fit.
    """
    if name == MESHNET:
        return MeshNetEncoder(Path(mesh_net), device)
    import timm
    from timm.data import resolve_model_data_config

    if name.split(".")[0] not in timm.list_models():
        close = timm.list_models(f"*{name.split('.')[0][:12]}*")[:3]
        raise ValueError(f"embed.encoder: timm has no {name!r}; near it are {close or 'none'}")
    try:
        network = timm.create_model(name, pretrained=weights is None, num_classes=0)
        if weights is not None:
            from safetensors.torch import load_file

            network.load_state_dict(load_file(weights), strict=True)
    except Exception as error:
        where = f"embed.weights: {weights}" if weights else f"embed.encoder: {name}"
        first = str(error).splitlines()[0][:200]
        raise ValueError(
            f"{where}: weights cannot be loaded ({first}); name a local file in embed.weights"
        ) from None
    # Published weights have no file to hash here, so the tensors themselves are.
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(key.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    data = resolve_model_data_config(network)
    id = f"{name}-{digest.hexdigest()[:12]}-{VERSION}"
    mean, std = torch.tensor(data["mean"]), torch.tensor(data["std"])
    return Encoder(network, data["input_size"][-1], mean, std, id, device)
