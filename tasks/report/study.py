"""A study as people read it: tables on the terminal and in Markdown, a plot, from the Parquet of raw results.

    from tasks.report.study import summary, markdown
    print(markdown(summary(table), "London", simulated=False))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from model import metrics
from model.scores import DIMENSIONS
from tasks.judge import MEAN, with_mean
from tasks.report.plots import count_axis, finish, line, panel, picture, stacked
from tasks.report.results import verdict
from tasks.report.words import MARKS, estimate, label, number

if TYPE_CHECKING:
    from rich.console import RenderableType

OURS, GENERIC, USUAL = "PAA+", "generic", "fine-tuned, default"
RIVALS = (USUAL, "fine-tuned, tuned", "fine-tuned, all data", "selected, fine-tuned")
"""Arms that `PAA+` is measured against, beside the generic model."""
DRAWN = (OURS, USUAL, "selected, fine-tuned", "PAA+, chosen photos", "fine-tuned, tuned", "PAA+, nights")
"""Arms of the plot, in the order of its colours."""


def summary(table: pa.Table, seed: int = 0, measure: str = "srcc") -> list[dict[str, Any]]:
    """One row per dimension (and their mean), count and arm: users, `score`, `gain` over the generic model, `margin`.

    Each of the three is [mean, lo, hi] over users; `gain` and `margin` (PAA+ less the arm) are paired by user. Of `mae`
    less is better, and gain and margin are turned round so that more is better there too.
    """
    users = {user: row for row, user in enumerate(dict.fromkeys(table["user"].to_pylist()))}
    found: dict[tuple[int, str], np.ndarray] = {}
    for row in table.select(["user", "arm", "count", "dimension", measure]).to_pylist():
        values = found.setdefault((row["count"], row["arm"]), np.full((len(DIMENSIONS), len(users)), np.nan))
        value = row[measure]
        values[DIMENSIONS.index(row["dimension"]), users[row["user"]]] = np.nan if value is None else value
    sign = -1 if measure == "mae" else 1
    rows = []
    for (count, arm), values in sorted(found.items(), key=lambda each: each[0][0]):
        others = {name: found.get((count, name)) for name in (GENERIC, OURS)}
        gains = {name: dict(with_mean(sign * (values - other))) for name, other in others.items() if other is not None}
        for dimension, scores in with_mean(values):
            row = {"dimension": dimension, "count": count, "arm": arm, "users": int((~np.isnan(scores)).sum())}
            row["score"] = list(metrics.interval(scores, seed))
            row["gain"] = list(metrics.interval(gains[GENERIC][dimension], seed)) if GENERIC in gains else None
            row["margin"] = list(metrics.interval(-gains[OURS][dimension], seed)) if OURS in gains else None
            rows.append(row)
    return rows


def _of(rows: list[dict], dimension: str) -> tuple[list[int], list[str], dict[tuple[str, int], dict]]:
    """Counts, arms, and the row of each (arm, count), of a dimension."""
    mine = {(row["arm"], row["count"]): row for row in rows if row["dimension"] == dimension}
    return sorted({c for _, c in mine}), list(dict.fromkeys(a for a, _ in mine)), mine


def dimensions(rows: list[dict]) -> list[str]:
    """The dimensions of a summary, the mean first."""
    names = list(dict.fromkeys(row["dimension"] for row in rows))
    return sorted(names, key=lambda name: name != MEAN)


def markdown(rows: list[dict], name: str, simulated: bool, notes: tuple[str, ...] = ()) -> str:
    """The study as Markdown: what PAA+ is ahead of every rival, then every arm's gain over the generic model."""
    lines = [f"# {name}{' (simulated raters)' if simulated else ''}", "", *(f"{note}\n" for note in notes)]
    names = dimensions(rows)
    counts, _, _ = _of(rows, names[0])
    head = [f"| {{}} | {' | '.join(map(str, counts))} |", f"|---|{'---:|' * len(counts)}"]
    lines += ["## PAA+ less each rival, SRCC per user, paired [95 %]", ""]
    lines += [head[0].format("ratings"), head[1]]
    for dimension in names:
        _, arms, mine = _of(rows, dimension)
        for rival in (GENERIC, *(arm for arm in RIVALS if arm in arms)):
            cells = [_marked(mine.get((rival, count)), "margin") for count in counts]
            lines.append(f"| {label(dimension)}, over {rival} | {' | '.join(cells)} |")
    for dimension in names:
        _, arms, mine = _of(rows, dimension)
        users = [str(max((mine[a, c]["users"] for a in arms if (a, c) in mine), default=0)) for c in counts]
        lines += ["", f"## {label(dimension)}: gain over the generic model, paired [95 %]", ""]
        lines += [head[0].format("ratings"), head[1], f"| users | {' | '.join(users)} |"]
        scores = [estimate(mine[GENERIC, c]["score"]) if (GENERIC, c) in mine else "–" for c in counts]
        lines.append(f"| generic (its SRCC) | {' | '.join(scores)} |")
        for arm in arms:
            if arm != GENERIC:
                lines.append(f"| {arm} | {' | '.join(_marked(mine.get((arm, c)), 'gain') for c in counts)} |")
    return "\n".join(lines) + "\n"


