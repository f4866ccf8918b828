"""What the overview shows. Every statement reads a bounded number of rows, but for the sums of the days asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from processor.domain.access import Reach
from processor.domain.discrepancy import AGING
from processor.store.screens.common import keep_to_order, let_plan
from processor.store.screens.refunded import net

OPEN_MAX = 10_000  # open discrepancies that are counted; there are more only when something is very wrong
DECIDED_MAX = 500  # held events, whose links are looked at
WAITING_MAX = 10_000
INSTANCES_MAX = 20


def _seen(column: str, reach: Reach) -> str:
    """`common.within`, for a statement in text: with `_ids` among its values."""
    return "true" if reach.instance_ids is None else f"{column} = ANY(:ids)"


def _ids(reach: Reach) -> dict[str, Any]:
    return {} if reach.instance_ids is None else {"ids": list(reach.instance_ids)}


# -- Received --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Day:
    """A calendar day, from when to when it lasts. [since, until), aware."""

    day: date
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class DaySum:
    """Payments of a day in one currency. recovered: of them, those that a poll told of before a webhook.

    refunded: given back of these payments until now, as told, on whatever day; None when no refund of any was told of.
    unclear: of them, those of which a refund succeeded whose amount cannot be booked.
    """

    currency: str
    payments: int
    amount: Decimal
    matched: int
    recovered: int
    refunded: Decimal | None = None
    unclear: int = 0

    @property
    def net(self) -> Decimal | None:
        """The amount less what was refunded; None when that is unclear. Fees are not told of, and not in it."""
        return net(self.amount, self.refunded, is_unclear=self.unclear > 0)


def received(connection: Connection, reach: Reach, days: Sequence[Day]) -> dict[date, list[DaySum]]:
    """Payments by the day on which Wix made them. Reads every payment of these days, and the refunds of each."""
    found: dict[date, list[DaySum]] = {one.day: [] for one in days}
    if not days:
        return found
    keep_to_order(connection)  # or few refunds would be read whole for each payment
    rows = connection.execute(
        text(f"""
            SELECT d.day, s.currency, s.payments, s.amount, s.matched, s.recovered, s.refunded, s.unclear
            FROM unnest(CAST(:days AS date[]), CAST(:since AS timestamptz[]), CAST(:until AS timestamptz[]))
                AS d (day, since, until)
            CROSS JOIN LATERAL (
                SELECT p.currency, count(*) AS payments, sum(p.amount) AS amount,
                    count(*) FILTER (WHERE p.match_state IN ('matched', 'recovered')) AS matched,
                    count(*) FILTER (WHERE p.first_origin = 'poll') AS recovered,
                    sum(r.amount) FILTER (WHERE r.is_clear) AS refunded,
                    count(*) FILTER (WHERE NOT r.is_clear) AS unclear
                FROM payments p
                LEFT JOIN LATERAL (
                    SELECT COALESCE(sum(r.amount) FILTER (WHERE r.status = 'SUCCEEDED'), 0) AS amount,
                        COALESCE(bool_and(r.amount IS NOT NULL AND r.currency = p.currency)
                            FILTER (WHERE r.status = 'SUCCEEDED'), true) AS is_clear
                    FROM refunds r WHERE r.instance_id = p.instance_id AND r.payment_id = p.payment_id
                    HAVING count(*) > 0) AS r ON true
                WHERE p.created_at >= d.since AND p.created_at < d.until AND {_seen("p.instance_id", reach)}
                GROUP BY p.currency) AS s
            ORDER BY d.day, s.currency"""),
        {
            **_ids(reach),
            "days": [one.day for one in days],
            "since": [one.since for one in days],
            "until": [one.until for one in days],
        },
    ).all()
    let_plan(connection)
    for row in rows:
        found[row.day].append(
            DaySum(
                row.currency,
                row.payments,
                row.amount,
                row.matched,
                row.recovered,
                row.refunded,
                row.unclear,
            )
        )
    return found


def is_empty(connection: Connection, reach: Reach) -> bool:
    """Whether nothing was ever booked."""
    return not connection.execute(
        text(f"SELECT EXISTS (SELECT FROM payments p WHERE {_seen('p.instance_id', reach)})"), _ids(reach)
    ).scalar_one()


# -- Unreconciled ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenItems:
    """Open discrepancies of one age in one currency. bucket: of `domain.discrepancy.AGING`, None for all ages.

    currency: None for those of no currency. at_risk: None where no amount is known. informational,
    informational_at_risk: of those among them that may have an innocent cause.
    """

    bucket: str | None
    currency: str | None
    number: int
    at_risk: Decimal | None
    informational: int
    informational_at_risk: Decimal | None


def open_items(connection: Connection, reach: Reach, now: datetime) -> list[OpenItems]:
    """Open discrepancies by age and currency, and by currency alone. The OPEN_MAX + 1 oldest, if there are more."""
    buckets = "".join(
        f" WHEN i.aged_from > :after_{number} THEN {number}"
        for number, (_, until) in enumerate(AGING)
        if until is not None
    )
    rows = connection.execute(
        text(f"""
            WITH items AS (
                SELECT d.aged_from, d.currency, d.amount_at_risk, d.severity = 'informational' AS is_innocent
                FROM discrepancies d
                WHERE d.closed_at IS NULL AND {_seen("d.instance_id", reach)}
                ORDER BY d.aged_from, d.discrepancy_id LIMIT :most
            ), aged AS (
                SELECT CASE {buckets} ELSE {len(AGING) - 1} END AS bucket, i.*
                FROM items i
            )
            SELECT bucket, currency, count(*) AS number, sum(amount_at_risk) AS at_risk,
                count(*) FILTER (WHERE is_innocent) AS informational,
                sum(amount_at_risk) FILTER (WHERE is_innocent) AS informational_at_risk
            FROM aged GROUP BY GROUPING SETS ((bucket, currency), (currency))
            ORDER BY bucket NULLS FIRST, currency NULLS LAST"""),
        {
            **_ids(reach),
            **{
                f"after_{number}": now - until for number, (_, until) in enumerate(AGING) if until is not None
            },
            "most": OPEN_MAX + 1,
        },
    )
    return [
        OpenItems(
            None if row.bucket is None else AGING[row.bucket][0],
            row.currency,
            row.number,
            row.at_risk,
            row.informational,
            row.informational_at_risk,
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is still to come into the books. late_since: when the first check was due, None while none is.

    links: that changed and were not compared with Wix since, or whose difference may still be settling; at most
    WAITING_MAX + 1, and as many requests of further ones. proposed: write-offs that wait for a second person. held:
    events, at most WAITING_MAX + 1. held_of: an instance of theirs, None without any. undecided: of what is held,
    without that of links on which somebody decided, as on a test; all of it when more than DECIDED_MAX are held.
    """

    links: int
    late_since: datetime | None
    held: int
    held_of: UUID | None
    proposed: int
    undecided: int


