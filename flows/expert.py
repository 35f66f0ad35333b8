"""One expert's model anew, from what they have reviewed by now, without the rest of the pipeline.

uv run physique up        then: expert → Run in the Prefect UI
"""

from typing import Literal

from prefect import flow

from tasks.once import in_turn
from tasks.one_expert import train_expert
from tasks.params import load_params
from tasks.stage import publish


@flow
def expert(expert: str, serve: Literal["if better", "always", "never"] = "if better") -> str:
    """Train one expert's model from their labels as they are now, and compare it with the one that serves.

    It is registered as a new version of `physique-expert-ID`. The bank of personal models goes on building on the models
    of the last pipeline run.

    Args:
        expert: Their rater_id, as in raters.csv.
        serve: Whether the new version serves from now on. Better: a higher mean rank correlation on photos of the split
            test, which no training has seen.
    """
    with in_turn("training of an expert"):  # whom nobody forgets meanwhile
        made = train_expert(expert, serve, load_params())
    publish("expert", made.page)
    return made.said
