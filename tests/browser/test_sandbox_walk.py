"""A person walks through the sandbox with a real browser, once with our real service behind the webhook."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Page, expect

from processor.config import database_url as sqlalchemy_url
from processor.outgoing import LOCAL
from processor.processes import wait_until
from processor.sandbox import scenarios
from processor.store.database import open_database
from processor.system import System
from tests.browser.conftest import NewPage, is_too_wide, violations
from tests.sandbox.wixlike import LINKS, Receiver, Site, a_receiver, a_site

PHONE, DESKTOP = 390, 1280
SECONDS = 30.0


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with a_site(calls_per_minute=100_000) as running:
        yield running


@pytest.fixture
def receiver(site: Site) -> Iterator[Receiver]:
    with a_receiver(site) as receiving:
        yield receiving
    site.control("webhook", {"url": None}, "PUT")


@pytest.fixture
def system(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[System]:
    """Our whole service, its webhook endpoint set in a sandbox of its own."""
    options = ("--seed", "1", "--time-scale", "60", "--calls-per-minute", "100000")
    running = System(
        tmp_path,
        database_url=database_url,
        redis_url=redis_url,
        environ=os.environ,
        sandbox_options=options,
    )
    with running:
        yield running


def press(page: Page, name: str) -> None:
    """Press the button that is called so, and wait for the page it leads to."""
    page.get_by_role("button", name=name, exact=True).click()


def follow(page: Page, name: str | re.Pattern[str]) -> None:
    """Follow the first link that is called so."""
    page.get_by_role("link", name=name).first.click()


def reload_until(page: Page, words: str) -> None:
    """Reload as a person would, until the page says so."""

    def is_told() -> bool:
        page.reload()
        return words in page.inner_text("main")

    wait_until(is_told, what=f"{words!r} on {page.url}", seconds=SECONDS)


def pay(page: Page, link: str, method: str | re.Pattern[str]) -> None:
    """Open the link of a buyer and pay by that method."""
    page.goto(link)
    page.get_by_role("radio", name=method).check()
    page.get_by_role("button", name=re.compile("^Pay ")).click()


def fits(page: Page) -> None:
    assert not is_too_wide(page), page.url


def walk(page: Page, base_url: str) -> str:
    """All that people do with a sandbox that delivers its webhooks. Returns the app instance of the new site."""
    page.goto(base_url)
    fits(page)
    press(page, "Install the app on a new site")
    merchant = page.url.partition("?")[0]

    # The merchant makes a link.
    page.get_by_label("What is sold").fill("Ceramic bowl")
    page.get_by_label("Price").fill("24.00")
    press(page, "Make payment link")
    expect(page.get_by_role("status")).to_have_text("The payment link is made.")
    fits(page)
    link_page = page.url.partition("?")[0]
    follow(page, "Open the link")
    link = page.url

    # Buyers pay it by every method.
    fits(page)
    page.get_by_label("Name").fill("Emmy Nathan")
    press(page, "Pay 24.00 USD")
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you")
    fits(page)
    pay(page, link, re.compile("^Gift card pays all"))
    expect(page.locator("dl.sums")).to_contain_text("Gift card")
    page.goto(link)
    page.get_by_role("radio", name=re.compile("^Gift card and card")).check()
    page.get_by_label("From the gift card (USD)").fill("9.00")
    press(page, "Pay 24.00 USD")
    expect(page.locator("dl.sums")).to_contain_text("15.00")
    pay(page, link, re.compile("declined"))
    expect(page.get_by_role("alert")).to_have_text("The card was declined. Nothing was paid.")
    fits(page)

    # The webhook left, and its answer arrived.
    page.goto(link_page)
    expect(page.locator("dl.facts")).to_contain_text("72.00 USD")
    follow(page, "Its deliveries")
    created = page.get_by_role("row").filter(has_text="payment_link_payment_created")
    expect(created).to_have_count(4)

    def are_delivered() -> bool:
        page.reload()
        return created.filter(has_text="Delivered").count() == 4

    wait_until(are_delivered, what="four deliveries", seconds=SECONDS)
    expect(created.first).to_contain_text("200")
    fits(page)
    created.first.get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("payment_link_payment_created")
    expect(page.get_by_label("Event", exact=True)).to_contain_text('"entityFqdn"')
    expect(page.get_by_label("Token", exact=True)).to_contain_text("eyJ")
    fits(page)

    # Once more.
    press(page, "Redeliver")
    attempts = page.get_by_role("group", name="Attempts").get_by_role("row")
    expect(attempts).to_have_count(3)
    expect(attempts.nth(1)).to_contain_text("200")

    # The merchant refunds a part, issues a receipt, and is refused what cannot be.
    page.goto(f"{merchant}/payments")
    fits(page)
    page.get_by_role("row").filter(has_text="Emmy Nathan").first.get_by_role("link").first.click()
    page.get_by_label("Amount (USD)").fill("99")
    press(page, "Refund")
    expect(page.get_by_role("alert")).to_have_text("Amount must be more than nothing and at most 24.00.")
    expect(page.get_by_label("Amount (USD)")).to_have_value("99")
    page.get_by_label("Amount (USD)").fill("4.00")
    press(page, "Refund")
    expect(page.locator(".heading .badge")).to_have_text("Partially refunded")
    press(page, "Issue receipt")
    expect(page.get_by_role("status")).to_have_text("The receipt is issued.")
    fits(page)

    # A fault is switched on, strikes, is switched off; what it kept back is sent by hand.
    page.goto(f"{base_url}/faults")
    page.locator("#drop summary").click()
    fits(page)
    page.locator("#drop").get_by_label("Event type").fill("payment_link_payment_created")
    press(page, "Switch drop on")
    expect(page.get_by_role("status")).to_have_text("The fault is switched on.")
    pay(page, link, re.compile("accepted"))
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you")
    follow(page, "its deliveries")
    dropped = page.get_by_role("row").filter(has_text="Dropped")
    expect(dropped).to_have_count(1)
    page.goto(f"{base_url}/faults")
    press(page, "Switch drop off")
    expect(page.get_by_text("Nothing goes wrong.")).to_be_visible()
    page.goto(f"{base_url}/deliveries?status=dropped")
    page.get_by_role("group", name="Deliveries").get_by_role("link").first.click()
    expect(page.get_by_text("the event is never delivered")).to_be_visible()
    press(page, "Redeliver")
    expect(page.locator(".heading .badge")).to_have_text("Delivered")
    return merchant.rpartition("/")[2]


def test_a_whole_walk_ends_in_our_services_books(
    new_page: NewPage, system: System, database_url: str
) -> None:
    walk(new_page(DESKTOP), system.control.base_url)

    database = open_database(
        sqlalchemy_url(database_url), name="test", pool_size=2, pool_seconds=10, statement_seconds=30
    )
    try:
        [truth] = system.control.get("truth")["instances"]
        assert truth["paymentCount"] == 5
        wait_until(lambda: not system.differences(database), what="the books to equal the truth", seconds=60)
    finally:
        database.dispose()


def test_a_whole_walk_on_a_phone_without_scripting(new_page: NewPage, site: Site, receiver: Receiver) -> None:
    page = new_page(PHONE, java_script_enabled=False, has_touch=True, is_mobile=True)

    instance_id = walk(page, site.sandbox.url)

    paid = site.sandbox.documents.find("payment", {"instance": instance_id})
    assert sorted(one["entity"]["amount"] for one in paid) == ["15.00", "24.00", "24.00", "24.00", "9.00"]
    assert not page.get_by_role("button", name="Copy").count(), "what needs scripting is not offered"


def test_a_failed_delivery_is_seen_waiting_and_mended(
    new_page: NewPage, site: Site, receiver: Receiver
) -> None:
    receiver.answer = lambda number: 500
    page = new_page(DESKTOP)
    pay(page, site.link()["links"]["url"]["url"], re.compile("accepted"))
    follow(page, "its deliveries")
    reload_until(page, "in 5")  # seconds, of a minute
    page.get_by_role("link", name="payment_link_payment_created").click()
    expect(page.get_by_text("The next delivery is due in")).to_be_visible()
    expect(page.get_by_text("Attempt 2 of 13.")).to_be_visible()
    receiver.answer = lambda number: 200

    press(page, "Redeliver")

    expect(page.locator(".heading .badge")).to_have_text("Delivered")


@pytest.fixture(scope="module")
def addresses(site: Site) -> list[str]:
    """Every page there is, with much on it and with nothing."""
    instance_id = site.instance["instanceId"]
    shop = f"/merchant/{instance_id}"
    empty = f"/merchant/{site.control('instances')['instanceId']}"
    for name in scenarios.names():
        if name != "app-removed":
            site.control(f"scenarios/{name}")
    link = site.link(title="A title without end " + "x" * 150, description="y" * 300, paymentsLimit=9)
    [gift, card] = site.pay(
        link["id"],
        tenders=[{"type": "GIFT_CARD", "amount": "1.00"}, {"type": "CARD", "amount": "20.00"}],
        buyer={"name": "N" * 100},
    )
    site.control(f"payments/{card['id']}/refund", {"amount": "1.00"})
    site.control(f"payments/{card['id']}/receipt")
    contact = site.instance["contactIds"][0]
    site.post(f"{LINKS}/{link['id']}/send", {"recipients": [{"contactId": contact}]})
    site.control("faults/mix", {"share": 0})
    site.control("faults", {"kind": "wrong_total", "linkId": link["id"], "by": "1"})
    checkout = site.post(f"{LINKS}/{link['id']}/initiate-payment")["ecomCheckout"]
    links = {one["entity"]["status"]: one["id"] for one in site.sandbox.documents.all("link")}
    order = next(one for one in site.sandbox.documents.all("link") if one["entity"]["type"] == "ECOM_ORDER")
    order_id = order["entity"]["ecomOrderPaymentLink"]["orderId"]
    [event] = site.sandbox.documents.find("event", {"entity_id": gift["id"]})
    struck = next(one for one in site.sandbox.documents.all("event") if one["faults"])
    return [
        *(
            "/",
            "/?played=expired&done=played",
            "/deliveries",
            "/deliveries?status=nonsense",
            "/faults",
            "/nowhere",
        ),
        *(f"{shop}", f"{shop}/payments", f"{shop}/site", f"{empty}", f"{empty}/payments", f"{empty}/site"),
        *(f"{shop}/links/{link['id']}", f"{shop}/links/{links['PAID']}", f"{shop}/links/{links['EXPIRED']}"),
        *(f"{shop}/payments/{gift['id']}", f"{shop}/payments/{card['id']}"),
        *(f"/deliveries/{event['id']}", f"/deliveries/{struck['id']}", f"/deliveries?link={link['id']}"),
        *(f"/_paylink/{link['id']}", f"/_paylink/{links['PAID']}", f"/_paylink/{links['EXPIRED']}"),
        *(f"/checkout/{checkout['checkoutId']}", f"/order/{order_id}?link={order['id']}", "/_paylink/nope"),
        f"/thanks/{link['id']}?payment={gift['id']}&payment={card['id']}",
    ]


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_every_page_fits_and_is_accessible(
    new_page: NewPage, site: Site, addresses: list[str], width: int
) -> None:
    assert wrong_with(new_page(width, color_scheme="light"), site, addresses) == []


def test_every_page_can_be_read_in_the_dark(new_page: NewPage, site: Site, addresses: list[str]) -> None:
    # Only colours differ from the light.
    assert wrong_with(new_page(DESKTOP, color_scheme="dark"), site, addresses, "color-contrast") == []


def wrong_with(page: Page, site: Site, addresses: list[str], *rules: str) -> list[str]:
    """What is wrong with the pages, everything open that can be opened."""
    found: list[str] = []
    for address in addresses:
        page.goto(site.sandbox.url + address)
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        found += [f"{address}: {line}" for line in violations(page, *rules)]
        if is_too_wide(page):
            found.append(f"{address}: scrolls sideways")
    return found


def test_a_checkout_is_paid_by_keyboard_alone(new_page: NewPage, site: Site) -> None:
    page = new_page(DESKTOP)
    page.goto(site.link()["links"]["url"]["url"])
    page.keyboard.press("Tab")
    stops = []
    while not (name := page.evaluate("document.activeElement.textContent.trim()")).startswith("Pay "):
        stops.append(page.evaluate("document.activeElement.name") or name)
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", (
            "focus is seen"
        )
        page.keyboard.press("Tab")
        assert len(stops) < 20

    page.keyboard.press("Enter")

    assert stops == ["name", "email", "method"]
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you")


def test_the_first_stop_of_the_keyboard_leads_to_the_content(new_page: NewPage, site: Site) -> None:
    page = new_page(DESKTOP)
    page.goto(f"{site.sandbox.url}/deliveries")
    page.keyboard.press("Tab")

    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    expect(page.get_by_role("link", name="To the content")).to_be_in_viewport()


def test_the_public_key_is_copied_whole(new_page: NewPage, site: Site) -> None:
    page = new_page(DESKTOP, permissions=["clipboard-read", "clipboard-write"])
    page.goto(site.sandbox.url)

    page.get_by_role("button", name="Copy public key").click()

    expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == site.sandbox.key.public_pem


def test_a_form_on_another_site_is_refused(new_page: NewPage, site: Site) -> None:
    link = site.link()
    page = new_page(DESKTOP)
    with a_receiver(site):  # somewhere else to stand on
        app = httpx2.get(f"{site.sandbox.url}/_sandbox/app", **LOCAL).json()
        elsewhere = app["webhookUrl"].replace("127.0.0.1", "localhost")
        action = link["links"]["url"]["url"]
        form = f'<form method=post action="{action}"><button name=method value=card>Win</button></form>'
        page.route(elsewhere, lambda route: route.fulfill(content_type="text/html", body=form))
        page.goto(elsewhere)
        press(page, "Win")

        expect(page.get_by_text("Forms are taken from the sandbox's own pages only.")).to_be_visible()
    assert site.get(link["id"])["totalReceived"]["paymentCount"] == 0
