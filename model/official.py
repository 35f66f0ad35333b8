"""Official PhysiqueFrame checkpoints: every one of their 1,131 keys, to ours and back.

A checkpoint is a pickle of somebody else. It is read with `weights_only`, so that nothing in it is executed; every key
and shape is checked; the answer is a whole model or a `BadCheckpoint` that says what is wrong.

What is not loaded, and why, stands in `DROPPED`; the numbers are kept beside an imported file all the same, so that
exporting gives back what came in, to the bit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from model.checkpoint import Unfilled
from model.compat import Compat
from model.physique_frame import FrameConfig, PhysiqueFrame
from model.state_files import BadCheckpoint, read_state

OLDER = (("pam_shape_classifier.", "health_classifier."), ("pam_pose_classifier.", "posture_classifier."),
         ("pam_classifier.", "appearance_classifier."))  # fmt: skip
DROPPED = (
    (r"\.(relative_coords_table|relative_position_index|attn_mask)$", "a constant, computed anew"),
    (r"^pam\.encoder_sample\.head\.", "ImageNet classifier of the backbone, never called"),
    (r"^pam\.keypoint_head\.transformer\.encoder\.", "encoder of the pose head, its call is commented out"),
    (r"^pam\.keypoint_head\.kpt_branch\.2\.", "moves points that nothing reads"),
)


@dataclass(frozen=True)
class Official:
    """One key of the official layout: its shape, our name of it, or the reason why it is dropped."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    ours: str = ""
    dropped: str = ""


def renamed(key: str, renames: tuple) -> str:
    for pattern, name in renames:
        key = re.sub(pattern, name, key)
    return key


def why_dropped(key: str) -> str:
    return next((reason for pattern, reason in DROPPED if re.search(pattern, key)), "")


def full_frame(compat: str | Compat = "fixed", clip: bool = True) -> PhysiqueFrame:
    """The paper's network as released weights fit it, without numbers yet."""
    compat = Compat.of(compat)
    config = FrameConfig.full(survey=False, nobody=False, camera=True, mesh_search=compat.distances)
    with Unfilled():
        frame = PhysiqueFrame(config, compat)
    if clip:
        from dataclasses import replace

        from model.physique_frame import clip_tower

        with torch.device("meta"):  # 304 M random numbers would take longer than reading the file
            frame.clip = clip_tower()
        frame.config = replace(config, clip=True)
    return frame


def layout(frame: PhysiqueFrame) -> dict[str, Official]:
    """The official layout: official key → what becomes of it. `frame`: a full one."""
    state = frame.state_dict()
    found = {name: Official(shape, dtype, ours=ours) for name, shape, dtype, ours in _loaded(state)}
    return found | {name: Official(shape, dtype, dropped=why_dropped(name)) for name, shape, dtype in _unused()}


def _loaded(state: dict[str, Tensor]):
    for ours, tensor in state.items():
        name, shape = official_name(ours), tuple(tensor.shape)
        if ours == "clip.head.bias":  # timm's; the official projection has none
            continue
        if re.search(r"\.affine_(alpha|beta)$", name):
            shape = (1, 1, 1, *shape)
        elif (name.startswith("pointmlp.") and name.endswith(".0.weight")) or name.endswith("ffn1.conv.weight"):
            shape = (*shape, 1)  # pointwise convolutions
        elif name == "pam.keypoint_head.input_proj.weight":
            shape = (*shape, 1, 1)
        elif name == "vit.proj":
            shape = shape[::-1]
        elif name == "vit.class_embedding":
            shape = shape[-1:]
        elif name == "vit.positional_embedding":
            shape = shape[-2:]
        yield name, shape, tensor.dtype, ours


