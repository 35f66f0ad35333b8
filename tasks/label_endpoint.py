"""Drafts from an HTTP endpoint: photos go out in batches, labels come back, and what came is kept.

Notable: an answer is on disk before it counts, in a folder of its own per address and scale, keyed by photo hash
(tasks/label_kept.py); so a killed run asks again only for what was under way, and nothing is paid for twice. Photos are
sent as JPEG without name or metadata. A label that is wrong in part is kept for what is right in it. A photo that got
nothing usable is asked for again, alone, by the next two runs, then no more; and that never ends a run, else a few
photos that an endpoint refuses would stop the pipeline for good.

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
import pyarrow.compute as pc

from model.images import UnreadableImage, decode_reduced
from model.scores import DIMENSIONS
from tasks.intake.quarantine import BadInput, Quarantine
from tasks.keyed import missing_pieces, photo_ids, read_batches
from tasks.label_answers import Finding, finding, in_vain, read_labels
from tasks.label_client import Asking, Endpoint, Halt, Refused, Unusable, address
from tasks.label_kept import Kept
from tasks.progress import progress
from tasks.schemas import DRAFTS
from tasks.tables import write_json

PROTOCOL = 2
PIECE = 512  # photos read from one shard in a go
IN_A_ROW = 3
"""After so many requests without one usable label the endpoint is taken for broken."""
TRIES = 3
"""Runs that ask for a photo that gets no label."""
_MERGE_EVERY = 64  # batches

Aside = tuple[str | None, Finding]
"""photo_id, or None for the endpoint itself."""


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
    endpoint, where = Endpoint(url, asking), address(url)
    told = {"endpoint": where, "protocol": PROTOCOL, "scale": [float(s) for s in scale], "side": asking.side}
    key = hashlib.sha256(json.dumps([url, told]).encode()).hexdigest()[:20]
    kept = Kept(cache / key, key)
    try:
        with kept.alone():
            write_json(told, kept.folder / "endpoint.json")
            kept.merge()
            aside = _ask_for_missing(endpoint, photos, names, kept, scale)
            kept.merge()
            table, vain = kept.labels(), kept.in_vain()
    except Halt as halt:
        there = len(names.keys() & set(kept.labels()["photo_id"].to_pylist()))
        again = f"labels of {there:,} of {len(names):,} photos are kept; the same command goes on from there"
        raise BadInput(f"{where}: {halt}; {again}") from None
    except OSError as error:
        place = error.filename or kept.folder
        raise BadInput(f"{place}: cannot be read or written ({error.strerror}); labels that came are kept") from None
    finally:
        endpoint.close()
    for row in pa.concat_tables([table, vain]).select(["photo_id", "aside"]).to_pylist():
        aside += [(row["photo_id"], one) for one in row["aside"] if row["photo_id"] in names]
    for photo_id, one in aside:
        file = where if photo_id is None else f"photos/{names[photo_id]}"
        quarantine.add(file, None, str(one["field"]), f"labeller: {one['reason']}", one["value"])
    return table.filter(pc.is_in(table["photo_id"], pa.array(list(names), pa.string()))).select(DRAFTS.names)


def _ask_for_missing(
    endpoint: Endpoint, photos: Path, names: dict[str, str], kept: Kept, scale: tuple[float, float]
) -> list[Aside]:
    """Ask for photos that are new, then for those asked for in vain before; findings that are not kept.

    Raises Halt as long as there are new photos.
    """
    vain = kept.in_vain()
    tries = dict(zip(vain["photo_id"].to_pylist(), vain["tries"].to_pylist()))
    labelled = set(kept.labels()["photo_id"].to_pylist())
    aside = _Run(endpoint, kept, scale, {}).ask(photos, names.keys() - labelled - tries.keys(), endpoint.asking.batch)
    again = {photo for photo, n in tries.items() if photo in names and (n < TRIES or not labelled)}
    try:
        aside += _Run(endpoint, kept, scale, tries).ask(photos, again, 1)
    except Halt as halt:
        aside.append((None, finding("labels", "photos without a label could not be asked for again", str(halt))))
    return aside


@dataclass
class _Outcome:
    """What came of a batch: labels that were kept, whether the endpoint was asked at all, what is to be told."""

    labels: int = 0
    asked: bool = False
    why: Finding | None = None
    """The last reason for a photo without a label."""
    aside: list[Aside] = field(default_factory=list)


@dataclass
class _Run:
    """Asks for photos, a few batches at once, and keeps what comes."""

    endpoint: Endpoint
    kept: Kept
    scale: tuple[float, float]
    tries: dict[str, int]
    """How often photos were asked for in vain before; empty: all are new."""

    def ask(self, photos: Path, wanted: set[str], rows: int) -> list[Aside]:
        """Ask for the `wanted` photos, `rows` at a time; findings that are not kept.

        Raises Halt; answers under way then are waited for and kept.
        """
        at_once = self.endpoint.asking.at_once
        aside: list[Aside] = []
        finished = vain = 0
        pending: set[Future[_Outcome]] = set()
        if not wanted:
            return aside
        pool = ThreadPoolExecutor(at_once, "labeller")
        with progress("labeller", len(wanted)) as advance:

            def settle(enough: int) -> None:
                nonlocal pending, finished, vain
                while len(pending) > enough:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        outcome = future.result()
                        aside.extend(outcome.aside)
                        advance(outcome.labels)
                        vain = 0 if outcome.labels else vain + outcome.asked
                        finished += 1
                        if vain >= IN_A_ROW and not self.tries:
                            raise Halt(f"{vain} requests in a row gave no label; the last: {_words(outcome.why)}")
                        if finished % _MERGE_EVERY == 0:
                            self.kept.merge()

            try:
                for batch in _batches(photos, wanted, rows, self.kept.key):
                    pending.add(pool.submit(self._label, batch))
                    settle(2 * at_once - 1)
                settle(0)
            except BaseException:
                self.endpoint.pace.end("the run has ended")
                raise
            finally:
                pool.shutdown(cancel_futures=True)
        return aside

    def _label(self, batch: tuple[list[str], list[bytes]]) -> _Outcome:
        """Have a batch of photos labelled; labels are on disk when this returns."""
        outcome, images = _Outcome(), {}
        for photo_id, data in zip(*batch, strict=True):
            try:
                images[photo_id] = as_jpeg(data, self.endpoint.asking.side)
            except UnreadableImage as error:
                outcome.aside.append((photo_id, finding("photo", "not sent, cannot be read", str(error))))
        if images:
            outcome.asked = True
            self._ask(images, outcome)
        return outcome

    def _ask(self, images: dict[str, bytes], outcome: _Outcome) -> None:
        """One request; if the endpoint refuses it, one for each half, down to the photo that it does not like."""
        ids = list(images)
        sent = [{"photo_id": i, "image": base64.b64encode(image).decode()} for i, image in images.items()]
        try:
            answer = self.endpoint.ask({"photos": sent, "dimensions": list(DIMENSIONS), "scale": list(self.scale)})
            rows, aside = read_labels(answer, ids, self.scale)
        except Unusable as error:
            if isinstance(error, Refused) and len(ids) > 1:
                for half in (ids[: len(ids) // 2], ids[len(ids) // 2 :]):
                    self._ask({photo_id: images[photo_id] for photo_id in half}, outcome)
                return
            rows, aside = [in_vain(photo_id, finding("photo", *error.args)) for photo_id in ids], []
        for row in rows:
            if row["tries"]:
                row["tries"] += self.tries.get(row["photo_id"], 0)
                outcome.why = row["aside"][-1]
        outcome.labels += self.kept.add(rows)
        outcome.aside += [(None, one) for one in aside]
        outcome.why = aside[-1] if aside else outcome.why


def _words(one: Finding | None) -> str:
    if one is None:
        return "nothing came"
    return str(one["reason"]) + ("" if one["value"] is None else f" ({one['value']})")


def _batches(photos: Path, wanted: set[str], rows: int, key: str) -> Iterator[tuple[list[str], list[bytes]]]:
    """Ids and bytes of the wanted photos, in the cohort's order."""
    for piece in missing_pieces(photos, set(photo_ids(photos)) - wanted, PIECE, key):
        yield from read_batches(piece.payload, rows)


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
