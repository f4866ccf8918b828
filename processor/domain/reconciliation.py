"""Compare what we were told, what we believe and what Wix says now, link by link. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from processor.domain.discrepancy import DIFFERENCE, Difference, DiscrepancyType, Severity
from processor.domain.link import Link
from processor.domain.money import shown
from processor.domain.payment import Payment, Verdict, differences, judge
from processor.domain.refund import Refund, RefundStatus
from processor.domain.rules import NOTHING_ASSUMED, Assumptions


class Outcome(StrEnum):
    """How one payment stands after a check."""

    MATCHED = "matched"
    EXPECTED = "expected"
    RECOVERED = "recovered"
    DISCREPANT = "discrepant"


class Recovery(StrEnum):
    """Why a check had to book a payment, or move it forward."""

    WEBHOOK_MISSED = "webhook_missed"
    WEBHOOK_LATE = "webhook_late"
    UPDATE_UNANNOUNCED = "update_unannounced"


RECOVERIES: dict[Recovery, str] = {
    Recovery.WEBHOOK_MISSED: "No webhook told of the payment.",
    Recovery.WEBHOOK_LATE: "Its webhook came after a check had found it.",
    Recovery.UPDATE_UNANNOUNCED: "No webhook told of a change that a check found.",
}


def recovery(*, is_new: bool, recovered: int, told: int | None) -> Recovery:
    """Why a payment had to be recovered, as far as is known by now.

    is_new: whether a check told of it first. recovered: the highest revision a check booked. told: the highest that a
    webhook or a replay told of, None when none did. `store.matching` says the same in SQL.
    """
    if told is None and is_new:
        return Recovery.WEBHOOK_MISSED
    return Recovery.WEBHOOK_LATE if told is not None and told >= recovered else Recovery.UPDATE_UNANNOUNCED


@dataclass(frozen=True, slots=True)
class Believed:
    """A payment as booked. changed_at: when its current version was stored here (aware, UTC)."""

    payment: Payment
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One payment of one link, as booked and as Wix lists it.

    ours: None when it is not booked at all; it may be booked under another link. theirs: None when Wix does
    not list it under this link. is_unreadable: Wix lists it, and it cannot be read.
    has_version_conflict: its current revision was told with two contents.
    """

    payment_link_id: UUID
    payment_id: UUID
    ours: Believed | None
    theirs: Payment | None
    is_unreadable: bool = False
    has_version_conflict: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """What one pair comes to. outcome: None when it is matched under another link, or neither side can be read.

    repair: the version Wix has and we do not, to be applied through `judge`.
    """

    outcome: Outcome | None
    repair: Payment | None = None
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True)
class Totals:
    """The payments booked under one link, repairs included.

    purchases: how many different checkouts and orders they are of. sums, counts: by currency. changed_at: when
    the last of them that this check did not repair was stored, None when there is none. last_paid_at, last_created_at:
    of the latest of them, None when there is none, or one does not say.
    """

    payments: int = 0
    purchases: int = 0
    sums: Mapping[str, Decimal] = field(default_factory=dict)
    changed_at: datetime | None = None
    last_paid_at: datetime | None = None
    last_created_at: datetime | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A payment that pays for what another one paid already: `of_id`, the earlier."""

    payment_id: UUID
    of_id: UUID
    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Late:
    """A payment made at `paid_at`, after its link had closed."""

    payment_id: UUID
    paid_at: datetime
    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Unheard:
    """A payment made at `created_at` that checks alone told of, though Wix sends no webhook of it again by now."""

    payment_id: UUID
    created_at: datetime
    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Refunded:
    """A payment of which refunds succeeded.

    amount: their sum, None when one of them cannot be read or is in another currency. is_whole: whether nothing of the
    payment is left. told_at: when the last was heard of here.
    """

    payment_id: UUID
    amount: Decimal | None
    currency: str
    is_whole: bool
    told_at: datetime


def closed_since(link: Link, inactive_since: datetime | None) -> datetime | None:
    """From when on the link takes no payments: its expiry, or when we first saw it deactivated. None: it may take them.

    inactive_since: None when it was not seen deactivated. That it expired says its date; its status follows later.
    """
    moments = [link.expires_at, inactive_since if link.status == INACTIVE else None]
    return min((moment for moment in moments if moment is not None), default=None)


ACTIVE, INACTIVE, EXPIRED, PAID = "ACTIVE", "INACTIVE", "EXPIRED", "PAID"
"""What Wix documents a link's status to be; of any other nothing is concluded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkBooks:
    """Everything of a link but its single payments, all of which have been matched.

    link: None when Wix does not know the link (`is_link_missing`) or describes it unreadably.
    conflicting_events: ids of events that came with two bodies. unreadable: what Wix lists that cannot be
    read, by id text, with the reason. unsettled_since: when a check of this link first found something still
    open, None if the last found nothing. has_expected: whether time may yet cure one of its payments.
    open_types: of discrepancies of the link itself that are open already; their difference is not new. closed_at: as of
    `closed_since`. duplicates, late: of the payments booked under it. previous_status: that Wix gave before the one it
    gives now, None when it gave no other. unheard, refunded: of the payments booked under it.
    """

    payment_link_id: UUID
    totals: Totals
    link: Link | None
    is_link_missing: bool = False
    conflicting_events: frozenset[UUID] = frozenset()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    unsettled_since: datetime | None = None
    has_expected: bool = False
    open_types: frozenset[DiscrepancyType] = frozenset()
    closed_at: datetime | None = None
    duplicates: Sequence[Duplicate] = ()
    late: Sequence[Late] = ()
    previous_status: str | None = None
    unheard: Sequence[Unheard] = ()
    refunded: Sequence[Refunded] = ()


