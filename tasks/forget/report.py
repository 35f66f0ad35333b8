"""What `physique forget` prints: what was removed, the proof place by place, what is left to do. The page has no name."""

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
        but = f", but for what {' and '.join(done.unsearched)} may keep" if done.unsearched else ""
        yield f"forgotten{but}; the record is kept as .physique/forgotten/{done.hash[:16]}.json, without a name"
    else:
        yield "NOT forgotten entirely: mend what the proof lists, then run the same command again"


def page(done: Done, dry_run: bool) -> str:
    """Markdown for Prefect, which keeps it: counts, and nothing that names anybody."""
    head = "Where they are" if dry_run else "Forgotten" if done.clean else "Not forgotten entirely"
    rows = [f"# {head}", "", "| place | removed | found afterwards |", "|---|---|---:|"]
    for place, traces in done.left.items():
        removed = ", ".join(f"{count:,} {what}" for what, count in done.removed.get(place, {}).items())
        rows.append(f"| {place.split(' (')[0]} | {removed or 'nothing'} | {len(traces):,} traces |")
    if dry_run:
        return "\n".join([*rows, "", "Nothing was removed."])
    rows += ["", *(f"- {note}" for note in done.notes)]
    if done.clean:
        rows += ["", f"The record, without a name: `.physique/forgotten/{done.hash[:16]}.json`"]
    return "\n".join(rows)
