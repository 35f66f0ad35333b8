"""What one annotation of Label Studio says: scores, date, round.

Notable: a dimension without a score, or that the expert cannot tell, is null, never zero.
Test: `uv run pytest tests/tasks/test_exchange_import.py`
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from model.scores import DIMENSIONS, SCALE
from tasks.exchange.label_studio import CANNOT_TELL
from tasks.intake.columns import in_utc, moment
from tasks.intake.feedback import CLOCK_SKEW

_PLAIN = re.compile(r"\s*[+-]?[0-9]{1,20}(\.[0-9]{1,20})?\s*")


class Refused(Exception):
    """(field, reason, value) of an annotation that goes aside."""


def scores_in(results: Any, aside: Callable[[str, str, object], None]) -> tuple[dict[str, float | None], bool]:
    """(scores by dimension, whether none of them is bad); regions of other controls (comments, boxes) are passed over."""
    if not isinstance(results, list):
        raise Refused("result", "not a list", str(results))
    regions = [region for region in results if isinstance(region, dict)]
    given = {d: [region.get("value") for region in regions if region.get("from_name") == d] for d in DIMENSIONS}
    untold = _cannot_tell([region.get("value") for region in regions if region.get("from_name") == CANNOT_TELL])
    if not any(values for dimension, values in given.items() if dimension not in untold):
        raise Refused("result", "no dimension is scored", None)
    scores: dict[str, float | None] = {}
    good = True
    for dimension, values in given.items():
        score, reason = None, "not scored"
        if dimension in untold:
            reason = None
        elif len(values) > 1:
            reason = "scored twice"
        elif values:
            score, reason = _score(values[0])
        scores[dimension] = score
        good &= reason in (None, "not scored")
        if reason is not None:
            shown = values[0] if len(values) == 1 else values
            shown = shown.get("number", shown) if isinstance(shown, dict) else shown
            aside(dimension, reason, shown if values else None)
    return scores, good


def _cannot_tell(values: list[Any]) -> set[str]:
    """Dimensions that the expert has taken out: `{"choices": [...]}`, or in JSON-MIN the only choice by itself."""
    choices = [value.get("choices") if isinstance(value, dict) else [value] for value in values]
    return {choice for some in choices if isinstance(some, list) for choice in some if isinstance(choice, str)}


def _score(value: Any) -> tuple[float | None, str | None]:
    """(score, None), or (None, why not), of a region's value `{"number": 5.7}`; JSON-MIN may have it plain."""
    number = value.get("number") if isinstance(value, dict) else value
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        number = float(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        return None, "not a number"
    if not SCALE[0] <= number <= SCALE[1]:
        return None, f"outside the scale {SCALE[0]:g} to {SCALE[1]:g}"
    return float(number), None


def when_changed(
    annotation: dict, now: datetime, aside: Callable[[str, str, object], None]
) -> tuple[datetime | None, bool]:
    """(when the annotation was last changed, if it says so; False, and told, if that is no date or lies ahead)."""
    text = annotation.get("updated_at") or annotation.get("created_at")
    if text is None:
        return None, True
    when = moment(text) if isinstance(text, str) else None
    if when is None:
        aside("updated_at", "not a date (ISO 8601)", text)
        return None, False
    if in_utc(when) > now + CLOCK_SKEW:
        aside("updated_at", "in the future", text)
        return None, False
    return in_utc(when), True


def round_in(data: dict) -> int:
    """The round that the task was exported for."""
    given = data.get("round")
    return given if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 2**31 else 1
