"""DVC: its cache, its remotes, the run-cache of both, and its index.

Blobs are known by their content only, so what holds somebody is found by reading all of them. Lists of folders (`.dir`) and
runs that name a blob that went go with it, and of an expert or a photo what was trained beside it. Older commits of
dvc.lock can then be checked out no more as far as they need these blobs, which is the point.

Notable: a remote is read through DVC, wherever it lies; what the cache here has too is judged here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.forget.search import in_bytes, in_file
from tasks.forget.target import Target
from tasks.intake.quarantine import BadInput

TRAINED = (".safetensors", ".bin", ".npy")


class Cache:
    """As one of the places of `tasks.forget.run.places`."""

    name = "DVC cache and remotes"

    def find(self, target: Target) -> list[str]:
        """Blobs, lists, runs and index files that name it."""
        from dvc.repo import Repo

        found = []
        with Repo() as repo:
            for odb in _stores(repo):
                for oid in odb.all():
                    found += [f"{odb.oid_to_path(oid)}: {what}" for what in _held(odb, oid, target)]
            for fs, folder in _runs(repo):
                for path in fs.find(folder):
                    found += [f"{path}: {what}" for what in in_bytes(fs.cat_file(path), target)]
            index = _index(repo)
        for path in index:
            found += [f"{path}: {what}" for what in (in_file(path, target) if path.is_file() else [])]
        return found

    def remove(self, target: Target) -> dict[str, int]:
        """Delete them."""
        from dvc.repo import Repo

        counts = {"blobs": 0, "lists of folders": 0, "runs": 0}
        with Repo() as repo:
            stores = [(odb, sorted(odb.all())) for odb in _stores(repo)]
            gone = _gone(stores, target)
            for odb, oids in stores:
                for oid in gone.intersection(oids):
                    odb.fs.remove(odb.oid_to_path(oid))
                    counts["lists of folders" if oid.endswith(".dir") else "blobs"] += 1
            for fs, folder in _runs(repo):
                for path in fs.find(folder):
                    text = fs.cat_file(path)
                    if any(oid.encode() in text for oid in gone) or in_bytes(text, target):
                        fs.remove(path)
                        counts["runs"] += 1
            index, made_anew = _index(repo), Path(repo.site_cache_dir)
        for path in index:  # DVC makes its index anew: the next command hashes once more. What is queued stays
            if path.is_relative_to(made_anew) or in_file(path, target):
                path.unlink(missing_ok=True)
        return {what: count for what, count in counts.items() if count}


def _gone(stores: list[tuple[Any, list[str]]], target: Target) -> set[str]:
    """Ids of what has to go, wherever it is."""
    known: dict[str, bool] = {}
    for odb, oids in stores:
        for oid in oids:
            if oid not in known:
                known[oid] = bool(_held(odb, oid, target)) or _shows(odb, oid, target)
    gone = {oid for oid, held in known.items() if held}
    for odb, oids in stores:
        for oid in (each for each in oids if each.endswith(".dir")):
            entries = {entry["md5"]: entry["relpath"] for entry in _entries(odb, oid)}
            mine = gone.intersection(entries)
            mine |= {md5 for md5, name in entries.items() if target.is_photo and "contact_sheet" in name}
            if mine or oid in gone:
                gone |= {oid, *mine}
                if target.kind != "user":
                    gone |= {md5 for md5, name in entries.items() if name.endswith(TRAINED)}
    return gone


def _stores(repo: Any) -> list[Any]:
    """Object databases: the cache (of DVC 2 too), then every remote; those that exist.

    Raises:
        BadInput: a remote that cannot be searched.
    """
    from dvc.exceptions import DvcException

    found = [repo.cache.local, repo.cache.legacy]
    for name in repo.config["remote"]:
        try:
            remote = repo.cloud.get_remote(name)
            found += [remote.odb, remote.legacy_odb]
        except DvcException as error:
            raise BadInput(f"forget: the DVC remote {name!r} cannot be searched ({error})") from None
    return [odb for odb in found if odb.fs.exists(odb.path)]


def _runs(repo: Any) -> Iterator[tuple[Any, str]]:
    """File system and folder of every run-cache."""
    places = [(repo.cache.legacy.fs, repo.cache.legacy.path)]
    for name in repo.config["remote"]:
        remote = repo.cloud.get_remote(name)
        places.append((remote.fs, remote.path))
    for fs, path in places:
        folder = fs.join(path, "runs")
        if fs.exists(folder):
            yield fs, folder


def _index(repo: Any) -> list[Path]:
    """Files in which DVC keeps names of files: its index, and what experiments left."""
    folders = [Path(repo.site_cache_dir), Path(repo.tmp_dir)]
    keep = {Path(repo.tmp_dir) / name for name in ("lock", "rwlock", "rwlock.lock", "btime")}
    files = [path for folder in folders for path in sorted(folder.rglob("*"))]
    return [path for path in files if path.is_file() and path not in keep]


def _held(odb: Any, oid: str, target: Target) -> list[str]:
    if target.is_photo and oid == target.md5:
        return ["the photo"]
    path = odb.oid_to_path(oid)
    try:
        return in_file(Path(path), target) if odb.fs.protocol == "local" else in_bytes(odb.fs.cat_file(path), target)
    except FileNotFoundError:
        return []


def _shows(odb: Any, oid: str, target: Target) -> bool:
    """Whether a blob is a page that may show a photo, which no search can tell."""
    if not target.is_photo or oid.endswith(".dir"):
        return False
    with odb.fs.open(odb.oid_to_path(oid), "rb") as file:
        return file.read(64).lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _entries(odb: Any, oid: str) -> list[dict[str, str]]:
    try:
        return json.loads(odb.fs.cat_file(odb.oid_to_path(oid)))
    except (ValueError, FileNotFoundError):
        return []


def git_commits(target: Target) -> list[str]:
    """Commits of any branch whose change names it: what this command cannot take away."""
    import subprocess

    if target.short:
        return []
    found: list[str] = []
    for word in dict.fromkeys([target.id, *target.names]):
        command = ["git", "log", "--all", "--format=%h", f"-S{word}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found += done.stdout.split()
    return list(dict.fromkeys(found))
