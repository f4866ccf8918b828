"""What Granian's WSGI does not hand to an application: its response object, by which any thread may answer.

A WSGI application answers by returning, so a thread waits as long as its request does. Granian itself needs no thread
for that: it awaits the response object, whichever thread uses it. `install` puts that object into the environ, and
hands each request to the application's own `take`, which may keep the response and return.

Granian calls the function replaced here by its name in each worker process after it loaded the application. With
another server, or another Granian that has no such function, nothing is replaced and applications are called as ever.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

import structlog

log = structlog.get_logger(__name__)

RESPONSE = "processor.response"  # key in the environ, there only under Granian

_SERVER = "granian.server.mp"
_WRAP = "_wsgi_call_wrap"


class Response(Protocol):
    """Granian's response object. The first call is the answer; any further one does nothing."""

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Answer whole."""

    def response_iter(self, status: int, headers: list[tuple[str, str]], body: Any) -> None:
        """Answer in parts: `body` has `__next__` and `close`."""


Ordinary = Callable[[Response, dict[str, Any]], Any]
"""How Granian itself calls the application, and answers with what it returns. Raises what the application raises."""


def install() -> bool:
    """Replace the function in this process. Returns whether Granian serves here and it could be replaced."""
    server = sys.modules.get(_SERVER)
    if server is None:
        return False
    ordinary = getattr(server, _WRAP, None)
    if ordinary is None:
        log.warning("server_unknown", lacks=f"{_SERVER}.{_WRAP}")
        return False
    setattr(server, _WRAP, _wrap_by(ordinary))
    return True


def _wrap_by(ordinary: Callable[..., Callable[..., Any]]) -> Callable[..., Callable[..., Any]]:
    def wrap(app: Any, scope_options: dict[str, Any], access_log: Any = None) -> Callable[..., Any]:
        call = ordinary(app, scope_options, access_log)
        take: Callable[[Response, dict[str, Any], Ordinary], None] | None = getattr(app, "take", None)
        if access_log:  # a line is written when the call returns
            take = None

        def run(response: Response, environ: dict[str, Any]) -> Any:
            environ[RESPONSE] = response
            if take is None:
                return call(response, environ)
            take(response, environ, call)
            return None

        return run

    return wrap
