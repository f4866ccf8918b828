"""What Wix leaves open: the sandbox can be told to have it either way, and our service lives with both."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner

from processor.domain.event import Kind
from processor.errors import WixNotFound, WixRefused
from processor.sandbox.cli import sandbox
from processor.sandbox.core import CHOICES, RANGES, Rules
from processor.wix import wire
from processor.wix.parse import kind_of, parse_event, parse_payment
from tests import builders
from tests.builders import INSTANCE, LINK, app_claims, claims, envelope, event, payment_entity, sign
from tests.contract.conftest import Endpoint, Open, ticking
from tests.contract.ours import a_client_of, new
from tests.sandbox.wixlike import (
    LINKS,
    PAYMENTS,
    Receiver,
    Site,
    a_receiver,
    a_site,
    claims_of,
    event_of,
)
from tests.shop import a_shop


@contextmanager
def assuming(**rules: Any) -> Iterator[Site]:
    """A pretend Wix of these rules."""
    with a_site(rules=Rules(**rules), time_scale=6_000, now=ticking()) as site:
        yield site


@contextmanager
def delivering(**rules: Any) -> Iterator[tuple[Site, Receiver]]:
    """The same, and where its webhooks go."""
    with assuming(**rules) as site, a_receiver(site) as receiver:
        yield site, receiver


def told(site: Site, receiver: Receiver, entity_id: str) -> list[str]:
    """Bodies about one thing, once all is quiet."""
    assert site.control("deliveries/idle")["isIdle"]
    return [body for body in receiver.bodies if event_of(body).get("entityId") == entity_id]


# -- Webhooks --------------------------------------------------------------------------------------


@pytest.mark.fact("U1", "D4")
@pytest.mark.parametrize("content_type", ["text/plain", "text/plain; charset=utf-8", "application/jwt"])
def test_a_delivery_may_be_of_any_type(endpoint: Endpoint, content_type: str) -> None:
    with delivering(content_type=content_type) as (site, receiver):
        [payment] = site.pay(site.link()["id"])
        [body] = told(site, receiver, payment["id"])

    assert {*receiver.types} == {content_type}
    assert endpoint.post(sign(claims_of(body)), {"Content-Type": content_type}) == 200


@pytest.mark.fact("U3", "D8")
@pytest.mark.parametrize(("assumed", "deliveries"), [(False, 2), (True, 1)])
def test_another_2xx_may_end_a_delivery_or_not_and_we_answer_200(
    endpoint: Endpoint, assumed: bool, deliveries: int
) -> None:
    with delivering(any_2xx_succeeds=assumed) as (site, receiver):
        receiver.answer = lambda number: 204 if number == 1 else 200
        link = site.link()
        told(site, receiver, link["id"])
        if not assumed:
            site.control("deliveries/idle")

        assert len(told(site, receiver, link["id"])) == deliveries
    assert endpoint.post(sign(claims_of(receiver.bodies[0]))) == 200


@pytest.mark.fact("U5")
@pytest.mark.parametrize("seconds", [600, 300_000])
@pytest.mark.parametrize("named", [False, True])
def test_a_token_may_live_any_time_and_name_its_issuer_or_not(
    open_endpoint: Open, seconds: int, named: bool
) -> None:
    with delivering(token_lifetime_seconds=seconds, issuer_and_audience=named) as (site, receiver):
        [payment] = site.pay(site.link()["id"])
        [body] = told(site, receiver, payment["id"])
        app = site.http.get("/_sandbox/app").json()
        pem = site.http.get("/_sandbox/public-key").text

    seen = claims_of(body)
    assert seen["exp"] - seen["iat"] == seconds
    assert (seen.get("iss"), seen.get("aud")) == (("wix.com", app["appId"]) if named else (None, None))
    assert open_endpoint(WIX_PUBLIC_KEYS=pem).post(body) == 200


@pytest.mark.fact("U5")
@pytest.mark.parametrize(("grace", "status"), [("3600", 401), ("172800", 200)])
def test_how_long_an_expired_token_is_taken_is_a_setting(
    open_endpoint: Open, grace: str, status: int
) -> None:
    issued = builders.NOW - timedelta(hours=47)
    body = sign(claims(iat=int(issued.timestamp()), exp=int(issued.timestamp()) + 600))

    assert open_endpoint(EXPIRY_GRACE_SECONDS=grace).post(body) == status


@pytest.mark.fact("U6", "E35")
@pytest.mark.parametrize("fqdn", ["wix.paymentlinks.v1.payment_link", "wix.paylinks.v3.payment_link"])
def test_link_events_are_known_by_their_ending_or_exactly_by_a_setting(
    open_endpoint: Open, fqdn: str
) -> None:
    with delivering(link_fqdn=fqdn) as (site, receiver):
        [body] = told(site, receiver, site.link()["id"])
    assert event_of(body)["entityFqdn"] == fqdn
    installed = sign(app_claims("AppInstalled", instance_id=UUID(site.instance["instanceId"])))
    kinds = {}

    for setting in ("", "wix.paymentlinks.v1.payment_link"):
        endpoint = open_endpoint(WIX_LINK_FQDN=setting)
        renamed = {**json.loads(claims_of(body)["data"])}
        renamed["data"] = json.dumps({**event_of(body), "id": str(uuid4())})
        assert endpoint.post(installed) == 200
        assert endpoint.post(sign(claims(renamed))) == 200
        [(kinds[setting],)] = endpoint.rows(
            "SELECT kind FROM webhook_events WHERE event_id = :id",
            id=json.loads(renamed["data"])["id"],
        )

    is_exact = fqdn == "wix.paymentlinks.v1.payment_link"
    assert kinds == {"": "link", "wix.paymentlinks.v1.payment_link": "link" if is_exact else "other"}


@pytest.mark.fact("U6", "E31")
def test_the_setting_for_link_events_is_about_no_other() -> None:
    for known in (wire.PAYMENT_CREATED, wire.PAYMENT_UPDATED, wire.APP_INSTALLED, wire.APP_REMOVED):
        assert kind_of(known, "wix.some.v1.payment_link") is kind_of(known)
    assert kind_of("wix.some.v1.payment_link_payment_initiated", "wix.some.v1.payment_link") is Kind.LINK
    assert kind_of("wix.some.v1.payment_link_payment_refunded", "wix.some.v1.payment_link") is Kind.OTHER


@pytest.mark.fact("U7", "E18")
@pytest.mark.parametrize("is_sent", [True, False])
def test_the_sequence_may_be_sent_or_not(endpoint: Endpoint, is_sent: bool) -> None:
    with delivering() as (site, receiver):
        if not is_sent:
            site.control("faults", {"kind": "missing_sequence"})
        [payment] = site.pay(site.link()["id"])
        [body] = told(site, receiver, payment["id"])

    assert ("entityEventSequence" in event_of(body)) is is_sent
    assert parse_event(claims_of(body)).unreadable is None
    assert endpoint.post(sign(claims_of(body))) == 200


@pytest.mark.fact("U8", "E8")
@pytest.mark.parametrize("identity", CHOICES["buyer_identity"])
def test_a_purchase_may_be_anybodys(identity: str) -> None:
    with delivering(buyer_identity=identity) as (site, receiver):
        [payment] = site.pay(site.link()["id"])
        [body] = told(site, receiver, payment["id"])

    sent = json.loads(json.loads(claims_of(body)["data"])["identity"])
    assert sent.pop("identityType") == identity
    [(name, id_)] = sent.items()
    assert name.lower().removesuffix("id") == identity.lower().replace("_", "")
    assert str(UUID(id_)) == id_
    assert parse_event(claims_of(body)).unreadable is None


@pytest.mark.fact("U10")
@pytest.mark.parametrize(("assumed", "slugs"), [(True, ["created", "updated"]), (False, ["created"])])
@pytest.mark.parametrize("end", ["pay", "expire"])
def test_a_link_that_ends_may_be_told_of_or_not(assumed: bool, slugs: list[str], end: str) -> None:
    with delivering(link_tells_of_payments=assumed) as (site, receiver):
        link = site.link(paymentsLimit=1)
        site.control(f"links/{link['id']}/{end}")

        bodies = told(site, receiver, link["id"])

        assert site.get(link["id"])["status"] == {"pay": "PAID", "expire": "EXPIRED"}[end]
    assert sorted(event_of(body)["slug"] for body in bodies) == slugs


# -- Objects ---------------------------------------------------------------------------------------


@pytest.mark.fact("U11", "P22", "P23")
@pytest.mark.parametrize("name", ["giftCardPaymentLinkPayment", "giftCardPayment", "wixGiftcard"])
def test_a_gift_card_is_personal_whatever_its_object_is_called(name: str) -> None:
    with assuming(gift_card_field=name) as site:
        [gift] = site.pay(
            site.link("1.00", quantity=1)["id"], tenders=[{"type": "GIFT_CARD", "amount": "1.00"}]
        )

    seen = parse_payment(gift, INSTANCE)

    assert seen.personal == {name: gift[name]}
    assert gift[name]["maskedCode"]
    assert name not in seen.rest


@pytest.mark.fact("U12", "P28")
@pytest.mark.parametrize("name", ["contactId", "buyerContact"])
def test_the_buyers_contact_is_kept_under_whatever_name_and_can_be_asked_for(name: str) -> None:
    with assuming(contact_id_field=name) as site, a_client_of(site) as (client, us):
        [paid] = site.pay(site.link()["id"], buyer={"name": "Ada Byron", "email": "ada@example.com"})
        seen = parse_payment(paid, us)

        assert seen.personal is not None
        contact = client.get_contact(us, seen.personal["contactDetails"][name])
    assert contact.primary_info is not None
    assert contact.primary_info.email == "ada@example.com"
    with assuming() as site:
        [paid] = site.pay(site.link()["id"])
    assert not {"contactId", "buyerContact"} & paid["regularPaymentLinkPayment"]["contactDetails"].keys()


@pytest.mark.fact("U13", "U15", "L27")
def test_details_that_nobody_knows_are_taken_as_they_come() -> None:
    payment = payment_entity(regularPaymentLinkPayment={"method": "IN_PERSON"})
    assert parse_payment(payment, INSTANCE).payment.method == "IN_PERSON"
    arguments = ["links", "create", "--title", "t", "--currency", "USD", "--item", "a:1:1", "--dry-run"]

    from processor.cli import cli

    printed = CliRunner().invoke(cli, [*arguments, "--recipient", "c:SMS_METHOD", "--recipient", "d"])

    sent = json.loads(printed.stdout)["paymentLink"]["recipients"]
    assert [one["sendMethods"] for one in sent] == [["SMS_METHOD"], ["EMAIL_METHOD"]]


# -- Calls -----------------------------------------------------------------------------------------


@pytest.mark.fact("U19", "R25")
@pytest.mark.parametrize("answer", CHOICES["receipt_answer"])
def test_a_receipt_may_be_answered_in_any_shape(answer: str) -> None:
    with assuming(receipt_answer=answer) as site, a_client_of(site) as (client, us):
        [paid] = site.pay(site.link()["id"])

        receipt_id = client.issue_receipt(us, paid["id"])

        [found] = site.query(PAYMENTS)["paymentLinkPayments"]
    assert receipt_id == (None if answer == "nothing" else found["receiptId"])


@pytest.mark.fact("U20", "R44")
@pytest.mark.parametrize("status", [400, 409, 428])
def test_a_refusal_may_have_any_status_and_is_one_to_us(status: int) -> None:
    with assuming(refusal_status=status) as site, a_client_of(site) as (client, us):
        link = site.link(paymentsLimit=1)
        [paid] = site.pay(link["id"])
        client.issue_receipt(us, paid["id"])

        for refused in (
            lambda: client.delete_link(us, link["id"]),
            lambda: client.activate_link(us, link["id"]),
            lambda: client.issue_receipt(us, paid["id"]),
        ):
            with pytest.raises(WixRefused) as caught:
                refused()
            assert not isinstance(caught.value, WixNotFound)
            assert caught.value.status == status
            assert str(caught.value.code).startswith("SANDBOX_")
        site.control(f"instances/{us}", {"isPublished": False}, "PATCH")
        with pytest.raises(WixRefused) as caught:
            client.create_link(us, new())
        assert (caught.value.status, caught.value.code) == (status, "UNPUBLISHED_SITE")


@pytest.mark.fact("U21", "Q12")
@pytest.mark.parametrize("size", [3, 50])
def test_a_page_may_hold_any_number_unless_it_is_said(size: int) -> None:
    with assuming(page_default=size) as site, a_client_of(site) as (client, us):
        for _ in range(5):
            site.link()

        assert len(site.query(LINKS)["paymentLinks"]) == min(size, 5)
        assert [len(page) for page in client.query_links(us, {}, pages_max=1)] == [5]


@pytest.mark.fact("U22")
@pytest.mark.parametrize(("setting", "is_refused"), [("3", False), ("100", True)])
def test_a_short_list_of_values_is_kept_to_by_a_setting(
    database_url: str, redis_url: str, setting: str, is_refused: bool
) -> None:
    with a_shop(database_url, redis_url, WIX_IN_MAX=setting) as shop:
        shop.sandbox.world._rules = replace(shop.sandbox.world._rules, in_max=3)
        links = [shop.link() for _ in range(8)]
        for link_id in links:
            shop.pay(link_id)
        shop.deliver()

        for _ in range(2):  # the second time by the links' dates, which are known then
            shop.request(*links)
            shop.check()

        assert ("400" in shop.services.wix_responses) is is_refused
        matched = shop.one("SELECT count(*) FROM payments WHERE match_state = 'matched'")[0]
        assert matched == (0 if is_refused else 8)


@pytest.mark.fact("U22")
@pytest.mark.parametrize(("most", "status"), [(2, 400), (100, 200)])
def test_the_sandbox_takes_as_many_values_as_assumed(most: int, status: int) -> None:
    with assuming(in_max=most) as site:
        for operator in ("$in", "$hasSome"):
            query = {"filter": {"paymentLinkId": {operator: [str(uuid4()) for _ in range(3)]}}}
            assert site.call("POST", f"{PAYMENTS}/query", {"query": query}).status_code == status


@pytest.mark.fact("U23", "Q21")
@pytest.mark.parametrize("ignored", [True, False])
def test_a_filter_on_another_field_may_be_ignored_or_refused(ignored: bool) -> None:
    with assuming(other_filters_ignored=ignored) as site:
        for _ in range(3):
            site.link()
        other = {"filter": {"currency": "XXX", "status": "ACTIVE"}, "cursorPaging": {"limit": 2}}

        answer = site.call("POST", f"{LINKS}/query", {"query": other})

        assert answer.status_code == (200 if ignored else 400)
        of_payments = {"paymentLinkId": {"$in": [str(uuid4())]}}
        answer_to_links = site.call("POST", f"{LINKS}/query", {"query": {"filter": of_payments}})
        assert answer_to_links.status_code == (200 if ignored else 400)
        if ignored:
            assert len(answer_to_links.json()["paymentLinks"]) == 3
            cursor = answer.json()["pagingMetadata"]["cursors"]["next"]
            more = site.query(LINKS, cursorPaging={"cursor": cursor})
            assert len(answer.json()["paymentLinks"]) + len(more["paymentLinks"]) == 3
        wrong: tuple[Any, ...] = ({"$xor": []}, {"status": {"$near": 1}})
        for nonsense in wrong:
            assert site.call("POST", f"{LINKS}/query", {"query": {"filter": nonsense}}).status_code == 400


@pytest.mark.fact("U25", "X2")
@pytest.mark.parametrize("sent", [True, False])
def test_too_many_calls_may_be_told_how_long_to_wait(sent: bool) -> None:
    with a_site(rules=Rules(retry_after=sent), calls_per_minute=2) as site:
        answers = [site.call("POST", f"{LINKS}/query", {"query": {}}) for _ in range(3)]

    assert [one.status_code for one in answers] == [200, 200, 429]
    if sent:
        assert 1 <= int(answers[2].headers["Retry-After"]) <= 60
    else:
        assert "Retry-After" not in answers[2].headers


@pytest.mark.fact("U26", "Q10")
def test_search_looks_somewhere_and_says_where_it_cannot() -> None:
    with assuming() as site, a_client_of(site) as (client, us):
        site.link(title="Green tea")

        [found] = client.search_links(us, "green", pages_max=1)
        with pytest.raises(WixRefused):
            list(client.search_links(us, "green", fields=["colour"], pages_max=1))

    assert len(found) == 1


# -- Choosing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "assumption",
    [
        *(f"{name}=nonsense" for name in (*CHOICES, *RANGES)),
        *(f"{name}={low - 1}" for name, (low, _) in RANGES.items()),
        *(f"{name}={high + 1}" for name, (_, high) in RANGES.items()),
        "retry_after=perhaps",
    ],
)
def test_what_cannot_be_assumed_is_said(assumption: str) -> None:
    name, _, value = assumption.partition("=")
    said = CliRunner().invoke(sandbox, ["--assume", f"{name.replace('_', '-')}={value}"])

    assert said.exit_code == 2
    assert f"--assume {name.replace('_', '-')}= takes" in said.output


def test_every_rule_is_a_switch_a_choice_a_number_or_a_name() -> None:
    for name, field in Rules.__dataclass_fields__.items():
        default = field.default
        if isinstance(default, bool):
            continue
        if isinstance(default, int):
            low, high = RANGES[name]
            assert low <= default <= high
        else:
            assert isinstance(default, str)
            assert default in CHOICES.get(name, (default,))
    assert CHOICES.keys() | RANGES.keys() <= Rules.__dataclass_fields__.keys()


def test_a_link_event_of_a_link_that_was_told_exactly_still_reads_as_one() -> None:
    inner = event(slug="sent", createdEvent=..., entityId=str(LINK))
    names = itertools.product(("wix.a.v1.payment_link", "wix.b.v1.payment_link"), repeat=2)

    for fqdn, setting in names:
        read = parse_event(claims(envelope(inner, eventType=f"{fqdn}_sent")), link_fqdn=setting)
        assert (read.kind is Kind.LINK) is (fqdn == setting)
        assert read.unreadable is None
