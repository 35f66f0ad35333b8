"""The whole path from a photo nobody has seen to scores: detect, mesh, embed, every expert, the user's entry.

Items that are vectors (`data.source: features`) come without the first three: `bundle.json` says how long `vector` is.

A *bundle* is a folder that holds all of it, or says where licensed parts lie and what their hash is:

    bundle.json          what is inside, for whom, which dimensions were ever rated
    body.npz             body model, when it is the stand-in; else bundle.json names the user's own file
    mesh_net/            mesh network (and default image encoder)
    models/<file>.*      PhysiqueFrames: one for an expert's bundle, all of the model base for a personal one
    bank/                personal models, in a personal bundle; low-rank ones among them if the method is `lora`

Nothing in it is executable; it is what MLflow keeps of a model, and what `physique predict` loads.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.bank_opened import open_bank
from model.checkpoint import load_frame
from model.encoder import RANDOM, load_encoder
from model.extract import Extractor, Recipe
from model.files import file_hash
from model.images import UnreadableImage, apply_affine, decode
from model.lora_bank import OpenLora, has_lora
from model.mesh_row import MeshRow
from model.preference import survey_code
from model.scores import DIMENSIONS
from model.views import FrameInputs, camera_shift, score_views, square

GENERIC = "generic"


@dataclass
class Answer:
    """What is said of one photo for one user.

    scores (3,) 0 to 10 in the order of DIMENSIONS and sd (3,) of a personal score, NaN where no rating was
    ever given on that dimension (sd also where an expert answers). known: the bank has an entry of the user.
    status as in the `mesh` table (of an item that is a vector: ok, unreadable); error says in one line why there are no
    scores. row: what was seen of the body, in photos.
    """

    status: str
    scores: np.ndarray
    sd: np.ndarray
    known: bool
    row: MeshRow | None
    error: str = ""


@dataclass(frozen=True)
class PhotoReader:
    """What photos are read with. recipe: of the meshes. body_is_ours: the stand-in body model, which may be copied."""

    recipe: Recipe
    body_is_ours: bool
    encoder: str
    encoder_weights: str | None


def write_bundle(
    folder: Path,
    *,
    reader: PhotoReader | None,
    models: Path,
    files: dict[str, str],
    dimensions: Sequence[str],
    bank: Path | None = None,
) -> Path:
    """Collect a bundle. `reader`: what photos are read with; None of items that are vectors.

    `files` maps model names to file names within `models`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {
        "models": files,
        "dimensions": [d for d in DIMENSIONS if d in dimensions],
        "personal": bank is not None,
    }
    if reader is None:
        first = json.loads((models / f"{next(iter(files.values()))}.json").read_text())
        about["vector"] = first["config"]["image_width"]
    else:
        about |= _keep_reader(folder, reader)
    (folder / "models").mkdir(exist_ok=True)
    for file in files.values():
        for suffix in (".safetensors", ".json"):
            shutil.copy(models / f"{file}{suffix}", folder / "models")
    if bank is not None:
        shutil.copytree(bank, folder / "bank", dirs_exist_ok=True)
    (folder / "bundle.json").write_text(json.dumps(about, indent=1, sort_keys=True))
    return folder


def _keep_reader(folder: Path, reader: PhotoReader) -> dict[str, Any]:
    """Copy what is ours of a reader into the bundle, name the rest."""
    recipe = reader.recipe
    about: dict[str, Any] = {
        "body": {"sha256": file_hash(Path(recipe.body))} if reader.body_is_ours else _named(recipe.body),
        "mesh": {name: getattr(recipe, name) for name in ("network", "detector", "precision")},
        "encoder": reader.encoder,
    }
    if reader.encoder_weights == RANDOM:
        about["encoder_weights"] = {"path": RANDOM}
    elif reader.encoder_weights:
        about["encoder_weights"] = _named(reader.encoder_weights)
    for name in ("weights", "detector_weights"):
        if file := getattr(recipe, name):
            about["mesh"][name] = _named(file)
    if reader.body_is_ours:
        shutil.copy(recipe.body, folder / "body.npz")
    shutil.copytree(recipe.mesh_net, folder / "mesh_net", dirs_exist_ok=True)
    return about


def _named(file: str) -> dict[str, str]:
    """Where a file lies that is not ours to copy, and what it is."""
    return {"path": str(Path(file).resolve()), "sha256": file_hash(Path(file))}


def _own_file(part: str, about: dict[str, str]) -> Path:
    """A licensed or local file that the bundle only names; it has to be where it was, and the same."""
    path = Path(about["path"])
    if about["path"] == RANDOM:
        return path
    if not path.is_file():
        raise FileNotFoundError(
            f"{part}: {path} is missing; this model was made with it and does not carry it"
        )
    if file_hash(path) != about["sha256"]:
        raise ValueError(f"{part}: {path} is not the file this model was made with (its sha256 differs)")
    return path


