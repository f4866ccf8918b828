"""What is staged and compared where it lies stands as `judge` says of the same payments in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from sqlalchemy import text

from processor.domain.payment import Origin, Payment, SeenPayment, judge
from processor.store import payments, runs, staging
from processor.store.database import Database
from tests.builders import INSTANCE, LINK, NOW, make_payment
from tests.store.helpers import confirm, one, rows

SETTLING = timedelta(minutes=10)
LONG_AGO = NOW - timedelta(hours=1)
SINCE, UNTIL = LONG_AGO, NOW
IDS = [UUID(int=number) for number in range(11, 17)]
LINKS = [UUID(int=1), UUID(int=2)]

words = st.none() | st.sampled_from(["a", "b", "tab\tin it", "back\\slash", "new\nline", "\\N", "ü\x7f"])
versions = st.builds(
    make_payment,
    payment_id=st.sampled_from(IDS),
    payment_link_id=st.sampled_from(LINKS),
    revision=st.integers(1, 3),
    amount=st.sampled_from([Decimal("1.000"), Decimal("2.5"), Decimal(0)]),
    currency=st.sampled_from(["USD", "KWD"]),
    created_at=st.none() | st.sampled_from([LONG_AGO, LONG_AGO - timedelta(days=3), NOW]),
    transaction_at=st.none() | st.just(LONG_AGO),
    receipt_id=st.none() | st.just(UUID(int=3)),
    type=words,
    ecom_checkout_id=words,
    method=words,
    payment_method=words,
)
unreadable = st.builds(
    staging.Unread,
    st.sampled_from(IDS),
    st.none() | st.sampled_from(LINKS),
    st.sampled_from(["odd", "amount\t"]),
)


def book(database: Database, *booked: Payment, at: datetime = LONG_AGO, instance_id: UUID = INSTANCE) -> None:
    with database.begin() as connection:
        run_id = runs.start(connection, instance_id, "check", at)
        for payment in booked:
            seen = SeenPayment(structs.replace(payment, instance_id=instance_id), None, {})
            payments.apply(
                connection, [payments.telling(seen, origin=Origin.POLL, told_at=at, run_id=run_id)]
            )


def compared(
    database: Database,
    listed: Collection[Payment],
    unread: Collection[staging.Unread] = (),
    *,
    instance_id: UUID = INSTANCE,
    now: datetime = NOW,
) -> staging.Compared:
    lease_id = uuid4()
    with database.begin() as connection:
        staging.stage(connection, lease_id, listed, unread)
    with database.begin() as connection:
        found = staging.compare(
            connection, instance_id, lease_id, since=SINCE, until=UNTIL, settling=SETTLING, now=now
        )
        staging.forget(connection, lease_id)
    return found


def asked(database: Database) -> list[UUID]:
    return [
        row.payment_link_id for row in rows(database, "SELECT payment_link_id FROM check_requests ORDER BY 1")
    ]


def test_whatever_is_listed_and_booked_stands_as_judge_says(database: Database) -> None:
    @settings(max_examples=150)
    @given(
        booked=st.lists(versions, max_size=6, unique_by=lambda one: one.payment_id),
        listed=st.lists(versions, max_size=6),
        unread=st.lists(unreadable, max_size=2),
    )
    def alike(booked: list[Payment], listed: list[Payment], unread: list[staging.Unread]) -> None:
        instance_id = uuid4()
        confirm(database, instance_id)
        book(database, *booked, instance_id=instance_id)

        found = compared(database, listed, unread, instance_id=instance_id)

        ours = {one.payment_id: one for one in booked}
        theirs: dict[UUID, Payment] = {}
        for seen in listed:
            if seen.created_at is not None and seen.created_at >= UNTIL:
                continue
            known = theirs.get(seen.payment_id)
            # Two contents of one revision: either may stand.
            if known is not None and known.revision == seen.revision and known != seen:
                return
            if known is None or seen.revision > known.revision:
                theirs[seen.payment_id] = seen
        expected: Counter[str] = Counter(judge(ours.get(id_), one).value for id_, one in theirs.items())
        odd = {one.payment_id for one in unread} - theirs.keys()
        expected["unreadable"] = len(odd)
        expected["unlisted"] = sum(
            one.created_at is not None and SINCE <= one.created_at < UNTIL
            for id_, one in ours.items()
            if id_ not in theirs and id_ not in odd
        )
        assert Counter(found.verdicts) == +expected
        assert found.listed == len(theirs) + len(odd)
        for currency in ("USD", "KWD"):
            amounts = [one.amount for one in theirs.values() if one.currency == currency]
            sums = found.sums.get(currency)
            assert (sums.listed if sums else 0) == len(amounts)
            assert (sums.listed_amount if sums else 0) == sum(amounts)

    alike()


def test_every_word_of_wix_comes_through_as_it_is(database: Database) -> None:
    odd = "tab\t back\\ new\nline \r \\N ☃ \x01 \x85"
    payment = make_payment(
        method=odd, payment_method="\\N", payment_provider="", type="a\\tb", created_at=LONG_AGO
    )

    with database.begin() as connection:
        staging.stage(connection, uuid4(), [payment])

    row = one(database, "SELECT * FROM swept_payments")
    facts = {name: getattr(row, name) for name in structs.asdict(payment) if name != "instance_id"}
    assert facts == {name: value for name, value in structs.asdict(payment).items() if name != "instance_id"}


def test_a_payment_on_two_pages_counts_once_and_the_later_revision_stands(database: Database) -> None:
    confirm(database)
    old = make_payment(created_at=LONG_AGO, revision=1)
    new = structs.replace(old, revision=2, receipt_id=UUID(int=3))
    book(database, new)

    found = compared(database, [new, old, new])

    assert (found.verdicts, found.links) == ({"same": 1}, 0)
    assert found.sums["USD"] == staging.Sums(1, new.amount, 1, new.amount)


@pytest.mark.parametrize(
    ("match_state", "age", "is_asked"),
    [
        (None, timedelta(hours=1), True),
        ("matched", timedelta(hours=1), True),
        ("matched", timedelta(seconds=1), False),  # queries may lag behind its webhook
        ("discrepant", timedelta(hours=1), False),  # a check looks at it again in its own time
    ],
)
def test_a_payment_wix_does_not_list_is_looked_at_once(
    database: Database, match_state: str | None, age: timedelta, is_asked: bool
) -> None:
    confirm(database)
    book(database, make_payment(created_at=LONG_AGO), at=NOW - age)
    with database.begin() as connection:
        connection.execute(text("UPDATE payments SET match_state = :state"), {"state": match_state})

    found = compared(database, [])

    assert found.verdicts == {"unlisted": 1}
    assert (asked(database), found.links) == (([LINK], 1) if is_asked else ([], 0))


def test_what_wix_has_and_we_do_not_is_looked_at_however_it_stood(database: Database) -> None:
    confirm(database)
    known = make_payment(created_at=LONG_AGO, revision=1)
    book(database, known)
    with database.begin() as connection:
        connection.execute(text("UPDATE payments SET match_state = 'discrepant'"))
    other = structs.replace(known, payment_id=IDS[0], payment_link_id=LINKS[0])

    found = compared(database, [structs.replace(known, revision=2), other])

    assert found.verdicts == {"newer": 1, "new": 1}
    assert asked(database) == sorted([LINK, LINKS[0]])


def test_a_payment_under_another_link_asks_for_both(database: Database) -> None:
    confirm(database)
    book(database, make_payment(created_at=LONG_AGO))

    compared(database, [make_payment(created_at=LONG_AGO, payment_link_id=LINKS[0])])

    assert asked(database) == sorted([LINK, LINKS[0]])


def test_the_books_of_another_instance_are_not_looked_at(database: Database) -> None:
    stranger = uuid4()
    confirm(database)
    confirm(database, stranger)
    book(database, make_payment(created_at=LONG_AGO), instance_id=stranger)

    found = compared(database, [make_payment(created_at=LONG_AGO)])

    assert (found.verdicts, found.sums["USD"].booked) == ({"new": 1}, 0)


def test_what_nobody_holds_any_more_is_forgotten(database: Database) -> None:
    confirm(database)
    held, dead = uuid4(), uuid4()
    with database.begin() as connection:
        connection.execute(text("UPDATE sweeps SET lease_id = :id, lease_until = now()"), {"id": held})
        for lease_id in (held, dead):
            staging.stage(connection, lease_id, [make_payment()] * 3)

    with database.begin() as connection:
        assert staging.forget_abandoned(connection) == 3
        assert staging.forget_abandoned(connection) == 0

    assert {row.lease_id for row in rows(database, "SELECT lease_id FROM swept_payments")} == {held}


def test_nothing_is_staged_of_an_empty_page(database: Database) -> None:
    with database.begin() as connection:
        staging.stage(connection, uuid4(), [])

    assert rows(database, "SELECT FROM swept_payments") == []
