"""From a verified token to an event: claims, envelope, event, entity, each level with its own reason.

Every level is a string inside the one before (Wix docs, "About the Structure of Webhooks"). Reading is
tolerant of what Wix's documentation leaves open (`entity`, `currentEntity`, `entityAsJson`, `currency`,
`currencyCode`) and keeps what it does not know. Pure: no I/O, no clock, no environment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID, uuid5

import msgspec

from processor.domain.event import Event, Kind
from processor.domain.link import Link, SeenLink
from processor.domain.money import MINOR_DIGITS, BadAmount, parse_amount
from processor.domain.payment import Payment, SeenPayment
from processor.domain.refund import Refund
from processor.errors import Unreadable
from processor.wix import wire
from processor.wix.signature import digest

T = TypeVar("T")

REVISION_MAX = 2**63 - 1  # Wix: int64
# Namespace of the ids we derive for deliveries that carry none (UUID v5, RFC 9562).
DERIVED_IDS = UUID("5b0d3b52-4d8a-5d0e-9d0a-6c1f1e3f7a10")
TEXT_MAX = 256  # longest method or provider name kept in a column; Wix names are far shorter
_YEAR_MIN, _YEAR_MAX = (
    1990,
    9000,
)  # a date outside is a mistake, and an offset must not leave PostgreSQL's range


class Reason(StrEnum):
    """Why an authentic delivery, or an item of a query answer, cannot be read. Kept with it."""

    CLAIMS_NOT_JSON = "claims_not_json"
    CLAIMS_NOT_AN_OBJECT = "claims_not_an_object"
    CLAIMS_DATA_NOT_TEXT = "claims_data_not_text"
    ENVELOPE_NOT_JSON = "envelope_not_json"
    ENVELOPE_WRONG_SHAPE = "envelope_wrong_shape"
    INSTANCE_ID_MISSING = "instance_id_missing"
    INSTANCE_ID_NOT_GUID = "instance_id_not_guid"
    EVENT_NOT_JSON = "event_not_json"
    EVENT_WRONG_SHAPE = "event_wrong_shape"
    EVENT_ID_NOT_GUID = "event_id_not_guid"
    ENTITY_MISSING = "entity_missing"
    ENTITY_NOT_JSON = "entity_not_json"
    ENTITY_ID_DIFFERS = "entity_id_differs"
    LINK_ID_MISSING = "link_id_missing"
    LINK_ID_NOT_GUID = "link_id_not_guid"
    LINK_WRONG_SHAPE = "link_wrong_shape"
    PAYMENT_WRONG_SHAPE = "payment_wrong_shape"
    PAYMENT_ID_MISSING = "payment_id_missing"
    PAYMENT_ID_NOT_GUID = "payment_id_not_guid"
    RECEIPT_ID_NOT_GUID = "receipt_id_not_guid"
    REVISION_MISSING = "revision_missing"
    REVISION_NOT_INTEGER = "revision_not_integer"
    REVISION_OUT_OF_RANGE = "revision_out_of_range"
    AMOUNT_MISSING = "amount_missing"
    AMOUNT_NOT_TEXT = "amount_not_text"
    AMOUNT_NOT_DECIMAL = "amount_not_decimal"
    AMOUNT_NEGATIVE = "amount_negative"
    AMOUNT_TOO_FINE = "amount_too_fine"
    AMOUNT_TOO_LARGE = "amount_too_large"
    CURRENCY_MISSING = "currency_missing"
    CURRENCY_UNKNOWN = "currency_unknown"
    DATE_OUT_OF_RANGE = "date_out_of_range"
    REFUND_WRONG_SHAPE = "refund_wrong_shape"
    REFUND_ID_NOT_GUID = "refund_id_not_guid"
    CHARGE_ID_MISSING = "charge_id_missing"
    CHARGE_ID_NOT_GUID = "charge_id_not_guid"


@dataclass(slots=True)
class _Draft:
    """What is known of an event so far; becomes an Event even when a later level cannot be read."""

    values: dict[str, Any] = field(default_factory=dict)


def parse_claims(text: bytes) -> dict[str, Any]:
    """Level 2. Raises Unreadable."""
    try:
        claims = wire.decode_json(text)
    except wire.NotJson as why:
        raise Unreadable(Reason.CLAIMS_NOT_JSON, str(why)) from why
    if not isinstance(claims, dict):
        raise Unreadable(Reason.CLAIMS_NOT_AN_OBJECT)
    return claims


def parse_event(claims: dict[str, Any], *, link_fqdn: str | None = None) -> Event:
    """Levels 3 to 5: the event inside `claims`. link_fqdn: see `kind_of`.

    Raises Unreadable only where not even the instance can be read; every later fault ends in an Event
    whose `unreadable` says why, so that it can be kept under its instance.
    """
    data = claims.get("data")
    if not isinstance(data, str):
        raise Unreadable(Reason.CLAIMS_DATA_NOT_TEXT)
    try:
        envelope = msgspec.convert(wire.decode_json(data), wire.Envelope)
    except wire.NotJson as why:
        raise Unreadable(Reason.ENVELOPE_NOT_JSON, str(why)) from why
    except msgspec.ValidationError as why:
        raise Unreadable(Reason.ENVELOPE_WRONG_SHAPE, str(why)) from why
    instance_id = _envelope_instance(envelope)
    content_digest = digest(f"{envelope.event_type}\n{envelope.data}".encode())
    issued_at = unix_instant(claims.get("iat"))
    account = envelope.account_info
    draft = _Draft(
        {
            "instance_id": instance_id,
            "event_type": _clean(envelope.event_type)[:TEXT_MAX],
            "kind": kind_of(envelope.event_type, link_fqdn),
            "content_digest": content_digest,
            "issued_at": issued_at,
            "occurred_at": issued_at,
            "site_id": guid(account.site_id) if account else None,
            "account_id": guid(account.account_id) if account else None,
        }
    )
    try:
        _read_event(envelope, draft)
    except Unreadable as why:
        draft.values |= {"unreadable": why.reason, "unreadable_detail": why.detail}
    if "event_id" not in draft.values:
        # `iat` is part of it, because app events carry no id and an app may be installed, removed and installed
        # again with the same content.
        told = f"{instance_id}\n{content_digest.hex()}\n{claims.get('iat')!r}"
        draft.values["event_id"] = uuid5(DERIVED_IDS, told)
    return Event(**draft.values)


def kind_of(event_type: str, link_fqdn: str | None = None) -> Kind:
    """What `event_type` is about.

    link_fqdn: the entity name of payment link events. Wix's documentation does not give it; without it they are
    known by the last segment of the type alone.
    """
    if event_type in (wire.PAYMENT_CREATED, wire.PAYMENT_UPDATED):
        return Kind.PAYMENT
    if event_type == wire.APP_INSTALLED:
        return Kind.APP_INSTALLED
    if event_type == wire.APP_REMOVED:
        return Kind.APP_REMOVED
    if link_fqdn and not event_type.startswith(f"{link_fqdn}_"):
        return Kind.OTHER
    last = event_type.rsplit(".", 1)[-1]
    if last == wire.LINK_PAYMENT_INITIATED:
        return Kind.LINK
    if last.startswith(wire.LINK_EVENT_PREFIX) and not last.startswith(wire.PAYMENT_EVENT_PREFIX):
        return Kind.LINK
    return Kind.OTHER


def _envelope_instance(envelope: wire.Envelope) -> UUID:
    if envelope.instance_id is None:
        raise Unreadable(Reason.INSTANCE_ID_MISSING)
    instance_id = guid(envelope.instance_id)
    if instance_id is None:
        raise Unreadable(Reason.INSTANCE_ID_NOT_GUID)
    return instance_id


def _read_event(envelope: wire.Envelope, draft: _Draft) -> None:
    kind: Kind = draft.values["kind"]
    try:
        data = wire.decode_json(envelope.data)
    except wire.NotJson as why:
        if kind is Kind.OTHER:
            return  # not ours to read; kept as it is
        raise Unreadable(Reason.EVENT_NOT_JSON, str(why)) from why
    match kind:
        case Kind.APP_INSTALLED | Kind.APP_REMOVED:
            app = _convert(data, wire.AppEvent, Reason.EVENT_WRONG_SHAPE)
            draft.values |= {
                "app_id": _text(app.app_id),
                "origin_instance_id": guid(app.origin_instance_id),
            }
        case Kind.OTHER:
            if isinstance(data, dict) and isinstance(data.get("id"), str) and (own := guid(data["id"])):
                draft.values["event_id"] = own
        case Kind.PAYMENT | Kind.LINK:
            _read_domain_event(_convert(data, wire.DomainEvent, Reason.EVENT_WRONG_SHAPE), draft)


def _read_domain_event(event: wire.DomainEvent, draft: _Draft) -> None:
    entity_id = guid(event.entity_id)
    draft.values |= {
        "entity_id": entity_id,
        "slug": _text(event.slug),
        "anonymized": event.triggered_by_anonymize_request is True,
        "entity_sequence": _sequence(event.entity_event_sequence),
        "occurred_at": iso_instant(event.event_time) or draft.values["issued_at"],
    }
    event_id = guid(event.id)
    if event_id is None:
        raise Unreadable(Reason.EVENT_ID_NOT_GUID)
    draft.values["event_id"] = event_id
    if draft.values["kind"] is Kind.LINK:
        if entity_id is None:
            raise Unreadable(Reason.LINK_ID_MISSING if not event.entity_id else Reason.LINK_ID_NOT_GUID)
        draft.values["link_id"] = entity_id
        return
    seen = parse_payment(_entity(event), draft.values["instance_id"])
    if entity_id is not None and entity_id != seen.payment.payment_id:
        raise Unreadable(Reason.ENTITY_ID_DIFFERS)
    draft.values |= {
        "entity_id": seen.payment.payment_id,
        "seen": seen,
        "link_id": seen.payment.payment_link_id,
    }


def _entity(event: wire.DomainEvent) -> dict[str, Any]:
    """The entity of a created or updated event, wherever Wix's documentation shows it."""
    # A documented sample puts `currentEntity` inside `createdEvent`, against its own schema: take either.
    for payload in (event.created_event, event.updated_event):
        for name in ("entity", "currentEntity", "entityAsJson", "currentEntityAsJson"):
            found = (payload or {}).get(name)
            if isinstance(found, str):
                try:
                    found = wire.decode_json(found)
                except wire.NotJson as why:
                    raise Unreadable(Reason.ENTITY_NOT_JSON, str(why)) from why
            if isinstance(found, dict):
                return found
    raise Unreadable(Reason.ENTITY_MISSING)


