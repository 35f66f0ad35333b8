"""Stage 2: the expert that suits each user, and a small personal model, all in one bank.

uv run dvc repro finetune
"""

from pathlib import Path

from prefect import flow

from tasks.banks import bank_page, finetune_settings, lora_config, register_bank
from tasks.params import load_params
from tasks.stage import publish, run
from tasks.tables import replaced_folder
from tasks.train import fit
from tasks.train_personal import finetune_loop


@flow
def finetune(
    cohort: str = "data/cohort",
    mesh: str = "data/mesh",
    embeddings: str = "data/embeddings",
    pretrain: str = "artifacts/pretrain",
    body: str = "data/body",
    meshnet: str = "data/meshnet",
    out: str = "artifacts/finetune",
) -> None:
    """Learn the prior from some users, give every user an entry, let the gate decide, register the bank."""
    params = load_params()
    with replaced_folder(out) as folder:
        config = finetune_settings(Path(cohort), Path(pretrain), folder, params)
        config |= lora_config(Path(cohort), Path(mesh), Path(embeddings), Path(pretrain), params)
        fit(finetune_loop, config, name="finetune", workers=params.finetune.workers, cpus_per_worker=0.5)
        facts = register_bank(
            folder, "finetune", "finetune.json", Path(pretrain), Path(body), Path(meshnet), params
        )
        page = bank_page("Personal models", facts, folder / "users.parquet")
    publish("finetune", page)


if __name__ == "__main__":
    run(finetune)
