"""Facts of webhooks: what the pretend Wix sends, and what our endpoint makes of it."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from joserfc import jwe, jwk

from processor.config import Settings
from processor.domain.event import Kind
from processor.errors import ConfigurationError
from processor.wix import wire
from processor.wix.parse import parse_claims, parse_event
from tests import builders
from tests.builders import INSTANCE, LINK, NOW, claims, envelope, event, payment_claims, payment_entity, sign
from tests.contract.conftest import Endpoint
from tests.sandbox.wixlike import LINKS, PAYMENTS, Receiver, Site, claims_of, event_of


def idle(site: Site) -> None:
    assert site.control("deliveries/idle")["isIdle"]


# -- The transport ---------------------------------------------------------------------------------


@pytest.mark.fact("D5", "D6")
def test_the_body_alone_proves_who_sent_it(endpoint: Endpoint, site: Site, receiver: Receiver) -> None:
    body = sign(payment_claims())
    signature = body.decode()
    headers = {"digest": signature, "Authorization": signature, "X-Wix-Signature": signature}

    assert endpoint.post(b"{}", headers) == 401
    assert endpoint.post(body, {"digest": "nonsense", "Date": "yesterday"}) == 200

    site.link()
    idle(site)
    assert len(receiver.headers) == 1
    usual = {"host", "accept", "accept-encoding", "connection", "user-agent", "content-length"}
    assert {name for one in receiver.headers for name in one} <= usual | {"content-type"}


@pytest.mark.fact("D7")
def test_a_body_is_signed_and_not_encrypted(endpoint: Endpoint, site: Site, receiver: Receiver) -> None:
    site.link(title="to be read by anybody")
    idle(site)

    assert receiver.bodies[0].count(".") == 2
    assert event_of(receiver.bodies[0])["createdEvent"]["entity"]["title"] == "to be read by anybody"
    key = jwk.RSAKey.import_key(builders.public_pem())
    encrypted = jwe.encrypt_compact({"alg": "RSA-OAEP", "enc": "A128GCM"}, sign(payment_claims()), key)
    assert endpoint.post(encrypted) == 401


@pytest.mark.fact("D15", "U3")
def test_every_attempt_is_in_the_log_of_deliveries(site: Site, receiver: Receiver) -> None:
    receiver.answer = lambda number: 500 if number == 1 else 200

    link = site.link(title="logged")
    idle(site)

    [event_id] = {
        event_of(body)["id"] for body in receiver.bodies if event_of(body)["entityId"] == link["id"]
    }
    attempts = site.http.get("/_sandbox/deliveries", params={"eventId": event_id}).json()["deliveries"]
    assert sorted(one["status"] for one in attempts) == [200, 500]
    assert event_id[:8] in site.http.get("/deliveries").text
    site.control(f"events/{event_id}/redeliver")
    idle(site)
    assert len(receiver.bodies) == 3


@pytest.mark.fact("D13", "D16")
def test_a_resend_tells_of_the_event_as_it_was(site: Site, receiver: Receiver) -> None:
    link = site.link()
    idle(site)
    first = receiver.bodies[-1]
    site.post(f"{LINKS}/{link['id']}/set-note", {"note": {"text": "later"}})
    site.control(f"events/{event_of(first)['id']}/redeliver")
    idle(site)

    again = [body for body in receiver.bodies if event_of(body)["id"] == event_of(first)["id"]]

    assert len(again) == 2
    assert event_of(again[1]) == event_of(first)
    assert "note" not in event_of(again[1])["createdEvent"]["entity"]
    assert event_of(first)["id"] != event_of(first)["entityId"]


@pytest.mark.fact("D8", "D14", "D16")
def test_what_the_sandbox_sends_is_stored_once_however_often_it_comes(
    endpoint: Endpoint, site: Site, receiver: Receiver
) -> None:
    """The sandbox's token under its own key: here its claims are signed again for the endpoint at hand."""
    site.pay(site.link()["id"])
    idle(site)
    bodies = [sign(claims_of(body)) for body in receiver.bodies]
    assert len(bodies) == 3, "the payment, and its link twice"

    assert [endpoint.post(body) for body in bodies + bodies] == [200] * len(bodies) * 2

    stored = endpoint.rows("SELECT delivery_count FROM webhook_events WHERE kind <> 'app_installed'")
    assert [count for (count,) in stored] == [2] * len(bodies)


