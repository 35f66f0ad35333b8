"""Train the small mesh network on mannequins; its error in millimetres stands in data/meshnet/metrics.json.

uv run dvc repro meshnet
"""

from pathlib import Path

from prefect import flow

from tasks.bodies import body_file
from tasks.params import load_params
from tasks.stage import run
from tasks.train_mesh_net import train_mesh_net


@flow
def meshnet(body: str = "data/body", out: str = "data/meshnet") -> None:
    """Render training crops on Ray, train with Ray Train, measure on mannequins never trained on."""
    params = load_params()
    train_mesh_net(body_file(Path(body))[0], Path(out), params.meshnet, params.seed)


if __name__ == "__main__":
    run(meshnet)
