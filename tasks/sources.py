"""Readers of `data.source`: a folder on disk into one `Cohort`, text still unjudged, photos still on disk.

`folder` (and `mannequins`, which writes the same layout):
    photos/*                  pictures; sub-folders are read too
    ratings.csv               rater_id,photo,appearance,health,posture[,preference][,rated_at]
    raters.csv                rater_id,role,<survey columns>            may be missing
    cohort.yaml               scale: [1, 7], name, simulated            may be missing
    feedback.csv              event_id,user_id,photo,kind,dimension,value,suggested,model_version,at[,other]
                              may be missing

`features`: the same, with vectors in place of photos; the column `photo` of the CSV files may be called `item`:
    items.parquet             item, vector (a list of numbers, equally long)    see tasks/intake/items.py

`physiqueaa50k`, the paper's download: see tasks/intake/physiqueaa50k.py.

Command: `python -c "from tasks.sources import read_source; print(read_source('folder',
'../shared/data/london'))"`
"""

import difflib
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from model.scores import DIMENSIONS, SCALE
from tasks.intake.csv_file import check_header, read_csv
from tasks.intake.feedback import REQUIRED
from tasks.intake.items import FILE, Items, find_items
from tasks.intake.photos import find_photos
from tasks.intake.physiqueaa50k import read_physiqueaa50k
from tasks.intake.quarantine import BadInput, Quarantine
from tasks.intake.ratings import ask_for_scores, likert_scale
from tasks.printable import printable

__all__ = ["SOURCES", "BadInput", "Cohort", "read_source"]

SOURCES = ("mannequins", "folder", "physiqueaa50k", "features")
_SETTINGS = ("scale", "simulated", "name")


@dataclass
class Cohort:
    """What a source holds, before anything is judged."""

    name: str
    source: str
    simulated: bool
    scale: tuple[float, float]
    scale_from: str
    """Who said so: `data.scale`, `cohort.yaml`, `ratings` (see `likert_scale`) or `default`."""
    photos: dict[str, Path]
    """Files by name inside the photos folder, sorted."""
    photos_label: str
    """What that folder is called in quarantine."""
    ratings: pa.Table = field(repr=False)
    raters: pa.Table | None = field(repr=False)
    feedback: pa.Table | None = field(repr=False)
    quarantine: Quarantine = field(repr=False)
    notes: list[str] = field(default_factory=list)
    items: Items | None = None
    """Of `features`, in place of photos."""


def read_source(source: str, path: str | Path, scale: tuple[float, float] | None = None) -> Cohort:
    """The cohort at `path`. scale: (low, high) of its scores; None = as cohort.yaml says.

    Raises BadInput (one line) where nothing could come of it: no such folder, no photos, no ratings.csv, a
    required column missing, cohort.yaml that makes no sense.
    """
    if source not in SOURCES:
        raise BadInput(f"data.source: {source!r} is unknown; it is one of {', '.join(SOURCES)}")
    root = Path(path)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "no such folder"
        raise BadInput(f"data.path: {what}: {root}")
    settings, notes = _settings(root)
    quarantine = Quarantine()
    items = None
    if source == "features":
        items = find_items(root / FILE, quarantine)
        photos, label = {}, FILE
        ratings, raters, feedback = _tables(root, quarantine, notes, "item")
    else:
        reader = read_physiqueaa50k if source == "physiqueaa50k" else _folder
        photos, label, ratings, raters, feedback = reader(root, quarantine, notes)
    if not photos and items is None:
        raise BadInput(f"{label}: holds no photo; put the pictures there")
    if not ratings.num_rows:
        raise BadInput(f"{root.name}: no rating could be read; every row is blank or in a broken line")
    if scale is not None:
        chosen, scale_from = _a_scale(scale, "data.scale"), "data.scale"
    elif settings.get("scale") is not None:
        chosen, scale_from = _a_scale(settings["scale"], "cohort.yaml, scale"), "cohort.yaml"
    elif (seen := likert_scale(ratings)) is not None:
        chosen, scale_from = seen, "ratings"
        notes.append(f"no scale is given: the ratings are whole numbers from {seen[0]:g} to {seen[1]:g}, taken as it")
    else:
        chosen, scale_from = SCALE, "default"
    return Cohort(
        name=printable(" ".join(str(settings.get("name") or root.resolve().name).split())),
        source=source,
        simulated=settings.get("simulated", source == "mannequins"),
        scale=chosen,
        scale_from=scale_from,
        photos=photos,
        photos_label=label,
        ratings=ratings,
        raters=raters,
        feedback=feedback,
        quarantine=quarantine,
        notes=notes,
        items=items,
    )


