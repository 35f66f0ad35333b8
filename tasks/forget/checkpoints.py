"""Checkpoints of interrupted trainings where PHYSIQUE_STORAGE names a place of its own, S3 say.

They hold networks, and say whose: all of them go, and the next run trains anew. Those in .physique/train, where they lie
otherwise, `tasks.forget.folders` deletes.
"""

from __future__ import annotations

import re

from tasks.forget.target import Target

RUN = re.compile(r"[a-z]+-[0-9a-f]{12}")
"""Names that `tasks.train.run_name` gives; whatever else lies there is not ours."""


class Checkpoints:
    """As one of the places of `tasks.forget.run.places`."""

    name = "checkpoints"

    def find(self, target: Target) -> list[str]:
        """Every interrupted run."""
        place, _, runs = self._runs()
        return [f"{place.rstrip('/')}/{run.base_name}: an interrupted training" for run in runs]

    def remove(self, target: Target) -> dict[str, int]:
        """Delete them all."""
        _, system, runs = self._runs()
        for run in runs:
            system.delete_dir(run.path)
        return {"trainings": len(runs)} if runs else {}

    def _runs(self):
        from pyarrow.fs import FileSelector

        from tasks.train import storage

        place, system, path = storage()
        return place, system, [each for each in system.get_file_info(FileSelector(path)) if RUN.fullmatch(each.base_name)]
