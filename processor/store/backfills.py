"""Backfills: spans of creation dates that are read once, a part at a time, when they are due and how far they are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from processor.domain.alert import AlertKind
from processor.store import alerts, instances
from processor.store.sweeps import FAR, Lease

_STATUS = """CASE WHEN finished_at IS NOT NULL THEN 'finished' WHEN cancelled_at IS NOT NULL THEN 'cancelled'
    WHEN started_at IS NULL THEN 'waiting' ELSE 'running' END"""


@dataclass(frozen=True, slots=True)
class BackfillLine:
    """One backfill as it stands. status: `waiting`, `running`, `finished` or `cancelled`."""

    backfill_id: UUID
    instance_id: UUID
    reason: str
    actor: str
    status: str
    requested_at: datetime
    window_from: datetime
    window_to: datetime
    position_at: datetime
    payment_count: int
    failures: int
    started_at: datetime | None
    finished_at: datetime | None
    cancelled_at: datetime | None

    @property
    def share_done(self) -> float:
        """How much of the span has been read, from 0 to 1. By time: Wix does not say how many payments it holds."""
        if self.status == "finished":
            return 1.0
        return (self.position_at - self.window_from) / (self.window_to - self.window_from)

    def finishes_at(self, now: datetime) -> datetime | None:
        """When it will be through if it goes on as it went so far. None when nothing is known of that, or it ended."""
        if self.status != "running" or self.started_at is None or self.share_done <= 0:
            return None
        rest = (now - self.started_at) / self.share_done * (1 - self.share_done)
        return now + rest


_LINE = ", ".join(
    f"{_STATUS} AS status" if name == "status" else name for name in BackfillLine.__dataclass_fields__
)


def request(
    connection: Connection,
    instance_id: UUID,
    since: datetime,
    until: datetime,
    *,
    reason: str,
    actor: str,
    now: datetime,
) -> UUID:
    """Ask for a backfill of what was created from `since` up to `until`; returns its id.

    reason: `installed`, `silence`, `downtime` or `requested`. actor: a person's name, or `automation`. What one
    that has not ended has still to read is not asked for twice: then its id is returned.
    """
    instances.lock(connection, instance_id)  # or two that ask at once would both find none
    covering = connection.execute(
        text("""
            SELECT backfill_id FROM backfills
            WHERE instance_id = :instance_id AND due_at IS NOT NULL AND position_at <= :since AND window_to >= :until
            ORDER BY requested_at, backfill_id LIMIT 1"""),
        {"instance_id": instance_id, "since": since, "until": until},
    ).scalar_one_or_none()
    if covering is not None:
        return UUID(str(covering))
    backfill_id = uuid4()
    connection.execute(
        text("""
            INSERT INTO backfills
                (backfill_id, instance_id, reason, actor, requested_at, window_from, window_to, position_at, due_at)
            VALUES (:backfill_id, :instance_id, :reason, :actor, :now, :since, :until, :since, :now)"""),
        {
            "backfill_id": backfill_id,
            "instance_id": instance_id,
            "reason": reason,
            "actor": actor,
            "since": since,
            "until": until,
            "now": now,
        },
    )
    return backfill_id


def request_for_new(connection: Connection, now: datetime, *, span: timedelta, overlap: timedelta) -> int:
    """Ask for a backfill of every installed instance that never had one, of `span` before now. Returns how many.

    It ends where the first sweep begins. No span: only noted, so that none is asked for later.
    """
    asked = connection.execute(
        text("""
            WITH found AS (
                UPDATE app_instances SET backfilled_at = :now WHERE instance_id IN (
                    SELECT instance_id FROM app_instances WHERE backfilled_at IS NULL AND status = 'installed'
                    ORDER BY instance_id FOR NO KEY UPDATE SKIP LOCKED)
                RETURNING instance_id, LEAST(first_seen_at, :now) - CAST(:overlap AS interval) AS until
            )
            INSERT INTO backfills
                (backfill_id, instance_id, reason, actor, requested_at, window_from, window_to, position_at, due_at)
            SELECT gen_random_uuid(), instance_id, 'installed', 'automation', :now, :since, until, :since, :now
            FROM found WHERE until > :since"""),
        {"now": now, "since": now - span, "overlap": overlap},
    )
    return asked.rowcount


def take_due(connection: Connection, now: datetime, again_after: timedelta) -> list[UUID]:
    """Instances with a backfill that is due and not yet enqueued, noted as enqueued from now on; each once.

    The longest asked for of each instance comes first; the next waits until it has ended.
    """
    rows = connection.execute(
        text("""
            UPDATE backfills SET enqueued_at = :now
            WHERE backfill_id IN (
                SELECT b.backfill_id FROM backfills b JOIN app_instances a USING (instance_id)
                WHERE b.due_at <= :now AND a.status = 'installed'
                    AND (b.lease_until IS NULL OR b.lease_until < :now OR b.lease_until > :far)
                    AND (b.enqueued_at IS NULL OR b.enqueued_at < :before OR b.enqueued_at > :after)
                    AND NOT EXISTS (SELECT FROM backfills o WHERE o.instance_id = b.instance_id
                        AND o.due_at IS NOT NULL AND (o.requested_at, o.backfill_id) < (b.requested_at, b.backfill_id))
                ORDER BY b.backfill_id FOR NO KEY UPDATE OF b SKIP LOCKED)
            RETURNING instance_id"""),
        {"now": now, "before": now - again_after, "after": now + again_after, "far": now + FAR},
    )
    return [row.instance_id for row in rows]


@dataclass(frozen=True, slots=True)
class BackfillLease:
    """A backfill in our hands, to be read from its position."""

    backfill_id: UUID
    lease: Lease


def claim(
    connection: Connection, instance_id: UUID, now: datetime, *, lease: timedelta
) -> BackfillLease | None:
    """Claim the instance's first backfill, resuming one whose worker died. None when there is nothing to do."""
    lease_id = uuid4()
    row = connection.execute(
        text("""
            UPDATE backfills SET lease_id = :lease_id, lease_until = :until, enqueued_at = NULL,
                started_at = COALESCE(started_at, :now)
            WHERE due_at <= :now AND (lease_until IS NULL OR lease_until < :now OR lease_until > :far)
                AND backfill_id = (
                    SELECT b.backfill_id FROM backfills b JOIN app_instances a USING (instance_id)
                    WHERE b.instance_id = :instance_id AND b.due_at IS NOT NULL AND a.status = 'installed'
                    ORDER BY b.requested_at, b.backfill_id LIMIT 1 FOR NO KEY UPDATE OF b)
            RETURNING backfill_id, window_from, window_to, position_at, failures"""),
        {
            "instance_id": instance_id,
            "lease_id": lease_id,
            "until": now + lease,
            "far": now + FAR,
            "now": now,
        },
    ).one_or_none()
    if row is None:
        return None
    return BackfillLease(
        row.backfill_id, Lease(lease_id, row.window_from, row.window_to, row.position_at, row.failures)
    )


