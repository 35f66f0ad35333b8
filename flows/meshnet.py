"""Train the small mesh network on mannequins; its error in millimetres stands in data/meshnet/metrics.json.

uv run dvc repro meshnet
"""

from pathlib import Path

from prefect import flow

from tasks.bodies import body_file
from tasks.params import load_params
from tasks.progress import counted
from tasks.source_kind import without_photos, write_skipped
from tasks.stage import run
from tasks.train import fit
from tasks.train_mesh_net import crops_version, mesh_net_loop, mesh_net_settings, render_training_set


@flow
def meshnet(body: str = "data/body", out: str = "data/meshnet") -> None:
    """Render training crops on Ray, train with Ray Train, measure on mannequins never trained on."""
    params = load_params()
    if without_photos():
        write_skipped(Path(out))
        return
    model = body_file(Path(body))[0]
    crops = Path(".physique/crops") / crops_version(model)
    with counted("training crops") as on_progress:
        train = render_training_set(model, crops, params.meshnet.crops, seed=params.seed, on_progress=on_progress)
    with counted("held-out crops") as on_progress:
        held_out = params.meshnet.held_out
        val = render_training_set(model, crops, held_out, seed=params.seed + 1, on_progress=on_progress)
    config = mesh_net_settings(params.meshnet, params.seed, model, train, val, Path(out))
    fit(mesh_net_loop, config, name="meshnet", workers=params.meshnet.workers, cpus_per_worker=0.5)


if __name__ == "__main__":
    run(meshnet)
