"""Sweeps and backfills: what was created in a window, compared with the books a part at a time.

A sweep comes round for every instance, over the span in which webhooks may still come; a backfill reads a span once. A
part is PART_PAGES pages: then the job ends and asks for another, which waits behind the jobs of other instances.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection

from processor.config import RESEND_HORIZON_SECONDS
from processor.domain.discrepancy import AUTOMATION
from processor.domain.payment import Payment, judge
from processor.domain.reconciliation import Outcome
from processor.domain.rerun import Sum
from processor.errors import ConfigurationError, Unreadable, WixError
from processor.jobs.common import PAYMENT_PAGES_MAX, Account, TakenOver, accounted, guid_of, wait_after
from processor.jobs.due import enqueue_due_checks
from processor.store import backfills, checks, runs, staging, sweeps
from processor.wiring import Services
from processor.wix import wire
from processor.wix.parse import iso_instant, parse_payment

log = structlog.get_logger(__name__)

# Eight seconds at the pace Wix allows, in which nobody else has this worker.
PART_PAGES = 20
# Wix's dates have milliseconds, ours microseconds: up to here a window reaches beyond its end.
_ROUNDING = timedelta(milliseconds=1)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def run_sweep(services: Services, instance_id: UUID, *, actor: str = AUTOMATION) -> bool:
    """Read the next part of the instance's sweep, and ask for a check where our books say otherwise.

    The position is kept after every part, by creation date, so that a sweep whose worker died resumes there. Returns
    whether there is more to read at once. actor: who it is that reads.
    """
    now = services.now()
    settings = services.settings
    lease_time = timedelta(seconds=settings.lease_seconds)
    overlap = timedelta(seconds=settings.sweep_overlap_seconds)
    with services.database.begin() as connection:
        _backfill_downtime(connection, instance_id, now, overlap)
        lease = sweeps.claim(connection, instance_id, now, lease=lease_time, overlap=overlap)
        if lease is None:
            return False
        run_id = _start(connection, instance_id, "sweep", lease, now, actor)

    def hold(connection: Connection) -> bool:
        runs.beat(connection, run_id, services.now())
        return sweeps.hold(connection, instance_id, lease, services.now() + lease_time)

    def conclude(connection: Connection, part: _Part, listed: int, now: datetime) -> bool:
        if not part.is_last:
            return sweeps.advance(connection, instance_id, lease, part.until, due_at=now)
        due_at = now + timedelta(seconds=settings.sweep_seconds)
        return sweeps.finish(connection, instance_id, lease, due_at=due_at, now=now, overlap=overlap)

    def postpone(connection: Connection, due_at: datetime) -> None:
        sweeps.postpone(connection, instance_id, lease, due_at)

    part = _run_part(services, instance_id, run_id, lease, _Window(hold, conclude, postpone))
    return part is not None and not part.is_last


def run_backfill(services: Services, instance_id: UUID, *, actor: str = AUTOMATION) -> None:
    """Read the next part of the instance's first backfill.

    As long as it took, no part is read after it: so sweeps and checks have half of what Wix allows for themselves.
    actor: who it is that reads.
    """
    now = services.now()
    begun = time.monotonic()
    lease_time = timedelta(seconds=services.settings.lease_seconds)
    with services.database.begin() as connection:
        held = backfills.claim(connection, instance_id, now, lease=lease_time)
        if held is None:
            return
        run_id = _start(connection, instance_id, "backfill", held.lease, now, actor)

    def hold(connection: Connection) -> bool:
        runs.beat(connection, run_id, services.now())
        return backfills.hold(connection, held, services.now() + lease_time)

    def conclude(connection: Connection, part: _Part, listed: int, now: datetime) -> bool:
        if part.is_last:
            return backfills.finish(connection, held, payments=listed, now=now)
        due_at = now + timedelta(seconds=time.monotonic() - begun)
        return backfills.advance(connection, held, part.until, payments=listed, due_at=due_at)

    def postpone(connection: Connection, due_at: datetime) -> None:
        backfills.postpone(connection, held, due_at)

    part = _run_part(services, instance_id, run_id, held.lease, _Window(hold, conclude, postpone))
    if part is not None and part.is_last:
        log.info(
            "backfill_finished",
            instance_id=str(instance_id),
            backfill_id=str(held.backfill_id),
            run_id=str(run_id),
        )


def _backfill_downtime(connection: Connection, instance_id: UUID, now: datetime, overlap: timedelta) -> None:
    """Leave what lies behind us to a backfill when nothing was swept for longer than Wix resends."""
    horizon = timedelta(seconds=RESEND_HORIZON_SECONDS)
    since = sweeps.pass_over(connection, instance_id, now, longer_than=horizon)
    if since is not None:
        backfill_id = backfills.request(
            connection,
            instance_id,
            since - overlap,
            now - overlap,
            reason="downtime",
            actor="automation",
            now=now,
        )
        log.warning(
            "downtime_backfilled",
            instance_id=str(instance_id),
            backfill_id=str(backfill_id),
            seconds=round((now - since).total_seconds()),
        )


def _start(
    connection: Connection, instance_id: UUID, kind: str, lease: sweeps.Lease, now: datetime, actor: str
) -> UUID:
    window = (lease.position_at, lease.window_to)
    return runs.start(connection, instance_id, kind, now, window=window, actor=actor)


@dataclass(frozen=True, slots=True)
class _Part:
    """What was read: everything created before `until`, up to the end of the window if it `is_last`."""

    until: datetime
    listed: _Listed
    is_last: bool


@dataclass(frozen=True, slots=True)
class _Window:
    """Whose part is read. hold: keeps it, False when it was taken over. conclude: writes how far it is, likewise.

    postpone: gives it back as it stands until a moment.
    """

    hold: Callable[[Connection], bool]
    conclude: Callable[[Connection, _Part, int, datetime], bool]
    postpone: Callable[[Connection, datetime], None]


def _run_part(
    services: Services, instance_id: UUID, run_id: UUID, lease: sweeps.Lease, window: _Window
) -> _Part | None:
    """Read a part, compare it, and write how far it is. None when Wix could not be asked, or it was taken over."""
    part: _Part | None = None
    with accounted(services, run_id) as account:
        try:
            read = _read_part(services, instance_id, lease, window.hold)
            _conclude(services, instance_id, lease, read, window, account)
            part = read
        except TakenOver:
            account.failed = "taken over or cancelled"
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
                window.postpone(connection, services.now() + timedelta(seconds=wait))
    if part is not None:
        enqueue_due_checks(services, services.now())
    return part


def _read_part(
    services: Services, instance_id: UUID, lease: sweeps.Lease, hold: Callable[[Connection], bool]
) -> _Part:
    """Read PART_PAGES pages, and more while they are all of one moment. Raises TakenOver."""
    asked = {
        "$gte": wire.instant_text(lease.position_at),
        "$lte": wire.instant_text(lease.window_to + _ROUNDING),
    }
    reached = lease.position_at
    listed = _Listed(instance_id)
    held_at = time.monotonic()
    for number, page in enumerate(
        services.wix.query_payments(
            instance_id,
            filter={"createdDate": asked},
            sort=[("createdDate", "ASC")],
            pages_max=PAYMENT_PAGES_MAX,
        ),
        start=1,
    ):
        if time.monotonic() - held_at >= services.settings.lease_seconds / 4:
            held_at = time.monotonic()
            with services.database.begin() as connection:
                if not hold(connection):
                    raise TakenOver
        reached = max([reached, *map(listed.take, page)])
        if number >= PART_PAGES and reached > lease.position_at:
            return _Part(reached, listed, is_last=False)
    return _Part(lease.window_to + 2 * _ROUNDING, listed, is_last=True)


@dataclass(slots=True)
class _Listed:
    """What Wix lists of a part. strays: links of payments whose own id cannot be read."""

    instance_id: UUID
    payments: dict[UUID, Payment] = field(default_factory=dict)
    unread: dict[UUID, staging.Unread] = field(default_factory=dict)
    strays: set[UUID] = field(default_factory=set)

    def take(self, entity: Any) -> datetime:
        """Note one item. Returns when it was created, long ago if that cannot be read."""
        try:
            payment = parse_payment(entity, self.instance_id).payment
        except Unreadable as why:
            log.warning("payment_unreadable", instance_id=str(self.instance_id), reason=why.reason)
            payment_id, link_id = guid_of(entity, "id"), guid_of(entity, "paymentLinkId")
            if payment_id is not None:
                self.unread[payment_id] = staging.Unread(payment_id, link_id, why.reason)
            elif link_id is not None:
                self.strays.add(link_id)
            return _date_of(entity) or _LONG_AGO
        # While items move between pages one may come twice; the higher revision stands.
        if judge(self.payments.get(payment.payment_id), payment).applies:
            self.payments[payment.payment_id] = payment
        return payment.created_at or _LONG_AGO

    def before(self, until: datetime) -> tuple[list[Payment], list[staging.Unread]]:
        """The payments created before a moment, and what cannot be read; of one listed in both ways, the former."""
        payments = [one for one in self.payments.values() if one.created_at is None or one.created_at < until]
        return payments, [one for id_, one in self.unread.items() if id_ not in self.payments]


def _date_of(entity: Any) -> datetime | None:
    date = entity.get("createdDate") if isinstance(entity, dict) else None
    return iso_instant(date) if isinstance(date, str) else None


def _conclude(
    services: Services,
    instance_id: UUID,
    lease: sweeps.Lease,
    part: _Part,
    window: _Window,
    account: Account,
) -> None:
    """Compare what was read, and write how far it is. Raises TakenOver."""
    now = services.now()
    with services.database.begin() as connection:
        staging.stage(connection, *part.listed.before(part.until))
        compared = staging.compare(
            connection,
            instance_id,
            since=lease.position_at,
            until=part.until,
            settling=timedelta(seconds=services.settings.settling_seconds),
            now=now,
        )
        checks.request(connection, instance_id, sorted(part.listed.strays), now)
        if not window.conclude(connection, part, compared.listed, now):
            raise TakenOver
        runs.narrow(connection, account.run_id, min(part.until, lease.window_to))
        account.counts.links = compared.links
        account.counts.outcomes[Outcome.MATCHED] = compared.verdicts.get("same", 0)
        for currency, sums in compared.sums.items():
            booked, listed = Sum(sums.booked, sums.booked_amount), Sum(sums.listed, sums.listed_amount)
            account.counts.add(currency, booked, listed)
        account.close(connection, now)
