"""Official SMPLer-X checkpoints, key by key: their names, their shapes, nothing missing, nothing left over (spec §9)."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from model.state_files import BadCheckpoint, read_state

RENAMED = {"backbone.": "encoder.", "body_rotation_net.": "body_regressor.", "hand_rotation_net.": "hand_regressor."}
"""Names that older checkpoints use."""
TOKENS, POSITIONS, NORM = "encoder.task_tokens", "encoder.pos_embed", "encoder.last_norm."


def current_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the names of the newest checkpoints."""
    old = re.compile("^(" + "|".join(map(re.escape, RENAMED)) + ")")
    return {old.sub(lambda found: RENAMED[found[1]], key): value for key, value in state.items()}


def is_smpler_x(state: dict[str, Tensor]) -> bool:
    """Whether a state dict looks like one of SMPLer-X, of whatever size."""
    names = current_names(state)
    return TOKENS in names or "body_position_net.conv.0.weight" in names


@cache
def layout(size: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Every key of an official checkpoint with its shape and type."""
    from model.smpler_x import TASK_TOKENS, SMPLerX, make_encoder

    with torch.device("meta"):
        encoder, heads = make_encoder(size), SMPLerX.heads(size)
    width = encoder.embed_dim
    official = {TOKENS: ((1, TASK_TOKENS, width), torch.float32)}
    official[POSITIONS] = ((1, 1 + encoder.patch_embed.num_patches, width), torch.float32)
    for key, value in encoder.state_dict().items():
        if key not in ("reg_token", "pos_embed"):
            official[_official(key)] = (tuple(value.shape), value.dtype)
    for name, module in heads.items():
        official |= {f"{name}.{k}": (tuple(v.shape), v.dtype) for k, v in module.state_dict().items()}
    return official


def _official(key: str) -> str:
    return NORM + key.removeprefix("norm.") if key.startswith("norm.") else f"encoder.{key}"


def size_of(path: Path, state: dict[str, Tensor]) -> str:
    """Which size a checkpoint is, by the width and depth of its encoder. Raises BadCheckpoint if it is none."""
    from model.smpler_x import SIZES

    names = current_names(state)
    blocks = {int(found[1]) for key in names if (found := re.match(r"encoder\.blocks\.(\d+)\.", key))}
    width = names[TOKENS].shape[-1] if TOKENS in names and names[TOKENS].ndim else None
    for size, (wide, depth, _) in SIZES.items():
        if width == wide and len(blocks) == depth:
            return size
    sizes = ", ".join(f"{size}: {wide}, {depth}" for size, (wide, depth, _) in SIZES.items())
    raise BadCheckpoint(f"{path}: an SMPLer-X of width {width} and depth {len(blocks)}; there are {sizes}")


def dropped_keys(state: dict[str, Tensor]) -> dict[str, str]:
    """Keys that are not taken, and why: the training code leaves the licensed body out, others may not have."""
    return {key: "of the body model, which has a file of its own" for key in state if "smplx_layer." in key}


def fitted(path: Path, state: dict[str, Tensor], size: str) -> dict[str, Tensor]:
    """A state dict of a checkpoint under official names, float32, checked. BadCheckpoint names every kind of fault."""
    want, state = layout(size), current_names(state)
    state = {key: value for key, value in state.items() if key not in dropped_keys(state)}
    missing, unknown = sorted(set(want) - set(state)), sorted(set(state) - set(want))
    said = [f"{what}: {', '.join(keys[:5])}" + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            for what, keys in (("missing", missing), ("unexpected", unknown)) if keys]  # fmt: skip
    if said:
        raise BadCheckpoint(f"{path}: not an SMPLer-X of size {size}; {'; '.join(said)}")
    found = {}
    for key, (shape, kind) in want.items():
        value = state[key]
        if tuple(value.shape) != shape:
            raise BadCheckpoint(f"{path}: {key} is {tuple(value.shape)}, expected {shape} (size {size})")
        value = value.to(kind)
        if kind.is_floating_point and not bool(torch.isfinite(value).all()):
            raise BadCheckpoint(f"{path}: {key} holds numbers that are not finite")
        found[key] = value
    return found


def to_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official names → those of `SMPLerX`, whose encoder is timm's: row 0 of the positions is of every patch."""
    ours = {}
    for key, value in state.items():
        if key == TOKENS:
            ours["encoder.reg_token"] = value
        elif key == POSITIONS:
            ours["encoder.pos_embed"] = value[:, 1:] + value[:, :1]
        elif key.startswith(NORM):
            ours["encoder.norm." + key.removeprefix(NORM)] = value
        else:
            ours[key] = value
    return ours


def read_smpler_x(path: Path, size: str) -> dict[str, Tensor]:
    """The `state_dict` of `SMPLerX` out of an official checkpoint or an imported file. Raises BadCheckpoint."""
    return to_ours(fitted(path, read_state(path), size))