# -- The payment object --------------------------------------------------------------------------

_PERSONAL = ("contactDetails", "billingAddress", "creditCardPaymentMethodData")
_COLUMNS = frozenset(
    (
        "id",
        "revision",
        "amount",
        "currency",
        "currencyCode",
        "paymentLinkId",
        "createdDate",
        "transactionDate",
        "receiptId",
        "type",
        "regularPaymentLinkPayment",
        "giftCardPaymentLinkPayment",
        "ecomCheckout",
        "ecomOrder",
    )
)
_REGULAR_COLUMNS = frozenset(("method", "paymentMethod", "paymentProvider", "order", *_PERSONAL))
_REQUIRED = (
    ("id", Reason.PAYMENT_ID_MISSING),
    ("paymentLinkId", Reason.LINK_ID_MISSING),
    ("revision", Reason.REVISION_MISSING),
    ("amount", Reason.AMOUNT_MISSING),
)


def parse_payment(entity: Any, instance_id: UUID) -> SeenPayment:
    """A payment link payment object, from a webhook or a query answer. Raises Unreadable."""
    if not isinstance(entity, dict):
        raise Unreadable(Reason.PAYMENT_WRONG_SHAPE, "not an object")
    for name, reason in _REQUIRED:
        if entity.get(name) in (None, ""):
            raise Unreadable(reason)
    if not isinstance(entity["amount"], str):
        # A JSON number has been a float somewhere; money is not read from floats.
        raise Unreadable(Reason.AMOUNT_NOT_TEXT)
    told = _convert(entity, wire.PaymentLinkPayment, Reason.PAYMENT_WRONG_SHAPE)
    currency = told.currency or told.currency_code
    if not currency:
        raise Unreadable(Reason.CURRENCY_MISSING)
    if currency not in MINOR_DIGITS:
        raise Unreadable(Reason.CURRENCY_UNKNOWN)
    regular = told.regular_payment_link_payment
    order = regular.order.ecom_order if regular and regular.order else None
    payment = Payment(
        instance_id=instance_id,
        payment_id=_guid_or(told.id, Reason.PAYMENT_ID_NOT_GUID),
        payment_link_id=_guid_or(told.payment_link_id, Reason.LINK_ID_NOT_GUID),
        revision=_revision(told.revision),
        amount=_amount(told.amount),
        currency=currency,
        type=_text(told.type),
        created_at=instant(told.created_date),
        transaction_at=instant(told.transaction_date),
        receipt_id=_guid_or(told.receipt_id, Reason.RECEIPT_ID_NOT_GUID) if told.receipt_id else None,
        ecom_checkout_id=_text(told.ecom_checkout.ecom_checkout_id) if told.ecom_checkout else None,
        ecom_order_id=_text(
            (told.ecom_order.ecom_order_id if told.ecom_order else None)
            or (order.ecom_order_id if order else None)
        ),
        method=_text(regular.method) if regular else None,
        payment_method=_text(regular.payment_method) if regular else None,
        payment_provider=_text(regular.payment_provider) if regular else None,
    )
    entity = clean_json(entity)
    return SeenPayment(payment=payment, personal=_personal(entity), rest=_rest(entity))


