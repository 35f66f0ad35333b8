"""PhysiqueAA50K as the paper's authors hand it out, into the columns of the `folder` source.

    <stage>/<expert>/train.csv, val.csv    pic_name,score_*,preference_score_list,bmi,people_answer

Photos lie beside the CSV files, or in `images/` or `photos/` of that folder or of one above it, or anywhere
else if no other photo has that name. Each <expert> folder is one rater: an expert if <stage> is the
pre-training one (its name says pretrain or stage1), a user otherwise. A name used in two stages becomes
`<stage>-<expert>`. The authors' division into train and val is not kept: photos are divided by their hash
(tasks/splits.py).

Notable: the reference runs `eval` on preference_score_list; here it is JSON or nothing. A file that cannot be used
(empty, another format, a column missing) is told in quarantine and the others go on.

Test: `uv run pytest tests/tasks/test_physiqueaa50k.py`
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from model.scores import DIMENSIONS
from tasks.intake.columns import numbers
from tasks.intake.csv_file import read_csv
from tasks.intake.photos import find_photos
from tasks.intake.quarantine import BadInput, Quarantine
from tasks.intake.ratings import ask_for_scores
from tasks.printable import printable

_PRE_TRAINING = re.compile(r"pre[-_ ]?train|stage[-_ ]?1$", re.IGNORECASE)
_PICTURE_FOLDERS = ("", "images/", "photos/")
_NAMES = {"pic_name": "photo", "preference_score_list": "preference"} | {f"score_{d}": d for d in DIMENSIONS}
_WANTED = (*_NAMES, "bmi", "people_answer", "file", "line")


def read_physiqueaa50k(
    root: Path, quarantine: Quarantine, notes: list[str]
) -> tuple[dict[str, Path], str, pa.Table, pa.Table, None]:
    """(photos by name, label of their folder, ratings, raters, no feedback), text still unjudged."""
    label = root.resolve().name
    tables = sorted(path for path in root.glob("*/*/*") if _is_table(path, root))
    if not tables:
        raise BadInput(f"data.path: no <stage>/<expert>/train.csv or val.csv in {root}")
    stray = sorted(path.relative_to(root).as_posix() for path in {*root.rglob("*.[cC][sS][vV]")} - {*tables})
    if stray:
        some = printable(", ".join(stray[:3]))
        notes.append(f"{len(stray)} CSV files are no <stage>/<expert>/train.csv or val.csv, not read: {some}")
    photos = find_photos(root, quarantine, label, also_there=(".csv", ".yaml", ".md", ".txt"))
    folders = sorted({path.parent for path in tables})
    stages = sorted({folder.parent.name for folder in folders})
    first = [stage for stage in stages if _PRE_TRAINING.search(stage)]
    if not first:
        notes.append(f"no stage is called pretrain or stage1 ({', '.join(stages)}): no expert folder is known")
    names = Counter(folder.name for folder in folders)
    who = {f: f.name if names[f.name] == 1 else f"{f.parent.name}-{f.name}" for f in folders}
    if len(set(who.values())) < len(who):
        raise BadInput(f"{label}: two folders would be the same rater; rename one of {', '.join(sorted(who.values()))}")
    alone = _alone(photos)
    parts, faults = [], []
    for path in tables:
        name = path.relative_to(root).as_posix()
        find = _finder(path.parent, root, photos, alone)
        try:
            parts.append(_scores(path, name, who[path.parent], find, quarantine))
        except BadInput as fault:
            quarantine.add(name, 1, "file", "table cannot be used", str(fault).removeprefix(name).lstrip(",: "))
            faults.append(str(fault))
    if not parts:
        raise BadInput(f"{label}: none of the {len(tables)} tables can be used; the first: {faults[0]}")
    ratings = pa.concat_tables(parts, promote_options="default")
    for position, column in enumerate(ratings.schema):
        if column.type == pa.string():  # a column that only some files have is blank in the others
            ratings = ratings.set_column(position, column.name, pc.fill_null(ratings[column.name], ""))
    raters = pa.table(
        {
            "rater_id": list(who.values()),
            "role": ["expert" if folder.parent.name in first else "user" for folder in folders],
            "file": [folder.relative_to(root).as_posix() for folder in folders],
            "line": pa.nulls(len(folders), pa.int64()),
        }
    )
    return photos, label, ratings, raters, None


def _is_table(path: Path, root: Path) -> bool:
    """Whether a path is a train.csv or val.csv; pipes, hidden folders and names not in UTF-8 are told by find_photos."""
    parts = path.relative_to(root).parts
    if parts[-1].lower() not in ("train.csv", "val.csv") or any(part.startswith(".") for part in parts):
        return False
    try:
        "/".join(parts).encode()
    except UnicodeEncodeError:
        return False
    return path.is_file() or path.is_dir()


def _scores(path: Path, name: str, rater_id: str, find: Callable[[str], str], quarantine: Quarantine) -> pa.Table:
    """One train.csv or val.csv in the columns of ratings.csv. Raises BadInput where nothing can come of it."""
    table = read_csv(path, name, quarantine, required=("pic_name",))
    for column in table.column_names:
        if column not in _WANTED:
            quarantine.add(name, 1, column or "column without a name", "column is not used")
    table = table.select([column for column in _WANTED if column in table.column_names])
    for column, (good, reason) in _CELLS.items():
        if column in table.column_names:
            table = _without(table, column, good, reason, quarantine)
    missing = [column for column in _NAMES if column not in table.column_names]
    table = table.rename_columns([_NAMES.get(column, column) for column in table.column_names])
    ask_for_scores(table, name, prefix="score_")
    for column in missing:
        quarantine.add(name, 1, column, "column is missing, taken as blank")
    located = pa.array([find(picture) for picture in table["photo"].to_pylist()], pa.string())
    table = table.set_column(table.column_names.index("photo"), "photo", located)
    return table.append_column("rater_id", pa.array([rater_id] * table.num_rows, pa.string()))


def _without(
    table: pa.Table, column: str, good: Callable[[pa.Array], Iterable[bool]], reason: str, quarantine: Quarantine
) -> pa.Table:
    """`table` with the cells of `column` blank that are not `good`; each is told."""
    texts = pc.unique(table[column])
    bad = [text for text, fits in zip(texts.to_pylist(), good(texts)) if text and not fits]
    if not bad:
        return table
    where = pc.is_in(table[column], value_set=pa.array(bad))
    files, lines, texts = (table.filter(where)[name].to_pylist() for name in ("file", "line", column))
    quarantine.add_rows(files, lines, column, reason, texts)
    return table.set_column(table.column_names.index(column), column, pc.if_else(where, "", table[column]))


def _is_preference(text: str) -> bool:
    """Whether `text` is a JSON list of 5 numbers from 0 to 1."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, list) and len(values) == 5 and all(type(v) in (int, float) and 0 <= v <= 1 for v in values)


