"""Stage 3: nights of feedback. Entries are updated, the gate keeps back what is not better, one bank results.

uv run dvc repro continual        docs/feedback.md says what feedback does
"""

from pathlib import Path

from prefect import flow

from tasks.banks import bank_page, keep_bank, lora_config, night_rule, night_settings, register_bank
from tasks.forget.models import drop_replaced
from tasks.lineage import plan
from tasks.lora import NEVER
from tasks.lora_nights import lora_nights_loop
from tasks.params import load_params
from tasks.stage import publish, run, say
from tasks.tables import found_again, read_json, replaced_folder, write_json
from tasks.train import fit
from tasks.train_personal import continual_loop


@flow
def continual(
    cohort: str = "data/cohort",
    nights: str = "data/nights",
    mesh: str = "data/mesh",
    embeddings: str = "data/embeddings",
    pretrain: str = "artifacts/pretrain",
    finetune: str = "artifacts/finetune",
    body: str = "data/body",
    meshnet: str = "data/meshnet",
    out: str = "artifacts/continual",
) -> None:
    """Bring the bank up to date with the snapshots of feedback, and register it if that changed anything."""
    params = load_params()
    found_again(Path(out))
    lora = lora_config(Path(cohort), Path(mesh), Path(embeddings), Path(pretrain), params)
    todo = plan(Path(out), Path(finetune), Path(nights), night_rule(params))
    if todo.goes_on and not todo.nights:
        say(f"no new night of feedback: the bank has learned from all {len(todo.earlier)}")
        return
    with replaced_folder(out) as folder:
        config = night_settings(Path(cohort), Path(pretrain), Path(finetune), todo, folder, params)
        bank = config | ({"confidence": NEVER} if lora else {})  # then the bank promotes nothing of its own
        fit(continual_loop, bank, name="continual", workers=params.continual.workers, cpus_per_worker=0.5)
        if lora:
            fit(lora_nights_loop, config | lora, name="lora-nights", workers=1, cpus_per_worker=0.5)
        facts = read_json(folder / "continual.json") | {"lineage": todo.lineage}
        write_json(facts, folder / "continual.json")
        if facts["unchanged"]:
            facts = keep_bank(folder, "continual.json", todo.start)
        else:
            facts = register_bank(
                folder, "continual", "continual.json", Path(pretrain), Path(body), Path(meshnet), params,
                todo.start, Path(finetune),
            )  # fmt: skip
        drop_replaced()
        page = bank_page("Nights of feedback", facts, folder / "users.parquet")
    publish("continual", page)


if __name__ == "__main__":
    run(continual)