def _personal(entity: dict[str, Any]) -> dict[str, Any] | None:
    """What must be erasable: contact, address, card, and a gift card's code."""
    regular = entity.get("regularPaymentLinkPayment") or {}
    found = {name: regular[name] for name in _PERSONAL if regular.get(name)}
    found |= {name: value for name, value in entity.items() if _is_gift_card(name) and value}
    return found or None


def _is_gift_card(name: str) -> bool:
    """Whether a field is the gift card object. Its name is inferred, so any that speaks of a gift card is."""
    return "giftcard" in name.lower()


def _rest(entity: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in entity.items() if name not in _COLUMNS and not _is_gift_card(name)}
    regular = entity.get("regularPaymentLinkPayment") or {}
    if unknown := {name: value for name, value in regular.items() if name not in _REGULAR_COLUMNS}:
        rest["regularPaymentLinkPayment"] = unknown
    return rest


# -- Links ---------------------------------------------------------------------------------------


def seen_link(told: wire.PaymentLink, instance_id: UUID) -> SeenLink:
    """A payment link as Wix describes it. Raises Unreadable."""
    order = told.ecom_order_payment_link
    total = told.total_received
    link = Link(
        instance_id=instance_id,
        payment_link_id=_guid_or(told.id, Reason.LINK_ID_NOT_GUID),
        revision=_revision(told.revision) if told.revision is not None else None,
        title=_text(told.title),
        currency=told.currency if told.currency in MINOR_DIGITS else None,
        type=_text(told.type),
        status=_text(told.status),
        payments_limit=told.payments_limit,
        payment_count=total.payment_count if total else None,
        total_amount=_amount(total.amount) if total and total.amount is not None else None,
        last_payment_at=instant(told.last_payment_date),
        expires_at=instant(told.expiration_date),
        created_at=instant(told.created_date),
        share_url=_clean(told.links.url.url or "") or None if told.links and told.links.url else None,
        ecom_order_id=_text(order.order_id) if order else None,
        order_amount=_amount(order.amount) if order and order.amount is not None else None,
    )
    rest = {
        "description": told.description,
        "recipients": msgspec.to_builtins(told.recipients),
        "ecomPaymentLink": told.ecom_payment_link,
    }
    return SeenLink(link, {name: clean_json(value) for name, value in rest.items() if value is not None})


