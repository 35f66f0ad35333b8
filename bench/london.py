"""How much do a few ratings help on real people? 102 portraits, 1,200 raters, the default personal method.

    uv run python bench/london.py --data ../shared/data/london --out london.parquet
    uv run python bench/london.py --data ../shared/data/london --embeddings data/embeddings      # the harder setting too

Raters are dealt into five folds; each is tested once. Of the others a tenth validates (how many factors a photo's vector
has, nothing else), the rest trains: they, and the 24 experts, say what is known of a photo. The vector of a photo is its
loadings in a factor analysis of the training raters' ratings, the generic model their mean, an expert's model a ridge
regression on the vectors. A test rater gives 0, 10, 25 or 50 of 51 photos and is judged on the other 51: Spearman's
correlation less the generic model's, paired, mean of several random halves, bootstrap intervals over raters. Asked by
model/ask.py: `10 chosen` one by one, each after the answer before it; `10 listed` all at once, before any answer.
`pixels`: 51 photos that nobody rated are judged; their vectors and generic scores come from image vectors by ridge.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model import ask, metrics, personal  # noqa: E402
from model.basis import GENERIC  # noqa: E402
from tasks.personal import finetune  # noqa: E402
from tasks.progress import progress  # noqa: E402
from tasks.ratings import Photos, Ratings  # noqa: E402

COUNTS = (0, 10, 25, 50)
HALF = 51
TOLD = 10  # photos that are chosen
FACTORS = (2, 4, 6, 8, 10, 12)
COVERED = 1.6449  # standard deviations to either side of a 90 % interval


def read_london(data: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Ratings (U, N) on 0..10, experts (U,) bool, names of photos."""
    import pandas as pd

    wide = pd.read_csv(data / "ratings.csv").pivot(index="rater_id", columns="photo", values="appearance")
    roles = pd.read_csv(data / "raters.csv").set_index("rater_id").role.loc[wide.index]
    return (wide.to_numpy(float) - 1) / 6 * 10, (roles == "expert").to_numpy(), list(wide.columns)


