"""`processor demo`: the main job on private servers, shown by a story of a site owner and her buyers.

Everything is real but Wix, which is our sandbox: PostgreSQL, Valkey, web server, worker and clock are
processes of their own, and every step goes over HTTP.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from uuid import UUID

import httpx2
from rich.console import Console
from rich.table import Table
from rich.text import Text

from processor import embedded
from processor.config import database_url
from processor.domain.discrepancy import EXPLANATIONS, DiscrepancyType
from processor.domain.money import shown
from processor.processes import ChildFailed, reserved_port, wait_until
from processor.store import reports
from processor.store.database import Database, open_database
from processor.system import Control, Ports, System
from processor.wix import wire
from processor.wix.client import WixClient
from processor.wix.credentials import OAuthCredentials

FOLDER = Path(__file__).resolve().parents[1] / ".data" / "demo"
FOLDERS_MAX = 20
WEB_PORT, SANDBOX_PORT = 8000, 8100
SETTLED_SECONDS = 120.0
# What really happens at Wix takes two days; here its resends come within seconds.
TIME_SCALE = 60
PLAIN_WIDTH = 116  # where there is no terminal to ask


def run(folder: Path | None, *, is_once: bool, environ: Mapping[str, str]) -> bool:
    """Start everything, play the story, and stay up until Ctrl-C unless is_once.

    Returns whether the books equal the sandbox's truth. Raises ProcessorError, KeyboardInterrupt.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(
            Text(f"{time.monotonic() - began:5.1f} s  ", style="dim").append(Text(text, style="none"))
        )

    with (
        _stopped_by_signals(),
        _servers(folder or FOLDER, say) as servers,
        System(
            servers.folder / "demo",
            database_url=servers.database_url,
            redis_url=servers.redis_url,
            environ=environ,
            ports=Ports(web=reserved_port(WEB_PORT), sandbox=reserved_port(SANDBOX_PORT)),
            sandbox_options=("--time-scale", str(TIME_SCALE), "--calls-per-minute", "6000"),
        ) as system,
    ):
        say("sandbox, web, worker and clock run, each as a process of its own")
        database = open_database(
            database_url(servers.database_url),
            name="processor-demo",
            pool_size=2,
            pool_seconds=10,
            statement_seconds=30,
        )
        try:
            told = _story(system, say)
            differences = _await_books(system, database, say)
            _report(console, system, database, told, differences)
        finally:
            database.dispose()
        if not is_once:
            _links_to_open(console, system, servers, told)
            console.print("Ctrl-C stops everything.")
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    # Ends by a signal, or when a part of the system ends by itself.
                    wait_until(
                        lambda: False, what="Ctrl-C", seconds=3600.0 * 24 * 365, children=system.children
                    )
        say("stopping")
    say("stopped; the data is kept")
    return not differences


# -- Servers ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _servers(folder: Path, say: Any) -> Iterator[embedded.Servers]:
    """PostgreSQL and Valkey in `folder`, or beside it when another demo runs there."""
    for number in range(1, FOLDERS_MAX + 1):
        chosen = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            servers = embedded.start(chosen, say=say)
        except embedded.FolderInUse:
            if number == FOLDERS_MAX:
                raise
            continue
        with servers:
            if number > 1:
                say(f"another demo runs in {folder}; this one uses {chosen}")
            say(f"PostgreSQL and Valkey run on data in {servers.folder}")
            yield servers
        return


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does; while it ends, a second one changes nothing."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


# -- The story -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """What the story made: the instance, and its links by id with their titles."""

    instance_id: UUID
    titles: dict[UUID, str]


class _Shop:
    """A site owner who calls the Payment Links API, and her buyers."""

    def __init__(self, system: System, client: WixClient, instance: Mapping[str, Any], say: Any) -> None:
        self.control: Control = system.control
        self.client = client
        self.instance = instance
        self.instance_id = UUID(instance["instanceId"])
        self.titles: dict[UUID, str] = {}
        self._say = say

    def link(self, title: str, currency: str, **kind: Any) -> UUID:
        """Create a link."""
        type_ = "ECOM" if "ecom_payment_link" in kind else "ECOM_ORDER"
        link = wire.NewPaymentLink(title=title, currency=currency, type=type_, **kind)
        created = self.client.create_link(self.instance_id, link)
        link_id = UUID(created.id)
        self.titles[link_id] = title
        url = created.links.url.url if created.links and created.links.url else ""
        self._say(f"created the {type_} link “{title}”: {url}")
        return link_id

    def custom(self, title: str, currency: str, price: str, quantity: int = 1) -> UUID:
        """Create a link for one custom item."""
        item = wire.CustomItem(name=title, quantity=quantity, price=price)
        items = [wire.LineItem(type="CUSTOM", custom_item=item)]
        return self.link(title, currency, ecom_payment_link=wire.EcomPaymentLink(line_items=items))

    def fault(self, kind: str, link_id: UUID, **more: Any) -> None:
        """Let the next payment event of a link go wrong."""
        about = {"paymentLinkId": str(link_id), "eventType": "payment_link_payment_created", "count": 1}
        self.control.post("faults", {"kind": kind, **about, **more})

    def pay(self, link_id: UUID, how: str, tenders: list[dict[str, str]] | None = None) -> list[Any]:
        """A buyer pays through the link's page."""
        payments: list[Any] = self.control.post(f"links/{link_id}/pay", {"tenders": tenders})["payments"]
        self._say(f"a buyer paid “{self.titles[link_id]}” {how}")
        return payments


