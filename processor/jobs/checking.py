"""The check of one instance's due links: read, decide, write."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import Connection

from processor.domain.discrepancy import AUTOMATION
from processor.domain.event import Event
from processor.domain.payment import Origin, Payment
from processor.domain.reconciliation import unknown_instance
from processor.errors import ConfigurationError, WixError, WixUnauthorized
from processor.jobs.asking import ask
from processor.jobs.common import Beat, TakenOver, accounted, wait_after
from processor.jobs.concluding import conclude
from processor.store import checks, discrepancies, events, instances, matching, payments, rules, runs
from processor.wiring import Services
from processor.wix.parse import parse_claims, parse_event
from processor.wix.signature import decode_segment

log = structlog.get_logger(__name__)

HELD_MAX = 500
# At the pace Wix allows, one is enough as a rule. A second one goes on while the first reads a very large link.
WORKERS_MAX = 2


def run_check(services: Services, instance_id: UUID, *, actor: str = AUTOMATION) -> bool:
    """One check of one instance's due links: read, decide, write. actor: who it is that runs it.

    Returns False when it left the links to workers that are at the instance.
    """
    now = services.now()
    lease_time = timedelta(seconds=services.settings.lease_seconds)
    with services.database.begin() as connection:
        if actor == AUTOMATION:
            instances.lock(connection, instance_id)
            if runs.live(connection, instance_id, "check", now - lease_time) >= WORKERS_MAX:
                # They ask for another job when they end; until then these links wait, and other instances do not.
                log.info("check_left_to_others", instance_id=str(instance_id))
                return False
        checks.note_job_started(connection, instance_id)
        checks.drain(connection, now)
        lease = checks.claim(connection, instance_id, now, lease_time)
        if not lease.claims:
            return True
        run_id = runs.start(
            *(connection, instance_id, "check", now),
            actor=actor,
            settling_seconds=services.settings.settling_seconds,
        )
        runs.count(connection, "jobs", {"check_links taken_over": lease.took_over})
        status = instances.status(connection, instance_id)
    with accounted(services, run_id) as account:
        try:
            if status == "unconfirmed":
                services.wix.check_credentials(instance_id)
                with services.database.begin() as connection:
                    instances.confirm(connection, instance_id, services.now())
                    checks.hasten(connection, instance_id, services.now())
                status = "installed"
                log.info("instance_confirmed", instance_id=str(instance_id))
            if status == "removed":
                raise WixUnauthorized("the app was removed from this site")
            release_held(services, instance_id)
            with services.database.begin() as connection:
                link_ids = [claim.payment_link_id for claim in lease.claims]
                matching.note_late_webhooks(connection, instance_id, link_ids)
            theirs = ask(services, instance_id, lease, Beat(services, instance_id, lease, run_id))
            conclude(services, instance_id, lease, theirs, account)
        except TakenOver:
            account.failed = "taken over by another worker"
        except (WixError, ConfigurationError) as why:
            wait = wait_after(why, services, lease.failures, is_confirmed=status != "unconfirmed")
            account.failed = f"{type(why).__name__}: {why}"
            log.warning(
                "check_postponed",
                instance_id=str(instance_id),
                run_id=str(run_id),
                seconds=wait,
                why=str(why),
            )
            with services.database.begin() as connection:
                checks.postpone(connection, instance_id, lease, services.now() + timedelta(seconds=wait))
                if status == "unconfirmed" and isinstance(why, WixUnauthorized):
                    account.counts.opened = _note_unknown(services, connection, instance_id, lease, run_id)
                    account.close(connection, services.now())
        finally:
            with services.database.begin() as connection:
                matching.forget(connection, lease.lease_id)
    return True


def _note_unknown(
    services: Services, connection: Connection, instance_id: UUID, lease: checks.Lease, run_id: UUID
) -> int:
    """Note what is held of the claimed links for longer than Wix takes to settle; returns how many were opened."""
    now = services.now()
    ripe = now - timedelta(seconds=services.settings.settling_seconds)
    link_ids = [claim.payment_link_id for claim in lease.claims]
    held = [
        one for one in events.held_by_link(connection, instance_id, link_ids) if one.first_received_at <= ripe
    ]
    told: dict[UUID, list[Payment]] = {one.payment_link_id: [] for one in held}
    read = events.held_of(connection, instance_id, told.keys(), HELD_MAX)
    for one in read:
        # Erased while it was held: what it told is not known any more.
        event = _read(services, one.token) if one.token is not None else None
        if event is not None and event.seen is not None:
            told[event.seen.payment.payment_link_id].append(event.seen.payment)
    found = [
        unknown_instance(
            one.payment_link_id, one.payments, told[one.payment_link_id] if len(read) < HELD_MAX else None
        )
        for one in held
    ]
    return discrepancies.note(
        connection, instance_id, found, run_id=run_id, now=now, rules=rules.in_force(connection)
    )


def _read(services: Services, token: str) -> Event:
    return parse_event(
        parse_claims(decode_segment(token.split(".")[1].encode())),
        link_fqdn=services.settings.wix_link_fqdn,
    )


def release_held(services: Services, instance_id: UUID) -> int:
    """Apply events held for an instance that is now confirmed, as if they arrived today.

    Returns how many were applied.
    """
    released = 0
    while True:
        with services.database.begin() as connection:
            held = events.lock_held(connection, instance_id, HELD_MAX)
            if not held:
                return released
            blank: list[UUID] = []
            for one in held:
                if one.token is None:
                    blank.append(one.event_id)
                    continue
                event = _read(services, one.token)
                if event.seen is not None:
                    payments.apply(
                        connection,
                        [
                            payments.telling(
                                event.seen,
                                origin=Origin.WEBHOOK,
                                told_at=services.now(),
                                event_id=one.event_id,
                                is_anonymization=event.anonymized,
                            )
                        ],
                    )
            events.release(
                connection, instance_id, [one.event_id for one in held if one.event_id not in blank]
            )
            # Erased while it was held: nothing is left to apply, and a check books what Wix lists.
            events.release(connection, instance_id, blank, "ignored")
            released += len(held)