# -- Refunds -------------------------------------------------------------------------------------


def parse_refund(claims: dict[str, Any], *, received_at: datetime) -> Refund:
    """The refund inside the claims of an event about one. received_at: for an event that does not say when it happened.

    Raises Unreadable; but an amount we cannot book is a reason of the refund.
    """
    data = claims.get("data")
    if not isinstance(data, str):
        raise Unreadable(Reason.CLAIMS_DATA_NOT_TEXT)
    try:
        envelope = msgspec.convert(wire.decode_json(data), wire.Envelope)
        decoded = wire.decode_json(envelope.data)
    except wire.NotJson as why:
        raise Unreadable(Reason.EVENT_NOT_JSON, str(why)) from why
    except msgspec.ValidationError as why:
        raise Unreadable(Reason.ENVELOPE_WRONG_SHAPE, str(why)) from why
    event = _convert(decoded, wire.DomainEvent, Reason.EVENT_WRONG_SHAPE)
    told = _convert(_entity(event), wire.Refund, Reason.REFUND_WRONG_SHAPE)
    if not told.charge_id:
        raise Unreadable(Reason.CHARGE_ID_MISSING)
    currency = told.currency_code if told.currency_code in MINOR_DIGITS else None
    amount: Decimal | None = None
    reason: str | None = None
    if not told.amount:
        reason = Reason.AMOUNT_MISSING
    elif currency is None:
        reason = Reason.CURRENCY_UNKNOWN if told.currency_code else Reason.CURRENCY_MISSING
    else:
        try:
            amount = parse_amount(told.amount)
        except BadAmount as why:
            reason = str(why)
    return Refund(
        instance_id=_envelope_instance(envelope),
        refund_id=_guid_or(told.id, Reason.REFUND_ID_NOT_GUID),
        payment_id=_guid_or(told.charge_id, Reason.CHARGE_ID_NOT_GUID),
        amount=amount,
        currency=currency,
        status=_text(told.status),
        reason=reason,
        sequence=_sequence(event.entity_event_sequence),
        occurred_at=iso_instant(event.event_time) or unix_instant(claims.get("iat")) or received_at,
    )