def _story(system: System, say: Any) -> Told:
    instances = [one for one in system.control.get("instances")["instances"] if not one["isRemoved"]]
    instance = instances[0] if instances else system.control.post("instances")
    if not instances:
        say("a site owner installed the app; Wix said AppInstalled")
    settings = system.settings
    client = WixClient(
        base_url=system.control.base_url,
        credentials=OAuthCredentials(
            app_id=settings["WIX_APP_ID"],
            app_secret=settings["WIX_APP_SECRET"],
            base_url=system.control.base_url,
            timeout_seconds=10,
            on_response=lambda operation, status: None,
        ),
        timeout_seconds=10,
        on_response=lambda operation, status: None,
    )
    try:
        shop = _Shop(system, client, instance, say)
        _class(shop, say)
        _mugs(shop, say)
        _order(shop)
        _weaving(shop, say)
        _print(shop, say)
        _scarf(shop, say)
    finally:
        client.close()
    return Told(shop.instance_id, shop.titles)


def _class(shop: _Shop, say: Any) -> None:
    """Custom items, sent to two contacts; the webhook comes twice."""
    link_id = shop.custom("Pottery class for two", "USD", "45.00", quantity=2)
    contacts = shop.instance["contactIds"][:2]
    recipients = [wire.Recipient(contact_id=one, send_methods=["EMAIL_METHOD"]) for one in contacts]
    shop.client.send_link(shop.instance_id, link_id, recipients)
    say("sent it to two contacts")
    shop.fault("duplicate", link_id, copies=3)
    shop.pay(link_id, "by card; Wix delivers the webhook three times")


def _mugs(shop: _Shop, say: Any) -> None:
    """An item of Wix Stores; the buyer is led to the checkout and pays with a gift card and a card."""
    mug = shop.instance["productIds"][0]
    reference = wire.CatalogReference(app_id=wire.WIX_STORES_APP_ID, catalog_item_id=mug)
    item = wire.CatalogItem(catalog_reference=reference, quantity=3)
    items = [wire.LineItem(type="CATALOG", catalog_item=item)]
    link_id = shop.link(
        "Three stoneware mugs", "USD", ecom_payment_link=wire.EcomPaymentLink(line_items=items)
    )
    target = shop.client.initiate_payment(shop.instance_id, link_id).ecom_checkout
    assert target is not None
    page = httpx2.get(target.checkout_url, timeout=10, trust_env=False)
    if page.status_code != 200:
        raise ChildFailed(f"the checkout page answered {page.status_code}")
    say(f"initiated a payment and led the buyer to {target.checkout_url}")
    tenders = [{"type": "GIFT_CARD", "amount": "20.00"}, {"type": "CARD", "amount": "52.00"}]
    shop.control.post(f"checkouts/{target.checkout_id}/pay", {"tenders": tenders})
    say("the buyer paid there with a gift card of 20.00 and a card for 52.00: two payments")


def _order(shop: _Shop) -> None:
    """The deposit of an existing order."""
    order = shop.control.post(f"instances/{shop.instance_id}/orders", {"currency": "USD", "total": "180.00"})
    link_id = shop.link(
        "Deposit for a dinner set",
        "USD",
        ecom_order_payment_link=wire.EcomOrderPaymentLink(order_id=order["id"], amount="60.00"),
        payments_limit=1,
    )
    shop.pay(link_id, "by card, an order's deposit")


def _weaving(shop: _Shop, say: Any) -> None:
    """Three decimals; the update overtakes the creation."""
    link_id = shop.custom("Sadu weaving", "KWD", "12.345")
    shop.fault("reorder", link_id, sameEntity=True)
    [payment] = shop.pay(link_id, "in dinars with three decimals; its webhook is held up")
    shop.control.post(f"payments/{payment['id']}/receipt")
    say("issued a receipt: the second revision arrives before the first")


def _print(shop: _Shop, say: Any) -> None:
    """No decimals; the webhook never comes."""
    link_id = shop.custom("Woodblock print", "JPY", "4800")
    shop.fault("drop", link_id)
    shop.pay(link_id, "in yen; its webhook is lost for good")


