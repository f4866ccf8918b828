"""A difference that needs a decision: its closed list of types, how grave each is, and what it lives through. Pure.

A discrepancy is one row for as long as there are books, however often it closes and recurs. What a check sees of it
(`seen`, `absent`) and what a person does about it (`act`) are steps; the row is where the steps have led.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias, assert_never
from uuid import UUID

from processor.domain.money import shown
from processor.errors import NotAllowed


class DiscrepancyType(StrEnum):
    """Every difference we can name. The texts beside them are in `EXPLANATIONS`."""

    MISSING_AT_WIX = "missing_at_wix"
    AMOUNT_DIFFERS = "amount_differs"
    CURRENCY_DIFFERS = "currency_differs"
    LINK_DIFFERS = "link_differs"
    TYPE_DIFFERS = "type_differs"
    DETAIL_DIFFERS = "detail_differs"
    BEHIND_AT_WIX = "behind_at_wix"
    VERSION_CONFLICT = "version_conflict"
    EVENT_CONFLICT = "event_conflict"
    UNREADABLE_AT_WIX = "unreadable_at_wix"
    TOTAL_DIFFERS = "total_differs"
    COUNT_DIFFERS = "count_differs"
    OVER_LIMIT = "over_limit"
    ORDER_AMOUNT_DIFFERS = "order_amount_differs"
    PAID_WHILE_INACTIVE = "paid_while_inactive"
    DUPLICATE_PAYMENT = "duplicate_payment"
    LINK_MISSING = "link_missing"
    LAST_PAYMENT_DIFFERS = "last_payment_differs"
    STATUS_DIFFERS = "status_differs"
    PAYMENT_WITHOUT_EVENT = "payment_without_event"
    UNKNOWN_INSTANCE = "unknown_instance"
    REFUND_ON_ORDER_ONLY = "refund_on_order_only"


class Severity(StrEnum):
    """How grave a discrepancy is. INFORMATIONAL may have an innocent cause that Wix does not document."""

    INFORMATIONAL = "informational"
    ERROR = "error"


class State(StrEnum):
    """Where a discrepancy stands."""

    OPEN = "open"
    INVESTIGATING = "investigating"
    RESOLVED = "resolved"
    WRITTEN_OFF = "written_off"


EXPLANATIONS: dict[DiscrepancyType, str] = {
    DiscrepancyType.MISSING_AT_WIX: "We booked a payment that Wix does not list.",
    DiscrepancyType.AMOUNT_DIFFERS: "Wix lists another amount than the one booked, at the same revision.",
    DiscrepancyType.CURRENCY_DIFFERS: "Wix lists another currency than the one booked, at the same revision.",
    DiscrepancyType.LINK_DIFFERS: "Wix lists the payment under another payment link than the one booked.",
    DiscrepancyType.TYPE_DIFFERS: "Wix lists another payment type than the one booked, at the same revision.",
    DiscrepancyType.DETAIL_DIFFERS: (
        "Wix lists another date, order or receipt than the one booked, at the same revision."
    ),
    DiscrepancyType.BEHIND_AT_WIX: "Wix lists an older revision of the payment than the one it told us of.",
    DiscrepancyType.VERSION_CONFLICT: "Wix told us two different contents of one revision of the payment.",
    DiscrepancyType.EVENT_CONFLICT: "One webhook event id came with two different bodies.",
    DiscrepancyType.UNREADABLE_AT_WIX: "Wix lists a payment that we cannot read, so it is not booked.",
    DiscrepancyType.TOTAL_DIFFERS: "The total Wix shows on the payment link is not the sum of its payments.",
    DiscrepancyType.COUNT_DIFFERS: "The number of payments Wix shows on the payment link is not the number it lists.",
    DiscrepancyType.OVER_LIMIT: "The payment link was paid more often than its limit allows.",
    DiscrepancyType.ORDER_AMOUNT_DIFFERS: "What was paid is not the amount the payment link asks for its order.",
    DiscrepancyType.PAID_WHILE_INACTIVE: "A payment was made after the payment link had expired or was deactivated.",
    DiscrepancyType.DUPLICATE_PAYMENT: "One purchase was paid twice: same amount and order, two payment ids.",
    DiscrepancyType.LINK_MISSING: "Wix no longer knows the payment link that payments were booked for.",
    DiscrepancyType.LAST_PAYMENT_DIFFERS: (
        "The date Wix shows for the last payment of the link is not that of the latest payment booked."
    ),
    DiscrepancyType.PAYMENT_WITHOUT_EVENT: (
        "A payment was found by a query and booked, and no webhook told of it for as long as Wix sends one again."
    ),
    DiscrepancyType.REFUND_ON_ORDER_ONLY: (
        "A refund of the payment was told of, and the total Wix shows on the payment link does not show it."
    ),
    DiscrepancyType.UNKNOWN_INSTANCE: (
        "Webhooks told of payments of an app instance for which Wix refuses us, so nothing of them is booked."
    ),
    DiscrepancyType.STATUS_DIFFERS: (
        "The status of the payment link contradicts its payments, its limit or its expiry, or came after one that ends"
        " a link."
    ),
}


ADVICE: dict[DiscrepancyType, str] = {
    DiscrepancyType.MISSING_AT_WIX: (
        "Look the payment up in the site's dashboard. If it is not there, ask Wix's support with its id; if no money"
        " moved, write it off."
    ),
    DiscrepancyType.AMOUNT_DIFFERS: (
        "Compare both with the buyer's receipt. What the receipt says is right; the other side has to be corrected."
    ),
    DiscrepancyType.CURRENCY_DIFFERS: "Compare both with the buyer's receipt, and tell Wix's support of it.",
    DiscrepancyType.LINK_DIFFERS: "See in the order which payment link the buyer used; both links' sums are off by it.",
    DiscrepancyType.TYPE_DIFFERS: "See in the order whether a gift card paid it.",
    DiscrepancyType.DETAIL_DIFFERS: "See which side the order agrees with; no sum is off by it.",
    DiscrepancyType.BEHIND_AT_WIX: "Wait a day. If it stays, tell Wix's support which revision it sent and lists.",
    DiscrepancyType.VERSION_CONFLICT: (
        "Compare the two events (`processor payments show`) with the buyer's receipt, and tell Wix's support."
    ),
    DiscrepancyType.EVENT_CONFLICT: "Compare the two bodies, and tell Wix's support of the event's id.",
    DiscrepancyType.UNREADABLE_AT_WIX: "See in the dashboard what the payment is; tell the developers the reason.",
    DiscrepancyType.TOTAL_DIFFERS: (
        "If less is shown than booked, look for refunds of the link's payments. If more, a payment may be missing on"
        " both sides: look through its orders."
    ),
    DiscrepancyType.COUNT_DIFFERS: "As for a total: look for refunds, then for payments that neither side told of.",
    DiscrepancyType.OVER_LIMIT: "Ask the merchant whether to refund what came after the limit.",
    DiscrepancyType.ORDER_AMOUNT_DIFFERS: "See in the order what is still to be paid, or was paid too much.",
    DiscrepancyType.PAID_WHILE_INACTIVE: (
        "The money was received. Ask the merchant whether to deliver or to refund; a checkout begun in time may have"
        " been finished late."
    ),
    DiscrepancyType.DUPLICATE_PAYMENT: "Look at the buyer's receipts. If both were charged, the merchant refunds one.",
    DiscrepancyType.LINK_MISSING: "Ask the merchant whether the link was deleted. Its payments stay booked.",
    DiscrepancyType.LAST_PAYMENT_DIFFERS: (
        "Look in the dashboard for a payment of that date. If there is none and the totals agree, the dates mean"
        " different things: write it off, and tell the developers."
    ),
    DiscrepancyType.PAYMENT_WITHOUT_EVENT: (
        "The payment is booked and no sum is off. See in Wix's log of deliveries why its webhook did not come, then"
        " write it off; it closes by itself if the webhook comes after all."
    ),
    DiscrepancyType.REFUND_ON_ORDER_ONLY: (
        "The refund is recorded here, and taken off the payment's net; its gross amount stays. See on the order that it"
        " is right. Where Wix's totals never fall on a refund, every refund shows so: write it off as a refund, which"
        " holds; what is resolved opens again at the next check."
    ),
    DiscrepancyType.UNKNOWN_INSTANCE: (
        "A test sent from the developers' dashboard looks just so: if there was one, resolve it as a test."
        " Else see whether the app is installed on the site and its credentials are right; what is held is booked once"
        " Wix gives access."
    ),
    DiscrepancyType.STATUS_DIFFERS: (
        "See in the dashboard whether the link can still be paid, and ask the merchant whether it should be. No sum is"
        " off by it."
    ),
}
"""What to do about each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A discrepancy as one check sees it. Link, type and payment together are its identity.

    sides: what each side says ("booked", "wix", "told"), as text, never personal. amount_at_risk is in
    `currency`, None where no money can be named. base_amount: what is booked, of which it is a part, None where that
    says nothing; it is not kept.
    """

    type: DiscrepancyType
    payment_link_id: UUID
    payment_id: UUID | None = None
    severity: Severity = Severity.ERROR
    sides: dict[str, str | None] = field(default_factory=dict)
    amount_at_risk: Decimal | None = None
    currency: str | None = None
    base_amount: Decimal | None = None


# -- What it lives through -------------------------------------------------------------------------

DIFFERENCE = "difference"
"""The side that says, with its sign, how much more Wix says than is booked; of differences that have a size."""
SIDES = {
    "booked": "booked here",
    "wix": "Wix says",
    "told": "webhooks told",
    DIFFERENCE: "Wix less booked",
    "field": "field",
}
"""The sides of a difference, and what people call them."""
AUTOMATION = "automation"
"""Who a check is, as the actor of a step. No person may use the name."""
NAME_MAX = 100
_URL = re.compile(r"https?://[A-Za-z0-9\[][!-~]+")
TEXT_MAX = 2_000


class Reason(StrEnum):
    """Why a discrepancy was closed: the whole list. The texts beside them are in `REASONS`."""

    CAUGHT_UP = "caught_up"
    WITHIN_TOLERANCE = "within_tolerance"
    CORRECTED_AT_WIX = "corrected_at_wix"
    CORRECTED_HERE = "corrected_here"
    EXPLAINED = "explained"
    TEST_DATA = "test_data"
    REFUND = "refund"
    FEE = "fee"
    ROUNDING = "rounding"
    BUYER_DISPUTE = "buyer_dispute"
    UNRECOVERABLE = "unrecoverable"


REASONS: dict[Reason, str] = {
    Reason.CAUGHT_UP: "It no longer differs.",
    Reason.WITHIN_TOLERANCE: "It is within the tolerance of the rules.",
    Reason.CORRECTED_AT_WIX: "It was corrected at Wix.",
    Reason.CORRECTED_HERE: "It was corrected in our books, by a replay or a further version.",
    Reason.EXPLAINED: "Both sides are right; the comment says why they differ.",
    Reason.TEST_DATA: "It was a test, and no money moved.",
    Reason.REFUND: "A refund that only one side shows.",
    Reason.FEE: "A fee that only one side shows.",
    Reason.ROUNDING: "Rounding.",
    Reason.BUYER_DISPUTE: "The buyer disputes the payment.",
    Reason.UNRECOVERABLE: "The money cannot be had, or the cause cannot be found.",
}
BY_AUTOMATION = frozenset((Reason.CAUGHT_UP, Reason.WITHIN_TOLERANCE))
RESOLVING = frozenset((Reason.CORRECTED_AT_WIX, Reason.CORRECTED_HERE, Reason.EXPLAINED, Reason.TEST_DATA))
WRITING_OFF = frozenset(
    (Reason.REFUND, Reason.FEE, Reason.ROUNDING, Reason.BUYER_DISPUTE, Reason.UNRECOVERABLE, Reason.TEST_DATA)
)


# The buckets finance asks for; the first are short because a difference of a payment link is seen within minutes.
AGING: tuple[tuple[str, timedelta | None], ...] = (
    ("under 1 hour", timedelta(hours=1)),
    ("under 1 day", timedelta(days=1)),
    ("1 to 3 days", timedelta(days=4)),
    ("4 to 7 days", timedelta(days=8)),
    ("8 to 30 days", timedelta(days=31)),
    ("31 to 60 days", timedelta(days=61)),
    ("61 to 90 days", timedelta(days=91)),
    ("over 90 days", None),
)
"""Name of each aging bucket, and the age at which the next begins."""


def aging(age: timedelta) -> str:
    """The bucket of an age."""
    return next(name for name, until in AGING if until is None or age < until)


class StepKind(StrEnum):
    """What happened to a discrepancy."""

    OPENED = "opened"
    CHANGED = "changed"
    REOPENED = "reopened"
    INVESTIGATED = "investigated"
    ASSIGNED = "assigned"
    COMMENTED = "commented"
    EVIDENCE_ADDED = "evidence_added"
    RESOLVED = "resolved"
    WRITE_OFF_PROPOSED = "write_off_proposed"
    WRITE_OFF_APPROVED = "write_off_approved"
    WRITE_OFF_REJECTED = "write_off_rejected"
    WRITE_OFF_WITHDRAWN = "write_off_withdrawn"
    WRITE_OFF_VOIDED = "write_off_voided"


@dataclass(frozen=True, slots=True)
class WriteOff:
    """A difference accepted, or to be: amount in the discrepancy's currency, 0 where no money can be named."""

    amount: Decimal
    reason: Reason
    proposed_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a discrepancy stands.

    proposed: a write-off that waits for a second person, None when none does. written_off: the one in force, None
    unless the state is WRITTEN_OFF. owner: who looks after it, None for nobody. reason: why it was closed, None while
    it is open, and of what a release before 0009 closed.
    """

    difference: Difference
    state: State = State.OPEN
    owner: str | None = None
    reason: Reason | None = None
    proposed: WriteOff | None = None
    written_off: WriteOff | None = None

    @property
    def is_closed(self) -> bool:
        """Whether a decision was taken."""
        return self.state in (State.RESOLVED, State.WRITTEN_OFF)


@dataclass(frozen=True, slots=True)
class Tolerated:
    """A difference that the rules allow (`domain.rules`). rules: those that say so, with their limits, in words."""

    version: int
    rules: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happened, and where the discrepancy stands after it. None: not of this kind of step."""

    kind: StepKind
    after: Standing
    reason: Reason | None = None
    comment: str | None = None
    evidence: str | None = None
    write_off: WriteOff | None = None
    tolerated: Tolerated | None = None


