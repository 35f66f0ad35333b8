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

import pyarrow as pa
import pyarrow.compute as pc

from tasks.forgotten import read_forgotten
from tasks.params import Mannequins
from tasks.progress import counted
from tasks.tables import write_table

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
    forgotten = read_forgotten()
    lost = {name for name, photo in zip(truth["photo"], hashes) if forgotten.has("photo", photo)}
    gone = forgotten.among("person", found.raters["rater_id"])
    for name in lost:
        (out / "photos" / name).unlink()
    if lost:
        write_table(table.filter(pc.invert(pc.is_in(table["photo"], pa.array(sorted(lost))))), out / "truth.parquet")
    frames = {"raters": found.raters, "ratings": found.ratings, "feedback": found.feedback, "raters_truth": found.truth}
    for name, frame in frames.items():
        for column, these in (("rater_id", gone), ("user_id", gone), ("photo", lost)):
            if these and column in frame:
                frame = frame[~frame[column].isin(these)]
        frame.to_csv(out / f"{name}.csv", index=False)
    (out / "cohort.yaml").write_text("name: mannequins\nscale: [0, 10]\nsimulated: true\n")
