"""Which application answers: the webhook and its health on one side, the pages on the other."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = structlog.get_logger(__name__)

SERVICE = ("/webhooks/", "/healthz", "/readyz", "/metrics")
WAIT_SECONDS = 1.0  # longest that a page waits for others to end
FULL = "Too many pages are asked for at once; try again in a moment."
RETRY_SECONDS = "5"
IN_MEMORY = "processor.in_memory"  # key in the environ: the whole answer is made, nothing is left to be read


class Doors:
    """The pages beside the service, which never lack threads for it.

    pages: None when there are none. at_once: pages made at the same time. Half as many may wait for those, and hold a
    thread as well; any further one is answered 503 at once.
    """

    def __init__(self, service: WSGIApplication, pages: WSGIApplication | None, *, at_once: int) -> None:
        self._service = service
        self._pages = pages
        self._room = threading.BoundedSemaphore(at_once)
        self._waiting = threading.BoundedSemaphore(max(1, at_once // 2))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """As of PEP 3333."""
        if self._pages is None or environ["PATH_INFO"].startswith(SERVICE):
            return self._service(environ, start_response)
        if not self._enter():
            log.warning("pages_full")
            body = f"{FULL}\n".encode()
            start_response(
                "503 Service Unavailable",
                [
                    ("Content-Type", "text/plain"),
                    ("Content-Length", str(len(body))),
                    ("Retry-After", RETRY_SECONDS),
                ],
            )
            return [body]
        try:
            answer = self._pages(environ, start_response)
        except BaseException:
            self._room.release()
            raise
        if environ.get(IN_MEMORY):
            # It takes a thread no longer, and a server that forgets to close it must not keep its room.
            self._room.release()
            return answer
        return _Answer(answer, self._room)

    def _enter(self) -> bool:
        if self._room.acquire(blocking=False):
            return True
        if not self._waiting.acquire(blocking=False):
            return False
        try:
            return self._room.acquire(timeout=WAIT_SECONDS)
        finally:
            self._waiting.release()


class _Answer:
    """An answer that gives its room back once, however it ends: what is streamed is made while it is sent."""

    def __init__(self, answer: Iterable[bytes], room: threading.BoundedSemaphore) -> None:
        self._answer = answer
        self._parts = iter(answer)
        self._room: threading.BoundedSemaphore | None = room

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._parts)
        except BaseException:
            self._leave()
            raise

    def close(self) -> None:
        """As of PEP 3333."""
        try:
            close = getattr(self._answer, "close", None)
            if close is not None:
                close()
        finally:
            self._leave()

    def __del__(self) -> None:  # a server that forgets to close
        self._leave()

    def _leave(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.release()
