"""Every sample that Wix publishes is sent, taken or made here as it stands, or it is said why it cannot be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner

from processor.cli import cli
from processor.errors import WixError, WixNotFound, WixRefused, WixUnavailable
from processor.sandbox.core import Rules
from processor.wix import wire
from processor.wix.client import WixClient
from processor.wix.parse import Reason, parse_claims, parse_event, parse_payment
from tests.builders import INSTANCE, LINK, PAYMENT, claims
from tests.contract.ours import a_client
from tests.contract.samples import FOLDER, filled, missing, sample
from tests.sandbox.wixlike import LINKS, PAYMENTS, Site, a_receiver, a_site, claims_of, event_of
from tests.wix.scripted import TOKEN_PATH, Reply, Scripted

JOHN = {
    "name": "John Doe",
    "email": "business@example.com",
    "phone": "0123456789",
    "company": "Green Car Toys",
    "vatId": {"id": "12345678", "type": "CPF"},
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A pretend Wix that writes `currencyCode`, as the sample of its query answer does."""
    rules = Rules(currency_field="currencyCode")
    with a_site(rules=rules, calls_per_minute=100_000, time_scale=6_000) as running:
        yield running


def test_every_sample_is_described_and_held_to_here() -> None:
    told = (FOLDER / "README.md").read_text()
    numbers = {int(path.name[:2]) for path in FOLDER.glob("*.json")}

    assert numbers == set(range(1, 18))
    here = Path(__file__).read_text()
    for number in numbers:
        assert f"sample({number})" in here, number
    for word in (
        "01-",
        "02-",
        "03-",
        "04-",
        "05, 06, 07-",
        "08-",
        "09-",
        "10-",
        "11, 12-",
        "13 to 16-",
        "17-",
    ):
        assert f"| {word}" in told


# -- Requests: what we send ------------------------------------------------------------------------


@pytest.mark.fact("Q1", "Q7", "Q16", "R23")
def test_01_is_what_our_client_asks_and_the_sandbox_answers(
    wix: Scripted, client: WixClient, site: Site
) -> None:
    documented = sample(1)
    path = f"{wire.PATH_PAYMENTS}/query"
    wix.plan(path, Reply(body={"paymentLinkPayments": []}))

    pages = client.query_payments(
        INSTANCE,
        {"createdDate": {"$gte": "2025-01-21T09:18:11.648Z"}},
        sort=[("createdDate", "DESC")],
        page_size=1,
        pages_max=1,
    )

    assert list(pages) == [[]]
    assert wix.of(path)[0].body == documented
    assert "paymentLinkPayments" in site.post(path, documented)


def printed(*arguments: str) -> Any:
    """The request that `links create` would send."""
    result = CliRunner().invoke(cli, ["links", "create", "--dry-run", *arguments])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.fact("R10", "R33", "L8", "L9", "L10")
def test_05_is_what_our_command_sends_for_an_item_and_the_sandbox_takes(site: Site) -> None:
    documented = sample(5)

    sent = printed(
        *("--title", "Business Listing Fee", "--description", "One-time listing fee"),
        *("--currency", "USD", "--item", "Listing Fee:1:200.00"),
    )

    assert sent == documented
    made = site.post(LINKS, documented)["paymentLink"]
    assert missing(documented["paymentLink"], made) == []
    assert site.pay(made["id"])[0]["amount"] == "200.00"


@pytest.mark.fact("L9", "L12", "L13")
def test_06_is_what_our_command_sends_for_a_product_and_the_sandbox_takes(site: Site) -> None:
    documented = sample(6)

    sent = printed("--title", "Product Payment", "--currency", "USD", "--product", "PRODUCT_ID:1:VARIANT_ID")

    assert sent == documented
    product_id = site.instance["productIds"][0]
    made = site.post(LINKS, filled(documented, PRODUCT_ID=product_id))["paymentLink"]
    assert missing(documented["paymentLink"], made) == []
    assert made["ecomPaymentLink"]["lineItems"][0]["catalogItem"]["catalogReference"]["options"] == {
        "variantId": "VARIANT_ID"
    }