def opened(difference: Difference, tolerated: Tolerated | None) -> tuple[Step, ...]:
    """A check sees a difference for the first time. tolerated: by which rules it needs no decision, None if it does."""
    first = Step(kind=StepKind.OPENED, after=Standing(difference=difference))
    return (
        (first,)
        if tolerated is None
        else (first, *_resolved(first.after, Reason.WITHIN_TOLERANCE, tolerated))
    )


def seen(
    standing: Standing,
    difference: Difference,
    tolerated: Tolerated | None,
    *,
    tolerated_anew: Tolerated | None,
) -> tuple[Step, ...]:
    """A check sees the difference again. No step when nothing is new.

    What was written off stays so while it is the same difference and no more is at risk than was accepted. What was
    resolved and is seen again recurs, whoever resolved it: a difference that stays, and is to stay, is written off. A
    test of an instance that Wix does not know stays resolved.
    tolerated, tolerated_anew: what the rules say of it at its age, and of one that recurs only now.
    """
    if standing.written_off is not None:
        if _covers(standing.written_off, standing.difference, difference):
            return ()
        return _reopened(standing, difference, tolerated)
    if standing.reason is Reason.WITHIN_TOLERANCE:
        if tolerated is None:
            return _reopened(standing, difference, None)
        if not _says_other(standing.difference, difference):
            return ()
        return _resolved(replace(standing, difference=difference), Reason.WITHIN_TOLERANCE, tolerated)
    if _is_test_of_nobody(standing, difference):
        return ()
    if standing.is_closed:
        return _reopened(standing, difference, tolerated_anew)
    if tolerated is not None:
        return _resolved(replace(standing, difference=difference), Reason.WITHIN_TOLERANCE, tolerated)
    if not _says_other(standing.difference, difference):
        return ()
    voided = _voided(standing)
    before = voided[-1].after if voided else standing
    return (*voided, Step(kind=StepKind.CHANGED, after=replace(before, difference=difference)))


