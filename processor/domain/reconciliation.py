"""Compare what we were told, what we believe and what Wix says now, link by link. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from processor.domain.discrepancy import Difference, DiscrepancyType, Severity
from processor.domain.link import Link
from processor.domain.money import shown
from processor.domain.payment import Payment, Verdict, differences, judge


class Outcome(StrEnum):
    """How one payment stands after a check."""

    MATCHED = "matched"
    EXPECTED = "expected"
    RECOVERED = "recovered"
    DISCREPANT = "discrepant"


@dataclass(frozen=True, slots=True)
class Believed:
    """A payment as booked. changed_at: when its current version was stored here (aware, UTC)."""

    payment: Payment
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """All three sides of one link at one moment.

    believed and theirs: by payment id. believed also holds payments booked under another link that Wix
    now lists under this one. conflicting_versions: payments whose current revision was told with two
    contents. conflicting_events: ids of events that came with two bodies. unreadable: what Wix lists that
    cannot be read, by id text, with the reason. link: None when Wix does not know the link
    (`is_link_missing`) or describes it unreadably.
    unsettled_since: when a check of this link first found something still open, None if the last found
    nothing.
    """

    payment_link_id: UUID
    believed: Mapping[UUID, Believed]
    theirs: Mapping[UUID, Payment]
    link: Link | None
    is_link_missing: bool = False
    conflicting_versions: frozenset[UUID] = frozenset()
    conflicting_events: frozenset[UUID] = frozenset()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    unsettled_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What a check of one link decided.

    repairs: versions Wix has and we do not, to be applied through `judge`. is_settled: nothing is left
    that time alone may cure, so no recheck is needed for it.
    """

    payment_link_id: UUID
    outcomes: Mapping[UUID, Outcome]
    repairs: tuple[Payment, ...]
    differences: tuple[Difference, ...]
    is_settled: bool


# Facts whose difference has a name of its own; any other is a difference in detail.
_NAMED = {
    "amount": DiscrepancyType.AMOUNT_DIFFERS,
    "currency": DiscrepancyType.CURRENCY_DIFFERS,
    "payment_link_id": DiscrepancyType.LINK_DIFFERS,
    "type": DiscrepancyType.TYPE_DIFFERS,
}


def compare(books: Books, *, now: datetime, settling: timedelta) -> Findings:
    """Match one link's payments and its control total.

    A difference younger than `settling` is expected: Wix is eventually consistent, and its queries may
    show a payment later than its webhook tells of it, or the reverse (Wix docs, "Search, Query and List
    Methods", read 2026-11).
    """
    outcomes: dict[UUID, Outcome] = {}
    repairs: list[Payment] = []
    found: list[Difference] = []

    def is_young(since: datetime | None) -> bool:
        return since is not None and now - since < settling

    noticed = books.unsettled_since or now
    for payment_id in books.believed.keys() | books.theirs.keys():
        ours = books.believed.get(payment_id)
        theirs = books.theirs.get(payment_id)
        if theirs is None:
            assert ours is not None
            if ours.payment.payment_link_id != books.payment_link_id:
                continue  # booked under another link, and matched there
            if str(payment_id) in books.unreadable:
                outcomes[payment_id] = Outcome.DISCREPANT  # named below
            elif is_young(ours.changed_at):
                outcomes[payment_id] = Outcome.EXPECTED
            else:
                outcomes[payment_id] = Outcome.DISCREPANT
                found.append(_missing_at_wix(ours.payment))
            continue
        match judge(ours.payment if ours else None, theirs):
            case Verdict.NEW:
                # The webhook may still be on its way; the younger the payment, the likelier.
                if is_young(theirs.created_at or noticed):
                    outcomes[payment_id] = Outcome.EXPECTED
                else:
                    outcomes[payment_id] = Outcome.RECOVERED
                    repairs.append(theirs)
            case Verdict.NEWER:
                # Wix gives no date of change, so the age is counted from when we first noticed.
                if is_young(noticed):
                    outcomes[payment_id] = Outcome.EXPECTED
                else:
                    outcomes[payment_id] = Outcome.RECOVERED
                    repairs.append(theirs)
            case Verdict.STALE:
                assert ours is not None
                if is_young(ours.changed_at):
                    outcomes[payment_id] = Outcome.EXPECTED
                else:
                    outcomes[payment_id] = Outcome.DISCREPANT
                    found.append(_behind(ours.payment, theirs))
            case Verdict.CONFLICT:
                assert ours is not None
                outcomes[payment_id] = Outcome.DISCREPANT
                found.extend(_contradictions(books.payment_link_id, ours.payment, theirs))
            case Verdict.SAME:
                outcomes[payment_id] = Outcome.MATCHED

    for payment_id in books.conflicting_versions:
        outcomes[payment_id] = Outcome.DISCREPANT
        found.append(_plain(DiscrepancyType.VERSION_CONFLICT, books, payment_id))
    if books.conflicting_events:
        ids = ", ".join(sorted(map(str, books.conflicting_events)))
        found.append(_plain(DiscrepancyType.EVENT_CONFLICT, books, None, told=ids))
    for text, reason in books.unreadable.items():
        found.append(_plain(DiscrepancyType.UNREADABLE_AT_WIX, books, None, wix=f"{text}: {reason}"))

    is_settled = Outcome.EXPECTED not in outcomes.values()
    if books.is_link_missing:
        if is_young(noticed):
            is_settled = False
        elif books.believed:
            found.append(_plain(DiscrepancyType.LINK_MISSING, books, None, wix="not found"))
    elif books.link is not None and is_settled:
        # While a payment is still in transit the total is in transit with it.
        totals = _control_total(books, repairs)
        if totals and is_young(_latest(books, noticed)):
            is_settled = False
        else:
            found.extend(totals)
    return Findings(books.payment_link_id, outcomes, tuple(repairs), _merged(found), is_settled)


