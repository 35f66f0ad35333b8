"""One model in training: alone, shared by two workers, resumed; schedules; where weights start."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from model.lesson import Lesson, optimiser, rate, start_frame
from model.physique_frame import FrameConfig
from model.views import FrameInputs
from tasks.experts import frame_settings
from tasks.features import VECTORS
from tasks.params import load_params
from tasks.splits import FIT, VAL, split_of
from tasks.tables import write_table
from tasks.train_experts import GENERIC, JOINT, Unit, joint

WIDTH = 12


@pytest.fixture(autouse=True)
def one_thread():
    """Steps this small are slower when shared out, and thirty times slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cohort(splits: tuple[str, ...] = (FIT,)) -> FrameInputs:
    """32 photos of the splits, of bodies that are clouds: the network does not mind."""
    given = torch.Generator().manual_seed(0)
    ids = [i for i in (f"{k * 2**26:08x}" + "0" * 56 for k in range(64)) if split_of(i) in splits][-32:]
    base = torch.randn(10475, 3, generator=given)
    return FrameInputs(
        ids=ids,
        vector=torch.randn(len(ids), 2, WIDTH, generator=given),
        vertices=(base + 0.1 * torch.randn(len(ids), 1, 3, generator=given)).half(),
        points=torch.rand(len(ids), 15, 2, generator=given) * 200,
        visible=torch.ones(len(ids), dtype=torch.bool),
    )


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    inputs = cohort()
    given = torch.Generator().manual_seed(1)
    scores = {d: (torch.rand(len(inputs), generator=given) * 10).numpy() for d in ("appearance", "health", "posture")}
    write_table(pa.table({"photo_id": inputs.ids, "rater_id": ["e"] * len(inputs), **scores}), folder / "labels.parquet")
    return {
        "labels": str(folder / "labels.parquet"), "surveys": {}, "frame": FrameConfig.tiny(WIDTH).to_dict(),
        "compat": "fixed", "start": None, "backbone": None, "recompute": False, "compile": False, "precision": "fp32",
        "seed": 3, "loss": "uncertainty", "schedule": "cosine", "lr": 2e-3, "weight_decay": 0.05, "epochs": 4, "batch": 8,
        "begin": "separate", "own_epochs": 2, "own_lr": 5e-4, "patience": 0, "judge_batch": 16, "preferences": None,
    } | changes  # fmt: skip


def trained(config: dict[str, Any], epochs: int = 2, ranks: tuple[int, int] = (0, 1)) -> Unit:
    unit = Unit(GENERIC, cohort(), config, torch.device("cpu"), ranks)
    for _ in range(epochs):
        unit.train_epoch()
    return unit


