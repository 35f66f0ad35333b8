"""Text columns into numbers, times and vectors, whole columns at a time; bad cells are told, not raised."""

import re
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]|$)")
_VECTOR_EDGE = re.compile(r"^[\[({]\s*|\s*[\])}]$")
_VECTOR_GAP = re.compile(r"\s*[,;]\s*|\s+")


def numbers(text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(values float64, NaN where blank or bad; bad = neither blank nor a plain decimal number).

    `nan`, `inf` and hexadecimal are not numbers here.
    """
    good = pc.match_substring_regex(text, _NUMBER)
    values = pc.cast(pc.if_else(good, text, None), pa.float64())
    values = values.to_numpy(zero_copy_only=False).astype(np.float64)
    bad = pc.and_(pc.invert(good), pc.not_equal(text, "")).to_numpy(zero_copy_only=False)
    bad = bad | np.isinf(values)  # 1e999
    return np.where(bad, np.nan, values), bad


def moment(text: str) -> datetime | None:
    """ISO 8601 date or time as written (naive if it names no zone); None if it is none that UTC has (years 1 to 9999)."""
    if not _DATE.match(text):
        return None
    try:
        when = datetime.fromisoformat(text)
        in_utc(when)
    except (ValueError, OverflowError):
        return None
    return when


def moments(text: pa.Array) -> tuple[list[datetime | None], np.ndarray]:
    """(times in UTC, None where blank or bad; bad). A time without a zone is taken as UTC."""
    known: dict[str, datetime | None] = {}
    for one in pc.unique(text).to_pylist():
        when = moment(one)
        known[one] = None if when is None else in_utc(when)
    values = [known[one] for one in text.to_pylist()]
    bad = np.array([value is None for value in values], bool)
    return values, bad & pc.not_equal(text, "").to_numpy(zero_copy_only=False)


def in_utc(when: datetime) -> datetime:
    """The same moment in UTC; without a zone it is taken as UTC already."""
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def vector(text: str, length: int = 5) -> list[float] | None:
    """`length` finite numbers, as a JSON list or with spaces, commas or semicolons between; None if not so.

    The reference reads this column with `eval`; here text is only ever split and converted.
    """
    parts = _VECTOR_GAP.split(_VECTOR_EDGE.sub("", _VECTOR_EDGE.sub("", text.strip(), count=1), count=1))
    if len(parts) != length or not all(re.match(_NUMBER, part) for part in parts):
        return None
    values = [float(part) for part in parts]
    return values if max(map(abs, values)) < 3e38 else None  # what float32 holds


def vectors(text: pa.Array, length: int = 5) -> tuple[list[list[float] | None], np.ndarray]:
    """(vectors, None where blank or bad; bad)."""
    known = {one: vector(one, length) for one in pc.unique(text).to_pylist()}
    values = [known[one] for one in text.to_pylist()]
    bad = np.array([value is None for value in values], bool)
    return values, bad & pc.not_equal(text, "").to_numpy(zero_copy_only=False)
