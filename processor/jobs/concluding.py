"""What Wix says matched with the books, and what follows written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import structlog
from sqlalchemy import Connection

from processor import __version__
from processor.config import RESEND_HORIZON_SECONDS
from processor.domain.alert import AlertKind
from processor.domain.discrepancy import Difference, DiscrepancyType
from processor.domain.payment import Payment
from processor.domain.reconciliation import (
    BY_DESCRIPTION,
    BY_EVENTS_ALONE,
    LinkBooks,
    Outcome,
    Totals,
    closed_since,
    match,
    match_link,
    next_check,
)
from processor.domain.rules import BUILT_IN, Rules
from processor.errors import StoreUnavailable
from processor.jobs.asking import Theirs
from processor.jobs.common import Account, Beat, TakenOver
from processor.store import alerts, checks, discrepancies, events, links, matching, payments, rules, runs
from processor.wiring import Services

log = structlog.get_logger(__name__)

PART_PAYMENTS = 1_000  # matched and booked in one transaction


@dataclass(slots=True)
class _Progress:
    """What is known of one link while its payments are gone through."""

    has_expected: bool = False
    has_differences: bool = False


def conclude(
    services: Services,
    instance_id: UUID,
    lease: checks.Lease,
    theirs: Theirs,
    account: Account,
) -> None:
    """Match what Wix lists with the books, and write what follows, in parts of PART_PAYMENTS.

    The last part, which is the only one as a rule, writes everything about the links themselves. A check that
    dies between two parts has booked what is true: the guard of revisions makes every part safe.
    Raises TakenOver.
    """
    beat = Beat(services, instance_id, lease, account.run_id)
    counts = runs.Counts()
    progress = {claim.payment_link_id: _Progress() for claim in lease.claims}
    after: matching.Place | None = matching.BEGINNING
    in_force = BUILT_IN
    is_first = True
    while after is not None:
        beat()
        with services.database.begin() as connection:
            now = services.now()
            held = checks.still_held(connection, instance_id, lease)
            claims = [claim for claim in lease.claims if claim.payment_link_id in held]
            if not claims:
                raise TakenOver
            if is_first:
                if matching.count(connection, lease.lease_id) != theirs.payments:
                    raise StoreUnavailable("the database lost what Wix listed; it is asked again")
                matching.write_unlisted(connection, instance_id, lease.lease_id, held)
                in_force = rules.in_force(connection)
                if not in_force.is_readable:
                    log.warning("rules_unreadable", version=in_force.version, run_id=str(account.run_id))
                    alerts.tell(
                        connection,
                        AlertKind.RULES_UNREADABLE,
                        instance_id=None,
                        subject=f"rules {in_force.version}",
                        change=__version__,
                        document={"version": in_force.version, "release": __version__},
                        now=now,
                    )
            part = matching.match_part(
                connection, lease.lease_id, held, after=after, limit=PART_PAYMENTS, now=now
            )
            _match_part(
                *(connection, services, instance_id, lease, claims, part, progress, account.run_id, counts),
                in_force,
            )
            if part.last is None:
                _match_links(
                    *(
                        connection,
                        services,
                        instance_id,
                        lease,
                        claims,
                        theirs,
                        progress,
                        account.run_id,
                        counts,
                    ),
                    in_force,
                )
                account.counts = counts
                account.close(connection, services.now())
        after = part.last
        is_first = False


def _match_part(
    connection: Connection,
    services: Services,
    instance_id: UUID,
    lease: checks.Lease,
    claims: Sequence[checks.Claim],
    part: matching.Part,
    progress: dict[UUID, _Progress],
    run_id: UUID,
    counts: runs.Counts,
    in_force: Rules,
) -> None:
    """Decide on what is not plainly the same, and write it, in the caller's transaction."""
    now = services.now()
    settling = timedelta(seconds=services.settings.settling_seconds)
    unsettled_since = {claim.payment_link_id: claim.unsettled_since for claim in claims}
    counts.outcomes[Outcome.MATCHED] += sum(part.same.values())
    outcomes: dict[UUID, Outcome] = {}
    repairs: list[Payment] = []
    found: list[Difference] = []
    for pair in part.pairs:
        matched = match(
            pair, now=now, settling=settling, unsettled_since=unsettled_since[pair.payment_link_id]
        )
        of_link = progress[pair.payment_link_id]
        of_link.has_expected |= matched.outcome is Outcome.EXPECTED
        of_link.has_differences |= bool(matched.differences)
        if matched.outcome is not None:
            counts.outcomes[matched.outcome] += 1
            outcomes[pair.payment_id] = matched.outcome
        if matched.repair is not None:
            repairs.append(matched.repair)
        found.extend(matched.differences)
    matching.book(connection, lease.lease_id, repairs, run_id=run_id, now=now)
    for payment in repairs:
        log.info(
            "payment_recovered",
            instance_id=str(payment.instance_id),
            payment_id=str(payment.payment_id),
            payment_link_id=str(payment.payment_link_id),
            revision=payment.revision,
            run_id=str(run_id),
        )
    payments.note_outcomes(connection, instance_id, outcomes, now)
    counts.opened += discrepancies.note(
        connection, instance_id, found, run_id=run_id, now=now, rules=in_force
    )


