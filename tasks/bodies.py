"""`data/body/`: the stand-in body model as a file, or the name and hash of the user's licensed one.

A licensed file is never copied: neither into the project nor into DVC's cache.
"""

from __future__ import annotations

from pathlib import Path

from tasks.tables import read_json, write_json

STANDIN = "SMPLX_STANDIN.npz"
ABOUT = "body.json"


def write_standin(out: Path) -> None:
    """Build the stand-in body model into `out`."""
    from model.files import file_hash
    from model.standin import build_standin

    out.mkdir(parents=True, exist_ok=True)
    build_standin(out / STANDIN)
    write_json({"ours": True, "path": STANDIN, "sha256": file_hash(out / STANDIN)}, out / ABOUT)


def use_licensed(path: Path, out: Path) -> None:
    """Note where the licensed body model lies.

    Raises:
        FileNotFoundError: it does not lie there.
    """
    from model.body import load_body
    from model.files import file_hash

    if not path.is_file():
        raise FileNotFoundError(f"body.model: {path} is missing; null takes the stand-in body model")
    load_body(path)  # says what is wrong with a file that is no SMPL-X model
    write_json({"ours": False, "path": str(path.resolve()), "sha256": file_hash(path)}, out / ABOUT)


def body_file(folder: Path) -> tuple[Path, bool]:
    """The body model that `folder` holds or names, and whether it is the stand-in.

    Raises:
        FileNotFoundError, ValueError: the licensed file is gone, or is another one than it was.
    """
    from model.files import file_hash

    about = read_json(folder / ABOUT)
    if about["ours"]:
        return folder / about["path"], True
    path = Path(about["path"])
    if not path.is_file():
        raise FileNotFoundError(f"body.model: {path} is missing; it was there when the stage `body` ran")
    if file_hash(path) != about["sha256"]:
        raise ValueError(f"body.model: {path} has changed since the stage `body` ran; run `dvc repro -f body`")
    return path, False
