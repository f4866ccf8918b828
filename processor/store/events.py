"""Events already stored: those held for an unconfirmed instance, and those that came with two bodies."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, select, text

from processor.store import evidence
from processor.store.tables import WebhookEvent, is_any_of


@dataclass(frozen=True, slots=True)
class HeldEvent:
    """An event waiting for its instance to be confirmed. token: None once erased, or archived."""

    event_id: UUID
    token: str | None


def lock_held(connection: Connection, instance_id: UUID, limit: int) -> list[HeldEvent]:
    """The oldest held events of an instance, locked; those another worker holds are left out."""
    rows = connection.execute(
        select(WebhookEvent.event_id, WebhookEvent.received_at, WebhookEvent.token)
        .where(WebhookEvent.instance_id == instance_id, WebhookEvent.status == "held")
        .order_by(WebhookEvent.received_at, WebhookEvent.event_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    kept = evidence.tokens(connection, [(instance_id, row.event_id, row.received_at) for row in rows])
    return [HeldEvent(row.event_id, row.token or kept.get((instance_id, row.event_id))) for row in rows]


@dataclass(frozen=True, slots=True)
class HeldOfLink:
    """What is held of one link. payments: how many it tells of. first_received_at: of the eldest event."""

    payment_link_id: UUID
    events: int
    payments: int
    first_received_at: datetime


def held_by_link(connection: Connection, instance_id: UUID, link_ids: Collection[UUID]) -> list[HeldOfLink]:
    """What is held of each of these links, of those that have something held, by id."""
    rows = connection.execute(
        text("""
            SELECT payment_link_id, count(*) AS events,
                count(DISTINCT entity_id) FILTER (WHERE kind = 'payment') AS payments,
                min(received_at) AS first_received_at
            FROM webhook_events
            WHERE instance_id = :instance_id AND status = 'held' AND payment_link_id = ANY(:link_ids)
            GROUP BY payment_link_id ORDER BY payment_link_id"""),
        {"instance_id": instance_id, "link_ids": list(link_ids)},
    )
    return [HeldOfLink(*row) for row in rows]


def held_of(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID], limit: int
) -> list[HeldEvent]:
    """The oldest held events about payments of these links."""
    rows = connection.execute(
        select(WebhookEvent.event_id, WebhookEvent.received_at, WebhookEvent.token)
        .where(
            WebhookEvent.instance_id == instance_id,
            WebhookEvent.status == "held",
            WebhookEvent.kind == "payment",
            is_any_of(WebhookEvent.payment_link_id, link_ids),
        )
        .order_by(WebhookEvent.received_at, WebhookEvent.event_id)
        .limit(limit)
    ).all()
    kept = evidence.tokens(connection, [(instance_id, row.event_id, row.received_at) for row in rows])
    return [HeldEvent(row.event_id, row.token or kept.get((instance_id, row.event_id))) for row in rows]


def release(
    connection: Connection, instance_id: UUID, event_ids: Collection[UUID], status: str = "recorded"
) -> None:
    """Give held events their lasting status."""
    connection.execute(
        text("""
            UPDATE webhook_events SET status = :status
            WHERE instance_id = :instance_id AND event_id = ANY(:event_ids) AND status = 'held'"""),
        {"instance_id": instance_id, "event_ids": list(event_ids), "status": status},
    )


def lock_status(connection: Connection, instance_id: UUID, event_id: UUID) -> str | None:
    """How an event stands; nobody changes it until the transaction ends. None when it is gone."""
    return connection.execute(
        select(WebhookEvent.status)
        .where(WebhookEvent.instance_id == instance_id, WebhookEvent.event_id == event_id)
        .with_for_update()
    ).scalar_one_or_none()


def take_again(
    connection: Connection,
    instance_id: UUID,
    event_id: UUID,
    *,
    kind: str,
    slug: str | None,
    entity_id: UUID | None,
    link_id: UUID | None,
) -> None:
    """Note that an event which could not be read, or was of no known type, is understood now."""
    connection.execute(
        text("""
            UPDATE webhook_events SET status = 'recorded', reason = NULL, reason_detail = NULL, kind = :kind,
                slug = :slug, entity_id = :entity_id, payment_link_id = :link_id
            WHERE instance_id = :instance_id AND event_id = :event_id AND status IN ('unreadable', 'ignored')"""),
        {
            "instance_id": instance_id,
            "event_id": event_id,
            "kind": kind,
            "slug": slug,
            "entity_id": entity_id,
            "link_id": link_id,
        },
    )


def conflicts(connection: Connection, instance_id: UUID, link_ids: Collection[UUID]) -> dict[UUID, set[UUID]]:
    """By link, ids of events that came with more than one body."""
    rows = connection.execute(
        select(WebhookEvent.payment_link_id, WebhookEvent.event_id).where(
            WebhookEvent.instance_id == instance_id,
            is_any_of(WebhookEvent.payment_link_id, link_ids),
            WebhookEvent.conflict_count > 0,
        )
    )
    found: dict[UUID, set[UUID]] = {}
    for link_id, event_id in rows:
        assert link_id is not None
        found.setdefault(link_id, set()).add(event_id)
    return found
