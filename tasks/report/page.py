"""The report: one self-contained page, flat metrics for DVC, and the plots as files.

`index.html` loads nothing from anywhere: its style is inline, its pictures are data URIs, it needs no
script, follows the reader's light or dark setting and reads on a phone. Names in it come from users'
files, so everything is escaped (Jinja2 autoescape).

    uv run dvc repro evaluate && open report/index.html
    uv run dvc metrics diff && uv run dvc plots show
"""

import base64
import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

from tasks.printable import printable
from tasks.report import words
from tasks.report.contact import Card, small_jpeg
from tasks.report.files import flat_metrics, plot_files
from tasks.report.plots import curve_panel, darkened, effort_panel, night_panel, recovery_panel
from tasks.report.results import (
    EMPTY,
    MEAN,
    Results,
    clean,
    dimensions_of,
    lost,
    main_night,
    overall,
    verdict,
)

FIRST_ROWS = 5
"""Quarantined rows shown per reason; the rest are in data/cohort/quarantine.parquet."""


def write_report(results: dict | Results, pictures: list[Card], out: Path) -> None:
    """Write `index.html`, `metrics.json` and `plots/` (CSV, JSON, PNG) into the folder `out`.

    `results` as in tasks/report/results.py (raises ValueError naming what is missing); `pictures` are
    the cards of the contact sheet, overlays already drawn. Files of an earlier report are replaced.
    """
    ready = clean(results)
    pictures = [_rated_only(card, ready) for card in pictures]
    plots = out / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    for name, content in plot_files(ready, pictures).items():
        _write(plots / name, content)
    _write(out / "metrics.json", (json.dumps(flat_metrics(ready), indent=2, allow_nan=False) + "\n").encode())
    _write(out / "index.html", render(ready, pictures).encode())


def render(results: Results, pictures: list[Card]) -> str:
    """The page as HTML; `results` must be clean."""
    import jinja2

    here = Path(__file__).parent
    loader = jinja2.FileSystemLoader(here)
    page = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page.filters |= {
        "number": words.number,
        "interval": words.interval,
        "estimate": words.estimate,
        "count": words.count,
        "counted": words.counted,
        "duration": words.duration,
        "label": words.label,
        "printable": printable,
        "verdict": verdict,
    }
    curve, night = results["curve"], results["night"]
    effort = results["effort"]["rows"] if results["effort"] else []
    provenance = results["provenance"]
    seconds = {s["name"]: 0 if s.get("cached") else s["seconds"] or 0 for s in results["stages"]}
    return page.get_template("page.html.j2").render(
        r=results,
        notes={**EMPTY, **results.get("notes", {})},
        headline=words.headline(results),
        marks=words.MARKS,
        tiles=_tiles(results),
        stages=_tables(results),
        curves=[
            _themed(f"{words.label(d)}: {what}", curve_panel, curve, d, quantity=quantity)
            for d in dimensions_of(curve)
            for quantity, what in (
                ("srcc", "SRCC by number of ratings"),
                ("gain", "gain by number of ratings"),
            )
        ],
        curve_rows=[row for d in dimensions_of(curve) for row in curve if row["dimension"] == d],
        nights=[_themed(f"{words.label(d)}: the night", night_panel, night, d) for d in dimensions_of(night)],
        night_rows=[row for d in dimensions_of(night) for row in night if row["dimension"] == d],
        by_night=overall(results.get("nights", [])),
        recovery=[row for row in results.get("recovery", []) if row["change"]],
        recovery_plots=[
            _themed(f"night after night, {which} ratings", recovery_panel, results["recovery"], which)
            for which in ("new", "old")
            if results.get("recovery")
        ],
        comments=results.get("comments", []),
        effort_rows=effort,
        effort_plot=_themed("revision effort by round", effort_panel, effort)
        if len({row.get("round", 1) for row in effort}) > 1
        else None,
        cards=[_card(card) for card in pictures],
        ledgers=[_ledger(name, ledger) for name, ledger in results["accounting"].items()],
        quarantine=_by_reason(results["quarantine"]),
        first_rows=FIRST_ROWS,
        total_seconds=sum(seconds.values()),
        seconds=seconds,
        slowest=max(seconds.values(), default=0) or 1,
        facts={k: v for k, v in provenance.items() if not isinstance(v, dict | list) and v is not None},
        groups={k: _flat(v) for k, v in provenance.items() if isinstance(v, dict | list) and v},
    )


