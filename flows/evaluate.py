"""The report: every stage against its baseline, on users and photos that nobody was fitted on.

uv run dvc repro evaluate        then open report/index.html
"""

from pathlib import Path

from prefect import flow

from tasks.bodies import body_file
from tasks.evaluation import cards, results
from tasks.params import load_params
from tasks.report.contact import contact_sheet
from tasks.report.page import write_report
from tasks.report.summary import markdown_summary, terminal_summary
from tasks.stage import publish, run


@flow
def evaluate(data: str = "data", artifacts: str = "artifacts", out: str = "report") -> None:
    """Judge, draw, write report/index.html, print the summary."""
    from rich.console import Console

    stages = Path(data)
    found = results(stages, Path(artifacts), load_params())
    body = body_file(stages / "body")[0]
    pictures = cards(stages / "cohort", stages / "mesh", Path(artifacts) / "pretrain", body)
    write_report(found, pictures, Path(out))
    publish("report", markdown_summary(found, contact_sheet(pictures)))
    Console().print(terminal_summary(found))


if __name__ == "__main__":
    run(evaluate)
