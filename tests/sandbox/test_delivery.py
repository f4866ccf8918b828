"""Webhooks as Wix delivers them, checked by independent code."""

from __future__ import annotations

import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx2
import pytest
from joserfc import jwk, jws

from processor.processes import wait_until
from processor.sandbox import delivery
from processor.sandbox.core import Rules
from processor.sandbox.server import Sandbox, running_sandbox
from tests.sandbox.wixlike import LINKS, Receiver, Site, a_receiver, a_site, claims_of, event_of


@pytest.fixture
def site() -> Iterator[Site]:
    # One minute of Wix's resends takes a hundredth of a second.
    with a_site(time_scale=6_000) as running:
        yield running


@pytest.fixture
def receiver(site: Site) -> Iterator[Receiver]:
    with a_receiver(site) as running:
        yield running


def idle(site: Site) -> None:
    assert site.control("deliveries/idle")["isIdle"]


@pytest.mark.fact("D3", "D4", "J1", "J2", "J3", "J8", "J9", "J10")
@pytest.mark.fact("E1", "E2", "E3", "E4", "E5", "E7", "E10", "E13", "E20", "E31", "E32")
def test_a_payment_is_told_in_the_documented_nesting(site: Site, receiver: Receiver) -> None:
    link = site.link()
    idle(site)
    receiver.bodies.clear()

    [payment] = site.pay(link["id"])
    idle(site)

    bodies = {event_of(body)["slug"]: body for body in receiver.bodies}
    body = bodies["created"]
    key = jwk.RSAKey.import_key(site.http.get("/_sandbox/public-key").text)
    verified = jws.deserialize_compact(body, key, algorithms=["RS256"])
    assert set(verified.headers()) == {"kid", "alg"}
    claims = claims_of(body)
    assert set(claims) == {"data", "iat", "exp"}
    assert claims["exp"] - claims["iat"] == 300_000
    envelope = json.loads(claims["data"])
    assert envelope["eventType"] == "wix.paymentlinks.payments.v1.payment_link_payment_created"
    assert envelope["instanceId"] == site.instance["instanceId"]
    assert json.loads(envelope["identity"])["identityType"] == "ANONYMOUS_VISITOR"
    assert envelope["accountInfo"]["siteId"] == site.instance["siteId"]
    event = json.loads(envelope["data"])
    assert event["createdEvent"] == {"entity": payment}
    assert event["entityEventSequence"] == "1"
    assert event["entityId"] == payment["id"]
    assert all(type_ == "text/plain" for type_ in receiver.types)


@pytest.mark.fact("E30", "E34", "E35", "E36")
def test_every_action_has_its_event(site: Site, receiver: Receiver) -> None:
    link = site.link()
    path = f"{LINKS}/{link['id']}"
    site.post(f"{path}/deactivate")
    site.post(f"{path}/activate")
    site.post(f"{path}/set-note", {"note": {"text": "x"}})
    site.post(f"{path}/send", {"recipients": [{"contactId": site.instance["contactIds"][0]}]})
    site.post(f"{path}/initiate-payment")
    [payment] = site.pay(link["id"])
    site.control(f"payments/{payment['id']}/receipt")
    site.control(f"payments/{payment['id']}/anonymize")
    site.call("DELETE", f"{LINKS}/{site.link()['id']}")
    site.http.delete(f"/_sandbox/instances/{site.instance['instanceId']}")
    idle(site)

    types = [json.loads(claims_of(body)["data"])["eventType"] for body in receiver.bodies]
    assert {name.rsplit(".", 1)[-1] for name in types} == {
        "payment_link_created",
        "payment_link_updated",
        "payment_link_deleted",
        "payment_link_activated",
        "payment_link_deactivated",
        "payment_link_note_set",
        "payment_link_sent",
        "payment_link_payment_initiated",
        "payment_link_payment_created",
        "payment_link_payment_updated",
        "AppRemoved",
    }


