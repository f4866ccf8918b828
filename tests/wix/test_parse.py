"""Every level of nesting has its own reason for not being read; nothing else may come of odd input."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.domain.event import Kind
from processor.errors import Unreadable
from processor.wix import wire
from processor.wix.parse import Reason, clean_json, guid, parse_claims, parse_event, parse_payment, seen_link
from tests.builders import (
    INSTANCE,
    LINK,
    PAYMENT,
    app_claims,
    claims,
    envelope,
    event,
    payment_claims,
    payment_entity,
    worked_example,
)


def reason_of(entity: Any) -> str:
    with pytest.raises(Unreadable) as caught:
        parse_payment(entity, INSTANCE)
    return caught.value.reason


@pytest.mark.fact("E1", "E4", "E7", "E10", "E14", "E18", "P3")
def test_the_documented_example_is_read_whole() -> None:
    read = parse_event(worked_example())

    assert read.unreadable is None
    assert read.kind is Kind.PAYMENT
    assert read.instance_id == UUID("3c1f3e0a-9a55-4a8e-8a2b-1d2e3f405162")
    assert read.event_id == UUID("faf66111-86e9-4480-a4bb-7a3004eb0092")
    assert read.site_id == UUID("5f2d8c3e-4a1b-4f77-8c55-9e1a2b3c4d5e")
    assert read.entity_sequence == 1
    assert read.occurred_at == datetime(2025, 1, 21, 9, 18, 12, 31_000, tzinfo=UTC)
    assert read.seen is not None
    payment = read.seen.payment
    assert (payment.payment_id, payment.payment_link_id) == (PAYMENT, LINK)
    assert (payment.amount, payment.currency, payment.revision) == (Decimal("10.99"), "USD", 1)
    assert payment.created_at == datetime(2025, 1, 21, 9, 18, 11, 648_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", Reason.CLAIMS_NOT_JSON),
        (b"\xff\xfe", Reason.CLAIMS_NOT_JSON),
        (b"{", Reason.CLAIMS_NOT_JSON),
        (b'{"data": NaN}', Reason.CLAIMS_NOT_JSON),
        (b"[" * 100_000, Reason.CLAIMS_NOT_JSON),
        (b"[]", Reason.CLAIMS_NOT_AN_OBJECT),
        (b'"text"', Reason.CLAIMS_NOT_AN_OBJECT),
    ],
)
def test_claims_that_cannot_be_read_say_why(text: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        parse_claims(text)

    assert caught.value.reason == reason


@pytest.mark.fact("E1", "E2", "E4", "J8")
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"iat": 1}, Reason.CLAIMS_DATA_NOT_TEXT),
        ({"data": {"already": "an object"}}, Reason.CLAIMS_DATA_NOT_TEXT),
        (claims("{"), Reason.ENVELOPE_NOT_JSON),
        (claims("[" * 100_000), Reason.ENVELOPE_NOT_JSON),
        (claims("[]"), Reason.ENVELOPE_WRONG_SHAPE),
        (claims(envelope(eventType=...)), Reason.ENVELOPE_WRONG_SHAPE),
        (claims(envelope(data={"not": "text"})), Reason.ENVELOPE_WRONG_SHAPE),
        (claims(envelope(accountInfo="text")), Reason.ENVELOPE_WRONG_SHAPE),
        (claims(envelope(instanceId=...)), Reason.INSTANCE_ID_MISSING),
        (claims(envelope(instanceId=None)), Reason.INSTANCE_ID_MISSING),
        (claims(envelope(instanceId="not-a-guid")), Reason.INSTANCE_ID_NOT_GUID),
    ],
)
def test_what_names_no_instance_is_unreadable(broken: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        parse_event(broken)

    assert caught.value.reason == reason


@pytest.mark.fact("E10", "E13")
@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        ("{", Reason.EVENT_NOT_JSON),
        ("[" * 50_000, Reason.EVENT_NOT_JSON),
        ("[]", Reason.EVENT_WRONG_SHAPE),
        (event(id=...), Reason.EVENT_WRONG_SHAPE),
        (event(id=7), Reason.EVENT_WRONG_SHAPE),
        (event(id="seven"), Reason.EVENT_ID_NOT_GUID),
        (event(createdEvent=...), Reason.ENTITY_MISSING),
        (event(createdEvent={}), Reason.ENTITY_MISSING),
        (event(createdEvent={"entity": None}), Reason.ENTITY_MISSING),
        (event(createdEvent={"entity": "{"}), Reason.ENTITY_NOT_JSON),
        (event(createdEvent=[1]), Reason.EVENT_WRONG_SHAPE),
        (event(entityId="11111111-2222-4333-8444-555555555555"), Reason.ENTITY_ID_DIFFERS),
        (event(payment_entity(amount="ten")), Reason.AMOUNT_NOT_DECIMAL),
    ],
)
def test_a_later_level_that_cannot_be_read_is_kept_under_its_instance(inner: Any, reason: str) -> None:
    read = parse_event(claims(envelope(inner, eventType=wire.PAYMENT_CREATED)))

    assert read.unreadable == reason
    assert read.instance_id == INSTANCE
    assert read.seen is None


@pytest.mark.fact("P1", "P2", "P5", "P7", "P9", "P10")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": ...}, Reason.PAYMENT_ID_MISSING),
        ({"id": None}, Reason.PAYMENT_ID_MISSING),
        ({"id": "x"}, Reason.PAYMENT_ID_NOT_GUID),
        ({"id": str(PAYMENT).replace("-", "")}, Reason.PAYMENT_ID_NOT_GUID),
        ({"paymentLinkId": ...}, Reason.LINK_ID_MISSING),
        ({"paymentLinkId": ""}, Reason.LINK_ID_MISSING),
        ({"paymentLinkId": "x"}, Reason.LINK_ID_NOT_GUID),
        ({"revision": ...}, Reason.REVISION_MISSING),
        ({"revision": "one"}, Reason.REVISION_NOT_INTEGER),
        ({"revision": "-1"}, Reason.REVISION_NOT_INTEGER),
        ({"revision": "1.0"}, Reason.REVISION_NOT_INTEGER),
        ({"revision": "٣"}, Reason.REVISION_NOT_INTEGER),
        ({"revision": str(2**63)}, Reason.REVISION_OUT_OF_RANGE),
        ({"revision": "9" * 5_000}, Reason.REVISION_OUT_OF_RANGE),
        ({"revision": 2**63}, Reason.REVISION_OUT_OF_RANGE),
        ({"amount": ...}, Reason.AMOUNT_MISSING),
        ({"amount": 10.99}, Reason.AMOUNT_NOT_TEXT),
        ({"amount": 10}, Reason.AMOUNT_NOT_TEXT),
        ({"amount": "10.9999"}, Reason.AMOUNT_TOO_FINE),
        ({"amount": "-0.01"}, Reason.AMOUNT_NEGATIVE),
        ({"amount": "1000000000000001"}, Reason.AMOUNT_TOO_LARGE),
        ({"amount": "1e3"}, Reason.AMOUNT_NOT_DECIMAL),
        ({"amount": "NaN"}, Reason.AMOUNT_NOT_DECIMAL),
        ({"amount": "Infinity"}, Reason.AMOUNT_NOT_DECIMAL),
        ({"amount": "1_000"}, Reason.AMOUNT_NOT_DECIMAL),
        ({"amount": " 1"}, Reason.AMOUNT_NOT_DECIMAL),
        ({"amount": "10,99"}, Reason.AMOUNT_NOT_DECIMAL),
        ({"currency": ...}, Reason.CURRENCY_MISSING),
        ({"currency": "DOGE"}, Reason.CURRENCY_UNKNOWN),
        ({"currency": "usd"}, Reason.CURRENCY_UNKNOWN),
        ({"receiptId": "x"}, Reason.RECEIPT_ID_NOT_GUID),
        ({"createdDate": "0001-01-01T00:00:00Z"}, Reason.DATE_OUT_OF_RANGE),
        ({"createdDate": "yesterday"}, Reason.PAYMENT_WRONG_SHAPE),
        ({"createdDate": "2026-11-24T11:00:00"}, Reason.PAYMENT_WRONG_SHAPE),
    ],
)
def test_a_payment_that_cannot_be_trusted_says_why(change: dict[str, Any], reason: str) -> None:
    assert reason_of(payment_entity(**change)) == reason


WRONG_VALUES: tuple[Any, ...] = (5, 1.5, True, [], ["x"], {}, {"x": 1}, "", "x", 2**70, None)


@pytest.mark.parametrize("name", sorted(payment_entity(receiptId="", ecomOrder={}, extendedFields={})))
@pytest.mark.parametrize("value", WRONG_VALUES, ids=repr)
def test_a_wrong_type_anywhere_is_read_or_refused_but_never_breaks(name: str, value: Any) -> None:
    assert refused(payment_entity(**{name: value})) in {None, *Reason}


@pytest.mark.parametrize("entity", [None, [], "text", 5, True])
def test_a_payment_that_is_no_object_is_refused(entity: Any) -> None:
    assert reason_of(entity) == Reason.PAYMENT_WRONG_SHAPE


@pytest.mark.fact("E20", "E21", "E25", "E26")
@pytest.mark.parametrize(
    "payload",
    [
        {"createdEvent": {"entity": payment_entity()}},
        {"createdEvent": {"currentEntity": payment_entity()}},
        {"createdEvent": {"entityAsJson": json.dumps(payment_entity())}},
        {"createdEvent": {"entityAsJson": payment_entity()}},
        {"createdEvent": ..., "updatedEvent": {"currentEntity": payment_entity()}},
        {"createdEvent": ..., "updatedEvent": {"currentEntityAsJson": json.dumps(payment_entity())}},
    ],
)
def test_the_entity_is_found_wherever_the_documentation_shows_it(payload: dict[str, Any]) -> None:
    read = parse_event(claims(envelope(event(**payload))))

    assert read.unreadable is None
    assert read.seen is not None
    assert read.seen.payment.amount == Decimal("10.99")


@pytest.mark.fact("P8", "U14")
def test_the_currency_is_read_from_either_name() -> None:
    seen = parse_payment(payment_entity(currency=..., currencyCode="EUR"), INSTANCE)

    assert seen.payment.currency == "EUR"


@pytest.mark.fact("P17", "P19", "P20", "P22", "R3")
def test_what_identifies_a_person_is_kept_apart_and_what_is_unknown_is_kept() -> None:
    entity = payment_entity(giftCardPaymentLinkPayment={"maskedCode": "****1"}, novelty={"a": [1]})
    entity["regularPaymentLinkPayment"]["surprise"] = "x"

    seen = parse_payment(entity, INSTANCE)

    assert seen.personal is not None
    assert set(seen.personal) == {
        "contactDetails",
        "billingAddress",
        "creditCardPaymentMethodData",
        "giftCardPaymentLinkPayment",
    }
    assert seen.rest == {"novelty": {"a": [1]}, "regularPaymentLinkPayment": {"surprise": "x"}}
    assert "Hedwig" not in json.dumps(seen.rest)


@pytest.mark.fact("P21", "P25", "P26")
def test_an_order_is_found_on_the_payment_or_inside_the_regular_payment() -> None:
    assert parse_payment(payment_entity(), INSTANCE).payment.ecom_order_id == "5d6f"
    told = payment_entity(ecomOrder={"ecomOrderId": "77"})
    assert parse_payment(told, INSTANCE).payment.ecom_order_id == "77"


def test_nul_and_lone_surrogates_do_not_cost_a_payment() -> None:
    entity = payment_entity(type="REG\x00ULAR", novelty={"k\x00": "a\x00b"})
    entity["regularPaymentLinkPayment"]["contactDetails"]["fullName"] = "\ud800x"
    text = json.dumps(claims(envelope(json.dumps(event(entity)), eventType=wire.PAYMENT_CREATED)))

    read = parse_event(parse_claims(text.encode()))

    assert read.unreadable is None
    assert read.seen is not None
    assert read.seen.payment.type == "REG\ufffdULAR"
    assert read.seen.rest == {"novelty": {"k\ufffd": "a\ufffdb"}}
    assert read.seen.personal is not None
    assert read.seen.personal["contactDetails"]["fullName"] == "\ufffdx"


def test_numbers_beyond_64_bits_are_kept_as_text() -> None:
    assert clean_json({"a": [2**64, -(2**70), 2**63 - 1]}) == {"a": [str(2**64), str(-(2**70)), 2**63 - 1]}


@pytest.mark.fact("E3", "E30", "E33", "E34", "E35", "E36", "U6")
@pytest.mark.parametrize(
    ("event_type", "kind"),
    [
        (wire.PAYMENT_CREATED, Kind.PAYMENT),
        (wire.PAYMENT_UPDATED, Kind.PAYMENT),
        ("wix.paymentlinks.v1.payment_link_created", Kind.LINK),
        ("wix.whatever.v7.payment_link_sent", Kind.LINK),
        ("wix.paymentlinks.v1.payment_link_payment_initiated", Kind.LINK),
        ("wix.paymentlinks.payments.v1.payment_link_payment_refunded", Kind.OTHER),
        ("wix.ecom.v1.order_approved", Kind.OTHER),
        ("AppInstalled", Kind.APP_INSTALLED),
        ("AppRemoved", Kind.APP_REMOVED),
        ("", Kind.OTHER),
    ],
)
def test_an_event_is_known_by_its_type(event_type: str, kind: Kind) -> None:
    inner = event(entityId=str(LINK)) if kind is Kind.LINK else event()

    assert parse_event(claims(envelope(inner, eventType=event_type))).kind is kind


@pytest.mark.fact("E24", "R46")
def test_a_link_event_asks_for_a_check_of_that_link_and_books_nothing() -> None:
    inner = event(slug="payment_initiated", entityId=str(LINK), createdEvent=...)
    told = claims(envelope(inner, eventType="wix.paymentlinks.v1.payment_link_payment_initiated"))

    read = parse_event(told)

    assert (read.link_id, read.seen, read.unreadable) == (LINK, None, None)


@pytest.mark.fact("E36")
@pytest.mark.parametrize("event_type", ["AppInstalled", "AppRemoved"])
def test_an_app_event_gets_an_id_from_its_content_the_same_for_every_resend(event_type: str) -> None:
    first, again = parse_event(app_claims(event_type)), parse_event(app_claims(event_type))

    assert first.event_id == again.event_id
    assert first.app_id == "my-app"
    assert first.unreadable is None


def test_the_same_app_event_of_another_day_is_another_event() -> None:
    told = envelope(json.dumps({"appId": "a"}), eventType="AppInstalled")

    first, later = parse_event(claims(told, iat=1)), parse_event(claims(told, iat=2))

    assert first.event_id != later.event_id


@pytest.mark.fact("U4")
def test_a_resend_signed_anew_has_the_same_content_digest() -> None:
    told = envelope()

    first, again = parse_event(claims(told, iat=1)), parse_event(claims(told, iat=99))

    assert (first.event_id, first.content_digest) == (again.event_id, again.content_digest)


@pytest.mark.fact("E6", "E7")
def test_an_event_without_identity_or_account_is_read() -> None:
    read = parse_event(claims(envelope(identity=..., accountInfo=...)))

    assert read.unreadable is None
    assert read.site_id is None


@pytest.mark.fact("E15")
def test_a_privacy_request_is_noticed() -> None:
    assert parse_event(payment_claims({"triggeredByAnonymizeRequest": True})).anonymized
    assert not parse_event(payment_claims({"triggeredByAnonymizeRequest": None})).anonymized


@pytest.mark.fact("D16", "E41")
def test_an_unknown_event_keeps_its_own_id_so_that_its_resends_are_known() -> None:
    own = "faf66111-86e9-4480-a4bb-7a3004eb0092"

    read = parse_event(claims(envelope({"id": own, "any": 1}, eventType="wix.ecom.v1.order_approved")))

    assert read.event_id == UUID(own)
    assert read.unreadable is None


@pytest.mark.parametrize("text", [None, "", "x", "{3c1f3e0a-9a55-4a8e-8a2b-1d2e3f405162}", "3" * 36])
def test_only_the_usual_form_of_a_guid_is_one(text: str | None) -> None:
    assert guid(text) is None


@pytest.mark.fact("L19", "L20", "L14")
def test_a_link_is_read_with_its_control_total() -> None:
    told = wire.PaymentLink(
        id=str(LINK),
        revision="3",
        currency="KWD",
        total_received=wire.TotalReceived(payment_count=2, amount="12.345"),
        ecom_order_payment_link=wire.EcomOrderPaymentLink(order_id="o", amount="5"),
    )

    link = seen_link(told, INSTANCE).link

    assert (link.payment_count, link.total_amount) == (2, Decimal("12.345"))
    assert (link.ecom_order_id, link.order_amount) == ("o", Decimal(5))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["createdEvent", "10.99", "USD", str(PAYMENT), str(LINK), "\x00", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(sorted(payment_entity())) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=12,
)


def refused(entity: Any) -> str | None:
    """Why a payment cannot be read, None when it was."""
    try:
        parse_payment(entity, INSTANCE)
    except Unreadable as why:
        return why.reason
    return None


def unread(told: dict[str, Any]) -> str | None:
    """Why claims cannot be read, None when they were, be it in part."""
    try:
        read = parse_event(parse_claims(json.dumps(told).encode("utf-8", "surrogatepass")))
    except Unreadable as why:
        return why.reason
    return read.unreadable


@given(json_values)
@settings(max_examples=150)
def test_arbitrary_claims_are_read_or_refused(value: Any) -> None:
    assert unread({"data": value, "iat": value, "exp": value}) in {None, *Reason}
    assert unread(claims(json.dumps(value))) in {None, *Reason}


@given(st.dictionaries(st.sampled_from(sorted(envelope())), json_values, max_size=3))
@settings(max_examples=150)
def test_an_arbitrary_envelope_is_read_or_refused(changes: dict[str, Any]) -> None:
    assert unread(claims(envelope(**changes))) in {None, *Reason}


@given(st.dictionaries(st.sampled_from(sorted(event())), json_values, max_size=3))
@settings(max_examples=200)
def test_an_arbitrary_event_is_read_or_refused(changes: dict[str, Any]) -> None:
    told = claims(envelope(json.dumps(event(**changes)), eventType=wire.PAYMENT_CREATED))

    assert unread(told) in {None, *Reason}


@given(st.dictionaries(st.sampled_from(sorted(payment_entity())), json_values, max_size=3))
@settings(max_examples=300)
def test_an_arbitrary_payment_is_read_or_refused(changes: dict[str, Any]) -> None:
    assert refused(payment_entity(**changes)) in {None, *Reason}


@pytest.mark.parametrize("field", ['"paymentsLimit":%d', '"totalReceived":{"paymentCount":%d}'])
def test_a_number_of_a_link_that_no_column_can_hold_makes_the_link_unreadable(field: str) -> None:
    told = [f'{{"id":"{LINK}",{field % number}}}' for number in (2**63 - 1, 2**63, 10**30)]

    assert msgspec.convert(wire.decode_json(told[0]), wire.PaymentLink).id == str(LINK)
    for beyond in told[1:]:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wire.decode_json(beyond), wire.PaymentLink)
