"""Rows and cells of a table that go aside, told by file, line and field.

Test: `uv run pytest tests/tasks/test_cohort.py tests/tasks/test_label_file.py`
"""

import numpy as np
import pyarrow as pa

from tasks.intake.quarantine import Quarantine


class Sieve:
    """Which rows of a table of text (with columns `file` and `line`) are still good, and where the others went."""

    def __init__(self, raw: pa.Table, quarantine: Quarantine) -> None:
        self.raw, self.quarantine = raw, quarantine
        self.ok = np.ones(raw.num_rows, bool)

    def cells(self, bad: np.ndarray, field: str, reason: str, values: list[str] | None = None) -> None:
        """Set a cell aside in every good row where `bad`; the row goes on without it."""
        rows = np.flatnonzero(bad & self.ok)
        if not len(rows):
            return
        found = self.raw.take(pa.array(rows))
        values = found[field].to_pylist() if values is None else values
        self.quarantine.add_rows(found["file"].to_pylist(), found["line"].to_pylist(), field, reason, values)

    def rows(self, bad: np.ndarray, field: str, reason: str, values: list[str] | None = None) -> None:
        """Set whole rows aside."""
        self.cells(bad, field, reason, values)
        self.ok &= ~bad
