"""JSON questions to an endpoint that may be slow, busy, wrong or down.

Notable: requests start one interval apart whichever thread asks, and all wait while the endpoint asks to be left
alone (Retry-After); what may pass is tried again with exponential back-off and jitter; redirects are not followed,
so photos and token go nowhere but to the address that was given; the token is in no message, whatever comes back.

Test: `uv run pytest tests/tasks/test_label_client.py`
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from tasks.intake.quarantine import BadInput

if TYPE_CHECKING:
    import httpx

TOKEN = "PHYSIQUE_LABELLER_TOKEN"
"""Environment variable that holds the bearer token; without it none is sent."""
LARGEST_ANSWER = 4 * 2**20  # bytes; eight photos' labels are about 2 kB
LONGEST_REST_S = 600
"""A Retry-After over this ends the run."""
LONGEST_BACK_OFF_S = 60
_IN_VAIN = (401, 402, 403, 404, 405, 407, 410)  # no question gets another answer
_MAY_PASS = (408, 425, 429)  # and 5xx


@dataclass(frozen=True)
class Asking:
    """How an endpoint is asked."""

    batch: int = 8
    """Photos per request."""
    side: int = 1024
    """px of a photo's longer side at most."""
    at_once: int = 4
    """Requests under way."""
    per_minute: float = 60
    """Requests started, tries included."""
    timeout_s: float = 120
    """For one whole answer."""
    retries: int = 5
    back_off_s: float = 1
    """Before the first retry; doubles with each."""


class Unusable(Exception):
    """Nothing of an answer can be used: (reason, a fixed phrase; what was found there)."""


class Refused(Unusable):
    """The endpoint does not take this very question; a part of it may pass."""


class Halt(Exception):
    """The endpoint is not to be asked any more; one line that says why."""


class _MayPass(Exception):
    """(what went wrong, seconds that the endpoint wants to be left alone or None, whether it is overloaded)."""


def address(url: str) -> str:
    """An address as messages name it: without the query, where people put keys."""
    return url.split("?")[0].split("#")[0]


