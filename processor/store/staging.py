"""What Wix lists of a span of time, laid beside the books and compared there: memory stays flat, whatever the span.

A sweep or backfill copies every page it reads into `swept_payments`, under its lease. Once a part of the window is
whole, one statement compares it with the payments booked for the same span, and asks for a check of every link for
which the two differ. A check then decides and books: there is one way of repair.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Connection, text

from processor.domain.payment import FACTS, Payment
from processor.errors import StoreUnavailable
from processor.store.database import first_line

_COLUMNS = ("lease_id", "payment_id", "reason", "revision", *FACTS)
_COPY = f"COPY swept_payments ({', '.join(_COLUMNS)}) FROM STDIN"
_FACTS = ", ".join(FACTS)
_NULL = "\\N"


@dataclass(frozen=True, slots=True)
class Unread:
    """A listed payment that cannot be read, with the reason. payment_link_id: None when that cannot be read either."""

    payment_id: UUID
    payment_link_id: UUID | None
    reason: str


def stage(
    connection: Connection, lease_id: UUID, listed: Collection[Payment], unread: Collection[Unread] = ()
) -> None:
    """Copy what a page lists. A payment may be copied more than once: the highest revision stands."""
    lines = [_line(lease_id.hex, one) for one in listed]
    blank = "\t".join([_NULL] * (len(FACTS) - 1))
    for odd in unread:
        link = odd.payment_link_id.hex if odd.payment_link_id else _NULL
        lines.append(
            f"{lease_id.hex}\t{odd.payment_id.hex}\t{_escaped(odd.reason)}\t{_NULL}\t{link}\t{blank}\n"
        )
    if not lines:
        return
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.write("".join(lines))
    except (psycopg.OperationalError, psycopg.InterfaceError) as why:
        raise StoreUnavailable(first_line(why)) from why


def _line(lease: str, one: Payment) -> str:
    # By hand: psycopg's own rows take three times as long, and this is done for every payment Wix ever lists.
    created, transaction, receipt = one.created_at, one.transaction_at, one.receipt_id
    return (
        f"{lease}\t{one.payment_id.hex}\t\\N\t{one.revision}\t{one.payment_link_id.hex}\t{one.amount}\t{one.currency}"
        f"\t{_text(one.type)}\t{created.isoformat() if created else _NULL}"
        f"\t{transaction.isoformat() if transaction else _NULL}\t{receipt.hex if receipt else _NULL}"
        f"\t{_text(one.ecom_checkout_id)}\t{_text(one.ecom_order_id)}\t{_text(one.method)}"
        f"\t{_text(one.payment_method)}\t{_text(one.payment_provider)}\n"
    )


def _text(value: str | None) -> str:
    if value is None:
        return _NULL
    return value if value.isprintable() and "\\" not in value else _escaped(value)


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _escaped(value: str) -> str:
    return value.translate(_ESCAPES)


@dataclass(frozen=True, slots=True)
class Sums:
    """Of one currency: how many payments are booked and listed for the span, and what they come to."""

    booked: int
    booked_amount: Decimal
    listed: int
    listed_amount: Decimal


@dataclass(frozen=True, slots=True)
class Compared:
    """What comparing a part found. verdicts: how many payments stand so, by the words below.

    new, newer, stale, conflict, same: as `domain.payment.judge` says of what Wix lists. unlisted: booked, and not
    listed. unreadable: listed, and not to be read. links: how many links were asked to be checked. sums: by currency.
    """

    verdicts: Mapping[str, int]
    links: int
    sums: Mapping[str, Sums]

    @property
    def listed(self) -> int:
        """How many payments Wix lists for the span."""
        return sum(number for verdict, number in self.verdicts.items() if verdict != "unlisted")


def _verdict(booked: str) -> str:
    """`domain.payment.judge` in SQL, of `listed` l beside the payment as `booked`."""
    contradicts = " OR ".join(f"{booked}.{name} <> l.{name}" for name in FACTS)
    return f"""CASE WHEN l.payment_id IS NULL THEN 'unlisted' WHEN l.reason IS NOT NULL THEN 'unreadable'
        WHEN {booked}.payment_id IS NULL THEN 'new' WHEN l.revision > {booked}.revision THEN 'newer'
        WHEN l.revision < {booked}.revision THEN 'stale' WHEN ({contradicts}) IS TRUE THEN 'conflict' ELSE 'same' END"""


_COMPARE = text(f"""
WITH listed AS MATERIALIZED (
    -- While items move between pages one may come twice.
    SELECT DISTINCT ON (payment_id) payment_id, reason, revision, {_FACTS} FROM swept_payments
    WHERE lease_id = :lease_id AND (created_at IS NULL OR created_at < :until)
    ORDER BY payment_id, revision DESC NULLS LAST
), ours AS MATERIALIZED (
    SELECT payment_id, revision, match_state, changed_at, {_FACTS} FROM payments
    WHERE instance_id = :instance_id AND created_at >= :since AND created_at < :until
), beside AS MATERIALIZED (
    SELECT payment_id, l.payment_link_id AS listed_link, l.currency AS listed_currency, l.amount AS listed_amount,
        o.payment_link_id AS booked_link, o.currency AS booked_currency, o.amount AS booked_amount,
        o.match_state, o.changed_at, {_verdict("o")} AS verdict
    FROM listed l FULL JOIN ours o USING (payment_id)
), judged AS (
    SELECT listed_link, listed_currency, listed_amount, booked_link, booked_currency, booked_amount, match_state,
        changed_at, verdict
    FROM beside WHERE verdict <> 'new'
    UNION ALL
    -- Not booked for this span may be booked for another: silence, or another date.
    SELECT l.payment_link_id, l.currency, l.amount, b.payment_link_id, b.currency, b.amount, b.match_state,
        b.changed_at, {_verdict("b")}
    FROM beside n JOIN listed l USING (payment_id)
    LEFT JOIN payments b ON b.instance_id = :instance_id AND b.payment_id = l.payment_id
    WHERE n.verdict = 'new'
), asked AS (
    INSERT INTO check_requests (instance_id, payment_link_id, requested_at)
    SELECT DISTINCT CAST(:instance_id AS uuid), link_id, CAST(:now AS timestamptz)
    FROM judged CROSS JOIN LATERAL (VALUES (listed_link), (booked_link)) AS of (link_id)
    WHERE link_id IS NOT NULL AND CASE
        WHEN verdict = 'same' THEN false
        WHEN verdict IN ('new', 'newer') THEN true
        -- A check found it before, and looks at it again in its own time.
        WHEN match_state = 'discrepant' THEN false
        -- Its event asked for a check, which waits until queries should show it.
        ELSE changed_at IS NULL OR changed_at <= :settled END
    ORDER BY 2
    RETURNING payment_link_id
)
SELECT verdict, NULL AS currency, count(*) AS booked, NULL AS booked_amount, NULL AS listed, NULL AS listed_amount
FROM judged GROUP BY verdict
UNION ALL
SELECT NULL, currency, sum(booked), sum(booked_amount), sum(listed), sum(listed_amount) FROM (
    SELECT booked_currency AS currency, count(*) AS booked, sum(booked_amount) AS booked_amount, 0 AS listed,
        0 AS listed_amount FROM judged WHERE booked_currency IS NOT NULL GROUP BY booked_currency
    UNION ALL
    SELECT listed_currency, 0, 0, count(*), sum(listed_amount) FROM judged
    WHERE listed_currency IS NOT NULL GROUP BY listed_currency) AS sides
