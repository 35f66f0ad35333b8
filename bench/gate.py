"""The gate's rule by simulation: how often it promotes noise, how often what is not new, and how often a real gain.

    uv run python bench/gate.py                    # docs/gate.md holds the figures; two minutes on one core
    uv run python bench/gate.py --users 4000 --confidence 0.6 0.8

Everything here is simulated (real raters: bench/gate_people.py). A user's score of a photo is linear in 16 features, with
weights drawn from a prior that the gate's candidates know, plus noise; the generic model's SRCC with a user's scores on
unseen photos is near .55. Users have given `stored` ratings in a night before (0: none, the prior is served) and give n
new ones in another. Three kinds of users:

    real      of a taste that may have moved since (`drift`: the share by which it went to another user's)
    noise     scores that have nothing to do with the photo, as widely spread as real ones
    nothing   honest scores of exactly the taste that is served: whatever the candidate makes of them is chance

A true gain is the SRCC of the candidate minus that of the current entry with the user's scores of 400 photos that nobody
rated. Intervals: 95 %, Wilson.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model import gate, personal  # noqa: E402
from model.metrics import srcc  # noqa: E402

SIZE, NOISE, PROBE = 16, 1.2, 400
SPREAD = np.r_[0.7, 0.32 * np.linspace(1, 0.25, SIZE - 1)]
MEAN = np.r_[5.0, 1.0, np.zeros(SIZE - 2)]
KINDS = ("real", "noise", "nothing")


@dataclass
class Simulated:
    """Evidence of a night of U users of a kind (one dimension), ratings (U, 1) behind it, true gain (U,)."""

    evidence: torch.Tensor
    ratings: torch.Tensor
    gain: np.ndarray

    def promoted(self, confidence: float) -> np.ndarray:
        return gate.decide(self.evidence, self.ratings, confidence=confidence)[0][:, 0].numpy()


def rated(
    rng: np.random.Generator, weights: np.ndarray, each: int, blind: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """phi, y and user of `each` ratings of every user; blind: noise."""
    phi = rng.normal(size=(len(weights) * each, 1, SIZE))
    phi[..., 0] = 1
    user = np.repeat(np.arange(len(weights)), each)
    y = (phi[:, 0] * weights[user]).sum(1) + rng.normal(0, NOISE, len(user))
    if blind:  # as widely spread as real scores, about the same level, whatever the photo
        wide = np.sqrt(NOISE**2 + (weights[:, 1:] ** 2).sum(1))
        y = weights[user, 0] + wide[user] * rng.normal(size=len(user))
    return torch.from_numpy(phi), torch.from_numpy(y)[:, None], torch.from_numpy(user)


def known_prior() -> personal.Prior:
    """The prior that users are drawn from, of one dimension."""
    one = lambda value: torch.as_tensor(value, dtype=torch.float64)[None]  # noqa: E731
    return personal.Prior(one(MEAN), one(np.diag(SPREAD**2)), one(NOISE**2), one(0.0), one(500.0))


def agreement(rng: np.random.Generator, taste: np.ndarray, served: list[torch.Tensor]) -> list[np.ndarray]:
    """SRCC (U,) of each set of weights with the users' scores of PROBE photos."""
    probe = rng.normal(size=(PROBE, SIZE))
    probe[:, 0] = 1
    truth = probe @ taste.T + rng.normal(0, NOISE, (PROBE, len(taste)))
    return [srcc(weights[:, 0].numpy() @ probe.T, truth.T) for weights in served]


def simulate(users: int, stored: int, new: int, drift: float, kind: str, seed: int) -> Simulated:
    """One night; every user gives `new` ratings."""
    rng = np.random.default_rng(seed)
    taste, other = (MEAN + rng.normal(size=(users, SIZE)) * SPREAD for _ in range(2))
    later = taste + drift * (other - taste)
    prior = known_prior()
    start = prior.mean.expand(users, -1, -1)
    old, current, earlier = personal.no_stats(users, 1, SIZE), start, gate.no_evidence(users, 1)
    if stored:
        phi, y, user = rated(rng, taste, stored, blind=False)
        before, old = old, personal.sufficient(phi, y, user, users)
        current, earlier = after_gate(prior, start, before, old)
    if kind == "nothing":
        later = current[:, 0].numpy().copy()
    kept = 1.0 if drift == 0 else 0.25
    old = old.decayed(torch.full_like(old.n, kept))
    phi, y, user = rated(rng, later, new, blind=kind == "noise")
    fresh = personal.sufficient(phi, y, user, users)
    found = gate.weigh(prior, start, current, old, fresh) + kept * earlier
    candidate = personal.posterior(prior, start, old + fresh)
    after, served = agreement(rng, later, [candidate.mean, current])
    return Simulated(found, fresh.n + stored, after - served)


