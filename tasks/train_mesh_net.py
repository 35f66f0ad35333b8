"""Train the small mesh network on mannequins: crops rendered by Ray tasks, training by Ray Train.

Notable:
- crops are rendered in chunks that are written whole; a second run renders only what is missing;
- every epoch draws its order and its augmentation from (seed, epoch, rank), so a resumed run equals an
  uninterrupted one; the checkpoint after each epoch holds weights, buffers and optimiser;
- the error is told in millimetres against the mean shape in the mean pose, on mannequins never trained on.

    python -m pytest tests/tasks/test_train_mesh_net.py
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.body import Body, load_body
from model.checkpoint import seeded
from model.files import file_hash
from model.mesh_augment import augment
from model.mesh_net import CROP, MeshNet, load_mesh_net, save_mesh_net
from model.rotations import axis_angle_to_matrix, matrix_to_axis_angle

START = Path(__file__).resolve().parent.parent / "model" / "weights"
"""Weights that `meshnet.start: shipped` starts from (docs/meshnet.md)."""
FIELDS = ("images", "present", "betas", "pose", "points", "mask")


def _mask_keeper(body_path: str) -> Any:
    """A renderer that also keeps each crop's silhouette, as the covered share of 4×4 px cells, 0…255."""
    from tasks.mannequins.render import Rendered, Renderer
    from tasks.mannequins.scene import Scene

    class MaskKeeper(Renderer):
        def __init__(self) -> None:
            super().__init__(body_path)
            self.masks: list[np.ndarray] = []
            self.place: Any = None

        def render(self, scene: Scene, *args: Any, **kwargs: Any) -> Rendered:
            done = super().render(scene, *args, **kwargs)
            share = done.mask.reshape(CROP[1] // 4, 4, CROP[0] // 4, 4).mean((1, 3))
            if scene.backdrop is self.place:  # the same crop again, without the person beside it
                self.masks.pop()
            self.place = scene.backdrop
            self.masks.append(np.round(share * 255).astype(np.uint8))
            return done

    return MaskKeeper()


def render_chunk(body_path: str, path: str, start: int, stop: int, seed: int) -> str:
    """Render the crops start … stop of the endless sequence `seed` into one npz, whole or not at all."""
    from tasks.mannequins.photos import training_crops

    renderer = _mask_keeper(body_path)
    crops = training_crops(body_path, stop, seed, size=CROP, start=start, stop=stop, renderer=renderer)
    crops["mask"] = np.stack(renderer.masks)
    part = f"{path}.part-{os.getpid()}"
    with Path(part).open("wb") as stream:
        np.savez(stream, **{name: crops[name] for name in FIELDS})
    Path(part).replace(path)
    return path


def render_training_set(
    body_path: str | Path,
    folder: str | Path,
    count: int,
    *,
    seed: int = 0,
    chunk: int = 128,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Render `count` training crops into `folder` with Ray tasks; finished chunks are not rendered again.

    Returns the files in order. The crops depend on (seed, index) alone, not on `chunk` or the workers.
    """
    import ray

    from tasks.engines import connect

    connect()
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    ranges = [(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    files = [folder / f"crops-{seed}-{start:06d}-{stop:06d}.npz" for start, stop in ranges]
    render = ray.remote(num_cpus=1, max_retries=3)(render_chunk)
    body = str(Path(body_path).absolute())
    pending = [
        render.remote(body, str(path), start, stop, seed)
        for path, (start, stop) in zip(files, ranges, strict=True)
        if not path.is_file()
    ]
    done = len(files) - len(pending)
    if on_progress:
        on_progress(done, len(files))
    while pending:
        ready, pending = ray.wait(pending)
        ray.get(ready)
        done += len(ready)
        if on_progress:
            on_progress(done, len(files))
    return files


def load_crops(files: list[str] | list[Path]) -> dict[str, Tensor]:
    """Crops of all files as tensors: images (N, 3, H, W) uint8, presence (N,), betas, rotations, points."""
    parts = []
    for path in files:
        with np.load(path, allow_pickle=False) as data:
            parts.append({name: data[name] for name in FIELDS})
    whole = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in FIELDS}
    numbers = {name: whole[name].float().nan_to_num() for name in ("betas", "pose", "points")}  # NaN: nobody
    return {
        "images": whole["images"].permute(0, 3, 1, 2).contiguous(),
        "presence": whole["present"].float(),
        "betas": numbers["betas"],
        "rotations": axis_angle_to_matrix(numbers["pose"].unflatten(1, (22, 3))),
        "points": numbers["points"],
        "mask": whole["mask"].float() / 255,
    }


def _batch(crops: dict[str, Tensor], index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    targets = {name: value[index] for name, value in crops.items() if name != "images"}
    return crops["images"][index].float() / 255, targets


def _learning_rate(step: int, steps: int, peak: float) -> float:
    warm = max(1, steps // 10)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@torch.no_grad()
def evaluate(net: MeshNet, body: Body, crops: dict[str, Tensor], reference: Tensor) -> dict[str, float]:
    """Errors on held-out crops, beside those of a fixed body.

    `reference` (10,) are the mean betas of the training set, the baseline's. Vertex errors are mean distances
    in mm over the 10,475 vertices and all people. A photo does not tell how far its camera stood, so stature
    is a guess for anybody; `scaled_mm` compares zero-pose meshes brought to the true scale first (PVE-T-SC,
    Sengupta et al., BMVC 2020). Posed meshes are compared with their pelvis joints laid on each other.
    """
    net.eval()
    outputs = [net(crops["images"][i : i + 64].float() / 255) for i in range(0, len(crops["images"]), 64)]
    betas = torch.cat([o.betas for o in outputs])
    rotations = torch.cat([o.rotations for o in outputs])
    points = torch.cat([o.points for o in outputs])
    says = torch.cat([o.presence for o in outputs]) > 0
    person = crops["presence"] > 0.5
    hits = int((says & person).sum())
    metrics = {
        "presence_precision": hits / max(1, int(says.sum())),
        "presence_recall": hits / max(1, int(person.sum())),
        "point_error_px": float((points - crops["points"])[person].norm(dim=-1).mean()),
    }

    truth = crops["betas"][person]
    fixed = reference.expand_as(truth)
    mean = matrix_to_axis_angle(net.mean_rotations).flatten()
    poses = [matrix_to_axis_angle(r[person]).flatten(1) for r in (crops["rotations"], rotations)]
    errors: dict[str, list[float]] = {}
    for some in torch.arange(len(truth)).split(32):
        right = body.zero_pose(truth[some])
        turned = _rooted(body, truth[some], poses[0][some])
        for name, shape, pose in (
            ("", betas[person][some], poses[1][some]),
            ("_baseline", fixed[some], mean.expand(len(some), -1)),
        ):
            said = body.zero_pose(shape)
            found = {
                f"zero_pose{name}_mm": _distance(said, right),
                f"scaled{name}_mm": _distance(_scaled(said, right), right),
                f"posed{name}_mm": _distance(_rooted(body, shape, pose), turned),
            }
            for key, value in found.items():
                errors.setdefault(key, []).append(value * len(some))
    return metrics | {key: sum(values) / len(truth) for key, values in errors.items()}


def _distance(a: Tensor, b: Tensor) -> float:
    """Mean distance of vertices, mm."""
    return float((a - b).norm(dim=-1).mean()) * 1000


def _scaled(said: Tensor, right: Tensor) -> Tensor:
    """Meshes (B, V, 3) brought to the size and place of others (least squares, one factor per mesh)."""
    centre = right.mean(1, keepdim=True)
    said, right = said - said.mean(1, keepdim=True), right - centre
    return said * ((said * right).sum((1, 2)) / said.square().sum((1, 2)))[:, None, None] + centre


def _rooted(body: Body, betas: Tensor, pose: Tensor) -> Tensor:
    vertices, joints = body.posed(betas, pose)
    return vertices - joints[:, :1]


def mesh_net_loop(config: dict) -> None:
    """Ray Train loop of one network over all workers (DDP).

    config: train, val (lists of npz files), body, start (folder of weights or None), out (folder), seed, epochs,
    batch_size (of all workers together), learning_rate, weight_decay.
    Writes out/{mesh_net.safetensors, mesh_net.json, metrics.json}; reports the loss of every epoch and the
    errors of the last one.
    """
    import ray.train
    from ray.train.torch import prepare_model

    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(1 if workers > 1 else max(1, int(config.get("threads", os.cpu_count() or 1))))
    torch.manual_seed(config["seed"])
    crops = load_crops(config["train"])
    net = MeshNet() if config["start"] is None else started(Path(config["start"]), Path(config["body"]))
    body = load_body(config["body"])
    person = crops["presence"] > 0.5
    reference = crops["betas"][person].mean(0)
    pose = None if config["start"] else matrix_to_axis_angle(crops["rotations"][person]).flatten(1)
    net.set_statistics(pose, body.directions.unflatten(1, (-1, 3)).permute(1, 2, 0))
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config["weight_decay"]},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=config["learning_rate"])
    start = 0
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt", weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        start = int(state["epoch"]) + 1
    wrapped = prepare_model(net, move_to_device=False) if workers > 1 else net
    val = load_crops(config["val"]) if rank == 0 else {}
    size = max(1, config["batch_size"] // workers)
    per_epoch = len(crops["images"]) // (size * workers)
    steps = per_epoch * config["epochs"]
    metrics: dict = {}
    for epoch in range(start, config["epochs"]):
        net.train()
        order = torch.randperm(len(crops["images"]), generator=seeded(config["seed"], "order", epoch))
        generator = seeded(config["seed"], "augment", epoch, rank)
        total = 0.0
        for at in range(per_epoch):
            for group in optimiser.param_groups:
                group["lr"] = _learning_rate(epoch * per_epoch + at, steps, config["learning_rate"])
            first = (at * workers + rank) * size
            images, targets = augment(*_batch(crops, order[first : first + size]), generator)
            loss = net.loss(wrapped(images), targets)["total"]
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            total += float(loss.detach())
        last = epoch == config["epochs"] - 1
        metrics = {"epoch": epoch, "loss": total / max(1, per_epoch)}
        with tempfile.TemporaryDirectory() if rank == 0 else nullcontext() as folder:
            kept = None
            if rank == 0:
                state = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch}
                torch.save(state, Path(folder) / "state.pt")
                if last:
                    metrics |= evaluate(net, body, val, reference)
                    metrics |= {"crops": len(crops["images"]), "held_out": len(val["images"])}
                    _write(net, config, metrics)
                kept = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=kept)


def started(folder: Path, body: Path) -> MeshNet:
    """The network of `folder`, ready to be trained on; what betas mean is learned anew for another body model."""
    net = load_mesh_net(folder).train().requires_grad_(True)
    about = json.loads((folder / "mesh_net.json").read_text(encoding="utf-8"))["about"]
    if not same_body(about.get("body_probe"), body_probe(load_body(body))):
        net.betas.reset_parameters()
    return net


def body_probe(body: Body) -> list[float]:
    """A few numbers of a body model, metres, that tell whether its betas mean what another's do.

    Not a file's hash: the same stand-in built on another processor differs in the last bits, and betas that are
    learned anew for that reason cost the default run all it knows of shape.
    """
    sample = torch.cat([body.rest[::2500].flatten(), body.directions[:, ::1571].flatten()])
    return [round(value, 5) for value in sample.tolist()]


def same_body(known: list[float] | None, probe: list[float]) -> bool:
    """Whether two probes agree to a tenth of a millimetre."""
    return known is not None and len(known) == len(probe) and max(abs(a - b) for a, b in zip(known, probe)) < 1e-4


def _write(net: MeshNet, config: dict, metrics: dict) -> None:
    """Write the results beside `out`, then put them in its place."""
    out = Path(config["out"])
    part = out.with_name(f"{out.name}.part-{os.getpid()}")
    about = {"trained_on": "simulated mannequins", "body": file_hash(config["body"]), "metrics": metrics}
    about["body_probe"] = body_probe(load_body(config["body"]))
    save_mesh_net(net, part, about | {"start": "none" if config["start"] is None else Path(config["start"]).name})
    (part / "metrics.json").write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if out.exists():
        shutil.rmtree(out)
    part.replace(out)


def mesh_net_settings(
    settings: Any, seed: int, body: Path, train: list[Path], val: list[Path], out: Path
) -> dict[str, Any]:
    """Config of `mesh_net_loop` from the section `meshnet` of params.yaml."""
    return {
        "train": [str(path) for path in train],
        "val": [str(path) for path in val],
        "body": str(Path(body).resolve()),
        "start": str(START.resolve()) if settings.start == "shipped" else settings.start,
        "out": str(Path(out).resolve()),
        "seed": seed,
        "epochs": settings.epochs,
        "batch_size": settings.batch,
        "learning_rate": settings.lr,
        "weight_decay": 0.01,
    }


def crops_version(body: Path) -> str:
    """Hash of the body model and of the code that renders: crops made by other code are never taken for these."""
    from hashlib import sha256

    here = Path(__file__)
    parts = [body, here, *sorted((here.parent / "mannequins").glob("*.py"))]
    return sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()[:12]
