"""Facts of links and payments, and of what they mean: made by the sandbox, read by us."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from processor import flows
from processor.domain.reconciliation import Believed, Books, compare
from processor.wix import wire
from processor.wix.client import WixClient
from processor.wix.parse import parse_payment, seen_link
from tests.builders import INSTANCE, LINK, NOW, PAYMENT, make_payment, payment_entity
from tests.contract.ours import create, new
from tests.sandbox.wixlike import LINKS, PAYMENTS, Site
from tests.wix.scripted import Reply, Scripted

Ours = tuple[WixClient, UUID]


def read(entity: dict[str, Any]) -> Any:
    """A link as we keep it."""
    return seen_link(msgspec.convert(entity, wire.PaymentLink), INSTANCE).link


def refused(site: Site, **change: Any) -> bool:
    """Whether a link with this is refused, naming a field."""
    made = {**msgspec.to_builtins(new()), **change}
    answer = site.call("POST", LINKS, {"paymentLink": made})
    if answer.status_code == 200:
        return False
    assert answer.status_code == 400, answer.text
    return bool(answer.json()["details"]["validationError"]["fieldViolations"])


def item(**change: Any) -> dict[str, Any]:
    custom = {"name": "a", "quantity": 1, "price": "8", **change}
    return {"lineItems": [{"type": "CUSTOM", "customItem": custom}]}


# -- Links -----------------------------------------------------------------------------------------


@pytest.mark.fact("L1", "L2", "L3")
def test_a_change_makes_the_next_revision_and_leaves_id_and_creation_alone(site: Site) -> None:
    first = site.link()

    later = site.post(f"{LINKS}/{first['id']}/set-note", {"note": {"text": "x"}})["paymentLink"]

    assert (first["revision"], later["revision"]) == ("1", "2")
    assert (later["id"], later["createdDate"]) == (first["id"], first["createdDate"])
    assert later["updatedDate"] >= first["updatedDate"]
    assert str(UUID(first["id"])) == first["id"]
    kept = read(later)
    assert (kept.payment_link_id, kept.revision) == (UUID(first["id"]), 2)
    assert wire.instant_text(kept.created_at) == first["createdDate"]


@pytest.mark.fact("L4")
def test_what_cannot_be_seen_is_trimmed_from_a_title_and_we_know_the_link_all_the_same(
    our_client: Ours,
) -> None:
    client, us = our_client
    asked = new(title="\u200b Green\u0007 tea \t")

    made = create(client, us, asked)

    assert made.title == "Green tea"
    assert flows.is_made_of(made, asked, None)


@pytest.mark.fact("L5", "L11", "L26", "L30")
def test_texts_lists_and_numbers_have_their_documented_sizes(site: Site) -> None:
    contact = {"contactId": site.instance["contactIds"][0], "sendMethods": ["EMAIL_METHOD"]}
    for largest, too_large in (
        ({"title": "x" * 200}, {"title": "x" * 201}),
        ({"description": "x" * 500}, {"description": "x" * 501}),
        ({"ecomPaymentLink": item(name="x" * 200)}, {"ecomPaymentLink": item(name="x" * 201)}),
        ({"ecomPaymentLink": item(description="x" * 600)}, {"ecomPaymentLink": item(description="x" * 601)}),
        ({"ecomPaymentLink": item(quantity=100_000)}, {"ecomPaymentLink": item(quantity=100_001)}),
        ({"ecomPaymentLink": item()}, {"ecomPaymentLink": {"lineItems": []}}),
        ({"ecomPaymentLink": item()}, {"ecomPaymentLink": item(quantity=0)}),
        ({"recipients": [contact] * 50}, {"recipients": [contact] * 51}),
    ):
        assert not refused(site, **largest)
        assert refused(site, **too_large)
    path = f"{LINKS}/{site.link()['id']}/set-note"
    assert site.call("POST", path, {"note": {"text": "x" * 500}}).status_code == 200
    assert site.call("POST", path, {"note": {"text": "x" * 501}}).status_code == 400


@pytest.mark.fact("L6", "L7", "L10")
def test_currency_type_and_price_must_make_sense(site: Site) -> None:
    order = {"orderId": site.instance["orderIds"][0], "amount": "1"}

    assert refused(site, currency="Euro")
    assert refused(site, type="ECOM_ORDER")
    assert refused(site, type="OTHER")
    assert refused(site, ecomOrderPaymentLink=order)
    assert refused(site, ecomPaymentLink=item(price="8,00"))
    assert refused(site, ecomPaymentLink=item(price=8))
    assert read(site.link(currency="EUR")).currency == "EUR"
    assert read({"id": str(LINK), "currency": "Euro"}).currency is None


@pytest.mark.fact("L8", "L16", "L28", "L33", "R3")
def test_fields_that_we_do_not_keep_cost_nothing(wix: Scripted, client: WixClient, site: Site) -> None:
    link = site.post(LINKS, {"paymentLink": {**msgspec.to_builtins(new()), "displayData": {}}})["paymentLink"]
    site.post(
        f"{LINKS}/{link['id']}/update-extended-fields",
        {"namespace": "@us/app", "namespaceData": {"a": 1}},
    )
    told = {
        **site.get(link["id"]),
        "availableActions": ["DEACTIVATE", "A_NEW_ONE"],
        "displayData": {"anything": [1]},
        "tags": {"privateTags": {"tagIds": ["t"]}},
    }
    wix.plan(f"{LINKS}/{LINK}", Reply(body={"paymentLink": told}))

    found = client.get_link(INSTANCE, LINK)

    assert isinstance(found, wire.PaymentLink)
    assert told["extendedFields"] == {"namespaces": {"@us/app": {"a": 1}}}
    assert found.ecom_payment_link == told["ecomPaymentLink"]
    rest = seen_link(found, INSTANCE).rest
    assert rest["ecomPaymentLink"] == told["ecomPaymentLink"]
    assert rest.keys() & {"availableActions", "displayData", "extendedFields", "tags"} == set()


@pytest.mark.fact("L15", "L17", "L19", "L20", "L21", "L22", "S1", "S3", "S4")
def test_a_link_says_what_it_received_and_stays_active_without_a_limit(site: Site) -> None:
    link = site.link("10.50", quantity=1, expirationDate="2099-01-01T00:00:00.000Z")
    limited = site.link("10.50", quantity=1, paymentsLimit=2)
    assert read(link).last_payment_at is None

    for _ in range(3):
        site.pay(link["id"])
    for _ in range(2):
        site.pay(limited["id"])

    told, ended = site.get(link["id"]), site.get(limited["id"])
    assert (told["status"], told["totalReceived"]) == ("ACTIVE", {"paymentCount": 3, "amount": "31.50"})
    assert (ended["status"], ended["paymentsLimit"]) == ("PAID", 2)
    assert "paymentsLimit" not in told
    kept = read(told)
    assert (kept.payment_count, str(kept.total_amount), kept.payments_limit) == (3, "31.500", None)
    assert wire.instant_text(kept.last_payment_at) == told["lastPaymentDate"]
    assert wire.instant_text(kept.expires_at) == told["expirationDate"] == "2099-01-01T00:00:00.000Z"
    refusal = site.http.post(f"/_sandbox/links/{limited['id']}/pay", json={})
    assert refusal.status_code == 428


@pytest.mark.fact("L23", "L24", "L34", "L36", "P24")
def test_a_link_is_opened_at_its_share_url_and_leads_to_a_checkout(our_client: Ours, site: Site) -> None:
    client, us = our_client
    link = create(client, us, new())
    told = site.get(link.id)["links"]["url"]

    assert told["url"] == told["base"] + told["path"] == f"{site.sandbox.url}/_paylink/{link.id}"
    assert site.http.get(told["url"]).status_code == 200
    assert read(site.get(link.id)).share_url == told["url"]
    checkout = client.initiate_payment(us, link.id).ecom_checkout
    assert checkout is not None
    assert checkout.checkout_url.startswith(f"{site.sandbox.url}/checkout/")
    assert site.http.get(checkout.checkout_url).status_code == 200
    [paid] = site.control(f"checkouts/{checkout.checkout_id}/pay")["payments"]
    assert paid["ecomCheckout"] == {"ecomCheckoutId": checkout.checkout_id}
    assert parse_payment(paid, us).payment.ecom_checkout_id == checkout.checkout_id


@pytest.mark.fact("L29", "L31")
def test_a_link_has_its_note_and_the_app_that_made_it(our_client: Ours, site: Site) -> None:
    client, us = our_client
    app_id = site.http.get("/_sandbox/app").json()["appId"]
    link = create(client, us, new())
    client.set_note(us, link.id, "for Ada")

    told = site.get(link.id)

    assert told["note"] == {"text": "for Ada"}
    assert told["source"] == {"appId": app_id}
    found = next(client.query_links(us, {"source": app_id}, page_size=1, pages_max=1))
    assert isinstance(found[0], wire.PaymentLink)
    assert found[0].note == wire.Note("for Ada")
    assert flows.is_made_of(link, new(), app_id)
    assert not flows.is_made_of(link, new(), "another app")


# -- Payments --------------------------------------------------------------------------------------


@pytest.mark.fact("P1", "P3", "P4", "P5", "P7", "P9", "P11", "P13", "P14", "P15", "P16")
@pytest.mark.fact("P17", "P18", "P19", "P20", "P21", "P24", "P29")
def test_a_payment_of_the_sandbox_has_the_documented_fields_and_no_other(site: Site) -> None:
    link = site.link("10.50")
    vat = {"id": "123", "type": "CNPJ"}

    [paid] = site.pay(link["id"], buyer={"company": "Green Car Toys", "vatId": vat})

    assert paid.keys() == {
        *("id", "revision", "createdDate", "transactionDate", "amount", "currency", "paymentLinkId"),
        *("type", "regularPaymentLinkPayment", "ecomCheckout"),
    }
    regular = paid["regularPaymentLinkPayment"]
    assert regular["contactDetails"]["vatId"] == vat
    assert regular["billingAddress"].keys() == {
        *("country", "subdivision", "city", "postalCode", "streetAddress", "formattedAddress"),
    }
    assert regular["creditCardPaymentMethodData"].keys() == {"network", "maskedCreditCard", "holderName"}
    seen = parse_payment(paid, INSTANCE)
    assert str(seen.payment.payment_id) == paid["id"]
    assert str(seen.payment.payment_link_id) == link["id"]
    assert seen.payment.transaction_at is not None
    assert wire.instant_text(seen.payment.transaction_at) == paid["transactionDate"]
    assert seen.personal is not None
    assert seen.personal["contactDetails"]["vatId"] == vat
    assert seen.rest == {}
    for type_ in ("UNSPECIFIED", "CPF"):
        assert site.pay(link["id"], buyer={"vatId": {"id": "1", "type": type_}})
    wrong = {"buyer": {"vatId": {"id": "1", "type": "VAT"}}}
    assert site.http.post(f"/_sandbox/links/{link['id']}/pay", json=wrong).status_code == 400


@pytest.mark.fact("P2", "P3", "P10")
def test_an_update_of_a_payment_leaves_its_creation_alone(site: Site) -> None:
    [paid] = site.pay(site.link()["id"])
    assert "receiptId" not in paid

    site.post(f"{PAYMENTS}/{paid['id']}/issue-receipt")

    [found] = site.query(PAYMENTS, filter={"paymentLinkId": paid["paymentLinkId"]})["paymentLinkPayments"]
    assert (found["createdDate"], found["revision"]) == (paid["createdDate"], "2")
    assert str(UUID(found["receiptId"])) == found["receiptId"]
    assert parse_payment(found, INSTANCE).payment.receipt_id == UUID(found["receiptId"])


@pytest.mark.fact("P14", "P15", "P16", "P11")
@pytest.mark.parametrize("method", ["creditCard", "alipay", "iDeal", "payPal", "a method of next year"])
def test_a_way_of_paying_is_text_and_stored_as_it_comes(method: str) -> None:
    regular = {"method": method.upper(), "paymentMethod": method, "paymentProvider": method.title()}

    payment = parse_payment(payment_entity(type=method, regularPaymentLinkPayment=regular), INSTANCE).payment

    assert (payment.type, payment.method, payment.payment_method, payment.payment_provider) == (
        method,
        method.upper(),
        method,
        method.title(),
    )


@pytest.mark.fact("P27", "P29")
def test_other_fields_are_kept_and_no_status_is_read_from_them() -> None:
    more = {
        "extendedFields": {"namespaces": {"@us/app": {"a": 1}}},
        "status": "REFUNDED",
        "refundedAmount": "10.99",
        "updatedDate": "2026-11-24T11:00:00.123Z",
        "orderNumber": "10001",
        "providerTransactionId": "x",
    }

    plain, told = (parse_payment(payment_entity(**one), INSTANCE) for one in ({}, more))

    assert told.payment == plain.payment
    assert told.rest == more


@pytest.mark.fact("P30", "P5", "P7", "P9")
def test_a_payment_needs_only_what_makes_it_money() -> None:
    least = {"id": str(uuid4()), "revision": "1", "amount": "50", "currency": "EUR"}

    seen = parse_payment({**least, "paymentLinkId": str(LINK)}, INSTANCE)

    assert (str(seen.payment.amount), seen.personal, seen.rest) == ("50.000", None, {})


# -- What it means ---------------------------------------------------------------------------------


@pytest.mark.fact("S8", "P21")
def test_each_purchase_makes_an_order_of_its_own(site: Site) -> None:
    link = site.link("10.50")
    orders = set()

    for _ in range(2):
        [paid] = site.pay(link["id"])
        order_id = paid["regularPaymentLinkPayment"]["order"]["ecomOrder"]["ecomOrderId"]
        order = site.call("GET", f"/ecom/v1/orders/{order_id}").json()["order"]
        assert (order["paymentStatus"], order["priceSummary"]["total"]["amount"]) == ("PAID", "21.00")
        assert parse_payment(paid, INSTANCE).payment.ecom_order_id == order_id
        orders.add(order_id)

    assert len(orders) == 2


@pytest.mark.fact("S9")
def test_a_buyer_who_paid_more_than_the_price_raises_nothing() -> None:
    """Tax, shipping and tips come on top of what the link's item costs; here 10.00 became 10.99."""
    told = {
        "id": str(LINK),
        "currency": "USD",
        "type": "ECOM",
        "ecomPaymentLink": item(price="10.00"),
        "totalReceived": {"paymentCount": 1, "amount": "10.99"},
    }

    payment = make_payment()
    long_ago = NOW - timedelta(hours=1)
    books = Books(
        payment_link_id=LINK,
        believed={PAYMENT: Believed(payment, long_ago)},
        theirs={PAYMENT: payment},
        link=read(told),
        unsettled_since=long_ago,
    )

    findings = compare(books, now=NOW, settling=timedelta(minutes=10))

    assert findings.differences == ()