def loadings(ratings: np.ndarray, factors: int, iterations: int = 30) -> np.ndarray:
    """Factor analysis (EM) of standardised ratings (U, N): what tells raters apart, (N, factors).

    Rubin & Thayer 1982. Each photo has a noise of its own, so one that raters are unsure about pulls on nothing.
    """
    z = ratings - ratings.mean(1, keepdims=True)
    z /= np.maximum(z.std(1, keepdims=True), 0.5)
    z -= z.mean(0)
    cov = z.T @ z / len(z)
    values, vectors = np.linalg.eigh(cov)
    values, vectors = values[::-1], vectors[:, ::-1]
    rest = values[factors:].mean()
    load = vectors[:, :factors] * np.sqrt(np.maximum(values[:factors] - rest, 1e-6))
    noise = np.full(len(cov), rest)
    for _ in range(iterations):
        weighted = load.T / noise
        inner = np.linalg.inv(np.eye(factors) + weighted @ load)
        back = inner @ weighted
        load = cov @ back.T @ np.linalg.inv(inner + back @ cov @ back.T)
        noise = np.maximum(np.diag(cov - load @ back @ cov), 0.01)
    values, vectors = np.linalg.eigh(load.T @ load)  # turned to principal axes, the largest first
    return load @ vectors[:, ::-1]


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Coefficients (1 + P, K) of y (N, K) on x (N, P), the level unpenalised."""
    f = np.c_[np.ones(len(x)), x]
    return np.linalg.solve(f.T @ f + penalty * np.diag([0.0] + [1.0] * x.shape[1]), f.T @ y)


def described(ratings: np.ndarray, experts: np.ndarray, train, factors: int, seen: np.ndarray, pixels) -> Photos:
    """What training raters say of every photo; of photos not `seen` (N,) only pixels (N, F) do."""
    said = ratings[train][:, seen]
    vectors = loadings(said, factors)
    level = said.mean(0)
    f = np.c_[level - level.mean(), vectors * said.std()]
    own = ratings[train][experts[train]][:, seen]
    models = np.c_[np.ones(len(f)), f] @ ridge(f, own.T, 3.0)
    models = np.c_[models, level]
    if not seen.all():  # penalty chosen by leaving photos out
        x = pixels[seen]
        best = min((10.0**k for k in range(-1, 7)), key=lambda p: _left_out(x, level[:, None], p))
        everything = np.c_[vectors, models]
        guessed = np.c_[np.ones(len(pixels)), pixels] @ ridge(x, everything, best)
        guessed[seen] = everything
        vectors, models = guessed[:, :factors], guessed[:, factors:]
    predictions = np.full((len(models), models.shape[1], 3), np.nan)
    predictions[:, :, 0] = models
    names = [f"expert-{k:02d}" for k in range(models.shape[1] - 1)] + [GENERIC]
    # ids of the split `fit`: which photos are held back is said here, not by the hash
    return Photos([f"{k:08x}" for k in range(len(models))], names, torch.tensor(predictions), torch.tensor(vectors))


def _left_out(x: np.ndarray, y: np.ndarray, penalty: float) -> float:
    f = np.c_[np.ones(len(x)), x]
    hat = f @ np.linalg.solve(f.T @ f + penalty * np.diag([0.0] + [1.0] * x.shape[1]), f.T)
    return float((((y - hat @ y) / (1 - np.diag(hat))[:, None]) ** 2).mean())


def given(ratings: np.ndarray, photos: np.ndarray) -> Ratings:
    """Ratings (U, N) of the photos (U, n) that each user rates."""
    y = np.full((photos.size, 3), np.nan)
    y[:, 0] = np.take_along_axis(ratings, photos, 1).ravel()
    user = torch.arange(len(photos)).repeat_interleave(photos.shape[1])
    return Ratings(user, torch.tensor(photos.ravel()), torch.tensor(y), torch.full((photos.size,), torch.nan))


def bank_of(photos: Photos, ratings: np.ndarray, train: np.ndarray, factors: int, seen: np.ndarray):
    """The default method, fitted on all training raters."""
    users = [f"{u:04d}" for u in train]
    all_seen = np.tile(np.flatnonzero(seen), (len(train), 1))
    config = {"prior_share": 1.0, "fused_axes": factors}
    surveys = [{}] * len(photos.models)
    return finetune(photos, users, [{}] * len(users), photos.models[:-1], surveys, given(ratings[train], all_seen), config)


def entry(bank, phi, ratings: np.ndarray, asked: np.ndarray) -> personal.Posterior:
    """What the ratings that were asked for, (U, n) photos, say of each user."""
    told = given(ratings, asked)
    stats = personal.no_stats(len(ratings), 3, bank.basis.size)
    if asked.shape[1]:
        stats = personal.sufficient(phi[told.photo], told.y, told.user, len(ratings))
    return personal.posterior(bank.prior, bank.prior.mean.expand(len(ratings), -1, -1), stats)


def chosen(bank, phi, ratings: np.ndarray, pools: np.ndarray, at_once: int) -> np.ndarray:
    """TOLD of the photos (U, n) in each rater's pool, `at_once` of them asked between looks at the answers."""
    asked = np.zeros((len(ratings), 0), int)
    rated = bank.prior.users > 0
    while asked.shape[1] < TOLD:
        known = entry(bank, phi, ratings, asked)
        noise = torch.where(rated, known.noise, torch.nan)
        rows = []
        for u, pool in enumerate(pools):
            rest = np.setdiff1d(pool, asked[u])
            rows.append(rest[ask.next_photos(phi[rest], known.mean[u], known.cov[u], noise[u], at_once, phi).numpy()])
        asked = np.c_[asked, np.array(rows)]
    return asked


def judge(ratings: np.ndarray, experts: np.ndarray, train, test, factors: int, rng, pixels=None, choose=True) -> list[dict]:
    """One row per test rater and number of ratings: srcc, generic, covered (share inside the 90 % interval)."""
    photos_n = ratings.shape[1]
    order = np.array([rng.permutation(photos_n) for _ in test])
    seen = np.ones(photos_n, bool)
    if pixels is not None:  # the same photos are unseen to everybody
        order[:] = order[0]
        seen[order[0, HALF:]] = False
    photos = described(ratings, experts, train, factors, seen, pixels)
    bank = bank_of(photos, ratings, train, factors, seen)
    phi = bank.basis.phi(photos.predictions, photos.fused)
    judged = order[:, HALF:]
    truth = np.take_along_axis(ratings[test], judged, 1)
    generic = metrics.srcc(photos.predictions[:, -1, 0].numpy()[judged], truth)
    arms = {str(count): order[:, :count] for count in COUNTS}
    for name, at_once in (("chosen", 1), ("listed", TOLD)) if choose else ():
        arms[f"{TOLD} {name}"] = chosen(bank, phi, ratings[test], order[:, :HALF], at_once)
    rows = []
    for name, asked in arms.items():
        found = entry(bank, phi, ratings[test], asked)
        scores = np.take_along_axis((found.mean[:, 0] @ phi[:, 0].T).numpy(), judged, 1)
        variance = torch.einsum("np,upq,nq->un", phi[:, 0], found.cov[:, 0], phi[:, 0]) + found.noise[:, :1]
        sd = np.take_along_axis(variance.sqrt().numpy(), judged, 1)
        own = metrics.srcc(scores, truth)
        inside = (np.abs(scores - truth) < COVERED * sd).mean(1)
        columns = zip(test.tolist(), own.tolist(), generic.tolist(), inside.tolist())
        rows += [{"rater": u, "ratings": name, "srcc": a, "generic": b, "covered": c} for u, a, b, c in columns]
    return rows


