"""Matching in parts where the rows lie decides what `compare` decides over the same books in memory."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from sqlalchemy import text

from processor.domain import rerun
from processor.domain.discrepancy import Difference, DiscrepancyType
from processor.domain.payment import Origin, Payment, SeenPayment, Verdict, differences
from processor.domain.reconciliation import (
    Believed,
    Books,
    LinkBooks,
    Outcome,
    Recovery,
    Totals,
    closed_since,
    compare,
    match,
    match_link,
    recovery,
)
from processor.domain.rerun import Piece, Sum
from processor.domain.rules import NOTHING_ASSUMED, Assumptions, Rules, RuleSet
from processor.store import checks, matching, payments, refunds, runs
from processor.store.database import Database
from tests.builders import INSTANCE, LINK, NOW, PAYMENT, make_link, make_payment, make_refund, make_seen
from tests.store.helpers import confirm, one

SETTLING = timedelta(minutes=10)
LONG_AGO, JUST_NOW = NOW - timedelta(hours=1), NOW - timedelta(seconds=5)
RESENT_UNTIL = NOW - timedelta(minutes=30)
LINKS = [UUID(int=1), UUID(int=2)]
PAYMENTS = [UUID(int=number) for number in range(11, 16)]
TWINS = [UUID(int=21), UUID(int=22)]

moments = st.sampled_from([LONG_AGO, JUST_NOW])
versions = st.builds(
    make_payment,
    payment_id=st.sampled_from(PAYMENTS),
    payment_link_id=st.sampled_from(LINKS),
    revision=st.integers(1, 3),
    amount=st.sampled_from([Decimal("1.000"), Decimal("2.500")]),
    currency=st.sampled_from(["USD", "USD", "KWD"]),
    created_at=st.none() | moments,
    type=st.none() | st.sampled_from(["REGULAR", "GIFT_CARD"]),
    ecom_checkout_id=st.none() | st.sampled_from(["a", "b"]),
    receipt_id=st.none() | st.just(UUID(int=3)),
    transaction_at=st.none() | st.sampled_from([LONG_AGO, LONG_AGO + timedelta(minutes=1), JUST_NOW]),
)
given_back = st.builds(
    make_refund,
    payment_id=st.sampled_from([*PAYMENTS, *TWINS]),
    amount=st.sampled_from([Decimal("1.000"), Decimal("0.500")]),
    currency=st.sampled_from(["USD", "USD", "KWD"]),
    status=st.sampled_from(["SUCCEEDED", "SUCCEEDED", "PENDING", "REVERSED"]),
) | st.builds(
    make_refund, payment_id=st.sampled_from(PAYMENTS), amount=st.none(), reason=st.just("amount_too_fine")
)
descriptions = st.builds(
    make_link,
    currency=st.none() | st.just("USD"),
    payment_count=st.none() | st.integers(0, 3),
    total_amount=st.none() | st.sampled_from([Decimal(0), Decimal(1), Decimal("2.5"), Decimal("3.5")]),
    payments_limit=st.none() | st.just(1),
    last_payment_at=st.sampled_from([None, LONG_AGO, JUST_NOW, *[LONG_AGO - timedelta(days=1)] * 3]),
    status=st.sampled_from(["ACTIVE", "INACTIVE", "EXPIRED", "PAID"]),
    expires_at=st.none() | moments,
    order_amount=st.none() | st.sampled_from([Decimal(1), Decimal("3.5")]),
)


def apply(
    database: Database,
    seen: Payment,
    *,
    at: Any,
    personal: dict[str, Any] | None = None,
    run_id: UUID | None = None,
) -> Verdict:
    """Told by a webhook, or by the check run_id."""
    told = payments.telling(
        SeenPayment(seen, personal, {}),
        origin=Origin.POLL if run_id else Origin.WEBHOOK,
        told_at=at,
        event_id=None if run_id else uuid4(),
        run_id=run_id,
    )
    with database.begin() as connection:
        return payments.apply(connection, [told])[seen.payment_id]


def believed(database: Database, instance_id: UUID) -> dict[UUID, Believed]:
    with database.begin() as connection:
        return payments.believed(connection, instance_id, [*PAYMENTS, *TWINS])


def start(database: Database, instance_id: UUID) -> UUID:
    with database.begin() as connection:
        return runs.start(connection, instance_id, "check", NOW)


TERMS = rerun.Terms(
    run_id=uuid4(),
    instance_id=INSTANCE,
    kind="check",
    actor="automation",
    code_version="1",
    started_at=NOW,
    settling=SETTLING,
    rules=Rules(1, RuleSet()),
)


@pytest.mark.timeout(600)  # 250 books take a minute on an idle machine
def test_parts_decide_what_compare_decides_on_any_books_and_again_from_what_they_keep(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerun, "ITEMS_MAX", 2)
    met: Counter[Any] = Counter()

    @given(
        told=st.lists(st.tuples(versions, moments, st.booleans()), max_size=8),
        listed=st.lists(versions, max_size=8),
        unread=st.lists(st.sampled_from(PAYMENTS), max_size=1),
        described=st.tuples(descriptions, descriptions),
        missing=st.sets(st.sampled_from(LINKS), max_size=1),
        unsettled_since=st.sampled_from([None, JUST_NOW, *[LONG_AGO] * 3]),
        inactive_since=st.none() | moments,
        previous_status=st.none() | st.sampled_from(["ACTIVE", "PAID"]),
        listening_since=st.sampled_from([LONG_AGO, JUST_NOW]),
        refunded=st.lists(st.tuples(given_back, st.sampled_from([LONG_AGO, LONG_AGO, JUST_NOW])), max_size=5),
        is_exact=st.booleans(),
        assumptions=st.sampled_from([NOTHING_ASSUMED, Assumptions(total_falls_on_refund=True)]),
        twins_of=st.none() | st.sampled_from(LINKS),
        is_twin_refunded=st.booleans(),
        open_types=st.sets(st.sampled_from(DiscrepancyType)).map(frozenset),
        page=st.integers(1, 4),
        part=st.integers(1, 4),
    )
    @settings(max_examples=250)
    def alike(
        told: Any,
        listed: list[Payment],
        unread: list[UUID],
        described: Any,
        missing: set[UUID],
        unsettled_since: Any,
        inactive_since: Any,
        previous_status: str | None,
        listening_since: Any,
        refunded: Any,
        is_exact: bool,
        assumptions: Assumptions,
        twins_of: UUID | None,
        is_twin_refunded: bool,
        open_types: frozenset[DiscrepancyType],
        page: int,
        part: int,
    ) -> None:
        instance_id, lease_id = uuid4(), uuid4()
        confirm(database, instance_id)
        with database.begin() as connection:
            connection.execute(
                text("UPDATE app_instances SET confirmed_at = :since WHERE instance_id = :id"),
                {"since": listening_since, "id": instance_id},
            )
        run_id = start(database, instance_id)
        if is_exact:
            # By chance books are rarely calm, and a total rarely that of the payments.
            told = [
                (structs.replace(seen, created_at=LONG_AGO), LONG_AGO, is_poll) for seen, _, is_poll in told
            ]
            listed = [structs.replace(seen, created_at=LONG_AGO) for seen in listed]
            unsettled_since = LONG_AGO
        if twins_of is not None:
            twins = [
                make_payment(payment_id=id_, payment_link_id=twins_of, created_at=LONG_AGO) for id_ in TWINS
            ]
            told = [*told, *((twin, LONG_AGO, False) for twin in twins)]
            listed = [*listed, *twins]
            if is_twin_refunded:
                # By chance, one that Wix's total does not show is drawn five times in all, and now and then never.
                refunded = [*refunded, (make_refund(payment_id=TWINS[0]), LONG_AGO)]
        told = [(structs.replace(seen, instance_id=instance_id), at, is_poll) for seen, at, is_poll in told]
        listed = [structs.replace(seen, instance_id=instance_id) for seen in listed]
        poll_id = start(database, instance_id)
        refunded = [
            (replace(refund, instance_id=instance_id, refund_id=uuid4()), at) for refund, at in refunded
        ]
        for refund, at in refunded:
            with database.begin() as connection:
                refunds.save(connection, {(instance_id, refund.refund_id): (refund, uuid4())}, at)
        contradicted = [
            seen
            for seen, at, is_poll in told
            if apply(database, seen, at=at, run_id=poll_id if is_poll else None) is Verdict.CONFLICT
        ]
        heard = {seen.payment_id for seen, _, is_poll in told if not is_poll}
        before = believed(database, instance_id)

        # What a reading leaves: of each payment under each link, the first of its highest revision.
        theirs: dict[UUID, dict[UUID, Payment]] = {link_id: {} for link_id in LINKS}
        for seen in listed:
            known = theirs[seen.payment_link_id].get(seen.payment_id)
            if known is None or seen.revision > known.revision:
                theirs[seen.payment_link_id][seen.payment_id] = seen
        if is_exact:
            described = [
                replace(
                    link,
                    total_amount=sum(
                        (one.amount for one in theirs[link_id].values() if one.currency == "USD"), Decimal(0)
                    ),
                    payment_count=None,
                    last_payment_at=None,
                )
                for link_id, link in zip(LINKS, described, strict=True)
            ]
        books = {
            link_id: Books(
                payment_link_id=link_id,
                believed={
                    id_: one
                    for id_, one in before.items()
                    if one.payment.payment_link_id == link_id or id_ in theirs[link_id]
                },
                theirs=theirs[link_id],
                link=None if link_id in missing else replace(link, payment_link_id=link_id),
                is_link_missing=link_id in missing,
                conflicting_versions=frozenset(
                    seen.payment_id
                    for seen in contradicted
                    if (ours := before[seen.payment_id].payment).payment_link_id == link_id
                    and ours.revision == seen.revision
                    and differences(ours, seen)
                ),
                unreadable={str(id_): "odd" for id_ in unread} if link_id == LINKS[0] else {},
                unsettled_since=unsettled_since,
                open_types=open_types,
                inactive_since=inactive_since,
                previous_status=previous_status,
                refunds=refunded,
                by_query=frozenset(before.keys() - heard),
                listening_since=listening_since,
                resent_until=RESENT_UNTIL,
            )
            for link_id, link in zip(LINKS, described, strict=True)
        }
        expected = {
            link_id: compare(one, now=NOW, settling=SETTLING, assumptions=assumptions)
            for link_id, one in books.items()
        }

        written = 0
        with database.begin() as connection:
            for at in range(0, len(listed), page):
                # As a page is read: each payment once for each link.
                once: dict[tuple[UUID, UUID], Payment] = {}
                for seen in listed[at : at + page]:
                    key = (seen.payment_link_id, seen.payment_id)
                    if key not in once or seen.revision > once[key].revision:
                        once[key] = seen
                written += matching.write(
                    connection, instance_id, lease_id, [SeenPayment(one, None, {}) for one in once.values()]
                )
            odd = [matching.Unread(LINKS[0], id_, "odd") for id_ in unread if id_ not in theirs[LINKS[0]]]
            written += matching.write(connection, instance_id, lease_id, [], odd)
            assert matching.count(connection, lease_id) == written
            matching.write_unlisted(connection, instance_id, lease_id, LINKS)
        outcomes: dict[UUID, dict[UUID, Outcome]] = {link_id: {} for link_id in LINKS}
        matched: Counter[tuple[UUID, str]] = Counter()
        amounts: defaultdict[tuple[UUID, str], Decimal] = defaultdict(Decimal)
        repairs: dict[UUID, list[Payment]] = {link_id: [] for link_id in LINKS}
        found: dict[UUID, list[Difference]] = {link_id: [] for link_id in LINKS}
        after: matching.Place | None = matching.BEGINNING
        parts: list[matching.Part] = []
        with database.begin() as connection:
            while after is not None:
                one_part = matching.match_part(connection, lease_id, LINKS, after=after, limit=part, now=NOW)
                after = one_part.last
                parts.append(one_part)
        for one_part in parts:
            for link_id, of_link_same in one_part.same.items():
                for currency, one_sum in of_link_same.items():
                    matched[link_id, currency] += one_sum.payments
                    amounts[link_id, currency] += one_sum.amount
            for pair in one_part.pairs:
                of_pair = match(pair, now=NOW, settling=SETTLING, unsettled_since=unsettled_since)
                if of_pair.outcome is not None:
                    outcomes[pair.payment_link_id][pair.payment_id] = of_pair.outcome
                if of_pair.repair is not None:
                    repairs[pair.payment_link_id].append(of_pair.repair)
                found[pair.payment_link_id].extend(of_pair.differences)

        # What a check keeps of it.
        terms = replace(TERMS, rules=Rules(1, RuleSet(assumptions=assumptions)))
        result = rerun.Result(terms)
        kept: list[Piece] = []
        payments_lines: dict[UUID, list[str]] = {}
        payments_of: dict[UUID, rerun.Payments] = {}
        for number, one_part in enumerate(parts, start=1):
            for link_id in sorted(one_part.same):
                of_part = rerun.Payments(
                    payment_link_id=link_id,
                    at=NOW,
                    unsettled_since=unsettled_since,
                    same=one_part.same[link_id],
                    pairs=[pair for pair in one_part.pairs if pair.payment_link_id == link_id],
                )
                matches = rerun.decide_payments(of_part, settling=SETTLING)
                lines = result.payments(of_part, matches, ())
                if number == len(parts):
                    payments_of[link_id], payments_lines[link_id] = of_part, lines
                else:
                    kept += rerun.pieces(link_id, number, rerun.Evidence(payments=of_part), lines, ())

        for link_id in LINKS:
            same = {id_ for id_, one in expected[link_id].outcomes.items() if one is Outcome.MATCHED}
            by_currency: dict[str, list[Decimal]] = {}
            for id_ in same:
                seen = theirs[link_id][id_]
                by_currency.setdefault(seen.currency, []).append(seen.amount)
            for currency in ("USD", "KWD"):
                alike_there = by_currency.get(currency, [])
                assert matched[link_id, currency] == len(alike_there)
                assert amounts[link_id, currency] == sum(alike_there)
            assert outcomes[link_id] == {
                id_: one for id_, one in expected[link_id].outcomes.items() if id_ not in same
            }
            assert sorted(repairs[link_id], key=str) == sorted(expected[link_id].repairs, key=str)
            met.update(expected[link_id].outcomes.values())
            # The link itself, on books of which this link's repairs alone were booked.
            with database.begin() as connection:
                savepoint = connection.begin_nested()
                matching.book(connection, lease_id, repairs[link_id], run_id=run_id, now=NOW)
                booked = matching.totals(connection, instance_id, LINKS, run_id=run_id)
                link = books[link_id].link
                closed_at = closed_since(link, inactive_since) if link else None
                late = matching.late(connection, instance_id, {link_id: closed_at} if closed_at else {})
                duplicates = matching.duplicates(connection, instance_id, LINKS)
                given_back = matching.refunded(connection, instance_id, LINKS)
                unannounced = matching.unannounced(connection, instance_id, LINKS, resent_until=RESENT_UNTIL)
                savepoint.rollback()
            link_books = LinkBooks(
                payment_link_id=link_id,
                totals=booked.get(link_id, Totals()),
                link=books[link_id].link,
                is_link_missing=link_id in missing,
                unreadable=books[link_id].unreadable,
                unsettled_since=unsettled_since,
                has_expected=Outcome.EXPECTED in outcomes[link_id].values(),
                open_types=open_types,
                closed_at=closed_at,
                duplicates=duplicates.get(link_id, ()),
                late=late.get(link_id, ()),
                previous_status=previous_status,
                unheard=unannounced.unheard.get(link_id, ()),
                refunded=given_back.get(link_id, ()),
            )
            of_link, is_settled = match_link(link_books, now=NOW, settling=SETTLING, assumptions=assumptions)
            evidence = rerun.Evidence(
                payments=payments_of.get(link_id),
                described=rerun.Described(at=NOW, attempt=0, books=link_books),
            )
            lines = result.link(
                rerun.Described(at=NOW, attempt=0, books=link_books), (of_link, is_settled), ()
            )
            kept += rerun.pieces(link_id, len(parts), evidence, payments_lines.get(link_id, ()), lines)
            assert is_settled == expected[link_id].is_settled
            assert sorted((*found[link_id], *of_link), key=str) == sorted(
                expected[link_id].differences, key=str
            )
            met.update(one.type for one in (*found[link_id], *of_link))
        kept.sort(key=lambda piece: (piece.part, piece.payment_link_id))
        again = list(
            rerun.rerun(
                terms,
                # As the database gives it back.
                [replace(piece, document=json.loads(json.dumps(piece.document))) for piece in kept],
                kept_totals=result.totals,
                cutoff_at=NOW,
                wix_requests=0,
            )
        )
        assert [line.again for line in again] == [line.kept for line in again]
        assert sum('"record":"difference"' in str(line.kept) for line in again) == sum(
            len(one.differences) for one in expected.values()
        )
        with database.begin() as connection:
            matching.forget(connection, lease_id)

    of_links = {
        DiscrepancyType.DUPLICATE_PAYMENT,
        DiscrepancyType.PAID_WHILE_INACTIVE,
        DiscrepancyType.ORDER_AMOUNT_DIFFERS,
        DiscrepancyType.LAST_PAYMENT_DIFFERS,
        DiscrepancyType.STATUS_DIFFERS,
        DiscrepancyType.PAYMENT_WITHOUT_EVENT,
        DiscrepancyType.REFUND_ON_ORDER_ONLY,
    }
    for _ in range(5):
        alike()
        if {*Outcome, *of_links} <= set(met):
            break  # nearly always after the first; a type that is drawn a few times in 250 books is missed now and then
    assert {*Outcome, *of_links} <= set(met), "the books drawn were too tame"


def test_what_is_plainly_the_same_is_marked_and_stays_in_the_database(database: Database) -> None:
    confirm(database)
    apply(database, make_payment(), at=LONG_AGO)
    lease_id = uuid4()

    with database.begin() as connection:
        matching.write(connection, INSTANCE, lease_id, [make_seen()])
        part = matching.match_part(connection, lease_id, [LINK], after=matching.BEGINNING, limit=10, now=NOW)

    assert (part.same, part.pairs, part.last) == (
        {LINK: {"USD": Sum(1, Decimal("10.99"))}},
        [],
        None,
    )
    assert one(database, "SELECT match_state FROM payments").match_state == "matched"


@pytest.mark.parametrize(("revision", "is_copied"), [(1, False), (2, True)])
def test_a_buyer_is_written_down_only_where_the_version_is_news(
    database: Database, revision: int, is_copied: bool
) -> None:
    confirm(database)
    apply(database, make_payment(), at=LONG_AGO)

    with database.begin() as connection:
        matching.write(connection, INSTANCE, uuid4(), [make_seen(revision=revision)])

    assert (one(database, "SELECT personal FROM listed_payments").personal is not None) is is_copied


def test_a_booked_version_brings_its_buyer(database: Database) -> None:
    confirm(database)
    run_id, lease_id = start(database, INSTANCE), uuid4()

    with database.begin() as connection:
        matching.write(connection, INSTANCE, lease_id, [make_seen()])
        matching.book(connection, lease_id, [make_payment()], run_id=run_id, now=NOW)

    row = one(database, "SELECT * FROM payments JOIN payment_buyers USING (instance_id, payment_id)")
    assert (row.payment_id, row.origin, row.personal) == (PAYMENT, "poll", make_seen().personal)


def test_what_a_dead_check_wrote_down_is_forgotten_and_that_of_a_living_one_kept(database: Database) -> None:
    confirm(database)
    with database.begin() as connection:
        checks.request(connection, INSTANCE, [LINK], NOW)
        checks.drain(connection, NOW)
        lease = checks.claim(connection, INSTANCE, NOW, timedelta(minutes=1))
        for lease_id in (uuid4(), lease.lease_id, uuid4()):
            matching.write(connection, INSTANCE, lease_id, [make_seen()])

    with database.begin() as connection:
        assert matching.forget_abandoned(connection) == 2
        assert matching.forget_abandoned(connection) == 0

    assert one(database, "SELECT lease_id FROM listed_payments").lease_id == lease.lease_id


def test_a_reading_lost_by_the_database_is_noticed(database: Database) -> None:
    confirm(database)
    lease_id = uuid4()
    with database.begin() as connection:
        written = matching.write(connection, INSTANCE, lease_id, [make_seen()])
        connection.execute(text("TRUNCATE listed_payments"))

        assert matching.count(connection, lease_id) == written - 1


def test_why_a_payment_was_recovered_is_the_same_in_sql(database: Database) -> None:
    confirm(database)
    run_id = start(database, INSTANCE)
    met: set[Recovery | None] = set()

    @given(
        tellings=st.lists(
            st.tuples(st.sampled_from([Origin.POLL, Origin.WEBHOOK, Origin.REPLAY]), st.integers(1, 3)),
            min_size=1,
            max_size=5,
        ),
        noted_at=st.integers(1, 5),
    )
    @settings(max_examples=80)
    def alike(tellings: list[tuple[Origin, int]], noted_at: int) -> None:
        payment_id, link_id = uuid4(), uuid4()
        recovered: list[int] = []
        told: list[int] = []
        for number, (origin, revision) in enumerate(tellings, start=1):
            seen = make_seen(payment_id=payment_id, payment_link_id=link_id, revision=revision)
            is_poll = origin is Origin.POLL
            telling = payments.telling(
                seen,
                origin=origin,
                told_at=NOW,
                event_id=None if is_poll else uuid4(),
                run_id=run_id if is_poll else None,
            )
            with database.begin() as connection:
                verdict = payments.apply(connection, [telling])[payment_id]
                # As a check does that books, or one that comes by in between.
                if number == noted_at or (is_poll and verdict.applies):
                    matching.note_recoveries(connection, INSTANCE, [payment_id])
            if not is_poll:
                told.append(revision)
            elif verdict.applies:
                recovered.append(revision)

        with database.begin() as connection:
            matching.note_late_webhooks(connection, INSTANCE, [link_id])

        expected = None
        if recovered:
            expected = recovery(
                is_new=tellings[0][0] is Origin.POLL,
                recovered=max(recovered),
                told=max(told, default=None),
            )
        found = one(database, "SELECT recovery FROM payments WHERE payment_id = :id", id=payment_id).recovery
        assert found == expected
        met.add(expected)

    alike()
    assert met == {None, *Recovery}
