"""Detectors whose weights are a file: every layout of ONNX exports, networks of torchvision, and files that do not do."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from model.detect import Box, make_detector, overlap
from model.detect_torchvision import TorchvisionDetector
from model.files import file_hash
from model.state_files import BadCheckpoint

KINDS = ("yolov5", "yolov8", "end2end", "queries", "logits", "labels")
SSD, FASTER = "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture(scope="module")
def graphs():
    """`tests.onnx_graphs`."""
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed: uv sync --extra onnx")
    from tests import onnx_graphs

    return onnx_graphs


@pytest.fixture
def onnx_file(graphs, tmp_path) -> Path:
    return graphs.export("yolov8", tmp_path / "yolo.onnx")


def scene(width: int, height: int, *box: int) -> np.ndarray:
    """A dark photo with somebody in red, and something blue that only a detector with wrong colours takes for them."""
    image = np.full((height, width, 3), 20, np.uint8)
    image[: height // 8, : width // 8] = 0, 0, 255
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255, 0, 0
    return image


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((512, 256), (128, 64, 192, 240)),  # wide: a letterbox shrinks it to a quarter, bars above and below
        ((128, 512), (32, 100, 96, 412)),  # high
        ((64, 32), (10, 8, 30, 28)),  # smaller than the network's input
        ((128, 128), (0, 0, 128, 128)),  # whoever fills it
    ],
)
def test_a_person_is_found_where_they_are_in_the_photo(graphs, tmp_path, kind, size, box):
    detector = make_detector("onnx", None, graphs.export(kind, tmp_path / "net.onnx"))
    (found,) = detector(scene(*size, *box))
    # The edges lie between pixels of the input too, so nothing is rounded but where a small photo is blown up.
    np.testing.assert_allclose(found.xyxy(), box, atol=0.6 if size == (64, 32) else 1e-3)
    assert found.score == pytest.approx(0.9, abs=0.03)
    assert detector(scene(*size, 0, 0, 0, 0)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_that_is_no_square(graphs, tmp_path, kind):
    detector = make_detector("onnx", None, graphs.export(kind, tmp_path / "net.onnx", width=192, height=96))
    (found,) = detector(scene(333, 457, 101, 50, 222, 437))
    np.testing.assert_allclose(found.xyxy(), (101, 50, 222, 437), atol=457 / 96)


@pytest.mark.parametrize("kind", KINDS)
def test_half_numbers_and_open_sizes(graphs, tmp_path, kind):
    path = graphs.export(kind, tmp_path / "net.onnx", width=640, height=640, half=True, open_size=True)
    (found,) = make_detector("onnx", None, path)(scene(1280, 640, 128, 64, 192, 240))
    np.testing.assert_allclose(found.xyxy(), (128, 64, 192, 240), atol=2)  # a half near 640 knows half pixels


@pytest.mark.parametrize(("size", "inside"), [((512, 256), np.s_[32:96]), ((40, 80), np.s_[:, 32:96])])
def test_a_letterbox_has_grey_bars_and_distorts_nothing(graphs, size, inside):
    from model.detect_onnx import letterbox

    whole, matrix = letterbox(np.full((size[1], size[0], 3), 200, np.uint8), 128, 128)
    assert (whole[inside] == 200).all() and matrix[0, 0] == matrix[1, 1] == 128 / max(size)
    whole[inside] = 114
    assert whole.shape == (128, 128, 3) and (whole == 114).all()


@pytest.mark.parametrize("kind", KINDS)
def test_yolo_sees_the_photo_as_it_is_and_rt_detr_stretched(graphs, tmp_path, kind, monkeypatch):
    detector, image = make_detector("onnx", None, graphs.export(kind, tmp_path / "net.onnx")), scene(512, 256, 0, 0, 9, 9)
    detector(image)
    run, seen = detector._file._run, []
    monkeypatch.setattr(detector._file, "_run", lambda resized, *rest: seen.append(resized) or run(resized, *rest))
    detector(image)
    (resized,) = seen
    assert (resized[:30] == 114).all() == (kind in ("yolov5", "yolov8", "end2end"))
    assert resized.shape == (128, 128, 3) and (resized[64] != 114).any()


def test_boxes_end_at_the_edge_of_the_photo(graphs, tmp_path):
    """The twin of somebody at the edge lies one pixel outside of it."""
    from model.detect_onnx import OnnxDetector

    path = graphs.export("yolov8", tmp_path / "net.onnx")
    found = OnnxDetector(path, iou=1.0)(scene(128, 128, 64, 0, 128, 128))
    assert [box.xyxy().tolist() for box in found] == [[64, 0, 128, 128], [65, 1, 128, 128]]


def test_the_threshold_and_who_is_hardly_there(graphs, onnx_file):
    from model.detect_onnx import OnnxDetector

    image = scene(128, 128, 64, 0, 128, 128)
    counts = [len(OnnxDetector(onnx_file, threshold=t)(image)) for t in (0.2, 0.5, 0.89, 0.91)]
    assert counts == [2, 1, 1, 0]
    changes = ({}, {"threshold": 0.4}, {"iou": 0.6})
    assert len({OnnxDetector(onnx_file, **change).settings for change in changes}) == 3
    told = OnnxDetector(onnx_file).settings
    assert file_hash(onnx_file) in told and "\n" not in told
    graphs.export("yolov5", onnx_file)
    assert OnnxDetector(onnx_file).settings != told


def test_the_class_of_persons_is_told_by_its_name(graphs, tmp_path):
    image = scene(128, 128, 64, 0, 128, 128)
    for names in ("{0: 'cat', 7: 'Person'}", "['a', 'b', 'c', 'd', 'e', 'f', 'g', 'person']"):
        path = graphs.export("yolov8", tmp_path / "net.onnx", person=7, told={"names": names})
        assert len(make_detector("onnx", None, path)(image)) == 1
    assert make_detector("onnx", None, graphs.export("yolov8", tmp_path / "net.onnx", person=7))(image) == []
    path = graphs.export("yolov8", tmp_path / "net.onnx", told={"names": "{0: 'cat', 1: 'dog'}"})
    with pytest.raises(BadCheckpoint, match=r"net\.onnx: its classes are cat, dog …; expected one called person"):
        make_detector("onnx", None, path)(image)


def test_an_onnx_detector_travels_and_keeps_to_one_thread(onnx_file):
    detector, image = make_detector("onnx", None, str(onnx_file)), scene(128, 128, 64, 0, 128, 128)
    before = pickle.loads(pickle.dumps(detector))
    found = detector(image)
    after = pickle.loads(pickle.dumps(detector))
    assert found and before(image) == after(image) == found and after.settings == detector.settings
    assert detector._file.session.get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([1, 3, 128], r"its inputs are images \(1, 3, 128\).*; expected one photo \(1, 3, H, W\)"),
        ([4, 3, 32, 32], r"takes 4 photos at a time .*; export it with a batch of 1"),
        ([1, 1, 32, 32], r"takes 1 channels .*; expected 3, as \(1, 3, H, W\)"),
        ([1, 32, 32, 3], r"takes 32 channels"),
        ([1, 3, 32, 32], r"its outputs are output0 \(1, 3, 32, 32\) for an input of 32×32 px; understood are .*YOLOv8"),
        (["n", "c", "h", "w"], r"its outputs are output0 \(1, 3, 640, 640\)"),
    ],
)
def test_inputs_and_outputs_of_something_else(graphs, tmp_path, shape, said):
    graph = graphs.Graph()
    graph.do("Identity", "images", called="output0")
    path = graph.save(tmp_path / "net.onnx", shape, ["output0"], False, {})
    with pytest.raises(BadCheckpoint, match=rf"net\.onnx: {said}"):
        make_detector("onnx", None, path)(scene(64, 64, 0, 0, 9, 9))


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"output": (1, 336, 85)}, r"output \(1, 336, 85\)"),  # one box at each place: YOLOX, which wants other colours
        ({"logits": (1, 100, 92), "pred_boxes": (1, 100, 4)}, r"logits \(1, 100, 92\), pred_boxes"),  # DETR, likewise
        ({"labels": (1, 9), "boxes": (1, 9, 4), "scores": (1, 9)}, "labels"),  # of a photo of which size?
        ({"a": (1, 84, 336), "b": (1, 84, 336)}, "a .1, 84, 336., b"),
    ],
)
def test_outputs_that_are_nearly_right(graphs, tmp_path, shapes, said):
    graph = graphs.Graph()
    zero = graph.do("ReduceMin", graph.do("Sub", "images", "images"), keepdims=0)
    for name, shape in shapes.items():
        graph.do("Add", zero, graph.put(np.full(shape, 2.5)), called=name)
    path = graph.save(tmp_path / "net.onnx", [1, 3, 128, 128], list(shapes), False, {})
    with pytest.raises(BadCheckpoint, match=f"its outputs are {said}.*; understood are"):
        make_detector("onnx", None, path)(scene(64, 64, 0, 0, 9, 9))


def test_scores_that_are_none(graphs, tmp_path):
    graph = graphs.Graph()
    zero = graph.do("ReduceMin", graph.do("Sub", "images", "images"), keepdims=0)
    graph.do("Add", zero, graph.put(np.full((1, 84, 336), -3)), called="output0")
    path = graph.save(tmp_path / "net.onnx", [1, 3, 128, 128], ["output0"], False, {})
    with pytest.raises(BadCheckpoint, match=r"scores from -3 to -3 in what looks like YOLOv8; expected 0 to 1"):
        make_detector("onnx", None, path)(scene(64, 64, 0, 0, 9, 9))


def test_onnx_files_that_cannot_be_read(graphs, onnx_file, tmp_path, monkeypatch):
    import onnx

    image = scene(64, 64, 0, 0, 9, 9)
    with pytest.raises(BadCheckpoint, match=r"nowhere\.onnx: no such file"):
        make_detector("onnx", None, tmp_path / "nowhere.onnx")
    (tmp_path / "torn.onnx").write_bytes(onnx_file.read_bytes()[:300])
    with pytest.raises(BadCheckpoint, match=r"torn\.onnx: damaged, or no ONNX model"):
        make_detector("onnx", None, tmp_path / "torn.onnx")(image)
    onnx.save_model(onnx.load(onnx_file), tmp_path / "two.onnx", save_as_external_data=True, location="two.data")
    assert (tmp_path / "two.data").stat().st_size > 1000
    monkeypatch.chdir(tmp_path)  # where onnxruntime would find the second file
    with pytest.raises(BadCheckpoint, match=r"two\.onnx: keeps its numbers in a second file; make it one"):
        make_detector("onnx", None, "two.onnx")(image)
    with pytest.raises(ValueError, match=r"device is 'tpu', which this onnxruntime cannot use"):
        make_detector("onnx", None, onnx_file, device="tpu")(image)
    detector = make_detector("onnx", None, onnx_file)
    graphs.export("yolov5", onnx_file)
    with pytest.raises(BadCheckpoint, match=r"yolo\.onnx: changed since the detector was made"):
        detector(image)


def test_without_onnxruntime(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs onnxruntime: `uv sync --extra onnx`, or `pip install"):
        make_detector("onnx", None, tmp_path / "net.onnx")


@pytest.mark.parametrize("name", ["onnx", f"torchvision:{SSD}"])
def test_no_weights_are_given(name):
    with pytest.raises(ValueError, match=rf"^mesh\.detector is '{name}', which needs a file of weights, and none is"):
        make_detector(name, None)


def test_detectors_without_the_mesh_network():
    for name in ("auto", "presence"):
        with pytest.raises(ValueError, match=rf"^mesh\.detector is '{name}', which looks with the mesh network, and none"):
            make_detector(name, None)
    assert make_detector("hog", None)(np.full((64, 64, 3), 9, np.uint8)) == []
    for name in ("torchvision", "torchvision:", "onnx:yolo"):
        with pytest.raises(ValueError, match=rf"^mesh\.detector is '{name}'; it can be auto, .* or torchvision:MODEL$"):
            make_detector(name, None, "net.pth")


@pytest.fixture(scope="module")
def ssd() -> torch.nn.Module:
    """A network with random weights that sees people and bicycles more than all else. Tests leave it as it is."""
    from torchvision.models import get_model

    torch.manual_seed(3)
    net = get_model(SSD, weights=None, weights_backbone=None)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of what it has seen
    with torch.no_grad():  # else layer after layer the photo fades away
        net.head(list(net.backbone(torch.rand(2, 3, 320, 320)).values()))
        for block in net.head.classification_head.module_list:
            block[1].bias.view(-1, 91)[:, 1:3] += 5
    return net.eval()


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """(100, 150, 3), which cannot be written to, like a decoded photo."""
    image = np.random.default_rng(1).integers(0, 256, (100, 150, 3), np.uint8)
    image.setflags(write=False)
    return image


@pytest.fixture
def ssd_file(ssd, tmp_path) -> Path:
    torch.save(ssd.state_dict(), tmp_path / "ssd.pth")
    return tmp_path / "ssd.pth"


def expected(net: torch.nn.Module, image: np.ndarray, threshold: float) -> list[Box]:
    """What torchvision's network says itself."""
    with torch.no_grad():
        (said,) = net([torch.tensor(image.copy()).permute(2, 0, 1) / 255])
    rows = zip(said["boxes"].tolist(), said["labels"].tolist(), said["scores"].tolist())
    return [Box(*box, score) for box, label, score in rows if label == 1 and score >= threshold]