def _match_links(
    connection: Connection,
    services: Services,
    instance_id: UUID,
    lease: checks.Lease,
    claims: Sequence[checks.Claim],
    theirs: Theirs,
    progress: dict[UUID, _Progress],
    run_id: UUID,
    counts: runs.Counts,
    in_force: Rules,
) -> None:
    """Match the links themselves once their payments are, and finish their checks, in the caller's transaction."""
    now = services.now()
    settling = timedelta(seconds=services.settings.settling_seconds)
    link_ids = [claim.payment_link_id for claim in claims]
    described = [theirs.links[one] for one in link_ids if one in theirs.links]
    # In one order with those of other checks, or two of them would wait for each other.
    links.save(connection, [*described, *theirs.others], now)
    links.mark_missing(connection, instance_id, [one for one in link_ids if one in theirs.missing], now)

    inactive = links.inactive_since(connection, instance_id, link_ids)
    previous = links.previous_statuses(connection, instance_id, link_ids)
    closed = {
        one.link.payment_link_id: moment
        for one in described
        if (moment := closed_since(one.link, inactive.get(one.link.payment_link_id))) is not None
    }
    late = matching.late(connection, instance_id, closed)
    duplicates = matching.duplicates(connection, instance_id, link_ids)
    resending = timedelta(seconds=RESEND_HORIZON_SECONDS) + settling
    unannounced = matching.unannounced(connection, instance_id, link_ids, resent_until=now - resending)
    refunded = matching.refunded(connection, instance_id, link_ids)
    totals = matching.totals(connection, instance_id, link_ids, run_id=run_id)
    told_twice = events.conflicts(connection, instance_id, link_ids)
    known = discrepancies.open_types(connection, instance_id, link_ids)
    found: list[Difference] = []
    settled: list[UUID] = []
    finished: list[checks.Finished] = []
    for claim in claims:
        link_id = claim.payment_link_id
        of_link = progress[link_id]
        differences, is_settled = match_link(
            LinkBooks(
                payment_link_id=link_id,
                totals=totals.get(link_id, Totals()),
                link=theirs.links[link_id].link if link_id in theirs.links else None,
                is_link_missing=link_id in theirs.missing,
                conflicting_events=frozenset(told_twice.get(link_id, ())),
                unreadable=theirs.unreadable[link_id],
                unsettled_since=claim.unsettled_since,
                has_expected=of_link.has_expected,
                open_types=known.get(link_id, frozenset()),
                closed_at=closed.get(link_id),
                duplicates=duplicates.get(link_id, ()),
                late=late.get(link_id, ()),
                previous_status=previous.get(link_id),
                unheard=unannounced.unheard.get(link_id, ()),
                refunded=refunded.get(link_id, ()),
            ),
            now=now,
            settling=settling,
            assumptions=in_force.rule_set.assumptions,
        )
        found.extend(differences)
        if is_settled:
            settled.append(link_id)
        awaited = unannounced.next_created_at.get(link_id)
        wait = next_check(
            is_settled=is_settled,
            has_differences=of_link.has_differences
            or any(one.type not in BY_EVENTS_ALONE for one in differences),
            attempt=claim.attempt,
            gaps=services.settings.recheck_seconds,
            overdue_in=(awaited + resending - now).total_seconds() if awaited else None,
        )
        due_at = now + timedelta(seconds=wait) if wait is not None else None
        finished.append(checks.Finished(claim, is_settled, due_at))
    counts.opened += discrepancies.note(
        connection, instance_id, found, run_id=run_id, now=now, rules=in_force
    )
    # Of a link that Wix does not describe any more, its last differences are not known to be over.
    is_described = [one for one in settled if one in theirs.links]
    rest = [one for one in settled if one not in theirs.links]
    for links_of, unknown in ((is_described, frozenset[DiscrepancyType]()), (rest, BY_DESCRIPTION)):
        counts.resolved += discrepancies.resolve_absent(
            connection,
            instance_id,
            links_of,
            run_id=run_id,
            now=now,
            unknown=unknown,
            lease_id=lease.lease_id,
        )

    counts.links = len(claims)
    for one in totals.values():
        for currency, amount in one.sums.items():
            counts.add(currency, amount, Decimal(0))
    for currency, amount in matching.listed_sums(connection, lease.lease_id, link_ids).items():
        counts.add(currency, Decimal(0), amount)
    checks.finish(connection, instance_id, lease, finished, run_id=run_id, now=now)
