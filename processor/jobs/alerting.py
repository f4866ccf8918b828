"""Alerts on their way: given to the channels, made into messages and digests, sent until they are taken."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection

from processor.channels import Sender, configured, opened
from processor.domain.alert import (
    GIVE_UP_AFTER,
    PACES,
    AlertKind,
    Channel,
    DeliveryKind,
    Making,
    making,
    period_end,
    wait_seconds,
)
from processor.domain.discrepancy import Severity
from processor.domain.message import Told, about_alert, about_group, about_period
from processor.errors import NotDelivered
from processor.jobs.due import LOST_AFTER
from processor.store import alerts, runs
from processor.wiring import Services

log = structlog.get_logger(__name__)

# A worker has links to check, too: what is left is sent by the next job.
MESSAGES_TOGETHER_MAX = 20
SECONDS_TOGETHER_MAX = 60.0


def enqueue_due_alerts(services: Services, now: datetime) -> int:
    """Do what `prepare` does, then enqueue a job for each channel with something to send. Returns how many."""
    prepare(services, now)
    with services.database.begin() as connection:
        due = alerts.take_due(connection, configured(services.settings), now, LOST_AFTER)
    return sum(services.queue.enqueue_delivery(channel) for channel in due)


def prepare(services: Services, now: datetime) -> None:
    """Give new alerts to the log and the channels, and make messages and digests that are due. Nothing is sent.

    Another process that is at it already does it for us.
    """
    _watch_wix(services, now)
    channels = configured(services.settings)
    with services.database.begin() as connection:
        if not alerts.lock_routing(connection):
            return
        alerts.mend_future(connection, now)
    has_more = True
    while has_more:
        with services.database.begin() as connection:
            if not alerts.lock_routing(connection):
                return
            if not alerts.has_unrouted(connection):
                break
            told = alerts.route(connection, channels, _at_once(services), now)
            runs.count(connection, "alerts", Counter(one.kind for one in told))
            if services.settings.alert_log:
                # Before the commit: after a crash a line may come twice, and none is missed.
                _say(told)
            has_more = len(told) == alerts.ROUTED_MAX
    if not channels:
        return
    digest_seconds = services.settings.alert_digest_seconds
    gap = timedelta(seconds=services.settings.alert_gap_seconds)
    with services.database.begin() as connection:
        if not alerts.lock_routing(connection):
            return
        alerts.ensure_channels(connection, channels)
        for channel in channels:
            if digest_seconds:
                _make_digest(connection, channel, period_end(now, digest_seconds), now)
            _make_messages(connection, channel, gap, _at_once(services), now)


def _at_once(services: Services) -> tuple[Severity, ...]:
    if services.settings.alert_severity == Severity.ERROR:
        return (Severity.ERROR,)
    return tuple(Severity)


def _say(told: list[Told]) -> None:
    for one in told:
        ids = {
            "kind": one.kind,
            "severity": one.severity,
            "instance_id": str(one.instance_id) if one.instance_id else None,
            "subject": one.subject,
            "alert_id": str(one.alert_id),
        }
        if one.severity == Severity.ERROR:
            log.warning("alert", **ids)
        else:
            log.info("alert", **ids)


def _watch_wix(services: Services, now: datetime) -> None:
    """Raise an alert for each instance about which Wix cannot be asked for long, and for each it can again."""
    after = timedelta(seconds=services.settings.alert_outage_seconds)
    with services.database.begin() as connection:
        for outage in alerts.end_outages(connection, now):
            alerts.tell(
                connection,
                AlertKind.WIX_REACHABLE,
                instance_id=outage.instance_id,
                subject=str(outage.instance_id),
                change=outage.since.isoformat(),
                document={"since": outage.since.isoformat(), "until": now.isoformat()},
                now=now,
            )
        for outage in alerts.begin_outages(connection, now, after):
            alerts.tell(
                connection,
                AlertKind.WIX_UNREACHABLE,
                instance_id=outage.instance_id,
                subject=str(outage.instance_id),
                change=outage.since.isoformat(),
                document={"since": outage.since.isoformat(), "why": outage.reason},
                now=now,
            )


def _make_messages(
    connection: Connection,
    channel: Channel,
    gap: timedelta,
    severities: tuple[Severity, ...],
    now: datetime,
) -> None:
    if Severity.INFORMATIONAL not in severities:
        alerts.drop_over(connection, channel)
    waiting = alerts.waiting(connection, channel, now, gap)
    made = making(
        PACES[channel],
        waiting=waiting.number,
        # A clock that is a little ahead of ours may have stamped it, or one that was far ahead.
        oldest_age=abs(now - (waiting.oldest_at or now)),
        recent=waiting.recent,
    )
    if made is Making.NOTHING_YET:
        return
    if made is Making.ONE_EACH:
        for one in alerts.first_waiting(connection, channel, waiting.number):
            alerts.deliver(
                connection, channel, DeliveryKind.ALERT, about_alert(one), now, alert_ids=[one.alert_id]
            )
        return
    counted = alerts.count_waiting(connection, channel)
    document = about_group(waiting.number, counted, alerts.first_waiting(connection, channel), now=now)
    alerts.deliver(
        connection,
        channel,
        DeliveryKind.GROUP,
        document,
        now,
        takes_all=True,
        alert_count=waiting.number,
    )


def _make_digest(connection: Connection, channel: Channel, until: datetime, now: datetime) -> None:
    since = alerts.digested_to(connection, channel)
    if since is None:
        # Its first digest is of the next whole period: what was before, nobody asked to be told.
        alerts.note_digest(connection, channel, until)
    if since is None or since >= until:
        return
    changes = alerts.count_changes(connection, since, until)
    others = alerts.count_others(connection, since, until)
    document = about_period(
        since,
        until,
        open_now=alerts.count_open(connection),
        changes=changes,
        others=others,
        now=now,
    )
    if document is not None:
        number = sum(one.number for one in (*changes, *others))
        alerts.deliver(connection, channel, DeliveryKind.DIGEST, document, now, alert_count=number)
    alerts.note_digest(connection, channel, until)


# -- Sending ---------------------------------------------------------------------------------------


def deliver(services: Services, channel: Channel) -> None:
    """Send what is due by the channel, one message after the other, until one fails that says that all would."""
    with services.database.begin() as connection:
        alerts.note_job_started(connection, channel)
    if channel not in configured(services.settings):
        return
    began = time.monotonic()
    lease = timedelta(seconds=services.settings.lease_seconds)
    with opened(services.settings, channel) as sender:
        for _ in range(MESSAGES_TOGETHER_MAX):
            with services.database.begin() as connection:
                claim = alerts.claim(connection, channel, services.now(), lease)
            if claim is None or not _send(services, sender, claim):
                return
            if time.monotonic() - began > SECONDS_TOGETHER_MAX:
                return


def _send(services: Services, sender: Sender, claim: alerts.Claim) -> bool:
    """Send one message and write what became of it. False when others would fare the same."""
    if claim.is_taken_over and services.now() - claim.waiting_since > 2 * GIVE_UP_AFTER:
        # Its attempts do not even end: whatever it is, it kills its worker.
        _give_up(services, claim, "its delivery did not come to an end")
        return True
    try:
        sender.send(claim.delivery_id, claim.document, services.now())
    except NotDelivered as why:
        return _put_off(services, claim, why)
    with services.database.begin() as connection:
        alerts.delivered(connection, claim, services.now())
        runs.count(connection, "alert_deliveries", {f"{claim.channel} delivered": 1})
    return True


def _put_off(services: Services, claim: alerts.Claim, why: NotDelivered) -> bool:
    is_of_channel = not (why.is_of_message or why.is_final)
    now = services.now()
    with services.database.begin() as connection:
        failures = alerts.failures(connection, claim.channel) + 1 if is_of_channel else claim.attempts
        seconds = wait_seconds(failures, why.retry_after_seconds)
        if is_of_channel:
            alerts.leave_alone(connection, claim.channel, now + timedelta(seconds=seconds))
    if why.is_final or now - claim.waiting_since >= GIVE_UP_AFTER:
        _give_up(services, claim, str(why))
        return not is_of_channel
    with services.database.begin() as connection:
        alerts.postpone(connection, claim, now + timedelta(seconds=seconds), why=str(why))
        runs.count(connection, "alert_deliveries", {f"{claim.channel} failed": 1})
    log.warning(
        "alert_postponed",
        channel=claim.channel.value,
        delivery_id=str(claim.delivery_id),
        attempts=claim.attempts,
        seconds=seconds,
        why=str(why),
    )
    return not is_of_channel


def _give_up(services: Services, claim: alerts.Claim, why: str) -> None:
    with services.database.begin() as connection:
        alerts.give_up(connection, claim, services.now(), why=why)
        runs.count(connection, "alert_deliveries", {f"{claim.channel} given_up": 1})
    log.error(
        "alert_given_up",
        channel=claim.channel.value,
        delivery_id=str(claim.delivery_id),
        attempts=claim.attempts,
        why=why,
    )
