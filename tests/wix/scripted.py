"""A real HTTP server on this machine that answers as a test has written down, and remembers what it was asked."""

from __future__ import annotations

import json
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN_PATH = "/oauth2/token"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. headers: names in lower case; body: its JSON, None when it had none."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. body: bytes as they are, anything else as JSON."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes of our making, status line and all, piece by piece; then the connection is closed.

    gap_seconds: between the pieces. A hang is one without pieces that is kept open.
    """

    pieces: Iterable[bytes] = ()
    gap_seconds: float = 0.0
    is_kept_open: bool = False


HANG = Raw(is_kept_open=True)
Script = Reply | Raw | Callable[[Asked], "Reply | Raw"]


def head(length: int, status: int = 200, *more: str) -> bytes:
    """A status line and headers that promise so many bytes."""
    lines = [f"HTTP/1.1 {status} Said", "Content-Type: application/json", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


class Scripted:
    """The server's script and memory. Without a script for a path its `otherwise` answers, for ever."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.asked: list[Asked] = []
        self.strange: list[BaseException] = []
        self.ending = threading.Event()
        self._lock = threading.Lock()
        self._scripts: defaultdict[str, deque[Script]] = defaultdict(deque)
        self._otherwise: dict[str, Script] = {
            TOKEN_PATH: Reply(body={"access_token": "token-1", "expires_in": 14_400, "token_type": "Bearer"})
        }
        self._arrived = threading.Condition(self._lock)

    def plan(self, path: str, *scripts: Script) -> None:
        """The next answers to `path`, each given once."""
        with self._lock:
            self._scripts[path].extend(scripts)

    def otherwise(self, path: str, script: Script) -> None:
        """The answer to `path` when nothing is planned."""
        with self._lock:
            self._otherwise[path] = script

    def of(self, path: str) -> list[Asked]:
        """What was asked of `path`, in order."""
        with self._lock:
            return [one for one in self.asked if one.path == path]

    def wait_for(self, path: str, count: int = 1) -> None:
        """Return when `path` was asked so often."""
        with self._arrived:
            arrived = self._arrived.wait_for(
                lambda: sum(one.path == path for one in self.asked) >= count, timeout=10
            )
        assert arrived, f"{path} was not asked"

    def answer(self, asked: Asked) -> Reply | Raw:
        """Remember the request and choose its answer."""
        with self._arrived:
            self.asked.append(asked)
            self._arrived.notify_all()
            planned = self._scripts[asked.path]
            script = (
                planned.popleft() if planned else self._otherwise.get(asked.path, Reply(500, b"no script"))
            )
        return script(asked) if callable(script) else script


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    scripted: Scripted

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves early is part of the tests; anything else is a fault of this file."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes; the second would wait 40 ms for the acknowledgement of the first.
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        scripted = self.server.scripted
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers, json.loads(content) if content else None)
        try:
            self._send(scripted.answer(asked))
        except OSError:  # the client left
            self.close_connection = True
        except BaseException as why:
            scripted.strange.append(why)
            raise

    def _send(self, reply: Reply | Raw) -> None:
        if isinstance(reply, Reply):
            content = reply.content()
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(content)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            return
        self.close_connection = True
        for piece in reply.pieces:
            self.wfile.write(piece)
            if self.server.scripted.ending.wait(reply.gap_seconds):
                return
        if reply.is_kept_open:
            self.server.scripted.ending.wait(10)


@contextmanager
def scripted_server() -> Iterator[Scripted]:
    """A server until the end of the block."""
    server = _Server(("127.0.0.1", 0), _Handler)
    scripted = server.scripted = Scripted(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield scripted
    finally:
        scripted.ending.set()
        server.shutdown()
        thread.join()
        server.server_close()
        assert not scripted.strange, scripted.strange


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port of this machine at which nobody listens and which nobody else can take."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
