"""Webhook delivery as Wix promises it: 1,250 ms, only 200 counts, twelve resends, later events not held back.

Source: "Webhook Resend Policy". The waits between resends may be scaled down; the deadline never is.
"""

from __future__ import annotations

import functools
import heapq
import ssl
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx2

from processor.sandbox.documents import Document, Documents

DEADLINE_SECONDS = 1.25
Post = Callable[[str, str], tuple[int | None, str | None]]
"""Sends a body to a URL. Answers with the status, and an error's name when no whole answer came, None when one did."""
_MINUTE, _HOUR = 60, 3600
RESEND_SECONDS = (
    *(1 * _MINUTE, 10 * _MINUTE, 1 * _HOUR, 2 * _HOUR, 2 * _HOUR, 2 * _HOUR),
    *(4 * _HOUR, 4 * _HOUR, 4 * _HOUR, 8 * _HOUR, 8 * _HOUR, 12 * _HOUR),
)
"""Waits after each failure before the next try, at time scale 1."""
THREADS = 16
# A wait longer than this is a resend that `await_idle` does not wait for.
FAR_SECONDS = 2.0


@functools.cache
def _tls() -> ssl.SSLContext:
    """The authorities that are trusted, read once: it takes some 20 ms."""
    return httpx2.create_ssl_context(trust_env=False)


@dataclass(frozen=True, slots=True)
class Idle:
    """How deliveries stand. waiting: events whose next resend is far; held: kept back by `reorder`."""

    is_idle: bool
    in_flight: int
    due: int
    waiting: int
    held: int


@dataclass(order=True, slots=True)
class _Job:
    due: float
    number: int
    event_id: str = field(compare=False)
    is_copy: bool = field(compare=False, default=False)