def _is_test_of_nobody(standing: Standing, difference: Difference) -> bool:
    """Whether it is a test of the developers' dashboard that a person called so: Wix will never know its instance.

    It has no end of its own, and nothing to write off: no money moved.
    """
    return (
        difference.type is DiscrepancyType.UNKNOWN_INSTANCE
        and standing.reason is Reason.TEST_DATA
        and not _says_other(standing.difference, difference)
    )


def is_new_life(standing: Standing) -> bool:
    """Whether what is seen again now had gone, or was said to have: its age counts from now."""
    return standing.state is State.RESOLVED and standing.reason is not Reason.WITHIN_TOLERANCE


def absent(standing: Standing) -> tuple[Step, ...]:
    """A check of a settled link does not see the difference any more: it is over, whatever was decided about it.

    What was written off was not lost after all, so the write-off is taken back.
    """
    is_over = standing.state is State.RESOLVED and standing.reason is not Reason.WITHIN_TOLERANCE
    return () if is_over else _resolved(standing, Reason.CAUGHT_UP, None)


def _reopened(standing: Standing, difference: Difference, tolerated: Tolerated | None) -> tuple[Step, ...]:
    after = Standing(difference=difference, owner=standing.owner)
    step = Step(kind=StepKind.REOPENED, after=after)
    return (step,) if tolerated is None else (step, *_resolved(after, Reason.WITHIN_TOLERANCE, tolerated))