def _scarf(shop: _Shop, say: Any) -> None:
    """A true discrepancy: Wix's own total of the link is not the sum of its payments."""
    link_id = shop.custom("Linen scarf", "USD", "60.00")
    shop.pay(link_id, "by card")
    shop.control.post("faults", {"kind": "wrong_total", "linkId": str(link_id), "by": "5.00"})
    say("planted: Wix shows 5.00 too much as received by that link")


# -- The end ---------------------------------------------------------------------------------------


def _await_books(system: System, database: Database, say: Any) -> list[str]:
    """Wait until the books equal the truth; what still differs when that took too long."""
    last: list[str] = []
    said = -1

    def is_settled() -> bool:
        nonlocal last, said
        last = system.differences(database)
        if len(last) != said:
            said = len(last)
            say(f"reconciling: {said} open, for example {last[0]}" if last else "reconciled: nothing is open")
        return not last

    try:
        wait_until(is_settled, what="the books", seconds=SETTLED_SECONDS, children=system.children)
    except ChildFailed as why:
        say(str(why))
    return last


def _report(console: Console, system: System, database: Database, told: Told, differences: list[str]) -> None:
    truth = next(
        one for one in system.control.get("truth")["instances"] if UUID(one["instanceId"]) == told.instance_id
    )
    with database.begin() as connection:
        booked = {one.payment_link_id: one for one in reports.links(connection, told.instance_id)}
    table = Table(
        title="\nThe story's payment links: sums, and in brackets the number of payments",
        title_justify="left",
        show_lines=False,
    )
    table.add_column("payment link")
    for name in ("Wix says", "received", "booked"):
        table.add_column(name, justify="right")
    table.add_column("reconciliation")
    for link in truth["links"]:
        link_id = UUID(link["id"])
        if link_id not in told.titles:
            continue
        amounts = [
            Decimal(payment["amount"])
            for payment in truth["payments"]
            if payment["paymentLinkId"] == link["id"]
        ]
        report = booked.get(link_id)
        table.add_row(
            told.titles[link_id],
            _sum(len(amounts), sum(amounts, Decimal(0)), link["currency"]),
            _count(report.events, "event") + _again(report) if report else "nothing",
            _sum(report.payments, report.amount, link["currency"]) if report else "nothing",
            _finding(report),
        )
    console.print(table)
    for type_ in sorted({type_ for report in booked.values() for type_ in report.discrepancies}):
        console.print(f"  {type_}: {EXPLANATIONS[DiscrepancyType(type_)]}")
    if differences:
        console.print(f"\n[red]The books differ from what happened:[/] {'; '.join(differences)}")
    else:
        everything = system.control.get("truth")["instances"]
        number = sum(len(one["payments"]) for one in everything)
        planted = sum(link["received"] != link["shown"] for one in everything for link in one["links"])
        console.print(
            f"\n[green]The books equal what happened:[/] {number} of {number} payments, to the last decimal;"
            f" {_count(planted, 'discrepancy' if planted == 1 else 'discrepancie')} planted by the story, found,"
            " and no other."
        )


def _sum(number: int, amount: Decimal, currency: str) -> str:
    return f"{shown(amount, currency)} {currency} ({number})"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _again(report: reports.LinkReport) -> str:
    return f", {report.deliveries} times" if report.deliveries > report.events else ""


def _finding(report: reports.LinkReport | None) -> Text:
    if report is None:
        return Text("not seen", style="red")
    if report.discrepancies:
        return Text(f"discrepancy: {', '.join(report.discrepancies)}", style="yellow")
    if report.recovered:
        return Text("recovered: webhook missed", style="cyan")
    return Text("matched" if report.matched == report.payments else "open", style="green")


def _links_to_open(console: Console, system: System, servers: embedded.Servers, told: Told) -> None:
    events = system.control.get("events", instanceId=str(told.instance_id))["events"]
    event = next(one for one in events if one["eventType"] == wire.PAYMENT_CREATED)
    console.print(
        f"\nOpen     {system.control.base_url}/            the pretend Wix: sites, links to pay, events\n"
        f"         {system.web_url}/readyz      is the service ready\n"
        f"         {system.web_url}/metrics     what it counts\n"
        f"Database {servers.database_url}\n"
        f"Logs     {system.folder}/*.log\n"
        "\nSend a signed webhook by hand (here one that was delivered before: answered 200, counted, not booked"
        " twice):",
        soft_wrap=True,
    )
    console.print(
        f"  curl -s {system.control.base_url}/_sandbox/events/{event['id']}/token |"
        f" curl -i -H 'Content-Type: text/plain' --data-binary @- {system.webhook_url}\n",
        soft_wrap=True,
    )