def waiting(connection: Connection, reach: Reach, now: datetime) -> Waiting:
    """What waits to be compared, vouched for or approved. Of sites that removed the app, nothing is compared."""
    row = connection.execute(
        text(f"""
            WITH due AS (
                SELECT c.due_at, c.wanted > c.checked OR c.unsettled_since IS NOT NULL AS is_wanted
                FROM link_checks c JOIN app_instances a USING (instance_id)
                WHERE c.due_at IS NOT NULL AND a.status <> 'removed' AND {_seen("c.instance_id", reach)}
                LIMIT :most
            ), asked AS (
                -- Drained within seconds, and without an index: only so many are looked at.
                SELECT DISTINCT r.instance_id, r.payment_link_id
                FROM (SELECT * FROM check_requests ORDER BY request_id LIMIT :most) r
                WHERE {_seen("r.instance_id", reach)}
                    -- One by one, by the key: as a join, all links might be read.
                    AND NOT COALESCE((SELECT c.wanted > c.checked FROM link_checks c
                        WHERE c.instance_id = r.instance_id AND c.payment_link_id = r.payment_link_id), false)
            )
            , held AS (
                SELECT e.instance_id, e.payment_link_id FROM webhook_events e
                WHERE e.status = 'held' AND {_seen("e.instance_id", reach)} LIMIT :most
            )
            SELECT (SELECT count(*) FILTER (WHERE is_wanted) FROM due) + (SELECT count(*) FROM asked) AS links,
                (SELECT min(due_at) FROM due WHERE due_at <= :now) AS late_since,
                (SELECT count(*) FROM held) AS held,
                (SELECT instance_id FROM held LIMIT 1) AS held_of,
                (SELECT count(*) FROM held h WHERE (SELECT count(*) FROM held) > :decided_max
                    -- One by one, by the index of the link: as a join, all discrepancies might be read.
                    OR NOT COALESCE((SELECT true FROM discrepancies d
                        WHERE d.instance_id = h.instance_id AND d.payment_link_id = h.payment_link_id
                            AND d.type = 'unknown_instance' AND d.closed_at IS NOT NULL LIMIT 1), false)) AS undecided,
                (SELECT count(*) FROM (SELECT FROM write_offs w
                    WHERE w.status = 'proposed' AND {_seen("w.instance_id", reach)} LIMIT :most) p) AS proposed"""),
        {**_ids(reach), "now": now, "most": WAITING_MAX + 1, "decided_max": DECIDED_MAX},
    ).one()
    return Waiting(row.links, row.late_since, row.held, row.held_of, row.proposed, row.undecided)


