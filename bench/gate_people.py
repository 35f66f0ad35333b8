"""The gate on real people: 102 portraits, 1,176 raters, and what it makes of ratings that are none.

    uv run python bench/gate_people.py --data ../shared/data/london        # docs/gate.md holds the figures; six minutes

Raters are dealt into five folds as in bench/london.py; each test rater has given 0 or 25 ratings of 51 photos in a night
before and gives new ones in another; then nights of five, from no rating on. The true gain is judged on the other 51
photos: SRCC of the candidate minus that of what is served. Four kinds of new ratings, of the same raters:

    real       their own
    shuffled   their own, dealt out to the photos at random
    flat       one of the seven scores at random
    nothing    what is served says it, and noise: simulated; whatever a candidate makes of them is chance

Not promoted: gain 0. Intervals: 95 %, Wilson.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from gate import after_gate, wilson  # noqa: E402
from london import HALF, bank_of, described, given, read_london  # noqa: E402

from model import gate, metrics, personal  # noqa: E402
from tasks.progress import progress  # noqa: E402

KINDS = ("real", "shuffled", "flat", "nothing")
FACTORS = 8
NIGHTS = 10


def fold_rows(ratings: np.ndarray, experts: np.ndarray, fold: int, counts: list[int], seed: int) -> dict:
    """(stored, new, kind) → evidence (U, 1, 3), ratings (U, 1) and true gain (U,) of the raters of a fold."""
    rng = np.random.default_rng([seed, fold])
    users = np.random.default_rng(seed).permutation(np.flatnonzero(~experts))
    test = users[fold::5]
    train = np.r_[np.flatnonzero(experts), np.setdiff1d(users, test)]
    seen = np.ones(ratings.shape[1], bool)
    photos = described(ratings, experts, train, FACTORS, seen, None)
    bank = bank_of(photos, ratings, train, FACTORS, seen)
    phi, prior, own = bank.basis.phi(photos.predictions, photos.fused), bank.prior, ratings[test]
    order = np.array([rng.permutation(ratings.shape[1]) for _ in test])
    judged = order[:, HALF:]
    truth = np.take_along_axis(own, judged, 1)
    start, nothing = prior.mean.expand(len(test), -1, -1), personal.no_stats(len(test), 3, bank.basis.size)

    def stats(told: np.ndarray, asked: np.ndarray) -> personal.Stats:
        rows = given(told, asked)
        return personal.sufficient(phi[rows.photo], rows.y, rows.user, len(test)) if asked.size else nothing

    def agreement(weights: torch.Tensor) -> np.ndarray:
        return metrics.srcc(np.take_along_axis((weights[:, 0] @ phi[:, 0].T).numpy(), judged, 1), truth)

    found = {}
    for stored in (0, 25):
        old = stats(own, order[:, :stored])
        served, earlier = after_gate(prior, start, nothing, old)
        told = {
            "real": own,
            "shuffled": rng.permuted(own, axis=1),
            "flat": rng.integers(0, 7, own.shape) / 6 * 10.0,
            "nothing": (served[:, 0] @ phi[:, 0].T).numpy() + float(prior.noise[0]) ** 0.5 * rng.normal(size=own.shape),
        }
        for new in counts:
            for kind in KINDS:
                fresh = stats(told[kind], order[:, stored : stored + new])
                evidence = gate.weigh(prior, start, served, old, fresh) + earlier
                candidate = personal.posterior(prior, start, old + fresh).mean
                gain = agreement(candidate) - agreement(served)
                found[stored, new, kind] = evidence[:, :1], (old + fresh).n[:, :1], gain
    for kind in KINDS[:3]:  # nights of five, from no rating on
        served, evidence, old, ever = start, gate.no_evidence(len(test), 3), nothing, torch.zeros(len(test), 1)
        for night in range(NIGHTS):
            fresh = stats(told[kind], order[:, 5 * night : 5 * night + 5])
            evidence, old = evidence + gate.weigh(prior, start, served, old, fresh), old + fresh
            candidate, ok = personal.posterior(prior, start, old).mean, gate.decide(evidence, old.n)[0][..., None]
            served = torch.where(ok, candidate, served)
            evidence = torch.where(ok & gate.SINCE_PROMOTION, 0.0, evidence)
            ever = torch.maximum(ever, ok[:, 0].double())
            gains = [agreement(weights) - agreement(start) for weights in (candidate, served)]
            found["nights", night + 1, kind] = ever[:, 0].numpy(), *gains
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the London cohort")
    parser.add_argument("--folds", type=int, default=5, help="of the five, how many are run")
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 10, 25])
    parser.add_argument("--confidence", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    torch.set_num_threads(1)
    ratings, experts, _ = read_london(words.data)
    folds = []
    with progress("folds", words.folds) as advance:
        for fold in range(words.folds):
            folds.append(fold_rows(ratings, experts, fold, words.counts, words.seed))
            advance(1)
    print("| ratings before | new | " + " | ".join(f"of {kind}" for kind in KINDS)
          + " | " + " | ".join(f"gain of {kind}: no gate | gate" for kind in KINDS[:3]) + " |")  # fmt: skip
    print("|--:|--:|" + "--:|" * 10)
    for stored, new in dict.fromkeys(key[:2] for key in folds[0] if key[0] != "nights"):
        shares, gains = [], []
        for kind in KINDS:
            evidence, count, gain = zip(*(fold[stored, new, kind] for fold in folds))
            decided = gate.decide(torch.cat(evidence), torch.cat(count), confidence=words.confidence)
            ok, gain = decided[0][:, 0].numpy(), np.concatenate(gain)
            shares.append(wilson(ok))
            gains.append(f"{np.nanmean(gain):+.4f} | {np.nanmean(np.where(ok, gain, 0)):+.4f}")
        print(f"| {stored} | {new} | {' | '.join(shares)} | {' | '.join(gains[:3])} |")
    print("\n| nights × 5 | " + " | ".join(f"{kind}: ever promoted | gain, no gate | gate" for kind in KINDS[:3]) + " |")
    print("|--:|" + "--:|" * 9)
    for night in (2, 5, NIGHTS):
        cells = []
        for kind in KINDS[:3]:
            ever, free, gated = (np.concatenate(each) for each in zip(*(fold["nights", night, kind] for fold in folds)))
            cells += [wilson(ever), f"{np.nanmean(free):+.4f}", f"{np.nanmean(gated):+.4f}"]
        print(f"| {night} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
