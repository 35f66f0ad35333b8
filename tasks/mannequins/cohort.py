"""A folder of mannequins in the layout of the `folder` source, so the default run takes the path of real data.

    photos/*.jpg  ratings.csv  raters.csv  feedback.csv  cohort.yaml
    truth.parquet         what is known of each photo    } for measuring only: no stage that
    raters_truth.csv      whose taste drifted, cluster   } learns anything reads these
"""

from __future__ import annotations

import hashlib
import os
from datetime import date, timedelta
from pathlib import Path

from tasks.params import Mannequins
from tasks.progress import counted

FIRST_NIGHT = date(2026, 5, 2)
"""The day whose feedback is that of the first night."""


def write_mannequins(out: Path, body: Path, settings: Mannequins, seed: int) -> None:
    """Write the cohort. More photos leave the first ones as they are, byte for byte."""
    from tasks.mannequins.photos import make_photos
    from tasks.mannequins.raters import simulate

    out.mkdir(parents=True, exist_ok=True)
    with counted("mannequins") as on_progress:
        table = make_photos(
            out,
            body,
            settings.photos,
            seed,
            workers=os.cpu_count() or 1,
            nobody=settings.nobody,
            unreadable=settings.unreadable,
            on_progress=on_progress,
        )
    truth = table.to_pandas()
    hashes = [hashlib.sha256((out / "photos" / name).read_bytes()).hexdigest() for name in truth["photo"]]
    truth["photo_id"] = hashes
    found = simulate(
        truth,
        experts=settings.experts,
        users=settings.users,
        ratings_per_user=settings.ratings_per_user,
        feedback_per_user=settings.feedback_per_user,
        judging_per_user=settings.judging_per_user,
        drift=settings.drift,
        seed=seed,
        nights=[str(FIRST_NIGHT + timedelta(days=k)) for k in range(settings.nights)],
    )
    found.raters.to_csv(out / "raters.csv", index=False)
    found.ratings.to_csv(out / "ratings.csv", index=False)
    found.feedback.to_csv(out / "feedback.csv", index=False)
    found.truth.to_csv(out / "raters_truth.csv", index=False)
    (out / "cohort.yaml").write_text("name: mannequins\nscale: [0, 10]\nsimulated: true\n")