BACK = (
    (r"^clip\.", "vit."),
    (r"^mesh\.embedding\.", "pointmlp.embedding.net."),
    (r"^mesh\.stages\.(\d)\.affine", r"pointmlp.local_grouper_list.\1.affine"),
    (r"^mesh\.stages\.(\d)\.transfer\.", r"pointmlp.pre_blocks_list.\1.transfer.net."),
    (r"^mesh\.stages\.(\d)\.(pre|pos)\.(\d)\.", r"pointmlp.\2_blocks_list.\1.operation.\3."),
    (r"^posture\.head\.upsample\.", "pam.encoder_sample.upsample."),
    (r"^posture\.backbone\.", "pam.encoder_sample."),
    (r"^posture\.head\.proposals\.", "pam.keypoint_head.transformer.proposal_generator."),
    (r"^posture\.head\.ref_point_head\.0\.", "pam.keypoint_head.transformer.decoder.ref_point_head.layers.0."),
    (r"^posture\.head\.ref_point_head\.2\.", "pam.keypoint_head.transformer.decoder.ref_point_head.layers.1."),
    (r"^posture\.head\.(layers|norm)\.", r"pam.keypoint_head.transformer.decoder.\1."),
    (r"^posture\.head\.kpt_branch\.(\d)\.", r"pam.keypoint_head.kpt_branch.\1.mlp."),
    (r"^posture\.head\.", "pam.keypoint_head."),
    (r"\.ffn1\.(weight|bias)$", r".ffn1.conv.\1"),
    (r"^classifiers\.(\w+)\.", r"\1_classifier."),
)
CLIP_BACK = (
    (r"^patch_embed\.proj\.weight$", "conv1.weight"),
    (r"^cls_token$", "class_embedding"),
    (r"^pos_embed$", "positional_embedding"),
    (r"^norm_pre\.", "ln_pre."),
    (r"^norm\.", "ln_post."),
    (r"^head\.weight$", "proj"),
    (r"^blocks\.(\d+)\.", r"transformer.resblocks.\1."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attn\.qkv\.(weight|bias)$", r".attn.in_proj_\1"),
    (r"\.attn\.proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)


def official_name(ours: str) -> str:
    name = renamed(ours, BACK)
    if name.startswith("vit."):
        return "vit." + renamed(name.removeprefix("vit."), CLIP_BACK)
    if name.startswith("pam.encoder_sample.layers."):
        return re.sub(r"layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name)
    return name


def _unused():
    """Keys of the official layout that no module of ours has: name, shape, dtype."""
    swin, head = "pam.encoder_sample.", "pam.keypoint_head."
    windows, depths = ((14, True), (14, True), (14, False), (7, False)), (2, 2, 18, 2)
    resolution = (56, 28, 14, 7)
    for i, ((window, shifts), depth) in enumerate(zip(windows, depths)):
        for j in range(depth):
            block = f"{swin}layers.{i}.blocks.{j}."
            if shifts and j % 2:
                yield f"{block}attn_mask", ((resolution[i] // window) ** 2, window**2, window**2), torch.float32
            side = 2 * window - 1
            yield f"{block}attn.relative_coords_table", (1, side, side, 2), torch.float32
            yield f"{block}attn.relative_position_index", (window**2, window**2), torch.int64
    yield f"{swin}head.weight", (1000, 1024), torch.float32
    yield f"{swin}head.bias", (1000,), torch.float32
    for i in range(3):
        layer = f"{head}transformer.encoder.layers.{i}."
        for name, shape in (
            ("self_attn.in_proj_weight", (768, 256)), ("self_attn.in_proj_bias", (768,)),
            ("self_attn.out_proj.weight", (256, 256)), ("self_attn.out_proj.bias", (256,)),
            ("linear1.weight", (1024, 256)), ("linear1.bias", (1024,)),
            ("linear2.weight", (256, 1024)), ("linear2.bias", (256,)),
            ("norm1.weight", (256,)), ("norm1.bias", (256,)), ("norm2.weight", (256,)), ("norm2.bias", (256,)),
        ):  # fmt: skip
            yield layer + name, shape, torch.float32
    for place, width in ((0, 256), (2, 256), (4, 256), (6, 2)):
        yield f"{head}kpt_branch.2.mlp.{place}.weight", (width, 256), torch.float32
        yield f"{head}kpt_branch.2.mlp.{place}.bias", (width,), torch.float32


def constants(frame: PhysiqueFrame) -> dict[str, Tensor]:
    """The constants of the Swin backbone under their official names: what a checkpoint should hold there."""
    found = {}
    for name, buffer in frame.posture.named_buffers():
        key = official_name(f"posture.{name}")
        if why_dropped(key):
            found[key] = buffer
    return found


def current_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Older checkpoints call their heads `pam_*`; newer ones by what they score. Where both are there, nothing is lost."""
    names = {}
    for key, value in state.items():
        newer = next((new + key.removeprefix(old) for old, new in OLDER if key.startswith(old)), key)
        names[key if newer in state else newer] = value
    return names


def check_layout(path: Path, state: dict[str, Tensor], wanted: dict[str, Official]) -> None:
    """Raises BadCheckpoint with every key that is missing, unknown or misshapen (the first five of each)."""
    wrong = []
    missing, unknown = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    misshapen = [
        f"{key} is {tuple(state[key].shape)}, expected {known.shape}"
        for key, known in wanted.items()
        if key in state and tuple(state[key].shape) != known.shape
    ]
    for said, keys in (("missing", missing), ("unknown", unknown), ("misshapen", misshapen)):
        if keys:
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            wrong.append(f"{said}: {', '.join(keys[:5])}{more}")
    if wrong:
        raise BadCheckpoint(f"{path}: not a whole PhysiqueFrame checkpoint; {'; '.join(wrong)}")
    for key, value in state.items():
        if value.is_complex() or value.dtype.is_floating_point != wanted[key].dtype.is_floating_point:
            raise BadCheckpoint(f"{path}: {key} holds {value.dtype}, expected {wanted[key].dtype}")
        if value.dtype.is_floating_point and not bool(torch.isfinite(value.float()).all()):
            raise BadCheckpoint(f"{path}: {key} holds numbers that are not finite")


def to_ours(state: dict[str, Tensor], wanted: dict[str, Official], frame: PhysiqueFrame) -> dict[str, Tensor]:
    """Official tensors under our names and in our shapes; clip.head.bias, which has no official one, is zero."""
    mine = {key: tuple(value.shape) for key, value in frame.state_dict().items()}
    found = {}
    for key, known in wanted.items():
        if known.ours:
            value = state[key].T if key == "vit.proj" else state[key]
            dtype = torch.float32 if value.dtype.is_floating_point else known.dtype
            found[known.ours] = value.to(dtype).reshape(mine[known.ours]).contiguous()
    if "clip.head.bias" in mine:
        found["clip.head.bias"] = torch.zeros(mine["clip.head.bias"])
    return found


def to_official(frame: PhysiqueFrame, unused: dict[str, Tensor]) -> dict[str, Tensor]:
    """A full frame with its CLIP tower in the official layout, all 1,131 keys.

    Args:
        unused: numbers of dropped keys, where an import has kept them; they influence nothing, and are zero else.
    """
    state, constant, found = frame.state_dict(), constants(frame), {}
    for key, known in layout(frame).items():
        if known.ours:
            value = state[known.ours]
            value = value.T if key == "vit.proj" else value
            found[key] = value.detach().cpu().reshape(known.shape).contiguous()
        elif key in constant:
            found[key] = constant[key].detach().cpu().reshape(known.shape).to(known.dtype).contiguous()
        else:
            found[key] = unused.get(key, torch.zeros(known.shape, dtype=known.dtype))
    return found


def frame_of(
    path: Path, state: dict[str, Tensor], compat: str | Compat = "fixed"
) -> tuple[PhysiqueFrame, dict[str, str], dict[str, Tensor]]:
    """A frame in eval mode of an official state dict; why each dropped key was; the numbers of those that are no constants.

    Raises:
        BadCheckpoint: see `check_layout`; or a constant is another network's.
    """
    frame = full_frame(compat)
    wanted = layout(frame)
    check_layout(path, state, wanted)
    constant = constants(frame)
    for key, value in constant.items():
        if not torch.allclose(state[key].to(value.dtype), value.cpu().reshape(wanted[key].shape), atol=1e-5):
            raise BadCheckpoint(f"{path}: {key} is not the constant of a Swin-V2-B of 224 px and window 14")
    frame.load_state_dict(to_ours(state, wanted, frame), strict=True, assign=True)
    dropped = {key: known.dropped for key, known in wanted.items() if known.dropped}
    unused = {key: state[key].contiguous() for key in dropped if key not in constant}
    return finished(frame), dropped, unused


def read_official(path: Path, compat: str | Compat = "fixed") -> tuple[PhysiqueFrame, dict[str, Tensor]]:
    """An official checkpoint as a frame in eval mode, and the numbers of the keys that were dropped."""
    frame, _, unused = frame_of(path, current_names(read_state(path)), compat)
    return frame, unused


def finished(frame: nn.Module) -> PhysiqueFrame:
    assert isinstance(frame, PhysiqueFrame)
    return frame.eval().requires_grad_(False)


def read_frame(path: Path, compat: str | Compat = "fixed") -> PhysiqueFrame:
    """An official checkpoint as a frame in eval mode."""
    return read_official(path, compat)[0]