class Endpoint:
    """An HTTP endpoint that takes JSON; threads may share it."""

    def __init__(self, url: str, asking: Asking):
        """Raises BadInput, one line, if address or token cannot be used."""
        import httpx

        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError) as error:
            raise BadInput(f"labeller {address(url)!r} is no address ({error}); right is https://HOST/PATH") from None
        if parsed.userinfo or not parsed.host or (parsed.port or 0) > 65535:
            raise BadInput(f"labeller must be https://HOST/PATH, without user or password (a token goes into {TOKEN})")
        self.token = os.environ.get(TOKEN, "").strip()
        if not (self.token.isascii() and self.token.isprintable()):
            raise BadInput(f"{TOKEN} holds characters that no token has; is it whole, on one line?")
        self.spelt = re.compile("".join(map(_spelt, self.token)).encode())
        self.url, self.asking, self.pace = url, asking, Pace(60 / asking.per_minute)
        self.answered = -1.0
        """When the last answer came."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        limits = httpx.Limits(max_connections=asking.at_once)
        timeout = httpx.Timeout(asking.timeout_s, connect=min(10, asking.timeout_s))
        self.client = httpx.Client(headers=headers, timeout=timeout, limits=limits, follow_redirects=False)

    def close(self) -> None:
        self.client.close()

    def ask(self, question: Any) -> Any:
        """The JSON that the endpoint answers with.

        Raises:
            Refused, Unusable: nothing came of this question; others may fare better.
            Halt: the endpoint is gone, moved or closed to us; from then on for every thread.
        """
        try:
            return self._patiently(question)
        except Halt as halt:
            self.pace.end(str(halt))
            raise

    def _patiently(self, question: Any) -> Any:
        began = time.monotonic()
        for tries in range(1, self.asking.retries + 2):
            self.pace.wait()
            try:
                answer = self._once(question)
                self.answered = time.monotonic()
                return answer
            except _MayPass as error:
                why, rest, overloaded = error.args
            except Unusable:
                self.answered = time.monotonic()
                raise
            if rest is not None and rest > LONGEST_REST_S:
                raise Halt(f"{why}; it asks to be left alone for {rest:,.0f} s")
            longest = min(LONGEST_BACK_OFF_S, self.asking.back_off_s * 2 ** (tries - 1))
            pause = max(random.uniform(longest / 2, longest), rest or 0)
            if tries > self.asking.retries:
                break
            if overloaded:
                self.pace.hold(pause)
            else:
                self.pace.sleep(pause)
        if self.answered < began:
            raise Halt(f"{why}, {tries} times")
        raise Unusable("no answer after all retries, though others are answered", why)

    def _once(self, question: Any) -> Any:
        import httpx

        limit = self.asking.timeout_s
        try:
            with self.client.stream("POST", self.url, json=question) as response:
                body = self._body(response, time.monotonic() + limit)
        except httpx.TimeoutException:
            raise _MayPass(f"no answer within {limit:g} s", None, False) from None
        except httpx.TransportError as error:
            why = self._clean(str(error)) or type(error).__name__
            raise _MayPass(f"cannot be reached ({why})", None, False) from None
        except httpx.DecodingError:
            raise Unusable("answer is broken (content encoding)", None) from None
        code, found = response.status_code, body[:300].decode("utf-8", "replace")
        if 300 <= code < 400:
            there = address(self._clean(response.headers.get("location", "another address")))
            raise Halt(f"answers HTTP {code} and points to {there}; photos are only sent to the address that is set")
        if code in (401, 403):
            raise Halt(f"HTTP {code}: {f'the token in {TOKEN} is not accepted' if self.token else f'{TOKEN} is not set'}")
        if code in _IN_VAIN:
            raise Halt(f"HTTP {code} ({response.reason_phrase}); is the address right?")
        if code in _MAY_PASS or code >= 500:
            rest = _rest(response.headers.get("retry-after", ""))
            raise _MayPass(f"HTTP {code} ({response.reason_phrase})", rest, code in (429, 503))
        if code >= 400:
            raise Refused(f"refused (HTTP {code})", found)
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise Unusable("answer is not JSON", found) from None

    def _body(self, response: httpx.Response, end: float) -> bytes:
        """The whole answer, without our token should it be repeated there."""
        parts, size = [], 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > LARGEST_ANSWER:
                raise Unusable(f"answer is larger than {LARGEST_ANSWER // 2**20} MiB", None)
            if time.monotonic() > end:  # httpx counts from one piece to the next
                raise _MayPass(f"no whole answer within {self.asking.timeout_s:g} s", None, False)
        body = b"".join(parts)
        return self.spelt.sub(b"[token]", body) if self.token else body

    def _clean(self, text: str) -> str:
        return text.replace(self.token, "[token]") if self.token else text


class Pace:
    """Lets requests start at least `interval` seconds apart, whichever thread asks, and none while on hold."""

    def __init__(self, interval: float):
        self.interval, self.next = interval, 0.0
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.why = ""

    def wait(self) -> None:
        """Return when the next request may start. Raises Halt once `end` was called."""
        while True:
            with self.lock:
                now = time.monotonic()
                if now >= self.next:
                    self.next = now + self.interval
                    break
                rest = self.next - now
            self.sleep(rest)
        self.sleep(0)

    def hold(self, seconds: float) -> None:
        with self.lock:
            self.next = max(self.next, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        if self.ended.wait(seconds):
            raise Halt(self.why)

    def end(self, why: str) -> None:
        """Nobody waits any more and nothing starts; the first `why` is what all are told."""
        with self.lock:
            self.why = self.why or why
        self.ended.set()


def _spelt(character: str) -> str:
    """Pattern of all ways in which JSON may write a character of ASCII."""
    itself = ("\\\\?" if character in '/"' else "") + re.escape(character)
    return rf"(?:{itself}|\\u00(?i:{ord(character):02x}))"


def _rest(text: str) -> float | None:
    """Seconds of a Retry-After header (a number, or an HTTP date); None if there is none."""
    if text.strip().isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
