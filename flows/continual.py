"""Stage 3: a night of feedback. Entries are updated, the gate keeps back what is not better, one bank results.

uv run dvc repro continual
"""

from pathlib import Path

from prefect import flow

from tasks.banks import bank_page, keep_bank, night_settings, register_bank
from tasks.params import load_params
from tasks.stage import publish, run
from tasks.tables import read_json, replaced_folder
from tasks.train import fit
from tasks.train_personal import continual_loop


@flow
def continual(
    cohort: str = "data/cohort",
    pretrain: str = "artifacts/pretrain",
    finetune: str = "artifacts/finetune",
    body: str = "data/body",
    meshnet: str = "data/meshnet",
    out: str = "artifacts/continual",
) -> None:
    """Update the bank from the feedback snapshot; without new ratings the bank stays and nothing is registered."""
    params = load_params()
    with replaced_folder(out) as folder:
        config = night_settings(Path(cohort), Path(pretrain), Path(finetune), folder, params)
        fit(continual_loop, config, name="continual", workers=params.continual.workers, cpus_per_worker=0.5)
        if read_json(folder / "continual.json")["unchanged"]:
            facts = keep_bank(folder, "continual.json", Path(finetune), "finetune.json")
        else:
            facts = register_bank(
                folder, "continual", "continual.json", Path(pretrain), Path(body), Path(meshnet), params
            )
        page = bank_page("A night of feedback", facts, folder / "users.parquet")
    publish("continual", page)


if __name__ == "__main__":
    run(continual)
