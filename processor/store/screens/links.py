"""What the screens of payment links show beside Wix's word, and instead of it while Wix cannot be asked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, func, literal, select, text, true

from processor.domain.link import Link
from processor.store.screens import refunded
from processor.store.screens.common import keep_to_order, let_plan
from processor.store.tables import Discrepancy, PaymentLinkRow, PaymentRow, is_any_of

# Payments added up of each link: in a list, and on the page of a link unless all of them are asked for.
BOOKED_MAX = 1_000
BOOKED_MAX_OF_ONE = 500
RECENT = 10
STORED_MAX = 50
STORED_LOOKED_AT = 1_000  # of the newest links, when they are searched here

_LINK = [getattr(PaymentLinkRow, name) for name in Link.__dataclass_fields__]


@dataclass(frozen=True, slots=True)
class Booked:
    """What is booked of a link. sums: number and amount by currency; is_more: there is more, which was not counted."""

    sums: dict[str, tuple[int, Decimal]]
    is_more: bool

    @property
    def payments(self) -> int:
        """How many there are, at least."""
        return sum(number for number, _ in self.sums.values())


NOTHING = Booked({}, is_more=False)


def booked(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID], *, limit: int | None = BOOKED_MAX
) -> dict[UUID, Booked]:
    """What is booked of each of the links that has payments, counting `limit` payments of each at most; None: all."""
    rows = connection.execute(
        text("""
            SELECT l.id, p.currency, count(*) AS payments, sum(p.amount) AS amount
            FROM unnest(CAST(:ids AS uuid[])) AS l (id)
            CROSS JOIN LATERAL (
                SELECT currency, amount FROM payments
                WHERE payment_link_id = l.id AND instance_id = :instance_id LIMIT :most
            ) AS p
            GROUP BY l.id, p.currency ORDER BY l.id, p.currency"""),
        {"ids": list(link_ids), "instance_id": instance_id, "most": _most(limit)},
    )
    sums: dict[UUID, dict[str, tuple[int, Decimal]]] = {}
    for row in rows:
        sums.setdefault(row.id, {})[row.currency] = (row.payments, row.amount)
    return {
        link_id: Booked(of, is_more=limit is not None and sum(number for number, _ in of.values()) > limit)
        for link_id, of in sums.items()
    }


def _most(limit: int | None) -> int | None:
    """Of rows that are read, so that one more than `limit` is noticed."""
    return None if limit is None else limit + 1


@dataclass(frozen=True, slots=True)
class GivenBack:
    """Refunds of a link's payments in one currency. amount: of those that succeeded; None when no refund was told of.

    unclear: payments of which a refund succeeded whose amount cannot be booked.
    """

    amount: Decimal | None
    unclear: int


def given_back(
    connection: Connection, instance_id: UUID, link_id: UUID, *, limit: int | None
) -> dict[str, GivenBack]:
    """What was refunded of a link's payments, by currency, of as many payments as `booked` looks at."""
    row = PaymentRow
    some = (
        select(row.instance_id, row.payment_id, row.currency)
        .where(row.payment_link_id == link_id, row.instance_id == instance_id)
        .limit(_most(limit))
        .subquery("some")
    )
    keep_to_order(connection)
    back = refunded.of_each(some.c)
    found = connection.execute(
        select(
            some.c.currency,
            func.sum(refunded.given_back(some.c, back.c)),
            func.count().filter(refunded.is_unclear(some.c, back.c)),
        )
        .select_from(some.join(back, true()))
        .where(back.c.told > 0)
        .group_by(some.c.currency)
    ).all()
    let_plan(connection)
    return {line[0]: GivenBack(line[1], line[2]) for line in found}


def open_discrepancies(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID]
) -> dict[UUID, int]:
    """How many open discrepancies each of the links has, of those that have any."""
    row = Discrepancy
    found = connection.execute(
        select(row.payment_link_id, func.count())
        .where(
            row.instance_id == instance_id,
            is_any_of(row.payment_link_id, link_ids),
            row.closed_at.is_(None),
        )
        .group_by(row.payment_link_id)
    )
    return {line[0]: line[1] for line in found}


