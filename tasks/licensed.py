"""`physique weights check`: the files that are not ours to ship, one by one: named, there, whole, and from whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.params import Params, load_params

SMPLX = "smpl-x.is.tue.mpg.de, after registration; non-commercial research"
SMPLERX = "the links in the README of github.com/caizhongang/SMPLer-X; S-Lab License, non-commercial"
FRAME = "the authors of the paper (PhysiqueFrame, CVPR 2025)"
DETECTORS = "torchvision, or any YOLO or RT-DETR exported to ONNX"
CLIP = "OpenAI's CLIP (github.com/openai/CLIP), or any timm model's safetensors"


OWN = ("auto", "hog", "presence")


@dataclass(frozen=True)
class Licensed:
    """One file: what it is, the setting that names it, what was found, what is used without it, and its publisher."""

    what: str
    setting: str
    path: str | None
    found: str
    without: str
    published: str
    broken: bool = False


def check_all(params: Params | None = None) -> list[Licensed]:
    """Load each file that the settings name, strictly; nothing in it is executed."""
    params = params or load_params()
    network, start = params.mesh.network, params.model.start
    sizes = "s32, b32, l32 or h32"
    return [
        _one("SMPL-X body model", "body.model", params.body.model, _body, "the stand-in body model", SMPLX),
        _one(
            f"SMPLer-X {network if network != 'tiny' else sizes}",
            "mesh.weights",
            params.mesh.weights,
            lambda path: _smpler_x(path, network),
            "the small mesh network, trained on mannequins" if network == "tiny" else "",
            SMPLERX,
        ),
        _one("person detector", "mesh.detector_weights", params.mesh.detector_weights,
             lambda path: _detector(path, params.mesh.detector),
             "HOG and the small mesh network" if params.mesh.detector in OWN else "", DETECTORS),
        _one("cached meshes", "mesh.cache", params.mesh.cache, _cache, "meshes are computed", FRAME),
        _one("image encoder", "embed.weights", params.embed.weights, _state, f"{params.embed.encoder}'s own", CLIP),
        _one("PhysiqueFrame", "model.start", f"{start}.json" if start else None, _file, "training from scratch", FRAME),
    ]  # fmt: skip


def _one(
    what: str, setting: str, path: str | None, load: Callable[[Path], str], without: str, published: str
) -> Licensed:
    if path is None:
        missing = not without
        found = "not named, and needed" if missing else "not named"
        return Licensed(what, setting, None, found, without, published, broken=missing)
    if path != "random" and not Path(path).is_file():
        return Licensed(what, setting, path, "no such file", without, published, broken=True)
    try:
        return Licensed(what, setting, path, load(Path(path)), without, published)
    except Exception as error:  # whatever is wrong with a file is said, and the next one is looked at
        told = " ".join(str(error).split()) or type(error).__name__
        return Licensed(what, setting, path, told.removeprefix(f"{path}: "), without, published, broken=True)


def _body(path: Path) -> str:
    from model.body import load_body

    load_body(path)
    return "loads"


def _smpler_x(path: Path, network: str) -> str:
    from model.smpler_checkpoint import current_names, fitted, size_of
    from model.state_files import read_state

    state = current_names(read_state(path))
    size = size_of(path, state)
    keys = len(fitted(path, state, size))
    if network == "tiny":
        raise ValueError(f"loads ({size}, {keys} keys), but mesh.network is tiny, which takes no weights")
    if network != size:
        raise ValueError(f"is of size {size}, but mesh.network is {network}")
    return f"loads: {size}, {keys} keys"


def _detector(path: Path, name: str) -> str:
    from model.detect import make_detector

    if name in OWN:
        return f"not used: mesh.detector is {name}"
    import numpy as np

    make_detector(name, None, path)(np.full((240, 180, 3), 128, np.uint8))
    return f"loads, as {name}"


def _cache(path: Path) -> str:
    from model.mesh_cache import MeshCache

    cache = MeshCache(path)
    return f"{len(cache):,} photos" + (f", {len(cache.set_aside):,} set aside" if cache.set_aside else "")


def _state(path: Path) -> str:
    if str(path) == "random":
        return "random numbers, for trials"
    from model.state_files import read_state

    return f"{len(read_state(path))} keys"


def _file(path: Path) -> str:
    if not path.with_suffix(".safetensors").is_file():
        raise ValueError(f"{path.with_suffix('.safetensors').name} is missing beside it")
    return "there"


def lines(found: list[Licensed]) -> list[str]:
    """What was found as lines for a terminal, in rich's markup."""
    from rich.markup import escape

    out = []
    for each in found:
        colour = "red" if each.broken else "green" if each.path else "dim"
        said = f"{each.path}: {each.found}" if each.path else each.found
        instead = f"; used instead: {each.without}" if each.without and not each.path else ""
        out += [f"[bold]{each.setting:23}[/]{each.what}", f"{'':23}[{colour}]{escape(said)}[/]{escape(instead)}"]
        out += [f"{'':23}from {escape(each.published)}"]
    return out
