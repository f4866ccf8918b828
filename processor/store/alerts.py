"""Alerts: written with the change they tell of, given to the channels later, delivered until they are taken.

`tell` is for whoever changes something; everything else here is for `jobs.alerting` and for whoever looks at it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, bindparam, text

from processor.domain.alert import (
    CLOSES,
    ENDS,
    REPEAT_AFTER,
    SEVERITIES,
    STANDS_OPEN,
    Alert,
    AlertKind,
    Channel,
    DeliveryKind,
)
from processor.domain.discrepancy import Severity
from processor.domain.message import FIRST_MAX, LINES_MAX, Counted, Told
from processor.store.tables import AlertDelivery

ROUTED_MAX = 5_000  # given to the channels in one statement; the rest follows
# A lease, or a stamp of the queue, that lies further ahead was given under a clock since set back.
FAR = timedelta(days=1)
RUNS_MAX = (
    50  # of an instance that are looked at for one that succeeded; a tick sees each of them long before
)
GIVEN_UP_TOLD = timedelta(days=7)  # how long it is said of a message that it was given up
_DOCUMENT = bindparam("document", type_=AlertDelivery.__table__.c.document.type)
_STATES = [kind.value for kind in (*STANDS_OPEN, *CLOSES)]

# -- Raising ---------------------------------------------------------------------------------------


def tell(
    connection: Connection,
    kind: AlertKind,
    *,
    instance_id: UUID | None,
    subject: str,
    change: str,
    document: Mapping[str, Any],
    now: datetime,
    severity: Severity | None = None,
) -> bool:
    """Raise one alert in the caller's transaction. False when this change was told before.

    subject: what it is about, such as an instance's id. change: which of its changes, such as when an outage began.
    document: what whoever is told gets, as JSON can hold it, amounts and times as text; never personal. severity: None
    for that of the kind.
    """
    alert = Alert(
        kind=kind,
        instance_id=instance_id,
        subject=subject,
        change=change,
        severity=severity or SEVERITIES[kind],
        document=dict(document),
    )
    return tell_all(connection, [alert], now) == 1


def tell_all(connection: Connection, alerts: Sequence[Alert], now: datetime) -> int:
    """Raise many, in one statement. Returns how many were not told before."""
    if not alerts:
        return 0
    rows = [
        {
            "kind": one.kind,
            "instance_id": str(one.instance_id) if one.instance_id else None,
            "subject": one.subject,
            "change": one.change,
            "severity": one.severity,
            "document": one.document,
        }
        for one in alerts
    ]
    return connection.execute(
        text("""
            INSERT INTO alerts (instance_id, at, kind, severity, subject, change, document)
            SELECT r.instance_id, :now, r.kind, r.severity, r.subject, r.change, r.document
            FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r (instance_id uuid, kind text, severity text,
                subject text, change text, document jsonb)
            -- In one order, or two that tell the same would wait for each other.
            ORDER BY r.subject, r.kind, r.change
            ON CONFLICT (subject, kind, change) DO NOTHING"""),
        {"now": now, "rows": json.dumps(rows)},
    ).rowcount


# -- Giving them to the channels -------------------------------------------------------------------


def has_unrouted(connection: Connection) -> bool:
    """Whether an alert was not given to the channels and the log yet."""
    return bool(
        connection.execute(text("SELECT EXISTS (SELECT FROM alerts WHERE routed_at IS NULL)")).scalar_one()
    )


def lock_routing(connection: Connection) -> bool:
    """Keep the giving to ourselves until the transaction ends. False when another process is at it."""
    return bool(connection.execute(text("SELECT pg_try_advisory_xact_lock(hashtext('alerts'))")).scalar_one())


def mend_future(connection: Connection, now: datetime) -> None:
    """Bring back what was stamped under a clock since set back: else it would wait until the clock is there again.

    That is told or counted in a digest once more, rather than not at all.
    """
    values = {"now": now, "far": now + FAR}
    connection.execute(
        text("""
            UPDATE alert_deliveries SET due_at = :now, waiting_since = LEAST(waiting_since, :now)
            WHERE channel = ANY(:channels) AND due_at > :far"""),
        {**values, "channels": [one.value for one in Channel]},
    )
    connection.execute(
        text("UPDATE alert_channels SET digested_to = :now WHERE digested_to > :far"),
        values,
    )
    # In the period that begins now.
    connection.execute(
        text("UPDATE alerts SET routed_at = :now + interval '1 microsecond' WHERE routed_at > :far"), values
    )


def route(
    connection: Connection,
    channels: Collection[Channel],
    severities: Collection[Severity],
    now: datetime,
) -> list[Told]:
    """Give up to ROUTED_MAX new alerts to the channels, the oldest first. Returns them for the log.

    At once goes what is as grave as one of `severities`, or ends what was told at once. Not so: what is over by now (of
    a discrepancy, the last change alone counts), and that a discrepancy is open, of which the channel was told within
    REPEAT_AFTER, without being told that it closed. The rest is for digests.
    """
    rows = connection.execute(
        text("""
            WITH news AS (
                SELECT alert_id, row_number() OVER (
                    PARTITION BY CASE WHEN kind = ANY(:states) THEN subject ELSE CAST(alert_id AS text) END
                    ORDER BY at DESC, length(change) DESC, change DESC) AS place
                FROM (SELECT * FROM alerts WHERE routed_at IS NULL ORDER BY at, alert_id LIMIT :limit) a
            ), routed AS (
                UPDATE alerts a SET routed_at = GREATEST(:now,
                    -- Within no period that a digest was made of, whatever the clocks say.
                    (SELECT max(digested_to) FROM alert_channels) + interval '1 microsecond')
                FROM news n WHERE n.alert_id = a.alert_id
                RETURNING a.*, n.place
            ), given AS (
                INSERT INTO alert_routes (alert_id, channel)
                SELECT r.alert_id, c.channel
                FROM routed r CROSS JOIN unnest(CAST(:channels AS text[])) AS c (channel)
                WHERE r.place = 1 AND (r.severity = ANY(:severities) OR r.kind = ANY(:ends))
                    AND NOT (r.kind = ANY(:stands_open) AND EXISTS (
                        SELECT FROM (
                            SELECT p.kind, p.severity FROM alerts p
                            JOIN alert_routes q ON q.alert_id = p.alert_id AND q.channel = c.channel
                            WHERE p.subject = r.subject AND p.kind = ANY(:states) AND p.at > r.at - :repeat
                            ORDER BY p.at DESC, length(p.change) DESC, p.change DESC LIMIT 1) last
                        WHERE last.kind = ANY(:stands_open) AND last.severity = r.severity))
            )
            SELECT * FROM routed ORDER BY at, length(change), change, alert_id"""),
        {
            "states": _STATES,
            "stands_open": [kind.value for kind in STANDS_OPEN],
            "ends": [kind.value for kind in ENDS],
            "severities": [one.value for one in severities],
            "channels": [one.value for one in channels],
            "repeat": REPEAT_AFTER,
            "limit": ROUTED_MAX,
            "now": now,
        },
    )
    return [_told(row) for row in rows]


def _told(row: Any) -> Told:
    return Told(
        alert_id=row.alert_id,
        kind=row.kind,
        severity=row.severity,
        instance_id=row.instance_id,
        subject=row.subject,
        at=row.at,
        document=row.document,
    )


def ensure_channels(connection: Connection, channels: Collection[Channel]) -> None:
    """Make a row for each channel that has none."""
    connection.execute(
        text("""
            INSERT INTO alert_channels (channel)
            SELECT c FROM unnest(CAST(:channels AS text[])) AS t (c) ORDER BY c
            ON CONFLICT (channel) DO NOTHING"""),
        {"channels": [one.value for one in channels]},
    )


# -- Making messages of them -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits to become messages of one channel. recent: messages made of alerts within the last gap."""

    number: int
    oldest_at: datetime | None
    recent: int


