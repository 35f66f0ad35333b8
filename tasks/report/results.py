"""What a run found, as one JSON-serialisable dict: filled by the judge, read by page, terminal and artifacts.

Every figure is an `Estimate`, `[mean, lo, hi]`: the mean over users and its 95 % interval from
resampling users. `lo` and `hi` are None with fewer than two users; a figure that cannot be had is
None (or NaN, which `clean` turns into None). What nobody rated is left out, never written as a zero.

    from tasks.report.results import clean
    results = clean(raw)        # called by write_report and the summaries themselves
"""

import math
from typing import Any, NotRequired, TypedDict

from model.scores import DIMENSIONS

MEAN = "mean"
"""Name of the row that averages a user's figures over the dimensions they rated."""

EVERYONE = ("everyone", "all", "all users")
"""Names of the group of `night` that holds all users with feedback."""

Estimate = list[float | None]
"""`[mean, lo, hi]`; a gain is in the same unit as what it compares, positive = better."""


class Stage(TypedDict):
    """One stage of the DAG; `cached` stages were up to date and took no time in this run."""

    name: str
    seconds: float | None
    cached: NotRequired[bool]


class TableRow(TypedDict):
    """How one model of one stage does on one dimension, per user, on photos nobody was fitted on."""

    stage: str  # pretrain, finetune or continual
    model: str  # "generic", "selected expert", "personal", …
    baseline: bool  # True: something to beat
    dimension: str  # one of DIMENSIONS, or MEAN
    srcc: Estimate
    plcc: Estimate
    accuracy: Estimate  # share of scores on the same side of 5 as the rater's, 0..1
    gain: Estimate | None  # SRCC minus that of `against`, paired by user; None for the first baseline
    raters: int
    photos: int
    against: NotRequired[str]  # the model that `gain` is measured against


class EffortRow(TypedDict):
    """How far the experts moved the labeller's pseudo-labels."""

    dimension: str
    change: Estimate  # mean |revised - pseudo|, points on the 0..10 scale
    round: NotRequired[int]  # from 1
    changed: NotRequired[float | None]  # share of labels that were moved at all, 0..1
    labels: NotRequired[int]
    baseline: NotRequired[Estimate | None]  # the same with a constant (the mean label) as pseudo-label


class Effort(TypedDict):
    """Revision effort of pre-training; None in `Results` when no pseudo-labels were written."""

    rows: list[EffortRow]
    note: NotRequired[str]


class CurveRow(TypedDict):
    """A point of the learning curve: users limited to `ratings` ratings of their own."""

    ratings: int
    dimension: str
    model: str
    srcc: Estimate
    gain_generic: Estimate | None
    gain_expert: Estimate | None
    users: NotRequired[int]


class NightRow(TypedDict):
    """Personal models before and after one night of continual learning, on held-out ratings (SRCC)."""

    group: str  # "everyone", "promoted", "taste drifted", …
    dimension: str
    before: Estimate
    after: Estimate
    gain: Estimate
    users: int


class RecoveryRow(TypedDict):
    """How a group of users is served after a night (`before`: before all nights), mean over dimensions."""

    night: str
    group: str
    ratings: str  # `new`: judged on what users say now, `old`: on what they said before all nights
    srcc: Estimate
    change: Estimate | None  # since `before`, paired by user
    users: int


class Gate(TypedDict):
    """What the gate decided, entry by entry."""

    promoted: int
    kept_back: int
    reasons: dict[str, int]  # why entries were kept back, and how many
    rule: NotRequired[str]
    version: NotRequired[str]  # the bank that is champion now
    entries: NotRequired[list[dict[str, Any]]]  # examples: any flat columns, shown as a table


class MeshError(TypedDict):
    """Mean per-vertex error on held-out photos of known bodies, millimetres."""

    error_mm: Estimate
    baseline_mm: Estimate  # the mean shape, same photos
    photos: int
    others: NotRequired[list[tuple[str, float, float]]]  # further errors: what is measured, mm, mm of the baseline
    extractor: NotRequired[str]
    precision: NotRequired[float | None]  # of the person detector, 0..1
    recall: NotRequired[float | None]


class QuarantineRow(TypedDict):
    """One bad input that was set aside. `row` is None when the whole file is bad."""

    file: str
    row: int | None
    field: str
    reason: str
    value: str


class Results(TypedDict):
    """The whole report. Empty lists, dicts and None are fine: their sections say why in one line.

    `accounting` holds one ledger per kind of input: `{"photos": {"seen": 620, "ok": 581,
    "no_person": 18, "unreadable": 9, "duplicates": 8, "quarantined": 4}, "ratings": {"seen": …}}`.
    In each, `seen` must equal the sum of the rest; where it does not, the page says how many are lost.
    `cohort` holds `name` and counts (int). `provenance` may hold anything; `git_commit`, `created`,
    `versions`, `dvc` (path → hash), `models` (name → version) and `params` have their own places.
    `notes` maps a section (effort, curve, night, gate, mesh_error, table) to the reason it is empty.
    `vectors`: items are no photos; the page says so, since its words are about photos.
    `next` maps a command to what it shows, in place of the usual list.
    """

    simulated: bool
    cohort: dict[str, Any]
    provenance: dict[str, Any]
    stages: list[Stage]
    table: list[TableRow]
    effort: Effort | None
    curve: list[CurveRow]
    night: list[NightRow]
    gate: Gate | None
    mesh_error: MeshError | None
    quarantine: list[QuarantineRow]
    accounting: dict[str, dict[str, int]]
    nights: NotRequired[list[dict[str, Any]]]  # rows of artifacts/continual/nights.parquet (tasks/night_metrics.py)
    recovery: NotRequired[list[RecoveryRow]]
    comments: NotRequired[list[dict[str, str]]]  # at, user, photo, text: what users wrote, the newest first
    notes: NotRequired[dict[str, str]]
    vectors: NotRequired[bool]  # items are vectors, not photos
    next: NotRequired[dict[str, str]]


