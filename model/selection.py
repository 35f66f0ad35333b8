"""Which expert model suits a user: survey answers give a prior over experts, ratings so far a likelihood.

The survey model is a ridge-regularised multinomial regression on one-hot answers, learned on earlier users. How
much it may say is decided by its likelihood on users left out: if answers do not help there, every user gets the
marginal probabilities. Ratings enter through `personal.Stats`: each expert's predictions with the user's own
offset and slope, integrated out. Surveys are plain dicts; unknown questions and answers are ignored, a missing
answer says nothing.
"""

from dataclasses import dataclass, field
from math import log

import torch
from torch import Tensor

from model.personal import Stats


@dataclass
class Survey:
    """Questions seen in training. categories: question → answers with an indicator each; numbers: question → (mean, sd)."""

    categories: dict[str, list[str]] = field(default_factory=dict)
    numbers: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(map(len, self.categories.values())) + len(self.numbers)

    def encode(self, answers: list[dict[str, str | None]]) -> Tensor:
        """(U, size) float64; an unanswered question is a row of zeros in its block."""
        rows = torch.zeros(len(answers), self.size, dtype=torch.float64)
        for u, answer in enumerate(answers):
            column = 0
            for question, known in self.categories.items():
                value = answer.get(question)
                if value is not None and str(value) in known:
                    rows[u, column + known.index(str(value))] = 1.0
                column += len(known)
            for question, (mean, sd) in self.numbers.items():
                number = _number(answer.get(question))
                if number is not None:
                    rows[u, column] = max(-3.0, min(3.0, (number - mean) / sd))
                column += 1
        return rows


def _number(value: str | None) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if number == number and abs(number) < 1e12 else None


def read_survey(answers: list[dict[str, str | None]], most: int = 12) -> Survey:
    """Question types from the answers: more than 8 distinct numbers are a number, up to `most` values categories.

    Answers that fewer than 3 users gave, and free text, are left out.
    """
    survey = Survey()
    for question in sorted({key for answer in answers for key in answer}):
        values = [str(a[question]) for a in answers if a.get(question) not in (None, "")]
        numbers = [n for n in map(_number, values) if n is not None]
        distinct = sorted(set(values))
        if values and len(numbers) == len(values) and len(distinct) > 8:
            column = torch.tensor(numbers, dtype=torch.float64)
            if len(numbers) > 2 and column.std() > 0:
                survey.numbers[question] = (float(column.mean()), float(column.std()))
            continue
        common = [value for value in distinct if values.count(value) >= 3]
        if len(common) >= 2 and len(distinct) <= most:
            survey.categories[question] = common
    return survey


@dataclass
class Selection:
    """survey, weights (size + 1, E) with the intercept last, noise (D,) of ratings about a chosen expert, temper.

    level and slope: N(mean, variance) of users' offset and slope on an expert's predictions, (D, 2) and (D, 2).
    temper in 0..1: how much of the ratings' log likelihood to believe (no expert is exactly right about a user).
    """

    survey: Survey
    weights: Tensor
    points: Tensor  # (E, D, P) experts in feature space
    noise: Tensor
    prior_mean: Tensor
    prior_var: Tensor
    average: Tensor  # (E,) mean of p(expert | survey) over earlier users
    temper: float

    def from_survey(self, answers: list[dict[str, str | None]]) -> Tensor:
        """log p(expert | survey): (U, E)."""
        x = self.survey.encode(answers)
        return torch.log_softmax(x @ self.weights[:-1] + self.weights[-1], 1)

    def shift(self, answers: list[dict[str, str | None]]) -> Tensor:
        """δ (U, D, P): the expert that a survey leads to expect, minus the one expected of earlier users' surveys.

        A user who answers nothing is expected to be like the average of those who did: δ = 0.
        """
        p = self.from_survey(answers).exp()
        silent = torch.tensor([not row.any() for row in self.survey.encode(answers)], dtype=torch.bool)
        return torch.einsum("ue,edp->udp", torch.where(silent[:, None], 0.0, p - self.average), self.points)

    def choose(self, answers: list[dict[str, str | None]], stats: Stats) -> tuple[Tensor, Tensor]:
        """Best expert (U,) and probabilities of all (U, E), given surveys and ratings; either may be empty."""
        likelihood = loglik(stats, self.points, self.noise, self.prior_mean, self.prior_var)
        log_p = torch.log_softmax(self.from_survey(answers) + self.temper * likelihood, 1)
        return log_p.argmax(1), log_p.exp()


