"""What RQ runs: checks, sweeps, backfills, alerts, questions about silence, and what pages ask for.

Each may run twice, and die at any point.

Raising means that something is broken and RQ keeps the job as failed; what is due stays a row, so the
clock enqueues it again. What Wix or time will cure is a stored outcome, not an exception.

Jobs are enqueued by the names they have here (`processor.queue`); jobs of an older release may still wait under them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec
from uuid import UUID

import structlog

from processor import wiring
from processor.domain.alert import Channel
from processor.jobs.alerting import deliver
from processor.jobs.checking import run_check
from processor.jobs.due import enqueue_due_checks
from processor.jobs.listening import run_listen
from processor.jobs.preparing import run_prepare
from processor.jobs.sweeping import run_backfill, run_sweep
from processor.store import alerts, checks, runs
from processor.wiring import Services

__all__ = [
    "backfill",
    "check_links",
    "deliver_alerts",
    "dispatch",
    "listen",
    "prepare",
    "run_backfill",
    "run_check",
    "run_listen",
    "run_prepare",
    "run_sweep",
    "sweep",
]

log = structlog.get_logger(__name__)

P = ParamSpec("P")


def job(name: str) -> Callable[[Callable[Concatenate[Services, P], None]], Callable[P, None]]:
    """Make a function of Services a job: services from the environment, outcome counted and logged."""

    def decorate(work: Callable[Concatenate[Services, P], None]) -> Callable[P, None]:
        @functools.wraps(work)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            services = wiring.from_environ("worker")
            outcome = "failed"
            try:
                work(services, *args, **kwargs)
                outcome = "succeeded"
            finally:
                log.info("job_finished", job=name, outcome=outcome, ids=list(args))
                with services.database.begin() as connection:
                    runs.count(connection, "jobs", {f"{name} {outcome}": 1})

        return run

    return decorate


@job("dispatch")
def dispatch(services: Services) -> None:
    """Merge what was requested and enqueue checks of every instance with due links."""
    enqueue_due_checks(services, services.now())


@job("check_links")
def check_links(services: Services, instance_text: str) -> None:
    """Check up to 100 due links of one instance, and ask for another job when more are due."""
    instance_id = UUID(instance_text)
    if not run_check(services, instance_id):
        return  # or this job would be asked for over and over until they end; whoever ends asks for the next
    with services.database.begin() as connection:
        has_more = checks.has_due(connection, instance_id, services.now())
    if has_more:
        services.queue.enqueue_check(instance_id)


@job("sweep")
def sweep(services: Services, instance_text: str) -> None:
    """Poll one instance for payments no webhook told of: one part, and another job for the next."""
    instance_id = UUID(instance_text)
    if run_sweep(services, instance_id):
        services.queue.enqueue_sweep(instance_id)


@job("backfill")
def backfill(services: Services, instance_text: str) -> None:
    """Read one part of the backfill of one instance; the clock asks for the next in time."""
    run_backfill(services, UUID(instance_text))


@job("deliver_alerts")
def deliver_alerts(services: Services, channel_name: str) -> None:
    """Send the alerts that are due by one channel, and ask for another job when more are."""
    channel = Channel(channel_name)
    deliver(services, channel)
    with services.database.begin() as connection:
        has_more = alerts.has_due(connection, channel, services.now())
    if has_more:
        services.queue.enqueue_delivery(channel)


@job("listen")
def listen(services: Services, instance_text: str) -> None:
    """Ask Wix whether one instance from which no webhook comes has payments."""
    run_listen(services, UUID(instance_text))


@job("prepare")
def prepare(services: Services, key: str) -> None:
    """Answer what a page asked, which waits in Redis under this key."""
    run_prepare(services, key)
