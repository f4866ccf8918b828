"""What the screens of events show, and of deliveries that became none."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, select, text

from processor.domain.access import Reach
from processor.store import evidence
from processor.store.screens.common import within
from processor.store.screens.keyset import Position, Slice
from processor.store.screens.sieve import Sifted, sift
from processor.store.tables import (
    RejectedDelivery,
    RejectionCount,
    UnreadDelivery,
    WebhookEvent,
    WebhookEventConflict,
)

Line = TypeVar("Line")
KINDS = ("payment", "link", "app_installed", "app_removed", "other")
STATUSES = ("recorded", "held", "ignored", "unreadable")
KEY_TYPES = (datetime, UUID)
CONFLICTS_MAX = 20
STRANGE_MAX = 100  # newest deliveries shown that became no event
UNREAD_MAX = 50
COUNTS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowing:
    """What events are narrowed down to; None for what does not matter. since, until: received in [since, until)."""

    kind: str | None = None
    status: str | None = None
    type: str | None = None
    entity_id: UUID | None = None
    payment_link_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    is_conflicting: bool = False


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event as stored; see `store.tables.WebhookEvent`."""

    instance_id: UUID
    event_id: UUID
    event_type: str
    kind: str
    slug: str | None
    status: str
    reason: str | None
    reason_detail: str | None
    entity_id: UUID | None
    entity_sequence: int | None
    payment_link_id: UUID | None
    occurred_at: datetime | None
    issued_at: datetime | None
    received_at: datetime
    last_received_at: datetime
    delivery_count: int
    conflict_count: int
    is_anonymization: bool
    erased_at: datetime | None
    content_digest: bytes
    token_digest: bytes


def _columns(row: Any, line: type[Any]) -> list[Any]:
    return [getattr(row, one.name) for one in fields(line)]


_EVENT = _columns(WebhookEvent, EventLine)


def events(
    connection: Connection, reach: Reach, instance_id: UUID, by: Narrowing, *, at: Position | None = None
) -> Sifted[EventLine]:
    """Events of an instance by when they were first received, the newest first."""
    row = WebhookEvent
    conditions: list[Any] = [
        row.instance_id == instance_id,
        *within(row.instance_id, reach),
    ]
    if by.since is not None:
        conditions.append(row.received_at >= by.since)
    if by.until is not None:
        conditions.append(row.received_at < by.until)
    if by.entity_id is not None:
        conditions.append(row.entity_id == by.entity_id)  # an index of its own
    if by.status == "unreadable":
        conditions.append(text("webhook_events.status = 'unreadable'"))  # an index of its own, of few
    pairs = (
        (row.kind, by.kind),
        (row.status, None if by.status == "unreadable" else by.status),
        (row.payment_link_id, by.payment_link_id),
    )
    sieve: list[ColumnElement[bool]] = [column == value for column, value in pairs if value is not None]
    if by.type is not None:
        sieve.append(row.event_type.contains(by.type, autoescape=True))
    if by.is_conflicting:
        sieve.append(row.conflict_count > 0)
    found = sift(
        connection, select(*_EVENT).where(*conditions), sieve, (row.received_at, row.event_id), at=at
    )
    lines = [EventLine(*line[: len(_EVENT)]) for line in found.page.items]
    return Sifted(Slice(lines, found.page.before, found.page.after), found.looked_to)


def event(connection: Connection, instance_id: UUID, event_id: UUID) -> EventLine | None:
    """One event, None when the instance has no such one."""
    row = WebhookEvent
    found = connection.execute(
        select(*_EVENT).where(row.event_id == event_id, row.instance_id == instance_id)
    ).one_or_none()
    return EventLine(*found) if found else None


def token(connection: Connection, line: EventLine) -> str | None:
    """Personal: the signed body of an event as first received. None when it was erased, or its month archived."""
    row = WebhookEvent
    held = connection.execute(
        select(row.token).where(row.event_id == line.event_id, row.instance_id == line.instance_id)
    ).scalar_one_or_none()
    if held is not None:
        return held
    key = (line.instance_id, line.event_id)
    return evidence.tokens(connection, [(*key, line.received_at)]).get(key)


@dataclass(frozen=True, slots=True)
class ConflictLine:
    """Another body that came under the id of an event. token: personal, None once erased."""

    content_digest: bytes
    received_at: datetime
    last_received_at: datetime
    delivery_count: int
    token: str | None


def conflicts(connection: Connection, instance_id: UUID, event_id: UUID) -> list[ConflictLine]:
    """Other bodies of an event, the first CONFLICTS_MAX."""
    row = WebhookEventConflict
    found = connection.execute(
        select(*_columns(row, ConflictLine))
        .where(row.instance_id == instance_id, row.event_id == event_id)
        .order_by(row.received_at, row.content_digest)
        .limit(CONFLICTS_MAX)
    )
    return [ConflictLine(*line) for line in found]


# -- Deliveries without an instance: only for who sees every one ---------------------------------------


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A delivery that was not signed by Wix. Its body is not kept."""

    body_digest: bytes
    reason: str
    received_at: datetime
    last_received_at: datetime
    delivery_count: int


def rejected(connection: Connection) -> list[RejectedLine]:
    """Samples of what was refused, the latest first, at most STRANGE_MAX."""
    row = RejectedDelivery
    return _latest(connection, row, RejectedLine, (row.last_received_at, row.body_digest), STRANGE_MAX)


def rejections_by_day(connection: Connection, since: date) -> list[tuple[date, str, int]]:
    """UTC day, reason and number of refused deliveries since a day, the newest first."""
    row = RejectionCount
    found = connection.execute(
        select(row.day, row.reason, row.delivery_count)
        .where(row.day >= since)
        .order_by(row.day.desc(), row.reason)
        .limit(COUNTS_MAX)
    )
    return [(line[0], line[1], line[2]) for line in found]


@dataclass(frozen=True, slots=True)
class UnreadLine:
    """An authentic delivery whose instance cannot be read. token: personal."""

    token_digest: bytes
    reason: str
    reason_detail: str | None
    token: str
    received_at: datetime
    last_received_at: datetime
    delivery_count: int


def unread(connection: Connection) -> list[UnreadLine]:
    """The latest of them, at most UNREAD_MAX."""
    row = UnreadDelivery
    return _latest(connection, row, UnreadLine, (row.received_at, row.token_digest), UNREAD_MAX)


def _latest(
    connection: Connection, row: Any, line: type[Line], by: tuple[Any, Any], limit: int
) -> list[Line]:
    """Lines of a table, the latest first. by: when each came, and what tells those of one moment apart."""
    at, key = by
    found = connection.execute(select(*_columns(row, line)).order_by(at.desc(), key).limit(limit))
    return [line(*one) for one in found]
