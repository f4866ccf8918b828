"""Every fault switch of the pretend Wix does what its description says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from joserfc import jwk, jws
from joserfc.errors import BadSignatureError

from processor.processes import wait_until
from processor.sandbox.faults import FAULTS, MIX, parameters_of
from tests.sandbox.wixlike import (
    LINKS,
    PAYMENTS,
    Receiver,
    Site,
    a_receiver,
    a_site,
    claims_of,
    event_of,
    token_for,
)

CREATED = "payment_link_payment_created"


@pytest.fixture
def site() -> Iterator[Site]:
    with a_site(time_scale=6_000) as running:
        yield running


@pytest.fixture
def receiver(site: Site) -> Iterator[Receiver]:
    with a_receiver(site) as running:
        yield running


def fault(site: Site, kind: str, **parameters: Any) -> dict[str, Any]:
    added: dict[str, Any] = site.control("faults", {"kind": kind, **parameters})
    return added


def told(site: Site, receiver: Receiver, slug: str = "created") -> list[str]:
    """Bodies of the events about payments, once all is quiet."""
    assert site.control("deliveries/idle")["isIdle"]
    return [
        body
        for body in receiver.bodies
        if "payments" in str(event_of(body).get("entityFqdn")) and event_of(body)["slug"] == slug
    ]


def is_signed_by_the_app(site: Site, body: str) -> bool:
    key = jwk.RSAKey.import_key(site.http.get("/_sandbox/public-key").text)
    try:
        jws.deserialize_compact(body, key, algorithms=["RS256"])
    except BadSignatureError:
        return False
    return True


# -- Tokens ----------------------------------------------------------------------------------------


def test_a_token_of_another_key_is_resent_with_the_right_one(site: Site, receiver: Receiver) -> None:
    fault(site, "wrong_key", eventType=CREATED, attempts=1, count=1)
    receiver.answer = lambda number: 200 if is_signed_by_the_app(site, receiver.bodies[number - 1]) else 401

    site.pay(site.link()["id"])
    wait_until(lambda: len(told(site, receiver)) == 2, what="the resend", seconds=10)

    assert [is_signed_by_the_app(site, body) for body in told(site, receiver)] == [False, True]


def test_a_token_of_another_key_may_stay_so_for_ever(site: Site, receiver: Receiver) -> None:
    fault(site, "wrong_key", eventType=CREATED, count=1)

    site.pay(site.link()["id"])

    [body] = told(site, receiver)
    assert not is_signed_by_the_app(site, body)


def test_an_expired_token_is_well_signed_and_long_past(site: Site, receiver: Receiver) -> None:
    fault(site, "expired_token", eventType=CREATED, seconds=7200)

    [payment] = site.pay(site.link()["id"])

    [body] = told(site, receiver)
    assert is_signed_by_the_app(site, body)
    claims = claims_of(body)
    [event] = site.http.get("/_sandbox/events", params={"entityId": payment["id"]}).json()["events"]
    assert claims["exp"] == event["issuedAt"] - 7200
    assert claims["exp"] - claims["iat"] == 300_000


def test_a_resend_of_one_event_is_signed_anew(site: Site, receiver: Receiver) -> None:
    fault(site, "resigned", eventType=CREATED, count=1)
    site.pay(site.link()["id"])
    [event] = [
        one
        for one in site.http.get("/_sandbox/events").json()["events"]
        if one["eventType"].endswith(CREATED)
    ]

    again = site.sandbox.token_of({**event, "issuedAt": 0}, 2)

    assert event["faults"] == ["resigned"]
    assert event_of(again) == event_of(event["token"])
    assert claims_of(again)["iat"] >= claims_of(event["token"])["iat"]


# -- Shapes ----------------------------------------------------------------------------------------


@pytest.mark.fact("E6", "E26", "U7")
def test_shapes_that_occur_are_produced_together(site: Site, receiver: Receiver) -> None:
    for kind in ("missing_identity", "entity_as_json", "missing_sequence"):
        fault(site, kind, eventType=CREATED)
    [payment] = site.pay(site.link()["id"])

    [body] = told(site, receiver)

    envelope = json.loads(claims_of(body)["data"])
    event = json.loads(envelope["data"])
    assert "identity" not in envelope
    assert "entityEventSequence" not in event
    assert set(event["createdEvent"]) == {"entityAsJson"}
    assert json.loads(event["createdEvent"]["entityAsJson"]) == payment


@pytest.mark.fact("E25", "P8")
def test_the_documented_slip_of_the_updated_event_is_produced(site: Site, receiver: Receiver) -> None:
    fault(site, "created_current_entity")
    fault(site, "currency_code")
    [payment] = site.pay(site.link()["id"])
    site.control(f"payments/{payment['id']}/receipt")

    [created] = told(site, receiver)
    [updated] = told(site, receiver, "updated")

    assert event_of(created)["createdEvent"]["entity"]["currencyCode"] == "USD"
    assert "updatedEvent" not in event_of(updated)
    entity = event_of(updated)["createdEvent"]["currentEntity"]
    assert entity["revision"] == "2"
    assert "currency" not in entity


# -- Strays ----------------------------------------------------------------------------------------


@pytest.mark.fact("D20", "U9")
def test_strays_come_along_with_an_event_or_by_themselves(site: Site, receiver: Receiver) -> None:
    fault(site, "test_event", eventType=CREATED, count=1)
    fault(site, "unknown_event", eventType=CREATED, count=1)
    site.pay(site.link()["id"])
    site.control("strays", {"kind": "test_event", "instanceId": site.instance["instanceId"]})
    assert site.control("deliveries/idle")["isIdle"]

    envelopes = [json.loads(claims_of(body)["data"]) for body in receiver.bodies]

    strangers = [one for one in envelopes if one["instanceId"] != site.instance["instanceId"]]
    assert [one["eventType"].endswith(CREATED) for one in strangers] == [True, True]
    assert all(is_signed_by_the_app(site, body) for body in receiver.bodies)
    assert sum(one["eventType"] == "wix.sandbox.v1.unheard_of_happened" for one in envelopes) == 1
    truth = site.http.get("/_sandbox/truth").json()["instances"]
    assert sum(len(one["payments"]) for one in truth) == 1, "a stray is no payment"


# -- Calls -----------------------------------------------------------------------------------------


def test_a_hanging_call_is_carried_out_all_the_same(site: Site) -> None:
    fault(site, "hang", seconds=30, count=1, path=LINKS)
    link = {
        "title": "once",
        "currency": "USD",
        "type": "ECOM",
        "ecomPaymentLink": {
            "lineItems": [{"type": "CUSTOM", "customItem": {"name": "a", "quantity": 1, "price": "1"}}]
        },
    }

    with pytest.raises(httpx2.ReadTimeout):
        site.http.post(LINKS, json={"paymentLink": link}, headers=site.headers, timeout=0.3)

    assert [one["title"] for one in site.query(LINKS)["paymentLinks"]] == ["once"]


def test_a_fault_of_one_path_spares_those_that_contain_it(site: Site) -> None:
    fault(site, "status", status=503, path=f"={LINKS}")

    assert site.query(LINKS)["paymentLinks"] == []
    assert site.call("POST", LINKS, {}).status_code == 503


def test_a_slow_answer_is_whole_in_the_end(site: Site) -> None:
    link = site.link()
    fault(site, "slow", seconds=0.2, count=1)

    assert site.get(link["id"])["id"] == link["id"]


def test_a_cursor_expires_and_a_first_page_does_not(site: Site) -> None:
    for _ in range(2):
        site.link()
    fault(site, "expired_cursor", count=1)
    first = site.query(LINKS, cursorPaging={"limit": 1})
    following = {"query": {"cursorPaging": {"cursor": first["pagingMetadata"]["cursors"]["next"]}}}

    refused = site.call("POST", f"{LINKS}/query", following)

    assert refused.status_code == 400
    assert site.post(f"{LINKS}/query", following)["paymentLinks"]


def test_a_revoked_token_stays_revoked_and_a_new_one_is_given(site: Site) -> None:
    fault(site, "revoked_token", count=1)

    assert [site.call("POST", f"{LINKS}/query", {"query": {}}).status_code for _ in range(2)] == [401, 401]

    app = site.http.get("/_sandbox/app").json()
    site.headers["Authorization"] = token_for(site.http, app, site.instance)
    assert site.call("POST", f"{LINKS}/query", {"query": {}}).status_code == 200


@pytest.mark.fact("R5", "R40")
def test_a_site_without_permission_or_readiness_refuses(site: Site) -> None:
    path = f"instances/{site.instance['instanceId']}"
    for flag, status, code in (
        ("hasPermission", 403, "SANDBOX_PERMISSION_MISSING"),
        ("isPublished", 428, "UNPUBLISHED_SITE"),
        ("acceptsPayments", 428, "MISSING_ACCEPT_PAYMENTS"),
        ("hasEcom", 428, "FAILED_TO_INSTALL_ECOM"),
    ):
        site.control(path, {flag: False}, "PATCH")
        item = {"type": "CUSTOM", "customItem": {"name": "a", "quantity": 1, "price": "1"}}
        link = {"title": "t", "currency": "USD", "type": "ECOM", "ecomPaymentLink": {"lineItems": [item]}}
        answer = site.call("POST", LINKS, {"paymentLink": link})
        assert (answer.status_code, answer.json()["details"]["applicationError"]["code"]) == (status, code)
        site.control(path, {flag: True}, "PATCH")
    assert site.link()


# -- Reading ---------------------------------------------------------------------------------------


def test_a_deleted_link_is_gone_for_readers_alone(site: Site) -> None:
    link = site.link()
    fault(site, "link_deleted", linkId=link["id"])

    assert site.call("GET", f"{LINKS}/{link['id']}").status_code == 404
    assert site.query(LINKS)["paymentLinks"] == []
    assert site.http.get("/_sandbox/truth").json()["instances"][0]["linkCount"] == 1


# -- Switching -------------------------------------------------------------------------------------


def test_every_kind_is_described_and_takes_what_it_says(site: Site) -> None:
    examples: dict[str, Any] = {
        "copies": 3,
        "sameEntity": True,
        "seconds": 1.5,
        "attempts": 2,
        "status": 503,
        "retryAfterSeconds": 2,
        "by": "-1.00",
        "amount": "2.50",
        "count": 1,
        "probability": 0.5,
        "linkId": "l",
        "paymentId": "p",
        "instanceId": "i",
        "eventType": "e",
        "paymentLinkId": "l",
        "path": "/",
    }
    listed = site.http.get("/_sandbox/faults/kinds").json()["kinds"]
    assert {one["kind"] for one in listed} == set(FAULTS)

    for one in listed:
        parameters = {name: examples[name] for name in one["parameters"]}
        added = fault(site, one["kind"], **parameters)
        assert {name: added[name] for name in parameters} == parameters
        for name in one["required"]:
            lacking = {key: value for key, value in parameters.items() if key != name}
            refused = site.http.post("/_sandbox/faults", json={"kind": one["kind"], **lacking})
            assert refused.status_code == 400
        wrong = site.http.post("/_sandbox/faults", json={"kind": one["kind"], **parameters, "colour": "red"})
        assert wrong.status_code == 400


def test_a_mix_is_made_of_known_faults_and_switched_off_together(site: Site) -> None:
    added = site.control("faults/mix", {"share": 0.2})["faults"]

    assert [one["kind"] for one in added] == [one["kind"] for one in MIX]
    for one in MIX:
        assert set(one) - {"kind"} <= set(parameters_of(one["kind"]))
    site.control("faults", method="DELETE")
    assert site.http.get("/_sandbox/faults").json()["faults"] == []
    assert site.http.post("/_sandbox/faults/mix", json={"share": 1}).status_code == 400


# -- The shop's side -------------------------------------------------------------------------------


def transactions(site: Site, order_id: str) -> Any:
    return site.call("GET", f"/ecom/v1/payments/orders/{order_id}").json()["orderTransactions"]


@pytest.mark.fact("S13", "S14", "S15", "R30")
def test_a_refund_shows_on_the_order_alone(site: Site, receiver: Receiver) -> None:
    link = site.link("60.00", quantity=1)
    tenders = [{"type": "GIFT_CARD", "amount": "20.00"}, {"type": "CARD", "amount": "40.00"}]
    gift, card = site.pay(link["id"], tenders=tenders)
    order_id = card["regularPaymentLinkPayment"]["order"]["ecomOrder"]["ecomOrderId"]

    part = site.control(f"payments/{card['id']}/refund", {"amount": "15.00"})
    assert part["paymentStatus"] == "PARTIALLY_REFUNDED"
    too_much = site.http.post(f"/_sandbox/payments/{card['id']}/refund", json={"amount": "25.01"})
    assert too_much.status_code == 400
    half_a_card = site.http.post(f"/_sandbox/payments/{gift['id']}/refund", json={"amount": "1.00"})
    assert half_a_card.json()["details"]["applicationError"]["code"] == "SANDBOX_NO_PARTIAL_REFUND"
    site.control(f"payments/{card['id']}/refund")
    site.control(f"payments/{gift['id']}/refund")

    held = transactions(site, order_id)
    assert [one["transactions"][0]["amount"]["amount"] for one in held["refunds"]] == [
        "15.00",
        "25.00",
        "20.00",
    ]
    by_id = {one["paymentId"]: one for one in held["payments"]}
    assert by_id[card["id"]]["regularPaymentDetails"]["status"] == "REFUNDED"
    assert by_id[gift["id"]]["giftcardPaymentDetails"]["voided"] is True
    assert (
        site.call("GET", f"/ecom/v1/orders/{order_id}").json()["order"]["paymentStatus"] == "FULLY_REFUNDED"
    )
    assert site.get(link["id"])["totalReceived"]["amount"] == "60.00"
    found = site.query(PAYMENTS, filter={"paymentLinkId": link["id"]})["paymentLinkPayments"]
    assert {one["revision"] for one in found} == {"1"}
    assert told(site, receiver, "updated") == []


@pytest.mark.fact("S12")
def test_a_refund_that_is_reversed_is_the_merchants_again(site: Site, receiver: Receiver) -> None:
    [payment] = site.pay(site.link()["id"])
    assert site.control("deliveries/idle")["isIdle"]
    receiver.bodies.clear()
    site.control("webhook", {"url": receiver.url, "eventTypes": ["refund_updated"]}, "PUT")
    refund = site.control(f"payments/{payment['id']}/refund", {"amount": "1.00"})["refund"]

    undone = site.control(f"payments/{payment['id']}/refunds/{refund['id']}/reverse")

    assert (undone["refund"]["refundStatus"], undone["paymentStatus"]) == ("REVERSED", "PAID")
    again = site.http.post(f"/_sandbox/payments/{payment['id']}/refunds/{refund['id']}/reverse")
    assert again.json()["details"]["applicationError"]["code"] == "SANDBOX_REFUND_REVERSED"
    unknown = site.http.post(f"/_sandbox/payments/{payment['id']}/refunds/none/reverse")
    assert unknown.status_code == 404
    assert site.control("deliveries/idle")["isIdle"]
    [body] = receiver.bodies
    told = event_of(body)["updatedEvent"]["currentEntity"]
    assert (told["id"], told["status"], told["chargeId"]) == (refund["id"], "REVERSED", payment["id"])
    site.control(f"payments/{payment['id']}/refund")


@pytest.mark.fact("D2", "E39", "S12")
def test_neighbours_are_heard_of_by_name_alone(site: Site, receiver: Receiver) -> None:
    [payment] = site.pay(site.link()["id"])
    site.control(f"payments/{payment['id']}/refund")
    assert site.control("deliveries/idle")["isIdle"]
    heard = {json.loads(claims_of(body)["data"])["eventType"] for body in receiver.bodies}
    assert not [one for one in heard if "refund" in one or "ecom" in one]

    receiver.bodies.clear()
    types = ["refund_created", "order_payment_status_updated"]
    site.control("webhook", {"url": receiver.url, "eventTypes": types}, "PUT")
    [payment] = site.pay(site.link()["id"])
    site.control(f"payments/{payment['id']}/refund")
    assert site.control("deliveries/idle")["isIdle"]

    events = {json.loads(claims_of(body)["data"])["eventType"]: event_of(body) for body in receiver.bodies}
    assert set(events) == {
        "wix.payments.refunds.v1.refund_created",
        "wix.ecom.v1.order_payment_status_updated",
    }
    refund = events["wix.payments.refunds.v1.refund_created"]["createdEvent"]["entity"]
    assert (refund["chargeId"], refund["amount"], refund["full"]) == (payment["id"], payment["amount"], True)
