"""Drafts from an HTTP endpoint: photos go out in batches, labels come back, and what came is kept.

Notable: an answer is on disk before it counts, in a folder of its own per address and scale, keyed by photo hash; so a
killed run asks again only for what was under way, and nothing is paid for twice. Photos are sent as JPEG without name
or metadata. A label that is wrong in part is kept for what is right in it, with what is wrong beside it; a photo that
got nothing usable is asked for again by the next run.

Test: `uv run pytest tests/tasks/test_label_endpoint.py`; protocol: docs/labeller.md
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from model.images import UnreadableImage, decode_reduced
from model.scores import DIMENSIONS
from tasks.intake.quarantine import BadInput, Quarantine
from tasks.keyed import missing_pieces, photo_ids, read_batches
from tasks.label_answers import Aside, answers, keep, merge, read_labels
from tasks.label_client import Asking, Endpoint, Halt, Refused, Unusable, address
from tasks.progress import progress
from tasks.schemas import DRAFTS
from tasks.tables import write_json

PROTOCOL = 1
PIECE = 512  # photos read from one shard in a go
IN_A_ROW = 3
"""After so many requests without one usable label the endpoint is taken for broken."""
_MERGE_EVERY = 64  # batches


@dataclass
class _Outcome:
    """What came of a batch: labels that were kept, whether the endpoint was asked at all, what is to be told."""

    labels: int = 0
    asked: bool = False
    aside: list[Aside] = field(default_factory=list)


def ask_endpoint(
    url: str,
    photos: Path,
    names: dict[str, str],
    cache: Path,
    scale: tuple[float, float],
    asking: Asking,
    quarantine: Quarantine,
) -> pa.Table:
    """Rows of the `drafts` table: what the endpoint said before, and now of the photos that it has not labelled yet.

    Args: as `tasks.drafts.read_drafts`; names: photo name by photo_id, the whole cohort.

    Raises:
        BadInput: address or token cannot be used, or the endpoint is down; one line. What came is kept.
    """
    endpoint = Endpoint(url, asking)
    told = {"endpoint": address(url), "protocol": PROTOCOL, "scale": [float(s) for s in scale], "side": asking.side}
    key = hashlib.sha256(json.dumps([url, told]).encode()).hexdigest()[:20]
    folder = cache / key
    try:
        write_json(told, folder / "endpoint.json")
        merge(folder, key)
        known = set(answers(folder)["photo_id"].to_pylist())
        aside = _ask_all(endpoint, photos, names.keys() - known, folder, key, scale)
        merge(folder, key)
    except Halt as halt:
        there = len(names.keys() & set(answers(folder)["photo_id"].to_pylist()))
        again = f"labels of {there:,} of {len(names):,} photos are kept; the same command goes on from there"
        raise BadInput(f"{address(url)}: {halt}; {again}") from None
    except OSError as error:
        place = error.filename or folder
        raise BadInput(f"{place}: cannot be read or written ({error.strerror}); labels that came are kept") from None
    finally:
        endpoint.close()
    table = answers(folder)
    rows = table.filter(pa.array([photo in names for photo in table["photo_id"].to_pylist()], pa.bool_()))
    for row in rows.select(["photo_id", "aside"]).to_pylist():
        aside += [(row["photo_id"], one["field"], one["reason"], one["value"]) for one in row["aside"]]
    for photo_id, what, reason, value in aside:
        file = address(url) if photo_id is None else f"photos/{names[photo_id]}"
        quarantine.add(file, None, what, f"labeller: {reason}", value)
    return rows.select(DRAFTS.names)


def _ask_all(
    endpoint: Endpoint, photos: Path, wanted: set[str], folder: Path, key: str, scale: tuple[float, float]
) -> list[Aside]:
    """Ask for the `wanted` photos, a few batches at once, and keep what comes; what did not come is returned.

    Raises Halt; answers under way then are waited for and kept.
    """
    asking = endpoint.asking
    aside: list[Aside] = []
    finished = in_vain = 0
    pool = ThreadPoolExecutor(asking.at_once, "labeller")
    pending: set[Future[_Outcome]] = set()
    with progress("labeller", len(wanted)) as advance:

        def settle(enough: int) -> None:
            nonlocal pending, finished, in_vain
            while len(pending) > enough:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    outcome = future.result()
                    aside.extend(outcome.aside)
                    advance(outcome.labels)
                    in_vain = 0 if outcome.labels else in_vain + outcome.asked
                    finished += 1
                    if in_vain >= IN_A_ROW:
                        _, _, reason, value = outcome.aside[-1]
                        found = "" if value is None else f" ({value})"
                        raise Halt(f"{in_vain} requests in a row gave no label; the last: {reason}{found}")
                    if finished % _MERGE_EVERY == 0:
                        merge(folder, key)

        try:
            for batch in _batches(photos, wanted, asking.batch, key):
                pending.add(pool.submit(_label, endpoint, batch, folder, key, scale))
                settle(2 * asking.at_once - 1)
            settle(0)
        finally:
            endpoint.pace.end("the run has ended")
            pool.shutdown(cancel_futures=True)
    return aside


def _batches(photos: Path, wanted: set[str], rows: int, key: str) -> Iterator[tuple[list[str], list[bytes]]]:
    """Ids and bytes of the wanted photos, in the cohort's order."""
    for piece in missing_pieces(photos, set(photo_ids(photos)) - wanted, PIECE, key):
        yield from read_batches(piece.payload, rows)


def _label(
    endpoint: Endpoint, batch: tuple[list[str], list[bytes]], folder: Path, key: str, scale: tuple[float, float]
) -> _Outcome:
    """Have a batch of photos labelled; labels are on disk when this returns."""
    outcome, images = _Outcome(), {}
    for photo_id, data in zip(*batch, strict=True):
        try:
            images[photo_id] = as_jpeg(data, endpoint.asking.side)
        except UnreadableImage as error:
            outcome.aside.append((photo_id, "photo", "not sent, cannot be read", str(error)))
    if images:
        outcome.asked = True
        _ask(endpoint, images, folder, key, scale, outcome)
    return outcome


def _ask(
    endpoint: Endpoint, images: dict[str, bytes], folder: Path, key: str, scale: tuple[float, float], outcome: _Outcome
) -> None:
    """One request; if the endpoint refuses it, one for each half, down to the photo that it does not like."""
    sent = [{"photo_id": i, "image": base64.b64encode(image).decode()} for i, image in images.items()]
    try:
        answer = endpoint.ask({"photos": sent, "dimensions": list(DIMENSIONS), "scale": list(scale)})
        rows, aside = read_labels(answer, list(images), scale)
    except Unusable as error:
        if isinstance(error, Refused) and len(images) > 1:
            for half in (list(images)[: len(images) // 2], list(images)[len(images) // 2 :]):
                _ask(endpoint, {photo_id: images[photo_id] for photo_id in half}, folder, key, scale, outcome)
            return
        outcome.aside += [(photo_id, "photo", *error.args) for photo_id in images]
        return
    keep(rows, folder, key)
    outcome.labels += len(rows)
    outcome.aside += aside


def as_jpeg(data: bytes, side: int) -> bytes:
    """A photo, upright, with sides of `side` px at most, as JPEG without EXIF, XMP, comment or colour profile.

    Raises UnreadableImage.
    """
    image, _ = decode_reduced(data, side)
    image.thumbnail((side, side))
    image.info.clear()  # Pillow would write comment and XMP into the new file
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()
