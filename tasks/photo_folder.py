"""Meshes of a folder of photos that is no cohort: packed as a cohort's are, computed by the same crews, kept by content."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tasks.features import compute_table, mesh_crews
from tasks.intake.photos import find_photos, write_photos
from tasks.intake.quarantine import BadInput, Quarantine
from tasks.mesh_pictures import cards
from tasks.mesh_table import largest, mesh_recipe
from tasks.params import Mesh
from tasks.tables import read_shards, replaced_folder, write_table


@dataclass(frozen=True)
class FolderMeshes:
    """statuses: of the photos (`ok`, `no_person`, `unreadable`). aside: (file, reason) of what is no photo."""

    out: Path
    statuses: dict[str, int]
    computed: int
    kept: int
    aside: list[tuple[str, str]]
    picture: bytes


def folder_meshes(folder: Path, out: Path, body: Path, meshnet: Path, settings: Mesh) -> FolderMeshes:
    """Write out/mesh/ (rows of the `mesh` table), out/photos/ and out/quarantine.parquet.

    Photos that have a row of this extractor in out/mesh already are not computed again.

    Raises:
        BadInput: there is no such folder, it holds no photo, or no mesh network has been made yet.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder; right is one that holds photos, as seen from where the pipeline runs")
    if not (body / "body.json").is_file() or not (meshnet / "mesh_net.safetensors").is_file():
        raise BadInput(f"{meshnet} is not made yet; run the pipeline up to the stage meshnet first")
    quarantine = Quarantine()
    found = find_photos(folder, quarantine, folder.name)
    out.mkdir(parents=True, exist_ok=True)
    with replaced_folder(out / "photos") as fresh:
        index = write_photos(found, fresh, "folder", folder.name, quarantine)
        if not index.photos:
            raise BadInput(f"{folder} holds no photo that can be read")
    write_table(quarantine.table(), out / "quarantine.parquet")
    recipe = mesh_recipe(body, meshnet, settings)
    extractor = recipe.identity()
    crews = mesh_crews(recipe, extractor, settings)
    done = compute_table(
        "mesh", "extractor", extractor, out / "photos", out / "mesh", settings.shard, settings.batch, crews
    )
    statuses = Counter(largest(read_shards(out / "mesh", ["status", "person"]))["status"].to_pylist())
    from tasks.report.contact import contact_sheet

    picture = contact_sheet(cards(out / "photos", out / "mesh", Path(recipe.body), count=12))
    aside = [(row["file"], row["reason"]) for row in quarantine.table().to_pylist()]
    return FolderMeshes(out, dict(statuses), done["computed"], done["kept"], aside, picture)
