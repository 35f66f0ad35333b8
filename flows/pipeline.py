"""The whole DAG from Prefect: every stage of dvc.yaml in its order; what is up to date shows as cached.

    uv run physique run                   all stages
    uv run physique run --target mesh     what `mesh` needs, and `mesh`
    uv run prefect deploy --all           then: Quick run in the Prefect UI
"""

from prefect import flow, get_run_logger, task
from prefect.states import Completed, State

from tasks.graph import changes, reproduce, stages


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
def pipeline(target: str | None = None, force: bool = False) -> dict[str, str]:
    """Bring every stage up to date.

    Args:
        target: a stage of dvc.yaml; it and what it needs are run. Empty: all of them.
        force: run also what is up to date.
    """
    done = {}
    for stage in stages(target):
        done[stage] = run_stage(stage, force, return_state=True)
        done[stage].result(raise_on_failure=True)
    return {stage: state.name or "" for stage, state in done.items()}


if __name__ == "__main__":
    from tasks.stage import run

    run(pipeline)
