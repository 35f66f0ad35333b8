"""Small cohorts of items that are vectors, for the tests of the source `features`."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def items_folder(root: Path, vectors: object, names: object = None, **files: str) -> Path:
    """A folder with items.parquet (items a, b, c … unless named) and the given files (`raters_csv` is raters.csv)."""
    root.mkdir(parents=True)
    if vectors is not None:
        column = vectors if isinstance(vectors, pa.Array) else pa.array(vectors, pa.list_(pa.float64()))
        names = [chr(97 + k) for k in range(len(column))] if names is None else names
        pq.write_table(pa.table({"item": names, "vector": column}), root / "items.parquet")
    contents = {"ratings_csv": "rater_id,item,health\ne,a,5\nu,b,6\n", "raters_csv": "rater_id,role\ne,expert\n"}
    for name, text in (contents | files).items():
        (root / name.replace("_", ".")).write_text(text)
    return root


def tastes(root: Path, items: int = 90, experts: int = 3, users: int = 30, each: int = 60, seed: int = 0) -> Path:
    """A cohort whose raters each like a direction of four numbers, experts every item; the true tastes are linear."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(items, 4))
    names = [f"item {k}" for k in range(items)]
    common = np.array([1.0, 0.5, 0.0, 0.0])
    lines = ["rater_id,item,appearance,health"]
    people = [f"expert-{k}" for k in range(experts)] + [f"user-{k:02d}" for k in range(users)]
    for who in people:
        taste = common + rng.normal(0, 0.8, (2, 4))
        rated = range(items) if who.startswith("expert") else sorted(rng.permutation(items)[:each])
        for k in rated:
            scores = np.clip(5 + taste @ z[k] + rng.normal(0, 0.5, 2), 0, 10)
            lines.append(f"{who},{names[k]},{scores[0]:.2f},{scores[1]:.2f}")
    night = [
        f"e{u}-{k},user-{u:02d},item {k},rating,appearance,{rng.uniform(2, 8):.1f},2026-05-01T10:{k:02d}:00Z"
        for u in range(3)
        for k in range(12)
    ]
    roles = "".join(f"{who},{'expert' if who.startswith('expert') else 'user'}\n" for who in people)
    scaled = z * [1, 10, 0.1, 100] + [0, 5, 0, 1000]  # columns in units of their own
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(scaled.astype(np.float32).ravel()), 4)
    return items_folder(
        root,
        vectors,
        names,
        ratings_csv="\n".join(lines) + "\n",
        raters_csv="rater_id,role\n" + roles,
        feedback_csv="event_id,user_id,item,kind,dimension,value,at\n" + "\n".join(night) + "\n",
        cohort_yaml="scale: [0, 10]\nname: tastes\n",
    )