def drop_over(connection: Connection, channel: Channel) -> None:
    """Leave to the digest what waited for the end of a gap, and of which the last alert says that it is over.

    The last alone counts: one that was closed and is open again was not told again, since this one waits.
    """
    connection.execute(
        text("""
            DELETE FROM alert_routes r USING alerts a
            WHERE r.channel = :channel AND r.delivery_id IS NULL AND a.alert_id = r.alert_id
                AND a.kind = ANY(:stands_open)
                AND (SELECT l.kind FROM alerts l WHERE l.subject = a.subject AND l.kind = ANY(:states)
                    ORDER BY l.at DESC, length(l.change) DESC, l.change DESC LIMIT 1) = ANY(:closes)"""),
        {
            "channel": channel.value,
            "states": _STATES,
            "stands_open": [kind.value for kind in STANDS_OPEN],
            "closes": [kind.value for kind in CLOSES],
        },
    )


def waiting(connection: Connection, channel: Channel, now: datetime, gap: timedelta) -> Waiting:
    """How many alerts wait for a message. What was made further ahead than a gap is of a clock since set back."""
    row = connection.execute(
        text("""
            SELECT count(*) AS number, min(a.routed_at) AS oldest_at,
                (SELECT count(*) FROM alert_deliveries d
                    WHERE d.channel = :channel AND d.made_at > :since AND d.made_at < :until
                        AND d.kind IN ('alert', 'group')) AS recent
            FROM alert_routes r JOIN alerts a USING (alert_id)
            WHERE r.channel = :channel AND r.delivery_id IS NULL"""),
        {"channel": channel.value, "since": now - gap, "until": now + gap},
    ).one()
    return Waiting(row.number, row.oldest_at, row.recent)


