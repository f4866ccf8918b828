"""Two shops with something of everything, and people who look at them: for tests of the pages."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.test import TestResponse

from processor import decisions, jobs
from processor.domain.access import EVERYWHERE, Reach, Role
from processor.domain.discrepancy import Assign, Comment, Investigate, ProposeWriteOff, Reason
from processor.queue import JobQueue
from processor.store import accounts, checks
from processor.web.pages import create_pages
from processor.web.pages.access import digest
from processor.wix import wire
from tests.shop import Shop, a_shop

SECRET_KEY = "0f1e2d3c4b5a69788796a5b4c3d2e1f0-tests"  # of no other installation
_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')
MARKUP = "<b onclick=alert(1)>\N{RIGHT-TO-LEFT OVERRIDE}=cmd|'/c'!A1"


class Person:
    """A browser without scripts of somebody, signed in unless it is nobody."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client
        self._csrf = ""

    def get(self, path: str, **more: Any) -> TestResponse:
        return self.client.get(path, **more)

    def read(self, path: str) -> str:
        """The page at `path`, which must be there."""
        answer = self.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:2_000])
        return answer.text

    def post(
        self, path: str, form: Mapping[str, Any] | Sequence[tuple[str, str]] = (), **more: Any
    ) -> TestResponse:
        """Send a form with its token. A value may be a list."""
        if not self._csrf:
            found = _TOKEN.search(self.client.get("/account").text) or _TOKEN.search(
                self.client.get("/sign-in").text
            )
            assert found, "no form on the page"
            self._csrf = found[1]
        given: dict[str, Any] = {}
        for name, value in form.items() if isinstance(form, Mapping) else form:
            given.setdefault(name, []).extend(value if isinstance(value, list) else [value])
        return self.client.post(path, data={**given, "csrf_token": self._csrf}, **more)


@dataclass
class Books:
    """shop: the one that most is about; other: a second installation of the app on the same service."""

    shop: Shop
    app: Flask
    instance_id: UUID
    other_instance_id: UUID
    links: dict[str, UUID] = field(default_factory=dict)
    payments: dict[str, UUID] = field(default_factory=dict)
    discrepancies: dict[str, UUID] = field(default_factory=dict)
    _people: int = 0

    def person(
        self,
        *roles: Role,
        name: str | None = None,
        reach: Reach | None = None,
        personal: bool = False,
        app: Flask | None = None,
    ) -> Person:
        """Somebody with these roles, signed in. reach: every instance without one.

        app: another than that of the books.
        """
        self._people += 1
        name = name or f"person {self._people}"
        token = secrets.token_urlsafe(32)
        now = self.shop.services.now()
        with self.shop.services.database.begin() as connection:
            account_id = accounts.add(
                connection,
                name,
                roles or (Role.AUDITOR,),
                reach=reach or EVERYWHERE,
                sees_personal=personal,
                password_hash=None,
                oidc_subject=None,
                now=now,
            )
            accounts.begin_session(connection, account_id, digest(token), now)
        client = (app or self.app).test_client()
        with client.session_transaction() as session:
            session["session_token"] = token
        return Person(client)

    def another_app(self, *, has_redis: bool = True, **changed: Any) -> Flask:
        """The pages over the same books with other settings, by their names. has_redis: whether jobs can be sent."""
        services = self.shop.services
        app = create_pages(
            replace(
                services,
                settings=replace(services.settings, **changed),
                queue=services.queue if has_redis else JobQueue(None),
            )
        )
        app.testing = True
        return app

    def nobody(self) -> Person:
        """Somebody who is not signed in."""
        return Person(self.app.test_client())


@contextmanager
def empty_books(
    database_url: str, redis_url: str, *, at_noon: bool = False, **settings: str
) -> Iterator[Books]:
    """Two shops in which nothing happened yet. at_noon: see `a_shop`."""
    # A page answers by itself, however busy the machine is.
    own = {"SECRET_KEY": SECRET_KEY, "SECURE_COOKIES": "0", "PAY_PAGE": "1", "PAGE_READ_SECONDS": "15"}
    given = {**own, **settings}
    with a_shop(database_url, redis_url, assumed=None, at_noon=at_noon, **given) as shop:
        other = UUID(shop.sandbox.world.install({})["instanceId"])
        shop.deliver()
        app = create_pages(shop.services)
        app.testing = True
        yield Books(shop, app, shop.instance_id, other)


@contextmanager
def some_books(
    database_url: str,
    redis_url: str,
    *,
    titles: Mapping[str, str] | None = None,
    at_noon: bool = False,
    **settings: str,
) -> Iterator[Books]:
    """Books with something on every screen; see `fill`. at_noon: see `a_shop`."""
    with empty_books(database_url, redis_url, at_noon=at_noon, **settings) as books:
        fill(books, titles or {})
        yield books


