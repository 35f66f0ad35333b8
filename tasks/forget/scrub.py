"""Taking somebody out of one file or one bank: rows, cells, keys, lines and entries go, all else stays as it is.

    scrub(path, target)            how much went; what cannot be taken apart is deleted whole (it can be made again)

Notable: files are replaced in one step, so whoever is killed or reads meanwhile has the old one or the new one; links to an
old one (DVC's cache may be linked) are left to those whose they are.

    uv run pytest tests/tasks/test_forget_scrub.py
"""

from __future__ import annotations

import codecs
import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.forget.search import in_file
from tasks.forget.target import FIELDS, Target
from tasks.tables import read_table, write_bytes, write_json, write_table

TEXTS = (".txt", ".md", ".log")
PHOTO_COLUMNS = ("photo", "item", "other", "pic_name")
"""Of CSV files: where a photo may be written without its suffix."""


def scrub(path: Path, target: Target) -> int:
    """Take `target` out of a file that the pipeline made; how many rows, keys, lines or files went."""
    if path.suffix == ".parquet":
        return scrub_parquet(path, target)
    if path.suffix == ".csv":
        return scrub_csv(path, target)
    if path.suffix == ".json" and (count := scrub_json(path, target)) is not None:
        return count
    if not in_file(path, target) or path.read_bytes()[:15] == b"SQLite format 3":  # a database is not ours to delete
        return 0
    if path.suffix == ".safetensors" and (count := scrub_served(path, target)):
        return count
    if path.suffix in TEXTS and (count := scrub_lines(path, target)):
        return count
    path.unlink()
    return 1


def scrub_parquet(path: Path, target: Target) -> int:
    """Drop rows with a cell that names it."""
    try:
        table = read_table(path)
    except (pa.ArrowException, OSError):  # no Parquet, or cut short: of no use to anybody
        path.unlink()
        return 1
    keep = None
    for column in table.column_names:
        if pa.types.is_string(table.schema.field(column).type) or pa.types.is_large_string(table.schema.field(column).type):
            gone = [text for text in pc.unique(table[column]).to_pylist() if text and target.in_field(column, text)]
            if gone:
                fine = pc.invert(pc.is_in(table[column], value_set=pa.array(gone, table.schema.field(column).type)))
                keep = fine if keep is None else pc.and_(keep, fine)
    if keep is None:
        return 0
    left = table.filter(keep)
    with pq.ParquetFile(path) as file:
        groups = file.metadata.row_group(0).num_rows if file.metadata.num_row_groups > 1 else None
    write_table(left, path, row_group_size=groups)
    return len(table) - len(left)


def csv_rows(path: Path, target: Target) -> tuple[list[bytes], list[int]]:
    """The lines of a CSV file that are not its, and the numbers (header = 1) of those that are."""
    raw = path.read_bytes()
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    coding = "utf-16" if wide else "utf-8"
    lines = raw.decode(coding, "surrogateescape").splitlines(keepends=True)
    first = next((line for line in lines if line.strip(" \t\r\n,;\ufeff")), "")
    reader = csv.reader(iter(lines), delimiter=max(",;\t", key=first.count))
    is_its = _cells(target)
    kept, gone, before, header = [], [], 0, None
    for cells in reader:
        span = lines[before : reader.line_num]
        if header is not None and any(is_its(name, cell.strip()) for name, cell in zip(header, cells)):
            gone.append(before + 1)
        else:
            kept += span
        if header is None and any(cell.strip() for cell in cells):
            header = [cell.strip(" \ufeff").lower() for cell in cells]
        before = reader.line_num
    text = "".join(kept)
    return [text.encode(coding, "surrogateescape")], gone


def _cells(target: Target) -> Callable[[str, str], bool]:
    """Whether (column, cell) of a CSV file is the person's id, or one of the ways in which a photo's name is written."""
    if not target.is_photo:
        return lambda column, cell: cell == target.id and (not target.short or column in FIELDS)
    from tasks.intake.photos import PhotoIndex

    index = PhotoIndex(ids=dict.fromkeys([*target.names, target.id], "it"))
    whole, loose = index.resolver(suffixless=False), index.resolver()
    return lambda column, cell: (loose if column in PHOTO_COLUMNS else whole)(cell) is not None


def scrub_csv(path: Path, target: Target) -> int:
    """Drop rows with a cell that is its."""
    kept, gone = csv_rows(path, target)
    if gone:
        write_bytes(b"".join(kept), path)
    return len(gone)