@pytest.mark.fact("D9")
def test_every_wait_for_the_database_ends_before_wix_gives_up(endpoint: Endpoint) -> None:
    """The clock is not asked: these are the bounds that PostgreSQL and the pool keep."""
    [(statement,)] = endpoint.rows("SHOW statement_timeout")
    pool: Any = endpoint.services.database.engine.pool

    together = int(statement.removesuffix("ms")) / 1000 + pool.timeout()

    assert together == pytest.approx(endpoint.services.settings.answer_seconds)
    assert together < 1.25
    with pytest.raises(ConfigurationError, match="ANSWER_SECONDS"):
        Settings.read({"ANSWER_SECONDS": "1.25"})


# -- The token -------------------------------------------------------------------------------------


@pytest.mark.fact("J12", "J13", "J9", "J11", "U5")
@pytest.mark.parametrize(
    "change",
    [
        {"iat": int((NOW + timedelta(days=1)).timestamp())},
        {"iss": "wix.com", "aud": "the-app"},
        {"iss": "somebody else", "aud": ["another app"]},
        {"exp": ...},
        {"iat": ..., "exp": ...},
        {"exp": int((NOW - timedelta(days=1)).timestamp())},
    ],
    ids=["issued tomorrow", "issuer", "another issuer", "no expiry", "no times", "expired in the grace"],
)
def test_a_claim_that_webhooks_need_not_have_refuses_nothing(
    endpoint: Endpoint, change: dict[str, Any]
) -> None:
    assert endpoint.post(sign(claims(**change))) == 200

    assert endpoint.rows("SELECT count(*) FROM payments") == [(1,)]


# -- The levels ------------------------------------------------------------------------------------


def read(inner: Any, **outer: Any) -> Any:
    return parse_event(parse_claims(json.dumps(claims(envelope(inner, **outer))).encode()))


@pytest.mark.fact("R3", "E5")
def test_what_nobody_has_heard_of_is_taken_on_every_level() -> None:
    novelty: dict[str, Any] = {"novelty": {"deep": [1, None]}}
    entity = payment_entity(**novelty)
    for name in ("regularPaymentLinkPayment", "ecomCheckout"):
        entity[name] = {**entity[name], **novelty}
    told = claims(envelope(event(entity, **novelty), **novelty), **novelty)
    account = json.loads(told["data"])
    account["accountInfo"] |= novelty
    told["data"] = json.dumps(account)

    seen = parse_event(parse_claims(json.dumps(told).encode()))

    assert seen.unreadable is None
    assert seen.seen is not None
    assert seen.seen.rest["novelty"] == novelty["novelty"]


SOMEBODY = "7c6c5f2b-5a0e-4a61-8f7e-5f6b4e0f0b11"


@pytest.mark.fact("E8", "E6")
@pytest.mark.parametrize(
    "identity",
    [
        {"identityType": "ANONYMOUS_VISITOR", "anonymousVisitorId": SOMEBODY},
        {"identityType": "MEMBER", "memberId": SOMEBODY},
        {"identityType": "WIX_USER", "wixUserId": SOMEBODY},
        {"identityType": "APP", "appId": SOMEBODY},
        {"identityType": "UNKNOWN"},
        "not even JSON",
        None,
    ],
    ids=str,
)
def test_whoever_caused_an_event_it_is_read(identity: Any) -> None:
    told = identity if isinstance(identity, str | None) else json.dumps(identity)

    assert read(event(), identity=told).unreadable is None


