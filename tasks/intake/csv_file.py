"""CSV files as people and spreadsheets write them, as columns of trimmed text plus the line of each row.

Notable: UTF-8 with or without BOM, UTF-16 with BOM, else Latin-1 (cp1252); any line ends; comma, or semicolon
or tab if the header has no comma; quoted cells may hold commas and line breaks. A broken row (unclosed quote,
wrong number of cells, a cell of more than 131,072 characters) is set aside and reading goes on at the next line,
so one stray quote never swallows the rest.
"""

import codecs
import csv
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks.intake.quarantine import BadInput, Quarantine

CHUNK_ROWS = 100_000  # rows held as Python text at a time

_TOO_MANY_LINES = 200
"""A quoted cell over more lines than this is taken for an unclosed quote."""


def read_csv(path: Path, name: str, quarantine: Quarantine, required: tuple[str, ...] = ()) -> pa.Table:
    """Columns of `path`, all text (blank cell = ""), plus `file` (= name) and `line` (int64, header = 1).

    Column names are trimmed and in lower case. Raises BadInput if the file cannot be read, is empty, repeats
    a column or lacks one of `required`.
    """
    lines = io.StringIO(_decoded(path, name), newline="").readlines()
    start = next((number for number, line in enumerate(lines) if line.strip(" \t\r\n,;")), None)
    if start is None:
        raise BadInput(f"{name}: is empty; it must start with a header line ({', '.join(required)}, ...)")
    delimiter = max(",;\t", key=lines[start].count)
    odd = any('"' in line or len(line) > csv.field_size_limit() for line in lines)
    if odd:
        records = _records(lines, start, delimiter, name, quarantine)
    else:  # the usual file: one record per line
        records = enumerate(csv.reader(itertools.islice(lines, start, None), delimiter=delimiter), start + 1)
    _, cells = next(records, (0, []))
    header = [cell.strip().lower() for cell in cells]
    while header and not header[-1]:  # spreadsheets leave empty columns at the right
        header.pop()
    check_header(header, f"{name}, line 1", required)
    chunks = []
    rows = _of_width(records, len(header), name, quarantine)
    while block := list(itertools.islice(rows, CHUNK_ROWS)):
        numbers, cells = zip(*block)
        columns = [pc.utf8_trim_whitespace(pa.array(column, pa.string())) for column in zip(*cells)]
        if delimiter == ";":  # where the semicolon separates, the comma is the decimal sign: 3,5
            columns = [pc.replace_substring_regex(c, r"^([+-]?\d*),(\d+)$", r"\1.\2") for c in columns]
        chunks.append(pa.table([*columns, pa.array(numbers, pa.int64())], names=[*header, "line"]))
    if not chunks:
        names = [*header, "line"]
        kinds = [pa.string()] * len(header) + [pa.int64()]
        chunks.append(pa.schema(list(zip(names, kinds))).empty_table())
    table = pa.concat_tables(chunks).combine_chunks()
    return table.append_column("file", pa.array([name] * table.num_rows, pa.string()))


def _decoded(path: Path, name: str) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{name}: cannot be read ({error.strerror or error})") from None
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", "replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


def check_header(header: list[str], place: str, required: tuple[str, ...]) -> None:
    """Raise BadInput, one line that begins with `place`, if a column is missing, there twice or reserved."""
    for column in required:
        if column not in header:
            raise BadInput(
                f"{place}: column {column!r} is missing; "
                f"found {', '.join(header) or 'nothing'}, needed {', '.join(required)}"
            )
    for position, column in enumerate(header):
        if column in header[:position]:
            raise BadInput(f"{place}: column {column!r} is there twice; keep one")
        if column in ("line", "file"):
            raise BadInput(f"{place}: column {column!r} is reserved; give it another name")


def _records(
    lines: list[str], start: int, delimiter: str, name: str, quarantine: Quarantine
) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of every record; after one that breaks off, reading restarts one line on."""
    width = None
    while start < len(lines):
        ahead = (lines[number] for number in range(start, len(lines)))
        reader = csv.reader(ahead, delimiter=delimiter, strict=True)
        began = start  # first line of the record being read
        try:
            for cells in reader:
                after = start + reader.line_num
                width = width or len(cells)
                if after - began > 1 and (len(cells) != width or after - began > _TOO_MANY_LINES):
                    raise csv.Error("a quote swallowed the lines below")
                yield began + 1, cells
                began = after
            return
        except csv.Error as error:
            reason = "cell too long" if "field limit" in str(error) else "broken quoting"
            quarantine.add(name, began + 1, "row", reason, lines[began].strip())
            start = began + 1


def _of_width(
    records: Iterator[tuple[int, list[str]]], width: int, name: str, quarantine: Quarantine
) -> Iterator[tuple[int, list[str]]]:
    """Records of the header's width without blank lines; empty cells too many at the right are cut."""
    for line, cells in records:
        if len(cells) > width and not any(cell.strip() for cell in cells[width:]):
            cells = cells[:width]
        if not (cells and cells[0]) and not any(cell.strip() for cell in cells):
            continue
        if len(cells) == width:
            yield line, cells
        else:
            found = f"{len(cells)} where the header has {width}: {','.join(cells)}"
            quarantine.add(name, line, "row", "wrong number of cells", found)