def _resolved(standing: Standing, reason: Reason, tolerated: Tolerated | None) -> tuple[Step, ...]:
    voided = _voided(standing)
    after = replace(standing, state=State.RESOLVED, reason=reason, proposed=None, written_off=None)
    return (*voided, Step(kind=StepKind.RESOLVED, after=after, reason=reason, tolerated=tolerated))


def _voided(standing: Standing) -> tuple[Step, ...]:
    """A proposal about what is no longer the case cannot be approved."""
    if standing.proposed is None:
        return ()
    after = replace(standing, proposed=None)
    return (Step(kind=StepKind.WRITE_OFF_VOIDED, after=after, write_off=standing.proposed),)


def _says_other(known: Difference, now: Difference) -> bool:
    return (known.severity, known.sides, known.amount_at_risk, known.currency) != (
        *(now.severity, now.sides, now.amount_at_risk, now.currency),
    )


def _covers(write_off: WriteOff, known: Difference, now: Difference) -> bool:
    """Whether the difference is what was accepted: as grave, in the same direction, and no larger.

    A total moves with every payment of its link, so what each side says may change; where no direction can be told, it
    must not.
    """
    known_way, now_way = known.sides.get(DIFFERENCE, ""), now.sides.get(DIFFERENCE, "")
    if not known_way or not now_way or now.amount_at_risk is None:
        return not _says_other(known, now)
    return (
        known.severity is now.severity
        and known.currency == now.currency
        and known_way[:1] == now_way[:1]
        and now.amount_at_risk <= write_off.amount
    )


