"""What lies in the folder of the cohort: a line per file, content first, as sha256sum writes it.

DVC could hash the folder itself, but stops at a link in a circle, a dangling one or a name that is not UTF-8, and
waits for ever at a pipe; people's folders hold all of these, and the stage `cohort` sets them aside. So this runs
on every `dvc repro`, before `cohort`, which is stale when a line changes.

Notable: contents are read again only where size or time of change are new; no Prefect and no Ray are started.
Command: `python -m tasks.listing` (data/listing.txt, of the folder that params.yaml names)
"""

import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from model.files import file_hash
from tasks.forgotten import read_forgotten
from tasks.intake.quarantine import BadInput
from tasks.printable import printable
from tasks.tables import read_json, write_json, write_text

KNOWN = Path(".physique/listing.json")
"""{path: [size in bytes, time of change in ns, sha256]} of the last run; without it all is read again."""
_FRESH_S = 2.0
"""A file changed this lately may change again within one tick of the clock, so it is not remembered."""


def write_listing(
    root: str | Path,
    out: str | Path = "data/listing.txt",
    known: Path = KNOWN,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `out`: `<sha256>  <name>` of every file under `root`, sorted; `<why not>  <name>` of all else.

    Raises BadInput (one line) if there is no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise BadInput(f"data.path: {'is a file, not a folder' if root.exists() else 'no such folder'}: {root}")
    before, forgotten = read_json(known) if known.exists() else {}, read_forgotten()
    entries = sorted(_entries(root))
    lines, after, now = [], {}, time.time_ns()
    for done, (name, what) in enumerate(entries, 1):
        path = root / name
        if isinstance(what, str):
            content = what
        else:
            key, mark = printable(path.absolute()), [what.st_size, what.st_mtime_ns]
            content = before[key][2] if before.get(key, [])[:2] == mark else _sha256(path)
            if forgotten.has("photo", content):
                continue
            if now - what.st_mtime_ns > _FRESH_S * 1e9:
                after[key] = [*mark, content]
        lines.append(f"{content}  {printable(name)}\n")
        if on_progress is not None:
            on_progress(done, len(entries))
    write_json(after, known)
    return write_text("".join(lines), out)


def _entries(root: Path) -> Iterator[tuple[str, os.stat_result | str]]:
    """Names inside `root`, with what the system says of a file, or a word for what is none."""
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            names = sorted(path.name for path in (root / folder).iterdir())
        except OSError as error:
            yield folder, f"folder cannot be read ({error.strerror})"
            continue
        for name in names:
            inside = f"{folder}/{name}" if folder else name
            path = root / inside
            try:
                found = path.stat()
            except OSError as error:
                yield inside, f"link that leads nowhere ({error.strerror})"
                continue
            if stat.S_ISREG(found.st_mode):
                yield inside, found
            elif not stat.S_ISDIR(found.st_mode):
                yield inside, "not a regular file"
            elif path.is_symlink():
                yield inside, "link to a folder"
            else:
                folders.append(inside)


def _sha256(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"


if __name__ == "__main__":
    from tasks.faults import told
    from tasks.params import load_params
    from tasks.progress import counted

    with told(), counted("files") as on_progress:
        write_listing(load_params().data.path, on_progress=on_progress)
