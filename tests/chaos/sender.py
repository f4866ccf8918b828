"""Wix as a sender: 1,250 ms for an answer, only 200 counts, twelve resends on a clock that runs faster."""

from __future__ import annotations

import heapq
import http.client
import itertools
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from processor.sandbox.delivery import DEADLINE_SECONDS, RESEND_SECONDS
from tests.chaos.events import Mint, Step, next_step, sign
from tests.chaos.ledger import Entry, Expected, Ledger, Told

THREADS = 48
TIME_SCALE = 1200.0  # the two days of resends in 142 s
REUSES_MAX = 50  # requests over one connection


@dataclass(order=True, slots=True)
class _Job:
    due: float
    number: int
    entry: Entry = field(compare=False)
    is_copy: bool = field(compare=False)
    resends: int = field(compare=False, default=0)


class Sender:
    """Tells events at a rate, from threads. targets: ports of the web servers' links."""

    def __init__(
        self,
        ledger: Ledger,
        mint: Mint,
        source: random.Random,
        *,
        ports: Sequence[int],
        rate: float,
        key: RSAPrivateKey,
    ) -> None:
        self.ledger = ledger
        self.mint = mint
        self.rate = rate
        self.keys = [key]
        self.shape = next_step
        self._random = source
        self._ports = list(ports)
        self._numbers = itertools.count()
        self._heap: list[_Job] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._telling = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name="send", daemon=True) for _ in range(THREADS)
        ]
        self._teller = threading.Thread(target=self._tell, name="tell", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._telling.set()
        for thread in (*self._threads, self._teller):
            thread.start()

    def pause(self) -> None:
        """Tell nothing new; resends go on."""
        self._telling.clear()

    def resume(self) -> None:
        """Tell on."""
        self._telling.set()

    def stop(self) -> None:
        """End, if it began. What is under way is answered or not."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._telling.set()
        for thread in (*self._threads, self._teller):
            if thread.ident is not None:
                thread.join(5)

    def tell(self, told: Told) -> Entry:
        """Send one event now, besides the rate."""
        entry = self.ledger.open(told)
        self._push(entry, 0.0, is_copy=False)
        return entry

    def burst(self, steps: Sequence[Step]) -> None:
        """Send all of this now."""
        for step in steps:
            self._send(step)

    def post(self, port: int, token: bytes) -> str:
        """One request over a connection of its own: the status, or what went wrong."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
        try:
            return _exchange(connection, token)
        finally:
            connection.close()

    def _send(self, step: Step) -> None:
        entries: dict[int, Entry] = {}
        for wait, told, is_copy in step.sends:
            entry = entries.get(id(told))
            if entry is None:
                entry = entries[id(told)] = self.ledger.open(told)
            self._push(entry, wait, is_copy=is_copy)

    def _push(self, entry: Entry, wait: float, *, is_copy: bool, resends: int = 0) -> None:
        with self._changed:
            heapq.heappush(
                self._heap, _Job(time.monotonic() + wait, next(self._numbers), entry, is_copy, resends)
            )
            self._changed.notify()

    def _tell(self) -> None:
        pause = threading.Event()
        due = time.monotonic()
        while not self._stopping:
            if not self._telling.is_set():
                self._telling.wait()
                due = time.monotonic()
            step = self.shape(self.mint, self._random)
            self._send(step)
            due = max(due + len(step.sends) / self.rate, time.monotonic() - 1)
            pause.wait(max(0.0, due - time.monotonic()))  # the pace

    def _work(self) -> None:
        connections: dict[int, tuple[http.client.HTTPConnection, int]] = {}
        try:
            self._work_with(connections)
        finally:
            for connection, _ in connections.values():
                connection.close()

    def _work_with(self, connections: dict[int, tuple[http.client.HTTPConnection, int]]) -> None:
        while True:
            with self._changed:
                while not self._stopping:
                    wait = self._heap[0].due - time.monotonic() if self._heap else None
                    if wait is not None and wait <= 0:
                        break
                    self._changed.wait(wait)
                if self._stopping:
                    return
                job = heapq.heappop(self._heap)
                if self._heap:
                    self._changed.notify()
            self._attempt(job, connections)

    def _attempt(self, job: _Job, connections: dict[int, tuple[http.client.HTTPConnection, int]]) -> None:
        entry = job.entry
        # A resend goes to the other server, as behind a balancer; whether it is signed anew is not known of Wix.
        port = self._ports[(job.number if not job.resends else job.resends) % len(self._ports)]
        is_same = entry.told.expected is Expected.UNREAD or not job.number % 2
        token = (entry.token if is_same else b"") or sign(
            entry.told.claims, self.keys[job.number % len(self.keys)]
        )
        entry.token = token
        connection, used = connections.pop(
            port, (http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS), 0)
        )
        self.ledger.attempt(entry, sha256(token).digest())
        began = time.monotonic()
        said = _exchange(connection, token)
        self.ledger.answer(entry, said)
        if said.isdigit() and used < REUSES_MAX:
            connections[port] = connection, used + 1
        else:
            connection.close()
        is_done = said == "200" and time.monotonic() - began <= DEADLINE_SECONDS
        if is_done or job.is_copy:
            entry.token = b""  # there are many; a copy that is still to come is signed anew
            return
        if job.resends >= len(RESEND_SECONDS):
            if not entry.answered:
                self.ledger.give_up(entry)
            return
        wait = RESEND_SECONDS[job.resends] / TIME_SCALE
        self._push(entry, wait, is_copy=False, resends=job.resends + 1)


def _exchange(connection: http.client.HTTPConnection, token: bytes) -> str:
    """The status of one POST, or in which stage it went wrong."""
    stage = "not sent"
    try:
        connection.request("POST", "/webhooks/wix", token, {"Content-Type": "text/plain"})
        stage = "sent"
        answer = connection.getresponse()
        answer.read()
    except TimeoutError:
        return f"{stage}, too late"
    except (OSError, http.client.HTTPException):
        return f"{stage}, connection lost"
    return str(answer.status)