@pytest.mark.fact("L14", "L18", "P6", "S10")
def test_07_is_what_our_command_sends_for_an_order_and_the_sandbox_takes(site: Site) -> None:
    documented = sample(7)

    sent = printed("--title", "Order Balance", "--currency", "USD", "--order", "ORDER_ID", "--amount", "50")

    assert sent == documented
    order = site.control(f"instances/{site.instance['instanceId']}/orders", {"total": "180.00"})
    made = site.post(LINKS, filled(documented, ORDER_ID=order["id"]))["paymentLink"]
    assert missing(documented["paymentLink"], made) == []
    assert site.pay(made["id"])[0]["amount"] == "50.00"


@pytest.mark.fact("R18", "R53", "L25", "L27")
def test_08_is_what_our_client_sends_and_the_sandbox_takes(
    wix: Scripted, client: WixClient, site: Site
) -> None:
    documented = sample(8)
    path = f"{wire.PATH_LINKS}/PAYMENT_LINK_ID/send"
    wix.plan(path, Reply(body={}))

    client.send_link(INSTANCE, "PAYMENT_LINK_ID", [wire.Recipient("CONTACT_ID", ["EMAIL_METHOD"])])

    assert wix.of(path)[0].body == documented
    link_id, contact_id = site.link()["id"], site.instance["contactIds"][0]
    site.post(f"{LINKS}/{link_id}/send", filled(documented, PAYMENT_LINK_ID=link_id, CONTACT_ID=contact_id))
    mails = site.http.get("/_sandbox/mails").json()["mails"]
    assert (mails[0]["linkId"], mails[0]["contactId"]) == (link_id, contact_id)


@pytest.mark.fact("R13", "Q1", "Q18")
def test_09_is_what_our_client_asks_and_the_sandbox_answers(
    wix: Scripted, client: WixClient, site: Site
) -> None:
    documented = sample(9)
    path = f"{wire.PATH_LINKS}/query"
    wix.plan(path, Reply(body={"paymentLinks": []}))

    list(client.query_links(INSTANCE, {"status": "ACTIVE"}, page_size=50, pages_max=1))

    assert wix.of(path)[0].body == documented
    site.link()
    found = site.post(path, documented)["paymentLinks"]
    assert {link["status"] for link in found} == {"ACTIVE"}


@pytest.mark.fact("R14", "Q2", "Q7", "Q10", "Q11")
def test_10_is_answered_by_the_sandbox_and_asked_by_our_client_but_for_its_aggregation(
    wix: Scripted, client: WixClient, site: Site
) -> None:
    """Our client asks for links, never for counts, so it sends no `aggregations`; and it always says its
    filter and its page, which the sample leaves to Wix. The rest is the same."""
    documented = sample(10)
    path = f"{wire.PATH_LINKS}/search"
    wix.plan(path, Reply(body={"paymentLinks": []}))

    pages = client.search_links(
        INSTANCE,
        "Test",
        fields=["title"],
        is_fuzzy=True,
        sort=[("createdDate", "DESC")],
        pages_max=1,
    )

    assert list(pages) == [[]]
    sent = wix.of(path)[0].body["search"]
    assert {**sent, "aggregations": documented["search"]["aggregations"]} == {
        **documented["search"],
        "filter": {},
        "cursorPaging": {"limit": 100},
    }
    link = site.link(title="A tast of it")
    answer = site.post(path, documented)
    assert [one["id"] for one in answer["paymentLinks"]] == [link["id"]]
    [counted] = answer["aggregationData"]["results"]
    assert counted["name"] == "statuses"
    assert counted["values"]["results"] == [{"value": "ACTIVE", "count": 1}]


