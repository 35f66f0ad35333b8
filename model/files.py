"""Files as they lie: what they hold, and one more name for them."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path


def file_hash(path: str | Path) -> str:
    """sha256 hex of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def link(source: str | Path, target: str | Path) -> Path:
    """A hard link to `source` at `target`; a copy on another file system, or one without links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return Path(target)
