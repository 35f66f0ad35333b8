"""What an endpoint has said so far, on disk: labels, and beside them the photos that it was asked about in vain.

Notable: rows are on disk when `add` returns, whole or not at all, whichever thread adds them; one process at a time
asks (`alone`), so what another one gets meanwhile is not paid for twice.

    data/.../KEY/*.parquet           labels, rows of ANSWERS
    data/.../KEY/in_vain/*.parquet   photos without one; who deletes this folder has them asked for again

Test: `uv run pytest tests/tasks/test_label_endpoint.py`
"""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.keyed import shard_name
from tasks.label_answers import ANSWERS
from tasks.schemas import DRAFTS, check
from tasks.tables import read_table, shard_paths, write_table

SHARD_ROWS = 512


@dataclass(frozen=True)
class Kept:
    """The folder of one address and scale."""

    folder: Path
    key: str

    @property
    def _in_vain(self) -> Path:
        return self.folder / "in_vain"

    def add(self, rows: list[dict[str, Any]]) -> int:
        """Keep rows of ANSWERS; how many of them are labels."""
        labels = [row for row in rows if not row["tries"]]
        for some, folder in ((labels, self.folder), ([row for row in rows if row["tries"]], self._in_vain)):
            if some:
                table = pa.Table.from_pylist(some, schema=ANSWERS)
                check(table.select(DRAFTS.names), "drafts")
                self._write(table, folder)
        return len(labels)

    def labels(self) -> pa.Table:
        """Rows of ANSWERS, one of each labelled photo."""
        return _newest([read_table(path) for path in shard_paths(self.folder)])

    def in_vain(self) -> pa.Table:
        """Rows of ANSWERS, one of each photo that was asked for and has no label, that of the last try."""
        table = _newest([read_table(path) for path in shard_paths(self._in_vain)])
        return table.filter(pc.invert(pc.is_in(table["photo_id"], self.labels()["photo_id"].combine_chunks())))

    def merge(self) -> None:
        """Put the small shards of single batches together into large ones."""
        for folder in (self.folder, self._in_vain):
            small = [path for path in shard_paths(folder) if pq.read_metadata(path).num_rows < SHARD_ROWS]
            if len(small) > 1:
                table = _newest([read_table(path) for path in small])
                parts = [table.slice(start, SHARD_ROWS) for start in range(0, len(table), SHARD_ROWS)]
                written = {self._write(part, folder) for part in parts}
                for path in set(small) - written:
                    path.unlink()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Waits for any other run that asks the same endpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("labeller: another run asks this endpoint; waiting until it is done", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, table: pa.Table, folder: Path) -> Path:
        tries = [str(n) for n in table["tries"].to_pylist()]  # of the same photos another try is another shard
        name = shard_name([*table["photo_id"].to_pylist(), *tries], self.key)
        return write_table(table, folder / f"{name}.parquet")


def _newest(tables: list[pa.Table]) -> pa.Table:
    """One row of each photo, that of the last try; a killed `merge` leaves a row in two shards."""
    table = pa.concat_tables([ANSWERS.empty_table(), *tables])
    last: dict[str, int] = {}
    tries = table["tries"].to_pylist()
    for row, photo_id in enumerate(table["photo_id"].to_pylist()):
        if photo_id not in last or tries[row] > tries[last[photo_id]]:
            last[photo_id] = row
    return table.take(pa.array(list(last.values()), pa.int64()))
