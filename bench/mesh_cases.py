"""Photos, weights and a body model for bench/mesh.py, where there are no real ones."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import torch

from model.detect import Box
from model.images import decode
from model.smpler_checkpoint import layout

ROOT = Path(__file__).resolve().parent.parent


class Middle:
    """A detector that costs nothing: the person fills the middle of the photo. For photos that show nobody."""

    settings = "middle"

    def __call__(self, image: np.ndarray) -> list[Box]:
        height, width = image.shape[:2]
        return [Box(0.2 * width, 0.05 * height, 0.8 * width, 0.95 * height, 1.0)]


def made_up_weights(size: str, path: Path) -> Path:
    """A checkpoint of random numbers that give finite answers."""
    random, state = torch.Generator().manual_seed(0), {}
    for key, (shape, kind) in layout(size).items():
        state[key] = torch.randn(shape, generator=random).mul_(0.02).to(kind)
        if key.endswith("running_var") or ("norm" in key and key.endswith("weight")):
            state[key] = torch.ones(shape)
    torch.save({"network": state}, path)
    return path


def made_up_body(path: Path) -> Path:
    """The arrays of an SMPL-X file, random but for the joints' tree, without pose blend shapes, as the stand-in's."""
    random, vertices, faces, joints = np.random.default_rng(0), 10475, 20908, 55
    parents = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15]
    for wrist, first in ((20, 25), (21, 40)):
        parents += [parent for finger in range(5) for parent in (wrist, first + 3 * finger, first + 3 * finger + 1)]
    owner = np.arange(vertices) % joints
    arrays = {
        "v_template": random.normal(0, 0.3, (vertices, 3)),
        "f": random.integers(0, vertices, (faces, 3)).astype(np.uint32),
        "shapedirs": random.normal(0, 0.01, (vertices, 3, 20)),
        "posedirs": np.zeros((vertices, 3, 486)),
        "weights": np.eye(joints)[owner],
        "J_regressor": (owner[None] == np.arange(joints)[:, None]) / (vertices / joints),
        "kintree_table": np.array([parents, range(joints)]).astype(np.uint32),
        **{f"hands_components{side}": np.eye(45) for side in "lr"},
        **{f"hands_mean{side}": np.zeros(45) for side in "lr"},
    }
    for name, shape in (("lmk", (51,)), ("dynamic_lmk", (79, 17))):
        arrays[f"{name}_faces_idx"] = random.integers(0, faces, shape)
        arrays[f"{name}_bary_coords"] = np.full((*shape, 3), 1 / 3)
    np.savez(path, **arrays)
    return path


def photos_of(folder: Path | None, count: int, height: int) -> tuple[list[bytes], bool]:
    """JPEG files and whether somebody is in them: `folder`'s, else mannequins (`dvc repro mannequins`) brought to `height`
    px, else blobs."""
    from PIL import Image

    if folder is not None:
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        files = [path.read_bytes() for path in found]
        return [files[k % len(files)] for k in range(count)], True
    random, out, pictures = np.random.default_rng(0), [], []
    for path in sorted((ROOT / "data/mannequins/photos").glob("*"))[:count]:
        with contextlib.suppress(ValueError):  # some are broken on purpose
            pictures.append(decode(path.read_bytes()))
    somebody = bool(pictures)
    pictures = pictures or [Image.fromarray(random.integers(0, 255, (64, 48, 3), np.uint8))]
    for k in range(count):
        picture = pictures[k % len(pictures)]
        wide = round(height * picture.width / picture.height)
        grain = random.normal(0, 4, (height, wide, 1))  # without it a photo is decoded quicker than any real one
        large = np.asarray(picture.resize((wide, height), Image.Resampling.BICUBIC)) + grain
        buffer = io.BytesIO()
        Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        out.append(buffer.getvalue())
    return out, somebody
