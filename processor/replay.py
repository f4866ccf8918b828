"""Read stored events once more with the code of today, and book what they say if it is news.

For events that an earlier release could not read or did not know, and as a proof: over good data a replay
changes nothing, not even a row of evidence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import structlog
from sqlalchemy.exc import DataError, IntegrityError

from processor.domain.event import Event, Kind
from processor.domain.payment import Origin, Verdict, judge
from processor.errors import Rejected, StoreUnavailable, Unreadable
from processor.store import checks, events, inbox, instances, listings, payments
from processor.store.listings import EventLine, Narrowing
from processor.wiring import Services
from processor.wix.parse import parse_claims, parse_event
from processor.wix.signature import decode_segment, refuse_expired

log = structlog.get_logger(__name__)

PAGE = 500
LATE = ("unreadable", "ignored")  # how an event stands that an earlier release could make nothing of


class Left(StrEnum):
    """Why an event is left as it is."""

    ERASED = "erased"
    ARCHIVED = "archived"
    UNREADABLE = "unreadable"
    HELD = "held"
    NO_PAYMENT = "no_payment"
    NOT_NEWS = "not_news"


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of one event. verdict: of its payment, None where there is none; left: None when it is news."""

    event: EventLine
    verdict: Verdict | None
    left: Left | None
    detail: str = ""


def replay(services: Services, by: Narrowing, *, is_dry: bool) -> Iterator[Replayed]:
    """Replay the events that `by` describes, the oldest first, each in a transaction of its own.

    is_dry: only say what would be done; then an event is judged as if those before it had changed nothing.
    """
    after = None
    while True:
        with services.database.begin() as connection:
            page = listings.events(connection, by, limit=PAGE, after=after, oldest_first=True)
        for event in page:
            yield replay_one(services, event, is_dry=is_dry)
        if len(page) < PAGE:
            return
        last = page[-1]
        after = (last.received_at, last.event_id, last.instance_id)


def replay_one(services: Services, line: EventLine, *, is_dry: bool) -> Replayed:
    """Replay one event."""
    if line.token is None:
        return Replayed(
            line, None, Left.ERASED if line.erased_at else Left.ARCHIVED, f"its token was {line.why_bodiless}"
        )
    try:
        event = parse_event(
            parse_claims(decode_segment(line.token.split(".")[1].encode())),
            link_fqdn=services.settings.wix_link_fqdn,
        )
    except Unreadable as why:
        return Replayed(line, None, Left.UNREADABLE, why.reason)
    if event.unreadable is not None:
        return Replayed(line, None, Left.UNREADABLE, event.unreadable)
    if line.status == "held":
        return Replayed(line, None, Left.HELD, "nobody has vouched for its app instance yet")
    if event.seen is None and not (line.status in LATE and event.kind is Kind.LINK):
        return Replayed(line, None, Left.NO_PAYMENT)
    try:
        return _apply(services, line, event, is_dry=is_dry)
    except StoreUnavailable:
        # Two that wait for each other: one of them is given up by the database, and may try again.
        return _apply(services, line, event, is_dry=is_dry)


