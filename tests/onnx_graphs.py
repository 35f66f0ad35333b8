"""Small ONNX files that find a red rectangle, and tell it as the exports of YOLO and RT-DETR tell a person.

Beside it they tell a bus, somebody who is hardly there, and, where a network leaves that to others, the person twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES, BUS = 80, 5
CENTRED = np.array([[0.5, 0, -1, 0], [0, 0.5, 0, -1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]], np.float32)
"""(x1, y1, x2, y2) @ CENTRED = centre x, centre y, width, height."""


class Graph:
    """A graph in the making: `put` a constant, `do` an operation; both return the name of what comes out."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def put(self, value: Any, kind: Any = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def do(self, operation: str, *inputs: str, called: str | None = None, **settings: Any) -> str:
        self.nodes.append(helper.make_node(operation, inputs, [called or f"n{len(self.nodes)}"], **settings))
        return self.nodes[-1].output[0]

    def floats(self, value: str) -> str:
        return self.do("Cast", value, to=TensorProto.FLOAT)

    def person(self) -> tuple[str, str]:
        """Box (1, 1, 4) x1 y1 x2 y2 px of what is redder than blue in `images`, and how red it is at most, (1, 1, 1)."""
        images = self.floats("images")
        red, blue = (self.do("Gather", images, self.put(k, np.int64), axis=1) for k in (0, 2))
        rest = self.do("Sub", red, blue)
        there = self.floats(self.do("Greater", rest, self.put(0.5)))
        sides = []
        for last in (0, 1):
            for axis in (1, 2):  # gone: first the rows, which leaves left and right
                line = self.do("ReduceMax", there, axes=[axis], keepdims=0)
                place = self.floats(self.do("ArgMax", line, axis=1, select_last_index=last))
                sides.append(self.do("Add", place, self.put(float(last))))
        box = self.do("Unsqueeze", self.do("Concat", *sides, axis=1), self.put([1], np.int64))
        return box, self.do("ReduceMax", rest, axes=[1, 2], keepdims=1)

    def save(self, path: Path, images: list[Any], outputs: list[str], half: bool, told: dict[str, str]) -> Path:
        kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info("images", kind, images)]
        if any("orig_target_sizes" in node.input for node in self.nodes):
            inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, [1, 2]))
        results = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "graph", inputs, results, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(model, told)
        onnx.save_model(model, path)
        return path


def export(
    kind: str, path: Path, width: int = 128, height: int = 128, half: bool = False, open_size: bool = False,
    person: int = 0, top: float = 1.0, told: dict[str, str] | None = None,
) -> Path:  # fmt: skip
    """A file that tells what it finds as `kind` does.

    open_size: the input's size is left open (the file works at width × height alone). person: its class. top: what
    all scores are multiplied with. told: what Ultralytics writes beside a graph.
    """
    g = Graph()
    box, red = g.person()
    twice = kind in ("yolov5", "yolov8")
    bus, hardly = [4, 4, 0.5 * width, 0.9 * height], [40, 8, 70, 30]
    twin = [g.do("Add", box, g.put(1.0))] if twice else []
    boxes = g.do("Concat", box, *twin, g.put([[bus, hardly]]), axis=1)
    # (rows, classes): the person, again, the bus, somebody
    scores = np.zeros((4, CLASSES))
    scores[:, person], scores[2, BUS] = (0.9, 0.8, 0, 0.3), 0.95
    scores = scores[[0, 1, 2, 3] if twice else [0, 2, 3]] * top
    rows, places = len(scores), sum((width // s) * (height // s) for s in (8, 16, 32))
    centred = g.do("MatMul", boxes, g.put(CENTRED))
    share = g.do("Div", centred, g.put([width, height, width, height]))
    outputs = ["output0"]
    if kind == "yolov5":
        objectness = np.array([[0.95], [0.9], [0.97], [0.5]])
        values = g.put(np.concatenate([objectness, scores / objectness], 1)[None])
        found = g.do("Concat", centred, g.do("Mul", values, red), axis=2)
        g.do("Concat", found, g.put(np.zeros((1, 3 * places - rows, 5 + CLASSES))), axis=1, called="output0")
    elif kind == "yolov8":
        found = g.do("Concat", centred, g.do("Mul", g.put(scores[None]), red), axis=2)
        found = g.do("Concat", found, g.put(np.zeros((1, places - rows, 4 + CLASSES))), axis=1)
        g.do("Transpose", found, perm=[0, 2, 1], called="output0")
    elif kind == "end2end":
        best = g.do("Mul", g.put(scores.max(1)[None, :, None]), red)
        found = g.do("Concat", boxes, best, g.put(scores.argmax(1)[None, :, None]), axis=2)
        g.do("Concat", found, g.put(np.zeros((1, 300 - rows, 6))), axis=1, called="output0")
    elif kind == "queries":
        g.do("Concat", share, g.do("Mul", g.put(scores[None]), red), axis=2, called="output0")
    elif kind == "logits":
        odds = np.log(np.maximum(scores, 0.001) / (1 - np.maximum(scores, 0.001)))
        g.do("Sub", g.do("Mul", g.put(odds[None] + 7), red), g.put(7), called="logits")
        g.do("Identity", share, called="pred_boxes")
        outputs = ["logits", "pred_boxes"]
    elif kind == "labels":
        size = g.floats("orig_target_sizes")
        photo = g.do("Div", g.do("Concat", size, size, axis=1), g.put([[width, height, width, height]]))
        g.do("Mul", boxes, photo, called="boxes")
        g.do("Identity", g.put(scores.argmax(1)[None], np.int64), called="labels")
        best = g.do("Squeeze", red, g.put([2], np.int64))
        g.do("Mul", g.put(scores.max(1)[None]), best, called="scores")
        outputs = ["labels", "boxes", "scores"]
    if half:
        for name in outputs:
            (node,) = (node for node in g.nodes if name in node.output)
            node.output[0] = f"whole_{name}"
            g.do("Cast", node.output[0], called=name, to=TensorProto.FLOAT16)
    images = ["batch", 3, "height", "width"] if open_size else [1, 3, height, width]
    return g.save(path, images, outputs, half, told or {})