# Facts whose difference has a name of its own; any other is a difference in detail.
_NAMED = {
    "amount": DiscrepancyType.AMOUNT_DIFFERS,
    "currency": DiscrepancyType.CURRENCY_DIFFERS,
    "payment_link_id": DiscrepancyType.LINK_DIFFERS,
    "type": DiscrepancyType.TYPE_DIFFERS,
}


def match(pair: Pair, *, now: datetime, settling: timedelta, unsettled_since: datetime | None) -> Match:
    """Match one payment.

    A difference younger than `settling` is expected: Wix is eventually consistent, and its queries may
    show a payment later than its webhook tells of it, or the reverse (Wix docs, "Search, Query and List
    Methods", read 2026-11). unsettled_since: of its link.
    """
    ours, theirs = pair.ours, pair.theirs
    noticed = unsettled_since or now

    def is_young(since: datetime) -> bool:
        return now - since < settling

    outcome: Outcome | None = None
    repair: Payment | None = None
    found: list[Difference] = []
    if theirs is None:
        if ours is not None and ours.payment.payment_link_id == pair.payment_link_id:
            if pair.is_unreadable:
                outcome = Outcome.DISCREPANT  # named with its link
            elif is_young(ours.changed_at):
                outcome = Outcome.EXPECTED
            else:
                outcome = Outcome.DISCREPANT
                found.append(_missing_at_wix(ours.payment))
    else:
        match judge(ours.payment if ours else None, theirs):
            case Verdict.NEW:
                # The webhook may still be on its way; the younger the payment, the likelier.
                outcome = Outcome.EXPECTED if is_young(theirs.created_at or noticed) else Outcome.RECOVERED
            case Verdict.NEWER:
                # Wix gives no date of change, so the age is counted from when we first noticed.
                outcome = Outcome.EXPECTED if is_young(noticed) else Outcome.RECOVERED
            case Verdict.STALE:
                assert ours is not None
                if is_young(ours.changed_at):
                    outcome = Outcome.EXPECTED
                else:
                    outcome = Outcome.DISCREPANT
                    found.append(_behind(pair.payment_link_id, ours.payment, theirs))
            case Verdict.CONFLICT:
                assert ours is not None
                outcome = Outcome.DISCREPANT
                found.extend(_contradictions(pair.payment_link_id, ours.payment, theirs))
            case Verdict.SAME:
                outcome = Outcome.MATCHED
    if outcome is Outcome.RECOVERED:
        repair = theirs
    if pair.has_version_conflict:
        assert ours is not None
        outcome = Outcome.DISCREPANT
        found.append(
            Difference(
                type=DiscrepancyType.VERSION_CONFLICT,
                payment_link_id=pair.payment_link_id,
                payment_id=pair.payment_id,
                amount_at_risk=ours.payment.amount,
                currency=ours.payment.currency,
            )
        )
    return Match(outcome, repair, _merged(found))