# What a person may do. Texts are at most TEXT_MAX letters, names NAME_MAX.


@dataclass(frozen=True, slots=True)
class Investigate:
    """Take it up: whoever does so is its owner unless it has one."""


@dataclass(frozen=True, slots=True)
class Assign:
    """Give it to somebody. owner: None for nobody."""

    owner: str | None


@dataclass(frozen=True, slots=True)
class Comment:
    """Say something about it."""

    text: str


@dataclass(frozen=True, slots=True)
class AddEvidence:
    """Point to what shows how it is. url: http or https."""

    url: str


@dataclass(frozen=True, slots=True)
class Resolve:
    """Close it: the difference is gone, or both sides are right. EXPLAINED asks for a comment."""

    reason: Reason
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class ProposeWriteOff:
    """Ask a second person to accept all that is at risk. amount: what the person believes that is, None not to say."""

    reason: Reason
    amount: Decimal | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class ApproveWriteOff:
    """Accept what another person proposed."""

    comment: str | None = None


@dataclass(frozen=True, slots=True)
class RejectWriteOff:
    """Refuse what another person proposed."""

    comment: str


@dataclass(frozen=True, slots=True)
class WithdrawWriteOff:
    """Take one's own proposal back."""

    comment: str | None = None


@dataclass(frozen=True, slots=True)
class Reopen:
    """Look at it again after all."""

    comment: str


