"""Stage 1: pseudo-labels, the experts' revisions, one model per expert, all in the registry.

uv run dvc repro pretrain
"""

from pathlib import Path

from prefect import flow

from tasks.experts import expert_settings, register_experts, write_labels
from tasks.params import load_params
from tasks.stage import publish, run
from tasks.tables import replaced_folder
from tasks.train import fit_all
from tasks.train_experts import collect, expert_loop, jobs


@flow
def pretrain(
    cohort: str = "data/cohort",
    mesh: str = "data/mesh",
    embeddings: str = "data/embeddings",
    body: str = "data/body",
    meshnet: str = "data/meshnet",
    reviews: str = "data/reviews",
    out: str = "artifacts/pretrain",
) -> None:
    """Draft, review, train every expert's model, the joint and the generic one with Ray Train, register them."""
    params = load_params()
    with replaced_folder(out) as folder:
        write_labels(Path(cohort), Path(mesh), Path(embeddings), Path(reviews), folder, params)
        config = expert_settings(Path(cohort), Path(mesh), Path(embeddings), folder, params)
        workers, gpus = params.pretrain.workers, params.pretrain.gpus_per_worker
        fit_all(
            expert_loop, jobs(config), name="pretrain", workers=workers, cpus_per_worker=0.5, gpus_per_worker=gpus
        )
        collect(Path(config["kept"]), folder)
        page = register_experts(folder, Path(cohort), Path(body), Path(meshnet), params)
    publish("pretrain", page)


if __name__ == "__main__":
    run(pretrain)
