"""What a web process does after the answer, in one background thread.

At most one wake-up job per `wake_up_seconds`, however many events came; the counts of answers for the metrics, together
for all since the last turn; and once a second at most a line of what was stored, and the counts of refused deliveries,
so that a flood of forgeries costs no transaction each. Nothing here is needed for correctness: without it the clock
finds what is due.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import Counter, deque

import structlog

from processor.errors import StoreUnavailable
from processor.metrics import WAKE_UPS, note_answers, note_commits
from processor.store import inbox
from processor.wiring import Services

log = structlog.get_logger(__name__)

SAMPLES_MAX = 32  # digests of refused bodies kept per flush
FLUSH_SECONDS = 1.0
_NEWS = frozenset(
    outcome.value for outcome in (inbox.Outcome.STORED, inbox.Outcome.HELD, inbox.Outcome.CONFLICT)
)
_STORED = frozenset(outcome.value for outcome in inbox.Outcome)


class AfterWork:
    """One thread per process, started at the first need, so that a fork before it is safe."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._work = threading.Condition()
        # Of each answer: outcome, reason, seconds. Appending needs no lock.
        self._noted: deque[tuple[str, str, float]] = deque()
        self._commits: deque[tuple[float, int]] = deque()  # of each batch: seconds, events
        self._is_awake = False
        self._stored: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._samples: dict[bytes, str] = {}
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._pid: int | None = None

    def note(self, outcome: str, reason: str, seconds: float) -> None:
        """A delivery was answered; when it brought something new, a worker is to look soon. Returns at once."""
        self._noted.append((outcome, reason, seconds))
        # Under load the thread knows already: waking it for each event would cost more than the rest.
        if not self._is_awake or self._pid != os.getpid():
            self._rouse()

    def note_commit(self, seconds: float, events: int) -> None:
        """A batch of events was stored, whose answers are about to be noted. Returns at once."""
        self._commits.append((seconds, events))

    def refuse(self, reason: str, digest: bytes) -> None:
        """A delivery was refused as not Wix's: count it. Returns at once."""
        with self._work:
            self._refused[reason] += 1
            if len(self._samples) < SAMPLES_MAX:
                self._samples[digest] = reason
        self._rouse()

    def stop(self) -> None:
        """Write what is still counted, and end the thread."""
        with self._work:
            self._stopping = True
            self._work.notify()
            thread = self._thread
        if thread is not None and self._pid == os.getpid():
            thread.join(timeout=5)

    def _rouse(self) -> None:
        with self._work:
            self._is_awake = True
            if self._thread is None or self._pid != os.getpid() or not self._thread.is_alive():
                self._pid = os.getpid()
                self._thread = threading.Thread(target=self._run_on, name="after-work", daemon=True)
                self._thread.start()
                atexit.register(self.stop)
            self._work.notify()

    def _run_on(self) -> None:
        try:
            self._run()
        finally:
            self._is_awake = False  # whatever ended it, the next answer starts another

    def _run(self) -> None:
        last_flush = 0.0
        while True:
            is_news = self._count()
            with self._work:
                stopping = self._stopping
                is_flush_due = bool(self._refused or self._stored) and (
                    stopping or time.monotonic() - last_flush >= FLUSH_SECONDS
                )
            if is_news:
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
                if not (self._refused or self._stored or self._stopping):
                    self._is_awake = False
                    # Whoever appends from here on rouses us.
                    self._work.wait_for(lambda: self._noted or self._refused or self._stopping)
                    self._is_awake = True

    def _count(self) -> bool:
        """Count what was noted. Returns whether it brought something new."""
        commits: list[tuple[float, int]] = []
        while self._commits:
            commits.append(self._commits.popleft())
        if commits:
            note_commits(commits)
        answers: Counter[tuple[str, str]] = Counter()
        seconds: list[float] = []
        while self._noted:
            outcome, reason, took = self._noted.popleft()
            answers[outcome, reason] += 1
            seconds.append(took)
        if not seconds:
            return False
        note_answers(answers, seconds)
        for (outcome, _), number in answers.items():
            if outcome in _STORED:
                self._stored[outcome] += number
        return any(outcome in _NEWS for outcome, _ in answers)

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