@pytest.mark.fact("A1", "A2", "A3")
def test_11_and_12_are_how_our_client_signs_in_and_how_the_sandbox_answers(wix: Scripted, site: Site) -> None:
    asked, answered = sample(11), sample(12)
    wix.plan(TOKEN_PATH, Reply(body=answered))
    path = f"{wire.PATH_LINKS}/query"
    wix.plan(path, Reply(body={"paymentLinks": []}))

    with a_client(wix.base_url, app_id="<APP_ID>", app_secret="<APP_SECRET_KEY>") as client:
        client.check_credentials(INSTANCE)

    assert wix.of(TOKEN_PATH)[0].body == filled(asked, APP_INSTANCE_ID=str(INSTANCE))
    assert wix.of(path)[0].headers["authorization"] == answered["access_token"]
    app = site.http.get("/_sandbox/app").json()
    places = {
        "APP_ID": app["appId"],
        "APP_SECRET_KEY": app["appSecret"],
        "APP_INSTANCE_ID": site.instance["instanceId"],
    }
    token = site.http.post(TOKEN_PATH, json=filled(asked, **places)).json()
    assert token.keys() == answered.keys()
    assert {**token, "access_token": answered["access_token"]} == answered


# -- Answers: what we read -------------------------------------------------------------------------


@pytest.mark.fact("R37", "P1", "P2", "P3", "P5", "P8", "P9", "P10", "P11", "P13", "P14", "P15", "P16")
@pytest.mark.fact("P17", "P18", "P19", "P20", "P21", "P6")
def test_02_is_read_by_our_client_and_has_the_shape_of_the_sandboxs_answer(
    wix: Scripted, client: WixClient, site: Site
) -> None:
    """Cut inside `ecomCheckout`, so without paging: then the one page is all there is."""
    documented = sample(2)
    wix.plan(f"{wire.PATH_PAYMENTS}/query", Reply(body=documented))

    [[entity]] = client.query_payments(INSTANCE, {}, pages_max=1)
    seen = parse_payment(entity, INSTANCE)

    payment = seen.payment
    assert (payment.payment_id, payment.payment_link_id) == (PAYMENT, LINK)
    assert (payment.amount, payment.currency, payment.revision) == (Decimal("10.99"), "USD", 2)
    assert payment.created_at == datetime(2025, 1, 21, 9, 18, 11, 648_000, tzinfo=UTC)
    assert payment.receipt_id == UUID("92161421-7897-40ed-9af5-5bc3b1f1fdeb")
    assert (payment.type, payment.method, payment.payment_method, payment.payment_provider) == (
        "REGULAR",
        "CREDIT_CARD",
        "creditCard",
        "Credit/Debit Cards",
    )
    assert payment.ecom_order_id == "095159f9-9f44-4ce0-a06f-312d59d56760"
    regular = documented["paymentLinkPayments"][0]["regularPaymentLinkPayment"]
    personal = ("contactDetails", "billingAddress", "creditCardPaymentMethodData")
    assert seen.personal == {name: regular[name] for name in personal}
    assert seen.rest == {}

    [paid] = site.pay(site.link()["id"], buyer=JOHN)
    site.post(f"{PAYMENTS}/{paid['id']}/issue-receipt")
    answer = site.query(PAYMENTS, filter={"paymentLinkId": paid["paymentLinkId"]})
    assert missing(documented, answer) == []
    [theirs] = answer["paymentLinkPayments"]
    assert theirs["regularPaymentLinkPayment"]["contactDetails"] == regular["contactDetails"]


@pytest.mark.fact("Q13", "Q5")
def test_17_leads_our_client_to_the_next_page_and_the_sandbox_gives_the_same(
    wix: Scripted, client: WixClient, site: Site
) -> None:
    """`offset` is of the general sample: paging by cursor has none, and the sandbox sends none (Q3)."""
    documented = sample(17)
    path = f"{wire.PATH_PAYMENTS}/query"
    wix.plan(path, Reply(body=documented), Reply(body={"paymentLinkPayments": [{"id": "last"}]}))

    pages = list(client.query_payments(INSTANCE, {}, page_size=10, pages_max=2))

    assert pages == [[], [{"id": "last"}]]
    cursor = documented["pagingMetadata"]["cursors"]["next"]
    assert wix.of(path)[1].body == {"query": {"cursorPaging": {"cursor": cursor, "limit": 10}}}
    for _ in range(2):
        site.link()
    metadata = site.query(LINKS, cursorPaging={"limit": 1})["pagingMetadata"]
    assert missing(documented["pagingMetadata"], metadata) == [".offset"]