@pytest.mark.fact("E36", "E43")
def test_of_a_site_without_the_app_nothing_is_told_until_it_is_installed_again(
    site: Site, receiver: Receiver
) -> None:
    instance_id = site.instance["instanceId"]
    link = site.link()
    other = site.control("instances", {})["instanceId"]
    idle(site)
    receiver.bodies.clear()

    def told() -> list[str]:
        idle(site)
        types = [json.loads(claims_of(body)["data"])["eventType"] for body in receiver.bodies]
        receiver.bodies.clear()
        return sorted(name.rsplit(".", 1)[-1] for name in types)

    site.control(f"instances/{instance_id}", method="DELETE")
    assert told() == ["AppRemoved"]
    [payment] = site.pay(link["id"])
    site.control(f"payments/{payment['id']}/receipt")
    site.control(f"links/{link['id']}/expire")
    assert told() == []
    unheard = {"status": "unsubscribed", "paymentLinkId": link["id"]}
    assert len(site.http.get("/_sandbox/events", params=unheard).json()["events"]) == 4
    site.control(f"instances/{other}", method="DELETE")
    assert told() == ["AppRemoved"], "another site is told of all the same"

    site.control("instances", {"instanceId": instance_id})
    site.control(f"payments/{payment['id']}/anonymize")
    assert told() == ["AppInstalled", "payment_link_payment_updated"]


@pytest.mark.fact("E15", "E16", "E21")
def test_an_anonymized_payment_keeps_its_money_and_loses_the_person(site: Site, receiver: Receiver) -> None:
    [payment] = site.pay(site.link()["id"], buyer={"name": "Sophie Germain"})

    site.control(f"payments/{payment['id']}/anonymize")
    idle(site)

    [body] = [one for one in receiver.bodies if event_of(one).get("triggeredByAnonymizeRequest")]
    entity = event_of(body)["updatedEvent"]["currentEntity"]
    assert (entity["amount"], entity["revision"]) == (payment["amount"], "2")
    assert "Sophie" not in body
    assert "contactDetails" not in entity["regularPaymentLinkPayment"]


@pytest.mark.fact("D8", "D13")
@pytest.mark.parametrize("status", [201, 204, 302, 401, 500, 503])
def test_only_200_succeeds_and_a_resend_carries_the_same_token(
    site: Site, receiver: Receiver, status: int
) -> None:
    receiver.answer = lambda number: status if number == 1 else 200

    site.link()
    wait_until(lambda: len(receiver.bodies) >= 2, what="a resend", seconds=10)
    idle(site)

    assert receiver.bodies[0] == receiver.bodies[1]
    [event] = site.http.get("/_sandbox/events", params={"status": "delivered"}).json()["events"]
    assert event["attempts"] == 2


@pytest.mark.fact("U4", "U5")
def test_resends_may_be_signed_anew() -> None:
    seconds = itertools.count(1_800_000_000)
    options = {"time_scale": 6_000, "resign_retries": True, "rules": Rules(token_lifetime_seconds=10)}
    with (
        a_site(now=lambda: datetime.fromtimestamp(next(seconds), UTC), **options) as site,
        a_receiver(site) as receiver,
    ):
        receiver.answer = lambda number: 500 if number == 1 else 200
        site.link()
        wait_until(lambda: len(receiver.bodies) >= 2, what="a resend", seconds=10)

    first, again = receiver.bodies[:2]
    assert first != again
    assert event_of(first) == event_of(again)
    assert claims_of(again)["iat"] > claims_of(first)["iat"]
    assert claims_of(again)["exp"] == claims_of(again)["iat"] + 10


@pytest.mark.fact("D9")
def test_an_answer_after_the_deadline_does_not_count(site: Site, receiver: Receiver) -> None:
    receiver.answer = lambda number: 0 if number == 1 else 200

    site.link()
    wait_until(lambda: len(receiver.bodies) >= 2, what="a resend", seconds=10)
    idle(site)

    attempts = site.http.get("/_sandbox/deliveries").json()["deliveries"]
    late = [one for one in attempts if one["status"] is None]
    assert [one["error"] for one in late] == ["ReadTimeout"]
    assert late[0]["milliseconds"] >= 1_200