def _tiles(results: Results) -> list[dict]:
    """The few figures at the top: what there was to beat, what beat it or did not, the night, the mesh."""
    tiles: list[dict] = []
    for stage in ("finetune", "pretrain"):
        rows = overall([row for row in results["table"] if row["stage"] == stage])
        for row in rows[-4:]:
            ours = "" if row["baseline"] else "ours"
            against = row.get("against", "baseline")
            tiles.append(
                {"name": row["model"], "unit": "SRCC", "value": row["srcc"], "digits": 3, "class": ours}
                | {"gain": row["gain"], "against": against}
            )
        if rows:
            break
    if row := main_night(results):
        after = {
            "name": "after the night",
            "unit": "SRCC",
            "value": row["after"],
            "digits": 3,
            "class": "ours",
        }
        tiles.append(after | {"gain": row["gain"], "against": "before"})
    if mesh := results["mesh_error"]:
        tile = {"name": "mesh error", "unit": "mm", "value": mesh["error_mm"], "digits": 1, "class": ""}
        if (mean_shape := mesh["baseline_mm"][0]) is not None:
            tile["note"] = f"{words.number(mean_shape, 1)} mm with the mean shape"
        tiles.append(tile | {"gain": None})
    return tiles


def _tables(results: Results) -> list[dict]:
    """The result table by stage and dimension, with the axis on which its intervals are drawn."""
    stages = []
    for stage in dict.fromkeys(row["stage"] for row in results["table"]):
        rows = [row for row in results["table"] if row["stage"] == stage]
        ends = [value for row in rows for value in row["srcc"] or () if value is not None] or [0, 1]
        low, high = min(ends), max(ends)
        pad = max(0.02, 0.06 * (high - low))
        low, high = low - pad, high + pad
        blocks = []
        for dimension in dimensions_of(rows):
            lines = [row for row in rows if row["dimension"] == dimension]
            blocks.append(
                {"dimension": dimension, "mean": dimension == MEAN, "counts": _counts(lines, stage)}
                | {"rows": [{"row": row, "forest": _forest(row["srcc"], low, high)} for row in lines]}
            )
        stages.append({"name": stage, "blocks": blocks, "low": low, "high": high})
    return stages


def _counts(rows: list, stage: str) -> str:
    """`40 users, 186 photos`, or the range where models could be judged on different numbers."""
    whom = "expert" if stage == "pretrain" else "user"
    said = []
    for key, noun in (("raters", whom), ("photos", "photo")):
        least, most = min(row[key] for row in rows), max(row[key] for row in rows)
        said.append(f"{words.count(least)} to " * (least < most) + words.counted(most, noun))
    return ", ".join(said)


def _forest(value: Any, low: float, high: float) -> dict | None:
    """Where an interval lies on the axis, per cent of its width."""
    if not value or value[0] is None:
        return None
    mean, lo, hi = (100 * ((v if v is not None else value[0]) - low) / (high - low) for v in value)
    return {"at": round(mean, 2), "from": round(lo, 2), "width": round(hi - lo, 2)}


def _themed(title: str, panel: Any, *args: Any, **kwargs: Any) -> dict:
    """A panel as SVG data URIs for the light and the dark page."""
    svg = panel(*args, form="svg", **kwargs)
    return {"alt": title, "light": _uri(svg, "image/svg+xml"), "dark": _uri(darkened(svg), "image/svg+xml")}


def _card(card: Card) -> dict:
    """A card as the template wants it: a light JPEG and the bars of its scores."""
    jpeg = small_jpeg(card.picture)
    bars = [
        {"dimension": d, "score": card.scores.get(d), "rated": card.rated.get(d)}
        for d in dict.fromkeys([*card.scores, *card.rated])
    ]
    return {"card": card, "src": _uri(jpeg, "image/jpeg") if jpeg else None, "bars": bars}


def _rated_only(card: Card, results: Results) -> Card:
    """The card without scores on dimensions that nobody rated, or that are not numbers."""
    rated = {row["dimension"] for row in results["table"]}

    def kept(scores: dict[str, float]) -> dict[str, float]:
        return {d: v for d, v in scores.items() if math.isfinite(v) and (d in rated or not rated)}

    return dataclasses.replace(card, scores=kept(card.scores), rated=kept(card.rated))


def _ledger(name: str, ledger: dict[str, int]) -> dict:
    seen = ledger.get("seen", 0)
    parts = [(part, n, 100 * n / (seen or 1)) for part, n in ledger.items() if part != "seen"]
    return {"name": name, "seen": seen, "parts": parts, "lost": lost(ledger)}


def _by_reason(rows: list) -> list[tuple[str, list]]:
    """Quarantined rows by reason, the commonest first."""
    groups: dict[str, list] = {}
    for row in rows:
        groups.setdefault(row["reason"], []).append(row)
    return sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))


def _flat(value: Any, under: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names."""
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _flat(item, f"{under}.{key}" if under else key)]
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return [pair for at, item in enumerate(value) for pair in _flat(item, f"{under}[{at}]")]
    text = ", ".join(str(item) for item in value) if isinstance(value, list) else value
    return [(under, "not set" if text is None else str(text))]


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_bytes(content)
    half.replace(path)
