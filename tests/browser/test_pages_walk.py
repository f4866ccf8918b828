"""What people do with the pages from end to end, in a real browser, over every real process, against the sandbox."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from processor import decisions, wiring
from processor.config import Settings
from processor.domain.access import EVERYWHERE, Role
from processor.processes import wait_until
from processor.store import accounts
from processor.system import System
from processor.web.pages.signing import hasher
from tests.browser.conftest import NewPage
from tests.browser.test_pages import sign_in
from tests.web.pages.books import SECRET_KEY

PASSWORD = "a password of a walk"
SECONDS = 60_000  # milliseconds that a page waits for what jobs do, on a slow machine


@pytest.fixture
def system(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[System]:
    """Our whole service with its pages, and people who may sign in."""
    running = System(
        tmp_path,
        database_url=database_url,
        redis_url=redis_url,
        environ=os.environ,
        # Whatever may be read by a worker is.
        settings={
            "SECRET_KEY": SECRET_KEY,
            "SECURE_COOKIES": "0",
            "PAY_PAGE": "1",
            "PAGE_READ_SECONDS": "0",
        },
        sandbox_options=("--seed", "1", "--time-scale", "60", "--calls-per-minute", "100000"),
    )
    with running:
        services = wiring.build(Settings.read(running.settings), role="cli")
        try:
            password_hash = hasher.hash(PASSWORD)
            with services.database.begin() as connection:
                for name, roles in (("maya", [Role.CLERK, Role.OPERATOR]), ("noor", [Role.APPROVER])):
                    accounts.add(
                        connection,
                        name,
                        roles,
                        reach=EVERYWHERE,
                        sees_personal=False,
                        password_hash=password_hash,
                        oidc_subject=None,
                        now=services.now(),
                    )
            limits = {"write_off_limits": {"USD": "100"}}
            version = decisions.propose_rules(services, limits, actor="ada", comment=None)
            decisions.approve_rules(services, version, actor="grace")
        finally:
            services.close()
        yield running


def press(page: Page, name: str | re.Pattern[str]) -> None:
    page.get_by_role("button", name=name, exact=isinstance(name, str)).first.click()


def go(page: Page, place: str) -> None:
    page.get_by_role("navigation", name="Main").get_by_role("link", name=place, exact=True).first.click()


def site_of(system: System) -> dict[str, Any]:
    """A site on which the app is installed, and which our service knows."""
    site: dict[str, Any] = system.control.post("instances")
    return site


def create(page: Page, title: str, **fields: str) -> None:
    """Create a link of one custom item, or of what `fields` say; the page then shows it."""
    go(page, "Payment links")
    page.get_by_role("link", name="Create a link").first.click()
    page.get_by_label("Title").fill(title)
    page.get_by_label("Currency").fill("USD")
    for label, value in fields.items():
        page.get_by_label(label).first.fill(value)
    press(page, "Preview")
    expect(page.get_by_role("heading", level=1)).to_have_text("Look at it once more")
    press(page, "Create the link")
    expect(page.get_by_role("heading", level=1)).to_have_text(title)


def pay_here(page: Page) -> None:
    """Pay by card on the sandbox's checkout page."""
    page.get_by_role("button", name=re.compile("^Pay ")).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you")


