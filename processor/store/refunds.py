"""Refunds, read from events that were stored as they came."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from processor.domain.refund import EVENT_TYPES, Refund
from processor.store import evidence, payments

# As the index says it, or it would not serve.
_IS_UNREAD = "e.status = 'ignored' AND e.event_type IN ({})".format(
    ", ".join(f"'{name}'" for name in EVENT_TYPES)
)
TOKEN_GONE = "token_gone"
"""Why an event cannot be read whose token was archived or erased before its turn."""


@dataclass(frozen=True, slots=True)
class UnreadEvent:
    """An event about a refund that was not read yet. token: None when it is gone."""

    instance_id: UUID
    event_id: UUID
    received_at: datetime
    token: str | None


def lock_unread(connection: Connection, limit: int) -> list[UnreadEvent]:
    """Events about refunds that nobody has read, locked; those another process holds are left out.

    Those of an instance nobody vouches for wait for it.
    """
    rows = connection.execute(
        text(f"""
            SELECT e.instance_id, e.event_id, e.received_at, e.token
            FROM webhook_events e JOIN app_instances a USING (instance_id)
            WHERE {_IS_UNREAD} AND a.status <> 'unconfirmed'
            ORDER BY e.instance_id, e.received_at, e.event_id LIMIT :limit FOR UPDATE OF e SKIP LOCKED"""),
        {"limit": limit},
    ).all()
    kept = evidence.tokens(connection, [(row.instance_id, row.event_id, row.received_at) for row in rows])
    return [
        UnreadEvent(
            row.instance_id,
            row.event_id,
            row.received_at,
            row.token or kept.get((row.instance_id, row.event_id)),
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Read:
    """What an event says. refund: None when it cannot be read, for which there is a reason then."""

    event: UnreadEvent
    refund: Refund | None
    reason: str | None = None
    detail: str = ""


_COLUMNS = """instance_id, refund_id, payment_id, amount, currency, status, reason, sequence, occurred_at, event_id"""
_RANK = "COALESCE(array_position(ARRAY['SUCCEEDED', 'FAILED', 'REVERSED'], {}.status), 0)"


def save(
    connection: Connection, newest: Mapping[tuple[UUID, UUID], tuple[Refund, UUID]], now: datetime
) -> None:
    """Store refunds by instance and id, each with the event that told of it, unless a later event has told already.

    The guard is `domain.refund.supersedes`.
    """
    records = [
        {name: getattr(refund, name) for name in Refund.__dataclass_fields__} | {"event_id": event_id}
        for refund, event_id in newest.values()
    ]
    connection.execute(
        text(f"""
            INSERT INTO refunds AS r ({_COLUMNS}, told_at)
            SELECT {_COLUMNS}, :now
            FROM jsonb_to_recordset(CAST(:records AS jsonb)) AS t (instance_id uuid, refund_id uuid, payment_id uuid,
                amount numeric, currency text, status text, reason text, sequence bigint, occurred_at timestamptz,
                event_id uuid)
            ORDER BY instance_id, refund_id
            ON CONFLICT (instance_id, refund_id) DO UPDATE SET
                payment_id = excluded.payment_id, amount = excluded.amount, currency = excluded.currency,
                status = excluded.status, reason = excluded.reason, sequence = excluded.sequence,
                occurred_at = excluded.occurred_at, event_id = excluded.event_id, told_at = excluded.told_at
            WHERE CASE WHEN excluded.sequence <> r.sequence THEN excluded.sequence > r.sequence
                ELSE (excluded.occurred_at, {_RANK.format("excluded")}) > (r.occurred_at, {_RANK.format("r")}) END"""),
        {"records": payments.dumped(records), "now": now},
    )


def note_read(connection: Connection, read: Sequence[Read]) -> None:
    """Give the events their lasting status: recorded, with the id of the refund, or unreadable with the reason."""
    records = [
        {
            "instance_id": one.event.instance_id,
            "event_id": one.event.event_id,
            "refund_id": None if one.refund is None else one.refund.refund_id,
            "reason": one.reason,
            "detail": one.detail[:500] or None,
        }
        for one in read
    ]
    connection.execute(
        text("""
            UPDATE webhook_events e SET status = CASE WHEN t.reason IS NULL THEN 'recorded' ELSE 'unreadable' END,
                entity_id = t.refund_id, reason = t.reason, reason_detail = t.detail
            FROM jsonb_to_recordset(CAST(:records AS jsonb))
                AS t (instance_id uuid, event_id uuid, refund_id uuid, reason text, detail text)
            WHERE e.event_id = t.event_id AND e.instance_id = t.instance_id AND e.status = 'ignored'"""),
        {"records": payments.dumped(records)},
    )


def blank_of_erased(connection: Connection, read: Sequence[Read], now: datetime) -> None:
    """Blank what was just read about payments whose buyer was erased before.

    The events are locked already, and whoever changes their other bodies locks them first: this waits for nobody.
    """
    records = [
        {
            "instance_id": one.event.instance_id,
            "event_id": one.event.event_id,
            "payment_id": one.refund.payment_id,
        }
        for one in read
        if one.refund is not None
    ]
    for table in ("webhook_event_conflicts", "webhook_events"):
        connection.execute(
            text(f"""
                UPDATE {table} e SET token = NULL, erased_at = :now
                FROM jsonb_to_recordset(CAST(:records AS jsonb)) AS t (instance_id uuid, event_id uuid, payment_id uuid)
                JOIN payments p ON p.instance_id = t.instance_id AND p.payment_id = t.payment_id
                    AND p.erased_at IS NOT NULL
                WHERE e.event_id = t.event_id AND e.instance_id = t.instance_id AND e.erased_at IS NULL"""),
            {"records": payments.dumped(records), "now": now},
        )


def request_checks(connection: Connection, keys: Collection[tuple[UUID, UUID]], now: datetime) -> None:
    """Ask for a check of the links of these payments, by instance and payment; those not booked have none yet."""
    connection.execute(
        text("""
            INSERT INTO check_requests (instance_id, payment_link_id, requested_at)
            SELECT DISTINCT p.instance_id, p.payment_link_id, CAST(:now AS timestamptz)
            FROM unnest(CAST(:instance_ids AS uuid[]), CAST(:payment_ids AS uuid[])) AS t (instance_id, payment_id)
            JOIN payments p USING (instance_id, payment_id)
            ORDER BY p.instance_id, p.payment_link_id"""),
        {
            "instance_ids": [instance_id for instance_id, _ in keys],
            "payment_ids": [payment_id for _, payment_id in keys],
            "now": now,
        },
    )