GROUP BY currency
UNION ALL
SELECT NULL, NULL, count(*), NULL, NULL, NULL FROM asked""")


def compare(
    connection: Connection,
    instance_id: UUID,
    lease_id: UUID,
    *,
    since: datetime,
    until: datetime,
    settling: timedelta,
    now: datetime,
) -> Compared:
    """Compare what was staged with what is booked, both created from `since` on and before `until`.

    Asks for a check of every link for which they differ, but where time alone may cure it or a check found it before.
    """
    rows = connection.execute(
        _COMPARE,
        {
            "instance_id": instance_id,
            "lease_id": lease_id,
            "since": since,
            "until": until,
            "settled": now - settling,
            "now": now,
        },
    ).all()
    links = next(row.booked for row in rows if row.verdict is None and row.currency is None)
    return Compared(
        verdicts={row.verdict: int(row.booked) for row in rows if row.verdict is not None},
        links=int(links),
        sums={
            row.currency: Sums(int(row.booked), row.booked_amount, int(row.listed), row.listed_amount)
            for row in rows
            if row.currency is not None
        },
    )


def forget(connection: Connection, lease_id: UUID) -> None:
    """Delete what was staged under a lease."""
    connection.execute(text("DELETE FROM swept_payments WHERE lease_id = :lease_id"), {"lease_id": lease_id})


def forget_abandoned(connection: Connection) -> int:
    """Delete what sweeps and backfills staged that hold no window any more: they died. Returns how many rows."""
    return connection.execute(
        text("""
            -- From one lease to the next by the index, however many rows each has.
            WITH RECURSIVE leases AS (
                (SELECT lease_id FROM swept_payments ORDER BY lease_id LIMIT 1)
                UNION ALL
                SELECT (SELECT n.lease_id FROM swept_payments n WHERE n.lease_id > leases.lease_id
                    ORDER BY n.lease_id LIMIT 1)
                FROM leases WHERE lease_id IS NOT NULL)
            DELETE FROM swept_payments WHERE lease_id IN (
                SELECT l.lease_id FROM leases l
                WHERE NOT EXISTS (SELECT FROM sweeps s WHERE s.lease_id = l.lease_id)
                    AND NOT EXISTS (SELECT FROM backfills b WHERE b.lease_id = l.lease_id))""")
    ).rowcount
