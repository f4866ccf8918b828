"""What Wix lists beside what we believe, matched where it lies: memory stays flat, however much is listed.

A check writes every page it reads into `listed_payments`, under its lease. Then the two sides are gone through in
parts, by link and payment id. What is plainly the same is marked as matched by the database; only the rest is handed
out, for `domain.reconciliation.match` to decide.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import Uuid

from processor.domain.payment import FACTS, Origin, Payment, SeenPayment
from processor.domain.reconciliation import Believed, Duplicate, Late, Pair, Refunded, Totals, Unheard
from processor.domain.rerun import Sum
from processor.store import payments

_LINK_IDS = bindparam("link_ids", type_=ARRAY(Uuid()))
_PAYMENT_IDS = bindparam("payment_ids", type_=ARRAY(Uuid()))
_FACTS = ", ".join(name for name in FACTS if name != "payment_link_id")
_IS_READ = "l.is_listed AND l.reason IS NULL"
# `domain.payment.differences` in SQL: silence on either side is no contradiction.
_CONTRADICTS = "({}) IS TRUE".format(" OR ".join(f"p.{name} <> l.{name}" for name in FACTS))
_HAS_VERSION_CONFLICT = """
    (p.payment_link_id = l.payment_link_id AND EXISTS (
        SELECT FROM payment_versions v
        WHERE v.instance_id = p.instance_id AND v.payment_id = p.payment_id AND v.revision = p.revision
            AND v.verdict = 'conflict' AND ({}) IS TRUE))""".format(
    " OR ".join(f"p.{name} <> v.{name}" for name in FACTS)
)
# `Verdict.SAME` of `domain.payment.judge`.
_IS_SAME_CONTENT = f"({_IS_READ} AND p.revision = l.revision AND NOT {_CONTRADICTS})"
_BESIDE = """
    FROM listed_payments l LEFT JOIN payments p ON p.instance_id = l.instance_id AND p.payment_id = l.payment_id
    WHERE l.lease_id = :lease_id AND l.payment_link_id = ANY(:link_ids)
        AND (l.payment_link_id, l.payment_id) > (:after_link, :after_payment)
        AND (l.payment_link_id, l.payment_id) <= (:last_link, :last_payment)"""


@dataclass(frozen=True, slots=True)
class Unread:
    """A listed payment that cannot be read, with the reason."""

    payment_link_id: UUID
    payment_id: UUID
    reason: str


def write(
    connection: Connection,
    instance_id: UUID,
    lease_id: UUID,
    seen: Collection[SeenPayment],
    unread: Collection[Unread] = (),
) -> int:
    """Write down what Wix lists; each payment at most once for each link. Returns how many rows were added.

    Listed twice, the higher revision stands: items may move between pages while they are read.
    """
    records: list[dict[str, Any]] = [
        {"payment_id": one.payment.payment_id, "revision": one.payment.revision}
        | {name: getattr(one.payment, name) for name in FACTS}
        | {"rest": one.rest, "personal": one.personal}
        for one in seen
    ]
    records += [
        {"payment_id": one.payment_id, "payment_link_id": one.payment_link_id, "reason": one.reason}
        for one in unread
    ]
    if not records:
        return 0
    added = connection.execute(
        text(f"""
            INSERT INTO listed_payments AS l
                (lease_id, instance_id, payment_link_id, payment_id, reason, revision, {_FACTS}, rest, personal)
            SELECT :lease_id, :instance_id, t.payment_link_id, t.payment_id, t.reason, t.revision,
                {", ".join(f"t.{name}" for name in FACTS if name != "payment_link_id")},
                CASE WHEN is_news THEN t.rest END, CASE WHEN is_news THEN t.personal END
            FROM jsonb_to_recordset(CAST(:records AS jsonb)) AS t ({payments.TELLING_COLUMNS}, reason text)
            CROSS JOIN LATERAL (
                -- Buyers are copied only where they are to be booked.
                SELECT NOT EXISTS (
                    SELECT FROM payments p WHERE p.instance_id = :instance_id AND p.payment_id = t.payment_id
                    AND p.revision >= t.revision) AS is_news) AS n
            ON CONFLICT (lease_id, payment_link_id, payment_id) DO UPDATE SET
                reason = NULL, {", ".join(f"{name} = excluded.{name}" for name in ("revision", *FACTS))},
                rest = excluded.rest, personal = excluded.personal
            WHERE excluded.revision > COALESCE(l.revision, -1)
            RETURNING xmax = 0"""),
        {
            "lease_id": lease_id,
            "instance_id": instance_id,
            "records": payments.dumped(records),
        },
    )
    return sum(is_new for (is_new,) in added)


def count(connection: Connection, lease_id: UUID) -> int:
    """How many payments are written down as listed."""
    return int(
        connection.execute(
            text("SELECT count(*) FROM listed_payments WHERE lease_id = :lease_id AND is_listed"),
            {"lease_id": lease_id},
        ).scalar_one()
    )


def write_unlisted(
    connection: Connection, instance_id: UUID, lease_id: UUID, link_ids: Collection[UUID]
) -> None:
    """Write down the payments booked under these links that Wix did not list."""
    connection.execute(
        text("""
            INSERT INTO listed_payments (lease_id, instance_id, payment_link_id, payment_id, is_listed)
            SELECT :lease_id, p.instance_id, p.payment_link_id, p.payment_id, false FROM payments p
            WHERE p.instance_id = :instance_id AND p.payment_link_id = ANY(:link_ids)
                AND NOT EXISTS (
                    SELECT FROM listed_payments l WHERE l.lease_id = :lease_id
                    AND l.payment_link_id = p.payment_link_id AND l.payment_id = p.payment_id)
            ON CONFLICT DO NOTHING""").bindparams(_LINK_IDS),
        {"lease_id": lease_id, "instance_id": instance_id, "link_ids": list(link_ids)},
    )


@dataclass(frozen=True, slots=True)
class Place:
    """How far a going-through has come: everything up to this link and payment is done."""

    payment_link_id: UUID
    payment_id: UUID


BEGINNING = Place(UUID(int=0), UUID(int=0))


@dataclass(frozen=True, slots=True)
class Part:
    """Some payments. same: by link and currency, those plainly the same. pairs: the others. last: None at the end."""

    same: Mapping[UUID, Mapping[str, Sum]]
    pairs: Sequence[Pair]
    last: Place | None


def match_part(
    connection: Connection,
    lease_id: UUID,
    link_ids: Collection[UUID],
    *,
    after: Place,
    limit: int,
    now: datetime,
) -> Part:
    """Go through up to `limit` payments of these links after a place.

    Marks those that are plainly the same as matched, and hands out the others. Every booked payment that is or may
    be written to stays locked until the transaction ends.
    """
    bound = connection.execute(
        text("""
            SELECT payment_link_id, payment_id FROM listed_payments
            WHERE lease_id = :lease_id AND (payment_link_id, payment_id) > (:after_link, :after_payment)
            ORDER BY payment_link_id, payment_id OFFSET :skipped LIMIT 1"""),
        {
            "lease_id": lease_id,
            "after_link": after.payment_link_id,
            "after_payment": after.payment_id,
            "skipped": limit - 1,
        },
    ).one_or_none()
    last = Place(bound.payment_link_id, bound.payment_id) if bound else None
    until = last or Place(UUID(int=2**128 - 1), UUID(int=2**128 - 1))
    window = {
        "lease_id": lease_id,
        "link_ids": list(link_ids),
        "after_link": after.payment_link_id,
        "after_payment": after.payment_id,
        "last_link": until.payment_link_id,
        "last_payment": until.payment_id,
        "now": now,
    }
    # In one order with everybody who locks several payments, or two of them would wait for each other.
    connection.execute(
        text(f"""
            SELECT FROM payments WHERE (instance_id, payment_id) IN (
                SELECT p.instance_id, p.payment_id {_BESIDE} AND p.payment_id IS NOT NULL
                AND (p.match_state IS DISTINCT FROM 'matched' OR {_IS_SAME_CONTENT} IS NOT TRUE))
            ORDER BY instance_id, payment_id FOR UPDATE""").bindparams(_LINK_IDS),
        window,
    )
    others = connection.execute(
        text(f"""
            WITH beside AS MATERIALIZED (
                SELECT l.payment_link_id AS link_id, l.payment_id AS id, l.instance_id, {_IS_READ} AS is_read,
                    l.reason IS NOT NULL AS is_unreadable, p.payment_id IS NOT NULL AS is_booked, p.changed_at,
                    p.match_state, {_IS_SAME_CONTENT} IS TRUE AS is_same,
                    {_HAS_VERSION_CONFLICT} IS TRUE AS has_version_conflict,
                    {", ".join(f"l.{name} AS wix_{name}, p.{name} AS our_{name}" for name in ("revision", *FACTS))}
                {_BESIDE}
            ), marked AS (
                UPDATE payments SET match_state = 'matched', matched_at = :now
                WHERE (instance_id, payment_id) IN (
                    SELECT instance_id, id FROM beside
                    WHERE is_same AND NOT has_version_conflict AND match_state IS DISTINCT FROM 'matched')
            )
            SELECT * FROM beside WHERE NOT is_same OR has_version_conflict
            ORDER BY link_id, id""").bindparams(_LINK_IDS),
        window,
    )
    pairs = [_pair(row) for row in others]
    listed = connection.execute(
        text("""
            SELECT payment_link_id, currency, count(*) AS payments, sum(amount) AS amount FROM listed_payments
            WHERE lease_id = :lease_id AND payment_link_id = ANY(:link_ids)
                AND (payment_link_id, payment_id) > (:after_link, :after_payment)
                AND (payment_link_id, payment_id) <= (:last_link, :last_payment)
            GROUP BY payment_link_id, currency""").bindparams(_LINK_IDS),
        window,
    )
    same: dict[UUID, dict[str, Sum]] = {}
    for row in listed:
        of_link = same.setdefault(row.payment_link_id, {})
        if row.currency is not None:  # what Wix does not list, or lists unreadably, is never the same
            of_link[row.currency] = Sum(row.payments, row.amount)
    for pair in pairs:
        if pair.theirs is not None:
            of_link, currency = same[pair.payment_link_id], pair.theirs.currency
            of_link[currency] = of_link[currency].less(Sum(1, pair.theirs.amount))
    return Part(
        {
            link_id: {currency: one for currency, one in sorted(of_link.items()) if one.payments}
            for link_id, of_link in same.items()
        },
        pairs,
        last,
    )


def _pair(row: Any) -> Pair:
    return Pair(
        payment_link_id=row.link_id,
        payment_id=row.id,
        ours=Believed(_payment(row, "our"), row.changed_at) if row.is_booked else None,
        theirs=_payment(row, "wix") if row.is_read else None,
        is_unreadable=row.is_unreadable,
        has_version_conflict=row.has_version_conflict,
    )


def _payment(row: Any, side: str) -> Payment:
    facts = {name: getattr(row, f"{side}_{name}") for name in ("revision", *FACTS)}
    return Payment(instance_id=row.instance_id, payment_id=row.id, **facts)


def book(
    connection: Connection,
    lease_id: UUID,
    repairs: Collection[Payment],
    *,
    run_id: UUID,
    now: datetime,
) -> None:
    """Book versions that Wix lists and we do not have, and why. The guard of revisions has the last word."""
    by_link: dict[tuple[UUID, UUID], list[UUID]] = {}
    for payment in repairs:
        by_link.setdefault((payment.instance_id, payment.payment_link_id), []).append(payment.payment_id)
    for (instance_id, link_id), payment_ids in sorted(by_link.items()):
        connection.execute(
            text(f"""
                WITH source AS MATERIALIZED (
                    SELECT instance_id, payment_id, revision, {", ".join(FACTS)}, rest, personal,
                        CAST(:origin AS text) AS origin, CAST(NULL AS uuid) AS event_id,
                        CAST(:run_id AS uuid) AS run_id, CAST(:now AS timestamptz) AS told_at,
                        false AS is_anonymization
                    FROM listed_payments
                    WHERE lease_id = :lease_id AND payment_link_id = :link_id AND payment_id = ANY(:payment_ids)
                ), {payments.applying("source")}
                SELECT FROM paid""").bindparams(_PAYMENT_IDS),
            {
                "lease_id": lease_id,
                "link_id": link_id,
                "payment_ids": payment_ids,
                "origin": Origin.POLL.value,
                "run_id": run_id,
                "now": now,
            },
        )
        note_recoveries(connection, instance_id, payment_ids)


def note_recoveries(connection: Connection, instance_id: UUID, payment_ids: Collection[UUID]) -> None:
    """Note why checks had to recover these payments, as `domain.reconciliation.recovery`; their rows are locked."""
    connection.execute(_NOTE_RECOVERIES, {"instance_id": instance_id, "payment_ids": list(payment_ids)})


_NOTE_RECOVERIES = text("""
    WITH recovered AS MATERIALIZED (
        SELECT c.instance_id, c.payment_id, CASE WHEN t.told IS NULL AND c.first_origin = 'poll' THEN 'webhook_missed'
            WHEN t.told >= t.recovered THEN 'webhook_late' ELSE 'update_unannounced' END AS recovery
        FROM payments c CROSS JOIN LATERAL (
            SELECT max(v.revision) FILTER (WHERE v.origin <> 'poll') AS told,
                max(v.revision) FILTER (WHERE v.origin = 'poll' AND v.verdict IN ('new', 'newer')) AS recovered
            FROM payment_tellings v WHERE v.instance_id = c.instance_id AND v.payment_id = c.payment_id) AS t
        WHERE c.instance_id = :instance_id AND c.payment_id = ANY(:payment_ids) AND t.recovered IS NOT NULL
    )
    UPDATE payments p SET recovery = r.recovery FROM recovered r
    WHERE p.instance_id = r.instance_id AND p.payment_id = r.payment_id
        AND p.recovery IS DISTINCT FROM r.recovery""").bindparams(_PAYMENT_IDS)


def note_late_webhooks(connection: Connection, instance_id: UUID, link_ids: Collection[UUID]) -> None:
    """Note of payments of these links that checks had recovered whether webhooks have told of them since.

    What an earlier release recovered is noted as well.
    """
    # In one order with everybody who locks several payments, or two of them would wait for each other.
    locked = (
        connection.execute(
            text("""
                SELECT payment_id FROM payments
                WHERE instance_id = :instance_id AND payment_link_id = ANY(:link_ids)
                    AND recovery IS DISTINCT FROM 'webhook_late'
                    AND (recovery IS NULL AND 'poll' IN (first_origin, origin)
                        OR recovery IS NOT NULL AND last_verdict <> 'new' AND EXISTS (
                            SELECT FROM payment_versions v
                            WHERE v.instance_id = payments.instance_id AND v.payment_id = payments.payment_id
                                AND v.origin <> 'poll'))
                ORDER BY instance_id, payment_id FOR UPDATE""").bindparams(_LINK_IDS),
            {"instance_id": instance_id, "link_ids": list(link_ids)},
        )
        .scalars()
        .all()
    )
    if locked:
        note_recoveries(connection, instance_id, locked)


def totals(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID], *, run_id: UUID
) -> dict[UUID, Totals]:
    """What is booked under each link; links without a payment are left out. run_id: the check that asks."""
    rows = connection.execute(
        text("""
            WITH booked AS (
                SELECT payment_link_id, currency, sum(amount) AS amount, count(*) AS payments,
                    max(transaction_at) AS last_paid_at, count(transaction_at) AS dated_payments,
                    max(created_at) AS last_created_at, count(created_at) AS dated_records,
                    max(changed_at) FILTER (WHERE run_id IS DISTINCT FROM :run_id) AS changed_at
                FROM payments WHERE instance_id = :instance_id AND payment_link_id = ANY(:link_ids)
                GROUP BY payment_link_id, currency
            ), bought AS (
                -- As domain.reconciliation.purchase.
                SELECT payment_link_id, count(DISTINCT COALESCE(
                    NULLIF(ecom_checkout_id, ''), NULLIF(ecom_order_id, ''), CAST(payment_id AS text))) AS purchases
                FROM payments WHERE instance_id = :instance_id AND payment_link_id = ANY(:link_ids)
                GROUP BY payment_link_id
            )
            SELECT * FROM booked JOIN bought USING (payment_link_id)
            ORDER BY payment_link_id, currency""").bindparams(_LINK_IDS),
        {"instance_id": instance_id, "link_ids": list(link_ids), "run_id": run_id},
    )
    found: dict[UUID, Totals] = {}
    for row in rows:
        before = found.get(row.payment_link_id)
        moments = [moment for moment in (before and before.changed_at, row.changed_at) if moment]
        found[row.payment_link_id] = Totals(
            payments=(before.payments if before else 0) + row.payments,
            purchases=row.purchases,
            sums={**(before.sums if before else {}), row.currency: row.amount},
            changed_at=max(moments, default=None),
            last_paid_at=_latest(
                row.last_paid_at if row.dated_payments == row.payments else None,
                before.last_paid_at if before else row.last_paid_at,
            ),
            last_created_at=_latest(
                row.last_created_at if row.dated_records == row.payments else None,
                before.last_created_at if before else row.last_created_at,
            ),
            counts={**(before.counts if before else {}), row.currency: row.payments},
        )
    return found


def _latest(one: datetime | None, other: datetime | None) -> datetime | None:
    """The later, None when one is not known."""
    return None if one is None or other is None else max(one, other)


def duplicates(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID]
) -> dict[UUID, list[Duplicate]]:
    """By link, `domain.reconciliation.duplicates` of what is booked under it."""
    rows = connection.execute(
        text("""
            SELECT * FROM (
                SELECT payment_link_id, payment_id, amount, currency, first_value(payment_id) OVER (
                    PARTITION BY payment_link_id, type, amount, currency,
                        COALESCE(NULLIF(ecom_checkout_id, ''), NULLIF(ecom_order_id, ''))
                    ORDER BY created_at NULLS LAST, payment_id) AS of_id
                FROM payments
                WHERE instance_id = :instance_id AND payment_link_id = ANY(:link_ids)
                    AND type IS DISTINCT FROM 'GIFT_CARD'
                    AND COALESCE(NULLIF(ecom_checkout_id, ''), NULLIF(ecom_order_id, '')) IS NOT NULL) AS p
            WHERE payment_id <> of_id ORDER BY payment_link_id, payment_id""").bindparams(_LINK_IDS),
        {"instance_id": instance_id, "link_ids": list(link_ids)},
    )
    found: dict[UUID, list[Duplicate]] = {}
    for row in rows:
        of_link = found.setdefault(row.payment_link_id, [])
        of_link.append(Duplicate(row.payment_id, row.of_id, row.amount, row.currency))
    return found


def late(
    connection: Connection, instance_id: UUID, closed_at: Mapping[UUID, datetime]
) -> dict[UUID, list[Late]]:
    """By link, `domain.reconciliation.late` of what is booked under it. closed_at: by link, of those that closed."""
    rows = connection.execute(
        text("""
            SELECT p.payment_link_id, p.payment_id, COALESCE(p.transaction_at, p.created_at) AS paid_at, p.amount,
                p.currency
            FROM unnest(CAST(:link_ids AS uuid[]), CAST(:moments AS timestamptz[])) AS c (link_id, closed_at)
            JOIN payments p ON p.payment_link_id = c.link_id AND p.instance_id = :instance_id
                AND COALESCE(p.transaction_at, p.created_at) > c.closed_at
            ORDER BY p.payment_link_id, p.payment_id"""),
        {
            "instance_id": instance_id,
            "link_ids": list(closed_at),
            "moments": list(closed_at.values()),
        },
    )
    found: dict[UUID, list[Late]] = {}
    for row in rows:
        of_link = found.setdefault(row.payment_link_id, [])
        of_link.append(Late(row.payment_id, row.paid_at, row.amount, row.currency))
    return found


def refunded(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID]
) -> dict[UUID, list[Refunded]]:
    """By link, `domain.reconciliation.refunded` of what is booked under it."""
    rows = connection.execute(
        text("""
            SELECT p.payment_link_id, p.payment_id, p.currency, p.amount AS paid, sum(r.amount) AS amount,
                bool_and(r.amount IS NOT NULL AND r.currency = p.currency) AS is_clear, max(r.told_at) AS told_at
            FROM payments p JOIN refunds r ON r.instance_id = p.instance_id AND r.payment_id = p.payment_id
            WHERE p.instance_id = :instance_id AND p.payment_link_id = ANY(:link_ids) AND r.status = 'SUCCEEDED'
            GROUP BY p.payment_link_id, p.payment_id, p.currency, p.amount
            ORDER BY p.payment_link_id, p.payment_id""").bindparams(_LINK_IDS),
        {"instance_id": instance_id, "link_ids": list(link_ids)},
    )
    found: dict[UUID, list[Refunded]] = {}
    for row in rows:
        amount = row.amount if row.is_clear else None
        is_whole = amount is not None and amount >= row.paid
        of_link = found.setdefault(row.payment_link_id, [])
        of_link.append(Refunded(row.payment_id, amount, row.currency, is_whole, row.told_at))
    return found


@dataclass(frozen=True, slots=True)
class Unannounced:
    """Payments that checks alone told of. unheard: by link, those no event will tell of any more. next_created_at: by
    link, when the eldest of the others was made.
    """

    unheard: Mapping[UUID, Sequence[Unheard]]
    next_created_at: Mapping[UUID, datetime]


def unannounced(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID], *, resent_until: datetime
) -> Unannounced:
    """`domain.reconciliation.unheard` of what is booked under these links, and what is still waited for.

    An event that could not be read told of its payment all the same. Nobody tells us of what was made before the app
    was installed, and what was erased is let be.
    """
    rows = connection.execute(
        text("""
            WITH by_query AS MATERIALIZED (
                SELECT p.payment_link_id, p.payment_id, p.created_at, p.amount, p.currency
                FROM payments p JOIN app_instances a USING (instance_id)
                WHERE p.instance_id = :instance_id AND p.payment_link_id = ANY(:link_ids)
                    AND p.first_origin = 'poll' AND p.erased_at IS NULL
                    AND p.created_at >= COALESCE(a.installed_at, a.confirmed_at)
                    AND NOT EXISTS (
                        SELECT FROM payment_versions v
                        WHERE v.instance_id = p.instance_id AND v.payment_id = p.payment_id AND v.origin <> 'poll')
                    AND NOT EXISTS (
                        SELECT FROM webhook_events e
                        WHERE e.instance_id = p.instance_id AND e.entity_id = p.payment_id AND e.kind = 'payment')
            )
            SELECT * FROM by_query WHERE created_at <= :resent_until
            UNION ALL
            SELECT payment_link_id, NULL, min(created_at), NULL, NULL FROM by_query
            WHERE created_at > :resent_until GROUP BY payment_link_id
            ORDER BY payment_link_id, payment_id""").bindparams(_LINK_IDS),
        {"instance_id": instance_id, "link_ids": list(link_ids), "resent_until": resent_until},
    )
    found: dict[UUID, list[Unheard]] = {}
    awaited: dict[UUID, datetime] = {}
    for row in rows:
        if row.payment_id is None:
            awaited[row.payment_link_id] = row.created_at
        else:
            of_link = found.setdefault(row.payment_link_id, [])
            of_link.append(Unheard(row.payment_id, row.created_at, row.amount, row.currency))
    return Unannounced(found, awaited)


def forget(connection: Connection, lease_id: UUID) -> None:
    """Delete what was written down under a lease."""
    connection.execute(text("DELETE FROM listed_payments WHERE lease_id = :lease_id"), {"lease_id": lease_id})


def forget_abandoned(connection: Connection) -> int:
    """Delete what checks wrote down that hold no link any more: they died. Returns how many rows."""
    return connection.execute(
        text("""
            -- From one lease to the next by the index, however many rows each has.
            WITH RECURSIVE leases AS (
                (SELECT lease_id FROM listed_payments ORDER BY lease_id LIMIT 1)
                UNION ALL
                SELECT (SELECT n.lease_id FROM listed_payments n WHERE n.lease_id > leases.lease_id
                    ORDER BY n.lease_id LIMIT 1)
                FROM leases WHERE lease_id IS NOT NULL)
            DELETE FROM listed_payments WHERE lease_id IN (
                SELECT l.lease_id FROM leases l
                WHERE NOT EXISTS (SELECT FROM link_checks c WHERE c.lease_id = l.lease_id))""")
    ).rowcount