Action: TypeAlias = (
    Investigate
    | Assign
    | Comment
    | AddEvidence
    | Resolve
    | ProposeWriteOff
    | ApproveWriteOff
    | RejectWriteOff
    | WithdrawWriteOff
    | Reopen
)


def act(standing: Standing, action: Action, *, actor: str, limits: Mapping[str, Decimal]) -> Step:
    """What a person does about a discrepancy. Raises NotAllowed, which says why and what can be done instead.

    actor: a person's name. limits: by currency, the most that may be written off of one discrepancy; a currency that
    is not named has no limit.
    """
    check_person(actor)
    match action:
        case Comment(text):
            return Step(kind=StepKind.COMMENTED, after=standing, comment=_text(text))
        case AddEvidence(url):
            if not _URL.fullmatch(url):
                raise NotAllowed("evidence is a link: write it whole, beginning with https://")
            return Step(kind=StepKind.EVIDENCE_ADDED, after=standing, evidence=_text(url))
        case Reopen(comment):
            if not standing.is_closed:
                raise NotAllowed("it is open: nothing was decided that could be taken back")
            after = Standing(difference=standing.difference, owner=standing.owner)
            return Step(kind=StepKind.REOPENED, after=after, comment=_text(comment))
        case ApproveWriteOff(comment):
            proposed = _proposed(standing)
            if is_same_person(proposed.proposed_by, actor):
                raise NotAllowed("whoever proposes a write-off does not approve it: another person must")
            # Limits may have been lowered since.
            _write_off_amount(standing.difference, proposed.amount, limits)
            after = replace(
                standing,
                state=State.WRITTEN_OFF,
                reason=proposed.reason,
                proposed=None,
                written_off=proposed,
            )
            return Step(
                kind=StepKind.WRITE_OFF_APPROVED,
                after=after,
                reason=proposed.reason,
                comment=_text_or_none(comment),
                write_off=proposed,
            )
        case RejectWriteOff(comment):
            proposed = _proposed(standing)
            if is_same_person(proposed.proposed_by, actor):
                raise NotAllowed("it is your own proposal: withdraw it instead")
            after = replace(standing, proposed=None)
            return Step(
                kind=StepKind.WRITE_OFF_REJECTED, after=after, comment=_text(comment), write_off=proposed
            )
        case WithdrawWriteOff(comment):
            proposed = _proposed(standing)
            if not is_same_person(proposed.proposed_by, actor):
                raise NotAllowed(f"{proposed.proposed_by} proposed it: reject it instead")
            after = replace(standing, proposed=None)
            return Step(
                kind=StepKind.WRITE_OFF_WITHDRAWN,
                after=after,
                comment=_text_or_none(comment),
                write_off=proposed,
            )
        case Investigate() | Assign() | Resolve() | ProposeWriteOff():
            if standing.is_closed:
                raise NotAllowed(f"it is {standing.state.replace('_', ' ')}: reopen it first")
            return _act_on_open(standing, action, actor=actor, limits=limits)
        case _:
            assert_never(action)