@pytest.mark.fact("D9")
def test_an_answer_that_never_ends_is_cut_off_at_the_deadline(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        ended = threading.Event()

        def drip() -> None:
            peer, _ = listening.accept()
            with peer, suppress(OSError):
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while not ended.wait(0.05):
                    peer.sendall(b".")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            site.control("webhook", {"url": f"http://127.0.0.1:{port}/"}, "PUT")
            site.link()
            wait_until(
                lambda: site.http.get("/_sandbox/deliveries").json()["deliveries"] != [],
                what="the end of the attempt",
                seconds=10,
            )
        finally:
            site.control("webhook", {"url": None}, "PUT")
            ended.set()
            dripping.join()

    first = site.http.get("/_sandbox/deliveries").json()["deliveries"][-1]
    assert (first["attempt"], first["status"], first["error"]) == (1, 200, "deadline")
    assert first["milliseconds"] >= 1_250


@pytest.mark.parametrize(("answer", "waiting"), [(200, 0), (500, 1)])
def test_a_delivery_by_hand_takes_the_place_of_the_resend_that_waits(answer: int, waiting: int) -> None:
    with a_site() as site, a_receiver(site) as receiver:  # a resend is a minute away
        receiver.answer = lambda number: 500 if number == 1 else answer
        site.link()
        idle(site)
        [event] = site.http.get("/_sandbox/events", params={"status": "pending"}).json()["events"]
        assert site.control("deliveries/idle")["waiting"] == 1

        site.control(f"events/{event['id']}/redeliver")
        idle(site)

        assert len(receiver.bodies) == 2
        assert site.control("deliveries/idle")["waiting"] == waiting


def test_a_stop_does_not_wait_for_deliveries_that_have_not_begun(tmp_path: Path) -> None:
    """Twenty rounds of the threads there are, of 1.25 s each, would wait for this endpoint."""
    with a_site(folder=tmp_path, calls_per_minute=10_000) as site, a_receiver(site) as receiver:
        receiver.answer = lambda number: 0
        for _ in range(delivery.THREADS * 20):
            site.link()
        began = time.monotonic()
        site.sandbox.deliverer.stop()
        took = time.monotonic() - began

        assert took < 12
        pending = site.sandbox.documents.count("event", {"status": "pending"})
        assert pending == delivery.THREADS * 20, "they are for the next start"


@pytest.mark.fact("D10")
def test_resends_take_as_long_as_documented() -> None:
    assert sum(delivery.RESEND_SECONDS) == (47 * 60 + 11) * 60
    assert len(delivery.RESEND_SECONDS) == 12


@pytest.mark.fact("D10", "D11")
def test_thirteen_deliveries_are_made_in_all() -> None:
    with a_site(time_scale=1_000_000) as site, a_receiver(site) as receiver:
        receiver.answer = lambda number: 500

        site.link()
        wait_until(
            lambda: site.http.get("/_sandbox/events", params={"status": "given_up"}).json()["events"] != [],
            what="giving up",
            seconds=20,
        )

        assert len(receiver.bodies) == 13


@pytest.mark.fact("D12")
def test_a_failing_event_does_not_hold_later_ones_back() -> None:
    with a_site() as site, a_receiver(site) as receiver:  # a resend is a minute away
        receiver.answer = lambda number: 500 if number == 1 else 200

        first, second = site.link(), site.link()
        wait_until(lambda: len(receiver.bodies) >= 2, what="both", seconds=10)

        told = {event_of(body)["entityId"] for body in receiver.bodies[:2]}
        assert told == {first["id"], second["id"]}
        assert site.control("deliveries/idle")["waiting"] == 1


# -- Faults ----------------------------------------------------------------------------------------


def fault(site: Site, **what: object) -> None:
    site.control("faults", {"eventType": "payment_link_payment_created", **what})


def test_a_dropped_event_never_comes_but_really_happened(site: Site, receiver: Receiver) -> None:
    fault(site, kind="drop", count=1)
    link = site.link()

    site.pay(link["id"])
    site.pay(link["id"])
    idle(site)

    assert receiver.slugs() == ["created"]
    truth = site.http.get("/_sandbox/truth").json()
    assert len(truth["instances"][0]["payments"]) == 2
    assert truth["droppedEvents"] == 1


@pytest.mark.fact("D14")
def test_an_event_is_duplicated(site: Site, receiver: Receiver) -> None:
    fault(site, kind="duplicate", copies=3, count=1)

    site.pay(site.link()["id"])
    idle(site)

    assert receiver.slugs() == ["created"] * 3
    told = [body for body in receiver.bodies if "payments" in event_of(body)["entityFqdn"]]
    assert len(set(told)) == 1


def test_an_event_is_overtaken_by_a_later_one_of_its_instance(site: Site, receiver: Receiver) -> None:
    link = site.link()
    idle(site)
    fault(site, kind="reorder", count=1)

    site.pay(link["id"])
    wait_until(lambda: "created" in receiver.slugs(), what="the payment", seconds=10)

    last, before = (event_of(body) for body in (receiver.bodies[-1], receiver.bodies[-2]))
    assert (before["slug"], before["entityId"]) == ("updated", link["id"])
    assert last["slug"] == "created"


def test_an_event_is_overtaken_by_a_later_one_of_its_payment(site: Site, receiver: Receiver) -> None:
    fault(site, kind="reorder", count=1, sameEntity=True)
    [payment] = site.pay(site.link()["id"])
    idle(site)
    assert receiver.slugs() == []

    site.control(f"payments/{payment['id']}/receipt")
    wait_until(lambda: len(receiver.slugs()) == 2, what="both", seconds=10)

    assert receiver.slugs() == ["updated", "created"]


def test_held_events_are_sent_when_told_to(site: Site, receiver: Receiver) -> None:
    site.control("faults", {"kind": "reorder"})
    site.link()
    assert receiver.bodies == []

    assert site.control("deliveries/flush")["released"] == 1
    idle(site)
    assert len(receiver.bodies) == 1


def test_an_event_is_delayed(site: Site, receiver: Receiver) -> None:
    fault(site, kind="delay", seconds=1.0)
    link = site.link()

    site.pay(link["id"])
    wait_until(lambda: "created" in receiver.slugs(), what="the late event", seconds=10)

    slugs = [event_of(body)["slug"] for body in receiver.bodies]
    assert slugs[-1] == "created"
    assert "updated" in slugs, "the link's own event was not held up"


def test_queries_lag_and_totals_and_payments_may_be_wrong(site: Site) -> None:
    link = site.link()
    [payment] = site.pay(link["id"])
    query = {"query": {"filter": {"paymentLinkId": link["id"]}}}
    path = "/payment-links/v1/payment-link-payments/query"

    site.control("faults", {"kind": "read_lag", "seconds": 600})
    assert site.post(path, query)["paymentLinkPayments"] == []
    site.control("faults", method="DELETE")
    site.control("faults", {"kind": "amount_edited", "paymentId": payment["id"], "amount": "1.00"})
    assert site.post(path, query)["paymentLinkPayments"][0]["amount"] == "1.00"
    site.control("faults", {"kind": "payment_deleted", "paymentId": payment["id"]})
    assert site.post(path, query)["paymentLinkPayments"] == []
    site.control("faults", {"kind": "wrong_total", "linkId": link["id"], "by": "-0.50"})
    assert site.get(link["id"])["totalReceived"]["amount"] == "20.50"


@pytest.mark.fact("X6")
def test_calls_fail_as_switched(site: Site) -> None:
    path = f"{LINKS}/query"
    query: dict[str, object] = {"query": {}}

    site.control("faults", {"kind": "status", "status": 429, "retryAfterSeconds": 0.00001, "count": 1})
    assert site.call("POST", path, query).headers["Retry-After"] == "0.00001"
    site.control("faults", {"kind": "status", "status": 429, "retryAfterSeconds": 7, "count": 1})
    refused = site.call("POST", path, query)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "7")
    site.control("faults", {"kind": "status", "status": 503, "count": 1})
    assert site.call("POST", path, query).json() == {"message": "", "details": {}}
    site.control("faults", {"kind": "truncated", "count": 1})
    with pytest.raises(httpx2.RemoteProtocolError):
        site.call("POST", path, query)
    site.control("faults", {"kind": "hang", "seconds": 30, "count": 1})
    with pytest.raises(httpx2.ReadTimeout):
        site.http.post(path, json=query, headers=site.headers, timeout=0.3)
    assert site.call("POST", path, query).status_code == 200


