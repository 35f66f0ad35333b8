"""The nightly job: take in the feedback that has come, bring the personal models and the report up to date.

    uv run physique run --nightly         now
    uv run physique up                    every night at two (prefect.yaml)
"""

import time
from pathlib import Path

from prefect import flow

from flows.pipeline import pipeline
from tasks.approval import decide, held
from tasks.lineage import nights_of
from tasks.once import alone, catch_up
from tasks.pipeline_page import night_page, reports_since
from tasks.stage import publish, run, say

RESTED = "nothing new: no feedback has come since the last night, and its personal models go on serving"
LEARNED = "feedback was learned: the personal models that passed the gate serve now"
ANEW = "no new feedback; what personal models are made from has changed, so they were brought up to date"
BANK = Path("artifacts/continual")


@flow
def nightly(approve: bool = False) -> dict[str, str]:
    """Feedback of the day to better personal models by morning, or a reason why not.

    New feedback becomes a snapshot, which makes *continual* and *evaluate* stale; what feedback does not touch shows as
    cached. Nights that were missed are caught up in one. A second run while one is at work does nothing and says why.
    Killed anywhere, it goes on when it is run again.

    Args:
        approve: New personal models serve only when somebody has compared them and said yes: this run waits for that.
    """
    began = time.time()
    with alone("nightly") as other:
        if other:
            said = f"did nothing: {other}, and takes in all feedback that is there"
            say(said)
            publish("nightly", f"# Nightly\n\nThis run {said}.")
            return {}
        missed = catch_up()
        if missed:
            say(f"nights that were missed are caught up in this one: {', '.join(missed)}")
        before = nights_of(BANK)
        with held(approve):
            done = pipeline(stage="evaluate")
        rested = RESTED if done["continual"] == "Cached" else ANEW
        said = LEARNED if set(nights_of(BANK)) - set(before) else rested
        if approve:
            said = decide() or said
        say(said)
        publish("nightly", night_page(said, missed, reports_since(began, besides="nightly")))
    return done


if __name__ == "__main__":
    run(nightly)
