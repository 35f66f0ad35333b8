"""SMPLer-X: a person's crop → the whole SMPL-X body, as PhysiqueFrame uses it (Cai et al., NeurIPS 2023).

    model = SMPLerX.from_checkpoint("smpler_x_l32.pth.tar", "l32", "SMPLX_NEUTRAL.npz")
    model(patches)                        # (B, 3, 512, 384) in [0, 1] → Bodies, everything there is
    model.rows(halves)                    # (B, 3, 256, 192): what the mesh table holds, and nothing else computed

Notable:
- the network looks at every second pixel of the crop, so whoever cuts crops can cut them at half the size;
- `rows` skips what cannot change a row: the boxes, and the hands where the body model's eyes do not hang on them
  (pose blend shapes of the file say so), a third of the arithmetic of s32 and a twentieth of h32;
- right for every batch size (the reference's cross product runs along the batch when that is 3).

    python -m pytest tests/model/test_smpler_x.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.body import POINTS15, Body, load_body
from model.smpler_heads import (
    BODY_JOINTS,
    FACE_GROWTH,
    GRID,
    HAND_GROWTH,
    HAND_JOINTS,
    BodyRegressor,
    BoxNet,
    FaceRegressor,
    HandRegressor,
    HandRoi,
    PositionNet,
    restore_box,
)
from model.smpler_rotations import sixd_to_axis_angle

SIZES = {"s32": (384, 12, 12), "b32": (768, 12, 12), "l32": (1024, 24, 16), "h32": (1280, 32, 16)}
"""Width, depth and heads of the encoder."""
FOCAL, PATCH, HALF = 5000.0, (384, 512), (192, 256)
"""Assumed focal length, px of HALF; width and height of the crop, and of what the network sees of it."""
CAMERA_DEPTH = (FOCAL * FOCAL * 2.5 * 2.5 / (HALF[0] * HALF[1])) ** 0.5
"""Metres from the camera at which a body of 2.5 m fills the crop: the farthest the network can say."""
UNSEEN = 1e-4
"""Metres: what the hands can move the eyes at most before they have to be read for a row; a twentieth of a px."""
TASK_TOKENS = 31
SHAPE, CAMERA, EXPRESSION, JAW, BODY = 0, 1, 2, 3, slice(6, 31)
"""Places of the task tokens; 4 and 5, of the hands, are read by no head."""

JOINTS137 = (
    *(0, 1, 2, 4, 5, 7, 8, 12, 16, 17, 18, 19, 20, 21, 60, 61, 62, 63, 64, 65, 59, 58, 57, 56, 55),
    *(37, 38, 39, 66, 25, 26, 27, 67, 28, 29, 30, 68, 34, 35, 36, 69, 31, 32, 33, 70),
    *(52, 53, 54, 71, 40, 41, 42, 72, 43, 44, 45, 73, 49, 50, 51, 74, 46, 47, 48, 75),
    *(22, 15, 57, 56, *range(76, 144)),
)
"""Body 25, left hand 20, right hand 20, face 72, as indices into smplx's 144 joints (spec §6)."""
LEFT, RIGHT, FACE = slice(25, 45), slice(45, 65), slice(65, 137)
NECK, LEFT_WRIST, RIGHT_WRIST = 7, 12, 13
EYES = (22, 23)


