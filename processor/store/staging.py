"""What Wix lists of a span of time, laid beside the books and compared there: memory stays flat, whatever the span.

A part of a sweep or backfill is copied into a table that lives as long as the transaction. One statement compares it
with the payments booked for the same span, and asks for a check of every link for which the two differ. A check then
decides and books: there is one way of repair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from sqlalchemy import Connection, text

from processor.domain.payment import FACTS, Payment
from processor.errors import StoreUnavailable
from processor.store.database import first_line

_COLUMNS = ("payment_id", "reason", "revision", *FACTS)
# No statistics are kept of it: the planner goes by its size.
_CREATE = text("""
    CREATE TEMPORARY TABLE swept_payments (payment_id uuid NOT NULL, reason text, revision bigint,
        payment_link_id uuid, amount numeric(19, 3), currency text, type text, created_at timestamptz,
        transaction_at timestamptz, receipt_id uuid, ecom_checkout_id text, ecom_order_id text, method text,
        payment_method text, payment_provider text) ON COMMIT DROP""")
_INTO = f"COPY swept_payments ({', '.join(_COLUMNS)}) FROM STDIN"
# JSON's arrays without their brackets are CSV, as long as nothing in them has to be escaped.
_COPY_PLAIN = f"{_INTO} (FORMAT csv, NULL 'null')"
_COPY_ESCAPED = _INTO
_encoded = msgspec.json.Encoder().encode_lines


@dataclass(frozen=True, slots=True)
class Unread:
    """A listed payment that cannot be read, with the reason. payment_link_id: None when that cannot be read either."""

    payment_id: UUID
    payment_link_id: UUID | None
    reason: str


def stage(connection: Connection, listed: Collection[Payment], unread: Collection[Unread] = ()) -> None:
    """Copy what Wix lists for `compare` in the same transaction; each payment at most once."""
    connection.execute(_CREATE)
    rows: list[tuple[Any, ...]] = [
        (
            *(one.payment_id, None, one.revision, one.payment_link_id, one.amount, one.currency, one.type),
            *(one.created_at, one.transaction_at, one.receipt_id, one.ecom_checkout_id, one.ecom_order_id),
            *(one.method, one.payment_method, one.payment_provider),
        )
        for one in listed
    ]
    blank = (None,) * (len(FACTS) - 1)
    rows += [(one.payment_id, one.reason, None, one.payment_link_id, *blank) for one in unread]
    driver: Any = connection.connection.driver_connection
    try:
        # Five times as fast as a writer of CSV, and done for every payment Wix ever lists.
        plain = _encoded(rows)
        is_plain = b"\\" not in plain
        with driver.cursor() as cursor, cursor.copy(_COPY_PLAIN if is_plain else _COPY_ESCAPED) as copy:
            copy.write(plain.replace(b"]\n[", b"\n")[1:-2] if is_plain else _escaped(rows))
    except (psycopg.OperationalError, psycopg.InterfaceError) as why:
        raise StoreUnavailable(first_line(why)) from why


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _escaped(rows: Iterable[tuple[Any, ...]]) -> str:
    """PostgreSQL's own text format, of words with quotes, backslashes or control characters in them."""
    return "".join(
        "\t".join("\\N" if value is None else str(value).translate(_ESCAPES) for value in row) + "\n"
        for row in rows
    )


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


_BOOKED = (*FACTS, "revision", "match_state", "changed_at")
_EITHER = ", ".join(f"COALESCE(o.{name}, b.{name}) AS {name}" for name in _BOOKED)
_COMPARE = text(f"""
WITH judged AS MATERIALIZED (
    -- `domain.payment.judge` in SQL: silence on either side is no contradiction.
    SELECT CASE WHEN l.payment_id IS NULL THEN 'unlisted' WHEN l.reason IS NOT NULL THEN 'unreadable'
            WHEN p.revision IS NULL THEN 'new' WHEN l.revision > p.revision THEN 'newer'
            WHEN l.revision < p.revision THEN 'stale'
            WHEN ({" OR ".join(f"p.{name} <> l.{name}" for name in FACTS)}) IS TRUE THEN 'conflict'
            ELSE 'same' END AS verdict,
        l.payment_link_id AS listed_link, l.currency AS listed_currency, l.amount AS listed_amount,
        p.payment_link_id AS booked_link, p.currency AS booked_currency, p.amount AS booked_amount,
        p.match_state, p.changed_at
    FROM swept_payments l
    FULL JOIN (
        SELECT payment_id, {", ".join(_BOOKED)} FROM payments
        WHERE instance_id = :instance_id AND created_at >= :since AND created_at < :until) o USING (payment_id)
    -- Not booked for this span, it may be for another: silence about the date, or another date.
    LEFT JOIN LATERAL (
        SELECT {", ".join(_BOOKED)} FROM payments f
        WHERE o.payment_id IS NULL AND f.instance_id = :instance_id AND f.payment_id = l.payment_id
        LIMIT 1) b ON true
    CROSS JOIN LATERAL (SELECT {_EITHER}) p
), asked AS (
    INSERT INTO check_requests (instance_id, payment_link_id, requested_at)
    SELECT DISTINCT CAST(:instance_id AS uuid), link_id, CAST(:now AS timestamptz)
    FROM judged CROSS JOIN LATERAL (VALUES (listed_link), (booked_link)) AS of (link_id)
    WHERE verdict <> 'same' AND link_id IS NOT NULL AND CASE
        WHEN verdict IN ('new', 'newer') THEN true
        -- A check found it before, and looks at it again in its own time.
        WHEN match_state = 'discrepant' THEN false
        -- Its event asked for a check, which waits until queries should show it.
        ELSE changed_at IS NULL OR changed_at <= :settled END
    ORDER BY 2
    RETURNING payment_link_id
)
SELECT verdict, booked_currency, listed_currency, count(*) AS payments, sum(booked_amount) AS booked_amount,
    sum(listed_amount) AS listed_amount
FROM judged GROUP BY verdict, booked_currency, listed_currency
UNION ALL
SELECT NULL, NULL, NULL, count(*), NULL, NULL FROM asked""")


def compare(
    connection: Connection,
    instance_id: UUID,
    *,
    since: datetime,
    until: datetime,
    settling: timedelta,
    now: datetime,
) -> Compared:
    """Compare what was staged with what is booked for payments created from `since` on and before `until`.

    Asks for a check of every link for which they differ, but where time alone may cure it or a check found it before.
    """
    *groups, asked = connection.execute(
        _COMPARE,
        {
            "instance_id": instance_id,
            "since": since,
            "until": until,
            "settled": now - settling,
            "now": now,
        },
    )
    verdicts: Counter[str] = Counter()
    booked: Counter[str] = Counter()
    listed: Counter[str] = Counter()
    amounts: dict[str, list[Decimal]] = {}
    for group in groups:
        verdicts[group.verdict] += group.payments
        for place, (currency, amount, numbers) in enumerate(
            (
                (group.booked_currency, group.booked_amount, booked),
                (group.listed_currency, group.listed_amount, listed),
            )
        ):
            if currency is not None:
                numbers[currency] += group.payments
                amounts.setdefault(currency, [Decimal(0), Decimal(0)])[place] += amount
    sums = {
        currency: Sums(booked[currency], ours, listed[currency], theirs)
        for currency, (ours, theirs) in sorted(amounts.items())
    }
    return Compared(verdicts, asked.payments, sums)