def fill(books: Books, titles: Mapping[str, str]) -> None:
    """Links, payments, a missed webhook, discrepancies in every state, runs, and deliveries that could not be read.

    links: mug, yen, order, inactive, other (of the other instance). payments: matched, recovered, discrepant, yen,
    order, other. discrepancies: open, investigating, proposed, other. titles: of links that are to be called
    otherwise, by their names here.
    """
    shop = books.shop
    links, payments = books.links, books.payments
    links["mug"] = shop.link("24.00", title=titles.get("mug", "thing"))
    links["yen"] = shop.link("1200", "JPY", title=titles.get("yen", "thing"))
    links["markup"] = _titled(books, books.instance_id, titles.get("markup", MARKUP))
    links["order"] = _order_link(books)
    links["inactive"] = shop.link("7.00")
    shop.services.wix.deactivate_link(shop.instance_id, links["inactive"])
    links["other"] = _titled(books, books.other_instance_id, titles.get("other", "of the other shop"))
    [payments["matched"]] = shop.pay(links["mug"])
    [payments["discrepant"]] = shop.pay(links["mug"])
    [payments["yen"]] = shop.pay(links["yen"])
    [payments["markup"]] = shop.pay(links["markup"])
    [payments["order"]] = shop.pay(links["order"])
    [payments["other"]] = shop.pay(links["other"])
    shop.deliver()
    [payments["recovered"]] = shop.pay(links["mug"])
    faults = shop.sandbox.faults
    for payment, amount in (("discrepant", "99.00"), ("other", "98.00")):
        faults.add({"kind": "amount_edited", "paymentId": str(payments[payment]), "amount": amount})
    for link in ("yen", "order"):
        faults.add({"kind": "wrong_total", "linkId": str(links[link]), "by": "5"})
    for _ in range(2):
        shop.request(*(link_id for name, link_id in links.items() if name != "other"))
        with shop.services.database.begin() as connection:
            checks.request(connection, books.other_instance_id, [links["other"]], shop.services.now())
        for instance_id in (books.instance_id, books.other_instance_id):
            jobs.run_check(shop.services, instance_id)
        shop.pass_time()
    shop.sweep()
    shop.check()
    _decide(books)
    _strange_deliveries(books)


def _titled(books: Books, instance_id: UUID, title: str) -> UUID:
    item = wire.CustomItem(name="thing", quantity=1, price="10.00")
    new = wire.NewPaymentLink(
        title=title,
        currency="USD",
        type="ECOM",
        ecom_payment_link=wire.EcomPaymentLink([wire.LineItem(type="CUSTOM", custom_item=item)]),
    )
    return UUID(str(books.shop.services.wix.create_link(instance_id, new).id))


def _order_link(books: Books) -> UUID:
    shop = books.shop
    order = shop.sandbox.world.add_order(str(shop.instance_id), {"currency": "USD", "total": "180.00"})
    new = wire.NewPaymentLink(
        title="Deposit",
        currency="USD",
        type="ECOM_ORDER",
        ecom_order_payment_link=wire.EcomOrderPaymentLink(order_id=order["id"], amount="60.00"),
        payments_limit=1,
    )
    return UUID(str(shop.services.wix.create_link(shop.instance_id, new).id))


def _decide(books: Books) -> None:
    """What persons did with what the checks found."""
    services = books.shop.services
    found = books.shop.rows(
        "SELECT discrepancy_id, instance_id, type, payment_link_id FROM discrepancies WHERE closed_at IS NULL"
    )
    for row in found:
        if row.instance_id == books.other_instance_id:
            books.discrepancies["other"] = row.discrepancy_id
        elif row.type == "amount_differs":
            books.discrepancies["open"] = row.discrepancy_id
        elif row.payment_link_id == books.links["yen"]:
            books.discrepancies["investigating"] = row.discrepancy_id
        elif row.payment_link_id == books.links["order"]:
            books.discrepancies["proposed"] = row.discrepancy_id
    for action in (Investigate(), Assign("noor"), Comment("asked Wix about it")):
        decisions.decide(services, books.discrepancies["investigating"], action, actor="maya")
    limits = {"write_off_limits": {"USD": "100.00", "JPY": "10000"}}
    decisions.approve_rules(
        services,
        decisions.propose_rules(services, limits, actor="maya", comment="limits of 2026"),
        actor="noor",
    )
    decisions.decide(
        services, books.discrepancies["proposed"], ProposeWriteOff(Reason.ROUNDING), actor="maya"
    )


def _strange_deliveries(books: Books) -> None:
    with books.shop.services.database.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO rejected_deliveries (body_digest, reason, received_at, last_received_at, delivery_count)
                VALUES (sha256('x'), 'bad_signature', :now, :now, 3)"""),
            {"now": books.shop.services.now()},
        )
        connection.execute(
            text("""
                INSERT INTO unread_deliveries (token_digest, reason, token, received_at, last_received_at)
                VALUES (sha256('y'), 'instance_missing', 'not.a.token', :now, :now)"""),
            {"now": books.shop.services.now()},
        )


def arguments(books: Books, *, is_other: bool = False) -> dict[str, Any]:
    """A value for every argument of a route's path, of things that exist: of the own instance, or of the other."""
    instance_id = books.other_instance_id if is_other else books.instance_id
    name = "other" if is_other else "matched"
    run = books.shop.rows(
        "SELECT run_id FROM reconciliation_runs WHERE instance_id = :id ORDER BY started_at LIMIT 1",
        id=instance_id,
    )
    event = books.shop.rows(
        "SELECT event_id FROM webhook_events WHERE instance_id = :id ORDER BY received_at LIMIT 1",
        id=instance_id,
    )
    return {
        "instance_id": instance_id,
        "payment_id": books.payments[name],
        "payment_link_id": books.links["other" if is_other else "mug"],
        "discrepancy_id": books.discrepancies["other" if is_other else "open"],
        "run_id": run[0].run_id,
        "event_id": event[0].event_id,
        "version": books.shop.one("SELECT min(version) AS version FROM rule_sets").version,
        "report": "reconciliation_summary",
    }


def names_of(books: Books) -> set[str]:
    """Ids of what is of the own instance alone, as a page would print them: nobody else may see any."""
    mine = [books.instance_id]
    mine += [one for name, one in [*books.links.items(), *books.payments.items()] if name != "other"]
    mine += [one for name, one in books.discrepancies.items() if name != "other"]
    return {str(one)[:8] for one in mine} | {"Deposit"}
