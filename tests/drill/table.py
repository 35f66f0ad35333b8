"""What the drill found, a row per fault, and docs/reliability.md, which it writes."""

from __future__ import annotations

import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HEAD = """# When parts fail

Written by the drill: `uv run python -m tests.drill` starts `physique up` on a small cohort of its own, breaks one thing
after the other while work is under way, and compares what must be there with what is there.

- *Lost*: photos without exactly one outcome, reviews that were acknowledged and are not stored exactly once, feedback
  that is not in exactly one night, versions of models that are gone, double or half made, flow runs whose page says that
  they go on though they have ended.
- *Works again*: from the fault until a small real job, asked for over and over, has ended well (in brackets: what that job
  takes when all is well).
- *Needs*: what the operator has to do. *The same run again* is its button in the Prefect UI, or `physique run`.

`uv run pytest -m slow tests/drill` fails if anything is lost.

"""


@dataclass
class Row:
    """fault: what was done. while_: the work under way. lost: one line each. counted: what was compared.

    seconds, usual: until `job` worked again, and what it takes undisturbed. became: of the work that was under way.
    saw: lines that the operator was shown. needs: `nothing`, or the command.
    """

    key: str
    fault: str
    while_: str
    lost: list[str]
    counted: str
    job: str
    seconds: float
    usual: float
    became: str
    saw: list[str]
    needs: str
    at: str
    load: float


def told(key: str, fault: Callable[[], Row]) -> Row:
    """The row of a fault; where nothing works any more, or nothing can be counted, that is what was lost."""
    try:
        return fault()
    except Exception as error:
        traceback.print_exc()
        why = f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"
        now = time.strftime("%Y-%m-%d")
        return Row(key, key, "", [why], "", "nothing", 0, 0, "unknown", [], "", now, load_of_machine())


def load_of_machine() -> float:
    """Processes that want a CPU, the mean of the last minute."""
    return round(os.getloadavg()[0], 1)


def write(rows: dict[str, Row], kept: Path, page: Path | None, missing: Sequence[str] = ()) -> None:
    """Keep the rows for the next run, and write the page. missing: faults of which there is no row."""
    kept.write_text(json.dumps({key: asdict(row) for key, row in rows.items()}, indent=1))
    if page is not None:
        lacks = f"No row yet: {', '.join(missing)} (`uv run python -m tests.drill --only …`).\n\n" if missing else ""
        page.write_text(HEAD + table(rows) + lacks + seen(rows).rstrip() + "\n")


def read(kept: Path) -> dict[str, Row]:
    """Rows of earlier runs."""
    return {key: Row(**row) for key, row in json.loads(kept.read_text()).items()} if kept.exists() else {}


def table(rows: dict[str, Row]) -> str:
    """The table, and on what it was measured."""
    lines = ["| fault | while | lost | works again | what was under way | needs |", "|---|---|---|---:|---|---|"]
    for row in rows.values():
        lost = "; ".join(row.lost) if row.lost else f"nothing ({row.counted})"
        again = f"{row.seconds:.0f} s ({row.job}{f': {row.usual:.0f} s' if row.usual else ''})"
        lines.append("| " + " | ".join((row.fault, row.while_, lost, again, row.became, row.needs)) + " |")
    days = sorted({row.at for row in rows.values()})
    loads = [row.load for row in rows.values()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{os.cpu_count()} cores, {memory:.0f} GB, Python {platform.python_version()}"
    span = f"{min(loads):g} to {max(loads):g}" if loads else "unknown"
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else "never"
    return "\n".join([*lines, "", f"Measured {when} on {machine}, at a load of {span}: times are upper bounds.", "", ""])


def seen(rows: dict[str, Row]) -> str:
    """What the operator was shown, word for word."""
    parts = ["## What the operator sees\n"]
    for row in (row for row in rows.values() if row.saw):
        parts.append(f"**{row.fault}**\n\n```\n" + "\n".join(row.saw) + "\n```\n")
    quiet = [row.fault for row in rows.values() if not row.saw]
    return "\n".join([*parts, *([f"Nothing was to be seen where {', and where '.join(quiet)}."] if quiet else [])])
