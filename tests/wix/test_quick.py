"""The quick way to read an event: as the careful one, or not at all."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.wix import quick
from processor.wix.parse import parse_claims, parse_event
from tests import builders
from tests.builders import claims, envelope, event, payment_claims, payment_entity

ODD: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        1.5,
        2**70,
        "",
        " ",
        "x" * 300,
        "\x00",
        "a\x00b",
        "\ud800",
        "é",
        "\u2028",
        "1e9",
        "007",
        "-1",
    ),
    *(
        "9" * 19,
        "9" * 30,
        "10.9999",
        "0",
        "NaN",
        "usd",
        "JPY",
        [],
        [1],
        ["a"],
        {},
        {"a": 1},
        {"a": {"b": {"c": "d"}}},
    ),
    *(
        {"a": "\x00"},
        {"a": None, "b": True},
        str(uuid4()),
        str(uuid4()).upper(),
        uuid4().hex,
        f"{{{uuid4()}}}",
    ),
    *(
        "2026-11-24T11:00:00Z",
        "2026-11-24T11:00:00.123456789+02:00",
        "2026-11-24T11:00:00",
        "0001-01-01T00:00:00Z",
    ),
    *("9999-12-31T23:59:59-23:00", "2026-13-01T00:00:00Z", "2026-11-24"),
]


def both(told: dict[str, Any]) -> bool:
    """Whether the quick way read it; then the careful one reads the same."""
    read = parse_claims(json.dumps(told).encode())
    found = quick.read(read)
    if found is not None:
        assert found == parse_event(read)
    return found is not None


@pytest.mark.parametrize("slug", ["created", "updated"])
def test_the_documented_event_is_read_quickly(slug: str) -> None:
    assert both(claims(envelope(event(slug=slug))))


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 10.99},
        {"amount": "10.9999"},
        {"currency": ...},
        {"currency": "XYZ"},
        {"id": "x"},
        {"revision": "-1"},
        {"revision": 1},
        {"giftCardPaymentLinkPayment": {"giftCardCode": "1"}},
        {"extendedFields": {"namespaces": {}}},
        {"unknown": 1},
        {"regularPaymentLinkPayment": {"contactDetails": {"age": 3}}},
        {"regularPaymentLinkPayment": {"contactDetails": {"name": "a\x00"}}},
        {"regularPaymentLinkPayment": {"unknown": 1}},
    ],
)
def test_whatever_is_unusual_is_left_to_the_careful_way(change: dict[str, Any]) -> None:
    assert not both(payment_claims(**change))


def test_an_erasure_a_link_and_an_unknown_type_are_left_to_the_careful_way() -> None:
    assert not both(payment_claims({"triggeredByAnonymizeRequest": True}))
    assert not both(claims(envelope(eventType="wix.paymentlinks.v1.payment_link_created")))
    assert not both(builders.app_claims("AppInstalled"))


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """The documented claims with a few values put, left out or written odd, on any level."""
    entity = payment_entity()
    regular = entity["regularPaymentLinkPayment"]
    regular |= {"billingAddress": {"city": "Bern", "streetAddress": {"number": "1", "name": "Gasse"}}}
    inner = event(entity, slug=draw(st.sampled_from(["created", "updated"])))
    outer = envelope()
    top: dict[str, Any] = {"data": "", "iat": 1_795_850_000}
    levels: list[dict[str, Any]] = [
        *(top, outer, outer["accountInfo"], inner, entity, regular, regular["billingAddress"]),
        *(inner[name] for name in ("createdEvent", "updatedEvent") if name in inner),
    ]
    for _ in range(draw(st.integers(0, 3))):
        level = draw(st.sampled_from(levels))
        name = draw(st.sampled_from([*level, "unknown", "currencyCode", "currentEntity", "entityAsJson"]))
        odd = draw(st.sampled_from(ODD) | st.text(max_size=6))
        if draw(st.booleans()):
            level[name] = odd
        else:
            level.pop(name, None)
    if outer.get("data") == envelope()["data"] or draw(st.booleans()):
        outer["data"] = json.dumps(inner, ensure_ascii=draw(st.booleans()))
    else:
        outer["data"] = json.dumps(inner)
    top["data"] = json.dumps(outer)
    return top


def test_both_ways_read_the_same() -> None:
    read: list[bool] = []

    @settings(max_examples=2_000)
    @given(changed())
    def check(told: dict[str, Any]) -> None:
        read.append(both(told))

    check()
    assert sum(read) > len(read) / 10, "the quick way was hardly ever taken"