def one_worker(rank: int, port: int, config: dict[str, Any], out: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    unit = trained(config, ranks=(rank, 2))
    torch.save(dict(unit.lesson.named_parameters()), f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.timeout(180)
def test_two_workers_that_share_batches_end_with_the_same_weights(tmp_path):
    """All of them: the preference network, which is asked before the frame, and the loss's own, too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = settings(tmp_path)
    mp.spawn(one_worker, args=(port, config, str(tmp_path)), nprocs=2)  # type: ignore[attr-defined]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    start = dict(Unit(GENERIC, cohort(), config, torch.device("cpu")).lesson.named_parameters())
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=0, rtol=0, msg=name)
    for name in ("loss.log_variance", "frame.preference_net.out.weight", "frame.adapter.fc.0.weight"):
        assert (first[name] - start[name]).abs().max() > 1e-5, name


def test_a_resumed_model_is_the_one_that_was_not_stopped(tmp_path):
    config = settings(tmp_path)
    whole = trained(config, 4)
    half = trained(config, 2)
    torch.save(half.state(), tmp_path / "half.pt")
    again = Unit(GENERIC, cohort(), config, torch.device("cpu"))
    again.resume(torch.load(tmp_path / "half.pt", weights_only=True))
    for _ in range(2):
        again.train_epoch()
    for name, value in whole.lesson.state_dict().items():
        assert torch.equal(value, again.lesson.state_dict()[name]), name


def test_half_precision_and_recomputing_train_too(tmp_path):
    plain = trained(settings(tmp_path))
    kept = trained(settings(tmp_path, recompute=True))
    for name, value in plain.lesson.state_dict().items():
        torch.testing.assert_close(kept.lesson.state_dict()[name], value, atol=1e-5, rtol=1e-4, msg=name)
    half = trained(settings(tmp_path, precision="bf16"))
    assert all(value.isfinite().all() for value in half.lesson.state_dict().values())
    assert all(value.dtype in (torch.float32, torch.int64) for value in half.lesson.state_dict().values())


def test_the_papers_schedule_is_a_tenth_every_five_epochs():
    assert [rate("paper", 1e-4, epoch, 20) for epoch in (0, 4, 5, 19)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-7])
    assert rate("cosine", 1e-3, 15, 16) < rate("cosine", 1e-3, 4, 16) <= 1e-3
    lesson = Lesson(start_frame(FrameConfig.tiny(WIDTH), "fixed", None, None), "sum", [{}])
    (group,) = optimiser(lesson, "paper", 1e-4, 0.3).param_groups
    assert (group["eps"], group["weight_decay"]) == (1e-5, 0)


def test_where_weights_start_is_checked(tmp_path):
    with pytest.raises(ValueError, match="model.backbone: frames of this size have no Swin-V2"):
        start_frame(FrameConfig.tiny(WIDTH), "fixed", None, "swin.safetensors")
    vector = pa.array([[0.0] * WIDTH], pa.list_(pa.float32()))
    for name, encoder in (("embeddings", "meshnet-1"), ("own", f"{VECTORS}1")):
        shard = pa.table({"photo_id": ["a"], "vector": vector, "encoder": [encoder]})
        write_table(shard, tmp_path / name / "1.parquet")
    params = load_params()
    missing = params.changed(model={"start": "data/weights/nix"}).model
    with pytest.raises(ValueError, match=r"model.start: data/weights/nix.json is missing"):
        frame_settings(missing, tmp_path / "embeddings")
    assert frame_settings(params.model, tmp_path / "embeddings")["frame"]["image_width"] == WIDTH
    own = frame_settings(params.changed(model={"size": "full"}).model, tmp_path / "own")
    assert own["size"] == own["frame"]["size"] == "vector"


def test_a_model_of_vectors_keeps_its_regression_where_training_does_harm(tmp_path):
    inputs = cohort((FIT, VAL))
    inputs.vertices = inputs.vertices[:, :0]
    config = settings(tmp_path, frame=FrameConfig.of("vector", WIDTH).to_dict(), epochs=3, lr=10.0)
    x, taste = inputs.vector[:, 0], torch.linspace(-1, 1, WIDTH)
    scores = {d: (5 + 0.8 * x @ taste).clamp(0, 10).numpy() for d in ("appearance", "health", "posture")}
    labels = {"photo_id": inputs.ids, "rater_id": ["e"] * len(inputs), **scores}
    write_table(pa.table(labels), tmp_path / "labels.parquet")
    unit = Unit(GENERIC, inputs, config, torch.device("cpu"))
    while not unit.done:
        unit.train_epoch()
    errors = [epoch["val"] for epoch in unit.curve]
    assert [epoch["epoch"] for epoch in unit.curve] == [0, 1, 2, 3]
    assert errors[0] < 0.3 and errors[0] < min(errors[1:])
    assert unit.best is not None and not unit.best["bent.3.weight"].any()  # what no step has touched


def rated_by(experts: dict[str, tuple[float, float]], inputs: FrameInputs, folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings where each expert's scores are slope · (first number of the photo's vector) + offset."""
    inputs.vector[:, 1] = inputs.vector[:, 0]  # the other way round the photo says the same
    rows = []
    for expert, (slope, offset) in experts.items():
        score = (slope * inputs.vector[:, 0, 0] + offset).clamp(0, 10).numpy()
        scores = {d: score for d in ("appearance", "health", "posture")}
        rows.append(pa.table({"photo_id": inputs.ids, "rater_id": [expert] * len(inputs), **scores}))
    config = settings(folder)
    write_table(pa.concat_tables(rows), folder / "labels.parquet")
    surveys = {expert: {"likes": f"taste of {expert}", "age": "30"} for expert in experts}
    files = {GENERIC: "000", JOINT: "001"} | {expert: f"{k:03d}" for k, expert in enumerate(experts, 2)}
    return config | {"surveys": surveys, "begin": "joint", "files": files, "kept": str(folder / "kept")} | changes


def test_a_joint_model_speaks_for_each_expert_by_survey_and_experts_start_from_it(tmp_path):
    inputs = cohort((FIT, VAL))
    experts = {"a": (1.5, 5.0), "b": (-1.5, 5.0)}
    config = rated_by(experts, inputs, tmp_path, epochs=100, lr=0.03, dimensions=["appearance"])
    unit = Unit(JOINT, inputs, config, torch.device("cpu"))
    while not unit.done:
        unit.train_epoch()
    unit.finish()
    view = inputs.view(torch.arange(len(inputs)), torch.zeros(len(inputs), dtype=torch.bool), unit.frame.config)
    said = unit.lesson.eval().scores(view)
    first = inputs.vector[:, 0, 0]
    agree = [torch.corrcoef(torch.stack([said[:, r, 0].detach(), first]))[0, 1] for r in range(2)]
    assert agree[0] > 0.5 and agree[1] < -0.5  # one network, opposite tastes, told apart by their answers alone

    start = joint("b", config)
    assert joint(JOINT, config) is None and joint("b", config | {"begin": "separate"}) is None
    own = Unit("b", inputs, config, torch.device("cpu"), start=start)
    assert (own.epochs, own.lr) == (2, 5e-4)
    for name, value in unit.best.items():
        assert torch.equal(own.frame.state_dict()[name].cpu(), value), name


def test_training_ends_when_validation_photos_gain_nothing_and_the_best_epoch_is_kept(tmp_path):
    inputs = cohort((FIT, VAL))
    config = settings(tmp_path, patience=3, epochs=200)
    noise = torch.rand(len(inputs), generator=torch.Generator().manual_seed(5)).numpy() * 10
    scores = {d: noise for d in ("appearance", "health", "posture")}
    write_table(pa.table({"photo_id": inputs.ids, "rater_id": ["e"] * len(inputs), **scores}), tmp_path / "labels.parquet")
    unit = Unit(GENERIC, inputs, config, torch.device("cpu"))
    while not unit.done:
        unit.train_epoch()
    errors = [epoch["val"] for epoch in unit.curve]
    best = errors.index(min(errors))
    assert unit.epoch < 200 and len(errors) - 1 - best == 3
    unit.frame.load_state_dict(unit.best)
    assert unit.error() == pytest.approx(errors[best], rel=1e-5)


def test_given_preference_vectors_are_learned_and_read_by_frames_that_make_none(tmp_path):
    inputs = cohort()
    config = rated_by({"a": (1.0, 5.0)}, inputs, tmp_path, preferences=str(tmp_path / "preferences.parquet"), lr=0.01)
    vectors = pa.array([[0.9, 0.1, 0.9, 0.1, 0.5]] * 20, pa.list_(pa.float32()))
    given = {"photo_id": inputs.ids[:20], "rater_id": ["a"] * 20, "preference": vectors}
    write_table(pa.table(given), Path(config["preferences"]))
    unit = Unit("a", inputs, config, torch.device("cpu"))
    assert unit.given.isfinite().all(2).sum() == 20
    for _ in range(30):
        unit.train_epoch()
    survey = unit.lesson.answers.sum(1).expand(len(inputs), -1)
    made = unit.frame.eval().preference(survey, inputs.vector[:, 0])
    assert (made.mean(0) - torch.tensor([0.9, 0.1, 0.9, 0.1, 0.5])).abs().max() < 0.15

    reads = Unit("a", inputs, config | {"frame": FrameConfig(WIDTH, survey=False).to_dict()}, torch.device("cpu"))
    view = inputs.view(torch.arange(4), torch.zeros(4).bool(), reads.frame.config)
    reads.lesson.eval()
    with torch.no_grad():
        other = torch.rand(4, 1, 5, generator=torch.Generator().manual_seed(1))
        assert reads.lesson(view, reads.labels[:4], other) != reads.lesson(view, reads.labels[:4], None)
