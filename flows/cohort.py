"""Any data source into data/cohort/: photos, raters, labels, feedback; what is wrong goes to quarantine.

uv run dvc repro cohort
"""

from prefect import flow

from tasks.cohort import build_cohort
from tasks.params import load_params
from tasks.progress import counted
from tasks.stage import publish, run


@flow
def cohort(out: str = "data/cohort") -> dict:
    """Check and convert what `data.path` holds."""
    data = load_params().data
    with counted("photos") as on_progress:
        summary = build_cohort(
            "folder" if data.source == "mannequins" else data.source,
            data.path,
            out,
            experts=data.experts,
            scale=tuple(data.scale) if data.scale else None,
            on_progress=on_progress,
        )
    counts = {key: value for key, value in summary["counts"].items() if isinstance(value, int)}
    rows = "\n".join(f"| {key.replace('_', ' ')} | {value:,} |" for key, value in counts.items())
    publish("cohort", f"# {summary['name']}\n\n| what | how many |\n|---|---:|\n{rows}\n")
    return summary


if __name__ == "__main__":
    run(cohort)