def fold_rows(ratings, experts, train_raters, fold: int, halves: int, seed: int, pixels) -> list[dict]:
    """Every setting of one fold, each with several random halves of the photos."""
    rng = np.random.default_rng([seed, fold])
    users = np.random.default_rng(seed).permutation(np.flatnonzero(~experts))
    test = users[fold::5]
    rest = rng.permutation(np.setdiff1d(users, test))
    validation, pool = rest[: len(rest) // 10], rest[len(rest) // 10 :]
    always = np.flatnonzero(experts)
    rows = []
    for size in train_raters:
        train = np.r_[always, pool][: len(always) + len(pool) if size is None else size]
        best = max(FACTORS, key=lambda k: _foretold(ratings, experts, train, validation, k))
        settings = [("features", None)] + ([("pixels", pixels)] if pixels is not None else [])
        for setting, image in settings:
            about = {"setting": setting, "training": "all" if size is None else str(size), "factors": best, "fold": fold}
            for _ in range(halves):
                rows += [about | row for row in judge(ratings, experts, train, test, best, rng, image)]
    return rows


def _foretold(ratings, experts, train, validation, factors: int) -> float:
    """Mean gain of validation raters over the generic model at 10 and 25 ratings."""
    rows = judge(ratings, experts, train, validation, factors, np.random.default_rng(0), choose=False)
    return float(np.nanmean([row["srcc"] - row["generic"] for row in rows if row["ratings"] in ("10", "25")]))


def table(rows: list[dict], seed: int) -> str:
    """Markdown: gain over the generic model with its interval, and how often the 90 % interval holds."""
    import pandas as pd

    head = "| setting | training raters | ratings | generic | gain [95 %] | in the 90 % interval |"
    lines, shares = [head, "|---|---|---|---:|---|---:|"], []
    known = pd.DataFrame(rows).assign(gain=lambda row: row.srcc - row.generic)
    for (setting, training), part in known.groupby(["setting", "training"], sort=False):
        gains = part.pivot_table(index="rater", columns="ratings", values="gain")
        for count in dict.fromkeys(part.ratings):
            mine = part[part.ratings == count]
            gain, lo, hi = metrics.interval(gains[count].to_numpy(), seed)
            words = f"{setting} | {training} | {count} | {mine.generic.mean():.3f}"
            lines.append(f"| {words} | {gain:+.4f} [{lo:+.4f}, {hi:+.4f}] | {mine.covered.mean():.3f} |")
        shares.append(f"{setting}, {training}: {_share(gains, seed)}")
    return "\n".join([*lines, "", *shares])


def _share(gains, seed: int) -> str:
    """Gain of the chosen ratings as a share of that of 25 random ones, raters resampled."""
    some, many = gains[f"{TOLD} chosen"].to_numpy(), gains["25"].to_numpy()
    draws = np.random.default_rng(seed).integers(0, len(some), (2000, len(some)))
    lo, hi = np.nanquantile(np.nanmean(some[draws], 1) / np.nanmean(many[draws], 1), (0.025, 0.975))
    share = np.nanmean(some) / np.nanmean(many)
    return f"{TOLD} chosen ratings gain {share:.2f} [{lo:.2f}, {hi:.2f}] of what 25 random ones do"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the London cohort")
    parser.add_argument("--embeddings", type=Path, help="data/embeddings of a London run: the setting `pixels` too")
    parser.add_argument("--folds", type=int, default=5, help="of the five, how many are run")
    parser.add_argument("--halves", type=int, default=3, help="random halves of the photos per fold")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Parquet of one row per rater and setting")
    words = parser.parse_args()
    torch.set_num_threads(1)
    ratings, experts, names = read_london(words.data)
    pixels = None if words.embeddings is None else image_vectors(words.data, words.embeddings, names)
    rows = []
    with progress("folds", words.folds) as advance:
        for fold in range(words.folds):
            rows += fold_rows(ratings, experts, (None, 100), fold, words.halves, words.seed, pixels)
            advance(1)
    print(table(rows, words.seed))
    if words.out:
        import pandas as pd

        pd.DataFrame(rows).to_parquet(words.out)


def image_vectors(data: Path, embeddings: Path, names: list[str]) -> np.ndarray:
    """(N, F) standardised vectors of the photos, unflipped, from the pipeline's table."""
    from hashlib import sha256

    import pyarrow.dataset as ds

    table = ds.dataset(embeddings, format="parquet").to_table().to_pylist()
    rows = {row["photo_id"]: row["vector"] for row in table if not row["flipped"]}
    found = np.array([rows[sha256((data / "photos" / name).read_bytes()).hexdigest()] for name in names])
    return (found - found.mean(0)) / np.maximum(found.std(0), 1e-6)


if __name__ == "__main__":
    main()