@pytest.mark.fact("E3", "E4", "E7", "E8")
def test_an_envelope_of_the_sandbox_has_its_parts_as_documented(site: Site, receiver: Receiver) -> None:
    site.pay(site.link()["id"])
    idle(site)

    kinds = []
    for body in receiver.bodies:
        outer = json.loads(claims_of(body)["data"])
        assert len(outer["eventType"]) <= 150
        assert str(UUID(outer["instanceId"])) == outer["instanceId"]
        assert outer["accountInfo"].keys() == {"accountId", "siteId"}
        identity = json.loads(outer["identity"])
        kind = identity.pop("identityType")
        [(name, id_)] = identity.items()
        kinds.append((kind, name))
        assert str(UUID(id_)) == id_
    assert sorted(kinds) == [("ANONYMOUS_VISITOR", "anonymousVisitorId"), ("APP", "appId"), ("APP", "appId")]


# -- The event -------------------------------------------------------------------------------------


@pytest.mark.fact("E10", "E11", "E12", "E13", "E14", "E15", "E17", "E18", "E20", "E21", "P2")
def test_events_of_one_payment_have_the_documented_fields_and_grow(site: Site, receiver: Receiver) -> None:
    [payment] = site.pay(site.link()["id"])
    site.post(f"{PAYMENTS}/{payment['id']}/issue-receipt")
    idle(site)

    told = [event_of(body) for body in receiver.bodies]
    created, updated = sorted(
        (one for one in told if one["entityId"] == payment["id"]),
        key=lambda one: int(one["entityEventSequence"]),
    )
    assert (created["slug"], updated["slug"]) == ("created", "updated")
    assert {one["entityFqdn"] for one in (created, updated)} == {wire.PAYMENT_FQDN}
    assert created["id"] != updated["id"]
    assert [created["entityEventSequence"], updated["entityEventSequence"]] == ["1", "2"]
    for one in (created, updated):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", one["eventTime"])
        assert one["triggeredByAnonymizeRequest"] is False
        assert one["originatedFrom"] == ""
    assert created["createdEvent"]["entity"]["revision"] == "1"
    assert updated["updatedEvent"]["currentEntity"]["revision"] == "2"
    assert updated["updatedEvent"]["currentEntity"].keys() > created["createdEvent"]["entity"].keys()


@pytest.mark.fact("E17", "E22", "E18")
@pytest.mark.parametrize(
    "change",
    [
        {"originatedFrom": ""},
        {"originatedFrom": "issue_receipt"},
        {"originatedFrom": ...},
        {"updatedEvent": {"currentEntity": payment_entity(), "modifiedFields": {"receiptId": "x"}}},
        {"entityEventSequence": ...},
        {"entityEventSequence": "12"},
        {"eventTime": ...},
    ],
    ids=str,
)
def test_optional_parts_of_an_event_may_be_there_or_not(change: dict[str, Any]) -> None:
    seen = read(event(slug="updated", **change))

    assert seen.unreadable is None
    assert seen.seen is not None


@pytest.mark.fact("E23", "E24", "E34")
@pytest.mark.parametrize(
    ("slug", "payload"),
    [
        ("deleted", {"deletedEvent": {"deletedEntity": {"id": str(LINK)}}}),
        ("deleted", {"deletedEvent": {}}),
        ("deleted", {}),
        ("sent", {"actionEvent": {"body": {"paymentLink": {"id": str(LINK)}}}}),
        ("note_set", {"actionEvent": {"body": {"something": "else"}}}),
    ],
)
def test_a_link_event_needs_only_its_entity_id(slug: str, payload: dict[str, Any]) -> None:
    inner = {**event(slug=slug, createdEvent=..., entityId=str(LINK)), **payload}

    seen = read(inner, eventType=f"wix.paymentlinks.v1.payment_link_{slug}")

    assert (seen.kind, seen.link_id, seen.unreadable) == (Kind.LINK, LINK, None)


