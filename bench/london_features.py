"""London as a cohort of the source `features`: a photo's vector is what training raters gave it.

    uv run python bench/london_features.py --data ../shared/data/london --out .physique/london
    uv run dvc exp run -S data.source=features -S data.path=.physique/london -S finetune.prior_users=0.8 \\
        -S finetune.fused=9 evaluate                              # fused: --factors and one

Training raters are the users that the pipeline learns its prior from (by the rater's id, `finetune.prior_users`); no expert
and no user whom the report judges is among them. A photo's vector is its mean score and its loadings in a factor analysis
(bench/london.py) of their ratings. All ratings are written, as they came; photos are held out by the pipeline (30 %), and a
judged user's ratings of those are never fitted on. Numbers found: docs/cohorts.md.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.london import loadings  # noqa: E402
from tasks.ratings import user_split  # noqa: E402


def vectors(data: Path, factors: int, prior_users: float) -> tuple[list[str], np.ndarray, int]:
    """Names of photos, their vectors (N, 1 + factors), and how many raters they were made from."""
    import pandas as pd

    wide = pd.read_csv(data / "ratings.csv").pivot(index="rater_id", columns="photo", values="appearance")
    roles = pd.read_csv(data / "raters.csv").set_index("rater_id").role
    training = [r for r in wide.index if roles[r] == "user" and user_split(str(r), prior_users) == "prior"]
    said = wide.loc[training].to_numpy(float)
    return list(wide.columns), np.c_[said.mean(0), loadings(said, factors)], len(training)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the London cohort")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--factors", type=int, default=8)
    parser.add_argument("--prior-users", type=float, default=0.8, help="as finetune.prior_users of the run")
    words = parser.parse_args()
    import pyarrow as pa
    import pyarrow.parquet as pq

    names, made, count = vectors(words.data, words.factors, words.prior_users)
    words.out.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"item": names, "vector": made.tolist()}), words.out / "items.parquet")
    for name in ("ratings.csv", "raters.csv"):
        shutil.copy(words.data / name, words.out / name)
    (words.out / "cohort.yaml").write_text("scale: [1, 7]\nname: London, vectors of training raters\n")
    print(f"{len(names)} photos, vectors of {made.shape[1]} numbers from {count} training raters: {words.out}")


if __name__ == "__main__":
    main()
