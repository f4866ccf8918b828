"""Programs we start beside us, stop in good order, and never leave behind.

For the demo and the tests of whole systems. Every child leads a process group of its own, so that Ctrl-C
reaches only us and we stop the children in our order, and a watcher ends the group should we be killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from processor.errors import ProcessorError

STOP_SECONDS = 20.0
POLL_SECONDS = 0.05
# Below the ports that systems give to outgoing connections: a client that keeps dialling a stopped server
# could otherwise be connected to itself and so take the server's port.
PORTS = range(20_000, 32_000)
LATELY_MAX = 50
# Reads from a pipe whose other end only we hold; it ends when we do, however that happens.
_WATCH = """
read -r _
kill -s TERM -- "-$1"
while [ "$2" -gt 0 ] && kill -s 0 -- "-$1"; do sleep 1; set -- "$1" $(($2 - 1)); done
kill -s KILL -- "-$1"
"""


class ChildFailed(ProcessorError):
    """A child ended by itself, or what was waited for did not come; the message says where its log is."""


class Child:
    """One program in a process group of its own; may be started again after it ended."""

    def __init__(
        self, name: str, command: Sequence[str | Path], *, environ: Mapping[str, str], log_file: Path
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._command = list(command)
        self._environ = dict(environ)
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._is_asked = False

    @property
    def is_running(self) -> bool:
        """Whether the program lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The program's process number, which is also that of its group."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Start the program, its output appended to `log_file`. Nothing happens when it runs."""
        if self.is_running:
            return
        self._is_asked = False
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environ,
                start_new_session=True,
            )
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "sh", str(self._process.pid), str(int(STOP_SECONDS))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def request_stop(self, *, whole_group: bool = False) -> None:
        """Ask the program to end (SIGTERM), without waiting. It is asked once.

        A second signal would have a worker break its job off, and kill whoever has ended but for the last of it.
        whole_group: its own children as well, as systemd and Heroku do.
        """
        if self._process is None or self._is_asked or not self.is_running:
            return
        self._is_asked = True
        if whole_group:
            self._signal_group(signal.SIGTERM)
        else:
            self._process.terminate()

    def stop(self, seconds: float = STOP_SECONDS) -> int | None:
        """End the program in good order, by force after `seconds`. Returns its exit status, None if never started."""
        if self._process is None:
            return None
        self.request_stop()
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._signal_group(signal.SIGKILL)
            status = self._process.wait()
        self._forget()
        return status

    def kill(self) -> None:
        """End the whole group as a power cut would (SIGKILL)."""
        if self._process is None:
            return
        self._signal_group(signal.SIGKILL)
        self._process.wait()
        self._forget()

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        try:
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _forget(self) -> None:
        # A server's own workers may outlive their parent.
        self._signal_group(signal.SIGKILL)
        if self._watch is not None:
            self._watch.kill()
            self._watch.communicate()
            self._watch = None
        self._process = None


def wait_until(
    holds: Callable[[], bool],
    *,
    what: str,
    seconds: float,
    children: Sequence[Child] = (),
    stop: threading.Event | None = None,
) -> None:
    """Return once `holds()` is true. Raises ChildFailed after `seconds`, or when one of `children` ended.

    stop: set by who wants the waiting to end early; then InterruptedError is raised.
    """
    deadline = time.monotonic() + seconds
    pause = stop or threading.Event()
    while not holds():
        for child in children:
            if not child.is_running:
                raise ChildFailed(
                    f"{child.name} ended by itself; {child.log_file} ends with:\n{child.tail()}"
                )
        if time.monotonic() > deadline:
            raise ChildFailed(f"waited {seconds:.0f} s in vain for {what}")
        if pause.wait(POLL_SECONDS):
            raise InterruptedError(what)


def free_port() -> int:
    """A port of 127.0.0.1 nobody listens on just now, and that no other of our processes was given lately.

    Between choosing a port and a child's listening on it, others choose theirs: of a few thousand, two meet now and
    then. So a lock is held on the newest of each process.
    """
    for port in random.sample(PORTS, 200):
        descriptor = _locked(port)
        if descriptor is None:
            continue
        if _is_free(port):
            _lately.append(descriptor)
            while len(_lately) > LATELY_MAX:
                os.close(_lately.popleft())
            return port
        os.close(descriptor)
    raise ChildFailed(f"no free port found from {PORTS.start} to {PORTS.stop - 1}")


def reserved_port(preferred: int) -> int:
    """`preferred` if it is free, else another free one. Ours alone, as far as others reserve theirs as well.

    Between choosing a port and a child's listening on it another system could choose the same, and each
    would take the other's server for its own. So a lock is held on the number until this process ends.
    """
    for port in (preferred, *random.sample(PORTS, 200)):
        descriptor = _locked(port)
        if descriptor is not None:
            _reserved.append(descriptor)
            if _is_free(port):
                return port
    raise ChildFailed(f"no free port found from {PORTS.start} to {PORTS.stop - 1}")


_reserved: list[int] = []
"""Descriptors of the locks; they are never closed, so the locks end with the process."""


_lately: deque[int] = deque()
"""The same of ports that were given lately."""


def _locked(port: int) -> int | None:
    """Lock a number; None when another process has."""
    file = Path(tempfile.gettempdir()) / f"payment-link-processor-port-{port}"
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:  # another user's
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