def refusal(wix: Scripted, client: WixClient, status: int, body: Any) -> WixError:
    """The error that our client makes of an answer."""
    wix.otherwise(f"{wire.PATH_LINKS}/{LINK}", Reply(status, body))
    with pytest.raises(WixError) as caught:
        client.get_link(INSTANCE, LINK)
    return caught.value


@pytest.mark.fact("X3", "X4")
def test_13_and_14_are_application_errors_to_our_client_and_in_the_sandbox(
    wix: Scripted, client: WixClient, site: Site
) -> None:
    for documented, status, code in (
        (sample(13), 400, "NO_FUNDS"),
        (sample(14), 409, "DUPLICATE_CONTACT_EXIST"),
    ):
        why = refusal(wix, client, status, documented)

        assert (type(why), why.status, why.code) == (WixRefused, status, code)
        assert documented["message"] not in str(why)
    order: dict[str, Any] = {"title": "t", "currency": "USD", "type": "ECOM_ORDER"}
    order |= {"ecomOrderPaymentLink": {"orderId": str(uuid4()), "amount": "1"}}
    answer = site.call("POST", LINKS, {"paymentLink": order}).json()
    shape = {**sample(13)["details"]["applicationError"], "data": {}}
    assert missing({"message": "", "details": {"applicationError": shape}}, answer) == []
    assert answer["details"]["applicationError"]["code"] == "ORDER_NOT_FOUND"


@pytest.mark.fact("X3", "X5")
def test_15_is_a_validation_error_to_our_client_and_in_the_sandbox(
    wix: Scripted, client: WixClient, site: Site
) -> None:
    documented = sample(15)
    sent = documented["details"]["validationError"]["fieldViolations"]

    why = refusal(wix, client, 400, documented)

    assert [(one.field, one.description, one.violated_rule) for one in why.violations] == [
        (one["field"], one["description"], one["violatedRule"]) for one in sent
    ]
    assert "fieldB: MAX" in str(why)
    item = {"type": "CUSTOM", "customItem": {"name": "a", "quantity": 1, "price": "1"}}
    wrong = {"title": "x" * 201, "currency": "usd", "type": "ECOM", "ecomPaymentLink": {"lineItems": [item]}}
    answer = site.call("POST", LINKS, {"paymentLink": {**wrong, "description": "x" * 501}})
    assert answer.status_code == 400
    ours = answer.json()["details"]["validationError"]["fieldViolations"]
    assert len(ours) == len(sent)
    for one in ours:
        assert one.keys() == (sent[0] if one["violatedRule"] == "CUSTOM" else sent[2]).keys()


@pytest.mark.fact("X3", "X6")
def test_16_is_an_empty_answer_to_our_client_and_in_the_sandbox(
    wix: Scripted, client: WixClient, site: Site
) -> None:
    documented = sample(16)

    why = refusal(wix, client, 500, documented)

    assert (type(why), why.status, why.code) == (WixUnavailable, 500, None)
    site.control("faults", {"kind": "status", "status": 500, "count": 1})
    answer = site.call("POST", f"{LINKS}/query", {"query": {}})
    assert (answer.status_code, answer.json()) == (500, documented)


# -- Events: what comes to us ----------------------------------------------------------------------


def told(inner: Any, **more: Any) -> bytes:
    """Claims around an event, as text."""
    envelope = {
        "eventType": wire.PAYMENT_UPDATED,
        "instanceId": str(INSTANCE),
        "data": json.dumps(inner),
        **more,
    }
    return json.dumps(claims(envelope)).encode()