@pytest.mark.fact("E23", "E24", "E35")
def test_the_sandbox_tells_of_what_was_done_to_a_link_by_payload(site: Site, receiver: Receiver) -> None:
    link = site.link()
    path = f"{LINKS}/{link['id']}"
    site.post(f"{path}/deactivate")
    site.call("DELETE", path)
    idle(site)

    told = {event_of(body)["slug"]: event_of(body) for body in receiver.bodies}
    assert told["deactivated"]["actionEvent"]["body"]["paymentLink"]["status"] == "INACTIVE"
    assert told["deleted"]["deletedEvent"]["deletedEntity"]["id"] == link["id"]


# -- Other events ----------------------------------------------------------------------------------


@pytest.mark.fact("E36", "E37")
def test_a_duplicated_site_is_told_of_with_the_instance_it_comes_from(site: Site, receiver: Receiver) -> None:
    origin = site.instance["instanceId"]

    copy = site.control("instances", {"originInstanceId": origin})
    plain = site.control("instances", {})
    idle(site)

    told = {json.loads(claims_of(body)["data"])["instanceId"]: body for body in receiver.bodies}
    assert event_of(told[copy["instanceId"]]).keys() == {"appId", "originInstanceId"}
    assert event_of(told[plain["instanceId"]]).keys() == {"appId"}
    seen = parse_event(claims_of(told[copy["instanceId"]]))
    assert (seen.kind, seen.origin_instance_id) == (Kind.APP_INSTALLED, UUID(origin))
    assert seen.instance_id == UUID(copy["instanceId"])


@pytest.mark.fact("E33", "E38", "E39", "E40", "E41", "E42")
@pytest.mark.parametrize(
    ("event_type", "payload"),
    [
        (f"{wire.PAYMENT_FQDN}_deleted", {"deletedEvent": {}}),
        (
            "wix.app.installations.v1.app_installation_updated",
            {"updatedEvent": {"currentEntity": {"status": "UNINSTALLED"}}},
        ),
        ("wix.payments.refunds.v1.refund_created", {"createdEvent": {"entity": {"amount": "1"}}}),
        ("wix.ecom.v1.order_transactions_chargeback_approved", {"actionEvent": {"body": {}}}),
        ("wix.ecom.v1.order_approved", {"actionEvent": {"body": {"order": {"id": "o"}}}}),
        ("wix.ecom.v1.order_canceled", {"actionEvent": {"body": {"order": {"id": "o"}}}}),
    ],
)
def test_an_event_of_another_kind_is_kept_and_nothing_follows(
    endpoint: Endpoint, event_type: str, payload: dict[str, Any]
) -> None:
    inner = {"id": str(uuid4()), "entityId": str(uuid4()), "slug": "x", **payload}

    assert endpoint.post(sign(claims(envelope(inner, eventType=event_type)))) == 200

    stored = endpoint.rows("SELECT event_id::text, kind FROM webhook_events WHERE kind <> 'app_installed'")
    assert stored == [(inner["id"], "other")]
    assert endpoint.rows("SELECT count(*) FROM payments") == [(0,)]
    assert endpoint.rows("SELECT status FROM app_instances") == [("installed",)]


@pytest.mark.fact("E41", "E42")
def test_orders_are_told_of_by_the_order_itself(site: Site, receiver: Receiver) -> None:
    types = ["order_payment_status_updated"]
    site.control("webhook", {"url": receiver.url, "eventTypes": types}, "PUT")

    site.pay(site.link()["id"])
    idle(site)

    [told] = [event_of(body) for body in receiver.bodies]
    assert told["actionEvent"]["body"]["order"]["paymentStatus"] == "PAID"


@pytest.mark.fact("S6", "S7", "E31")
def test_the_created_event_alone_books_the_money(endpoint: Endpoint) -> None:
    assert endpoint.post(sign(payment_claims())) == 200

    booked = endpoint.rows("SELECT instance_id, amount::text, currency FROM payments")
    assert booked == [(INSTANCE, "10.990", "USD")]
