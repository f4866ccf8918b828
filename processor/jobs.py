"""What RQ runs: checks and sweeps. Every job is safe to run twice, and may die at any point.

Raising means that something is broken and RQ keeps the job as failed; what is due stays a row, so the
clock enqueues it again. What Wix or time will cure is a stored outcome, not an exception.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Concatenate, ParamSpec
from uuid import UUID

import structlog
from sqlalchemy import Connection

from processor import wiring
from processor.domain.discrepancy import Difference
from processor.domain.link import SeenLink
from processor.domain.payment import Origin, Payment, SeenPayment, Verdict, judge
from processor.domain.reconciliation import LinkBooks, Outcome, Totals, match, match_link, next_check
from processor.errors import (
    ConfigurationError,
    StoreUnavailable,
    Unreadable,
    WixError,
    WixNotFound,
    WixUnauthorized,
    WixUnavailable,
)
from processor.store import checks, discrepancies, events, instances, links, matching, payments, runs, sweeps
from processor.wiring import Services
from processor.wix import wire
from processor.wix.client import TooManyPages, UnreadableItem
from processor.wix.parse import Reason, guid, parse_claims, parse_event, parse_payment, seen_link
from processor.wix.signature import decode_segment

log = structlog.get_logger(__name__)

# A job enqueued longer ago than this and not begun is taken for lost. Enqueueing twice is harmless.
LOST_AFTER = timedelta(seconds=30)
HELD_MAX = 500
# Of links listed by their creation dates: as many as there are links, unless very many share their dates.
LINK_PAGES_MAX = 50
# Listing pays when a page shows at least so many links that would be fetched one by one otherwise.
UNKNOWN_LINKS_PER_PAGE = 4
# Only against an answer without an end: no link has ten million payments.
PAYMENT_PAGES_MAX = 100_000
OPERATOR_SECONDS = 600.0
PART_PAYMENTS = 1_000  # matched and booked in one transaction
UNREADABLE_TOLD_MAX = 10  # of one link, by id

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


def enqueue_due_checks(services: Services, now: datetime) -> int:
    """Drain the outbox, then enqueue one check job for each instance with due links. Returns how many."""
    with services.database.begin() as connection:
        while checks.drain(connection, now) == checks.DRAIN_MAX:
            pass
    with services.database.begin() as connection:
        due = checks.take_instances_to_enqueue(connection, now, LOST_AFTER)
    return sum(services.queue.enqueue_check(instance_id) for instance_id in due)


# -- Checks --------------------------------------------------------------------------------------


@job("check_links")
def check_links(services: Services, instance_text: str) -> None:
    """Check up to 100 due links of one instance, and ask for another job when more are due."""
    instance_id = UUID(instance_text)
    run_check(services, instance_id)
    with services.database.begin() as connection:
        has_more = checks.has_due(connection, instance_id, services.now())
    if has_more:
        services.queue.enqueue_check(instance_id)


def run_check(services: Services, instance_id: UUID) -> None:
    """One check of one instance's due links: read, decide, write."""
    now = services.now()
    lease_time = timedelta(seconds=services.settings.lease_seconds)
    with services.database.begin() as connection:
        checks.note_job_started(connection, instance_id)
        checks.drain(connection, now)
        lease = checks.claim(connection, instance_id, now, lease_time)
        if not lease.claims:
            return
        run_id = runs.start(connection, instance_id, "check", now)
        runs.count(connection, "jobs", {"check_links taken_over": lease.took_over})
        status = instances.status(connection, instance_id)
    with _accounted(services, run_id) as account:
        try:
            if status == "unconfirmed":
                services.wix.check_credentials(instance_id)
                with services.database.begin() as connection:
                    instances.confirm(connection, instance_id, services.now())
                log.info("instance_confirmed", instance_id=str(instance_id))
            if status == "removed":
                raise WixUnauthorized("the app was removed from this site")
            release_held(services, instance_id)
            theirs = _ask(services, instance_id, lease, _Beat(services, instance_id, lease))
            _conclude(services, instance_id, lease, theirs, account)
        except _TakenOver:
            account.failed = "taken over by another worker"
        except (WixError, ConfigurationError) as why:
            wait = _wait_after(why, services, lease.failures, is_confirmed=status != "unconfirmed")
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
        finally:
            with services.database.begin() as connection:
                matching.forget(connection, lease.lease_id)


