"""What `physique forget` prints: what was removed, the proof place by place, what is left to do."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.forget.run import Done
from tasks.printable import printable

MOST = 12
"""Traces of a place that are listed."""


def lines(done: Done, dry_run: bool) -> Iterator[str]:
    """All of it, a line each."""
    if not dry_run:
        yield "removed:"
        for place, counts in done.removed.items():
            yield f"  {place:28} {', '.join(f'{count:,} {what}' for what, count in counts.items()) or 'nothing'}"
        yield ""
    yield "found:" if dry_run else "proof, a search through every place:"
    for place, traces in done.left.items():
        yield f"  {place:28} {f'{len(traces):,} traces' if traces else 'nothing found'}"
        yield from (f"    {printable(trace)}" for trace in traces[:MOST])
        if len(traces) > MOST:
            yield f"    … and {len(traces) - MOST:,} more"
    if dry_run:
        return
    yield ""
    yield from (f"- {note}" for note in done.notes)
    if done.clean:
        yield f"forgotten; the record is kept as .physique/forgotten/{done.hash[:16]}.json, without a name"
    else:
        yield "NOT forgotten entirely: mend what the proof lists, then run the same command again"