def test_a_torchvision_detector_says_what_the_network_says(ssd, ssd_file, noise):
    detector = make_detector(f"torchvision:{SSD}", None, ssd_file)
    assert detector.threshold == 0.5
    every = TorchvisionDetector(SSD, ssd_file, threshold=0.0)
    scores = sorted(box.score for box in every(noise))
    assert every(noise) == expected(ssd, noise, 0.0) and len(scores) > 5
    some = TorchvisionDetector(SSD, ssd_file, threshold=scores[3])
    assert some(noise) == expected(ssd, noise, scores[3]) and len(some(noise)) == len(scores) - 3
    assert detector(noise) == expected(ssd, noise, 0.5)
    for box in every(noise):
        assert 0 <= box.x1 <= box.x2 <= 150 and 0 <= box.y1 <= box.y2 <= 100
    assert every(noise[:, ::-1]) != every(noise)
    assert every(np.array(noise)) == every(noise)


def test_what_a_torchvision_detector_tells_of_itself(ssd, ssd_file, noise, tmp_path):
    detector = TorchvisionDetector(SSD, ssd_file, threshold=0.0)
    found = detector(noise)
    again = pickle.loads(pickle.dumps(detector))
    assert again._net is None and again(noise) == found and again.settings == detector.settings
    assert file_hash(ssd_file) in detector.settings and "\n" not in detector.settings
    state = {f"module.{key}": value for key, value in ssd.state_dict().items()}
    torch.save({"model": state, "epoch": 3}, tmp_path / "wrapped.pth")
    wrapped = TorchvisionDetector(SSD, tmp_path / "wrapped.pth", threshold=0.0)
    assert wrapped(noise) == found and wrapped.settings != detector.settings
    late = TorchvisionDetector(SSD, ssd_file)
    ssd_file.write_bytes((tmp_path / "wrapped.pth").read_bytes())
    with pytest.raises(BadCheckpoint, match=r"ssd\.pth: changed since the detector was made"):
        late(noise)


