"""Meshes by SMPLer-X: the reference's way, ours end to end, the network alone, decoding alone; photos per second.

    uv run python bench/mesh.py --out mesh.json                                 # s32 on CPU cores, through Prefect and Ray
    python3 bench/mesh.py --size h32 --device cuda --compile --out mesh.json    # torch, torchvision, timm, smplx, numpy
    uv run python bench/mesh.py --photos FOLDER --count 200                     # your photos (JPEG), else made-up ones

Prints Markdown (docs/benchmarks.md holds it) and writes the same as JSON. One run, same photos, same weights (random: none
of it changes how long anything takes), so ratios hold on a busy machine as well; compare no two runs.

What stands against what:
- (a) the reference's way: photos one after the other on all cores, each decoded whole, its person found, cut out by the
  same code, the whole network at batch 1 in float32, SMPL-X run twice;
- (b) ours: the pipeline's own engine (tasks/features.py) with Prefect and Ray where they are installed, else processes
  that decode for one that computes. Start-up is left out: what is timed lies between the first finished shard and the
  last. CPU seconds are those of every process there is, Ray's and Prefect's own included;
- (c) the network alone, `rows` at the batch that is best; (d) decoding alone;
- parts: what (b) is made of, each alone on one thread by the processor's own clock, at the engine's batch. Everything but
  (b) is measured before it and after it, and the mean is taken: neighbours on a shared machine come and go.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # where nothing is installed

# ruff: noqa: E402
from bench.mesh_cases import Middle, made_up_body, made_up_weights, photos_of
from bench.mesh_engines import Progress, by_processes, by_ray, by_ray_data, has_ray, table_seconds
from bench.timing import chip, data_sheet
from model.extract import Recipe
from model.images import crop_person, decode, decode_reduced
from model.mesh_smpler import SmplerNetwork
from model.prepare import WORKING_SIDE, Preparer, crop_half
from model.smpler_x import SMPLerX

ENGINE_BATCH = 16
"""Of (b) on a CPU, as params.yaml has it."""


def alone(what: Callable[[Any], Any], over: list[Any], rounds: int = 2) -> float:
    """CPU seconds per item, on one thread; the better of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        for item in over:
            what(item)
        best = min(best, (time.process_time() - started) / len(over))
    return best


def reference_way(photos: list[bytes], detector: Any, model: SMPLerX, device: str) -> float:
    """(a): wall seconds per photo."""
    from model.detect import pick_largest

    started = time.perf_counter()
    for data in photos:
        image = np.asarray(decode(data))
        box = pick_largest(detector(image))
        if box is None:
            continue
        patch, _ = crop_person(image.astype(np.float32), box.xyxy(), (384, 512))
        said = model(torch.from_numpy(patch).permute(2, 0, 1)[None].to(device) / 255)
        with torch.inference_mode():
            pose = torch.zeros(1, 165, device=device)
            said.mesh.cpu(), model.body.posed(said.betas, pose, said.expression)[0].cpu()
    return (time.perf_counter() - started) / len(photos)


def network_alone(network: SmplerNetwork, batches: list[int], device: str, least_s: float) -> dict[int, float]:
    """(c): seconds per photo at each batch, the median of several rounds; wall on a GPU, one thread's CPU time else."""
    cuda, out = device != "cpu", {}
    clock = time.perf_counter if cuda else time.process_time
    for batch in batches:
        pixels = torch.rand(batch, 3, 256, 192, device=device)
        took: list[float] = []
        for round_ in range(50):
            started = clock()
            network.model.rows(pixels)
            if cuda:
                torch.cuda.synchronize()
            if round_:  # the first one warms up
                took.append((clock() - started) / batch)
            if len(took) > 1 and sum(took) * batch > least_s:
                break
        out[batch] = statistics.median(took)
    return out


