"""What Wix says matched with the books, and what follows written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import Connection

from processor import __version__
from processor.config import RESEND_HORIZON_SECONDS
from processor.domain import rerun
from processor.domain.alert import AlertKind
from processor.domain.discrepancy import Difference, DiscrepancyType
from processor.domain.payment import Payment
from processor.domain.reconciliation import (
    BY_EVENTS_ALONE,
    LinkBooks,
    Outcome,
    Pair,
    Totals,
    closed_since,
    next_check,
    unknown_of,
)
from processor.domain.rerun import Described, Evidence, Payments, Piece, Result, Terms
from processor.domain.rules import BUILT_IN, Rules
from processor.errors import StoreUnavailable
from processor.jobs.asking import Theirs
from processor.jobs.common import Account, Beat, TakenOver
from processor.store import (
    alerts,
    checks,
    discrepancies,
    events,
    links,
    matching,
    payments,
    rules,
    run_evidence,
    runs,
)
from processor.wiring import Services

log = structlog.get_logger(__name__)

PART_PAYMENTS = 1_000  # matched and booked in one transaction


@dataclass(slots=True)
class _Progress:
    """What is known of one link while its payments are gone through."""

    has_expected: bool = False
    has_differences: bool = False


@dataclass(slots=True)
class _Found:
    """Evidence of one link and part, and the lines it came to: of its payments, and of the link itself."""

    evidence: Evidence = field(default_factory=Evidence)
    of_payments: list[str] = field(default_factory=list)
    of_link: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Check:
    """A check under way. in_force: the rules, for what is written; `terms` has those it decides by."""

    services: Services
    instance_id: UUID
    lease: checks.Lease
    theirs: Theirs
    account: Account
    terms: Terms
    in_force: Rules
    result: Result
    progress: dict[UUID, _Progress]
    counts: runs.Counts = field(default_factory=runs.Counts)


def conclude(
    services: Services,
    instance_id: UUID,
    lease: checks.Lease,
    theirs: Theirs,
    account: Account,
) -> None:
    """Match what Wix lists with the books, and write what follows, in parts of PART_PAYMENTS.

    The last part, which is the only one as a rule, writes everything about the links themselves. A check that
    dies between two parts has booked what is true: the guard of revisions makes every part safe. Each part keeps what
    it decided on. Raises TakenOver.
    """
    beat = Beat(services, instance_id, lease, account.run_id)
    after: matching.Place | None = matching.BEGINNING
    check: _Check | None = None
    number = 0
    while after is not None:
        beat()
        number += 1
        with services.database.begin() as connection:
            now = services.now()
            held = checks.still_held(connection, instance_id, lease)
            claims = [claim for claim in lease.claims if claim.payment_link_id in held]
            if not claims:
                raise TakenOver
            if check is None:
                if matching.count(connection, lease.lease_id) != theirs.payments:
                    raise StoreUnavailable("the database lost what Wix listed; it is asked again")
                matching.write_unlisted(connection, instance_id, lease.lease_id, held)
                check = _begin(connection, services, instance_id, lease, theirs, account, now)
            part = matching.match_part(
                connection, lease.lease_id, held, after=after, limit=PART_PAYMENTS, now=now
            )
            found = _match_part(connection, check, claims, part, now)
            if part.last is None:
                _match_links(connection, check, claims, found, now)
            _keep(connection, check, number, found)
            if part.last is None:
                _close(connection, check, now)
        after = part.last


def _begin(
    connection: Connection,
    services: Services,
    instance_id: UUID,
    lease: checks.Lease,
    theirs: Theirs,
    account: Account,
    now: datetime,
) -> _Check:
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
    run = runs.find(connection, account.run_id)
    assert run is not None, "it was begun"
    # Under rules that cannot be read nothing is tolerated or assumed: as under the built-in ones.
    terms = run.terms(in_force if in_force.is_readable else BUILT_IN)
    progress = {claim.payment_link_id: _Progress() for claim in lease.claims}
    return _Check(services, instance_id, lease, theirs, account, terms, in_force, Result(terms), progress)


def _match_part(
    connection: Connection,
    check: _Check,
    claims: Sequence[checks.Claim],
    part: matching.Part,
    now: datetime,
) -> dict[UUID, _Found]:
    """Decide on what is not plainly the same, and write it, in the caller's transaction. Returns evidence by link."""
    run_id = check.account.run_id
    unsettled_since = {claim.payment_link_id: claim.unsettled_since for claim in claims}
    pairs: dict[UUID, list[Pair]] = {}
    for pair in part.pairs:
        pairs.setdefault(pair.payment_link_id, []).append(pair)
    outcomes: dict[UUID, Outcome] = {}
    repairs: list[Payment] = []
    differences: list[Difference] = []
    decided = []
    for link_id, same in part.same.items():
        evidence = rerun.as_kept(
            Evidence(
                payments=Payments(
                    payment_link_id=link_id,
                    at=now,
                    unsettled_since=unsettled_since[link_id],
                    same=same,
                    pairs=pairs.get(link_id, ()),
                )
            )
        )
        assert evidence.payments is not None
        matches = rerun.decide_payments(evidence.payments, settling=check.terms.settling)
        decided.append((evidence.payments, matches))
        of_link = check.progress[link_id]
        for pair, matched in zip(evidence.payments.pairs, matches, strict=True):
            of_link.has_expected |= matched.outcome is Outcome.EXPECTED
            of_link.has_differences |= bool(matched.differences)
            if matched.outcome is not None:
                outcomes[pair.payment_id] = matched.outcome
            if matched.repair is not None:
                repairs.append(matched.repair)
            differences.extend(matched.differences)
    matching.book(connection, check.lease.lease_id, repairs, run_id=run_id, now=now)
    for payment in repairs:
        log.info(
            "payment_recovered",
            instance_id=str(payment.instance_id),
            payment_id=str(payment.payment_id),
            payment_link_id=str(payment.payment_link_id),
            revision=payment.revision,
            run_id=str(run_id),
        )
    payments.note_outcomes(connection, check.instance_id, outcomes, now)
    opened = _note(connection, check, differences, now)
    return {
        told.payment_link_id: _Found(
            Evidence(payments=told, opened=opened.get(told.payment_link_id, ())),
            check.result.payments(told, matches, opened.get(told.payment_link_id, ())),
        )
        for told, matches in decided
    }


