"""The report's plots: one small figure per panel, so that a phone can stack what a desk sees side by side.

Drawn with matplotlib's Agg and SVG canvases directly (no pyplot, no global figure, safe in threads and
workers). Colours are Okabe-Ito's, told apart by colour-blind readers, and every series also has its own
marker and dash. A figure is drawn once, in light colours on a transparent ground; `darkened` swaps the
colours of an SVG for a dark page.

    from tasks.report.plots import curve_panel, darkened
    svg = curve_panel(results["curve"], "mean", quantity="gain", form="svg")
"""

import io
import re
from typing import TYPE_CHECKING, Any

from tasks.report.results import CurveRow, NightRow, RecoveryRow
from tasks.report.words import label, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, RULE = "#1c2430", "#5d6878", "#dde2ea"
SERIES = ["#0072b2", "#d55e00", "#6b7480", "#007f5f", "#b5527f", "#8a6d00"]
DARK = {
    **{INK: "#e8ecf2", SOFT: "#9aa7b8", RULE: "#313a48"},
    **dict(zip(SERIES, ["#56b4e9", "#f0a03c", "#a3adbb", "#2fc39b", "#e08fb8", "#f0e442"])),
}
"""Light → dark colour, each with a contrast of 3:1 and more against its ground (rules excepted)."""
MARKERS = ["o", "s", "D", "^", "v", "P"]
DASHES: list[Any] = ["-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), "-", "-"]
EXPERT, GENERIC = 1, 2
"""Places in SERIES, MARKERS and DASHES that both priors keep in every panel; models take the rest."""
OTHERS = [0, 3, 4, 5]

WIDTH, HEAD, FOOT = 4.7, 0.62, 0.5
"""Inches: width of a panel, room for title and legend, room for the axis below."""


def curve_panel(rows: list[CurveRow], dimension: str, *, quantity: str = "srcc", form: str = "png") -> bytes:
    """Learning curve of one dimension: users' SRCC, or the gain over both priors, by number of ratings.

    `quantity` is `srcc` (a line per model, and the priors as the paired gains imply them) or `gain` (over
    the generic model and the selected expert, with the line at zero that fine-tuning has to clear).
    Bands are intervals over users.
    """
    rows = sorted((row for row in rows if row["dimension"] == dimension), key=lambda row: row["ratings"])
    figure, axes = panel()
    models = list(dict.fromkeys(row["model"] for row in rows))
    priors = (("gain_expert", "selected expert", EXPERT), ("gain_generic", "generic", GENERIC))
    for key, prior, place in priors:
        for at, model in enumerate(models):
            known = [row for row in rows if row["model"] == model and row.get(key) and row[key][0] is not None]
            if quantity == "gain":
                name = f"over {prior}" if len(models) == 1 else f"{model} over {prior}"
                where = place if len(models) == 1 else 2 * at + (place == GENERIC)
                line(axes, [(row["ratings"], row[key]) for row in known], name, where)
            elif at == 0 and prior not in models:
                implied = [(row["ratings"], [row["srcc"][0] - row[key][0], None, None]) for row in known]
                line(axes, implied, prior, place)
    if quantity == "gain":
        axes.axhline(0, color=INK, linewidth=1)
    else:
        places = {prior: place for _, prior, place in priors}
        free = iter(OTHERS * (1 + len(models) // len(OTHERS)))
        for model in models:
            where = places[model] if model in places else next(free)
            line(axes, [(row["ratings"], row["srcc"]) for row in rows if row["model"] == model], model, where)
    count_axis(axes, sorted({row["ratings"] for row in rows}))
    what = "SRCC per user" if quantity == "srcc" else "gain in SRCC, paired"
    finish(axes, f"{label(dimension)}: {what}")
    return picture(figure, form)


def count_axis(axes: "Axes", counts: list[int]) -> None:
    """Numbers of ratings along x, at equal steps for doublings, zero among them."""
    axes.set_xscale("function", functions=(_squeeze, _stretch))
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.minorticks_off()
    if counts:
        first, last = _squeeze(counts[0]), _squeeze(counts[-1])
        edge = 0.05 * (last - first) or 0.5
        axes.set_xlim(_stretch(first - edge), _stretch(last + edge))
    axes.set_xlabel("a user's own ratings (log scale)")


def night_panel(rows: list[NightRow], dimension: str, *, form: str = "png") -> bytes:
    """Before and after the night, one line per group of users; on the right the paired change."""
    rows = [row for row in rows if row["dimension"] == dimension]
    names = [f"{_cut(row['group'])} ({row['users']})" for row in rows]
    left = 0.2 + 0.078 * max(map(len, names), default=0)
    figure, axes = panel(height=HEAD + FOOT + 0.46 * max(1, len(rows)), left=left, right=0.62)
    for at, row in enumerate(rows):
        for key, colour, marker, shift in (
            ("before", SERIES[2], "o", -0.13),
            ("after", SERIES[0], "s", 0.13),
        ):
            mean, lo, hi = row[key]  # type: ignore[literal-required]
            if lo is not None and hi is not None:
                axes.plot([lo, hi], [at + shift] * 2, color=colour, linewidth=5, alpha=0.28)
            name = key if at == 0 else None
            axes.plot([mean], [at + shift], marker, color=colour, markersize=7, label=name)
        change = number(row["gain"][0], signed=True)
        where = axes.get_yaxis_transform()  # x as a share of the axes, y in rows
        axes.text(1.02, at, change, transform=where, color=INK, fontsize=9.5, va="center")
    axes.set_yticks(range(len(rows)), [_plain(name) for name in names])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.set_xlabel("SRCC per user · right: paired change")
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    axes.grid(axis="y", visible=False)
    finish(axes, f"{label(dimension)}: before and after")
    return picture(figure, form)


def recovery_panel(rows: list[RecoveryRow], ratings: str, *, form: str = "png") -> bytes:
    """SRCC night after night, a line per group of users, on their `new` or their `old` ratings."""
    rows = [row for row in rows if row["ratings"] == ratings]
    figure, axes = panel()
    nights = list(dict.fromkeys(row["night"] for row in rows))
    for at, group in enumerate(dict.fromkeys(row["group"] for row in rows)):
        mine = [row for row in rows if row["group"] == group]
        points = [(nights.index(row["night"]), row["srcc"]) for row in mine]
        line(axes, points, f"{group} ({max(row['users'] for row in mine)})", at)
    step = max(1, len(nights) // 8)
    axes.set_xticks(range(0, len(nights), step), [night.lstrip("0") for night in nights[::step]])
    axes.set_xlabel("after night")
    finish(axes, "SRCC on what users say now" if ratings == "new" else "SRCC on what users said before")
    return picture(figure, form)


def effort_panel(rows: list, *, form: str = "png") -> bytes:
    """How far experts moved pseudo-labels, points per dimension, round by round."""
    figure, axes = panel(height=2.7)
    dimensions = list(dict.fromkeys(row["dimension"] for row in rows))
    for at, dimension in enumerate(dimensions):
        mine = sorted((r for r in rows if r["dimension"] == dimension), key=lambda r: r.get("round", 1))
        line(axes, [(r.get("round", 1), r["change"]) for r in mine], label(dimension), at)
    rounds = sorted({row.get("round", 1) for row in rows})
    axes.set_xticks(rounds, [str(n) for n in rounds])
    axes.set_ylim(bottom=0)
    axes.margins(x=0.1)
    axes.set_xlabel("round of revision")
    finish(axes, "Mean |revised − pseudo-label|, points")
    return picture(figure, form)


def note_panel(text: str, *, form: str = "png") -> bytes:
    """In place of a plot: one line that says why there is none."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * WIDTH, 0.7), facecolor="none")
    figure.text(0.02, 0.5, _plain(text), fontsize=10, color=SOFT, va="center")
    return picture(figure, form)


def darkened(svg: bytes) -> bytes:
    """The same drawing in the colours of a dark page."""
    return re.sub("|".join(DARK), lambda found: DARK[found[0]], svg.decode()).encode()


def stacked(panels: list[bytes], columns: int = 2) -> bytes:
    """PNG panels side by side on white: one picture for `dvc plots` and artifacts."""
    from PIL import Image

    images = [Image.open(io.BytesIO(panel)).convert("RGBA") for panel in panels]
    columns = max(1, min(columns, len(images)))
    width = max(image.width for image in images)
    lines = [images[at : at + columns] for at in range(0, len(images), columns)]
    sheet = Image.new("RGB", (width * columns, sum(max(i.height for i in line) for line in lines)), "white")
    top = 0
    for line in lines:
        for column, image in enumerate(line):
            sheet.paste(image, (column * width, top), image)
        top += max(image.height for image in line)
    out = io.BytesIO()
    sheet.quantize(128).save(out, "PNG")
    return out.getvalue()


def _squeeze(x: Any) -> Any:
    """0, 1, 3, 7, 15 … at equal steps: keeps zero ratings on a scale of doublings."""
    import numpy as np

    return np.log2(1 + np.maximum(x, -0.9))


def _stretch(x: Any) -> Any:
    import numpy as np

    return np.exp2(x) - 1


def panel(height: float = 3.1, left: float = 0.52, right: float = 0.12, head: float = HEAD) -> "tuple[Figure, Axes]":
    """An empty panel with fixed margins, inches: laying out by measuring text costs three times as much."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), facecolor="none")
    box = (left / WIDTH, FOOT / height, 1 - (left + right) / WIDTH, 1 - (head + FOOT) / height)
    axes = figure.add_axes(box, facecolor="none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.tick_params(colors=SOFT, labelsize=9.5, length=0)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set(color=SOFT, fontsize=9.5)
    return figure, axes


def line(axes: "Axes", points: list, name: str, at: int) -> None:
    """One series `[(x, [mean, lo, hi])]` with its band, in the style of place `at`; nothing if empty."""
    at %= len(SERIES)
    points = [(x, value) for x, value in points if value and value[0] is not None]
    if not points:
        return
    banded = [(x, value) for x, value in points if value[1] is not None and value[2] is not None]
    if len(banded) > 1:
        lows, highs = [v[1] for _, v in banded], [v[2] for _, v in banded]
        axes.fill_between([x for x, _ in banded], lows, highs, color=SERIES[at], alpha=0.16, linewidth=0)
    elif banded:
        (x, (_, lo, hi)) = banded[0]
        axes.plot([x, x], [lo, hi], color=SERIES[at], linewidth=5, alpha=0.28)
    x, y = [x for x, _ in points], [value[0] for _, value in points]
    style = {"color": SERIES[at], "marker": MARKERS[at], "linestyle": DASHES[at], "label": _plain(_cut(name))}
    axes.plot(x, y, markersize=5.5, linewidth=2, **style)  # type: ignore[arg-type]


def finish(axes: "Axes", title: str, columns: int = 3) -> None:
    """Title and legend above the axes, flush with the panel's left edge."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    height = figure.get_figheight()
    text = _plain(title[:1].upper() + title[1:])
    figure.text(0.02, 1 - 0.05 / height, text, fontsize=11, fontweight="bold", color=INK, va="top")
    handles, names = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            names,
            loc="upper left",
            bbox_to_anchor=(0.005, 1 - 0.25 / height),
            ncols=min(len(handles), columns),
            frameon=False,
            fontsize=9.5,
            labelcolor=INK,
            handlelength=2.2,
            columnspacing=1.2,
            borderaxespad=0.1,
        )


def _cut(text: str, length: int = 26) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _plain(text: str) -> str:
    """Text as it is: a dollar sign in somebody's group name must not start a formula."""
    return text.replace("$", r"\$")


def picture(figure: "Figure", form: str) -> bytes:
    """PNG (140 dpi) or SVG, the same bytes for the same figure."""
    import matplotlib

    out = io.BytesIO()
    if form == "png":
        figure.savefig(out, format="png", dpi=140, transparent=True, metadata={"Software": None})
        return out.getvalue()
    if form != "svg":
        raise ValueError(f"form is png or svg, not {form!r}")
    with matplotlib.rc_context({"svg.hashsalt": "physiqueflow", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return out.getvalue()
