"""What are comparisons and thumbs worth, against ratings of the same number? Real raters, simulated choices.

    uv run python bench/choices.py --data ../shared/data/london

Raters, photos and the default method are those of bench/london.py. A test rater's choices follow from their ratings: of
two photos drawn at random the one rated higher is preferred, neither if both were rated alike; a thumb is up if the rating
is above the usual level of all raters. `thumbs on shown scores`: the score that the prior shows is right, within a point of
0..10, or it is not; what is right counts as a soft rating, which is not what the product does (docs/feedback.md). What real
people choose may differ. Judged on 51 other photos: Spearman's correlation less the generic model's, and less that of as
many ratings, paired, intervals over raters.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from london import HALF, bank_of, described, given, read_london  # noqa: E402

from model import choices, metrics, personal  # noqa: E402
from model.choices import Choices  # noqa: E402
from tasks.progress import progress  # noqa: E402

COUNTS = (10, 25, 50)
FACTORS = 6
CLOSE = 1.0


def compared(ratings: np.ndarray, pool: np.ndarray, count: int, rng) -> Choices:
    """`count` pairs of different photos out of each rater's pool (U, n), as the ratings (U, N) have them."""
    users = len(ratings)
    pairs = np.array([[rng.choice(pool[u], 2, replace=False) for _ in range(count)] for u in range(users)])
    one, other = pairs[..., 0].ravel(), pairs[..., 1].ravel()
    who = np.repeat(np.arange(users), count)
    return _choices(who, one, other, np.sign(ratings[who, one] - ratings[who, other]))


def thumbed(ratings: np.ndarray, photos: np.ndarray, level: float) -> Choices:
    """Up or down for photos (U, n)."""
    who, photo = np.repeat(np.arange(len(ratings)), photos.shape[1]), photos.ravel()
    return _choices(who, photo, np.full(len(who), -1), np.where(ratings[who, photo] > level, 1.0, -1.0))


def _choices(who, photo, other, value) -> Choices:
    index = [torch.tensor(np.asarray(each), dtype=torch.long) for each in (who, np.zeros(len(who)), photo, other)]
    return Choices(*index, torch.tensor(value))


def soft(ratings: np.ndarray, photos: np.ndarray, shown: np.ndarray, phi: torch.Tensor, noise: float) -> personal.Stats:
    """Where the score shown (N,) of photos (U, n) is right, it counts as a rating of a width of CLOSE points."""
    who, photo = np.repeat(np.arange(len(ratings)), photos.shape[1]), photos.ravel()
    right = np.abs(ratings[who, photo] - shown[photo]) <= CLOSE
    told = _choices(who[right], photo[right], np.full(right.sum(), -1), np.ones(right.sum()))
    weight = torch.full((len(told),), noise / (noise + CLOSE**2 / 3), dtype=torch.float64)
    return choices.Sites(phi[told.photo, 0], torch.tensor(shown[photo[right]]), weight).stats(told, len(ratings), 3)


def judge(ratings: np.ndarray, experts: np.ndarray, train: np.ndarray, test: np.ndarray, rng) -> list[dict]:
    """One row per test rater, kind and number: srcc, generic."""
    everything = np.ones(ratings.shape[1], bool)
    photos = described(ratings, experts, train, FACTORS, everything, None)
    bank = bank_of(photos, ratings, train, FACTORS, everything)
    phi = bank.basis.phi(photos.predictions, photos.fused)
    own, users = ratings[test], len(test)
    order = np.array([rng.permutation(ratings.shape[1]) for _ in test])
    judged = order[:, HALF:]
    truth = np.take_along_axis(own, judged, 1)
    generic = metrics.srcc(photos.predictions[:, -1, 0].numpy()[judged], truth)
    prior_mean = bank.prior.mean.expand(users, -1, -1)
    shown = (phi[:, 0] @ bank.prior.mean[0]).numpy()
    nothing = personal.no_stats(users, 3, bank.basis.size)
    rows = []
    for count in COUNTS:
        asked = order[:, :count]
        told = given(own, asked)
        rated = personal.sufficient(phi[told.photo], told.y, told.user, users)
        arms = {"ratings": (rated, None), "comparisons": (nothing, compared(own, order[:, :HALF], count, rng))}
        arms["thumbs"] = nothing, thumbed(own, asked, float(bank.prior.mean[0, 0]))
        arms["thumbs on shown scores"] = soft(own, asked, shown, phi, float(bank.prior.noise[0])), None
        if count <= HALF // 2:
            arms["ratings, and comparisons of other photos"] = rated, compared(own, order[:, count:HALF], count, rng)
        for name, (stats, chosen) in arms.items():
            if chosen is not None:
                sites = choices.observed(bank.prior, prior_mean, stats, chosen, phi)
                stats = stats + sites.stats(chosen, users, 3)
            found = personal.posterior(bank.prior, prior_mean, stats)
            scores = np.take_along_axis((found.mean[:, 0] @ phi[:, 0].T).numpy(), judged, 1)
            columns = zip(test.tolist(), metrics.srcc(scores, truth).tolist(), generic.tolist())
            rows += [{"rater": u, "kind": name, "count": count, "srcc": a, "generic": b} for u, a, b in columns]
    return rows


def table(rows: list[dict], seed: int) -> str:
    """Markdown: gains over the generic model and over as many ratings, with intervals."""
    lines = ["| number | of | gain over generic [95 %] | against as many ratings [95 %] |", "|---:|---|---|---|"]
    for count in COUNTS:
        of: dict[str, list[dict]] = {}
        for row in rows:
            if row["count"] == count:
                of.setdefault(row["kind"], []).append(row)
        base = np.array([row["srcc"] for row in of["ratings"]])
        for name, mine in of.items():
            own = np.array([row["srcc"] for row in mine])
            cells = []
            for rival in (np.array([row["generic"] for row in mine]), base):
                mean, lo, hi = metrics.interval(own - rival, seed)
                cells.append(f"{mean:+.4f} [{lo:+.4f}, {hi:+.4f}]")
            lines.append(f"| {count} | {name} | {cells[0]} | {'' if name == 'ratings' else cells[1]} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the London cohort")
    parser.add_argument("--folds", type=int, default=5, help="of the five, how many are run")
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    torch.set_num_threads(1)
    ratings, experts, _ = read_london(words.data)
    users = np.random.default_rng(words.seed).permutation(np.flatnonzero(~experts))
    rows = []
    with progress("folds", words.folds) as advance:
        for fold in range(words.folds):
            test = users[fold::5]
            train = np.r_[np.flatnonzero(experts), np.setdiff1d(users, test)]
            rows += judge(ratings, experts, train, test, np.random.default_rng([words.seed, fold]))
            advance(1)
    print(table(rows, words.seed))


if __name__ == "__main__":
    main()
