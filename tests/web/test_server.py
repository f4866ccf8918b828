"""The server that `processor serve` starts, over real sockets: what senders may do to it, and how it ends."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from processor.processes import Child, free_port, wait_until
from processor.web import patience
from tests import builders
from tests.conftest import Owner, a_database

SECRET_KEY = "6b1f0c9e8d7a4b3c2d1e0f9a8b7c6d5e-tests"
ROOT = Path(__file__).resolve().parents[2]
PATH = "/webhooks/wix"
BODY_BYTES_MAX = 20_000
WIX_SECONDS = 1.25  # Wix gives up
SENDERS = 16
SECONDS = 30.0  # for what is only to come at all: the machine may be slow


@dataclass
class Server:
    """A running `processor serve`."""

    child: Child
    port: int
    database_url: str

    def connect(self) -> Wire:
        return Wire(socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS))

    def ask(self, sent: bytes) -> Answer | None:
        """The answer to `sent` on a connection of its own."""
        with self.connect() as wire:
            wire.send(sent)
            return wire.answer()

    def stored(self) -> set[UUID]:
        with psycopg.connect(self.database_url) as connection:
            return {row[0] for row in connection.execute("SELECT event_id FROM webhook_events")}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._in = connection.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._in.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, *, has_body: bool = True) -> Answer | None:
        """The next answer; None when the server closed instead. Raises ConnectionError."""
        line = self._in.readline()
        if not line:
            return None
        headers: dict[str, str] = {}
        while (header := self._in.readline()) != b"\r\n":
            if not header:
                raise HalfAnAnswer
            name, _, value = header.decode().partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0)) if has_body else 0
        body = self._in.read(length)
        if len(body) < length:
            raise HalfAnAnswer
        return Answer(int(line.split()[1]), headers, body)


class HalfAnAnswer(ConnectionError):
    """The connection ended in the middle of it."""


def status(answer: Answer | None) -> int | None:
    return None if answer is None else answer.status


def delivery() -> tuple[UUID, bytes]:
    """An event of its own and its body."""
    event_id = uuid4()
    now = int(time.time())
    claims = builders.payment_claims({"id": str(event_id)}, id=str(uuid4()))
    return event_id, builders.sign({**claims, "iat": now, "exp": now + 3_600})


def head(*headers: str, target: str = PATH, method: str = "POST", version: str = "1.1") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", *(["Host: x"] if version == "1.1" else []), *headers]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def post(body: bytes, *headers: str, **line: str) -> bytes:
    return head(f"Content-Length: {len(body)}", *headers, **line) + body


def chunked(*chunks: bytes, extension: str = "", trailer: str = "") -> bytes:
    framed = b"".join(f"{len(chunk):x}{extension}\r\n".encode() + chunk + b"\r\n" for chunk in chunks)
    return framed + f"0\r\n{trailer}\r\n".encode()


@contextlib.contextmanager
def serving(database_url: str, folder: Path, **environ: str) -> Iterator[Server]:
    port = free_port()
    child = Child(
        "serve",
        [sys.executable, "-m", "processor", "serve"],
        environ={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": database_url,
            "WIX_PUBLIC_KEYS": builders.public_pem(),
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "BODY_BYTES_MAX": str(BODY_BYTES_MAX),
            "ANSWER_SECONDS": "1.2",  # the most there is: the machine may be slow
            **environ,
        },
        log_file=folder / "log",
    )
    server = Server(child, port, database_url)

    def is_ready() -> bool:
        try:
            return status(server.ask(head("Connection: close", target="/readyz", method="GET"))) == 200
        except OSError:
            return False

    child.start()
    try:
        wait_until(is_ready, what="the web server", seconds=60, children=[child])
        yield server
    finally:
        child.stop()


@pytest.fixture(scope="module")
def server(_owner: Owner, _template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that leave it running."""
    name = _owner.new_database()
    with (
        a_database(_owner.get().database_url, name, template=_template) as url,
        serving(url, tmp_path_factory.mktemp("server")) as running,
    ):
        yield running


# -- Slow senders ------------------------------------------------------------------------------------