def _wait_after(why: Exception, services: Services, failures: int, *, is_confirmed: bool = True) -> float:
    """Seconds until work that could not ask Wix is tried again. failures: how often in a row before this."""
    gaps = services.settings.recheck_seconds
    ladder = gaps[min(failures, len(gaps) - 1)]
    if isinstance(why, WixUnavailable):
        return max(why.retry_after_seconds or 0.0, min(ladder, OPERATOR_SECONDS))
    # Credentials, permission, a removed app or a refused request: an operator must act first.
    if is_confirmed:
        return OPERATOR_SECONDS
    # Likely a test sent from the dashboard. A further event of the instance asks at once.
    return max(OPERATOR_SECONDS, ladder)


@dataclass(slots=True)
class _Account:
    """What a run will say of itself. failed: why it failed, None while it has not."""

    run_id: UUID
    counts: runs.Counts
    before: Counter[str]
    services: Services
    failed: str | None = None
    is_closed: bool = False

    def close(self, connection: Connection, now: datetime) -> None:
        """Write the run's end, in the transaction that writes its findings."""
        spent = Counter(self.services.wix_responses)
        spent.subtract(self.before)
        requests = {status: number for status, number in spent.items() if number > 0}
        runs.finish(connection, self.run_id, self.counts, requests, now, failed=self.failed)
        self.is_closed = True


@contextmanager
def _accounted(services: Services, run_id: UUID) -> Iterator[_Account]:
    """An account that is closed even when the work raises; its lease then simply runs out."""
    account = _Account(run_id, runs.Counts(), Counter(services.wix_responses), services)
    try:
        yield account
    except Exception as why:  # whatever it is, it is told of and goes on
        account.failed = account.failed or type(why).__name__
        raise
    finally:
        if not account.is_closed:
            account.counts = runs.Counts()
            with services.database.begin() as connection:
                account.close(connection, services.now())


@dataclass(frozen=True, slots=True)
class _Theirs:
    """What Wix says of the claimed links, but for the payments, which are written down.

    payments: how many are. unreadable: by link, what Wix lists that cannot be read, by id text, with the
    reason. missing: links it does not know. others: further links it described.
    """

    payments: int
    unreadable: dict[UUID, dict[str, str]]
    links: dict[UUID, SeenLink]
    missing: frozenset[UUID]
    others: list[SeenLink]


class _Beat:
    """Holds on to claims while what Wix says is read: at Wix's pace many pages outlast a lease."""

    def __init__(self, services: Services, instance_id: UUID, lease: checks.Lease) -> None:
        self._services = services
        self._instance_id = instance_id
        self._lease = lease
        self._seconds = services.settings.lease_seconds
        self._seconds_between = self._seconds / 4
        self._last = time.monotonic()

    def __call__(self) -> None:
        """One more step was made. Raises _TakenOver when there is nothing left to work for."""
        if time.monotonic() - self._last < self._seconds_between:
            return
        self._last = time.monotonic()
        until = self._services.now() + timedelta(seconds=self._seconds)
        with self._services.database.begin() as connection:
            if not checks.extend(connection, self._instance_id, self._lease, until):
                raise _TakenOver


class _TakenOver(Exception):
    """Other workers have every claim of ours by now."""


def _ask(services: Services, instance_id: UUID, lease: checks.Lease, beat: Callable[[], None]) -> _Theirs:
    """Ask Wix for the payments and the description of every claimed link. beat: told of every page."""
    link_ids = sorted(claim.payment_link_id for claim in lease.claims)
    unreadable: dict[UUID, dict[str, str]] = {link_id: {} for link_id in link_ids}
    most = services.settings.wix_in_max
    listed = 0
    for start in range(0, len(link_ids), most):
        asked = [str(link_id) for link_id in link_ids[start : start + most]]
        for page in services.wix.query_payments(
            instance_id,
            filter={"paymentLinkId": {"$in": asked}},
            sort=[("createdDate", "ASC")],
            pages_max=PAYMENT_PAGES_MAX,
        ):
            beat()
            seen, unread = _read_page(instance_id, page, unreadable)
            with services.database.begin() as connection:
                listed += matching.write(connection, instance_id, lease.lease_id, seen, unread)
    others: list[SeenLink] = []
    described, missing = _links_of(services, instance_id, link_ids, unreadable, others, beat)
    return _Theirs(listed, unreadable, described, missing, others)


