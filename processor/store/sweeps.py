"""The polling of each instance: when it is due, how far it has come."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

# A lease that ends later than this was given under a clock since set back.
FAR = timedelta(days=1)


def take_due(connection: Connection, now: datetime, again_after: timedelta) -> list[UUID]:
    """Installed instances whose sweep is due and not yet enqueued, noted as enqueued from now on.

    As for checks: one clock gets each, and a lost job is enqueued again after `again_after`.
    """
    rows = connection.execute(
        text("""
            UPDATE sweeps SET enqueued_at = :now
            WHERE instance_id IN (
                SELECT s.instance_id FROM sweeps s JOIN app_instances a USING (instance_id)
                WHERE s.due_at <= :now AND a.status = 'installed'
                    AND (s.lease_until IS NULL OR s.lease_until < :now OR s.lease_until > :far)
                    AND (s.enqueued_at IS NULL OR s.enqueued_at < :before OR s.enqueued_at > :after)
                ORDER BY s.instance_id FOR NO KEY UPDATE OF s SKIP LOCKED)
            RETURNING instance_id"""),
        {"now": now, "before": now - again_after, "after": now + again_after, "far": now + FAR},
    )
    return [row.instance_id for row in rows]


@dataclass(frozen=True, slots=True)
class Lease:
    """A window in our hands: payments created from position_at up to window_to are to be read."""

    lease_id: UUID
    window_from: datetime
    window_to: datetime
    position_at: datetime
    failures: int


def claim(
    connection: Connection, instance_id: UUID, now: datetime, *, lease: timedelta, overlap: timedelta
) -> Lease | None:
    """Claim the instance's sweep, resuming one whose worker died. None when another worker has it.

    A new window begins `overlap` before the end of the last, or before the instance was first seen.
    """
    lease_id = uuid4()
    row = connection.execute(
        text("""
            UPDATE sweeps s SET lease_id = :lease_id, lease_until = :until, enqueued_at = NULL,
                window_from = COALESCE(s.window_from, COALESCE(s.swept_to, a.first_seen_at, :now) - :overlap),
                window_to = COALESCE(s.window_to, :now),
                position_at = COALESCE(s.position_at, COALESCE(s.swept_to, a.first_seen_at, :now) - :overlap)
            FROM app_instances a
            WHERE s.instance_id = :instance_id AND a.instance_id = s.instance_id AND a.status = 'installed'
                AND s.due_at <= :now
                AND (s.lease_until IS NULL OR s.lease_until < :now OR s.lease_until > :far)
            RETURNING s.window_from, s.window_to, s.position_at, s.failures"""),
        {
            "instance_id": instance_id,
            "lease_id": lease_id,
            "until": now + lease,
            "far": now + FAR,
            "now": now,
            "overlap": overlap,
        },
    ).one_or_none()
    if row is None:
        return None
    return Lease(lease_id, row.window_from, row.window_to, row.position_at, row.failures)


def pass_over(
    connection: Connection, instance_id: UUID, now: datetime, *, longer_than: timedelta
) -> datetime | None:
    """Begin the next window as if the last had ended now, if none ended for so long. Returns when the last did end.

    None when the next window begins where it should. Who passes over a time has to see that it is read.
    """
    return connection.execute(
        text("""
            WITH old AS (
                SELECT s.instance_id, COALESCE(s.swept_to, a.first_seen_at) AS swept_to
                FROM sweeps s JOIN app_instances a USING (instance_id)
                WHERE s.instance_id = :instance_id AND s.window_from IS NULL AND s.due_at <= :now
                    AND a.status = 'installed' AND COALESCE(s.swept_to, a.first_seen_at) < :before
                FOR NO KEY UPDATE OF s
            )
            UPDATE sweeps s SET swept_to = :now FROM old WHERE s.instance_id = old.instance_id
            RETURNING old.swept_to"""),
        {"instance_id": instance_id, "now": now, "before": now - longer_than},
    ).scalar_one_or_none()


def request(
    connection: Connection, instance_id: UUID, since: datetime, until: datetime, now: datetime
) -> None:
    """Ask for a sweep of what was created in a window, at once.

    One under way is begun anew over both windows: the worker at it finds that it was taken over.
    """
    connection.execute(
        text("""
            INSERT INTO sweeps AS s (instance_id, due_at, window_from, window_to, position_at)
            VALUES (:instance_id, :now, :since, :until, :since)
            ON CONFLICT (instance_id) DO UPDATE SET due_at = :now, enqueued_at = NULL,
                lease_id = NULL, lease_until = NULL,
                window_from = LEAST(s.window_from, :since), window_to = GREATEST(s.window_to, :until),
                position_at = LEAST(s.position_at, :since)"""),
        {"instance_id": instance_id, "since": since, "until": until, "now": now},
    )


def is_under_way(connection: Connection, instance_id: UUID, since: datetime) -> bool:
    """Whether a sweep asked for at `since` has not ended yet."""
    return bool(
        connection.execute(
            text("""
                SELECT window_from IS NOT NULL OR finished_at IS NULL OR finished_at < :since FROM sweeps
                WHERE instance_id = :instance_id"""),
            {"instance_id": instance_id, "since": since},
        ).scalar_one_or_none()
    )


def hold(connection: Connection, instance_id: UUID, lease: Lease, until: datetime) -> bool:
    """Hold on to the sweep, since reading takes longer. False when it was taken over."""
    return (
        connection.execute(
            text("""
                UPDATE sweeps SET lease_until = :until
                WHERE instance_id = :instance_id AND lease_id = :lease_id"""),
            {"instance_id": instance_id, "lease_id": lease.lease_id, "until": until},
        ).rowcount
        == 1
    )


def advance(
    connection: Connection, instance_id: UUID, lease: Lease, position_at: datetime, *, due_at: datetime
) -> bool:
    """Note that everything up to a position was read, and give the sweep back. False when it was taken over.

    Noted as enqueued as well: who read asks for the next part, and a clock would ask for one more after each.
    """
    return (
        connection.execute(
            text("""
                UPDATE sweeps SET lease_id = NULL, lease_until = NULL, failures = 0, due_at = :due_at,
                    enqueued_at = :due_at,
                    position_at = LEAST(GREATEST(position_at, :position_at), window_to)
                WHERE instance_id = :instance_id AND lease_id = :lease_id"""),
            {
                "instance_id": instance_id,
                "lease_id": lease.lease_id,
                "position_at": position_at,
                "due_at": due_at,
            },
        ).rowcount
        == 1
    )


def finish(
    connection: Connection,
    instance_id: UUID,
    lease: Lease,
    *,
    due_at: datetime,
    now: datetime,
    overlap: timedelta,
) -> bool:
    """The whole window was read. False when the sweep was taken over.

    What was asked for by hand may lie apart from what was read so far: then the next sweep of the clock still begins
    where `claim` would have begun this one.
    """
    finished = connection.execute(
        text("""
            UPDATE sweeps s SET lease_id = NULL, lease_until = NULL, window_from = NULL, window_to = NULL,
                position_at = NULL, due_at = :due_at, finished_at = :now, failures = 0,
                swept_to = CASE WHEN s.window_from <= COALESCE(s.swept_to, a.first_seen_at) - :overlap
                    THEN GREATEST(s.swept_to, :swept_to) ELSE s.swept_to END
            FROM app_instances a
            WHERE s.instance_id = :instance_id AND s.lease_id = :lease_id AND a.instance_id = s.instance_id"""),
        {
            "instance_id": instance_id,
            "lease_id": lease.lease_id,
            "swept_to": lease.window_to,
            "due_at": due_at,
            "now": now,
            "overlap": overlap,
        },
    )
    return finished.rowcount == 1


def postpone(connection: Connection, instance_id: UUID, lease: Lease, due_at: datetime) -> None:
    """Give the sweep back where it stands; it resumes at `due_at`."""
    connection.execute(
        text("""
            UPDATE sweeps SET lease_id = NULL, lease_until = NULL, due_at = :due_at, failures = failures + 1
            WHERE instance_id = :instance_id AND lease_id = :lease_id"""),
        {"instance_id": instance_id, "lease_id": lease.lease_id, "due_at": due_at},
    )
