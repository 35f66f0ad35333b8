"""How the simulated raters compare with real people: prints the table of docs/calibration.md.

No image is rendered: bodies are drawn and measured as for mannequins, and what a network would read off a photo
is stood in for by the true attributes plus noise (correlation `--reading` with the truth, default 0.87). Generic
and expert models are ridge regressions on quadratic terms of those readings, learned from experts' ratings.

    .venv/bin/python bench/calibrate_raters.py [--photos 1500 --users 300 --experts 6 --seed 0]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from model import metrics, personal
from model.basis import GENERIC, fit_basis
from model.body import build_standin, load_body
from model.measure import measure
from model.scores import DIMENSIONS
from tasks.mannequins.raters import simulate
from tasks.mannequins.scene import sample_person
from tasks.mannequins.tastes import ATTRIBUTES, MIXTURES, attributes, draw_raters, key, opinions

COUNTS = (0, 5, 10, 25, 50)


def draw_truth(photos: int, seed: int) -> pd.DataFrame:
    """Measurements and posture of `photos` bodies drawn as the mannequins are."""
    people = [sample_person(np.random.default_rng([seed, i])) for i in range(photos)]
    with tempfile.TemporaryDirectory() as folder:
        build_standin(Path(folder) / "body.npz")
        body = load_body(Path(folder) / "body.npz")
        betas = np.stack([person.betas for person in people])
        parts = [measure(body, betas[i : i + 25]) for i in range(0, photos, 25)]
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    truth = pd.DataFrame(table).join(pd.DataFrame([person.posture for person in people]))
    return truth.assign(photo=[f"{i:06d}.jpg" for i in range(photos)], kind="person")


def readings(truth: pd.DataFrame, reading: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Per dimension (N, terms): linear, square and product terms of the attributes as a network would read them."""
    noisy = {}
    for name, values in attributes(truth).items():
        z = (values - values.mean()) / values.std()
        noisy[name] = reading * z + np.sqrt(1 - reading**2) * rng.normal(size=len(z))
    terms = {}
    for dimension, looked_at in ATTRIBUTES.items():
        z = np.stack([noisy[name] for name in looked_at], 1)
        i, j = np.triu_indices(z.shape[1])
        quadratic = z[:, i] * z[:, j]
        both = np.concatenate([z, quadratic], 1)
        terms[dimension] = (both - both.mean(0)) / both.std(0)
    return terms


def repeatability(truth: pd.DataFrame, users: list[str], seed: int) -> np.ndarray:
    """Mean SRCC (D,) between two answers of the same user to the same photos."""
    z = attributes(truth)
    keys = np.array([key(seed, "key", name) for name in truth["photo"]], np.uint64)
    values = []
    for person in draw_raters(users, 4, seed):
        once, twice = (opinions(person, z, keys, MIXTURES, seed, occasion) for occasion in ("first", "later"))
        values.append([metrics.srcc(once[:, d], twice[:, d])[0] for d in range(len(DIMENSIONS))])
    return np.mean(values, 0)


def ridge(x: np.ndarray, y: np.ndarray, strength: float = 30.0) -> np.ndarray:
    """Weights (terms + 1,) of y on x, intercept last."""
    mean = y.mean()
    weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ (y - mean))
    return np.append(weights, mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1500)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--experts", type=int, default=6)
    parser.add_argument("--reading", type=float, default=0.87)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    torch.set_num_threads(1)
    truth = draw_truth(args.photos, args.seed)
    cohort = simulate(truth, experts=args.experts, users=args.users, ratings_per_user=100, seed=args.seed)
    place = {name: i for i, name in enumerate(truth["photo"])}
    fit = np.arange(args.photos) < 0.7 * args.photos
    ratings = cohort.ratings.assign(at=cohort.ratings["photo"].map(place))
    wide = {
        d: ratings.pivot(index="rater_id", columns="at", values=d).reindex(columns=range(args.photos)) for d in DIMENSIONS
    }
    experts = [r for r in wide[DIMENSIONS[0]].index if r.startswith("expert")]
    terms = readings(truth, args.reading, rng)
    predictions = np.zeros((args.photos, args.experts + 1, len(DIMENSIONS)))
    for d, name in enumerate(DIMENSIONS):
        x = terms[name]
        own = np.stack([wide[name].loc[e].to_numpy() for e in experts])
        for e, y in enumerate([*own, own.mean(0)]):
            weights = ridge(x[fit], y[fit])
            predictions[:, e, d] = x @ weights[:-1] + weights[-1]
    basis = fit_basis([*experts, GENERIC], torch.tensor(predictions[fit]))
    phi = basis.phi(torch.tensor(predictions))

    users = [r for r in wide[DIMENSIONS[0]].index if r.startswith("user")]
    teachers, judged = users[: int(0.6 * len(users))], users[int(0.6 * len(users)) :]
    rated = np.stack([wide[d].loc[users].to_numpy() for d in DIMENSIONS], 2)  # (U, N, D)

    def stats(which: np.ndarray, count: int | None) -> personal.Stats:
        user, photo = [], []
        for u in which:
            mine = np.flatnonzero(~np.isnan(rated[u, :, 0]) & fit)
            mine = mine if count is None else rng.permutation(mine)[:count]
            user += [u - which[0]] * len(mine)
            photo += mine.tolist()
        index = torch.tensor(photo, dtype=torch.long)
        y = torch.tensor(rated[np.array(user, int) + which[0], np.array(photo, int)])
        return personal.sufficient(phi[index], y, torch.tensor(user, dtype=torch.long), len(which))

    early, late = np.arange(len(teachers)), np.arange(len(teachers), len(users))
    prior = personal.fit_prior(stats(early, None), basis.generic_weights(), iterations=30)
    repeats = repeatability(truth, users[:40], args.seed)
    print(f"{len(judged)} judged users, {args.photos} photos, {args.experts} experts, reading {args.reading}\n")
    print("| dimension | repeats themselves | generic SRCC | " + " | ".join(f"gain at {c}" for c in COUNTS) + " |")
    print("|---" * (3 + len(COUNTS)) + "|")
    for d, name in enumerate(DIMENSIONS):
        target = np.where(fit, np.nan, rated[late, :, d])
        generic = metrics.srcc(predictions[:, -1, d], target)
        cells = []
        for count in COUNTS:
            gains = []
            for _ in range(3):
                mean, *_ = personal.posterior(prior, prior.mean.expand(len(late), -1, -1), stats(late, count))
                scores = torch.einsum("np,up->un", phi[:, d], mean[:, d]).numpy()
                gains.append(metrics.srcc(scores, target) - generic)
            middle, lo, hi = metrics.interval(np.mean(gains, 0), seed=0)
            cells.append(f"{middle:+.3f} ({lo:+.3f}, {hi:+.3f})")
        print(f"| {name} | {repeats[d]:.3f} | {np.nanmean(generic):.3f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
