"""The inbox: what Wix delivered, stored in one statement of one transaction before it is answered.

The statement takes its rows as one JSON parameter, so that it serves one event as well as a batch. It
stores each event once, counts every further delivery, applies the payment behind the guard of revisions,
keeps the version told, and appends a check request. It never updates a row shared by a link or instance:
a hot row held until the disk answers would make commits queue behind each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, text

from processor.domain.event import Event, Kind
from processor.domain.payment import Origin, Verdict
from processor.errors import Unreadable
from processor.store import payments


class Outcome(StrEnum):
    """What became of one delivery."""

    STORED = "stored"
    HELD = "held"
    IGNORED = "ignored"
    UNREADABLE = "unreadable"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One verified delivery of an event. token: as received; token_digest: its SHA-256, 32 bytes."""

    event: Event
    token: str
    token_digest: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer of the inbox for one event. verdict: None unless a payment was judged."""

    outcome: Outcome
    verdict: Verdict | None


_STATUS = {
    Kind.PAYMENT: "recorded",
    Kind.LINK: "recorded",
    Kind.APP_INSTALLED: "recorded",
    Kind.APP_REMOVED: "recorded",
    Kind.OTHER: "ignored",
}

_EVENT_COLUMNS = """
    event_type text, kind text, slug text, entity_id uuid, entity_sequence bigint, link_id uuid,
    occurred_at timestamptz, issued_at timestamptz, delivery_count int, status text, reason text,
    reason_detail text, content_digest bytea, token_digest bytea, token text, site_id uuid, account_id uuid
"""

_RECORD = text(f"""
WITH told AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(CAST(:events AS jsonb))
        AS t ({_EVENT_COLUMNS}, {payments.TELLING_COLUMNS})
), first_seen AS (
    INSERT INTO app_instances (instance_id, site_id, account_id, first_seen_at)
    SELECT DISTINCT ON (instance_id) instance_id, site_id, account_id, told_at FROM told t
    WHERE NOT EXISTS (SELECT FROM app_instances a WHERE a.instance_id = t.instance_id)
    ORDER BY instance_id
    ON CONFLICT DO NOTHING
), stored AS (
    INSERT INTO webhook_events AS e (
        instance_id, event_id, event_type, kind, slug, entity_id, entity_sequence, payment_link_id,
        occurred_at, issued_at, received_at, last_received_at, delivery_count, status, reason, reason_detail,
        is_anonymization, content_digest, token_digest, token)
    SELECT t.instance_id, t.event_id, t.event_type, t.kind, t.slug, t.entity_id, t.entity_sequence, t.link_id,
        t.occurred_at, t.issued_at, t.told_at, t.told_at, t.delivery_count,
        -- A test of the dashboard, or a site that installed the app unknown to us: nothing is booked for an
        -- instance until Wix vouches for it.
        CASE WHEN t.status = 'recorded' AND t.kind IN ('payment', 'link')
            AND COALESCE(a.status, 'unconfirmed') = 'unconfirmed' THEN 'held' ELSE t.status END,
        t.reason, t.reason_detail, t.is_anonymization, t.content_digest, t.token_digest, t.token
    FROM told t LEFT JOIN app_instances a USING (instance_id)
    ORDER BY t.instance_id, t.event_id
    ON CONFLICT (instance_id, event_id) DO UPDATE SET
        delivery_count = e.delivery_count + excluded.delivery_count,
        last_received_at = GREATEST(e.last_received_at, excluded.last_received_at),
        conflict_count = e.conflict_count + (e.content_digest <> excluded.content_digest)::int
    RETURNING e.instance_id, e.event_id, e.status, e.delivery_count, e.content_digest
), judged AS (
    -- The first delivery of an event is the one whose count is what this statement brought.
    SELECT t.*, s.status AS stored_status, s.delivery_count = t.delivery_count AS is_first,
        s.content_digest <> t.content_digest AS is_conflict
    FROM told t JOIN stored s USING (instance_id, event_id)
), conflicts AS (
    INSERT INTO webhook_event_conflicts AS c (
        instance_id, event_id, content_digest, token_digest, token, received_at, last_received_at)
    SELECT instance_id, event_id, content_digest, token_digest, token, told_at, told_at
    FROM judged WHERE is_conflict
    ON CONFLICT (instance_id, event_id, content_digest) DO UPDATE SET
        delivery_count = c.delivery_count + 1,
        last_received_at = GREATEST(c.last_received_at, excluded.last_received_at)
), applicable AS (
    SELECT * FROM judged WHERE is_first AND stored_status = 'recorded' AND payment_id IS NOT NULL
), {payments.applying("applicable")}, requests AS (
    INSERT INTO check_requests (instance_id, payment_link_id, requested_at)
    SELECT instance_id, link_id, told_at FROM judged WHERE link_id IS NOT NULL AND (is_first OR is_conflict)
)
SELECT j.instance_id, j.event_id, j.stored_status, j.is_first, j.is_conflict, paid.last_verdict,
    COALESCE(p.erased_at, paid.erased_at) IS NOT NULL AS is_erased