BY_EVENTS_ALONE = frozenset((DiscrepancyType.PAYMENT_WITHOUT_EVENT,))
"""Types that only an event can end, which asks for a check itself: to look again helps nothing."""
BY_DESCRIPTION = frozenset(
    (
        DiscrepancyType.TOTAL_DIFFERS,
        DiscrepancyType.COUNT_DIFFERS,
        DiscrepancyType.OVER_LIMIT,
        DiscrepancyType.ORDER_AMOUNT_DIFFERS,
        DiscrepancyType.PAID_WHILE_INACTIVE,
        DiscrepancyType.LAST_PAYMENT_DIFFERS,
        DiscrepancyType.STATUS_DIFFERS,
        DiscrepancyType.REFUND_ON_ORDER_ONLY,
    )
)
"""Types that only Wix's description of a link can show, or show to be over: without one nothing is known of them."""


def unknown_of(link: Link | None) -> frozenset[DiscrepancyType]:
    """Types of which nothing is known by this description, so that they are not over either. None: there is none."""
    if link is None:
        return BY_DESCRIPTION
    told = {
        DiscrepancyType.TOTAL_DIFFERS: link.total_amount,
        DiscrepancyType.REFUND_ON_ORDER_ONLY: link.total_amount,
        DiscrepancyType.COUNT_DIFFERS: link.payment_count,
        DiscrepancyType.ORDER_AMOUNT_DIFFERS: link.order_amount,
        DiscrepancyType.LAST_PAYMENT_DIFFERS: link.last_payment_at,
    }
    return frozenset(type_ for type_, value in told.items() if value is None)


def match_link(
    books: LinkBooks, *, now: datetime, settling: timedelta, assumptions: Assumptions = NOTHING_ASSUMED
) -> tuple[tuple[Difference, ...], bool]:
    """Match a link itself: its description, its control total, and what hangs on no single payment.

    Returns the differences, and whether nothing is left that time alone may cure.
    """
    found: list[Difference] = []

    def add(type_: DiscrepancyType, **sides: str | None) -> None:
        found.append(Difference(type=type_, payment_link_id=books.payment_link_id, sides=sides))

    found.extend(_unheard(books))
    if books.conflicting_events:
        add(DiscrepancyType.EVENT_CONFLICT, told=", ".join(sorted(map(str, books.conflicting_events))))
    for text, reason in books.unreadable.items():
        add(DiscrepancyType.UNREADABLE_AT_WIX, wix=f"{text}: {reason}")

    is_settled = not books.has_expected
    noticed = books.unsettled_since or now
    if books.is_link_missing:
        if now - noticed < settling and DiscrepancyType.LINK_MISSING not in books.open_types:
            is_settled = False
        elif books.totals.payments:
            add(DiscrepancyType.LINK_MISSING, wix="not found")
    elif books.link is not None and is_settled:
        # While a payment is still in transit the total is in transit with it.
        differing = [
            *_control_total(books, books.link, assumptions),
            *_last_payment(books, books.link, assumptions),
            *_status(books, books.link, assumptions, now),
        ]
        # When the books last moved, on any side; or when the difference was noticed.
        moved = [books.totals.changed_at, books.link.last_payment_at]
        if not {one.type for one in differing} <= books.open_types:
            moved.append(noticed)
        if differing and any(moment is not None and now - moment < settling for moment in moved):
            is_settled = False
        else:
            found.extend(differing)
            unshown = _unshown_refunds(books, books.link)
            # Wix's total may follow yet.
            if any(now - one.told_at < settling for one in unshown):
                is_settled = False
            else:
                found.extend(_refund_on_order_only(books.payment_link_id, one) for one in unshown)
    if is_settled:
        found.extend(_duplicates(books))
        found.extend(_late(books, assumptions))
    return _merged(found), is_settled


