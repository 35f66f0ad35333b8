"""The whole DAG from Prefect: every stage of dvc.yaml in its order; what is up to date shows as cached.

    uv run physique run                   all stages
    uv run physique run --target mesh     what `mesh` needs, and `mesh`
    uv run physique up                    then: pipeline → Run in the Prefect UI
"""

import time

from prefect import flow, get_run_logger, task
from prefect.states import Completed, State

from tasks.approval import decide, held
from tasks.graph import Stage, changes, reproduce, stages
from tasks.once import in_turn
from tasks.pipeline_page import Ran, pipeline_page, reports_since
from tasks.stage import publish, say


@task(task_run_name="{stage}", cache_policy=None)
def run_stage(stage: str, force: bool) -> State:
    """Run one stage through DVC if it is stale; the state says `Cached` if it is not."""
    why = changes(stage)
    if not why and not force:
        return Completed(name="Cached", message=f"{stage} is up to date")
    log = get_run_logger()
    log.info("%s is stale: %s", stage, "; ".join(why) or "forced")
    reproduce(stage, force, log.info)
    return Completed(message=f"{stage} ran: {'; '.join(why) or 'forced'}")


@flow
def pipeline(stage: Stage = "all", force: bool = False, approve: bool = False) -> dict[str, str]:
    """Bring photos, meshes, models and the report up to date: stages whose inputs changed run, the others are *Cached*.

    One pipeline works in a checkout at a time; a second one waits for it. Cancelled or crashed, it goes on where it was
    when it is run again. What came of it stands under *Artifacts*.

    Args:
        stage: This stage of dvc.yaml and all that it needs are brought up to date.
        force: Run every stage anew, also where nothing has changed.
        approve: New models are made and registered, but serve only when somebody has compared them and said yes: this run
            waits for that, with a button Resume on its page.
    """
    done: list[Ran] = []
    names = stages(None if stage == "all" else stage)
    began = time.time()
    with in_turn("pipeline"), held(approve):
        try:
            for name in names:
                started = time.monotonic()
                state = run_stage(name, force, return_state=True)
                done.append(Ran(name, state.name or "", state.message or "", time.monotonic() - started))
                state.result(raise_on_failure=True)
        finally:
            publish("pipeline", pipeline_page(done, reports_since(began), names[len(done) :]))
    if approve:
        said = decide() or "no new model waits for a decision"
        say(said)
        publish("decision", f"# Decided\n\n{said[0].upper()}{said[1:]}.")
    return {ran.stage: ran.state for ran in done}


if __name__ == "__main__":
    from tasks.stage import run

    run(pipeline)
