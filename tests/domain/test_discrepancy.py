"""What a discrepancy lives through."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from processor.domain import discrepancy as domain
from processor.domain.discrepancy import (
    ADVICE,
    AGING,
    EXPLANATIONS,
    REASONS,
    AddEvidence,
    ApproveWriteOff,
    Assign,
    Comment,
    Difference,
    DiscrepancyType,
    Investigate,
    ProposeWriteOff,
    Reason,
    RejectWriteOff,
    Reopen,
    Resolve,
    Severity,
    Standing,
    State,
    StepKind,
    Tolerated,
    WithdrawWriteOff,
    act,
    aging,
)
from processor.errors import NotAllowed
from tests.builders import LINK, PAYMENT

NO_LIMITS: dict[str, Decimal] = {}


def difference(**changed: Any) -> Difference:
    usual = Difference(
        type=DiscrepancyType.AMOUNT_DIFFERS,
        payment_link_id=LINK,
        payment_id=PAYMENT,
        sides={"booked": "10.00 USD", "wix": "7.00 USD", "difference": "-3.00 USD"},
        amount_at_risk=Decimal(3),
        currency="USD",
    )
    return replace(usual, **changed)


def standing(**changed: Any) -> Standing:
    return replace(Standing(difference=difference()), **changed)


def proposed(by: str = "ada") -> Standing:
    return act(standing(), ProposeWriteOff(Reason.REFUND), actor=by, limits=NO_LIMITS).after


def written_off() -> Standing:
    return act(proposed(), ApproveWriteOff(), actor="grace", limits=NO_LIMITS).after


def seen(
    before: Standing,
    now: Difference,
    tolerated: Tolerated | None = None,
    tolerated_anew: Tolerated | None = None,
) -> tuple[domain.Step, ...]:
    return domain.seen(before, now, tolerated, tolerated_anew=tolerated_anew)


def kinds(steps: tuple[domain.Step, ...]) -> list[StepKind]:
    return [step.kind for step in steps]


def test_every_type_reason_and_bucket_is_explained() -> None:
    assert EXPLANATIONS.keys() == ADVICE.keys() == set(DiscrepancyType)
    assert REASONS.keys() == set(Reason)
    assert set(Reason) == domain.RESOLVING | domain.WRITING_OFF | domain.BY_AUTOMATION
    assert [aging(until or timedelta(days=1_000)) for _, until in AGING[:-1]] == [
        name for name, _ in AGING[1:]
    ]
    assert aging(timedelta()) == AGING[0][0]


def test_what_is_seen_again_unchanged_is_no_step() -> None:
    assert seen(standing(), difference()) == ()


@pytest.mark.parametrize(
    "changed",
    [
        {"amount_at_risk": Decimal(4)},
        {"severity": Severity.INFORMATIONAL},
        {"sides": {"booked": "10.00 USD", "wix": "6.00 USD"}},
    ],
)
def test_what_is_seen_changed_is_a_step_with_the_new_values(changed: dict[str, Any]) -> None:
    [step] = seen(standing(state=State.INVESTIGATING, owner="ada"), difference(**changed))

    assert step.kind is StepKind.CHANGED
    assert step.after == standing(difference=difference(**changed), state=State.INVESTIGATING, owner="ada")


def test_what_was_resolved_and_recurs_is_open_again_with_its_owner() -> None:
    resolved = act(
        standing(owner="ada"), Resolve(Reason.CORRECTED_AT_WIX), actor="ada", limits=NO_LIMITS
    ).after

    [step] = seen(resolved, difference())

    assert (step.kind, step.after) == (StepKind.REOPENED, standing(owner="ada"))


@pytest.mark.parametrize(
    ("risk", "reopens"), [(Decimal(3), False), (Decimal(2), False), (Decimal("3.01"), True)]
)
def test_what_was_written_off_stays_so_while_no_more_is_at_risk(risk: Decimal, reopens: bool) -> None:
    sides = {"booked": "20.00 USD", "wix": "other", "difference": f"-{risk} USD"}
    steps = seen(written_off(), difference(amount_at_risk=risk, sides=sides))

    assert kinds(steps) == ([StepKind.REOPENED] if reopens else [])
    assert all(step.after.written_off is None for step in steps)


@pytest.mark.parametrize(
    "changed",
    [
        {"sides": {"booked": "10.00 USD", "wix": "13.00 USD", "difference": "+3.00 USD"}},
        {"severity": Severity.INFORMATIONAL},
        {"sides": {"booked": "a link", "wix": "another link"}},
        {"amount_at_risk": None},
    ],
)
def test_a_write_off_covers_no_other_difference_of_the_same_size(changed: dict[str, Any]) -> None:
    assert kinds(seen(written_off(), difference(**changed))) == [StepKind.REOPENED]


def test_what_was_written_off_and_goes_was_not_lost() -> None:
    [step] = domain.absent(written_off())

    assert (step.kind, step.reason) == (StepKind.RESOLVED, Reason.CAUGHT_UP)
    assert step.after.written_off is None
    assert kinds(seen(step.after, difference())) == [StepKind.REOPENED], "it needs a new decision"


def test_what_was_written_off_in_another_currency_is_not_covered() -> None:
    steps = seen(written_off(), difference(currency="EUR"))

    assert kinds(steps) == [StepKind.REOPENED]


def test_what_was_written_off_without_an_amount_is_covered_while_it_says_the_same() -> None:
    nameless = difference(amount_at_risk=None, currency=None)
    there = act(
        standing(difference=nameless), ProposeWriteOff(Reason.TEST_DATA), actor="ada", limits=NO_LIMITS
    ).after
    accepted = act(there, ApproveWriteOff(), actor="grace", limits=NO_LIMITS).after

    assert seen(accepted, nameless) == ()
    assert kinds(seen(accepted, replace(nameless, sides={"wix": "other"}))) == [StepKind.REOPENED]


def test_what_wix_caught_up_with_is_resolved_by_itself() -> None:
    [step] = domain.absent(standing(state=State.INVESTIGATING, owner="ada"))

    assert (step.kind, step.reason, step.after.state) == (
        StepKind.RESOLVED,
        Reason.CAUGHT_UP,
        State.RESOLVED,
    )
    assert domain.absent(step.after) == ()


def test_a_proposal_about_what_changed_or_went_is_void() -> None:
    changed = seen(proposed(), difference(amount_at_risk=Decimal(4)))
    gone = domain.absent(proposed())

    assert kinds(changed) == [StepKind.WRITE_OFF_VOIDED, StepKind.CHANGED]
    assert kinds(gone) == [StepKind.WRITE_OFF_VOIDED, StepKind.RESOLVED]
    assert changed[-1].after.proposed is gone[-1].after.proposed is None


@pytest.mark.parametrize(
    "changed", [{"severity": Severity.INFORMATIONAL}, {"sides": {"booked": "1", "wix": "4"}}]
)
def test_a_proposal_is_about_what_was_seen_when_it_was_made(changed: dict[str, Any]) -> None:
    voided, step = seen(proposed(), difference(**changed))

    assert (voided.kind, step.after.proposed) == (StepKind.WRITE_OFF_VOIDED, None)


def test_what_is_tolerated_is_opened_and_resolved_with_the_rule() -> None:
    tolerated = Tolerated(3, "small (0.05 USD)")

    first = domain.opened(difference(), tolerated)

    assert kinds(first) == [StepKind.OPENED, StepKind.RESOLVED]
    assert (first[-1].reason, first[-1].tolerated) == (Reason.WITHIN_TOLERANCE, tolerated)
    within = first[-1].after
    assert seen(within, difference(), tolerated) == ()
    [again] = seen(within, difference(amount_at_risk=Decimal(2)), tolerated)
    assert (again.kind, again.after.difference.amount_at_risk) == (StepKind.RESOLVED, Decimal(2))
    assert kinds(seen(within, difference(), None, tolerated)) == [StepKind.REOPENED], "it is too old by now"
    assert kinds(domain.absent(within)) == [StepKind.RESOLVED]
    assert kinds(seen(proposed(), difference(), tolerated)) == [
        StepKind.WRITE_OFF_VOIDED,
        StepKind.RESOLVED,
    ]


def test_what_recurs_is_tolerated_by_its_new_age() -> None:
    gone = domain.absent(standing())[-1].after
    tolerated = Tolerated(3, "small (0.05 USD, 1 days)")

    assert domain.is_new_life(gone)
    assert kinds(seen(gone, difference(), None, tolerated)) == [StepKind.REOPENED, StepKind.RESOLVED]
    assert not domain.is_new_life(standing())
    assert not domain.is_new_life(written_off())


def test_who_takes_it_up_owns_it_unless_it_has_an_owner() -> None:
    taken = act(standing(), Investigate(), actor="ada", limits=NO_LIMITS)
    of_grace = act(standing(owner="grace"), Investigate(), actor="ada", limits=NO_LIMITS)

    assert (taken.after.state, taken.after.owner) == (State.INVESTIGATING, "ada")
    assert of_grace.after.owner == "grace"


def test_a_write_off_needs_a_second_person() -> None:
    with pytest.raises(NotAllowed, match="another person must"):
        act(proposed(by="ada"), ApproveWriteOff(), actor="ada", limits=NO_LIMITS)

    step = act(proposed(by="ada"), ApproveWriteOff("seen"), actor="grace", limits=NO_LIMITS)

    assert (step.kind, step.after.state) == (StepKind.WRITE_OFF_APPROVED, State.WRITTEN_OFF)
    assert step.after.proposed is None
    assert step.after.written_off == domain.WriteOff(Decimal(3), Reason.REFUND, "ada")


def test_reopening_takes_a_write_off_back() -> None:
    step = act(written_off(), Reopen("the refund came"), actor="ada", limits=NO_LIMITS)

    assert step.after == standing()


def test_a_limit_holds_for_the_proposal_and_for_the_approval() -> None:
    lower = {"USD": Decimal("2.99")}

    with pytest.raises(NotAllowed, match=r"at most 2\.99 USD"):
        act(standing(), ProposeWriteOff(Reason.REFUND), actor="ada", limits=lower)
    with pytest.raises(NotAllowed, match=r"at most 2\.99 USD"):
        act(proposed(), ApproveWriteOff(), actor="grace", limits=lower)
    assert act(proposed(), ApproveWriteOff(), actor="grace", limits={"USD": Decimal(3)}).after.is_closed


REFUSED: tuple[tuple[str, Standing, domain.Action, str], ...] = (
    ("closed", written_off(), Investigate(), "reopen it first"),
    ("closed", written_off(), Assign("ada"), "reopen it first"),
    ("closed", written_off(), Resolve(Reason.EXPLAINED, "so"), "reopen it first"),
    ("closed", written_off(), ProposeWriteOff(Reason.FEE), "reopen it first"),
    ("open", standing(), Reopen("why not"), "nothing was decided"),
    ("twice", standing(state=State.INVESTIGATING, owner="ada"), Investigate(), "already, by ada"),
    ("same owner", standing(owner="ada"), Assign("ada"), "has it already"),
    ("no owner", standing(), Assign(None), "nobody has it"),
    ("no proposal", standing(), ApproveWriteOff(), "no write-off"),
    ("no proposal", standing(), RejectWriteOff("no"), "no write-off"),
    ("no proposal", standing(), WithdrawWriteOff(), "no write-off"),
    ("own proposal", proposed(by="me"), RejectWriteOff("no"), "withdraw it instead"),
    ("other's proposal", proposed(by="ada"), WithdrawWriteOff(), "reject it instead"),
    ("two proposals", proposed(), ProposeWriteOff(Reason.FEE), "waits for approval"),
    ("resolve with a proposal", proposed(), Resolve(Reason.CORRECTED_HERE), "waits for approval"),
    ("explained without words", standing(), Resolve(Reason.EXPLAINED), "say in a comment"),
    ("automation's reason", standing(), Resolve(Reason.CAUGHT_UP), "no reason to resolve"),
    ("reason of a write-off", standing(), Resolve(Reason.FEE), "no reason to resolve"),
    ("reason to resolve", standing(), ProposeWriteOff(Reason.EXPLAINED), "no reason to write it off"),
    ("another amount", standing(), ProposeWriteOff(Reason.FEE, Decimal(2)), "all of it"),
    (
        "an amount of nothing",
        standing(difference=difference(amount_at_risk=None)),
        ProposeWriteOff(Reason.FEE, Decimal(2)),
        "without an amount",
    ),
    ("no words", standing(), Comment("  "), "letters"),
    ("too many words", standing(), Comment("x" * 2_001), "letters"),
    ("a NUL", standing(), Comment("a\0b"), "letters"),
    ("no link", standing(), AddEvidence("ticket 7"), "https://"),
    ("no host", standing(), AddEvidence("https://"), "https://"),
    ("another scheme", standing(), AddEvidence("javascript:alert(1)"), "https://"),
    ("an owner without a name", standing(), Assign(" "), "a name"),
)


@pytest.mark.parametrize(("_", "before", "action", "why"), REFUSED, ids=[one[0] for one in REFUSED])
def test_what_the_rules_of_the_books_forbid_is_refused_with_what_to_do(
    _: str, before: Standing, action: domain.Action, why: str
) -> None:
    with pytest.raises(NotAllowed, match=why):
        act(before, action, actor="me", limits=NO_LIMITS)


@pytest.mark.parametrize(
    "name", ["ada ", "Ada\u034f", "ada\ufe0f", "\u3164ada", "\uff41da", "a\x1b[2J", "a<b>"]
)
def test_a_name_that_only_looks_like_another_is_none(name: str) -> None:
    with pytest.raises(NotAllowed):
        act(proposed(by="ada"), ApproveWriteOff(), actor=name, limits=NO_LIMITS)


@pytest.mark.parametrize("name", ["ADA", "Ada", "ada"])
def test_one_person_in_other_letters_is_still_one(name: str) -> None:
    with pytest.raises(NotAllowed, match="another person must"):
        act(proposed(by="ada"), ApproveWriteOff(), actor=name, limits=NO_LIMITS)


def test_people_may_have_any_names() -> None:
    for name in ("Ana María Núñez", "o'neill", "grace.hopper@example.com", "李"):
        assert act(standing(), Assign(name), actor=name, limits=NO_LIMITS).after.owner == name


@pytest.mark.parametrize("actor", ["automation", "Automation", "", "x" * 101, "a\nb"])
def test_nobody_acts_as_automation_or_without_a_name(actor: str) -> None:
    with pytest.raises(NotAllowed):
        act(standing(), Comment("hello"), actor=actor, limits=NO_LIMITS)


def test_a_closed_discrepancy_still_takes_comments_and_evidence() -> None:
    assert act(written_off(), Comment("later"), actor="me", limits=NO_LIMITS).after == written_off()
    step = act(written_off(), AddEvidence("https://example.com/1"), actor="me", limits=NO_LIMITS)
    assert (step.evidence, step.after) == ("https://example.com/1", written_off())


def test_a_test_of_an_unknown_instance_stays_resolved_until_it_says_something_else() -> None:
    difference = Difference(type=DiscrepancyType.UNKNOWN_INSTANCE, payment_link_id=LINK)
    resolved = Standing(difference=difference, state=State.RESOLVED, reason=Reason.TEST_DATA)
    other = replace(difference, amount_at_risk=Decimal("10.990"), currency="USD")

    assert domain.seen(resolved, difference, None, tolerated_anew=None) == ()
    assert [step.kind for step in domain.seen(resolved, other, None, tolerated_anew=None)] == [
        StepKind.REOPENED
    ]
    explained = replace(resolved, reason=Reason.EXPLAINED)
    assert [step.kind for step in domain.seen(explained, difference, None, tolerated_anew=None)] == [
        StepKind.REOPENED
    ]