_CELLS = {
    "preference_score_list": (
        lambda texts: map(_is_preference, texts.to_pylist()),
        "not a JSON list of 5 numbers from 0 to 1",
    ),
    "bmi": (lambda texts: numbers(texts)[0] > 0, "not a number above 0"),
}


def _finder(folder: Path, root: Path, photos: dict[str, Path], alone: dict[str, str]) -> Callable[[str], str]:
    """A function from pic_name to the photo's name; pic_name itself where there is no such photo."""
    places = [
        ((place.relative_to(root) / inside).as_posix() + "/").removeprefix("./")
        for place in (folder, folder.parent, root)
        for inside in _PICTURE_FOLDERS
    ]

    def find(picture: str) -> str:
        picture = picture.replace("\\", "/").removeprefix("./")
        if ".." in picture.split("/"):
            return picture  # leads out of the folder: there is no such photo, whatever its last part is called
        found = next((place + picture for place in places if place + picture in photos), None)
        return found or alone.get(picture.rsplit("/", 1)[-1], picture)

    return find


def _alone(photos: dict[str, Path]) -> dict[str, str]:
    """Photos by file name without folders, where only one has it."""
    names = Counter(photo.rsplit("/", 1)[-1] for photo in photos)
    return {photo.rsplit("/", 1)[-1]: photo for photo in photos if names[photo.rsplit("/", 1)[-1]] == 1}
