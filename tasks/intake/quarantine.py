"""What is wrong with the input: set aside with a reason (`Quarantine`), or fatal (`BadInput`).

Notable: reasons are fixed phrases, so that they can be counted; what was found there goes into `value`.
Rows are lines of the file as an editor shows them: 1 is the header.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import pyarrow as pa

from tasks.printable import printable
from tasks.schemas import QUARANTINE

LONGEST_VALUE = 200


class BadInput(Exception):
    """The run cannot go on; the message is one line: what is wrong, where, and what would be right."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))  # names from the input may hold anything


class Quarantine:
    """Collects what is set aside."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, int | None, str, str, str | None]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, file: str, row: int | None, field: str, reason: str, value: object = None) -> None:
        """One finding; `row` is the line in `file` (1 = header), None for the file as a whole."""
        # a file name that is not UTF-8, which Parquet cannot hold, is kept as ls shows it: caf\xe9.jpg
        file = file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        self._rows.append((file, row, field, reason, None if value is None else _short(str(value))))

    def add_rows(
        self, files: Sequence[str], rows: Sequence[int], field: str, reason: str, values: Sequence[object]
    ) -> None:
        """Many findings of one kind."""
        for file, row, value in zip(files, rows, values, strict=True):
            self.add(file, row, field, reason, value)

    def reword(self, fields: dict[str, str], reasons: dict[str, str]) -> None:
        """Say fields and reasons in other words, where there are any."""
        self._rows = [(f, row, fields.get(x, x), reasons.get(why, why), value) for f, row, x, why, value in self._rows]

    def leave_out(self, forgotten: Callable[[str], bool]) -> None:
        """Drop findings whose file or value is of somebody forgotten: setting them aside would name them."""
        self._rows = [
            row for row in self._rows
            if not (forgotten(row[0].rsplit("/", 1)[-1]) or (row[4] is not None and forgotten(row[4])))
        ]  # fmt: skip

    def of_files(self) -> list[str]:
        """Files set aside as a whole (no row)."""
        return [row[0] for row in self._rows if row[1] is None]

    def reasons(self) -> dict[str, int]:
        """Findings per reason, the most frequent first."""
        return dict(sorted(Counter(row[3] for row in self._rows).items(), key=lambda pair: (-pair[1], pair[0])))

    def table(self) -> pa.Table:
        """The quarantine table, in order of file, row and field."""
        ordered = sorted(self._rows, key=lambda row: (row[0], row[1] or 0, row[2], row[3], row[4] or ""))
        columns = zip(*ordered) if ordered else ([] for _ in QUARANTINE)
        arrays = [pa.array(list(column), field.type) for column, field in zip(columns, QUARANTINE)]
        return pa.table(arrays, schema=QUARANTINE)


def as_lines(table: pa.Table, limit: int = 20, unit: str = "line") -> list[str]:
    """One line per finding for a terminal: `ratings.csv, line 7, health: not a number ('abc')`.

    unit: what the rows of a file are; a CSV's are lines in any case.
    """
    lines = []
    for row in table.slice(0, limit).to_pylist():
        name = "line" if row["file"].lower().endswith(".csv") else unit
        line = "" if row["row"] is None else f", {name} {row['row']}"
        value = "" if row["value"] is None else f" ({row['value']!r})"
        lines.append(printable(f"{row['file']}{line}, {row['field']}: {row['reason']}{value}"))
    if table.num_rows > limit:
        lines.append(f"... and {table.num_rows - limit} more in quarantine.parquet")
    return lines


def _short(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