def _duplicates(books: LinkBooks) -> Iterator[Difference]:
    for one in books.duplicates:
        yield Difference(
            type=DiscrepancyType.DUPLICATE_PAYMENT,
            payment_link_id=books.payment_link_id,
            payment_id=one.payment_id,
            sides={"booked": f"{shown(one.amount, one.currency)} {one.currency}, as payment {one.of_id}"},
            amount_at_risk=one.amount,
            currency=one.currency,
        )


def _unheard(books: LinkBooks) -> Iterator[Difference]:
    for one in books.unheard:
        # The money is booked; only its delivery failed.
        yield Difference(
            type=DiscrepancyType.PAYMENT_WITHOUT_EVENT,
            payment_link_id=books.payment_link_id,
            payment_id=one.payment_id,
            severity=Severity.INFORMATIONAL,
            sides={
                "booked": f"{shown(one.amount, one.currency)} {one.currency}, made {_moment(one.created_at)}",
                "wix": "no event",
            },
        )


def _late(books: LinkBooks, assumptions: Assumptions) -> Iterator[Difference]:
    if assumptions.checkout_outlives_link is True or books.closed_at is None:
        return
    # How long a checkout begun in time may take is not documented.
    is_innocent = assumptions.checkout_outlives_link is not False
    for one in books.late:
        yield Difference(
            type=DiscrepancyType.PAID_WHILE_INACTIVE,
            payment_link_id=books.payment_link_id,
            payment_id=one.payment_id,
            severity=Severity.INFORMATIONAL if is_innocent else Severity.ERROR,
            sides={"booked": f"paid {_moment(one.paid_at)}", "wix": f"closed {_moment(books.closed_at)}"},
            amount_at_risk=one.amount,
            currency=one.currency,
        )


def _last_payment(books: LinkBooks, link: Link, assumptions: Assumptions) -> Iterator[Difference]:
    """Wix's date of the last payment against our latest."""
    shown_at = link.last_payment_at
    # What cannot be read may be the last.
    if shown_at is None or books.unreadable:
        return
    # Which of the two dates Wix means is not documented.
    dates = {True: books.totals.last_paid_at, False: books.totals.last_created_at}
    is_transaction = assumptions.last_payment_is_transaction
    possible = {
        moment
        for meaning, moment in dates.items()
        if moment is not None and is_transaction in (None, meaning)
    }
    if not possible or any(abs(moment - shown_at) < _SECOND for moment in possible):
        return
    yield Difference(
        type=DiscrepancyType.LAST_PAYMENT_DIFFERS,
        payment_link_id=books.payment_link_id,
        severity=Severity.INFORMATIONAL if is_transaction is None else Severity.ERROR,
        sides={"booked": " or ".join(map(_moment, sorted(possible))), "wix": _moment(shown_at)},
    )


_SECOND = timedelta(seconds=1)


def _status(books: LinkBooks, link: Link, assumptions: Assumptions, now: datetime) -> Iterator[Difference]:
    """What Wix says a link is, against its payments, its limit, its expiry, and what it said before."""
    if assumptions.status_follows_facts is False:
        return
    least, most = _counts(books.totals, assumptions)
    # A count that Wix shows and we do not have is a difference of its own.
    counted = link.payment_count
    limit, expires_at = link.payments_limit, link.expires_at
    against: list[str] = []
    match link.status:
        case "ACTIVE":
            if limit is not None and min(least, least if counted is None else counted) >= limit:
                against.append(f"paid {least} times of {limit}")
            if expires_at is not None and expires_at <= now:
                against.append(f"expired {_moment(expires_at)}")
        case "PAID":
            paid = max(most, counted or 0)
            if paid < (limit or 1):
                against.append(f"paid {paid} times" + (f" of {limit}" if limit else ""))
        case "EXPIRED":
            if expires_at is not None and expires_at > now:
                against.append(f"expires {_moment(expires_at)}")
    status = str(link.status)
    if books.previous_status in (PAID, EXPIRED) and link.status in (ACTIVE, INACTIVE):
        against.append("no way back")
        status = f"{books.previous_status}, then {status}"
    if against:
        yield Difference(
            type=DiscrepancyType.STATUS_DIFFERS,
            payment_link_id=books.payment_link_id,
            severity=Severity.ERROR if assumptions.status_follows_facts else Severity.INFORMATIONAL,
            sides={"booked": "; ".join(against), "wix": status},
        )


