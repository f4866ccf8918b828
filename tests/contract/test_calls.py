"""Facts of the REST API, its sign-in, its limits and its queries: the real client, and a stranger's plain HTTP."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from processor.config import Settings
from processor.errors import WixError, WixNotFound, WixRefused
from processor.sandbox.query import LINK_FIELDS, PAYMENT_FIELDS
from processor.wix import wire
from processor.wix.client import WixClient
from tests.builders import INSTANCE, LINK
from tests.contract.ours import create, new
from tests.sandbox.wixlike import LINKS, PAYMENTS, Site
from tests.wix.scripted import Reply, Scripted

Ours = tuple[WixClient, UUID]
ONE = f"{LINKS}/{LINK}"
TAGS = wire.Tags(tags=wire.TagIds(["t1"]))


# -- Calling ---------------------------------------------------------------------------------------


@pytest.mark.fact("R1")
def test_calls_go_to_wixs_address_and_are_json_both_ways(
    wix: Scripted, client: WixClient, site: Site
) -> None:
    wix.plan(f"{LINKS}/query", Reply(body={"paymentLinks": []}))

    client.check_credentials(INSTANCE)

    assert Settings().wix_url == "https://www.wixapis.com"
    [asked] = wix.of(f"{LINKS}/query")
    assert asked.headers["content-type"] == asked.headers["accept"] == "application/json"
    answer = site.call("POST", f"{LINKS}/query", {"query": {}})
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.fact("R4", "X9", "X7")
def test_who_is_no_app_is_not_answered(site: Site) -> None:
    for path in (LINKS, f"{LINKS}/query", f"{PAYMENTS}/query"):
        answer = site.http.post(path, json={"query": {}})

        assert answer.status_code == 401
        assert answer.json().keys() == {"message", "details"}
        assert answer.json()["details"] == {}


@pytest.mark.fact("A16")
def test_the_old_sign_in_is_gone(site: Site) -> None:
    assert site.http.post("/oauth/access", json={"grant_type": "refresh_token"}).status_code == 404


@pytest.mark.fact("J4")
def test_there_is_no_key_server(site: Site) -> None:
    for path in ("/.well-known/jwks.json", "/oauth2/jwks", "/.well-known/openid-configuration"):
        assert site.http.get(path).status_code == 404


@pytest.mark.fact("Q23")
def test_the_header_for_consistent_reads_is_not_sent_back(wix: Scripted, client: WixClient) -> None:
    page = Reply(body={"paymentLinks": []}, headers={"X-Wix-Consistent": "state"})
    wix.plan(f"{LINKS}/query", page, page)

    for _ in range(2):
        client.check_credentials(INSTANCE)

    assert all("x-wix-consistent" not in asked.headers for asked in wix.asked)


# -- Methods ---------------------------------------------------------------------------------------


@pytest.mark.fact("R10", "R11", "R12", "R13", "R14", "R15", "R16", "R18", "R19", "R20", "R23", "R24")
@pytest.mark.fact("R34", "R35", "R36", "R56", "Q1", "Q2")
def test_our_client_does_everything_with_a_link_that_wix_documents(our_client: Ours, site: Site) -> None:
    client, us = our_client
    link_id = create(client, us, new()).id
    to = [wire.Recipient(site.instance["contactIds"][0], ["EMAIL_METHOD"])]

    def statuses(*told: Any) -> list[str]:
        return [one.status for one in told]

    assert statuses(client.get_link(us, link_id), client.deactivate_link(us, link_id)) == [
        "ACTIVE",
        "INACTIVE",
    ]
    noted = client.set_note(us, link_id, "by hand")
    assert isinstance(noted, wire.PaymentLink)
    assert noted.note == wire.Note("by hand")
    assert statuses(client.activate_link(us, link_id)) == ["ACTIVE"]
    assert statuses(client.update_extended_fields(us, link_id, "@us/app", {"a": 1})) == ["ACTIVE"]
    assert site.get(link_id)["extendedFields"] == {"namespaces": {"@us/app": {"a": 1}}}
    client.send_link(us, link_id, to)
    [listed] = client.query_links(us, {"status": "ACTIVE"}, pages_max=1)
    [searched] = client.search_links(us, "tea", pages_max=1)
    assert link_id in {one.id for one in listed} & {one.id for one in searched}
    assert list(client.query_payments(us, {"paymentLinkId": link_id}, pages_max=1)) == [[]]
    assert list(client.search_payments(us, "nobody-of-that-name", pages_max=1)) == [[]]
    client.delete_link(us, link_id)
    with pytest.raises(WixNotFound):
        client.get_link(us, link_id)


@pytest.mark.fact("R21", "R22", "R57", "R58", "R59")
def test_tags_are_given_by_id_and_by_filter(our_client: Ours, site: Site) -> None:
    client, us = our_client
    ids = [create(client, us, new(title=f"Tagged {n}")).id for n in range(2)]

    def tags() -> list[list[str]]:
        return [site.get(id_)["tags"]["tags"]["tagIds"] for id_ in ids]

    answer = client.update_tags(us, [*ids, str(uuid4())], assign=TAGS, unassign=wire.Tags())
    assert tags() == [["t1"], ["t1"]]
    job_id = client.update_tags_by_filter(us, {}, assign=wire.Tags(), unassign=TAGS)

    assert [one.item_metadata.success for one in answer.results] == [True, True, False]
    metadata = answer.bulk_action_metadata
    assert metadata is not None
    assert (metadata.total_successes, metadata.total_failures) == (2, 1)
    assert str(UUID(job_id)) == job_id
    assert tags() == [[], []]
    for count, status in ((100, 200), (101, 400), (0, 400)):
        asked = {"paymentLinkIds": ["x"] * count, "assignTags": {"tags": {"tagIds": ["t1"]}}}
        assert site.call("POST", f"{LINKS}/bulk-update-tags", asked).status_code == status


@pytest.mark.fact("R25", "R26", "R27", "R60", "R61")
def test_receipts_are_one_for_each_payment_and_settings_are_kept(our_client: Ours, site: Site) -> None:
    client, us = our_client
    tenders = [{"type": "GIFT_CARD", "amount": "5.00"}, {"type": "CARD", "amount": "16.00"}]
    paid = site.pay(site.link()["id"], tenders=tenders)

    receipts = [client.issue_receipt(us, one["id"]) for one in paid]

    assert None not in receipts
    assert len({*receipts}) == 2
    for receipt_id, payment in zip(receipts, paid, strict=True):
        assert client.get_receipt(us, str(receipt_id))["paymentId"] == payment["id"]
    filter_ = {"paymentLinkId": paid[0]["paymentLinkId"]}
    found = {one["id"]: one for one in site.query(PAYMENTS, filter=filter_)["paymentLinkPayments"]}
    for receipt_id, payment in zip(receipts, paid, strict=True):
        assert found[payment["id"]] == {**payment, "revision": "2", "receiptId": str(receipt_id)}
    client.update_settings(us, {"colour": "red"})
    assert client.get_settings(us)["colour"] == "red"


@pytest.mark.fact("R30", "R31", "R32")
def test_what_wix_does_not_have_is_not_there(site: Site) -> None:
    link = site.link()
    [payment] = site.pay(link["id"])

    for method, path, body in (
        ("GET", f"{PAYMENTS}/{payment['id']}", None),
        ("GET", PAYMENTS, None),
        ("GET", LINKS, None),
        ("PATCH", f"{LINKS}/{link['id']}", {"paymentLink": {"title": "x"}}),
        ("PUT", f"{LINKS}/{link['id']}", {"paymentLink": {"title": "x"}}),
    ):
        assert site.call(method, path, body).status_code in (404, 405), path
    names = {name for name in vars(WixClient) if "payment" in name or "link" in name}
    assert names & {"get_payment", "list_payments", "update_link", "list_links"} == set()


# -- Method by method ------------------------------------------------------------------------------


@pytest.mark.fact("R40", "R42", "X4", "L18")
def test_each_documented_refusal_of_create_reaches_us_by_its_code(our_client: Ours, site: Site) -> None:
    client, us = our_client
    instance = f"instances/{site.instance['instanceId']}"
    order_id = site.instance["orderIds"][0]

    def refused(link: wire.NewPaymentLink) -> tuple[type[WixError], str | None]:
        with pytest.raises(WixError) as caught:
            client.create_link(us, link)
        assert str(caught.value.code) in str(caught.value)
        return type(caught.value), caught.value.code

    found = []
    for flag in ("isPublished", "acceptsPayments", "hasEcom"):
        site.control(instance, {flag: False}, "PATCH")
        found.append(refused(new()))
        site.control(instance, {flag: True}, "PATCH")
    order: dict[str, Any] = {"type": "ECOM_ORDER", "ecom_payment_link": None}
    found.append(refused(new(recipients=[wire.Recipient(str(uuid4()), ["EMAIL_METHOD"])])))
    found.append(refused(new(**order, ecom_order_payment_link=wire.EcomOrderPaymentLink(str(uuid4()), "1"))))
    twice = new(**order, ecom_order_payment_link=wire.EcomOrderPaymentLink(order_id, "1"), payments_limit=2)
    found.append(refused(twice))

    assert found == [
        (WixRefused, "UNPUBLISHED_SITE"),
        (WixRefused, "MISSING_ACCEPT_PAYMENTS"),
        (WixRefused, "FAILED_TO_INSTALL_ECOM"),
        (WixNotFound, "RECIPIENT_NOT_FOUND"),
        (WixNotFound, "ORDER_NOT_FOUND"),
        (WixRefused, "INVALID_PAYMENTS_LIMIT_FOR_ECOM_ORDER_PAYMENT_LINK"),
    ]


@pytest.mark.fact("R43", "R54", "L25")
def test_creating_sends_nothing_and_sending_takes_the_recipients_of_the_creation(
    our_client: Ours, site: Site
) -> None:
    client, us = our_client
    contacts = site.instance["contactIds"]
    recipients = [wire.Recipient(one, ["EMAIL_METHOD"]) for one in contacts]

    def mailed() -> set[str]:
        mails = site.http.get("/_sandbox/mails", params={"paymentLinkId": link.id}).json()["mails"]
        return {one["contactId"] for one in mails if one["linkId"] == link.id}

    link = create(client, us, new(recipients=recipients))
    assert mailed() == set()
    client.send_link(us, link.id, [])

    assert mailed() == {*contacts}


@pytest.mark.fact("R44", "X9")
def test_a_paid_link_cannot_be_deleted(our_client: Ours, site: Site) -> None:
    client, us = our_client
    link = site.link()
    site.pay(link["id"])

    with pytest.raises(WixRefused):
        client.delete_link(us, link["id"])

    assert site.get(link["id"])["id"] == link["id"]


@pytest.mark.fact("R45")
def test_activate_and_deactivate_are_sent_without_a_body(
    wix: Scripted, client: WixClient, site: Site
) -> None:
    for action in ("activate", "deactivate"):
        wix.plan(f"{ONE}/{action}", Reply(body={"paymentLink": {"id": str(LINK)}}))

    client.activate_link(INSTANCE, LINK)
    client.deactivate_link(INSTANCE, LINK)

    assert [one.body for one in wix.asked] == [None, None]
    path = f"{LINKS}/{site.link()['id']}/deactivate"
    assert site.http.post(path, headers=site.headers).status_code == 200


@pytest.mark.fact("R46", "R48", "R49", "R50")
def test_initiating_leads_to_a_checkout_or_an_order_and_pays_nothing(our_client: Ours, site: Site) -> None:
    client, us = our_client
    link = create(client, us, new())
    order_id = site.control(f"instances/{us}/orders", {"total": "80.00"})["id"]
    of_order = create(
        client,
        us,
        new(
            type="ECOM_ORDER",
            ecom_payment_link=None,
            ecom_order_payment_link=wire.EcomOrderPaymentLink(order_id, "80.00"),
        ),
    )

    checkout = client.initiate_payment(us, link.id)
    order = client.initiate_payment(us, of_order.id)

    assert checkout.ecom_order is None
    assert checkout.ecom_checkout is not None
    assert checkout.ecom_checkout.checkout_url.endswith(f"/checkout/{checkout.ecom_checkout.checkout_id}")
    assert site.http.get(checkout.ecom_checkout.checkout_url).status_code == 200
    assert order.ecom_checkout is None
    assert order.ecom_order is not None
    assert f"/order/{order_id}" in order.ecom_order.order_url
    for one in (link, of_order):
        assert site.get(one.id)["totalReceived"]["paymentCount"] == 0


@pytest.mark.fact("R47", "R52", "U20")
def test_initiating_beyond_the_limit_is_refused(our_client: Ours, site: Site) -> None:
    client, us = our_client
    link = site.link(paymentsLimit=1)
    client.initiate_payment(us, link["id"])
    site.pay(link["id"])

    with pytest.raises(WixRefused) as caught:
        client.initiate_payment(us, link["id"])

    assert caught.value.status == 428
    assert str(caught.value.code).startswith("SANDBOX_")


@pytest.mark.fact("R51", "R52")
def test_the_other_answers_of_initiate_payment_are_told_apart(wix: Scripted, client: WixClient) -> None:
    path = f"{ONE}/initiate-payment"
    wix.plan(path, Reply(body={"cashierOrder": {"orderId": "x"}}), Reply(400, {}), Reply(428, {}))

    deprecated = client.initiate_payment(INSTANCE, LINK)

    assert (deprecated.ecom_checkout, deprecated.ecom_order) == (None, None)
    for status in (400, 428):
        with pytest.raises(WixRefused) as caught:
            client.initiate_payment(INSTANCE, LINK)
        assert caught.value.status == status


@pytest.mark.fact("R55")
def test_a_note_is_set_by_its_text(wix: Scripted, client: WixClient) -> None:
    wix.plan(f"{ONE}/set-note", Reply(body={"paymentLink": {"id": str(LINK)}}))

    client.set_note(INSTANCE, LINK, "hello")

    assert wix.asked[0].body == {"note": {"text": "hello"}}


# -- Queries ---------------------------------------------------------------------------------------


@pytest.mark.fact("Q9", "Q12")
def test_an_empty_query_is_for_all_newest_first(site: Site) -> None:
    made = [site.link(title=f"n{number}")["id"] for number in range(3)]

    found = [one["id"] for one in site.query(LINKS)["paymentLinks"]]

    assert [id_ for id_ in found if id_ in made] == made[::-1]
    wrong: tuple[Any, ...] = ({}, {"query": None}, {"search": {}})
    for body in wrong:
        assert site.call("POST", f"{LINKS}/query", body).status_code == 400, "`query` is required"


ALWAYS: dict[str, Any] = {"$eq": 1, "$ne": 1, "$exists": True, "$in": [1], "$hasSome": [1]}
RANGES = ("$lt", "$lte", "$gt", "$gte")
DOCUMENTED: dict[str, dict[str, tuple[Any, tuple[str, ...]]]] = {
    LINKS: {
        "createdDate": ("2026-01-01T00:00:00.000Z", RANGES),
        "totalReceived.paymentCount": (1, RANGES),
        "paymentsLimit": (1, RANGES),
        "status": ("ACTIVE", ()),
        "source": (str(uuid4()), ()),
    },
    PAYMENTS: {
        "createdDate": ("2026-01-01T00:00:00.000Z", RANGES),
        "transactionDate": ("2026-01-01T00:00:00.000Z", RANGES),
        "paymentLinkId": (str(uuid4()), ("$startsWith",)),
        "type": ("REGULAR", ()),
        "regularPaymentLinkPayment.method": ("CREDIT_CARD", ()),
        "regularPaymentLinkPayment.paymentMethod": ("creditCard", ("$startsWith",)),
    },
}


@pytest.mark.fact("Q14", "Q18", "Q19", "Q20", "Q16", "Q7")
@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, names in DOCUMENTED.items() for name in names]
)
def test_a_documented_field_takes_its_operators_and_no_other(site: Site, path: str, name: str) -> None:
    value, more = DOCUMENTED[path][name]
    operands = {"$exists": True, "$in": [value], "$hasSome": [value]}
    known = (
        "$eq",
        "$ne",
        "$exists",
        "$in",
        "$hasSome",
        "$startsWith",
        *RANGES,
        "$nin",
        "$isEmpty",
        "$hasAll",
    )

    def status(**query: Any) -> int:
        return site.call("POST", f"{path}/query", {"query": query}).status_code

    assert status(filter={name: value}) == 200
    for operator in known:
        wanted = 200 if operator in (*ALWAYS, *more) else 400
        assert status(filter={name: {operator: operands.get(operator, value)}}) == wanted, operator
    for order in ("ASC", "DESC"):
        assert status(sort=[{"fieldName": name, "order": order}]) == 200


@pytest.mark.fact("Q18", "Q19", "Q21")
def test_no_other_field_is_filtered_or_sorted_by(site: Site) -> None:
    assert LINK_FIELDS.keys() == DOCUMENTED[LINKS].keys()
    assert PAYMENT_FIELDS.keys() == DOCUMENTED[PAYMENTS].keys()
    for path, names in (
        (LINKS, ("id", "title", "price", "currency", "updatedDate", "lastPaymentDate")),
        (PAYMENTS, ("id", "amount", "currency", "updatedDate", "receiptId", "ecomOrder.ecomOrderId")),
    ):
        for name in names:
            for query in ({"filter": {name: "x"}}, {"sort": [{"fieldName": name}]}):
                answer = site.call("POST", f"{path}/query", {"query": query})
                assert answer.status_code == 400
                assert answer.json()["details"]["validationError"]["fieldViolations"][0]["field"]


@pytest.mark.fact("Q15", "Q17")
def test_fields_of_one_object_are_joined_by_and(site: Site) -> None:
    limited = site.link(paymentsLimit=3)["id"]
    free = site.link()["id"]

    def ids(**filter_: Any) -> set[str]:
        found = site.query(LINKS, filter=filter_, cursorPaging={"limit": 100})["paymentLinks"]
        return {one["id"] for one in found} & {limited, free}

    assert ids(status="ACTIVE", paymentsLimit=3) == {limited}
    assert ids(status="PAID", paymentsLimit=3) == set()
    assert ids(paymentsLimit={"$exists": False}) == {free}


@pytest.mark.fact("Q16")
def test_our_dates_are_text_as_wix_writes_them(site: Site, our_client: Ours) -> None:
    client, us = our_client
    link = create(client, us, new())
    assert link.created_date is not None

    text = wire.instant_text(link.created_date)

    assert text == site.get(link.id)["createdDate"]
