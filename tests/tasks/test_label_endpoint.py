"""Labels made elsewhere, behind HTTP: asked for with patience, kept, never paid for twice, and checked one by one."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from label_cases import Reply, cohort, endpoint, jpeg, label, score
from PIL import Image

from model.scores import DIMENSIONS
from tasks.drafts import Asking, Drafts, read_drafts
from tasks.intake.quarantine import BadInput, as_lines
from tasks.label_client import TOKEN
from tasks.schemas import SCHEMAS
from tasks.tables import read_table, shard_paths

ROOT = Path(__file__).parents[2]
BRISK = Asking(per_minute=1e9, back_off_s=0.01, timeout_s=5, retries=3)
ONE_BY_ONE = replace(BRISK, at_once=1)


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)


def read(folder: Path, url: str, asking: Asking = BRISK, **options) -> tuple[Drafts, list[str]]:
    drafts, aside = read_drafts(url, folder / "photos", folder / "cache", asking=asking, **options)
    assert aside.schema == SCHEMAS["quarantine"]
    return drafts, as_lines(aside, 1000)


def kept(folder: Path) -> set[str]:
    """Photos whose labels are on disk."""
    paths = [path for key in (folder / "cache").iterdir() for path in shard_paths(key)]
    return {photo for path in paths for photo in read_table(path)["photo_id"].to_pylist()}


def every_file(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in (folder / "cache").rglob("*") if path.is_file())


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
        assert len(server.asked()) == 13 * 3
    cohort(tmp_path / "fewer", 4)
    (tmp_path / "cache").rename(tmp_path / "fewer/cache")
    fewer, _ = read(tmp_path / "fewer", server.url)  # the server is gone: nothing is asked
    assert fewer.photo_ids == list(ids.values())[:4]


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


def test_another_scale_is_asked_for_and_brought_to_0_to_10(tmp_path):
    ids = cohort(tmp_path, 1)
    (photo,) = ids.values()
    said = label(photo, appearance={"score": 7, "spread": 3}, health={"score": 1}, posture={"score": 7.5, "spread": 7})
    with endpoint(lambda *_: Reply(body={"labels": [said]})) as server:
        drafts, aside = read(tmp_path, server.url, scale=(1, 7))
    assert server.requests[0].question["scale"] == [1, 7]
    np.testing.assert_array_equal(drafts.scores, [[10, 0, np.nan]])
    np.testing.assert_array_equal(drafts.spread, [[5, np.nan, np.nan]])
    assert aside == [
        "photos/0.jpg, posture: labeller: outside the scale 1 to 7 ('7.5')",
        "photos/0.jpg, posture_spread: labeller: outside 0 to 6 ('7')",
    ]


def test_429_is_waited_out_by_everybody(tmp_path):
    cohort(tmp_path, 40)
    with endpoint(lambda number, ids: Reply(429, b"slow down", {"Retry-After": "1"}) if number == 0 else None) as server:
        drafts, aside = read(tmp_path, server.url, replace(BRISK, per_minute=600))
    assert len(drafts.photo_ids) == 40 and aside == []
    at = [request.at - server.requests[0].at for request in server.requests]
    assert at[1] >= 0.95  # one request is a tenth of a second from the next: without the hold it would come at .1
    assert all(after - before > 0.08 for before, after in pairwise(at[1:]))


@pytest.mark.parametrize("status", [500, 502, 503, 408])
def test_what_may_pass_is_tried_again(tmp_path, status):
    ids = cohort(tmp_path, 8)
    with endpoint(lambda number, _: Reply(status, b"oops") if number < 2 else None) as server:
        drafts, aside = read(tmp_path, server.url, ONE_BY_ONE)
    assert drafts.photo_ids == list(ids.values()) and aside == [] and len(server.requests) == 3


def test_retries_wait_longer_each_time_and_not_all_alike(tmp_path):
    cohort(tmp_path, 3)
    waits, lengths = [], (0.2, 0.4, 0.8)
    for _ in range(2):
        with endpoint(lambda number, _: Reply(500) if number < 3 else None) as server:
            read(tmp_path, server.url, replace(ONE_BY_ONE, back_off_s=0.2))
        at = [request.at for request in server.requests]
        waits.append([after - before for before, after in pairwise(at)])
    for wait in waits:
        for one, longest in zip(wait, lengths):
            assert longest / 2 <= one + 0.02 and one < longest + 0.4
    assert any(one < longest - 0.005 for wait in waits for one, longest in zip(wait, lengths))  # jitter only shortens


def test_a_retry_after_may_be_a_date(tmp_path):
    cohort(tmp_path, 2)
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    with endpoint(lambda number, _: Reply(503, b"", {"Retry-After": when}) if number == 0 else None) as server:
        read(tmp_path, server.url)
    assert 0.5 < server.requests[1].at - server.requests[0].at < 4


def test_a_long_rest_ends_the_run(tmp_path):
    cohort(tmp_path, 2)
    with (
        endpoint(lambda *_: Reply(429, b"", {"Retry-After": "86400"})) as server,
        pytest.raises(
            BadInput, match=r"HTTP 429 \(Too Many Requests\); it asks to be left alone for 86,400 s; labels of 0 of 2"
        ),
    ):
        read(tmp_path, server.url)
    assert len(server.requests) == 1


def test_a_slow_answer_is_asked_for_again(tmp_path):
    ids = cohort(tmp_path, 8)
    with endpoint(lambda number, _: Reply(delay=1.5) if number == 0 else None) as server:
        drafts, aside = read(tmp_path, server.url, replace(ONE_BY_ONE, timeout_s=0.5))
    assert drafts.photo_ids == list(ids.values()) and aside == [] and len(server.requests) == 2


def test_an_answer_that_drips_is_no_answer(tmp_path):
    """Each byte comes in time, the whole never would."""
    import socket
    import threading

    cohort(tmp_path, 1)
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            with caller:
                caller.recv(65536)
                caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                for _ in range(100):
                    try:
                        caller.sendall(b" ")
                    except OSError:
                        break
                    time.sleep(0.1)

    threading.Thread(target=drip, daemon=True).start()
    began = time.monotonic()
    with listener, pytest.raises(BadInput, match=r"no whole answer within 0\.5 s, 2 times"):
        read(tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}/", replace(BRISK, timeout_s=0.5, retries=1))
    assert time.monotonic() - began < 5


def test_requests_keep_the_pace_and_the_number_at_once(tmp_path):
    cohort(tmp_path, 60)
    now = Counter()
    most = []

    def behave(number: int, ids: list[str]) -> Reply:
        now["here"] += 1
        most.append(now["here"])
        time.sleep(0.3)
        now["here"] -= 1
        return Reply()

    with endpoint(behave) as server:
        read(tmp_path, server.url, replace(BRISK, at_once=3))
    assert max(most) == 3
    cohort(tmp_path / "paced", 60)
    with endpoint() as server:
        read(tmp_path / "paced", server.url, replace(BRISK, per_minute=600))
    at = sorted(request.at for request in server.requests)
    assert at[-1] - at[0] >= 0.1 * (len(at) - 1) - 0.05


BROKEN = {
    "not JSON": (b'{"labels": [', "labeller: answer is not JSON ('{\"labels\": [')"),
    "a page": (b"<html>" + b"x" * 1000, "labeller: answer is not JSON ('<html>" + "x" * 191 + "...')"),
    "deep": (b"[" * 200_000, "labeller: answer is not JSON"),
    "bytes": (b"\xff\xfe\x00\xd8", "labeller: answer is not JSON"),
    "other JSON": (b'["labels"]', 'labeller: answer has no list "labels" ("[\'labels\']")'),
    "no list": (b'{"labels": {}}', 'labeller: answer has no list "labels"'),
    "huge": (b" " * 50_000_000, "labeller: answer is larger than 4 MiB"),
    "nothing": (b'{"labels": []}', "labeller: is missing in the answer"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_costs_its_batch_and_is_told_by_photo(tmp_path, name):
    ids = cohort(tmp_path, 18)
    body, said = BROKEN[name]
    with endpoint(lambda number, _: Reply(body=body) if number == 1 else None) as server:
        drafts, aside = read(tmp_path, server.url, ONE_BY_ONE)
        assert drafts.photo_ids == [ids[f"{i}.jpg"] for i in (*range(8), 16, 17)]
        assert [line.split(", photo: ")[0] for line in aside] == sorted(f"photos/{i}.jpg" for i in range(8, 16))
        assert said in aside[0]
        assert len(server.requests) == 3  # it was paid for: not tried again in this run
        drafts, aside = read(tmp_path, server.url, ONE_BY_ONE)  # but by the next one, and alone
        assert len(drafts.photo_ids) == 18 and aside == []
        assert server.requests[3].ids == list(ids.values())[8:16]


def test_what_is_wrong_in_a_label_is_told_by_photo_and_field(tmp_path):
    ids = cohort(tmp_path, 8)
    a, b, c, d, e, f, g, h = ids.values()
    odd = {"health": {"score": 10.1, "spread": 0.1}, "posture": {"score": 3, "spread": -1}}
    partial = label(a, appearance={"score": float("nan")}, **odd)
    body = {
        "labels": [
            partial,
            label(a),
            {"photo_id": b, "appearance": {"score": 4}},
            label(c, appearance=None, health={"score": None}, posture=None),
            label(d, appearance={"score": True}, health={"score": "7"}, posture=7),
            label("0" * 64),
            {"appearance": {"score": 1}},
            "label",
            label(f, appearance={"score": 10**400}, health={"score": 0}, posture={"score": 10.0, "spread": "?"}),
            label(g, health={"spread": 1}),
            label(h),
        ]
    }
    with endpoint(lambda *_: Reply(body=body)) as server:
        drafts, aside = read(tmp_path, server.url, ONE_BY_ONE)
        where = server.url
        assert aside == sorted(aside, key=lambda line: line.split(", ")[0])
        assert set(aside) == {
            "photos/0.jpg, appearance: labeller: not a number ('nan')",
            "photos/0.jpg, health: labeller: outside the scale 0 to 10 ('10.1')",
            "photos/0.jpg, health_spread: labeller: spread without a score ('0.1')",
            "photos/0.jpg, photo: labeller: second label of the same photo (" + repr(repr(label(a))[:197] + "...") + ")",
            "photos/0.jpg, posture_spread: labeller: outside 0 to 10 ('-1')",
            "photos/1.jpg, health: labeller: is missing in the answer",
            "photos/1.jpg, posture: labeller: is missing in the answer",
            "photos/3.jpg, appearance: labeller: not a number ('True')",
            "photos/3.jpg, health: labeller: not a number ('7')",
            "photos/3.jpg, posture: labeller: not an object with score and spread ('7')",
            "photos/4.jpg, photo: labeller: is missing in the answer",
            f"photos/5.jpg, appearance: labeller: not a number ('{str(10**400)[:197]}...')",
            "photos/5.jpg, posture_spread: labeller: not a number ('?')",
            "photos/6.jpg, health_spread: labeller: spread without a score ('1')",
            f"{where}, photo_id: labeller: photo was not asked for ('{'0' * 64}')",
            f"{where}, photo_id: labeller: label without a photo_id (\"{{'appearance': {{'score': 1}}}}\")",
            f"{where}, photo_id: labeller: label without a photo_id ('label')",
        }
        assert drafts.photo_ids == [a, b, f, g, h]  # c is labelled, as "none"
        np.testing.assert_array_equal(drafts.scores[0], [np.nan, np.nan, 3])
        np.testing.assert_array_equal(drafts.scores[2], [np.nan, 0, 10])
        again, told = read(tmp_path, server.url, ONE_BY_ONE)
        assert server.requests[1].ids == [d, e]  # of the others something was got; what was wrong with them is still told
        assert "photos/0.jpg, health: labeller: outside the scale 0 to 10 ('10.1')" in told
        np.testing.assert_array_equal(again.scores, drafts.scores)


def test_a_flood_of_labels_is_cut(tmp_path):
    cohort(tmp_path, 2)
    body = {"labels": [label(str(i)) for i in range(5000)]}
    with endpoint(lambda *_: Reply(body=body)) as server, pytest.raises(BadInput, match="more labels than photos"):
        read(tmp_path, server.url)


def test_a_photo_that_is_refused_costs_only_itself(tmp_path):
    ids = cohort(tmp_path, 10)
    bad = ids["5.jpg"]
    with endpoint(lambda _, asked: Reply(422, b"I do not like this photo") if bad in asked else None) as server:
        drafts, aside = read(tmp_path, server.url, ONE_BY_ONE)
    assert drafts.photo_ids == [photo for photo in ids.values() if photo != bad]
    assert aside == ["photos/5.jpg, photo: labeller: refused (HTTP 422) ('I do not like this photo')"]
    assert [len(request.ids) for request in server.requests] == [8, 4, 4, 2, 1, 1, 2, 2]


def test_a_photo_that_cannot_be_read_is_not_sent(tmp_path):
    ids = cohort(tmp_path, [jpeg(0), b"no picture", jpeg(2)])
    with endpoint() as server:
        drafts, aside = read(tmp_path, server.url)
    assert drafts.photo_ids == [ids["0.jpg"], ids["2.jpg"]] == server.asked()
    assert aside == ["photos/1.jpg, photo: labeller: not sent, cannot be read ('not an image (no known picture format)')"]


@pytest.mark.parametrize(
    ("reply", "message", "requests"),
    [
        (Reply(302, b"", {"Location": "/there?key=1"}), "answers HTTP 302 and points to /there; photos are only", 1),
        (Reply(404), r"HTTP 404 \(Not Found\); is the address right\?", 1),
        (Reply(401), rf"HTTP 401: {TOKEN} is not set", 1),
        (Reply(500), r"HTTP 500 \(Internal Server Error\), 4 times", 4),
        (Reply(429), r"HTTP 429 \(Too Many Requests\), 4 times", 4),
        (Reply(delay=2), r"no answer within 0\.3 s, 4 times", 4),
        (Reply(body=b"<p>Hi"), r"3 requests in a row gave no label; the last: answer is not JSON \(<p>Hi\)", 3),
    ],
    ids=["redirect", "404", "401", "500", "429", "time-out", "page"],
)
def test_an_endpoint_of_no_use_stops_with_one_line_and_what_came_is_kept(tmp_path, reply, message, requests):
    ids = cohort(tmp_path, 60)
    with endpoint(lambda number, _: reply if number >= 2 else None) as server:
        with pytest.raises(BadInput, match=message) as error:
            read(tmp_path, server.url, replace(ONE_BY_ONE, timeout_s=0.3))
        assert len(server.requests) - 2 - requests in (0, message.startswith("3 requests"))  # one may be under way
    line = str(error.value)
    assert line.endswith("labels of 16 of 60 photos are kept; the same command goes on from there")
    assert line.startswith(f"{server.url}: ") and "\n" not in line
    assert kept(tmp_path) == set(list(ids.values())[:16])


def test_nobody_there(tmp_path):
    cohort(tmp_path, 30)
    with endpoint() as server:
        pass  # the port is free again
    began = time.monotonic()
    with pytest.raises(BadInput, match=r"cannot be reached \(.*refused.*\), 4 times; labels of 0 of 30 photos are kept"):
        read(tmp_path, server.url)
    assert time.monotonic() - began < 10


def test_a_batch_that_the_endpoint_cannot_stand_does_not_end_the_run(tmp_path):
    """Others are answered meanwhile, so it is alive."""
    ids = cohort(tmp_path, 100, shard=100)
    bad = ids["3.jpg"]
    with endpoint(lambda _, asked: Reply(500) if bad in asked else Reply(delay=0.05)) as server:
        drafts, aside = read(tmp_path, server.url, replace(BRISK, at_once=2, back_off_s=0.1))
    assert len(drafts.photo_ids) == 92
    reason = "labeller: no answer after all retries, though others are answered ('HTTP 500 (Internal Server Error)')"
    assert aside == [f"photos/{i}.jpg, photo: {reason}" for i in range(8)]


def test_the_token_goes_to_the_endpoint_and_nowhere_else(tmp_path, monkeypatch, caplog, capsys):
    caplog.set_level("DEBUG")
    cohort(tmp_path, 20)
    token = "sk-3f1c9a-Secret/With+Signs="
    with endpoint() as server:
        read(tmp_path, server.url)
        assert "Authorization" not in server.requests[0].headers
    monkeypatch.setenv(TOKEN, f" {token}\n")  # as files of secrets end
    said = f"you sent {token}".encode()
    wrong = json.dumps({"labels": [{"photo_id": f"you sent {token}"}]}).encode()
    replies = [Reply(body=wrong), Reply(body=said), None]
    with endpoint(lambda number, _: replies[number]) as server:
        drafts, aside = read(tmp_path, f"{server.url}", ONE_BY_ONE)
        assert {request.headers["Authorization"] for request in server.requests} == {f"Bearer {token}"}
    assert any("you sent [token]" in line for line in aside)
    texts = ["\n".join(aside), caplog.text, *capsys.readouterr()]
    for reply, message in [
        (Reply(302, b"", {"Location": f"http://{token}/"}), r"points to http://\[token\]/"),
        (Reply(403, said), f"HTTP 403: the token in {TOKEN} is not accepted"),
        (Reply(400, said), r"refused \(HTTP 400\) \(you sent \[token\]\)"),
    ]:
        with endpoint(lambda *_: reply) as server, pytest.raises(BadInput, match=message) as error:  # noqa: B023
            read(tmp_path, f"{server.url}/other", ONE_BY_ONE)
        texts += [str(error.value), *capsys.readouterr()]
        if reply.status != 302:  # at the level DEBUG httpcore shows the headers that come back
            texts.append(caplog.text)
        caplog.clear()
    assert not [text for text in texts if token in text]
    assert token.encode() not in every_file(tmp_path)


def test_a_token_that_no_header_can_carry_is_told_without_it(tmp_path, monkeypatch):
    cohort(tmp_path, 1)
    monkeypatch.setenv(TOKEN, "sec\nret")
    with pytest.raises(BadInput, match=f"{TOKEN} holds characters that no token has") as error:
        read(tmp_path, "http://127.0.0.1:9/")
    assert "sec" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["http://", "https:///x", "http://[::1", "http://127.0.0.1:99999/", "http://jane:pw@127.0.0.1/"]
)
def test_addresses_that_are_none(tmp_path, url):
    cohort(tmp_path, 1)
    with pytest.raises(BadInput, match="https://HOST/PATH") as error:
        read(tmp_path, url)
    assert "pw" not in str(error.value)


def test_keys_in_the_query_are_not_shown(tmp_path):
    cohort(tmp_path, 2)
    with endpoint(lambda *_: Reply(404)) as server, pytest.raises(BadInput) as error:
        read(tmp_path, f"{server.url}?key=secret")
    assert "secret" not in str(error.value) and server.url in str(error.value)
    assert b"secret" not in every_file(tmp_path)


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
        run = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
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
    server = subprocess.Popen([sys.executable, "-u", "server.py", "0"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().split()[-1]  # type: ignore[union-attr]
        drafts, aside = read(tmp_path, url)
    finally:
        server.terminate()
        server.wait(10)
    assert drafts.photo_ids == list(ids.values()) and aside == []
    assert np.isfinite(drafts.scores).all() and np.isfinite(drafts.spread).all()
    assert len(np.unique(drafts.scores[:, 0])) > 5  # it looks at the photos