def _act_on_open(
    standing: Standing,
    action: Investigate | Assign | Resolve | ProposeWriteOff,
    *,
    actor: str,
    limits: Mapping[str, Decimal],
) -> Step:
    match action:
        case Investigate():
            if standing.state is State.INVESTIGATING:
                raise NotAllowed(f"it is investigated already, by {standing.owner or 'nobody named'}")
            after = replace(standing, state=State.INVESTIGATING, owner=standing.owner or actor)
            return Step(kind=StepKind.INVESTIGATED, after=after)
        case Assign(owner):
            if owner is not None:
                check_person(owner)
            if owner == standing.owner:
                raise NotAllowed("nobody has it" if owner is None else f"{owner} has it already")
            return Step(kind=StepKind.ASSIGNED, after=replace(standing, owner=owner))
        case Resolve(reason, comment):
            _check_reason(reason, RESOLVING, "resolve")
            if standing.proposed is not None:
                raise NotAllowed("a write-off of it waits for approval: reject or withdraw that first")
            if reason is Reason.EXPLAINED and not comment:
                raise NotAllowed("say in a comment why both sides are right")
            after = replace(standing, state=State.RESOLVED, reason=reason)
            return Step(kind=StepKind.RESOLVED, after=after, reason=reason, comment=_text_or_none(comment))
        case ProposeWriteOff(reason, amount, comment):
            _check_reason(reason, WRITING_OFF, "write it off")
            if standing.proposed is not None:
                raise NotAllowed("a write-off of it waits for approval: reject or withdraw that first")
            write_off = WriteOff(_write_off_amount(standing.difference, amount, limits), reason, actor)
            return Step(
                kind=StepKind.WRITE_OFF_PROPOSED,
                after=replace(standing, proposed=write_off),
                reason=reason,
                comment=_text_or_none(comment),
                write_off=write_off,
            )
        case _:
            assert_never(action)


def _write_off_amount(
    difference: Difference, amount: Decimal | None, limits: Mapping[str, Decimal]
) -> Decimal:
    risk, currency = difference.amount_at_risk, difference.currency
    if risk is None or currency is None:
        if amount:
            raise NotAllowed("no money can be named for it, so it is written off without an amount")
        return Decimal(0)
    written = risk if amount is None else amount
    # Less would leave a difference that is open and closed at once; more would be money from nowhere.
    if written != risk:
        raise NotAllowed(
            f"{shown(risk, currency)} {currency} are at risk, and all of it is written off or nothing"
        )
    limit = limits.get(currency)
    if limit is not None and written > limit:
        raise NotAllowed(
            f"at most {shown(limit, currency)} {currency} may be written off of one discrepancy;"
            f" {shown(written, currency)} {currency} are at risk"
        )
    return written


def _proposed(standing: Standing) -> WriteOff:
    if standing.proposed is None or standing.is_closed:
        raise NotAllowed("no write-off of it waits for approval")
    return standing.proposed


def _check_reason(reason: Reason, allowed: frozenset[Reason], what: str) -> None:
    if reason not in allowed:
        raise NotAllowed(f"{reason} is no reason to {what}: choose of {', '.join(sorted(allowed))}")


def check_person(name: str) -> None:
    """Raises NotAllowed unless it is a person's name.

    Names that only look alike would pass for two persons, so there are no others than what NFKC leaves as it is.
    """
    if not name or len(name) > NAME_MAX or name != unicodedata.normalize("NFKC", name).strip():
        raise NotAllowed(
            f"a name is 1 to {NAME_MAX} letters, without blanks around them or compatibility letters"
        )
    if not all(letter.isalnum() or letter in " ._@+-'" for letter in name):
        raise NotAllowed("a name has letters, digits, blanks and . _ @ + - ' alone")
    if is_same_person(name, AUTOMATION):
        raise NotAllowed(f"{AUTOMATION} is what checks are called: act under a person's name")


def is_same_person(one: str, other: str) -> bool:
    """Whether two names are one person's."""
    return one.casefold() == other.casefold()


def _text(text: str) -> str:
    if not text.strip() or len(text) > TEXT_MAX or "\0" in text:
        raise NotAllowed(f"write 1 to {TEXT_MAX} letters")
    return text.strip()


def _text_or_none(text: str | None) -> str | None:
    return _text(text) if text else None