def hold(connection: Connection, held: BackfillLease, until: datetime) -> bool:
    """Hold on to it, since reading takes longer. False when it was taken over or cancelled."""
    return (
        connection.execute(
            text("""
                UPDATE backfills SET lease_until = :until
                WHERE backfill_id = :backfill_id AND lease_id = :lease_id"""),
            {"backfill_id": held.backfill_id, "lease_id": held.lease.lease_id, "until": until},
        ).rowcount
        == 1
    )


def advance(
    connection: Connection, held: BackfillLease, position_at: datetime, *, payments: int, due_at: datetime
) -> bool:
    """Note that everything up to a position was read, and give it back. False when it was taken over or cancelled."""
    return (
        connection.execute(
            text("""
                UPDATE backfills SET lease_id = NULL, lease_until = NULL, failures = 0, due_at = :due_at,
                    position_at = LEAST(GREATEST(position_at, :position_at), window_to),
                    payment_count = payment_count + :payments
                WHERE backfill_id = :backfill_id AND lease_id = :lease_id"""),
            {
                "backfill_id": held.backfill_id,
                "lease_id": held.lease.lease_id,
                "position_at": position_at,
                "payments": payments,
                "due_at": due_at,
            },
        ).rowcount
        == 1
    )


def finish(connection: Connection, held: BackfillLease, *, payments: int, now: datetime) -> bool:
    """The whole span was read, which persons are told. False when it was taken over or cancelled."""
    row = connection.execute(
        text("""
            UPDATE backfills SET lease_id = NULL, lease_until = NULL, due_at = NULL, failures = 0,
                position_at = window_to, payment_count = payment_count + :payments, finished_at = :now
            WHERE backfill_id = :backfill_id AND lease_id = :lease_id
            RETURNING instance_id, reason, window_from, window_to, payment_count"""),
        {
            "backfill_id": held.backfill_id,
            "lease_id": held.lease.lease_id,
            "payments": payments,
            "now": now,
        },
    ).one_or_none()
    if row is None:
        return False
    alerts.tell(
        connection,
        AlertKind.BACKFILL_FINISHED,
        instance_id=row.instance_id,
        subject=str(held.backfill_id),
        change="finished",
        document={
            "backfill_id": str(held.backfill_id),
            "reason": row.reason,
            "from": row.window_from.isoformat(),
            "to": row.window_to.isoformat(),
            "payments": row.payment_count,
        },
        now=now,
    )
    return True


def postpone(connection: Connection, held: BackfillLease, due_at: datetime) -> None:
    """Give it back where it stands; it resumes at `due_at`."""
    connection.execute(
        text("""
            UPDATE backfills SET lease_id = NULL, lease_until = NULL, due_at = :due_at, failures = failures + 1
            WHERE backfill_id = :backfill_id AND lease_id = :lease_id"""),
        {"backfill_id": held.backfill_id, "lease_id": held.lease.lease_id, "due_at": due_at},
    )


def cancel(connection: Connection, backfill_id: UUID, now: datetime) -> bool:
    """End a backfill where it stands. False when it had ended, or there is none."""
    return (
        connection.execute(
            text("""
                UPDATE backfills SET lease_id = NULL, lease_until = NULL, due_at = NULL, cancelled_at = :now
                WHERE backfill_id = :backfill_id AND due_at IS NOT NULL"""),
            {"backfill_id": backfill_id, "now": now},
        ).rowcount
        == 1
    )


def find(connection: Connection, backfill_id: UUID) -> BackfillLine | None:
    """One backfill, None when there is none."""
    row = connection.execute(
        text(f"SELECT {_LINE} FROM backfills WHERE backfill_id = :backfill_id"), {"backfill_id": backfill_id}
    ).one_or_none()
    return BackfillLine(*row) if row is not None else None


def latest(connection: Connection, instance_id: UUID | None, limit: int) -> list[BackfillLine]:
    """The backfills of an instance, or of all, the latest first."""
    rows = connection.execute(
        text(f"""
            SELECT {_LINE} FROM backfills
            WHERE CAST(:instance_id AS uuid) IS NULL OR instance_id = CAST(:instance_id AS uuid)
            ORDER BY requested_at DESC, backfill_id LIMIT :limit"""),
        {"instance_id": instance_id, "limit": limit},
    )
    return [BackfillLine(*row) for row in rows]