def _marked(row: dict | None, key: str) -> str:
    """`▲ +0.021 [+0.012, +0.030]`."""
    if row is None or row[key] is None or np.isnan(row[key][0]):
        return "–"
    value = [None if np.isnan(v) else v for v in row[key]]
    mark = "" if value[1] is None else f"{MARKS[verdict(value)]} "
    return mark + estimate(value, signed=True)


def terminal(rows: list[dict], name: str, simulated: bool) -> RenderableType:
    """The mean over dimensions: every arm's gain over the generic model, and what it means."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    dimension = dimensions(rows)[0]
    counts, arms, mine = _of(rows, dimension)
    title = Text(f"{name}: gain in SRCC per user over the generic model ({label(dimension)})", "bold")
    if simulated:
        title.append("  ").append(" simulated ", "black on yellow")
    table = Table()
    table.add_column("ratings")
    for count in counts:
        table.add_column(str(count), justify="right")
    for arm in arms:
        cells = []
        for count in counts:
            row = mine.get((arm, count))
            if row is None or row["gain"] is None:
                cells.append("–")
            elif arm == GENERIC:
                cells.append(f"({number(row['score'][0])})")
            else:
                half = (row["gain"][2] - row["gain"][1]) / 2
                cells.append(number(row["gain"][0], signed=True) + ("" if np.isnan(half) else f" ± {half:.3f}"))
        table.add_row(arm, *cells, style="bold" if arm == OURS else "")
    return Group(title, table, Text(conclusion(rows)))


def conclusion(rows: list[dict]) -> str:
    """Where PAA+ is clearly ahead of the tuned paradigm, level with it, or clearly behind, counted honestly."""
    found: dict[str, list[str]] = {"better": [], "unclear": [], "worse": []}
    for row in rows:
        margin = row["margin"] if row["arm"] == "fine-tuned, tuned" and row["dimension"] != MEAN else None
        if margin and not np.isnan(margin[1]):
            found[verdict(margin)].append(f"{row['dimension']} at {row['count']}")
    total = sum(map(len, found.values()))
    words = f"Against fine-tuning at its best, PAA+ is clearly ahead in {len(found['better'])} of {total} cells"
    words += f", not to be told apart in {len(found['unclear'])}"
    return words + (f", clearly behind in {len(found['worse'])} ({', '.join(found['worse'])})." if found["worse"] else ".")


def plot(rows: list[dict]) -> bytes:
    """PNG: gain over the generic model by number of ratings, a panel per dimension, bands over users."""
    panels = []
    for dimension in dimensions(rows):
        counts, _, mine = _of(rows, dimension)
        figure, axes = panel(height=3.6, left=0.66, head=0.95)
        for at, arm in enumerate(DRAWN):
            points = [(count, mine[arm, count]["gain"]) for count in counts if (arm, count) in mine]
            line(axes, [(x, None if v is None or np.isnan(v[0]) else v) for x, v in points], arm, at)
        # Fine-tuning as usual may fall so far that nothing else could be told apart: it may leave the panel.
        ends = [v for arm in DRAWN if arm != USUAL for c in counts for v in mine.get((arm, c), {}).get("gain") or ()]
        low, high = np.nanmin([0.0, *ends]), np.nanmax([0.0, *ends])
        if high > low:
            axes.set_ylim(low - 0.25 * (high - low), high + 0.05 * (high - low))
        axes.axhline(0, color="black", linewidth=1)
        count_axis(axes, counts)
        finish(axes, f"{label(dimension)}: gain in SRCC over the generic model", columns=2)
        panels.append(picture(figure, "png"))
    return stacked(panels)
