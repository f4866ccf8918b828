"""Three sides of a link, compared."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec import structs

from processor.domain.discrepancy import ADVICE, EXPLANATIONS, DiscrepancyType, Severity
from processor.domain.link import Link
from processor.domain.payment import Payment
from processor.domain.reconciliation import (
    RECOVERIES,
    Believed,
    Books,
    Findings,
    Outcome,
    Recovery,
    compare,
    next_check,
    recovery,
    unknown_instance,
)
from processor.domain.refund import Refund
from processor.domain.rules import NOTHING_ASSUMED, Assumptions
from tests.builders import LINK, NOW, PAYMENT, make_link, make_payment, make_refund

SETTLING = timedelta(minutes=10)
LONG_AGO, JUST_NOW = NOW - timedelta(hours=1), NOW - timedelta(seconds=5)


def check(
    ours: list[Payment],
    theirs: list[Payment],
    link: Link | None = None,
    *,
    changed_at: Any = LONG_AGO,
    assumptions: Assumptions = NOTHING_ASSUMED,
    **more: Any,
) -> Findings:
    books = Books(
        payment_link_id=LINK,
        believed={one.payment_id: Believed(one, changed_at) for one in ours},
        theirs={one.payment_id: one for one in theirs},
        link=link,
        **{"unsettled_since": LONG_AGO, **more},
    )
    return compare(books, now=NOW, settling=SETTLING, assumptions=assumptions)


def types(findings: Findings) -> list[DiscrepancyType]:
    return [one.type for one in findings.differences]


def test_equal_sides_match() -> None:
    findings = check([make_payment()], [make_payment()], make_link())

    assert findings.outcomes == {PAYMENT: Outcome.MATCHED}
    assert (findings.repairs, findings.differences, findings.is_settled) == ((), (), True)


def test_a_payment_no_webhook_told_of_is_expected_while_young_and_recovered_after() -> None:
    young = make_payment(created_at=NOW - SETTLING + timedelta(seconds=1))
    old = make_payment(created_at=NOW - SETTLING)

    assert check([], [young]).outcomes == {PAYMENT: Outcome.EXPECTED}
    assert not check([], [young]).is_settled
    assert check([], [old]).outcomes == {PAYMENT: Outcome.RECOVERED}
    assert check([], [old]).repairs == (old,)


def test_a_newer_revision_at_wix_is_booked_once_it_was_noticed_long_enough() -> None:
    ours, theirs = make_payment(revision=1), make_payment(revision=2)

    assert check([ours], [theirs], unsettled_since=JUST_NOW).outcomes == {PAYMENT: Outcome.EXPECTED}
    assert check([ours], [theirs], unsettled_since=None).outcomes == {PAYMENT: Outcome.EXPECTED}
    assert check([ours], [theirs]).repairs == (theirs,)


def test_a_payment_wix_does_not_list_is_missing_once_it_is_old() -> None:
    assert check([make_payment()], [], changed_at=JUST_NOW).outcomes == {PAYMENT: Outcome.EXPECTED}

    findings = check([make_payment()], [])

    assert types(findings) == [DiscrepancyType.MISSING_AT_WIX]
    assert findings.differences[0].amount_at_risk == Decimal("10.99")
    assert findings.repairs == ()


def test_wix_being_behind_is_expected_while_young_and_shown_after() -> None:
    ours, theirs = make_payment(revision=2), make_payment(revision=1)

    assert check([ours], [theirs], changed_at=JUST_NOW).outcomes == {PAYMENT: Outcome.EXPECTED}
    assert types(check([ours], [theirs])) == [DiscrepancyType.BEHIND_AT_WIX]


@pytest.mark.parametrize(
    ("change", "type_"),
    [
        ({"amount": Decimal("12.00")}, DiscrepancyType.AMOUNT_DIFFERS),
        ({"currency": "EUR"}, DiscrepancyType.CURRENCY_DIFFERS),
        ({"type": "GIFT_CARD"}, DiscrepancyType.TYPE_DIFFERS),
        ({"receipt_id": uuid4()}, None),
        ({"ecom_checkout_id": "other"}, DiscrepancyType.DETAIL_DIFFERS),
    ],
)
def test_another_content_of_one_revision_is_shown_and_not_overwritten(
    change: dict[str, Any], type_: DiscrepancyType | None
) -> None:
    findings = check([make_payment()], [make_payment(**change)])

    assert types(findings) == ([type_] if type_ else [])
    assert findings.repairs == ()


def test_a_payment_listed_under_another_link_is_shown() -> None:
    elsewhere = make_payment(payment_link_id=uuid4())

    assert types(check([elsewhere], [make_payment()])) == [DiscrepancyType.LINK_DIFFERS]


def test_the_amount_at_risk_of_a_differing_amount_is_the_difference() -> None:
    [found] = check([make_payment()], [make_payment(amount=Decimal("12.00"))]).differences

    assert found.amount_at_risk == Decimal("1.01")
    assert found.sides == {
        "field": "amount",
        "booked": "10.99 USD",
        "wix": "12.00 USD",
        "difference": "+1.01 USD",
    }


@pytest.mark.fact("L20", "U17")
def test_a_total_above_the_sum_is_an_error_and_below_it_informational() -> None:
    above = check([make_payment()], [make_payment()], make_link(total_amount=Decimal(20)))
    below = check([make_payment()], [make_payment()], make_link(total_amount=Decimal(5)))

    assert [(one.type, one.severity) for one in above.differences] == [
        (DiscrepancyType.TOTAL_DIFFERS, Severity.ERROR)
    ]
    assert [(one.type, one.severity) for one in below.differences] == [
        (DiscrepancyType.TOTAL_DIFFERS, Severity.INFORMATIONAL)
    ]


def test_a_total_in_motion_is_left_alone() -> None:
    link = make_link(total_amount=Decimal(20), last_payment_at=JUST_NOW)

    findings = check([make_payment()], [make_payment()], link)

    assert findings.differences == ()
    assert not findings.is_settled


@pytest.mark.fact("L19", "S11", "U18")
@pytest.mark.parametrize(("count", "is_explained"), [(0, False), (1, True), (2, True), (3, False)])
def test_a_purchase_split_over_gift_card_and_card_counts_once_or_twice(
    count: int, is_explained: bool
) -> None:
    split = [
        make_payment(amount=Decimal("4.00"), type="GIFT_CARD"),
        make_payment(payment_id=uuid4(), amount=Decimal("6.99")),
    ]

    findings = check(split, split, make_link(payment_count=count))

    assert types(findings) == ([] if is_explained else [DiscrepancyType.COUNT_DIFFERS])


@pytest.mark.fact("L17")
def test_a_link_paid_more_often_than_its_limit_is_shown() -> None:
    paid = [make_payment(), make_payment(payment_id=uuid4(), ecom_checkout_id="second")]
    link = make_link(status="PAID", payments_limit=1, payment_count=2, total_amount=Decimal("21.98"))

    assert types(check(paid, paid, link)) == [DiscrepancyType.OVER_LIMIT]


def test_a_split_purchase_does_not_exceed_a_limit_of_one() -> None:
    split = [make_payment(amount=Decimal(4)), make_payment(payment_id=uuid4(), amount=Decimal("6.99"))]

    assert types(check(split, split, make_link(status="PAID", payments_limit=1, payment_count=2))) == []


def test_recovered_payments_are_part_of_the_control_total() -> None:
    findings = check([], [make_payment()], make_link())

    assert findings.differences == ()
    assert findings.is_settled


def test_a_link_wix_does_not_know_is_shown_when_payments_were_booked_for_it() -> None:
    assert DiscrepancyType.LINK_MISSING in types(check([make_payment()], [], is_link_missing=True))
    assert types(check([], [], is_link_missing=True)) == []
    assert not check([make_payment()], [], is_link_missing=True, unsettled_since=JUST_NOW).is_settled


def test_what_cannot_be_read_and_what_was_told_twice_is_shown() -> None:
    event_id = uuid4()

    findings = check(
        [make_payment()],
        [make_payment()],
        make_link(),
        unreadable={"odd": "amount_missing"},
        conflicting_versions=frozenset([PAYMENT]),
        conflicting_events=frozenset([event_id]),
    )

    assert set(types(findings)) == {
        DiscrepancyType.UNREADABLE_AT_WIX,
        DiscrepancyType.VERSION_CONFLICT,
        DiscrepancyType.EVENT_CONFLICT,
    }
    assert findings.outcomes == {PAYMENT: Outcome.DISCREPANT}


def test_a_booked_payment_that_wix_lists_unreadably_is_not_also_called_missing() -> None:
    findings = check([make_payment()], [], unreadable={str(PAYMENT): "amount_missing"})

    assert types(findings) == [DiscrepancyType.UNREADABLE_AT_WIX]


def test_several_differing_details_of_a_payment_are_one_discrepancy() -> None:
    other = make_payment(ecom_checkout_id="x", transaction_at=LONG_AGO - timedelta(days=1))

    assert types(check([make_payment()], [other])) == [DiscrepancyType.DETAIL_DIFFERS]


def test_every_type_of_discrepancy_is_explained() -> None:
    assert set(EXPLANATIONS) == set(DiscrepancyType)


@pytest.mark.parametrize(
    ("is_settled", "has_differences", "attempt", "seconds"),
    [(True, False, 3, None), (True, True, 0, 99.0), (False, False, 0, 5.0), (False, True, 7, 99.0)],
)
def test_rechecks_grow_and_end_when_nothing_is_left_to_wait_for(
    is_settled: bool, has_differences: bool, attempt: int, seconds: float | None
) -> None:
    found = next_check(
        is_settled=is_settled, has_differences=has_differences, attempt=attempt, gaps=(5.0, 30.0, 99.0)
    )

    assert found == seconds


def test_a_payment_of_another_instance_of_uuid_is_not_confused() -> None:
    mine, other = make_payment(), make_payment(payment_id=UUID(int=5))

    findings = check([mine], [mine, other], make_link(payment_count=2, total_amount=Decimal("21.98")))

    assert findings.outcomes == {mine.payment_id: Outcome.MATCHED, other.payment_id: Outcome.RECOVERED}


def severities(findings: Findings) -> list[tuple[DiscrepancyType, Severity]]:
    return [(one.type, one.severity) for one in findings.differences]


@pytest.mark.parametrize(
    ("falls", "severity"),
    [(None, Severity.INFORMATIONAL), (True, Severity.INFORMATIONAL), (False, Severity.ERROR)],
)
def test_less_at_wix_is_an_error_only_when_refunds_are_known_not_to_lower_it(
    falls: bool | None, severity: Severity
) -> None:
    less = make_link(total_amount=Decimal(1), payment_count=0)

    findings = check(
        [make_payment()], [make_payment()], less, assumptions=Assumptions(total_falls_on_refund=falls)
    )

    assert severities(findings) == [
        (DiscrepancyType.TOTAL_DIFFERS, severity),
        (DiscrepancyType.COUNT_DIFFERS, severity),
    ]


@pytest.mark.parametrize(
    ("once", "count", "is_right"),
    [
        (None, 1, True),
        (None, 2, True),
        (True, 1, True),
        (True, 2, False),
        (False, 1, False),
        (False, 2, True),
    ],
)
def test_how_a_split_purchase_counts_is_an_assumption(once: bool | None, count: int, is_right: bool) -> None:
    split = [
        make_payment(payment_id=uuid4(), amount=Decimal(5)),
        make_payment(payment_id=uuid4(), amount=Decimal(6), type="GIFT_CARD"),
    ]
    link = make_link(total_amount=Decimal(11), payment_count=count)

    findings = check(split, split, link, assumptions=Assumptions(split_counts_once=once))

    assert types(findings) == ([] if is_right else [DiscrepancyType.COUNT_DIFFERS])


@pytest.mark.parametrize(
    ("asked", "differs"), [(None, False), (Decimal("10.99"), False), (Decimal(12), True), (Decimal(5), True)]
)
def test_what_an_order_is_paid_is_what_its_link_asks_for(asked: Decimal | None, differs: bool) -> None:
    link = make_link(type="ECOM_ORDER", order_amount=asked)

    findings = check([make_payment()], [make_payment()], link)

    assert types(findings) == ([DiscrepancyType.ORDER_AMOUNT_DIFFERS] if differs else [])


def test_an_order_not_paid_yet_owes_nothing_to_the_books() -> None:
    unpaid = make_link(type="ECOM_ORDER", order_amount=Decimal(12), total_amount=Decimal(0), payment_count=0)

    assert types(check([], [], unpaid)) == []


def twice(**second: Any) -> Findings:
    """One purchase paid by two payments, unless the second says otherwise."""
    first = make_payment(payment_id=UUID(int=1))
    other = make_payment(payment_id=UUID(int=2), created_at=LONG_AGO + timedelta(minutes=1), **second)
    return check([first, other], [first, other])


def test_a_purchase_paid_twice_is_shown_on_the_later_payment() -> None:
    [found] = twice().differences

    assert (found.type, found.payment_id) == (DiscrepancyType.DUPLICATE_PAYMENT, UUID(int=2))
    assert (found.amount_at_risk, found.currency) == (Decimal("10.99"), "USD")
    assert str(UUID(int=1)) in str(found.sides["booked"])


@pytest.mark.parametrize(
    "second",
    [
        {"amount": Decimal(5)},
        {"currency": "EUR"},
        {"ecom_checkout_id": "another"},
        {"type": "GIFT_CARD"},
        {"ecom_checkout_id": None},
    ],
)
def test_other_payments_of_a_purchase_are_no_duplicates(second: dict[str, Any]) -> None:
    assert types(twice(**second)) == []


def test_two_gift_cards_of_one_worth_may_pay_one_purchase() -> None:
    cards = [make_payment(payment_id=uuid4(), type="GIFT_CARD") for _ in range(2)]

    assert types(check(cards, cards)) == []


@pytest.mark.parametrize(
    ("description", "inactive_since", "is_late"),
    [
        ({}, None, False),
        ({"status": "EXPIRED", "expires_at": NOW - timedelta(hours=2)}, None, True),
        ({"status": "EXPIRED", "expires_at": LONG_AGO}, None, False),
        ({"status": "INACTIVE"}, NOW - timedelta(hours=2), True),
        ({"status": "INACTIVE"}, NOW, False),
        ({"status": "INACTIVE"}, None, False),
        ({"status": "ACTIVE"}, NOW - timedelta(hours=2), False),
    ],
)
def test_a_payment_after_the_link_closed_is_shown(
    description: dict[str, Any], inactive_since: Any, is_late: bool
) -> None:
    payment = make_payment(transaction_at=LONG_AGO)

    findings = check([payment], [payment], make_link(**description), inactive_since=inactive_since)

    assert severities(findings) == (
        [(DiscrepancyType.PAID_WHILE_INACTIVE, Severity.INFORMATIONAL)] if is_late else []
    )


@pytest.mark.parametrize(
    ("outlives", "expected"),
    [(None, [Severity.INFORMATIONAL]), (False, [Severity.ERROR]), (True, [])],
)
def test_whether_a_checkout_outlives_its_link_is_an_assumption(
    outlives: bool | None, expected: list[Severity]
) -> None:
    payment = make_payment(transaction_at=LONG_AGO)
    link = make_link(status="EXPIRED", expires_at=LONG_AGO - timedelta(seconds=1))

    findings = check([payment], [payment], link, assumptions=Assumptions(checkout_outlives_link=outlives))

    assert [one.severity for one in findings.differences] == expected


# -- What a link says of itself --------------------------------------------------------------------

PAID_AT, MADE_AT = LONG_AGO - timedelta(minutes=30), LONG_AGO


@pytest.mark.fact("L21")
@pytest.mark.parametrize(
    ("is_transaction", "shown_at", "expected"),
    [
        (None, PAID_AT, []),
        (None, MADE_AT + timedelta(milliseconds=999), []),
        (None, MADE_AT + timedelta(seconds=1), [Severity.INFORMATIONAL]),
        (True, PAID_AT, []),
        (True, MADE_AT, [Severity.ERROR]),
        (False, MADE_AT, []),
        (False, PAID_AT, [Severity.ERROR]),
        (None, None, []),
    ],
)
def test_the_date_of_the_last_payment_is_that_of_ours_in_the_meaning_assumed(
    is_transaction: bool | None, shown_at: Any, expected: list[Severity]
) -> None:
    early = make_payment(
        payment_id=uuid4(), ecom_checkout_id="first", transaction_at=PAID_AT - timedelta(days=1)
    )
    late = make_payment(transaction_at=PAID_AT, created_at=MADE_AT)
    early = structs.replace(early, created_at=PAID_AT - timedelta(days=1))
    link = make_link(last_payment_at=shown_at, payment_count=2, total_amount=Decimal("21.98"))

    findings = check(
        [early, late],
        [early, late],
        link,
        assumptions=Assumptions(last_payment_is_transaction=is_transaction),
    )

    assert severities(findings) == [(DiscrepancyType.LAST_PAYMENT_DIFFERS, one) for one in expected]


def test_what_both_sides_say_of_the_last_payment_is_told() -> None:
    ours = make_payment(transaction_at=PAID_AT, created_at=MADE_AT)

    [found] = check([ours], [ours], make_link(last_payment_at=NOW - timedelta(days=9))).differences

    assert found.sides == {
        "booked": "2026-11-24T10:30:00Z or 2026-11-24T11:00:00Z",
        "wix": "2026-11-15T12:00:00Z",
    }
    assert found.amount_at_risk is None


@pytest.mark.parametrize(
    ("ours", "more"),
    [
        ([], {}),
        ([make_payment(transaction_at=None, created_at=None)], {}),
        ([make_payment()], {"unreadable": {"odd": "amount_missing"}}),
    ],
    ids=["no payment", "no date", "one that cannot be read"],
)
def test_a_last_payment_with_nothing_to_compare_it_with_is_no_difference(
    ours: list[Payment], more: dict[str, Any]
) -> None:
    link = make_link(
        last_payment_at=NOW - timedelta(days=9),
        payment_count=len(ours),
        total_amount=Decimal("10.99") * len(ours),
    )

    assert DiscrepancyType.LAST_PAYMENT_DIFFERS not in types(check(ours, ours, link, **more))


def test_the_last_payment_is_not_compared_while_one_is_in_transit() -> None:
    link = make_link(last_payment_at=NOW - timedelta(days=9))

    findings = check([], [make_payment(created_at=JUST_NOW)], link)

    assert (findings.differences, findings.is_settled) == ((), False)


PAST, FUTURE = NOW - timedelta(hours=2), NOW + timedelta(hours=2)


@pytest.mark.fact("L15")
@pytest.mark.parametrize(
    ("payments", "description", "sides"),
    [
        (1, {"status": "ACTIVE", "payments_limit": 1}, ("paid 1 times of 1", "ACTIVE")),
        (1, {"status": "ACTIVE", "payments_limit": 2}, None),
        (1, {"status": "ACTIVE"}, None),
        (1, {"status": "ACTIVE", "payments_limit": 1, "payment_count": 0}, None),
        (1, {"status": "PAID", "payments_limit": 1}, None),
        (1, {"status": "PAID"}, None),
        (1, {"status": "PAID", "payments_limit": 2}, ("paid 1 times of 2", "PAID")),
        (1, {"status": "PAID", "payments_limit": 2, "payment_count": 2}, None),
        (0, {"status": "PAID"}, ("paid 0 times", "PAID")),
        (1, {"status": "EXPIRED", "expires_at": FUTURE}, ("expires 2026-11-24T14:00:00Z", "EXPIRED")),
        (1, {"status": "EXPIRED", "expires_at": PAST}, None),
        (1, {"status": "EXPIRED"}, None),
        (0, {"status": "ACTIVE", "expires_at": PAST}, ("expired 2026-11-24T10:00:00Z", "ACTIVE")),
        (0, {"status": "ACTIVE", "expires_at": FUTURE}, None),
        (0, {"status": "INACTIVE", "expires_at": PAST}, None),
        (1, {"status": "ON_HOLD", "payments_limit": 1, "expires_at": PAST}, None),
        (1, {"status": None, "payments_limit": 1, "expires_at": PAST}, None),
    ],
)
def test_a_status_that_contradicts_what_is_known_is_shown(
    payments: int, description: dict[str, Any], sides: tuple[str, str] | None
) -> None:
    paid = [
        make_payment(payment_id=uuid4(), ecom_checkout_id=str(number), transaction_at=PAST)
        for number in range(payments)
    ]
    told = {"payment_count": payments, "total_amount": Decimal("10.99") * payments, **description}

    found = [
        one
        for one in check(paid, paid, make_link(**told)).differences
        if one.type is DiscrepancyType.STATUS_DIFFERS
    ]

    assert [(one.sides["booked"], one.sides["wix"]) for one in found] == ([sides] if sides else [])
    assert {one.severity for one in found} <= {Severity.INFORMATIONAL}


@pytest.mark.parametrize(
    ("before", "now", "is_shown"),
    [
        (None, "ACTIVE", False),
        ("ACTIVE", "INACTIVE", False),
        ("INACTIVE", "ACTIVE", False),
        ("INACTIVE", "EXPIRED", False),
        ("EXPIRED", "PAID", False),
        ("PAID", "EXPIRED", False),
        ("PAID", "ACTIVE", True),
        ("PAID", "INACTIVE", True),
        ("EXPIRED", "ACTIVE", True),
        ("EXPIRED", "INACTIVE", True),
        ("ON_HOLD", "ACTIVE", False),
        ("PAID", "ON_HOLD", False),
    ],
)
def test_a_link_that_had_ended_does_not_take_payments_again(
    before: str | None, now: str, is_shown: bool
) -> None:
    findings = check([make_payment()], [make_payment()], make_link(status=now), previous_status=before)

    assert types(findings) == ([DiscrepancyType.STATUS_DIFFERS] if is_shown else [])
    if is_shown:
        assert findings.differences[0].sides["wix"] == f"{before}, then {now}"


@pytest.mark.parametrize(
    ("follows", "expected"), [(None, [Severity.INFORMATIONAL]), (True, [Severity.ERROR]), (False, [])]
)
def test_whether_a_status_follows_the_facts_is_an_assumption(
    follows: bool | None, expected: list[Severity]
) -> None:
    link = make_link(payments_limit=1)

    findings = check(
        [make_payment()], [make_payment()], link, assumptions=Assumptions(status_follows_facts=follows)
    )

    assert [one.severity for one in findings.differences] == expected


def test_a_status_just_noticed_may_follow_yet() -> None:
    findings = check([make_payment()], [make_payment()], make_link(payments_limit=1), unsettled_since=None)

    assert (findings.differences, findings.is_settled) == ((), False)


@pytest.mark.parametrize(
    ("is_new", "recovered", "told", "expected"),
    [
        (True, 1, None, Recovery.WEBHOOK_MISSED),
        (True, 1, 1, Recovery.WEBHOOK_LATE),
        (True, 1, 2, Recovery.WEBHOOK_LATE),
        (True, 2, 1, Recovery.UPDATE_UNANNOUNCED),
        (False, 2, 1, Recovery.UPDATE_UNANNOUNCED),
        (False, 2, 2, Recovery.WEBHOOK_LATE),
    ],
)
def test_why_a_payment_was_recovered(
    is_new: bool, recovered: int, told: int | None, expected: Recovery
) -> None:
    assert recovery(is_new=is_new, recovered=recovered, told=told) is expected


LISTENING, HORIZON = NOW - timedelta(days=5), NOW - timedelta(days=2)


@pytest.mark.parametrize(
    ("created_at", "is_by_query", "is_shown"),
    [
        (HORIZON, True, True),
        (HORIZON, False, False),
        (HORIZON + timedelta(seconds=1), True, False),
        (LISTENING, True, True),
        (LISTENING - timedelta(seconds=1), True, False),
        (None, True, False),
    ],
)
def test_a_payment_no_event_told_of_and_none_will_is_shown(
    created_at: Any, is_by_query: bool, is_shown: bool
) -> None:
    payment = make_payment(created_at=created_at)

    findings = check(
        [payment],
        [payment],
        by_query=frozenset([PAYMENT] if is_by_query else []),
        listening_since=LISTENING,
        resent_until=HORIZON,
    )

    expected = [(DiscrepancyType.PAYMENT_WITHOUT_EVENT, Severity.INFORMATIONAL)]
    assert severities(findings) == (expected if is_shown else [])
    assert [one.amount_at_risk for one in findings.differences] == [None] * is_shown, "it is booked"
    assert findings.is_settled


def test_a_payment_a_check_books_so_late_was_never_told_of() -> None:
    late = make_payment(created_at=HORIZON)

    findings = check([], [late], listening_since=LISTENING, resent_until=HORIZON)

    assert findings.repairs == (late,)
    assert types(findings) == [DiscrepancyType.PAYMENT_WITHOUT_EVENT]


@pytest.mark.parametrize(
    ("is_settled", "has_differences", "overdue_in", "seconds"),
    [(True, False, 7.0, 7.0), (True, True, 7.0, 7.0), (True, True, 200.0, 99.0), (False, False, 3.0, 3.0)],
)
def test_a_link_is_checked_again_when_an_event_is_overdue(
    is_settled: bool, has_differences: bool, overdue_in: float, seconds: float
) -> None:
    found = next_check(
        is_settled=is_settled,
        has_differences=has_differences,
        attempt=0,
        gaps=(5.0, 99.0),
        overdue_in=overdue_in,
    )

    assert found == seconds


def test_what_is_held_of_an_unknown_instance_is_counted_by_its_newest_versions() -> None:
    one, other = make_payment(), make_payment(payment_id=uuid4(), amount=Decimal(5))
    newer = make_payment(revision=2, amount=Decimal(7))

    found = unknown_instance(LINK, 2, [newer, one, other])

    assert (found.type, found.severity) == (DiscrepancyType.UNKNOWN_INSTANCE, Severity.INFORMATIONAL)
    assert (found.amount_at_risk, found.currency) == (Decimal(12), "USD")
    assert found.sides["told"] == "2 payments, 12.00 USD"


@pytest.mark.parametrize(
    ("payments", "told"),
    [
        (2, [make_payment(), make_payment(payment_id=uuid4(), currency="EUR")]),
        (2, [make_payment()]),
        (2, None),
        (0, []),
    ],
    ids=["two currencies", "one cannot be read", "too many to read", "none"],
)
def test_what_is_held_has_no_amount_unless_it_is_one_sum(payments: int, told: Any) -> None:
    found = unknown_instance(LINK, payments, told)

    assert (found.amount_at_risk, found.currency) == (None, None)
    assert found.sides["told"] == f"{payments} payments"


# -- Refunds ---------------------------------------------------------------------------------------


def given_back(
    *refunds: Refund,
    link: Link | None = None,
    told_at: Any = LONG_AGO,
    falls: bool | None = None,
    **more: Any,
) -> Findings:
    """A payment of 10.99, of which these refunds were told."""
    return check(
        [make_payment()],
        [make_payment()],
        link or make_link(),
        refunds=[(one, told_at) for one in refunds],
        assumptions=Assumptions(total_falls_on_refund=falls),
        **more,
    )


@pytest.mark.fact("S12", "S16", "U17")
@pytest.mark.parametrize("falls", [None, True, False])
def test_a_refund_that_the_total_does_not_show_is_shown(falls: bool | None) -> None:
    second = make_refund(refund_id=uuid4(), amount=Decimal("0.50"))

    findings = given_back(make_refund(), second, falls=falls)

    [found] = findings.differences
    assert (found.type, found.severity) == (DiscrepancyType.REFUND_ON_ORDER_ONLY, Severity.INFORMATIONAL)
    assert (found.payment_id, found.amount_at_risk, found.currency) == (PAYMENT, Decimal("4.50"), "USD")
    assert found.sides["told"] == "refunded 4.50 USD"


@pytest.mark.parametrize("status", ["PENDING", "FAILED", "REVERSED", "UNHEARD_OF", None])
def test_a_refund_that_gave_nothing_back_is_no_difference(status: str | None) -> None:
    assert types(given_back(make_refund(status=status))) == []


@pytest.mark.parametrize(
    "change", [{"amount": None, "reason": "amount_too_fine"}, {"currency": "EUR"}], ids=["too fine", "other"]
)
def test_a_refund_whose_amount_says_nothing_is_shown_without_one(change: dict[str, Any]) -> None:
    [found] = given_back(make_refund(**change)).differences

    assert (found.type, found.amount_at_risk, found.currency) == (
        DiscrepancyType.REFUND_ON_ORDER_ONLY,
        None,
        None,
    )


def test_a_refund_just_told_of_may_be_in_the_total_soon() -> None:
    findings = given_back(make_refund(), told_at=JUST_NOW)

    assert (findings.differences, findings.is_settled) == ((), False)


def test_a_refund_of_a_payment_not_booked_here_is_nothing() -> None:
    assert types(given_back(make_refund(payment_id=uuid4()))) == []


@pytest.mark.parametrize(
    ("falls", "total", "expected"),
    [
        (True, "6.99", []),
        (None, "6.99", [DiscrepancyType.TOTAL_DIFFERS]),
        (False, "6.99", [DiscrepancyType.TOTAL_DIFFERS]),
        (True, "7.99", [DiscrepancyType.TOTAL_DIFFERS]),
        (True, "5.99", [DiscrepancyType.TOTAL_DIFFERS]),
    ],
)
def test_a_total_that_fell_by_the_refunds_agrees_where_it_is_known_to(
    falls: bool | None, total: str, expected: list[DiscrepancyType]
) -> None:
    link = make_link(total_amount=Decimal(total))

    assert types(given_back(make_refund(), link=link, falls=falls)) == expected


@pytest.mark.parametrize(
    ("amount", "count", "agrees"), [("10.99", 0, True), ("10.99", 1, True), ("4.00", 0, False)]
)
def test_a_payment_given_back_whole_may_be_counted_no_more(amount: str, count: int, agrees: bool) -> None:
    link = make_link(total_amount=Decimal("10.99") - Decimal(amount), payment_count=count)

    findings = given_back(make_refund(amount=Decimal(amount)), link=link, falls=True)

    assert types(findings) == ([] if agrees else [DiscrepancyType.COUNT_DIFFERS])


def test_a_link_that_shows_no_total_shows_no_refund_either() -> None:
    assert types(given_back(make_refund(), link=make_link(total_amount=None))) == []


def test_every_reason_of_recovery_and_every_advice_is_told() -> None:
    assert set(RECOVERIES) == set(Recovery)
    assert set(ADVICE) == set(DiscrepancyType)