def _counts(totals: Totals, assumptions: Assumptions) -> tuple[int, int]:
    """The least and the most that Wix may count: a purchase may be split over a gift card and a card."""
    least = totals.payments if assumptions.split_counts_once is False else totals.purchases
    most = totals.purchases if assumptions.split_counts_once is True else totals.payments
    return least, most


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _currency(link: Link, totals: Totals) -> str | None:
    """Of the link's total: one without a currency is of the only one there is. None when it cannot be told."""
    return link.currency or (next(iter(totals.sums)) if len(totals.sums) == 1 else None)


def _unshown_refunds(books: LinkBooks, link: Link) -> list[Refunded]:
    """Payments that were refunded though Wix's total is still that of all payments."""
    currency = _currency(link, books.totals)
    if currency is None or link.total_amount != books.totals.sums.get(currency, Decimal(0)):
        return []
    return [one for one in books.refunded if one.currency == currency]


def _refund_on_order_only(payment_link_id: UUID, one: Refunded) -> Difference:
    refunded = None if one.amount is None else f"refunded {shown(one.amount, one.currency)} {one.currency}"
    return Difference(
        type=DiscrepancyType.REFUND_ON_ORDER_ONLY,
        payment_link_id=payment_link_id,
        payment_id=one.payment_id,
        severity=Severity.INFORMATIONAL,
        # Only the sum of its payments, which are gross, is as if there had been no refund.
        sides={
            "booked": refunded,
            "wix": "not in the link's total",
            "told": refunded or "refunded an amount that cannot be booked",
        },
        amount_at_risk=one.amount,
        currency=one.currency if one.amount is not None else None,
    )


def _is_of_refunds(books: LinkBooks, link: Link, currency: str, assumptions: Assumptions) -> bool:
    """Whether the total fell by exactly what was refunded, and is known to."""
    amounts = [one.amount for one in books.refunded if one.currency == currency]
    if assumptions.total_falls_on_refund is not True or not amounts or link.total_amount is None:
        return False
    known = [amount for amount in amounts if amount is not None]
    booked = books.totals.sums.get(currency, Decimal(0))
    return len(known) == len(amounts) and booked - sum(known) == link.total_amount


def _control_total(books: LinkBooks, link: Link, assumptions: Assumptions) -> list[Difference]:
    """Wix's `totalReceived` and limit against our payments of this link."""
    found: list[Difference] = []
    payment_link_id, totals = books.payment_link_id, books.totals
    currency = _currency(link, totals)
    if link.total_amount is not None and currency is not None:
        booked = totals.sums.get(currency, Decimal(0))
        if booked != link.total_amount and not _is_of_refunds(books, link, currency, assumptions):
            # Unless it is known that a total stays as it is after a refund, less may be innocent.
            is_innocent = link.total_amount < booked and assumptions.total_falls_on_refund is not False
            found.append(
                Difference(
                    type=DiscrepancyType.TOTAL_DIFFERS,
                    payment_link_id=payment_link_id,
                    severity=Severity.INFORMATIONAL if is_innocent else Severity.ERROR,
                    sides=_sized(booked, link.total_amount, currency),
                    amount_at_risk=abs(booked - link.total_amount),
                    currency=currency,
                    base_amount=booked,
                )
            )
    # What an order's link asks for is fixed; an item's price is not what a buyer pays in the end.
    if link.order_amount is not None and currency is not None and totals.payments:
        paid = totals.sums.get(currency, Decimal(0))
        if paid != link.order_amount:
            found.append(
                Difference(
                    type=DiscrepancyType.ORDER_AMOUNT_DIFFERS,
                    payment_link_id=payment_link_id,
                    sides=_sized(paid, link.order_amount, currency),
                    amount_at_risk=abs(paid - link.order_amount),
                    currency=currency,
                    base_amount=paid,
                )
            )
    least, most = _counts(totals, assumptions)
    if assumptions.total_falls_on_refund is True:
        # A payment that was given back whole may be counted no more.
        least -= sum(one.is_whole for one in books.refunded)
    if link.payment_count is not None and not least <= link.payment_count <= most:
        # A count may fall after a refund as the total may.
        is_innocent = link.payment_count < least and assumptions.total_falls_on_refund is not False
        found.append(
            Difference(
                type=DiscrepancyType.COUNT_DIFFERS,
                payment_link_id=payment_link_id,
                severity=Severity.INFORMATIONAL if is_innocent else Severity.ERROR,
                sides={"booked": str(totals.payments), "wix": str(link.payment_count)},
            )
        )
    if link.payments_limit is not None and totals.purchases > link.payments_limit:
        found.append(
            Difference(
                type=DiscrepancyType.OVER_LIMIT,
                payment_link_id=payment_link_id,
                sides={"booked": str(totals.purchases), "wix": f"limit {link.payments_limit}"},
            )
        )
    return found


