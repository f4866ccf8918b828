"""The proof can fail: whatever is lost, doubled or set back is found."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import pytest

from tests.chaos.events import Mint
from tests.chaos.ledger import Entry, Expected, Ledger
from tests.chaos.verify import Booked, Books, Findings, StoredEvent, compare, promises

MINT = Mint(random.Random(5))


def told(ledger: Ledger, *revisions: int, status: str = "200") -> list[Entry]:
    """Events of one payment, each answered."""
    payment_id = MINT.guid()
    entries = []
    for revision in revisions:
        entry = ledger.open(
            MINT.payment(payment_id=payment_id, instance_id=MINT.instances[0], revision=revision)
        )
        ledger.attempt(entry, b"")
        ledger.answer(entry, status)
        entries.append(entry)
    return entries


def books_of(entries: list[Entry]) -> Books:
    """Books that hold all of this as they should."""
    events, payments = [], dict[UUID, Booked]()
    for entry in entries:
        one = entry.told
        events.append(StoredEvent(one.event_id, one.instance_id, "recorded", one.digest, entry.attempts))
        assert one.payment_id is not None
        if one.payment_id not in payments or payments[one.payment_id].revision < one.revision:
            payments[one.payment_id] = Booked(
                one.payment_id, one.instance_id, one.revision, one.amount, one.currency
            )
    return Books(
        events,
        list(payments.values()),
        versions=Counter(event.event_id for event in events),
        news=Counter(payments.keys()),
    )


def look(ledger: Ledger, books: Books, seen: dict[UUID, int] | None = None) -> Findings:
    return compare(promises(ledger.snapshot()), books, {} if seen is None else seen, is_whole=True)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def test_books_that_hold_everything_are_found_right(ledger: Ledger) -> None:
    entries = [*told(ledger, 2, 1, 3), *told(ledger, 1), *told(ledger, 1, status="503")]

    assert not look(ledger, books_of(entries[:4])), "what was not answered 200 may be missing"
    assert not look(ledger, books_of(entries)), "and may be there"


def test_an_event_that_is_missing_is_lost(ledger: Ledger) -> None:
    entries = [*told(ledger, 1, 2), *told(ledger, 1)]
    books = books_of(entries)

    found = look(ledger, replace(books, events=books.events[1:]))

    assert found.lost == [f"event {entries[0].told.event_id}"]


def test_a_payment_or_a_version_that_is_missing_is_lost(ledger: Ledger) -> None:
    [entry] = told(ledger, 1)
    books = books_of([entry])

    assert look(ledger, replace(books, payments=[])).lost == [f"payment {entry.told.payment_id}"]
    assert len(look(ledger, replace(books, versions=Counter())).lost) == 1
    assert len(look(ledger, replace(books, tokens=Counter())).lost) == 1


def test_a_payment_event_that_is_kept_unread_is_lost(ledger: Ledger) -> None:
    [entry] = told(ledger, 1)
    books = books_of([entry])

    found = look(ledger, replace(books, events=[replace(books.events[0], status="unreadable")]))

    assert len(found.lost) == 1


def test_what_is_stored_booked_or_new_twice_is_doubled(ledger: Ledger) -> None:
    [entry] = told(ledger, 1)
    books = books_of([entry])
    assert entry.told.payment_id is not None

    for twice in (
        replace(books, events=books.events * 2),
        replace(books, payments=books.payments * 2),
        replace(books, versions=Counter({entry.told.event_id: 2})),
        replace(books, tokens=Counter({entry.told.event_id: 2})),
        replace(books, news=Counter({entry.told.payment_id: 2})),
    ):
        assert look(ledger, twice).doubled


def test_another_amount_or_sum_than_was_told_is_doubled(ledger: Ledger) -> None:
    books = books_of(told(ledger, 1))
    more = replace(books.payments[0], amount=books.payments[0].amount + Decimal("0.001"))

    found = look(ledger, replace(books, payments=[more]))

    assert len(found.doubled) == 2  # the amount, and the sum of its currency


def test_a_payment_below_what_was_answered_or_read_is_regressed(ledger: Ledger) -> None:
    entries = told(ledger, 1, 2)
    books = books_of(entries)
    first = entries[0].told
    assert first.payment_id is not None
    older = replace(books.payments[0], revision=1, amount=first.amount, currency=first.currency)
    seen: dict[UUID, int] = {}

    assert look(ledger, replace(books, payments=[older])).regressed
    assert not look(ledger, books, seen)
    assert seen == {first.payment_id: 2}
    assert len(look(ledger, replace(books, payments=[older]), seen).regressed) == 2


def test_a_forgery_that_was_taken_is_wrong(ledger: Ledger) -> None:
    [entry] = told(ledger, 1, status="401")
    forged = Ledger()
    forged.open(replace(entry.told, expected=Expected.REFUSED))

    assert look(forged, books_of([entry])).wrong


def test_a_stranger_and_a_delivery_that_is_not_counted_are_wrong(ledger: Ledger) -> None:
    [entry] = told(ledger, 1)
    ledger.attempt(entry, b"")
    ledger.answer(entry, "200")
    books = books_of([entry])
    stranger = replace(books.events[0], event_id=MINT.guid(), digest=bytes(32))
    uncounted = replace(books.events[0], deliveries=1)

    assert look(ledger, replace(books, events=[*books.events, stranger])).wrong
    assert look(ledger, replace(books, events=[uncounted])).wrong


def test_another_body_of_one_event_must_be_kept_as_a_conflict(ledger: Ledger) -> None:
    [first] = told(ledger, 1)
    other = ledger.open(
        MINT.payment(
            payment_id=first.told.payment_id,
            event_id=first.told.event_id,
            instance_id=first.told.instance_id,
        )
    )
    ledger.attempt(other, b"")
    ledger.answer(other, "200")
    books = books_of([first])
    counted = replace(books, events=[replace(books.events[0], deliveries=2)])

    assert look(ledger, counted).lost == [f"event {first.told.event_id}"]
    assert not look(ledger, replace(counted, conflicts={(other.told.event_id, other.told.digest)}))
