"""The tools of chaos do what they say: a fault that misses proves nothing."""

from __future__ import annotations

import errno
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import shims
from tests.chaos.faults import Drawer, faults
from tests.chaos.proxy import Mode, Network

LOCALHOST = "127.0.0.1"
needs_shims = pytest.mark.skipif(shims.missing() is not None, reason=shims.missing() or "")


class Echo:
    """A server that sends back what it gets. heard: that."""

    def __init__(self) -> None:
        self.heard = b""
        self._listener = socket.create_server((LOCALHOST, 0))
        self.port = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._answer, args=[connection], daemon=True)
            thread.start()
            self._threads.append(thread)

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(100):
                    self.heard += data
                    connection.sendall(data)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._accepting, *self._threads):
            thread.join(5)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def network(echo: Echo) -> Iterator[Network]:
    found = Network()
    found.add("link", echo.port)
    yield found
    found.close()


@pytest.fixture
def client(network: Network) -> Iterator[socket.socket]:
    with socket.create_connection((LOCALHOST, network.links["link"].port), timeout=5) as connection:
        connection.sendall(b"before")
        assert connection.recv(100) == b"before"
        yield connection


def is_silent(client: socket.socket) -> bool:
    client.settimeout(0.2)
    try:
        client.recv(100)
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)
    return False


def is_ended(client: socket.socket) -> bool:
    try:
        return client.recv(100) == b""
    except ConnectionResetError:
        return True


def is_refused(port: int) -> bool:
    try:
        with socket.create_connection((LOCALHOST, port), timeout=5) as connection:
            return is_ended(connection)
    except ConnectionResetError:
        return True


def test_what_is_stalled_comes_later(network: Network, client: socket.socket) -> None:
    network.become("link", Mode.STALL)
    client.sendall(b"later")
    assert is_silent(client)

    network.become("link", Mode.PASS)

    assert client.recv(100) == b"later"


def test_what_is_sent_in_a_blackout_is_lost(network: Network, client: socket.socket, echo: Echo) -> None:
    network.become("link", Mode.BLACKOUT)
    client.sendall(b"lost")
    assert is_silent(client)

    network.become("link", Mode.PASS)

    assert is_ended(client)
    assert echo.heard == b"before"


def test_an_answer_that_is_swallowed_leaves_the_request_done(
    network: Network, client: socket.socket, echo: Echo
) -> None:
    network.become("link", Mode.SWALLOW)
    client.sendall(b"done")
    assert is_silent(client)
    assert echo.heard == b"beforedone"

    network.become("link", Mode.PASS)

    assert is_ended(client)


def test_a_cut_ends_every_connection_and_refuses_new_ones(network: Network, client: socket.socket) -> None:
    network.become("link", Mode.CUT)

    assert is_ended(client)
    assert is_refused(network.links["link"].port)
    network.become("link", Mode.PASS)
    with socket.create_connection((LOCALHOST, network.links["link"].port), timeout=5) as another:
        another.sendall(b"after")
        assert another.recv(100) == b"after"


def test_a_reset_is_one(network: Network, client: socket.socket) -> None:
    network.become("link", Mode.RESET)

    with pytest.raises(ConnectionResetError):
        client.recv(100)


@needs_shims
def test_a_clock_steps_and_time_goes_on(tmp_path: Path) -> None:
    clocks = shims.Clocks(tmp_path)
    environ = {**os.environ, **clocks.environ("ours")}
    clocks.step("ours", -86_400.0)

    done = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time(), time.monotonic())"],
        env=environ,
        capture_output=True,
        check=True,
        text=True,
    )

    wall, monotonic = map(float, done.stdout.split())
    assert wall == pytest.approx(time.time() - 86_400, abs=60)
    assert monotonic == pytest.approx(time.monotonic(), abs=60)


@needs_shims
@pytest.mark.parametrize("error", [shims.NO_SPACE, shims.READ_ONLY])
def test_a_disk_refuses_what_it_is_told_to_and_nothing_else(tmp_path: Path, error: int) -> None:
    disk = shims.Disk(tmp_path)
    (tmp_path / "full").mkdir()
    write = (
        "import os, sys\n"
        "file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
        "for write in (os.write, lambda f, b: os.pwrite(f, b, 0), lambda f, b: os.pwritev(f, [b], 0),\n"
        "              lambda f, b: os.posix_fallocate(f, 0, 10)):\n"
        "    try:\n"
        "        write(file, b'x')\n"
        "    except OSError as why:\n"
        "        print(why.errno)\n"
    )
    environ = {
        **os.environ,
        "LD_PRELOAD": str(tmp_path / "disk.so"),
        "CHAOS_DISK": str(tmp_path / "disk-refuses"),
    }

    def written(folder: Path) -> list[int]:
        done = subprocess.run(
            [sys.executable, "-c", write, folder / "file"],
            env=environ,
            capture_output=True,
            check=True,
            text=True,
        )
        return [int(line) for line in done.stdout.split()]

    disk.refuse(error, "/full/")

    assert written(tmp_path / "full") == [error] * 4
    assert written(tmp_path) == []
    disk.heal()
    assert written(tmp_path / "full") == []
    assert (errno.ENOSPC, errno.EROFS) == (shims.NO_SPACE, shims.READ_ONLY)


def test_one_seed_draws_the_same_faults_each_kind_once_before_any_comes_again() -> None:
    def drawn(seed: int) -> list[tuple[str, ...]]:
        drawer = Drawer(random.Random(seed), faults(), pair_share=0.2)
        return [tuple(one.name for one in drawer.draw()) for _ in range(400)]

    first = drawn(7)
    singles = [names[0] for names in first if len(names) == 1]
    kinds = {one.name for one in faults()}

    assert first == drawn(7)
    assert first != drawn(8)
    assert set(singles[: len(kinds)]) == kinds
    assert any(len(names) == 2 for names in first)