def test_faults_by_chance_are_the_same_for_the_same_seed() -> None:
    def told(seed: int) -> list[list[str]]:
        with a_site(seed=seed) as site, a_receiver(site):
            site.control("faults", {"kind": "drop", "probability": 0.5})
            for _ in range(12):
                site.link()
            events = site.http.get("/_sandbox/events").json()["events"]
            return [event["faults"] for event in events]

    assert told(5) == told(5)
    assert ["drop"] in told(5)
    assert [] in told(5)


# -- Restart ---------------------------------------------------------------------------------------


def test_state_key_and_pending_deliveries_survive_a_restart(tmp_path: Path) -> None:
    with a_site(folder=tmp_path) as site:
        with a_receiver(site) as receiver:
            receiver.answer = lambda number: 500
            link = site.link()
            site.pay(link["id"])
            wait_until(lambda: len(receiver.bodies) >= 3, what="first tries", seconds=10)
        pem = site.http.get("/_sandbox/public-key").text
        headers = site.headers

    with a_site(folder=tmp_path) as again, a_receiver(again) as receiver:
        assert again.http.get("/_sandbox/public-key").text == pem
        found = again.http.get(f"{LINKS}/{link['id']}", headers=headers)
        assert found.json()["paymentLink"]["totalReceived"]["paymentCount"] == 1
        pending = {"status": "pending", "instanceId": site.instance["instanceId"]}
        events = again.http.get("/_sandbox/events", params=pending).json()["events"]
        assert len(events) == 3
        for event in events:
            again.control(f"events/{event['id']}/redeliver")
        wait_until(lambda: "created" in receiver.slugs(), what="the payment", seconds=10)