@pytest.mark.fact("E10", "E11", "E12", "E13", "E25", "E30", "P30")
def test_03_is_read_as_far_as_it_goes_and_produced_by_the_sandbox(site: Site) -> None:
    """The page's copy ends before the currency. Money without a currency cannot be booked, and is never
    guessed: the event is kept, with that reason. With the currency that Wix's other sample has of the very
    same payment it is read whole."""
    documented = sample(3)

    cut = parse_event(parse_claims(told(documented)))
    whole = {**documented["createdEvent"]["currentEntity"], "currencyCode": "USD"}
    read = parse_event(parse_claims(told({**documented, "createdEvent": {"currentEntity": whole}})))

    assert cut.unreadable == Reason.CURRENCY_MISSING
    assert (cut.event_id, cut.entity_id) == (UUID(documented["id"]), PAYMENT)
    assert (read.unreadable, read.slug) == (None, "updated")
    assert read.seen is not None
    assert (read.seen.payment.payment_id, read.seen.payment.amount) == (PAYMENT, Decimal("10.99"))

    for kind in ("created_current_entity", "currency_code"):
        site.control("faults", {"kind": kind})
    with a_receiver(site) as receiver:
        [paid] = site.pay(site.link()["id"], buyer=JOHN)
        site.post(f"{PAYMENTS}/{paid['id']}/issue-receipt")
        assert site.control("deliveries/idle")["isIdle"]
        of_payment = [one for one in receiver.bodies if event_of(one)["entityId"] == paid["id"]]
        [body] = [
            one for one in of_payment if event_of(one)["slug"] == "updated"
        ]  # in whatever order they came
        site.control("webhook", {"url": None}, "PUT")
    site.control("faults", method="DELETE")
    event = event_of(body)
    assert missing(documented, event) == []
    assert (event["slug"], event["entityFqdn"]) == (documented["slug"], documented["entityFqdn"])
    assert event["createdEvent"].keys() == documented["createdEvent"].keys()


@pytest.mark.fact("E1", "E2", "E3", "E4", "E6", "E8")
def test_04_is_an_envelope_as_the_sandbox_sends_it_once_its_levels_are_text(site: Site) -> None:
    """As it is drawn it cannot be on the wire: the SDK reads `data` of the claims, and `data` and `identity`
    inside it, as text, and so do we. It also draws all four ids of an identity, of which one is sent."""
    drawn = filled(sample(4), app_instance_id=str(INSTANCE), stringified_JSON=json.dumps({"id": "x"}))

    with pytest.raises(Exception, match=Reason.CLAIMS_DATA_NOT_TEXT):
        parse_event(drawn)
    envelope = {**drawn["data"], "identity": json.dumps(drawn["data"]["identity"])}
    read = parse_event({"data": json.dumps(envelope)})
    assert (read.instance_id, read.event_type) == (INSTANCE, wire.PAYMENT_UPDATED)

    with a_receiver(site) as receiver:
        [paid] = site.pay(site.link()["id"])
        site.post(f"{PAYMENTS}/{paid['id']}/issue-receipt")
        assert site.control("deliveries/idle")["isIdle"]
        [body] = [one for one in receiver.bodies if event_of(one)["slug"] == "updated"][-1:]
        site.control("webhook", {"url": None}, "PUT")
    theirs = json.loads(claims_of(body)["data"])
    assert missing({**envelope, "identity": ""}, theirs) == []
    assert theirs["eventType"] == envelope["eventType"]
    identity = json.loads(theirs["identity"])
    assert len(identity) == 2
    assert identity.keys() <= drawn["data"]["identity"].keys()


@pytest.mark.fact("X9", "X12")
def test_what_is_not_there_is_told_apart_by_its_status(wix: Scripted, client: WixClient, site: Site) -> None:
    why = refusal(wix, client, 404, sample(13))

    assert type(why) is WixNotFound
    answer = site.call("GET", f"{LINKS}/{uuid4()}")
    assert answer.status_code == 404
    assert answer.json()["details"]["applicationError"]["code"].endswith("_NOT_FOUND")