def for_approval(connection: Connection, reach: Reach, asker: str) -> int:
    """Write-offs that another person than `asker` proposed, and that wait: at most WAITING_MAX + 1 are counted."""
    found: int = connection.execute(
        text(f"""
            SELECT count(*) FROM (
                SELECT FROM write_offs w
                -- Twice the same, so that the index of those that stand is known to serve.
                WHERE w.status IN ('proposed', 'approved') AND w.status = 'proposed'
                    AND lower(w.proposed_by) <> lower(:asker) AND {_seen("w.instance_id", reach)}
                LIMIT :most) p"""),
        {**_ids(reach), "asker": asker, "most": WAITING_MAX + 1},
    ).scalar_one()
    return found


def assigned(connection: Connection, reach: Reach, asker: str) -> int:
    """Open discrepancies that `asker` looks after, of the OPEN_MAX oldest."""
    found: int = connection.execute(
        text(f"""
            SELECT count(*) FROM (
                SELECT d.owner FROM discrepancies d
                WHERE d.closed_at IS NULL AND {_seen("d.instance_id", reach)}
                ORDER BY d.aged_from, d.discrepancy_id LIMIT :most) o
            WHERE lower(o.owner) = lower(:asker)"""),
        {**_ids(reach), "asker": asker, "most": OPEN_MAX},
    ).scalar_one()
    return found


