"""A disk that fills up under everything: the checkout lies on a small one of its own (a mount that only the drill sees)."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from pathlib import Path

from tests.drill.scene import Scene, staged
from tests.drill.strike import MESHES, strike
from tests.drill.table import Row

ROOM = 900 * 2**20
"""What is left beside the checkout: `physique up` wants 500 MB."""
FULL_S = 40
"""So long the disk stays full."""


def may_mount() -> bool:
    """Whether small disks can be made here."""
    script = "mount -t tmpfs tmpfs /mnt"
    return subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True).returncode == 0


def disk(folder: Path, built: Path) -> Row:
    """A stack of its own on a disk of its own."""
    used = sum(path.stat().st_size for path in built.rglob("*") if path.is_file() and not path.is_symlink())
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={used + ROOM}", "tmpfs", str(folder)], check=True)
    try:
        with staged(folder, built) as scene:
            ballast = folder / "ballast"

            def fill(scene: Scene) -> None:
                end = time.monotonic() + FULL_S
                with ballast.open("wb", buffering=0) as file:
                    while time.monotonic() < end:  # what is freed meanwhile is taken too
                        try:
                            file.write(bytes(2**20))
                        except OSError as error:
                            if error.errno != errno.ENOSPC:
                                raise
                            with contextlib.suppress(OSError):
                                file.write(bytes(4096))
                            time.sleep(0.2)

            def heal(scene: Scene) -> None:
                os.unlink(ballast)  # noqa: PTH108

            return strike(scene, "disk", f"the disk is full for {FULL_S} s", MESHES, "a promotion", fill, heal)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
