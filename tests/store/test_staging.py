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
from tests.store.helpers import confirm, rows

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
    with database.begin() as connection:
        staging.stage(connection, listed, unread)
        return staging.compare(connection, instance_id, since=SINCE, until=UNTIL, settling=SETTLING, now=now)


def asked(database: Database) -> list[UUID]:
    return [
        row.payment_link_id for row in rows(database, "SELECT payment_link_id FROM check_requests ORDER BY 1")
    ]


def test_whatever_is_listed_and_booked_stands_as_judge_says(database: Database) -> None:
    @settings(max_examples=150)
    @given(
        booked=st.lists(versions, max_size=6, unique_by=lambda one: one.payment_id),
        listed=st.lists(versions, max_size=6, unique_by=lambda one: one.payment_id),
        unread=st.lists(unreadable, max_size=2, unique_by=lambda one: one.payment_id),
    )
    def alike(booked: list[Payment], listed: list[Payment], unread: list[staging.Unread]) -> None:
        instance_id = uuid4()
        confirm(database, instance_id)
        book(database, *booked, instance_id=instance_id)

        theirs = {one.payment_id: one for one in listed}
        odd = {one.payment_id: one for one in unread if one.payment_id not in theirs}

        found = compared(database, listed, odd.values(), instance_id=instance_id)

        ours = {one.payment_id: one for one in booked}
        expected: Counter[str] = Counter(judge(ours.get(id_), one).value for id_, one in theirs.items())
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
    odd = 'tab\t back\\ new\nline \r \\N \\. ☃ \x01 \x85 "quoted", null'
    for word in (odd, "\\.", "a\n\\.\nb", "]\n[", '"', ",", "null", "", "plain"):
        payment = make_payment(method=word, payment_provider="", type=f"{word}\\tb", created_at=LONG_AGO)
        plain = structs.replace(payment, type=None, payment_id=IDS[0])

        with database.begin() as connection:
            staging.stage(connection, [payment, plain], [staging.Unread(IDS[1], None, word)])
            found = connection.execute(
                text("SELECT * FROM swept_payments ORDER BY reason NULLS FIRST, type")
            ).all()

        assert [one.reason for one in found] == [None, None, word]
        for row, expected in zip(found, (payment, plain), strict=False):
            facts = {name: value for name, value in structs.asdict(expected).items() if name != "instance_id"}
            assert {name: getattr(row, name) for name in facts} == facts


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


def test_a_part_that_dies_leaves_nothing_behind(database: Database) -> None:
    def die() -> None:
        with database.begin() as connection:
            staging.stage(connection, [make_payment()])
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            die()

    with database.begin() as connection:
        staging.stage(connection, [make_payment()])
    with database.begin() as connection:
        assert connection.execute(text("SELECT to_regclass('swept_payments')")).scalar_one() is None


def test_nothing_listed_and_nothing_booked_is_nothing(database: Database) -> None:
    assert compared(database, []) == staging.Compared({}, 0, {})
