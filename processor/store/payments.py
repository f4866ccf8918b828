"""Payments as believed, every version told, and the people apart."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, select, text, update

from processor.domain.payment import FACTS, Origin, Payment, SeenPayment, Verdict
from processor.domain.reconciliation import Believed, Outcome
from processor.store.tables import PaymentRow, is_any_of

_PERSON_ID = ("instance_id", "payment_id", "revision")
_FACT_COLUMNS = ", ".join(FACTS)

# How a JSON record of a telling is read by `jsonb_to_recordset`.
TELLING_COLUMNS = """
    instance_id uuid, payment_id uuid, revision bigint, payment_link_id uuid, amount numeric, currency text,
    type text, created_at timestamptz, transaction_at timestamptz, receipt_id uuid, ecom_checkout_id text,
    ecom_order_id text, method text, payment_method text, payment_provider text, rest jsonb,
    personal jsonb, origin text, event_id uuid, run_id uuid, told_at timestamptz, is_anonymization boolean
"""

_PAYMENT_COLUMNS = f"""instance_id, payment_id, revision, {_FACT_COLUMNS}, rest, first_origin, origin, event_id, run_id,
        stored_at, changed_at, last_verdict, last_told_at"""
_NEW_PAYMENT = f"""instance_id, payment_id, revision, {_FACT_COLUMNS}, COALESCE(rest, '{{}}'), origin, origin,
        event_id, run_id, told_at, told_at, 'new', told_at"""
# In which payments are locked, so that no two statements wait for each other.
ORDER_BY_PAYMENT = "ORDER BY instance_id, payment_id"
_CONTRADICTS = " OR ".join(f"p.{name} <> excluded.{name}" for name in FACTS)


def _keep_the_higher(*columns: str) -> str:
    return ",\n        ".join(
        f"{name} = CASE WHEN excluded.revision > p.revision THEN excluded.{name} ELSE p.{name} END"
        for name in columns
    )


def inserting(source: str, *, order: str) -> str:
    """Two CTEs that book the payments in the relation `source`, none of which is known: `buyers`, `paid`.

    `source` has the columns of TELLING_COLUMNS; rows without a payment_id are passed over. One that is known after
    all makes the statement fail. order: ORDER_BY_PAYMENT, or nothing where `source` is one row.
    """
    return f"""
buyers AS (
    INSERT INTO payment_buyers (instance_id, payment_id, revision, personal, stored_at)
    SELECT instance_id, payment_id, revision, personal, told_at
    FROM {source} WHERE personal IS NOT NULL AND NOT is_anonymization
), paid AS (
    INSERT INTO payments ({_PAYMENT_COLUMNS})
    SELECT {_NEW_PAYMENT} FROM {source} WHERE payment_id IS NOT NULL {order}
)"""


def applying(source: str) -> str:
    """Three CTEs that apply the tellings in the relation `source`: `paid`, `versions`, `buyers`.

    `source` has the columns of TELLING_COLUMNS and at most one row for each payment. The guard is
    `domain.payment.judge` in SQL, decided under the payment's row lock, so that any number of processes
    applying any versions in any order end in the same row. `paid` returns the verdict of each. The first telling is
    the payment itself; a trigger writes it down among the versions when there is a second.
    """
    return f"""
