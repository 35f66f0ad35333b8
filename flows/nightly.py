"""The nightly job: take in the feedback that has come, bring the personal models and the report up to date.

    uv run physique run --nightly         now
    uv run prefect deploy --all           every night at two (prefect.yaml)
"""

from prefect import flow

from flows.pipeline import pipeline


@flow
def nightly() -> dict[str, str]:
    """Feedback of the day to better personal models by morning, or a reason why not.

    New feedback makes `cohort` stale and through it `continual` and `evaluate`; what feedback does not
    touch shows as cached.
    """
    return pipeline(target="evaluate")


if __name__ == "__main__":
    from tasks.stage import run

    run(nightly)