def _note(
    connection: Connection, check: _Check, differences: Sequence[Difference], now: datetime
) -> dict[UUID, list[rerun.Opened]]:
    """Write the differences; returns, by link, since when those have been open of which the rules may ask that."""
    run_id, instance_id = check.account.run_id, check.instance_id
    check.counts.opened += discrepancies.note(
        connection, instance_id, differences, run_id=run_id, now=now, rules=check.in_force
    )
    aged = [
        (one.payment_link_id, one.type, one.payment_id)
        for one in differences
        if rerun.is_aged(one, check.terms.rules)
    ]
    return run_evidence.opened(connection, instance_id, aged)


def _match_links(
    connection: Connection,
    check: _Check,
    claims: Sequence[checks.Claim],
    found: dict[UUID, _Found],
    now: datetime,
) -> None:
    """Match the links themselves once their payments are, and finish their checks, in the caller's transaction.

    Adds to the evidence in `found`.
    """
    services, instance_id, lease, theirs = check.services, check.instance_id, check.lease, check.theirs
    run_id = check.account.run_id
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
    resending = timedelta(seconds=RESEND_HORIZON_SECONDS) + check.terms.settling
    unannounced = matching.unannounced(connection, instance_id, link_ids, resent_until=now - resending)
    refunded = matching.refunded(connection, instance_id, link_ids)
    totals = matching.totals(connection, instance_id, link_ids, run_id=run_id)
    told_twice = events.conflicts(connection, instance_id, link_ids)
    known = discrepancies.open_types(connection, instance_id, link_ids)
    differences: list[Difference] = []
    settled: list[UUID] = []
    finished: list[checks.Finished] = []
    decided: list[tuple[Described, tuple[tuple[Difference, ...], bool]]] = []
    for claim in claims:
        link_id = claim.payment_link_id
        of_link = check.progress[link_id]
        evidence = rerun.as_kept(
            Evidence(
                described=Described(
                    at=now,
                    attempt=claim.attempt,
                    books=LinkBooks(
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
                )
            )
        )
        assert evidence.described is not None
        of_books, is_settled = rerun.decide_link(
            evidence.described, settling=check.terms.settling, rules=check.terms.rules
        )
        decided.append((evidence.described, (of_books, is_settled)))
        differences.extend(of_books)
        if is_settled:
            settled.append(link_id)
        awaited = unannounced.next_created_at.get(link_id)
        wait = next_check(
            is_settled=is_settled,
            has_differences=of_link.has_differences
            or any(one.type not in BY_EVENTS_ALONE for one in of_books),
            attempt=claim.attempt,
            gaps=services.settings.recheck_seconds,
            overdue_in=(awaited + resending - now).total_seconds() if awaited else None,
        )
        due_at = now + timedelta(seconds=wait) if wait is not None else None
        finished.append(checks.Finished(claim, is_settled, due_at))
    opened = _note(connection, check, differences, now)
    # What Wix does not describe any more, of a link or all of it, is not known to be over.
    by_unknown: dict[frozenset[DiscrepancyType], list[UUID]] = {}
    for link_id in settled:
        link = theirs.links[link_id].link if link_id in theirs.links else None
        by_unknown.setdefault(unknown_of(link), []).append(link_id)
    for unknown, links_of in by_unknown.items():
        check.counts.resolved += discrepancies.resolve_absent(
            connection,
            instance_id,
            links_of,
            run_id=run_id,
            now=now,
            unknown=unknown,
            lease_id=lease.lease_id,
        )
    checks.finish(connection, instance_id, lease, finished, run_id=run_id, now=now)

    recent = run_evidence.recent(connection, instance_id, link_ids, now)
    for one, decision in decided:
        link_id = one.books.payment_link_id
        before = found.get(link_id, _Found())
        since = opened.get(link_id, ())
        found[link_id] = _Found(
            Evidence(
                payments=before.evidence.payments,
                described=one,
                opened=[*before.evidence.opened, *since],
                recent=recent.get(link_id, ()),
            ),
            before.of_payments,
            check.result.link(one, decision, since),
        )


def _keep(connection: Connection, check: _Check, number: int, found: dict[UUID, _Found]) -> None:
    """Keep the evidence of a part, in the order in which it is read again, and take its lines into the result."""
    kept: Iterable[Piece] = sorted(
        (
            piece
            for link_id, one in found.items()
            for piece in rerun.pieces(link_id, number, one.evidence, one.of_payments, one.of_link)
        ),
        key=lambda piece: (piece.part, piece.payment_link_id),
    )
    for piece in kept:
        check.result.add(piece.lines)
    run_evidence.write(connection, check.account.run_id, check.instance_id, list(kept))


def _close(connection: Connection, check: _Check, now: datetime) -> None:
    """Write what the run counted, with the digest of its result."""
    totals = check.result.totals
    check.counts.links = totals.links
    check.counts.outcomes.update(totals.outcomes)
    check.counts.sums.update(totals.sums)
    account = check.account
    _, digest = check.result.close(cutoff_at=now, wix_requests=sum(account.spent().values()))
    account.counts = check.counts
    account.conclusion = runs.Conclusion(now, check.terms.rules.version, digest)
    account.close(connection, check.services.now())