def first_waiting(connection: Connection, channel: Channel, limit: int = FIRST_MAX) -> list[Told]:
    """The gravest of what waits, the oldest first."""
    rows = connection.execute(
        text("""
            SELECT a.* FROM alert_routes r JOIN alerts a USING (alert_id)
            WHERE r.channel = :channel AND r.delivery_id IS NULL
            ORDER BY a.severity = 'error' DESC, a.at, length(a.change), a.change, a.alert_id LIMIT :limit"""),
        {"channel": channel.value, "limit": limit},
    )
    return [_told(row) for row in rows]


def count_waiting(connection: Connection, channel: Channel) -> list[Counted]:
    """What waits, by kind, instance, type and currency: LINES_MAX + 1 lines at most, the largest number first."""
    rows = connection.execute(
        text("""
            SELECT a.kind AS what, a.instance_id, a.severity, a.document ->> 'type' AS type,
                a.document ->> 'currency' AS currency, count(*) AS number,
                sum((a.document ->> 'amount_at_risk')::numeric) AS amount
            FROM alert_routes r JOIN alerts a USING (alert_id)
            WHERE r.channel = :channel AND r.delivery_id IS NULL
            GROUP BY 1, 2, 3, 4, 5 ORDER BY number DESC, 1, 4, 2, 5 LIMIT :limit"""),
        {"channel": channel.value, "limit": LINES_MAX + 1},
    )
    return [
        Counted(
            what=row.what,
            instance_id=row.instance_id,
            number=row.number,
            severity=row.severity,
            type=row.type,
            currency=row.currency,
            amount=row.amount,
        )
        for row in rows
    ]


def deliver(
    connection: Connection,
    channel: Channel,
    kind: DeliveryKind,
    document: Mapping[str, Any],
    now: datetime,
    *,
    alert_ids: Collection[UUID] = (),
    takes_all: bool = False,
    alert_count: int = 0,
) -> UUID:
    """Make a message that is due at once; returns its id. It takes these alerts, or all that wait for the channel."""
    delivery_id = uuid4()
    connection.execute(
        text("""
            INSERT INTO alert_deliveries (delivery_id, channel, kind, document, alert_count, status, made_at,
                waiting_since, due_at)
            VALUES (:id, :channel, :kind, :document, :alert_count, 'waiting', :now, :now, :now)""").bindparams(
            _DOCUMENT
        ),
        {
            "id": delivery_id,
            "channel": channel.value,
            "kind": kind.value,
            "document": dict(document),
            "alert_count": alert_count or len(alert_ids),
            "now": now,
        },
    )
    if takes_all or alert_ids:
        connection.execute(
            text("""
                UPDATE alert_routes SET delivery_id = :id
                WHERE channel = :channel AND delivery_id IS NULL AND (:takes_all OR alert_id = ANY(:alert_ids))"""),
            {
                "id": delivery_id,
                "channel": channel.value,
                "takes_all": takes_all,
                "alert_ids": list(alert_ids),
            },
        )
    return delivery_id


