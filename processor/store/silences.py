"""Instances that are listened to, and their silences: when no event of a payment came though one was to be expected.

`domain.silence` says what is to be expected. An event of the future, stamped under a clock since set back, is
overlooked until its time has come.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from processor.domain.silence import AHEAD_MAX, LOOK_MIN, PATIENCE_MAX, Look, moments
from processor.store import operations

LOOKS_MAX = 200  # instances looked at in one statement; the rest wait for the next tick
# Payments and links have one index, in the order of receipt. So many links told of between two payments are read over
# at most; beyond, the pause is taken for a long one.
EVENTS_MAX = 500
# What is due later than this, or leased for longer, was written under a clock since set back.
FAR = timedelta(days=2)


def _nearest(instance_id: str, condition: str, order: str) -> str:
    """A scalar subquery: first receipt of the nearest event of a payment."""
    return f"""(SELECT n.received_at FROM (
            SELECT e.received_at, e.kind FROM webhook_events e
            WHERE e.instance_id = {instance_id} AND {condition}
            ORDER BY e.received_at {order} LIMIT {EVENTS_MAX}) n
        WHERE n.kind = 'payment' ORDER BY n.received_at {order} LIMIT 1)"""


def listen(connection: Connection, now: datetime) -> None:
    """Listen to every installed instance from now on, and to those no more that removed the app."""
    connection.execute(
        text("""
            INSERT INTO listening (instance_id, look_at)
            SELECT a.instance_id, :now FROM app_instances a
            WHERE a.status = 'installed'
                AND NOT EXISTS (SELECT FROM listening l WHERE l.instance_id = a.instance_id)
            ORDER BY a.instance_id
            ON CONFLICT DO NOTHING"""),
        {"now": now},
    )
    connection.execute(
        text("""
            UPDATE silences s SET ended_at = GREATEST(s.silent_since, :now), end_reason = 'removed', due_at = NULL,
                enqueued_at = NULL, lease_id = NULL, lease_until = NULL
            WHERE s.silence_id IN (
                SELECT o.silence_id FROM silences o JOIN app_instances a USING (instance_id)
                WHERE o.ended_at IS NULL AND a.status <> 'installed'
                ORDER BY o.silence_id FOR NO KEY UPDATE OF o SKIP LOCKED)"""),
        {"now": now},
    )


@dataclass(frozen=True, slots=True)
class Listened:
    """What is known of an instance that is due to be looked at.

    known_since: from when events could come. last_event_at: last first receipt of an event of a payment, None for none.
    pauses: by week, as `domain.silence.pauses`. silence_id, silent_since, is_confirmed: the silence that goes on, None
    and False without one.
    """

    instance_id: UUID
    known_since: datetime
    last_event_at: datetime | None
    pauses: tuple[timedelta | None, ...]
    silence_id: UUID | None
    silent_since: datetime | None
    is_confirmed: bool


_BEFORE = "e.received_at > w.since AND e.received_at <= m.moment"
_AFTER = "e.received_at > m.moment AND e.received_at < w.until"
_PAUSES = text(f"""
    SELECT d.instance_id, d.known_since, s.silence_id, s.silent_since, s.verdict = 'silent' AS is_confirmed,
        {_nearest("d.instance_id", "e.received_at <= :latest", "DESC")} AS last_event_at,
        ARRAY(
            SELECT CASE WHEN bool_and(g.is_known) THEN extract(epoch FROM max(g.until - g.since)) END
            FROM unnest(CAST(:weeks AS int[]), CAST(:moments AS timestamptz[])) AS m (week, moment)
            CROSS JOIN LATERAL (
                SELECT GREATEST(m.moment - :most, d.known_since) AS since, LEAST(m.moment + :most, :now) AS until
            ) AS w
            CROSS JOIN LATERAL (
                SELECT
                    COALESCE({_nearest("d.instance_id", _BEFORE, "DESC")}, w.since) AS since,
                    COALESCE({_nearest("d.instance_id", _AFTER, "ASC")}, w.until) AS until
            ) AS p
            CROSS JOIN LATERAL (
                SELECT p.since, p.until, m.moment >= d.known_since AND NOT EXISTS (
                    SELECT FROM silences c
                    WHERE c.instance_id = d.instance_id AND c.verdict = 'silent' AND c.silent_since < p.until
                        AND (c.ended_at IS NULL OR c.ended_at > p.since)) AS is_known
            ) AS g
            GROUP BY m.week ORDER BY m.week
        ) AS pauses
    FROM unnest(CAST(:ids AS uuid[]), CAST(:known_since AS timestamptz[])) AS d (instance_id, known_since)
    LEFT JOIN silences s ON s.instance_id = d.instance_id AND s.ended_at IS NULL
    ORDER BY d.instance_id""")


def due(connection: Connection, now: datetime, limit: int = LOOKS_MAX) -> list[Listened]:
    """Instances that are due to be looked at, the longest due first; locked, so that one clock looks at each."""
    times = {"now": now, "latest": now + AHEAD_MAX, "most": PATIENCE_MAX}
    found = connection.execute(
        text("""
            -- What came under a clock since set back says nothing of when; so long ago is as good as ever.
            SELECT l.instance_id, COALESCE(GREATEST(CASE WHEN a.first_seen_at <= :latest THEN a.first_seen_at END,
                CASE WHEN a.installed_at <= :latest THEN a.installed_at END), :now - :most) AS known_since
            FROM listening l JOIN app_instances a USING (instance_id)
            WHERE a.status = 'installed' AND (l.look_at <= :now OR l.look_at > :far)
            ORDER BY l.look_at, l.instance_id LIMIT :limit FOR NO KEY UPDATE OF l SKIP LOCKED"""),
        {**times, "far": now + FAR, "limit": limit},
    ).all()
    if not found:
        return []
    places = moments(now)
    rows = connection.execute(
        _PAUSES,
        {
            **times,
            "ids": [row.instance_id for row in found],
            "known_since": [row.known_since for row in found],
            "weeks": [week for week, _ in places],
            "moments": [moment for _, moment in places],
        },
    )
    return [
        Listened(
            row.instance_id,
            row.known_since,
            row.last_event_at,
            tuple(None if one is None else timedelta(seconds=float(one)) for one in row.pauses),
            row.silence_id,
            row.silent_since,
            bool(row.is_confirmed),
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Looked:
    """One instance after a look."""

    listened: Listened
    look: Look


def note_looks(connection: Connection, looked: Sequence[Looked], now: datetime) -> None:
    """Write what the looks found, and when to look again."""
    if not looked:
        return
    connection.execute(
        text("""
            UPDATE listening l SET look_at = t.look_at, looked_at = :now, last_event_at = t.last_event_at,
                patience_seconds = t.patience
            FROM unnest(CAST(:ids AS uuid[]), CAST(:look_at AS timestamptz[]), CAST(:last_event_at AS timestamptz[]),
                CAST(:patience AS bigint[])) AS t (instance_id, look_at, last_event_at, patience)
            WHERE l.instance_id = t.instance_id"""),
        {
            "now": now,
            "ids": [one.listened.instance_id for one in looked],
            # That webhooks are back is to be known soon.
            "look_at": [now + LOOK_MIN if one.listened.is_confirmed else one.look.look_at for one in looked],
            "last_event_at": [one.listened.last_event_at for one in looked],
            "patience": [int(one.look.patience.total_seconds()) for one in looked],
        },
    )


def suspect(connection: Connection, looked: Sequence[Looked], now: datetime) -> int:
    """Begin the silences that are suspected, of instances without one. Returns how many."""
    suspected = [one for one in looked if one.look.is_suspect]
    if not suspected:
        return 0
    return connection.execute(
        text("""
            INSERT INTO silences (silence_id, instance_id, silent_since, last_event_at, patience_seconds, suspected_at,
                verdict, due_at)
            SELECT t.silence_id, t.instance_id, t.silent_since, t.last_event_at, t.patience, :now, 'unverified', :now
            FROM unnest(CAST(:silence_ids AS uuid[]), CAST(:ids AS uuid[]), CAST(:silent_since AS timestamptz[]),
                CAST(:last_event_at AS timestamptz[]), CAST(:patience AS bigint[]))
                AS t (silence_id, instance_id, silent_since, last_event_at, patience)
            ORDER BY t.instance_id
            -- Its silence goes on.
            ON CONFLICT (instance_id) WHERE ended_at IS NULL DO NOTHING"""),
        {
            "now": now,
            "silence_ids": [uuid4() for _ in suspected],
            "ids": [one.listened.instance_id for one in suspected],
            "silent_since": [one.look.silent_since for one in suspected],
            "last_event_at": [one.listened.last_event_at for one in suspected],
            "patience": [int(one.look.patience.total_seconds()) for one in suspected],
        },
    ).rowcount


@dataclass(frozen=True, slots=True)
class Ended:
    """A silence that is over. confirmed_at: when Wix had shown that it was one, None for a quiet shop."""

    silence_id: UUID
    instance_id: UUID
    silent_since: datetime
    ended_at: datetime
    confirmed_at: datetime | None
    payments_found: int


_SINCE = "e.received_at > s.silent_since AND e.received_at <= :latest"


def end(connection: Connection, silence_ids: Collection[UUID], now: datetime) -> list[Ended]:
    """End those of these silences in which an event came, and those that begin in the future.

    They end with the first receipt of the first such event. One of the future began under a clock since set back.
    """
    rows = connection.execute(
        text(f"""
            WITH heard AS (
                SELECT s.silence_id, s.silent_since > :latest AS is_ahead, CASE WHEN s.silent_since > :latest
                    THEN s.silent_since ELSE COALESCE(
                        {_nearest("s.instance_id", _SINCE, "ASC")},
                        -- The first of them may stand behind very many links; the last does not.
                        (SELECT l.last_event_at FROM listening l
                            WHERE l.instance_id = s.instance_id AND l.last_event_at > s.silent_since
                                AND l.last_event_at <= :latest)) END AS ended_at
                FROM silences s
                WHERE s.silence_id = ANY(:ids) AND s.ended_at IS NULL
                ORDER BY s.silence_id FOR NO KEY UPDATE
            )
            UPDATE silences s SET ended_at = h.ended_at, due_at = NULL, enqueued_at = NULL, lease_id = NULL,
                lease_until = NULL, end_reason = CASE WHEN h.is_ahead THEN 'clock' ELSE 'event' END
            FROM heard h
            WHERE s.silence_id = h.silence_id AND h.ended_at IS NOT NULL
            RETURNING s.silence_id, s.instance_id, s.silent_since, s.ended_at, s.confirmed_at, s.payments_found"""),
        {"ids": list(silence_ids), "latest": now + AHEAD_MAX},
    )
    return sorted((Ended(*row) for row in rows), key=lambda one: (one.instance_id, one.silence_id))


# -- Asking Wix ------------------------------------------------------------------------------------


def take_due(connection: Connection, now: datetime, again_after: timedelta) -> list[UUID]:
    """Instances whose silence is to be verified and not yet enqueued, noted as enqueued from now on.

    As for sweeps: one clock gets each, and a lost job is enqueued again after `again_after`.
    """
    rows = connection.execute(
        text("""
            UPDATE silences SET enqueued_at = :now
            WHERE silence_id IN (
                SELECT s.silence_id FROM silences s JOIN app_instances a USING (instance_id)
                WHERE s.ended_at IS NULL AND (s.due_at <= :now OR s.due_at > :far) AND a.status = 'installed'
                    AND (s.lease_until IS NULL OR s.lease_until < :now OR s.lease_until > :far)
                    AND (s.enqueued_at IS NULL OR s.enqueued_at < :before OR s.enqueued_at > :after)
                ORDER BY s.silence_id FOR NO KEY UPDATE OF s SKIP LOCKED)
            RETURNING instance_id"""),
        {"now": now, "before": now - again_after, "after": now + again_after, "far": now + FAR},
    )
    return [row.instance_id for row in rows]


@dataclass(frozen=True, slots=True)
class SilenceLease:
    """A suspected silence in our hands. listening_since: since when the clock listens without a break."""

    lease_id: UUID
    silence_id: UUID
    silent_since: datetime
    listening_since: datetime
    patience: timedelta
    failures: int


def claim(
    connection: Connection, instance_id: UUID, now: datetime, *, lease: timedelta
) -> SilenceLease | None:
    """Claim the instance's silence to verify it. None when nothing is due, or another worker has it."""
    lease_id = uuid4()
    row = connection.execute(
        text("""
            UPDATE silences s SET lease_id = :lease_id, lease_until = :until, enqueued_at = NULL
            FROM app_instances a
            WHERE s.instance_id = :instance_id AND a.instance_id = s.instance_id AND a.status = 'installed'
                AND s.ended_at IS NULL AND (s.due_at <= :now OR s.due_at > :far)
                AND (s.lease_until IS NULL OR s.lease_until < :now OR s.lease_until > :far)
            RETURNING s.silence_id, s.silent_since, s.patience_seconds, s.failures,
                (SELECT h.steady_since FROM heartbeats h WHERE h.process = :clock) AS steady_since"""),
        {
            "instance_id": instance_id,
            "lease_id": lease_id,
            "until": now + lease,
            "far": now + FAR,
            "now": now,
            "clock": operations.CLOCK,
        },
    ).one_or_none()
    if row is None:
        return None
    return SilenceLease(
        lease_id,
        row.silence_id,
        row.silent_since,
        # Where no clock has ticked, nobody has listened so far.
        row.steady_since or now,
        timedelta(seconds=row.patience_seconds),
        row.failures,
    )


