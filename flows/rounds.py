"""Review rounds of real experts: looks whether enough is reviewed, and goes on by itself.

uv run python -m flows.rounds             one look, now
uv run physique up                        every ten minutes (prefect.yaml)
"""

from pathlib import Path

from prefect import flow

from flows.pipeline import pipeline
from tasks.graph import Stage
from tasks.once import catch_up
from tasks.params import load_params
from tasks.rounds import Step, advance
from tasks.stage import publish, run


def look(cohort: str = "data/cohort", mesh: str = "data/mesh", embeddings: str = "data/embeddings") -> Step:
    """Open the first round, or close one that is reviewed and open the next; needs neither Prefect nor Ray."""
    from tasks.reviews import open_store

    step = advance(open_store(), Path(cohort), Path(mesh), Path(embeddings), load_params())
    print(step.said)
    return step


@flow
def rounds(stage: Stage = "evaluate") -> str:
    """Look whether experts have reviewed enough: then the next round opens, or after the last one the pipeline runs.

    Args:
        stage: What the pipeline is run up to when the last round is closed.
    """
    catch_up()
    step = look()
    publish("rounds", f"# Review rounds\n\n{step.said}")
    if step.over:
        pipeline(stage=stage)
    return step.said


if __name__ == "__main__":
    run(rounds)
