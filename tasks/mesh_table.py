"""Rows of the `mesh` table: how the settings say they are made, as Arrow, and the one per photo that models read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.bodies import body_file
from tasks.schemas import SCHEMAS

if TYPE_CHECKING:
    from model.extract import Recipe
    from tasks.params import Mesh


def mesh_recipe(body: Path, meshnet: Path, settings: Mesh) -> Recipe:
    """What the settings say of how meshes are made, with the files in place.

    Raises:
        ValueError, FileNotFoundError: a setting that cannot be followed, one line.
    """
    from model.extract import Recipe

    def whole(path: str | None) -> str | None:
        return str(Path(path).resolve()) if path else None

    precision = settings.precision
    if precision == "auto":
        precision = "fp16" if settings.gpus_per_actor and settings.network != "tiny" else "fp32"
    recipe = Recipe(
        body=str(body_file(body)[0].resolve()),
        mesh_net=str(meshnet.resolve()),
        network=settings.network,
        weights=whole(settings.weights),
        detector=settings.detector,
        detector_weights=whole(settings.detector_weights),
        people=settings.people,
        precision=precision,
        cache=whole(settings.cache),
    )
    recipe.check()
    return recipe


def mesh_table(ids: list[str], rows: list[list[Any]]) -> pa.Table:
    """Rows of each photo (model.extract) as a `mesh` table."""
    schema = SCHEMAS["mesh"]
    flat = [row for photo in rows for row in photo]
    columns: dict[str, Any] = {"photo_id": [i for i, photo in zip(ids, rows, strict=True) for _ in photo]}
    for name in schema.names[1:]:
        values = [getattr(row, name) for row in flat]
        kind = schema.field(name).type
        columns[name] = _lists(values, kind) if pa.types.is_list(kind) else pa.array(values, kind)
    return pa.table(columns, schema=schema)


def _lists(values: list[np.ndarray | None], kind: pa.DataType) -> pa.Array:
    """Arrays of numbers as a column of lists, None as null; in one piece, for Arrow takes vertices one by one (20 ms)."""
    lengths = np.array([0 if value is None else value.size for value in values])
    there = [value.reshape(-1) for value in values if value is not None]
    numbers = np.concatenate(there) if there else np.zeros(0, np.float32)
    flat = pa.array(numbers.astype(kind.value_type.to_pandas_dtype(), copy=False))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, flat, type=kind, mask=pa.array([value is None for value in values]))


def largest(table: pa.Table) -> pa.Table:
    """Rows of a `mesh` table of each photo's largest person, or of nobody: one per photo."""
    return table.filter(pc.equal(table["person"], 0))
