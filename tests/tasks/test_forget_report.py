"""What is said at the end of forgetting: all, something left, or a server that nobody could search."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tasks.forget.report import lines, page
from tasks.forget.run import Done
from tasks.forget.target import Target


def done(left: list[str], unsearched: list[str]) -> Done:
    notes = ["a note"]
    return Done(Target("user", "user-0007"), "ab" * 32, {"data/": {"rows": 3}}, {"data/": left}, unsearched, notes)


@pytest.mark.parametrize(
    ("left", "unsearched", "code", "said"),
    [
        ([], [], 0, "forgotten; the record is kept as .physique/forgotten/abababababababab.json, without a name"),
        ([], ["MLflow at http://far:5000"], 3, "forgotten, but for what MLflow at http://far:5000 may keep; the record"),
        (["nights/1.parquet: user-0007"], [], 1, "NOT forgotten entirely: mend what the proof lists, then run the same"),
        (["nights/1.parquet: user-0007"], ["MLflow at http://far:5000"], 1, "NOT forgotten entirely"),
    ],
)
def test_the_last_line_and_the_exit_code(monkeypatch, left, unsearched, code, said):
    monkeypatch.setattr("tasks.forget.run.forget", lambda *_, **__: done(left, unsearched))
    ended = CliRunner().invoke(app, ["forget", "user-0007"])
    assert ended.exit_code == code and ended.stdout.splitlines()[-1].startswith(said), ended.stdout


def test_the_page_counts_and_names_nobody():
    left = done(["nights/1.parquet: user-0007"], [])
    assert "user-0007" in "\n".join(lines(left, False))
    for dry_run, words in ((False, "# Not forgotten entirely"), (True, "Nothing was removed.")):
        text = page(left, dry_run)
        assert words in text and "| data/ | 3 rows | 1 traces |" in text and "user-0007" not in text
