"""The nightly job: take in the feedback that has come, bring the personal models and the report up to date.

    uv run physique run --nightly         now
    uv run prefect deploy --all           every night at two (prefect.yaml)
"""

from prefect import flow

from flows.pipeline import pipeline
from tasks.stage import run, say


@flow
def nightly() -> dict[str, str]:
    """Feedback of the day to better personal models by morning, or a reason why not.

    New feedback becomes a snapshot (`nights`), which makes `continual` and `evaluate` stale; what feedback does not touch
    shows as cached. Nights that were missed are caught up in one. Killed anywhere, it goes on when it is run again.
    """
    done = pipeline(target="evaluate")
    if done["continual"] == "Cached":
        say("nothing new: no feedback has come since the last night, and its personal models go on serving")
    return done


if __name__ == "__main__":
    run(nightly)
