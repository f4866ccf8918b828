"""Whatever a client sends, the sandbox names what is wrong and changes nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sandbox.wixlike import LINKS, PAYMENTS, Site, a_site


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with a_site(calls_per_minute=100_000) as running:
        yield running


def made_link(**change: Any) -> dict[str, Any]:
    item = {"type": "CUSTOM", "customItem": {"name": "a", "quantity": 1, "price": "8"}}
    link = {"title": "t", "currency": "USD", "type": "ECOM", "ecomPaymentLink": {"lineItems": [item]}}
    return {"paymentLink": link | change}


def custom_item(**change: Any) -> dict[str, Any]:
    item = {"name": "a", "quantity": 1, "price": "8", **change}
    return {"ecomPaymentLink": {"lineItems": [{"type": "CUSTOM", "customItem": item}]}}


@pytest.mark.fact("L5", "L10", "L11", "X5")
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"expirationDate": "2099-01-01T00:00:00"}, "paymentLink.expirationDate"),  # no time zone
        ({"expirationDate": "9999-12-31T23:59:59-14:00"}, "paymentLink.expirationDate"),
        ({"expirationDate": "0001-01-01T00:00:00+14:00"}, "paymentLink.expirationDate"),
        ({"description": "x" * 501}, "paymentLink.description"),
        (custom_item(description="x" * 601), "customItem.description"),
        (custom_item(quantity=0), "lineItems[0].customItem.quantity"),
        (custom_item(quantity=100_001), "lineItems[0].customItem.quantity"),
        (custom_item(price="１２"), "lineItems[0].customItem.price"),  # digits, but not ASCII
        (custom_item(price=8), "price"),
        (custom_item(price="8." + "0" * 1_000), "lineItems[0].customItem.price"),
    ],
)
def test_a_wrong_field_of_a_link_is_named(site: Site, change: dict[str, Any], field: str) -> None:
    answer = site.call("POST", LINKS, made_link(**change))

    assert answer.status_code == 400
    [violation] = answer.json()["details"]["validationError"]["fieldViolations"]
    assert field in violation["field"]


def cursor(held: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(held).encode()).decode()


CURSOR = {"filter": {}, "sort": [], "limit": 1, "offset": 0}


@pytest.mark.fact("Q6")
@pytest.mark.parametrize(
    "made_up",
    [
        "€",
        "====",
        cursor([]),
        cursor({}),
        cursor(CURSOR | {"limit": 101}),
        cursor(CURSOR | {"limit": float("inf")}),
        cursor(CURSOR | {"offset": -1}),
        cursor(CURSOR | {"offset": 10**30}),
        cursor(CURSOR | {"filter": {"amount": "1"}}),
        cursor(CURSOR | {"filter": 5}),
        cursor(CURSOR | {"sort": [["regularPaymentLinkPayment", True]]}),
        cursor(CURSOR | {"sort": [[[], True]]}),
        "x" * 16_001,
        5,
    ],
)
def test_a_made_up_cursor_is_refused(site: Site, made_up: Any) -> None:
    answer = site.call("POST", f"{PAYMENTS}/query", {"query": {"cursorPaging": {"cursor": made_up}}})

    assert answer.status_code == 400
    assert answer.json()["details"]["validationError"]["fieldViolations"]


@pytest.mark.fact("Q5")
@pytest.mark.parametrize("extra", [{"filter": {"type": "REGULAR"}}, {"sort": [{"fieldName": "type"}]}])
def test_filter_and_sort_are_not_sent_with_a_cursor(site: Site, extra: dict[str, Any]) -> None:
    query = {"cursorPaging": {"cursor": cursor(CURSOR)}, **extra}

    assert site.call("POST", f"{PAYMENTS}/query", {"query": query}).status_code == 400


def test_a_cursor_of_links_is_not_one_of_payments(site: Site) -> None:
    for _ in range(2):
        site.link()
    page = site.query(LINKS, sort=[{"fieldName": "status"}], cursorPaging={"limit": 1})

    query = {"cursorPaging": {"cursor": page["pagingMetadata"]["cursors"]["next"]}}

    assert site.call("POST", f"{PAYMENTS}/query", {"query": query}).status_code == 400


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"buyer": {"name": 5}}, "buyer.name"),
        ({"buyer": {"name": ""}}, "buyer.name"),
        ({"buyer": {"shoes": "41"}}, "buyer.shoes"),
        ({"buyer": "Ada"}, "buyer"),
        ({"isDeclined": "yes"}, "isDeclined"),
        ({"tenders": [{"type": "CARD", "amount": "0"}]}, "tenders[0].amount"),
        ({"tenders": [{"type": "IOU", "amount": "21.00"}]}, "tenders[0].type"),
        ({"tenders": [5]}, "tenders[0]"),
        ({"tenders": "CARD"}, "tenders"),
        ([], "body"),
    ],
)
def test_a_refused_purchase_leaves_nothing_behind(site: Site, body: Any, field: str) -> None:
    link = site.link()
    split = [{"type": "GIFT_CARD", "amount": "1.00"}, {"type": "CARD", "amount": "20.00"}]
    given = {"tenders": split, **body} if isinstance(body, dict) else body

    answer = site.http.post(f"/_sandbox/links/{link['id']}/pay", json=given)

    assert answer.status_code == 400
    [violation] = answer.json()["details"]["validationError"]["fieldViolations"]
    assert violation["field"] == field
    assert site.query(PAYMENTS, filter={"paymentLinkId": link["id"]})["paymentLinkPayments"] == []
    assert site.get(link["id"]) == link


def test_an_order_is_not_paid_beyond_its_total_by_two_links(site: Site) -> None:
    order = site.control(f"instances/{site.instance['instanceId']}/orders", {"total": "80.00"})
    order_link = {"title": "t", "currency": "USD", "type": "ECOM_ORDER"}
    made = {**order_link, "ecomOrderPaymentLink": {"orderId": order["id"], "amount": "50"}}
    first, second = (site.post(LINKS, {"paymentLink": made})["paymentLink"] for _ in range(2))
    site.pay(first["id"])

    refused = site.http.post(f"/_sandbox/links/{second['id']}/pay", json={})
    initiated = site.call("POST", f"{LINKS}/{second['id']}/initiate-payment")

    for answer in (refused, initiated):
        assert answer.status_code == 428
        code = answer.json()["details"]["applicationError"]["code"]
        assert code == "SANDBOX_AMOUNT_EXCEEDS_BALANCE"


def test_a_name_no_text_can_hold_is_mended(site: Site) -> None:
    body = b'{"buyer": {"name": "\\ud800x"}}'

    paid = site.http.post(f"/_sandbox/links/{site.link()['id']}/pay", content=body).json()["payments"]

    assert paid[0]["regularPaymentLinkPayment"]["contactDetails"]["fullName"] == "\ufffdx"


@pytest.mark.fact("A6")
@pytest.mark.parametrize("body", [b"grant_type=client_credentials", b"", b"[]", b"\xff"])
def test_a_token_request_is_refused_in_oauths_words(site: Site, body: bytes) -> None:
    answer = site.http.post("/oauth2/token", content=body)

    assert answer.status_code == 400
    assert set(answer.json()) == {"error", "error_description"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                (
                    *("query", "filter", "sort", "fieldName", "cursorPaging", "cursor", "$or", "$in"),
                    *("createdDate", "kind", "seconds", "count", "claims", "envelope", "data", "url"),
                    *("tenders", "buyer", "name", "amount", "paymentLink", "lineItems", "recipients"),
                    *("contacts", "products", "orders", "total", "currency", "note", "instanceId"),
                )
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=JSON)
def test_nothing_makes_it_fail(site: Site, body: Any) -> None:
    link = site.link()["id"]
    instance = f"/_sandbox/instances/{site.instance['instanceId']}"
    content = json.dumps(body)

    for path in (
        *(LINKS, f"{LINKS}/query", f"{PAYMENTS}/query", f"{LINKS}/{link}/send", f"{LINKS}/{link}/set-note"),
        *("/oauth2/token", "/oauth2/token-info", f"/_sandbox/links/{link}/pay", "/_sandbox/faults"),
        *("/_sandbox/tokens", f"{instance}/contacts", f"{instance}/products", f"{instance}/orders"),
    ):
        answer = site.http.post(path, content=content, headers=site.headers)
        assert answer.status_code < 500, (path, answer.text)
        # A fault that happened to be valid would plant failures of its own.
        site.http.delete("/_sandbox/faults")