def _amount(text: str) -> Decimal:
    try:
        return parse_amount(text)
    except BadAmount as why:
        raise Unreadable(str(why)) from why


# -- Values --------------------------------------------------------------------------------------


def _convert(value: Any, model: type[T], reason: Reason) -> T:
    try:
        return msgspec.convert(value, model)
    except (msgspec.ValidationError, OverflowError, RecursionError, UnicodeEncodeError) as why:
        # The message names the path and the types, never the value.
        raise Unreadable(reason, str(why)) from None


def guid(text: str | None) -> UUID | None:
    """`text` as a GUID in its usual 36-character form, else None."""
    if text is None or len(text) != 36:
        return None
    try:
        return msgspec.convert(text, UUID)  # in half the time of UUID()
    except msgspec.ValidationError:
        return None


def _guid_or(text: str, reason: Reason) -> UUID:
    found = guid(text)
    if found is None:
        raise Unreadable(reason)
    return found


def _revision(value: str | int) -> int:
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit()):
            raise Unreadable(Reason.REVISION_NOT_INTEGER)
        if len(value) > 20:
            raise Unreadable(Reason.REVISION_OUT_OF_RANGE)
        value = int(value)
    if not 0 <= value <= REVISION_MAX:
        raise Unreadable(Reason.REVISION_OUT_OF_RANGE)
    return value


def _sequence(value: str | int | None) -> int | None:
    """`entityEventSequence`; None when absent or not an int64. Nothing is decided by it."""
    try:
        return _revision(value) if value is not None else None
    except Unreadable:
        return None


def instant(value: datetime | None) -> datetime | None:
    """`value` in UTC. Raises Unreadable when it lies where no payment can."""
    if value is None:
        return None
    if not _YEAR_MIN <= value.year <= _YEAR_MAX:
        raise Unreadable(Reason.DATE_OUT_OF_RANGE)
    return value.astimezone(UTC)


def iso_instant(text: str | None) -> datetime | None:
    """Wix's text of a moment as a time in UTC, None where it is none."""
    if text is None:
        return None
    try:
        return instant(msgspec.convert(text, wire.Instant))
    except (msgspec.ValidationError, Unreadable):
        return None


def unix_instant(value: Any) -> datetime | None:
    """Unix seconds as a time in UTC, None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return instant(datetime.fromtimestamp(value, UTC))
    except (OverflowError, OSError, ValueError, Unreadable):
        return None


def _clean(text: str) -> str:
    """PostgreSQL stores no NUL; the verbatim text stays in the token."""
    return text.replace("\x00", "\ufffd")


def _text(text: str | None) -> str | None:
    """`text` fit for a column: no NUL, bounded; None for empty."""
    return _clean(text)[:TEXT_MAX] or None if text else None


def clean_json(value: Any) -> Any:
    """`value` as PostgreSQL's jsonb can hold it: no NUL, no number beyond 64 bits."""
    try:
        # Nearly all is clean already, and this says so in a tenth of the time: MessagePack writes text as it is, and
        # has no numbers beyond 64 bits. What else may bring a zero byte is looked at in vain.
        if b"\x00" not in msgspec.msgpack.encode(value):
            return value
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError):
        pass
    return _cleaned(value)


def _cleaned(value: Any) -> Any:
    match value:
        case str():
            return _clean(value)
        case bool() | None:
            return value
        case int() if not -(2**63) <= value < 2**63:
            return str(value)
        case list():
            return [_cleaned(item) for item in value]
        case dict():
            return {_clean(key): _cleaned(item) for key, item in value.items()}
        case _:
            return value