def untold(connection: Connection, instance_id: UUID, payment_ids: Collection[UUID]) -> set[UUID]:
    """Of these payments, those of which no event ever told."""
    rows = connection.execute(
        text("""
            SELECT DISTINCT t.payment_id FROM unnest(CAST(:ids AS uuid[])) AS t (payment_id)
            WHERE NOT EXISTS (SELECT FROM webhook_events e
                WHERE e.instance_id = :instance_id AND e.entity_id = t.payment_id AND e.kind = 'payment')"""),
        {"instance_id": instance_id, "ids": list(payment_ids)},
    )
    return {row.payment_id for row in rows}


def conclude(
    connection: Connection,
    lease: SilenceLease,
    *,
    payments_found: int,
    requests: int,
    due_at: datetime,
    now: datetime,
) -> bool:
    """Write what Wix said. False when the silence ended meanwhile, or was taken over.

    payments_found: how many payments Wix lists of which it did not tell; with any the silence is confirmed, else it is
    verified again at `due_at`.
    """
    return (
        connection.execute(
            text("""
                UPDATE silences SET lease_id = NULL, lease_until = NULL, enqueued_at = NULL, failures = 0,
                    times_verified = times_verified + 1, wix_requests = wix_requests + :requests, verified_at = :now,
                    payments_found = :found,
                    verdict = CASE WHEN :found > 0 THEN 'silent' ELSE 'quiet' END,
                    confirmed_at = CASE WHEN :found > 0 THEN CAST(:now AS timestamptz) END,
                    due_at = CASE WHEN :found > 0 THEN NULL ELSE CAST(:due_at AS timestamptz) END
                WHERE silence_id = :silence_id AND lease_id = :lease_id AND ended_at IS NULL"""),
            {
                "silence_id": lease.silence_id,
                "lease_id": lease.lease_id,
                "found": payments_found,
                "requests": requests,
                "due_at": due_at,
                "now": now,
            },
        ).rowcount
        == 1
    )