@dataclass(frozen=True, slots=True)
class StoredLink:
    """A link as Wix last described it, at seen_at. missing_since: Wix knew it no longer; rest: see `SeenLink`."""

    link: Link
    rest: dict[str, Any]
    seen_at: datetime
    missing_since: datetime | None


def _stored(row: Row[Any]) -> StoredLink:
    return StoredLink(
        Link(**{name: getattr(row, name) for name in Link.__dataclass_fields__}),
        row.rest,
        row.seen_at,
        row.missing_since,
    )


_STORED = [*_LINK, PaymentLinkRow.rest, PaymentLinkRow.seen_at, PaymentLinkRow.missing_since]


def stored(connection: Connection, instance_id: UUID, link_id: UUID) -> StoredLink | None:
    """The link as it was last described, None when it never was."""
    row = connection.execute(
        select(*_STORED).where(
            PaymentLinkRow.instance_id == instance_id, PaymentLinkRow.payment_link_id == link_id
        )
    ).first()
    return None if row is None else _stored(row)


def newest_stored(
    connection: Connection, instance_id: UUID, *, status: str | None, words: str | None
) -> list[StoredLink]:
    """The newest links that we hold a description of, at most 50 of the newest 1,000, the newest first.

    words: that occur in the title. Links that Wix no longer knew are left out, and those without a date.
    """
    row = PaymentLinkRow
    newest = (
        select(*_STORED)
        .where(row.instance_id == instance_id, row.created_at.is_not(None))
        .order_by(row.created_at.desc())
        .limit(STORED_LOOKED_AT)
        .subquery()
    )
    wanted: list[ColumnElement[bool]] = [newest.c.missing_since.is_(None)]
    if status is not None:
        wanted.append(newest.c.status == status)
    if words is not None:
        wanted.append(func.strpos(func.lower(newest.c.title), func.lower(literal(words))) > 0)
    found = connection.execute(
        select(newest)
        .where(*wanted)
        .order_by(newest.c.created_at.desc(), newest.c.payment_link_id)
        .limit(STORED_MAX)
    )
    return [_stored(line) for line in found]


@dataclass(frozen=True, slots=True)
class RecentPayment:
    """A booked payment of a link. match_state: None before its first check."""

    payment_id: UUID
    amount: Decimal
    currency: str
    created_at: datetime | None
    match_state: str | None
    receipt_id: UUID | None


def recent_payments(connection: Connection, instance_id: UUID, link_id: UUID) -> list[RecentPayment]:
    """The latest payments of a link, the newest first, 10 at most; without those that Wix gave no date."""
    row = PaymentRow
    found = connection.execute(
        select(*(getattr(row, name) for name in RecentPayment.__dataclass_fields__))
        .where(row.payment_link_id == link_id, row.instance_id == instance_id, row.created_at.is_not(None))
        .order_by(row.created_at.desc())
        .limit(RECENT)
    )
    return [RecentPayment(*line) for line in found]


def has_payment(connection: Connection, instance_id: UUID, link_id: UUID, payment_id: UUID) -> bool:
    """Whether the payment is booked, and under that link."""
    row = PaymentRow
    return (
        connection.execute(
            select(row.payment_id).where(
                row.instance_id == instance_id,
                row.payment_id == payment_id,
                row.payment_link_id == link_id,
            )
        ).first()
        is not None
    )


def instance_of_link(connection: Connection, link_id: UUID) -> UUID | None:
    """The app instance that a link is of. None when we know no such link, and when two instances do.

    One look-up by primary key for each instance there is.
    """
    rows = connection.execute(
        text("""
            SELECT a.instance_id FROM app_instances a
            CROSS JOIN LATERAL (
                SELECT FROM payment_links l
                WHERE l.instance_id = a.instance_id AND l.payment_link_id = :link_id AND l.missing_since IS NULL
                LIMIT 1
            ) AS l
            WHERE a.status <> 'removed' LIMIT 2"""),
        {"link_id": link_id},
    ).all()
    return rows[0].instance_id if len(rows) == 1 else None