@dataclass
class Bodies:
    """B people. Axis-angle in radians; the crop is 384×512 px; `cells` are the encoder's 12×16 (32 px of the crop).

    Camera axes: x right, y down, z away. A body p is seen at 5000·(p+camera).xy/(p+camera).z + (96, 128) px of the crop
    at half its size.
    """

    root: Tensor
    """(B, 3) turn of the pelvis, from the y-up model into the camera."""
    body_pose: Tensor
    """(B, 63) 21 joints in SMPL-X's order."""
    left_hand: Tensor
    """(B, 45) 15 joints: index, middle, pinky, ring, thumb; the model's mean hand is added to it."""
    right_hand: Tensor
    """(B, 45) likewise."""
    jaw: Tensor
    """(B, 3)."""
    betas: Tensor
    """(B, 10) shape."""
    expression: Tensor
    """(B, 10)."""
    camera: Tensor
    """(B, 3) metres from the camera to the model's origin."""
    left_box: Tensor
    """(B, 4) x1 y1 x2 y2 of the left hand, px of the crop."""
    right_box: Tensor
    """(B, 4)."""
    face_box: Tensor
    """(B, 4)."""
    joints: Tensor
    """(B, 137, 3) metres from the pelvis: body 25, left hand 20, right hand 20, face 72 (JOINTS137)."""
    joints_local: Tensor
    """(B, 137, 3) the same with hands from their wrist and the face from the neck."""
    seen: Tensor
    """(B, 137, 2) joints as the camera sees them, cells."""
    found: Tensor
    """(B, 65, 3) body and hands as the heat maps place them: x, y in cells of the body, z in 16 depths."""
    mesh: Tensor
    """(B, 10475, 3) posed, metres from the camera."""
    mesh_point: Tensor
    """(B, 10475, 3) what PhysiqueFrame reads: minus (all rotations zero, hands at their mean, + camera), metres."""
    volume: Tensor
    """(B,) m³ of that mesh, float64."""
    points: Tensor
    """(B, 15, 2) graph points (pelvis … right wrist, middle of the eyes), px of the crop."""


class Rows(NamedTuple):
    """What the mesh table holds of B people: betas (B, 10), pose (B, 66), camera (B, 3), vertices (B, 10475, 3) in zero
    pose without camera shift, points (B, 15, 2) px of the crop, volume (B,). float32."""

    betas: Tensor
    pose: Tensor
    camera: Tensor
    vertices: Tensor
    points: Tensor
    volume: Tensor


class Read(NamedTuple):
    """What the heads of body and face say: features (B, C, 16, 12), heat maps, joints (B, 25, 3), and numbers."""

    features: Tensor
    heat: Tensor
    joints: Tensor
    root: Tensor
    body_pose: Tensor
    betas: Tensor
    camera: Tensor
    expression: Tensor
    jaw: Tensor


def make_encoder(size: str) -> nn.Module:
    """ViTPose's ViT with 31 task tokens, by timm. Raises ValueError for an unknown size."""
    from timm.models.vision_transformer import VisionTransformer

    if size not in SIZES:
        raise ValueError(f"SMPLer-X of size {size!r}: there are {', '.join(SIZES)}")
    width, depth, heads = SIZES[size]
    encoder = VisionTransformer(
        img_size=HALF[::-1],
        patch_size=16,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        class_token=False,
        reg_tokens=TASK_TOKENS,
        no_embed_class=True,
        num_classes=0,
        global_pool="",
        weight_init="skip",
        norm_layer=lambda dim, **kwargs: nn.LayerNorm(dim, eps=1e-6),
    )
    encoder.patch_embed.proj.padding = (2, 2)
    return encoder


