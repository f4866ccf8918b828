"""The sweep: what was created in a window, looked at for payments no webhook told of."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import structlog

from processor.domain.payment import Payment, Verdict, judge
from processor.errors import ConfigurationError, Unreadable, WixError
from processor.jobs.common import PAYMENT_PAGES_MAX, accounted, guid_of, wait_after
from processor.jobs.due import enqueue_due_checks
from processor.store import checks, payments, runs, sweeps
from processor.wiring import Services
from processor.wix import wire
from processor.wix.parse import parse_payment

log = structlog.get_logger(__name__)


def run_sweep(services: Services, instance_id: UUID) -> None:
    """Read every payment created in the window and ask for a check where our books say otherwise.

    The check then decides and books: there is one way of repair. The position is kept after every page,
    by creation date, so that a sweep whose worker died resumes where it stood.
    """
    now = services.now()
    settings = services.settings
    lease_time = timedelta(seconds=settings.lease_seconds)
    with services.database.begin() as connection:
        lease = sweeps.claim(
            connection,
            instance_id,
            now,
            lease=lease_time,
            overlap=timedelta(seconds=settings.sweep_overlap_seconds),
        )
        if lease is None:
            return
        run_id = runs.start(
            connection, instance_id, "sweep", now, window=(lease.window_from, lease.window_to)
        )
    with accounted(services, run_id) as account:
        try:
            is_whole = _sweep_pages(services, instance_id, lease, lease_time, account.counts)
        except (WixError, ConfigurationError) as why:
            wait = wait_after(why, services, lease.failures)
            account.failed = f"{type(why).__name__}: {why}"
            log.warning(
                "sweep_postponed",
                instance_id=str(instance_id),
                run_id=str(run_id),
                seconds=wait,
                why=str(why),
            )
            with services.database.begin() as connection:
                sweeps.postpone(connection, instance_id, lease, services.now() + timedelta(seconds=wait))
            return
        if not is_whole:
            account.failed = "taken over by another worker"
            return
        with services.database.begin() as connection:
            now = services.now()
            if not sweeps.finish(
                connection,
                instance_id,
                lease,
                due_at=now + timedelta(seconds=settings.sweep_seconds),
                now=now,
                overlap=timedelta(seconds=settings.sweep_overlap_seconds),
            ):
                account.failed = "taken over by another worker"
            account.close(connection, now)
    enqueue_due_checks(services, services.now())


def _sweep_pages(
    services: Services,
    instance_id: UUID,
    lease: sweeps.Lease,
    lease_time: timedelta,
    counts: runs.Counts,
) -> bool:
    """Read the window page by page. False when another worker took the sweep over."""
    window = {
        "$gte": wire.instant_text(lease.position_at),
        "$lte": wire.instant_text(lease.window_to + timedelta(milliseconds=1)),
    }
    for page in services.wix.query_payments(
        instance_id,
        filter={"createdDate": window},
        sort=[("createdDate", "ASC")],
        pages_max=PAYMENT_PAGES_MAX,
    ):
        seen: dict[UUID, Payment] = {}
        suspicious: set[UUID] = set()
        for entity in page:
            try:
                payment = parse_payment(entity, instance_id).payment
            except Unreadable as why:
                log.warning("payment_unreadable", instance_id=str(instance_id), reason=why.reason)
                link_id = guid_of(entity, "paymentLinkId")
                if link_id is not None:
                    suspicious.add(link_id)
                continue
            seen[payment.payment_id] = payment
        with services.database.begin() as connection:
            believed = payments.believed(connection, instance_id, seen.keys())
            for payment_id, payment in seen.items():
                ours = believed.get(payment_id)
                if judge(ours.payment if ours else None, payment) is not Verdict.SAME:
                    suspicious.add(payment.payment_link_id)
            checks.request(connection, instance_id, sorted(suspicious), services.now())
            position = max(
                (one.created_at for one in seen.values() if one.created_at), default=lease.position_at
            )
            if not sweeps.advance(connection, instance_id, lease, position, services.now() + lease_time):
                return False
        counts.links += len({payment.payment_link_id for payment in seen.values()})
    return True
