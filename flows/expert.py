"""One expert's model anew, from what they have reviewed by now, without the rest of the pipeline.

uv run physique up        then: expert → Run in the Prefect UI
"""

from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from tasks.one_expert import train_expert
from tasks.params import load_params
from tasks.stage import publish


@flow
def expert(
    expert: Annotated[str, Field(title="Expert", description="Their rater_id, as in raters.csv.")],
    serve: Annotated[
        Literal["if better", "always", "never"],
        Field(title="Let it serve", description="Better: a higher mean rank correlation on photos no training has seen."),
    ] = "if better",
) -> str:
    """Train one expert's model from their labels as they are now, and compare it with the one that serves.

    It is registered as a new version of `physique-expert-<id>`. The bank of personal models goes on building on the models
    of the last pipeline run.
    """
    made = train_expert(expert, serve, load_params())
    publish("expert", made.page)
    return made.said
