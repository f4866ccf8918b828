"""What pages say of a payment link: Wix's word in our types, what is paid by it, and how its totals compare."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import segno
from markupsafe import Markup
from segno.encoder import DataOverflowError

from processor.domain import money
from processor.domain.link import Link
from processor.errors import ConfigurationError, WixError, WixNotFound, WixUnauthorized, WixUnavailable
from processor.store.screens.links import Booked
from processor.wix import advice, wire

_ADDRESS = re.compile(r"https?://[!-~]+", re.IGNORECASE)
# Of 404 answers, those about something that the request named and not about the link.
_OTHERS_MISSING = ("RECIPIENT_NOT_FOUND", "ORDER_NOT_FOUND")


def web_address(text: str | None) -> str | None:
    """The address if it is one that a browser may be led to: http or https, with a host, of ASCII; else None."""
    if not text or not _ADDRESS.fullmatch(text):
        return None
    try:
        return text if urlsplit(text).hostname else None
    except ValueError:
        return None


# Making one takes longer than everything else of a link's page together but what Wix is asked.
@lru_cache(maxsize=256)
def qr_code(text: str) -> Markup | None:
    """The text as a QR code, a drawing for a page; None when it is too long for one."""
    try:
        code = segno.make(text, error="m", micro=False)
    except DataOverflowError:
        return None
    drawing = code.svg_inline(
        border=2, dark="#000", light="#fff", svgclass="qr", lineclass=None, omitsize=True
    )
    return Markup(drawing)  # noqa: S704 - nothing of the text is in it but its modules


@dataclass(frozen=True, slots=True)
class Compared:
    """Wix's totals of a link beside what is booked; None for what Wix does not say.

    differs: whether they are not the same. more, difference: Wix less booked, None where that cannot be told.
    """

    wix_payments: int | None
    wix_amount: Decimal | None
    payments: int
    amount: Decimal
    more: int | None
    difference: Decimal | None

    @property
    def differs(self) -> bool:
        """Whether the totals are known not to be the same."""
        return bool(self.more) or bool(self.difference)


def compare(link: Link, booked: Booked) -> Compared:
    """A link's totals beside each other, in its currency."""
    _, amount = booked.sums.get(link.currency or "", (0, Decimal(0)))
    is_whole = not booked.is_more
    return Compared(
        wix_payments=link.payment_count,
        wix_amount=link.total_amount,
        payments=booked.payments,
        amount=amount,
        more=link.payment_count - booked.payments if is_whole and link.payment_count is not None else None,
        difference=link.total_amount - amount
        if is_whole and link.currency and link.total_amount is not None
        else None,
    )


@dataclass(frozen=True, slots=True)
class Item:
    """A line of what is paid. price: of one, None when Wix names no amount; product_id: None for a custom item."""

    name: str | None
    description: str | None
    quantity: int | None
    price: Decimal | None
    product_id: str | None
    options: str | None


def items(rest: Mapping[str, Any]) -> list[Item]:
    """The lines of a link's `ecomPaymentLink`, as far as they can be read."""
    ecom = rest.get("ecomPaymentLink")
    lines = ecom.get("lineItems") if isinstance(ecom, dict) else None
    return [_item(one) for one in lines if isinstance(one, dict)] if isinstance(lines, list) else []


def _item(line: Mapping[str, Any]) -> Item:
    custom, catalog = line.get("customItem"), line.get("catalogItem")
    if isinstance(custom, dict):
        return Item(
            _text(custom.get("name")),
            _text(custom.get("description")),
            _whole(custom.get("quantity")),
            _amount(custom.get("price")),
            None,
            None,
        )
    catalog = catalog if isinstance(catalog, dict) else {}
    reference = catalog.get("catalogReference")
    reference = reference if isinstance(reference, dict) else {}
    return Item(
        None,
        None,
        _whole(catalog.get("quantity")),
        None,
        _text(reference.get("catalogItemId")),
        options_text(reference.get("options")),
    )


def options_text(options: Any) -> str | None:
    """What is chosen of a product, such as "Size: L"; None for nothing."""
    if not isinstance(options, dict):
        return None
    parts = []
    for name, value in options.items():
        if isinstance(value, dict):
            parts += [f"{inner}: {one}" for inner, one in value.items()]
        else:
            parts.append(f"{'variant' if name == 'variantId' else name}: {value}")
    return ", ".join(parts) or None


@dataclass(frozen=True, slots=True)
class Product:
    """A product of the catalog. price: shown only, never counted with; None when Wix does not say."""

    product_id: str
    name: str | None
    price: Decimal | None
    currency: str | None


def product(told: wire.Product) -> Product:
    """A product as it is shown."""
    data = told.price_data
    # Wix gives the price as a number of JSON: its shortest text is what was written.
    price = _amount(str(data.price)) if data and data.price is not None else None
    return Product(told.id, told.name, price, data.currency if data else None)


@dataclass(frozen=True, slots=True)
class Order:
    """An order that is to be paid; None for what Wix does not say."""

    currency: str | None
    total: Decimal | None
    balance: Decimal | None


def order(told: wire.Order) -> Order:
    """An order as it is shown."""
    total = told.price_summary and told.price_summary.total
    balance = told.balance_summary and told.balance_summary.balance
    return Order(
        told.currency, _amount(total.amount if total else None), _amount(balance.amount if balance else None)
    )


def contact_ids(rest: Mapping[str, Any]) -> list[str]:
    """Ids of the contacts that a link was made for."""
    told = rest.get("recipients")
    found = (
        [_text(one.get("contactId")) for one in told if isinstance(one, dict)]
        if isinstance(told, list)
        else []
    )
    return [one for one in found if one]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _amount(value: Any) -> Decimal | None:
    try:
        return money.parse_amount(value) if isinstance(value, str) else None
    except money.BadAmount:
        return None


# -- Errors ----------------------------------------------------------------------------------------


def is_link_missing(why: WixError) -> bool:
    """Whether Wix does not know the link itself."""
    return isinstance(why, WixNotFound) and why.code not in _OTHERS_MISSING


def said(why: WixError | ConfigurationError, action: str, *, payment_id: UUID | None = None) -> str:
    """What went wrong with `action` on a link or a payment, a command of `processor links`, for who asked for it."""
    match why:
        case WixUnavailable(is_unsent=False):
            return f"Wix did not answer, so it may or may not be done: look before you try again. {_sentence(why)}"
        case WixUnavailable():
            return f"Wix cannot be asked now, and nothing was done. Try again in a minute. {_sentence(why)}"
        case WixError():
            return _sentence(advice.in_words(why, action, payment_id=payment_id))
    return _sentence(why)


def not_asked(why: WixError | ConfigurationError) -> str:
    """Why Wix could not be asked for something that would have been shown."""
    match why:
        case WixUnauthorized():
            return f"Wix does not let us read its payment links: {_sentence(advice.in_words(why, 'list'))}"
        case WixUnavailable():
            return "Wix does not answer now."
        case WixError():
            return f"Wix refuses to tell: {_sentence(advice.in_words(why, 'list'))}"
    return f"Wix cannot be asked: {_sentence(why)}"


def _sentence(words: object) -> str:
    text = str(words)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def checkout_of(target: wire.InitiatedPayment) -> str | None:
    """Where to lead the buyer, None when Wix named no address that a browser can be led to."""
    told = (target.ecom_checkout and target.ecom_checkout.checkout_url) or (
        target.ecom_order and target.ecom_order.order_url
    )
    return web_address(told or None)