class Drippers:
    """Connections that send `begin` at once, and then a byte each, over and over, until they are answered or closed."""

    def __init__(self, server: Server, number: int, begin: bytes, drop: bytes) -> None:
        self.wires = [server.connect() for _ in range(number)]
        for wire in self.wires:
            wire.send(begin)
        self._drop = drop
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drip)

    def __enter__(self) -> Drippers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for wire in self.wires:
            wire.__exit__()

    def _drip(self) -> None:
        while not self._stop.wait(0.05):
            for wire in self.waiting():
                with contextlib.suppress(OSError):
                    wire.send(self._drop)

    def waiting(self) -> list[Wire]:
        """Those to whom the server has neither answered nor closed."""
        poll = select.poll()
        by_number = {wire.socket.fileno(): wire for wire in self.wires}
        for number in by_number:
            poll.register(number, select.POLLIN)
        ready = {number for number, _ in poll.poll(0)}
        return [wire for number, wire in by_number.items() if number not in ready]


def honest_seconds(server: Server) -> float:
    """How long a webhook takes, on a connection of its own."""
    event_id, body = delivery()
    began = time.monotonic()
    assert status(server.ask(post(body))) == 200
    took = time.monotonic() - began
    assert event_id in server.stored()
    return took


def usual(seconds: list[float]) -> float:
    """What nine in ten took at most: a starved machine delays one now and then."""
    return sorted(seconds)[len(seconds) * 9 // 10 - 1]


def status_or_end(wire: Wire) -> int | None:
    """What a connection was ended with; None: nothing, or nothing that arrived."""
    try:
        return status(wire.answer())
    except ConnectionError:
        return None


def test_bodies_that_drip_hold_no_thread_for_long_and_keep_no_honest_webhook_waiting(server: Server) -> None:
    took: list[float] = []

    with Drippers(server, 200, head("Content-Length: 3000") + b"e", b"y") as drippers:
        began = time.monotonic()
        while drippers.waiting():
            took.append(honest_seconds(server))
            assert time.monotonic() - began < SECONDS
        answers = [status_or_end(wire) for wire in drippers.wires]

    assert usual(took) < WIX_SECONDS
    assert set(answers) <= {408, None}


def test_forms_that_drip_keep_neither_webhooks_nor_later_pages_waiting(
    database_url: str, tmp_path: Path
) -> None:
    """By the rooms that pages share: each is given back, though nobody reads the answer of a form given up."""
    took: list[float] = []
    form = head("Content-Length: 3000", "Content-Type: application/x-www-form-urlencoded", target="/sign-in")
    # One process, so that every form drips into the same rooms.
    environ = {"SECRET_KEY": SECRET_KEY, "SECURE_COOKIES": "0", "WEB_CONCURRENCY": "1"}

    with serving(database_url, tmp_path, **environ) as server:
        with Drippers(server, 64, form + b"e", b"y") as drippers:
            began = time.monotonic()
            while drippers.waiting():
                took.append(honest_seconds(server))
                assert time.monotonic() - began < SECONDS
            answers = [status_or_end(wire) for wire in drippers.wires]
        page = server.ask(head("Connection: close", target="/sign-in", method="GET"))

    assert usual(took) < WIX_SECONDS
    assert set(answers) <= {408, 503, None}
    assert status(page) == 200


def test_a_body_that_stops_is_given_up_after_a_while_though_nothing_else_happens(server: Server) -> None:
    began = time.monotonic()

    with server.connect() as wire:
        wire.send(head("Transfer-Encoding: chunked") + b"5\r\nabc")
        answer = status_or_end(wire)

    assert answer in (408, None)
    assert time.monotonic() - began >= patience.BODY_SECONDS


def test_a_body_whose_sender_goes_away_is_no_forged_one(server: Server) -> None:
    def rejected() -> int:
        return server.child.log_file.read_text().count("delivery_rejected")

    before = rejected()
    with server.connect() as wire:
        wire.send(head("Content-Length: 3000") + b"ey")
        wire.socket.shutdown(socket.SHUT_WR)
        answer = wire.answer()

    assert status(answer) in (400, None)
    wait_until(
        lambda: "delivery_cut_off" in server.child.log_file.read_text(), what="its line", seconds=SECONDS
    )
    assert rejected() == before


def test_heads_that_drip_are_cut_off_and_keep_no_honest_webhook_waiting(
    database_url: str, tmp_path: Path
) -> None:
    with (
        serving(database_url, tmp_path, WEB_IDLE_SECONDS="1") as server,
        Drippers(server, 200, b"POST /webhooks/wix HTTP/1.1\r\nX-Long: a", b"a") as drippers,
    ):
        took = [honest_seconds(server)]
        began = time.monotonic()
        while drippers.waiting():
            took.append(honest_seconds(server))
            assert time.monotonic() - began < SECONDS
        answers = [status_or_end(wire) for wire in drippers.wires]

    assert usual(took) < WIX_SECONDS
    assert answers == [None] * 200


def test_every_one_of_many_connections_held_open_is_answered_again_and_again(server: Server) -> None:
    """More than all threads; as many of them may be idle as there are."""
    with contextlib.ExitStack() as held:
        wires = [held.enter_context(server.connect()) for _ in range(256)]
        sent: set[UUID] = set()
        for _ in range(2):
            for wire in wires:
                event_id, body = delivery()
                sent.add(event_id)
                wire.send(post(body))
            assert {status(wire.answer()) for wire in wires} == {200}

    assert sent <= server.stored()


# -- Bodies that are too large, and lengths that lie ---------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        head(f"Content-Length: {BODY_BYTES_MAX + 1}"),
        head("Content-Length: 9999999999") + b"x" * 1_000,
        head("Transfer-Encoding: chunked") + chunked(b"x" * 15_000, b"x" * 15_000),
        head("Transfer-Encoding: chunked") + b"ffffffff\r\n" + b"x" * (BODY_BYTES_MAX + 1),
        head(f"Content-Length: {BODY_BYTES_MAX + 1}", "Expect: 100-continue"),
    ],
    ids=["told", "told as endless", "chunked", "one endless chunk", "expecting 100"],
)
def test_a_body_above_the_bound_is_refused_before_its_end(server: Server, sent: bytes) -> None:
    with server.connect() as wire:
        wire.send(sent)
        answer = wire.answer()

    assert status(answer) == 413


