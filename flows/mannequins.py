"""The simulated cohort: mannequin photos and raters, written as a folder like anybody's own.

uv run dvc repro mannequins
"""

from pathlib import Path

from prefect import flow

from tasks.bodies import body_file
from tasks.mannequins.cohort import write_mannequins
from tasks.params import load_params
from tasks.stage import run


@flow
def mannequins(body: str = "data/body", out: str = "data/mannequins") -> None:
    """Render photos, have simulated raters rate them, write the folder that `cohort` reads, if `data.source` says so."""
    params = load_params()
    if params.data.source == "mannequins":
        write_mannequins(Path(out), body_file(Path(body))[0], params.mannequins, params.seed)
    else:
        Path(out).mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    run(mannequins)