class SMPLerX(nn.Module):
    """The network with its body model; eval mode, no gradients."""

    def __init__(self, size: str, body: Body):
        super().__init__()
        self.size = size
        self.encoder = make_encoder(size)
        for name, head in self.heads(size).items():
            setattr(self, name, head)
        object.__setattr__(self, "body", body)  # of the licensed file: neither in state_dict nor in checkpoints
        pushed = body.layer.posedirs.view(54, 9, -1, 3)[24:, :, body.eyes]  # by the 30 joints of the hands
        self.hands_move_eyes = bool(2 * pushed.abs().sum((0, 1)).max() > UNSEEN)  # an entry of a rotation moves by 2

    @staticmethod
    def heads(size: str) -> dict[str, nn.Module]:
        """All but the encoder, by the checkpoints' names."""
        width = SIZES[size][0]
        return {
            "body_position_net": PositionNet(width, BODY_JOINTS),
            "body_regressor": BodyRegressor(width),
            "box_net": BoxNet(width),
            "hand_roi_net": HandRoi(width),
            "hand_position_net": PositionNet(width, HAND_JOINTS),
            "hand_regressor": HandRegressor(width),
            "face_regressor": FaceRegressor(width),
        }

    @classmethod
    def from_checkpoint(cls, path: str | Path, size: str, body_model: str | Path, device: str = "cpu") -> SMPLerX:
        """An official `smpler_x_<size>.pth.tar`, or a file of `physique weights import`, every key of it.

        Raises:
            BadCheckpoint: a key is missing, unexpected, misshapen or not finite; the message names it. Nothing in the
                file is executed.
            FileNotFoundError, ValueError: the body model.
        """
        from model.checkpoint import Unfilled
        from model.smpler_checkpoint import read_smpler_x

        body = load_body(body_model)
        with Unfilled():
            model = cls(size, body)
        model.load_state_dict(read_smpler_x(Path(path), size), strict=True, assign=True)
        return model.eval().requires_grad_(False).to(device)

    def quick(self, kind: torch.dtype = torch.float32) -> SMPLerX:
        """The same network for answering only: batch norms folded into what comes before them, and encoder and
        convolutions in `kind`; the regressors, soft-argmax and the body stay float32."""
        for stack in (self.box_net.deconv, self.hand_roi_net.deconv, self.hand_regressor.hand_conv):
            for k, layer in enumerate(stack):
                if isinstance(layer, nn.BatchNorm2d):
                    before = stack[k - 1]
                    transposed = isinstance(before, nn.ConvTranspose2d)
                    stack[k - 1], stack[k] = fuse_conv_bn_eval(before, layer, transposed), nn.Identity()
        wide = (self.box_net.deconv, self.box_net.bbox_center, self.hand_roi_net, self.hand_regressor.hand_conv)
        for part in (self.encoder, self.body_position_net, self.hand_position_net, *wide):
            part.to(kind)
        return self

    def _apply(self, fn, recurse=True):
        self.body._apply(fn)
        return super()._apply(fn, recurse)

    @torch.inference_mode()
    def forward(self, patches: Tensor) -> Bodies:
        """(B, 3, 512, 384) RGB in [0, 1] → everything that is known of the people in it."""
        if patches.ndim != 4 or tuple(patches.shape[1:]) != (3, PATCH[1], PATCH[0]):
            raise ValueError(f"patches: {tuple(patches.shape)}, expected (B, 3, {PATCH[1]}, {PATCH[0]})")
        read = self.read(patches[:, :, ::2, ::2])
        boxes, hand_joints, left, right = self._hands(read)
        pose = self._pose(read, left, right)
        camera = camera_shift(read.camera)
        vertices, joints = self.body.posed(read.betas, pose, read.expression)
        joints = joints[:, list(JOINTS137)]
        seen = project(joints, camera)
        still = self.body.zero_pose(read.betas, read.expression) + camera[:, None]
        joints = joints - joints[:, :1]
        local = joints.clone()
        for part, origin in ((LEFT, LEFT_WRIST), (RIGHT, RIGHT_WRIST), (FACE, NECK)):
            local[:, part] -= joints[:, origin, None]
        left_box, right_box, face_box = (2 * box for box in boxes)
        return Bodies(
            root=pose[:, :3],
            body_pose=pose[:, 3:66],
            left_hand=left,
            right_hand=right,
            jaw=pose[:, 66:69],
            betas=read.betas,
            expression=read.expression,
            camera=camera,
            left_box=left_box,
            right_box=right_box,
            face_box=face_box,
            joints=joints,
            joints_local=local,
            seen=seen,
            found=torch.cat([read.joints, hand_joints], 1),
            mesh=vertices + camera[:, None],
            mesh_point=-still,
            volume=self.body.volume(still),
            points=graph_points(seen),
        )

    @torch.inference_mode()
    def rows(self, halves: Tensor) -> Rows:
        """(B, 3, 256, 192) RGB in [0, 1], every second pixel of the crop → what the mesh table holds."""
        if halves.ndim != 4 or tuple(halves.shape[1:]) != (3, HALF[1], HALF[0]):
            raise ValueError(f"halves: {tuple(halves.shape)}, expected (B, 3, {HALF[1]}, {HALF[0]})")
        read = self.read(halves)
        hands = self._hands(read)[2:] if self.hands_move_eyes else ()
        pose = self._pose(read, *hands)
        camera = camera_shift(read.camera)
        vertices = self.body.zero_pose(read.betas, read.expression)
        points = graph_points(project(self.body.landmarks(read.betas, pose, read.expression), camera), eyes=(14, 15))
        return Rows(read.betas, pose[:, :66], camera, vertices, points, self.body.volume(vertices))

    def read(self, halves: Tensor) -> Read:
        """(B, 3, 256, 192) → what the encoder and the heads of body and face say."""
        kind = self.encoder.patch_embed.proj.weight.dtype
        seen = self.encoder.forward_features(halves.to(kind))
        tokens, patches = seen[:, :TASK_TOKENS], seen[:, TASK_TOKENS:]
        features = patches.transpose(1, 2).unflatten(2, GRID)
        heat, joints = self.body_position_net(features)
        tokens = tokens.float()
        root, body_pose, betas, camera = self.body_regressor(tokens[:, BODY], joints, tokens[:, SHAPE], tokens[:, CAMERA])
        expression, jaw = self.face_regressor(tokens[:, EXPRESSION], tokens[:, JAW])
        return Read(features, heat, joints, root, body_pose, betas, camera, expression, jaw)

    def _hands(self, read: Read) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor, Tensor]:
        """Boxes of left hand, right hand and face, each (B, 4) px of the 192×256 crop; joints (B, 40, 3) in cells of the
        body; poses of left and right hand (B, 45)."""
        people = len(read.root)
        centre, size = self.box_net(read.features, read.heat)
        growths = (HAND_GROWTH, HAND_GROWTH, FACE_GROWTH)
        boxes = tuple(restore_box(centre[:, k], size[:, k], growth) for k, growth in enumerate(growths))
        features = self.hand_roi_net(read.features, boxes[0], boxes[1])
        _, joints = self.hand_position_net(features)
        turns = sixd_to_axis_angle(self.hand_regressor(features, joints).unflatten(1, (15, 6)))
        left = (turns[:people] * turns.new_tensor([1.0, -1.0, -1.0])).flatten(1)
        joints = torch.cat([joints[:people], joints[people:]], 1)
        joints[:, :HAND_JOINTS, 0] = 15 - joints[:, :HAND_JOINTS, 0]
        placed = []
        for box, hand in ((boxes[0], joints[:, :HAND_JOINTS]), (boxes[1], joints[:, HAND_JOINTS:])):
            at = hand[..., :2] * (box[:, None, 2:] - box[:, None, :2]) / 256 + box[:, None, :2] / 16
            placed.append(torch.cat([at, hand[..., 2:]], -1))
        return boxes, torch.cat(placed, 1), left, turns[people:].flatten(1)

    def _pose(self, read: Read, left: Tensor | None = None, right: Tensor | None = None) -> Tensor:
        """(B, 165) in smplx's order: root, body, jaw, eyes, hands."""
        sixd = torch.cat([read.root, read.body_pose, read.jaw], 1).unflatten(1, (-1, 6))
        turns = sixd_to_axis_angle(sixd).flatten(1)
        rest = turns.new_zeros(len(turns), 45)
        return torch.cat([turns, rest[:, :6], rest if left is None else left, rest if right is None else right], 1)


def camera_shift(raw: Tensor) -> Tensor:
    """(B, 3) as the network says it → metres."""
    return torch.cat([raw[:, :2], CAMERA_DEPTH * raw[:, 2:].sigmoid()], 1)


def project(joints: Tensor, camera: Tensor) -> Tensor:
    """Joints (B, J, 3) metres, camera (B, 3) → where they are seen (B, J, 2), cells."""
    at = joints + camera[:, None]
    middle = at.new_tensor([HALF[0] / 2, HALF[1] / 2])
    return (at[..., :2] / (at[..., 2:] + 1e-4) * FOCAL + middle) / 16


def graph_points(seen: Tensor, eyes: tuple[int, int] = EYES) -> Tensor:
    """Joints as the camera sees them (B, J, 2), cells → the 15 graph points (B, 15, 2), px of the 384×512 crop: the first
    14 and the middle of the eyes, in the picture as the reference takes it."""
    middle = seen[:, list(eyes)].mean(1, keepdim=True)
    return torch.cat([seen[:, : len(POINTS15)], middle], 1) * 32
