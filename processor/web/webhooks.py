"""`POST /webhooks/wix`: verify, store durably, answer 200. Wix gives up at 1,250 ms.

| answer | when |
|---|---|
| 200, empty | stored, duplicate, conflict, unknown type, or authentic but unreadable: a resend cannot help |
| 401 | the signature does not prove that Wix sent it |
| 400, 408 | the sender went away in the middle of the body; it came too slowly (`web/patience.py`) |
| 405, 413 | not a POST; a body above the bound |
| 503 | the database did not answer in time: Wix resends, and the event id makes that harmless |
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from uuid import uuid4

import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from flask import Blueprint, Response, request
from werkzeug.exceptions import RequestEntityTooLarge

from processor.domain.event import Event
from processor.errors import Rejected, StoreUnavailable, Unreadable
from processor.store import inbox
from processor.web.afterwork import AfterWork
from processor.wiring import Services
from processor.wix import quick
from processor.wix.parse import parse_claims, parse_event
from processor.wix.signature import Verified, digest, refuse_expired, verify

log = structlog.get_logger(__name__)

_logger = logging.getLogger(__name__)  # the same, to ask whether a line is wanted

PATH = "/webhooks/wix"
NOT_STORABLE = "not_storable"
# Deliveries stored by more than one statement: rare, so few threads for them, and few that wait.
RARE_THREADS = 2
RARE_MAX = 64
_USUAL = (inbox.Outcome.STORED, inbox.Outcome.DUPLICATE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer. outcome, reason: for logs and metrics; reason is empty for most outcomes."""

    status: int
    outcome: str
    reason: str = ""


# Every usual answer, made once.
_ANSWERS = {outcome: Answer(200, outcome.value) for outcome in inbox.Outcome}


class Taken(ABC):
    """One delivery that no thread waits for. body: None when it is too large. deadline: `time.monotonic()`."""

    body: bytes | None
    request_id: str
    deadline: float

    @abstractmethod
    def answer(self, given: Answer) -> None:
        """Tell the sender. Called once."""


@dataclass(frozen=True, slots=True)
class _Unread:
    """An authentic delivery whose instance cannot be read."""

    verified: Verified
    why: Unreadable


