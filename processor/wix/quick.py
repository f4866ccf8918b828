"""The usual event, read with as little work as can be: a payment, of the documented shape and nothing beside it.

`read` gives up, without saying why, as soon as anything is not as usual; then `parse.parse_event` reads the same
claims and has the last word. What both can read, they read the same (tests/wix/test_quick.py). JSON is decoded into
typed records at once, which takes half of the time. Pure: no I/O, no clock, no environment.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from processor.domain.event import Event, Kind
from processor.domain.money import MINOR_DIGITS, BadAmount, parse_amount
from processor.domain.payment import Payment, SeenPayment
from processor.errors import Unreadable
from processor.wix import wire
from processor.wix.parse import REVISION_MAX, TEXT_MAX, instant, unix_instant
from processor.wix.signature import digest

# Numbers and lists may be what jsonb cannot hold as it is.
_Plain = str | bool | None
_Personal = dict[str, _Plain | dict[str, _Plain]]


class _Payload(Struct, rename="camel"):
    entity: Raw = Raw(b"")
    current_entity: Raw = Raw(b"")


class _Event(Struct, rename="camel"):
    id: str
    entity_id: str
    slug: str
    event_time: wire.Instant
    created_event: _Payload | None = None
    updated_event: _Payload | None = None
    triggered_by_anonymize_request: bool | None = None
    entity_event_sequence: str | None = None
    # Not read, but of a shape, or the event is unreadable.
    entity_fqdn: str | None = None
    originated_from: str | None = None
    deleted_event: dict[str, Any] | None = None
    action_event: dict[str, Any] | None = None


class _Regular(Struct, rename="camel", forbid_unknown_fields=True):
    method: str | None = None
    payment_method: str | None = None
    payment_provider: str | None = None
    order: wire.OrderRef | None = None
    contact_details: _Personal | None = None
    billing_address: _Personal | None = None
    credit_card_payment_method_data: _Personal | None = None


class _Payment(Struct, rename="camel", forbid_unknown_fields=True):
    id: str
    revision: str
    amount: str
    currency: str
    payment_link_id: str
    created_date: wire.Instant | None = None
    transaction_date: wire.Instant | None = None
    receipt_id: str | None = None
    type: str | None = None
    regular_payment_link_payment: _Regular | None = None
    ecom_checkout: wire.EcomCheckoutRef | None = None
    ecom_order: wire.EcomOrderRef | None = None


_envelope = msgspec.json.Decoder(wire.Envelope)
_event = msgspec.json.Decoder(_Event)
_payment = msgspec.json.Decoder(_Payment)


class _Unusual(Exception):
    """Not for us."""


def read(claims: dict[str, Any]) -> Event | None:
    """The event inside `claims` as `parse.parse_event` reads it, None where that has to be asked."""
    try:
        return _read(claims)
    except (
        *(_Unusual, msgspec.DecodeError, Unreadable, BadAmount),
        *(KeyError, TypeError, ValueError, OverflowError, RecursionError),
    ):
        return None


def _read(claims: dict[str, Any]) -> Event:
    data = claims["data"]
    envelope = _envelope.decode(data)
    if envelope.event_type not in (wire.PAYMENT_CREATED, wire.PAYMENT_UPDATED):
        raise _Unusual
    if "\\u0000" in envelope.data:  # PostgreSQL stores no NUL
        raise _Unusual
    event = _event.decode(envelope.data)
    payload = event.created_event or event.updated_event
    if payload is None or (event.created_event is not None and event.updated_event is not None):
        raise _Unusual
    entity = bytes(payload.entity) or bytes(payload.current_entity)
    if entity[:1] != b"{" or event.triggered_by_anonymize_request is True:
        raise _Unusual
    told = _payment.decode(entity)
    if told.currency not in MINOR_DIGITS or told.id != event.entity_id:
        raise _Unusual
    regular = told.regular_payment_link_payment or _NO_REGULAR
    order = told.ecom_order.ecom_order_id if told.ecom_order else None
    if order is None and regular.order and regular.order.ecom_order:
        order = regular.order.ecom_order.ecom_order_id
    instance_id = _guid(envelope.instance_id or "")
    payment_id = _guid(told.id)
    link_id = _guid(told.payment_link_id)
    account = envelope.account_info or _NO_ACCOUNT
    issued_at = unix_instant(claims.get("iat"))
    payment = Payment(
        instance_id=instance_id,
        payment_id=payment_id,
        payment_link_id=link_id,
        revision=_whole(told.revision),
        amount=parse_amount(told.amount),
        currency=told.currency,
        type=_text(told.type),
        created_at=instant(told.created_date),
        transaction_at=instant(told.transaction_date),
        receipt_id=_guid(told.receipt_id) if told.receipt_id else None,
        ecom_checkout_id=_text(told.ecom_checkout.ecom_checkout_id) if told.ecom_checkout else None,
        ecom_order_id=_text(order),
        method=_text(regular.method),
        payment_method=_text(regular.payment_method),
        payment_provider=_text(regular.payment_provider),
    )
    return Event(
        event_id=_guid(event.id),
        instance_id=instance_id,
        event_type=envelope.event_type,
        kind=Kind.PAYMENT,
        content_digest=digest(f"{envelope.event_type}\n{envelope.data}".encode()),
        slug=_text(event.slug),
        entity_id=payment_id,
        entity_sequence=_whole(event.entity_event_sequence)
        if event.entity_event_sequence is not None
        else None,
        occurred_at=instant(event.event_time),
        issued_at=issued_at,
        seen=SeenPayment(payment, _personal(regular), {}),
        link_id=link_id,
        site_id=_guid(account.site_id) if account.site_id else None,
        account_id=_guid(account.account_id) if account.account_id else None,
    )


_NO_REGULAR = _Regular()
_NO_ACCOUNT = wire.AccountInfo()


def _personal(regular: _Regular) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    if regular.contact_details:
        found["contactDetails"] = regular.contact_details
    if regular.billing_address:
        found["billingAddress"] = regular.billing_address
    if regular.credit_card_payment_method_data:
        found["creditCardPaymentMethodData"] = regular.credit_card_payment_method_data
    return found or None


def _guid(text: str) -> UUID:
    if len(text) != 36:
        raise _Unusual
    return msgspec.convert(text, UUID)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _Unusual
    number = int(text)
    if number > REVISION_MAX:
        raise _Unusual
    return number


def _text(text: str | None) -> str | None:
    if not text:
        return None
    return text[:TEXT_MAX]
