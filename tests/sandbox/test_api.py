"""The REST API of the pretend Wix against what Wix documents."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from processor.processes import wait_until
from tests.sandbox.wixlike import LINKS, PAYMENTS, Site, a_site, token_for


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with a_site(calls_per_minute=100_000) as running:
        yield running


def code(answer: Any) -> str:
    found: str = answer.json()["details"]["applicationError"]["code"]
    return found


# -- Links -----------------------------------------------------------------------------------------


@pytest.mark.fact("R10", "R11", "R33", "L2", "L23", "S3")
def test_a_link_is_created_with_the_documented_fields(site: Site) -> None:
    link = site.link(description="two of them", paymentsLimit=3)

    assert (link["revision"], link["status"], link["type"]) == ("1", "ACTIVE", "ECOM")
    assert link["totalReceived"] == {"paymentCount": 0, "amount": "0.00"}
    assert link["links"]["url"]["url"] == f"{site.sandbox.url}/_paylink/{link['id']}"
    assert link["createdDate"].endswith("Z")
    assert site.get(link["id"]) == link


@pytest.mark.fact("L9", "L12", "L13")
def test_a_link_to_a_product_takes_its_price_from_the_shop(site: Site) -> None:
    reference = {
        "appId": "215238eb-22a5-4c36-9e7b-e7c08025e04e",
        "catalogItemId": site.instance["productIds"][0],
    }
    item = {"type": "CATALOG", "catalogItem": {"quantity": 2, "catalogReference": reference}}
    link = site.link(ecomPaymentLink={"lineItems": [item]})

    [payment] = site.pay(link["id"])

    assert payment["amount"] == "48.00"


@pytest.mark.fact("L14", "L18", "P25", "P26", "S10")
def test_a_link_to_an_order_pays_its_balance_once(site: Site) -> None:
    order = site.control(f"instances/{site.instance['instanceId']}/orders", {"total": "80.00"})
    made = {"title": "t", "currency": "USD", "type": "ECOM_ORDER"}
    link = site.post(
        LINKS, {"paymentLink": {**made, "ecomOrderPaymentLink": {"orderId": order["id"], "amount": "30"}}}
    )["paymentLink"]
    assert link["paymentsLimit"] == 1

    [payment] = site.pay(link["id"])

    assert payment["ecomOrder"] == {"ecomOrderId": order["id"]}
    assert site.get(link["id"])["status"] == "PAID"
    too_much = {**made, "ecomOrderPaymentLink": {"orderId": order["id"], "amount": "50.01"}}
    refused = site.call("POST", LINKS, {"paymentLink": too_much})
    assert (refused.status_code, code(refused)) == (428, "SANDBOX_AMOUNT_EXCEEDS_BALANCE")


@pytest.mark.fact("L5", "L7", "L11", "X5", "X8")
@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"title": ""}, 400, "paymentLink.title"),
        ({"title": 5}, 400, "paymentLink.title"),
        ({"title": "x" * 201}, 400, "paymentLink.title"),
        ({"currency": "usd"}, 400, "paymentLink.currency"),
        ({"type": "ECOM_ORDER"}, 400, "paymentLink.type"),
        ({"ecomPaymentLink": {"lineItems": []}}, 400, "lineItems"),
        ({"ecomPaymentLink": {"lineItems": [{"type": "CUSTOM"}]}}, 400, "lineItems[0].type"),
        ({"expirationDate": "2020-01-01T00:00:00Z"}, 400, "paymentLink.expirationDate"),
        ({"paymentsLimit": 0}, 400, "paymentLink.paymentsLimit"),
        ({"recipients": [{"contactId": "nobody"}]}, 404, "RECIPIENT_NOT_FOUND"),
        (
            {"type": "ECOM_ORDER", "ecomPaymentLink": None, "ecomOrderPaymentLink": {"orderId": "x"}},
            404,
            "ORDER_NOT_FOUND",
        ),
    ],
)
def test_a_wrong_link_is_refused_in_wixs_words(
    site: Site, change: dict[str, Any], status: int, told: str
) -> None:
    item = {"type": "CUSTOM", "customItem": {"name": "a", "quantity": 1, "price": "1"}}
    link = {
        "title": "t",
        "currency": "USD",
        "type": "ECOM",
        "ecomPaymentLink": {"lineItems": [item]},
        **change,
    }

    answer = site.call("POST", LINKS, {"paymentLink": link})

    assert answer.status_code == status
    assert told in answer.text
    assert answer.headers["x-wix-request-id"]


@pytest.mark.parametrize("price", ["1.005", "-1", "1e2", "1,5", ""])
def test_a_price_is_decimal_text_of_its_currency(site: Site, price: str) -> None:
    item = {"type": "CUSTOM", "customItem": {"name": "a", "quantity": 1, "price": price}}
    link = {"title": "t", "currency": "USD", "type": "ECOM", "ecomPaymentLink": {"lineItems": [item]}}

    assert site.call("POST", LINKS, {"paymentLink": link}).status_code == 400


@pytest.mark.fact("R15", "R16", "R19", "R44", "R45", "R55", "L15", "L17", "S1", "S2")
def test_links_change_state_as_documented(site: Site) -> None:
    link = site.link(paymentsLimit=2)
    path = f"{LINKS}/{link['id']}"

    assert site.post(f"{path}/deactivate")["paymentLink"]["status"] == "INACTIVE"
    assert code(site.call("POST", f"{path}/initiate-payment")) == "SANDBOX_LINK_NOT_ACTIVE"
    assert site.post(f"{path}/activate")["paymentLink"]["status"] == "ACTIVE"
    assert site.post(f"{path}/set-note", {"note": {"text": "hi"}})["paymentLink"]["note"] == {"text": "hi"}
    site.pay(link["id"])
    assert site.get(link["id"])["status"] == "ACTIVE"
    site.pay(link["id"])
    assert site.get(link["id"])["status"] == "PAID"
    assert code(site.call("DELETE", path)) == "SANDBOX_LINK_HAS_PAYMENTS"


@pytest.mark.fact("R12", "R44", "R35")
def test_an_unpaid_link_is_deleted(site: Site) -> None:
    path = f"{LINKS}/{site.link()['id']}"

    assert site.call("DELETE", path).json() == {}
    assert site.call("GET", path).status_code == 404


@pytest.mark.fact("L15", "L22", "S3")
def test_a_link_expires(site: Site) -> None:
    soon = datetime.now(UTC) + timedelta(milliseconds=500)
    link = site.link(expirationDate=soon.isoformat())
    assert link["status"] == "ACTIVE"

    wait_until(lambda: site.get(link["id"])["status"] == "EXPIRED", what="the expiry", seconds=5)

    assert site.query(LINKS, filter={"status": "EXPIRED"})["paymentLinks"][0]["id"] == link["id"]
    answer = site.http.post(f"/_sandbox/links/{link['id']}/pay", json={})
    assert code(answer) == "SANDBOX_LINK_NOT_ACTIVE"


@pytest.mark.fact("R17", "R18", "R46", "R48", "R49", "P24", "L25", "L27")
def test_a_link_is_sent_to_its_contacts_and_payments_are_initiated(site: Site) -> None:
    link = site.link()
    recipients = [{"contactId": one, "sendMethods": ["EMAIL_METHOD"]} for one in site.instance["contactIds"]]

    site.post(f"{LINKS}/{link['id']}/send", {"recipients": recipients})
    checkout = site.post(f"{LINKS}/{link['id']}/initiate-payment")["ecomCheckout"]

    assert checkout["checkoutUrl"].endswith(f"/checkout/{checkout['checkoutId']}")
    assert site.get(link["id"])["totalReceived"]["paymentCount"] == 0, "initiating is not paying"
    [paid] = site.control(f"checkouts/{checkout['checkoutId']}/pay")["payments"]
    assert paid["ecomCheckout"] == {"ecomCheckoutId": checkout["checkoutId"]}
    again = site.http.post(f"/_sandbox/checkouts/{checkout['checkoutId']}/pay", json={})
    assert code(again) == "SANDBOX_CHECKOUT_COMPLETED"


# -- Payments --------------------------------------------------------------------------------------


@pytest.mark.fact("P1", "P12", "P22", "S11")
def test_a_split_purchase_makes_two_payments_of_one_checkout(site: Site) -> None:
    link = site.link("12.345", "KWD", quantity=1)
    tenders = [{"type": "GIFT_CARD", "amount": "2.345"}, {"type": "CARD", "amount": "10.000"}]

    gift, card = site.pay(link["id"], tenders=tenders)

    assert (gift["type"], gift["amount"], card["type"], card["amount"]) == (
        "GIFT_CARD",
        "2.345",
        "REGULAR",
        "10.000",
    )
    assert gift["ecomCheckout"] == card["ecomCheckout"]
    assert gift["giftCardPaymentLinkPayment"]["giftCardPaymentId"] == gift["id"]
    assert site.get(link["id"])["totalReceived"] == {"paymentCount": 2, "amount": "12.345"}


@pytest.mark.fact("P5", "P7")
@pytest.mark.parametrize(("currency", "price", "amount"), [("JPY", "4800", "4800"), ("USD", "4.5", "4.50")])
def test_amounts_are_written_with_the_digits_of_their_currency(
    site: Site, currency: str, price: str, amount: str
) -> None:
    [payment] = site.pay(site.link(price, currency, quantity=1)["id"])

    assert (payment["amount"], payment["currency"]) == (amount, currency)


@pytest.mark.fact("S6")
def test_tenders_must_add_up_and_a_declined_card_pays_nothing(site: Site) -> None:
    link = site.link()

    wrong = site.http.post(
        f"/_sandbox/links/{link['id']}/pay", json={"tenders": [{"type": "CARD", "amount": "1"}]}
    )

    assert wrong.status_code == 400
    assert site.pay(link["id"], isDeclined=True) == []
    assert site.get(link["id"])["totalReceived"]["paymentCount"] == 0


@pytest.mark.fact("P2", "P10", "R25", "R61")
def test_a_receipt_raises_the_revision(site: Site) -> None:
    [payment] = site.pay(site.link()["id"])

    receipt = site.post(f"{PAYMENTS}/{payment['id']}/issue-receipt")

    [found] = site.query(PAYMENTS, filter={"paymentLinkId": payment["paymentLinkId"]})["paymentLinkPayments"]
    assert (found["revision"], found["receiptId"]) == ("2", receipt["receiptId"])


# -- Queries ---------------------------------------------------------------------------------------


@pytest.mark.fact("Q3", "Q5", "Q13", "R37")
def test_pages_hold_everything_once(site: Site) -> None:
    link = site.link("1.00")
    ids = {site.pay(link["id"])[0]["id"] for _ in range(23)}
    found: list[str] = []

    page = site.query(PAYMENTS, filter={"paymentLinkId": {"$in": [link["id"]]}}, cursorPaging={"limit": 10})
    while True:
        found += [one["id"] for one in page["paymentLinkPayments"]]
        assert page["pagingMetadata"]["count"] == len(page["paymentLinkPayments"])
        cursor = page["pagingMetadata"]["cursors"].get("next")
        assert page["pagingMetadata"]["hasNext"] is (cursor is not None)
        if cursor is None:
            break
        page = site.query(PAYMENTS, cursorPaging={"cursor": cursor})

    assert len(found) == 23
    assert set(found) == ids


@pytest.mark.fact("R13", "Q15", "Q17", "Q18", "L19")
def test_filters_mean_what_the_documentation_says(site: Site) -> None:
    first, second = site.link("1.00"), site.link("2.00")
    site.pay(first["id"])
    created = {"createdDate": {"$in": [first["createdDate"], second["createdDate"]]}}

    def ids(**filters: Any) -> set[str]:
        links = site.query(LINKS, filter={**created, **filters}, cursorPaging={"limit": 100})["paymentLinks"]
        return {link["id"] for link in links} & {first["id"], second["id"]}

    both = {first["id"], second["id"]}
    assert ids() == both
    assert ids(**{"totalReceived.paymentCount": {"$gt": 0}}) == {first["id"]}
    assert ids(**{"totalReceived.paymentCount": 0}) == {second["id"]}
    assert ids(status={"$ne": "ACTIVE"}) == set()
    assert ids(**{"$not": {"totalReceived.paymentCount": 0}}) == {first["id"]}
    assert ids(**{"$or": [{"status": "PAID"}, {"totalReceived.paymentCount": {"$gte": 1}}]}) == {first["id"]}
    assert ids(paymentsLimit={"$exists": False}) == both


@pytest.mark.fact("Q7", "Q9", "Q17")
def test_the_newest_comes_first_unless_asked_otherwise(site: Site) -> None:
    link = site.link("1.00")
    for _ in range(3):
        site.pay(link["id"])
    about = {"paymentLinkId": {"$startsWith": link["id"][:20].upper()}}

    newest = site.query(PAYMENTS, filter=about)["paymentLinkPayments"]
    oldest = site.query(PAYMENTS, filter=about, sort=[{"fieldName": "createdDate"}])["paymentLinkPayments"]

    assert [one["createdDate"] for one in newest] == sorted(
        (one["createdDate"] for one in oldest), reverse=True
    )


@pytest.mark.fact("Q3", "Q4", "Q16", "Q21", "X5")
@pytest.mark.parametrize(
    ("path", "query"),
    [
        (PAYMENTS, {"filter": {"id": "x"}}),
        (PAYMENTS, {"filter": {"amount": {"$gt": "1"}}}),
        (PAYMENTS, {"filter": {"type": {"$gt": "A"}}}),
        (PAYMENTS, {"filter": {"createdDate": "yesterday"}}),
        (PAYMENTS, {"filter": {"createdDate": {"$gt": "2026-01-01T00:00:00"}}}),
        (PAYMENTS, {"filter": {"paymentLinkId": {"$in": ["x"] * 101}}}),
        (PAYMENTS, {"filter": {"paymentLinkId": {"$exists": 1}}}),
        (PAYMENTS, {"filter": []}),
        (PAYMENTS, {"filter": {"$or": {}}}),
        (PAYMENTS, {"sort": [{"fieldName": "amount"}]}),
        (PAYMENTS, {"sort": [{"fieldName": "createdDate", "order": "UP"}]}),
        (PAYMENTS, {"cursorPaging": {"limit": 101}}),
        (PAYMENTS, {"cursorPaging": {"limit": 0}}),
        (PAYMENTS, {"cursorPaging": {"cursor": "nonsense"}}),
        (PAYMENTS, {"paging": {"offset": 1}}),
        (LINKS, {"filter": {"id": "x"}}),
        (LINKS, {"filter": {"updatedDate": {"$gt": "2026-01-01T00:00:00Z"}}}),
        (LINKS, {"filter": {"paymentsLimit": {"$gt": "x"}}}),
    ],
)
def test_what_is_not_documented_is_refused(site: Site, path: str, query: dict[str, Any]) -> None:
    answer = site.call("POST", f"{path}/query", {"query": query})

    assert answer.status_code == 400
    assert answer.json()["details"]["validationError"]["fieldViolations"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"query": 5}', b"\xff", b"[" * 50_000])
def test_any_body_is_survived(site: Site, body: bytes) -> None:
    for path in (f"{PAYMENTS}/query", LINKS, f"{LINKS}/x/send", "/oauth2/token", "/_sandbox/faults"):
        answer = site.http.post(path, content=body, headers=site.headers)
        assert 400 <= answer.status_code < 500, (path, answer.text)


# -- Who may call ----------------------------------------------------------------------------------


@pytest.mark.fact("A9", "A10", "A12", "A14", "A15", "R7", "X9")
def test_tokens_and_keys_are_taken_in_every_documented_form(site: Site) -> None:
    bare = site.headers["Authorization"]
    key = {"Authorization": site.instance["apiKey"], "wix-site-id": site.instance["siteId"]}
    path = f"{LINKS}/query"

    for headers in ({"Authorization": bare}, {"Authorization": f"Bearer {bare}"}, key):
        assert site.http.post(path, json={"query": {}}, headers=headers).status_code == 200
    for headers, status in (
        ({}, 401),
        ({"Authorization": "nonsense"}, 401),
        ({**key, "wix-site-id": "other"}, 403),
        ({**key, "wix-account-id": "a"}, 403),
    ):
        assert site.http.post(path, json={"query": {}}, headers=headers).status_code == status


@pytest.mark.fact("A6", "A8")
def test_a_token_lives_four_hours_and_says_whose_it_is(site: Site) -> None:
    app = site.http.get("/_sandbox/app").json()
    info = site.http.post("/oauth2/token-info", json={"token": site.headers["Authorization"]}).json()

    assert (info["active"], info["clientId"], info["instanceId"]) == (
        True,
        app["appId"],
        site.instance["instanceId"],
    )
    wrong = {"grant_type": "client_credentials", "client_id": app["appId"], "client_secret": "x"}
    answer = site.http.post("/oauth2/token", json=wrong)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


@pytest.mark.fact("A11")
def test_a_removed_app_loses_its_access() -> None:
    with a_site() as site:
        app = site.http.get("/_sandbox/app").json()
        site.http.delete(f"/_sandbox/instances/{site.instance['instanceId']}")

        assert site.call("POST", f"{LINKS}/query", {"query": {}}).status_code == 403
        with pytest.raises(KeyError):
            token_for(site.http, app, site.instance)


@pytest.mark.fact("A4")
def test_an_instance_sees_only_its_own(site: Site) -> None:
    link = site.link()
    app = site.http.get("/_sandbox/app").json()
    other = site.http.post("/_sandbox/instances", json={}).json()
    theirs = {"Authorization": token_for(site.http, app, other)}

    assert site.http.get(f"{LINKS}/{link['id']}", headers=theirs).status_code == 404
    answer = site.http.post(f"{LINKS}/query", json={"query": {}}, headers=theirs)
    assert answer.json()["paymentLinks"] == []


@pytest.mark.fact("X1", "X2")
def test_calls_beyond_the_limit_of_a_minute_are_refused() -> None:
    with a_site(calls_per_minute=5) as site:
        statuses = [site.call("POST", f"{LINKS}/query", {"query": {}}).status_code for _ in range(7)]

    assert statuses == [200] * 5 + [429] * 2


# -- Control ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("faults", {"kind": "meteor"}),
        ("faults", {"kind": "delay"}),
        ("faults", {"kind": "drop", "count": 0}),
        ("faults", {"kind": "drop", "probability": "x"}),
        ("instances", {"instanceId": 5}),
        ("links/nope/pay", {}),
        ("checkouts/nope/pay", {}),
        ("payments/nope/anonymize", {}),
        ("events/nope/redeliver", {}),
        ("tokens", {}),
        ("deliveries/idle", {"timeoutSeconds": "x"}),
        ("nowhere", {}),
    ],
)
def test_a_wrong_control_request_is_named(site: Site, path: str, body: Any) -> None:
    answer = site.http.post(f"/_sandbox/{path}", json=body)

    assert answer.status_code in (400, 404)
    assert answer.json()["message"]


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "http://["}]
)
def test_a_page_of_somebody_else_changes_nothing_by_the_control_api(
    site: Site, headers: dict[str, str]
) -> None:
    before = site.http.get("/_sandbox/instances").json()

    answer = site.http.post("/_sandbox/instances", content="{}", headers=headers)

    assert answer.status_code == 403
    assert site.http.get("/_sandbox/instances").json() == before