def scrub_json(path: Path, target: Target) -> int | None:
    """Drop keys, values and items that name it; None where the file is no JSON."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    try:
        value = json.loads(text)
    except ValueError:
        return None
    count = [0]
    left = _without(value, target, count, "")
    if count[0]:
        write_json(left, path)
    return count[0]


def _without(value: Any, target: Target, count: list[int], field: str) -> Any:
    if isinstance(value, dict):
        kept = {}
        for key, item in value.items():
            if key == target.id or target.names_it(key) or (isinstance(item, str) and target.in_field(key, item)):
                count[0] += 1
            else:
                kept[key] = _without(item, target, count, key)
        return kept
    if isinstance(value, list):
        kept = [item for item in value if not (isinstance(item, str) and target.in_field(field, item))]
        count[0] += len(value) - len(kept)
        return [_without(item, target, count, field) for item in kept]
    return value


def scrub_lines(path: Path, target: Target) -> int:
    """Drop lines that name it."""
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines(keepends=True)
    kept = [line for line in lines if not target.names_it(line)]
    if len(kept) < len(lines):
        data = "".join(kept).encode("utf-8", "surrogateescape")
        if path.suffix == ".log":  # in place: whoever is writing it goes on in it
            path.write_bytes(data)
        else:  # whole or not at all
            write_bytes(data, path)
    return len(lines) - len(kept)


def scrub_served(path: Path, target: Target) -> int:
    """Drop a user's row of a file of `Nights.save_served`; 0 where the file is another one."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(str(path), "pt") as file:
        users = json.loads((file.metadata() or {}).get("users", "[]"))
    if target.id not in users:
        return 0
    keep = [row for row, user in enumerate(users) if user != target.id]
    tensors = {name: value[keep].contiguous() for name, value in load_file(path).items()}
    fresh = path.with_suffix(".new")
    save_file(tensors, fresh, {"users": json.dumps([users[row] for row in keep])})
    fresh.replace(path)
    return 1


def banks_in(folder: Path) -> Iterator[Path]:
    """Folders below `folder` that are banks of personal models."""
    yield from (path.parent for path in sorted(folder.rglob("bank.json")))


def taught_prior(folder: Path, target: Target) -> bool:
    """Whether the prior over users of a bank was learned from this user among others."""
    from model.bank_opened import open_bank

    bank = open_bank(folder)
    known = target.kind == "user" and int(bank.index([target.id])[0]) >= 0
    return known and not bool(bank.part([target.id]).judged[0])


def scrub_bank(folder: Path, target: Target) -> int:
    """Take a user's entry, or a photo's kept ratings, out of a bank: how many entries changed.

    Raises:
        ValueError: a bank of another format, or a damaged one.
    """
    from model.bank_opened import open_bank
    from model.lora_bank import OpenLora, has_lora

    lora, count = None, 0
    if has_lora(folder):
        whole = OpenLora(folder).whole()
        if target.is_photo:
            touched = whole.without_photo(target.id)
        else:
            touched = int(target.id in whole.users)
            whole = whole.without_users([target.id]) if touched else whole
        lora, count = (whole if touched else None), touched
    if target.kind == "user":
        bank = open_bank(folder)
        if int(bank.index([target.id])[0]) >= 0:
            kept = (folder / "lora.json").is_file()
            if kept and lora is None:
                lora = OpenLora(folder).whole()
            _save(bank.without_users([target.id]), lora, folder)
            return count + 1
    if lora is not None:
        _save(open_bank(folder), lora, folder)
    return count


def _save(bank: Any, lora: Any, folder: Path) -> None:
    """Bank and low-rank entries, both or neither in their place: together beside it, then swapped in."""
    fresh, former = folder.with_name(f".{folder.name}.forgets"), folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, former):
        shutil.rmtree(leftover, ignore_errors=True)
    bank.save(fresh)
    if lora is not None:
        lora.save(fresh)
    folder.rename(former)
    fresh.rename(folder)
    shutil.rmtree(former)


def settled(folder: Path) -> None:
    """Undo or finish what a killed `scrub_bank` left in the folders below `folder`."""
    for former in sorted(folder.rglob(".bank.old")):
        if not (there := former.with_name("bank")).exists():
            former.rename(there)
    for leftover in [*folder.rglob(".bank.forgets"), *folder.rglob(".bank.old")]:
        shutil.rmtree(leftover, ignore_errors=True)


def rename_expert(folder: Path, target: Target, alias: str) -> int:
    """Call an expert `alias` in every JSON file of a bundle; how many files changed.

    Their answers to the survey stay, without the name: what the network says depends on them.
    """
    count = 0
    for path in sorted(folder.rglob("*.json")):
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        fresh = _renamed(value, target, alias)
        if fresh != value:
            write_bytes(json.dumps(fresh, indent=1, sort_keys=True, ensure_ascii=False).encode(), path)
            count += 1
    return count


def _renamed(value: Any, target: Target, alias: str) -> Any:
    if isinstance(value, dict):
        return {_renamed(key, target, alias): _renamed(item, target, alias) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, target, alias) for item in value]
    return alias if value == target.id else value
