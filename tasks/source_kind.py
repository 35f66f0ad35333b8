"""What items of the cohort are, `photos` or `vectors`: a file for the stages that only photos need.

They depend on it in place of `data.source`, whose other values make no difference to them.
Command: `python -m tasks.source_kind` (data/kind.txt)
"""

from pathlib import Path

from tasks.tables import write_bytes, write_json, write_text

KIND = Path("data/kind.txt")


def write_kind(source: str, out: Path = KIND) -> str:
    """Write the kind of what `data.source` names."""
    kind = "vectors" if source == "features" else "photos"
    write_text(f"{kind}\n", out)
    return kind


def without_photos(kind: Path = KIND) -> bool:
    """Whether the stage `source` said `vectors`."""
    return kind.is_file() and kind.read_text().strip() == "vectors"


def write_skipped(out: Path) -> None:
    """What stands in data/meshnet where there is no photo to find a mesh in: DVC wants the files there."""
    write_bytes((2).to_bytes(8, "little") + b"{}", out / "mesh_net.safetensors")  # a file of no tensors
    for name in ("mesh_net.json", "metrics.json"):
        write_json({}, out / name)


if __name__ == "__main__":
    from tasks.faults import told
    from tasks.params import load_params

    with told():
        write_kind(load_params().data.source)