paid AS (
    INSERT INTO payments AS p ({_PAYMENT_COLUMNS})
    SELECT {_NEW_PAYMENT}
    FROM {source}
    {ORDER_BY_PAYMENT}
    ON CONFLICT (instance_id, payment_id) DO UPDATE SET
        {_keep_the_higher("revision", *FACTS, "rest", "origin", "event_id", "run_id")},
        changed_at = CASE WHEN excluded.revision > p.revision
            THEN GREATEST(p.stored_at, excluded.changed_at) ELSE p.changed_at END,
        last_verdict = CASE WHEN excluded.revision > p.revision THEN 'newer'
            WHEN excluded.revision < p.revision THEN 'stale'
            WHEN ({_CONTRADICTS}) IS TRUE THEN 'conflict' ELSE 'same' END,
        last_told_at = GREATEST(p.last_told_at, excluded.last_told_at)
    RETURNING p.instance_id, p.payment_id, p.last_verdict, p.erased_at
), versions AS (
    INSERT INTO payment_versions (
        instance_id, payment_id, revision, {_FACT_COLUMNS}, rest, verdict, origin, event_id, run_id, told_at)
    SELECT s.instance_id, s.payment_id, s.revision, {", ".join(f"s.{name}" for name in FACTS)},
        COALESCE(s.rest, '{{}}'), paid.last_verdict, s.origin, s.event_id, s.run_id, s.told_at
    FROM {source} s JOIN paid USING (instance_id, payment_id)
    WHERE paid.last_verdict <> 'new'
), buyers AS (
    INSERT INTO payment_buyers AS b (instance_id, payment_id, revision, personal, stored_at)
    SELECT s.instance_id, s.payment_id, s.revision, s.personal, s.told_at
    FROM {source} s JOIN paid USING (instance_id, payment_id)
    WHERE s.personal IS NOT NULL AND paid.erased_at IS NULL AND NOT s.is_anonymization
    ON CONFLICT (instance_id, payment_id) DO UPDATE
        SET revision = excluded.revision, personal = excluded.personal, stored_at = excluded.stored_at
        WHERE b.erased_at IS NULL AND excluded.revision > b.revision
)"""


_APPLY = text(f"""
WITH told AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(CAST(:tellings AS jsonb)) AS t ({TELLING_COLUMNS})
), {applying("told")}
SELECT payment_id, last_verdict FROM paid
""")


def telling(
    seen: SeenPayment,
    *,
    origin: Origin,
    told_at: datetime,
    event_id: UUID | None = None,
    run_id: UUID | None = None,
    is_anonymization: bool = False,
) -> dict[str, Any]:
    """`seen` as the JSON record that `applying` reads. Exactly one of event_id and run_id is given."""
    payment = seen.payment
    record: dict[str, Any] = {name: getattr(payment, name) for name in (*_PERSON_ID, *FACTS)}
    record |= {
        "rest": seen.rest,
        "personal": seen.personal,
        "origin": origin.value,
        "event_id": event_id,
        "run_id": run_id,
        "told_at": told_at,
        "is_anonymization": is_anonymization,
    }
    return record


def dumped(records: list[dict[str, Any]]) -> str:
    """JSON for `jsonb_to_recordset`: decimals, ids and times as text, which PostgreSQL reads exactly."""
    return json.dumps(records, default=_plain)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return str(value)


def encoded(record: msgspec.Struct) -> bytes:
    """One record of `dumped`, many times faster."""
    try:
        return _encode(record)
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError):
        # What Wix may send and this encoder does not take: PostgreSQL decides.
        told = {name: value for name, value in msgspec.structs.asdict(record).items() if value is not None}
        return json.dumps(told, default=_plain).encode()


_encode = msgspec.json.Encoder().encode


def apply(connection: Connection, tellings: list[dict[str, Any]]) -> dict[UUID, Verdict]:
    """Apply versions that did not come by an event just stored; at most one for each payment.

    Returns the verdict by payment id.
    """
    if not tellings:
        return {}
    rows = connection.execute(_APPLY, {"tellings": dumped(tellings)})
    return {row.payment_id: Verdict(row.last_verdict) for row in rows}


def erase(connection: Connection, instance_id: UUID, payment_id: UUID, now: datetime) -> None:
    """Blank everything personal about a payment: buyer, and every token that told of it or its refunds. Digests stay.

    The row is marked, so that a late resend of an older event brings nothing back.
    """
    key = {"instance_id": instance_id, "payment_id": payment_id, "now": now}
    connection.execute(
        text(
            "UPDATE payments SET erased_at = COALESCE(erased_at, :now), rest = '{}'"
            " WHERE instance_id = :instance_id AND payment_id = :payment_id"
        ),
        key,
    )
    # What we do not know by name may be personal, so it goes as well.
    connection.execute(
        text(
            "UPDATE payment_versions SET rest = '{}'"
            " WHERE instance_id = :instance_id AND payment_id = :payment_id AND rest <> '{}'"
        ),
        key,
    )
    connection.execute(
        text(
            "UPDATE payment_buyers SET personal = NULL, erased_at = :now"
            " WHERE instance_id = :instance_id AND payment_id = :payment_id AND erased_at IS NULL"
        ),
        key,
    )
    # Events about its refunds bear the id of the refund once they are read, but for those that the release before read:
    # of these the latest of each refund is known. Before, they are left, or what they say of money was lost; whoever
    # reads one too late for this blanks it (`jobs.refunding`).
    of_refunds = "FROM refunds WHERE instance_id = :instance_id AND payment_id = :payment_id"
    about = (
        "e.instance_id = :instance_id AND (e.entity_id = ANY(ARRAY("
        f"SELECT CAST(:payment_id AS uuid) UNION ALL SELECT refund_id {of_refunds}))"
        f" OR e.event_id = ANY(ARRAY(SELECT event_id {of_refunds})))"
    )
    connection.execute(
        text(
            "UPDATE webhook_event_conflicts c SET token = NULL, erased_at = :now FROM webhook_events e"
            f" WHERE {about} AND c.instance_id = e.instance_id AND c.event_id = e.event_id AND c.erased_at IS NULL"
        ),
        key,
    )
    connection.execute(
        text(
            "UPDATE webhook_events e SET token = NULL, erased_at = :now"
            f" WHERE {about} AND e.erased_at IS NULL"
        ),
        key,
    )


# -- Reading -------------------------------------------------------------------------------------

_COLUMNS = [getattr(PaymentRow, name) for name in (*_PERSON_ID, *FACTS)]


def payment_from(row: Any) -> Payment:
    """A Payment from a row that has its columns."""
    return Payment(**{name: getattr(row, name) for name in (*_PERSON_ID, *FACTS)})


def lock(connection: Connection, instance_id: UUID, payment_id: UUID) -> Payment | None:
    """The payment as believed, None when it is unknown; nobody changes it until the transaction ends."""
    row = connection.execute(
        select(*_COLUMNS)
        .where(PaymentRow.instance_id == instance_id, PaymentRow.payment_id == payment_id)
        .with_for_update()
    ).one_or_none()
    return payment_from(row) if row else None


def is_erased(connection: Connection, instance_id: UUID, payment_id: UUID) -> bool:
    """Whether the buyer's data was erased, so that nothing may bring it back."""
    return bool(
        connection.execute(
            select(PaymentRow.erased_at).where(
                PaymentRow.instance_id == instance_id, PaymentRow.payment_id == payment_id
            )
        ).scalar_one_or_none()
    )


