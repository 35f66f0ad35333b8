"""The frozen image encoder: a photo to a vector, as the `embed` stage tables it and `predict` computes it.

`meshnet` is what the small mesh network reads, which needs no download. `clip` is the frozen tower of the full
PhysiqueFrame, from a file that `physique weights import` made. Any timm name takes their place, with weights from a
local safetensors file or, without one, from where timm publishes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model.files import file_hash
from model.images import letterbox

MESHNET, CLIP, RANDOM = "meshnet", "clip", "random"
VERSION = 2  # raise when the vectors of the same weights change


def mirrored(matrix: np.ndarray, width: int, pixels: int) -> np.ndarray:
    """The (2, 3) matrix flipped photo → flipped square, of photo → square; `width` and `pixels` are theirs, px."""
    out = matrix.copy()
    out[0, 2] = pixels - matrix[0, 2] - matrix[0, 0] * width
    return out


def _both(plain: np.ndarray, flipped: np.ndarray) -> Tensor:
    """Two (h, w, 3) uint8 → (2, 3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(np.stack([plain, flipped])).permute(0, 3, 1, 2).float() / 255


def standardised(looks: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] → ImageNet-normalised, as `physique_frame.normalise` makes it of bytes."""
    from model.physique_frame import MEAN, STD

    mean, std = (torch.tensor(values, device=looks.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (looks - mean) / std


class Followed(TorchFunctionMode):
    """Nothing computed inside is cut from the gradient.

    In training the mesh network does not learn from where its points make it look; what a pixel does to the vector goes
    that way, too (against differences the gradient is right with it, and wrong by a tenth to a third without).
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return args[0] if func is torch.Tensor.detach else func(*args, **(kwargs or {}))


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
        return self.differentiable(torch.from_numpy(squares).to(self.device).permute(0, 3, 1, 2).float() / 255).cpu()

    def differentiable(self, looks: Tensor) -> Tensor:
        """(B, 3, pixels, pixels) in [0, 1], on the encoder's device → (B, width) float32; gradients reach the pixels."""
        return self.network((looks - self.mean) / self.std).float()

    def looks(self, image: np.ndarray) -> tuple[Tensor, list[np.ndarray]]:
        """What the network sees of an (H, W, 3) uint8 photo: as it is and flipped.

        Returns:
            (2, 3, h, w) float32 in [0, 1], what `differentiable` takes, and for each the (2, 3) matrix px of the photo
            (of the flipped photo for the second) → its px.
        """
        seen, matrix = letterbox(image, self.pixels)
        return _both(seen, seen[:, ::-1]).to(self.device), [matrix, mirrored(matrix, image.shape[1], self.pixels)]

    def __call__(self, images: Sequence[np.ndarray], batch: int = 32) -> np.ndarray:
        """(H, W, 3) uint8 photos → (N, 2, width) float32: as it is, and flipped left to right."""
        out = np.zeros((len(images), 2, self.width), np.float32)
        for start in range(0, len(images), batch):
            squares = np.stack([letterbox(image, self.pixels)[0] for image in images[start : start + batch]])
            for flip, view in enumerate((squares, squares[:, :, ::-1])):
                out[start : start + batch, flip] = self.vectors(np.ascontiguousarray(view)).numpy()
        return out


def clip_id(weights: str | Path, squash: bool) -> str:
    """Name of what a ClipEncoder computes, without building it."""
    digest = RANDOM if weights == RANDOM else file_hash(Path(weights))[:12]
    return f"clip-{digest}-{VERSION}" + ("-squashed" if squash else "")


class ClipEncoder:
    """CLIP ViT-L/14 as the full PhysiqueFrame has it: 224-px squares, ImageNet's mean and deviation, 768 numbers.

    Same attributes and call as `Encoder`.
    """

    width = 768

    def __init__(self, weights: str | Path, device: str, squash: bool = False):
        from model.physique_frame import clip_tower

        self.squash, self.device = squash, device
        if weights == RANDOM:
            torch.manual_seed(0)
            self.tower = clip_tower()
        else:
            from safetensors.torch import load_file

            with torch.device("meta"):
                self.tower = clip_tower()
            self.tower.load_state_dict(load_file(weights), strict=True, assign=True)
            self.tower.requires_grad_(False)
        self.id = clip_id(weights, squash)
        self.tower = self.tower.to(device).eval()

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray], batch: int = 32) -> np.ndarray:
        """See `Encoder`."""
        from model.physique_frame import normalise
        from model.views import square

        out = np.zeros((len(images), 2, self.width), np.float32)
        for start in range(0, len(images), batch):
            squares = np.stack([square(image, self.squash)[0] for image in images[start : start + batch]])
            photos = torch.from_numpy(squares).to(self.device).permute(0, 3, 1, 2)
            with torch.autocast("cuda", torch.bfloat16, enabled=self.device.startswith("cuda")):
                for flip, view in enumerate((photos, photos.flip(-1))):
                    out[start : start + batch, flip] = self.tower(normalise(view)).float().cpu().numpy()
        return out

    def differentiable(self, looks: Tensor) -> Tensor:
        """See `Encoder`; (B, 3, 224, 224)."""
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.startswith("cuda")):
            return self.tower(standardised(looks)).float()

    def looks(self, image: np.ndarray) -> tuple[Tensor, list[np.ndarray]]:
        """See `Encoder`."""
        from model.views import square

        seen, matrix = square(image, self.squash)
        return _both(seen, seen[:, ::-1]).to(self.device), [matrix, mirrored(matrix, image.shape[1], seen.shape[1])]


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
        return self.net.read(self._crops(self._closer(images)))[1].cpu().numpy()

    def _crops(self, cut: list[tuple[np.ndarray, np.ndarray]]) -> Tensor:
        crops = torch.from_numpy(np.stack([crop for crop, _ in cut])).to(self.device)
        return crops.permute(0, 3, 1, 2).float() / 255

    @torch.inference_mode()
    def _closer(self, images: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The second look's crop (128, 96, 3) of each photo and its (2, 3) matrix photo px → crop px."""
        from model.detect import box_from_points
        from model.images import apply_affine, crop_person, invert_affine

        cut = []
        for image in images:  # framed so that the crop, which grows a box by a quarter, is the whole photo
            height, width = image.shape[:2]
            cut.append(crop_person(image, np.array([0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height])))
        first = self.net(self._crops(cut)).points.cpu().numpy()
        for i, (image, points) in enumerate(zip(images, first, strict=True)):
            limits = np.array([image.shape[1], image.shape[0]] * 2, np.float64)
            # whole pixels: rounding noise of a batch must not reach the second crop
            box = np.round(box_from_points(apply_affine(invert_affine(cut[i][1]), points))).clip(0, limits)
            if (box[2:] - box[:2]).min() >= 8:
                cut[i] = crop_person(image, box)
        return cut

    def differentiable(self, looks: Tensor) -> Tensor:
        """See `Encoder`; (B, 3, 128, 96) crops. Where to look is settled before (`looks`) and has no gradient."""
        with Followed():
            return self.net.read(looks)[1]

    def looks(self, image: np.ndarray) -> tuple[Tensor, list[np.ndarray]]:
        """See `Encoder`; the second look at either view."""
        cut = self._closer([image, np.ascontiguousarray(image[:, ::-1])])
        return self._crops(cut), [matrix for _, matrix in cut]


def load_encoder(
    name: str, weights: str | Path | None, mesh_net: str | Path, device: str = "cpu", squash: bool = False
) -> Encoder | ClipEncoder | MeshNetEncoder:
    """The encoder called `name`.

    Args:
        name: `meshnet`, `clip`, or a timm model name such as `vit_large_patch14_clip_quickgelu_224.openai`.
        weights: safetensors file of the tower or of a timm model; None takes timm's own published weights, and `random`
            (of `clip` only) none at all.
        mesh_net: folder of the small mesh network, for `meshnet`.
        squash: `clip` sees squeezed photos instead of letterboxed ones (docs/quirks.md).

    Raises:
        ValueError: `clip` without weights, timm knows no such name, its weights cannot be had, or the file does not fit.
    """
    if name == MESHNET:
        return MeshNetEncoder(Path(mesh_net), device)
    if name == CLIP:
        return _clip(weights, device, squash)
    return _of_timm(name, weights, device)


def _clip(weights: str | Path | None, device: str, squash: bool) -> ClipEncoder:
    if weights is None:
        raise ValueError(
            "embed.weights: null; encoder 'clip' needs the file that `physique weights import FILE` made of OpenAI's CLIP "
            "or of a PhysiqueFrame checkpoint, or 'random'"
        )
    try:
        return ClipEncoder(weights, device, squash)
    except Exception as error:
        first = str(error).splitlines()[0][:200]
        raise ValueError(f"embed.weights: {weights} is no CLIP tower of `physique weights import` ({first})") from None


def _of_timm(name: str, weights: str | Path | None, device: str) -> Encoder:
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