def flop_of(model: SMPLerX) -> float:
    """GFLOP of `rows` per photo, matrix products and convolutions, counted while it runs."""
    from torch.utils.flop_counter import FlopCounterMode

    pixels = torch.rand(1, 3, 256, 192, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter:
        model.rows(pixels)
    return counter.get_total_flops() / 1e9


def main() -> None:
    """Print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="s32", help="s32, b32, l32 or h32")
    parser.add_argument("--weights", type=Path, help="an official checkpoint; without it random numbers")
    parser.add_argument("--body", type=Path, help="an SMPL-X file; without it the stand-in, or random numbers")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files")
    parser.add_argument("--count", type=int, default=640)
    parser.add_argument("--height", type=int, default=1600, help="of made-up photos, px")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", help="fp32, bf16 or fp16; bf16 on a GPU without it")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batches", type=int, nargs="+", help="batches for the network alone")
    parser.add_argument("--decoders", type=int, help="decoding workers per network; none on a CPU, else all cores but one")
    parser.add_argument("--engine", default="ours", choices=["ours", "processes", "data"], help="of (b); data: Ray Data")
    parser.add_argument("--seconds", type=float, default=8.0, help="per batch of the network alone")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    cuda, cores = asked.device != "cpu", len(os.sched_getaffinity(0))
    precision = asked.precision or ("bf16" if cuda else "fp32")
    batches = asked.batches or ([16, 32, 64, 128, 256] if cuda else [1, 4, ENGINE_BATCH])
    decoders = asked.decoders if asked.decoders is not None else (cores - 1 if cuda else 0)
    photos, somebody = photos_of(asked.photos, asked.count, asked.height)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        standin = ROOT / "data/body/SMPLX_STANDIN.npz"
        body = asked.body or (standin if standin.is_file() else made_up_body(folder / "body.npz"))
        weights = asked.weights or made_up_weights(asked.size, folder / f"{asked.size}.pth.tar")
        recipe = Recipe(
            body=str(body.resolve()),
            mesh_net=str(ROOT / "model/weights"),
            network=asked.size,
            weights=str(weights.resolve()),
            detector="auto" if somebody else "presence",
            precision=precision,
        )
        ray = has_ray() and somebody and not cuda
        prepare = recipe.preparer() if somebody else Preparer(Middle(), crops=True)
        model = SMPLerX.from_checkpoint(weights, asked.size, body, asked.device)
        flop = flop_of(model)
        network = SmplerNetwork(copy.deepcopy(model), asked.device, precision, asked.compile, max(batches))
        few = photos[: max(4, min(12, len(photos)))]

        def apart() -> dict[str, Any]:
            """(a), (c), (d) and the parts, as they are now."""
            torch.set_num_threads(cores)
            found: dict[str, Any] = {"a": reference_way(few, prepare.detector, model, asked.device)}
            torch.set_num_threads(cores if cuda else 1)
            found["networks"] = network_alone(network, batches, asked.device, asked.seconds)
            torch.set_num_threads(1)
            found["parts"] = parts_alone(few, prepare, folder, network if ray else None)
            found["whole"] = alone(decode, few)
            return found

        batch = batches[-1]
        if cuda:
            networks = network_alone(network, batches, asked.device, asked.seconds)
            batch = min(networks, key=lambda one: networks[one])
        run = by_ray if ray and asked.engine == "ours" else by_processes
        before, who = apart(), None if somebody else Middle()
        if asked.engine == "data":
            done: Progress = by_ray_data(recipe, photos, batch, decoders)
        else:
            done = run(recipe, who, photos, batch, decoders, asked.device, asked.compile)
        after = apart()

    found = {key: mean(before[key], after[key]) for key in before}
    found["parts"]["network"] = found["networks"][batch]
    report(asked, photos, found, batch, done, flop, decoders, precision, ray, cores)


def mean(one: Any, other: Any) -> Any:
    """Of two numbers, or of two dictionaries of them."""
    if isinstance(one, dict):
        return {key: mean(one[key], other[key]) for key in one}
    return (one + other) / 2


def parts_alone(photos: list[bytes], prepare: Preparer, folder: Path, network: SmplerNetwork | None) -> dict[str, float]:
    """CPU seconds per photo of everything but the network; with one, of its rows on their way to Parquet too."""
    images = [np.asarray(decode_reduced(data, WORKING_SIDE)[0]) for data in photos]
    boxes = [prepare.detector(image)[:1] or Middle()(image) for image in images]
    parts = {
        "decode": alone(lambda data: np.asarray(decode_reduced(data, WORKING_SIDE)[0]), photos),
        "find the person": alone(prepare.detector, images),
        "cut out": alone(lambda pair: crop_half(pair[0], pair[1][0].xyxy()), list(zip(images, boxes))),
    }
    if network is not None:
        parts["rows to Parquet"] = table_seconds(network, prepare(photos[:8]), folder)
    return parts


def report(asked, photos, apart, batch, done, flop, decoders, precision, ray, cores):
    """Markdown to standard output, the same as JSON where asked."""
    reference, networks, parts, whole_decode = apart["a"], apart["networks"], apart["parts"], apart["whole"]
    best, device = min(networks, key=lambda one: networks[one]), torch.device(asked.device)
    engine = {"data": "Ray Data", "ours": "Prefect and Ray" if ray else "processes"}.get(asked.engine, asked.engine)
    cuda, seconds = device.type == "cuda", done.wall_per_photo
    megabytes = sum(map(len, photos)) / len(photos) / 1e6
    ceiling = networks[best] if cuda else networks[best] / cores
    decode_limit = parts["decode"] / max(1, cores - 1 if cuda else cores)
    lines = [
        f"SMPLer-X {asked.size}, {precision}, {len(photos)} photos of {megabytes:.2f} MB, {flop:.1f} GFLOP a photo; "
        f"{chip(device)}, {cores} cores, load {os.getloadavg()[0]:.1f}; torch {torch.__version__}; "
        f"{time.strftime('%Y-%m-%d')}",
        "",
        f"Engine: {engine}, {done.networks} network(s), "
        f"{decoders} decoders each.",
        "",
        "| | photos/s | of (b) |",
        "|---|--:|--:|",
        f"| (a) the reference's way, {cores} threads | {1 / reference:.3g} | {seconds / reference:.2f} |",
        f"| (b) ours end to end | {1 / seconds:.3g} | 1 |",
        f"| (c) network alone, batch {best}, all cores | {1 / ceiling:.3g} | {seconds / ceiling:.2f} |",
        f"| (d) decoding alone, all cores | {1 / decode_limit:.3g} | {seconds / decode_limit:.2f} |",
        "",
        f"(b) is **{reference / seconds:.2f} times** (a) and reaches {ceiling / seconds:.0%} of the network's limit.",
        "",
        "| part, one thread | CPU ms/photo |",
        "|---|--:|",
        *(f"| {name} | {1000 * value:.1f} |" for name, value in parts.items()),
        f"| sum | {1000 * sum(parts.values()):.1f} |",
        f"| (decoding the whole photo instead) | {1000 * whole_decode:.1f} |",
        "",
        "| network alone, batch | ms/photo | TFLOP/s |",
        "|--:|--:|--:|",
        *(f"| {batch} | {1000 * value:.2f} | {flop / value / 1000:.3g} |" for batch, value in networks.items()),
        "",
    ]
    found: dict[str, Any] = {
        "size": asked.size, "precision": precision, "device": chip(device), "cores": cores, "photos": len(photos),
        "reference_s": reference, "ours_s": seconds, "network_s": networks, "decode_s": parts["decode"], "parts_s": parts,
        "ratio": reference / seconds, "of_network_limit": ceiling / seconds, "gflop": flop, "cpu_s": done.cpu_per_photo,
    }  # fmt: skip
    if done.cpu_per_photo:
        share = done.cpu_per_photo / sum(parts.values())
        spread = seconds * cores / done.cpu_per_photo
        found |= {"cpu_over_parts": share, "wall_over_cpu": spread}
        lines.append(
            f"(b) takes {1000 * done.cpu_per_photo:.1f} CPU ms a photo, {share:.2f} times the sum of its parts, and its "
            f"wall time is {spread:.2f} times CPU seconds ÷ cores."
        )
    if cuda:
        peak, at = data_sheet(device), flop / networks[best] / 1000
        of = f", {at / peak:.0%} of the data sheet's {peak:.0f}" if peak else ""
        found |= {"tflops": at, "of_peak": at / peak if peak else None}
        tighter = max(ceiling, decode_limit)
        lines.append(f"Network alone: {at:.0f} TFLOP/s{of}. (b) takes {seconds / tighter:.2f} times the tighter limit.")
    print("\n".join(lines))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
