"""VectorFrame: scores of items from their vectors alone; a ridge in closed form is where training starts."""

import math

import pytest
import torch

from model.checkpoint import load_frame, save_frame
from model.lesson import Lesson, start_frame
from model.physique_frame import FrameConfig
from model.predictor import Predictor, write_bundle
from model.preference import survey_code
from model.vector_frame import VectorFrame, ridge
from model.views import FrameInputs, score_views

WIDTH = 6
SCALES = torch.tensor([1.0, 10, 0.01, 1e4, 1, 1])


def items(count: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 6) vectors in units of their own, the last of them constant, and (N, 3) scores that are linear in them."""
    given = torch.Generator().manual_seed(0)
    z = torch.randn(count, WIDTH, generator=given)
    z[:, 5] = 0
    taste = torch.randn(WIDTH, 3, generator=given) * 0.6
    return z * SCALES + torch.tensor([0, 3, 1, -2e4, 0, 7.0]), 5 + z @ taste


def frame() -> VectorFrame:
    torch.manual_seed(0)
    return VectorFrame(FrameConfig.of("vector", WIDTH)).eval()


def test_it_begins_where_a_ridge_regression_ends():
    x, y = items()
    made = frame()
    made.begin(x[:60], y[:60, None])
    off = made.score(made.fuse(x[60:])) - y[60:].clamp(0, 10)
    assert off.abs().max() < 0.1 < y.std() / 5
    z = made.fuse(x[:60])[:, :WIDTH]
    torch.testing.assert_close(z.mean(0), torch.zeros(WIDTH), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0)[:5], torch.ones(5), atol=1e-3, rtol=0)
    assert z[:, 5].abs().max() == 0  # a constant says nothing


def test_an_expert_of_few_ratings_stays_near_the_joint_model():
    x, y = items()
    noise = torch.randn(80, 3, generator=torch.Generator().manual_seed(1)) * 2
    joint = frame()
    joint.begin(x, y[:, None])
    own = frame()
    own.load_state_dict(joint.state_dict())
    own.begin(x[:12], (y + noise)[:12, None], fresh=False)
    alone = frame()
    alone.begin(x[:12], (y + noise)[:12, None])
    errors = [(f.score(f.fuse(x[20:])) - y[20:].clamp(0, 10)).square().mean() for f in (own, alone)]
    assert errors[0] < 0.5 * errors[1]


def test_dimensions_with_few_labels_or_none_are_a_level():
    x, y = items(30)
    y[:, 1], y[3:, 2] = torch.nan, torch.nan
    made = frame()
    made.begin(x, y[:, None])
    said = made.score(made.fuse(x))
    assert (said[:, 1] == 5).all()
    torch.testing.assert_close(said[:, 2], y[:3, 2].mean().expand(30))


def test_the_penalty_grows_with_noise():
    given = torch.Generator().manual_seed(0)
    x = torch.randn(40, 30, generator=given, dtype=torch.float64)
    taste = torch.randn(30, generator=given, dtype=torch.float64)
    noise = torch.randn(40, generator=given, dtype=torch.float64)
    clear, _ = ridge(x, x @ taste + 0.01 * noise)
    lost, _ = ridge(x, 20 * noise)
    assert (clear - taste).norm() < 0.1 * taste.norm()
    assert lost.norm() < 0.5 * torch.linalg.lstsq(x, 20 * noise).solution.norm()


def test_training_learns_what_is_bent():
    x, _ = items(300)
    z = (x - x.mean(0)) / x.std(0).clamp_min(1e-3)
    y = (5 + 2 * (z[:, 0].abs() - 0.8) + z[:, 1])[:, None].repeat(1, 3)
    made = frame()
    made.begin(x, y[:, None])
    before = (made.score(made.fuse(x)) - y).square().mean()
    lesson = Lesson(made, "sum", [{}])
    inputs = FrameInputs([""] * 300, x[:, None].expand(-1, 2, -1), torch.zeros(300, 0, 3), torch.zeros(300, 15, 2),
                         torch.zeros(300, dtype=torch.bool))  # fmt: skip
    view = inputs.view(torch.arange(300), torch.zeros(300, dtype=torch.bool), made.config)
    solver = torch.optim.AdamW(lesson.parameters(), lr=0.02)
    for _ in range(60):
        solver.zero_grad()
        lesson(view, y[:, None]).backward()
        solver.step()
    scores, fused = score_views(made.eval(), inputs, torch.arange(300), survey_code({}))
    assert (scores - y).square().mean() < 0.5 * before
    assert fused.shape == (300, WIDTH + 5)


def test_on_disk_and_back(tmp_path):
    x, y = items()
    made = frame()
    made.begin(x, y[:, None])
    save_frame(made, tmp_path, "000", {"survey": {}})
    again, about = load_frame(tmp_path, "000")
    assert isinstance(again, VectorFrame) and about == {"survey": {}}
    assert torch.equal(again.score(again.fuse(x)), made.score(made.fuse(x)))


def test_a_bundle_answers_vectors_and_names_bad_ones(tmp_path):
    x, y = items()
    made = frame()
    made.begin(x, y[:, None])
    save_frame(made, tmp_path / "models", "000", {"survey": {}})
    bundle = write_bundle(tmp_path / "bundle", reader=None, models=tmp_path / "models", files={"anna": "000"},
                          dimensions=["health"])  # fmt: skip
    predictor = Predictor(bundle)
    row = x[0].tolist()
    answers = predictor.of_vectors([row, row[:5], "abc", None, [*row[:5], math.nan], x[0].numpy()])
    assert [answer.error for answer in answers] == [
        "",
        "vector: length 5, expected a list of 6 numbers",
        "vector: str, expected a list of 6 numbers",
        "vector: a single value, expected a list of 6 numbers",
        "vector: holds NaN, infinity or a number beyond 3e38",
        "",
    ]
    expected = made.score(made.fuse(x[:1]))[0].detach()
    assert answers[0].scores[1] == pytest.approx(float(expected[1]), abs=1e-5) == answers[5].scores[1]
    assert math.isnan(answers[0].scores[0]) and [answer.status for answer in answers[:2]] == ["ok", "unreadable"]
    with pytest.raises(ValueError, match="this model reads vectors of 6 numbers, not photos"):
        predictor([b"photo"])


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"vector: shape \(2, 5\), expected \(2, 6\)"):
        frame().fuse(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="model.start: weights of photos' models; null where data.source is features"):
        start_frame(FrameConfig.of("vector", 4), "fixed", "data/weights/x", None)
