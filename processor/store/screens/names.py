"""What people call things that reports know by their ids alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Called:
    """A payment link as Wix last described it. title: None without one."""

    title: str | None
    is_deleted: bool


def links_of(
    connection: Connection, wanted: Collection[tuple[UUID, UUID]]
) -> dict[tuple[UUID, UUID], Called]:
    """Links by (instance, link), of those that Wix described. Look-ups by the key."""
    if not wanted:
        return {}
    instances, links = zip(*sorted(set(wanted)), strict=True)
    rows = connection.execute(
        text("""
            SELECT l.instance_id, l.payment_link_id, l.title, l.missing_since IS NOT NULL AS is_deleted
            FROM unnest(CAST(:instances AS uuid[]), CAST(:links AS uuid[])) AS w (instance_id, payment_link_id)
            JOIN payment_links l ON l.instance_id = w.instance_id AND l.payment_link_id = w.payment_link_id"""),
        {"instances": list(instances), "links": list(links)},
    )
    return {(row.instance_id, row.payment_link_id): Called(row.title, row.is_deleted) for row in rows}


def amounts_of(
    connection: Connection, wanted: Collection[tuple[UUID, UUID]]
) -> dict[tuple[UUID, UUID], tuple[Decimal | None, str | None]]:
    """Amount and currency of payments by (instance, payment), of those that are booked. Look-ups by the key."""
    if not wanted:
        return {}
    instances, payments = zip(*sorted(set(wanted)), strict=True)
    rows = connection.execute(
        text("""
            SELECT p.instance_id, p.payment_id, p.amount, p.currency
            FROM unnest(CAST(:instances AS uuid[]), CAST(:payments AS uuid[])) AS w (instance_id, payment_id)
            JOIN payments p ON p.instance_id = w.instance_id AND p.payment_id = w.payment_id"""),
        {"instances": list(instances), "payments": list(payments)},
    )
    return {(row.instance_id, row.payment_id): (row.amount, row.currency) for row in rows}
