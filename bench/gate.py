"""The gate's rule by simulation: how often it promotes noise, and how often a real gain.

    uv run python bench/gate.py                    # docs/gate.md holds the figures; two minutes on one core
    uv run python bench/gate.py --users 4000 --confidence 0.8

Everything here is simulated. A user's score of a photo is linear in 16 features, with weights drawn from a prior that
the gate's candidates know, plus noise; the generic model's SRCC with a user's scores on unseen photos is near .6. Users
have `stored` ratings behind their current entry (0: the prior is served) and give n new ones in a night. Half of them
give **noise**: scores that have nothing to do with the photo. The others give real ones, of a taste that has moved since
(`drift`: the share by which it went to another user's), so that the night as a whole gains. A user's true gain is the
SRCC of candidate minus current entry with their scores of 400 photos that nobody rated. Intervals: 95 %, Wilson.
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


@dataclass
class Simulated:
    """Evidence of a night of U users (one dimension), their true gain (U,) and who gave noise (U,)."""

    current: gate.Evidence
    prior: gate.Evidence
    nothing: gate.Evidence
    gain: np.ndarray
    noise: np.ndarray
    before: np.ndarray


def rated(
    rng: np.random.Generator, weights: np.ndarray, each: int, blind: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """phi, y and user of `each` ratings of every user, `blind` ones noise."""
    phi = rng.normal(size=(len(weights) * each, 1, SIZE))
    phi[..., 0] = 1
    user = np.repeat(np.arange(len(weights)), each)
    y = (phi[:, 0] * weights[user]).sum(1) + rng.normal(0, NOISE, len(user))
    # As widely spread as real scores, about the same level, whatever the photo.
    wide = np.sqrt(NOISE**2 + (weights[:, 1:] ** 2).sum(1))
    y = np.where(blind[user], weights[user, 0] + wide[user] * rng.normal(size=len(user)), y)
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


def simulate(users: int, stored: int, new: int, drift: float, noise_share: float, seed: int) -> Simulated:
    """One night; every user gives `new` ratings."""
    rng = np.random.default_rng(seed)
    taste, other = (MEAN + rng.normal(size=(users, SIZE)) * SPREAD for _ in range(2))
    later = taste + drift * (other - taste)
    noise = np.arange(users) < noise_share * users

    prior = known_prior()
    start = prior.mean.expand(users, -1, -1)
    old, current, earlier = personal.no_stats(users, 1, SIZE), start, gate.no_evidence(users, 1)
    if stored:
        phi, y, user = rated(rng, taste, stored, np.zeros(users, bool))
        old = personal.sufficient(phi, y, user, users)
        found = personal.posterior(prior, start, old)
        (earlier,), current = gate.weigh(phi, y, user, *found, [start]), found.mean
    kept = 1.0 if drift == 0 else 0.25
    phi, y, user = rated(rng, later, new, noise)
    stats = old.decayed(torch.full_like(old.n, kept)) + personal.sufficient(phi, y, user, users)
    candidate = personal.posterior(prior, start, stats)
    now, against, nothing = gate.weigh(phi, y, user, *candidate, [current, start, torch.zeros_like(start)])
    earlier.variance = earlier.variance / kept
    after, before = agreement(rng, later, [candidate.mean, current])
    return Simulated(now, against.combined(earlier), nothing, after - before, noise, before)


def small_nights(users: int, nights: int, each: int, confidence: float, seed: int) -> str:
    """A table row: half noise, half real, from no rating on, `each` ratings a night; evidence adds up as in `night`."""
    rng = np.random.default_rng(seed)
    taste, noise = MEAN + rng.normal(size=(users, SIZE)) * SPREAD, np.arange(users) < users / 2
    prior, stats = known_prior(), personal.no_stats(users, 1, SIZE)
    start = prior.mean.expand(users, -1, -1)
    served, ever, shares = start.clone(), np.zeros(users, bool), []
    known = [gate.no_evidence(users, 1) for _ in range(3)]
    for _ in range(nights):
        phi, y, user = rated(rng, taste, each, noise)
        stats = stats + personal.sufficient(phi, y, user, users)
        candidate = personal.posterior(prior, start, stats)
        tonight = gate.weigh(phi, y, user, *candidate, [served, start, torch.zeros_like(start)])
        known = [one.combined(two) for one, two in zip(tonight, known)]
        ok = gate.decide(*known, confidence=confidence)[0]
        served = torch.where(ok[..., None], candidate.mean, served)
        for since in (known[0], known[2]):
            since.gain, since.variance = torch.where(ok, 0.0, since.gain), torch.where(ok, torch.inf, since.variance)
        ever |= ok[:, 0].numpy()
        shares.append(ok[:, 0].numpy()[noise].mean())
    found, best, first = agreement(rng, taste, [served, candidate.mean, start])
    gains = [values[who].mean() for who in (~noise, noise) for values in (best - first, found - first)]
    cells = " | ".join(f"{gain:+.3f}" for gain in gains)
    noisy = f"{100 * np.mean(shares):.0f} (at most {100 * max(shares):.0f})"
    return f"| {nights} × {each} | {noisy} | {wilson(ever[noise])} | {wilson(ever[~noise])} | {cells} |"


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
    parser.add_argument("--users", type=int, default=2000, help="of each night")
    parser.add_argument("--confidence", type=float, nargs="+", default=[0.7, 0.8, 0.9])
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 10, 25, 50])
    options = parser.parse_args()
    torch.set_num_threads(1)
    nights = [("first", 0, 0.0), ("later, same taste", 30, 0.0), ("later, taste moved", 30, 0.5)]
    print("Per cent promoted (95 % interval). Real +.05: users whose true gain is between +.03 and +.07.\n")
    print("| night | new ratings | confidence | of noise | of real +.05 | of all real | mean true gain of real: "
          "no gate | gate | of noise: no gate | gate |")  # fmt: skip
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name, stored, drift in nights:
        for new in options.counts:
            seen = simulate(options.users, stored, new, drift, 0.5, seed=new + stored)
            real, near = ~seen.noise, ~seen.noise & (abs(seen.gain - 0.05) < 0.02)
            for confidence in options.confidence:
                ok = gate.decide(seen.current, seen.prior, seen.nothing, confidence=confidence)[0][:, 0].numpy()
                served = np.where(ok, seen.gain, 0.0)
                cells = " | ".join(f"{v[who].mean():+.3f}" for who in (real, seen.noise) for v in (seen.gain, served))
                shares = " | ".join(wilson(ok[group]) for group in (seen.noise, near, real))
                print(f"| {name} | {new} | {confidence} | {shares} | {cells} |", flush=True)
    print("\n| nights × ratings | of noise, a night | of noise, ever | of real, ever | gain of real: no gate | gate | "
          "of noise: no gate | gate |\n|---|--:|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    for nights in (2, 5, 10, 20):
        print(small_nights(options.users, nights, 5, options.confidence[-1], nights), flush=True)
    print(f"\nSRCC before a first night: {simulate(500, 0, 5, 0.0, 0.0, 0).before.mean():.2f} on average.")


if __name__ == "__main__":
    main()
