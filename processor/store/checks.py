"""Which links are due for a check, who is at them, and when they are due again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

LINKS_MAX = 100  # a page of Wix holds that many; how many a filter's `$in` may hold is not documented
DRAIN_MAX = 5_000  # requests merged in one statement; the rest wait for the next
PAYMENTS_TOGETHER_MAX = 5_000  # that links claimed together have, so that none waits for a very large one
STARTS_TOGETHER_MAX = 2  # claims a link may die in beside others, before it is checked alone
BACKOFF_DOUBLINGS_MAX = 6


def drain(connection: Connection, now: datetime) -> int:
    """Merge waiting check requests by link into `link_checks`. Returns how many were merged.

    Several drains at once share the requests out between them. One about an instance nobody knows is dropped: it
    can never be answered, and must not stop the others.
    """
    merged = connection.execute(
        text("""
            WITH taken AS (
                DELETE FROM check_requests WHERE request_id IN (
                    SELECT request_id FROM check_requests ORDER BY request_id
                    LIMIT :limit FOR UPDATE SKIP LOCKED)
                RETURNING instance_id, payment_link_id
            ), merged AS (
                INSERT INTO link_checks AS c (instance_id, payment_link_id, wanted, due_at)
                SELECT instance_id, payment_link_id, count(*), :now FROM taken JOIN app_instances USING (instance_id)
                GROUP BY instance_id, payment_link_id ORDER BY instance_id, payment_link_id
                ON CONFLICT (instance_id, payment_link_id) DO UPDATE SET
                    wanted = c.wanted + excluded.wanted, due_at = LEAST(c.due_at, excluded.due_at)
            )
            SELECT count(*) FROM taken"""),
        {"limit": DRAIN_MAX, "now": now},
    ).scalar_one()
    return int(merged)


def request(connection: Connection, instance_id: UUID, link_ids: Collection[UUID], now: datetime) -> None:
    """Ask for a check of each link."""
    connection.execute(
        text("""
            INSERT INTO check_requests (instance_id, payment_link_id, requested_at)
            SELECT :instance_id, link_id, :now FROM unnest(CAST(:link_ids AS uuid[])) AS t (link_id)
            ORDER BY link_id"""),
        {"instance_id": instance_id, "link_ids": list(link_ids), "now": now},
    )


def take_instances_to_enqueue(connection: Connection, now: datetime, again_after: timedelta) -> list[UUID]:
    """Instances with due links and no job on its way, noted as enqueued from now on.

    A job that got lost (a Redis emptied, a worker killed) is enqueued again after `again_after`.
    Several clocks may ask at once: each instance is given to one of them.
    """
    rows = connection.execute(
        text("""
            UPDATE app_instances SET checks_enqueued_at = :now
            WHERE instance_id IN (
                SELECT instance_id FROM app_instances a
                WHERE status <> 'removed'
                AND (checks_enqueued_at IS NULL OR checks_enqueued_at < :before OR checks_enqueued_at > :after)
                AND EXISTS (
                    SELECT FROM link_checks c WHERE c.instance_id = a.instance_id AND c.due_at <= :now
                    AND (c.lease_until IS NULL OR c.lease_until < :now))
                ORDER BY instance_id FOR NO KEY UPDATE SKIP LOCKED)
            RETURNING instance_id"""),
        # A stamp from the future was written under a clock since set back.
        {"now": now, "before": now - again_after, "after": now + again_after},
    )
    return [row.instance_id for row in rows]


def note_job_started(connection: Connection, instance_id: UUID) -> None:
    """From now on a new job may be enqueued for the instance."""
    connection.execute(
        text("UPDATE app_instances SET checks_enqueued_at = NULL WHERE instance_id = :instance_id"),
        {"instance_id": instance_id},
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """A due link in our hands until the lease ends. wanted: the generation this check will answer for."""

    payment_link_id: UUID
    wanted: int
    attempt: int
    starts: int
    failures: int
    unsettled_since: datetime | None


@dataclass(frozen=True, slots=True)
class Lease:
    """What one job claimed. took_over: claims whose former worker died."""

    lease_id: UUID
    claims: tuple[Claim, ...]

    @property
    def took_over(self) -> int:
        """How many of the claims a worker had died in before."""
        return sum(claim.starts > 1 for claim in self.claims)

    @property
    def failures(self) -> int:
        """How often in a row Wix could not be asked, for the claim that fared worst."""
        return max((claim.failures for claim in self.claims), default=0)


def claim(connection: Connection, instance_id: UUID, now: datetime, lease: timedelta) -> Lease:
    """Claim up to LINKS_MAX due links of an instance, the longest due first.

    Together they have at most PAYMENTS_TOGETHER_MAX payments, by Wix's last count; a larger link is claimed alone.
    A link in whose checks workers died more than STARTS_TOGETHER_MAX times is claimed alone and with a
    growing lease, so that one poisonous link holds nobody else up.
    """
    lease_id = uuid4()
    rows = connection.execute(
        text("""
            WITH free AS (
                SELECT instance_id, payment_link_id, due_at, starts FROM link_checks
                WHERE instance_id = :instance_id AND due_at <= :now
                    AND (lease_until IS NULL OR lease_until < :now OR lease_until > :far)
                ORDER BY starts > :together, due_at, payment_link_id
                LIMIT :limit FOR UPDATE SKIP LOCKED
            ), numbered AS (
                SELECT *, row_number() OVER places AS place,
                    sum(COALESCE(l.payment_count, 0)) OVER places AS payments
                FROM free LEFT JOIN payment_links l USING (instance_id, payment_link_id)
                WINDOW places AS (ORDER BY starts > :together, due_at, payment_link_id ROWS UNBOUNDED PRECEDING)
            )
            UPDATE link_checks c SET lease_id = :lease_id, starts = c.starts + 1,
                lease_until = CAST(:now AS timestamptz)
                    + CAST(:lease AS interval) * power(2, LEAST(GREATEST(c.starts - :together, 0), :doublings))
            FROM numbered f
            WHERE c.instance_id = f.instance_id AND c.payment_link_id = f.payment_link_id
                AND (f.place = 1 OR (f.starts <= :together AND f.payments <= :payments))
            RETURNING c.payment_link_id, c.wanted, c.attempt, c.starts, c.failures, c.unsettled_since"""),
        {
            "instance_id": instance_id,
            "now": now,
            "far": now + lease * 2 ** (BACKOFF_DOUBLINGS_MAX + 1),
            "lease": lease,
            "lease_id": lease_id,
            "limit": LINKS_MAX,
            "together": STARTS_TOGETHER_MAX,
            "payments": PAYMENTS_TOGETHER_MAX,
            "doublings": BACKOFF_DOUBLINGS_MAX,
        },
    )
    claims = tuple(
        Claim(row.payment_link_id, row.wanted, row.attempt, row.starts, row.failures, row.unsettled_since)
        for row in rows
    )
    return Lease(lease_id, claims)


@dataclass(frozen=True, slots=True)
class Finished:
    """How a check of one link ended. due_at: None when nothing is left to wait for."""

    claim: Claim
    is_settled: bool
    due_at: datetime | None


def extend(connection: Connection, instance_id: UUID, lease: Lease, until: datetime) -> int:
    """Hold on to the claims, since reading what Wix says takes longer. Returns how many are still ours."""
    extended = connection.execute(
        text("""
            UPDATE link_checks SET lease_until = GREATEST(lease_until, :until)
            WHERE instance_id = :instance_id AND lease_id = :lease_id"""),
        {"instance_id": instance_id, "lease_id": lease.lease_id, "until": until},
    )
    return extended.rowcount


def still_held(connection: Connection, instance_id: UUID, lease: Lease) -> set[UUID]:
    """Links of the lease that nobody took over meanwhile, locked until the transaction ends."""
    rows = connection.execute(
        text("""
            SELECT payment_link_id FROM link_checks
            WHERE instance_id = :instance_id AND lease_id = :lease_id
            ORDER BY payment_link_id FOR UPDATE"""),
        {"instance_id": instance_id, "lease_id": lease.lease_id},
    )
    return {row.payment_link_id for row in rows}


def finish(
    connection: Connection,
    instance_id: UUID,
    lease: Lease,
    finished: Sequence[Finished],
    *,
    run_id: UUID,
    now: datetime,
) -> None:
    """Write the generations read, give the lease back and set when each link is due again."""
    rows = [
        {
            "instance_id": instance_id,
            "lease_id": lease.lease_id,
            "link_id": one.claim.payment_link_id,
            "read": one.claim.wanted,
            "due_at": one.due_at,
            "settled": one.is_settled,
            "now": now,
            "run_id": run_id,
        }
        for one in sorted(finished, key=lambda one: one.claim.payment_link_id)
    ]
    if not rows:
        return
    connection.execute(
        text("""
            UPDATE link_checks SET checked = :read, lease_id = NULL, lease_until = NULL, starts = 0,
                failures = 0,
                -- A request that landed while we looked has not been answered.
                due_at = CASE WHEN wanted > :read THEN :now ELSE CAST(:due_at AS timestamptz) END,
                attempt = CASE WHEN :settled THEN 0 ELSE attempt + 1 END,
                unsettled_since = CASE WHEN :settled THEN NULL ELSE COALESCE(unsettled_since, :now) END,
                last_checked_at = :now, last_run_id = :run_id
            WHERE instance_id = :instance_id AND payment_link_id = :link_id AND lease_id = :lease_id"""),
        rows,
    )


def postpone(connection: Connection, instance_id: UUID, lease: Lease, due_at: datetime) -> None:
    """Give the lease back unused: Wix could not be asked. The links stay wanted."""
    connection.execute(
        text("""
            UPDATE link_checks SET lease_id = NULL, lease_until = NULL, starts = 0, due_at = :due_at,
                failures = failures + 1
            WHERE instance_id = :instance_id AND lease_id = :lease_id"""),
        {"instance_id": instance_id, "lease_id": lease.lease_id, "due_at": due_at},
    )


def hasten(connection: Connection, instance_id: UUID, now: datetime) -> None:
    """Let every link of the instance that waits for a check be due now."""
    connection.execute(
        text("""
            UPDATE link_checks SET due_at = :now
            WHERE instance_id = :instance_id AND due_at > :now AND lease_id IS NULL"""),
        {"instance_id": instance_id, "now": now},
    )


def has_due(connection: Connection, instance_id: UUID, now: datetime) -> bool:
    """Whether links of the instance wait for a worker."""
    return bool(
        connection.execute(
            text("""
                SELECT EXISTS (SELECT FROM link_checks WHERE instance_id = :instance_id AND due_at <= :now
                    AND (lease_until IS NULL OR lease_until < :now))"""),
            {"instance_id": instance_id, "now": now},
        ).scalar_one()
    )
