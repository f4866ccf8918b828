"""Bodies that drip: under Granian's WSGI a thread waits for a body for as long as the sender likes.

Granian bounds the time for a request's head and has no bound for its body, and a thread that waits in
`wsgi.input.read` cannot be woken. But the request can be answered by another thread. Then the server closes the
connection, the body ends, and the thread is free. So one thread watches how long bodies have been read.

Nobody is hurt by it: Wix gives up at 1.25 s and sends again.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import structlog
from werkzeug.exceptions import BadRequest, RequestTimeout

from processor.metrics import DELIVERIES
from processor.web.bridge import RESPONSE, Response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = structlog.get_logger(__name__)

BODY_SECONDS = 2.0  # Wix gives up at 1.25 s: what comes later, nobody waits for
# Bodies mostly come together with their head: of 10,000 over loopback under full load, 9,999 were read within 25 ms.
# When threads run out, those that did not are given up early, so that an honest request waits well below Wix's 1.25 s.
HURRIED_SECONDS = 0.1
SPARE_THREADS = 2  # while more than these are free, nobody is hurried
TICK_SECONDS = 0.025
HELD_UP_SECONDS = 4 * TICK_SECONDS


def to_give_up(waited: Sequence[float], threads: int) -> int:
    """How many of the bodies being read, the slowest first, are no longer waited for.

    waited: seconds each has been read for, the longest first. threads: how many could be read at once.
    """
    overdue = sum(1 for seconds in waited if seconds >= BODY_SECONDS)
    if len(waited) <= threads - SPARE_THREADS:
        return overdue
    hurried = sum(1 for seconds in waited if seconds >= HURRIED_SECONDS)
    return max(overdue, min(hurried, len(waited) - threads // 2))


class Patience:
    """Around an application: a body is waited for so long and no longer. Does nothing under other servers.

    Answers 408 for a body that comes too slowly, 400 for one whose sender went away before its end.
    """

    def __init__(self, app: WSGIApplication, threads: int) -> None:
        self._app = app
        self._threads = threads
        self._reading: dict[int, _Body] = {}
        self._is_reading = threading.Event()
        self._start = threading.Lock()
        self._watcher: threading.Thread | None = None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """As of PEP 3333."""
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self._app(environ, start_response)
        response = environ.get(RESPONSE)
        if response is None:  # another server
            return self._app(environ, start_response)
        environ["wsgi.input"] = body = self.body(response, environ)
        try:
            answer = self._app(environ, start_response)
            if not body.is_given_up:
                return answer
            # It was answered by the watcher: nobody reads this answer, and the server does not close it.
            if close := getattr(answer, "close", None):
                close()
            return [b""]
        except (RequestTimeout, CutOff) as why:  # Flask makes the same answer of it by itself
            start_response(
                f"{why.code} {why.name}",
                [("Content-Length", "0"), ("Connection", "close"), ("X-Request-Id", str(uuid4()))],
            )
            return [b""]

    def body(self, response: Response, environ: WSGIEnvironment) -> _Body:
        """The body of a request that Granian serves, to be read by its thread."""
        return _Body(environ, response, self)

    def begin(self, body: _Body) -> None:
        """A thread is about to wait for `body`."""
        self._reading[id(body)] = body
        if not self._is_reading.is_set():
            if self._watcher is None:
                self._begin_to_watch()
            self._is_reading.set()

    def end(self, body: _Body) -> bool:
        """It no longer does. False: the body was given up, and its request answered."""
        return self._reading.pop(id(body), None) is not None

    def _begin_to_watch(self) -> None:
        with self._start:
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="patience", daemon=True)
                self._watcher.start()

    def _watch(self) -> None:
        while self._is_reading.wait():
            before = time.monotonic()
            time.sleep(TICK_SECONDS)  # between two looks: time alone makes a body late
            now = time.monotonic()
            slowest = sorted(self._reading.copy().values(), key=lambda body: body.began)
            # When it was the machine that held us up, whoever reads was held up as well, and not by the sender.
            threads = self._threads if now - before < HELD_UP_SECONDS else sys.maxsize
            for body in slowest[: to_give_up([now - body.began for body in slowest], threads)]:
                if self.end(body):
                    body.give_up()
            if not self._reading:
                self._is_reading.clear()
                if self._reading:  # it came meanwhile, and saw that we were awake
                    self._is_reading.set()


class CutOff(BadRequest):
    """The sender went away in the middle of its body."""


class _Body:
    """Granian's `wsgi.input`. began: `time.monotonic()`."""

    def __init__(self, environ: WSGIEnvironment, response: Response, patience: Patience) -> None:
        self.began = time.monotonic()
        self.is_given_up = False
        self._inner = environ["wsgi.input"]
        self._response = response
        self._patience = patience
        self._left = int(environ.get("CONTENT_LENGTH") or 0)

    def read(self, size: int | None = None) -> bytes:
        """As many bytes as asked for; fewer only at the end. Raises RequestTimeout, CutOff."""
        wanted = None if size is None or size < 0 else size
        self._patience.begin(self)
        try:
            found: bytes = self._inner.read(wanted)
        finally:
            is_ours = self._patience.end(self)
        if not is_ours:
            self.is_given_up = True
            raise RequestTimeout
        self._left -= len(found)
        if self._left > 0 and (wanted is None or len(found) < wanted):
            DELIVERIES.labels("cut_off", "").inc()
            log.warning("delivery_cut_off", missing_bytes=self._left)
            raise CutOff
        return found

    def give_up(self) -> None:
        """Answer the request in place of the thread that waits."""
        DELIVERIES.labels("too_slow", "").inc()
        log.warning("delivery_too_slow", seconds=round(time.monotonic() - self.began, 3))
        headers = [("Content-Length", str(len(_Abort.TEXT) + 1)), ("Connection", "close")]
        self._response.response_iter(408, headers, _Abort())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Abort:
    """An answer shorter than it says. Granian would read on after one that is whole; this makes it close at once."""

    TEXT = b"slow"

    def __init__(self) -> None:
        self._bytes = iter(self.TEXT)

    def __next__(self) -> bytes:
        return bytes((next(self._bytes),))

    def close(self) -> None:
        """As of PEP 3333."""