class Intake:
    """Takes one delivery from raw bytes to an answer. Shared by all threads of a process."""

    def __init__(
        self,
        services: Services,
        keys: Sequence[RSAPublicKey],
        store: inbox.Inbox,
        after_work: AfterWork,
    ) -> None:
        self._services = services
        self._keys = tuple(keys)
        self._inbox = store
        self._after_work = after_work
        self._rare = ThreadPoolExecutor(RARE_THREADS, "rare")
        self._rare_places = threading.BoundedSemaphore(RARE_MAX)

    def close(self) -> None:
        """End what works in the background; what has begun is finished."""
        self._inbox.close()
        self._rare.shutdown()
        self._after_work.stop()

    # -- The thread waits -------------------------------------------------------------------------

    def receive(self, body: bytes | None, request_id: str) -> Answer:
        """Verify and store one delivery. body: None when it is too large. Never raises what a sender can cause."""
        read = self._read(body, request_id)
        return read if isinstance(read, Answer) else self._store(read, request_id)

    def _store(self, read: inbox.Delivery | _Unread, request_id: str) -> Answer:
        if isinstance(read, _Unread):
            return self._keep_unread(read, request_id)
        try:
            try:
                stored = self._inbox.store(read)
            except inbox.NotStorable as why:
                read = self._without_values(read, why, request_id)
                stored = self._inbox.store(read)
        except (StoreUnavailable, inbox.NotStorable) as why:
            return self._not_stored(read.event, why, request_id)
        return self._stored(read.event, stored, request_id)

    # -- Nobody waits -----------------------------------------------------------------------------

    def take(self, delivery: Taken) -> None:
        """The same, but returns soon: `delivery.answer` is called once, by some thread. Nothing is raised.

        What is to be committed is so when somebody leads (`lead`, `call_leader`).
        """
        try:
            if delivery.deadline <= time.monotonic():
                delivery.answer(self._overloaded(delivery.request_id))
                return
            read = self._read(delivery.body, delivery.request_id)
            if isinstance(read, Answer):
                delivery.answer(read)
            elif isinstance(read, _Unread) or not inbox.is_usual(read.event):
                self._store_rare(delivery, read)
            else:
                self._hand_over(delivery, read)
        except Exception:
            log.exception("delivery_failed", request_id=delivery.request_id)
            delivery.answer(Answer(503, "failed"))

    def lead(self) -> None:
        """Commit what was taken, on this thread, unless others are at it."""
        self._inbox.lead()

    def call_leader(self) -> None:
        """The same on another thread."""
        self._inbox.call_leader()

    def _hand_over(self, delivery: Taken, read: inbox.Delivery, *, is_bare: bool = False) -> None:
        def told(outcome: inbox.Stored | Exception) -> None:
            if isinstance(outcome, inbox.Stored):
                delivery.answer(self._stored(read.event, outcome, delivery.request_id))
            elif isinstance(outcome, inbox.NotStorable) and not is_bare:
                bare = self._without_values(read, outcome, delivery.request_id)
                self._hand_over(delivery, bare, is_bare=True)
            else:
                delivery.answer(self._not_stored(read.event, outcome, delivery.request_id))

        try:
            self._inbox.hand_over(read, deadline=delivery.deadline, told=told)
        except StoreUnavailable as why:
            delivery.answer(self._not_stored(read.event, why, delivery.request_id))

    def _store_rare(self, delivery: Taken, read: inbox.Delivery | _Unread) -> None:
        """What is stored by more than one statement, or elsewhere: not by the thread that reads for all."""
        if not self._rare_places.acquire(blocking=False):
            delivery.answer(self._overloaded(delivery.request_id))
            return

        def store() -> None:
            try:
                is_late = delivery.deadline <= time.monotonic()
                given = (
                    self._overloaded(delivery.request_id)
                    if is_late
                    else self._store(read, delivery.request_id)
                )
            except Exception:
                log.exception("delivery_failed", request_id=delivery.request_id)
                given = Answer(503, "failed")
            finally:
                self._rare_places.release()
            delivery.answer(given)

        self._rare.submit(store)

    def note(self, given: Answer, began: float) -> None:
        """Count one answer, whoever gave it. began: `time.perf_counter()` when the request came."""
        self._after_work.note(given.outcome, given.reason, time.perf_counter() - began)

    # -- Parts of both ----------------------------------------------------------------------------

    def _read(self, body: bytes | None, request_id: str) -> inbox.Delivery | _Unread | Answer:
        """What the body says, or the answer when nothing is to be stored."""
        if body is None or len(body) > self._services.settings.body_bytes_max:
            log.warning("delivery_too_large", request_id=request_id)
            return Answer(413, "too_large")
        try:
            verified = verify(body, self._keys)
            try:
                claims = parse_claims(verified.claims)
                refuse_expired(
                    claims,
                    now=self._services.now().timestamp(),
                    grace_seconds=self._services.settings.expiry_grace_seconds,
                )
                event = quick.read(claims) or parse_event(
                    claims, link_fqdn=self._services.settings.wix_link_fqdn
                )
            except Unreadable as why:
                return _Unread(verified, why)
        except Rejected as why:
            self._after_work.refuse(why.reason, digest(body))
            log.warning("delivery_rejected", reason=why.reason, detail=why.detail, request_id=request_id)
            return Answer(401, "rejected", why.reason)
        return inbox.Delivery(event, verified.token, verified.digest)

    def _stored(self, event: Event, stored: inbox.Stored, request_id: str) -> Answer:
        # A line for each would cost as much as the signature; `deliveries_stored` counts them.
        is_odd = stored.outcome not in _USUAL
        if is_odd or _logger.isEnabledFor(logging.DEBUG):
            (log.info if is_odd else log.debug)(
                "delivery_stored",
                outcome=stored.outcome.value,
                verdict=stored.verdict.value if stored.verdict else None,
                reason=event.unreadable,
                event_type=event.event_type,
                **_ids(event, request_id),
            )
        if event.unreadable is None:
            return _ANSWERS[stored.outcome]
        return Answer(200, stored.outcome.value, event.unreadable)

    def _not_stored(self, event: Event, why: Exception, request_id: str) -> Answer:
        log.error("delivery_not_stored", why=str(why), **_ids(event, request_id))
        return Answer(503, "unavailable")

    def _overloaded(self, request_id: str) -> Answer:
        log.error("delivery_not_stored", why="too many wait already", request_id=request_id)
        return Answer(503, "unavailable")

    def _without_values(
        self, read: inbox.Delivery, why: inbox.NotStorable, request_id: str
    ) -> inbox.Delivery:
        """`read` with only what is certain to be storable: it must not come back for two days, and is kept unread."""
        log.error("event_not_storable", error=str(why), **_ids(read.event, request_id))
        return replace(read, event=_unread(read.event, str(why)))

    def _keep_unread(self, unread: _Unread, request_id: str) -> Answer:
        verified, why = unread.verified, unread.why
        try:
            with self._services.database.begin() as connection:
                is_first = inbox.keep_unread(
                    connection,
                    token=verified.token,
                    token_digest=verified.digest,
                    why=why,
                    now=self._services.now(),
                )
        except StoreUnavailable as fault:
            log.error("delivery_not_stored", why=str(fault), request_id=request_id)
            return Answer(503, "unavailable")
        log.warning("delivery_unread", reason=why.reason, is_first=is_first, request_id=request_id)
        return Answer(200, "unread", why.reason)


def _ids(event: Event, request_id: str) -> dict[str, str]:
    return {
        "event_id": str(event.event_id),
        "instance_id": str(event.instance_id),
        "request_id": request_id,
    }


def _unread(event: Event, detail: str) -> Event:
    """`event` with only what is certain to be storable."""
    return Event(
        event_id=event.event_id,
        instance_id=event.instance_id,
        event_type=event.event_type,
        kind=event.kind,
        content_digest=event.content_digest,
        entity_id=event.entity_id,
        unreadable=NOT_STORABLE,
        unreadable_detail=detail,
    )


def blueprint(intake: Intake) -> Blueprint:
    """The webhook route over `intake`: whatever serves the application, the request's thread waits for the answer."""
    routes = Blueprint("webhooks", __name__)

    @routes.post(PATH)
    def receive() -> Response:
        """Wix's callback URL."""
        began, request_id = time.perf_counter(), str(uuid4())
        try:
            body = request.get_data(cache=False)
        except RequestEntityTooLarge:
            body = None
        given = intake.receive(body, request_id)
        intake.note(given, began)
        return Response(status=given.status, headers={"X-Request-Id": request_id}, mimetype="text/plain")

    return routes