# -- The same over books held whole ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """All three sides of one link at one moment, held whole.

    believed and theirs: by payment id. believed also holds payments booked under another link that Wix
    now lists under this one. conflicting_versions: payments whose current revision was told with two
    contents. refunds: of any payment, with when each was told. by_query: payments of which no event told.
    listening_since: since when events of the site come, None while they do not. resent_until: what was made before this
    is told of again by no event; None for nothing. The rest is as in `LinkBooks`.
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
    open_types: frozenset[DiscrepancyType] = frozenset()
    inactive_since: datetime | None = None
    previous_status: str | None = None
    refunds: Sequence[tuple[Refund, datetime]] = ()
    by_query: frozenset[UUID] = frozenset()
    listening_since: datetime | None = None
    resent_until: datetime | None = None

    def pairs(self) -> Iterator[Pair]:
        """Every payment either side names, in no order."""
        for payment_id in self.believed.keys() | self.theirs.keys():
            yield Pair(
                payment_link_id=self.payment_link_id,
                payment_id=payment_id,
                ours=self.believed.get(payment_id),
                theirs=self.theirs.get(payment_id),
                is_unreadable=str(payment_id) in self.unreadable,
                has_version_conflict=payment_id in self.conflicting_versions,
            )

    def booked(self, repairs: Sequence[Payment]) -> list[Payment]:
        """The payments of the link once `repairs` are booked."""
        found = {
            payment_id: one.payment
            for payment_id, one in self.believed.items()
            if one.payment.payment_link_id == self.payment_link_id
        }
        return list((found | {payment.payment_id: payment for payment in repairs}).values())

    def totals(self, repairs: Sequence[Payment]) -> Totals:
        """What is booked under the link once `repairs` are."""
        booked = self.booked(repairs)
        sums: dict[str, Decimal] = defaultdict(Decimal)
        for payment in booked:
            sums[payment.currency] += payment.amount
        repaired = {payment.payment_id for payment in repairs}
        paid_at = [payment.transaction_at for payment in booked]
        created_at = [payment.created_at for payment in booked]
        return Totals(
            payments=len(booked),
            purchases=len({purchase(payment) for payment in booked}),
            sums=sums,
            changed_at=max(
                (
                    self.believed[payment.payment_id].changed_at
                    for payment in booked
                    if payment.payment_id not in repaired
                ),
                default=None,
            ),
            last_paid_at=_latest(paid_at),
            last_created_at=_latest(created_at),
            counts=Counter(payment.currency for payment in booked),
        )


def _latest(moments: Sequence[datetime | None]) -> datetime | None:
    """The latest, None when there is none or one is not known."""
    known = [moment for moment in moments if moment is not None]
    return max(known) if known and len(known) == len(moments) else None