_Parts = tuple[dict[str, Path], str, pa.Table, pa.Table | None, pa.Table | None]


def _folder(root: Path, quarantine: Quarantine, notes: list[str]) -> _Parts:
    if not (root / "photos").is_dir():
        other = f"; {FILE} is there, which data.source: features reads" if (root / FILE).exists() else ""
        raise BadInput(f"photos: no such folder in {root}; it holds the pictures that ratings.csv names{other}")
    ratings, raters, feedback = _tables(root, quarantine, notes, "photo")
    photos = find_photos(root / "photos", quarantine, "photos")
    return photos, "photos", ratings, raters, feedback


def _tables(
    root: Path, quarantine: Quarantine, notes: list[str], thing: str
) -> tuple[pa.Table, pa.Table | None, pa.Table | None]:
    """ratings.csv, raters.csv and feedback.csv. thing: what the column `photo` may be called."""
    if not (root / "ratings.csv").exists():
        raise BadInput(f"ratings.csv: no such file in {root}; its columns are rater_id,{thing},{','.join(DIMENSIONS)}")
    ratings = _table(root, "ratings.csv", quarantine, ("rater_id", "photo"), thing)
    ask_for_scores(ratings, "ratings.csv")
    raters = feedback = None
    if (root / "raters.csv").exists():
        raters = read_csv(root / "raters.csv", "raters.csv", quarantine, required=("rater_id",))
    if (root / "feedback.csv").exists():
        feedback = _table(root, "feedback.csv", quarantine, REQUIRED, thing)
    known = {"rater_id", "photo", *DIMENSIONS, "preference", "rated_at", "file", "line"}
    ignored = [column for column in ratings.column_names if column not in known]
    if ignored:
        notes.append(f"ratings.csv: columns not used: {', '.join(ignored)}")
    return ratings, raters, feedback


def _table(root: Path, name: str, quarantine: Quarantine, required: tuple[str, ...], thing: str) -> pa.Table:
    """A CSV file whose column `thing`, where there is one, is what others call `photo`."""
    if thing == "photo":
        return read_csv(root / name, name, quarantine, required)
    table = read_csv(root / name, name, quarantine, tuple(column for column in required if column != "photo"))
    if thing in table.column_names:
        columns = [column for column in table.column_names if column != "photo"]
        table = table.select(columns).rename_columns(["photo" if c == thing else c for c in columns])
    elif "photo" not in table.column_names:
        header = [column for column in table.column_names if column not in ("file", "line")]
        check_header(header, f"{name}, line 1", tuple(thing if column == "photo" else column for column in required))
    return table


def _settings(root: Path) -> tuple[dict, list[str]]:
    """cohort.yaml as a dict of known keys, and notes about unknown ones."""
    path = root / "cohort.yaml"
    if not path.exists():
        return {}, []
    from ruamel.yaml import YAML, YAMLError

    try:
        settings = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8-sig"))
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"cohort.yaml: is not YAML ({' '.join(str(error).split())[:150]})") from None
    if settings is None:
        return {}, []
    if not isinstance(settings, dict):
        raise BadInput(f"cohort.yaml: must be lines of key: value ({', '.join(_SETTINGS)})")
    notes = []
    for key in settings:
        near = difflib.get_close_matches(str(key), _SETTINGS, 1, 0.75)
        if key not in _SETTINGS and near:
            raise BadInput(f"cohort.yaml: {key!r} is unknown; did you mean {near[0]!r}?")
        if key not in _SETTINGS:
            notes.append(f"cohort.yaml: {key!r} is not used (known: {', '.join(_SETTINGS)})")
    if not isinstance(settings.get("simulated", False), bool):
        raise BadInput(f"cohort.yaml, simulated: {settings['simulated']!r} is neither true nor false")
    return settings, notes


def _a_scale(value: object, where: str) -> tuple[float, float]:
    numbers = list(value) if isinstance(value, (list, tuple)) else []
    if len(numbers) == 2 and all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
        low, high = float(numbers[0]), float(numbers[1])
        if -1e6 < low < high < 1e6:
            return low, high
    raise BadInput(f"{where}: {value!r} is not a scale; give the lowest and the highest score, as in [1, 7]")
