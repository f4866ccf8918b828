"""The sides of a discrepancy beside each other: what webhooks told, what is booked, and what Wix said to the check."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from processor.domain.discrepancy import DiscrepancyType
from processor.domain.money import shown as shown_amount
from processor.domain.payment import FACTS, Payment
from processor.store.listings import DiscrepancyLine
from processor.store.screens.sides import Sides
from processor.web.pages.formats import words
from processor.web.pages.masking import masked_but_ids


@dataclass(frozen=True, slots=True)
class Compared:
    """One field as each side says it, as text; None where a side says nothing. is_other: they differ."""

    name: str
    told: str | None
    booked: str | None
    wix: str | None
    is_other: bool


_FACTS = {
    "payment_link_id": "Payment link",
    "created_at": "Created by Wix",
    "transaction_at": "Paid",
    "receipt_id": "Receipt",
    "ecom_order_id": "Order",
    "ecom_checkout_id": "Checkout",
}
# What is compared, of types whose name does not say so.
_FIELDS: dict[str, str] = {
    DiscrepancyType.MISSING_AT_WIX: "payment",
    DiscrepancyType.BEHIND_AT_WIX: "revision",
    DiscrepancyType.VERSION_CONFLICT: "contents",
    DiscrepancyType.EVENT_CONFLICT: "event",
    DiscrepancyType.UNREADABLE_AT_WIX: "payment",
    DiscrepancyType.OVER_LIMIT: "number_of_payments",
    DiscrepancyType.COUNT_DIFFERS: "number_of_payments",
    DiscrepancyType.PAID_WHILE_INACTIVE: "time",
    DiscrepancyType.DUPLICATE_PAYMENT: "payment",
    DiscrepancyType.LINK_MISSING: "payment_link",
    DiscrepancyType.PAYMENT_WITHOUT_EVENT: "webhook",
    DiscrepancyType.UNKNOWN_INSTANCE: "payments",
    DiscrepancyType.REFUND_ON_ORDER_ONLY: "refund",
}


_NAMES = (
    "revision",
    "amount",
    "type",
    *(name for name in FACTS if name not in ("amount", "currency", "type")),
)


def compared(one: DiscrepancyLine, sides: Sides) -> list[Compared]:
    """What the check named as different, first; then everything else that it compared."""
    said = {name: None if value is None else str(value) for name, value in one.sides.items()}
    named = said.get("field") or _FIELDS.get(one.type)
    rows = [
        Compared(
            _FACTS.get(named or "", words(named or one.type.removesuffix("_differs"))),
            said.get("told") if "told" in said else _fact(_by_name(sides.told), named or ""),
            said.get("booked"),
            said.get("wix"),
            True,
        )
    ]
    if one.payment_id is None:
        return [*rows, *_of_link(one, sides.link)]
    told, booked, wix = _by_name(sides.told), _by_name(sides.booked), sides.wix or {}
    for name in _NAMES:
        # An amount is told with its currency.
        if name != named:
            rows += _row(_FACTS.get(name, words(name)), *(_fact(side, name) for side in (told, booked, wix)))
    return rows


def _row(name: str, told: str | None, booked: str | None, wix: str | None) -> Iterator[Compared]:
    """A row, unless no side says anything. Silence of one is no difference."""
    stated = {one for one in (told, booked, wix) if one is not None}
    if stated:
        yield Compared(name, told, booked, wix, len(stated) > 1)


def _of_link(one: DiscrepancyLine, record: dict[str, Any] | None) -> Iterator[Compared]:
    """What a check compared of a link itself. record: as it kept it, None when it did not."""
    if record is None:
        return
    wix: dict[str, Any] = record["wix"] or {}
    booked, listed = record["booked"], record["listed"]
    if one.type != DiscrepancyType.COUNT_DIFFERS and wix.get("payment_count") is not None:
        number = sum(count for count, _ in booked.values())
        yield from _row("Payments, by Wix's total", None, f"{number:,}", f"{wix['payment_count']:,}")
    currency, total = wix.get("currency"), wix.get("total_amount")
    if one.type != DiscrepancyType.TOTAL_DIFFERS and total is not None and currency:
        _, amount = booked.get(currency, (0, "0"))
        yield from _row("Amount, by Wix's total", None, _money(amount, currency), _money(total, currency))
    for currency in sorted(booked.keys() | listed.keys()):
        ours, theirs = (side.get(currency) for side in (booked, listed))
        yield from _row(
            f"Payments one by one, {currency}",
            None,
            "none" if ours is None else f"{ours[0]:,}, {_money(ours[1], currency)}",
            "none" if theirs is None else f"{theirs[0]:,}, {_money(theirs[1], currency)}",
        )
    if one.type != DiscrepancyType.STATUS_DIFFERS and wix.get("status"):
        yield from _row("Status", None, None, words(wix["status"]))


def _money(amount: str | Decimal, currency: str) -> str:
    return f"{shown_amount(Decimal(amount), currency)} {currency}"


def _by_name(payment: Payment | None) -> dict[str, Any]:
    return {} if payment is None else {name: getattr(payment, name) for name in ("revision", *FACTS)}


def _fact(facts: dict[str, Any], name: str) -> str | None:
    value = facts.get(name)
    if value is None:
        return None
    if name == "amount":
        return _money(value, facts["currency"])
    if name in ("type", "method", "payment_method"):
        return masked_but_ids(words(value))
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return masked_but_ids(str(value))  # Wix's words, in which a merchant's may be