# -- Delivery --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of webhooks since a moment. duplicates, conflicts: deliveries of an event beyond its first.

    unread: authentic, but of no instance that can be read. rejected: not proven to be Wix's, of the UTC day. Both are
    None for who does not see every instance.
    """

    events: int
    duplicates: int
    conflicts: int
    unreadable: int
    unread: int | None
    rejected: int | None


def delivered(connection: Connection, reach: Reach, since: datetime, utc_day: date) -> Delivered:
    """Webhooks whose event was first received since then. Reads every event of that time."""
    row = connection.execute(
        text(f"""
            SELECT COALESCE(sum(s.events), 0)::bigint AS events,
                COALESCE(sum(s.deliveries - s.events - s.conflicts), 0)::bigint AS duplicates,
                COALESCE(sum(s.conflicts), 0)::bigint AS conflicts,
                COALESCE(sum(s.unreadable), 0)::bigint AS unreadable
            FROM app_instances a
            CROSS JOIN LATERAL (
                SELECT count(*) AS events, sum(e.delivery_count) AS deliveries, sum(e.conflict_count) AS conflicts,
                    count(*) FILTER (WHERE e.status = 'unreadable') AS unreadable
                FROM webhook_events e
                WHERE e.instance_id = a.instance_id AND e.received_at >= :since) AS s
            WHERE {_seen("a.instance_id", reach)}"""),
        {**_ids(reach), "since": since},
    ).one()
    unread = rejected = None
    if reach.instance_ids is None:
        unread, rejected = connection.execute(
            text("""
                SELECT (SELECT count(*) FROM unread_deliveries WHERE received_at >= :since),
                    (SELECT COALESCE(sum(delivery_count), 0)::bigint FROM rejection_counts WHERE day = :day)"""),
            {"since": since, "day": utc_day},
        ).one()
    return Delivered(row.events, row.duplicates, row.conflicts, row.unreadable, unread, rejected)


# -- Instances -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InstanceLine:
    """How one app instance is listened to and asked about.

    last_event_at: first receipt of its last event, of whatever kind, None when none came. patience: how long silence
    is usual now, None while not known. silent_since, verdict: of the silence that goes on, None without one.
    unreachable_since: since when Wix cannot be asked, None while it can. sweep_failures: times in a row.
    """

    instance_id: UUID
    status: str
    last_event_at: datetime | None
    patience: timedelta | None
    silent_since: datetime | None
    verdict: str | None
    unreachable_since: datetime | None
    next_sweep_at: datetime | None
    swept_at: datetime | None
    sweep_failures: int


@dataclass(frozen=True, slots=True)
class Instances:
    """lines: those in trouble first, at most INSTANCES_MAX of `number`. next_sweep_at: the first of all that is due.

    silent, unreachable: how many, and since when the first of them.
    """

    lines: list[InstanceLine]
    number: int
    next_sweep_at: datetime | None
    swept_at: datetime | None
    silent: int
    silent_since: datetime | None
    unreachable: int
    unreachable_since: datetime | None


_INSTANCES = """
    SELECT a.instance_id, a.status, l.last_event_at AS heard_at, l.patience_seconds, s.silent_since, s.verdict,
        o.since AS unreachable_since, CASE WHEN a.status = 'installed' THEN w.due_at END AS next_sweep_at,
        w.finished_at AS swept_at, COALESCE(w.failures, 0) AS sweep_failures
    FROM app_instances a
    LEFT JOIN listening l USING (instance_id)
    LEFT JOIN silences s ON s.instance_id = a.instance_id AND s.ended_at IS NULL
    LEFT JOIN wix_outages o ON o.instance_id = a.instance_id AND o.ended_at IS NULL
    LEFT JOIN sweeps w ON w.instance_id = a.instance_id
    WHERE {seen}"""


def instances(connection: Connection, reach: Reach) -> Instances:
    """The app instances, how they fare, and what is due for them."""
    every = _INSTANCES.format(seen=_seen("a.instance_id", reach))
    row = connection.execute(
        text(f"""
            SELECT count(*) AS number, min(next_sweep_at) AS next_sweep_at, max(swept_at) AS swept_at,
                count(*) FILTER (WHERE verdict = 'silent') AS silent,
                min(silent_since) FILTER (WHERE verdict = 'silent') AS silent_since,
                count(unreachable_since) AS unreachable, min(unreachable_since) AS unreachable_since
            FROM ({every}) i"""),
        _ids(reach),
    ).one()
    lines = connection.execute(
        text(f"""
            SELECT i.*, (SELECT max(e.received_at) FROM webhook_events e WHERE e.instance_id = i.instance_id)
                    AS last_event_at
            FROM (
                SELECT * FROM ({every}) i
                ORDER BY unreachable_since NULLS LAST, verdict = 'silent' DESC NULLS LAST, sweep_failures DESC,
                    status = 'removed', heard_at DESC NULLS LAST, instance_id LIMIT :limit) i
            ORDER BY unreachable_since NULLS LAST, verdict = 'silent' DESC NULLS LAST, sweep_failures DESC,
                status = 'removed', heard_at DESC NULLS LAST, instance_id"""),
        {**_ids(reach), "limit": INSTANCES_MAX},
    )
    return Instances(
        [
            InstanceLine(
                one.instance_id,
                one.status,
                one.last_event_at,
                None if one.patience_seconds is None else timedelta(seconds=one.patience_seconds),
                one.silent_since,
                one.verdict,
                one.unreachable_since,
                one.next_sweep_at,
                one.swept_at,
                one.sweep_failures,
            )
            for one in lines
        ],
        row.number,
        row.next_sweep_at,
        row.swept_at,
        row.silent,
        row.silent_since,
        row.unreachable,
        row.unreachable_since,
    )


@dataclass(frozen=True, slots=True)
class PastOutage:
    """A time in which Wix could not be asked about an instance, that is over."""

    instance_id: UUID
    since: datetime
    ended_at: datetime


def past_outages(connection: Connection, reach: Reach, after: datetime, limit: int = 10) -> list[PastOutage]:
    """Outages of Wix that ended after a moment, the last first."""
    rows = connection.execute(
        text(f"""
            SELECT o.instance_id, o.since, o.ended_at FROM wix_outages o
            WHERE o.ended_at > :after AND {_seen("o.instance_id", reach)}
            ORDER BY o.ended_at DESC, o.instance_id LIMIT :limit"""),
        {**_ids(reach), "after": after, "limit": limit},
    )
    return [PastOutage(*row) for row in rows]