def clean(results: dict | Results) -> Results:
    """A copy that JSON can hold: numpy → Python, NaN → None, rows without any figure dropped.

    Raises ValueError naming the key when something is missing or cannot be written as JSON.
    """
    missing = [key for key in Results.__required_keys__ if key not in results]
    if missing:
        raise ValueError(f"results lack {', '.join(sorted(missing))}; see tasks/report/results.py")
    out: Any = {key: _plain(value, key) for key, value in results.items()}
    out["table"] = [row for row in out["table"] if _known(row, "srcc", "plcc", "accuracy")]
    out["curve"] = [row for row in out["curve"] if _known(row, "srcc")]
    out["night"] = [row for row in out["night"] if _known(row, "before") and _known(row, "after")]
    for row in [*out["table"], *out["curve"]]:
        for gain in ("gain", "gain_generic", "gain_expert"):
            if gain in row and not _known(row, gain):
                row[gain] = None
    if out["effort"]:
        out["effort"]["rows"] = [row for row in out["effort"]["rows"] if _known(row, "change")]
    if out["mesh_error"] and not _known(out["mesh_error"], "error_mm"):
        out["mesh_error"] = None
    elif out["mesh_error"]:
        out["mesh_error"]["baseline_mm"] = out["mesh_error"].get("baseline_mm") or [None, None, None]
    out["notes"] = EMPTY | (out.get("notes") or {})
    if not out.get("next"):
        out["next"] = (NEXT_OF_VECTORS if out.get("vectors") else {}) | {
            command: what for command, what in NEXT.items() if not (out.get("vectors") and "PHOTO" in command)
        }
    return out


EMPTY = {
    "table": "Nobody rated enough held-out photos for a rank correlation.",
    "effort": "No pseudo-labels were revised in this cohort.",
    "curve": "No user rated enough photos to draw a learning curve.",
    "night": "No feedback in this cohort, so there was no night to compare.",
    "gate": "No feedback in this cohort, so the gate had nothing to decide.",
    "mesh_error": "No photo of this cohort has a known body, so mesh error cannot be measured here.",
    "quarantine": "Nothing was set aside.",
    "cards": "No pictures were chosen for this report.",
}
"""One line per section that may be empty; `results["notes"]` overrides."""

NEXT = {
    "uv run physique predict PHOTO --overlay OUT.png": "score a photo of your own",
    "uv run physique up": "forms and runs (Prefect), models and their versions (MLflow), Ray, the review page",
    "uv run dvc plots show": "these plots; dvc metrics diff and dvc plots diff compare two runs",
    "uv run dvc exp run -S finetune.iterations=50": "rebuild exactly what a parameter changes",
}
"""Where to look next: command → what it shows."""

NEXT_OF_VECTORS = {"uv run physique predict --item NAME --user ID": "score an item of the cohort"}
"""The same where items are vectors, in place of what is about a PHOTO."""


def note(results: Results, section: str) -> str:
    """Why a section is empty: what the run says, else the usual reason."""
    return {**EMPTY, **results.get("notes", {})}[section]


def dimensions_of(rows: list) -> list[str]:
    """Dimensions that occur in `rows`, the mean first, then in the order of DIMENSIONS.

    The mean is left out when only one dimension was rated: it would repeat it.
    """
    found = {row["dimension"] for row in rows}
    named = [d for d in DIMENSIONS if d in found] + sorted(found - {*DIMENSIONS, MEAN})
    return ([MEAN] if MEAN in found and len(named) != 1 else []) + named


def overall(rows: list) -> list:
    """The rows that stand for all dimensions: the mean's, or the only dimension's."""
    dimensions = dimensions_of(rows)
    return [row for row in rows if row["dimension"] == dimensions[0]] if dimensions else []


def main_curve(results: Results) -> list[CurveRow]:
    """The curve that the headline tells: all dimensions, the first model that is no baseline."""
    rows = overall(results["curve"])
    baselines = {row["model"] for row in results["table"] if row["baseline"]}
    models = list(dict.fromkeys(row["model"] for row in rows))
    ours = [model for model in models if model not in baselines] or models
    return sorted((row for row in rows if row["model"] in ours[:1]), key=lambda row: row["ratings"])


def main_night(results: Results) -> NightRow | None:
    """The night for all dimensions and everyone (or the first group there is)."""
    rows = overall(results["night"])
    return next((row for row in rows if row["group"] in EVERYONE), rows[0] if rows else None)


def verdict(gain: Estimate | None) -> str:
    """`better`, `worse`, or `unclear` when the interval includes zero or is not known."""
    if not gain or any(value is None for value in gain):
        return "unclear"
    _, lo, hi = gain
    return "better" if lo > 0 else "worse" if hi < 0 else "unclear"  # type: ignore[operator]


def lost(ledger: dict[str, int]) -> int:
    """How many of `seen` no other entry of the ledger accounts for (negative: counted twice)."""
    return ledger.get("seen", 0) - sum(count for name, count in ledger.items() if name != "seen")


def _known(row: dict, *keys: str) -> bool:
    """Whether any of these estimates has a mean."""
    return any(row.get(key) and row[key][0] is not None for key in keys)


def _plain(value: Any, where: str) -> Any:
    """Python's own types all the way down."""
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist(), where)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "isoformat") or hasattr(value, "__fspath__"):
        return str(value)
    raise ValueError(f"results.{where} is a {type(value).__name__}, which JSON cannot hold")