# -- By hand ---------------------------------------------------------------------------------------


class ByHand:
    """A sandbox whose time moves when told to, and whose deliveries end here."""

    def __init__(self, *answers: int) -> None:
        self.moment = datetime(2026, 3, 1, tzinfo=UTC)
        self.began = self.moment
        self.answers = [*answers]
        self.posts: list[tuple[timedelta, str]] = []

    def post(self, url: str, token: str) -> tuple[int | None, str | None]:
        assert url == "http://nobody.test/hook"
        self.posts.append((self.moment - self.began, token))
        return (self.answers.pop(0) if self.answers else 200), None


@contextmanager
def by_hand(hand: ByHand, seed: int = 1) -> Iterator[Sandbox]:
    ids = random.Random(seed)
    with running_sandbox(
        seed=seed,
        now=lambda: hand.moment,
        post=hand.post,
        is_by_hand=True,
        new_id=lambda: UUID(int=ids.getrandbits(128), version=4),
    ) as sandbox:
        sandbox.set_webhook("http://nobody.test/hook")
        yield sandbox


def test_by_hand_nothing_is_delivered_before_it_is_asked_for() -> None:
    hand = ByHand()
    with by_hand(hand) as sandbox:
        sandbox.world.install({})
        assert sandbox.deliverer.next_due() == 0
        assert hand.posts == []

        assert sandbox.deliverer.deliver_due() == 1
        assert sandbox.deliverer.deliver_due() == 0
        assert sandbox.deliverer.next_due() is None

    assert len(hand.posts) == 1


def test_by_hand_resends_come_in_the_time_of_the_sandbox() -> None:
    hand = ByHand(*[503] * 13)
    with by_hand(hand) as sandbox:
        sandbox.world.install({})
        sandbox.deliverer.deliver_due()
        while (seconds := sandbox.deliverer.next_due()) is not None:
            hand.moment += timedelta(seconds=seconds / 2)
            assert sandbox.deliverer.deliver_due() == 0, "too early"
            hand.moment += timedelta(seconds=seconds / 2)
            assert sandbox.deliverer.deliver_due() == 1
        [event] = sandbox.documents.all("event")

    waits = [after - before for (before, _), (after, _) in itertools.pairwise(hand.posts)]
    assert [wait.total_seconds() for wait in waits] == [*delivery.RESEND_SECONDS]
    assert hand.posts[-1][0] == timedelta(hours=47, minutes=11)
    assert event["status"] == "given_up"


def test_ids_and_chance_of_one_seed_make_one_story() -> None:
    def story(seed: int) -> list[dict[str, object]]:
        hand = ByHand(503)
        with by_hand(hand, seed) as sandbox:
            instance_id = sandbox.world.install({})["instanceId"]
            sandbox.faults.add({"kind": "drop", "probability": 0.5})
            order = sandbox.world.add_order(instance_id, {"total": "3.00"})
            link = sandbox.world.create_link(
                instance_id,
                {
                    "paymentLink": {
                        "title": "thing",
                        "currency": "USD",
                        "type": "ECOM_ORDER",
                        "ecomOrderPaymentLink": {"orderId": order["id"]},
                    }
                },
            )
            [payment] = sandbox.world.pay_link(link["id"], {})
            sandbox.world.issue_receipt(instance_id, payment["id"])
            sandbox.world.refund(payment["id"], {})
            sandbox.send_stray("test_event", instance_id)
            sandbox.send_stray("unknown_event", instance_id)
            sandbox.deliverer.deliver_due()
            own = ("token", "envelope")  # signed by a key of each, and naming its port
            return [
                {name: value for name, value in event.items() if name not in own}
                for event in sandbox.documents.all("event")
            ]

    assert story(1) == story(1)
    assert story(1) != story(2)
