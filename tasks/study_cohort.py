"""The study on the cohort that the pipeline has run on: `physique study`.

Needs the stages up to `finetune`; of users only those whom the prior has never seen are judged, on photos of the split
`test`. Writes study.md, study.png and study.parquet (one row per user, arm, count and dimension).

    uv run dvc repro finetune && uv run physique study
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pyarrow as pa
import torch

from tasks.intake.quarantine import BadInput
from tasks.judge import wide
from tasks.params import load_params
from tasks.progress import progress
from tasks.ratings import as_ratings, read_photos
from tasks.study import COUNTS, Group, Setting, study
from tasks.tables import read_json, read_table, write_bytes, write_table, write_text


def cohort_setting(artifacts: Path = Path("artifacts"), data: Path = Path("data")) -> Setting:
    """What the pipeline has made of its cohort. Raises BadInput: not built yet, or nobody is judged."""
    from model.bank import load_bank

    pretrain, finetune = artifacts / "pretrain", artifacts / "finetune"
    if not (finetune / "finetune.json").is_file():
        raise BadInput(f"{finetune}: no personal models yet; run `dvc repro finetune` first")
    bank = load_bank(finetune / "bank")
    photos = read_photos(pretrain / "predictions.parquet", pretrain / "features.parquet")
    ratings, _ = as_ratings(read_table(data / "cohort/labels.parquet"), bank.users, photos)
    y = torch.from_numpy(wide(ratings, len(bank.users), len(photos.ids)))
    everybody = Group(list(bank.users), list(bank.surveys), y)
    judged, earlier = (everybody[torch.nonzero(part).flatten()] for part in (bank.judged, ~bank.judged))
    may = photos.fitting()
    if not len(judged) or (~judged.y[:, ~may].isnan()).sum() == 0:
        raise BadInput("no user is judged: finetune.prior_users has to leave some who rated photos of the split `test`")
    about = read_json(data / "cohort/cohort.json")
    return Setting(about["name"], about["simulated"], bank, photos, may, judged, earlier, earlier)


def study_cohort(out: Path, counts: tuple[int, ...] = COUNTS, repeats: int = 4, seed: int = 0) -> None:
    """Run the study on the cohort that is built, print its table, write it into `out`.

    Raises:
        BadInput: the cohort is not built, nobody is judged, or counts are not whole numbers that rise from 0.
    """
    if not counts or list(counts) != sorted(set(counts)) or counts[0] < 0:
        raise BadInput(f"--counts: {','.join(map(str, counts))}; right are numbers of ratings that rise, as in 0,10,50")
    params = load_params()
    config = {"forget": list(params.continual.forget), "confidence": params.continual.confidence}
    setting, started = cohort_setting(), time.monotonic()
    with progress("study", repeats * len(counts)) as advance:
        config |= {"min_ratings": params.finetune.min_ratings}
        table = study(setting, counts, repeats=repeats, seed=seed, config=config, advance=advance)
    users = len(setting.judged)
    notes = (
        f"{users} users whom no model has seen, judged on {int((~setting.may).sum())} photos that none was fitted on; "
        f"{int(setting.may.sum())} photos may be rated; {repeats} draws of ratings; intervals over users.",
    )
    if missing := [str(count) for count in counts if count not in set(table["count"].to_pylist())]:
        notes += (f"Nobody has {' or '.join(missing)} ratings to give.",)
    written(table, out, setting.name, setting.simulated, notes, seed)
    took = time.monotonic() - started
    print(f"{out}/study.md, study.png, study.parquet: {users} users in {took:.0f} s", file=sys.stderr)


def written(table: pa.Table, out: Path, name: str, simulated: bool, notes: tuple[str, ...], seed: int) -> None:
    """Print the table of a study and write study.md, study.png and study.parquet into `out`."""
    from rich.console import Console

    from tasks.report.study import conclusion, markdown, plot, summary, terminal

    rows = summary(table, seed)
    write_table(table, out / "study.parquet")
    write_text(markdown(rows, name, simulated, (*notes, conclusion(rows))), out / "study.md")
    write_bytes(plot(rows), out / "study.png")
    Console().print(terminal(rows, name, simulated))
