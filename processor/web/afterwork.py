"""What a web process does after the answer, in one background thread.

At most one wake-up job per `wake_up_seconds`, however many events came; and once a second at most a line of
what was stored, and the counts of refused deliveries, so that a flood of forgeries costs no transaction each.
Nothing here is needed for correctness: without it the clock finds what is due.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import Counter

import structlog

from processor.errors import StoreUnavailable
from processor.metrics import WAKE_UPS
from processor.store import inbox
from processor.wiring import Services

log = structlog.get_logger(__name__)

SAMPLES_MAX = 32  # digests of refused bodies kept per flush
FLUSH_SECONDS = 1.0


class AfterWork:
    """One thread per process, started at the first need, so that a fork before it is safe."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._work = threading.Condition()
        self._is_wake_up_wanted = False
        self._stored: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._samples: dict[bytes, str] = {}
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._pid: int | None = None

    def store(self, outcome: inbox.Outcome) -> None:
        """A delivery was stored or counted: let a worker look soon if there is something new. Returns at once."""
        with self._work:
            self._stored[outcome.value] += 1
            is_news = outcome in (inbox.Outcome.STORED, inbox.Outcome.HELD, inbox.Outcome.CONFLICT)
            # Under load the thread knows already: waking it for each event would cost more than the rest.
            if not self._is_running or (is_news and not self._is_wake_up_wanted):
                self._is_wake_up_wanted = self._is_wake_up_wanted or is_news
                self._ensure_running()
                self._work.notify()

    def refuse(self, reason: str, digest: bytes) -> None:
        """A delivery was refused as not Wix's: count it. Returns at once."""
        with self._work:
            self._refused[reason] += 1
            if len(self._samples) < SAMPLES_MAX:
                self._samples[digest] = reason
            self._ensure_running()
            self._work.notify()

    def stop(self) -> None:
        """Write what is still counted, and end the thread."""
        with self._work:
            self._stopping = True
            self._work.notify()
            thread = self._thread
        if thread is not None and self._pid == os.getpid():
            thread.join(timeout=5)

    @property
    def _is_running(self) -> bool:
        return self._thread is not None and self._pid == os.getpid() and self._thread.is_alive()

    def _ensure_running(self) -> None:
        if self._is_running:
            return
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="after-work", daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    def _run(self) -> None:
        last_flush = 0.0
        while True:
            with self._work:
                while not (self._is_wake_up_wanted or self._refused or self._stored or self._stopping):
                    self._work.wait()
                is_wanted, self._is_wake_up_wanted = self._is_wake_up_wanted, False
                stopping = self._stopping
                is_flush_due = bool(self._refused or self._stored) and (
                    stopping or time.monotonic() - last_flush >= FLUSH_SECONDS
                )
            if is_wanted:
                sent = self._services.queue.wake_up()
                WAKE_UPS.labels("sent" if sent else "not_sent").inc()
            if is_flush_due:
                last_flush = time.monotonic()
                self._flush()
            if stopping:
                return
            with self._work:
                # The pause is what bounds the rate; a stop ends it.
                self._work.wait_for(lambda: self._stopping, self._services.settings.wake_up_seconds)

    def _flush(self) -> None:
        with self._work:
            stored, self._stored = self._stored, Counter()
            refused = inbox.Refused(dict(self._refused), self._samples)
            self._refused, self._samples = Counter(), {}
        if stored:
            log.info("deliveries_stored", **stored)
        if not refused.counts:
            return
        try:
            with self._services.database.begin() as connection:
                inbox.keep_refused(connection, refused, self._services.now())
        except StoreUnavailable as why:
            log.warning("refusals_not_written", deliveries=sum(refused.counts.values()), why=str(why))
            with self._work:
                self._refused.update(refused.counts)