@pytest.mark.fact("S13")
@pytest.mark.parametrize("status", ["PENDING", "SUCCEEDED", "FAILED", "SCHEDULED", "STARTED"])
def test_a_refund_is_read_from_the_order_whatever_its_status(
    wix: Scripted, client: WixClient, status: str
) -> None:
    line = {"paymentId": "p", "amount": {"amount": "1.00"}, "refundStatus": status}
    transactions = {"orderId": "o", "payments": [], "refunds": [{"id": "r", "transactions": [line]}]}
    wix.plan(f"{wire.PATH_ORDER_PAYMENTS}/o", Reply(body={"orderTransactions": transactions}))

    [refund] = client.order_transactions(INSTANCE, "o").refunds

    assert refund.transactions[0].refund_status == status


@pytest.mark.fact("S12")
def test_the_sandbox_tells_of_a_refund_with_the_documented_fields(site: Site) -> None:
    [paid] = site.pay(site.link()["id"])

    for amount, is_full in (("1.50", False), (None, True)):
        made = site.control(f"payments/{paid['id']}/refund", {"amount": amount})["refund"]
        about = {"entityId": made["id"]}
        [told] = site.http.get("/_sandbox/events", params=about).json()["events"]

        assert told["eventType"] == "wix.payments.refunds.v1.refund_created"
        refund = msgspec.json.decode(told["envelope"]["data"])["createdEvent"]["entity"]
        assert (refund["chargeId"], refund["currencyCode"]) == (paid["id"], "USD")
        assert (refund["amount"], refund["full"], refund["status"]) == (
            amount or "19.50",
            is_full,
            "SUCCEEDED",
        )


