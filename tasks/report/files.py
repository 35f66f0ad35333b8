"""What DVC reads of a report: flat metrics, and the plots as tables and pictures.

uv run dvc metrics diff
uv run dvc plots show
"""

import csv
import io
import json
import re
from typing import Any

from tasks.report.contact import Card, contact_sheet
from tasks.report.plots import curve_panel, night_panel, note_panel, stacked
from tasks.report.results import Results, dimensions_of, main_curve, main_night, note, overall


def flat_metrics(results: Results) -> dict[str, float | int]:
    """`{"finetune.personal.mean.srcc": 0.652, …}` for `dvc metrics show` and `diff`; only what is known."""
    found: dict[str, Any] = {}
    for row in results["table"]:
        key = ".".join(_slug(row[part]) for part in ("stage", "model", "dimension"))
        found |= {f"{key}.{metric}": row[metric][0] for metric in ("srcc", "plcc", "accuracy") if row[metric]}
        if row["gain"]:
            found |= {f"{key}.gain{end}": value for end, value in zip(("", "_lo", "_hi"), row["gain"])}
    for row in overall(results["curve"]):
        key = f"curve.{_slug(row['model'])}.{_slug(row['dimension'])}.{row['ratings']}"
        found[f"{key}.srcc"] = row["srcc"][0]
        found |= {f"{key}.{gain}": row[gain][0] for gain in ("gain_generic", "gain_expert") if row[gain]}
    for row in results["night"]:
        key = f"night.{_slug(row['group'])}.{_slug(row['dimension'])}"
        found |= {f"{key}.{what}": row[what][0] for what in ("before", "after", "gain")}
    for row in results.get("recovery", []):
        if row["change"]:
            key = f"nights.{_slug(row['night'])}.{_slug(row['group'])}.{row['ratings']}"
            found |= {f"{key}.srcc": row["srcc"][0], f"{key}.change": row["change"][0]}
    for row in results["effort"]["rows"] if results["effort"] else []:
        found[f"effort.round_{row.get('round', 1)}.{_slug(row['dimension'])}.change"] = row["change"][0]
    if gate := results["gate"]:
        found |= {"gate.promoted": gate["promoted"], "gate.kept_back": gate["kept_back"]}
    if mesh := results["mesh_error"]:
        found |= {"mesh.error_mm": mesh["error_mm"][0], "mesh.baseline_mm": mesh["baseline_mm"][0]}
        found |= {f"mesh.detector_{key}": mesh.get(key) for key in ("precision", "recall")}
    for name, ledger in results["accounting"].items():
        found |= {f"{_slug(name)}.{_slug(part)}": n for part, n in ledger.items()}
    return {key: value for key, value in found.items() if value is not None}


def plot_files(results: Results, pictures: list[Card]) -> dict[str, bytes]:
    """What `dvc plots` reads, by name. DVC wants each declared file to exist, so all are always there: a
    table without rows has its head only, a picture of nothing says why in one line.

    `gain.csv` and `night.json` hold all dimensions and the main model or group only, since DVC's own
    templates cannot split a table by dimension; the other files hold everything.
    """
    ends = ("", "_lo", "_hi")
    curve_heads = [f"{key}{end}" for key in ("srcc", "gain_generic", "gain_expert") for end in ends]
    night_heads = [f"{key}{end}" for key in ("before", "after", "gain") for end in ends]
    curve = [
        {key: row[key] for key in ("ratings", "dimension", "model")}
        | {f"{key}{end}": v for key in ("srcc", "gain_generic", "gain_expert") for end, v in zip(ends, row[key] or ())}
        for row in results["curve"]
    ]
    night = [
        {key: row[key] for key in ("group", "dimension", "users")}
        | {f"{key}{end}": v for key in ("before", "after", "gain") for end, v in zip(ends, row[key] or ())}
        for row in results["night"]
    ]
    main = main_curve(results)
    shown = main_night(results)
    moments = [{"when": when, "srcc": shown[when][0]} for when in ("before", "after")] if shown else []
    files = {
        "learning_curve.csv": _csv(["ratings", "dimension", "model", *curve_heads], curve),
        "gain.csv": _csv(
            ["ratings", "dimension", "model", *curve_heads],
            [line for line, row in zip(curve, results["curve"]) if row in main],
        ),
        "night.csv": _csv(["group", "dimension", "users", *night_heads], night),
        "night.json": (json.dumps(moments, indent=1, allow_nan=False) + "\n").encode(),
    }
    curves = [
        curve_panel(results["curve"], d, quantity=quantity)
        for d in dimensions_of(results["curve"])
        for quantity in ("srcc", "gain")
    ]
    nights = [night_panel(results["night"], d) for d in dimensions_of(results["night"])]
    files["learning_curve.png"] = stacked(curves or [note_panel(note(results, "curve"))])
    files["night.png"] = stacked(nights or [note_panel(note(results, "night"))])
    files["contact_sheet.png"] = contact_sheet(pictures)
    return files


def _csv(heads: list[str], rows: list[dict]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
