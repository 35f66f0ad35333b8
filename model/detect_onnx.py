"""People found by a network in an ONNX file (YOLO, RT-DETR), run by onnxruntime.

What the file's outputs mean is told from their names and shapes on a first, grey photo (`model/onnx_layouts.py`).

    OnnxDetector("yolo11n.onnx")(image)
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from model.detect import Box
from model.files import file_hash
from model.images import apply_affine, invert_affine
from model.onnx_layouts import UNDERSTOOD, Layout, recognise
from model.state_files import BadCheckpoint, first_line

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SIDE = 640
"""px of an input whose size the file leaves open: what YOLO and RT-DETR are trained on."""
GREY = 114
"""The bars beside a photo that YOLO is trained on."""
SIZES = "orig_target_sizes"
"""RT-DETR's input for the photo's width and height (px), in which it then tells its boxes."""
NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
CALLED = ("person", "human", "people", "pedestrian")


def letterbox(image: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit a photo (H, W, 3) uint8 into (height, width, 3), undistorted, with grey bars; and the map photo → input px."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small, matrix = stretch(image, *size)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    whole = np.full((height, width, 3), GREY, np.uint8)
    whole[top : top + size[1], left : left + size[0]] = small
    matrix[:, 2] = left, top
    return whole, matrix


def stretch(image: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Bring a photo (H, W, 3) uint8 to (height, width, 3), distorted; and the map photo → input px, (2, 3)."""
    import cv2

    shrinks = width <= image.shape[1] and height <= image.shape[0]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized, np.array([[width / image.shape[1], 0.0, 0.0], [0.0, height / image.shape[0], 0.0]])


class OnnxDetector:
    """YOLOv5 to 11, YOLO without overlaps, RT-DETR; the class is that of persons.

    The file is opened when the first photo comes, and again when the detector has travelled to another process.
    """

    def __init__(
        self, weights: str | Path, device: str = "cpu", threshold: float = 0.5, iou: float = 0.45, threads: int = 1
    ):
        """
        Args:
            weights: the .onnx file, with all of its numbers inside.
            threshold: boxes that score less (0 to 1) are dropped.
            iou: of two boxes that overlap by more, where the network does not see to it, the less sure one is dropped.
            threads: of one photo on a CPU; actors run side by side.

        Raises:
            ModuleNotFoundError: onnxruntime is not installed.
            BadCheckpoint: no such file.
        """
        self.weights, self.device = Path(weights), device
        self.threshold, self.iou, self.threads = threshold, iou, threads
        _onnxruntime()
        if not self.weights.is_file():
            raise BadCheckpoint(f"{self.weights}: no such file")
        self.sha256 = file_hash(self.weights)
        self._file: OnnxFile | None = None

    @property
    def settings(self) -> str:
        """See `Detector`."""
        return f"onnx sha256={self.sha256} threshold={self.threshold} iou={self.iou}"

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": None}  # a session does not travel between processes

    def __call__(self, image: np.ndarray) -> list[Box]:
        """See `Detector`; the score is the network's, 0 to 1.

        Raises:
            BadCheckpoint: at the first photo, when the file cannot be used.
        """
        from torchvision.ops import nms

        if self._file is None:
            self._file = OnnxFile(self.weights, self.sha256, self.device, self.threads)
        boxes, scores = self._file.people(image)
        sure = scores >= self.threshold
        boxes, scores = boxes[sure], scores[sure]
        if self._file.layout.overlapping:
            keep = nms(torch.from_numpy(boxes), torch.from_numpy(scores.astype(np.float64)), self.iou).numpy()
            boxes, scores = boxes[keep], scores[keep]
        height, width = image.shape[:2]
        boxes = boxes.clip(0, [width, height, width, height])
        rows = np.column_stack([boxes, scores]).tolist()
        return [Box(x1, y1, x2, y2, score) for x1, y1, x2, y2, score in rows]


