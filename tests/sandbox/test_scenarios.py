"""Stories, a past of any size, assumptions: what the pretend Wix can be made to be."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from processor.sandbox import scenarios
from processor.sandbox.core import CHOICES, Rules
from processor.sandbox.seed import BATCH, Volume, load
from processor.sandbox.server import Options, Sandbox
from tests.sandbox.wixlike import LINKS, PAYMENTS, a_receiver, a_site, event_of


@pytest.mark.parametrize("name", scenarios.names())
def test_every_scenario_plays_to_its_end(name: str) -> None:
    with a_site(time_scale=6_000) as site, a_receiver(site):
        played = site.control(f"scenarios/{name}")
        listed = site.http.get("/_sandbox/scenarios").json()["scenarios"]

        assert {"name": name, "title": played["title"]} in listed
        assert len(played["steps"]) == len(scenarios.read(name)["step"])
        assert played["expect"]


@pytest.mark.parametrize(
    "rules",
    [
        *(Rules(receipt_answer=one) for one in CHOICES["receipt_answer"]),
        Rules(currency_field="currencyCode", offline_makes_payment=False, refusal_status=400),
        Rules(split_counts_once=True, totals_fall_on_refund=True, refund_raises_update=True),
        Rules(link_tells_of_payments=False, contact_id_field="contactId", issuer_and_audience=True),
    ],
    ids=str,
)
def test_every_scenario_plays_whatever_is_assumed(rules: Rules) -> None:
    with a_site(rules=rules) as site:
        for name in scenarios.names():
            assert site.control(f"scenarios/{name}")["steps"], name


def test_amounts_as_large_as_wix_allows_are_paid_and_summed_and_larger_ones_refused() -> None:
    largest = "500000000000000"
    with a_site() as site:
        link = site.link(largest, quantity=2)
        for _ in range(12):
            site.pay(link["id"])
        site.pay(site.link("0.01", quantity=1)["id"])

        [found] = site.http.get("/_sandbox/truth?summary").json()["instances"]
        assert found["received"] == {"USD": "12000000000000000.01"}
        item = {"type": "CUSTOM", "customItem": {"name": "x", "quantity": 3, "price": largest}}
        dear = {"title": "t", "currency": "USD", "type": "ECOM", "ecomPaymentLink": {"lineItems": [item]}}
        refused = site.call("POST", LINKS, {"paymentLink": dear})
        assert refused.status_code == 400
        [violation] = refused.json()["details"]["validationError"]["fieldViolations"]
        assert violation["field"] == "paymentLink.ecomPaymentLink.lineItems"


def test_the_missed_webhook_is_found_by_a_query_alone() -> None:
    with a_site() as site, a_receiver(site) as receiver:
        site.control("scenarios/missed-webhook")
        assert site.control("deliveries/idle")["isIdle"]

        assert receiver.slugs() == []
        assert len(site.query(PAYMENTS)["paymentLinkPayments"]) == 1


def test_the_story_out_of_order_is_told_three_times_and_the_update_first() -> None:
    with a_site() as site, a_receiver(site) as receiver:
        site.control("scenarios/out-of-order")
        assert site.control("deliveries/idle")["isIdle"]

        slugs = receiver.slugs()
        assert sorted(slugs) == ["created", "updated", "updated"]
        assert slugs[0] == "updated"


def test_an_unknown_scenario_is_refused() -> None:
    with a_site() as site:
        for name in ("nonsense", "..%2Fkeys"):
            assert site.http.post(f"/_sandbox/scenarios/{name}", json={}).status_code == 404


# -- Assumptions -----------------------------------------------------------------------------------


@pytest.mark.fact("P8", "U6", "U11", "U14", "U16", "U17", "U18")
def test_what_wix_leaves_open_can_be_assumed_the_other_way() -> None:
    rules = Rules(
        link_fqdn="wix.other.v1.payment_link",
        currency_field="currencyCode",
        gift_card_type="WIX_GIFT_CARD",
        refund_raises_update=True,
        totals_fall_on_refund=True,
        split_counts_once=True,
        offline_makes_payment=False,
    )
    with a_site(rules=rules) as site, a_receiver(site) as receiver:
        link = site.link("60.00", quantity=1)
        tenders = [{"type": "GIFT_CARD", "amount": "20.00"}, {"type": "CARD", "amount": "40.00"}]
        gift, card = site.pay(link["id"], tenders=tenders)
        assert (gift["type"], gift["currencyCode"]) == ("WIX_GIFT_CARD", "USD")
        assert site.get(link["id"])["totalReceived"] == {"paymentCount": 1, "amount": "60.00"}

        site.control(f"payments/{card['id']}/refund", {"amount": "10.00"})
        assert site.get(link["id"])["totalReceived"] == {"paymentCount": 1, "amount": "50.00"}
        assert site.pay(link["id"], tenders=[{"type": "OFFLINE", "amount": "60.00"}]) == []
        assert site.control("deliveries/idle")["isIdle"]

        assert receiver.slugs().count("updated") == 1
        assert any(event_of(body).get("entityFqdn") == rules.link_fqdn for body in receiver.bodies)


# -- Volume ----------------------------------------------------------------------------------------


def filled(folder: Path, seed: int = 7) -> Sandbox:
    sandbox = Sandbox(Options(folder=folder, calls_per_minute=100_000))
    done = list(load(sandbox, Volume(payments=6_000, links=40, sites=2, days=100), seed))
    assert sum(done) == 6_000
    assert max(done) <= BATCH
    return sandbox


def test_a_past_is_loaded_whole_and_adds_up(tmp_path: Path) -> None:
    sandbox = filled(tmp_path / "a")
    summary = sandbox.world.summary()
    sandbox.close()

    assert [one["linkCount"] for one in summary] == [20, 20]
    assert sum(one["paymentCount"] for one in summary) == 6_000
    with a_site(folder=tmp_path / "a", calls_per_minute=100_000) as site:
        first = summary[0]
        key = site.sandbox.world.instance(first["instanceId"])
        site.headers = {"Authorization": key["apiKey"], "wix-site-id": key["siteId"]}
        received: dict[str, Decimal] = {}
        listed = 0
        query: dict[str, Any] = {"sort": [{"fieldName": "createdDate"}], "cursorPaging": {"limit": 100}}
        while True:
            page = site.query(PAYMENTS, **query)
            for payment in page["paymentLinkPayments"]:
                listed += 1
                currency = payment["currency"]
                received[currency] = received.get(currency, Decimal(0)) + Decimal(payment["amount"])
            cursor = page["pagingMetadata"]["cursors"].get("next")
            if cursor is None:
                break
            query = {"cursorPaging": {"cursor": cursor}}
        totals: dict[str, Decimal] = {}
        for link in site.query(LINKS, cursorPaging={"limit": 100})["paymentLinks"]:
            amount = Decimal(link["totalReceived"]["amount"])
            totals[link["currency"]] = totals.get(link["currency"], Decimal(0)) + amount

    assert listed == first["paymentCount"]
    told = {currency: Decimal(amount) for currency, amount in first["received"].items()}
    assert received == totals == told


def test_the_same_seed_makes_the_same_past(tmp_path: Path) -> None:
    def ids(folder: Path, seed: int) -> list[tuple[Any, ...]]:
        sandbox = filled(folder, seed)
        found = sandbox.documents.rows("SELECT id, link, thousandths FROM payment ORDER BY id LIMIT 50")
        sandbox.close()
        return found

    same = ids(tmp_path / "a", 3)
    assert ids(tmp_path / "b", 3) == same
    assert ids(tmp_path / "c", 4) != same


def test_a_loaded_payment_is_like_any_other(tmp_path: Path) -> None:
    filled(tmp_path).close()
    with a_site(folder=tmp_path) as site:
        [(payment_id,)] = site.sandbox.documents.rows("SELECT id FROM payment LIMIT 1")

        refund = site.control(f"payments/{payment_id}/refund")
        site.control(f"payments/{payment_id}/receipt")

        assert refund["paymentStatus"] == "FULLY_REFUNDED"
        payment = site.sandbox.world.payment(payment_id)["entity"]
        assert payment["revision"] == "2"