def postpone(
    connection: Connection, lease: SilenceLease, *, due_at: datetime, requests: int = 0, is_failure: bool
) -> None:
    """Give the lease back without an answer; the verdict stays. is_failure: Wix could not be asked, else it was not."""
    connection.execute(
        text("""
            UPDATE silences SET lease_id = NULL, lease_until = NULL, enqueued_at = NULL, due_at = :due_at,
                failures = failures + :failures, wix_requests = wix_requests + :requests
            WHERE silence_id = :silence_id AND lease_id = :lease_id AND ended_at IS NULL"""),
        {
            "silence_id": lease.silence_id,
            "lease_id": lease.lease_id,
            "due_at": due_at,
            "requests": requests,
            "failures": int(is_failure),
        },
    )


def look_again(connection: Connection, instance_id: UUID, at: datetime) -> None:
    """Look at the instance at `at`, unless it is looked at sooner anyway."""
    connection.execute(
        text("""
            UPDATE listening SET look_at = LEAST(look_at, :at) WHERE instance_id = :instance_id"""),
        {"instance_id": instance_id, "at": at},
    )


@dataclass(frozen=True, slots=True)
class SilentInstances:
    """How many instances are silent now, confirmed at Wix. longest_id, since: the one silent for longest, if any."""

    number: int
    longest_id: UUID | None
    since: datetime | None


def silent_now(connection: Connection) -> SilentInstances:
    """Instances of which Wix lists payments and sends no events."""
    row = connection.execute(
        text("""
            SELECT count(*) OVER () AS number, instance_id, silent_since FROM silences
            WHERE ended_at IS NULL AND verdict = 'silent' ORDER BY silent_since, instance_id LIMIT 1""")
    ).one_or_none()
    return SilentInstances(0, None, None) if row is None else SilentInstances(*row)
