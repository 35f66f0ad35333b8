"""Weights files of others, recognised and checked: PhysiqueFrame, CLIP's visual tower, Swin-V2-B, SMPLer-X.

    found = recognise(Path("ViT-L-14.pt"))     # kind "clip", tensors under timm's names, what was dropped and why
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from model.checkpoint import Unfilled
from model.compat import Compat
from model.official import current_names, frame_of, official_name, why_dropped
from model.physique_frame import PhysiqueFrame, clip_tower
from model.pose_graph import swin_backbone
from model.smpler_checkpoint import dropped_keys, fitted, is_smpler_x, size_of
from model.state_files import BadCheckpoint, read_state

SWIN, CLIP_PREFIXES = "pam.encoder_sample.", ("visual.", "vit.", "")


@dataclass
class Found:
    """What a file is.

    kind: `frame`, `clip`, `swin`, or `smpler_x_` and its size. tensors: under our names, of an SMPLer-X under its own.
    frame, unused: of a frame, with the
    numbers that nothing of ours reads. dropped: key → why it is not loaded.
    """

    kind: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    frame: PhysiqueFrame | None = None
    unused: dict[str, Tensor] = field(default_factory=dict)


def recognise(path: Path, compat: str | Compat = "fixed") -> Found:
    """Read a weights file.

    Raises:
        BadCheckpoint: it is none of these, damaged, not whole, or would have to run code.
    """
    state = current_names(read_state(path))
    if any(key.startswith(("pointmlp.", "pam.")) for key in state):
        frame, dropped, unused = frame_of(path, state, compat)
        return Found("frame", frame=frame, dropped=dropped, unused=unused)
    if is_smpler_x(state):
        size = size_of(path, state)
        return Found(f"smpler_x_{size}", tensors=fitted(path, state, size), dropped=dropped_keys(state))
    for prefix in CLIP_PREFIXES:
        if f"{prefix}class_embedding" in state and f"{prefix}conv1.weight" in state:
            return _clip(path, state, prefix)
    for prefix in ("encoder.", SWIN, ""):
        if f"{prefix}layers.0.blocks.0.attn.logit_scale" in state:
            return _swin(path, state, prefix)
    some = ", ".join(list(state)[:3])
    raise BadCheckpoint(
        f"{path}: neither a PhysiqueFrame nor a CLIP visual tower, a Swin-V2 or an SMPLer-X (its keys begin {some})"
    )


def _clip(path: Path, state: dict[str, Tensor], prefix: str) -> Found:
    with torch.device("meta"):
        tower = clip_tower()
    names = {official_name(f"clip.{ours}").removeprefix("vit."): ours for ours in tower.state_dict() if ours != "head.bias"}
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    dropped = {key: "of CLIP's text side" for key in state if not key.startswith(prefix)}
    found = _fitted(path, inside, names, tower, {})
    found["head.bias"] = torch.zeros(768)  # timm's; the official projection has none
    return Found("clip", tensors=found, dropped=dropped)


def _swin(path: Path, state: dict[str, Tensor], prefix: str) -> Found:
    with Unfilled():
        backbone = swin_backbone()
    names = {official_name(f"posture.backbone.{ours}").removeprefix(SWIN): ours for ours in backbone.state_dict()}
    dropped, inside = {}, {}
    for key, value in state.items():
        short = key.removeprefix(prefix)
        why = why_dropped(f"{SWIN}{short}")
        if not why and (not key.startswith(prefix) or short.startswith(("mask_token", "decoder."))):
            why = "of the backbone's own pre-training"
        if not why and short.startswith("upsample."):
            why = "of a PhysiqueFrame, not of the backbone"
        if why:
            dropped[key] = why
        else:
            inside[short] = value
    return Found("swin", tensors=_fitted(path, inside, names, backbone, dropped), dropped=dropped)


def _fitted(
    path: Path, state: dict[str, Tensor], names: dict[str, str], module: nn.Module, dropped: dict[str, str]
) -> dict[str, Tensor]:
    """Tensors under our names and in our shapes, float32. Raises BadCheckpoint for whatever does not fit."""
    missing, unknown = sorted(set(names) - set(state)), sorted(set(state) - set(names))
    if missing or unknown:
        said = [f"{what}: {', '.join(keys[:5])}" for what, keys in (("missing", missing), ("unknown", unknown)) if keys]
        raise BadCheckpoint(f"{path}: not the expected network; {'; '.join(said)}")
    shapes, found = module.state_dict(), {}
    for key, ours in names.items():
        value = state[key].T if ours == "head.weight" else state[key]
        want = tuple(shapes[ours].shape)
        if tuple(size for size in value.shape if size != 1) != tuple(size for size in want if size != 1):
            raise BadCheckpoint(f"{path}: {key} is {tuple(state[key].shape)}, expected what fits {want}")
        if not bool(torch.isfinite(value).all()):
            raise BadCheckpoint(f"{path}: {key} holds numbers that are not finite")
        found[ours] = value.float().reshape(want).contiguous()
    return found