def _read_page(
    instance_id: UUID, page: Sequence[Any], unreadable: dict[UUID, dict[str, str]]
) -> tuple[Collection[SeenPayment], Collection[matching.Unread]]:
    """A page of payments under the links in `unreadable`, where what cannot be read is told as well."""
    seen: dict[tuple[UUID, UUID], SeenPayment] = {}
    unread: dict[tuple[UUID, UUID], matching.Unread] = {}
    for entity in page:
        try:
            one = parse_payment(entity, instance_id)
        except Unreadable as why:
            log.warning("payment_unreadable", instance_id=str(instance_id), reason=why.reason)
            link_id, payment_id = _guid_of(entity, "paymentLinkId"), _guid_of(entity, "id")
            if link_id not in unreadable:
                continue
            if len(unreadable[link_id]) < UNREADABLE_TOLD_MAX:
                unreadable[link_id][str(entity.get("id"))[:64]] = why.reason
            if payment_id is not None:
                unread[link_id, payment_id] = matching.Unread(link_id, payment_id, why.reason)
            continue
        if one.payment.payment_link_id not in unreadable:
            continue  # not what was asked for; its own check will be
        # While items move between pages one may come twice; the higher revision stands.
        key = (one.payment.payment_link_id, one.payment.payment_id)
        if judge(seen[key].payment if key in seen else None, one.payment).applies:
            seen[key] = one
    return seen.values(), [one for key, one in unread.items() if key not in seen]


def _links_of(
    services: Services,
    instance_id: UUID,
    link_ids: Sequence[UUID],
    unreadable: dict[UUID, dict[str, str]],
    others: list[SeenLink],
    beat: Callable[[], None],
) -> tuple[dict[UUID, SeenLink], frozenset[UUID]]:
    """How Wix describes the links, and which it does not know. What cannot be read goes into `unreadable`.

    A link's id is not a documented filter, its immutable creation date is. So known links are listed by
    their dates in one query. Links never seen are looked for in a listing of the newest, as long as that
    promises fewer calls than fetching each; whatever else is listed goes into `others`, so that its date is
    known when its turn comes. What is then missing is fetched by itself.
    """
    with services.database.begin() as connection:
        dates = links.creation_dates(connection, instance_id, link_ids)
    remaining = set(link_ids)
    described: dict[UUID, SeenLink] = {}
    missing: set[UUID] = set()

    def take(told: wire.PaymentLink | UnreadableItem, link_id: UUID | None) -> None:
        if link_id is None:
            return
        if link_id not in remaining:
            if link_id not in described and isinstance(told, wire.PaymentLink):
                with suppress(Unreadable):  # its own check will say so
                    others.append(seen_link(told, instance_id))
            return
        remaining.discard(link_id)
        try:
            if isinstance(told, UnreadableItem):
                raise Unreadable(Reason.LINK_WRONG_SHAPE, told.detail)
            described[link_id] = seen_link(told, instance_id)
        except Unreadable as why:
            unreadable[link_id][str(link_id)] = why.reason
            log.warning(
                "link_unreadable",
                instance_id=str(instance_id),
                payment_link_id=str(link_id),
                reason=why.reason,
                detail=why.detail,
            )

    if dates:
        moments = sorted({wire.instant_text(moment) for moment in dates.values()})
        most = services.settings.wix_in_max
        for start in range(0, len(moments), most):
            asked = {"createdDate": {"$in": moments[start : start + most]}}
            with suppress(TooManyPages):
                for page in services.wix.query_links(instance_id, filter=asked, pages_max=LINK_PAGES_MAX):
                    for told in page:
                        take(told, guid(told.id))
    if pages := (len(remaining) - len(dates.keys() & remaining)) // UNKNOWN_LINKS_PER_PAGE:
        with suppress(TooManyPages):
            for page in services.wix.query_links(
                instance_id, filter={}, sort=[("createdDate", "DESC")], pages_max=pages
            ):
                for told in page:
                    take(told, guid(told.id))
                if not remaining:
                    break
    for link_id in sorted(remaining):
        beat()
        try:
            take(services.wix.get_link(instance_id, link_id), link_id)
        except WixNotFound:
            missing.add(link_id)
    return described, frozenset(missing)


@dataclass(slots=True)
class _Progress:
    """What is known of one link while its payments are gone through."""

    has_expected: bool = False
    has_differences: bool = False


