"""The clock: enqueue what the database says is due, again and again. Several clocks do no harm."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from processor.errors import StoreUnavailable
from processor.jobs.alerting import enqueue_due_alerts
from processor.jobs.due import LOST_AFTER, enqueue_due_checks
from processor.jobs.listening import look_for_silence
from processor.jobs.refunding import read_refunds
from processor.store import (
    backfills,
    evidence,
    instances,
    matching,
    operations,
    runs,
    silences,
    sweeps,
)
from processor.wiring import Services

log = structlog.get_logger(__name__)

HEARTBEAT = operations.CLOCK
# A run that began this many leases ago and never ended has lost its worker.
ABANDONED_AFTER_LEASES = 4


@dataclass(frozen=True, slots=True)
class Ticked:
    """What one tick enqueued."""

    checks: int = 0
    sweeps: int = 0
    backfills: int = 0
    alerts: int = 0
    listens: int = 0


def tick(services: Services) -> Ticked:
    """Read what was told of refunds, look for instances that fell silent, and enqueue whatever is due.

    Raises StoreUnavailable.

    Whether Redis took a job is of no matter: what it lost is due again after a while.
    """
    now = services.now()
    with services.database.begin() as connection:
        listening_since = operations.beat(connection, HEARTBEAT, now)
        lease = timedelta(seconds=services.settings.lease_seconds)
        abandoned = runs.abandon(connection, now - ABANDONED_AFTER_LEASES * lease, now)
        matching.forget_abandoned(connection)
    if abandoned:
        log.warning("runs_abandoned", runs=abandoned)
    _make_months(services, now)
    _apart("read_refunds", lambda: read_refunds(services))
    enqueued_checks = enqueue_due_checks(services, now)
    with services.database.begin() as connection:
        due = sweeps.take_due(connection, now, LOST_AFTER)
    return Ticked(
        enqueued_checks,
        sum(services.queue.enqueue_sweep(instance_id) for instance_id in due),
        _enqueue_backfills(services, now),
        _apart("alerts", lambda: enqueue_due_alerts(services, now)),
        _apart("listens", lambda: _enqueue_listens(services, now, listening_since)),
    )


_broken: set[str] = set()


def _apart(duty: str, work: Callable[[], int]) -> int:
    """Do what checks and sweeps do not depend on: a fault in it is told of once, and stops nothing else.

    Returns what `work` does, 0 when it broke. Raises StoreUnavailable.
    """
    try:
        done = work()
    except StoreUnavailable:
        raise
    except Exception:
        # Whatever it is, it must not end the clock, and with it every recheck and poll. Once is enough: it comes again
        # at every tick.
        if duty not in _broken:
            _broken.add(duty)
            log.exception("duty_failed", duty=duty)
        return 0
    if duty in _broken:
        _broken.remove(duty)
        log.info("duty_works", duty=duty)
    return done


def _enqueue_backfills(services: Services, now: datetime) -> int:
    """Ask for the backfill of new installations, and enqueue every one that is due. Returns how many were enqueued."""
    settings = services.settings
    with services.database.begin() as connection:
        asked = backfills.request_for_new(
            connection,
            now,
            span=timedelta(days=settings.backfill_days),
            overlap=timedelta(seconds=settings.sweep_overlap_seconds),
        )
        due = backfills.take_due(connection, now, LOST_AFTER)
    if asked:
        log.info("installations_backfilled", backfills=asked)
    return sum(services.queue.enqueue_backfill(instance_id) for instance_id in due)


def _enqueue_listens(services: Services, now: datetime, listening_since: datetime) -> int:
    """Look for instances that fell silent, and have it verified. Returns how many questions were enqueued."""
    look_for_silence(services, now, listening_since)
    with services.database.begin() as connection:
        suspected = silences.take_due(connection, now, LOST_AFTER)
    return sum(services.queue.enqueue_listen(instance_id) for instance_id in suspected)


def _make_months(services: Services, now: datetime) -> None:
    """Make the partitions of the months ahead. One that cannot be made now is made at a later tick."""
    try:
        with services.database.begin() as connection:
            made = evidence.ensure_months(connection, now)
    except StoreUnavailable as why:
        log.warning("months_not_made", why=str(why))
    else:
        if made:
            log.info("months_made", partitions=made)


def seed(services: Services) -> None:
    """Poll the instance an API key is configured for from the start: its owner vouches for it."""
    instance_id = services.settings.instance_id
    if instance_id is not None:
        with services.database.begin() as connection:
            instances.confirm(connection, instance_id, services.now())


def run(services: Services, stop: threading.Event) -> None:
    """Tick until `stop` is set. A database that is away is waited for."""
    log.info("clock_started", seconds=services.settings.tick_seconds)
    is_away = False
    is_seeded = False
    while not stop.is_set():
        try:
            if not is_seeded:
                seed(services)
                is_seeded = True
            ticked = tick(services)
        except StoreUnavailable as why:
            if not is_away:
                log.error("database_unavailable", why=str(why))
            is_away = True
        else:
            if is_away:
                log.info("database_back")
            is_away = False
            if ticked != Ticked():
                log.info(
                    "due_enqueued",
                    checks=ticked.checks,
                    sweeps=ticked.sweeps,
                    backfills=ticked.backfills,
                    alerts=ticked.alerts,
                    listens=ticked.listens,
                )
        stop.wait(services.settings.tick_seconds)
    log.info("clock_stopped")
