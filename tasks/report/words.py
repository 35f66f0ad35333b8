"""How the report says things: numbers with their intervals, and the headline made from them.

The headline is honest by construction: a gain whose interval includes zero is said to include it,
a negative gain is called a loss, and a section without data is said to be missing.
"""

from typing import Any, NamedTuple

from tasks.report.results import Estimate, Results, lost, main_curve, main_night, note, overall, verdict

STAGES = {"pretrain": "Pre-training", "finetune": "Fine-tuning", "continual": "Continual learning"}
MARKS = {"better": "▲", "worse": "▼", "unclear": "≈"}


class Sentence(NamedTuple):
    """One sentence of the headline; `tone` is better, worse, unclear or plain."""

    text: str
    tone: str


def number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """`0.638`, `+0.021`, `−0.004` (a true minus sign); an en dash when unknown."""
    if value is None:
        return "–"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "\N{MINUS SIGN}")


def interval(value: Estimate | None, digits: int = 3, signed: bool = False) -> str:
    """`[0.601, 0.672]`, empty when there is none."""
    if not value or value[1] is None or value[2] is None:
        return ""
    return f"[{number(value[1], digits, signed)}, {number(value[2], digits, signed)}]"


def estimate(value: Estimate | None, digits: int = 3, signed: bool = False) -> str:
    """Mean and interval: `0.638 [0.601, 0.672]`."""
    if not value:
        return "–"
    return f"{number(value[0], digits, signed)} {interval(value, digits, signed)}".strip()


def count(value: Any) -> str:
    """Whole numbers with thin thousands: `12,480`; anything else as it is."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def counted(value: int, noun: str) -> str:
    """`1 user`, `1,200 users`, `1 entry`, `2 entries`."""
    if value == 1:
        return f"1 {noun}"
    return f"{count(value)} {noun[:-1] + 'ies' if noun.endswith('y') else noun + 's'}"


def duration(seconds: float | None) -> str:
    """`0.4 s`, `38 s`, `2 min 05 s`, `1 h 12 min`."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def label(name: str) -> str:
    """A key as a reader sees it: `no_person` → `no person`."""
    return STAGES.get(name, name.replace("_", " "))


def headline(results: Results) -> list[Sentence]:
    """Three or four sentences on what was found, from the numbers alone; `results` must be clean."""
    said = [_models(results), _curve(results), _night(results), _photos(results)]
    return [sentence for sentence in said if sentence]


def compared(gain: Estimate, against: str) -> str:
    """What a paired difference says, in words that do not flatter."""
    figures = estimate(gain, signed=True)
    tone = verdict(gain)
    if tone == "better":
        return f"better than {against} by {figures}"
    if tone == "worse":
        return f"worse than {against}: {figures}, a loss"
    if not interval(gain):
        return f"{figures} against {against}, from too few users for an interval"
    if (gain[0] or 0) < 0:
        return f"behind {against} by {figures}, an interval that includes zero"
    return f"not clearly different from {against}: {figures}, an interval that includes zero"


def _models(results: Results) -> Sentence:
    """The last trained stage before the night, or what there is."""
    for stage in ("finetune", "pretrain", "continual"):
        rows = overall([row for row in results["table"] if row["stage"] == stage])
        ours = [row for row in rows if not row["baseline"]]
        if not ours:
            continue
        row = ours[-1]
        whom = counted(row["raters"], "expert" if stage == "pretrain" else "user")
        text = (
            f"{label(stage)}: for {whom}, the {row['model']} model ranks held-out photos with a per-rater "
            f"SRCC of {estimate(row['srcc'])}"
        )
        gain = row["gain"]
        if not gain or gain[0] is None:
            return Sentence(f"{text}; there is no baseline to compare with.", "plain")
        against = row.get("against") or next((r["model"] for r in reversed(rows) if r["baseline"]), "baseline")
        return Sentence(f"{text}, {compared(gain, f'the {against} model')}.", verdict(gain))
    return Sentence(note(results, "table"), "plain")


def _curve(results: Results) -> Sentence | None:
    """Gain over the selected expert at few and at many ratings."""
    rows = [row for row in main_curve(results) if row["ratings"] > 0 and row["gain_expert"]]
    if not rows:
        return None
    few, many = rows[0], rows[-1]
    parts = []
    for row in [few, many] if many["ratings"] > few["ratings"] else [few]:
        word = {"worse": " (a loss)", "unclear": " (includes zero)", "better": ""}[verdict(row["gain_expert"])]
        figures = estimate(row["gain_expert"], signed=True)
        parts.append(f"{counted(row['ratings'], 'rating')} {figures}{word}")
    text = f"Gain in SRCC over the selected expert from a user's own ratings: {', '.join(parts)}."
    return Sentence(text, verdict(many["gain_expert"]))


def _night(results: Results) -> Sentence:
    """Before and after, and what the gate did."""
    row = main_night(results)
    gate = results["gate"]
    if not row and not gate:
        return Sentence(note(results, "night"), "plain")
    parts, tone = [], "plain"
    if row:
        moved = f"from {number(row['before'][0])} to {number(row['after'][0])}"
        tone = verdict(row["gain"])
        what = {"better": "a gain of ", "worse": "a loss, ", "unclear": "a change of "}[tone]
        zero = ", which includes zero" if tone == "unclear" and interval(row["gain"]) else ""
        parts.append(
            f"The night took {counted(row['users'], 'user')} ({row['group']}) {moved} in SRCC, "
            f"{what}{estimate(row['gain'], signed=True)}{zero}"
        )
    if gate:
        parts.append(f"the gate promoted {counted(gate['promoted'], 'entry')} and kept back {count(gate['kept_back'])}")
    text = "; ".join(parts)
    return Sentence(text[0].upper() + text[1:] + ".", tone)


def _photos(results: Results) -> Sentence | None:
    """Every photo is somewhere."""
    ledger = results["accounting"].get("photos") or results["accounting"].get("items")
    if not ledger:
        return None
    rest = ", ".join(f"{count(n)} {label(name)}" for name, n in ledger.items() if name != "seen" and n)
    missing = lost(ledger)
    noun = "photo file" if "photos" in results["accounting"] else "item"
    text = f"Of {counted(ledger.get('seen', 0), noun)}: {rest or 'none counted'}"
    if missing:
        how = f"{count(missing)} unaccounted for" if missing > 0 else f"{count(-missing)} counted twice"
        return Sentence(f"{text}; {how}.", "worse")
    return Sentence(f"{text}; none is unaccounted for.", "plain")