@pytest.mark.timeout(300)
def test_from_a_new_link_to_a_write_off_by_two_people(system: System, new_page: NewPage) -> None:
    site = site_of(system)
    page = new_page()
    sign_in(page, system.web_url, "maya", PASSWORD)

    # She creates a link, sends it, and opens it as the buyer would.
    wait_for_instance(page, system)
    create(page, "Ceramic bowl", **{"Name": "Bowl", "Price of one": "24.00"})
    link_id = link_of(page)
    page.get_by_label("Contacts").fill(site["contactIds"][0])
    page.locator("summary", has_text="Send to these").click()
    press(page, "Send it to these now")
    expect(page.get_by_role("status").first).to_contain_text("Wix sends the link")
    mails = system.control.get("mails", instanceId=site["instanceId"])["mails"]
    assert [one["linkId"] for one in mails] == [link_id]
    share = page.get_by_role("link", name="Open as the buyer").get_attribute("href")
    assert share is not None

    # The payment arrives on the overview, which is not loaded again.
    go(page, "Overview")
    page.evaluate("window.isTheSamePage = true")
    buyer = new_page()
    buyer.goto(share)
    pay_here(buyer)
    expect(page.locator("#now")).to_contain_text("24.00", timeout=SECONDS)
    assert page.evaluate("window.isTheSamePage") is True

    # Wix shows 5.00 too much: a discrepancy, found by the next check.
    system.control.post("faults", {"kind": "wrong_total", "linkId": link_id, "by": "5.00"})
    buyer.goto(share)
    pay_here(buyer)
    expect(page.locator("#verdict")).to_contain_text("1 discrepancy", timeout=SECONDS)
    assert page.evaluate("window.isTheSamePage") is True

    # She looks into it and proposes to write it off, which she cannot approve herself.
    go(page, "Discrepancies")
    page.get_by_role("link", name="Total differs").first.click()
    press(page, "Investigate")
    expect(page.get_by_role("status").first).to_be_visible()
    page.locator("summary", has_text="Propose a write-off").click()
    page.locator("#write_off-reason").select_option("rounding")
    press(page, "Propose write-off")
    expect(page.get_by_role("status").first).to_be_visible()
    where = page.url.partition("?")[0]
    expect(page.get_by_role("button", name=re.compile("^Approve"))).to_have_count(0)

    # Another person approves it, and the books are right.
    other = new_page()
    sign_in(other, system.web_url, "noor", PASSWORD)
    other.goto(where)
    press(other, re.compile("^Approve"))
    expect(other.locator(".heading")).to_contain_text("Written off")
    expect(page.get_by_role("heading", level=1)).to_have_text("Total differs")
    go(page, "Overview")
    expect(page.locator("#verdict")).not_to_contain_text("need", timeout=SECONDS)

    # A worker reads the report: the page shows it when it is there.
    go(page, "Reports")
    page.get_by_role("link", name="Payments", exact=True).last.click()
    page.evaluate("window.isTheSamePage = true")
    expect(page.locator("#report tbody tr")).to_have_count(2, timeout=SECONDS)
    expect(page.locator("#report tfoot")).to_contain_text("48.00")
    assert page.evaluate("window.isTheSamePage") is True


def wait_for_instance(page: Page, system: System) -> None:
    """Until the service was told of the site."""

    def is_there() -> bool:
        page.goto(f"{system.web_url}/links")
        return page.get_by_role("link", name="Create a link").count() > 0

    wait_until(is_there, what="the site on the pages", seconds=60)
    go(page, "Overview")


@pytest.mark.timeout(300)
def test_a_payment_is_initiated_and_paid_of_either_kind_and_by_a_plain_link(
    system: System, new_page: NewPage
) -> None:
    site = site_of(system)
    page = new_page()
    sign_in(page, system.web_url, "maya", PASSWORD)
    wait_for_instance(page, system)
    order = system.control.post(
        f"instances/{site['instanceId']}/orders", {"currency": "USD", "total": "180.00"}
    )

    # Items: she initiates the payment and is led to the checkout.
    create(page, "Ceramic bowl", **{"Name": "Bowl", "Price of one": "24.00"})
    bowl = link_of(page)
    press(page, "Initiate a payment")
    page.get_by_role("link", name="Go to the checkout").click()
    pay_here(page)

    # An order: the same.
    page.goto(f"{system.web_url}/links")
    page.get_by_role("link", name="Create a link").first.click()
    page.get_by_label("Title").fill("Deposit")
    page.get_by_label("Currency").fill("USD")
    page.get_by_role("radio", name="An order").check()
    page.get_by_label("Id of the order").fill(order["id"])
    page.get_by_label("Amount", exact=True).fill("60.00")
    press(page, "Preview")
    press(page, "Create the link")
    expect(page.get_by_role("heading", level=1)).to_have_text("Deposit")
    deposit = link_of(page)
    press(page, "Initiate a payment")
    page.get_by_role("link", name="Go to the checkout").click()
    pay_here(page)

    # Anybody, on a phone, by the plain link.
    buyer = new_page(390)
    buyer.goto(f"{system.web_url}/pay/{bowl}")
    press(buyer, "Go to the checkout")
    pay_here(buyer)

    # All of it is booked.
    def is_booked(link_id: str, amounts: list[str]) -> bool:
        page.goto(f"{system.web_url}/payments?link={link_id}")
        rows = page.locator("tbody tr").all_inner_texts()
        return len(rows) == len(amounts) and all(one in row for one, row in zip(amounts, rows, strict=True))

    wait_until(lambda: is_booked(bowl, ["24.00", "24.00"]), what="both payments of the bowl", seconds=60)
    wait_until(lambda: is_booked(deposit, ["60.00"]), what="the payment of the order", seconds=60)


def link_of(page: Page) -> str:
    """The id of the link that the page shows."""
    return page.url.partition("?")[0].rpartition("/")[2]
