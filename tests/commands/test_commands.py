"""The commands for people and programs, against a sandbox and a real database."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from click import Command, Group
from click.testing import CliRunner
from sqlalchemy import text

from processor import jobs, logs, wiring
from processor.cli import cli
from processor.commands import common
from processor.errors import Unreadable
from processor.replay import replay_one
from processor.store import inbox, listings
from processor.wix import wire
from processor.wix.parse import parse_claims, parse_event
from processor.wix.signature import verify
from tests.builders import claims, envelope, event, of_today, payment_entity, sign
from tests.commands.running import Run, told
from tests.shop import Shop, a_shop


def created(run: Run, *more: object) -> Any:
    return told(
        run(
            "links",
            "create",
            "--title",
            "Tea",
            "--currency",
            "eur",
            "--item",
            "Tea: green:2:4.50",
            "--json",
            *more,
        )
    )


# -- Links -----------------------------------------------------------------------------------------


def test_a_link_for_items_is_created_shown_and_listed(run: Run, shop: Shop) -> None:
    link = created(run, "--description", "two cups", "--payments-limit", 3, "--expires", "2031-01-01")

    assert (link["how"], link["status"], link["currency"]) == ("made", "ACTIVE", "EUR")
    assert link["expirationDate"] == "2031-01-01T00:00:00Z"
    [item] = link["ecomPaymentLink"]["lineItems"]
    assert item["customItem"] == {"name": "Tea: green", "quantity": 2, "price": "4.50"}
    shown = run("links", "show", link["id"]).stdout
    assert "2 × Tea: green, 4.50 each" in shown
    assert "2031-01-01" in shown
    assert link["id"] in run("links", "list").stdout
    assert told(run("links", "list", "--json"))[0]["title"] == "Tea"


def test_a_link_for_products_and_one_for_an_order_are_created(run: Run, shop: Shop) -> None:
    instance = shop.sandbox.world.shown(shop.sandbox.world.instance(str(shop.instance_id)))
    mug, order = instance["productIds"][0], instance["orderIds"][0]

    products = told(
        run("links", "create", "--title", "Mugs", "--currency", "USD", "--product", f"{mug}:3", "--json")
    )
    deposit = told(
        run(
            *("links", "create", "--title", "Deposit", "--currency", "USD"),
            *("--order", order, "--amount", "60", "--json"),
        )
    )

    assert products["ecomPaymentLink"]["lineItems"][0]["catalogItem"]["quantity"] == 3
    assert deposit["type"] == "ECOM_ORDER"
    assert deposit["paymentsLimit"] == 1
    assert deposit["ecomOrderPaymentLink"]["amount"] == "60.00"


def test_a_dry_run_prints_the_request_and_sends_nothing(run: Run, shop: Shop) -> None:
    before = shop.sandbox.rate.seen()

    request = told(
        run(
            *("links", "create", "--title", "Product Payment", "--currency", "USD", "--dry-run"),
            *("--product", "PRODUCT_ID:1:VARIANT_ID", "--recipient", "c1", "--recipient", "c2:OTHER_METHOD"),
        )
    )

    assert request["paymentLink"]["ecomPaymentLink"]["lineItems"] == [
        {
            "type": "CATALOG",
            "catalogItem": {
                "quantity": 1,
                "catalogReference": {
                    "appId": "215238eb-22a5-4c36-9e7b-e7c08025e04e",
                    "catalogItemId": "PRODUCT_ID",
                    "options": {"variantId": "VARIANT_ID"},
                },
            },
        }
    ]
    assert request["paymentLink"]["recipients"] == [
        {"contactId": "c1", "sendMethods": ["EMAIL_METHOD"]},
        {"contactId": "c2", "sendMethods": ["OTHER_METHOD"]},
    ]
    assert shop.sandbox.rate.seen() == before


def test_a_file_says_what_options_say(run: Run, tmp_path: Path) -> None:
    request = run(
        "links", "create", "--title", "Tea", "--currency", "EUR", "--item", "Tea:1:4.50", "--dry-run"
    ).stdout
    file = tmp_path / "link.json"
    file.write_text(request)

    assert run("links", "create", "--file", file, "--dry-run").stdout == request
    assert run("links", "create", "--file", "-", "--dry-run", input=request).stdout == request
    assert told(run("links", "create", "--file", file, "--json"))["title"] == "Tea"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--title", "Tea"), "--title and --currency are needed"),
        (("--title", "Tea", "--currency", "EUR"), "say what is to be paid"),
        (("--title", "T", "--currency", "EUR", "--item", "a:1:1", "--order", "o"), "say what is to be paid"),
        (("--title", "T", "--currency", "EUR", "--item", "a:1"), "write NAME:QUANTITY:PRICE"),
        (("--title", "T", "--currency", "EUR", "--item", "a:x:1"), "write NAME:QUANTITY:PRICE"),
        (("--title", "T", "--currency", "EUR", "--item", f"a:{'9' * 5000}:1"), "write NAME:QUANTITY:PRICE"),
        (
            ("--title", "T", "--currency", "EUR", "--item", "a:1:1", "--reference", "r" * 101),
            "1 to 100 characters",
        ),
        (("--title", "T", "--currency", "EUR", "--product", "p:x"), "write ID, ID:QUANTITY"),
        (("--title", "T", "--currency", "EUR", "--item", "a:1:1", "--amount", "5"), "--amount goes with"),
        (("--file", "/nonexistent"), "cannot be read"),
        (("--file", "/nonexistent", "--title", "T"), "leave out --title"),
        (("--file", "/nonexistent", "--payments-limit", "2"), "leave out --payments-limit"),
        (("--title", "T", "--currency", "EUR", "--item", "a:1:1", "--expires", "soon"), "is no time"),
    ],
)
def test_what_makes_no_sense_is_said_and_nothing_is_sent(
    run: Run, shop: Shop, arguments: tuple[str, ...], why: str
) -> None:
    result = run("links", "create", *arguments, code=2)

    assert why in result.stderr
    assert shop.sandbox.documents.count("link") == 0


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "is no payment link"),
        (b'{"title": 5}', "is no payment link"),
        (
            b'{"paymentLink": {"title": "T", "currency": "EUR", "type": "ECOM", "paymentLimit": 3}}',
            "paymentLimit",
        ),
        (
            (
                b'{"title": "T", "currency": "EUR", "type": "ECOM", "ecomPaymentLink": {"lineItems": [{'
                b'"type": "CUSTOM", "customItem": {"name": "a", "quantity": 1, "price": "1", "prise": "2"}}]}}'
            ),
            "ecomPaymentLink.lineItems[0].customItem.prise",
        ),
        (
            b'{"title": "nul\\u0000", "currency": "EUR", "type": "ECOM", "ecomPaymentLink": {"lineItems": []}}',
            "a character that no text can have",
        ),
    ],
)
def test_a_file_that_is_no_link_is_refused(run: Run, shop: Shop, content: bytes, why: str) -> None:
    assert why in run("links", "create", "--file", "-", code=2, input=content).stderr
    assert shop.sandbox.documents.count("link") == 0


def test_wixs_own_words_reach_the_person(run: Run) -> None:
    result = run("links", "create", "--title", "T" * 201, "--currency", "EUR", "--item", "a:1:1", code=2)

    assert "paymentLink.title: must have 1 to 200 characters" in result.stderr


def test_the_same_reference_never_makes_a_second_link(run: Run, shop: Shop) -> None:
    first = created(run, "--reference", "order-17")
    again = created(run, "--reference", "order-17")

    assert (again["id"], again["how"]) == (first["id"], "known")
    other = run(
        "links",
        "create",
        "--title",
        "X",
        "--currency",
        "EUR",
        "--item",
        "a:1:1",
        "--reference",
        "order-17",
        code=2,
    )
    assert "order-17" in other.stderr
    assert shop.sandbox.documents.count("link") == 1


def test_after_a_lost_answer_the_reference_is_told(run: Run, shop: Shop) -> None:
    shop.sandbox.faults.add({"kind": "truncated", "count": 1, "path": "payment-links"})
    result = run("links", "create", "--title", "T", "--currency", "EUR", "--item", "a:1:1", code=3)
    reference = result.stderr.split("--reference ")[1].split()[0]

    again = run(
        "links", "create", "--title", "T", "--currency", "EUR", "--item", "a:1:1", "--reference", reference
    )

    assert "its answer was lost" in again.stdout
    assert shop.sandbox.documents.count("link") == 1


def test_a_link_is_sent_initiated_and_changed(run: Run, shop: Shop) -> None:
    link_id = created(run)["id"]
    contact = shop.sandbox.world.shown(shop.sandbox.world.instance(str(shop.instance_id)))["contactIds"][0]

    assert "1 contact\n" in run("links", "send", link_id, "--recipient", contact).stdout
    url = run("links", "initiate", link_id).stdout.strip()
    assert url.startswith(f"{shop.sandbox.url}/checkout/")
    assert "INACTIVE" in run("links", "deactivate", link_id).stdout
    assert "ACTIVE" in run("links", "activate", link_id).stdout
    assert told(run("links", "deactivate", link_id, "--json"))["status"] == "INACTIVE"
    assert told(run("links", "activate", link_id, "--json"))["status"] == "ACTIVE"
    run("links", "note", link_id, "call her back")
    assert "call her back" in run("links", "show", link_id).stdout
    run("links", "delete", link_id, "--yes")
    assert "404" in run("links", "show", link_id, code=2).stderr


def test_initiate_opens_the_browser_only_when_asked(
    run: Run, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def show(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr("processor.commands.links.sending._is_shown_in_browser", show)
    link_id = created(run)["id"]

    run("links", "initiate", link_id)
    assert opened == []
    url = run("links", "initiate", link_id, "--open").stdout.strip()
    assert opened == [url]


def test_links_are_narrowed_sorted_and_searched(run: Run, shop: Shop) -> None:
    cheap, dear = shop.link("1.00"), shop.link("9.00", payments_limit=1)
    shop.pay(dear)

    def ids(*arguments: object) -> list[str]:
        return [link["id"] for link in told(run("links", "list", "--json", *arguments))]

    assert ids("--status", "PAID") == [str(dear)]
    assert ids("--paid") == [str(dear)]
    assert ids("--unpaid") == [str(cheap)]
    assert ids("--limited") == [str(dear)]
    assert set(ids("--search", "thing")) == {str(cheap), str(dear)}
    assert ids("--search", "nothing") == []
    assert ids("--sort", "totalReceived.paymentCount:desc")[0] == str(dear)
    assert ids("--until", "2020-01-01") == []
    assert "only the first 1 are listed" in run("links", "list", "--limit", 1).stdout
    assert "one of createdDate" in run("links", "list", "--sort", "title", code=2).stderr


@pytest.mark.fact("R25")
def test_a_receipt_is_issued(run: Run, shop: Shop) -> None:
    [payment_id] = shop.pay(shop.link())

    receipt = told(run("links", "receipt", payment_id, "--json"))

    assert str(UUID(receipt["receipt_id"])) == receipt["receipt_id"]
    assert "SANDBOX_RECEIPT_EXISTS" in run("links", "receipt", payment_id, code=2).stderr


def test_with_several_instances_one_must_be_named(run: Run, shop: Shop) -> None:
    shop.sandbox.world.install({})
    shop.deliver()

    assert "name one with --instance" in run("links", "list", code=2).stderr
    run("links", "list", "--instance", shop.instance_id)
    assert run("instances", "list").stdout.count("installed") == 2


def test_without_any_instance_that_is_said(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_shop(database_url, redis_url) as empty:
        monkeypatch.setattr(
            wiring,
            "from_environ",
            lambda role, environ=None: wiring.build(empty.services.settings, role=role),
        )
        monkeypatch.setattr(logs, "configure", lambda *_, **__: None)
        result = CliRunner().invoke(cli, ["links", "list"])

    assert result.exit_code == 2
    assert "no app instance is known yet" in result.stderr


# -- Books -----------------------------------------------------------------------------------------


def test_payments_are_listed_with_the_sums_of_all(run: Run, shop: Shop) -> None:
    link_id, other = shop.link("4.00", "EUR"), shop.link("12.345", "KWD")
    for _ in range(3):
        shop.pay(link_id)
    shop.pay(other)
    shop.deliver()

    listed = told(run("payments", "list", "--limit", 2, "--json"))
    assert len(listed["payments"]) == 2
    assert listed["totals"] == [
        {
            "currency": "EUR",
            "payments": 3,
            "amount": "12.000",
            "refunded": None,
            "refunds_unclear": 0,
            "net_of_refunds": "12.000",
        },
        {
            "currency": "KWD",
            "payments": 1,
            "amount": "12.345",
            "refunded": None,
            "refunds_unclear": 0,
            "net_of_refunds": "12.345",
        },
    ]
    people = run("payments", "list", "--link", link_id, "--limit", 2).stdout
    assert "3 payments: 12.00 EUR gross\n" in people
    assert "4.00" in people
    assert "4.000" not in people
    assert "only the newest 2 are listed" in people
    assert told(run("payments", "list", "--currency", "KWD", "--json"))["payments"][0]["amount"] == "12.345"
    assert told(run("payments", "list", "--until", "2020-01-01", "--json"))["payments"] == []
    assert run("payments", "list", "--currency", "USD").stdout == "no such payment\n"


def test_sums_of_payments_say_what_was_refunded(run: Run, shop: Shop) -> None:
    link_id = shop.link("4.00", "EUR")
    paid, _ = shop.pay(link_id), shop.pay(link_id)
    shop.deliver()
    shop.sandbox.world.refund(str(paid[0]), {"amount": "1.50"})
    shop.deliver()
    shop.tick()

    assert (
        "2 payments: 8.00 EUR gross, 1.50 refunded, 6.50 net of refunds\n" in run("payments", "list").stdout
    )
    [total] = told(run("payments", "list", "--json"))["totals"]
    assert (total["refunded"], total["net_of_refunds"]) == ("1.500", "6.500")

    shop.rows("UPDATE refunds SET amount = NULL, reason = 'amount_too_fine' RETURNING 1")
    unclear = run("payments", "list").stdout
    assert "2 payments: 8.00 EUR gross, 0.00 refunded and unclear for 1\n" in unclear
    [total] = told(run("payments", "list", "--json"))["totals"]
    assert (total["refunds_unclear"], total["net_of_refunds"]) == (1, None)


def test_a_payment_is_shown_with_its_history_and_without_its_buyer(run: Run, shop: Shop) -> None:
    [payment_id] = shop.pay(shop.link(), buyer={"name": "Sophie Germain"})
    shop.sandbox.world.issue_receipt(str(shop.instance_id), str(payment_id))
    shop.deliver()

    people = run("payments", "show", payment_id).stdout
    programs = told(run("payments", "show", payment_id, "--json"))

    assert "Sophie" not in people + json.dumps(programs)
    assert [one["revision"] for one in programs["versions"]] == [1, 2]
    assert [one["event_type"].rsplit("_", 1)[-1] for one in programs["events"]] == ["created", "updated"]
    assert "Sophie Germain" in run("payments", "show", payment_id, "--personal").stdout
    assert "no such payment" in run("payments", "show", uuid4(), code=2).stderr


def test_an_event_is_shown_decoded_and_without_its_buyer(run: Run, shop: Shop) -> None:
    [payment_id] = shop.pay(shop.link(), buyer={"name": "Sophie Germain"})
    shop.deliver()
    [event] = told(run("events", "list", "--payment", payment_id, "--json"))

    programs = told(run("events", "show", event["event_id"], "--json"))

    entity = programs["told"]["data"]["createdEvent"]["entity"]
    assert entity["amount"] == "10.00"
    assert entity["regularPaymentLinkPayment"]["contactDetails"].startswith("(hidden")
    assert "Sophie" not in run("events", "show", event["event_id"]).stdout
    assert "Sophie" in run("events", "show", event["event_id"], "--personal").stdout
    assert run("events", "show", event["event_id"], "--token").stdout.count(".") == 2
    assert "no such event" in run("events", "show", uuid4(), code=2).stderr


def test_whatever_shape_an_event_has_its_buyer_is_hidden(run: Run, shop: Shop) -> None:
    for kind in ("entity_as_json", "created_current_entity"):
        shop.sandbox.faults.add({"kind": kind})
    [payment_id] = shop.pay(
        shop.link(), buyer={"name": "Sophie Germain"}, tenders=[{"type": "CARD", "amount": "10.00"}]
    )
    shop.sandbox.world.issue_receipt(str(shop.instance_id), str(payment_id))
    shop.deliver()
    ids = [one["event_id"] for one in told(run("events", "list", "--payment", payment_id, "--json"))]

    shown = "".join(run("events", "show", one, *more).stdout for one in ids for more in ((), ("--json",)))

    assert len(ids) == 2
    assert "Sophie" not in shown
    assert "sophie" not in shown


@pytest.mark.parametrize("level", ["data", "event"])
def test_an_event_that_cannot_be_read_is_shown_as_far_as_it_can(run: Run, shop: Shop, level: str) -> None:
    envelope = {
        "eventType": wire.PAYMENT_CREATED,
        "instanceId": str(shop.instance_id),
        "data": "{Sophie" if level == "data" else json.dumps({"id": str(uuid4()), "createdEvent": "Sophie"}),
    }
    body = shop.sandbox.key.sign({"data": json.dumps(envelope), "iat": 1_700_000_000, "exp": 4_000_000_000})
    verified = verify(body.encode(), wiring.public_keys(shop.services.settings))
    event = parse_event(parse_claims(verified.claims))
    with shop.services.database.begin() as connection:
        delivery = inbox.Delivery(event, verified.token, verified.digest)
        inbox.record(connection, [delivery], shop.services.now())
    [line] = told(run("events", "list", "--status", "unreadable", "--json"))

    people = run("events", "show", line["event_id"]).stdout

    assert "payment_link_payment_created" in people
    assert "Sophie" not in people
    assert "Sophie" in run("events", "show", line["event_id"], "--personal").stdout


def test_events_are_narrowed(run: Run, shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()

    def types(*arguments: object) -> set[str]:
        return {
            one["event_type"].rsplit(".", 1)[-1] for one in told(run("events", "list", "--json", *arguments))
        }

    assert types("--type", "payment_created") == {"payment_link_payment_created"}
    assert types("--link", link_id) == {
        "payment_link_created",
        "payment_link_updated",
        "payment_link_payment_created",
    }
    assert types("--status", "held") == set()
    [newest] = told(run("events", "list", "--limit", 1, "--json"))
    assert len(types("--since", newest["received_at"])) >= 1, "a time of the list is exact"
    assert types("--instance", uuid4()) == set()
    assert "AppInstalled" in types()


def test_what_comes_is_followed_once_each(shop: Shop, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    link_id = shop.link()

    def look_a_few_times(look: Callable[[], bool]) -> None:
        nonlocal looks
        for _ in range(3):
            look()
            looks += 1
            shop.pay(link_id)
            shop.deliver()
        look()

    monkeypatch.setattr("processor.commands.books.follow", look_a_few_times)

    lines = [json.loads(line) for line in run("payments", "follow", "--json").stdout.splitlines()]
    assert len({line["payment_id"] for line in lines}) == len(lines) == 3
    assert (
        run("events", "follow", "--type", "payment_created").stdout.count("payment_link_payment_created") == 3
    )


def test_a_rush_is_followed_to_its_end(shop: Shop, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("processor.commands.books.PAGE", 3)
    link_id = shop.link()

    def look_twice(look: Callable[[], bool]) -> None:
        for _ in range(10):
            shop.pay(link_id)
        shop.deliver()
        look()
        look()

    monkeypatch.setattr("processor.commands.books.follow", look_twice)

    lines = [json.loads(line) for line in run("payments", "follow", "--json").stdout.splitlines()]

    assert len({line["payment_id"] for line in lines}) == len(lines) == 10


def test_following_ends_with_an_interrupt() -> None:
    looks = 0

    def look() -> bool:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt
        return True

    common.follow(look)

    assert looks == 2


def test_instances_are_shown(run: Run, shop: Shop) -> None:
    shop.pay(shop.link())
    shop.deliver()

    [line] = told(run("instances", "list", "--json"))
    assert (line["status"], line["payments"]) == ("installed", 1)
    assert "installed" in run("instances", "show", shop.instance_id).stdout
    assert "no such instance" in run("instances", "show", uuid4(), code=2).stderr


# -- Reconcile -------------------------------------------------------------------------------------


def test_a_link_is_reconciled_here(run: Run, shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()

    result = run("reconcile", "--link", link_id, "--here")

    assert "1 of 1 payment links checked" in result.stderr
    assert "the books equal what Wix says" in result.stdout


def test_a_run_says_who_started_it(run: Run, shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    shop.check()

    run("reconcile", "--link", link_id, "--here", "--as", "ada")
    run("reconcile", "--here", "--as", "grace")

    actors = shop.rows(
        "SELECT actor, beat_at >= started_at AS is_beating FROM reconciliation_runs ORDER BY started_at"
    )
    assert [tuple(row) for row in actors] == [
        ("automation", True),
        ("ada", True),
        ("grace", True),
        ("grace", True),
    ], "the last two are a sweep and the check of what it knows"
    refused = run("reconcile", "--link", link_id, "--here", "--as", "automation", code=2)
    assert "automation is what checks are called" in refused.stderr


def test_an_instance_is_reconciled_with_what_nobody_told(run: Run, shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)  # not delivered

    too_soon = told(run("reconcile", "--here", "--json"))
    result = run("reconcile", "--here")
    words = result.stdout
    impatient = run("reconcile", "--here", "--settle", "--timeout", 1, code=3).stderr
    shop.pass_time()
    found = told(run("reconcile", "--here", "--json"))

    assert (too_soon["links"], too_soon["settling"]) == ([], [str(link_id)])
    assert "1 payment link is still settling" in words
    [line] = [line for line in words.splitlines() if str(link_id) in line]
    assert "10.00 USD in 1" in line, "what Wix shows"
    assert "settling, looked at again" in line
    assert "a difference is given up to" in impatient
    assert "worker" not in impatient
    assert "the books equal" not in words
    assert found["settling"] == []
    assert [(one["payment_link_id"], one["amount"]) for one in found["links"]] == [(str(link_id), "10.000")]
    assert found["links"][0]["recovered"] == 1


def test_an_open_discrepancy_is_exit_code_1(run: Run, shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    shop.sandbox.faults.add({"kind": "wrong_total", "linkId": str(link_id), "by": "5.00"})
    run("reconcile", "--link", link_id, "--here")
    shop.pass_time()

    result = run("reconcile", "--link", link_id, "--here", code=1)

    assert "total_differs: The total Wix shows" in result.stdout
    assert "settling" not in result.stdout
    again = run("reconcile", "--link", link_id, "--here", code=1).stdout
    assert "settling" not in again, "what is open already is not new again at every look"
    [line] = [line for line in again.splitlines() if str(link_id) in line]
    assert "10.00 USD in 1" in line
    assert "15.00 USD in 1" in line


def test_a_link_nobody_knows_is_no_clean_bill(run: Run, shop: Shop) -> None:
    link_id = uuid4()
    shop.link()
    shop.deliver()

    result = run("reconcile", "--link", link_id, "--instance", shop.instance_id, "--here", code=2)

    assert f"Wix does not know payment link {link_id}" in result.stderr
    assert "the books equal" not in result.stdout
    found = run("reconcile", "--link", link_id, "--instance", shop.instance_id, "--here", "--json", code=2)
    assert json.loads(found.stdout)["unknown"] == [str(link_id)]


def test_a_worker_does_what_is_asked_for(run: Run, shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.05):
            jobs.run_sweep(shop.services, shop.instance_id)
            jobs.run_check(shop.services, shop.instance_id)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        run("reconcile", "--settle")
    finally:
        stop.set()
        worker.join()

    with shop.services.database.begin() as connection:
        [check] = listings.link_checks(connection, shop.instance_id, [link_id])
    assert check.is_settled


def test_without_a_worker_the_wait_ends_and_says_so(run: Run, shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()

    result = run("reconcile", "--link", link_id, "--timeout", 1, code=3)

    assert "is a worker running?" in result.stderr
    assert "asked for a check of 1" in run("reconcile", "--link", link_id, "--no-wait").stdout
    assert told(run("reconcile", "--link", link_id, "--no-wait", "--json"))["asked"] == [str(link_id)]


def test_a_link_of_an_instance_nobody_knows_is_refused(run: Run, shop: Shop) -> None:
    result = run("reconcile", "--link", shop.link(), "--instance", uuid4(), "--here", code=2)

    assert "the app instance is unknown" in result.stderr
    assert shop.one("SELECT count(*) FROM check_requests").count == 0


def test_a_window_and_links_are_not_mixed(run: Run) -> None:
    assert "leave out --link" in run("reconcile", "--link", uuid4(), "--since", "2026-01-01", code=2).stderr


def test_a_removed_app_is_not_waited_for(run: Run, shop: Shop) -> None:
    link_id = shop.link()
    shop.sandbox.world.remove(str(shop.instance_id))
    shop.deliver()

    result = run("reconcile", "--link", link_id, "--instance", shop.instance_id, code=2)

    assert "the app instance is removed" in result.stderr


def test_an_empty_window_is_refused(run: Run) -> None:
    assert "window is empty" in run("reconcile", "--since", "2099-01-01", "--here", code=2).stderr


# -- Replay ----------------------------------------------------------------------------------------


def dump(shop: Shop) -> dict[str, list[Any]]:
    """Every row of every table."""
    tables = [
        row.table_name
        for row in shop.rows(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
        )
    ]
    return {name: sorted(map(repr, shop.rows(f'SELECT * FROM "{name}"'))) for name in tables}


def good_books(shop: Shop) -> None:
    link_id = shop.link()
    [payment_id] = shop.pay(link_id)
    shop.pay(link_id, tenders=[{"type": "GIFT_CARD", "amount": "2.00"}, {"type": "CARD", "amount": "8.00"}])
    shop.sandbox.world.issue_receipt(str(shop.instance_id), str(payment_id))
    shop.sandbox.world.anonymize(str(payment_id))
    shop.deliver()
    shop.deliver()
    shop.check()


def test_deliveries_that_could_not_be_read_are_read_again(run: Run, shop: Shop) -> None:
    event_id = str(uuid4())
    inner = event(payment_entity(id=str(uuid4())), id=event_id)
    read = sign(of_today(claims(envelope(inner, instanceId=str(shop.instance_id))))).decode()
    with shop.services.database.begin() as connection:
        for token in (read, "not.a.token"):
            inbox.keep_unread(
                connection,
                token=token,
                token_digest=hashlib.sha256(token.encode()).digest(),
                why=Unreadable("instance_id_missing"),
                now=shop.services.now(),
            )

    dry = run("replay", "--unread", "--dry-run").stdout
    assert len(shop.rows("SELECT 1 AS one FROM unread_deliveries")) == 2
    done = told(run("replay", "--unread", "--json"))["deliveries"]
    again = run("replay", "--unread").stdout

    assert "would be read" in dry
    assert event_id in dry
    assert {one["event_id"] for one in done} == {event_id, None}
    assert [one["left"] for one in done if one["left"]] == ["not_a_token"]
    assert event_id not in again
    assert run("replay", "--unread", "--all", code=2).stderr.startswith("processor: --unread stands alone")


def test_a_replay_of_good_data_changes_no_row(run: Run, shop: Shop) -> None:
    good_books(shop)
    before = dump(shop)

    dry = run("replay", "--all", "--dry-run").stdout
    done = run("replay", "--all").stdout

    assert dump(shop) == before
    assert "nothing would change" in dry
    assert "nothing was changed" in done


def test_an_event_that_could_not_be_read_is_booked_once_it_can(run: Run, shop: Shop) -> None:
    [payment_id] = shop.pay(shop.link())
    shop.deliver()
    with shop.services.database.begin() as connection:
        for sql in (
            "DELETE FROM payment_versions",
            "DELETE FROM payment_buyers",
            "DELETE FROM payments",
            "DELETE FROM check_requests",
            "UPDATE webhook_events SET status = 'unreadable', reason = 'odd' WHERE kind = 'payment'",
        ):
            connection.execute(text(sql))

    dry = told(run("replay", "--status", "unreadable", "--dry-run", "--json"))
    assert [one["verdict"] for one in dry["news"]] == ["new"]
    assert shop.rows("SELECT FROM payments") == []

    run("replay", "--status", "unreadable")

    row = shop.one("SELECT payment_id, origin, first_origin FROM payments")
    assert (row.payment_id, row.origin) == (payment_id, "replay")
    assert shop.one("SELECT status, reason FROM webhook_events WHERE kind = 'payment'") == ("recorded", None)
    assert shop.one("SELECT count(*) FROM check_requests").count == 1
    assert "nothing was changed" in run("replay", "--all").stdout


def test_a_payment_shows_its_refunds_and_why_it_was_recovered(run: Run, shop: Shop) -> None:
    shop.deliver()
    [payment_id] = shop.pay(shop.link())
    shop.sweep()
    shop.pass_time()
    shop.check()
    refund = shop.sandbox.world.refund(str(payment_id), {"amount": "4.00"})["refund"]
    shop.deliver(only=lambda event: "refund" in event.event_type)
    shop.tick()

    people = run("payments", "show", payment_id).stdout
    programs = told(run("payments", "show", payment_id, "--json"))

    assert refund["id"] in people
    assert "webhook_missed: No webhook told of the payment." in people
    [line] = programs["refunds"]
    assert (line["refund_id"], line["amount"], line["status"]) == (refund["id"], "4.000", "SUCCEEDED")
    assert programs["payment"]["recovery"] == "webhook_missed"
    assert "webhook_missed" in run("payments", "list").stdout


def test_two_replays_at_once_book_what_one_would(run: Run, shop: Shop) -> None:
    link_id = shop.link()
    for _ in range(20):
        shop.pay(link_id)
    shop.deliver()
    with shop.services.database.begin() as connection:
        for sql in (
            "DELETE FROM payment_versions",
            "DELETE FROM payment_buyers",
            "DELETE FROM payments",
            "UPDATE webhook_events SET status = 'unreadable', reason = 'odd' WHERE kind = 'payment'",
        ):
            connection.execute(text(sql))
    by = listings.Narrowing(status="unreadable")
    with shop.services.database.begin() as connection:
        page = listings.events(connection, by, limit=100, oldest_first=True)

    with ThreadPoolExecutor(2) as pool:
        told_of = list(pool.map(lambda one: replay_one(shop.services, one, is_dry=False), [*page, *page]))

    assert sum(one.left is None for one in told_of) == len(page) == 20
    assert shop.one("SELECT count(*) FROM payments").count == 20
    assert shop.one("SELECT count(*) FROM payment_tellings").count == 20


def test_a_replay_brings_no_erased_buyer_back(run: Run, shop: Shop) -> None:
    [payment_id] = shop.pay(shop.link(), buyer={"name": "Sophie Germain"})
    shop.deliver()
    with shop.services.database.begin() as connection:
        for sql in (
            "DELETE FROM payment_versions",
            "DELETE FROM payment_buyers",
            "DELETE FROM payments",
            # As an earlier release would have kept what it could not read.
            (
                "UPDATE webhook_events SET status = 'unreadable', reason = 'odd', entity_id = NULL,"
                " payment_link_id = NULL WHERE kind = 'payment'"
            ),
        ):
            connection.execute(text(sql))
    shop.sandbox.world.anonymize(str(payment_id))
    shop.deliver(only=lambda event: event.anonymized)

    run("replay", "--all")

    assert (
        shop.one("SELECT count(*) FROM webhook_events WHERE kind = 'payment' AND token IS NOT NULL").count
        == 0
    )
    assert shop.rows("SELECT FROM payment_buyers WHERE personal IS NOT NULL") == []


def test_a_replay_beside_the_intake_comes_to_its_end(run: Run, shop: Shop) -> None:
    link_id = shop.link()
    for _ in range(10):
        shop.pay(link_id)
    shop.deliver()
    with shop.services.database.begin() as connection:
        connection.execute(
            text("UPDATE webhook_events SET status = 'unreadable', reason = 'odd' WHERE kind = 'payment'")
        )
    stop = threading.Event()

    def receive() -> None:
        while not stop.is_set():
            shop.deliver()

    intake = threading.Thread(target=receive)
    intake.start()
    try:
        counts = told(run("replay", "--status", "unreadable", "--json"))["counts"]
    finally:
        stop.set()
        intake.join()

    assert counts == {"applied": 10}


def test_one_event_is_replayed_by_its_id(run: Run, shop: Shop) -> None:
    shop.pay(shop.link())
    shop.deliver()
    [event] = told(run("events", "list", "--type", "payment_created", "--json"))

    assert "1 known already" in run("replay", "--event", event["event_id"]).stdout
    assert "no such event" in run("replay", "--event", uuid4(), code=2).stderr
    assert "say which" in run("replay", code=2).stderr


def test_an_erased_event_stays_erased(run: Run, shop: Shop) -> None:
    good_books(shop)

    counts = told(run("replay", "--all", "--json"))["counts"]

    assert counts["erased"] >= 1
    assert "applied" not in counts


# -- Others ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str) -> None:
    assert "_PROCESSOR_COMPLETE" in CliRunner().invoke(cli, ["completion", shell]).stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [("links cre", {"create"}), ("events list --status he", {"held"}), ("replay --dr", {"--dry-run"})],
)
def test_a_shell_completes(words: str, offered: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "processor"],
        env={
            **os.environ,
            "_PROCESSOR_COMPLETE": "bash_complete",
            "COMP_WORDS": f"processor {words}",
            "COMP_CWORD": str(len(words.split())),
        },
        capture_output=True,
        text=True,
        check=True,
    )

    assert {line.split(",")[1] for line in done.stdout.splitlines()} == offered


def test_every_command_explains_itself() -> None:
    def walk(command: Command, path: list[str]) -> Iterator[list[str]]:
        yield path
        if isinstance(command, Group):
            for name, inner in command.commands.items():
                yield from walk(inner, [*path, name])

    for path in walk(cli, []):
        result = CliRunner().invoke(cli, [*path, "--help"])
        assert result.exit_code == 0
        assert len(result.stdout.splitlines()) > 3, path
        # A command whose description is cut off in the list explains nothing.
        assert not [line for line in result.stdout.splitlines()[1:] if line.endswith("...")], path


def test_every_command_about_the_books_speaks_to_programs() -> None:
    names = ("links", "events", "payments", "instances", "reconcile", "replay", "report")
    leaves = [
        leaf
        for command in (cli.commands[name] for name in names)
        for leaf in (command.commands.values() if isinstance(command, Group) else [command])
    ]

    assert len(leaves) > 25
    assert [leaf.name for leaf in leaves if not any("--json" in one.opts for one in leaf.params)] == []


def test_nothing_reaches_the_terminal_that_could_steer_it(run: Run, shop: Shop) -> None:
    title = "\x1b[2Jgone[bold]x\x9b\u202e"
    shop.link()
    with shop.sandbox.documents.transaction():
        [document] = shop.sandbox.documents.all("link")
        document["entity"]["title"] = title
        shop.sandbox.documents.put("link", document["id"], document)

    people = run("links", "list").stdout

    assert "\x1b" not in people
    assert "[bold]x" in people
    programs = run("links", "list", "--json").stdout
    assert not any(letter in programs for letter in "\x9b\u202e")
    assert json.loads(programs)[0]["title"] == title


def test_times_are_read_in_utc() -> None:
    moment = common.Moment()

    assert moment.convert("2026-11-24", None, None) == datetime(2026, 11, 24, tzinfo=UTC)
    assert moment.convert("2026-11-24T15:00:00+02:00", None, None).utcoffset() == timedelta(hours=2)
