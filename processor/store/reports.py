"""What people are shown of the books: sums by SQL, per currency."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Connection, select, text

from processor.domain.payment import IDENTITY, Payment
from processor.store import payments
from processor.store.tables import PaymentRow, is_any_of


@dataclass(frozen=True, slots=True)
class LinkReport:
    """One payment link's books in one currency.

    events, deliveries: webhook events about its payments, and how often those were delivered.
    payments, amount: what is booked; amount in main units of currency. matched: booked payments that Wix
    lists alike at the last check. recovered: booked payments that a poll found before any webhook.
    discrepancies: types of those open, sorted.
    """

    instance_id: UUID
    payment_link_id: UUID
    currency: str | None
    events: int
    deliveries: int
    payments: int
    amount: Decimal
    matched: int
    recovered: int
    discrepancies: tuple[str, ...]


def links(
    connection: Connection,
    instance_id: UUID,
    limit: int = 1_000,
    *,
    link_ids: Collection[UUID] | None = None,
) -> list[LinkReport]:
    """Books of the links of one instance that have payments, events or discrepancies, by link and currency.

    link_ids: of these links alone.
    """
    rows = connection.execute(
        text("""
            WITH told AS (
                SELECT payment_link_id, count(*) AS events, sum(delivery_count) AS deliveries
                FROM webhook_events
                WHERE instance_id = :instance_id AND kind = 'payment' AND payment_link_id IS NOT NULL
                GROUP BY payment_link_id
            ), booked AS (
                SELECT payment_link_id, currency, count(*) AS payments, sum(amount) AS amount,
                    count(*) FILTER (WHERE match_state = 'matched') AS matched,
                    count(*) FILTER (WHERE first_origin = 'poll') AS recovered
                FROM payments WHERE instance_id = :instance_id GROUP BY payment_link_id, currency
            ), disputed AS (
                SELECT payment_link_id, array_agg(DISTINCT type ORDER BY type) AS types
                FROM discrepancies WHERE instance_id = :instance_id AND closed_at IS NULL
                GROUP BY payment_link_id
            )
            SELECT payment_link_id, b.currency, COALESCE(t.events, 0) AS events,
                COALESCE(t.deliveries, 0) AS deliveries, COALESCE(b.payments, 0) AS payments,
                COALESCE(b.amount, 0) AS amount, COALESCE(b.matched, 0) AS matched,
                COALESCE(b.recovered, 0) AS recovered, COALESCE(d.types, '{}') AS types
            FROM booked b
            FULL JOIN told t USING (payment_link_id)
            FULL JOIN disputed d USING (payment_link_id)
            WHERE CAST(:link_ids AS uuid[]) IS NULL OR payment_link_id = ANY(:link_ids)
            ORDER BY payment_link_id, b.currency LIMIT :limit"""),
        {
            "instance_id": instance_id,
            "limit": limit,
            "link_ids": None if link_ids is None else list(link_ids),
        },
    )
    return [
        LinkReport(
            instance_id=instance_id,
            payment_link_id=row.payment_link_id,
            currency=row.currency,
            events=row.events,
            deliveries=int(row.deliveries),
            payments=row.payments,
            amount=row.amount,
            matched=row.matched,
            recovered=row.recovered,
            discrepancies=tuple(row.types),
        )
        for row in rows
    ]


def booked(connection: Connection, instance_ids: Collection[UUID], limit: int = 100_000) -> list[Payment]:
    """Every payment booked for these instances, by id."""
    columns = [getattr(PaymentRow, name) for name in Payment.__struct_fields__]
    rows = connection.execute(
        select(*columns)
        .where(is_any_of(PaymentRow.instance_id, instance_ids))
        .order_by(*(getattr(PaymentRow, name) for name in IDENTITY))
        .limit(limit)
    )
    return [payments.payment_from(row) for row in rows]


def unsettled(connection: Connection, instance_ids: Collection[UUID]) -> int:
    """How much still waits before the books are what Wix said: requests, checks wanted or unsettled, held events."""
    return int(
        connection.execute(
            text("""
                SELECT (SELECT count(*) FROM check_requests WHERE instance_id = ANY(:ids))
                    + (SELECT count(*) FROM link_checks WHERE instance_id = ANY(:ids)
                        AND (wanted > checked OR lease_id IS NOT NULL OR unsettled_since IS NOT NULL))
                    + (SELECT count(*) FROM webhook_events WHERE instance_id = ANY(:ids) AND status = 'held')
                    + (SELECT count(*) FROM payments WHERE instance_id = ANY(:ids)
                        AND match_state IS DISTINCT FROM 'matched' AND match_state IS DISTINCT FROM 'discrepant')
            """),
            {"ids": list(instance_ids)},
        ).scalar_one()
    )


def open_by_link(connection: Connection, instance_ids: Collection[UUID]) -> set[tuple[UUID, str]]:
    """Open discrepancies: (payment link, type)."""
    rows = connection.execute(
        text("""
            SELECT DISTINCT payment_link_id, type FROM discrepancies
            WHERE instance_id = ANY(:ids) AND closed_at IS NULL"""),
        {"ids": list(instance_ids)},
    )
    return {(row.payment_link_id, row.type) for row in rows}