FIRST = "head.classification_head.module_list.0.1.bias"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda s: s.pop(FIRST), f"missing: {FIRST}$"),
        (lambda s: s.update(other=torch.zeros(1)), "unexpected: other$"),
        (lambda s: s.update({FIRST: torch.zeros(12)}), f"size mismatch for {FIRST}: .*12.*546"),
        (lambda s: s[FIRST].fill_(float("nan")), f"{FIRST} holds numbers that are not finite"),
        (lambda s: [s.pop(key) for key in list(s) if key.startswith("head")], r"missing: head\..* and \d+ more$"),
        (lambda s: s.update({"other": print}), "nothing was run"),
        (lambda s: s.update({"other": 3}), "'other' is a int, expected a tensor"),
    ],
)
def test_weights_are_loaded_strictly(ssd, noise, tmp_path, broken, said):
    state = {key: value.clone() for key, value in ssd.state_dict().items()}
    broken(state)
    torch.save(state, tmp_path / "ssd.pth")
    with pytest.raises(BadCheckpoint, match=rf"ssd\.pth: .*{said}"):
        TorchvisionDetector(SSD, tmp_path / "ssd.pth")(noise)


def test_files_and_models_that_are_not_there(ssd_file, tmp_path):
    with pytest.raises(BadCheckpoint, match=r"nowhere\.pth: no such file"):
        TorchvisionDetector(SSD, tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match=r"torchvision has no detector 'yolo'; it can be fasterrcnn_.*, ssdlite320"):
        make_detector("torchvision:yolo", None, ssd_file)


def test_a_file_of_an_older_torchvision(noise, tmp_path, monkeypatch):
    """Without counters, under older names; and some are run without an epsilon, as torchvision runs them."""
    from torchvision.models import get_model

    torch.manual_seed(4)
    net = get_model(FASTER, weights=None, weights_backbone=None).eval()
    net.roi_heads.box_predictor.cls_score.bias.data[1] += 6
    state = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    state = {key.replace("rpn.head.conv.0.0.", "rpn.head.conv."): value for key, value in state.items()}
    path = tmp_path / "old.pth"
    torch.save(state, path)
    detector = TorchvisionDetector(FASTER, path)
    assert detector(noise) == expected(net, noise, 0.5) != []
    assert {m.eps for m in detector._net.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-5}
    monkeypatch.setattr("model.detect_torchvision.NO_EPSILON", (file_hash(path)[:8],))
    official = TorchvisionDetector(FASTER, path)
    assert overlap(official(noise)[0], detector(noise)[0]) > 0.9
    assert {m.eps for m in official._net.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.0}
    path.unlink()  # 77 MB