def _latest(books: Books, noticed: datetime) -> datetime:
    """When the link's books last moved, on any side; at the earliest when the difference was noticed."""
    moments = [noticed, *(one.changed_at for one in books.believed.values())]
    if books.link and books.link.last_payment_at:
        moments.append(books.link.last_payment_at)
    return max(moments)


def _control_total(books: Books, repairs: Sequence[Payment]) -> list[Difference]:
    """Wix's `totalReceived` and limit against our payments of this link, repairs included."""
    link = books.link
    assert link is not None
    ours = {
        one.payment.payment_id: one.payment
        for one in books.believed.values()
        if one.payment.payment_link_id == books.payment_link_id
    }
    ours |= {payment.payment_id: payment for payment in repairs}
    found: list[Difference] = []
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for payment in ours.values():
        sums[payment.currency] += payment.amount
    currency = link.currency or next(iter(sums), None)
    if link.total_amount is not None and currency is not None:
        booked = sums.get(currency, Decimal(0))
        if booked != link.total_amount:
            # Wix does not document whether the total falls after a refund, so less may be innocent.
            less = link.total_amount < booked
            found.append(
                Difference(
                    type=DiscrepancyType.TOTAL_DIFFERS,
                    payment_link_id=books.payment_link_id,
                    severity=Severity.INFORMATIONAL if less else Severity.ERROR,
                    sides={
                        "booked": f"{shown(booked, currency)} {currency}",
                        "wix": f"{shown(link.total_amount, currency)} {currency}",
                    },
                    amount_at_risk=abs(booked - link.total_amount),
                    currency=currency,
                )
            )
    # Whether Wix counts a purchase split over a gift card and a card once or twice is not documented:
    # any number from purchases to payments is explained.
    purchases = len(
        {payment.ecom_checkout_id or payment.ecom_order_id or id_ for id_, payment in ours.items()}
    )
    if link.payment_count is not None and not purchases <= link.payment_count <= len(ours):
        fewer = link.payment_count < purchases
        found.append(
            Difference(
                type=DiscrepancyType.COUNT_DIFFERS,
                payment_link_id=books.payment_link_id,
                severity=Severity.INFORMATIONAL if fewer else Severity.ERROR,
                sides={"booked": str(len(ours)), "wix": str(link.payment_count)},
            )
        )
    if link.payments_limit is not None and purchases > link.payments_limit:
        found.append(
            Difference(
                type=DiscrepancyType.OVER_LIMIT,
                payment_link_id=books.payment_link_id,
                sides={"booked": str(purchases), "wix": f"limit {link.payments_limit}"},
            )
        )
    return found


def _plain(type_: DiscrepancyType, books: Books, payment_id: UUID | None, **sides: str | None) -> Difference:
    ours = books.believed.get(payment_id) if payment_id else None
    return Difference(
        type=type_,
        payment_link_id=books.payment_link_id,
        payment_id=payment_id,
        sides=sides,
        amount_at_risk=ours.payment.amount if ours else None,
        currency=ours.payment.currency if ours else None,
    )


def _missing_at_wix(ours: Payment) -> Difference:
    return Difference(
        type=DiscrepancyType.MISSING_AT_WIX,
        payment_link_id=ours.payment_link_id,
        payment_id=ours.payment_id,
        sides={"booked": f"{shown(ours.amount, ours.currency)} {ours.currency}", "wix": None},
        amount_at_risk=ours.amount,
        currency=ours.currency,
    )


def _behind(ours: Payment, theirs: Payment) -> Difference:
    return Difference(
        type=DiscrepancyType.BEHIND_AT_WIX,
        payment_link_id=ours.payment_link_id,
        payment_id=ours.payment_id,
        sides={"booked": f"revision {ours.revision}", "wix": f"revision {theirs.revision}"},
        currency=ours.currency,
    )


def _contradictions(link_id: UUID, ours: Payment, theirs: Payment) -> list[Difference]:
    found: list[Difference] = []
    for name in differences(ours, theirs):
        risk = abs(ours.amount - theirs.amount) if name == "amount" else ours.amount
        found.append(
            Difference(
                type=_NAMED.get(name, DiscrepancyType.DETAIL_DIFFERS),
                payment_link_id=link_id,
                payment_id=ours.payment_id,
                sides={
                    "field": name,
                    "booked": _side(ours, name),
                    "wix": _side(theirs, name),
                },
                amount_at_risk=risk if name in _NAMED else None,
                currency=ours.currency,
            )
        )
    return found


def _side(payment: Payment, name: str) -> str:
    if name == "amount":
        return f"{shown(payment.amount, payment.currency)} {payment.currency}"
    return str(getattr(payment, name))


def _merged(found: Sequence[Difference]) -> tuple[Difference, ...]:
    """One difference per identity: several differing details of a payment are one row, the first named."""
    by_identity: dict[tuple[DiscrepancyType, UUID | None], Difference] = {}
    for difference in found:
        by_identity.setdefault((difference.type, difference.payment_id), difference)
    return tuple(by_identity.values())


def next_check(
    *, is_settled: bool, has_differences: bool, attempt: int, gaps: Sequence[float]
) -> float | None:
    """Seconds until a link is checked again, None when nothing is left to wait for.

    attempt: how many checks in a row have ended unsettled before this one. gaps: growing waits; the
    last is repeated. A discrepancy is looked at again at the longest gap, since Wix may yet catch up.
    """
    if not is_settled:
        return gaps[min(attempt, len(gaps) - 1)]
    return gaps[-1] if has_differences else None
