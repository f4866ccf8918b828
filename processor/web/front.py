"""The webhook in front of Flask, under Granian: no thread waits for a commit.

Whoever serves a request with a thread of its own has to wake that thread when the commit is done, and under load all
of them contend for the interpreter. That was the largest cost of an event. Here a request's thread reads the body and
leaves; one thread at a time verifies what has gathered, and one commits it and gives every answer (`make bench`).

Everything else goes on to Flask, as does the webhook under another server; both ways share `webhooks.Intake`, and the
tests of the endpoint run over both. Flask works on threads of its own: of Granian's there are few, and no page may keep
a webhook waiting. Only bodies must be read on them, since Granian keeps none for later.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING, Any

import structlog
from werkzeug.exceptions import RequestTimeout

from processor.web import webhooks
from processor.web.bridge import Ordinary, Response
from processor.web.doors import FULL, RETRY_SECONDS
from processor.web.patience import CutOff, Patience

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = structlog.get_logger(__name__)

GATHERED_MAX = 2_048  # bodies read and not yet verified: above, they could not be answered in time
READ_AT_ONCE = 64  # deliveries verified before somebody is called to commit them


class Front:
    """The application as it is served.

    seconds: longest wait for an answer. intake_threads: how many the server has. web_threads: for all but webhooks.
    """

    def __init__(
        self,
        app: WSGIApplication,
        intake: webhooks.Intake,
        *,
        body_bytes_max: int,
        seconds: float,
        intake_threads: int,
        web_threads: int,
    ) -> None:
        self._patience = Patience(app, intake_threads)
        self._intake = intake
        self._body_bytes_max = body_bytes_max
        self._seconds = seconds
        self._gathered: deque[_Taken] = deque()
        self._is_verifying = threading.Lock()
        self._others = ThreadPoolExecutor(web_threads, "request")
        # Forms being read hold a thread that webhooks may want, and those read hold memory until they are answered.
        self._may_read = threading.BoundedSemaphore(intake_threads // 2)
        self._may_keep = threading.BoundedSemaphore(web_threads)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """As of PEP 3333."""
        return self._patience(environ, start_response)

    def close(self) -> None:
        """End what works in the background; what has begun is finished."""
        self._intake.close()
        self._others.shutdown(wait=False)

    def take(self, response: Response, environ: dict[str, Any], ordinary: Ordinary) -> None:
        """Answer `response` sooner or later, whichever thread it is; all but webhooks as `ordinary` does."""
        if environ["PATH_INFO"] == webhooks.PATH and environ["REQUEST_METHOD"] == "POST":
            self._take(_Taken(self._intake, response, self._seconds), response, environ)
        elif environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            self._others.submit(_answer, response, environ, ordinary)
        else:
            self._take_form(response, environ, ordinary)

    def _take(self, taken: _Taken, response: Response, environ: dict[str, Any]) -> None:
        try:
            taken.body = self._read(response, environ)
        except _Answered:
            return
        if len(self._gathered) >= GATHERED_MAX:
            taken.answer(webhooks.Answer(503, "unavailable"))
            return
        self._gathered.append(taken)
        self._work_off()

    def _take_form(self, response: Response, environ: dict[str, Any], ordinary: Ordinary) -> None:
        """What may have a body, and is no webhook."""
        if not self._may_keep.acquire(blocking=False):
            _refuse_page(response)
            return
        is_kept = False
        try:
            body = self._read_form(response, environ)
            if body is not None:
                environ["wsgi.input"] = BytesIO(body)
                answering = self._others.submit(_answer, response, environ, ordinary)
                is_kept = True
                answering.add_done_callback(lambda _: self._may_keep.release())
        finally:
            if not is_kept:
                self._may_keep.release()

    def _read_form(self, response: Response, environ: dict[str, Any]) -> bytes | None:
        """The body; None when the request is answered instead."""
        if not self._may_read.acquire(blocking=False):
            _refuse_page(response)
            return None
        try:
            body = self._read(response, environ)
        except _Answered:
            return None
        finally:
            self._may_read.release()
        if body is None:
            _say(response, 413, f"Too large: a request may have {self._body_bytes_max} bytes.")
        return body

    def _work_off(self) -> None:
        """Verify and commit what has gathered, unless others are at it.

        Whoever verifies must not be held up by the database, so it leads a commit only when nothing is left to verify.
        """
        while self._gathered and self._is_verifying.acquire(blocking=False):
            try:
                for _ in range(READ_AT_ONCE):
                    try:
                        taken = self._gathered.popleft()
                    except IndexError:
                        break
                    self._intake.take(taken)
            finally:
                self._is_verifying.release()
            if self._gathered:
                self._intake.call_leader()
            else:
                self._intake.lead()

    def _read(self, response: Response, environ: dict[str, Any]) -> bytes | None:
        """The body, None when it is above the bound. Raises _Answered when the sender did not bring it to an end."""
        most = self._body_bytes_max + 1
        if length := environ.get("CONTENT_LENGTH"):
            # What is no number is refused by the server.
            if int(length) > self._body_bytes_max:
                return None
            most = int(length)
        read = self._patience.body(response, environ).read
        try:
            body = read(most)
            while len(body) < most and (more := read(most - len(body))):
                body += more
        except RequestTimeout:
            raise _Answered from None
        except CutOff:
            response.response_bytes(400, [("Content-Length", "0"), ("Connection", "close")], b"")
            raise _Answered from None
        return body if len(body) <= self._body_bytes_max else None


class _Answered(Exception):
    """There is nothing left to do for this request."""


def _answer(response: Response, environ: dict[str, Any], ordinary: Ordinary) -> None:
    """As Granian does on a thread of its own."""
    try:
        ordinary(response, environ)
    except BaseException as why:  # noqa: BLE001  # nobody else would say so
        # Without its message, which may tell of a person.
        frames = [
            f"{one.filename}:{one.lineno} {one.name}" for one in traceback.extract_tb(why.__traceback__)
        ]
        log.error("request_failed", error=type(why).__name__, frames=frames)
        response.response_bytes(500, [("Content-Length", "0")], b"")


def _refuse_page(response: Response) -> None:
    log.warning("pages_full")
    _say(response, 503, FULL, ("Retry-After", RETRY_SECONDS))


def _say(response: Response, status: int, sentence: str, *more: tuple[str, str]) -> None:
    """Answer in plain text, and end the connection: there may be a body that nobody reads."""
    body = f"{sentence}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), *more]
    response.response_bytes(status, [*headers, ("Connection", "close")], body)


def request_id() -> str:
    """A fresh one, in the form of a UUID: not secret, so without asking the system for each."""
    digits = f"{random.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


class _Taken(webhooks.Taken):
    __slots__ = ("_began", "_intake", "_response", "body", "deadline", "request_id")

    def __init__(self, intake: webhooks.Intake, response: Response, seconds: float) -> None:
        self._intake = intake
        self._response = response
        self._began = time.perf_counter()
        self.deadline = time.monotonic() + seconds
        self.request_id = request_id()
        self.body = None

    def answer(self, given: webhooks.Answer) -> None:
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", "0"),
            ("X-Request-Id", self.request_id),
        ]
        self._response.response_bytes(given.status, headers, b"")
        self._intake.note(given, self._began)