# -- Digests ---------------------------------------------------------------------------------------


def digested_to(connection: Connection, channel: Channel) -> datetime | None:
    """End of the period of the channel's last digest, None before the first."""
    return connection.execute(
        text("SELECT digested_to FROM alert_channels WHERE channel = :channel"), {"channel": channel.value}
    ).scalar_one_or_none()


def note_digest(connection: Connection, channel: Channel, until: datetime) -> None:
    """The next digest of the channel begins at `until`."""
    connection.execute(
        text("UPDATE alert_channels SET digested_to = :until WHERE channel = :channel"),
        {"channel": channel.value, "until": until},
    )


def count_open(connection: Connection) -> list[Counted]:
    """What is open now, by instance, type and currency: LINES_MAX + 1 lines at most, errors and the oldest first."""
    rows = connection.execute(
        text("""
            SELECT instance_id, type, severity, currency, count(*) AS number, sum(amount_at_risk) AS amount,
                min(opened_at) AS since
            FROM discrepancies WHERE closed_at IS NULL
            GROUP BY instance_id, type, severity, currency
            ORDER BY severity = 'error' DESC, since, type, instance_id, currency LIMIT :limit"""),
        {"limit": LINES_MAX + 1},
    )
    return [
        Counted(
            what="open",
            instance_id=row.instance_id,
            number=row.number,
            severity=row.severity,
            type=row.type,
            currency=row.currency,
            amount=row.amount,
            since=row.since,
        )
        for row in rows
    ]


def count_changes(connection: Connection, since: datetime, until: datetime) -> list[Counted]:
    """What became of discrepancies in a period, each counted once: LINES_MAX + 1 lines at most.

    what: opened, opened_and_closed, closed_and_reopened, closed, or worsened. The period is that of their giving to the
    channels, so that what was written late is in the next one.
    """
    rows = connection.execute(
        text("""
            WITH lives AS (
                SELECT subject, instance_id, array_agg(kind ORDER BY at, length(change), change) AS kinds,
                    (array_agg(document ORDER BY at DESC, length(change) DESC, change DESC))[1] AS last
                FROM alerts
                WHERE routed_at > :since AND routed_at <= :until AND kind = ANY(:states)
                GROUP BY subject, instance_id
            ), judged AS (
                SELECT *, kinds[1] IN ('discrepancy_opened', 'discrepancy_reopened') AS opens,
                    kinds[cardinality(kinds)] = ANY(:closes) AS is_closed, kinds[1] = ANY(:closes) AS closes_first
                FROM lives
            )
            SELECT CASE WHEN opens AND is_closed THEN 'opened_and_closed' WHEN opens THEN 'opened'
                    WHEN is_closed THEN 'closed' WHEN closes_first THEN 'closed_and_reopened' ELSE 'worsened'
                    END AS what,
                instance_id, last ->> 'type' AS type, last ->> 'currency' AS currency, count(*) AS number,
                sum((last ->> 'amount_at_risk')::numeric) AS amount
            FROM judged GROUP BY 1, 2, 3, 4 ORDER BY number DESC, 1, 3, 2, 4 LIMIT :limit"""),
        {
            "since": since,
            "until": until,
            "states": _STATES,
            "closes": [kind.value for kind in CLOSES],
            "limit": LINES_MAX + 1,
        },
    )
    return [
        Counted(
            what=row.what,
            instance_id=row.instance_id,
            number=row.number,
            type=row.type,
            currency=row.currency,
            amount=row.amount,
        )
        for row in rows
    ]


def count_others(connection: Connection, since: datetime, until: datetime) -> list[Counted]:
    """Alerts of a period that are of no discrepancy's state, by kind and instance: LINES_MAX + 1 lines at most."""
    rows = connection.execute(
        text("""
            SELECT kind AS what, instance_id, severity, count(*) AS number FROM alerts
            WHERE routed_at > :since AND routed_at <= :until AND kind <> ALL(:states)
            GROUP BY 1, 2, 3 ORDER BY severity = 'error' DESC, number DESC, 1, 2 LIMIT :limit"""),
        {"since": since, "until": until, "states": _STATES, "limit": LINES_MAX + 1},
    )
    return [
        Counted(what=row.what, instance_id=row.instance_id, number=row.number, severity=row.severity)
        for row in rows
    ]


