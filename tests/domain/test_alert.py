"""Which steps of a discrepancy persons are told of, and how many messages that takes."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from processor.domain import discrepancy as domain
from processor.domain.alert import SEVERITIES, STANDS_OPEN, TITLES, AlertKind, severity_of, told_by
from processor.domain.discrepancy import (
    Comment,
    Difference,
    DiscrepancyType,
    ProposeWriteOff,
    Reason,
    Reopen,
    Resolve,
    Severity,
    Standing,
    State,
    Step,
    Tolerated,
    WriteOff,
)
from tests.builders import LINK, PAYMENT

DIFFERENCE = Difference(
    type=DiscrepancyType.AMOUNT_DIFFERS,
    payment_link_id=LINK,
    payment_id=PAYMENT,
    sides={"booked": "1", "wix": "2", "difference": "+1"},
    amount_at_risk=Decimal(1),
    currency="USD",
)
OPEN = Standing(difference=DIFFERENCE)
CLOSED = replace(OPEN, state=State.RESOLVED, reason=Reason.CAUGHT_UP)
WRITTEN_OFF = replace(
    OPEN,
    state=State.WRITTEN_OFF,
    reason=Reason.FEE,
    written_off=WriteOff(Decimal(1), Reason.FEE, "ada"),
)
TOLERATED = Tolerated(1, "cents")


def told(before: Standing, steps: tuple[Step, ...]) -> AlertKind | None:
    found = told_by(before, steps)
    return found[0] if found else None


def act(standing: Standing, action: domain.Action, actor: str = "grace") -> AlertKind | None:
    return told(standing, (domain.act(standing, action, actor=actor, limits={}),))


def test_a_discrepancy_is_told_of_when_it_opens_and_not_when_it_is_seen_again() -> None:
    assert told(OPEN, domain.opened(DIFFERENCE, None)) is AlertKind.DISCREPANCY_OPENED
    assert told(OPEN, domain.seen(OPEN, DIFFERENCE, None, tolerated_anew=None)) is None


def test_what_is_tolerated_at_once_was_never_open() -> None:
    assert told(OPEN, domain.opened(DIFFERENCE, TOLERATED)) is None
    again = domain.seen(CLOSED, DIFFERENCE, TOLERATED, tolerated_anew=TOLERATED)
    assert len(again) == 2
    assert told(CLOSED, again) is None


def test_what_recurs_is_told_of_and_so_is_what_goes() -> None:
    assert (
        told(CLOSED, domain.seen(CLOSED, DIFFERENCE, None, tolerated_anew=None))
        is AlertKind.DISCREPANCY_REOPENED
    )
    assert told(OPEN, domain.absent(OPEN)) is AlertKind.DISCREPANCY_RESOLVED
    assert told(CLOSED, domain.absent(CLOSED)) is None
    assert told(WRITTEN_OFF, domain.absent(WRITTEN_OFF)) is AlertKind.DISCREPANCY_RESOLVED


def test_a_difference_of_another_amount_is_no_change_of_state_but_a_graver_one_is() -> None:
    more = replace(DIFFERENCE, amount_at_risk=Decimal(2), sides={"booked": "1", "wix": "3"})
    mild = replace(OPEN, difference=replace(DIFFERENCE, severity=Severity.INFORMATIONAL))

    assert told(OPEN, domain.seen(OPEN, more, None, tolerated_anew=None)) is None
    assert (
        told(mild, domain.seen(mild, DIFFERENCE, None, tolerated_anew=None)) is AlertKind.DISCREPANCY_WORSENED
    )
    assert told(OPEN, domain.seen(OPEN, mild.difference, None, tolerated_anew=None)) is None


def test_what_persons_do_is_told_of_when_another_person_must_act_or_it_closes() -> None:
    proposed = replace(OPEN, proposed=WriteOff(Decimal(1), Reason.FEE, "ada"))

    assert act(OPEN, Comment("hm")) is None
    assert act(OPEN, ProposeWriteOff(Reason.FEE)) is AlertKind.WRITE_OFF_PROPOSED
    assert act(proposed, domain.ApproveWriteOff()) is AlertKind.DISCREPANCY_WRITTEN_OFF
    assert act(OPEN, Resolve(Reason.CORRECTED_HERE)) is AlertKind.DISCREPANCY_RESOLVED
    assert act(CLOSED, Reopen("look again")) is AlertKind.DISCREPANCY_REOPENED


def test_that_a_discrepancy_stands_open_is_as_grave_as_the_discrepancy() -> None:
    mild = replace(DIFFERENCE, severity=Severity.INFORMATIONAL)
    [step] = domain.opened(mild, None)

    for kind in AlertKind:
        assert severity_of(kind, step) is (mild.severity if kind in STANDS_OPEN else SEVERITIES[kind])


@pytest.mark.parametrize("kind", AlertKind)
def test_every_kind_has_its_words_and_its_severity(kind: AlertKind) -> None:
    assert TITLES[kind].endswith(".")
    assert kind in SEVERITIES