def _reduced(stats: Stats, points: Tensor) -> tuple[Tensor, Tensor]:
    """Normal equations of y = offset + slope·f_e per expert: (U, E, D, 2, 2) and (U, E, D, 2), from the stats.

    Exact because the intercept and f_e are both directions of φ.
    """
    f = torch.einsum("udpq,edq->uedp", stats.A, points)  # A s_e
    cross = f[..., 0]  # Σ f_e, as φ_0 = 1
    square = torch.einsum("uedp,edp->ued", f, points)
    n = stats.A[..., 0, 0][:, None].expand_as(cross)
    matrix = torch.stack([torch.stack([n, cross], -1), torch.stack([cross, square], -1)], -2)
    level = stats.b[..., 0][:, None].expand_as(cross)
    vector = torch.stack([level, torch.einsum("udp,edp->ued", stats.b, points)], -1)
    return matrix, vector


def loglik(stats: Stats, points: Tensor, noise: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Log marginal likelihood of a user's ratings under each expert (U, E), summed over rated dimensions.

    y = offset + slope·f_e + noise with (offset, slope) ~ N(mean (D, 2), diag var (D, 2)) integrated out.
    """
    matrix, vector = _reduced(stats, points)
    residual = vector - (matrix @ mean[..., None])[..., 0]
    root = var.sqrt()
    inner = root[..., :, None] * matrix * root[..., None, :] / noise[:, None, None]
    inner = inner + torch.eye(2, dtype=torch.float64)
    scaled = residual * root / noise[:, None]
    lower = torch.linalg.cholesky(inner)
    half = torch.linalg.solve_triangular(lower, scaled[..., None], upper=False)[..., 0]
    explained = (half**2).sum(-1)
    at_mean = (mean * (matrix @ mean[..., None])[..., 0]).sum(-1)
    square = stats.yy[:, None] - 2 * (vector * mean).sum(-1) + at_mean
    logdet = 2 * lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    n = stats.n[:, None]
    value = -0.5 * (n * torch.log(2 * torch.pi * noise) + logdet + square / noise - explained)
    return torch.where(n > 0, value, 0.0).sum(-1)


def _regress(x: Tensor, target: Tensor, ridge: float, steps: int = 300) -> Tensor:
    """Multinomial logistic regression with soft targets (U, E); the intercept (last row) is hardly penalised.

    Newton steps with the fixed bound XᵀX/2 on the curvature (Böhning 1992): never overshoots, one matrix inverse.
    """
    x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    penalty = torch.full((x.shape[1],), 2 * ridge, dtype=torch.float64)
    penalty[-1] = 1e-3
    inverse = torch.linalg.inv(x.T @ x / 2 + torch.diag(penalty))
    weights = torch.zeros(x.shape[1], target.shape[1], dtype=torch.float64)
    weights[-1] = (target.mean(0) + 1e-3).log()
    for _ in range(steps):
        step = inverse @ (x.T @ (target - torch.softmax(x @ weights, 1)) - penalty[:, None] * weights)
        weights = weights + step
        if step.abs().max() < 1e-6:
            break
    return weights


def _fit_survey(x: Tensor, target: Tensor, folds: int, ridges: tuple[float, ...]) -> Tensor:
    """Weights at the ridge that predicts left-out users best, or the intercept alone unless answers clearly help.

    "Clearly": the mean gain in left-out log likelihood per user exceeds its standard error.
    """
    intercept = torch.cat(
        [torch.zeros(x.shape[1], target.shape[1], dtype=torch.float64), (target.mean(0) + 1e-3).log()[None]]
    )
    if x.shape[1] == 0 or len(x) < 4 * folds:
        return intercept
    fold = torch.arange(len(x)) % folds
    gains = torch.zeros(len(ridges), len(x), dtype=torch.float64)
    for k in range(folds):
        train, left = fold != k, fold == k
        plain = torch.log_softmax((target[train].mean(0) + 1e-3).log(), 0)
        for i, ridge in enumerate(ridges):
            weights = _regress(x[train], target[train], ridge)
            log_p = torch.log_softmax(x[left] @ weights[:-1] + weights[-1], 1)
            gains[i, left] = (target[left] * (log_p - plain)).sum(1)
    best = int(gains.mean(1).argmax())
    if gains[best].mean() <= gains[best].std() / len(x) ** 0.5:
        return intercept
    return _regress(x, target, ridges[best])


def fit_selection(
    answers: list[dict[str, str | None]],
    stats: Stats,
    points: Tensor,
    *,
    expert_answers: list[dict[str, str | None]] | None = None,
    half: tuple[Stats, Stats] | None = None,
    folds: int = 5,
    ridges: tuple[float, ...] = (3.0, 10.0, 30.0, 100.0),
) -> Selection:
    """Learn selection from earlier users.

    answers: one survey per user; stats: their ratings; points: `Basis.expert_weights()` (E, D, P).
    expert_answers: the experts' own surveys, counted as users who suit themselves best. half: the same users'
    ratings split in two, from which the temper is chosen (how well the expert inferred from one half predicts
    the other); without it the temper is 1 / (typical number of ratings)^(1/2).
    """
    noise, mean, var = _scale_use(stats, points)
    likelihood = loglik(stats, points, noise, mean, var)
    temper = 1.0 / max(1.0, float(stats.n.max(1).values.mean())) ** 0.5
    if half is not None:
        one, other = (loglik(part, points, noise, mean, var) for part in half)
        grid = [2.0**-k for k in range(8)]
        score = [float(torch.logsumexp(torch.log_softmax(t * one, 1) + other, 1).mean()) for t in grid]
        temper = grid[max(range(len(grid)), key=score.__getitem__)]
    # Experts who fit nobody best still get a small share: the target is smoothed by the temper.
    target = torch.softmax(temper * likelihood, 1)
    everyone = list(answers)
    if expert_answers:
        everyone += expert_answers
        target = torch.cat([target, torch.eye(len(points), dtype=torch.float64)])
    survey = read_survey(everyone)
    x = survey.encode(everyone)
    weights = _fit_survey(x, target, folds, ridges)
    average = torch.softmax(x[: len(answers)] @ weights[:-1] + weights[-1], 1).mean(0)
    return Selection(survey, weights, points, noise, mean, var, average, temper)


def _scale_use(stats: Stats, points: Tensor, floor: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
    """Noise (D,) and mean and variance (D, 2) of users' offset and slope, each on the expert who fits them best.

    Moments of ridge-stabilised least squares: rough, and only used to weigh experts against each other.
    """
    matrix, vector = _reduced(stats, points)
    anchor = torch.tensor([0.0, 1.0], dtype=torch.float64)
    steady = matrix + 2.0 * torch.eye(2, dtype=torch.float64)
    solved = torch.linalg.solve(steady, vector + 2.0 * anchor)
    square = stats.yy[:, None] - 2 * (vector * solved).sum(-1) + (solved * (matrix @ solved[..., None])[..., 0]).sum(-1)
    best = torch.where(stats.n[:, None] > 0, square, 0.0).sum(-1).argmin(1)
    rows = torch.arange(len(best))
    solved, square = solved[rows, best], square[rows, best]  # (U, D, 2), (U, D)
    n = stats.n.sum(0).clamp_min(1)
    noise = (square.sum(0) / n).clamp_min(floor)
    seen = (stats.n > 0).to(torch.float64)[..., None]
    count = seen.sum(0).clamp_min(1)
    mean = (solved * seen).sum(0) / count
    var = ((solved - mean) ** 2 * seen).sum(0) / count
    return noise, mean, var.clamp_min(log(1.05) ** 2)