# -- Sending ---------------------------------------------------------------------------------------


def take_due(
    connection: Connection, channels: Collection[Channel], now: datetime, again_after: timedelta
) -> list[Channel]:
    """Channels with messages that are due and not yet enqueued, noted as enqueued from now on.

    As for checks: one clock gets each, and a lost job is enqueued again after `again_after`.
    """
    rows = connection.execute(
        text("""
            UPDATE alert_channels SET enqueued_at = :now
            WHERE channel IN (
                SELECT c.channel FROM alert_channels c
                WHERE c.channel = ANY(:channels)
                    AND (c.resume_at IS NULL OR c.resume_at <= :now OR c.resume_at > :far)
                    AND (c.enqueued_at IS NULL OR c.enqueued_at < :before OR c.enqueued_at > :after)
                    AND EXISTS (
                        SELECT FROM alert_deliveries d WHERE d.channel = c.channel AND d.due_at <= :now
                            AND (d.lease_until IS NULL OR d.lease_until < :now OR d.lease_until > :far))
                ORDER BY c.channel FOR NO KEY UPDATE SKIP LOCKED)
            RETURNING channel"""),
        {
            "channels": [one.value for one in channels],
            "now": now,
            "before": now - again_after,
            "after": now + again_after,
            "far": now + FAR,
        },
    )
    return sorted(Channel(row.channel) for row in rows)