def duplicates(booked: Sequence[Payment]) -> list[Duplicate]:
    """Payments of one link that pay for what an earlier one paid: the same purchase, type, amount and currency.

    Gift cards are left out: two of them, worth the same, may pay for one purchase.
    """
    first: dict[tuple[str, str | None, Decimal, str], Payment] = {}
    found: list[Duplicate] = []
    for payment in sorted(booked, key=lambda one: (one.created_at or _FAR, one.payment_id)):
        if payment.type == GIFT_CARD or not (payment.ecom_checkout_id or payment.ecom_order_id):
            continue
        key = (purchase(payment), payment.type, payment.amount, payment.currency)
        earlier = first.setdefault(key, payment)
        if earlier is not payment:
            found.append(Duplicate(payment.payment_id, earlier.payment_id, payment.amount, payment.currency))
    return found


GIFT_CARD = "GIFT_CARD"
_FAR = datetime.max.replace(tzinfo=UTC)


def late(booked: Sequence[Payment], closed_at: datetime | None) -> list[Late]:
    """Payments of one link made after it closed. closed_at: None when it did not."""
    return [
        Late(payment.payment_id, paid_at, payment.amount, payment.currency)
        for payment in booked
        if closed_at is not None
        and (paid_at := payment.transaction_at or payment.created_at) is not None
        and paid_at > closed_at
    ]


def unheard(
    booked: Sequence[Payment],
    by_query: Collection[UUID],
    *,
    listening_since: datetime | None,
    resent_until: datetime | None,
) -> list[Unheard]:
    """Payments of one link that no event told of, and none will. Names and None as in `Books`."""
    if listening_since is None or resent_until is None:
        return []
    return [
        Unheard(payment.payment_id, payment.created_at, payment.amount, payment.currency)
        for payment in booked
        if payment.payment_id in by_query
        and payment.created_at is not None
        and listening_since <= payment.created_at <= resent_until
    ]


def refunded(booked: Sequence[Payment], refunds: Sequence[tuple[Refund, datetime]]) -> list[Refunded]:
    """Payments of one link of which refunds succeeded."""
    by_payment: dict[UUID, list[tuple[Refund, datetime]]] = defaultdict(list)
    for refund, told_at in refunds:
        if refund.status == RefundStatus.SUCCEEDED:
            by_payment[refund.payment_id].append((refund, told_at))
    found: list[Refunded] = []
    for payment in booked:
        if of_payment := by_payment.get(payment.payment_id):
            amounts = [
                one.amount
                for one, _ in of_payment
                if one.amount is not None and one.currency == payment.currency
            ]
            amount = sum(amounts, Decimal(0)) if len(amounts) == len(of_payment) else None
            found.append(
                Refunded(
                    payment.payment_id,
                    amount,
                    payment.currency,
                    amount is not None and amount >= payment.amount,
                    max(told_at for _, told_at in of_payment),
                )
            )
    return found


def purchase(payment: Payment) -> str:
    """What the payment paid for: a purchase may be split over several payments."""
    return payment.ecom_checkout_id or payment.ecom_order_id or str(payment.payment_id)


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


def compare(
    books: Books, *, now: datetime, settling: timedelta, assumptions: Assumptions = NOTHING_ASSUMED
) -> Findings:
    """Match one link's payments and its control total, all in memory.

    What a check decides, said over values. A check itself matches in parts, where only what is not plainly the
    same leaves the database (`store.matching`); a property test holds the two equal.
    """
    outcomes: dict[UUID, Outcome] = {}
    repairs: list[Payment] = []
    found: list[Difference] = []
    for pair in books.pairs():
        matched = match(pair, now=now, settling=settling, unsettled_since=books.unsettled_since)
        if matched.outcome is not None:
            outcomes[pair.payment_id] = matched.outcome
        if matched.repair is not None:
            repairs.append(matched.repair)
        found.extend(matched.differences)
    booked = books.booked(repairs)
    by_query = books.by_query | {one.payment_id for one in repairs if one.payment_id not in books.believed}
    closed_at = closed_since(books.link, books.inactive_since) if books.link else None
    of_link, is_settled = match_link(
        LinkBooks(
            payment_link_id=books.payment_link_id,
            totals=books.totals(repairs),
            link=books.link,
            is_link_missing=books.is_link_missing,
            conflicting_events=books.conflicting_events,
            unreadable=books.unreadable,
            unsettled_since=books.unsettled_since,
            has_expected=Outcome.EXPECTED in outcomes.values(),
            open_types=books.open_types,
            closed_at=closed_at,
            duplicates=duplicates(booked),
            late=late(booked, closed_at),
            previous_status=books.previous_status,
            unheard=unheard(
                booked,
                by_query,
                listening_since=books.listening_since,
                resent_until=books.resent_until,
            ),
            refunded=refunded(booked, books.refunds),
        ),
        now=now,
        settling=settling,
        assumptions=assumptions,
    )
    return Findings(books.payment_link_id, outcomes, tuple(repairs), (*found, *of_link), is_settled)


