"""`physique weights`: others' weights into files of ours, into the registry, and back into the official layout.

A file is kept as safetensors under a name made of its hash, with a JSON beside it that says where it is from, what was
loaded and what was dropped and why. CLIP's tower lies in a file of its own: checkpoints of ten experts share it.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from model.state_files import BadCheckpoint
from tasks.tables import read_json, write_json

FOLDER = Path("data/weights")


def import_file(path: Path, folder: Path, compat: str) -> dict[str, Any]:
    """Convert a file; what came of it: kind, source, files made, how many keys were loaded and dropped.

    Raises:
        model.state_files.BadCheckpoint: nothing was written.
    """
    from model.files import file_hash
    from model.imports import recognise
    from model.official import layout

    if not path.is_file():
        raise BadCheckpoint(f"{path}: no such file")
    found = recognise(path, compat)
    digest = file_hash(path)
    about: dict[str, Any] = {"kind": found.kind, "source": {"name": path.name, "sha256": digest}}
    about["dropped"] = {why: sorted(k for k, v in found.dropped.items() if v == why) for why in set(found.dropped.values())}
    folder.mkdir(parents=True, exist_ok=True)
    if found.frame is None:
        name = f"{found.kind}-{digest[:12]}"
        about |= {"files": [f"{name}.safetensors"], "loaded": len(found.tensors)}
        _save(found.tensors, folder / f"{name}.safetensors")
        write_json(about, folder / f"{name}.json")
        return about | {"json": str(folder / f"{name}.json")}
    about["loaded"] = sum(1 for known in layout(found.frame).values() if known.ours)
    return _keep_frame(found.frame, found.unused, about, folder)


def _keep_frame(frame: Any, unused: dict[str, Any], about: dict[str, Any], folder: Path) -> dict[str, Any]:
    from dataclasses import replace

    from model.checkpoint import save_frame, tensors_hash

    assert frame.clip is not None
    tower = {key: value.contiguous() for key, value in frame.clip.state_dict().items()}
    clip = f"clip-{tensors_hash(tower)[:12]}"
    if not (folder / f"{clip}.safetensors").is_file():
        _save(tower, folder / f"{clip}.safetensors")
        write_json({"kind": "clip", "source": about["source"], "files": [f"{clip}.safetensors"]}, folder / f"{clip}.json")
    frame.clip, frame.config = None, replace(frame.config, clip=False)
    name = f"frame-{about['source']['sha256'][:12]}"
    _save(unused, folder / f"{name}.unused.safetensors")
    about |= {
        "files": [f"{name}.safetensors", f"{name}.unused.safetensors", f"{clip}.safetensors"],
        "clip": f"{clip}.safetensors",
        "rater": None,
        "survey": {},
    }
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        save_frame(frame, Path(fresh), name, about)
        for suffix in (".safetensors", ".json"):  # the description last: whoever sees it sees all
            (Path(fresh) / f"{name}{suffix}").replace(folder / f"{name}{suffix}")
    return about | {"json": str(folder / f"{name}.json")}


def _save(tensors: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(tensors, temporary)
    temporary.replace(path)


def summary(about: dict[str, Any]) -> str:
    """What an import did, as a person reads it."""
    lines = [f"{about['kind']} of {about['source']['name']} (sha256 {about['source']['sha256'][:12]})"]
    lines.append(f"loaded   {about['loaded']} keys")
    counts = Counter({why: len(keys) for why, keys in about["dropped"].items()})
    lines += [f"dropped  {count} keys: {why}" for why, count in counts.most_common()]
    lines.append(f"written  {about['json']} and {', '.join(about['files'])}")
    return "\n".join(lines)


def register_frame(about: dict[str, Any], expert: str) -> dict[str, Any]:
    """Register an imported frame as `physique-expert-<expert>`: photos in, scores out, by the whole path.

    Raises:
        FileNotFoundError: the body model or the mesh network is not there yet.
    """
    from model.predictor import PhotoReader, write_bundle
    from model.scores import DIMENSIONS
    from tasks.bodies import body_file
    from tasks.mesh_table import mesh_recipe
    from tasks.params import load_params
    from tasks.registry import expert_model, register, stage_run
    from tasks.source_kind import without_photos

    if about["kind"] != "frame":
        raise ValueError(f"--register: {about['source']['name']} is a {about['kind']}; experts' models are PhysiqueFrames")
    body, meshnet, params = Path("data/body"), Path("data/meshnet"), load_params()
    for path in (body / "body.json", meshnet / "mesh_net.safetensors"):
        if not path.is_file() or without_photos():
            raise FileNotFoundError(f"{path} is missing; `dvc repro meshnet` makes it. Nothing was registered")
    described = Path(about["json"])
    source = {"name": about["source"]["name"], "sha256": about["source"]["sha256"]}
    source = {f"source.{key}": value for key, value in source.items()}
    with stage_run("import", source), tempfile.TemporaryDirectory() as new:
        bundle = write_bundle(
            Path(new) / "bundle",
            reader=PhotoReader(
                recipe=mesh_recipe(body, meshnet, params.mesh),
                body_is_ours=body_file(body)[1],
                encoder="clip",
                encoder_weights=str(described.parent / about["clip"]),
            ),
            models=described.parent,
            files={expert: described.stem},
            dimensions=DIMENSIONS,
        )
        name = expert_model(expert)
        return register(name, bundle, "import", metrics={}, about={"expert": expert} | source, champion=False)


def export_file(name: str, out: Path) -> int:
    """Write an imported or trained full-size frame in the official layout; how many keys.

    Args:
        name: `FOLDER/NAME` of an imported frame, or a registered model, `models:/physique-expert-ID@champion`.

    Raises:
        ValueError: there is no such frame, or the official layout has no place for what it holds.
    """
    import torch
    from safetensors.torch import load_file

    from model.checkpoint import load_frame
    from model.official import to_official
    from model.physique_frame import clip_tower

    described, tower, unused = _files_of(name)
    frame, _ = load_frame(described.parent, described.stem)
    config = frame.config
    if config.size != "full" or config.survey or config.nobody or config.mesh_search == "shared":
        raise ValueError(
            f"{name}: the official layout has no place for its preference network or shared mesh tables; only frames that "
            "were imported, or trained from an imported one (model.start), can be exported"
        )
    with torch.device("meta"):
        frame.clip = clip_tower()
    frame.clip.load_state_dict(load_file(tower), strict=True, assign=True)
    state = to_official(frame, load_file(unused) if unused else {})
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    torch.save(state, temporary)
    temporary.replace(out)
    return len(state)


def _files_of(name: str) -> tuple[Path, Path, Path | None]:
    """Description, CLIP tower and unused numbers of a frame."""
    if name.startswith("models:/"):
        import mlflow

        from tasks.registry import quietly, use_tracking

        use_tracking()
        with quietly():
            bundle = Path(mlflow.artifacts.download_artifacts(name)) / "artifacts" / "bundle"
        about = read_json(bundle / "bundle.json")
        if about["encoder"] != "clip" or len(about["models"]) != 1:
            raise ValueError(f"{name}: not an expert's full-size model with a CLIP tower; there is nothing to export")
        described = bundle / "models" / f"{next(iter(about['models'].values()))}.json"
        return described, Path(about["encoder_weights"]["path"]), None
    described = Path(f"{name.removesuffix('.json')}.json")
    if not described.is_file():
        near = ", ".join(str(p.with_suffix("")) for p in sorted(described.parent.glob("frame-*.json"))) or "none"
        raise ValueError(f"{described}: no such frame; there are {near}")
    about = read_json(described).get("about", {})
    if "clip" not in about:
        raise ValueError(f"{described}: not an imported PhysiqueFrame")
    unused = described.with_suffix(".unused.safetensors")
    return described, described.parent / about["clip"], unused if unused.is_file() else None
