"""The report in small: on the terminal at the end of a run, and as Markdown in Prefect.

from tasks.report.summary import terminal_summary
rich.print(terminal_summary(results))
"""

import base64
import html
import io
from typing import TYPE_CHECKING

from tasks.report import words
from tasks.report.results import Results, clean, dimensions_of, verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

PICTURE_BYTES = 120_000
"""A picture in an artifact is shrunk below this: artifacts live in Prefect's database."""

STYLES = {"better": "bold green", "worse": "bold red", "unclear": "dim", "plain": ""}


def terminal_summary(results: dict | Results) -> "RenderableType":
    """The summary printed at the end of `dvc repro`: headline, table of means, accounting, where to look."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    ready = clean(results)
    name = str(ready["cohort"].get("name", "cohort"))
    title = Text.assemble((f"PhysiqueFlow · {name}", "bold"))
    if ready["simulated"]:
        title.append("  ").append(" simulated ", "black on yellow")
    parts: list = [Text(), title, Text()]
    for sentence in words.headline(ready):
        mark = words.MARKS.get(sentence.tone, "·")
        line = Table.grid(padding=(0, 1))
        line.add_row(Text(mark, STYLES[sentence.tone]), Text(sentence.text))
        parts.append(line)
    if ready["table"]:
        parts += _terminal_table(ready)
    for kind, ledger in ready["accounting"].items():
        rest = ", ".join(f"{words.count(n)} {words.label(part)}" for part, n in ledger.items() if part != "seen")
        parts.append(Text(f"{words.label(kind)}: {words.count(ledger.get('seen', 0))} seen = {rest}"))
    if ready["stages"]:
        took = ", ".join(
            f"{stage['name']} {'up to date' if stage.get('cached') else words.duration(stage['seconds'])}"
            for stage in ready["stages"]
        )
        parts.append(Text(f"stages: {took}"))
    looks = Table(box=None, show_header=False, pad_edge=False)
    looks.add_column(overflow="fold")
    looks.add_column(overflow="fold")
    looks.add_row(Text("report/index.html", "cyan"), Text("the whole report, one page"))
    for command, what in ready["next"].items():  # type: ignore[union-attr]
        looks.add_row(Text(command, "cyan"), Text(what))
    return Group(*parts, Text(), Text("Where to look next", "bold"), looks)


def markdown_summary(results: dict | Results, picture: bytes | None = None) -> str:
    """The summary as a Prefect Markdown artifact: headline, table of means, a picture as a data URI."""
    ready = clean(results)
    badge = " · *simulated*" if ready["simulated"] else ""
    lines = [f"# {_text(ready['cohort'].get('name', 'cohort'))}{badge}", ""]
    for sentence in words.headline(ready):
        lines.append(f"- {words.MARKS.get(sentence.tone, '·')} {_text(sentence.text)}")
    rows = _ordered(ready)
    if rows:
        lines += ["", "| stage | dimension | model | SRCC | PLCC | accuracy | SRCC against baseline |"]
        lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        gain, against = row["gain"], row.get("against")
        change = f"{words.MARKS[verdict(gain)]} {words.estimate(gain, signed=True)}" if gain else ""
        if gain and against:
            change += f" vs {_text(against)}"
        figures = " | ".join(words.estimate(row[key]) for key in ("srcc", "plcc", "accuracy"))
        model = _text(row["model"]) if row["baseline"] else f"**{_text(row['model'])}**"
        lines.append(f"| {words.label(row['stage'])} | {_text(row['dimension'])} | {model} | {figures} | {change} |")
    for kind, ledger in ready["accounting"].items():
        rest = ", ".join(f"{words.count(n)} {words.label(part)}" for part, n in ledger.items() if part != "seen")
        lines += [
            "",
            f"**{_text(words.label(kind))}**: {words.count(ledger.get('seen', 0))} seen = {_text(rest)}",
        ]
    lines += ["", *_picture(picture, "contact sheet")]
    return "\n".join(lines).rstrip() + "\n"


def shard_summary(
    stage: str,
    counts: dict[str, int],
    *,
    computed: int,
    reused: int,
    seconds: float,
    picture: bytes | None = None,
    note: str = "",
) -> str:
    """What a sharded stage (mesh, embed) did, as Markdown.

    `counts`: rows by status (ok, no_person, unreadable); `computed` and `reused`: rows worked out now and
    rows found finished; `seconds`: wall time of this run; `picture`: encoded, shrunk to fit.
    """
    rate = f"{computed / seconds:.1f} photos/s" if computed and seconds > 0 else "nothing to compute"
    lines = [f"# {_text(stage)}", "", "| status | photos |", "|---|---:|"]
    lines += [f"| {_text(words.label(status))} | {words.count(n)} |" for status, n in counts.items()]
    lines += [f"| **all** | **{words.count(sum(counts.values()))}** |", ""]
    lines.append(f"{words.count(computed)} computed, {words.count(reused)} reused, {words.duration(seconds)} ({rate})")
    if note:
        lines += ["", _text(note)]
    lines += ["", *_picture(picture, stage)]
    return "\n".join(lines).rstrip() + "\n"


def _ordered(results: Results) -> list:
    """The table as it is read: by stage, the mean first."""
    rows: list = []
    for stage in dict.fromkeys(row["stage"] for row in results["table"]):
        mine = [row for row in results["table"] if row["stage"] == stage]
        rows += [row for dimension in dimensions_of(mine) for row in mine if row["dimension"] == dimension]
    return rows


def _terminal_table(results: Results) -> list["RenderableType"]:
    """SRCC of every model, by dimension, and what its mean gained on its baseline; fits 80 columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = _ordered(results)
    dimensions = list(dict.fromkeys(row["dimension"] for row in rows))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("SRCC per user", no_wrap=True)
    for dimension in dimensions:
        table.add_column(dimension[:10], justify="right", no_wrap=True)
    table.add_column("gain ± 95 %", no_wrap=True)
    rivals: dict[str, list[str]] = {}
    for stage in dict.fromkeys(row["stage"] for row in rows):
        table.add_section()
        table.add_row(Text(words.label(stage), "bold"))
        for model in dict.fromkeys(row["model"] for row in rows if row["stage"] == stage):
            mine = {row["dimension"]: row for row in rows if (row["stage"], row["model"]) == (stage, model)}
            first = mine[next(d for d in dimensions if d in mine)]
            known = [words.number(mine[d]["srcc"][0]) if d in mine and mine[d]["srcc"] else "–" for d in dimensions]
            style = "dim" if first["baseline"] else ""
            table.add_row(Text(f"  {model}", style), *(Text(cell, style) for cell in known), _change(first))
            if first["gain"] and first.get("against"):
                names = rivals.setdefault(first["against"], [])
                names += [model] if model not in names else []
    said = "; ".join(f"{', '.join(models)} against {rival}" for rival, models in rivals.items())
    return [table, Text(f"gain of the {dimensions[0]}: {said}", "dim")] if said else [table]