def note_job_started(connection: Connection, channel: Channel) -> None:
    """From now on a new job may be enqueued for the channel."""
    connection.execute(
        text("UPDATE alert_channels SET enqueued_at = NULL WHERE channel = :channel"),
        {"channel": channel.value},
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """A message in our hands until its lease ends. attempts: with the one to be made now.

    waiting_since: when the first of them was made, or when a person asked for it again. is_taken_over: the last one did
    not come to an end.
    """

    delivery_id: UUID
    lease_id: UUID
    channel: Channel
    document: dict[str, Any]
    attempts: int
    waiting_since: datetime
    is_taken_over: bool


def claim(connection: Connection, channel: Channel, now: datetime, lease: timedelta) -> Claim | None:
    """Claim the message of the channel that is due the longest. None when none is, or the channel is left alone."""
    lease_id = uuid4()
    row = connection.execute(
        text("""
            -- Due again when the lease ends: one that kills its worker lets the others go first.
            UPDATE alert_deliveries m SET lease_id = :lease_id, lease_until = :until, due_at = :until,
                attempts = m.attempts + 1,
                waiting_since = CASE WHEN m.attempts = 0 THEN CAST(:now AS timestamptz) ELSE m.waiting_since END
            FROM (
                SELECT d.delivery_id, d.lease_id FROM alert_deliveries d JOIN alert_channels c USING (channel)
                WHERE d.channel = :channel AND d.due_at <= :now
                    AND (c.resume_at IS NULL OR c.resume_at <= :now OR c.resume_at > :far)
                    AND (d.lease_until IS NULL OR d.lease_until < :now OR d.lease_until > :far)
                ORDER BY d.due_at, d.made_at, d.delivery_id LIMIT 1 FOR NO KEY UPDATE OF d SKIP LOCKED) found
            WHERE m.delivery_id = found.delivery_id
            RETURNING m.delivery_id, m.document, m.attempts, m.waiting_since,
                found.lease_id IS NOT NULL AS is_taken_over"""),
        {
            "channel": channel.value,
            "lease_id": lease_id,
            "now": now,
            "until": now + lease,
            "far": now + FAR,
        },
    ).one_or_none()
    if row is None:
        return None
    return Claim(
        row.delivery_id,
        lease_id,
        channel,
        row.document,
        row.attempts,
        row.waiting_since,
        row.is_taken_over,
    )


def delivered(connection: Connection, claim: Claim, now: datetime) -> None:
    """The message was taken, and so the channel is well. Holds whoever has the lease by now."""
    connection.execute(
        text("""
            UPDATE alert_deliveries SET status = 'delivered', due_at = NULL, ended_at = :now, lease_id = NULL,
                lease_until = NULL
            WHERE delivery_id = :id AND status = 'waiting'"""),
        {"id": claim.delivery_id, "now": now},
    )
    connection.execute(
        text("""
            UPDATE alert_channels SET resume_at = NULL, failures = 0
            WHERE channel = :channel AND (resume_at IS NOT NULL OR failures > 0)"""),
        {"channel": claim.channel.value},
    )


def postpone(connection: Connection, claim: Claim, due_at: datetime, *, why: str) -> bool:
    """The message was not taken; it is due again at `due_at`. False when it was taken over."""
    return (
        connection.execute(
            text("""
                UPDATE alert_deliveries SET due_at = :due_at, last_error = :why, lease_id = NULL, lease_until = NULL
                WHERE delivery_id = :id AND lease_id = :lease_id AND status = 'waiting'"""),
            {"id": claim.delivery_id, "lease_id": claim.lease_id, "due_at": due_at, "why": why},
        ).rowcount
        == 1
    )


def leave_alone(connection: Connection, channel: Channel, until: datetime) -> None:
    """Send nothing by the channel until then: whatever it was, it would not be taken."""
    connection.execute(
        text(
            "UPDATE alert_channels SET resume_at = :until, failures = failures + 1 WHERE channel = :channel"
        ),
        {"channel": channel.value, "until": until},
    )


def give_up(connection: Connection, claim: Claim, now: datetime, *, why: str) -> bool:
    """The message is not sent any more, until somebody asks for it. False when it was taken over."""
    return (
        connection.execute(
            text("""
                UPDATE alert_deliveries SET status = 'given_up', due_at = NULL, ended_at = :now, last_error = :why,
                    lease_id = NULL, lease_until = NULL
                WHERE delivery_id = :id AND lease_id = :lease_id AND status = 'waiting'"""),
            {"id": claim.delivery_id, "lease_id": claim.lease_id, "now": now, "why": why},
        ).rowcount
        == 1
    )


def has_due(connection: Connection, channel: Channel, now: datetime) -> bool:
    """Whether a message of the channel waits for a worker, and may be sent."""
    return bool(
        connection.execute(
            text("""
                SELECT EXISTS (SELECT FROM alert_deliveries d JOIN alert_channels c USING (channel)
                    WHERE d.channel = :channel AND d.due_at <= :now
                        AND (d.lease_until IS NULL OR d.lease_until < :now OR d.lease_until > :far)
                        AND (c.resume_at IS NULL OR c.resume_at <= :now OR c.resume_at > :far))"""),
            {"channel": channel.value, "now": now, "far": now + FAR},
        ).scalar_one()
    )


def failures(connection: Connection, channel: Channel) -> int:
    """How often in a row the channel could not be reached."""
    return int(
        connection.execute(
            text("SELECT failures FROM alert_channels WHERE channel = :channel"), {"channel": channel.value}
        ).scalar_one()
    )


def record_test(
    connection: Connection,
    delivery_id: UUID,
    channel: Channel,
    document: Mapping[str, Any],
    now: datetime,
    *,
    why: str | None,
) -> None:
    """A test was sent. why: it was not taken, None when it was."""
    connection.execute(
        text("""
            INSERT INTO alert_deliveries (delivery_id, channel, kind, document, alert_count, status, attempts, made_at,
                waiting_since, ended_at, last_error)
            VALUES (:id, :channel, 'test', :document, 0, :status, 1, :now, :now, :now, :why)""").bindparams(
            _DOCUMENT
        ),
        {
            "id": delivery_id,
            "channel": channel.value,
            "document": dict(document),
            "status": "given_up" if why else "delivered",
            "now": now,
            "why": why,
        },
    )


def retry(connection: Connection, now: datetime, delivery_ids: Collection[UUID] | None = None) -> list[UUID]:
    """Send again what was given up, and at once what waits. Returns the messages. delivery_ids: None for all."""
    rows = connection.execute(
        text("""
            UPDATE alert_deliveries SET status = 'waiting', due_at = :now, ended_at = NULL, waiting_since = :now
            WHERE status <> 'delivered' AND kind <> 'test' AND (:is_all OR delivery_id = ANY(:ids))
            RETURNING delivery_id, channel"""),
        {"now": now, "is_all": delivery_ids is None, "ids": list(delivery_ids or ())},
    ).all()
    connection.execute(
        text("UPDATE alert_channels SET resume_at = NULL, enqueued_at = NULL WHERE channel = ANY(:channels)"),
        {"channels": sorted({row.channel for row in rows})},
    )
    return [row.delivery_id for row in rows]


# -- Outages of Wix --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outage:
    """Since when Wix cannot be asked about an instance, and why by the last run that failed."""

    instance_id: UUID
    since: datetime
    reason: str | None


def begin_outages(connection: Connection, now: datetime, after: timedelta) -> list[Outage]:
    """Note the outages that have lasted for `after` and were not noted yet. Returns them.

    An instance is asked about by its sweeps, whose failures are counted; how long it has been so is told by its runs:
    from the first that failed after the last that succeeded, of whatever kind, to the last that failed: while nothing
    of ours ran, nobody was asked.
    """
    rows = connection.execute(
        text("""
            WITH failing AS (
                SELECT s.instance_id, a.installed_at FROM sweeps s JOIN app_instances a USING (instance_id)
                WHERE s.failures > 0 AND a.status = 'installed'
                    -- Whoever ended a sweep since is not asked for its runs: all may be failing at once.
                    AND (s.finished_at IS NULL OR s.finished_at <= :before)
                    AND NOT EXISTS (SELECT FROM wix_outages o
                        WHERE o.instance_id = s.instance_id AND o.ended_at IS NULL)
            ), since AS (
                SELECT f.instance_id, r.since, r.reason
                FROM failing f CROSS JOIN LATERAL (
                    SELECT min(r.started_at) AS since, max(r.started_at) AS until,
                        (array_agg(r.reason ORDER BY r.started_at DESC))[1] AS reason
                    FROM reconciliation_runs r
                    WHERE r.instance_id = f.instance_id AND r.status = 'failed'
                        -- What failed before the app was installed anew is of an outage that ended with its removal.
                        AND r.started_at > COALESCE(GREATEST((
                            SELECT l.started_at FROM reconciliation_runs l
                            WHERE l.instance_id = f.instance_id AND l.status = 'succeeded'
                            ORDER BY l.started_at DESC LIMIT 1),
                            CASE WHEN f.installed_at <= :now THEN f.installed_at END), '-infinity')) r
                WHERE r.since <= :before AND r.until - r.since >= :after
            ), noted AS (
                INSERT INTO wix_outages (instance_id, since, told_at)
                SELECT instance_id, since, :now FROM since ORDER BY instance_id
                ON CONFLICT DO NOTHING
                RETURNING instance_id, since
            )
            SELECT n.instance_id, n.since, s.reason FROM noted n JOIN since s USING (instance_id)
            ORDER BY n.instance_id"""),
        {"now": now, "before": now - after, "after": after},
    )
    return [Outage(row.instance_id, row.since, row.reason) for row in rows]


def end_outages(connection: Connection, now: datetime) -> list[Outage]:
    """Note the end of outages after which a run succeeded, or whose app was removed. Returns the former."""
    rows = connection.execute(
        text("""
            UPDATE wix_outages o SET ended_at = GREATEST(:now, o.since)
            FROM app_instances a
            WHERE o.ended_at IS NULL AND a.instance_id = o.instance_id
                AND (a.status <> 'installed' OR EXISTS (
                    -- The last ones do: all that failed in a long outage would be very many at each tick.
                    SELECT FROM (
                        SELECT r.status FROM reconciliation_runs r
                        WHERE r.instance_id = o.instance_id AND r.started_at > o.since
                        ORDER BY r.started_at DESC LIMIT :runs) l
                    WHERE l.status = 'succeeded'))
            RETURNING o.instance_id, o.since, a.status"""),
        {"now": now, "runs": RUNS_MAX},
    )
    return [Outage(row.instance_id, row.since, None) for row in rows if row.status == "installed"]


# -- Looking at them -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AlertLine:
    """An alert and its ways. deliveries: by channel, `waiting`, `delivered` or `given_up`; empty for digests alone."""

    alert_id: UUID
    at: datetime
    kind: str
    severity: str
    instance_id: UUID | None
    subject: str
    document: dict[str, Any]
    routed_at: datetime | None
    deliveries: dict[str, str]


def listed(
    connection: Connection,
    *,
    limit: int,
    instance_id: UUID | None = None,
    kind: str | None = None,
    state: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[AlertLine]:
    """Alerts, the newest first. state: of one of their deliveries, None for any, and for what is in digests alone."""
    rows = connection.execute(
        text("""
            SELECT a.*, COALESCE(d.deliveries, '{}') AS deliveries
            FROM alerts a LEFT JOIN LATERAL (
                SELECT jsonb_object_agg(r.channel, COALESCE(d.status, 'waiting')) AS deliveries,
                    bool_or(COALESCE(d.status, 'waiting') = :state) AS is_so
                FROM alert_routes r LEFT JOIN alert_deliveries d USING (delivery_id)
                WHERE r.alert_id = a.alert_id) d ON true
            WHERE (CAST(:instance_id AS uuid) IS NULL OR a.instance_id = :instance_id)
                AND (CAST(:kind AS text) IS NULL OR a.kind = :kind)
                AND (CAST(:state AS text) IS NULL OR d.is_so)
                AND (CAST(:since AS timestamptz) IS NULL OR a.at >= :since)
                AND (CAST(:until AS timestamptz) IS NULL OR a.at < :until)
            -- By what there is an index for; those not given to the channels yet come first.
            ORDER BY a.routed_at DESC, a.at DESC, length(a.change) DESC, a.change DESC, a.alert_id LIMIT :limit"""),
        {
            "instance_id": instance_id,
            "kind": kind,
            "state": state,
            "since": since,
            "until": until,
            "limit": limit,
        },
    )
    return [
        AlertLine(
            row.alert_id,
            row.at,
            row.kind,
            row.severity,
            row.instance_id,
            row.subject,
            row.document,
            row.routed_at,
            row.deliveries,
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class DeliveryLine:
    """A message and how far it is."""

    delivery_id: UUID
    channel: str
    kind: str
    status: str
    alert_count: int
    attempts: int
    made_at: datetime
    due_at: datetime | None
    ended_at: datetime | None
    last_error: str | None


def deliveries(connection: Connection, *, limit: int, state: str | None = None) -> list[DeliveryLine]:
    """Messages, the newest first. state: None for any."""
    rows = connection.execute(
        text("""
            SELECT delivery_id, channel, kind, status, alert_count, attempts, made_at, due_at, ended_at, last_error
            FROM alert_deliveries WHERE CAST(:state AS text) IS NULL OR status = :state
            ORDER BY made_at DESC, delivery_id LIMIT :limit"""),
        {"state": state, "limit": limit},
    )
    return [DeliveryLine(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class ChannelState:
    """How a channel fares. oldest_seconds: age of the message that waits the longest, 0 for none.

    given_up: messages of the last GIVEN_UP_TOLD that were, and that nobody asked for again. last_error: of the newest
    of all these, None when there is none.
    """

    channel: Channel
    waiting: int
    oldest_seconds: float
    given_up: int
    last_error: str | None


def channel_states(connection: Connection, now: datetime) -> list[ChannelState]:
    """Every channel that was ever configured."""
    rows = connection.execute(
        text("""
            SELECT c.channel, count(d.due_at) AS waiting, count(d.ended_at) AS given_up,
                GREATEST(0, EXTRACT(epoch FROM :now - min(d.made_at) FILTER (WHERE d.due_at IS NOT NULL))) AS oldest,
                (array_agg(d.last_error ORDER BY d.made_at DESC) FILTER (WHERE d.last_error IS NOT NULL))[1]
                    AS last_error
            FROM alert_channels c
            LEFT JOIN alert_deliveries d ON d.channel = c.channel AND d.status <> 'delivered' AND d.kind <> 'test'
                AND (d.due_at IS NOT NULL OR d.made_at > :since)
            WHERE c.channel = ANY(:known)
            GROUP BY c.channel ORDER BY c.channel"""),
        {
            "now": now,
            "since": now - GIVEN_UP_TOLD,
            # A newer release beside us may know more.
            "known": [one.value for one in Channel],
        },
    )
    return [
        ChannelState(Channel(row.channel), row.waiting, float(row.oldest or 0), row.given_up, row.last_error)
        for row in rows
    ]
