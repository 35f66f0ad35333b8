"""Folders that the pipeline fills, and the folder of the cohort, which may be somebody's own."""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.forget.scrub import banks_in, csv_rows, scrub, scrub_bank, scrub_csv, scrub_parquet, settled
from tasks.forget.search import in_file, in_folder
from tasks.forget.target import Target
from tasks.reviewed import STORE

WORK = Path(".physique")
PENDING, RECORDS = WORK / "forgetting.json", WORK / "forgotten"
DATABASES = ("reviews.db", "review_demo.db", "prefect.db")
"""In .physique: places of their own."""
RUNS = ("experts", "full", "one-expert", "train")
"""Of .physique: trainings that were interrupted or are kept to go on; they begin anew."""
LEARNED = ("pretrain", "finetune", "continual")
"""Of artifacts: what holds an expert's network, or is built on it."""
PICTURES = ("pixels",)


class Folder:
    """One folder of outputs, as one of the places of `tasks.forget.run.places`. skip: what in it is another place's."""

    def __init__(self, path: Path, skip: tuple[Path, ...] = ()):
        self.path, self.name = path, f"{path}/"
        stores = (f"{name}{end}" for name in DATABASES for end in ("", "-wal", "-shm"))
        skip = (*skip, PENDING, RECORDS, *(STORE.with_name(name) for name in stores))
        self.skip = tuple(each.absolute() for each in skip)  # data.path may be written either way

    def find(self, target: Target) -> list[str]:
        """Names, bytes and decoded contents of every file."""
        return in_folder(self.path, target, self.skip) if self.path.is_dir() else []

    def remove(self, target: Target) -> dict[str, int]:
        """Rows, entries and files; of an expert all that was learned with them."""
        if not self.path.is_dir():
            return {}
        counts = {"folders": 0, "entries of banks": 0, "rows and files": 0}
        for name in self._whole(target):
            if (self.path / name).exists():
                shutil.rmtree(self.path / name)
                counts["folders"] += 1
        settled(self.path)
        banks = [bank for bank in banks_in(self.path) if not self._skips(bank)]
        for bank in banks:
            try:
                counts["entries of banks"] += scrub_bank(bank, target)
            except ValueError:  # of an older format
                shutil.rmtree(bank)
        for path in sorted(self.path.rglob("*")):
            mine = not self._skips(path) and not any(path.is_relative_to(bank) for bank in banks)
            if mine and path.is_file() and not path.is_symlink():
                if target.names_it(path.name) or (target.is_photo and target.names_it(path.stem)):
                    path.unlink()
                    counts["rows and files"] += 1
                else:
                    counts["rows and files"] += scrub(path, target)
        return {what: count for what, count in counts.items() if count}

    def _skips(self, path: Path) -> bool:
        return any(path.absolute().is_relative_to(each) for each in self.skip)

    def _whole(self, target: Target) -> tuple[str, ...]:
        """Sub-folders that go whole."""
        if self.path == WORK:
            return (*RUNS, *PICTURES) if target.is_photo else RUNS
        return LEARNED if self.path == Path("artifacts") and target.kind == "expert" else ()


class Report(Folder):
    """Pages and pictures, which the next run makes anew: they go whole when they name it, or may show it."""

    def remove(self, target: Target) -> dict[str, int]:
        if not self.path.is_dir() or not (target.is_photo or self.find(target)):
            return {}
        shutil.rmtree(self.path)
        return {"folders": 1}


class Source:
    """The folder of the cohort. simulated: the pipeline's own; else it is only touched where `change` says so."""

    name = "source of the cohort"

    def __init__(self, path: Path, change: bool):
        self.path, self.change, self.name = path, change, f"source of the cohort ({path})"

    def _tables(self) -> list[Path]:
        ends = (".csv", ".parquet")
        return sorted(path for path in self.path.rglob("*") if path.suffix.lower() in ends and path.is_file())

    def _files(self, target: Target) -> list[Path]:
        """Photo files of the photo, and folders called by an expert's id (the layout physiqueaa50k)."""
        if target.is_photo:
            from model.files import file_hash

            sizes = {path: path.stat().st_size for path in self.path.rglob("*") if path.is_file() and not path.is_symlink()}
            named = {path for path in sizes if any(path.as_posix().endswith(f"/{name}") for name in target.names)}
            return sorted(path for path in sizes if path in named or file_hash(path) == target.id)
        folders = (path for path in self.path.glob("*/*") if path.is_dir())
        return sorted(path for path in folders if target.id in (path.name, f"{path.parent.name}-{path.name}"))

    def find(self, target: Target) -> list[str]:
        """Rows by file and line, files, and whatever else in the folder names it."""
        if not self.path.is_dir():
            return []
        found = [f"{path}: delete it" for path in self._files(target)]
        for path in self._tables():
            if path.suffix.lower() == ".csv" and (gone := csv_rows(path, target)[1]):
                some = ", ".join(map(str, gone[:20])) + (f" … {gone[-1]}" if len(gone) > 20 else "")
                found.append(f"{path}: delete lines {some} ({len(gone)} in all)")
            elif what := in_file(path, target):
                found.append(f"{path}: {', '.join(what)}")
        return found

    def remove(self, target: Target) -> dict[str, int]:
        """Delete them, if it may."""
        if not self.change or not self.path.is_dir():
            return {}
        counts = {"rows": 0, "files": 0}
        for path in self._files(target):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
            counts["files"] += 1
        for path in self._tables():
            counts["rows"] += scrub_csv(path, target) if path.suffix.lower() == ".csv" else scrub_parquet(path, target)
        return {what: count for what, count in counts.items() if count}