def _change(row: dict) -> "RenderableType":
    from rich.text import Text

    gain = row["gain"]
    if not gain:
        return Text("")
    tone = verdict(gain)
    mean, low, high = gain
    half = "" if low is None or high is None else f" ± {words.number((high - low) / 2)}"
    return Text(f"{words.MARKS[tone]} {words.number(mean, signed=True)}{half}", STYLES[tone])


def _picture(picture: bytes | None, alt: str) -> list[str]:
    """A Markdown image, small enough for an artifact; nothing if there is none or it cannot be read."""
    jpeg = _fit(picture) if picture else None
    if jpeg is None:
        return []
    return [f"![{_text(alt)}](data:image/jpeg;base64,{base64.b64encode(jpeg).decode()})"]


def _fit(picture: bytes) -> bytes | None:
    """The picture as a JPEG below PICTURE_BYTES, the largest of a few widths that fits."""
    from tasks.report.contact import thumbnail

    jpeg = None
    for width in (1000, 760, 560, 400, 260):
        image = thumbnail(picture, width, 2 * width)
        if image is None:
            return None
        out = io.BytesIO()
        image.save(out, "JPEG", quality=78, optimize=True)
        jpeg = out.getvalue()
        if len(jpeg) <= PICTURE_BYTES:
            break
    return jpeg


def _text(value: object) -> str:
    """Somebody's text inside Markdown: no tags, no table bars, no links or emphasis of its own."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    for sign in ("\\", "|", "[", "]", "`", "*", "_"):
        text = text.replace(sign, f"\\{sign}")
    return text