FROM judged j
LEFT JOIN paid ON paid.instance_id = j.instance_id AND paid.payment_id = j.payment_id
LEFT JOIN payments p ON p.instance_id = j.instance_id AND p.payment_id = j.entity_id
""")


def _record_of(delivery: Delivery, now: datetime) -> dict[str, Any]:
    event = delivery.event
    record: dict[str, Any] = {
        "instance_id": event.instance_id,
        "event_id": event.event_id,
        "event_type": event.event_type,
        "kind": event.kind.value,
        "slug": event.slug,
        "entity_id": event.entity_id,
        "entity_sequence": event.entity_sequence,
        "link_id": event.link_id,
        "occurred_at": event.occurred_at,
        "issued_at": event.issued_at,
        "told_at": now,
        "delivery_count": 1,
        "status": "unreadable" if event.unreadable else _STATUS[event.kind],
        "reason": event.unreadable,
        "reason_detail": event.unreadable_detail[:500] or None,
        "is_anonymization": event.anonymized,
        "content_digest": event.content_digest,
        "token_digest": delivery.token_digest,
        "token": delivery.token,
        "site_id": event.site_id,
        "account_id": event.account_id,
    }
    if event.seen is not None and event.unreadable is None:
        record |= payments.telling(
            event.seen,
            origin=Origin.WEBHOOK,
            told_at=now,
            event_id=event.event_id,
            is_anonymization=event.anonymized,
        )
    return record


def record(connection: Connection, deliveries: Sequence[Delivery], now: datetime) -> list[Stored]:
    """Store each event with everything it demands, and say what became of it, in the order given.

    No two events may share an id or a payment: the caller sends such to separate calls.
    """
    records = [_record_of(delivery, now) for delivery in deliveries]
    rows = {
        (row.instance_id, row.event_id): row
        for row in connection.execute(_RECORD, {"events": payments.dumped(records)})
    }
    answers: list[Stored] = []
    for event in (delivery.event for delivery in deliveries):
        row = rows[event.instance_id, event.event_id]
        if event.kind in (Kind.APP_INSTALLED, Kind.APP_REMOVED) and event.unreadable is None:
            _live(connection, event, now)
        if (event.anonymized or row.is_erased) and event.entity_id is not None:
            payments.erase(connection, event.instance_id, event.entity_id, now)
        answers.append(_answer(row))
    return answers


def _answer(row: Any) -> Stored:
    if row.is_conflict:
        return Stored(Outcome.CONFLICT, None)
    if not row.is_first:
        return Stored(Outcome.DUPLICATE, None)
    verdict = Verdict(row.last_verdict) if row.last_verdict else None
    match row.stored_status:
        case "held":
            return Stored(Outcome.HELD, None)
        case "ignored":
            return Stored(Outcome.IGNORED, None)
        case "unreadable":
            return Stored(Outcome.UNREADABLE, None)
        case _:
            return Stored(Outcome.STORED, verdict)


def _live(connection: Connection, event: Event, now: datetime) -> None:
    """Record AppInstalled or AppRemoved. The later date wins, so that resends in any order agree."""
    happened = event.occurred_at or now
    column = "installed_at" if event.kind is Kind.APP_INSTALLED else "removed_at"
    connection.execute(
        text(f"""
            UPDATE app_instances SET {column} = GREATEST({column}, :happened),
                app_id = COALESCE(:app_id, app_id),
                origin_instance_id = COALESCE(:origin, origin_instance_id),
                site_id = COALESCE(:site_id, site_id), account_id = COALESCE(:account_id, account_id)
            WHERE instance_id = :instance_id"""),
        {
            "happened": happened,
            "app_id": event.app_id,
            "origin": event.origin_instance_id,
            "site_id": event.site_id,
            "account_id": event.account_id,
            "instance_id": event.instance_id,
        },
    )
    if event.kind is Kind.APP_INSTALLED:
        # Poll at once: payments may have been made before we heard of the installation.
        connection.execute(
            text("""
                INSERT INTO sweeps (instance_id, due_at) VALUES (:instance_id, :now)
                ON CONFLICT (instance_id) DO UPDATE SET due_at = LEAST(sweeps.due_at, excluded.due_at)"""),
            {"instance_id": event.instance_id, "now": now},
        )
        connection.execute(
            text("""
                UPDATE link_checks SET due_at = :now
                WHERE instance_id = :instance_id AND due_at > :now AND lease_id IS NULL"""),
            {"instance_id": event.instance_id, "now": now},
        )


def keep_unread(
    connection: Connection, *, token: str, token_digest: bytes, why: Unreadable, now: datetime
) -> bool:
    """Keep an authentic delivery whose instance cannot be read. Returns whether it is a first one."""
    count = connection.execute(
        text("""
            INSERT INTO unread_deliveries AS u
                (token_digest, reason, reason_detail, token, received_at, last_received_at)
            VALUES (:digest, :reason, :detail, :token, :now, :now)
            ON CONFLICT (token_digest) DO UPDATE SET delivery_count = u.delivery_count + 1,
                last_received_at = GREATEST(u.last_received_at, excluded.last_received_at)
            RETURNING delivery_count"""),
        {
            "digest": token_digest,
            "reason": why.reason,
            "detail": why.detail[:500] or None,
            "token": token,
            "now": now,
        },
    ).scalar_one()
    return bool(count == 1)


@dataclass(frozen=True, slots=True)
class Refused:
    """Deliveries refused as not Wix's, gathered by reason; samples: digest by reason, capped by the caller."""

    counts: dict[str, int]
    samples: dict[bytes, str]


