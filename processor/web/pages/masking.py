"""What Wix sent, without what is personal in it. Pure.

What is shown is listed here, by name and by what its value may look like; everything else is hidden. So a field that
Wix adds tomorrow is hidden until somebody looked at it. Wix's names: `wix.wire`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from processor.wix import wire
from processor.wix.parse import guid, iso_instant

MASK = "\N{BULLET}" * 6
_DEPTH_MAX = 60  # Wix nests about ten deep

_MAIL = re.compile(r"\S*@\S*")
# Telephone and card numbers, however they are grouped, and the end of a card number that was masked before.
_DIGITS = re.compile(r"[+(]*\d(?:[\W_]{0,3}\d){6,}|(?:[*\N{BULLET}]{2,}|\b[xX]{2,})[\W_]{0,3}\d+")
_GUID_OR_DATE = re.compile(
    r"(?<![0-9a-fA-F])([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![0-9a-fA-F])"
    r"|(?<!\d)(?:(?:19|20)\d\d([-./])\d{1,2}\2\d{1,2}|\d{1,2}([-./])\d{1,2}\3(?:19|20)\d\d)(?![\d])(?![-./ ]{1,3}\d))"
)
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,150}", re.ASCII)
_FIELD = re.compile(r"[a-z_][A-Za-z0-9_]{0,60}", re.ASCII)
_AMOUNT = re.compile(r"-?\d{1,11}(\.\d{1,8})?", re.ASCII)
_WHOLE = re.compile(r"\d{1,12}", re.ASCII)
_ADDRESS = re.compile(r"https?://[A-Za-z0-9.:/_-]{1,300}", re.ASCII)


def masked(payload: Any) -> Any:
    """`payload`, JSON of Wix such as an event or a payment, with MASK for whatever may be personal.

    Text that holds JSON is taken apart. None, and empty text, stay: that nothing was given is no secret.
    """
    return _object(payload, "", 0)


def masked_text(text: str) -> str:
    """Free text with MASK for what looks like a mail address, a telephone number or a card number."""
    return _DIGITS.sub(MASK, _MAIL.sub(MASK, text))


def masked_but_ids(text: str) -> str:
    """As `masked_text`, but ids (GUIDs) and dates in it stay, whose digits would look like a number."""
    found, at = [], 0
    for one in _GUID_OR_DATE.finditer(text):
        found += [masked_text(text[at : one.start()]), one[0]]
        at = one.end()
    return "".join([*found, masked_text(text[at:])])


def hidden(value: Any) -> Any:
    """A personal `value`, such as what a payment says of its buyer: the names of its fields, and MASK for each."""
    return _hidden(value, 0)


# -- What a shown value may look like ----------------------------------------------------------------


def _is_guid(value: Any) -> bool:
    return isinstance(value, str) and guid(value) is not None


def _is_moment(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 35 and iso_instant(value) is not None


def _is_unix(value: Any) -> bool:
    return isinstance(value, int | float) and 10**9 <= value < 10**10


def _is_amount(value: Any) -> bool:
    return isinstance(value, str) and _AMOUNT.fullmatch(value) is not None


def _is_whole(value: Any) -> bool:
    return _WHOLE.fullmatch(value if isinstance(value, str) else str(value)) is not None


def _is_code(value: Any) -> bool:
    return isinstance(value, str) and _CODE.fullmatch(value) is not None and masked_text(value) == value


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and _ADDRESS.fullmatch(value) is not None and not re.search(r"\d{9}", value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


_SHOWN: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        (
            *("id", "entityId", "instanceId", "accountId", "parentAccountId", "siteId", "appId"),
            *("originInstanceId", "paymentLinkId", "paymentId", "receiptId", "chargeId", "orderId"),
            *("ecomOrderId", "ecomCheckoutId", "checkoutId", "catalogItemId"),
        ),
        _is_guid,
    ),
    **dict.fromkeys(
        (
            *("eventTime", "createdDate", "updatedDate", "transactionDate", "expirationDate"),
            "lastPaymentDate",
        ),
        _is_moment,
    ),
    **dict.fromkeys(("iat", "exp", "nbf"), _is_unix),
    **dict.fromkeys(("amount", "price"), _is_amount),
    **dict.fromkeys(
        ("revision", "entityEventSequence", "paymentCount", "paymentsLimit", "quantity"), _is_whole
    ),
    **dict.fromkeys(
        (
            *("eventType", "entityFqdn", "slug", "originatedFrom", "identityType", "type", "status"),
            *("currency", "currencyCode", "method", "paymentMethod", "refundStatus", "sendMethods"),
        ),
        _is_code,
    ),
    **dict.fromkeys(("triggeredByAnonymizeRequest", "full"), _is_flag),
}
# Shown as they are but for what looks personal: (what holds it, name). A bare `name` is a person's.
_TEXTS = {
    ("regularPaymentLinkPayment", "paymentProvider"),
    *((holder, "title") for holder in ("entity", "currentEntity", "deletedEntity", "paymentLink", "")),
    *(("customItem", name) for name in ("name", "description")),
}
# What is looked into. A gift card is not: its code is money.
_LOOKED_INTO = frozenset(
    (
        *("data", "identity", "accountInfo", "createdEvent", "updatedEvent", "deletedEvent", "actionEvent"),
        *("body", "entity", "currentEntity", "deletedEntity", "entityAsJson", "currentEntityAsJson"),
        *("paymentLink", "regularPaymentLinkPayment", "order", "ecomOrder", "ecomCheckout"),
        *("totalReceived", "links", "url", "source", "recipients", "ecomPaymentLink", "lineItems"),
        *("customItem", "catalogItem", "catalogReference", "ecomOrderPaymentLink"),
    )
)


# -- Taking apart --------------------------------------------------------------------------------------


def _object(value: Any, holder: str, depth: int) -> Any:
    """What stands at a place that is looked into. holder: its name, empty at the top."""
    if depth > _DEPTH_MAX:
        return MASK
    match value:
        case dict():
            return _named((name, _member(holder, name, one, depth + 1)) for name, one in value.items())
        case list():
            return [_object(one, holder, depth + 1) for one in value]
        case str() if value[:1] in "{[" and value:
            try:
                return _object(wire.decode_json(value), holder, depth + 1)
            except wire.NotJson:
                return MASK
    return value if value is None or value == "" else MASK


def _member(holder: str, name: str, value: Any, depth: int) -> Any:
    if value is None or value == "":
        return value
    if name == "url" and holder in ("url", "links") and _is_address(value):
        return value
    if name in _LOOKED_INTO:
        return _object(value, name, depth)
    if (holder, name) in _TEXTS and isinstance(value, str):
        return masked_text(value)
    if looks_right := _SHOWN.get(name):
        if isinstance(value, list):
            return [one if looks_right(one) else _hidden(one, depth) for one in value]
        if looks_right(value):
            return value
    return _hidden(value, depth)


def _hidden(value: Any, depth: int) -> Any:
    if depth > _DEPTH_MAX:
        return MASK
    match value:
        case dict():
            return _named((name, _hidden(one, depth + 1)) for name, one in value.items())
        case list():
            return [_hidden(one, depth + 1) for one in value]
    return value if value is None or value == "" else MASK


def _named(members: Any) -> dict[str, Any]:
    """An object of these. A name that is not like Wix's names of fields may be somebody's, or somebody's number."""
    found: dict[str, Any] = {}
    for name, value in members:
        if not _FIELD.fullmatch(name) or masked_text(name) != name:
            name = MASK
            while name in found:
                name += MASK[0]
        found[name] = value
    return found


def taken_apart(payload: Any) -> Any:
    """`payload` with the texts in it that hold JSON taken apart. Nothing is masked."""
    return _taken_apart(payload, 0)


def _taken_apart(value: Any, depth: int) -> Any:
    if depth > _DEPTH_MAX:
        return value if isinstance(value, str | int | float | None) else "…"
    match value:
        case dict():
            return {name: _taken_apart(one, depth + 1) for name, one in value.items()}
        case list():
            return [_taken_apart(one, depth + 1) for one in value]
        case str() if value[:1] in ("{", "["):
            try:
                return _taken_apart(wire.decode_json(value), depth + 1)
            except wire.NotJson:
                return value
    return value