class Deliverer:
    """Sends events from a heap of due times. Events are documents, so what is pending survives a restart."""

    def __init__(
        self,
        documents: Documents,
        *,
        token_of: Callable[[Document, int], str],
        time_scale: float,
        deadline_seconds: float,
        now_text: Callable[[], str],
        content_type: str = "text/plain",
        any_2xx_succeeds: bool = False,
        post: Post | None = None,
        by_hand: Callable[[], float] | None = None,
    ) -> None:
        """post: how a body is sent, None for HTTP. by_hand: tells the seconds that pass, of a time of the caller's own
        making, and nothing is sent but by `deliver_due`; None for real time.
        """
        self._by_hand = by_hand is not None
        self._seconds = by_hand or time.monotonic
        self._send = post or self._post
        self._content_type = content_type
        self._any_2xx_succeeds = any_2xx_succeeds
        self._documents = documents
        self._token_of = token_of
        self._scale = time_scale
        self._deadline = deadline_seconds
        self._now_text = now_text
        self._changed = threading.Condition()
        self._heap: list[_Job] = []
        self._number = 0
        self._in_flight = 0
        self._stopping = False
        self._http = httpx2.Client(
            verify=_tls(),
            timeout=deadline_seconds,
            trust_env=False,
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=THREADS, max_keepalive_connections=THREADS),
        )
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="delivery")
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    def start(self) -> None:
        """Begin to deliver, with what was pending when the last process ended."""
        for event in self._documents.find("event", {"status": "pending"}):
            self.send(event["id"])
        for event in self._documents.find("event", {"status": "held"}):
            self._release(event)
        if not self._by_hand:
            self._thread.start()

    def send(self, event_id: str, *, after_seconds: float = 0.0, copies: int = 1) -> None:
        """Deliver an event, `copies` times at once. Copies beyond the first are never resent."""
        with self._changed:
            for copy in range(copies):
                self._push(event_id, after_seconds, is_copy=copy > 0)

    def deliver_due(self) -> int:
        """Deliver whatever is due, one after the other in the order of its time. Returns how many attempts it were.

        Only for deliveries by hand.
        """
        assert self._by_hand
        attempts = 0
        while True:
            with self._changed:
                if self._stopping or not self._heap or self._heap[0].due > self._seconds():
                    return attempts
                job = heapq.heappop(self._heap)
                self._in_flight += 1
            self._deliver(job)
            attempts += 1

    def next_due(self) -> float | None:
        """Seconds until something is due, less than nothing if it is already. None when nothing waits."""
        with self._changed:
            return self._heap[0].due - self._seconds() if self._heap else None

    def release_all(self) -> int:
        """Send every event kept back by `reorder`. Returns how many."""
        with self._documents.transaction():
            held = self._documents.find("event", {"status": "held"})
            for event in held:
                self._release(event)
        return len(held)

    def _release_overtaken(self, delivered: Document) -> None:
        """Send what was kept back until an event such as this was delivered."""
        with self._documents.transaction():
            for event in self._documents.find("event", {"status": "held"}):
                waits_for = "entityId" if event["waitsForEntity"] else "instanceId"
                if event[waits_for] == delivered[waits_for]:
                    self._release(event)

    def _release(self, event: Document) -> None:
        event["status"] = "pending"
        self._documents.put("event", event["id"], event)
        self.send(event["id"])

    def await_idle(self, seconds: float) -> Idle:
        """Wait until nothing is in flight or soon due, at most `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            # Asked before our own lock: who holds the documents may be waiting for it.
            held = self._documents.count("event", {"status": "held"})
            with self._changed:
                stand = self._stand(held)
                left = deadline - time.monotonic()
                if stand.is_idle or left <= 0 or self._stopping:
                    return stand
                self._changed.wait(min(left, 0.2))

    def due_in(self, event_ids: Collection[str]) -> dict[str, float]:
        """Seconds until the next delivery of those of these events that wait for one."""
        now = self._seconds()
        found: dict[str, float] = {}
        with self._changed:
            for job in self._heap:
                if job.event_id in event_ids:
                    seconds = max(0.0, job.due - now)
                    found[job.event_id] = min(seconds, found.get(job.event_id, seconds))
        return found

    def await_attempts(self, event_id: str, count: int, seconds: float) -> None:
        """Return when so many attempts of an event have ended, at the latest after `seconds`."""
        deadline = time.monotonic() + seconds
        # Asked before our own lock: who holds the documents may be waiting for it.
        while self._documents.count("delivery", {"event": event_id}) < count:
            with self._changed:
                left = deadline - time.monotonic()
                if left <= 0 or self._stopping:
                    return
                self._changed.wait(min(left, 0.05))

    def stop(self) -> None:
        """End; what is not delivered stays pending."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(wait=True)
        self._http.close()

    def _stand(self, held: int) -> Idle:
        far = self._seconds() + FAR_SECONDS
        due = sum(job.due <= far for job in self._heap)
        return Idle(
            is_idle=not (self._in_flight or due),
            in_flight=self._in_flight,
            due=due,
            waiting=len(self._heap) - due,
            held=held,
        )

    def _push(self, event_id: str, after_seconds: float, *, is_copy: bool) -> None:
        if self._stopping:
            return
        self._number += 1
        heapq.heappush(self._heap, _Job(self._seconds() + after_seconds, self._number, event_id, is_copy))
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopping:
                    wait = self._heap[0].due - self._seconds() if self._heap else None
                    if wait is not None and wait <= 0:
                        break
                    self._changed.wait(wait)
                if self._stopping:
                    return
                job = heapq.heappop(self._heap)
                self._in_flight += 1
            # An error of our own must be heard of: the pool would keep it to itself.
            self._pool.submit(self._deliver, job).add_done_callback(lambda done: done.result())

    def _deliver(self, job: _Job) -> None:
        try:
            # Those still queued stay pending; otherwise a slow endpoint would hold up the stop by each of them.
            if not self._stopping:
                self._attempt(job)
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def _attempt(self, job: _Job) -> None:
        with self._documents.transaction():
            event = self._documents.get("event", job.event_id)
            app = self._documents.get("app", "app")
            url = app["webhookUrl"] if app else None
            if event is None or url is None:
                return
            # A copy repeats what was sent first.
            number = event["attempts"] + 1 if not job.is_copy else 1
            if not job.is_copy:
                event["attempts"] = number
                self._documents.put("event", event["id"], event)
                if number > 1:
                    self._drop_resend(event["id"])
            token = self._token_of(event, number)
        at = self._now_text()
        began = time.monotonic()
        status, error = self._send(url, token)
        took = time.monotonic() - began
        if error is None and took > self._deadline:
            error = "deadline"
        is_success = error is None and status is not None and self._succeeds(status)
        with self._documents.transaction():
            attempt: dict[str, Any] = {
                "id": str(uuid4()),
                "eventId": event["id"],
                "instanceId": event["instanceId"],
                "eventType": event["eventType"],
                "attempt": number,
                "isCopy": job.is_copy,
                "at": at,
                "status": status,
                "error": error,
                "milliseconds": round(took * 1000),
            }
            self._documents.put("delivery", attempt["id"], attempt)
            # Other attempts of the same event may have ended meanwhile.
            event = self._documents.get("event", job.event_id) or event
            if is_success:
                event["status"] = "delivered"
            elif not job.is_copy and event["status"] != "delivered" and number == event["attempts"]:
                if number > len(RESEND_SECONDS):
                    event["status"] = "given_up"
                else:
                    event["status"] = "pending"
                    with self._changed:
                        self._push(event["id"], RESEND_SECONDS[number - 1] / self._scale, is_copy=False)
            self._documents.put("event", event["id"], event)
        if is_success:
            self._release_overtaken(event)

    def _drop_resend(self, event_id: str) -> None:
        """Forget the resend that waits, when a delivery asked for by hand comes before it."""
        with self._changed:
            kept = [job for job in self._heap if job.event_id != event_id or job.is_copy]
            if len(kept) < len(self._heap):
                heapq.heapify(kept)
                self._heap = kept
                self._changed.notify_all()

    def _succeeds(self, status: int) -> bool:
        return status == 200 or (self._any_2xx_succeeds and 200 <= status < 300)

    def _post(self, url: str, token: str) -> tuple[int | None, str | None]:
        """Status and error of one request; the error is None when a whole answer came, whatever its body."""
        ends = time.monotonic() + self._deadline
        try:
            with self._http.stream(
                "POST", url, content=token.encode(), headers={"Content-Type": self._content_type}
            ) as answer:
                # The timeout of the client is for each read: a body that drips would never end.
                for _ in answer.iter_raw():
                    if time.monotonic() > ends:
                        break
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as why:
            return None, type(why).__name__
        return answer.status_code, None