class OnnxFile:
    """An opened file: its session, what it takes and what its outputs mean."""

    layout: Layout

    def __init__(self, path: Path, sha256: str, device: str, threads: int):
        """Open `path`, whose bytes must have this hash. Raises BadCheckpoint; ValueError for a device that is not there."""
        self.path = path
        self.session = _session(path, sha256, device, threads)
        inputs = self.session.get_inputs()
        told = ", ".join(f"{each.name} {tuple(each.shape)} {each.type}" for each in inputs)
        images = [each for each in inputs if len(each.shape) == 4]
        others = [each for each in inputs if len(each.shape) != 4]
        if len(images) != 1 or [each.name for each in others] not in ([], [SIZES]):
            expected = f"one photo (1, 3, H, W) and at most {SIZES} beside it"
            raise BadCheckpoint(f"{path}: its inputs are {told}; expected {expected}")
        batch, channels, height, width = images[0].shape
        if any(each.type not in NUMBERS for each in inputs) or "float" not in images[0].type:
            raise BadCheckpoint(f"{path}: its inputs are {told}; expected a photo of float or float16 numbers")
        if isinstance(batch, int) and batch != 1:
            raise BadCheckpoint(f"{path}: takes {batch} photos at a time ({told}); export it with a batch of 1")
        if isinstance(channels, int) and channels != 3:
            raise BadCheckpoint(f"{path}: takes {channels} channels ({told}); expected 3, as (1, 3, H, W)")
        self.name, self.number = images[0].name, NUMBERS[images[0].type]
        self.sizes = NUMBERS[others[0].type] if others else None
        # A size that is left open is a name or None.
        self.height, self.width = (side if isinstance(side, int) else SIDE for side in (height, width))
        self._understand()

    def _understand(self) -> None:
        """Set `layout` and `person` by what comes of a grey photo."""
        grey = np.full((self.height, self.width, 3), GREY, np.uint8)
        names = [output.name for output in self.session.get_outputs()]
        values = self._run(grey, grey.shape, names)
        layout = recognise(dict(zip(names, values)), self.width, self.height, sized=self.sizes is not None)
        if layout is None:
            told = ", ".join(f"{name} {value.shape}" for name, value in zip(names, values))
            told += f" for an input of {self.width}×{self.height} px"
            raise BadCheckpoint(f"{self.path}: its outputs are {told}; understood are {UNDERSTOOD}")
        self.layout, self.person = layout, _person(self.path, self.session)
        _, scores = self.people(grey)
        if scores.size and not (scores.min() >= -0.01 and scores.max() <= 1.01):
            told = f"scores from {scores.min():.3g} to {scores.max():.3g} in what looks like {layout.name}"
            raise BadCheckpoint(f"{self.path}: {told}; expected 0 to 1, after the sigmoid")

    def people(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes x1 y1 x2 y2 (n, 4) float64 in px of the photo (H, W, 3) uint8, and scores (n,): all there are."""
        resized, matrix = (stretch if self.layout.stretched else letterbox)(image, self.width, self.height)
        values = self._run(resized, image.shape, list(self.layout.outputs))
        # One photo went in: its answer is the first and only one.
        boxes, scores = self.layout.read(*(value[0] for value in values), self.person)
        if self.layout.unit == "photo":
            return boxes.astype(np.float64), scores
        if self.layout.unit == "share":
            boxes = boxes * np.array([self.width, self.height, self.width, self.height])
        return apply_affine(invert_affine(matrix), boxes.reshape(-1, 2, 2)).reshape(-1, 4), scores

    def _run(self, resized: np.ndarray, photo: tuple[int, ...], names: list[str]) -> list[np.ndarray]:
        """Outputs of these names, for (height, width, 3) uint8 made of a photo of this shape."""
        feed = {self.name: np.ascontiguousarray(resized.transpose(2, 0, 1)[None] / np.float32(255), self.number)}
        if self.sizes is not None:
            feed[SIZES] = np.array([[photo[1], photo[0]]], self.sizes)
        try:
            values = self.session.run(names, feed)
        except Exception as error:  # onnxruntime's errors are of a dozen classes, none of which is public
            told = f"fails on an input of {self.width}×{self.height} px ({first_line(error)})"
            raise BadCheckpoint(f"{self.path}: {told}") from None
        return [np.asarray(value).astype(np.float32) for value in values]


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        said = "mesh.detector onnx needs onnxruntime: `uv sync --extra onnx`, or `pip install onnxruntime`"
        raise ModuleNotFoundError(said) from None
    return onnxruntime


def _session(path: Path, sha256: str, device: str, threads: int) -> InferenceSession:
    runtime = _onnxruntime()
    kind, _, index = device.partition(":")
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(index or 0)}))
    elif kind != "cpu":
        raise ValueError(f"device is {device!r}, which this onnxruntime cannot use; it can be cpu (cuda: onnxruntime-gpu)")
    data = path.read_bytes()
    now = hashlib.sha256(data).hexdigest()
    if now != sha256:
        raise BadCheckpoint(f"{path}: changed since the detector was made (sha256 {now[:8]}…, was {sha256[:8]}…)")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; what it warns of nobody here can mend
    # Numbers in a second file would not be in the hash: they are looked for where nothing can be.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.absolute()))
    try:
        return runtime.InferenceSession(data, options, providers=providers)
    except Exception as error:  # see _run
        if "external data" in str(error).lower():
            said = "keeps its numbers in a second file; make it one: onnx.save_model(onnx.load(FILE), NEW_FILE)"
            raise BadCheckpoint(f"{path}: {said}") from None
        raise BadCheckpoint(f"{path}: damaged, or no ONNX model that onnxruntime can run ({first_line(error)})") from None


def _person(path: Path, session: InferenceSession) -> int:
    """The class of persons: by the names that Ultralytics writes into its files, else COCO's first."""
    try:
        names = ast.literal_eval(session.get_modelmeta().custom_metadata_map["names"])
        names = dict(enumerate(names)) if isinstance(names, (list, tuple)) else dict(names)
        classes = {str(name).casefold(): int(index) for index, name in names.items()}
    except (KeyError, ValueError, SyntaxError, TypeError):
        return 0
    for name in CALLED:
        if name in classes:
            return classes[name]
    some = ", ".join(list(classes)[:9])
    raise BadCheckpoint(f"{path}: its classes are {some} …; expected one called {', '.join(CALLED)}")