def _conclude(
    services: Services,
    instance_id: UUID,
    lease: checks.Lease,
    theirs: _Theirs,
    account: _Account,
) -> None:
    """Match what Wix lists with the books, and write what follows, in parts of PART_PAYMENTS.

    The last part, which is the only one as a rule, writes everything about the links themselves. A check that
    dies between two parts has booked what is true: the guard of revisions makes every part safe.
    Raises _TakenOver.
    """
    beat = _Beat(services, instance_id, lease)
    counts = runs.Counts()
    progress = {claim.payment_link_id: _Progress() for claim in lease.claims}
    after: matching.Place | None = matching.BEGINNING
    is_first = True
    while after is not None:
        beat()
        with services.database.begin() as connection:
            now = services.now()
            held = checks.still_held(connection, instance_id, lease)
            claims = [claim for claim in lease.claims if claim.payment_link_id in held]
            if not claims:
                raise _TakenOver
            if is_first:
                if matching.count(connection, lease.lease_id) != theirs.payments:
                    raise StoreUnavailable("the database lost what Wix listed; it is asked again")
                matching.write_unlisted(connection, instance_id, lease.lease_id, held)
            part = matching.match_part(
                connection, lease.lease_id, held, after=after, limit=PART_PAYMENTS, now=now
            )
            _match_part(
                connection, services, instance_id, lease, claims, part, progress, account.run_id, counts
            )
            if part.last is None:
                _match_links(
                    connection, services, instance_id, lease, claims, theirs, progress, account.run_id, counts
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
    counts.opened += discrepancies.note(connection, instance_id, found, run_id=run_id, now=now)


def _match_links(
    connection: Connection,
    services: Services,
    instance_id: UUID,
    lease: checks.Lease,
    claims: Sequence[checks.Claim],
    theirs: _Theirs,
    progress: dict[UUID, _Progress],
    run_id: UUID,
    counts: runs.Counts,
) -> None:
    """Match the links themselves once their payments are, and finish their checks, in the caller's transaction."""
    now = services.now()
    settling = timedelta(seconds=services.settings.settling_seconds)
    link_ids = [claim.payment_link_id for claim in claims]
    described = [theirs.links[one] for one in link_ids if one in theirs.links]
    # In one order with those of other checks, or two of them would wait for each other.
    links.save(connection, [*described, *theirs.others], now)
    links.mark_missing(connection, instance_id, [one for one in link_ids if one in theirs.missing], now)

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
            ),
            now=now,
            settling=settling,
        )
        found.extend(differences)
        if is_settled:
            settled.append(link_id)
        wait = next_check(
            is_settled=is_settled,
            has_differences=of_link.has_differences or bool(differences),
            attempt=claim.attempt,
            gaps=services.settings.recheck_seconds,
        )
        due_at = now + timedelta(seconds=wait) if wait is not None else None
        finished.append(checks.Finished(claim, is_settled, due_at))
    counts.opened += discrepancies.note(connection, instance_id, found, run_id=run_id, now=now)
    counts.resolved = discrepancies.resolve_absent(connection, instance_id, settled, run_id=run_id, now=now)

    counts.links = len(claims)
    for one in totals.values():
        for currency, amount in one.sums.items():
            counts.add(currency, amount, Decimal(0))
    for currency, amount in matching.listed_sums(connection, lease.lease_id, link_ids).items():
        counts.add(currency, Decimal(0), amount)
    checks.finish(connection, instance_id, lease, finished, run_id=run_id, now=now)


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
                event = parse_event(
                    parse_claims(decode_segment(one.token.split(".")[1].encode())),
                    link_fqdn=services.settings.wix_link_fqdn,
                )
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


# -- Sweeps --------------------------------------------------------------------------------------


@job("sweep")
def sweep(services: Services, instance_text: str) -> None:
    """Poll one instance for payments no webhook told of."""
    run_sweep(services, UUID(instance_text))


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
    with _accounted(services, run_id) as account:
        try:
            is_whole = _sweep_pages(services, instance_id, lease, lease_time, account.counts)
        except (WixError, ConfigurationError) as why:
            wait = _wait_after(why, services, lease.failures)
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
    lease: sweeps.SweepLease,
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
                link_id = _guid_of(entity, "paymentLinkId")
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


def _guid_of(entity: Any, name: str) -> UUID | None:
    value = entity.get(name) if isinstance(entity, dict) else None
    return guid(value) if isinstance(value, str) else None
