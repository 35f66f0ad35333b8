"""What must be there after a fault, counted from the stores themselves and not from what anybody says."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from tasks.nights import night_paths
from tasks.reviews import feedback_rows, open_store
from tasks.stack.deployments import call
from tasks.tables import read_shards, read_table
from tests.drill.reviewers import Reviewer
from tests.drill.scene import FINAL, Scene, facts, photo_ids

PATIENCE_S = 90
"""So long a flow run whose process has died may be shown as running."""


@dataclass
class Ledger:
    """What there was before a fault. new_versions: how many the work under way must have registered at the end."""

    scene: Scene
    reviewer: Reviewer | None
    versions: set[tuple[str, str]]
    runs: set[str]

    @classmethod
    def of(cls, scene: Scene, reviewer: Reviewer | None = None) -> Ledger:
        return cls(scene, reviewer, set(scene.versions()), set(_runs(scene)))

    def lost(self, new_versions: int = 0) -> tuple[list[str], str]:
        """What is missing, double or untrue now, a line each; and what was counted."""
        lines, counts = [], []
        for what, (found, count) in {
            "photos": _photos(self.scene),
            "reviews": (self.reviewer.lost(), len(self.reviewer.acknowledged)) if self.reviewer else ([], 0),
            "versions": self._versions(new_versions),
            "flow runs": self._flow_runs(),
        }.items():
            lines += found
            counts += [f"{count:,} {what}"] if count else []
        return lines, ", ".join(counts)

    def _versions(self, new: int) -> tuple[list[str], int]:
        now = self.scene.versions()
        lines = [f"{name} version {number} is gone" for name, number in sorted(self.versions - set(now))]
        came = sorted(set(now) - self.versions)
        if len(came) != new:
            lines.append(f"{len(came)} versions were registered, {new} should have been: {came}")
        for key in came:
            told = {tag["key"] for tag in now[key].get("tags", [])}
            if now[key].get("status") != "READY" or not {"physique.stage", "git.commit"} <= told:
                lines.append(f"{key[0]} version {key[1]} is half made")
        contents = Counter(
            tag["value"] for each in now.values() for tag in each.get("tags", []) if tag["key"] == "bank.content"
        )
        lines += [f"one bank is registered {count} times" for count in contents.values() if count > 1]
        return lines, len(now)

    def _flow_runs(self) -> tuple[list[str], int]:
        """Runs that began since, and are shown as going on though nothing works any more."""
        end = time.monotonic() + PATIENCE_S
        while True:
            came = {key: run for key, run in _runs(self.scene).items() if key not in self.runs}
            open_ = {key: run for key, run in came.items() if run["state_type"] not in (*FINAL, "SCHEDULED")}
            if not open_ or time.monotonic() > end:
                return [f"flow run {run['name']} is shown as {run['state_name']}" for run in open_.values()], len(came)
            time.sleep(2)


def _runs(scene: Scene) -> dict[str, dict]:
    asked = {"sort": "START_TIME_DESC", "limit": 200}
    return {run["id"]: run for run in call(scene.api, "POST", "/flow_runs/filter", asked) or []}


def _photos(scene: Scene) -> tuple[list[str], int]:
    """Each photo of the cohort has one row of `mesh`."""
    rows = Counter(read_shards(scene.folder / "data/mesh", ["photo_id"])["photo_id"].to_pylist())
    photos = photo_ids(scene.folder)
    missing, double = [p for p in photos if not rows[p]], [p for p in photos if rows[p] > 1]
    lines = [f"{len(missing)} of {len(photos)} photos have no outcome"] if missing else []
    left = (scene.folder / "data/mesh").glob(".*")
    lines += [f"{path.name} lies in data/mesh: models would be trained anew" for path in left]
    return lines + ([f"{len(double)} photos have two outcomes"] if double else []), len(photos)


def feedback_lost(scene: Scene) -> tuple[list[str], int]:
    """Usable events of the store and of the cohort's own file that are not in exactly one night; and how many there are."""
    store = open_store(scene.store)
    came = {row["event_id"] for row in feedback_rows(store)}
    store.dispose()
    came |= set(read_table(scene.folder / "data/cohort/feedback.parquet")["event_id"].to_pylist())
    aside = read_table(scene.folder / "data/feedback/quarantine.parquet").to_pylist()
    came -= {row["file"].rpartition("/")[2] for row in aside}
    tables = [read_table(path, ["event_id"]) for path in night_paths(scene.folder / "data/nights")]
    held = Counter(pa.concat_tables(tables)["event_id"].to_pylist()) if tables else Counter()
    wrong = [event for event in sorted(came) if held[event] != 1]
    lines = [f"{len(wrong)} events are not in one night, {wrong[0]} is in {held[wrong[0]]}"] if wrong else []
    if set(held) - came:
        lines.append(f"{len(set(held) - came)} events are in a night and nobody said them")
    learned = facts(scene.folder / "artifacts/continual/continual.json")["lineage"]["nights"]
    if [name for name, _ in learned] != [path.stem for path in night_paths(scene.folder / "data/nights")]:
        lines.append(f"the bank has learned from {len(learned)} of {len(tables)} nights")
    return lines, len(came)