REJECTED_ROWS_MAX = 1_000


def keep_refused(connection: Connection, refused: Refused, now: datetime) -> None:
    """Add to the counts of the day, and keep the newest REJECTED_ROWS_MAX digests."""
    for reason, count in sorted(refused.counts.items()):
        connection.execute(
            text("""
                INSERT INTO rejection_counts AS c (day, reason, delivery_count) VALUES (:day, :reason, :count)
                ON CONFLICT (day, reason) DO UPDATE
                    SET delivery_count = c.delivery_count + excluded.delivery_count"""),
            {"day": now.date(), "reason": reason, "count": count},
        )
    for body_digest, reason in sorted(refused.samples.items()):
        connection.execute(
            text("""
                INSERT INTO rejected_deliveries AS r
                    (body_digest, reason, received_at, last_received_at, delivery_count)
                VALUES (:digest, :reason, :now, :now, 1)
                ON CONFLICT (body_digest) DO UPDATE SET delivery_count = r.delivery_count + 1,
                    last_received_at = excluded.last_received_at"""),
            {"digest": body_digest, "reason": reason, "now": now},
        )
    if refused.samples:
        connection.execute(
            text("""
                DELETE FROM rejected_deliveries WHERE body_digest IN (
                    SELECT body_digest FROM rejected_deliveries
                    ORDER BY last_received_at DESC, body_digest OFFSET :rows)"""),
            {"rows": REJECTED_ROWS_MAX},
        )