@pytest.mark.fact("S14", "S15")
def test_a_refunded_gift_card_is_voided_and_never_refunded_in_part(our_client: Ours, site: Site) -> None:
    client, us = our_client
    tenders = [{"type": "GIFT_CARD", "amount": "5.00"}, {"type": "CARD", "amount": "16.00"}]
    gift, card = site.pay(site.link()["id"], tenders=tenders)
    order_id = card["regularPaymentLinkPayment"]["order"]["ecomOrder"]["ecomOrderId"]

    part = site.http.post(f"/_sandbox/payments/{gift['id']}/refund", json={"amount": "1.00"})
    site.control(f"payments/{gift['id']}/refund")

    assert part.status_code == 428
    assert client.get_order(us, order_id).payment_status == "PARTIALLY_REFUNDED"
    by_id = {one.payment_id: one for one in client.order_transactions(us, order_id).payments}
    details = by_id[gift["id"]].giftcard_payment_details
    assert details is not None
    assert details.voided is True


@pytest.mark.fact("S18")
@pytest.mark.parametrize("method", ["Fake", "Offline", "Cash", "InPerson", "CreditCard"])
def test_an_order_may_have_been_paid_in_any_way(wix: Scripted, client: WixClient, method: str) -> None:
    paid = {"paymentId": "p", "regularPaymentDetails": {"paymentMethod": method, "status": "APPROVED"}}
    body = {"orderTransactions": {"orderId": "o", "payments": [paid], "refunds": []}}
    wix.plan(f"{wire.PATH_ORDER_PAYMENTS}/o", Reply(body=body))

    [payment] = client.order_transactions(INSTANCE, "o").payments

    assert payment.regular_payment_details is not None
    assert payment.regular_payment_details.payment_method == method


