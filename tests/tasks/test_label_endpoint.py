"""Labels from an endpoint: every photo is asked for once, what came is kept, and a killed run goes on from there."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from label_cases import Reply, cohort, endpoint, jpeg, kept, read, score
from PIL import Image

from model.scores import DIMENSIONS
from tasks.intake.quarantine import BadInput
from tasks.label_client import TOKEN, Asking
from tasks.tables import read_table, shard_paths

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)


def test_every_photo_is_asked_for_once_in_batches_of_eight(tmp_path):
    ids = cohort(tmp_path, 45)
    with endpoint() as server:
        drafts, aside = read(tmp_path, server.url)
    assert aside == []
    assert drafts.photo_ids == list(ids.values())
    np.testing.assert_allclose(drafts.scores, [[score(i, d) for d in DIMENSIONS] for i in ids.values()], rtol=1e-12)
    np.testing.assert_array_equal(drafts.spread, np.full((45, 3), 0.5))
    assert sorted(server.asked()) == sorted(ids.values())
    assert sorted(len(request.ids) for request in server.requests) == [4, 4, 5, 8, 8, 8, 8]  # shards of 20, 20, 5
    question = server.requests[0].question
    assert set(question) == {"photos", "dimensions", "scale"}
    assert (question["dimensions"], question["scale"]) == (["appearance", "health", "posture"], [0, 10])
    assert set(question["photos"][0]) == {"photo_id", "image"}  # no names: they may be people's


def test_what_is_known_is_not_asked_again(tmp_path):
    ids = cohort(tmp_path, 10)
    with endpoint() as server:
        first, _ = read(tmp_path, server.url)
        asked = len(server.requests)
        again, _ = read(tmp_path, server.url)
        assert len(server.requests) == asked
        np.testing.assert_array_equal(again.scores, first.scores)
        ids = cohort(tmp_path, 13)
        more, _ = read(tmp_path, server.url)
        assert server.asked()[10:] == [ids[f"{i}.jpg"] for i in (10, 11, 12)]
        assert more.photo_ids == list(ids.values())
        read(tmp_path, f"{server.url}/v2")  # another address is another labeller
        assert len(server.asked()) == 13 + 13
        read(tmp_path, server.url, scale=(1, 7))  # another scale another question
        read(tmp_path, server.url)
        read(tmp_path, f"{server.url}?model=two")  # and so another model, if the address says which
        read(tmp_path, f"{server.url}?model=two")
        assert len(server.asked()) == 13 * 4
    cohort(tmp_path / "fewer", 4)
    (tmp_path / "cache").rename(tmp_path / "fewer/cache")
    fewer, _ = read(tmp_path / "fewer", server.url)  # the server is gone: nothing is asked
    assert fewer.photo_ids == list(ids.values())[:4]


def test_photos_that_are_refused_are_asked_for_thrice_in_all_and_stop_nothing(tmp_path):
    """Even if they are all that is left to ask for, as in every later run."""
    ids = cohort(tmp_path, 96, shard=96)
    bad = [ids[f"{i}.jpg"] for i in range(0, 96, 3)]
    refused = {*bad}
    with endpoint(lambda _, asked: Reply(422, b"no") if refused & {*asked} else None) as server:
        for run in range(4):
            before = len(server.requests)
            drafts, aside = read(tmp_path, server.url)
            assert len(drafts.photo_ids) == 64 and len(aside) == 32
            assert aside[0] == "photos/0.jpg, photo: labeller: refused (HTTP 422) ('no')"
            asked = [request.ids for request in server.requests[before:]]
            assert run == 0 or sorted(asked) == sorted([photo] for photo in (bad if run < 3 else []))
        (key,) = (tmp_path / "cache").iterdir()
        refused.clear()  # the endpoint has changed its mind
        shutil.rmtree(key / "in_vain")
        drafts, aside = read(tmp_path, server.url)
        assert drafts.photo_ids == list(ids.values()) and aside == []
        assert sorted(server.asked()[-32:]) == sorted(bad)  # labels stay


def test_an_endpoint_that_is_gone_stops_nothing_if_only_photos_asked_for_in_vain_are_left(tmp_path):
    ids = cohort(tmp_path, 20)
    with endpoint(lambda _, asked: Reply(422, b"no") if ids["3.jpg"] in asked else None) as server:
        read(tmp_path, server.url)
    drafts, aside = read(tmp_path, server.url)
    assert len(drafts.photo_ids) == 19 and aside[1] == "photos/3.jpg, photo: labeller: refused (HTTP 422) ('no')"
    assert aside[0].startswith(f"{server.url}, labels: labeller: photos without a label could not be asked for again ('")
    assert "cannot be reached" in aside[0]


def test_photos_are_asked_for_as_long_as_none_at_all_has_a_label(tmp_path):
    """So an endpoint that was wrong from the first and is mended needs no cleaning up."""
    cohort(tmp_path, 3)
    with endpoint(lambda number, _: Reply(body=b"?") if number < 16 else None) as server:
        for _ in range(6):
            with pytest.raises(BadInput, match=r"no draft of any of the 3 photos; labeller: answer is not JSON \(3\)"):
                read(tmp_path, server.url)
        drafts, aside = read(tmp_path, server.url)
    assert len(drafts.photo_ids) == 3 and aside == []


def test_two_runs_at_once_pay_once(tmp_path, capfd):
    ids = cohort(tmp_path, 40)
    with endpoint(lambda *_: Reply(delay=0.1)) as server, ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: read(tmp_path, server.url), range(2))
    assert sorted(server.asked()) == sorted(ids.values())
    assert one[0].photo_ids == other[0].photo_ids == list(ids.values())
    assert "another run asks this endpoint; waiting until it is done" in capfd.readouterr().err


def test_photos_are_sent_small_upright_and_without_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif[0x010F] = "CAMERA-OF-JANE"
    large = jpeg(1, (2000, 1200), exif=exif, comment=b"COMMENT-OF-JANE", xmp=b"<x>XMP-OF-JANE</x>")
    cohort(tmp_path, [large, jpeg(2)])
    with endpoint() as server:
        read(tmp_path, server.url)
    request = server.requests[0]
    assert request.image(0).size == (614, 1024) and request.image(1).size == (40, 56)
    assert request.image(0).format == "JPEG" and not request.image(0).getexif()
    sent = request.image(0).fp.getvalue()  # type: ignore[union-attr]
    assert b"JANE" in large and b"JANE" not in sent


def test_a_photo_that_cannot_be_read_is_not_sent(tmp_path):
    ids = cohort(tmp_path, [jpeg(0), b"no picture", jpeg(2)])
    with endpoint() as server:
        drafts, aside = read(tmp_path, server.url)
    assert drafts.photo_ids == [ids["0.jpg"], ids["2.jpg"]] == server.asked()
    assert aside == ["photos/1.jpg, photo: labeller: not sent, cannot be read ('not an image (no known picture format)')"]


def test_batches_become_few_shards(tmp_path):
    """A file per batch while it runs, shards of 512 when it is done; what a killed merge leaves counts once."""
    nothing = [f"no picture {i}".encode() for i in range(3)]
    ids = cohort(tmp_path, nothing + [jpeg(i, (16, 16)) for i in range(597)], shard=300)
    with endpoint() as server:
        drafts, _ = read(tmp_path, server.url)
    (key,) = (tmp_path / "cache").iterdir()
    assert sorted(len(read_table(path)) for path in shard_paths(key)) == [85, 512]
    first = shard_paths(key)[0]
    (key / "a-copy-of-it.parquet").write_bytes(first.read_bytes())
    again, _ = read(tmp_path, server.url)  # nobody is there: nothing is asked
    np.testing.assert_array_equal(again.scores, drafts.scores)
    assert again.photo_ids == [ids[f"{i}.jpg"] for i in range(3, 600)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_is_gone_on_with(tmp_path, how):
    """Only what was under way is asked for again: at most `at_once` batches after SIGKILL, nothing after Ctrl-C."""
    ids = cohort(tmp_path, 120, shard=60)
    with endpoint(lambda *_: Reply(delay=0.5)) as server:
        words = [sys.executable, "-m", "tasks.drafts", server.url, str(tmp_path / "photos"), str(tmp_path / "cache")]
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background ignores Ctrl-C
        run = subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heard
        )
        end = time.monotonic() + 60
        while len(server.requests) < 5:
            assert run.poll() is None and time.monotonic() < end, run.communicate()[0]
            time.sleep(0.02)
        run.send_signal(how)
        run.communicate(timeout=30)
        assert run.returncode != 0
        before = kept(tmp_path)
        asked = Counter(server.asked())
        assert 8 <= len(before) < 120 and max(asked.values()) == 1
        drafts, aside = read(tmp_path, server.url)
    assert drafts.photo_ids == list(ids.values()) and aside == []
    again = {photo for photo, times in Counter(server.asked()).items() if times > 1}
    assert not again & before
    assert len(again) <= (8 * Asking().at_once if how == signal.SIGKILL else 0)


def test_a_full_disk_is_one_line(tmp_path):
    cohort(tmp_path, 2)
    (tmp_path / "cache").write_text("a file where the folder should be")
    with endpoint() as server, pytest.raises(BadInput, match="cannot be read or written"):
        read(tmp_path, server.url)
    assert server.requests == []  # told before anything is paid


def test_the_example_of_the_docs_is_a_labeller(tmp_path):
    text = (ROOT / "docs/labeller.md").read_text()
    (tmp_path / "server.py").write_text(re.search(r"```python\n(.*?)```", text, re.S)[1])  # type: ignore[index]
    ids = cohort(tmp_path, 20)
    words = [sys.executable, "-m", "uvicorn", "server:app", "--port", "0"]
    server = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        said = iter(server.stderr)  # type: ignore[arg-type]
        url = next(found[0] for line in said if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        drafts, aside = read(tmp_path, f"{url}/")
    finally:
        server.terminate()
        server.wait(10)
    assert drafts.photo_ids == list(ids.values()) and aside == []
    assert np.isfinite(drafts.scores).all() and np.isfinite(drafts.spread).all()
    assert len(np.unique(drafts.scores[:, 0])) > 5  # it looks at the photos