def _apply(services: Services, line: EventLine, event: Event, *, is_dry: bool) -> Replayed:
    with services.database.begin() as connection:
        if instances.status(connection, line.instance_id) == "unconfirmed":
            return Replayed(line, None, Left.HELD, "nobody has vouched for its app instance yet")
        # The event before its payment, as the intake locks them; it may stand otherwise than when it was listed.
        is_late = events.lock_status(connection, line.instance_id, line.event_id) in LATE
        verdict: Verdict | None = None
        if event.seen is not None:
            known = payments.lock(connection, line.instance_id, event.seen.payment.payment_id)
            verdict = judge(known, event.seen.payment)
        if not is_late and (verdict is None or not verdict.applies):
            return Replayed(line, verdict, Left.NOT_NEWS)
        if is_dry:
            return Replayed(line, verdict, None)
        if is_late:
            events.take_again(
                connection,
                line.instance_id,
                line.event_id,
                kind=event.kind.value,
                slug=event.slug,
                entity_id=event.entity_id,
                link_id=event.link_id,
            )
        if event.seen is not None:
            payments.apply(
                connection,
                [
                    payments.telling(
                        event.seen,
                        origin=Origin.REPLAY,
                        told_at=services.now(),
                        event_id=line.event_id,
                        is_anonymization=event.anonymized,
                    )
                ],
            )
        if event.entity_id is not None and (
            event.anonymized or payments.is_erased(connection, line.instance_id, event.entity_id)
        ):
            payments.erase(connection, line.instance_id, event.entity_id, services.now())
        if event.link_id is not None:
            checks.request(connection, line.instance_id, [event.link_id], services.now())
    return Replayed(line, verdict, None)


def one(services: Services, event_id: UUID, instance_id: UUID | None) -> list[EventLine]:
    """The stored events of this id."""
    with services.database.begin() as connection:
        return listings.event(connection, event_id, instance_id)


# -- Deliveries that became no event -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadAgain:
    """What came of a delivery that could not be read. left: why it still cannot, then `event_id` is None.

    outcome: what the inbox made of it, None when it is dry or still unread.
    """

    token_digest: bytes
    instance_id: UUID | None = None
    event_id: UUID | None = None
    outcome: inbox.Outcome | None = None
    left: str | None = None


def unread(services: Services, limit: int = PAGE) -> list[bytes]:
    """Digests of the deliveries of which not even the instance can be read, the oldest first."""
    with services.database.begin() as connection:
        return [digest for _, digest in inbox.unread(connection, limit)]


def read_all_again(services: Services, *, is_dry: bool = False) -> Iterator[ReadAgain]:
    """Read every such delivery again, the oldest first, each in a transaction of its own.

    What cannot be read stands in nobody's way: the next one is read whatever became of those before it.
    """
    after: inbox.UnreadAt | None = None
    while True:
        with services.database.begin() as connection:
            page = inbox.unread(connection, PAGE, after)
        if not page:
            return
        for after in page:
            told = read_again(services, after[1], is_dry=is_dry)
            if told is not None:
                yield told


def read_again(services: Services, token_digest: bytes, *, is_dry: bool = False) -> ReadAgain | None:
    """Read such a delivery with the code of today, and store it as if it came now; then it is unread no more.

    None when there is none (any more): it was read by another, or is cleaned away. What was received before its
    expiry stays in time. An event that is known already, by a later delivery, is counted as told once more.
    """
    with services.database.begin() as connection:
        held = inbox.lock_unread(connection, token_digest)
        if held is None:
            return None
        try:
            claims = parse_claims(decode_segment(held.token.split(".")[1].encode()))
            refuse_expired(
                claims,
                now=held.received_at.timestamp(),
                grace_seconds=services.settings.expiry_grace_seconds,
            )
            event = parse_event(claims, link_fqdn=services.settings.wix_link_fqdn)
        except (Unreadable, Rejected) as why:
            return ReadAgain(token_digest, left=why.reason)
        except (ValueError, IndexError):
            return ReadAgain(token_digest, left="not_a_token")
        if is_dry:
            return ReadAgain(token_digest, event.instance_id, event.event_id)
        delivery = inbox.Delivery(event, held.token, token_digest)
        try:
            with connection.begin_nested():
                [stored] = inbox.record(connection, [delivery], services.now())
        except (DataError, IntegrityError) as why:
            fault = inbox.fault_of(why)
            if isinstance(fault, StoreUnavailable):
                raise fault from why
            return ReadAgain(token_digest, left="not_storable")
        inbox.forget_unread(connection, token_digest)
    log.info("delivery_read_again", event_id=str(event.event_id), instance_id=str(event.instance_id))
    return ReadAgain(token_digest, event.instance_id, event.event_id, stored.outcome)
