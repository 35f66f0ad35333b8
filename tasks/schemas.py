"""The tables of the house: one Arrow schema each, and `check`, which every table passes before it is written.

Notable: scores are float32 on 0..10 and null (never NaN, never 0) where nobody rated; coordinates are pixels,
metres and radians as named below; the lengths of vectors are part of the contract.
Command: `python -c "from tasks.schemas import SCHEMAS; print(*SCHEMAS.items(), sep='\\n\\n')"`
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.scores import DIMENSIONS, SCALE

VERTICES = 10475
ROLES = ("expert", "user")
ORIGINS = ("pseudo", "revised", "rated", "feedback")
STATUSES = ("ok", "no_person", "unreadable")
KINDS = ("rating", "comparison", "thumb", "comment", "survey", "delete")

_TIME = pa.timestamp("us", tz="UTC")
_SCORES = [(dimension, pa.float32()) for dimension in DIMENSIONS]
_VECTOR = pa.list_(pa.float32())  # not fixed-size: Parquet cannot read those back once a row is null


PHOTOS = pa.schema(
    [
        ("photo_id", pa.string()),  # sha256 of the bytes, hex
        ("name", pa.string()),  # path inside the photos folder, with /
        ("width", pa.int32()),  # px as seen (EXIF orientation applied); null = no readable header
        ("height", pa.int32()),
        ("source", pa.string()),
        ("bytes", pa.binary()),  # the file as it came
    ]
)
RATERS = pa.schema([("rater_id", pa.string()), ("role", pa.string()), ("survey", pa.map_(pa.string(), pa.string()))])
LABELS = pa.schema(
    [
        ("photo_id", pa.string()),
        ("rater_id", pa.string()),
        *_SCORES,
        ("origin", pa.string()),
        ("round", pa.int32()),  # of pre-training; 0 = as it came
        ("at", _TIME),  # null = not dated
    ]
)
PREFERENCES = pa.schema(
    [
        ("photo_id", pa.string()),
        ("rater_id", pa.string()),
        ("preference", _VECTOR),  # the paper's 5 numbers per photo and rater; null = not given
        (
            "answers",
            pa.map_(pa.string(), pa.string()),
        ),  # what the rater said of this photo, beside the scores
    ]
)
FEEDBACK = pa.schema(
    [
        ("event_id", pa.string()),  # idempotency key
        ("user_id", pa.string()),
        ("photo_id", pa.string()),  # null only for comment, survey, delete
        ("kind", pa.string()),
        ("dimension", pa.string()),
        ("value", pa.float32()),  # rating: 0..10; thumb, comparison: -1..1; else null
        ("suggested", pa.float32()),  # 0..10, the score the model had shown
        ("model_version", pa.string()),
        ("at", _TIME),
        ("text", pa.string()),  # comment, survey: what was written
    ]
)
MESH = pa.schema(
    [
        ("photo_id", pa.string()),
        ("person", pa.int32()),  # 0 = the largest, or nobody; models read this one
        ("status", pa.string()),
        ("box", _VECTOR),  # px, x0 y0 x1 y1
        ("betas", _VECTOR),
        ("pose", _VECTOR),  # rad, axis-angle: root + 21 body joints
        ("camera", _VECTOR),  # focal px, tx ty tz metres, cx cy px (the principal point)
        ("vertices", pa.list_(pa.float16())),  # metres, zero pose, no camera shift
        ("points", _VECTOR),  # px, 15 x (x, y)
        ("volume", pa.float32()),  # m^3
        ("extractor", pa.string()),
        ("reason", pa.string()),  # why not ok
    ]
)
EMBEDDINGS = pa.schema(
    [
        ("photo_id", pa.string()),
        ("flipped", pa.bool_()),
        ("vector", _VECTOR),
        ("encoder", pa.string()),
    ]
)
DRAFTS = pa.schema(
    [
        ("photo_id", pa.string()),
        *((dimension, pa.float64()) for dimension in DIMENSIONS),  # 0..10; null = the labeller gave none
        *((f"{dimension}_spread", pa.float64()) for dimension in DIMENSIONS),  # points of 0..10; null = not said
    ]
)
QUARANTINE = pa.schema(
    [
        ("file", pa.string()),  # inside the source folder
        ("row", pa.int64()),  # line of the file, 1 = header; null = the file as a whole
        ("field", pa.string()),
        ("reason", pa.string()),
        ("value", pa.string()),
    ]
)

SCHEMAS: dict[str, pa.Schema] = {
    "photos": PHOTOS,
    "raters": RATERS,
    "labels": LABELS,
    "preferences": PREFERENCES,
    "feedback": FEEDBACK,
    "mesh": MESH,
    "embeddings": EMBEDDINGS,
    "drafts": DRAFTS,
    "quarantine": QUARANTINE,
}
_FILLED = {
    "photos": ("photo_id", "name", "source", "bytes"),
    "raters": ("rater_id", "role", "survey"),
    "labels": ("photo_id", "rater_id", "origin", "round"),
    "preferences": ("photo_id", "rater_id"),
    "feedback": ("event_id", "user_id", "kind", "at"),
    "mesh": ("photo_id", "person", "status", "extractor"),
    "embeddings": ("photo_id", "flipped", "vector", "encoder"),
    "drafts": ("photo_id",),
    "quarantine": ("file", "field", "reason"),
}
_ONE_OF = {
    "raters": {"role": ROLES},
    "labels": {"origin": ORIGINS},
    "feedback": {"kind": KINDS, "dimension": DIMENSIONS},
    "mesh": {"status": STATUSES},
}
_LENGTHS = {
    "preferences": {"preference": 5},
    "mesh": {"box": 4, "betas": 10, "pose": 66, "camera": 6, "vertices": VERTICES * 3, "points": 30},
}
_UNIQUE = {
    "photos": ("photo_id",),
    "raters": ("rater_id",),
    "feedback": ("event_id",),
    "mesh": ("photo_id", "person"),
    "embeddings": ("photo_id", "flipped"),
    "drafts": ("photo_id",),
}


class BadTable(ValueError):
    """A table breaks its contract; the message is one line that names table, row (0 = first) and field."""


def empty(name: str) -> pa.Table:
    """A table of no rows with the schema of `name`."""
    return SCHEMAS[name].empty_table()


def check(table: pa.Table, name: str) -> pa.Table:
    """`table` with the columns, order and types of schema `name`, if every row keeps the contract.

    Raises BadTable, one line that names the table, the row (0-based) and the field.
    """
    if name not in SCHEMAS:
        raise BadTable(f"no table is called {name!r}; there are {', '.join(SCHEMAS)}")
    table = _shaped(table, name)
    for field in _FILLED[name]:
        _refuse(table, name, field, pc.is_null(table[field]), "is missing (null)")
    for field, allowed in _ONE_OF.get(name, {}).items():
        known = pc.is_in(table[field], value_set=pa.array(allowed))
        _refuse(
            table,
            name,
            field,
            pc.and_(pc.is_valid(table[field]), pc.invert(known)),
            f"is none of {', '.join(allowed)}",
        )
    for field, length in _LENGTHS.get(name, {}).items():
        other = pc.not_equal(pc.list_value_length(table[field]), length)
        _refuse(table, name, field, other, f"is not {length} numbers long")
    if "photo_id" in table.column_names:
        good = pc.match_substring_regex(table["photo_id"], "^[0-9a-f]{64}$")
        _refuse(table, name, "photo_id", pc.invert(good), "is not a sha256 in hex (64 digits 0-9a-f, lower case)")
    if name in _UNIQUE:
        _refuse_repeats(table, name, _UNIQUE[name])
    if name in _ROWS:
        _ROWS[name](table)
    return table


def _shaped(table: pa.Table, name: str) -> pa.Table:
    """Columns in order and of the right type; a safe change of type (string to large_string, ...) is made."""
    schema = SCHEMAS[name]
    missing = [field for field in schema.names if field not in table.column_names]
    if missing:
        raise BadTable(f"{name} table, column {missing[0]}: is missing; the columns are {', '.join(schema.names)}")
    extra = [field for field in table.column_names if field not in schema.names]
    if extra:
        raise BadTable(f"{name} table, column {extra[0]}: is unknown; the columns are {', '.join(schema.names)}")
    columns = []
    for field in schema:
        column = table[field.name]
        if column.type != field.type:
            try:
                column = column.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                why = str(error).splitlines()[0]
                raise BadTable(
                    f"{name} table, column {field.name}: is {column.type}, should be {field.type} ({why})"
                ) from None
        columns.append(column)
    return pa.table(columns, schema=schema)


def _refuse(table: pa.Table, name: str, field: str, bad: pa.ChunkedArray | pa.Array, what: str) -> None:
    """Raise BadTable for the first row where `bad` is true."""
    row = pc.index(pc.fill_null(bad, False), True).as_py()
    if row >= 0:
        shown = repr(table[field][row].as_py())
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        raise BadTable(f"{name} table, row {row}, {field}: {shown} {what}")


def _refuse_repeats(table: pa.Table, name: str, key: tuple[str, ...]) -> None:
    counts = table.select(key).group_by(list(key)).aggregate([([], "count_all")])
    if counts.num_rows == table.num_rows:
        return
    seen: set[tuple] = set()
    for row, values in enumerate(zip(*(table[field].to_pylist() for field in key))):
        if values in seen:
            raise BadTable(f"{name} table, row {row}, {key[0]}: {values[0]!r} is there already")
        seen.add(values)


def _within(table: pa.Table, name: str, field: str, low: float, high: float, where: pa.Array | None = None):
    """Refuse NaN and what lies outside low..high (nulls pass)."""
    column = table[field]
    inside = pc.and_(pc.greater_equal(column, low), pc.less_equal(column, high))  # NaN compares false
    bad = pc.and_(pc.is_valid(column), pc.invert(inside))
    bad = bad if where is None else pc.and_(bad, where)
    _refuse(table, name, field, bad, f"is outside {low:g}..{high:g} (not rated is null)")


def _check_photos(table: pa.Table) -> None:
    for field in ("width", "height"):
        _refuse(table, "photos", field, pc.less(table[field], 1), "is not a size in pixels")


def _check_labels(table: pa.Table) -> None:
    for dimension in DIMENSIONS:
        _within(table, "labels", dimension, *SCALE)
    _refuse(table, "labels", "round", pc.less(table["round"], 0), "is not a round (0 or more)")


def _check_drafts(table: pa.Table) -> None:
    for dimension in DIMENSIONS:
        _within(table, "drafts", dimension, *SCALE)
        _within(table, "drafts", f"{dimension}_spread", 0.0, SCALE[1] - SCALE[0])


def _check_feedback(table: pa.Table) -> None:
    rating = pc.equal(table["kind"], "rating")
    for field in ("photo_id", "dimension", "value"):
        _refuse(table, "feedback", field, pc.and_(rating, pc.is_null(table[field])), "is missing for a rating")
    _within(table, "feedback", "value", *SCALE, where=rating)
    _within(table, "feedback", "value", -1.0, 1.0, where=pc.invert(rating))
    _within(table, "feedback", "suggested", *SCALE)


def _check_mesh(table: pa.Table) -> None:
    ok = pc.equal(table["status"], "ok")
    for field in ("box", "betas", "pose", "camera", "vertices", "points", "volume"):
        _refuse(table, "mesh", field, pc.and_(ok, pc.is_null(table[field])), "is missing though status is ok")
    found = table.filter(ok).combine_chunks()
    rows = np.flatnonzero(ok.to_numpy())
    for field in ("box", "betas", "pose", "camera", "points"):
        values = _flat(found[field]).reshape(found.num_rows, _LENGTHS["mesh"][field])
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            raise BadTable(f"mesh table, row {rows[bad[0]]}, {field}: holds NaN or infinity")


def _check_embeddings(table: pa.Table) -> None:
    lengths = pc.list_value_length(table["vector"])
    if table.num_rows:
        usual = lengths[0].as_py()
        _refuse(table, "embeddings", "vector", pc.not_equal(lengths, usual), f"is not {usual} numbers long")
        if usual == 0:
            raise BadTable("embeddings table, row 0, vector: is empty")
        bad = np.flatnonzero(~np.isfinite(_flat(table["vector"])))
        if len(bad):
            raise BadTable(f"embeddings table, row {bad[0] // usual}, vector: holds NaN or infinity")


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.list_flatten(column).to_numpy(zero_copy_only=False))


_ROWS: dict[str, Callable[[pa.Table], None]] = {
    "photos": _check_photos,
    "labels": _check_labels,
    "feedback": _check_feedback,
    "mesh": _check_mesh,
    "embeddings": _check_embeddings,
    "drafts": _check_drafts,
}