def _missing_at_wix(ours: Payment) -> Difference:
    return Difference(
        type=DiscrepancyType.MISSING_AT_WIX,
        payment_link_id=ours.payment_link_id,
        payment_id=ours.payment_id,
        sides={"booked": f"{shown(ours.amount, ours.currency)} {ours.currency}", "wix": None},
        amount_at_risk=ours.amount,
        currency=ours.currency,
    )


def _behind(link_id: UUID, ours: Payment, theirs: Payment) -> Difference:
    return Difference(
        type=DiscrepancyType.BEHIND_AT_WIX,
        payment_link_id=link_id,
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
                sides=_sides(ours, theirs, name),
                amount_at_risk=risk if name in _NAMED else None,
                currency=ours.currency,
                base_amount=ours.amount if name == "amount" else None,
            )
        )
    return found


def _sides(ours: Payment, theirs: Payment, name: str) -> dict[str, str | None]:
    sides: dict[str, str | None] = {"field": name, "booked": _side(ours, name), "wix": _side(theirs, name)}
    if name == "amount" and ours.currency == theirs.currency:
        sides |= _sized(ours.amount, theirs.amount, ours.currency)
    return sides


def _sized(booked: Decimal, wix: Decimal, currency: str) -> dict[str, str | None]:
    sign = "+" if wix > booked else "-"
    return {
        "booked": f"{shown(booked, currency)} {currency}",
        "wix": f"{shown(wix, currency)} {currency}",
        DIFFERENCE: f"{sign}{shown(abs(wix - booked), currency)} {currency}",
    }


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


def unknown_instance(payment_link_id: UUID, payments: int, told: Iterable[Payment] | None) -> Difference:
    """What webhooks told of a link whose app instance Wix does not vouch for.

    payments: how many they told of. told: every version of these, None when not all can be read.
    """
    newest: dict[UUID, Payment] = {}
    for payment in told or ():
        if judge(newest.get(payment.payment_id), payment).applies:
            newest[payment.payment_id] = payment
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for payment in newest.values():
        sums[payment.currency] += payment.amount
    # Sums of several currencies are never one amount.
    [(currency, amount)] = sums.items() if len(sums) == 1 and len(newest) == payments else [(None, None)]
    words = f"{payments} payment{'' if payments == 1 else 's'}"
    if currency is not None and amount is not None:
        words += f", {shown(amount, currency)} {currency}"
    return Difference(
        type=DiscrepancyType.UNKNOWN_INSTANCE,
        payment_link_id=payment_link_id,
        severity=Severity.INFORMATIONAL,
        sides={"booked": "held", "wix": "no access", "told": words},
        amount_at_risk=amount,
        currency=currency,
    )


def next_check(
    *,
    is_settled: bool,
    has_differences: bool,
    attempt: int,
    gaps: Sequence[float],
    overdue_in: float | None = None,
) -> float | None:
    """Seconds until a link is checked again, None when nothing is left to wait for.

    attempt: how many checks in a row have ended unsettled before this one. gaps: growing waits; the
    last is repeated. A discrepancy is looked at again at the longest gap, since Wix may yet catch up.
    overdue_in: seconds until no event will tell of a payment any more that none told of, None when none is waited for.
    """
    wait = gaps[-1] if has_differences else None
    if not is_settled:
        wait = gaps[min(attempt, len(gaps) - 1)]
    return min((one for one in (wait, overdue_in) if one is not None), default=None)