@pytest.mark.fact("R28")
def test_orders_are_found_the_newest_first(our_client: Ours, site: Site) -> None:
    client, us = our_client
    first = site.control(f"instances/{us}/orders", {"total": "80.00"})["id"]
    second = site.control(f"instances/{us}/orders", {"total": "81.00"})["id"]

    found = client.newest_orders(us)

    assert [one.id for one in found][:2] == [second, first]
    assert found[0].number is not None
    assert found[0].created_date is not None


@pytest.mark.fact("R28")
def test_an_order_says_who_bought_it_and_what_it_is_called(wix: Scripted, client: WixClient) -> None:
    told = {
        "id": "o",
        "number": "10001",
        "createdDate": "2026-11-28T10:00:00.000Z",
        "buyerInfo": {"email": "maya@example.com", "contactId": "c"},
        "billingInfo": {"contactDetails": {"firstName": "Maya", "lastName": "Berg"}},
    }
    wix.plan(f"{wire.PATH_ORDERS}/search", Reply(body={"orders": [told], "metadata": {"count": 1}}))

    [order] = client.newest_orders(INSTANCE)

    assert (order.number, order.buyer_info and order.buyer_info.email) == ("10001", "maya@example.com")
    assert order.billing_info is not None
    assert order.billing_info.contact_details == wire.OrderContact("Maya", "Berg")


@pytest.mark.fact("S10")
def test_a_part_of_an_order_is_paid_and_the_rest_stays_open(our_client: Ours, site: Site) -> None:
    client, us = our_client
    order_id = site.control(f"instances/{us}/orders", {"total": "80.00"})["id"]
    deposit = wire.EcomOrderPaymentLink(order_id, "30.00")
    link = create(client, us, new(type="ECOM_ORDER", ecom_payment_link=None, ecom_order_payment_link=deposit))

    [paid] = site.pay(link.id)

    order = client.get_order(us, order_id)
    assert (paid["amount"], order.payment_status) == ("30.00", "PARTIALLY_PAID")
    assert order.balance_summary is not None
    assert order.balance_summary.balance == wire.Price("50.00")
    assert site.get(link.id)["status"] == "PAID"