def not_surely_kept(connection: Connection, keys: Collection[tuple[UUID, UUID]]) -> list[tuple[UUID, UUID]]:
    """Of these payments, by instance and payment id, those whose buyer was erased or may just be.

    Waits for nobody, and keeps those it looked at from being erased until the transaction ends.
    """
    looked = text("""
        WITH told AS (
            SELECT * FROM unnest(CAST(:instance_ids AS uuid[]), CAST(:payment_ids AS uuid[]))
                AS t (instance_id, payment_id)
        ), kept AS MATERIALIZED (
            SELECT p.instance_id, p.payment_id, p.erased_at FROM payments p JOIN told USING (instance_id, payment_id)
            FOR SHARE OF p SKIP LOCKED
        )
        SELECT p.instance_id, p.payment_id FROM payments p JOIN told USING (instance_id, payment_id)
        WHERE NOT EXISTS (SELECT FROM kept k WHERE k.instance_id = p.instance_id AND k.payment_id = p.payment_id
            AND k.erased_at IS NULL)
        ORDER BY p.instance_id, p.payment_id""")
    rows = connection.execute(
        looked,
        {
            "instance_ids": [instance_id for instance_id, _ in keys],
            "payment_ids": [payment_id for _, payment_id in keys],
        },
    )
    return [(row.instance_id, row.payment_id) for row in rows]


def believed(
    connection: Connection, instance_id: UUID, payment_ids: Collection[UUID]
) -> dict[UUID, Believed]:
    """Payments booked with any of the ids, by payment id."""
    rows = connection.execute(
        select(*_COLUMNS, PaymentRow.changed_at).where(
            PaymentRow.instance_id == instance_id, is_any_of(PaymentRow.payment_id, payment_ids)
        )
    )
    return {row.payment_id: Believed(payment_from(row), row.changed_at) for row in rows}


def note_outcomes(
    connection: Connection, instance_id: UUID, outcomes: Mapping[UUID, Outcome], now: datetime
) -> None:
    """Write how payments stood at a check, where that changed."""
    by_outcome: dict[Outcome, list[UUID]] = {}
    for payment_id, outcome in sorted(outcomes.items(), key=lambda item: item[0]):
        by_outcome.setdefault(outcome, []).append(payment_id)
    for outcome, payment_ids in by_outcome.items():
        # A payment once recovered stays told apart from one its webhook brought: `first_origin` says so.
        state = Outcome.MATCHED if outcome is Outcome.RECOVERED else outcome
        connection.execute(
            update(PaymentRow)
            .where(
                PaymentRow.instance_id == instance_id,
                is_any_of(PaymentRow.payment_id, payment_ids),
                PaymentRow.match_state.is_distinct_from(state.value),
            )
            .values(match_state=state.value, matched_at=now)
        )
