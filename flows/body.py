"""The body model: the licensed one that `body.model` names, else a stand-in of the same layout.

uv run dvc repro body
"""

from pathlib import Path

from prefect import flow

from tasks.bodies import use_licensed, write_standin
from tasks.params import load_params
from tasks.stage import run


@flow
def body(out: str = "data/body") -> None:
    """Put a body model where the other stages look for it."""
    licensed = load_params().body.model
    if licensed:
        use_licensed(Path(licensed), Path(out))
    else:
        write_standin(Path(out))


if __name__ == "__main__":
    run(body)