def test_bodies_without_an_end_take_no_memory(server: Server) -> None:
    if not Path("/proc").exists():
        pytest.skip("there is no /proc to look at")
    chunk = chunked(b"x" * 60_000).removesuffix(b"0\r\n\r\n")

    def pour(_: int) -> int:
        poured = 0
        with server.connect() as wire, contextlib.suppress(OSError):
            wire.send(head("Transfer-Encoding: chunked"))
            while poured < 50_000_000:
                wire.send(chunk)
                poured += len(chunk)
        return poured

    before = memory_mb(server.child.pid)
    with ThreadPoolExecutor(32) as pool:
        poured = list(pool.map(pour, range(64)))

    assert max(poured) < 50_000_000
    assert memory_mb(server.child.pid) - before < 64


def memory_mb(group: int) -> float:
    """What the processes of a group hold."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getpgid(int(folder.name)) == group:
                total += int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total / 1e6


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: many"],
        ["Content-Length: -1"],
        ["Content-Length: +10"],
        ["Content-Length: 10, 20"],
        ["Content-Length: 10", "Content-Length: 20"],
        ["Content-Length: 99999999999999999999999"],
        ["Content-Length : 10"],
        ["Transfer-Encoding: gzip"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked, gzip"],
    ],
    ids="; ".join,
)
def test_a_length_that_can_be_read_in_two_ways_is_refused(server: Server, headers: list[str]) -> None:
    before = server.stored()
    _, body = delivery()

    with server.connect() as wire:
        wire.send(head(*headers) + body + post(body))

        assert status(wire.answer()) == 400
        assert wire.answer() is None

    assert server.stored() == before


def test_a_length_beside_chunks_does_not_count_and_ends_the_connection(server: Server) -> None:
    """RFC 9112, 6.3: the chunks decide, and nothing behind them is taken for a request."""
    first_id, first = delivery()
    smuggled_id, smuggled = delivery()

    with server.connect() as wire:
        wire.send(head("Content-Length: 4", "Transfer-Encoding: chunked") + chunked(first) + post(smuggled))
        answer = wire.answer()

        assert answer is not None
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert wire.answer() is None

    assert first_id in server.stored()
    assert smuggled_id not in server.stored()


def test_no_length_means_no_body(server: Server) -> None:
    assert status(server.ask(head())) == 401


# -- HTTP as it may be spoken ------------------------------------------------------------------------


def test_who_expects_to_be_asked_for_the_body_is_asked(server: Server) -> None:
    event_id, body = delivery()

    with server.connect() as wire:
        wire.send(head(f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert status(wire.answer(has_body=False)) == 100
        wire.send(body)
        assert status(wire.answer()) == 200

    assert event_id in server.stored()


def test_another_expectation_is_overlooked(server: Server) -> None:
    event_id, body = delivery()

    assert status(server.ask(post(body, "Expect: 200-ok"))) == 200
    assert event_id in server.stored()


def test_chunks_may_be_many_and_have_extensions_and_trailers(server: Server) -> None:
    event_id, body = delivery()
    chunks = [body[at : at + 100] for at in range(0, len(body), 100)]

    with server.connect() as wire:
        wire.send(
            head("Transfer-Encoding: chunked")
            + chunked(*chunks, extension=";name=value", trailer="X-Checksum: 1\r\n")
        )
        assert status(wire.answer()) == 200
        # Nothing of it is left over.
        wire.send(head(target="/healthz", method="GET"))
        assert status(wire.answer()) == 200

    assert event_id in server.stored()


def test_requests_sent_without_waiting_are_answered_in_order(server: Server) -> None:
    deliveries = [delivery() for _ in range(5)]
    forged = post(b"no.token.this")

    with server.connect() as wire:
        wire.send(
            b"".join(post(body) for _, body in deliveries) + head(target="/healthz", method="GET") + forged
        )
        answers = [status(wire.answer()) for _ in range(7)]

    assert answers == [200] * 6 + [401]
    assert {event_id for event_id, _ in deliveries} <= server.stored()


@pytest.mark.parametrize(
    "frame",
    [
        lambda body: post(body, version="1.0"),
        lambda body: post(body, target=f"http://x{PATH}"),
        lambda body: post(body, target=f"{PATH}?a=b"),
        lambda body: post(body, target=f"/{PATH}"),
        lambda body: post(body, "Connection: close"),
    ],
    ids=["HTTP/1.0", "the whole URL", "a query", "two slashes", "one request only"],
)
def test_a_webhook_is_taken_however_it_is_asked(server: Server, frame: Callable[[bytes], bytes]) -> None:
    event_id, body = delivery()

    assert status(server.ask(frame(body))) == 200
    assert event_id in server.stored()


def test_a_connection_of_http_1_0_ends_with_its_answer(server: Server) -> None:
    with server.connect() as wire:
        wire.send(post(delivery()[1], version="1.0"))

        assert status(wire.answer()) == 200
        assert wire.answer() is None


@pytest.mark.parametrize("target", [f"{PATH}/", "/webhooks//wix", "/WEBHOOKS/WIX"])
def test_another_path_is_not_the_webhook(server: Server, target: str) -> None:
    event_id, body = delivery()

    assert status(server.ask(post(body, target=target))) in (308, 404)
    assert event_id not in server.stored()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_only_a_post_is_taken(server: Server, method: str) -> None:
    with server.connect() as wire:
        wire.send(head(method=method))
        answer = wire.answer(has_body=method != "HEAD")

    assert answer is not None
    assert answer.status == 405
    assert "POST" in answer.headers["allow"]


# -- The end -----------------------------------------------------------------------------------------


def _send_until_closed(server: Server, deliveries: Iterator[tuple[UUID, bytes]]) -> dict[str, Any]:
    """A sender that keeps its connection, until the server ends it or none is there to connect to."""
    came: dict[str, Any] = {"answered": [], "refused": [], "unanswered": [], "broken": 0}
    with server.connect() as wire:
        for event_id, body in deliveries:
            try:
                wire.send(post(body))
                answer = wire.answer()
            except HalfAnAnswer:
                came["broken"] += 1
                break
            except ConnectionError:  # closed while it was on its way
                answer = None
            if answer is None:
                came["unanswered"].append(event_id)
                break
            came["answered" if answer.status == 200 else "refused"].append(event_id)
            if answer.headers.get("connection") == "close":
                break
    return came


def test_ending_under_load_answers_whatever_it_took(database_url: str, tmp_path: Path) -> None:
    prepared = [[delivery() for _ in range(20)] for _ in range(SENDERS)]
    with serving(database_url, tmp_path) as server, ThreadPoolExecutor(SENDERS) as pool:
        # However quick the server is, nobody runs out of deliveries before it ends.
        senders = [
            pool.submit(_send_until_closed, server, itertools.chain(some, iter(delivery, None)))
            for some in prepared
        ]
        wait_until(lambda: len(server.stored()) > 200, what="some load", seconds=SECONDS)
        server.child.request_stop()
        came = [sender.result() for sender in senders]
        code = server.child.stop(SECONDS)
        answered = {event_id for one in came for event_id in one["answered"]}
        unanswered = {event_id for one in came for event_id in one["unanswered"]}

        assert sum(len(one["refused"]) for one in came) == 0
        assert sum(one["broken"] for one in came) == 0
        assert not unanswered & server.stored()  # what arrived as a connection was being closed was not taken
        assert answered <= server.stored()
        assert code == 0, server.child.tail()


def test_ending_waits_for_a_commit_and_takes_no_new_connection(database_url: str, tmp_path: Path) -> None:
    """Here every process is signalled."""
    event_id, body = delivery()
    with (
        serving(database_url, tmp_path) as server,
        psycopg.connect(database_url) as holder,
        server.connect() as wire,
        server.connect() as idle,
    ):
        idle.send(head(target="/healthz", method="GET"))
        assert status(idle.answer()) == 200
        holder.execute("LOCK TABLE webhook_events IN ACCESS EXCLUSIVE MODE")
        wire.send(post(body))
        wait_until(lambda: _somebody_waits(database_url), what="the commit to wait", seconds=SECONDS)

        server.child.request_stop(whole_group=True)
        closed = idle.answer()  # at once, so the end has begun
        refused = _is_refused(server)
        holder.commit()
        answer = wire.answer()

        assert closed is None
        assert refused
        assert status(answer) == 200
        assert server.child.stop(SECONDS) == 0, server.child.tail()
        assert server.stored() == {event_id}


def _somebody_waits(database_url: str) -> bool:
    with psycopg.connect(database_url) as connection:
        # Of this database alone: the server is shared with tests that run at the same time.
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    return found is not None and found[0] > 0


def _is_refused(server: Server) -> bool:
    """Whether nobody listens any more, once each worker had the time to hear of it."""
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            pass  # it was being taken when its listener closed
    return False


# -- Threads -------------------------------------------------------------------------------------------


def test_a_commit_holds_no_thread_but_its_own(database_url: str, tmp_path: Path) -> None:
    """So few threads are enough for any number of webhooks, and for everything else meanwhile."""
    deliveries = [delivery() for _ in range(24)]
    with (
        serving(
            database_url,
            tmp_path,
            WEB_CONCURRENCY="1",
            WEB_THREADS="4",
            INTAKE_LANES="1",
        ) as server,
        contextlib.ExitStack() as stack,
        psycopg.connect(database_url) as holder,
    ):
        assert status(server.ask(post(delivery()[1]))) == 200  # the lane is open
        wires = [stack.enter_context(server.connect()) for _ in deliveries]
        holder.execute("LOCK TABLE webhook_events IN ACCESS EXCLUSIVE MODE")
        for wire, (_, body) in zip(wires, deliveries, strict=True):
            wire.send(post(body))
        wait_until(lambda: _somebody_waits(database_url), what="the commit to wait", seconds=SECONDS)

        began = time.monotonic()
        health = server.ask(head("Connection: close", target="/healthz", method="GET"))
        took = time.monotonic() - began
        holder.commit()
        answers = {status(wire.answer()) for wire in wires}

        assert status(health) == 200
        assert took < 1.0
        assert answers == {200}
        assert {event_id for event_id, _ in deliveries} <= server.stored()


# -- How long a body is waited for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waited", "given_up"),
    [
        ([], 0),
        ([1.9, 0.3, 0.1], 0),
        ([2.1, 2.0, 1.9], 2),
        ([0.09] * 8, 0),  # none slow enough
        ([0.3] * 6, 0),  # threads enough
        ([0.3] * 7, 3),  # down to half
        ([0.3] * 1 + [0.09] * 7, 1),
        ([2.1] * 8, 8),
    ],
)
def test_the_slowest_are_given_up_early_only_when_threads_run_out(
    waited: Sequence[float], given_up: int
) -> None:
    assert patience.to_give_up(waited, threads=8) == given_up