def after_gate(
    prior: personal.Prior, start: torch.Tensor, before: personal.Stats, old: personal.Stats
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is served after a first night with the ratings `old`, and the evidence that is left for the next."""
    evidence = gate.weigh(prior, start, start, before, old)
    ok = gate.decide(evidence, old.n)[0][..., None]
    served = torch.where(ok, personal.posterior(prior, start, old).mean, start)
    return served, torch.where(ok & gate.SINCE_PROMOTION, 0.0, evidence)


def small_nights(users: int, nights: int, each: int, confidence: float, seed: int) -> str:
    """A table row: from no rating on, `each` ratings a night; evidence adds up as in `tasks.personal.night`."""
    cells, worst = [], []
    for kind in KINDS:
        rng = np.random.default_rng(seed)
        taste = MEAN + rng.normal(size=(users, SIZE)) * SPREAD
        prior, stats = known_prior(), personal.no_stats(users, 1, SIZE)
        start = prior.mean.expand(users, -1, -1)
        taste = start[:, 0].numpy() if kind == "nothing" else taste
        served, ever, known, shares = start.clone(), np.zeros(users, bool), gate.no_evidence(users, 1), []
        for _ in range(nights):
            phi, y, user = rated(rng, taste, each, blind=kind == "noise")
            new = personal.sufficient(phi, y, user, users)
            known = known + gate.weigh(prior, start, served, stats, new)
            stats = stats + new
            candidate = personal.posterior(prior, start, stats)
            ok = gate.decide(known, stats.n, confidence=confidence)[0]
            served = torch.where(ok[..., None], candidate.mean, served)
            known = torch.where(ok[..., None] & gate.SINCE_PROMOTION, 0.0, known)
            ever |= ok[:, 0].numpy()
            shares.append(ok[:, 0].numpy().mean())
        found, best, first = agreement(rng, taste, [served, candidate.mean, start])
        worst.append(f"{100 * max(shares):.0f}")
        cells += [wilson(ever), f"{(best - first).mean():+.3f}", f"{(found - first).mean():+.3f}"]
    return f"| {nights} × {each} | {worst[1]} / {worst[2]} | {' | '.join(cells)} |"


def wilson(hits: np.ndarray) -> str:
    """A share in percent with its 95 % interval."""
    n = len(hits)
    if n == 0:
        return "–"
    p, z = hits.mean(), 1.96
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return f"{100 * p:.0f} ({100 * (middle - half) / (1 + z**2 / n):.0f}–{100 * (middle + half) / (1 + z**2 / n):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=2000, help="of each kind")
    parser.add_argument("--confidence", type=float, nargs="+", default=[0.6])
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 10, 25, 50])
    options = parser.parse_args()
    torch.set_num_threads(1)
    nights = [("first", 0, 0.0), ("later, same taste", 30, 0.0), ("later, taste moved", 30, 0.5)]
    print("Per cent promoted (95 % interval). Real +.05: users whose true gain is between +.03 and +.07.\n")
    print("| night | new ratings | confidence | of noise | of nothing new | of real +.05 | of all real | "
          + " | ".join(f"gain of {kind}: no gate | gate" for kind in KINDS) + " |")  # fmt: skip
    print("|---|" + "--:|" * 12)
    for name, stored, drift in nights:
        for new in options.counts:
            seen = [simulate(options.users, stored, new, drift, kind, new + stored) for kind in KINDS]
            near = abs(seen[0].gain - 0.05) < 0.02
            for confidence in options.confidence:
                ok = [each.promoted(confidence) for each in seen]
                shares = " | ".join(map(wilson, (ok[1], ok[2], ok[0][near], ok[0])))
                gains = " | ".join(f"{s.gain.mean():+.3f} | {np.where(o, s.gain, 0).mean():+.3f}" for s, o in zip(seen, ok))
                print(f"| {name} | {new} | {confidence} | {shares} | {gains} |", flush=True)
    print("\n| nights × ratings | noise / nothing, worst night | "
          + " | ".join(f"{kind}: ever promoted | gain, no gate | gate" for kind in KINDS) + " |")  # fmt: skip
    print("|---|" + "--:|" * 10)
    for count in (2, 5, 10, 20):
        print(small_nights(options.users, count, 5, options.confidence[0], count), flush=True)


if __name__ == "__main__":
    main()
