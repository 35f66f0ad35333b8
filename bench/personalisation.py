"""PAA+ against fine-tuning one generic model, on real people: 102 portraits, 1,200 raters (docs/study.md).

    uv run python bench/personalisation.py --data ../shared/data/london --out report/study_london
    uv run physique study                                       # the same on the cohort that the pipeline has run on

Raters are dealt into five folds; each is judged once. Of the others a tenth are the tuners: on them the baselines'
hyper-parameters and the number of factors of a photo's vector are chosen; the rest, and the 24 experts, are all that is
known of photos (bench/london.py: loadings as vectors, their mean as the generic model, a ridge regression per expert). 51
photos, others in each fold, may be rated, the other 51 judge. `--pixels`: of those that judge only image vectors are known.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from london import FACTORS, HALF, _foretold, bank_of, described, image_vectors, read_london  # noqa: E402

from tasks.progress import progress  # noqa: E402
from tasks.study import Group, Setting, study  # noqa: E402
from tasks.study_cohort import written  # noqa: E402

COUNTS = (0, 5, 10, 25, 50)
CONFIG = {"forget": [1, 0.5, 0.25, 0.1], "confidence": 0.6, "min_ratings": 5}


def group_of(ratings: np.ndarray, raters: np.ndarray) -> Group:
    """Raters as a group of users without surveys."""
    y = torch.full((len(raters), ratings.shape[1], 3), torch.nan, dtype=torch.float64)
    y[:, :, 0] = torch.tensor(ratings[raters])
    return Group([f"{u:04d}" for u in raters], [{}] * len(raters), y)


def fold_setting(ratings, experts, fold: int, seed: int, factors: int | None, pixels) -> Setting:
    """One fold; the raters of bench/london.py's folds."""
    rng = np.random.default_rng([seed, fold])
    users = np.random.default_rng(seed).permutation(np.flatnonzero(~experts))
    judged = users[fold::5]
    rest = rng.permutation(np.setdiff1d(users, judged))
    tuners, train = rest[: len(rest) // 10], np.r_[np.flatnonzero(experts), rest[len(rest) // 10 :]]
    best = factors or max(FACTORS, key=lambda k: _foretold(ratings, experts, train, tuners, k))
    may = np.zeros(ratings.shape[1], bool)
    may[rng.permutation(ratings.shape[1])[:HALF]] = True
    seen = may if pixels is not None else np.ones_like(may)
    photos = described(ratings, experts, train, best, seen, pixels)
    bank = bank_of(photos, ratings, train, best, seen)
    groups = (group_of(ratings, part) for part in (judged, tuners))
    return Setting("London", False, bank, photos, torch.from_numpy(may), *groups, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the London cohort")
    parser.add_argument("--out", type=Path, required=True, help="folder for study.md, study.png and study.parquet")
    parser.add_argument("--pixels", type=Path, metavar="EMBEDDINGS", help="data/embeddings of a London run: harder")
    parser.add_argument("--folds", type=int, default=5, help="of the five, how many are run")
    parser.add_argument("--factors", type=int, help="of a photo's vector, instead of choosing")
    parser.add_argument("--repeats", type=int, default=2, help="draws of ratings per count")
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    torch.set_num_threads(1)
    ratings, experts, names = read_london(words.data)
    pixels = None if words.pixels is None else image_vectors(words.data, words.pixels, names)
    tables, judged = [], 0
    with progress("folds", words.folds) as advance:
        for fold in range(words.folds):
            setting = fold_setting(ratings, experts, fold, words.seed, words.factors, pixels)
            tables.append(study(setting, COUNTS, repeats=words.repeats, seed=words.seed, config=CONFIG))
            judged += len(setting.judged)
            advance(1)
    note = (
        f"{judged:,} raters whom no model has seen, in {words.folds} folds, judged on 51 photos that they did not rate, of "
        f"which {'only the pixels are' if words.pixels else 'the opinion of other raters is'} known; {words.repeats} draws "
        "of ratings; intervals over raters."
    )
    written(pa.concat_tables(tables), words.out, "London", False, (note,), words.seed)


if __name__ == "__main__":
    main()
