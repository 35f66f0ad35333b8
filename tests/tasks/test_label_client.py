"""Asking an endpoint: with patience where it may help, one clear line where it does not; the token stays secret."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest
from label_cases import BRISK, ONE_BY_ONE, Reply, cohort, endpoint, every_file, kept, read

from tasks.intake.quarantine import BadInput
from tasks.label_client import TOKEN


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)


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


def test_a_retry_after_of_nothing_is_not_taken_at_its_word(tmp_path):
    cohort(tmp_path, 2)
    with endpoint(lambda number, _: Reply(429, b"", {"Retry-After": "0"}) if number == 0 else None) as server:
        read(tmp_path, server.url, replace(BRISK, back_off_s=0.6))
    assert server.requests[1].at - server.requests[0].at >= 0.28


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


@pytest.mark.parametrize("status", [200, 400])
def test_a_token_is_found_however_json_spells_it(tmp_path, monkeypatch, status):
    cohort(tmp_path, 1)
    monkeypatch.setenv(TOKEN, "sk/a+Z.9")
    for spelt in (r"sk\/a+Z.9", r"sk\u002fa\u002BZ.9", "".join(f"\\u{ord(c):04x}" for c in "sk/a+Z.9")):
        body = f'{{"labels": [{{"photo_id": "you sent {spelt}"}}]}}'
        assert json.loads(body)["labels"][0]["photo_id"] == "you sent sk/a+Z.9"
        with (
            endpoint(lambda *_: Reply(status, body.encode())) as server,  # noqa: B023
            pytest.raises(BadInput, match="no draft of any"),
        ):
            read(tmp_path, server.url)
    found = every_file(tmp_path)
    assert b"is missing in the answer" in found if status == 200 else b"you sent [token]" in found
    assert not [part for part in (b"Z.9", b"002f", b"u0073") if part in found]


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