class Predictor:
    """Photos, or vectors, in, answers out; built from a bundle once, used for any number of them and of users."""

    def __init__(self, bundle: Path, device: str = "cpu"):
        about = json.loads((bundle / "bundle.json").read_text())
        self.bank = open_bank(bundle / "bank") if about["personal"] else None
        self.lora = OpenLora(bundle / "bank") if has_lora(bundle / "bank") else None
        names = list(about["models"]) if self.bank is None else self.bank.basis.models
        loaded = [load_frame(bundle / "models", about["models"][name], device) for name in names]
        self.names, self.frames, self.device = names, [frame for frame, _ in loaded], device
        self.surveys = [survey_code(info["survey"]) for _, info in loaded]
        self.rated = np.array([d in about["dimensions"] for d in DIMENSIONS])
        self.length: int | None = about.get("vector")
        """Numbers of a vector, where that is what the models read; None where they read photos."""
        if self.length is None:
            self._read_photos(bundle, about)

    def _read_photos(self, bundle: Path, about: dict[str, Any]) -> None:
        body = _own_file("body model", about["body"]) if "path" in about["body"] else bundle / "body.npz"
        weights = about.get("encoder_weights")
        mesh_net = bundle / "mesh_net"
        mesh = about.get("mesh") or {"detector": about["detector"]}  # of bundles from before there was SMPLer-X
        own = {name: str(_own_file(f"mesh.{name}", mesh[name])) for name in ("weights", "detector_weights") if name in mesh}
        self.extractor = Extractor(Recipe(str(body), str(mesh_net), **(mesh | own)), self.device)
        self.squash = self.frames[0].compat.squash  # all of a bundle were trained alike
        file = str(_own_file("image encoder", weights)) if weights else None
        self.encoder = load_encoder(about["encoder"], file, mesh_net, self.device, self.squash)

    def __call__(self, photos: Sequence[bytes], users: Sequence[str | None] | None = None) -> list[Answer]:
        """Answers for photos (file bytes) and, with a bank, the users who ask; None is a new user.

        A photo that cannot be read gets an answer that says why; the others are answered all the same.

        Raises:
            ValueError: these models read vectors.
        """
        self._need_photos()
        users = list(users) if users is not None else [None] * len(photos)
        rows = self.extractor(list(photos))
        blank = np.full(len(DIMENSIONS), np.nan)
        answers = [
            Answer(row.status, blank, blank, False, row, row.reason if row.status == "unreadable" else "")
            for row in rows
        ]
        images, at = [], []
        for k, data in enumerate(photos):
            if rows[k].status == "unreadable":
                continue
            try:
                images.append(np.asarray(decode(data)))
                at.append(k)
            except UnreadableImage as error:
                answers[k].error = str(error)
        if at:
            scores, sd, known = self._score(self.inputs(images, [rows[k] for k in at]), [users[k] for k in at])
            for place, k in enumerate(at):
                answers[k].scores, answers[k].sd, answers[k].known = scores[place], sd[place], known[place]
        return answers

    def _need_photos(self) -> None:
        if self.length is not None:
            raise ValueError(f"this model reads vectors of {self.length} numbers, not photos")

    def of_vectors(self, vectors: Sequence[Any], users: Sequence[str | None] | None = None) -> list[Answer]:
        """Answers for items given as vectors (lists of numbers); None is a new user.

        A vector that cannot be used gets an answer that says why; the others are answered all the same.

        Raises:
            ValueError: these models read photos.
        """
        if self.length is None:
            raise ValueError("this model reads photos, not vectors")
        users = list(users) if users is not None else [None] * len(vectors)
        blank = np.full(len(DIMENSIONS), np.nan)
        answers, good, at = [], [], []
        for k, given in enumerate(vectors):
            vector, error = as_vector(given, self.length)
            answers.append(Answer("unreadable" if error else "ok", blank, blank, False, None, error))
            if not error:
                good.append(torch.from_numpy(vector))
                at.append(k)
        if at:
            nobody = torch.zeros(len(at), dtype=torch.bool)
            both = torch.stack(good)[:, None].expand(-1, 2, -1)
            bodies = torch.zeros(len(at), 0, 3, dtype=torch.float16), torch.zeros(len(at), 15, 2)
            inputs = FrameInputs([""] * len(at), both, *bodies, nobody)
            scores, sd, known = self._score(inputs, [users[k] for k in at])
            for place, k in enumerate(at):
                answers[k].scores, answers[k].sd, answers[k].known = scores[place], sd[place], known[place]
        return answers

    @torch.inference_mode()
    def inputs(self, images: list[np.ndarray], rows: list[MeshRow]) -> FrameInputs:
        """Photos (H, W, 3) and their mesh rows as the bundle's frames read them."""
        count = len(rows)
        vertices = torch.zeros(count, 10475, 3, dtype=torch.float16)
        points, shift = torch.zeros(count, 15, 2), torch.zeros(count, 3)
        visible = torch.tensor([row.status == "ok" for row in rows])
        pixels = self.frames[0].config.reads_photo
        squares = [square(image, self.squash) for image in images] if pixels else []
        for k, row in enumerate(rows):
            if row.status != "ok":
                continue
            vertices[k] = torch.from_numpy(np.asarray(row.vertices).reshape(-1, 3))
            at = np.asarray(row.points, np.float32).reshape(-1, 2)
            if pixels:
                assert row.box is not None and row.camera is not None
                at = apply_affine(squares[k][1], at).astype(np.float32)
                height, width = images[k].shape[:2]
                shift[k] = torch.from_numpy(camera_shift(row.box, row.camera, width, height))
            points[k] = torch.from_numpy(at)
        photo = torch.from_numpy(np.stack([one for one, _ in squares])) if pixels else None
        vector = torch.from_numpy(self.encoder(images))
        return FrameInputs([""] * count, vector, vertices, points, visible, photo, shift)

    def opinions(self, photos: Sequence[bytes]) -> tuple[list[MeshRow], torch.Tensor, torch.Tensor]:
        """What every model of the base says of photos: their mesh rows, scores (N, M, 3) and fused features (N, F).

        Models in the order of `names`; NaN where nobody ever rated, and of a photo that cannot be read.
        """
        self._need_photos()
        rows = self.extractor(list(photos))
        images, at = [], []
        for k, data in enumerate(photos):
            with suppress(UnreadableImage):
                if rows[k].status != "unreadable":
                    images.append(np.asarray(decode(data)))
                    at.append(k)
        table, fused = torch.full((len(rows), len(self.names), len(DIMENSIONS)), torch.nan, dtype=torch.float64), None
        if at:
            table[at], found = self._said(self.inputs(images, [rows[k] for k in at]))
            fused = torch.full((len(rows), found.shape[1]), torch.nan, dtype=torch.float64)
            fused[at] = found
        return rows, table, torch.zeros(len(rows), 0) if fused is None else fused

    @torch.inference_mode()
    def _said(self, inputs: FrameInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (n, M, 3) of all models and the generic one's (else the first one's) fused features (n, F)."""
        at = torch.arange(len(inputs))
        said = [
            score_views(frame, inputs, at, survey, self.device)
            for frame, survey in zip(self.frames, self.surveys, strict=True)
        ]
        table = torch.stack([scores for scores, _ in said], dim=1).double()
        # A dimension that nobody rated was never shown to the bank: neither is what untrained heads say.
        table[:, :, torch.from_numpy(~self.rated)] = torch.nan
        return table, said[self.names.index(GENERIC) if GENERIC in self.names else 0][1].double()

    def _score(self, inputs: FrameInputs, users: list[str | None]) -> tuple[np.ndarray, np.ndarray, list[bool]]:
        table, fused = self._said(inputs)
        if self.bank is None:
            scores = table[:, 0].numpy()
            return scores, np.full_like(scores, np.nan), [False] * len(inputs)
        names = [user or "" for user in users]
        answer = self.bank.predict(table, self.bank.index(names), fused)
        if self.lora is not None:
            frames = dict(zip(self.names, zip(self.frames, (code.to(self.device) for code in self.surveys))))
            answer.scores, own = self.lora.answer(frames, inputs, names, answer.scores)
            answer.sd = answer.sd.masked_fill(own, torch.nan)  # how sure such an entry is, nobody knows
        scores, sd = answer.scores.numpy().copy(), answer.sd.numpy().copy()
        scores[:, ~self.rated] = np.nan
        sd[:, ~self.rated] = np.nan
        return scores, sd, answer.known.tolist()


def as_vector(given: Any, length: int) -> tuple[np.ndarray, str]:
    """(length,) float32 of a list of numbers, or one line that says what is wrong with it."""
    nothing = np.zeros(0, np.float32)
    try:
        vector = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        return nothing, f"vector: {type(given).__name__}, expected a list of {length} numbers"
    if vector.shape != (length,):
        shape = "×".join(map(str, vector.shape))
        return nothing, f"vector: {f'length {shape}' if shape else 'a single value'}, expected a list of {length} numbers"
    if not (np.isfinite(vector) & (np.abs(vector) < 3e38)).all():
        return nothing, "vector: holds NaN, infinity or a number beyond 3e38"
    return vector.astype(np.float32), ""
