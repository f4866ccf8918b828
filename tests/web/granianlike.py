"""Granian's part in a request whose thread does not wait, for tests in the process itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from processor.web.bridge import Response
from processor.web.front import Front

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SECONDS = 20.0


class Kept:
    """A response object: the first answer counts, whichever thread gives it."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.answers = 0
        self._is_answered = threading.Event()

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.answers += 1
        if self.status is None:
            self.status, self.headers, self.body = status, headers, body
        self._is_answered.set()

    def response_iter(self, status: int, headers: list[tuple[str, str]], body: Any) -> None:
        body.close()
        self.response_bytes(status, headers, b"")

    def wait(self) -> int:
        """The status, once there is one."""
        assert self._is_answered.wait(SECONDS), "never answered"
        assert self.status is not None
        return self.status


class Unattended:
    """A WSGI application that serves `front` as Granian does, and waits in its place."""

    def __init__(self, front: Front) -> None:
        self._front = front

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        kept = Kept()
        self._front.take(kept, environ, self._ordinary)
        start_response(f"{kept.wait()} whatever", kept.headers)
        return [kept.body]

    def _ordinary(self, response: Response, environ: WSGIEnvironment) -> None:
        begun: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], *_: object) -> Callable[[bytes], object]:
            begun.append((status, headers))
            return lambda body: None

        body = b"".join(self._front(environ, start))
        status, headers = begun[-1]
        response.response_bytes(int(status.split()[0]), headers, body)
