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
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from flask import Blueprint, Response, request
from werkzeug.exceptions import RequestEntityTooLarge

from processor.domain.event import Event
from processor.errors import Rejected, StoreUnavailable, Unreadable
from processor.metrics import ANSWER_SECONDS, DELIVERIES
from processor.store import inbox
from processor.web.afterwork import AfterWork
from processor.wiring import Services
from processor.wix.parse import parse_claims, parse_event
from processor.wix.signature import Verified, digest, refuse_expired, verify

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = structlog.get_logger(__name__)

_logger = logging.getLogger(__name__)  # the same, to ask whether a line is wanted

PATH = "/webhooks/wix"
NOT_STORABLE = "not_storable"
_USUAL = (inbox.Outcome.STORED, inbox.Outcome.DUPLICATE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer. outcome, reason: for logs and metrics; reason is empty for most outcomes."""

    status: int
    outcome: str
    reason: str = ""


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

    def close(self) -> None:
        """End what works in the background; what has begun is finished."""
        self._inbox.close()
        self._after_work.stop()

    def refuse_size(self, request_id: str) -> Answer:
        """The body is above the bound, so it was not read whole."""
        log.warning("delivery_too_large", request_id=request_id)
        return Answer(413, "too_large")

    def receive(self, body: bytes, request_id: str) -> Answer:
        """Verify and store one delivery. Never raises what a sender can cause."""
        if len(body) > self._services.settings.body_bytes_max:
            return self.refuse_size(request_id)
        now = self._services.now()
        try:
            verified = verify(body, self._keys)
            try:
                claims = parse_claims(verified.claims)
                refuse_expired(
                    claims,
                    now=now.timestamp(),
                    grace_seconds=self._services.settings.expiry_grace_seconds,
                )
                event = parse_event(claims, link_fqdn=self._services.settings.wix_link_fqdn)
            except Unreadable as why:
                return self._keep_unread(verified, why, request_id)
        except Rejected as why:
            self._after_work.refuse(why.reason, digest(body))
            log.warning("delivery_rejected", reason=why.reason, detail=why.detail, request_id=request_id)
            return Answer(401, "rejected", why.reason)
        return self._store(event, verified, request_id)

    def _store(self, event: Event, verified: Verified, request_id: str) -> Answer:
        def ids() -> dict[str, str]:
            return {
                "event_id": str(event.event_id),
                "instance_id": str(event.instance_id),
                "request_id": request_id,
            }

        try:
            try:
                stored = self._inbox.store(inbox.Delivery(event, verified.token, verified.digest))
            except inbox.NotStorable as why:
                # It must not come back for two days: keep it unread.
                log.error("event_not_storable", error=str(why), **ids())
                event = _unread(event, str(why))
                stored = self._inbox.store(inbox.Delivery(event, verified.token, verified.digest))
        except (StoreUnavailable, inbox.NotStorable) as why:
            log.error("delivery_not_stored", why=str(why), **ids())
            return Answer(503, "unavailable")
        self._after_work.store(stored.outcome)
        # A line for each would cost as much as the signature; `deliveries_stored` counts them.
        is_odd = stored.outcome not in _USUAL
        if is_odd or _logger.isEnabledFor(logging.DEBUG):
            (log.info if is_odd else log.debug)(
                "delivery_stored",
                outcome=stored.outcome.value,
                verdict=stored.verdict.value if stored.verdict else None,
                reason=event.unreadable,
                event_type=event.event_type,
                **ids(),
            )
        return Answer(200, stored.outcome.value, event.unreadable or "")

    def _keep_unread(self, verified: Verified, why: Unreadable, request_id: str) -> Answer:
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


def answer(intake: Intake, read: Callable[[], bytes | None]) -> tuple[Answer, str]:
    """One POST, whoever serves it: the answer and the request's id. read: the body, None when it is too large."""
    began = time.perf_counter()
    request_id = str(uuid4())
    body = read()
    given = intake.refuse_size(request_id) if body is None else intake.receive(body, request_id)
    DELIVERIES.labels(given.outcome, given.reason).inc()
    ANSWER_SECONDS.observe(time.perf_counter() - began)
    return given, request_id


def blueprint(intake: Intake) -> Blueprint:
    """The webhook route over `intake`."""
    routes = Blueprint("webhooks", __name__)

    def read() -> bytes | None:
        try:
            return request.get_data(cache=False)
        except RequestEntityTooLarge:
            return None

    @routes.post(PATH)
    def receive() -> Response:
        """Wix's callback URL."""
        given, request_id = answer(intake, read)
        return Response(status=given.status, headers={"X-Request-Id": request_id}, mimetype="text/plain")

    return routes


class Front:
    """The webhook in front of Flask, for the one path that a flash sale comes by; everything else goes on to Flask.

    Without Flask's dispatch, request and response objects a fifth more events are stored per second (`make bench`).
    The answer is made by the same function, and the tests of the endpoint run over both ways.
    """

    def __init__(self, app: WSGIApplication, intake: Intake, body_bytes_max: int) -> None:
        self._app = app
        self._intake = intake
        self._body_bytes_max = body_bytes_max

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """As of PEP 3333."""
        if environ["PATH_INFO"] != PATH or environ["REQUEST_METHOD"] != "POST":
            return self._app(environ, start_response)
        given, request_id = answer(self._intake, lambda: self._read(environ))
        start_response(
            _STATUS_LINES[given.status],
            [
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Content-Length", "0"),
                ("X-Request-Id", request_id),
            ],
        )
        return [b""]

    def _read(self, environ: WSGIEnvironment) -> bytes | None:
        most = self._body_bytes_max + 1
        if length := environ.get("CONTENT_LENGTH"):
            # What is no number is refused by the servers.
            if int(length) > self._body_bytes_max:
                return None
            most = int(length)
        elif not environ.get("wsgi.input_terminated"):
            return b""  # nobody would say where the body ends
        read = environ["wsgi.input"].read
        body: bytes = read(most)
        while len(body) < most and (more := read(most - len(body))):
            body += more
        return body if len(body) <= self._body_bytes_max else None


_STATUS_LINES = {status: f"{status} {HTTPStatus(status).phrase}" for status in (200, 401, 413, 503)}
