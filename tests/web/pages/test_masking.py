"""Nothing personal survives masking, wherever Wix may put it; what finance needs is left as it was."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.web.pages.masking import MASK, hidden, masked, masked_but_ids, masked_text

PAYMENT: dict[str, Any] = {
    "id": "afb2f6c0-e497-4c69-9ddb-be8c82351456",
    "revision": "3",
    "createdDate": "2026-11-24T12:00:00.000Z",
    "transactionDate": "2026-11-24T12:00:00.000Z",
    "amount": "10.99",
    "currency": "USD",
    "paymentLinkId": "6a206d71-52f5-4012-b3dd-8a283fea052e",
    "type": "REGULAR",
    "regularPaymentLinkPayment": {
        "method": "CREDIT_CARD",
        "paymentMethod": "creditCard",
        "paymentProvider": "Credit/Debit Cards",
        "order": {"type": "ECOM", "ecomOrder": {"ecomOrderId": "0b7c3f9e-24a5-4d20-a0f9-30ad8f3b53a3"}},
    },
    "ecomCheckout": {"ecomCheckoutId": "9c7c3f9e-24a5-4d20-a0f9-30ad8f3b53a3"},
}


def claims_of(entity: Any, *, as_text: bool = False, more: dict[str, Any] | None = None) -> dict[str, Any]:
    holder = {"entityAsJson": json.dumps(entity)} if as_text else {"entity": entity}
    event = {
        "id": "11111111-24a5-4d20-a0f9-30ad8f3b53a3",
        "entityFqdn": "wix.paymentlinks.payments.v1.payment_link_payment",
        "slug": "created",
        "entityId": PAYMENT["id"],
        "createdEvent": holder,
        "eventTime": "2026-11-24T12:00:00.000Z",
        "triggeredByAnonymizeRequest": False,
        "originatedFrom": "",
        "entityEventSequence": "1",
        **(more or {}),
    }
    envelope = {
        "data": json.dumps(event),
        "instanceId": "3c1f3e0a-9a55-4a8e-8a2b-1d2e3f405162",
        "eventType": "wix.paymentlinks.payments.v1.payment_link_payment_created",
        "identity": json.dumps({"identityType": "WIX_USER", "wixUserId": "an id of a person"}),
    }
    return {"data": json.dumps(envelope), "iat": 1_795_123_468, "exp": 1_795_127_068}


def entity_of(shown: Any) -> Any:
    return shown["data"]["data"]["createdEvent"]["entity"]


def test_what_finance_needs_is_left_as_it_was() -> None:
    shown = masked(claims_of(PAYMENT))

    assert entity_of(shown) == PAYMENT
    assert shown["iat"] == 1_795_123_468
    assert shown["data"]["data"]["eventTime"] == "2026-11-24T12:00:00.000Z"
    assert shown["data"]["data"]["originatedFrom"] == ""
    assert shown["data"]["identity"] == {"identityType": "WIX_USER", "wixUserId": MASK}


def test_what_is_masked_is_not_changed() -> None:
    claims = claims_of(PAYMENT)
    kept = deepcopy(claims)

    masked(claims)

    assert claims == kept


# -- Personal values, wherever they may stand ---------------------------------------------------------

names = st.text("ΑΒΓΔαβγδéüşŁż ‏'", min_size=4, max_size=20).filter(lambda text: len(text.strip()) >= 4)
digits = st.text("0123456789", min_size=8, max_size=19)


def grouped(text: str, gap: str) -> str:
    return gap.join(text[at : at + 4] for at in range(0, len(text), 4))


numbers = st.builds(grouped, digits, st.sampled_from(["", " ", "-", ".", " - ", "\N{NO-BREAK SPACE}"]))
mails = st.from_regex(r"[a-z]{3,8}\.[a-z]{3,8}\+?@[a-z]{3,8}\.example", fullmatch=True)
personal_values = st.one_of(names, numbers, mails, numbers.map("+{}".format), st.integers(10**7, 10**17))
field_names = st.sampled_from(
    (
        *("firstName", "lastName", "fullName", "phone", "company", "email", "contactId", "buyerName", "note"),
        *("vatId", "name", "title", "id", "type", "amount", "description", "holderName", "code", "phones"),
    )
)
personal_objects = st.recursive(
    personal_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(field_names, inner, max_size=3),
    max_leaves=8,
)


def leaves(value: Any) -> list[str]:
    match value:
        case dict():
            return [leaf for one in value.values() for leaf in leaves(one)]
        case list():
            return [leaf for one in value for leaf in leaves(one)]
    return [str(value)]


def check_gone(values: Any, shown: Any) -> None:
    text = json.dumps(shown, ensure_ascii=False)
    assert [one for one in leaves(values) if one in text] == []


@given(
    st.sampled_from(["contactDetails", "billingAddress", "creditCardPaymentMethodData"]),
    st.dictionaries(field_names, personal_objects, min_size=1),
    st.booleans(),
)
def test_no_value_of_a_personal_block_survives(block: str, values: dict[str, Any], as_text: bool) -> None:
    regular = PAYMENT["regularPaymentLinkPayment"] | {block: values}

    check_gone(values, masked(claims_of(PAYMENT | {"regularPaymentLinkPayment": regular}, as_text=as_text)))
    check_gone(values, masked({block: values}))
    check_gone(values, hidden(values))


@given(
    st.sampled_from(["giftCardPaymentLinkPayment", "giftCard", "buyer", "extendedFields", "customer", "x"]),
    personal_objects,
    st.sampled_from(["entity", "event", "regular", "order"]),
)
def test_no_value_of_a_field_we_do_not_know_survives(name: str, value: Any, where: str) -> None:
    entity, more = deepcopy(PAYMENT), {}
    match where:
        case "entity":
            entity[name] = value
        case "event":
            more = {name: value}
        case "regular":
            entity["regularPaymentLinkPayment"][name] = value
        case "order":
            entity["regularPaymentLinkPayment"]["order"][name] = value

    check_gone(value, masked(claims_of(entity, more=more)))


@given(
    st.sampled_from([*PAYMENT, "receiptId", "note", "title", "ecomOrder", "lineItems"]),
    st.one_of(numbers.filter(lambda text: len(text) > 13), mails),
    st.booleans(),
)
def test_a_number_or_mail_in_the_wrong_field_does_not_survive(name: str, value: str, nested: bool) -> None:
    check_gone(value, masked(claims_of(PAYMENT | {name: {"text": value} if nested else value})))


@given(st.one_of(mails, numbers))
def test_a_number_or_mail_within_free_text_does_not_survive(value: str) -> None:
    check_gone(value, masked_text(f"Rent of {value}, March"))
    check_gone(value, masked({"title": f"Rent of {value}, March"}))


@given(st.one_of(mails, numbers, names))
def test_names_of_fields_hide_nobody(value: str) -> None:
    check_gone(value, masked({"extendedFields": {value: {value: 1}, f"{value}x": 2}}))
    check_gone(value, masked({value: "x"}))


@given(
    st.recursive(
        personal_values | st.none() | st.booleans(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_anything_can_be_masked_and_again(value: Any) -> None:
    once = masked(value)

    assert masked(once) == once


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Visa **** 4242", f"Visa {MASK}"),
        ("card xxxx-xxxx-xxxx-4242", f"card xxxx-xxxx-{MASK}"),
        ("4111 1111 1111 1111", MASK),
        ("call +49 (30) 901820 now", f"call {MASK} now"),
        ("anna@shop.example", MASK),
        ("Deposit, 2 nights, room 101", "Deposit, 2 nights, room 101"),
        ("٤١١١١١١١١١١١١١١١", MASK),
    ],
)
def test_free_text_loses_numbers_and_mails_alone(text: str, shown: str) -> None:
    assert masked_text(text) == shown


def test_ids_within_text_stay_whose_digits_look_like_a_number() -> None:
    id_ = "12345678-1234-4234-8234-123456789012"

    assert masked_but_ids(f"order {id_}, call 2612 3456") == f"order {id_}, call {MASK}"
    assert masked_but_ids(id_) == id_
    assert masked_but_ids("Invoice of 2026-11-28 or 28.11.2026") == "Invoice of 2026-11-28 or 28.11.2026"
    assert masked_but_ids("call 2026-11-28 12 34") == f"call {MASK}"
    assert masked_but_ids("4111 1111 1111 1111, 2026-11-28") == f"{MASK}, 2026-11-28"
    assert masked_but_ids("") == ""


def test_what_is_nested_without_end_is_hidden() -> None:
    deep: Any = "Anna"
    for _ in range(500):
        deep = {"entity": deep}

    assert "Anna" not in json.dumps(masked(deep))
    for _ in range(300):
        deep = {"buyer": [deep]}
    assert "Anna" not in json.dumps(masked(deep))


def test_that_nothing_was_given_is_no_secret() -> None:
    assert masked({"contactDetails": {"phone": None, "email": ""}}) == {
        "contactDetails": {"phone": None, "email": ""}
    }


def test_a_link_shows_its_title_and_items_but_no_note_and_nobody() -> None:
    link = {
        "id": PAYMENT["paymentLinkId"],
        "title": "Ceramics workshop",
        "note": {"text": "for Anna"},
        "recipients": [
            {"contactId": "6a206d71-52f5-4012-b3dd-8a283fea052e", "sendMethods": ["EMAIL_METHOD"]}
        ],
        "ecomPaymentLink": {
            "lineItems": [{"type": "CUSTOM", "customItem": {"name": "Mug", "quantity": 2, "price": "12.00"}}]
        },
        "links": {"url": {"url": "https://shop.example/pay/abc"}},
        "totalReceived": {"paymentCount": 2, "amount": "24.00"},
    }
    event = {"actionEvent": {"body": {"paymentLink": link}}}

    shown = masked(event)["actionEvent"]["body"]["paymentLink"]

    assert shown == link | {
        "note": {"text": MASK},
        "recipients": [{"contactId": MASK, "sendMethods": ["EMAIL_METHOD"]}],
    }


def test_an_address_is_shown_of_a_link_alone() -> None:
    assert masked({"entity": {"url": "https://static.example/anna"}}) == {"entity": {"url": MASK}}
    shown = masked({"entity": {"links": {"url": {"url": "https://shop.example/pay/abc?mail=anna"}}}})
    assert shown == {"entity": {"links": {"url": {"url": MASK}}}}
