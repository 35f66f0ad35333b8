"""The command of the drill; see the package."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT
from tests.drill import disk, nights, services, stores, table
from tests.drill.scene import Scene, prepared, staged
from tests.drill.table import Row

ON_THE_STACK: dict[str, Callable[[Scene], Row]] = {
    "prefect": services.prefect,
    "worker": services.worker,
    "memory": services.memory,
    "mlflow": services.mlflow,
    "head": services.head,
    "garbage": nights.garbage,
    "nights": nights.moments,
}
ELSEWHERE = ("node", "postgres", "push", "s3")
ALL = [*ON_THE_STACK, "disk", *ELSEWHERE]
PAGE = ROOT / "docs/reliability.md"


def drill(folder: Path, wanted: list[str], page: Path | None) -> list[Row]:
    """Run these faults; their rows, which are also kept in `folder` and written to `page`."""
    kept = folder / "rows.json"
    built = prepared(folder)

    def keep(row: Row) -> None:
        again = f"{row.job} works after {row.seconds:.0f} s"
        print(f"{row.fault}: lost {row.lost or 'nothing'}; {again}; {row.became}", flush=True)
        rows = table.read(kept) | {row.key: row}
        ordered = {key: rows[key] for key in ALL if key in rows}
        table.write(ordered, kept, page, [each for each in ALL if each not in rows])

    made = []
    stamp = time.strftime("%H%M%S")
    if here := [key for key in ON_THE_STACK if key in wanted]:
        with staged(folder / f"stack-{stamp}", built) as scene:
            for key in here:
                made.append(table.told(key, lambda key=key: ON_THE_STACK[key](scene)))
                keep(made[-1])
    if "disk" in wanted:
        made.append(table.told("disk", lambda: disk.disk(folder / f"disk-{stamp}", built)))
        keep(made[-1])
    if there := [key for key in ELSEWHERE if key in wanted]:
        with stores.elsewhere(folder / f"elsewhere-{stamp}", built) as (scene, servers):
            for key in there:
                made.append(table.told(key, lambda key=key: getattr(stores, key)(scene, servers)))
                keep(made[-1])
    return made


def main() -> None:
    """Options, and a mount namespace of our own where a disk is to be filled."""
    says = argparse.ArgumentParser(prog="python -m tests.drill", description=__doc__)
    says.add_argument("--only", default=",".join(ALL), help=f"faults, with commas: {', '.join(ALL)}")
    says.add_argument("--folder", type=Path, help="where it happens; what was built there is used again")
    says.add_argument("--page", type=Path, default=PAGE, help="the page that is written")
    given = says.parse_args()
    wanted = given.only.split(",")
    if unknown := sorted(set(wanted) - set(ALL)):
        says.error(f"--only: {', '.join(unknown)} is no fault; there are {', '.join(ALL)}")
    if "disk" in wanted and "PHYSIQUE_DRILL_MOUNTS" not in os.environ:
        if not disk.may_mount():
            says.error("mounting a small disk is not allowed here; leave out the fault `disk`")
        os.environ["PHYSIQUE_DRILL_MOUNTS"] = "own"
        os.execvp("unshare", ["unshare", "-m", sys.executable, "-m", "tests.drill", *sys.argv[1:]])
    folder = given.folder or Path(tempfile.mkdtemp(prefix="physique-drill-"))
    folder.mkdir(parents=True, exist_ok=True)
    rows = drill(folder.resolve(), wanted, given.page)
    sys.exit(1 if any(row.lost for row in rows) else 0)


if __name__ == "__main__":
    main()
